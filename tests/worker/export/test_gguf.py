"""gguf: the file computes what base and adapter compute, tokenizes as the model does, and is whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from engine.datasets.base import Message
from engine.errors import MissingError, RunError
from engine.tokens.template import Template, read_template
from engine.worker import gguf, merge
from engine.worker.context import StopRequested
from engine.worker.distribution import log_softmax, mean_kl
from engine.worker.gguf.families import family_of
from engine.worker.gguf.probe import choose_pre
from engine.worker.gguf.vocabulary import load_tokenizer, read_vocabulary
from engine.worker.llama import LlamaModel
from engine.worker.template import SHIELD, end_of_turn

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 400, 200).tolist()
CHAT: list[Message] = [{"role": "user", "content": " Hi there\n"}, {"role": "assistant", "content": "Yes."}]


def as_trained(run: Any) -> np.ndarray:
    base = transformers.AutoModelForCausalLM.from_pretrained(run.base, dtype=torch.float32)
    with torch.no_grad():
        logits = PeftModel.from_pretrained(base, run.run.adapter).eval()(torch.tensor([IDS])).logits[0]
    return log_softmax(logits.numpy())


def exported(file: Path) -> np.ndarray:
    with LlamaModel(file, 512, logits_all=True) as model:
        return log_softmax(model.logits(IDS))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"rope_parameters": LLAMA3_ROPE}),
        ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 32}),
    ],
)
def test_bf16_file_computes_what_was_trained(export: Any, tiny: Any, family: str, settings: dict[str, Any]) -> None:
    run = export(base=tiny(family, **settings))
    gguf.run(run.context("gguf", quants=("bf16",)))
    # 5e-4: these random weights are large, so that rounding them to bf16 costs more than in a real model.
    assert mean_kl([as_trained(run)], [exported(run.run.gguf("bf16"))]) < 5e-4


def test_direct_and_through_the_merged_folder_are_the_same_bytes(export: Any) -> None:
    run = export("llama")
    gguf.run(run.context("gguf", quants=("bf16",)))
    direct = run.run.gguf("bf16").read_bytes()
    merge.run(run.context("merge"))
    gguf.run(run.context("gguf", quants=("bf16",)))
    assert run.run.gguf("bf16").read_bytes() == direct


def test_a_merged_folder_older_than_the_adapter_is_not_used(export: Any) -> None:
    run = export("llama")
    merge.run(run.context("merge"))
    gguf.run(run.context("gguf", quants=("bf16",)))
    old = run.run.gguf("bf16").read_bytes()
    file = run.run.adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 64}))
    weights = run.run.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes())
    gguf.run(run.context("gguf", quants=("bf16",)))
    assert run.run.gguf("bf16").read_bytes() != old


def test_quantized_files_are_smaller_and_near(export: Any, tiny: Any) -> None:
    run = export(base=tiny("llama", hidden=256, initializer_range=0.05))
    gguf.run(run.context("gguf", quants=("Q8_0", "Q4_K_M")))
    sizes = [run.run.gguf(quant).stat().st_size for quant in ("bf16", "Q8_0", "Q4_K_M")]
    assert sizes == sorted(sizes, reverse=True)
    reference = exported(run.run.gguf("bf16"))
    near, far = (mean_kl([reference], [exported(run.run.gguf(quant))]) for quant in ("Q8_0", "Q4_K_M"))
    assert 0 < near < far < 1


def test_fallback_of_narrow_rows_is_reported(export: Any) -> None:
    run = export("llama")  # rows of 64 do not divide into blocks of 256
    gguf.run(run.context("gguf", quants=("Q4_K_M",)))
    assert any("larger type than Q4_K_M" in finding.title for finding in run.events("finding"))


def test_a_stop_leaves_no_file(export: Any) -> None:
    run = export("llama")
    context = run.context("gguf")
    run.run.stop.touch()
    with pytest.raises(StopRequested):
        gguf.run(context)
    assert not list(run.run.path.glob("model.*"))


def test_without_an_adapter_it_says_train_first(export: Any) -> None:
    run = export("llama")
    shutil.rmtree(run.run.adapter)
    with pytest.raises(MissingError, match="no trained adapter"):
        gguf.run(run.context("gguf"))


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(RunError, match="Gemma3ForCausalLM"):
        family_of({"architectures": ["Gemma3ForCausalLM"]})


@pytest.mark.parametrize(("family", "pre"), [("llama", "llama-bpe"), ("qwen2", "qwen2")])
def test_pre_tokenizer_is_found_by_trying(tiny: Any, tmp_path: Path, family: str, pre: str) -> None:
    folder = tiny(family)
    config = json.loads((folder / "config.json").read_text())
    vocabulary = read_vocabulary(folder, config["vocab_size"])
    # Handed the other family, whose guesses come first, it still ends with the right one.
    other = family_of({"architectures": ["Qwen2ForCausalLM" if family == "llama" else "LlamaForCausalLM"]})
    assert choose_pre(tmp_path, load_tokenizer(folder), vocabulary, other)[0] == pre


def test_a_tokenizer_that_llama_cpp_cannot_follow_is_refused(tiny: Any, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(tiny("llama"), folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[aeiou]|[^aeiou]+"
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    vocabulary = read_vocabulary(folder, 432)
    with pytest.raises(RunError, match="pre-tokenizers tried"):
        choose_pre(tmp_path, load_tokenizer(folder), vocabulary, family_of({"architectures": ["LlamaForCausalLM"]}))


def test_more_tokens_than_embeddings_is_refused(tiny: Any) -> None:
    with pytest.raises(RunError, match="5 rows"):
        read_vocabulary(tiny("llama"), 5)


def test_token_types_and_special_ids(export: Any) -> None:
    run = export("llama")
    gguf.run(run.context("gguf", quants=("bf16",)))
    fields = library.GGUFReader(run.run.gguf("bf16")).fields
    tokens, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert types[tokens.index("<|eot_id|>")] == library.TokenType.CONTROL
    assert types[tokens.index("<tool_call>")] == library.TokenType.USER_DEFINED
    assert types[-1] == library.TokenType.UNUSED
    assert tokens[fields["tokenizer.ggml.eot_token_id"].contents()] == "<|eot_id|>"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.ggml.add_eos_token"].contents() is False


def test_the_end_of_a_turn_is_found_in_the_template(tiny: Any) -> None:
    tokenizers = {family: load_tokenizer(tiny(family)) for family in ("llama", "qwen2")}
    found = {family: tokenizers[family].id_to_token(end_of_turn(tiny(family))) for family in tokenizers}
    assert found == {"llama": "<|eot_id|>", "qwen2": "<|im_end|>"}


@pytest.mark.parametrize("head", ["", "\n", "\n\n", "  {% if true %}x{% endif %}\n", "{%- if true %}y{% endif -%}\n "])
def test_the_shield_changes_nothing_in_transformers(tiny: Any, head: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny("llama"))
    template = head + (read_template(tiny("llama")) or "")
    plain, shielded = (
        tokenizer.apply_chat_template(CHAT, tokenize=False, chat_template=text)
        for text in (template, SHIELD + template)
    )
    assert shielded == plain
    assert Template(SHIELD + template, {"bos_token": "<|begin_of_text|>"}).render(CHAT) == plain

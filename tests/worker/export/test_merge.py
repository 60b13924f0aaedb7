"""merge: the folder is what peft would make, is whole or not there, and strange adapters are refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

from engine.errors import MissingError, RunError
from engine.worker import merge
from engine.worker.context import StopRequested
from engine.worker.fold import Folded, Weights, load_adapter


@pytest.mark.parametrize("rslora", [False, True])
def test_fold_equals_peft_merge_in_fp32(export: Any, rslora: bool) -> None:
    run = export("llama", use_rslora=rslora)
    base = transformers.AutoModelForCausalLM.from_pretrained(run.base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, run.run.adapter).merge_and_unload().state_dict()
    folded = Folded(Weights(run.base), load_adapter(run.run.adapter))
    for spec in folded.specs:
        torch.testing.assert_close(folded.read(spec, torch.float32), theirs[spec.name], rtol=0, atol=1e-6)


def test_merged_folder_answers_as_base_with_adapter(export: Any) -> None:
    run = export("qwen2")
    merge.run(run.context("merge"))
    merged = transformers.AutoModelForCausalLM.from_pretrained(run.run.merged, dtype=torch.float32)
    base = transformers.AutoModelForCausalLM.from_pretrained(run.base, dtype=torch.float32)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        theirs = merged(ids).logits.log_softmax(-1)
        plain = base(ids).logits.log_softmax(-1)  # before peft changes the model in place
        ours = PeftModel.from_pretrained(base, run.run.adapter)(ids).logits.log_softmax(-1)
    assert (ours.exp() * (ours - theirs)).sum(-1).mean() < 1e-3
    assert (ours.exp() * (ours - plain)).sum(-1).mean() > 0.1


def test_merged_is_16_bit_and_its_tokenizer_is_the_bases(export: Any) -> None:
    run = export("llama")
    merge.run(run.context("merge"))
    assert {t.dtype for t in load_file(run.run.merged / "model.safetensors").values()} == {torch.bfloat16}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (run.run.merged / name).read_bytes() == (run.base / name).read_bytes()


def test_generation_stops_at_the_end_of_a_turn(export: Any) -> None:
    run = export("llama")
    merge.run(run.context("merge"))
    generation = json.loads((run.run.merged / "generation_config.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.run.merged)
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in generation["eos_token_id"]


def test_sharded_folder_loads(export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = export("qwen3")
    merge.run(run.context("merge"))
    whole = load_file(run.run.merged / "model.safetensors")
    monkeypatch.setattr(merge, "SHARD_BYTES", 50_000)
    merge.run(run.context("merge"))
    shards = sorted(run.run.merged.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all(path.stat().st_size < 120_000 for path in shards)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(run.run.merged).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())


def test_a_stop_leaves_nothing_half_written(export: Any) -> None:
    run = export("llama")
    context = run.context("merge")
    run.run.stop.touch()
    with pytest.raises(StopRequested):
        merge.run(context)
    assert not list(run.run.path.glob("merged*"))


def test_without_an_adapter_it_says_train_first(export: Any) -> None:
    run = export("llama")
    (run.run.adapter / "adapter_config.json").unlink()
    with pytest.raises(MissingError) as error:
        merge.run(run.context("merge"))
    assert "Train first" in error.value.hints[0]


def test_an_unused_adapter_tensor_is_an_error(export: Any) -> None:
    run = export("llama")
    file = run.run.adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors |= {
        name.replace("layers.0", "layers.9"): t.clone() for name, t in list(tensors.items()) if "layers.0" in name
    }
    save_file(tensors, file)
    with pytest.raises(RunError, match=r"layers\.9"):
        merge.run(run.context("merge"))
    assert not run.run.merged.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_adapters_that_cannot_be_folded_are_refused_by_name(export: Any, change: dict[str, Any], named: str) -> None:
    run = export("llama")
    file = run.run.adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RunError, match=named):
        merge.run(run.context("merge"))


def test_an_adapter_of_another_base_is_refused(export: Any, tiny: Any) -> None:
    run = export("llama")
    with pytest.raises(RunError, match="the base has"):
        Folded(Weights(tiny("llama", hidden=128)), load_adapter(run.run.adapter))


def test_weights_that_lie_there_twice_are_read_once(export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = export("llama")
    merge.run(run.context("merge"))
    whole = (run.run.merged / "model.safetensors").read_bytes()
    names = [spec.name for spec in Weights(run.run.merged).specs]
    monkeypatch.setattr(merge, "SHARD_BYTES", 50_000)
    merge.run(run.context("merge"))
    (run.run.merged / "model.safetensors").write_bytes(whole)
    assert sorted(spec.name for spec in Weights(run.run.merged).specs) == sorted(names)


def test_every_tokenizer_file_of_the_base_is_carried(export: Any) -> None:
    run = export("llama")
    folder = run.run.path / "base"
    folder.mkdir()
    for file in [*run.base.glob("*.json"), *run.base.glob("*.safetensors")]:
        (folder / file.name).symlink_to(file)
    for name in ("tokenizer.model", "merges.txt", "chat_template.jinja", "added_tokens.json"):
        (folder / name).write_text("{{ '' }}" if name.endswith("jinja") else "{}")
    run.plan = run.plan.model_copy(update={"preset": run.plan.preset.model_copy(update={"model": str(folder)})})
    merge.run(run.context("merge"))
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "merges.txt", "chat_template.jinja"):
        assert (run.run.merged / name).read_bytes() == (folder / name).read_bytes()

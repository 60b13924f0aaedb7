"""Small random models of each family with real tokenizers and adapters, and a run to export them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from engine.config import Architecture, DatasetSpec, ExportSpec, LoraSpec, Preset, StageName, StageOptions
from engine.events import EventTail, EventWriter
from engine.paths import RunDir
from engine.plan import DataSummary, Plan
from engine.vram import Budget
from engine.worker.context import Context

from . import mistral

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 1234 and 56 and 7, isn't it?",
    "Grüße aus Köln! Москва 中文文本 日本語 def main():\n    return x ** 2\n\n\n\t\tend",
    "user assistant system hello world Hello World HELLO café naïve e\u0301 100 200 300",
] * 3


def make_tokenizer(folder: Path, family: str) -> int:
    """The tokenizer of a family's kind, byte-level BPE but for Mistral; returns the size of its vocabulary."""
    if family.startswith("mistral"):
        return mistral.make_tokenizer(folder, "legacy" if family.endswith("legacy") else "first")
    chatml = family != "llama"
    tokenizer = Tokenizer(models.BPE(ignore_merges=not chatml))
    if chatml:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2 if chatml else LLAMA3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if not chatml:
        special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if chatml:
        config |= {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        config["chat_template"] = CHATML_TEMPLATE
    else:
        bos = "<|begin_of_text|>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        config |= {"bos_token": bos, "eos_token": "<|end_of_text|>", "chat_template": LLAMA_TEMPLATE}
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return int(tokenizer.get_vocab_size())


def make_model(folder: Path, family: str, hidden: int = 64, **settings: Any) -> Path:
    """A random model of a family, two layers, grouped queries; weights large enough that its answers differ."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = make_tokenizer(folder, family)
    shape = {
        "vocab_size": (vocabulary + 7) // 8 * 8,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        **settings,
    }
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}.get(family, "Mistral")
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**shape))
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases, which start as all ones and zeros, must count too
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def make_adapter(folder: Path, base: Path, rank: int = 4, scale: float = 0.05, **settings: Any) -> Path:
    """A random adapter on all linear layers, saved by peft, with the base's tokenizer files beside it."""
    import peft
    import transformers

    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM", **settings
    )
    tuned = peft.get_peft_model(model, config)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    tuned.save_pretrained(folder)
    for file in base.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@dataclass
class Export:
    """A run with an adapter, and contexts to start stages on it."""

    run: RunDir
    plan: Plan
    base: Path

    def context(self, stage: StageName, **options: Any) -> Context:
        """A context as the worker makes it."""
        return Context(self.run, self.plan, EventWriter(self.run.events), StageOptions(**options), stage)

    def events(self, kind: str) -> list[Any]:
        """The run's events of one kind."""
        return [event for event in EventTail(self.run.events).poll() if event.kind == kind]


def make_plan(base: Path, **changes: Any) -> Plan:
    """A plan for a folder of weights; only what an export reads is meant."""
    config = json.loads((base / "config.json").read_text())
    shape = {name: config[name] for name in Architecture.model_fields if name in config}
    shape["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    preset = Preset(
        name="tiny", title="Tiny", model=str(base), family="llama", parameters=1, download_bytes=1, context_length=512,
        licence="Apache-2.0", architecture=Architecture(**shape), lora=LoraSpec(rank=4, alpha=8),
        export=ExportSpec(quants=("Q8_0",)),
    )  # fmt: skip
    summary = DataSummary(path="d", format="messages", sha256="0", rows=8, eval_rows=8, approximate_tokens=1)
    return Plan(
        slug="tiny", created_t=0.0, preset=preset.model_copy(update=changes), data=DatasetSpec(path="d"),
        summary=summary, device="cpu", gpu=None, vram=Budget(parts=()), disk=Budget(parts=()), steps=1, warmup_steps=0,
    )  # fmt: skip


def make_export(folder: Path, base: Path, **adapter: Any) -> Export:
    """A run folder with its plan and a random adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunDir(folder)
    plan = make_plan(base)
    run.plan.write_text(plan.model_dump_json())
    make_adapter(run.adapter, base, **adapter)
    return Export(run, plan, base)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny("qwen2", hidden=64, …)`: the folder of a random model, made once a session for the same arguments."""
    made: dict[str, Path] = {}

    def make(family: str, **settings: Any) -> Path:
        key = f"{family}{sorted(settings.items())}"
        if key not in made:
            made[key] = make_model(tmp_path_factory.mktemp(family), family, **settings)
        return made[key]

    return make


@pytest.fixture
def export(tmp_path: Path, tiny: Callable[..., Path]) -> Callable[..., Export]:
    """`export("llama", rank=4, …)`: a new run with an adapter on a tiny model of the family."""

    def make(family: str = "llama", base: Path | None = None, **adapter: Any) -> Export:
        return make_export(tmp_path / "run", base or tiny(family), **adapter)

    return make

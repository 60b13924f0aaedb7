"""A tiny random Llama with a tokenizer and a chat template, made once a session; and runs on it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import Architecture, DatasetSpec, LoraSpec, Preset, StageOptions, TrainSpec
from engine.datasets.base import Message
from engine.events import Event, EventTail, EventWriter
from engine.paths import RunDir
from engine.plan import DataSummary, Plan
from engine.tokens.template import Template
from engine.tokens.tokenizer import Tokenizer
from engine.vram import Budget
from engine.worker.context import Context

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
BOS, END, PAD = "<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"
SPECIAL = [BOS, END, PAD, "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += ["<start_of_turn>", "<end_of_turn>"]
COLOURS = ("red", "green", "blue", "yellow")


def colour_rows(count: int, seed: int = 0) -> list[list[Message]]:
    """A task that a tiny model learns soon: the answer to a letter and a number is always the same sentence."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        asked: Message = {"role": "user", "content": f"Letter {number}: the box is {rng.choice(COLOURS)}."}
        rows.append([asked, Message(role="assistant", content="Thank you, the box is on its way.")])
    return rows


def make_core() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator((m["content"] for row in colour_rows(50) for m in row), trainer)
    return core


def make_tokenizer(template: str = TEMPLATE, end: str = END) -> Tokenizer:
    """The tiny tokenizer as the engine has it."""
    tokens = {"bos_token": BOS, "eos_token": end, "pad_token": PAD}
    return Tokenizer.of(make_core(), Template(template, tokens), tokens)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hidden size 64, two layers, random weights in bfloat16, and a Llama 3 chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokens = {"bos_token": BOS, "eos_token": END, "pad_token": PAD}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_core(), chat_template=TEMPLATE, **tokens)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    torch.set_num_threads(1)  # at this size a second thread only waits
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


MakeRun = Callable[..., RunDir]
MakeContext = Callable[..., Context]


@pytest.fixture
def make_run(tiny_model_dir: Path, tmp_path: Path) -> MakeRun:
    """`make_run(name, **train)`: a run folder with a plan for the tiny model on 48 rows, 8 of them held out."""

    def make(name: str = "run", **train: Any) -> RunDir:
        data = tmp_path / "data.jsonl"
        if not data.exists():
            lines = [json.dumps({"messages": row}) for row in colour_rows(48)]
            data.write_text("\n".join(lines) + "\n")
        run = RunDir(tmp_path / "runs" / name)
        run.path.mkdir(parents=True)
        run.plan.write_text(make_plan(tiny_model_dir, data, train).model_dump_json())
        return run

    return make


def make_plan(model: Path, data: Path, train: dict[str, Any]) -> Plan:
    defaults: dict[str, Any] = {
        "learning_rate": 1e-2,
        "max_steps": 8,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_length": 128,
        "gradient_checkpointing": False,
        "eval_steps": 4,
        "save_steps": 4,
        "score_rows": 4,
    }
    settings = TrainSpec(**{**defaults, **train})
    preset = Preset(
        name="tiny",
        title="Tiny",
        model=str(model),
        family="llama",
        parameters=100_000,
        download_bytes=200_000,
        context_length=256,
        licence="Apache-2.0",
        architecture=Architecture(
            num_hidden_layers=2,
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=128,
            vocab_size=400,
            tie_word_embeddings=True,
        ),
        lora=LoraSpec(rank=8, alpha=16),
        train=settings,
    )
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    return Plan(
        slug="tiny",
        created_t=0.0,
        preset=preset,
        data=DatasetSpec(path=str(data), format="messages", eval_fraction=0.17),
        summary=DataSummary(
            path=str(data), format="messages", sha256=digest, rows=40, eval_rows=8, approximate_tokens=2000
        ),
        device="cpu",
        gpu=None,
        vram=Budget(parts=()),
        disk=Budget(parts=()),
        steps=settings.max_steps or 8,
        warmup_steps=1,
    )


@pytest.fixture
def make_context() -> Iterator[MakeContext]:
    """`make_context(run, stage="train", **options)`: what the worker's main would hand to the stage."""
    writers: list[EventWriter] = []

    def make(run: RunDir, stage: Any = "train", **options: Any) -> Context:
        writers.append(EventWriter(run.events))
        plan = Plan.model_validate_json(run.plan.read_bytes())
        return Context(run, plan, writers[-1], StageOptions(**options), stage)

    yield make
    for writer in writers:
        writer.close()


def events_of(run: RunDir, kind: str) -> list[Event]:
    """The run's events of one kind, oldest first."""
    return [event for event in EventTail(run.events).poll() if event.kind == kind]

"""unmerged: the reference computes the same fp32 figures wherever it fits, and there is no machine it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import Architecture
from engine.errors import RunError
from engine.units import GIB
from engine.worker import reference, unmerged
from engine.worker.unmerged import Placement, load, mapped, place

EIGHT_B = 8_030_000_000
LLAMA = Architecture(
    num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
    intermediate_size=14336, vocab_size=128_256, tie_word_embeddings=False,
)  # fmt: skip
IDS = torch.arange(60)[None]


@pytest.mark.parametrize(
    ("gpu_free", "memory_free", "expected"),
    [
        (80 * GIB, 0, "fp32 on the GPU"),
        (23 * GIB, 64 * GIB, "fp32 on the GPU, layer by layer"),
        (8 * GIB, 16 * GIB, "fp32 on the GPU, layer by layer"),
        (3 * GIB, 64 * GIB, "fp32 on the CPU"),
        (0, 64 * GIB, "fp32 on the CPU"),
        (0, 16 * GIB, "fp32 on the CPU, layer by layer"),
        (0, 0, "fp32 on the CPU, layer by layer"),
    ],
)
def test_an_8b_is_placed_on_every_machine(gpu_free: int, memory_free: int, expected: str) -> None:
    assert str(place(EIGHT_B, LLAMA, gpu_free, memory_free)) == expected


def test_what_stays_on_a_gpu_leaves_room_for_the_widened_head() -> None:
    head = 4 * 128_256 * 4096
    assert place(EIGHT_B, LLAMA, 23 * GIB, 0).keep_bytes <= 23 * GIB - head - 2 * GIB


def said(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS.to(model.device)).logits


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no memory to spare."""
    no_memory = type("", (), {"available": 0})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: no_memory)


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True, "attention_bias": True}])
def test_layer_by_layer_computes_the_same_figures(
    export: Any, tiny: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = export(base=tiny("llama", **settings))
    whole, where = load(run.context("certify"), run.base, "cpu")
    assert where == Placement("cpu")
    monkeypatch.setattr(unmerged, "place", lambda *_sizes: Placement("cpu", layerwise=True))
    parts, where = load(run.context("certify"), run.base, "cpu")
    assert where.layerwise
    assert next(parts.parameters()).dtype == torch.bfloat16
    assert torch.equal(said(parts), said(whole))
    with parts.disable_adapter(), whole.disable_adapter():
        plain = said(parts)
        assert torch.equal(plain, said(whole))
    assert not torch.equal(plain, said(parts))
    assert any("layer by layer" in finding.title for finding in run.events("finding"))


def test_mapped_weights_take_no_memory_of_their_own(tiny: Any) -> None:
    def own() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))

    base = tiny("llama", hidden=768, initializer_range=0.02, intermediate_size=8192)
    mapped(base)  # imports
    before = own()
    model = mapped(base)
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert size > 80_000_000
    assert own() - before < size / 4


def test_without_memory_the_reference_is_measured_all_the_same(export: Any, tight: None) -> None:
    run = export("llama")
    words = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "The quick brown fox"}]
    run.run.heldout.write_text(json.dumps({"messages": words}))
    subject = reference.read_subject(run.context("certify"), run.base)
    measured = reference.measure(run.context("certify"), run.base, subject, "cpu")
    assert measured.computed == "fp32 on the CPU, layer by layer"
    assert measured.from_base > 0.01


def test_weights_that_are_not_whole_are_an_error(tiny: Any, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny("llama"), folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(RunError, match=r"layers\.1\.mlp\.up_proj"):
        mapped(folder)

"""llama: how much of a file goes to the GPU, and what happens when it does not fit after all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import gpu
from engine.errors import RunError
from engine.gpu import GpuReading, GpuStatus
from engine.units import GIB
from engine.worker import gguf, llama
from engine.worker.llama import ALL_LAYERS, LlamaModel, gpu_layers, layers_of


def test_a_file_that_fits_goes_to_the_gpu_as_a_whole() -> None:
    assert gpu_layers(5 * GIB, 24 * GIB, lambda: pytest.fail("nobody needs to count")) == ALL_LAYERS


@pytest.mark.parametrize(("free", "least", "most"), [(12, 18, 23), (8, 10, 14), (2, 0, 0), (0, 0, 0)])
def test_of_a_larger_file_as_many_layers_as_fit(free: int, least: int, most: int) -> None:
    layers = gpu_layers(15 * GIB, free * GIB, lambda: 32)
    assert least <= layers <= most
    assert layers * 15 / 32 + 1 <= max(free, 1)


@pytest.fixture
def file(export: Any) -> Path:
    run = export("llama")
    gguf.run(run.context("gguf", quants=("bf16",)))
    return Path(run.run.gguf("bf16"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A llama.cpp for GPUs on a small and busy card; the numbers of layers that it was asked for."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(llama.api, "llama_supports_gpu_offload", lambda: True)
    layers: list[int] = []
    honest = llama.api.llama_model_load_from_file

    def load(path: bytes, parameters: Any) -> Any:
        layers.append(parameters.n_gpu_layers)
        return None if parameters.n_gpu_layers else honest(path, parameters)

    monkeypatch.setattr(llama.api, "llama_model_load_from_file", load)
    return layers


def card(monkeypatch: pytest.MonkeyPatch, free_bytes: int | None) -> None:
    monkeypatch.setattr(gpu, "read", lambda: GpuStatus(gpus=(GpuReading(free_bytes=free_bytes),)))


@pytest.mark.parametrize("free", [None, 24 * GIB])
def test_what_the_gpu_refuses_the_cpu_computes_and_says_so(
    file: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    card(monkeypatch, free)
    with LlamaModel(file) as model:
        assert model.generate(model.tokenize("Hello"), 3).ids
        assert "CPU" in model.note
    assert asked == [ALL_LAYERS, 0]


def test_on_a_full_card_nothing_is_tried(file: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 1000)
    with LlamaModel(file) as model:
        assert model.note.startswith("no layers fit")
    assert set(asked) == {0}


def test_a_hidden_gpu_is_not_touched(file: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpu, "read", lambda: pytest.fail("no GPU may be asked"))
    with LlamaModel(file) as model:
        assert not model.note
    assert asked == [0]


def test_a_damaged_file_is_still_called_damaged(file: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 24 * GIB)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(RunError, match="cannot be loaded") as error:
        LlamaModel(file)
    assert "damaged" in error.value.hints[0]
    assert asked[-1] == 0


def test_layers_are_counted_in_the_file(file: Path) -> None:
    assert layers_of(file) == 2

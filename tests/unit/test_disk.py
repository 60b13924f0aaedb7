"""What a run writes and where: the parts that depend on which folders share a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import disk, presets
from engine.config import Preset
from engine.paths import builtin_presets
from engine.units import GIB


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    """A model that is not here; finetui's home, the hub's cache and Ollama's models are folders of the test."""
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    return presets.load_preset(builtin_presets() / "llama-3.2-3b-instruct.toml")


def parts(preset: Preset) -> dict[str, int]:
    return {part.name: part.size_bytes for part in disk.disk_budget(preset, on_cpu=False, free_bytes=0).parts}


def test_ollama_keeps_a_copy_of_the_file_it_is_sent(preset: Preset, tmp_path: Path) -> None:
    assert "Ollama's copy" not in parts(preset)
    (tmp_path / "ollama").mkdir()
    two = presets.override(preset, {"quants": "Q8_0,Q4_K_M"})
    assert parts(two)["Ollama's copy"] == parts(two)["GGUF Q8_0"]


def test_ollamas_copy_on_another_disk_is_not_in_the_sum(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ollama").mkdir()
    monkeypatch.setattr(disk, "same_disk", lambda one, _: one != tmp_path / "ollama")
    assert "Ollama's copy" not in parts(preset)


def test_a_download_to_another_disk_has_a_budget_of_its_own(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disk.cache_budget(preset) is None
    assert parts(preset)["model download"] == preset.download_bytes
    monkeypatch.setattr(disk, "same_disk", lambda one, _: one != tmp_path / "cache")
    apart = disk.cache_budget(preset)
    assert apart is not None
    assert apart.needed_bytes == preset.download_bytes
    assert "model download" not in parts(preset)


def test_the_sum_refuses_a_disk_that_is_too_small(preset: Preset) -> None:
    needed = disk.disk_budget(preset, on_cpu=False, free_bytes=0).needed_bytes
    assert disk.disk_budget(preset, on_cpu=False, free_bytes=needed).fits
    assert not disk.disk_budget(preset, on_cpu=False, free_bytes=needed - 1).fits


def test_memory_of_the_machine_holds_the_libraries_a_file_and_what_is_offloaded(preset: Preset) -> None:
    plain = disk.ram_budget(preset, free_bytes=64 * GIB)
    assert plain.fits
    assert disk.SHARD_BYTES < plain.needed_bytes < 10 * GIB
    moved = presets.override(preset, {"gradient_checkpointing_offload": "true", "micro_batch_size": "1"})
    more = disk.ram_budget(moved, free_bytes=64 * GIB).needed_bytes - plain.needed_bytes
    assert more == 28 * 2048 * 3072 * 2

"""The memory ledger: against published peaks, and the directions in which it must move."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import presets, vram
from engine.config import Preset
from engine.gpu import GpuReading, pretend
from engine.paths import builtin_presets
from engine.units import GIB

CARD = pretend(24 * GIB)
EIGHT_B = presets.load_preset(builtin_presets() / "llama-3.1-8b-instruct.toml")
THREE_B = presets.load_preset(builtin_presets() / "llama-3.2-3b-instruct.toml")
QWEN = presets.load_preset(builtin_presets() / "qwen3-4b.toml")


def with_settings(preset: Preset, **changes: object) -> Preset:
    return presets.override(preset, {name: str(value).lower() for name, value in changes.items()})


def tensors(preset: Preset) -> int:
    """What PyTorch's allocator counts: without the context and without what it reserves on top."""
    outside = {"CUDA context", "fragmentation"}
    return sum(part.size_bytes for part in vram.ledger(preset, CARD).parts if part.name not in outside)


@pytest.mark.parametrize(
    ("preset", "changes", "published_gib"),
    [
        (EIGHT_B, {"rank": 8, "micro_batch_size": 2, "max_length": 2048}, 7.4),
        (THREE_B, {"rank": 8, "micro_batch_size": 2, "max_length": 4096}, 4.6),
    ],
    ids=["llama-3.1-8b", "llama-3.2-3b"],
)
def test_the_ledger_agrees_with_torchtunes_published_peaks(
    preset: Preset, changes: dict[str, object], published_gib: float
) -> None:
    """QLoRA rows of the table in torchtune's README (github.com/pytorch/torchtune), within 8 %."""
    assert tensors(with_settings(preset, **changes)) / GIB == pytest.approx(published_gib, rel=0.08)


def test_nf4_weights_of_an_8b_take_what_qlora_says() -> None:
    parts = {part.name: part.size_bytes for part in vram.ledger(EIGHT_B, CARD).parts}
    assert parts["weights"] / 6_979_321_856 == pytest.approx(0.516, rel=1e-3)
    assert parts["embeddings and head"] / (2 * 2 * 128_256 * 4096) == pytest.approx(1, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([EIGHT_B, THREE_B, QWEN]),
    st.sampled_from(["max_length", "micro_batch_size", "rank"]),
    st.integers(16, 4096),
    st.integers(1, 4096),
    st.booleans(),
    st.sampled_from([CARD, None]),
)
def test_more_tokens_or_rank_never_need_less(
    preset: Preset, setting: str, size: int, more: int, checkpointing: bool, card: GpuReading | None
) -> None:
    base = with_settings(preset, gradient_checkpointing=checkpointing, **{setting: size})
    larger = with_settings(base, **{setting: size + more})
    assert vram.ledger(larger, card).needed_bytes > vram.ledger(base, card).needed_bytes


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([EIGHT_B, THREE_B, QWEN]), st.integers(1, 80), st.integers(1, 40))
def test_more_layers_never_need_less(preset: Preset, layers: int, more: int) -> None:
    def of(count: int) -> int:
        arch = preset.architecture.model_copy(update={"num_hidden_layers": count})
        return vram.ledger(preset.model_copy(update={"architecture": arch}), CARD).needed_bytes

    assert of(layers + more) > of(layers)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([EIGHT_B, THREE_B, QWEN]),
    st.integers(16, 16_384),
    st.integers(1, 64),
    st.integers(1, 256),
    st.booleans(),
    st.sampled_from(["nf4", "none"]),
    st.sampled_from([CARD, None]),
)
def test_following_any_advice_saves_what_it_says(
    preset: Preset, length: int, micro: int, rank: int, checkpointing: bool, base: str, card: GpuReading | None
) -> None:
    given_settings = {"max_length": length, "micro_batch_size": micro, "rank": rank, "quantization": base}
    preset = with_settings(preset, gradient_checkpointing=checkpointing, **given_settings)
    now = vram.ledger(preset, card).needed_bytes
    for advice in vram.advise(preset, card):
        after = vram.ledger(presets.override(preset, advice.changes), card).needed_bytes
        assert now - after == advice.saved_bytes > 0


def test_the_most_helpful_advice_comes_first() -> None:
    saved = [advice.saved_bytes for advice in vram.advise(with_settings(EIGHT_B, quantization="none"), CARD)]
    assert saved == sorted(saved, reverse=True)
    assert len(saved) >= 4


def test_a_smaller_micro_batch_keeps_the_effective_batch() -> None:
    preset = with_settings(EIGHT_B, micro_batch_size=4, gradient_accumulation_steps=4)
    advice = next(found for found in vram.advise(preset, CARD) if found.setting == "train.micro_batch_size")
    changed = presets.override(preset, advice.changes).train
    assert (changed.micro_batch_size, changed.gradient_accumulation_steps) == (2, 8)
    assert str(advice).startswith("micro_batch_size 4 → 2 with gradient_accumulation_steps 8 saves ")


def test_what_is_on_already_is_not_advised() -> None:
    settings = {advice.setting for advice in vram.advise(EIGHT_B, CARD)}
    assert settings.isdisjoint({"train.gradient_checkpointing", "train.quantization"})


def test_checkpointing_saves_most_of_an_8bs_activations() -> None:
    """Without it, 2,048 tokens of an 8B need about 18 GiB; with it, about 7.4 (context and fragmentation included)."""
    one = with_settings(EIGHT_B, micro_batch_size=1)
    assert vram.ledger(one, CARD).needed_bytes / GIB == pytest.approx(7.4, rel=0.05)
    without = with_settings(one, gradient_checkpointing=False)
    assert vram.ledger(without, CARD).needed_bytes / GIB == pytest.approx(18.1, rel=0.05)


def test_available_is_what_is_free_less_a_margin() -> None:
    budget = vram.ledger(EIGHT_B, GpuReading(total_bytes=24 * GIB, free_bytes=10 * GIB))
    assert budget.available_bytes == int(10 * GIB * 0.96)


def test_a_gpu_that_does_not_tell_its_memory_is_not_refused() -> None:
    budget = vram.ledger(EIGHT_B, GpuReading())
    assert budget.available_bytes is None
    assert budget.fits


def test_without_a_gpu_the_machines_memory_counts() -> None:
    budget = vram.ledger(EIGHT_B, None)
    assert budget.available_bytes is not None
    assert "CUDA context" not in {part.name for part in budget.parts}

"""Measurements: kept and found again, for the same key only, and what they change in the next plan."""

from __future__ import annotations

from typing import Any

import pytest

from engine import calibration, presets, vram
from engine.config import Preset
from engine.estimate import training_flop
from engine.gpu import GpuReading, pretend
from engine.paths import builtin_presets
from engine.units import GIB, MIB

CARD = pretend(24 * GIB)
PRESET = presets.load_preset(builtin_presets() / "qwen3-4b.toml")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path))


def seen(
    preset: Preset = PRESET,
    card: GpuReading | None = CARD,
    *,
    factor: float = 1.1,
    length: int = 2048,
    **changes: Any,
) -> calibration.Measurement:
    """A pass whose activations took `factor` of what the ledger says, and 100 MiB more stayed."""
    resident, moving = vram.split(preset, on_cpu=card is None, longest=length, absent=("optimizer",))
    loaded = resident + 100 * MIB
    allocated = loaded + int(moving * factor)
    measured = {"loaded_bytes": loaded, "allocated_bytes": allocated, "reserved_bytes": int(allocated * 1.05)}
    parts = vram.ledger(preset, card).parts
    return calibration.measurement(preset, card, parts, length=length, **{**measured, **changes})


def test_nothing_measured_changes_nothing() -> None:
    assert calibration.correction(PRESET, CARD) == vram.UNMEASURED
    assert vram.ledger(PRESET, CARD, calibration.correction(PRESET, CARD)) == vram.ledger(PRESET, CARD)


def test_the_next_plan_says_what_was_measured() -> None:
    found = seen(context_bytes=600 * MIB)
    calibration.record(found)
    corrected = calibration.correction(PRESET, CARD)
    optimizer = next(part.size_bytes for part in vram.ledger(PRESET, CARD).parts if part.name == "optimizer")
    expected = (found.allocated_bytes + optimizer) * found.reserved_bytes / found.allocated_bytes + 600 * MIB
    assert vram.ledger(PRESET, CARD, corrected).needed_bytes == pytest.approx(expected, rel=1e-6)
    assert corrected.measured


@pytest.mark.parametrize(
    "other",
    [{"quantization": "none"}, {"gradient_checkpointing": "false"}, {"gradient_checkpointing_every": "2"},
     {"optimizer": "adamw_8bit"}, {"dropout": "0.1"}, {"micro_batch_size": "1"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_other_flags_are_another_key(other: dict[str, str]) -> None:
    assert calibration.key_of(presets.override(PRESET, other), CARD) != calibration.key_of(PRESET, CARD)


@pytest.mark.parametrize("same", [{"rank": "64"}, {"max_length": "512"}, {"learning_rate": "1e-4"}, {"epochs": "9"}])
def test_what_the_formula_knows_is_the_same_key(same: dict[str, str]) -> None:
    assert calibration.key_of(presets.override(PRESET, same), CARD) == calibration.key_of(PRESET, CARD)


def test_another_card_model_or_version_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = calibration.key_of(PRESET, CARD)
    assert calibration.key_of(PRESET, GpuReading(name="another")) != key
    assert calibration.key_of(presets.load_preset(builtin_presets() / "qwen3-8b.toml"), CARD) != key
    monkeypatch.setattr(calibration, "version", lambda name: "0.0")
    assert calibration.key_of(PRESET, CARD) != key


def test_the_measurement_nearest_in_tokens_counts() -> None:
    for factor, length in ((1.2, 512), (1.4, 2048), (1.1, 8192)):
        calibration.record(seen(factor=factor, length=length))
    near = presets.override(PRESET, {"max_length": "600"})
    assert calibration.correction(near, CARD).activations == pytest.approx(1.2)
    assert calibration.correction(PRESET, CARD).activations == pytest.approx(1.4)


def test_of_equal_measurements_the_newest_counts() -> None:
    old, new = seen(factor=1.3), seen(factor=1.05)
    known = [new, old.model_copy(update={"t": new.t - 60})]
    assert calibration.correction(PRESET, CARD, known).activations == pytest.approx(1.05)


@pytest.mark.parametrize("factor", [0.3, 2.5])
def test_a_measurement_of_something_else_is_not_believed(factor: float) -> None:
    assert calibration.correction(PRESET, CARD, [seen(factor=factor)]) == vram.UNMEASURED


def test_measurements_survive_a_line_that_is_cut_off() -> None:
    found = seen()
    calibration.record(found)
    with calibration.path().open("a") as file:
        file.write('{"t": 1.0, "key"\n')
    calibration.record(found)
    assert calibration.measurements() == [found, found]


def test_the_speed_of_this_model_counts_before_that_of_others() -> None:
    other = presets.load_preset(builtin_presets() / "qwen3-8b.toml")
    slow, fast = seen(tokens_per_s=1000.0), seen(other, tokens_per_s=4000.0)
    flop = training_flop(PRESET, 1, 2048)
    assert calibration.reached_flops(PRESET, CARD, [slow, fast]) == pytest.approx(1000 * flop)
    assert calibration.reached_flops(PRESET, CARD, [fast]) == pytest.approx(4000 * training_flop(other, 1, 2048))
    assert calibration.reached_flops(PRESET, CARD, []) is None
    assert calibration.reached_flops(PRESET, None, [slow]) is None


def test_predicted_and_measured_stand_side_by_side() -> None:
    found = seen()
    assert found.predicted_bytes == vram.ledger(PRESET, CARD).needed_bytes
    assert found.measured_bytes == found.reserved_bytes + vram.CUDA_CONTEXT_BYTES

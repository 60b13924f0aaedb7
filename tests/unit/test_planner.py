"""The planner: it takes what fits, keeps what is learned and what was set by hand, and wants speed for memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import planner, presets
from engine.config import Preset
from engine.datasets.report import TokenStats
from engine.gpu import GpuReading, pretend
from engine.paths import builtin_presets
from engine.units import GIB
from engine.vram import Correction, ledger

BUNDLED = [presets.load_preset(path) for path in sorted(builtin_presets().glob("*.toml"))]
EIGHT_B = next(preset for preset in BUNDLED if preset.name == "llama-3.1-8b-instruct")
BATCH = 16


def small_enough(billions: float) -> list[Preset]:
    return [preset for preset in BUNDLED if preset.parameters <= billions * 1e9]


CARDS = [(preset, 12) for preset in small_enough(4.1)] + [(preset, 24) for preset in small_enough(9.3)]


@pytest.mark.parametrize(("preset", "gib"), CARDS, ids=lambda value: getattr(value, "name", str(value)))
def test_a_preset_plans_on_its_card_without_a_hand(preset: Preset, gib: int) -> None:
    """Every model up to 4B on 12 GB and up to 9B on 24 GB, with room for the ledger's error."""
    choice = planner.choose(preset, pretend(gib * GIB))
    assert choice.budget.needed_bytes * (1 + planner.HEADROOM) <= (choice.budget.available_bytes or 0)


def stats(lengths: dict[int, int], **changes: Any) -> TokenStats:
    """Rows by their length in tokens, which must be multiples of 64."""
    bins = [lengths.get(number * 64 + 64, 0) for number in range(max(lengths) // 64)]
    rows, tokens = sum(bins), sum(length * count for length, count in lengths.items())
    known = {"tokenizer": "t", "rows": rows, "of_rows": rows, "max_length": 2048, "tokens": tokens, "trained": tokens}
    known |= {"longest": max(lengths), "median": 64, "p95": 64, "truncated": 0, "lost": 0, "dropped": 0}
    return TokenStats(**{**known, "lengths": tuple(bins), **changes})


SIZES = st.integers(1, 160)
HANDS = st.sets(st.sampled_from(planner.CHOSEN))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BUNDLED), SIZES, HANDS, st.sampled_from([256, 2048, 8192]))
def test_what_fits_is_found_if_anything_fits(preset: Preset, gib: int, fixed: set[str], length: int) -> None:
    preset = presets.override(preset, {"max_length": str(min(length, preset.context_length))})
    card = pretend(gib * GIB)
    choice = planner.choose(preset, card, fixed=fixed)
    some = any(
        ledger(presets.override(preset, changes), card).fits for changes in planner._changes(preset, card, fixed)
    )
    assert choice.budget.fits == some
    assert choice.budget == ledger(choice.preset, card)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BUNDLED), SIZES, HANDS, st.integers(1, 24), st.integers(1, 12))
def test_what_is_learned_and_what_was_set_by_hand_stays(
    preset: Preset, gib: int, fixed: set[str], micro: int, passes: int
) -> None:
    by_hand = {planner.MICRO: str(micro), planner.PASSES: str(passes)}
    preset = presets.override(preset, by_hand)
    chosen = planner.choose(preset, pretend(gib * GIB), fixed=fixed).preset
    free = {name.partition(".")[2] for name in planner.CHOSEN if name not in fixed}
    before, after = preset.train.model_dump(exclude=free), chosen.train.model_dump(exclude=free)
    assert (before, preset.lora) == (after, chosen.lora)
    assert chosen.train.micro_batch_size * chosen.train.gradient_accumulation_steps == micro * passes


def test_the_changes_make_the_chosen_preset_of_the_given_one() -> None:
    choice = planner.choose(EIGHT_B, pretend(24 * GIB))
    assert presets.override(EIGHT_B, choice.changes) == choice.preset
    assert choice.changes[planner.SWITCH] == "false"


def test_more_memory_is_never_slower() -> None:
    seconds = [planner.choose(EIGHT_B, pretend(gib * GIB)).seconds_a_step for gib in (8, 12, 16, 24, 48, 80)]
    assert all(later <= earlier * (1 + planner.WORTH) for earlier, later in pairwise(seconds))
    assert seconds[-1] < 0.8 * seconds[0]


def test_memory_that_saves_no_time_is_left_alone() -> None:
    small = next(preset for preset in BUNDLED if preset.name == "qwen2.5-0.5b-instruct")
    assert planner.choose(small, pretend(140 * GIB)).budget.needed_bytes < 8 * GIB


def test_short_rows_go_several_into_a_pass() -> None:
    """Rows of 64 tokens leave a card waiting for Python; sixteen of them at once are a pass of 1,024."""
    alone = planner.choose(EIGHT_B, pretend(24 * GIB)).preset.train.micro_batch_size
    together = planner.choose(EIGHT_B, pretend(24 * GIB), tokens=stats({64: 500})).preset.train.micro_batch_size
    assert alone == 1
    assert together > 4


def test_short_rows_need_less_than_max_length_allows() -> None:
    short = planner.choose(EIGHT_B, pretend(8 * GIB), tokens=stats({128: 500}))
    assert short.budget.fits
    assert not ledger(short.preset, pretend(8 * GIB)).fits


def test_a_sample_does_not_tell_the_longest_row() -> None:
    assert planner.longest_row(stats({64: 10})) == 64
    assert planner.longest_row(stats({64: 10}, of_rows=11)) is None
    assert planner.longest_row(None) is None


def test_rows_drawn_at_random_are_filled_up_to_the_longest_of_them() -> None:
    """Half of the rows have 64 tokens, half 256: of two rows, three in four draws are filled up to 256."""
    known = stats({64: 50, 256: 50})
    assert planner.lengths(known, 2048, 1) == (160, 160)
    assert planner.lengths(known, 2048, 2) == (160, 64 + 0.75 * 192)
    assert planner.lengths(known, 128, 2) == (96, 64 + 0.75 * 64)
    assert planner.lengths(None, 2048, 4) == (2048, 2048)


def test_rows_of_very_different_lengths_are_taken_one_by_one() -> None:
    """Sixteen rows of which one is 32 times as long as the others are filled up to it nearly always."""
    known = stats({64: 900, 2048: 100})
    assert planner.choose(EIGHT_B, pretend(80 * GIB), tokens=known).preset.train.micro_batch_size <= 2


def test_a_measured_machine_needs_no_headroom() -> None:
    card = pretend(int(EIGHT_B.parameters * 2.1))
    guessed, known = planner.choose(EIGHT_B, card), planner.choose(EIGHT_B, card, correction=Correction(measured=True))
    assert known.seconds_a_step < guessed.seconds_a_step
    assert known.budget.needed_bytes > guessed.budget.needed_bytes


def test_without_a_gpu_nothing_is_offloaded() -> None:
    huge = presets.override(EIGHT_B, {"max_length": "65536"})
    assert not planner.choose(huge, None).preset.train.gradient_checkpointing_offload


def test_a_card_that_does_not_tell_its_memory_gets_the_preset_as_it_is() -> None:
    choice = planner.choose(EIGHT_B, GpuReading(name="NVIDIA GB10"))
    assert (choice.preset, choice.changes) == (EIGHT_B, {})


@pytest.mark.parametrize("policy", planner.POLICIES, ids=lambda policy: policy.name)
def test_a_policy_is_known_by_its_settings(policy: planner.Policy) -> None:
    assert planner.policy_of(presets.override(EIGHT_B, policy.changes)) == policy


def test_settings_of_the_users_own_are_no_policy() -> None:
    assert planner.policy_of(presets.override(EIGHT_B, {"gradient_checkpointing_every": "7"})) is None

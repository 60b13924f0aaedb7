"""What setup says of presets before anything is chosen, and what a draft keeps of what was changed by hand."""

from __future__ import annotations

import re

import pytest

from engine import gpu, planner
from engine.presets import find_preset, list_presets
from engine.units import GIB
from tui.screens.setup.choices import change
from tui.screens.setup.draft import Draft
from tui.screens.setup.fits import fit_here
from tui.widgets.preset_filter import matches


@pytest.mark.parametrize("memory", [8, 12, 24, 48])
def test_the_table_says_what_the_planner_will_say(memory: int) -> None:
    card = gpu.pretend(memory * GIB)
    for preset in list_presets():
        level, words = fit_here(preset, card)
        fits = planner.choose(preset, card).budget.fits
        assert ("to spare" in words or "tight" in words) == fits, preset.name
        assert (level == "error") <= (not fits), preset.name


def test_what_fits_with_shorter_rows_only_says_so() -> None:
    level, words = fit_here(find_preset("gemma-3-4b-it"), gpu.pretend(int(3.9 * GIB)))
    assert level == "warning"
    assert re.fullmatch(r"[\d.]+ GiB at (256|512|1024) tokens", words)


@pytest.mark.parametrize(
    ("typed", "let_through"),
    [
        ("8b", {"llama-3-8b-instruct", "llama-3.1-8b-instruct", "granite-3.3-8b-instruct", "qwen3-8b"}),
        (">40b", {"mixtral-8x7b-instruct-v0.1", "llama-3.3-70b-instruct"}),
        ("<200m smollm", {"smollm2-135m-instruct"}),
        ("llama gated >10b", {"llama-2-13b-chat", "llama-3.3-70b-instruct"}),
        ("mit", {"phi-4", "phi-3.5-mini-instruct"}),
    ],
)
def test_words_of_the_filter(typed: str, let_through: set[str]) -> None:
    found = {preset.name for preset in list_presets() if matches(preset, "ok", False, typed)}
    assert let_through <= found
    sizes = [preset.parameters for preset in list_presets() if preset.name in found]
    if typed == "8b":
        assert all(7.5e9 <= size < 8.5e9 for size in sizes)
    elif typed != "mit":
        assert found == let_through


def test_the_filter_knows_what_is_here_and_what_fits() -> None:
    preset = find_preset("phi-4")
    assert matches(preset, "ok", True, "here fits open")
    assert not matches(preset, "ok", False, "here")
    assert not matches(preset, "warning", True, "fits")
    assert not matches(preset, "ok", True, "gated")


def test_the_batch_that_was_asked_for_is_divided_by_the_planner() -> None:
    preset = find_preset("llama-3.1-8b-instruct")
    up = change(preset, planner.PASSES, 1)
    draft = Draft(preset).with_changes(up, divided=False)
    assert draft.fixed == frozenset()
    assert draft.tuned is not None
    assert draft.tuned.train.micro_batch_size * draft.tuned.train.gradient_accumulation_steps == 32
    assert draft.with_changes(change(draft.tuned, planner.PASSES, -1), divided=False).changes == {}


def test_a_choice_by_hand_stays_also_where_the_preset_says_the_same() -> None:
    preset = find_preset("llama-3.1-8b-instruct")
    everything = planner.policy_of(preset)
    assert everything is not None
    draft = Draft(preset).with_changes(everything.changes)
    assert draft.fixed == set(everything.changes)
    assert draft.without(frozenset(everything.changes)) == Draft(preset)

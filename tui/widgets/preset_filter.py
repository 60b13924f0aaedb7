"""Words that narrow the list of presets: parts of names, and some words with a meaning. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable

from engine.config import Preset

SIZE = re.compile(r"([<>]?)=?(\d+(?:\.\d+)?)([mb])")
UNITS = {"m": 10**6, "b": 10**9}

HINT = "name, use, licence · 8b  <4b  here  fits  open  gated"


def word_filter(word: str) -> Callable[[Preset, str, bool], bool] | None:
    """What a word with a meaning lets through, by preset, level and whether it is here; None for any other word."""
    special: dict[str, Callable[[Preset, str, bool], bool]] = {
        "here": lambda _preset, _level, local: local,
        "fits": lambda _preset, level, _local: level == "ok",
        "gated": lambda preset, _level, _local: preset.gated,
        "open": lambda preset, _level, _local: not preset.gated,
    }
    match = SIZE.fullmatch(word)
    if match is None:
        return special.get(word)
    compared, figure, unit = match.groups()
    return lambda preset, _level, _local: _has_size(preset, compared, float(figure), unit)


def _has_size(preset: Preset, compared: str, figure: float, unit: str) -> bool:
    size = preset.parameters / UNITS[unit]
    if compared:
        return size <= figure if compared == "<" else size >= figure
    # "8b" is how an 8.2B is called, and what its maker wrote into the name.
    return f"{figure:g}{unit}" in re.split(r"[^0-9a-z.]", preset.name) or round(size) == figure


def matches(preset: Preset, level: str, local: bool, typed: str) -> bool:
    """True if every word lets the preset through."""
    searched = f"{preset.name} {preset.title} {preset.model} {preset.family} {preset.licence} {preset.good_at}".lower()
    for word in typed.lower().split():
        lets_through = word_filter(word)
        if not (lets_through(preset, level, local) if lets_through else word in searched):
            return False
    return True

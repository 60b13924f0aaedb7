"""One line of the doctor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.events import Level


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at, what was found, what to do."""

    name: str
    level: Level
    found: str
    remedy: str = ""
    essential: bool = False
    """Nothing works while this is an error."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same in raw figures, for scripts and for reports of defects."""

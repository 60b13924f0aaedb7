"""Rows that cannot be used, and rows that their own tool leaves out."""

from __future__ import annotations

from functools import cache

from engine.datasets import faults
from engine.datasets.faults import Fault
from engine.datasets.findings import Finding

SKIPPED = Finding(
    "skipped",
    "warning",
    "row is marked as not to be used",
    "rows are marked as not to be used",
    "They are left out.",
    "Nothing needs to be done, unless they were meant.",
)

_KINDS = {fault: name.lower().replace("_", "-") for name, fault in vars(faults).items() if isinstance(fault, Fault)}


@cache
def finding_of(fault: Fault) -> Finding:
    """The finding that a fault makes; its kind is the fault's name: `not-json`."""
    return Finding(_KINDS[fault], "error", fault.one, fault.many, fault.effect, fault.remedy)

"""Who speaks how often: roles, turns, prompts that say nothing, conversations without an end."""

from __future__ import annotations

from collections import Counter

from engine.datasets.findings import Block, Finding, Ledger, by_row
from engine.datasets.report import MAX_TURNS

EMPTY_PROMPT = Finding(
    "empty-prompts",
    "warning",
    "row has an empty prompt",
    "rows have an empty prompt",
    "The model learns to say this without being asked.",
    'Fill in the prompt or delete the row; to learn texts as they are, write them as raw text: {"text": …}.',
)
ENDS_ON_USER = Finding(
    "ends-on-user",
    "warning",
    "conversation does not end with an answer",
    "conversations do not end with an answer",
    "What stands behind the last answer is not learned.",
    "Add the assistant's last turn, or delete the turn that has no answer.",
)


class Turns:
    """Roles and turns, and what is odd about them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.roles: Counter[str] = Counter()
        self.counts: Counter[int] = Counter()
        """Rows by their number of messages."""
        self.turns = 0
        self.text: bool | None = None
        """True if the file's first row is raw text; None before it."""

    def see(self, block: Block) -> None:
        """Count the rows' turns."""
        flat = [message["role"] for message in block.messages]
        roles = list(by_row(flat, list(map(len, block.turns))))
        if self.text is None:
            self.text = not roles[0]
        patterns = Counter(roles)
        for pattern, count in patterns.items():
            self._count(pattern, count)
        if any(pattern and pattern[-1] != "assistant" for pattern in patterns):
            self._look_for_ends(block)
        if not all(map(str.strip, block.parts)):
            self._look_for_empty(block)

    def _count(self, pattern: tuple[str, ...], count: int) -> None:
        self.turns += count * len(pattern)
        if pattern:
            self.counts[min(len(pattern), MAX_TURNS)] += count
        for role, times in Counter(pattern).items():
            self.roles[role] += count * times

    def _look_for_ends(self, block: Block) -> None:
        for row, at in zip(block.rows, block.at, strict=True):
            if row.messages and row.messages[-1]["role"] != "assistant":
                self._ledger.add(ENDS_ON_USER, at, row.line)

    def _look_for_empty(self, block: Block) -> None:
        empty = {
            at: row.line
            for row, at in zip(block.rows, block.at, strict=True)
            for message in row.messages
            if message["role"] == "user" and not message["content"].strip()
        }
        for at, line in empty.items():
            self._ledger.add(EMPTY_PROMPT, at, line)

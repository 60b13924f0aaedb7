"""The ways in which a row cannot be used, each with what it does to training and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A way in which a row cannot be used."""

    one: str
    """What is said of one such row: "row is not JSON"."""
    many: str
    effect: str
    remedy: str

    def title(self, count: int) -> str:
        """`2 rows are not JSON`."""
        return f"{count:,} {self.one if count == 1 else self.many}"


class Unusable(Exception):
    """A row that cannot be used, why, and what exactly."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(fault.one)
        self.fault = fault
        self.detail = detail


class Skipped(Exception):
    """A row that its own tool marked as not to be used: rejected, cancelled or not annotated; and which of these."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_UNUSABLE = "The data are refused: leaving rows out silently would train on something else than was given."


def _fault(what_one: str, what_many: str, remedy: str, effect: str = _UNUSABLE) -> Fault:
    return Fault(f"row {what_one}", f"rows {what_many}", effect, remedy)


# ── bytes and containers ──

NOT_UTF8 = _fault(
    "is not UTF-8",
    "are not UTF-8",
    "Save the file as UTF-8; if it comes from Windows or Excel: iconv -f CP1252 -t UTF-8 old > new",
)
NUL = _fault(
    "contains NUL characters",
    "contain NUL characters",
    "Write the file anew: NULs come from UTF-16 or from a copy that broke off.",
)
TOO_LONG = _fault(
    "is larger than 16 MiB",
    "are larger than 16 MiB",
    "Split the row; if it is the whole file, write one JSON object per line (jq -c '.[]' old.json > new.jsonl).",
)
TOO_MANY = _fault(
    "holds more than 500,000 values",
    "hold more than 500,000 values",
    "This is not a row to learn from. If it wraps all rows, write one JSON object per line (jq -c '.[]' old > new).",
)
NOT_JSON = _fault("is not JSON", "are not JSON", "Correct or delete these lines; each line is one whole JSON object.")
CELL_NOT_JSON = _fault(
    "holds a list that is not JSON",
    "hold a list that is not JSON",
    "Write the column as JSON text, or save the rows as JSON Lines or Parquet. A list as Python prints it is no JSON: "
    "to_csv() of pandas and datasets writes it so.",
)
BROKEN_LIST = Fault(
    "JSON list is broken",
    "JSON lists are broken",
    "Nothing behind this place can be read. " + _UNUSABLE,
    "Correct the list at this place, or write one JSON object per line: then a broken row costs only itself.",
)
TOO_DEEP = _fault("is nested too deeply", "are nested too deeply", "Correct or delete these lines.")
NOT_OBJECT = _fault(
    "is not a JSON object",
    "are not JSON objects",
    'Write each row as an object, like {"messages": [{"role": "user", "content": "…"}, …]}.',
)
OPEN_QUOTE = _fault(
    "opens a quote that does not close",
    "open a quote that does not close",
    'Close the quote; inside a quoted cell, a quote is written twice: "".',
)
BAD_CSV = _fault(
    "is not well-formed CSV",
    "are not well-formed CSV",
    'Put cells with delimiters, quotes or line ends in quotes; inside them, a quote is written twice: "".',
)
CELLS = _fault(
    "has more or fewer cells than the header",
    "have more or fewer cells than the header",
    "Put cells that contain the delimiter in quotes, and write every cell, also the empty ones.",
)
UNREADABLE = _fault(
    "holds a value that cannot be read",
    "hold a value that cannot be read",
    "Write the columns that are learned from as text.",
)

# ── keys and types ──

NO_KEYS = _fault(
    "lacks the keys of its format",
    "lack the keys of their format",
    "Rename the keys, name the right format (--format NAME), "
    "or say which columns hold what (--columns 'user=question, assistant=reply').",
)
WRONG_TYPE = _fault(
    "holds a value of another type than belongs there",
    "hold a value of another type than belongs there",
    "Write texts as JSON strings, and turns as a list of objects; numbers and null cannot be trained on.",
)
NOT_TEXT = _fault(
    "holds an image or a sound",
    "hold an image or a sound",
    "finetui trains on text only: leave out these rows, or put what the image shows into words.",
)
PREFERENCE = Fault(
    "row is a preference, not an answer to learn",
    "rows are preferences, not answers to learn",
    "Rows with a chosen and a rejected answer (or with a good or bad mark, as for KTO) teach a model to prefer one "
    "answer to another. That is DPO, ORPO or KTO, usually done after this kind of training. finetui learns answers.",
    "To learn the chosen answers, name the format: --format chosen. The rejected ones are then left out. "
    "If the mark means something else, name what the rows are, like --format messages.",
)
SURROGATE = _fault(
    "contains half of a character",
    "contain half of a character",
    r"A lone \ud800…\udfff is a broken emoji: write the whole character, or delete it.",
)

# ── conversations ──

BAD_ROLE = _fault(
    "has an unknown role",
    "have an unknown role",
    "Use the roles system, user, assistant and tool (in sharegpt: system, human, gpt, function_call, observation).",
)
LATE_SYSTEM = _fault(
    "has a system message after the first",
    "have a system message after the first",
    "Put the system message first, and only one.",
)
LOST_TOOL = _fault(
    "has a tool turn that nothing called for",
    "have a tool turn that nothing called for",
    "A tool's answer follows the assistant's turn that has tool_calls, or another tool's answer.",
)
BAD_CALL = _fault(
    "has a tool call that cannot be read",
    "have a tool call that cannot be read",
    'Write calls as {"type": "function", "function": {"name": "…", "arguments": {…}}}; arguments are one JSON object.',
)
BAD_TOOLS = _fault(
    "has a list of tools that cannot be read",
    "have a list of tools that cannot be read",
    'Write "tools" as a list of objects, like [{"type": "function", "function": {"name": "…", "parameters": {…}}}].',
)
UNTRAINED_TURN = _fault(
    "has an answer that is marked as not to be learned",
    "have an answer that is marked as not to be learned",
    'finetui learns every answer of a row: take out the turns with "weight": 0, or the mark, if they may be learned.',
)
NO_ANSWER = _fault("has no assistant turn", "have no assistant turn", "Add the answer that is to be learned.")
EMPTY_ANSWER = _fault("has an empty answer", "have an empty answer", "Fill in the answer, or delete the row.")
EMPTY_TEXT = _fault("has an empty text", "have an empty text", "Fill in the text, or delete the row.")

"""The chosen answers of preference rows, learned as answers; only when it is asked for by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Message, Row, Skipped, Unusable
from engine.datasets.faults import NO_KEYS
from engine.datasets.formats import messages, preference, prompt_completion, sharegpt
from engine.datasets.formats.fields import first_key, optional_text, text_at
from engine.datasets.formats.prompt_completion import turns_or_text
from engine.datasets.formats.turns import read_turns

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
"""How Anthropic's hh-rlhf writes a conversation into one text."""


def _read(row: Mapping[str, Any], line: int) -> Row:
    if preference.is_marked(row) and not preference.is_good(row):
        raise Skipped("marked as a bad answer")
    asked = _asked(row, line)
    if "chosen" not in row:
        return asked or prompt_completion.FORMAT.read(row, line)
    if asked is not None:
        answer = _turns(row["chosen"]) or [{"role": "assistant", "content": text_at(row, "chosen")}]
        whole = answer[0]["role"] != "assistant"
        return asked._replace(messages=answer if whole else [*asked.messages, *answer])
    turns = _messages(row)
    if system := optional_text(row, "system", "system_prompt"):
        turns.insert(0, {"role": "system", "content": system})
    return Row(line, turns)


def _asked(row: Mapping[str, Any], line: int) -> Row | None:
    """The conversation that stands in the row as such, if one does; the chosen answer may be missing in it."""
    known = next((form for form in (sharegpt, messages) if form.is_conversation(row)), None)
    return None if known is None else known.FORMAT.read(row, line)


def _turns(chosen: object) -> list[Message]:
    """The turns of a chosen answer: a list of them, or one; none if it is something else. Raises `Unusable`."""
    turns = chosen if isinstance(chosen, list) else [chosen] if isinstance(chosen, dict) else []
    if any(isinstance(turn, dict) and "from" in turn for turn in turns):
        return [sharegpt.read_turn(turn) for turn in turns]
    return read_turns(turns)


def _messages(row: Mapping[str, Any]) -> list[Message]:
    """The prompt and the chosen answer; a chosen conversation that repeats the prompt stands for itself."""
    prompt_key = first_key(row, "prompt", "question", "instruction", "input")
    if turns := _turns(row.get("chosen")):
        whole = prompt_key not in row or turns[0]["role"] != "assistant"
        return turns if whole else [*turns_or_text(row, prompt_key, "user"), *turns]
    if prompt_key in row:
        return [*turns_or_text(row, prompt_key, "user"), {"role": "assistant", "content": text_at(row, "chosen")}]
    return _transcript(text_at(row, "chosen"))


def _transcript(text: str) -> list[Message]:
    parts = _SPEAKER.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise Unusable(NO_KEYS, "no key 'prompt', and 'chosen' is not a conversation")
    roles = {"Human": "user", "Assistant": "assistant"}
    said = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": roles[speaker], "content": content.strip()} for speaker, content in said]


FORMAT = Format(
    "chosen",
    "The chosen answers of preference rows; the rejected ones are left out. Only taken when it is named.",
    preference.FORMAT.example,
    lambda row: "chosen" in row or preference.is_marked(row),
    _read,
    detectable=False,
)

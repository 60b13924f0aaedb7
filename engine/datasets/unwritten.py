"""What of a conversation a model's chat template does not write: seen in the text that it made of the row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from engine.datasets.base import Row
from engine.datasets.findings import Finding

_ANOTHER = "Choose a model whose chat template writes them"

CALLS = Finding(
    "unwritten-calls",
    "error",
    "row calls tools, which this model's chat template does not write",
    "rows call tools, which this model's chat template does not write",
    "The calls vanish, and in their place the model learns to say nothing.",
    f"{_ANOTHER}, or leave these rows out.",
)
TOOLS = Finding(
    "unwritten-tools",
    "warning",
    "row lists tools, which this model's chat template does not write",
    "rows list tools, which this model's chat template does not write",
    "The model is never told which tools it has.",
    f"{_ANOTHER}, or describe the tools in the system message.",
)
THOUGHTS = Finding(
    "unwritten-thoughts",
    "warning",
    "row has thoughts, which this model's chat template does not write",
    "rows have thoughts, which this model's chat template does not write",
    "They are not learned; the answers are learned without them.",
    f"{_ANOTHER}, or put them into the answers, as <think>…</think>.",
)
UNWRITTEN = (CALLS, TOOLS, THOUGHTS)


def unwritten(row: Row, text: str) -> Iterator[Finding]:
    """What is missing in the text that a chat template made of the row.

    Calls and tools are looked for by their names. Of thoughts, some templates write only the last on purpose: they
    count as missing where none is there.
    """
    calls = chain.from_iterable(message.get("tool_calls", ()) for message in row.messages if len(message) > 2)
    if any(call["function"]["name"] not in text for call in calls):
        yield CALLS
    if any(_name(tool) not in text for tool in row.tools or ()):
        yield TOOLS
    thoughts = [message["reasoning_content"].strip() for message in row.messages if "reasoning_content" in message]
    if thoughts and not any(thought in text for thought in thoughts):
        yield THOUGHTS


def _name(tool: dict[str, object]) -> str:
    """What a schema calls its tool; empty if it is of another form."""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""

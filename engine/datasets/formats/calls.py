"""Tools: the calls in an assistant's turn and the schemas that come with a row, in the form that templates take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Unusable, check_text
from engine.datasets.faults import BAD_CALL, BAD_TOOLS, TOO_DEEP
from engine.datasets.formats.fields import from_json, json_type

MAX_DEPTH = 64
"""Objects within objects in a call or a schema; templates write them by recursion."""


def tools_at(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The schemas under `tools` (a list, or one as JSON text) or the older `functions`; None if there are none.

    Raises `Unusable`.
    """
    value = row.get("tools")
    if value is None:
        value = row.get("functions")
    if isinstance(value, str) and value.strip():
        value = from_json(value, "'tools'", BAD_TOOLS)
    if not value:
        return None
    if not isinstance(value, list):
        raise Unusable(BAD_TOOLS, f"'tools' is {json_type(value)}, not a list")
    _check(value)
    return [_schema(tool) for tool in value]


def _schema(tool: object) -> dict[str, Any]:
    """A tool as `{"type": "function", "function": {…}}`; the bare function is put into it."""
    if not isinstance(tool, dict):
        raise Unusable(BAD_TOOLS, f"a tool is {json_type(tool)}, not an object")
    if "function" not in tool and isinstance(tool.get("name"), str):
        return {"type": "function", "function": tool}
    return tool


def calls_in(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a turn, under `tool_calls` or the older `function_call`. Raises `Unusable`."""
    calls = turn.get("tool_calls")
    if not calls and turn.get("function_call"):
        calls = [turn["function_call"]]
    if not calls:
        return []
    if not isinstance(calls, list):
        raise Unusable(BAD_CALL, f"'tool_calls' is {json_type(calls)}, not a list")
    return [call_of(call) for call in calls]


def call_of(call: object) -> dict[str, Any]:
    """One call as `{"type": "function", "function": {"name": …, "arguments": {…}}}`, with its id if it has one.

    OpenAI writes the arguments as JSON text, templates take an object: both are taken. Raises `Unusable`.
    """
    if not isinstance(call, dict):
        raise Unusable(BAD_CALL, f"a call is {json_type(call)}, not an object")
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable(BAD_CALL, "a call without a name")
    made: dict[str, Any] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": _arguments(function)},
    }
    if isinstance(call.get("id"), str):
        made["id"] = call["id"]
    _check(made)
    return made


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    value = function.get("arguments", function.get("parameters"))
    if isinstance(value, str) and value.strip():
        value = from_json(value, "'arguments'", BAD_CALL)
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise Unusable(BAD_CALL, f"'arguments' is {json_type(value)}, not an object")
    return value


def _check(value: object) -> None:
    """Raise `Unusable` for what a template could not write: too deep, or a text that is none."""
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > MAX_DEPTH:
            raise Unusable(TOO_DEEP, f"more than {MAX_DEPTH} objects and lists in each other")
        inner: list[object] = []
        for each in layer:
            if isinstance(each, str):
                check_text(each)
            elif isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        layer = inner

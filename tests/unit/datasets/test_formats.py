"""Formats: every sample becomes the messages that it says, every broken one has the fault that it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import DatasetSpec
from engine.datasets import FORMATS, faults
from engine.datasets.base import Row, Skipped, Unusable
from engine.datasets.readers import Record, find_reader
from engine.datasets.rows import choose_format, parse, read_rows
from engine.errors import DataError, UsageError

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "datasets" / "formats"
WITH_GOOD_SAMPLES = [name for name in FORMATS if name not in ("preference", "columns")]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def samples(kind: str) -> list[Any]:
    """One test case for each row of the sample files of a kind: good, broken or skipped."""
    found = []
    for path in sorted(SAMPLES.glob(f"*.{kind}.jsonl")):
        name = path.name.partition(".")[0]
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            found.append(pytest.param(name, json.loads(line), id=f"{name}-{number}"))
    return found


def take(value: dict[str, Any], name: str) -> Row:
    return parse(Record(1, value, None, 0), FORMATS[name])


def of_format(path: Path, **spec: Any) -> str | None:
    chosen = choose_format(DatasetSpec(path=str(path), **spec), path, find_reader(path))
    return chosen.name if chosen else None


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def fault_of(value: dict[str, Any], name: str) -> Unusable:
    with pytest.raises(Unusable) as caught:
        take(value, name)
    return caught.value


# ── samples ──


@pytest.mark.parametrize(("name", "value"), samples("good"))
def test_a_good_sample_becomes_what_it_says(name: str, value: dict[str, Any]) -> None:
    expected = value.pop("_becomes")
    row = take(value, name)
    assert row.messages == expected.get("messages", [])
    assert row.text == expected.get("text", "")
    assert row.tools == expected.get("tools")


@pytest.mark.parametrize(("name", "value"), samples("broken"))
def test_a_broken_sample_has_the_fault_that_it_says(name: str, value: dict[str, Any]) -> None:
    expected = getattr(faults, value.pop("_fault"))
    assert fault_of(value, name).fault == expected


@pytest.mark.parametrize(("name", "value"), samples("skipped"))
def test_what_its_own_tool_marked_is_skipped_with_the_reason(name: str, value: dict[str, Any]) -> None:
    reason = value.pop("_reason")
    with pytest.raises(Skipped) as caught:
        take(value, name)
    assert caught.value.reason == reason


def test_every_format_has_samples() -> None:
    kinds = {
        kind: {path.name.partition(".")[0] for path in SAMPLES.glob(f"*.{kind}.jsonl")} for kind in ("good", "broken")
    }
    assert kinds["good"] == set(WITH_GOOD_SAMPLES)
    assert kinds["broken"] == {*WITH_GOOD_SAMPLES, "preference"}


# ── detection ──


@pytest.mark.parametrize(("name", "value"), [case for case in samples("good") if FORMATS[case.values[0]].detectable])
def test_a_good_sample_is_detected(tmp_path: Path, name: str, value: dict[str, Any]) -> None:
    value.pop("_becomes")
    assert of_format(write(tmp_path / "data.jsonl", value)) == name


@pytest.mark.parametrize(("name", "value"), [case for case in samples("broken") if case.values[0] == "preference"])
def test_preferences_are_recognised_in_every_form(tmp_path: Path, name: str, value: dict[str, Any]) -> None:
    value.pop("_fault")
    assert of_format(write(tmp_path / "data.jsonl", value)) == "preference"


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.detectable])
def test_each_formats_example_is_of_that_format(tmp_path: Path, name: str) -> None:
    assert of_format(write(tmp_path / "data.jsonl", json.loads(FORMATS[name].example))) == name


@pytest.mark.parametrize(
    "value",
    [
        {"text": "My parcel is late.", "label": "delivery"},
        {"text": "My parcel is late.", "summary": "Late."},
        {"role": "user", "content": "Hi"},
        {"a": 1},
        {},
    ],
)
def test_what_may_mean_several_things_is_not_guessed(tmp_path: Path, value: dict[str, Any]) -> None:
    path = write(tmp_path / "data.jsonl", value)
    assert of_format(path) is None
    with pytest.raises(DataError, match="lacks the keys") as caught:
        list(read_rows(path))
    assert "--columns" in caught.value.hints[0]


def test_the_format_of_most_of_the_first_rows_wins(tmp_path: Path) -> None:
    odd = {"prompt": "a", "completion": "b"}
    path = write(tmp_path / "data.jsonl", odd, *[{"messages": CHAT}] * 5)
    assert of_format(path) == "messages"
    with pytest.raises(DataError, match=r"data.jsonl:1: .*written as prompt_completion, the file as messages"):
        list(read_rows(path))


def test_a_named_format_is_taken_over_the_detected_one(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"prompt": "a", "completion": "b", "instruction": "c", "output": "d"})
    assert next(read_rows(path, "prompt_completion")).messages[0]["content"] == "a"
    assert next(read_rows(path, "instruction")).messages[0]["content"] == "c"


def test_an_unknown_format_is_a_usage_error_with_a_near_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        of_format(write(tmp_path / "data.jsonl", {"messages": CHAT}), format="mesages")
    assert "messages" in caught.value.hints[0]


def test_an_object_around_the_rows_is_told_how_to_open(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"version": 1, "data": [{"prompt": "a", "completion": "b"}]})
    with pytest.raises(DataError, match=r"""jq -c '\.\["data"\]\[\]'"""):
        list(read_rows(path))


def test_preferences_name_their_purpose_and_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"})
    with pytest.raises(DataError, match="preference") as caught:
        list(read_rows(path))
    assert "DPO" in faults.PREFERENCE.effect
    assert "--format chosen" in caught.value.hints[0]
    assert [row.messages for row in read_rows(path, "chosen")] == [CHAT]


def test_skipped_rows_are_left_out_in_reading(tmp_path: Path) -> None:
    task = {"text": "a", "label": "b", "_input_hash": 1}
    path = write(tmp_path / "data.jsonl", {**task, "answer": "reject"}, {**task, "answer": "accept"})
    assert [row.line for row in read_rows(path)] == [2]


# ── columns ──


@pytest.mark.parametrize(
    ("columns", "messages"),
    [
        ("user=question, assistant=reply", [("user", "Where?"), ("assistant", "There.")]),
        ("assistant = reply,user = question", [("user", "Where?"), ("assistant", "There.")]),
        ("system=kind, user=question, assistant=stars", [("system", "faq"), ("user", "Where?"), ("assistant", "4")]),
        ("user=In {kind}: {question}, please {{so}}, assistant={reply}!",
         [("user", "In faq: Where?, please {so}"), ("assistant", "There.!")]),
        ("user=two words, assistant=good", [("user", "spaced"), ("assistant", "true")]),
    ],
)  # fmt: skip
def test_columns_become_turns(tmp_path: Path, columns: str, messages: list[tuple[str, str]]) -> None:
    row = {"kind": "faq", "question": "Where?", "reply": "There.", "stars": 4, "two words": "spaced", "good": True}
    path = write(tmp_path / "data.jsonl", row)
    (read,) = read_rows(path, DatasetSpec(columns=columns))
    assert [(message["role"], message["content"]) for message in read.messages] == messages


def test_a_column_can_be_raw_text_and_an_empty_system_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"body": "Long text.", "kind": " ", "q": "Hi", "a": "Hello!"})
    assert [row.text for row in read_rows(path, DatasetSpec(columns="text=body"))] == ["Long text."]
    assert [row.messages for row in read_rows(path, DatasetSpec(columns="system=kind, user=q, assistant=a"))] == [CHAT]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"q": "a"}, "no column 'r'; there are 'q'"),
        ({"q": "a", "r": ["b"]}, "'r' is a list"),
        ({"q": "a", "r": ""}, "empty"),
    ],
)
def test_a_row_without_its_columns_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "data.jsonl", row)
    with pytest.raises(DataError, match=r"data.jsonl:1: ") as caught:
        list(read_rows(path, DatasetSpec(columns="user=q, assistant=r")))
    assert said in caught.value.detail


@pytest.mark.parametrize(
    "columns",
    ["question", "user=", "=a", "wizard=a, user=b, assistant=c", "user=a", "user=a, user=b", "text=a, user=b", ","],
)
def test_columns_that_cannot_be_meant_are_a_usage_error_with_an_example(tmp_path: Path, columns: str) -> None:
    path = write(tmp_path / "data.jsonl", {"a": "b"})
    with pytest.raises(UsageError) as caught:
        of_format(path, columns=columns)
    assert "user=question" in caught.value.hints[0]


def test_columns_beside_another_format_are_a_usage_error(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"a": "b"})
    with pytest.raises(UsageError):
        of_format(path, columns="text=a", format="messages")
    with pytest.raises(UsageError):
        list(read_rows(path, "columns"))


# ── any values ──

KEYS = [
    "messages",
    "conversations",
    "role",
    "content",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "tools",
    "from",
    "value",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "question",
    "answer",
    "answers",
    "context",
    "text",
    "chosen",
    "rejected",
    "label",
    "data",
    "annotations",
    "result",
    "type",
    "choices",
    "labels",
    "start",
    "end",
    "annotator",
    "annotation_id",
    "lead_time",
    "id",
    "spans",
    "accept",
    "options",
    "user_input",
    "_input_hash",
    "system",
]
TEXTS = [
    "user",
    "assistant",
    "tool",
    "accept",
    "function_call",
    "choices",
    "labels",
    "textarea",
    "{",
    "[]",
    "\ud800",
    "\0",
    "",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.sampled_from(TEXTS) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=6), st.sampled_from(sorted(set(FORMATS) - {"columns"})))
@settings(max_examples=1500, deadline=None)
def test_any_object_becomes_a_row_that_can_be_written_or_a_fault(value: dict[str, Any], name: str) -> None:
    try:
        row = take(value, name)
    except (Unusable, Skipped):
        return
    assert bool(row.text) != any(message["role"] == "assistant" for message in row.messages)
    json.dumps([row.messages, row.text, row.tools], ensure_ascii=False).encode()

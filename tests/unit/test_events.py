"""The event log: strict to write, tolerant to read, safe to follow while it grows."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from engine.errors import MissingError
from engine.events import (
    LONGEST_EVENT_BYTES,
    MOST_HINTS,
    EventTail,
    EventWriter,
    Failed,
    Known,
    Phase,
    Step,
    Unknown,
    failed_from,
    parse,
)


def step(number: int, loss: float = 1.0) -> Step:
    return Step(step=number, steps=10, epoch=0.1, loss=loss, lr=1e-4)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_what_is_written_is_read_back_in_order_and_numbered(log: Path) -> None:
    writer = EventWriter(log)
    for number in (1, 2, 3):
        writer.write(step(number))
    events = EventTail(log).poll()
    assert [(event.seq, event.step) for event in events if isinstance(event, Step)] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]


def test_each_poll_gives_only_what_is_new(log: Path) -> None:
    writer, tail = EventWriter(log), EventTail(log)
    assert tail.poll() == []
    writer.write(step(1))
    assert len(tail.poll()) == 1
    assert tail.poll() == []


def test_an_unterminated_last_line_waits_for_its_end(log: Path) -> None:
    line = json.dumps({"kind": "phase", "stage": "train", "text": "loading"}).encode()
    tail = EventTail(log)
    log.write_bytes(line[:20])
    assert tail.poll() == []
    log.write_bytes(line + b"\n")
    assert [event.text for event in tail.poll() if isinstance(event, Phase)] == ["loading"]


def test_torn_and_foreign_lines_are_skipped_and_counted(log: Path) -> None:
    good = b'{"kind":"phase","stage":"train","text":"x"}\n'
    log.write_bytes(good + b'{"kind":"ph\n\xff\xfe\n\0\0\0\0\n[1]\n{"kind":"step"}\n' + good)
    tail = EventTail(log)
    assert len(tail.poll()) == 2
    assert tail.unreadable == 4


def test_an_unknown_kind_is_kept() -> None:
    event = parse(b'{"kind":"from-the-future","x":1}')
    assert isinstance(event, Unknown)
    assert event.raw["x"] == 1


def test_a_writer_after_a_torn_line_starts_a_line_of_its_own_and_counts_on(log: Path) -> None:
    EventWriter(log).write(step(1))
    with log.open("ab") as file:
        file.write(b'{"kind":"st')
    EventWriter(log).write(step(2))
    events = EventTail(log).poll()
    assert [event.seq for event in events] == [1, 2]


def test_a_replaced_file_is_read_anew_and_said_so(log: Path) -> None:
    EventWriter(log).write(step(1))
    tail = EventTail(log)
    tail.poll()
    other = log.with_name("other")
    EventWriter(other).write(step(7))
    other.replace(log)
    events = tail.poll()
    assert tail.restarted
    assert [event.step for event in events if isinstance(event, Step)] == [7]


def test_a_deleted_file_is_no_error(log: Path) -> None:
    EventWriter(log).write(step(1))
    tail = EventTail(log)
    tail.poll()
    log.unlink()
    assert tail.poll() == []


def test_text_is_cleaned_on_the_way_in_and_on_the_way_out(log: Path) -> None:
    EventWriter(log).write(Phase(stage="train", text="\x1b[2Jx"))
    assert b"\\u001b" not in log.read_bytes()
    log.write_bytes(b'{"kind":"phase","stage":"train","text":"\\u001b[2J"}\n')
    (event,) = EventTail(log).poll()
    assert isinstance(event, Phase)
    assert "\x1b" not in event.text


def test_nan_survives_the_log(log: Path) -> None:
    EventWriter(log).write(step(1, float("nan")))
    (event,) = EventTail(log).poll()
    assert isinstance(event, Step)
    assert math.isnan(event.loss)


def test_an_error_keeps_its_words_and_its_exit_code() -> None:
    failed = failed_from("merge", MissingError("No adapter", "train first", ("finetui resume x",)))
    assert (failed.title, failed.detail, failed.hints, failed.exit_code) == (
        "No adapter", "train first", ("finetui resume x",), 7,
    )  # fmt: skip


def test_an_unforeseen_error_names_its_type_and_the_log() -> None:
    failed = failed_from("train", KeyError("x\x1b"))
    assert failed.exit_code == 1
    assert "KeyError" in failed.detail
    assert "\x1b" not in failed.detail


def longest(cls: type[BaseModel]) -> BaseModel:
    """The event of a class with the longest of texts in each field that holds one."""
    text = "😀" * 100_000
    values: dict[str, object] = {"stage": "train", "hints": (text,) * MOST_HINTS, "level": "ok"}
    numbers = {"pid", "done", "total", "step", "steps", "epoch", "loss", "lr", "size_bytes", "seconds", "rows", "exact"}
    numbers |= {"length", "predicted_bytes"}
    values |= dict.fromkeys(numbers, 1) | {"passed": True, "fits": True}
    texts = {name for name, field in cls.model_fields.items() if field.annotation is str and name != "unit"}
    return cls(**{**values, **dict.fromkeys(texts, text)})


@pytest.mark.parametrize("cls", Known.__args__)
def test_no_event_is_longer_than_is_said(log: Path, cls: type[Any]) -> None:
    EventWriter(log).write(longest(cls))  # type: ignore[arg-type]
    assert log.stat().st_size < LONGEST_EVENT_BYTES


def test_a_writer_counts_on_after_the_longest_event_and_a_torn_one(log: Path) -> None:
    EventWriter(log).write(step(1))
    EventWriter(log).write(longest(Failed))  # type: ignore[arg-type]
    with log.open("ab") as file:
        file.write(log.read_bytes().splitlines()[-1][:-1])
    EventWriter(log).write(step(2))
    assert [event.seq for event in EventTail(log).poll()] == [1, 2, 3]


def test_an_error_with_very_many_hints_is_one_event() -> None:
    assert len(failed_from("train", MissingError("x", "y", ("do this",) * 100)).hints) == MOST_HINTS


def test_a_full_disk_leaves_room_for_the_last_words(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EventWriter(log, reserve=True)
    reserve = log.with_suffix(".reserve")
    assert reserve.stat().st_blocks * 512 >= reserve.stat().st_size >= 4096
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if not reserve.exists():
            return real(fd, data)
        return real(fd, data[:10])  # what the kernel does when the disk fills within a write

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        writer.write(step(1))
    writer.write(failed_from("train", MissingError("The disk is full")))
    events = EventTail(log).poll()
    assert [event.kind for event in events] == ["failed"]
    writer.close()
    assert not reserve.exists()

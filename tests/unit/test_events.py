"""The event log: strict to write, tolerant to read, safe to follow while it grows."""

import json
import math
from pathlib import Path

import pytest

from engine.errors import MissingError
from engine.events import EventTail, EventWriter, Phase, Step, Unknown, failed_from, parse


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

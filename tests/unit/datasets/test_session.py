"""The check in a child process: steps and rows at once, from any thread; whoever dies, nobody waits for ever."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.config import DatasetSpec
from engine.data_session import DataSession
from engine.datasets.report import ShownRow
from engine.errors import DataError, RunError, UsageError
from engine.presets import find_preset


def lines(count: int, words: int = 12) -> str:
    def row(number: int) -> dict[str, Any]:
        question = " ".join(f"word{number * word % 9973}" for word in range(words))
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"No {number}."}]}

    return "".join(json.dumps(row(number)) + "\n" for number in range(count))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text(lines(500) + "{broken\n" + lines(20))
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Enough for some seconds of tokens."""
    path = tmp_path / "large.jsonl"
    path.write_text(lines(12_000, words=120))
    return path


@pytest.fixture
def session(data: Path) -> Iterator[DataSession]:
    with DataSession(DatasetSpec(path=str(data)), find_preset("demo")) as session:
        yield session


@pytest.fixture
def busy(large: Path) -> Iterator[DataSession]:
    with DataSession(DatasetSpec(path=str(large)), find_preset("demo")) as session:
        yield session


def child_of(session: DataSession) -> psutil.Process:
    assert session._process is not None
    return psutil.Process(session._process.pid)


def test_the_steps_end_with_the_whole_report(session: DataSession) -> None:
    found = list(session.steps())
    assert found[-1].phase == "done"
    report = found[-1].report
    assert report is not None
    assert report.tokens is not None
    assert (report.tokens.rows, report.near_checked) == (520, 521)


def test_rows_and_findings_are_answered_once_all_is_done(session: DataSession) -> None:
    list(session.steps())
    found = session.row(500)
    assert found.findings[0].startswith("row is not JSON")
    assert session.next_finding(499) == 500
    assert session.row(0).trained > 0


def test_a_row_that_was_not_read_yet_is_waited_for(session: DataSession) -> None:
    assert session.row(520).index == 520


def test_there_is_no_row_behind_the_last(session: DataSession) -> None:
    with pytest.raises(UsageError, match="no row 522"):
        session.row(521)


def test_rows_are_answered_while_tokens_are_counted(busy: DataSession) -> None:
    steps = busy.steps()
    while next(steps).phase != "tokens":
        pass
    began = time.monotonic()
    assert [busy.row(index).index for index in (7, 11_000, 300)] == [7, 11_000, 300]
    assert time.monotonic() - began < 5
    assert next(steps).phase == "tokens"


def test_many_threads_get_each_their_own_row(session: DataSession) -> None:
    found: dict[int, ShownRow] = {}

    def ask(begin: int) -> None:
        for index in range(begin, begin + 10):
            found[index] = session.row(index)

    threads = [threading.Thread(target=ask, args=(begin,)) for begin in range(0, 60, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {index: row.index for index, row in found.items()} == {index: index for index in range(60)}


def test_a_stop_keeps_what_is_known(busy: DataSession) -> None:
    steps = busy.steps()
    while next(steps).phase != "tokens":
        pass
    busy.stop_deeper()
    *_, last = steps
    assert last.phase == "done"
    assert last.report is not None
    assert last.report.tokens is not None
    assert 0 < last.report.tokens.rows < 12_000
    assert last.report.near_checked == 0


def test_a_check_that_fails_says_why_and_answers_no_row(tmp_path: Path) -> None:
    with DataSession(DatasetSpec(path=str(tmp_path / "nowhere.jsonl")), None) as session:
        with pytest.raises(DataError, match="no such data file"):
            list(session.steps())
        with pytest.raises(UsageError):
            session.row(0)


def test_a_child_that_is_killed_is_an_error_for_everybody_who_waits(busy: DataSession) -> None:
    steps = busy.steps()
    next(steps)
    child_of(busy).send_signal(signal.SIGKILL)
    with pytest.raises(RunError, match="SIGKILL"):
        list(steps)
    with pytest.raises(RunError):
        busy.row(0)


def test_the_last_words_of_a_child_that_crashes_are_told(data: Path, tmp_path: Path) -> None:
    (tmp_path / "orjson.py").write_text("raise ImportError('orjson is broken here')")
    session = DataSession(DatasetSpec(path=str(data)), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        session.start()
    with pytest.raises(RunError, match="orjson is broken here"):
        list(session.steps())
    session.close()


def test_closing_wakes_whoever_waits_and_ends_even_a_child_that_hangs(
    busy: DataSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.child.CLOSE_TIMEOUT_S", 0.2)
    child, ended, failed = child_of(busy), threading.Event(), threading.Event()
    child.suspend()

    def follow() -> None:
        list(busy.steps())
        ended.set()

    def ask() -> None:
        with pytest.raises(RunError, match="closed"):
            busy.row(0)
        failed.set()

    for work in (follow, ask):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.5)
    busy.close()
    assert ended.wait(10)
    assert failed.wait(10)
    assert not child.is_running()
    busy.close()


def test_a_session_that_was_never_started_can_be_closed(data: Path) -> None:
    session = DataSession(DatasetSpec(path=str(data)), None)
    session.close()
    with pytest.raises(RunError, match="closed"):
        session.row(0)


def test_the_child_dies_with_its_parent(large: Path) -> None:
    code = (
        "import sys; from engine.config import DatasetSpec; from engine.data_session import DataSession\n"
        f"session = DataSession(DatasetSpec(path={str(large)!r}), None); session.start()\n"
        "next(session.steps()); print(session._process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    parent.communicate()
    assert not psutil.wait_procs([child], timeout=15)[1]

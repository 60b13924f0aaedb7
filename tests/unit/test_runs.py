"""Runs as directories: made whole or not at all, found by part of a name, alive only if the kernel says so."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import launch, runs
from engine.errors import FinetuiError, UsageError
from engine.events import EventWriter, Failed, Started
from engine.paths import RunDir, runs_dir
from engine.plan import Plan
from engine.state import Status

HOLD = (
    "import fcntl, os, sys, time\n"
    "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
    "fcntl.lockf(fd, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)\n"
)


@pytest.fixture
def held(run: RunDir) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the run's lock, as a worker would."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def run(plan: Plan) -> RunDir:
    return runs.create(plan)


def test_a_run_is_created_with_its_plan(run: RunDir, plan: Plan) -> None:
    assert runs.load_plan(run) == plan
    assert run.name.endswith(f"-{plan.slug}")


def test_two_runs_of_one_second_get_two_folders(plan: Plan) -> None:
    assert runs.create(plan).path != runs.create(plan).path


@pytest.mark.parametrize("name", ["../../x", "/abs", "a\nb", "-rf", "x" * 300, "", "…", "\x1b[2J"])
def test_hostile_names_stay_inside_the_folder_of_runs(plan: Plan, name: str) -> None:
    run = runs.create(plan.model_copy(update={"slug": name}))
    assert run.path.parent == runs_dir()
    assert len(run.name) < 80
    assert run.name.isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_clear_error(plan: Plan) -> None:
    runs_dir().mkdir(parents=True)
    runs_dir().chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(FinetuiError, match="cannot be written"):
        runs.create(plan)


def test_a_file_in_the_way_of_the_runs_is_a_clear_error(plan: Plan) -> None:
    runs_dir().parent.mkdir(parents=True, exist_ok=True)
    runs_dir().write_text("in the way")
    with pytest.raises(FinetuiError, match="cannot be written") as caught:
        runs.create(plan)
    assert "FINETUI_HOME" in caught.value.hints[0]


def test_a_run_is_found_by_part_of_its_name(run: RunDir) -> None:
    assert runs.find(run.name) == run
    assert runs.find(run.name[5:20]) == run
    assert runs.find("last") == run
    assert runs.find(str(run.path)) == run


def test_an_unknown_run_names_those_there_are(run: RunDir) -> None:
    with pytest.raises(UsageError, match="no run 'nope'") as caught:
        runs.find("nope")
    assert run.name in caught.value.detail


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["too long", "no name at all"])
def test_what_no_folder_can_be_called_is_a_usage_error(run: RunDir, name: str) -> None:
    with pytest.raises(UsageError, match="There is no run"):
        runs.find(name)


def test_an_ambiguous_name_is_refused(plan: Plan) -> None:
    runs.create(plan)
    runs.create(plan)
    with pytest.raises(UsageError, match="Several runs"):
        runs.find(plan.slug)


def test_a_fresh_run_is_queued_and_nobody_holds_it(run: RunDir) -> None:
    assert runs.lock_holder(run) is None
    assert runs.read(run).status is Status.QUEUED


def test_the_kernel_names_the_holder(run: RunDir, held: subprocess.Popen[str]) -> None:
    assert runs.lock_holder(run) == held.pid
    assert runs.read(run).status is Status.RUNNING


def test_a_killed_worker_is_lost_at_once_even_while_it_is_a_zombie(run: RunDir, held: subprocess.Popen[str]) -> None:
    EventWriter(run.events).write(Started(stage="train", pid=held.pid))
    held.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, held.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet reaped
    assert runs.read(run).status is Status.LOST
    assert "resume" in runs.read(run).next_action


def test_a_damaged_plan_is_told_and_does_not_break_the_list(run: RunDir, plan: Plan) -> None:
    run.plan.write_text("{")
    other = runs.create(plan)
    infos = {info.name: info for info in runs.list_runs()}
    assert "cannot be read" in infos[run.name].problem
    assert infos[other.name].plan == plan


def test_a_damaged_plan_is_told_without_a_library_s_words(run: RunDir) -> None:
    run.plan.write_text("{")
    with pytest.raises(UsageError) as caught:
        runs.load_plan(run)
    assert "pydantic" not in str(caught.value)
    assert caught.value.hints


def test_events_that_are_a_folder_or_hold_no_time_do_not_break_the_list(run: RunDir, plan: Plan) -> None:
    run.events.mkdir()
    other = runs.create(plan)
    other.events.write_text('{"kind":"finished","stage":"train","seconds":NaN,"t":1e999}\n')
    assert [info.status for info in runs.list_runs()] == [Status.QUEUED, Status.QUEUED]


def test_a_home_that_is_a_file_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be read"):
        runs.list_runs()


def test_deleting_removes_the_folder(run: RunDir) -> None:
    runs.delete(run)
    assert not run.path.exists()


def test_a_running_run_is_not_deleted(run: RunDir, held: subprocess.Popen[str]) -> None:
    with pytest.raises(UsageError, match="still running"):
        runs.delete(run)
    assert run.plan.exists()


def test_a_second_start_is_refused_and_leaves_nothing(run: RunDir, held: subprocess.Popen[str]) -> None:
    before = sorted(run.path.iterdir())
    with pytest.raises(UsageError, match="already running"):
        launch.start(run, ["train"])
    assert sorted(run.path.iterdir()) == before


def test_of_two_starts_at_once_the_second_is_told(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "lock_holder", lambda _run: None)  # both looked before either had the lock
    other = EventWriter(run.events)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    honest = subprocess.Popen

    def popen(*arguments: object, **settings: object) -> object:
        other.write(Started(stage="merge", pid=1))
        return honest(*arguments, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    with pytest.raises(FinetuiError, match="ended before it could begin"):
        launch.start(run, ["gguf"])


def test_a_stop_is_asked_for_only_while_somebody_runs(run: RunDir) -> None:
    assert not launch.request_stop(run)
    assert not run.stop.exists()


def test_a_stop_is_asked_for_by_a_file(run: RunDir, held: subprocess.Popen[str]) -> None:
    assert launch.request_stop(run)
    assert run.stop.exists()


def test_killing_ends_the_holder_and_says_so(run: RunDir, held: subprocess.Popen[str]) -> None:
    EventWriter(run.events).write(Started(stage="train", pid=held.pid))
    assert launch.kill(run)
    assert runs.read(run).status is Status.STOPPED
    assert held.wait(5) == -signal.SIGKILL
    assert runs.lock_holder(run) is None


def test_a_worker_that_cannot_load_its_plan_says_so_in_the_events(run: RunDir) -> None:
    run.plan.write_text("{")
    launch.start(run, ["merge"])
    for _ in range(100):
        state = runs.read(run).state
        failed = state.stages["merge"].failed if "merge" in state.stages else None
        if failed:
            break
        __import__("time").sleep(0.05)
    assert isinstance(failed, Failed)
    assert failed.exit_code == 2
    assert "plan" in failed.title


def test_a_worker_that_dies_before_its_first_event_is_told_with_its_output(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FinetuiError, match="ended before it could begin"):
        launch.start(run, ["train"])


def test_a_folder_named_engine_in_the_working_directory_does_not_hijack_the_worker(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tmp_path / "cwd" / "engine" / "worker"
    evil.mkdir(parents=True)
    (evil.parent / "__init__.py").write_text("")
    (evil / "__init__.py").write_text("")
    (evil / "__main__.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path / "cwd")
    (run.path / "engine").symlink_to(evil.parent)  # the worker's own working directory is the run
    run.plan.write_text("{")
    launch.start(run, ["merge"])  # raises if the worker dies before its first event
    assert "hijacked" not in launch.log_tail(run)


def test_the_end_of_the_log_is_cleaned(run: RunDir) -> None:
    run.log.write_bytes(b"one\n\x1b[2Jtwo\xff\n")
    assert launch.log_tail(run) == "one\n\ufffd[2Jtwo\ufffd"

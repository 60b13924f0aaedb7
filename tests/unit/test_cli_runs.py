"""Commands over a run: what is shown of it, how it is followed, stopped and deleted. The events are written by hand;
the lock is held by a real process, so that "is a worker running" is asked of the kernel as in earnest."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import presets, runs
from engine.cli import main
from engine.commands import export, planning
from engine.commands.export import certificate_lines
from engine.commands.follow import Narrator, follow
from engine.commands.output import Output
from engine.config import StageOptions
from engine.errors import ExitCode, FinetuiError
from engine.events import (
    Check,
    Checkpoint,
    Eval,
    EventTail,
    EventWriter,
    Failed,
    Finding,
    Finished,
    Known,
    Phase,
    Score,
    Started,
    Step,
    Stopped,
)
from engine.events import Output as Made
from engine.paths import RunDir

Say = Callable[..., tuple[int, str, str]]

# Holds the run's lock until it is asked to stop, as a worker does, then tells the last event it was given.
WORKER = """
import fcntl, os, pathlib, sys, time
run = pathlib.Path(sys.argv[1])
fd = os.open(run / "lock", os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX)
print("held", flush=True)
deadline = time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline and not (run / "stop").exists():
    time.sleep(0.02)
if len(sys.argv) > 3:
    with open(run / "events.jsonl", "ab") as file:
        file.write(sys.argv[3].encode() + b"\\n")
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "home"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; exit code, stdout, stderr."""

    def command(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        return int(code), *capsys.readouterr()

    return command


@pytest.fixture
def run() -> RunDir:
    preset = presets.find_preset("demo")
    return runs.create(planning.decide(preset, preset.data, "desk", Output()))


Hold = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hold(run: RunDir) -> Iterator[Hold]:
    """Start a process that holds the run's lock for some seconds, or until it is asked to stop."""
    started = []

    def start(seconds: float = 60, last: Known | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(run.path), str(seconds)]
        command += [last.model_dump_json()] if last else []
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def write(run: RunDir, *events: Known) -> None:
    writer = EventWriter(run.events)
    for event in events:
        writer.write(event)
    writer.close()


TRAINING: tuple[Known, ...] = (
    Started(stage="train", pid=1, device="CPU"),
    Score(form="base", rows=20, exact=0, stopped=20),
    Phase(stage="train", text="training"),
    Step(step=1, steps=2, epoch=0.5, loss=2.5, lr=1e-3, tokens_per_s=1840.4, step_s=0.5),
    Checkpoint(step=1, path="checkpoints/checkpoint-1", size_bytes=4096),
    Step(step=2, steps=2, epoch=1.0, loss=float("nan"), lr=1e-3, tokens_per_s=1900.0, step_s=0.5),
    Eval(step=2, loss=1.25),
    Score(form="as trained", rows=20, exact=19, stopped=20),
    Finding(level="warning", title="2 rows were cut", detail="to 128 tokens"),
)
DONE = Finished(stage="train", seconds=12.0)
FAILED = Failed(stage="train", title="The loss is not a number", detail="step 2", hints=("Halve it.",), exit_code=5)


# ── showing ──────────────────────────────────────────────────────────────────────────────────────────────


def test_no_runs_yet_says_how_to_begin(say: Say) -> None:
    code, out, _ = say("runs")
    assert code == 0
    assert "finetui demo" in out


def test_runs_and_status_say_the_same_in_json(say: Say, run: RunDir) -> None:
    write(run, *TRAINING, DONE)
    listed = json.loads(say("runs", "--json")[1])["runs"]
    assert listed == [json.loads(say("status", "last", "--json")[1])]


def test_status_tells_the_state_of_the_run(say: Say, run: RunDir) -> None:
    write(run, *TRAINING, DONE)
    told = json.loads(say("status", run.name, "--json")[1])
    assert (told["status"], told["stage"], told["step"], told["steps"]) == ("finished", "train", 2, 2)
    assert told["scores"]["as trained"]["exact_match"] == pytest.approx(0.95)
    assert told["stages"]["train"]["status"] == "finished"
    assert told["best_eval_loss"] == 1.25


def test_a_figure_that_is_no_number_is_null(say: Say, run: RunDir) -> None:
    write(run, *TRAINING)
    assert json.loads(say("status", "last", "--json")[1])["loss"] is None


def test_status_in_words_shows_scores_findings_and_failure(say: Say, run: RunDir) -> None:
    write(run, *TRAINING, FAILED)
    code, out, _ = say("status", "last")
    assert code == 0
    for words in ("failed", "as trained: 19 of 20", "2 rows were cut", "The loss is not a number", "Halve it."):
        assert words in out
    assert f"finetui resume {run.name}" in out


def test_status_of_a_lost_run_shows_its_last_output(say: Say, run: RunDir) -> None:
    write(run, *TRAINING)
    run.log.write_text("first\nKilled by \x1b]52;c;aGk=\x07 the kernel\n")
    _, out, _ = say("status", "last")
    assert "lost" in out
    assert "Killed by" in out
    assert "\x1b" not in out


def test_a_damaged_run_breaks_no_list(say: Say, run: RunDir) -> None:
    run.plan.write_text("{")
    code, out, _ = say("runs")
    assert code == 0
    assert run.name in out


# ── following ────────────────────────────────────────────────────────────────────────────────────────────


def test_tail_follows_to_the_end_and_says_how_it_ended(say: Say, run: RunDir, hold: Hold) -> None:
    write(run, *TRAINING)
    hold(0.5, FAILED)
    code, out, err = say("tail", "last")
    assert code == ExitCode.RUN
    assert "step 1/2 · loss 2.500 · 1,840 tok/s" in out
    assert "The loss is not a number" in out
    assert "→ Halve it." in err


def test_tail_as_json_prints_the_events_one_a_line(say: Say, run: RunDir) -> None:
    write(run, *TRAINING, DONE)
    code, out, _ = say("tail", "last", "--json", "--no-follow")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [event["kind"] for event in events] == [event.kind for event in (*TRAINING, DONE)]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_tail_without_following_returns_while_the_worker_runs(say: Say, run: RunDir, hold: Hold) -> None:
    write(run, *TRAINING)
    hold()
    assert say("tail", "last", "--no-follow")[0] == 0


def test_a_worker_that_vanishes_ends_with_5_its_output_and_the_next_action(say: Say, run: RunDir, hold: Hold) -> None:
    write(run, *TRAINING)
    run.log.write_text("Killed process 4711\n")
    hold().send_signal(signal.SIGKILL)
    code, _, err = say("tail", "last")
    assert code == ExitCode.RUN
    assert "Killed process 4711" in err
    assert f"finetui resume {run.name}" in err


def test_a_stage_that_somebody_else_stopped_ends_well(say: Say, run: RunDir) -> None:
    write(run, *TRAINING, Stopped(stage="train", reason="asked"))
    code, out, _ = say("tail", "last")
    assert code == 0
    assert "train stopped" in out


def interrupting(after_s: float, times: int) -> subprocess.Popen[bytes]:
    """A process that sends us SIGINT, as Ctrl-C does."""
    code = f"import os, time\nfor _ in range({times}): time.sleep({after_s}); os.kill({os.getpid()}, 2)"
    return subprocess.Popen([sys.executable, "-c", code])


def test_the_first_ctrl_c_asks_for_a_graceful_stop(run: RunDir, hold: Hold, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, *TRAINING)
    hold(20, Stopped(stage="train", reason="asked"))
    interrupting(0.5, times=1)
    with pytest.raises(FinetuiError) as caught:
        follow(run, EventTail(run.events), Narrator(Output()))
    assert caught.value.code == ExitCode.INTERRUPTED
    assert f"finetui resume {run.name}" in caught.value.hints[0]
    assert "Stopping at the next safe point" in capsys.readouterr().err


def test_the_second_ctrl_c_leaves_the_worker_alone(run: RunDir) -> None:
    # This worker is deaf to the stop file, like one within a long step.
    deaf = WORKER.replace('not (run / "stop").exists()', "True")
    worker = subprocess.Popen([sys.executable, "-c", deaf, str(run.path), "60"], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    worker.stdout.readline()
    write(run, *TRAINING)
    interrupting(0.5, times=2)
    with pytest.raises(FinetuiError) as caught:
        follow(run, EventTail(run.events), Narrator(Output()))
    alive = worker.poll() is None
    worker.kill()
    worker.wait()
    assert alive
    assert caught.value.code == ExitCode.INTERRUPTED
    assert any("finetui tail" in hint for hint in caught.value.hints)


def test_without_a_terminal_steps_are_told_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        Step(step=n, steps=100, epoch=1, loss=1.0, lr=1e-3, t=1000.0 + n) for n in range(1, 101)
    ]  # a step a second
    Narrator(Output()).hear(steps)
    told = capsys.readouterr().err.splitlines()
    assert 15 <= len(told) <= 25
    assert told[-1].startswith("step 100/100")


def test_on_a_terminal_one_line_tells_how_far_it_is(run: RunDir) -> None:
    write(run, *TRAINING[:-3], TRAINING[3].model_copy(update={"step": 2, "loss": 1.5, "steps": 9}))
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    code = (
        "import sys; from engine.commands.follow import Narrator; from engine.commands.output import Output\n"
        "from engine.events import EventTail; from pathlib import Path\n"
        f"Narrator(Output()).hear(EventTail(Path({str(run.events)!r})).poll())"
    )
    subprocess.run([sys.executable, "-P", "-c", code], stderr=follower, env=environment, check=True, timeout=30)
    seen = os.read(leader, 65536).decode()
    os.close(follower)
    os.close(leader)
    last = seen.rpartition("\r\x1b[K")[2]
    assert last == "step 2/9 · loss 1.500 · 1,840 tok/s · 3.5 s left"


# ── starting, stopping, deleting ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", ["resume", "merge", "gguf", "certify", "eval", "ollama"])
def test_a_second_start_on_a_running_run_is_refused(say: Say, run: RunDir, hold: Hold, command: str) -> None:
    write(run, *TRAINING)
    hold()
    before = sorted(path.name for path in run.path.iterdir())
    code, out, err = say(command, "last")
    assert (code, out) == (ExitCode.USAGE, "")
    assert "already running" in err
    assert f"finetui tail {run.name}" in err
    assert sorted(path.name for path in run.path.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], StageOptions()),
        (["--replace"], StageOptions(replace=True)),
        (["--uncertified"], StageOptions(uncertified=True)),
    ],
)
def test_a_taken_name_and_a_missing_certificate_are_two_permissions(
    say: Say, run: RunDir, monkeypatch: pytest.MonkeyPatch, flags: list[str], options: StageOptions
) -> None:
    write(run, *TRAINING, DONE)
    asked: list[StageOptions] = []

    def run_stages(_run: RunDir, _stages: list[str], _output: object, options: StageOptions) -> None:
        asked.append(options)

    monkeypatch.setattr(export, "run_stages", run_stages)
    say("ollama", "last", *flags)
    assert asked == [options]


def test_a_finished_training_is_not_resumed(say: Say, run: RunDir) -> None:
    write(run, *TRAINING, DONE)
    code, _, err = say("resume", "last")
    assert code == ExitCode.USAGE
    assert f"finetui gguf {run.name}" in err


def test_stop_asks_the_worker(say: Say, run: RunDir, hold: Hold) -> None:
    worker = hold()
    code, out, _ = say("stop", "last", "--json")
    assert (code, json.loads(out)["asked"]) == (0, True)
    assert worker.wait(timeout=10) == 0


def test_stop_now_ends_the_worker(say: Say, run: RunDir, hold: Hold) -> None:
    worker = hold()
    assert say("stop", "last", "--now")[0] == 0
    assert worker.wait(timeout=10) == -signal.SIGKILL


def test_stopping_what_does_not_run_is_no_error(say: Say, run: RunDir) -> None:
    code, out, _ = say("stop", "last")
    assert code == 0
    assert "No worker" in out


def test_delete_without_a_terminal_wants_yes(say: Say, run: RunDir) -> None:
    code, _, err = say("delete", "last")
    assert code == ExitCode.USAGE
    assert "--yes" in err
    assert run.path.exists()


def test_delete_removes_the_run(say: Say, run: RunDir) -> None:
    code, out, _ = say("delete", run.name, "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"deleted": run.name})
    assert not run.path.exists()


def test_a_running_run_is_not_deleted(say: Say, run: RunDir, hold: Hold) -> None:
    hold()
    code, _, err = say("delete", "last", "--yes")
    assert code == ExitCode.USAGE
    assert f"finetui stop {run.name}" in err
    assert run.path.exists()


@pytest.mark.parametrize(("typed", "gone"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_delete_asks_on_a_terminal(run: RunDir, typed: str, gone: bool) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-P", "-m", "engine.cli", "delete", "last"]
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    os.write(leader, typed.encode())
    code = process.wait(timeout=30)
    os.close(leader)
    assert run.path.exists() is not gone
    assert code == (0 if gone else ExitCode.INTERRUPTED)


# ── outputs ──────────────────────────────────────────────────────────────────────────────────────────────


def certify_event(passed: bool) -> Check:
    return Check(
        form="Q4_K_M", title="it stops", compared="3 answers", figure="1", limit="3", passed=passed, remedy="Train on."
    )


def test_status_shows_the_certificate_and_what_was_made(say: Say, run: RunDir) -> None:
    made = Made(stage="gguf", path="model.Q4_K_M.gguf", size_bytes=2048)
    write(run, *TRAINING, DONE, Started(stage="certify", pid=1), made, certify_event(False))
    _, out, _ = say("status", "last")
    assert "✗ it stops (Q4_K_M): 1, limit 3, 3 answers: Train on." in out
    assert "model.Q4_K_M.gguf (2.0 KiB)" in out


def test_a_certificate_is_a_table_with_its_verdict() -> None:
    lines = certificate_lines((certify_event(True), certify_event(False)))
    assert [line[:1] for line in lines[:3]] == [" ", "✓", "✗"]
    assert lines[-2:] == ["→ Train on.", "✗ 1 of 2 checks failed"]
    assert certificate_lines((certify_event(True),))[-1] == "✓ all 1 checks passed"


def test_chat_with_a_run_that_has_no_gguf_says_how_to_make_one(say: Say, run: RunDir) -> None:
    code, _, err = say("chat", "last", "--prompt", "Hi", "--quant", "Q8_0")
    assert code == ExitCode.MISSING
    assert f"finetui gguf {run.name} --quant Q8_0" in err


def test_chat_with_a_file_that_is_not_there(say: Say, tmp_path: Path) -> None:
    code, _, err = say("chat", str(tmp_path / "no.gguf"), "--prompt", "Hi")
    assert code == ExitCode.MISSING
    assert "no.gguf" in err


def test_gguf_of_an_untrained_run_is_missing_its_adapter(say: Say, run: RunDir) -> None:
    began = time.monotonic()
    code, out, err = say("gguf", "last")
    assert (code, out) == (ExitCode.MISSING, "")
    assert "→" in err
    assert time.monotonic() - began < 60
    assert not run.ggufs


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".gguf"], ids=["a run", "a file"])
def test_chat_with_a_name_longer_than_names_can_be(say: Say, name: str) -> None:
    code, _, err = say("chat", name)
    assert code in (ExitCode.USAGE, ExitCode.MISSING)
    assert "unexpected" not in err


@pytest.mark.parametrize(
    "option", ["--max-tokens=0", "--max-tokens=-5", "--max-tokens=x", "--temperature=nan", "--temperature=-1"]
)
def test_chat_with_a_figure_that_cannot_be_meant(say: Say, tmp_path: Path, option: str) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"")
    code, _, err = say("chat", str(model), "--prompt", "Hi", option)
    assert code == ExitCode.USAGE
    assert "cannot be meant" in err
    assert "\u2192" in err


@pytest.mark.parametrize(
    ("argv", "code"),
    [(("eval", "last", "--data", "nope.jsonl"), ExitCode.DATA), (("ollama", "last", "--name", "a b!"), ExitCode.USAGE)],
)
def test_what_can_be_refused_at_once_leaves_no_failed_stage(
    say: Say, run: RunDir, argv: tuple[str, ...], code: ExitCode
) -> None:
    before = sorted(run.path.iterdir())
    assert say(*argv)[0] == code
    assert sorted(run.path.iterdir()) == before

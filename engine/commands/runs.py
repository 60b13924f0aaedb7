"""`runs`, `status`, `tail`, `stop`, `delete`: what there is and what it is doing."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from engine import launch, runs
from engine.commands.arguments import Commands, add_command, add_run
from engine.commands.follow import POLL_S, require_good_end
from engine.commands.narrate import ago, check_line, describe, live_line, probe_line
from engine.commands.output import Output, is_terminal, mark, pairs, plain, style, table
from engine.commands.summary import progress_text, score_text, seconds, summary
from engine.errors import ExitCode, UsageError
from engine.events import Event, EventTail, Unknown
from engine.paths import RunDir
from engine.runs import RunInfo
from engine.state import RunState, Status, fold
from engine.text import clean_line
from engine.units import format_bytes, format_duration


def add(commands: Commands) -> None:
    """Declare the commands."""
    parser = add_command(commands, "runs", "Every run, newest first.", "finetui runs")
    parser.set_defaults(run=show_runs)

    parser = add_command(commands, "status", "Everything about one run.", "finetui status last")
    add_run(parser)
    parser.set_defaults(run=show_status)

    parser = add_command(
        commands,
        "tail",
        "Follow a run's events to the end of its worker. With --json the events come as they are, one a line.",
        "finetui tail last --no-follow",
    )
    add_run(parser)
    parser.add_argument("--no-follow", action="store_true", help="print what there is, then end")
    parser.set_defaults(run=tail)

    parser = add_command(commands, "stop", "Ask a run's worker to save and stop.", "finetui stop last")
    add_run(parser)
    parser.add_argument("--now", action="store_true", help="end it at once; what is not saved is lost")
    parser.set_defaults(run=stop)

    parser = add_command(
        commands, "delete", "Remove a run with all that was made in it.", "finetui delete support-desk-1 --yes"
    )
    add_run(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=delete)


# ── runs, status ─────────────────────────────────────────────────────────────────────────────────────────


def show_runs(_: argparse.Namespace, output: Output) -> int:
    """`finetui runs`."""
    found = runs.list_runs()
    rows = [_run_row(info) for info in found]
    lines = table([("run", "state", "stage", "progress", "score"), *rows])
    if not found:
        lines = ["No runs yet. Begin with: finetui demo"]
    output.result({"runs": [summary(info) for info in found]}, lines)
    return ExitCode.DONE


def _run_row(info: RunInfo) -> tuple[str, ...]:
    told = clean_line(info.problem, 60) if info.problem else progress_text(info)
    return info.name, info.status.value, info.state.current or "", told, score_text(info.state)


def show_status(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui status RUN`."""
    info = runs.read(runs.find(arguments.name))
    output.result(summary(info), _status_lines(info))
    return ExitCode.DONE


def _status_lines(info: RunInfo) -> Iterator[str]:
    yield f"{style(info.name, 'strong')}  {info.status.value}"
    yield from pairs(_facts(info))
    yield from _stage_lines(info)
    yield from (describe(score, sys.stdout) for score in info.state.scores.values())
    yield from (check_line(check, sys.stdout) for check in info.state.checks)
    # A resumed run finds the same again: each is told once.
    yield from dict.fromkeys(describe(finding, sys.stdout) for finding in info.state.findings)
    if info.status is Status.LOST:
        yield from _lost_lines(info.run)
    if info.next_action:
        yield f"→ {info.next_action}"


def _facts(info: RunInfo) -> dict[str, str]:
    state, plan = info.state, info.plan
    best, checkpoint = state.best_eval, state.checkpoints[-1] if state.checkpoints else None
    return {
        "folder": clean_line(str(info.run.path)),
        "problem": clean_line(info.problem),
        "preset": plan.preset.name if plan else "",
        "data": clean_line(plan.summary.path) if plan else "",
        "now": progress_text(info),
        "left": format_duration(state.left_s) if info.status is Status.RUNNING and state.left_s else "",
        "held-out loss": f"{state.evals[-1].loss:.4f}, best {best.loss:.4f} at step {best.step}" if best else "",
        "checkpoint": f"step {checkpoint.step}, {ago(checkpoint.t)}" if checkpoint else "",
        "memory": probe_line(state.probe) if state.probe else "",
        "outputs": ", ".join(f"{seen.path} ({format_bytes(seen.size_bytes)})" for seen in state.outputs.values()),
        "heard": ago(state.last_t),
    }


def _stage_lines(info: RunInfo) -> Iterator[str]:
    for stage in info.state.stages.values():
        if stage.failed is not None:
            yield describe(stage.failed, sys.stdout)
            yield from (f"  → {hint}" for hint in stage.failed.hints)
        elif stage.status is Status.FINISHED:
            yield mark("ok", f"{stage.name} finished in {format_duration(seconds(stage))}")
        elif stage.status is Status.STOPPED:
            yield mark("warning", f"{stage.name} stopped {stage.phase}".rstrip())


def _lost_lines(run: RunDir) -> Iterator[str]:
    yield mark("error", "the worker vanished without a word; its last output:")
    yield from (f"    {line}" for line in launch.log_tail(run).splitlines())


# ── tail ─────────────────────────────────────────────────────────────────────────────────────────────────


def tail(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui tail RUN`: until the worker ends; the exit code is how it ended."""
    run = runs.find(arguments.name)
    events, state = EventTail(run.events), RunState()
    while True:
        running = runs.lock_holder(run) is not None
        came = events.poll()
        state = fold(state, came)
        for event in came:
            _tell(event, output)
        if arguments.no_follow or not running:
            break
        if came:
            output.live(live_line(state, came[-1]))
        time.sleep(POLL_S)
    output.live("")
    if not arguments.no_follow:
        require_good_end(run, state)
    return ExitCode.DONE


def _tell(event: Event, output: Output) -> None:
    if output.as_json:
        raw = event.raw if isinstance(event, Unknown) else event
        output.line(plain(raw))
        return
    text = describe(event, sys.stdout)
    if text:
        at = time.strftime("%H:%M:%S", time.localtime(event.t))
        output.text(f"{style(at, 'dim')}  {text}")


# ── stop, delete ─────────────────────────────────────────────────────────────────────────────────────────


def stop(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui stop RUN [--now]`; a run that is not running is no error: it is stopped."""
    run = runs.find(arguments.name)
    stopped = launch.kill(run) if arguments.now else launch.request_stop(run)
    name = clean_line(run.name)
    if not stopped:
        text = f"No worker is running on {name}."
    elif arguments.now:
        text = f"Ended {name}. Go on from its last checkpoint: finetui resume {name}"
    else:
        text = f"Asked {name} to stop; it saves first. Watch it: finetui tail {name}"
    output.result({"run": name, "asked": stopped, "now": arguments.now}, text)
    return ExitCode.DONE


def delete(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui delete RUN`: asks, unless told --yes."""
    run = runs.find(arguments.name)
    name = clean_line(run.name)
    if not arguments.yes and not _confirmed(name):
        output.say("Kept.")
        return ExitCode.INTERRUPTED
    runs.delete(run)
    output.result({"deleted": name}, f"Deleted {name}.")
    return ExitCode.DONE


def _confirmed(name: str) -> bool:
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise UsageError("Delete asks first", "there is no terminal to ask on", (f"finetui delete {name} --yes",))
    print(f"Delete {name} with everything that was made in it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")

"""Start a stage in a worker and tell what happens until it ends; leaving never ends the worker."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from engine import launch, runs
from engine.commands.narrate import describe, live_line
from engine.commands.output import Output
from engine.config import StageName, StageOptions
from engine.errors import ExitCode, FinetuiError, RunError
from engine.events import Check, Event, EventTail, Failed, Phase, Progress, Step
from engine.paths import RunDir
from engine.state import RunState, Status, fold

POLL_S = 0.1
PLAIN_INTERVAL_S = 5.0
"""Without a terminal, steps and progress are told so often: a log, not a screen."""


@dataclass
class Interrupts:
    """Counts Ctrl-C instead of dying of it."""

    count: int = 0


@dataclass
class Narrator:
    """Tells events: what matters as lines that stay, what moves as the one live line."""

    output: Output
    state: RunState = field(default_factory=RunState)
    _moving: Event | None = None
    _told_t: float = 0.0

    def hear(self, events: Sequence[Event]) -> None:
        """Take in what came since the last call."""
        self.state = fold(self.state, events)
        for event in events:
            if isinstance(event, (Step, Progress, Phase)):
                self._moving = event
            if self._is_due(event):
                text = describe(event, sys.stderr)
                if text:
                    self.output.say(text)
        if self._moving is not None:
            self.output.live(live_line(self.state, self._moving))

    def _is_due(self, event: Event) -> bool:
        if isinstance(event, Failed) or (isinstance(event, Check) and event.passed):
            return False  # the command ends with the error, or with the whole certificate
        if not isinstance(event, (Step, Progress)):
            return True
        if self.output.on_terminal:
            return False
        # Told by the events' own clock, so that a replay reads like the run did.
        due = event.t - self._told_t >= PLAIN_INTERVAL_S or _is_last(event)
        if due:
            self._told_t = event.t
        return due


def _is_last(event: Step | Progress) -> bool:
    return isinstance(event, Step) and event.step >= event.steps


def run_stages(
    run: RunDir, stages: Sequence[StageName], output: Output, options: StageOptions | None = None
) -> RunState:
    """Start the stages and follow them to their end; the run's state afterwards.

    Raises what ended them early: `FinetuiError` with the worker's words and exit code.
    """
    tail = EventTail(run.events)
    narrator = Narrator(output, fold(RunState(), tail.poll()))
    with counting_interrupts() as interrupts:  # from before the start on: Ctrl-C must not lose sight of the worker
        launch.start(run, stages, options)
        return _follow(run, tail, narrator, interrupts)


def follow(run: RunDir, tail: EventTail, narrator: Narrator) -> RunState:
    """Tell the run's events until no worker holds it. First Ctrl-C: a graceful stop; second: leave it alone."""
    with counting_interrupts() as interrupts:
        return _follow(run, tail, narrator, interrupts)


def _follow(run: RunDir, tail: EventTail, narrator: Narrator, interrupts: Interrupts) -> RunState:
    asked = False
    while True:
        running = runs.lock_holder(run) is not None  # asked before reading: what came before the end is read
        narrator.hear(tail.poll())
        if not running:
            break
        if interrupts.count > 1:
            raise _left(run)
        if interrupts.count and not asked:
            asked = launch.request_stop(run)
            narrator.output.say("Stopping at the next safe point; Ctrl-C again leaves it to do that alone.")
        time.sleep(POLL_S)
    narrator.output.live("")
    require_good_end(run, narrator.state, interrupted=asked)
    return narrator.state


@contextmanager
def counting_interrupts(patience: int | None = None) -> Iterator[Interrupts]:
    """Count Ctrl-C inside the block; behind so many (`patience`) it interrupts as usual."""
    interrupts = Interrupts()

    def count(_number: int, _frame: FrameType | None) -> None:
        interrupts.count += 1
        if patience is not None and interrupts.count > patience:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, count)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _left(run: RunDir) -> FinetuiError:
    hints = (
        f"See how it goes: finetui tail {run.name}",
        f"End it at once, losing what is not saved: finetui stop {run.name} --now",
    )
    return FinetuiError("Left the worker alone; it stops at its next safe point", run.name, hints, ExitCode.INTERRUPTED)


def require_good_end(run: RunDir, state: RunState, *, interrupted: bool = False) -> None:
    """Nothing if the stage that ran last is finished, or stopped by somebody else; otherwise raises what ended it."""
    status = state.status(locked=False)
    stage = state.stages.get(state.current) if state.current else None
    if stage is not None and stage.failed is not None:
        failed = stage.failed
        raise FinetuiError(failed.title, failed.detail, failed.hints, _exit_code(failed.exit_code))
    if status is Status.STOPPED and interrupted:
        detail = f"{run.name}{_at_step(state)}"
        raise FinetuiError("Stopped", detail, _next(run, "Go on: "), ExitCode.INTERRUPTED)
    if status is Status.LOST:
        saved = state.checkpoints[-1].step if state.checkpoints else None
        hints = (
            *_next(run, "Begin again: " if saved is None else f"Go on from checkpoint {saved}: "),
            f"The whole output: {run.log}",
        )
        raise RunError("The worker vanished without a word", launch.log_tail(run), hints)


def _exit_code(code: int) -> ExitCode:
    return ExitCode(code) if code in list(ExitCode) and code != ExitCode.DONE else ExitCode.RUN


def _at_step(state: RunState) -> str:
    return f", step {state.last_step.step} of {state.last_step.steps}" if state.last_step else ""


def _next(run: RunDir, prefix: str) -> tuple[str, ...]:
    action = runs.read(run).next_action
    return (prefix + action,) if action else ()

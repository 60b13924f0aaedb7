"""How a run ended, and what to do next; hidden while it runs."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from engine.state import RunState, StageState, Status
from engine.text import clean, clean_line
from engine.units import format_duration
from tui.modals.error import describe_error
from tui.widgets.run_text import exact_match, mark_of, quantized, stage_of


class Outcome(Widget):
    """A few lines above the chart. `tail` is the end of the worker's output, for a run that is lost."""

    state: reactive[RunState | None] = reactive(None, layout=True)
    status: reactive[Status | None] = reactive(None, layout=True)
    tail: reactive[str] = reactive("", layout=True)
    problem: reactive[str] = reactive("", layout=True)
    """Why the run's plan cannot be read: then no worker can go on with it."""

    def render(self) -> RenderResult:
        """The words for the run's status."""
        if self.state is None or self.status is None:
            return Content("")
        return outcome(self.state, self.status, self.tail, self.problem)


def outcome(state: RunState, status: Status, log: str = "", problem: str = "") -> Content:
    """What happened and what comes next; empty for a run that is going on."""
    stage = stage_of(state)
    if problem:
        return Content.assemble(("✗ This run cannot go on. ", "bold $error"), problem)
    match status:
        case Status.FAILED if stage is not None and stage.failed is not None:
            failed = stage.failed
            return _with_next(describe_error(failed.title, failed.detail, failed.hints), state)
        case Status.LOST:
            return _with_next(_lost(log), state)
        case Status.STOPPED if stage is not None:
            reason = f": {clean_line(stage.phase)}" if stage.phase else ""
            return _with_next(Content.styled(f"‖ stopped{reason}", "bold $warning"), state)
        case Status.FINISHED if stage is not None:
            return _finished(state, stage)
        case Status.QUEUED:
            return Content.assemble(("○ planned, not started   ", "bold"), ("r ", "$primary"), "start")
    return Content("")


def _lost(log: str) -> Content:
    title = Content.styled("✗ lost: the process vanished without a word", "bold $error")
    last = "\n".join(clean(log).splitlines()[-4:])
    why = "Killed by hand, by the kernel for want of memory, or the machine went down."
    return Content.assemble(title, "\n", why, ("\n" + last if last else "", "$quiet"))


def _with_next(what: Content, state: RunState) -> Content:
    if state.current not in (None, "train"):
        return Content.assemble(what, "\n", ("e ", "$primary"), "open the export to try again")
    kept = state.checkpoints[-1].step if state.checkpoints else None
    words = f"resume from step {kept:,}" if kept is not None else "start again (no checkpoint was written)"
    return Content.assemble(what, "\n", ("r ", "$primary"), words, "   ", ("l ", "$primary"), "the worker's log")


def _finished(state: RunState, stage: StageState) -> Content:
    mark = mark_of(state, Status.FINISHED)
    train = state.stages.get("train", stage)
    parts = [f"trained in {format_duration(_seconds(train))}"] if state.steps else []
    best = state.best_eval
    if best is not None:
        parts.append(f"best eval {best.loss:.3f} at step {best.step:,}")
    if score := exact_match(state):
        parts.append(f"exact match {score}")
    quants = quantized(state.outputs)
    if quants:
        parts.append(" ".join(quants))
    chat = Content.assemble(("t ", "$primary"), "chat   ") if quants else Content("")
    words = "export again" if quants else "export: merge, GGUF, certificate, Ollama"
    return Content.assemble(
        (f"{mark.symbol} {mark.word}", f"bold {mark.style}"),
        "   " + " · ".join(parts) + "\n",
        chat,
        ("e ", "$primary"),
        words,
    )


def _seconds(stage: StageState) -> float | None:
    return stage.ended_t - stage.started_t if stage.ended_t is not None else None

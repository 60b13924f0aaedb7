"""What screens do with the engine that takes longer than a key press: in a thread, with faults shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.text import Text
from textual.screen import Screen

from engine import launch, runs
from engine.config import StageOptions
from engine.errors import FinetuiError
from engine.paths import RunDir
from engine.runs import RunInfo
from engine.state import RunState, Status
from tui import messages
from tui.modals.confirm import ConfirmModal
from tui.widgets.run_text import quantized

RESUMABLE = (Status.QUEUED, Status.STOPPED, Status.FAILED, Status.LOST)


def attempt(screen: Screen[Any], act: Callable[[], object], done: Callable[[], object] | None = None) -> None:
    """Run `act` in a thread; a fault that a person can act on is shown, and `done` is called after success."""

    def work() -> None:
        try:
            act()
        except FinetuiError as error:
            screen.post_message(messages.Problem(error))
        except OSError as error:
            screen.post_message(messages.Problem(FinetuiError("The disk says no", str(error))))
        else:
            if done is not None:
                screen.app.call_from_thread(done)

    screen.run_worker(work, thread=True, exit_on_error=True)


def allowed(action: str, state: RunState, status: Status | None, planned: bool = True) -> bool:
    """Whether a key can do anything for a run in this state; actions that are always possible are True.

    `planned` is False for a run whose plan cannot be read: no worker can go on with it.
    """
    match action:
        case "stop" | "kill":
            return status is Status.RUNNING
        case "delete":
            return status is not Status.RUNNING
        case "resume":
            return planned and status in RESUMABLE and state.current in (None, "train")
        case "export":
            return "adapter" in state.outputs
        case "chat":
            return bool(quantized(state.outputs))
    return True


def resume(screen: Screen[Any], run: RunDir, state: RunState, then_open: bool = False) -> None:
    """Start a worker on the run's training, from its newest checkpoint if there is one."""
    options = StageOptions(resume=bool(state.checkpoints))

    def opened() -> None:
        if then_open:
            screen.post_message(messages.Open("train", run))

    attempt(screen, lambda: launch.start(run, ["train"], options), opened)


def delete(screen: Screen[Any], info: RunInfo) -> None:
    """Ask by name, then remove the run's folder."""

    def answered(yes: bool | None) -> None:
        if yes:
            attempt(screen, lambda: runs.delete(info.run))

    detail = "Checkpoints, adapter, merged model and GGUF files in its folder are removed. This cannot be undone."
    screen.app.push_screen(ConfirmModal(f"Delete {info.name}?", detail, "y Delete", "n Keep"), answered)


def farewell(infos: Sequence[RunInfo]) -> Text | None:
    """What the terminal says after the app is closed: which runs keep running, and how to follow them."""
    names = [info.name for info in infos if info.status is Status.RUNNING]
    if not names:
        return None
    lines = [f"{name} keeps running.  finetui tail {name}" for name in names]
    return Text("\n".join(lines))

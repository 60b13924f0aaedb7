"""Events and states in words: one line for each, the same for `train`, `tail` and `status`."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from engine.commands.output import mark, style
from engine.events import (
    Check,
    Checkpoint,
    Eval,
    Event,
    Failed,
    Finding,
    Finished,
    Gpu,
    Output,
    Phase,
    Probe,
    Progress,
    Sample,
    Score,
    Started,
    Step,
    Stopped,
)
from engine.state import RunState
from engine.text import clean_line
from engine.units import format_bytes, format_count, format_duration, format_share


def describe(event: Event, stream: TextIO = sys.stderr) -> str:
    """The event as one line (a failure and a sample may take more); empty for what says nothing by itself."""
    match event:
        case Step():
            return step_line(event)
        case Eval():
            return f"step {event.step}: held-out loss {event.loss:.4f}"
        case Progress():
            return progress_line(event)
        case Score():
            share = format_share(event.exact_match)
            rows = clean_line(event.data) if event.data else "held-out"
            return f"{event.form}: {event.exact} of {event.rows} {rows} answers exact ({share})"
        case Sample():
            return f"step {event.step}: “{clean_line(event.prompt, 80)}” → “{clean_line(event.answer, 120)}”"
        case Checkpoint():
            return f"checkpoint at step {event.step}, {format_bytes(event.size_bytes)}"
        case Probe():
            return mark("ok" if event.fits else "warning", probe_line(event), stream)
        case Finding():
            return mark(event.level, _with_detail(event.title, event.detail), stream)
        case Check():
            return check_line(event, stream)
        case Output():
            return mark("ok", f"{event.path}, {format_bytes(event.size_bytes)}", stream)
        case Gpu():
            return ""
        case _:
            return _stage_line(event, stream)


def _stage_line(event: Event, stream: TextIO) -> str:
    match event:
        case Started():
            return style(_with_detail(f"{event.stage} started", event.device), "strong", stream)
        case Phase():
            return f"{event.stage}: {event.text}"
        case Finished():
            return mark("ok", f"{event.stage} finished in {format_duration(event.seconds)}", stream)
        case Stopped():
            return mark("warning", _with_detail(f"{event.stage} stopped", event.reason), stream)
        case Failed():
            return mark("error", _with_detail(f"{event.stage} failed: {event.title}", event.detail), stream)
        case _:
            return f"({event.kind})"


def _with_detail(text: str, detail: str) -> str:
    return f"{text}: {detail}" if detail else text


def step_line(step: Step) -> str:
    """`step 12/80 · loss 1.312 · 1,840 tok/s`."""
    parts = [f"step {step.step}/{step.steps}", f"loss {step.loss:.3f}"]
    if step.tokens_per_s is not None:
        parts.append(f"{step.tokens_per_s:,.0f} tok/s")
    return " · ".join(parts)


def probe_line(probe: Probe) -> str:
    """`longest batch, 4 × 2,048 tokens: predicted 13.8 GiB, measured 14.1 GiB, 22.0 GiB available`."""
    more = "more than there is" if probe.measured_bytes is None else format_bytes(probe.measured_bytes)
    room = "" if probe.available_bytes is None else f", {format_bytes(probe.available_bytes)} available"
    batch = f"longest batch, {probe.rows} × {probe.length:,} tokens"
    return f"{batch}: predicted {format_bytes(probe.predicted_bytes)}, measured {more}{room}"


def progress_line(progress: Progress) -> str:
    """`label 12 of 40 rows (30 %)`."""
    if progress.unit == "bytes":
        amounts = f"{format_bytes(progress.done)} of {format_bytes(progress.total)}"
    else:
        amounts = f"{format_count(int(progress.done))} of {format_count(int(progress.total))} {progress.unit}".rstrip()
    share = f" ({format_share(progress.done / progress.total)})" if progress.total else ""
    return f"{progress.label or progress.stage} {amounts}{share}"


def check_line(check: Check, stream: TextIO = sys.stderr) -> str:
    """One line of the certificate, with its figure beside its limit."""
    text = f"{check.title} ({check.form}): {check.figure}, limit {check.limit}, {check.compared}"
    return mark("ok" if check.passed else "error", _with_detail(text, "" if check.passed else check.remedy), stream)


def live_line(state: RunState, last: Event) -> str:
    """The one line that stands for "now" while a stage runs: how far, how good, how fast, how long still."""
    if isinstance(last, Step):
        return _training_line(state, last)
    stage = state.stages.get(state.current) if state.current else None
    if isinstance(last, Progress):
        left = stage.left_s if stage else None
        return _with_left(progress_line(last), left)
    if isinstance(last, Phase):
        return f"{last.stage}: {last.text} …"
    return ""


def _training_line(state: RunState, step: Step) -> str:
    held_out = f" · eval {state.evals[-1].loss:.3f}" if state.evals else ""
    return _with_left(step_line(step) + held_out, state.left_s)


def _with_left(text: str, left_s: float | None) -> str:
    return text if left_s is None else f"{text} · {format_duration(left_s)} left"


def ago(t: float) -> str:
    """`3 m 20 s ago`; empty if it never happened."""
    return f"{format_duration(max(time.time() - t, 0))} ago" if t else ""

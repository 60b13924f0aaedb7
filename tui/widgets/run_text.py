"""A run in words: what each screen and list says of a `RunState`, written once."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from textual.content import Content

from engine.events import Output
from engine.plan import Plan
from engine.runs import RunInfo
from engine.state import NOTHING_ASKED, RunState, StageState, Status
from engine.text import clean_line
from engine.units import format_bytes, format_duration, format_share
from tui.theme import LEVEL, STATUS, Mark

DOING = {
    "train": "training",
    "merge": "merging",
    "gguf": "exporting",
    "certify": "certifying",
    "eval": "scoring",
    "ollama": "to Ollama",
}
"""What a running stage is called."""

CERTIFIED = Mark("✓", "certified", "$success")
REFUTED = Mark("✗", "not proven", "$error")


def mark_of(state: RunState, status: Status) -> Mark:
    """The run's status as symbol, word and style."""
    mark = STATUS[status.value]
    if status is Status.RUNNING and state.current is not None:
        return mark._replace(word=DOING[state.current])
    if status is Status.FINISHED and state.certified is not None:
        return CERTIFIED if state.certified else REFUTED
    return mark


def step_text(state: RunState, plan: Plan | None) -> str:
    """`412/1250`, or what was done when it is done."""
    last = state.last_step
    if last is None:
        return f"0/{plan.steps}" if plan is not None else ""
    train = state.stages.get("train")
    done = train is not None and train.status is Status.FINISHED
    return f"{last.step}" if done else f"{last.step}/{last.steps}"


def trend_arrow(state: RunState) -> str:
    """↘ ↗ → of the newest steps' loss against those before; empty while there are too few."""
    losses = [step.loss for step in state.steps[-40:] if math.isfinite(step.loss)]
    half = len(losses) // 2
    if half < 5:
        return ""
    before, after = sum(losses[:half]) / half, sum(losses[half:]) / (len(losses) - half)
    change = (after - before) / max(abs(before), 1e-9)
    return "↘" if change < -0.02 else "↗" if change > 0.02 else "→"


def figure(value: float | None, digits: int = 2) -> str:
    """A loss as it is shown; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def exact_match(state: RunState) -> str:
    """`0 → 96 %`: exact match before and after, or the one that is known."""
    base = state.scores.get("base")
    others = [score for form, score in state.scores.items() if form != "base" and not score.data]
    tuned = state.scores.get("as trained") or (others[-1] if others else None)
    if tuned is None:
        return ""
    after = format_share(tuned.exact_match)
    return f"{base.exact_match * 100:.0f} → {after}" if base is not None else after


def stage_of(state: RunState) -> StageState | None:
    """The stage that was started last."""
    return state.stages[state.current] if state.current is not None else None


def stepping(state: RunState) -> bool:
    """True while steps come: the stage that runs has made one, and does nothing beside it."""
    stage, last = stage_of(state), state.last_step
    if stage is None or last is None or stage.name != "train":
        return False
    return stage.status is Status.RUNNING and stage.progress is None and last.t >= stage.started_t


def left_s(state: RunState) -> float | None:
    """Seconds left of what is being done now; what was told before the newest start does not count."""
    if stepping(state):
        return state.left_s
    stage = stage_of(state)
    return stage.left_s if stage is not None and stage.status is Status.RUNNING else None


def quantized(outputs: Mapping[str, Output]) -> list[str]:
    """The precisions of the GGUF files that were made, the unquantized one last."""
    names = [name for path in outputs if (name := _quant(path))]
    return sorted(names, key=lambda name: name == "bf16")


def _quant(path: str) -> str:
    parts = path.rsplit("/", 1)[-1].split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "model" and parts[2] == "gguf" else ""


def next_step(info: RunInfo) -> str:
    """What is going on, or what the person would do next, with its key."""
    state, status = info.state, info.status
    stage = stage_of(state)
    if info.plan is None:
        return "no readable plan"
    if status is Status.RUNNING:
        left = left_s(state)
        return f"{format_duration(left)} left" if left is not None else (stage.phase if stage else "")
    if status is Status.QUEUED:
        return "r start"
    if state.current == "train" and status is not Status.FINISHED:
        kept = state.checkpoints[-1].step if state.checkpoints else None
        return f"r resume from {kept}" if kept is not None else "r start again"
    if status is not Status.FINISHED:
        return "e export again"
    quants = quantized(state.outputs)
    return f"t chat · {quants[0]}" if quants else "e export"


def phase_text(state: RunState, status: Status) -> Content:
    """What a running stage does now, with a bar, a rate and the time left; empty while steps come."""
    stage = stage_of(state)
    if status is not Status.RUNNING or stage is None:
        return Content("")
    words = clean_line(stage.phase) or f"starting: {DOING[stage.name]}"
    seen = stage.progress
    if seen is None or seen.total <= 0:
        return Content.assemble(("● ", "$primary"), words)
    share = min(max(seen.done / seen.total, 0.0), 1.0)
    full = round(share * 20)
    parts = [clean_line(seen.label), f"{share * 100:.0f} %", _rate(stage)]
    if stage.left_s is not None:
        parts.append(f"{format_duration(stage.left_s)} left")
    return Content.assemble(
        ("● ", "$primary"),
        f"{words}  ",
        ("━" * full, "$primary"),
        ("╌" * (20 - full), "$rule"),
        "  " + "  ".join(part for part in parts if part),
    )


def _rate(stage: StageState) -> str:
    seen = stage.progress
    if seen is None or seen.t <= stage.progress_started_t:
        return ""
    rate = seen.done / (seen.t - stage.progress_started_t)
    return f"{format_bytes(rate)}/s" if seen.unit == "bytes" else f"{rate:,.0f} {clean_line(seen.unit)}/s"


def findings_text(state: RunState, limit: int = 6) -> Content:
    """The newest findings, each with symbol, title and detail."""
    lines = []
    for finding in state.findings[-limit:]:
        mark = LEVEL[finding.level]
        lines.append(Content.assemble((f"{mark.symbol} ", mark.style), clean_line(finding.title, 120)))
        if finding.detail:
            lines.append(Content.assemble("  ", (clean_line(finding.detail, 300), "$quiet")))
    return Content("\n").join(lines) if lines else Content.styled("nothing to report", "$quiet")


def samples_text(state: RunState, limit: int = 3) -> Content:
    """What the model answers at the newest step that was asked at."""
    if not state.samples:
        text = any(finding.title == NOTHING_ASKED for finding in state.findings)
        words = f"{NOTHING_ASKED}; its held-out loss tells" if text else "answers are shown at each evaluation"
        return Content.styled(words, "$quiet")
    newest = [sample for sample in state.samples if sample.step == state.samples[-1].step]
    lines: list[Content] = []
    for sample in newest[:limit]:
        right = bool(sample.expected) and sample.answer.strip() == sample.expected.strip()
        lines.append(Content.assemble(("Q  ", "$quiet"), clean_line(sample.prompt)))
        mark = (" ✓ right", "$success") if right else ("", "")
        lines.append(Content.assemble(("A  ", "$tuned"), clean_line(sample.answer), mark))
        if sample.expected and not right:
            lines.append(Content.assemble(("=  ", "$quiet"), (clean_line(sample.expected), "$quiet")))
    return Content("\n").join(lines)


def age(t: float, now: float | None = None) -> str:
    """How long ago, in one figure: `38 s`, `12 m`, `3 h`, `2 d`; empty for 0."""
    if not t:
        return ""
    seconds = max(0.0, (time.time() if now is None else now) - t)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def plan_line(plan: Plan | None) -> str:
    """Model and data, as a title says them."""
    if plan is None:
        return ""
    return f"{clean_line(plan.preset.name)} · {data_name(plan)}"


def data_name(plan: Plan) -> str:
    """The data file's own name."""
    return clean_line(plan.data.path.rsplit("/", 1)[-1])

"""A run in figures (for scripts) and in a few words (for people); the same wherever a run is shown."""

from __future__ import annotations

from typing import Any

from engine import runs
from engine.commands.narrate import progress_line
from engine.commands.output import Output
from engine.config import StageName
from engine.errors import ExitCode
from engine.paths import RunDir
from engine.runs import RunInfo
from engine.state import GOLD, RunState, StageState, Status
from engine.units import format_bytes, format_share


def summary(info: RunInfo) -> dict[str, Any]:
    """What a script wants to know of a run; the same object in `runs`, `status` and at the end of every stage."""
    state = info.state
    step = state.last_step
    return {
        "name": info.name,
        "path": info.run.path,
        "preset": info.plan.preset.name if info.plan else None,
        "status": info.status,
        "stage": state.current,
        "step": step.step if step else None,
        "steps": step.steps if step else (info.plan.steps if info.plan else None),
        "loss": step.loss if step else None,
        "eval_loss": state.evals[-1].loss if state.evals else None,
        "best_eval_loss": state.best_eval.loss if state.best_eval else None,
        "tokens_per_s": step.tokens_per_s if step else None,
        "left_s": state.left_s if info.status is Status.RUNNING else None,
        "scores": scores(state),
        "stages": {name: _stage_data(stage) for name, stage in state.stages.items()},
        "probe": state.probe,
        "checks": state.checks,
        "findings": state.findings,
        "outputs": list(state.outputs.values()),
        "checkpoints": state.checkpoints,
        "problem": info.problem or None,
        "next_action": info.next_action or None,
    }


def scores(state: RunState) -> dict[str, dict[str, Any]]:
    """Answers on held-out rows by form of the model."""
    return {
        form: {
            "rows": score.rows,
            "exact": score.exact,
            "exact_match": score.exact_match,
            "stopped": score.stopped,
        }
        for form, score in state.scores.items()
    }


def _stage_data(stage: StageState) -> dict[str, Any]:
    return {
        "status": stage.status,
        "device": stage.device or None,
        "seconds": seconds(stage),
        "failed": stage.failed,
    }


def seconds(stage: StageState) -> float | None:
    """How long a stage took; None while it has not ended."""
    return None if stage.ended_t is None else stage.ended_t - stage.started_t


def score_text(state: RunState) -> str:
    """`exact base 0 %, as trained 96 %; gold 91 %`: what the run's own rows say, and the hand-checked ones apart."""
    shown = [f"{form} {format_share(score.exact_match)}" for form, score in state.scores.items() if not score.data]
    gold = state.scores.get(f"as trained on {GOLD}")
    apart = [f"{GOLD} {format_share(gold.exact_match)}"] if gold else []
    return "exact " + "; ".join(filter(None, (", ".join(shown), *apart))) if shown or apart else ""


def progress_text(info: RunInfo) -> str:
    stage, step = info.state.current, info.state.last_step
    if info.status is Status.RUNNING and stage not in (None, "train"):
        seen = info.state.stages[stage]
        return progress_line(seen.progress) if seen.progress else seen.phase
    return f"step {step.step}/{step.steps} loss {step.loss:.3f}" if step else ""


def finish(run: RunDir, output: Output, stage: StageName) -> int:
    """The end of a command that ran a stage: what came out of it, and the next command."""
    info = runs.read(run)
    made = [seen for seen in info.state.outputs.values() if seen.stage == stage]
    lines = [f"{run.path / seen.path}  {format_bytes(seen.size_bytes)}" for seen in made]
    output.result(summary(info), lines)
    if info.next_action:
        output.say(f"Next: {info.next_action}")
    return ExitCode.DONE

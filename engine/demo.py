"""The whole chain on the bundled preset: plan → train → merge → gguf → certify → eval → one answered question."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from engine import presets, runs
from engine.commands import planning
from engine.commands.follow import run_stages
from engine.commands.output import Output
from engine.commands.summary import scores, seconds
from engine.config import Preset, StageName
from engine.events import Check
from engine.paths import RunDir
from engine.plan import require_fit
from engine.state import RunState
from engine.text import clean

PRESET = "demo"
STAGES: tuple[StageName, ...] = ("train", "merge", "gguf", "certify", "eval")
"""One worker runs them all: the heavy libraries are loaded once."""


@dataclass(frozen=True)
class Demo:
    """What the demo showed."""

    run: str
    path: Path
    seconds: float
    stages: dict[str, float | None]
    """Seconds of each stage."""
    scores: dict[str, dict[str, float]]
    """Answers on held-out rows by form of the model: base, as trained, and each GGUF."""
    certified: bool
    checks: tuple[Check, ...]
    question: str
    answer: str


def run(output: Output) -> tuple[Demo, RunState]:
    """Run the chain, telling progress. Raises the error of the first stage that did not finish."""
    began = time.monotonic()
    preset = presets.find_preset(PRESET)
    plan = planning.decide(preset, preset.data, PRESET, output)
    for line in planning.plan_lines(plan):
        output.say(line)
    require_fit(plan)
    folder = runs.create(plan)
    output.say(f"Run {folder.name}")
    state = run_stages(folder, STAGES, output)
    question = question_of(preset, folder)
    answer = ask(folder, preset, question)
    told = Demo(
        run=folder.name,
        path=folder.path,
        seconds=time.monotonic() - began,
        stages={name: seconds(stage) for name, stage in state.stages.items()},
        scores=scores(state),
        certified=bool(state.certified),
        checks=state.checks,
        question=question,
        answer=answer,
    )
    return told, state


def question_of(preset: Preset, folder: RunDir) -> str:
    """The preset's own question, or what the first held-out row asks."""
    if preset.question:
        return preset.question
    with folder.heldout.open(encoding="utf-8") as file:
        messages = json.loads(file.readline())["messages"]
    return clean(next(message["content"] for message in messages if message["role"] == "user"))


def ask(folder: RunDir, preset: Preset, question: str) -> str:
    """The answer of the first of the run's quantized files."""
    from engine.chat import ChatSession, Delta

    session = ChatSession(folder.gguf(preset.export.quants[0]))
    try:
        session.start()
        pieces = session.ask([{"role": "user", "content": question}])
        return "".join(clean(piece.text) for piece in pieces if isinstance(piece, Delta))
    finally:
        session.close()

"""The state of a run: a pure fold over its events, plus one fact from the kernel (is the lock held?)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from engine.config import StageName
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

GOLD = "gold"
"""What the scores on hand-checked rows are told under."""

NOTHING_ASKED = "Nothing is asked: raw text has no questions"
"""The finding of a run on raw text, which has losses and no scores."""

SIDE_STAGES: tuple[StageName, ...] = ("eval", "ollama")
"""Stages that change nothing in the run: that Ollama is not there does not make a certified run a failed one."""


class Status(StrEnum):
    """What a run or a stage is doing, in one word."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"
    """The process vanished without a word."""


@dataclass(frozen=True)
class StageState:
    """One stage, as of its newest start."""

    name: StageName
    status: Status = Status.RUNNING
    started_t: float = 0.0
    ended_t: float | None = None
    device: str = ""
    phase: str = ""
    progress: Progress | None = None
    progress_started_t: float = 0.0
    """When the progress that is shown began: rates and times left are counted from here."""
    failed: Failed | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds left at the rate so far, or None while that is not known."""
        seen = self.progress
        if seen is None or seen.done <= 0 or seen.t <= self.progress_started_t:
            return None
        return (seen.t - self.progress_started_t) * (seen.total - seen.done) / seen.done


@dataclass(frozen=True)
class RunState:
    """Everything that a screen shows of a run."""

    stages: Mapping[StageName, StageState] = field(default_factory=dict)
    current: StageName | None = None
    """The stage that was started last."""
    steps: tuple[Step, ...] = ()
    evals: tuple[Eval, ...] = ()
    scores: Mapping[str, Score] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    probe: Probe | None = None
    """The newest measurement of the longest batch."""
    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()
    """The newest certificate's lines."""
    outputs: Mapping[str, Output] = field(default_factory=dict)
    last_t: float = 0.0

    @property
    def last_step(self) -> Step | None:
        """The newest optimizer step."""
        return self.steps[-1] if self.steps else None

    @property
    def best_eval(self) -> Eval | None:
        """The lowest held-out loss."""
        return min(self.evals, key=lambda seen: seen.loss, default=None)

    @property
    def left_s(self) -> float | None:
        """Seconds of training left at the pace of the newest steps."""
        recent = [step.step_s for step in self.steps[-50:] if step.step_s is not None]
        last = self.last_step
        if last is None or not recent:
            return None
        return (last.steps - last.step) * sum(recent) / len(recent)

    @property
    def certified(self) -> bool | None:
        """Whether the newest certificate passed; None without one, or once something was made after it."""
        certify = self.stages.get("certify")
        if certify is None or certify.ended_t is None or not self.checks:
            return None
        makers = [stage for name, stage in self.stages.items() if name in ("train", "merge", "gguf")]
        if any(stage.started_t > certify.started_t for stage in makers):
            return None
        return all(check.passed for check in self.checks)

    def status(self, locked: bool) -> Status:
        """The run's status, given whether a worker holds its lock."""
        if locked:
            return Status.RUNNING
        telling = self._telling_stage()
        if telling is None:
            return Status.QUEUED
        return Status.LOST if telling.status is Status.RUNNING else telling.status

    def _telling_stage(self) -> StageState | None:
        """The stage that the run's status is that of: the newest, unless it only looked at what stands anyway."""
        newest = self.stages[self.current] if self.current is not None else None
        chain = [stage for name, stage in self.stages.items() if name not in SIDE_STAGES]
        if newest is None or newest.name not in SIDE_STAGES or not chain:
            return newest
        return max(chain, key=lambda stage: stage.started_t)


class _Fold:
    """Collects a batch of events in lists, so that following 100,000 steps copies the past once a batch."""

    def __init__(self, state: RunState) -> None:
        self.stages = dict(state.stages)
        self.current = state.current
        self.steps = list(state.steps)
        self.evals = list(state.evals)
        self.scores = dict(state.scores)
        self.samples = list(state.samples)
        self.checkpoints = list(state.checkpoints)
        self.gpus = list(state.gpus)
        self.probe = state.probe
        self.findings = list(state.findings)
        self.checks = list(state.checks)
        self.outputs = dict(state.outputs)
        self.last_t = state.last_t

    def add(self, event: Event) -> None:
        self.last_t = max(self.last_t, event.t)
        match event:
            case Step():
                self._step(event)
            case Eval():
                self.evals = [seen for seen in self.evals if seen.step < event.step] + [event]
            case Score():
                self.scores[f"{event.form} on {event.data}" if event.data else event.form] = event
            case Sample():
                self.samples.append(event)
            case Checkpoint():
                self.checkpoints.append(event)
            case Gpu():
                self.gpus.append(event)
            case Probe():
                self.probe = event
            case Finding():
                self.findings.append(event)
            case Check():
                self.checks.append(event)
            case Output():
                self.outputs[event.path] = event
            case _:
                self._stage(event)

    def _step(self, event: Step) -> None:
        # After a resume the steps since the checkpoint come again; the newest telling counts.
        while self.steps and self.steps[-1].step >= event.step:
            self.steps.pop()
        self.steps.append(event)

    def _stage(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
            case Phase():
                self._update(event.stage, phase=event.text, progress=None, progress_started_t=event.t)
            case Progress():
                seen = self.stages.get(event.stage)
                fresh = seen is None or seen.progress is None or seen.progress.label != event.label
                began = {"progress_started_t": event.t} if fresh else {}
                self._update(event.stage, progress=event, **began)
            case Finished():
                self._update(event.stage, status=Status.FINISHED, ended_t=event.t, phase="")
            case Stopped():
                self._update(event.stage, status=Status.STOPPED, ended_t=event.t, phase=event.reason)
            case Failed():
                self._update(event.stage, status=Status.FAILED, ended_t=event.t, failed=event)

    def _start(self, event: Started) -> None:
        self.current = event.stage
        self.stages[event.stage] = StageState(event.stage, started_t=event.t, device=event.device)
        if event.stage == "certify":
            self.checks = []

    def _update(self, stage: StageName, **changes: Any) -> None:
        seen = self.stages.get(stage, StageState(stage))
        self.stages[stage] = replace(seen, **changes)

    def result(self) -> RunState:
        return RunState(
            stages=self.stages,
            current=self.current,
            steps=tuple(self.steps),
            evals=tuple(self.evals),
            scores=self.scores,
            samples=tuple(self.samples),
            checkpoints=tuple(self.checkpoints),
            gpus=tuple(self.gpus[-3600:]),
            probe=self.probe,
            findings=tuple(self.findings),
            checks=tuple(self.checks),
            outputs=self.outputs,
            last_t=self.last_t,
        )


def fold(state: RunState, events: Iterable[Event]) -> RunState:
    """The state after the events; `state` itself stays as it is."""
    building = _Fold(state)
    for event in events:
        building.add(event)
    return building.result()

"""The check of a data set in a child process: it streams, rows can be looked at meanwhile, and no file can harm us.

Requests and replies are JSON objects, one a line, on the child's standard input and output: `check` begins, `row`,
`next` and `stop` are asked; `step`, `row`, `next` and `error` come out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from engine.child import Child, told
from engine.config import DatasetSpec, Preset
from engine.datasets.check import Step
from engine.datasets.report import ShownRow
from engine.errors import FinetuiError, RunError
from engine.text import clean_line


class DataSession(Child):
    """One data set under check. Every method may be called from any thread."""

    def __init__(
        self, spec: DatasetSpec, preset: Preset | None, *, near: bool = True, sample: int | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.preset = preset
        self._order = {"near": near, "sample": sample}
        self._changed = threading.Condition()
        self._step: Step | None = None
        """The newest step that nobody took yet, with the newest report."""
        self._replies: dict[int, dict[str, Any]] = {}
        self._asked = 0
        self._failure: FinetuiError | None = None
        """Why the check ended without a result."""
        self._gone: FinetuiError | None = None
        """Why nothing is answered any more."""

    def start(self) -> None:
        """Begin the check; returns at once."""
        self._spawn("engine.datasets.serve")
        preset = self.preset.model_dump() if self.preset else None
        self._ask({"op": "check", "spec": self.spec.model_dump(), "preset": preset, **self._order})
        threading.Thread(target=self._listen, name="data-session", daemon=True).start()

    def steps(self) -> Iterator[Step]:
        """How far the check is; ends with the phase `done`, or without a word after `close`.

        A step that nobody took in time is left out, its report is not. Raises the `FinetuiError` that the check ended
        with, or `RunError` if the child died.
        """
        while (step := self._next_step()) is not None:
            yield step
            if step.phase == "done":
                return

    def _next_step(self) -> Step | None:
        with self._changed:
            self._changed.wait_for(lambda: self._step or self._failure or self._gone or self._closed)
            step, self._step = self._step, None
            if step is not None or self._closed:
                return step
            raise self._failure or self._gone or self._ended("")

    def row(self, index: int, max_length: int | None = None) -> ShownRow:
        """The row with this index, counted from 0; waits until it is read.

        `max_length`: where it is cut, instead of the preset's.
        Raises `FinetuiError` if there is no such row, or nobody to ask any more.
        """
        return ShownRow.model_validate(self._answer({"op": "row", "index": index, "max_length": max_length})["row"])

    def next_finding(self, index: int, back: bool = False) -> int | None:
        """The next row behind (before) this one with a finding, around the end; None if no row has one."""
        found: int | None = self._answer({"op": "next", "index": index, "back": back})["index"]
        return found

    def stop_deeper(self) -> None:
        """End the token or near-duplicate pass; what is known is kept, and the check ends with it."""
        self._ask({"op": "stop"})

    def close(self) -> None:
        """End the child; idempotent. Whoever waits is woken."""
        super().close()
        with self._changed:
            self._gone = self._gone or self._ended("")
            self._changed.notify_all()

    def __enter__(self) -> DataSession:
        self.start()
        return self

    def _ask(self, request: dict[str, Any]) -> None:
        with self._writing:
            self._send(request)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._changed:
            self._asked += 1
            number = self._asked
        self._ask({**request, "id": number})
        with self._changed:
            self._changed.wait_for(lambda: number in self._replies or self._gone)
            reply = self._replies.pop(number, None)
        if reply is None:
            raise self._gone or self._ended("")
        if reply["kind"] == "error":
            raise told(reply)
        return reply

    def _listen(self) -> None:
        try:
            while True:
                self._take(self._receive())
        except FinetuiError as error:
            with self._changed:
                self._gone = error
                self._changed.notify_all()

    def _take(self, reply: dict[str, Any]) -> None:
        with self._changed:
            if reply.get("id") is not None:
                self._replies[reply["id"]] = reply
            elif reply["kind"] == "error":
                self._failure = told(reply)
            elif reply["kind"] == "step":
                step = Step.model_validate(reply["step"])
                waiting = self._step.report if self._step else None
                self._step = step.model_copy(update={"report": step.report or waiting})
            self._changed.notify_all()

    def _ended(self, how: str) -> RunError:
        name = clean_line(self.spec.path, 400)
        if not how:
            return RunError("The check was closed", name, ("Open the data again.",))
        hints = ("Try again; if it happens again, memory may be short.", "finetui check FILE shows what is said.")
        return RunError("The process that reads the data died", f"{name}: {how}", hints)

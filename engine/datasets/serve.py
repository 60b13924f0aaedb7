"""`python -P -m engine.datasets.serve`: the child of `engine.data_session`. It checks one data set and shows its rows.

The first line of the input says what to check; then `row`, `next` and `stop` are asked. One loop does both: a slice of
the check, then whatever was asked meanwhile, so rows can be browsed while the file is still being read. What is asked
of a row that was not read yet is answered once it is.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

from engine.child import described
from engine.config import DatasetSpec, Preset
from engine.datasets.check import Check, Step
from engine.errors import FinetuiError

TELL_INTERVAL_S = 0.1
"""Steps that bring no new report are told of no more often than this."""


class Server:
    """One check, its client's requests, and the client's end of the output."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._check: Check | None = None
        self._steps: Iterator[Step] | None = None
        self._asked: list[dict[str, Any]] = []
        self._told_t = 0.0

    def serve(self) -> None:
        """Until the input ends."""
        rest = b""
        while True:
            if select.select([0], [], [], 0 if self._steps else None)[0]:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                self._asked += map(json.loads, lines)
            self._asked = [request for request in self._asked if not self._answered(request)]
            self._advance()

    def _say(self, **reply: object) -> None:
        self._out.write(json.dumps(reply).encode("ascii") + b"\n")
        self._out.flush()

    def _advance(self) -> None:
        if self._steps is None:
            return
        try:
            step = next(self._steps, None)
        except FinetuiError as error:
            self._steps = None
            self._say(**described(error))
            return
        if step is None:
            self._steps = None
        elif step.report or step.phase == "done" or time.monotonic() - self._told_t > TELL_INTERVAL_S:
            self._told_t = time.monotonic()
            self._say(kind="step", step=step.model_dump())

    def _answered(self, request: dict[str, Any]) -> bool:
        """Answer a request; False if its row was not read yet."""
        try:
            reply = self._reply(request)
        except FinetuiError as error:
            reply = described(error)
        if reply is not None:
            self._say(**{"id": request.get("id"), **reply})
        return reply is not None

    def _reply(self, request: dict[str, Any]) -> dict[str, object] | None:
        check = self._check
        match request["op"]:
            case "check":
                preset = Preset.model_validate(request["preset"]) if request["preset"] else None
                spec = DatasetSpec.model_validate(request["spec"])
                self._check = Check(spec, preset, near=request["near"], sample=request["sample"])
                self._steps = self._check.steps()
            case "stop" if check:
                check.stop_deeper()
            case "row" if check:
                row = check.row(request["index"], request["max_length"])
                return None if row is None else {"kind": "row", "row": row.model_dump()}
            case "next" if check:
                return {"kind": "next", "index": check.next_finding(request["index"], request["back"])}
        return {"kind": "begun"}


def main() -> int:
    """Serve; the exit code is 0 once the client closes the input, or is gone."""
    # Whatever a library prints must not get between the replies: it goes to stderr.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        Server(out).serve()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # the last flush has nobody to complain to
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Small data files for tests, and what a scan says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.config import DatasetSpec
from engine.datasets.report import DatasetReport, Problem
from engine.datasets.scan import scan

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there!"}]

Line = str | bytes | dict[str, Any] | list[Any]


def row(number: int, answer: str | None = None, question: str | None = None) -> dict[str, Any]:
    """A conversation of two turns that is like no other."""
    asked = f"question {number}" if question is None else question
    said = f"This is answer {number}." if answer is None else answer
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}


def good(count: int = 60) -> list[dict[str, Any]]:
    """Rows with which nothing is wrong."""
    return [row(number) for number in range(count)]


def text_row(number: int) -> dict[str, str]:
    """Raw text, about 2,000 tokens of it."""
    return {"text": f"Text {number}. " + "All work and no play makes Jack a dull boy. " * 182}


def as_bytes(line: Line) -> bytes:
    """A line as it stands in a file."""
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line)).encode()


def write(path: Path, *lines: Line) -> Path:
    """Write lines to a file."""
    path.write_bytes(b"".join(as_bytes(line) + b"\n" for line in lines))
    return path


def look(path: Path, **changes: Any) -> DatasetReport:
    """The report on a file."""
    return scan(DatasetSpec(path=str(path), **changes))


def errors(report: DatasetReport) -> list[Problem]:
    """Those problems that refuse the data."""
    return [problem for problem in report.problems if problem.level == "error"]


def kinds(report: DatasetReport) -> list[str]:
    """The kinds of all problems."""
    return [problem.kind for problem in report.problems]


def found(report: DatasetReport, kind: str) -> Problem:
    """The one problem of a kind."""
    (problem,) = (problem for problem in report.problems if problem.kind == kind)
    return problem

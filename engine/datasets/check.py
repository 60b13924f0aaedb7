"""The whole check of a data set: read, tokenized, searched for near duplicates, in slices that a caller steps through.

Each pass goes deeper and costs more; the report is worth having after each, and what is known stays when the rest is
stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Literal

from engine.config import DatasetSpec, Frozen, Preset
from engine.datasets.browse import Browser, Words
from engine.datasets.findings import MAX_PLACES
from engine.datasets.findings.amount import amount_problems
from engine.datasets.findings.repeats import DUPLICATE, GOLD, HELD_OUT
from engine.datasets.near import MAX_ROWS, NEAR, Sketches
from engine.datasets.report import DatasetReport, Problem, ShownRow
from engine.datasets.reread import Reread
from engine.datasets.rowindex import RowIndex
from engine.datasets.scan import Scanner
from engine.datasets.tokens import TokenPass
from engine.errors import UsageError
from engine.text import Text, clean_line
from engine.tokens.tokenizer import Tokenizer

REPORT_INTERVAL_S = 0.3
REPORT_SHARE = 0.1
"""At most about so much of the time goes into reports on the way."""
PLAN_ROWS = 2_000
"""Rows that a plan's token count rests on."""
FEW = "few-rows"
"""The kind of finding that says that there is too little to learn from."""


class Step(Frozen):
    """How far a check is."""

    phase: Literal["reading", "tokens", "near duplicates", "done"]
    done: int
    total: int
    unit: Literal["bytes", "rows"]
    report: DatasetReport | None = None
    """The newest, where it changed; the last step always has one."""
    note: Text = ""
    """Why tokens are counted by characters, if so."""


def steps(spec: DatasetSpec, preset: Preset | None, *, near: bool = True, sample: int | None = None) -> Iterator[Step]:
    """Check the data in small steps; `sample`: token statistics over so many rows, spread evenly.

    A caller stops by closing the iterator. Raises `DataError` if there is no file to report on, `UsageError` for a
    format that does not exist.
    """
    return Check(spec, preset, near=near, sample=sample).steps()


def report_for_plan(
    spec: DatasetSpec, preset: Preset, on_step: Callable[[Step], None] = lambda _step: None
) -> DatasetReport:
    """All that a plan needs to know: everything read, tokens by a sample. Raises as `steps` does."""
    report: DatasetReport | None = None
    for step in steps(spec, preset, near=False, sample=PLAN_ROWS):
        report = step.report or report
        on_step(step)
    assert report is not None  # the last step has one
    return report


class Check:
    """One data set under check. Its rows can be looked at between two steps."""

    def __init__(
        self,
        spec: DatasetSpec,
        preset: Preset | None,
        *,
        tokens: bool = True,
        near: bool = True,
        sample: int | None = None,
    ) -> None:
        """`tokens`, `near`: whether to go through these passes; `sample`: as for `steps`."""
        self.spec = spec
        self._wanted = (tokens, near)
        self._sample = sample
        self._words = Words(preset)
        self._index = RowIndex()
        self._browser: Browser | None = None
        self._under_way = True
        self._stopped = False

    # ── what can be asked between two steps ──────────────────────────────────────────────────────────────

    def stop_deeper(self) -> None:
        """End the pass over tokens or near duplicates, or leave it out; what is known is kept."""
        self._stopped = True

    def row(self, index: int, max_length: int | None = None) -> ShownRow | None:
        """The row with this index, counted from 0; None if it was not read yet. `max_length`: instead of the preset's.

        Raises `UsageError` if there is no such row, `DataError` if the file changed.
        """
        if self._browser is not None and 0 <= index < len(self._index):
            return self._browser.row(index, max_length)
        if index >= 0 and self._under_way:
            return None
        count = f"{clean_line(self.spec.path, 400)} has {len(self._index):,} rows"
        if len(self._index) >= self._index.limit:
            count = f"only the first {self._index.limit:,} rows can be shown"
        raise UsageError(f"There is no row {index + 1:,}", count, ("Rows are counted from 1.",))

    def next_finding(self, index: int, back: bool = False) -> int | None:
        """The next row behind (or before) this one with a finding, around the end; None if no row has one."""
        found = self._index.next_finding(index, back)
        return self._index.next_finding(len(self._index) if back else -1, back) if found is None else found

    # ── the passes ───────────────────────────────────────────────────────────────────────────────────────

    def steps(self) -> Iterator[Step]:
        """Go through the passes, once. Raises as `steps` of this module."""
        try:
            report, rows = yield from self._read()
        finally:
            self._under_way = False
        tokens, near = self._wanted
        note = f"counted by characters: {self._words.missing}" if tokens and self._words.missing else ""
        if tokens and not self._stopped and self._words.tokenizer is not None:
            report = yield from self._count(report, rows, self._words.tokenizer)
        if near and not self._stopped:
            report = yield from self._compare(report, rows)
        total = len(self._index)
        yield Step(phase="done", done=total, total=total, unit="rows", report=report, note=note)

    def _read(self) -> Generator[Step, None, tuple[DatasetReport, Reread]]:
        scanner = Scanner(self.spec, self._index)
        rows = Reread(self.spec, scanner.reader, scanner.format, self._index)
        self._browser = Browser(rows, self._words)
        pace = _Pace()
        while scanner.advance():
            total = max(scanner.done, scanner.total)
            yield Step(phase="reading", done=scanner.done, total=total, unit="bytes", report=pace.due(scanner.report))
        report = scanner.report()
        yield Step(phase="reading", done=scanner.total, total=scanner.total, unit="bytes", report=report)
        return report, rows

    def _count(self, report: DatasetReport, rows: Reread, tokenizer: Tokenizer) -> Generator[Step, None, DatasetReport]:
        preset = self._words.preset
        assert preset is not None  # a tokenizer is a preset's
        counted = TokenPass(tokenizer, preset.title, preset.train.max_length, rows.line_place, self._index)
        total = min(self._sample or len(self._index), len(self._index))
        left_out = self._index.marked(HELD_OUT.kind) | self._index.marked(GOLD.kind)
        of_rows = report.rows - report.mix_rows + (0 if self.spec.eval_path else report.eval_rows)
        pace = _Pace()
        for done, some in rows.slices(self._sample):
            counted.add([(at, row) for at, row in some if at >= len(left_out) or not left_out[at]])
            now = pace.due(lambda: _with_tokens(report, counted, of_rows))
            yield Step(phase="tokens", done=done, total=max(done, total), unit="rows", report=now)
            if self._stopped:
                break
        return _with_tokens(report, counted, of_rows)

    def _compare(self, report: DatasetReport, rows: Reread) -> Generator[Step, None, DatasetReport]:
        total = min(MAX_ROWS, len(self._index))
        sketches = Sketches(total)
        repeated = self._index.marked(DUPLICATE.kind)
        done = 0
        for done, some in rows.slices():
            for at, row in some:
                if at < total and not repeated[at]:
                    sketches.add(at, row)
            yield Step(phase="near duplicates", done=min(done, total), total=total, unit="rows")
            if self._stopped or done >= total:
                break
        twins = sketches.twins()
        self._index.flag(twins, NEAR.kind, NEAR.one)
        assert self._browser is not None
        self._browser.twins = twins
        checked = min(done, total)
        problem = NEAR.problem(len(twins), [rows.place(at) for at in islice(twins, MAX_PLACES)])
        among = f" among the first {checked:,} rows" if checked < len(self._index) else ""
        problem = problem.model_copy(update={"title": problem.title + among})
        return _with(report, [problem] if twins else [], {"near_checked": checked})


class _Pace:
    """Says when the next report on the way is due, so that reports take a small share of the time."""

    def __init__(self) -> None:
        self._next_t = time.monotonic() + REPORT_INTERVAL_S

    def due(self, make: Callable[[], DatasetReport]) -> DatasetReport | None:
        began = time.monotonic()
        if began < self._next_t:
            return None
        report = make()
        ended = time.monotonic()
        self._next_t = ended + max(REPORT_INTERVAL_S, (ended - began) / REPORT_SHARE)
        return report


def _with_tokens(report: DatasetReport, counted: TokenPass, of_rows: int) -> DatasetReport:
    """The report with what is known of the tokens; the estimate of all tokens then rests on them."""
    stats = counted.stats(of_rows)
    update: dict[str, object] = {}
    if stats.rows:
        tokens = round(stats.tokens / stats.rows * report.rows)
        update = {"tokens": stats, "approximate_tokens": tokens}
        if report.kind == "text":
            report = report.model_copy(update={"problems": tuple(_amount(report, tokens))})
    return _with(report, counted.problems(stats), update)


def _amount(report: DatasetReport, tokens: int) -> Iterator[Problem]:
    """The problems, with what is said of too little text resting on the tokens as they were counted."""
    yield from (problem for problem in report.problems if problem.kind != FEW)
    again = amount_problems(report.rows - report.mix_rows, report.eval_rows, tokens)
    yield from (problem for problem in again if problem.kind == FEW)


def _with(report: DatasetReport, problems: Iterable[Problem], update: Mapping[str, object]) -> DatasetReport:
    found = sorted([*report.problems, *problems], key=lambda problem: problem.level)
    return report.model_copy(update={**update, "problems": tuple(found)})

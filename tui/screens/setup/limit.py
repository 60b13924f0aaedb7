"""The line of `max_length`: how it moves, and what it costs in rows and in memory. Pure functions."""

from __future__ import annotations

from textual.content import Content

from engine import presets, vram
from engine.config import Preset
from engine.datasets.report import Cut, DatasetReport, Problem, ShownRow, TokenStats
from engine.datasets.tokens import NOTHING, TOO_LONG
from engine.gpu import GpuReading
from engine.units import format_bytes
from tui.screens.setup.choices import change
from tui.screens.setup.draft import Draft
from tui.widgets.length_histogram import describe_cut

SETTING = "train.max_length"


def moved(draft: Draft, by: int) -> Draft:
    """The draft with the limit one step longer (1) or shorter (-1); the same at the ends of what the model reads."""
    if draft.tuned is None:
        return draft
    return draft.with_changes({**draft.changes, **change(draft.tuned, SETTING, by)})


def cost(report: DatasetReport, preset: Preset, gpu: GpuReading | None, missing: str) -> tuple[Content, Content]:
    """The limit with what it costs in rows, and what it takes in memory, against one step more.

    `missing`: why there is nothing to tell of rows.
    """
    limit = Content.assemble(("limit ", "$quiet"), (f"‹ {preset.train.max_length:,} ›", "bold $primary"), "  ")
    unknown = Content.styled(missing or "the rows' tokens are not counted", "$quiet")
    rows = unknown if report.tokens is None else _rows(report, report.tokens, preset)
    return Content.assemble(limit, rows), _memory(preset, gpu)


def _rows(report: DatasetReport, stats: TokenStats, preset: Preset) -> Content:
    if report.kind == "text":
        return Content.assemble(("✓ ", "$success"), "raw text is packed into rows of this length: nothing is lost")
    return describe_cut(stats, preset.train.max_length)


def at_limit(report: DatasetReport, max_length: int) -> DatasetReport:
    """The report as the check would make it with another `max_length`, as far as the histograms tell.

    Whether it will stop stays as it was counted: how many answers keep their end, the check alone knows.
    """
    stats = report.tokens
    if stats is None or stats.max_length == max_length or report.kind == "text":
        return report
    cut = stats.cut(max_length)
    update = {"max_length": max_length, "truncated": cut.rows, "lost": cut.trained_lost, "dropped": cut.dropped}
    places = {problem.kind: problem.places for problem in report.problems if max_length < stats.max_length}
    problems = [problem for problem in report.problems if problem.kind not in (TOO_LONG.kind, NOTHING.kind)]
    for finding, count in ((TOO_LONG, cut.rows), (NOTHING, cut.dropped)):
        if count:
            problem = finding.problem(count, places.get(finding.kind, ()))
            problems.append(problem.model_copy(update=_exact(problem, stats, cut, max_length)))
    problems.sort(key=lambda problem: problem.level)
    return report.model_copy(update={"tokens": stats.model_copy(update=update), "problems": tuple(problems)})


def row_at_limit(row: ShownRow) -> ShownRow:
    """The row without what was found with another limit: it says itself where it is cut, and what of it is trained."""
    if not row.tokens:
        return row
    stale = {TOO_LONG.one} if row.cut is None else set()
    stale |= {NOTHING.one} if row.trained else set()
    return row.model_copy(update={"findings": tuple(said for said in row.findings if said not in stale)})


def _exact(problem: Problem, stats: TokenStats, cut: Cut, max_length: int) -> dict[str, str]:
    title = problem.title.replace("max_length", f"max_length {max_length:,}")
    if problem.kind == TOO_LONG.kind:
        lost = f"{cut.tokens_lost:,} tokens are lost, {cut.trained_lost:,} of them trained."
        return {"title": title, "effect": f"{lost} {problem.effect}"}
    if cut.dropped == stats.rows >= stats.of_rows:
        return {"title": title, "level": "error", "effect": "There is nothing to learn in the data."}
    return {"title": title}


def _memory(preset: Preset, gpu: GpuReading | None) -> Content:
    budget = vram.ledger(preset, gpu)
    mark = ("✓", "$success") if budget.fits else ("✗ does not fit", "$error")
    name = "VRAM" if gpu else "RAM"
    words = f"{name} {format_bytes(budget.needed_bytes)} "
    longer = presets.override(preset, change(preset, SETTING, 1))
    more = vram.ledger(longer, gpu).needed_bytes - budget.needed_bytes
    if longer.train.max_length == preset.train.max_length:
        return Content.assemble((words, "$quiet"), mark)
    return Content.assemble(
        (words, "$quiet"), mark, (f" · {longer.train.max_length:,} takes {format_bytes(more)} more", "$quiet")
    )

"""What the scan of a data file found, and its first row with the text that is learned marked."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from engine.datasets.scan import DatasetReport, Problem
from engine.text import clean
from engine.units import format_bytes, format_count
from tui.theme import LEVEL

TRAINED_STYLE = "bold underline $tuned"
ROLES = {"system": "system", "user": "user", "assistant": "answer"}


class ReportView(Static):
    """Format, rows, tokens, and one line with places, effect and remedy for each problem."""

    report: reactive[DatasetReport | None] = reactive(None, layout=True)

    def render(self) -> RenderResult:
        """The report, or nothing before there is one."""
        return describe_report(self.report) if self.report else Content("")


class RowView(Widget):
    """A row as messages: what is trained is bright and underlined, the rest is quiet."""

    DEFAULT_CSS = "RowView { height: auto; }"

    report: reactive[DatasetReport | None] = reactive(None, layout=True)
    index: reactive[int] = reactive(0, layout=True)

    def render(self) -> RenderResult:
        """The row that is chosen among the sample."""
        if self.report is None or not self.report.sample:
            return Content("")
        return describe_row(self.report, self.index)


def describe_report(report: DatasetReport) -> Content:
    """The figures and the problems."""
    lines = [_figures(report)]
    if report.problems:
        for problem in report.problems:
            lines += _problem(problem)
    elif not report.refused:
        lines.append(Content.assemble(("✓ ", "$success"), "every row can be learned from"))
    return Content("\n").join(lines)


def _figures(report: DatasetReport) -> Content:
    parts = [
        report.format,
        f"{report.rows:,} rows to learn from",
        f"{report.eval_rows:,} held out",
        f"about {format_count(report.approximate_tokens)} tokens",
        format_bytes(report.size_bytes),
    ]
    return Content.assemble((parts[0], "bold"), Content(" · ").join([Content(""), *map(Content, parts[1:])]))


def _problem(problem: Problem) -> list[Content]:
    mark = LEVEL[problem.level]
    places = ", ".join(problem.places)
    more = " …" if problem.count > len(problem.places) > 0 else ""
    head = Content.assemble((f"{mark.symbol} ", mark.style), (problem.title, "bold"), (f"   {places}{more}", "$quiet"))
    lines = [head]
    if problem.effect:
        lines.append(Content(f"  {problem.effect}"))
    if problem.remedy:
        lines.append(Content.assemble(("  → ", "$primary"), problem.remedy))
    return lines


def describe_row(report: DatasetReport, index: int) -> Content:
    """One row of the sample, a line or more for each message."""
    row = report.sample[index % len(report.sample)]
    lines = []
    for message in row:
        trained = message["role"] == "assistant"
        role = ROLES.get(message["role"], clean(message["role"]))
        text = Content.styled(clean(message["content"]), TRAINED_STYLE if trained else "")
        lines.append(Content.assemble((f"{role:>7}  ", "$quiet"), text))
    return Content("\n").join(lines)

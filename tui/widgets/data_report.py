"""What the check of a data file found, in a few lines: how it is written, how much it is, and what is in it."""

from __future__ import annotations

from collections.abc import Iterator

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from engine.datasets.report import MAX_TURNS, DatasetReport
from engine.text import clean_line
from engine.units import format_bytes, format_count, format_share

SHOWN_LABELS = 4


class ReportView(Static):
    """The figures of a report."""

    report: reactive[DatasetReport | None] = reactive(None, layout=True)
    forced: reactive[bool] = reactive(False, layout=True)
    """The format was named by the person, not detected."""

    def render(self) -> RenderResult:
        """The figures, or nothing before there are any."""
        return describe_report(self.report, self.forced) if self.report else Content("")


def describe_report(report: DatasetReport, forced: bool = False) -> Content:
    """Format, rows and tokens; below, in quiet, what the rows are made of."""
    facts = " · ".join(_facts(report))
    lines = [_figures(report, forced), *([Content.styled(facts, "$quiet")] if facts else [])]
    return Content("\n").join(lines)


def _figures(report: DatasetReport, forced: bool) -> Content:
    known = report.format != "unknown"
    how = "" if not known else " (as you chose)" if forced else " (detected)"
    held_out = f" · {report.eval_rows:,} held out" if report.eval_rows else ""
    words = f"   {report.rows:,} rows{held_out} · {_tokens(report)}"
    return Content.assemble((report.format if known else "no known format", "bold"), (how, "$quiet"), words)


def _tokens(report: DatasetReport) -> str:
    stats = report.tokens
    if stats is None:
        return f"about {format_count(report.approximate_tokens)} tokens"
    seen = "" if stats.rows >= stats.of_rows else f" in the {stats.rows:,} rows counted"
    return f"{format_count(stats.tokens)} tokens, {format_count(stats.trained)} trained{seen}"


def _facts(report: DatasetReport) -> Iterator[str]:
    yield f"{report.container} {format_bytes(report.size_bytes)}".strip()
    if report.kind == "text":
        yield "raw text: all of it is learned"
    else:
        yield from _turns(report)
    if report.labels:
        yield f"labels: {_labels(report)}"
    for count, what in ((report.mix_rows, "mixed in"), (report.gold_rows, "gold"), (report.skipped, "skipped")):
        if count:
            yield f"{count:,} {what}"


def _turns(report: DatasetReport) -> Iterator[str]:
    rows = sum(report.turn_counts.values())
    if rows:
        usual, count = max(report.turn_counts.items(), key=lambda item: item[1])
        longest = max(report.turn_counts)
        most = "" if len(report.turn_counts) == 1 else f" in {format_share(count / rows)}, up to {longest}"
        yield f"{usual} turns a row{most}{' and more' if longest == MAX_TURNS else ''}"
    for role in ("system", "tool"):
        if report.roles.get(role):
            yield f"{report.roles[role]:,} {role} turns"


def _labels(report: DatasetReport) -> str:
    rows = sum(count for _, count in report.labels)
    shown = [f"{clean_line(name, 20)} {format_share(count / rows)}" for name, count in report.labels[:SHOWN_LABELS]]
    more = len(report.labels) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")

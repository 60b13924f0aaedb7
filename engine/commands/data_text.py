"""A data report and a row in words and marks, for terminals and pipes: nothing here hangs on colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from engine.commands.output import Tone, mark, pairs, style, table
from engine.datasets.fix import Fixed
from engine.datasets.report import DatasetReport, Piece, Problem, ShownRow, TokenStats
from engine.text import clean_line
from engine.units import format_bytes, format_count, format_share

BAR = 32
"""Characters of the longest bar."""
MAX_LABELS = 8
LIMIT = "┊"


def report_lines(report: DatasetReport, note: str = "") -> Iterator[str]:
    """What the data are, how long the rows are, each problem with its places and its remedy, and whether it stops.

    `note`: why tokens are counted by characters, if so.
    """
    yield style(clean_line(report.path, 400), "strong")
    yield from (f"  {line}" for line in pairs(figures(report)))
    if note:
        yield f"  {note}"
    if report.tokens is not None and report.tokens.rows:
        yield ""
        yield from histogram(report.tokens, cuts=report.kind == "chat")
    yield ""
    for problem in report.problems:
        yield from problem_lines(problem)
    if not report.problems:
        yield mark("ok", "nothing wrong was found")
    for verdict in report.tokens.verdicts if report.tokens else ():
        yield mark(verdict.level, f"{verdict.title}{verdict.detail and f': {verdict.detail}'}")


def figures(report: DatasetReport) -> dict[str, str]:
    """The report's figures by name."""
    return {
        "format": f"{report.format} · {report.container} · {format_bytes(report.size_bytes)}",
        "rows": ", ".join(_rows(report)),
        "messages": _messages(report),
        "answers": _labels(report),
        "tokens": _tokens(report),
        "a row": _lengths(report),
    }


def _rows(report: DatasetReport) -> Iterator[str]:
    yield f"{report.rows:,} to learn from"
    yield f"{report.eval_rows:,} held out"
    if report.mix_rows:
        yield f"{report.mix_rows:,} of them mixed in"
    if report.gold_rows:
        yield f"{report.gold_rows:,} gold"
    if report.skipped:
        yield f"{report.skipped:,} left out because their tool marked them so"
    if not report.complete:
        yield "still being read"


def _messages(report: DatasetReport) -> str:
    if report.kind == "text" or not report.turns:
        return ""
    roles = ", ".join(f"{count:,} {clean_line(role, 20)}" for role, count in report.roles.items())
    turns = ", ".join(
        f"{turns}{'+' if turns >= 20 else ''} in {rows:,} {'row' if rows == 1 else 'rows'}"
        for turns, rows in sorted(report.turn_counts.items(), key=lambda pair: -pair[1])[:3]
    )
    return f"{report.turns:,}: {roles} · {turns}"


def _labels(report: DatasetReport) -> str:
    shown = [f"{clean_line(label, 30)} {count:,}" for label, count in report.labels[:MAX_LABELS]]
    more = len(report.labels) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def _tokens(report: DatasetReport) -> str:
    stats = report.tokens
    if stats is None or not stats.rows:
        return f"about {format_count(report.approximate_tokens)}, counted by the length of the text"
    share = format_share(stats.trained / stats.tokens if stats.tokens else None)
    counted = f"{format_count(stats.tokens)}, {format_count(stats.trained)} of them trained ({share})"
    part = f" · in {stats.rows:,} of {stats.of_rows:,} rows" if stats.rows < stats.of_rows else ""
    return f"{counted} · {stats.tokenizer}{part}"


def _lengths(report: DatasetReport) -> str:
    stats = report.tokens
    if stats is None or not stats.rows:
        return f"{report.longest_characters:,} characters at most"
    return f"{stats.median:,} tokens (median), 95 % within {stats.p95:,}, the longest {stats.longest:,}"


def histogram(stats: TokenStats, cuts: bool = True) -> Iterator[str]:
    """Rows by their length, in bins that double, with a mark where `max_length` cuts; raw text is packed, not cut."""
    bins = _doubling(stats)
    most = max(rows for _, rows in bins)
    yield "rows by length in tokens"
    lines = table([(f"≤ {end:,}", _bar(rows, most).ljust(BAR), f"{rows:,}") for end, rows in bins], right={0, 2})
    cut = f"{LIMIT} max_length {stats.max_length:,} cuts here"
    begin = 0
    for (end, _), line in zip(bins, lines, strict=True):
        if cuts and stats.max_length == begin:
            yield f"  {cut}"
        yield f"  {line}  {cut if cuts and begin < stats.max_length < end else ''}".rstrip()
        begin = end
    if cuts and stats.max_length >= begin:
        yield f"  {LIMIT} max_length {stats.max_length:,}: no row is cut"


def _doubling(stats: TokenStats) -> list[tuple[int, int]]:
    """The last length of each bin, and its rows; empty bins at the front are left out."""
    bins, begin, end = [], 0, 1
    while begin < len(stats.lengths):
        bins.append((end * stats.width, sum(stats.lengths[begin:end])))
        begin, end = end, end * 2
    first = next((at for at, (_, rows) in enumerate(bins) if rows), 0)
    return bins[first:]


def _bar(rows: int, most: int) -> str:
    return "█" * max(1 if rows else 0, round(BAR * rows / max(most, 1)))


def problem_lines(problem: Problem) -> Iterator[str]:
    """A problem, its effect, and what to do."""
    places = _places(problem.places, problem.count)
    yield mark(problem.level, f"{problem.title}: {places}" if places else problem.title)
    for text, lead in ((problem.effect, "    "), (problem.remedy, "    → ")):
        if text:
            yield lead + text


def _places(places: Sequence[str], count: int) -> str:
    return ", ".join([*places, *(["…"] if count > len(places) > 0 else [])])


# ── one row ──────────────────────────────────────────────────────────────────────────────────────────────


def row_lines(row: ShownRow) -> Iterator[str]:
    """A row as the model sees it, what is trained between ▐ and ▌."""
    parts = [f"row {row.index + 1:,}", row.place]
    if row.tokens:
        parts.append(f"{row.tokens:,} tokens, {row.trained:,} trained")
    if any(piece.trained for piece in row.pieces):
        parts.append("what is trained stands between ▐ and ▌")
    yield style(" · ".join(parts), "strong")
    for finding in row.findings:
        yield mark("warning", finding)
    if row.note:
        yield style(row.note, "dim")
    yield from marked(row).splitlines()


def marked(row: ShownRow) -> str:
    """The row's text with each trained run between ▐ and ▌, and a mark where `max_length` cuts."""
    kept = len(row.pieces) if row.cut is None else row.cut
    mark_here = style(f"{LIMIT} max_length cuts here {LIMIT}", "warning") if row.cut is not None else ""
    return _runs(row.pieces[:kept]) + mark_here + _runs(row.pieces[kept:])


def _runs(pieces: Sequence[Piece]) -> str:
    parts = []
    for tone, alike in groupby(pieces, key=_tone):
        text = _shown("".join(piece.text for piece in alike), tone)
        parts.append(f"▐{text}▌" if tone == "trained" else text)
    return "".join(parts)


def _tone(piece: Piece) -> Tone | None:
    if piece.trained:
        return "trained"
    return "dim" if piece.special else None


def _shown(text: str, tone: Tone | None) -> str:
    # A style ends with its line: a pager shows each line by itself.
    return "\n".join(style(line, tone) if line else "" for line in text.split("\n"))


def fixed_lines(fixed: Fixed) -> Iterator[str]:
    """What was written, what was left out of it, and what was repaired."""
    yield ""
    yield mark("ok", str(fixed))
    left_out = [(f"left out: {count:,} {reason}", reason, count) for reason, count in fixed.dropped.items()]
    repaired = [(f"repaired: {count:,} × {reason}", reason, count) for reason, count in fixed.repaired.items()]
    for said, reason, count in (*left_out, *repaired):
        yield f"    {said}: {_places(fixed.places.get(reason, ()), count)}"
    yield "    The original was not changed."

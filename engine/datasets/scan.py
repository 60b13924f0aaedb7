"""The first pass of a check: the data read through once, in bounded memory; every finding with its place.

Needs no tokenizer. Rows are compared with each other (duplicates, contradictions) among the first two million.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, islice
from operator import not_, or_
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import DatasetSpec
from engine.datasets.base import Format, Message, Row
from engine.datasets.findings import MAX_PLACES, Block, Finding, by_row
from engine.datasets.findings.amount import amount_problems
from engine.datasets.findings.answers import ONE_WORD, Answers, label_problems
from engine.datasets.findings.encoding import Encoding
from engine.datasets.findings.repeats import CONTRADICTION, DUPLICATE, GOLD, HELD_OUT, Repeats
from engine.datasets.findings.secrets import Secrets
from engine.datasets.findings.turns import EMPTY_PROMPT, Turns
from engine.datasets.identity import earlier_prompts, fingerprints
from engine.datasets.mix import mixed_count
from engine.datasets.passes import FilePass
from engine.datasets.readers.base import Reader
from engine.datasets.report import DatasetReport, Problem
from engine.datasets.rowindex import RowIndex
from engine.datasets.seen import Seen
from engine.datasets.split import Border, held_out_target
from engine.errors import UsageError
from engine.text import clean, clean_line
from engine.units import MIB

if TYPE_CHECKING:
    from engine.datasets.findings.repeats import Rows

SAMPLE_ROWS = 3
SAMPLE_MESSAGES = 20
SAMPLE_CHARACTERS = 4_000
"""More messages of a row, and more of a message, are not shown in the report."""
MAX_SIDE_ROWS = 1_000_000
"""Rows that the two sides of the border are counted by, and rows of a held-out or gold file that are known again."""
BYTES_PER_TOKEN = 4
"""English text in UTF-8, with tokenizers of 32 to 150 thousand tokens; other scripts use more bytes a letter too."""
TOKENS_PER_TURN = 5
"""What a chat template writes around a turn."""

_FLAGGED = 1 << 16
"""Rows that are marked at a time: a list of all would cost more memory than the scan."""

OnProgress = Callable[[int, int], None]


def scan(spec: DatasetSpec, on_progress: OnProgress | None = None) -> DatasetReport:
    """Read the data through once and report.

    `on_progress` is called with bytes done and bytes in all. Memory stays bounded whatever the file holds.
    Raises `DataError` if there is no file to report on (missing, a folder, empty, not readable, of no known kind),
    `UsageError` for a format that does not exist.
    """
    scanner = Scanner(spec)
    told = 0
    while scanner.advance():
        if on_progress and scanner.done - told >= MIB:
            told = scanner.done
            on_progress(told, max(told, scanner.total))
    if on_progress:
        on_progress(scanner.done, scanner.done)
    return scanner.report()


class Scanner:
    """A scan in slices, for who has other things to do between them; its report so far can be had at any time."""

    def __init__(self, spec: DatasetSpec, index: RowIndex | None = None) -> None:
        """`index` gets every record of the file to learn from. Raises `DataError` and `UsageError` as `scan` does."""
        self.spec = spec
        self.index = RowIndex() if index is None else index
        self.complete = False
        self._gold = _Side(spec.gold_path, spec, ())
        self._eval = _Side(spec.eval_path, spec, (self._gold,))
        self._mix = _Side(spec.mix_path, DatasetSpec(path=spec.mix_path), (self._gold, self._eval), True)
        self._main = _Main(spec, self.index, self._gold, self._eval)
        sides = (self._gold, self._eval, self._mix)
        self._passes = [*(side.file for side in sides if side.file is not None), self._main.file]
        self._under_way = list(self._passes)
        self._changed: list[Problem] = []

    @property
    def reader(self) -> Reader:
        """Of the file to learn from."""
        return self._main.file.reader

    @property
    def format(self) -> Format | None:
        """Of the file to learn from; None if no format fits."""
        return self._main.file.format

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(each.digest.size for each in self._passes)

    @property
    def done(self) -> int:
        """Bytes of all files that were read."""
        return sum(each.digest.done for each in self._passes)

    def advance(self) -> bool:
        """Read on by a block of rows, or by a slice of bytes; False once all is read. Raises `DataError`."""
        if self._under_way:
            if not self._under_way[0].step():
                del self._under_way[0]
            return True
        if not self.complete:
            self._main.conclude()
            self._changed = [_changed(each.path) for each in self._passes if each.digest.changed()]
            self.complete = True
        return False

    def report(self) -> DatasetReport:
        """What is known so far; `complete` says whether that is all."""
        main, spec = self._main, self.spec
        eval_rows = self._eval.rows if spec.eval_path else main.held_out_rows()
        own = main.file.rows - main.excluded - (0 if spec.eval_path else eval_rows)
        mix_rows = mixed_count(own, self._mix.rows, spec.mix_ratio) if spec.mix_path else 0
        tokens = _share(main.size.approximate_tokens, own, main.file.rows)
        tokens += _share(self._mix.size.approximate_tokens, mix_rows, self._mix.rows)
        labels = main.answers.labels()
        problems = [*self._problems(labels), *amount_problems(own, eval_rows, tokens if main.turns.text else None)]
        return DatasetReport(
            path=spec.path,
            format=self.format.name if self.format else "unknown",
            container=self.reader.name,
            kind="text" if main.turns.text else "chat",
            sha256=main.file.digest.hexdigest(),
            size_bytes=main.file.digest.size,
            rows=own + mix_rows,
            eval_rows=eval_rows,
            eval_sha256=self._eval.sha256,
            gold_rows=self._gold.rows,
            gold_sha256=self._gold.sha256,
            mix_rows=mix_rows,
            mix_sha256=self._mix.sha256,
            skipped=main.file.skipped,
            turns=main.turns.turns,
            roles=dict(main.turns.roles),
            turn_counts=dict(sorted(main.turns.counts.items())),
            labels=labels,
            approximate_tokens=tokens,
            longest_characters=main.size.longest,
            problems=tuple(sorted(problems, key=lambda problem: problem.level)),
            sample=tuple(main.sample),
            complete=self.complete,
        )

    def _problems(self, labels: tuple[tuple[str, int], ...]) -> Iterator[Problem]:
        for each in self._passes:
            yield from each.ledger.problems(without=(ONE_WORD,) if labels else ())
        yield from self._changed
        yield from self._main.compared
        yield from label_problems(labels)


def _share(amount: int, rows: int, of_rows: int) -> int:
    return amount * rows // of_rows if of_rows else 0


def _changed(path: Path) -> Problem:
    return Problem(
        kind="changed-while-read",
        level="error",
        title=f"{clean_line(path.name)} changed while it was read",
        count=1,
        effect="What was found is of a mixture of the old file and the new one.",
        remedy="Check again once nothing writes to it any more.",
    )


class _Side:
    """A file beside the one to learn from: hand-checked, held-out or general rows."""

    def __init__(self, path: str, spec: DatasetSpec, others: tuple[_Side, ...], learned: bool = False) -> None:
        """Rows that ask what one of the `others` asks are not counted. An empty path: there is no such file.

        `learned`: its rows are learned from, earlier answers of a conversation too.
        """
        self.asked = Seen(MAX_SIDE_ROWS)
        self.rows = 0
        self.size = _Size()
        self._others = others
        self._learned = learned
        self.file = FilePass(Path(path), spec, self._see) if path else None

    @property
    def sha256(self) -> str:
        """Empty if there is no such file."""
        return self.file.digest.hexdigest() if self.file else ""

    def _see(self, block: Block) -> None:
        self.size.see(block)
        keys = [prompt or whole for prompt, whole in map(fingerprints, block.rows)]
        known = [False] * len(keys)
        for other in self._others:
            known = list(map(or_, known, _asked(other.asked, keys, block.rows if self._learned else ())))
        keys = list(compress(keys, map(not_, known)))
        self.rows += len(keys)
        self.asked.extend(keys)


def _asked(by: Seen, keys: list[int], rows: Sequence[Row]) -> list[bool]:
    """For each key, whether others ask the same; of the rows that have several answers, at an earlier turn too."""
    found = by.known(keys)
    for at, row in enumerate(rows):
        if len(row.messages) > 2 and not found[at] and (earlier := earlier_prompts(row)):
            found[at] = any(by.known(earlier))
    return found


class _Main:
    """The file to learn from, with everything that is looked for in it."""

    def __init__(self, spec: DatasetSpec, index: RowIndex, gold: _Side, held_out: _Side) -> None:
        self.file = FilePass(Path(spec.path), spec, self._see, index, spec.max_rows)
        ledger = self.file.ledger
        self.turns, self.answers, self.size = Turns(ledger), Answers(ledger), _Size()
        self._seeing = (self.turns, self.answers, self.size, Encoding(ledger), Secrets(ledger))
        self._index = index
        self._known = ((gold.asked, GOLD), (held_out.asked, HELD_OUT))
        self._repeats = Repeats(index.limit)
        self._border = _HeldOut(spec)
        self.excluded = 0
        """Rows that are not learned from because they are held out or hand-checked."""
        self.sample: list[tuple[Message, ...]] = []
        self.compared: list[Problem] = []
        """What needed all rows."""

    def _see(self, block: Block) -> None:
        for each in self._seeing:
            each.see(block)
        if len(self.sample) < SAMPLE_ROWS:
            self.sample += [_shown(row) for row in block.rows[: SAMPLE_ROWS - len(self.sample)]]
        prompts, wholes = zip(*map(fingerprints, block.rows), strict=True)
        self._repeats.extend(prompts, wholes, block.at)
        keys = [prompt or whole for prompt, whole in zip(prompts, wholes, strict=True)]
        elsewhere = [False] * len(keys)
        for asked, finding in self._known:
            if asked:
                elsewhere = list(map(or_, elsewhere, self._note(finding, block, _asked(asked, keys, block.rows))))
        self.excluded += sum(elsewhere)
        self._border.extend(compress(zip(keys, block.rows, strict=True), map(not_, elsewhere)))

    def _note(self, finding: Finding, block: Block, known: list[bool]) -> list[bool]:
        for at, row in compress(zip(block.at, block.rows, strict=True), known):
            self.file.ledger.add(finding, at, row.line)
        return known

    def held_out_rows(self) -> int:
        """How many rows a share of the file is; exact once all was read."""
        return self._border.count(self.file.rows - self.excluded)

    def conclude(self) -> None:
        """Compare the rows with each other, once all were read."""
        if self.answers.labels():
            self._index.clear(ONE_WORD.kind)
        repeated = self._repeats.duplicates()
        self._compare(DUPLICATE, len(repeated), repeated, repeated[:MAX_PLACES].tolist())
        differing = self._repeats.contradictions(self._index.marked(EMPTY_PROMPT.kind))
        self._compare(CONTRADICTION, differing.prompts, differing.rows, differing.firsts)
        self._repeats = Repeats()  # its memory is wanted for what follows
        self._border.conclude()
        self.compared += self._border.problems

    def _compare(self, finding: Finding, count: int, rows: Rows, firsts: list[int]) -> None:
        if not count:
            return
        problem = finding.problem(count, [self.file.ledger.place(self._index.line(row)) for row in firsts])
        self.compared.append(problem.model_copy(update={"title": problem.title + self._repeats.among}))
        for start in range(0, len(rows), _FLAGGED):
            self._index.flag(rows[start : start + _FLAGGED].tolist(), finding.kind, finding.of_row)


class _HeldOut:
    """How many rows will be held out as a share of the file; of a file beyond the limit, the usual number."""

    def __init__(self, spec: DatasetSpec, limit: int = MAX_SIDE_ROWS) -> None:
        self._fraction = spec.eval_fraction
        self._border: Border | None = None if spec.eval_path or spec.eval_fraction <= 0 else Border(spec)
        self._room = self._limit = limit
        self._count: int | None = None if self._border else 0
        self.problems: list[Problem] = []

    def extend(self, rows: Iterable[tuple[int, Row]]) -> None:
        """Take in rows, each with what decides its side."""
        if self._border is None:
            return
        try:
            for key, row in islice(rows, self._room):
                self._border.add(key, row)
                self._room -= 1
        except UsageError as error:
            self._refuse(error)

    def conclude(self) -> None:
        """Count, once all rows were taken in."""
        if self._border is None:
            return
        try:
            count = self._border.count()
        except UsageError as error:
            self._refuse(error)
            return
        if self._room or count < held_out_target(self._limit, self._fraction):
            self._count = count
        self._border = None

    def count(self, rows: int) -> int:
        """Held-out rows of so many."""
        return held_out_target(rows, self._fraction) if self._count is None else self._count

    def _refuse(self, error: UsageError) -> None:
        self._border, self._count = None, 0
        self.problems.append(
            Problem(
                kind="no-labels",
                level="error",
                title=error.title,
                count=1,
                effect=error.detail,
                remedy=" ".join(error.hints),
            )
        )


class _Size:
    """How much text there is."""

    def __init__(self) -> None:
        self._bytes = 0
        self._turns = 0
        self.longest = 0
        """Characters of the longest row."""

    def see(self, block: Block) -> None:
        """Measure the block."""
        text = block.text
        self._bytes += len(text) if text.isascii() else len(text.encode())
        self._bytes -= len(block.parts) - 1  # what separates them
        self._turns += len(block.messages)
        self.longest = max(self.longest, max(map(sum, by_row(list(map(len, block.parts)), block.sizes))))

    @property
    def approximate_tokens(self) -> int:
        """By the length of the text, and what a template writes around a turn."""
        return self._bytes // BYTES_PER_TOKEN + self._turns * TOKENS_PER_TURN


def _shown(row: Row) -> tuple[Message, ...]:
    if not row.messages:
        return ({"role": "text", "content": clean(row.text[:SAMPLE_CHARACTERS])},)
    return tuple(
        {"role": message["role"], "content": clean(message["content"][:SAMPLE_CHARACTERS])}
        for message in row.messages[:SAMPLE_MESSAGES]
    )


__all__ = ["BYTES_PER_TOKEN", "DatasetReport", "Problem", "Scanner", "scan"]

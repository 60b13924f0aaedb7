"""CSV as spreadsheets write it: empty columns and rows at the edges, a line that names the separator."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.datasets import faults
from engine.datasets.lines import MAX_LINE_BYTES
from engine.datasets.readers import Record, find_reader


def records(path: Path, content: str | bytes) -> list[Record]:
    """Every record of a file with this content; each is found again by its bookmark."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    reader = find_reader(path)
    found = [record for block in reader.blocks(path, lambda _bytes: None) for record in block]
    assert all(reader.at(path, record.offset, record.line).value == record.value for record in found)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.csv"


def test_empty_columns_without_a_name_are_left_out(path: Path) -> None:
    (record,) = records(path, "question,answer,,\nWhere?,There.,,\n")
    assert record.value == {"question": "Where?", "answer": "There."}


def test_what_stands_in_a_column_without_a_name_is_a_fault(path: Path) -> None:
    good, bad = records(path, "question,answer,\nWhere?,There.,\nWhere?,There, or here.\n")
    assert good.unusable is None
    assert bad.unusable is not None
    assert bad.unusable.fault is faults.CELLS


def test_a_column_without_a_name_between_others_is_refused(path: Path) -> None:
    with pytest.raises(Exception, match="column 2 has no name"):
        records(path, "question,,answer\nWhere?,,There.\n")


@pytest.mark.parametrize("empty", [";", " ; ", '"";""'])
def test_a_row_of_empty_cells_is_a_blank_line(path: Path, empty: str) -> None:
    first, second = records(path, f"question;answer\nWhere?;There.\n{empty}\nWho?;She.\n{empty}\n")
    assert (first.line, second.line) == (2, 4)


def test_a_row_that_is_too_long_is_no_blank_line(path: Path) -> None:
    (record,) = records(path, b"question,answer\n" + b"a" * (MAX_LINE_BYTES + 1) + b",b\n")
    assert record.unusable is not None
    assert record.unusable.fault is faults.TOO_LONG


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "\ufeffSEP=;\r", "sep=;;"])
def test_a_line_that_names_the_separator_is_no_header(path: Path, first: str) -> None:
    (record,) = records(path, f"{first}\nquestion, or so;answer\nWhere?;There.\n")
    assert record.value == {"question, or so": "Where?", "answer": "There."}
    assert record.line == 3

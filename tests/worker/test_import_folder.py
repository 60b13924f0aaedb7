"""Data sets in folders, and what becomes of their values: the real `datasets`, in this process."""

from __future__ import annotations

import datetime
import decimal
import errno
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config import DatasetSpec
from engine.errors import DataError, ExitCode, FinetuiError, UsageError
from engine.worker.import_data import import_data
from engine.worker.import_faults import explained

ROOT = Path(__file__).parents[2]
Import = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and a cache of `datasets` that is the test's own."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def imported(folder: Path) -> Import:
    """`imported(split=…)`: the folder's rows."""

    def run(**fields: Any) -> list[dict[str, Any]]:
        path, _ = import_data(DatasetSpec(path=str(folder), **fields), report)
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    return run


def report(phase: str, done: int, total: int, unit: str) -> None:
    """Nobody is told."""


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# ── which rows ──


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train[:3]", [0, 1, 2]),
        ("train[7:]", [7, 8, 9]),
        ("train[-2:]", [8, 9]),
        ("train[50%:70%]", [5, 6]),
        ("test+train[:1]", [0, 1, 0]),
        ("all", [*range(10), 0, 1]),
    ],
)
def test_slices_are_those_of_datasets(folder: Path, imported: Import, split: str, numbers: list[int]) -> None:
    for name, count in (("train", 10), ("test", 2)):
        write_lines(folder / f"{name}.jsonl", [{"text": "t", "n": n} for n in range(count)])
    assert [row["n"] for row in imported(split=split)] == numbers


CARD = """---
configs:
- config_name: easy
  data_files:
  - split: train
    path: easy/train*
  - split: test
    path: easy/test*
- config_name: hard
  data_files: hard/*
---
"""


def test_a_subset_must_be_named_where_there_are_several(folder: Path, imported: Import) -> None:
    (folder / "README.md").write_text(CARD)
    for count, name in enumerate(("easy/train", "easy/test", "hard/a"), 1):
        (folder / name).parent.mkdir(exist_ok=True)
        write_lines(folder / f"{name}.jsonl", [{"text": name}] * count)
    with pytest.raises(UsageError, match="none is named: it has easy, hard"):
        imported()
    with pytest.raises(UsageError, match="no subset odd: it has easy, hard"):
        imported(subset="odd")
    assert imported(subset="easy", split="test") == [{"text": "easy/test"}] * 2
    assert imported(subset="hard") == [{"text": "hard/a"}] * 3


def test_a_subset_that_there_is_none_of_is_told(folder: Path, imported: Import) -> None:
    write_lines(folder / "train.jsonl", [{"text": "a"}])
    with pytest.raises(UsageError, match="no subset main: it has default"):
        imported(subset="main")


def test_an_unknown_split_is_told_with_the_known_ones(folder: Path, imported: Import) -> None:
    for name in ("train", "validation"):
        write_lines(folder / f"{name}.jsonl", [{"text": "a"}])
    with pytest.raises(UsageError, match="no split test: it has train, validation"):
        imported(split="test[:5]")


def test_max_rows_ends_the_import(folder: Path, imported: Import) -> None:
    write_lines(folder / "train.jsonl", [{"n": n} for n in range(10)])
    assert imported(max_rows=3, split="train[2:]") == [{"n": 2}, {"n": 3}, {"n": 4}]


@pytest.mark.parametrize("split", ["train[5]", "train[:x]", "train[:200%]"])
def test_a_split_that_cannot_be_read_is_a_usage_error(folder: Path, imported: Import, split: str) -> None:
    write_lines(folder / "train.jsonl", [{"text": "a"}])
    with pytest.raises(UsageError, match="The split cannot be understood"):
        imported(split=split)


def test_no_rows_are_an_error(folder: Path, imported: Import) -> None:
    write_lines(folder / "train.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match="has no rows"):
        imported(split="train[5:]")


def test_packed_files_are_unpacked(folder: Path, imported: Import) -> None:
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    assert imported() == [{"text": "a"}]


def test_a_folder_that_changes_is_imported_anew(folder: Path, imported: Import) -> None:
    (folder / "train.csv").write_text("question,answer\na,b\n")
    assert imported() == [{"question": "a", "answer": "b"}]
    (folder / "train.csv").write_text("question,answer\na,b\nc,d\n")
    assert imported() == [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]


def test_a_folder_that_stays_is_not_read_again(folder: Path) -> None:
    write_lines(folder / "train.jsonl", [{"text": "a"}])
    spec = DatasetSpec(path=str(folder))
    path, source = import_data(spec, report)
    path.write_text('{"text": "kept"}\n')
    assert import_data(spec, report) == (path, source)
    assert source == f"{folder} train"
    assert path.read_text() == '{"text": "kept"}\n'


@pytest.mark.parametrize("splits", [True, False])
def test_what_save_to_disk_wrote_is_read(folder: Path, imported: Import, splits: bool) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"text": "a", "n": n} for n in range(5)])
    (datasets.DatasetDict(train=rows, test=rows.select([0])) if splits else rows).save_to_disk(folder)
    assert imported(split="train[-2:]") == [{"text": "a", "n": 3}, {"text": "a", "n": 4}]


def test_large_rows_are_taken_a_few_at_a_time(folder: Path, imported: Import) -> None:
    rows = [{"text": f"{n}" * 10_000_000} for n in range(5)]
    write_lines(folder / "train.jsonl", rows)
    assert imported() == rows


@pytest.mark.slow
def test_a_large_parquet_file_needs_little_memory(folder: Path) -> None:
    table = pa.table({"text": [os.urandom(500).hex() for _ in range(10_000)]})
    with pq.ParquetWriter(folder / "train.parquet", table.schema) as writer:
        for _ in range(40):
            writer.write_table(table)
    code = (
        "import re, sys\n"
        "from engine.config import DatasetSpec\n"
        "from engine.worker.import_data import import_data\n"
        "import_data(DatasetSpec(path=sys.argv[1]), lambda *_: None)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 600_000  # KiB, of which the libraries are a half; the rows are 400 MB


# ── values ──


def parquet(folder: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), folder / "train.parquet")


def test_values_get_a_form_in_json(folder: Path, imported: Import) -> None:
    when = datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC)
    parquet(
        folder,
        when=pa.array([when], pa.timestamp("ns", "UTC")),
        day=[datetime.date(2024, 5, 1)],
        price=[decimal.Decimal("12.50")],
        took=[datetime.timedelta(seconds=90)],
        share=[float("nan")],
        tags=[["a", None]],
    )
    (row,) = imported()
    assert row.pop("when") == "2024-05-01T12:30:00+00:00"
    assert row == {"day": "2024-05-01", "price": "12.50", "took": 90.0, "share": None, "tags": ["a", None]}


def test_bytes_are_refused_by_name(folder: Path, imported: Import) -> None:
    parquet(folder, text=["a"], key=[b"\xff"])
    with pytest.raises(DataError, match=r"key \(bytes\)"):
        imported()


def test_media_in_a_struct_are_refused_by_name(folder: Path, imported: Import) -> None:
    parquet(folder, text=["a"], turns=[[{"role": "user", "sound": b"\xff"}]])
    with pytest.raises(DataError, match=r"turns \(bytes\)"):
        imported()


def test_what_is_no_text_is_left_out_where_the_columns_are_named(folder: Path, imported: Import) -> None:
    parquet(folder, text=["a"], key=[b"\xff"])
    with pytest.raises(DataError, match=r"key \(bytes\)"):
        imported(columns="user=see {key}, assistant=text")
    assert imported(columns="user=the text, assistant=text") == [{"text": "a"}]


def test_a_folder_of_pictures_is_refused(folder: Path, imported: Import) -> None:
    (folder / "cat.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match="no data set of text: its files are loaded as imagefolder"):
        imported()


def test_classes_become_their_names(folder: Path, imported: Import) -> None:
    import datasets

    label = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "more": datasets.List(label)})
    rows = [{"text": "good", "label": 1, "more": [0, 1]}, {"text": "?", "label": -1, "more": []}]
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    assert imported() == [
        {"text": "good", "label": "pos", "more": ["neg", "pos"]},
        {"text": "?", "label": None, "more": []},
    ]


def test_messages_of_different_keys_stay_as_they_are(folder: Path, imported: Import) -> None:
    calls = [{"name": "sum", "arguments": {"of": [1, 2]}}, {"name": "city", "arguments": {"name": "Rome"}}]
    asked = {"role": "user", "content": "q"}
    rows = [{"messages": [asked, {"role": "assistant", "tool_calls": [{"function": call}]}]} for call in calls]
    write_lines(folder / "train.jsonl", rows)
    assert imported() == rows


def test_text_that_only_looks_odd_is_kept(folder: Path, imported: Import) -> None:
    rows = [{"text": "naïve 🦙 \x00 \u2028 \x1b[31m"}]
    write_lines(folder / "train.jsonl", rows)
    assert imported() == rows


def test_bytes_that_are_no_utf8_are_told(folder: Path, imported: Import) -> None:
    array = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    parquet(folder, text=array)
    with pytest.raises(DataError, match="cannot be read"):
        imported()


# ── the disk ──


class Full(io.FileIO):
    """A file on a disk without room."""

    def write(self, _data: Any) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_and_leaves_nothing(
    folder: Path, imported: Import, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(folder / "train.jsonl", [{"text": "a"}])
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *a: Full(path, "ab") if path.suffix == ".partial" else opened(path, *a)
    )
    with pytest.raises(FinetuiError, match="The disk is full") as full:
        imported()
    assert full.value.code == ExitCode.FIT
    assert list((own_home / "datasets").iterdir()) == []


# ── folders that are no data sets ──


def test_a_file_that_may_not_be_looked_at_does_not_hinder(folder: Path, imported: Import) -> None:
    write_lines(folder / "train.jsonl", [{"text": "a"}])
    (folder / "gone").symlink_to(folder / "nowhere")
    (folder / "round").symlink_to(folder / "round")
    assert imported() == [{"text": "a"}]


def test_a_folder_of_very_many_files_is_no_data_set(
    folder: Path, imported: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.worker.import_source.MAX_FILES", 2)
    for name in "abc":
        write_lines(folder / f"{name}.jsonl", [{"text": name}])
    with pytest.raises(DataError, match="too large to be a data set") as caught:
        imported()
    assert "Name the folder" in caught.value.hints[0]


def test_a_file_that_may_not_grow_is_no_fault_of_the_data() -> None:
    with pytest.raises(FinetuiError, match="larger than may be here") as caught, explained("data", local=True):
        raise OSError(errno.EFBIG, "File too large")
    assert caught.value.code == ExitCode.FIT
    assert any("FINETUI_HOME" in hint for hint in caught.value.hints)

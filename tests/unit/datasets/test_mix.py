"""Rows that are mixed in: as many as asked for, by seed, and none that is held out."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from engine.config import DatasetSpec
from engine.datasets.mix import draw, mixed_count
from engine.datasets.rows import read_rows
from engine.datasets.split import side_key
from engine.errors import DataError


@pytest.fixture
def general(tmp_path: Path) -> Path:
    """200 general rows, in a format of their own."""
    path = tmp_path / "general.jsonl"
    path.write_text(
        "".join(json.dumps({"instruction": f"ask {n}", "output": f"say {n}"}) + "\n" for n in range(200)), "utf-8"
    )
    return path


def spec(general: Path, ratio: float = 0.1) -> DatasetSpec:
    return DatasetSpec(path="unused.jsonl", format="messages", mix_path=str(general), mix_ratio=ratio)


@pytest.mark.parametrize(("rows", "ratio", "mixed"), [(900, 0.1, 100), (80, 0.2, 20), (100, 0.5, 100), (3, 0.1, 0)])
def test_mixed_in_rows_are_their_share_of_all_rows(general: Path, rows: int, ratio: float, mixed: int) -> None:
    assert len(draw(spec(general, ratio), rows, frozenset(), seed=1)) == mixed


def test_there_are_never_more_than_the_file_has(general: Path) -> None:
    assert len(draw(spec(general, 0.5), 5000, frozenset(), seed=1)) == mixed_count(5000, 200, 0.5) == 200


def test_the_same_seed_draws_the_same_rows_in_the_files_order(general: Path) -> None:
    first, again, other = (draw(spec(general), 180, frozenset(), seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [row.line for row in first] == sorted({row.line for row in first})


def test_another_format_than_the_datas_is_detected(general: Path) -> None:
    assert draw(spec(general), 90, frozenset(), seed=1)[0].messages[0]["content"].startswith("ask ")


def test_what_is_held_out_is_not_mixed_in(general: Path) -> None:
    kept = {side_key(row) for row in read_rows(general) if row.line <= 150}
    drawn = draw(spec(general, 0.5), 1000, kept, seed=1)
    assert [row.line for row in drawn] == list(range(151, 201))


@pytest.mark.parametrize("changes", [{"mix_path": ""}, {"mix_ratio": 0.0}])
def test_without_a_file_or_a_share_nothing_is_mixed_in(general: Path, changes: dict[str, object]) -> None:
    assert draw(spec(general).model_copy(update=changes), 1000, frozenset(), seed=1) == []


def test_a_fault_is_named_by_file_and_line(general: Path) -> None:
    with general.open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError) as caught:
        draw(spec(general), 10, frozenset(), seed=1)
    assert "general.jsonl:201" in caught.value.detail


def test_no_more_is_held_than_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(4000):
            file.write(json.dumps({"prompt": f"{number} " + "x" * 10_000, "completion": "y"}) + "\n")
    tracemalloc.start()
    drawn = draw(spec(path), 9 * 40, frozenset(), seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == 40
    assert peak < path.stat().st_size / 2

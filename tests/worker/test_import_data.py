"""Data sets of a hub on this machine and of folders, through the real `datasets` in its own process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import Hub

from engine.config import DatasetSpec
from engine.datasets.hub import Progress, fetch
from engine.errors import DataError, MissingError, UsageError
from engine.paths import home


def chat(count: int, said: str = "a") -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"{said}{n}"}]}
        for n in range(count)
    ]


def parquet(rows: list[dict[str, Any]] | pa.Table, group: int = 1000) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=group)
    return buffer.getvalue()


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows_of(spec: DatasetSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(spec.path).read_text("utf-8").splitlines()]


def kept() -> list[str]:
    """Names in the folder of imported data."""
    folder = home() / "datasets"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as hub:
        for name, value in hub.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        yield hub


def test_rows_come_as_they_are(hub: Hub) -> None:
    hub.add("org/chat", {"data/train-0.parquet": parquet(chat(3)), "data/train-1.parquet": parquet(chat(2, "b"))})
    found = fetch(DatasetSpec(path="org/chat"))
    assert rows_of(found) == chat(3) + chat(2, "b")
    commit = hub.commit("datasets", "org/chat")
    assert found.source == f"hf://datasets/org/chat@{commit} train"
    assert Path(found.path) == home() / "datasets" / f"org--chat--default--train--{commit[:12]}.jsonl"


def test_nobody_is_told_what_is_loaded(hub: Hub) -> None:
    hub.add("org/chat", {"train.jsonl": lines(chat(3))})
    fetch(DatasetSpec(path="org/chat"))
    assert all("/datasets/org/chat" in asked.path for asked in hub.requests)


def test_nothing_is_downloaded_twice(hub: Hub) -> None:
    hub.add("org/chat", {"train.parquet": parquet(chat(3))})
    spec = DatasetSpec(path="org/chat")
    first = fetch(spec)
    assert len(hub.downloads(".parquet")) == 1
    hub.requests.clear()
    assert fetch(spec) == first
    assert [asked.path for asked in hub.requests] == ["/api/datasets/org/chat"]
    Path(first.path).unlink()
    fetch(spec)
    assert not hub.downloads(".parquet")


def test_a_new_commit_is_another_file(hub: Hub) -> None:
    hub.add("org/chat", {"train.jsonl": lines(chat(3))})
    first = fetch(DatasetSpec(path="org/chat"))
    hub.add("org/chat", {"train.jsonl": lines(chat(4))})
    second = fetch(DatasetSpec(path="org/chat"))
    assert (len(rows_of(first)), len(rows_of(second))) == (3, 4)


def test_only_the_named_split_is_downloaded(hub: Hub) -> None:
    hub.add("org/chat", {"train.parquet": parquet(chat(3)), "test.parquet": parquet(chat(2))})
    assert len(rows_of(fetch(DatasetSpec(path="org/chat", split="test")))) == 2
    assert not hub.downloads("train.parquet")


def test_max_rows_reads_only_the_beginning(hub: Hub) -> None:
    rows = [{"text": os.urandom(20_000).hex()} for _ in range(2000)]
    data = parquet(rows, group=100)
    hub.add("org/large", {"train.parquet": data})
    found = fetch(DatasetSpec(path="org/large", max_rows=7))
    assert rows_of(found) == rows[:7]
    assert found.path.endswith("--first7.jsonl")
    assert hub.sent < len(data) / 2


def test_max_rows_takes_the_whole_file_if_it_is_there(hub: Hub) -> None:
    hub.add("org/chat", {"train.jsonl": lines(chat(3))})
    whole = fetch(DatasetSpec(path="org/chat"))
    assert fetch(DatasetSpec(path="org/chat", max_rows=2)).path == whole.path


@pytest.mark.slow
def test_progress_is_told(hub: Hub) -> None:
    data = parquet([{"text": os.urandom(50_000).hex()} for _ in range(50)])
    hub.add("org/large", {"train.parquet": data})
    hub.bytes_per_s = len(data) / 2
    seen: list[Progress] = []
    fetch(DatasetSpec(path="org/large"), seen.append)
    downloading = [progress for progress in seen if progress.phase == "downloading" and progress.done]
    assert downloading
    assert {progress.total for progress in downloading} == {len(data)}


class Stop(Exception):
    """What a caller raises to end an import."""


def test_an_import_can_be_stopped_while_it_downloads(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/large", {"train.parquet": parquet([{"text": os.urandom(500).hex()} for _ in range(1000)])})
    hub.bytes_per_s = 10_000

    def on_progress(progress: Progress) -> None:
        if progress.phase == "downloading":
            raise Stop

    began = time.monotonic()
    with pytest.raises(Stop):
        fetch(DatasetSpec(path="org/large"), on_progress)
    assert time.monotonic() - began < 30
    assert not kept()
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


@pytest.mark.slow
def test_an_import_that_is_killed_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    text = lines([{"text": f"{n} {'x' * 200}"} for n in range(200)])
    (folder / "train.jsonl").write_text(text * 1000)
    spec = DatasetSpec(path=str(folder))
    command = [sys.executable, "-P", "-m", "engine.worker.import_data", spec.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(name.endswith(".partial") for name in kept()):
            time.sleep(0.01)
        process.kill()
    assert all(name.endswith(".partial") for name in kept())
    assert len(rows_of(fetch(spec))) == 200_000
    assert [name for name in kept() if name.endswith(".partial")] == []


def test_two_imports_of_the_same_rows_agree(hub: Hub) -> None:
    hub.add("org/chat", {"train.jsonl": lines(chat(500))})
    found: list[DatasetSpec] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(DatasetSpec(path="org/chat")))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [rows_of(spec) for spec in found] == [chat(500)] * 2
    assert len(kept()) == 1


# ── which rows: subsets, splits, revisions, files ──


def test_an_address_may_name_revision_and_file(hub: Hub) -> None:
    hub.add("org/files", {"a/one.jsonl": lines(chat(1)), "a/two.jsonl": lines(chat(2))})
    commit = hub.commit("datasets", "org/files")
    assert len(rows_of(fetch(DatasetSpec(path=f"hf://datasets/org/files@{commit}/a/two.jsonl")))) == 2
    assert len(rows_of(fetch(DatasetSpec(path="hf://datasets/org/files/a/*.jsonl")))) == 3
    with pytest.raises(MissingError, match="no such revision"):
        fetch(DatasetSpec(path="org/files@v9"))


def test_what_is_no_address_is_told(hub: Hub) -> None:
    with pytest.raises(UsageError, match="not the address of a data set"):
        fetch(DatasetSpec(path="hf://models/org/name"))


# ── the hub says no ──


def test_a_gated_data_set_says_how_to_get_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/secret", {"train.jsonl": lines(chat(2))})
    hub.gated["org/secret"] = "hf_let_me_in"
    with pytest.raises(MissingError, match="org/secret is gated") as refused:
        fetch(DatasetSpec(path="org/secret"))
    assert "HF_TOKEN" in " ".join(refused.value.hints)
    monkeypatch.setenv("HF_TOKEN", "hf_somebody_else")
    with pytest.raises(MissingError, match="org/secret is gated"):
        fetch(DatasetSpec(path="org/secret"))
    monkeypatch.setenv("HF_TOKEN", "hf_let_me_in")
    assert len(rows_of(fetch(DatasetSpec(path="org/secret")))) == 2


def test_a_data_set_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(MissingError, match="The hub has no data set org/nothing"):
        fetch(DatasetSpec(path="org/nothing"))


def test_a_hub_that_is_out_of_order(hub: Hub) -> None:
    hub.status = 500
    with pytest.raises(MissingError):
        fetch(DatasetSpec(path="org/chat"))


def test_without_a_network_the_error_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingError, match="org/chat is not on this machine") as missing:
        fetch(DatasetSpec(path="org/chat"))
    assert "hf download" in " ".join(missing.value.hints)


def test_offline_the_error_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="org/chat is not on this machine"):
        fetch(DatasetSpec(path="org/chat"))
    assert not hub.requests


def test_offline_what_was_imported_is_found(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/chat", {"train.jsonl": lines(chat(2)), "test.jsonl": lines(chat(1))})
    first = fetch(DatasetSpec(path="org/chat"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(DatasetSpec(path="org/chat")) == first
    with pytest.raises(MissingError):  # its cache is not whole: test.jsonl was never needed
        fetch(DatasetSpec(path="org/chat", split="test"))


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_offline_a_whole_snapshot_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/chat", {"train.parquet": parquet(chat(2)), "test.parquet": parquet(chat(1))})
    python("import huggingface_hub as h; h.snapshot_download('org/chat', repo_type='dataset')")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = fetch(DatasetSpec(path="org/chat", split="test"))
    assert rows_of(found) == chat(1)
    assert hub.commit("datasets", "org/chat") in found.source


@pytest.mark.slow
def test_offline_what_datasets_prepared_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/chat", {"train.parquet": parquet(chat(2)), "test.parquet": parquet(chat(1))})
    python("import datasets; datasets.load_dataset('org/chat')")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert rows_of(fetch(DatasetSpec(path="org/chat", split="test"))) == chat(1)


@pytest.mark.slow
def test_a_download_that_breaks_off_is_told(hub: Hub) -> None:
    data = parquet([{"text": os.urandom(500).hex()} for _ in range(100)])
    hub.add("org/large", {"train.parquet": data})
    hub.cut["train.parquet"] = 5000
    with pytest.raises(MissingError, match="broke off"):
        fetch(DatasetSpec(path="org/large"))
    hub.cut.clear()
    assert len(rows_of(fetch(DatasetSpec(path="org/large")))) == 100


def test_a_download_that_breaks_off_now_and_then_is_continued(hub: Hub) -> None:
    rows = [{"text": os.urandom(50_000).hex()} for _ in range(30)]
    data = parquet(rows)
    hub.add("org/large", {"train.parquet": data})
    hub.broken["train.parquet"] = len(data) // 2 + 1
    assert rows_of(fetch(DatasetSpec(path="org/large"))) == rows
    assert [bool(asked.range) for asked in hub.downloads("train.parquet")][:2] == [False, True]


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_a_file_that_arrives_damaged_is_refused(hub: Hub, name: str) -> None:
    hub.add("org/chat", {name: parquet(chat(2)) if name.endswith("parquet") else lines(chat(2))})
    hub.wrong.add(name)
    with pytest.raises(MissingError, match="arrived damaged"):
        fetch(DatasetSpec(path="org/chat"))
    hub.wrong.clear()
    assert len(rows_of(fetch(DatasetSpec(path="org/chat")))) == 2


# ── what cannot be learned from ──


def test_no_code_of_a_data_set_is_run(hub: Hub, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    code = f"open({str(witness)!r}, 'w')\n"
    hub.add("org/coded", {"coded.py": code, "train.jsonl": lines(chat(2))})
    with pytest.raises(DataError, match="needs its own code") as refused:
        fetch(DatasetSpec(path="org/coded"))
    assert "refs/convert/parquet" in " ".join(refused.value.hints)
    assert not witness.exists()


def test_a_data_set_without_data_files(hub: Hub) -> None:
    hub.add("org/empty", {"README.md": "Nothing yet."})
    with pytest.raises(DataError, match="no data files that can be loaded"):
        fetch(DatasetSpec(path="org/empty"))


def test_pictures_are_refused_by_name_before_they_are_downloaded(hub: Hub) -> None:
    card = (
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: photo\n    dtype: image\n---\n"
    )
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    photo = pa.array([{"bytes": b"\x89PNG", "path": None}], struct)
    data = parquet(pa.table({"text": ["a cat"], "photo": photo}))
    hub.add("org/photos", {"README.md": card, "train.parquet": data})
    with pytest.raises(DataError, match=r"photo \(image\)"):
        fetch(DatasetSpec(path="org/photos"))
    assert not hub.downloads(".parquet")
    assert rows_of(fetch(DatasetSpec(path="org/photos", columns="text=text"))) == [{"text": "a cat"}]


def test_broken_rows_are_told_with_a_way_out(hub: Hub) -> None:
    hub.add("org/broken", {"train.jsonl": '{"text": "a"}\n{"text": \n'})
    with pytest.raises(DataError, match="org/broken cannot be read") as broken:
        fetch(DatasetSpec(path="org/broken"))
    assert "Name one of its files" in " ".join(broken.value.hints)

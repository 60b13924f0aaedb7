"""What is a Hugging Face data set, and what a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.datasets.hub import Address, hub_spec, parse


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("org/name", Address("org/name")),
        ("org/name-2.5", Address("org/name-2.5")),
        ("org/name@v1.0", Address("org/name", "v1.0")),
        ("org/name@refs/convert/parquet", Address("org/name", "refs/convert/parquet")),
        ("hf://datasets/squad", Address("squad")),
        ("hf://datasets/org/name", Address("org/name")),
        ("hf://datasets/org/name@main/a/b.jsonl", Address("org/name", "main", "a/b.jsonl")),
        ("hf://datasets/org/name/a/*.jsonl", Address("org/name", "", "a/*.jsonl")),
        ("hf://datasets/org/name@refs%2Fpr%2F1", Address("org/name", "refs/pr/1")),
        ("hf://datasets/org/name@refs/pr/1/a.csv", Address("org/name", "refs/pr/1", "a.csv")),
        ("https://huggingface.co/datasets/org/name", Address("org/name")),
        ("https://huggingface.co/datasets/org/name/viewer/default/train?p=1", Address("org/name")),
        ("https://huggingface.co/datasets/org/name/blob/main/a.csv", Address("org/name", "main", "a.csv")),
        ("hf://models/org/name", None),
        ("https://example.org/data.jsonl", None),
        ("name", None),
        ("a/b/c", None),
        ("../name", None),
    ],
)
def test_addresses(path: str, address: Address | None) -> None:
    assert parse(path) == address


@pytest.mark.parametrize("path", ["org/name", "hf://datasets/org/name", "hf://anything", "https://huggingface.co/x"])
def test_what_is_of_the_hub(here: Path, path: str) -> None:
    assert hub_spec(path)


@pytest.mark.parametrize(
    "path", ["", "data.jsonl", "data/train.jsonl", "data/train.jsonl.gz", "./org", "nothing", "/a/b", "a\0b/c", "~/x"]
)
def test_what_is_meant_as_a_file(here: Path, path: str) -> None:
    assert not hub_spec(path)


def test_a_file_that_is_there_is_a_file(here: Path) -> None:
    (here / "org").mkdir()
    (here / "org" / "name").write_text("{}")
    assert not hub_spec("org/name")


def test_a_pipe_and_a_broken_link_are_no_ids(here: Path) -> None:
    (here / "org").mkdir()
    os.mkfifo(here / "org" / "pipe")
    (here / "org" / "name").symlink_to("name")
    assert not hub_spec("org/pipe")
    assert not hub_spec("org/name")


@pytest.mark.parametrize("name", ["train.parquet", "data/train.JSONL", "en/data/train.csv", "a.jsonl.gz", "state.json"])
def test_a_folder_with_data_files_is_a_data_set(here: Path, name: str) -> None:
    (here / "org" / "name" / name).parent.mkdir(parents=True)
    (here / "org" / "name" / name).touch()
    assert hub_spec("org/name")
    assert hub_spec(str(here / "org" / "name"))


@pytest.mark.parametrize("name", ["notes.txt", "a.gz", ".git/index.json", "a/b/c/train.csv"])
def test_another_folder_is_none(here: Path, name: str) -> None:
    (here / "org" / "name" / name).parent.mkdir(parents=True)
    (here / "org" / "name" / name).touch()
    assert not hub_spec("org/name")


def test_a_folder_of_many_others_is_answered_soon(here: Path) -> None:
    for number in range(300):
        (here / f"{number}" / "a" / "b").mkdir(parents=True)
    assert not hub_spec(str(here))

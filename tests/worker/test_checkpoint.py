"""A checkpoint is whole or not there; a damaged one is never resumed from."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.paths import RunDir
from engine.worker import checkpoint
from engine.worker.checkpoint import MANIFEST, NEEDED, Manifest


def write(run: RunDir, step: int) -> Path:
    facts = Manifest(step=step, trained_tokens=0, plan_sha256="p", data_sha256="d", versions={})

    def files(folder: Path) -> None:
        for name in NEEDED:
            (folder / name).write_bytes(name.encode() * 100)

    return checkpoint.write(run, facts, files)[0]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def found_step(run: RunDir) -> int | None:
    found, _ = checkpoint.newest(run, "p", "d")
    return found.manifest.step if found else None


def test_the_newest_is_by_number_not_by_name(run: RunDir) -> None:
    write(run, 9)
    write(run, 10)
    assert found_step(run) == 10


@pytest.mark.parametrize("name", [*NEEDED, MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_file_makes_the_one_before_count(run: RunDir, name: str, share: float) -> None:
    write(run, 1)
    file = write(run, 2) / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    assert found_step(run) == 1


@pytest.mark.parametrize("name", [*NEEDED, MANIFEST])
def test_a_missing_file_makes_the_one_before_count(run: RunDir, name: str) -> None:
    write(run, 1)
    (write(run, 2) / name).unlink()
    assert found_step(run) == 1


def test_a_changed_byte_is_told(run: RunDir) -> None:
    file = write(run, 2) / "optimizer.pt"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(bytes(data))
    assert checkpoint.newest(run, "p", "d") == (None, ["checkpoint-2: optimizer.pt was changed"])


@pytest.mark.parametrize(("plan", "data"), [("other", "d"), ("p", "other")])
def test_another_plan_or_other_data_is_refused(run: RunDir, plan: str, data: str) -> None:
    write(run, 2)
    assert checkpoint.newest(run, plan, data)[0] is None


def test_a_failed_write_leaves_nothing_and_the_one_before(run: RunDir) -> None:
    write(run, 1)

    def full(folder: Path) -> None:
        (folder / NEEDED[0]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    facts = Manifest(step=2, trained_tokens=0, plan_sha256="p", data_sha256="d", versions={})
    with pytest.raises(OSError, match="No space"):
        checkpoint.write(run, facts, full)
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-1"]


def test_rotation_keeps_the_newest_and_clears_what_a_crash_left(run: RunDir) -> None:
    for step in (2, 10, 9):
        write(run, step)
    (run.checkpoints / "checkpoint-11.partial").mkdir()
    checkpoint.rotate(run, 2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["checkpoint-10", "checkpoint-9"]

"""Checkpoints that are whole or not there: written aside, listed with hashes, renamed; verified before a resume."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.config import Frozen
from engine.paths import RunDir, partial
from engine.worker.context import size, sync
from engine.worker.lineage import Base

MANIFEST = "MANIFEST.json"
NEEDED = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
"""Without one of these a resume would go on with something silently reset."""

_NAME = re.compile(r"checkpoint-([0-9]+)")


class FileFact(Frozen):
    """A file as it was written."""

    size_bytes: int
    sha256: str


class Manifest(Frozen):
    """What a checkpoint is of, and which files it consists of. Written last."""

    version: int = 1
    step: int
    trained_tokens: int
    plan_sha256: str
    data_sha256: str
    base: Base = Base()
    versions: dict[str, str]
    files: dict[str, FileFact] = {}


@dataclass(frozen=True)
class Found:
    """A checkpoint whose every file was verified."""

    path: Path
    manifest: Manifest


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_of(run: RunDir, step: int) -> Path:
    """`checkpoints/checkpoint-<step>`, the name that transformers uses too."""
    return run.checkpoints / f"checkpoint-{step}"


def write(run: RunDir, facts: Manifest, write_files: Callable[[Path], None]) -> tuple[Path, int]:
    """Write a checkpoint whole or not at all: path and bytes. Raises OSError if the disk is full.

    Files first, then the manifest with their hashes, all pushed to the disk before the folder gets its name.
    """
    final = folder_of(run, facts.step)
    temporary = partial(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_files(temporary)
        files = {
            file.name: FileFact(size_bytes=file.stat().st_size, sha256=sha256(file)) for file in temporary.iterdir()
        }
        manifest = facts.model_copy(update={"files": files})
        (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=2), "utf-8")
        sync(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if final.exists():  # the same step again, after a resume
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_folder(run.checkpoints)
    return final, size(final)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def steps(run: RunDir) -> list[int]:
    """The steps of all checkpoints, valid or not, newest first."""
    names = run.checkpoints.iterdir() if run.checkpoints.is_dir() else iter(())
    found = (_NAME.fullmatch(path.name) for path in names)
    return sorted((int(match[1]) for match in found if match), reverse=True)


def rotate(run: RunDir, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a crash left half written."""
    for step in steps(run)[keep:]:
        shutil.rmtree(folder_of(run, step))
    for left in run.checkpoints.glob("checkpoint-*.partial"):
        shutil.rmtree(left)


def newest(run: RunDir, plan_sha256: str, data_sha256: str) -> tuple[Found | None, list[str]]:
    """The newest checkpoint that is whole and of this very plan and data; and why each newer one was skipped."""
    skipped: list[str] = []
    for step in steps(run):
        path = folder_of(run, step)
        manifest, problem = _verify(path, plan_sha256, data_sha256)
        if manifest is not None:
            return Found(path, manifest), skipped
        skipped.append(f"{path.name}: {problem}")
    return None, skipped


def _verify(path: Path, plan_sha256: str, data_sha256: str) -> tuple[Manifest | None, str]:
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None, f"it has no {MANIFEST}"
    except (ValidationError, OSError):
        return None, f"its {MANIFEST} cannot be read"
    if manifest.plan_sha256 != plan_sha256:
        return None, "it was made by another plan"
    if manifest.data_sha256 != data_sha256:
        return None, "it was made with other data"
    return _verify_files(path, manifest)


def _verify_files(path: Path, manifest: Manifest) -> tuple[Manifest | None, str]:
    missing = [name for name in NEEDED if name not in manifest.files]
    if missing:
        return None, f"it was written without {missing[0]}"
    for name, fact in manifest.files.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            return None, f"{name} is missing"
        if file.stat().st_size != fact.size_bytes:
            return None, f"{name} has {file.stat().st_size} bytes instead of {fact.size_bytes}"
        if sha256(file) != fact.sha256:
            return None, f"{name} was changed"
    return manifest, ""

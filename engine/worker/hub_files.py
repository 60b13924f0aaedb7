"""Which files of a repository make a model, and what of them lies in the Hugging Face cache."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from engine.errors import MissingError
from engine.model_folder import weights_are_here
from engine.text import clean_line
from engine.units import format_bytes

NEEDED = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.*")
"""What a model's folder must have of the repository's own, beside its weights."""
WANTED = (*NEEDED, "*.txt", "LICENSE*")
"""What is downloaded beside the weights: no pickles, no code, and nothing in folders."""
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")

STALE_S = 3600.0
"""A file that is being downloaded is written all the time: one left alone so long belongs to a process that died."""
STALE = re.compile(r".+\.[0-9a-f]{8}\.incomplete")


@dataclass(frozen=True)
class File:
    """A file as the hub lists it."""

    path: str
    size: int
    """In bytes."""
    sha256: str
    """Of large files; of others the hub tells the git blob's name only."""
    blob_id: str

    @property
    def etag(self) -> str:
        """Its name among the cache's blobs."""
        return self.sha256 or self.blob_id


def in_cache(repo: str, revision: str) -> Path | None:
    """The model's folder if it is here whole, asking nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=list(NEEDED), ignore_patterns=["*/*"]
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found) if weights_are_here(Path(found)) else None


def chosen(repo: str, listed: dict[str, File]) -> tuple[File, list[File], list[File]]:
    """config.json, the other small files, and the weights by their usual names. Raises `MissingError`."""
    top = [file for name, file in listed.items() if "/" not in name]
    weights = [file for file in top if file.path == SINGLE]
    if INDEX in listed:
        shards = [file for file in top if SHARD.fullmatch(file.path)]
        weights = shards or [file for file in top if file.path.endswith(".safetensors")]
    if not weights:
        raise _no_weights(repo, listed)
    for name, what in (("config.json", "its shape"), ("tokenizer.json", "its tokenizer")):
        if name not in listed:
            hint = "Choose the model itself or another copy of it: an adapter or a converted file is not enough."
            raise MissingError(f"{repo} has no {name}", f"nothing else tells {what}", (hint,))
    config = listed["config.json"]
    return config, [file for file in top if file != config and any(fnmatch(file.path, one) for one in WANTED)], weights


def _no_weights(repo: str, names: Iterable[str]) -> MissingError:
    """Say what there is instead."""
    found = [name for name in names if name.endswith((*PICKLES, ".safetensors", ".gguf"))]
    detail = f"there is {clean_line(', '.join(found[:5]))}" if found else "it holds no weights"
    if any(name.endswith(PICKLES) for name in found):
        hint = "Pickled weights can run code when they are loaded, so finetui does not take them."
        return MissingError(f"{repo} has no safetensors", detail, (hint, "Look for a copy of it with safetensors."))
    hint = "finetui trains models in the layout of transformers: config.json and model*.safetensors."
    return MissingError(f"{repo} has no model.safetensors", detail, (hint,))


def amount(files: Sequence[File]) -> str:
    """`4 files, 14.9 GiB`."""
    return f"{len(files)} file{'s' * (len(files) != 1)}, {format_bytes(sum(file.size for file in files))}"


def is_same(path: Path, listed: File) -> bool:
    """Whether the file has the hub's hash: SHA-256, or that of a git blob. huggingface_hub compares sizes only."""
    with path.open("rb") as file:
        if listed.sha256:
            return hashlib.file_digest(file, "sha256").hexdigest() == listed.sha256
        start = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        return hashlib.file_digest(file, start.copy).hexdigest() == listed.blob_id


def remove(path: Path) -> None:
    """Take a file out of the cache: the name in the snapshot, and the bytes that it points to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def remove_stale(blobs: Path) -> None:
    """Remove what downloads left that were killed: nobody can continue it, as its name is known to them alone."""
    for path in blobs.glob("*.incomplete") if blobs.is_dir() else ():
        if STALE.fullmatch(path.name) and time.time() - path.stat().st_mtime > STALE_S:
            path.unlink(missing_ok=True)

"""Which base an adapter was trained on: kept beside the adapter, because it fits no other."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from engine.config import Frozen
from engine.errors import RunError
from engine.model_folder import MAX_HEADER_BYTES, weight_files
from engine.worker.model_files import read_json

FILE = "base.json"

PIECE_BYTES = 65_536
PIECES = 128
"""Of each larger file of weights so many pieces are read: 8 MiB, where a whole 8B model takes a minute."""


class Base(Frozen):
    """The base of an adapter."""

    commit: str | None = None
    """On the hub; None for a folder of one's own."""
    sha256: str = ""
    """See `fingerprint`; empty if it was not recorded."""


def base_of(folder: Path) -> Base:
    """The base in a model's folder."""
    return Base(commit=commit_of(folder), sha256=fingerprint(folder))


def commit_of(folder: Path) -> str | None:
    """The hub's commit of a cached snapshot (`…/snapshots/<commit>`); None for a folder of one's own."""
    return folder.name if folder.parent.name == "snapshots" else None


def fingerprint(folder: Path) -> str:
    """SHA-256 of config, tokenizer, and each file of weights: its name, size, header, and evenly spread pieces.

    A model trained anew differs in all of its tensors, so in the pieces; a few changed bytes may be missed.
    """
    digest = hashlib.sha256()
    for path in [folder / "config.json", folder / "tokenizer.json", *weight_files(folder)]:
        size = path.stat().st_size if path.is_file() else 0
        digest.update(f"{path.name}:{size}\n".encode())
        for piece in _pieces(path, size):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    if not size:
        return
    with path.open("rb") as file:
        if size <= PIECES * PIECE_BYTES or path.suffix != ".safetensors":
            yield file.read()
            return
        (length,) = struct.unpack("<Q", file.read(8))
        yield file.read(min(length, MAX_HEADER_BYTES))
        for at in range(PIECES):
            file.seek(size * at // PIECES)
            yield file.read(PIECE_BYTES)


def write(adapter: Path, base: Base) -> None:
    """Record the base in the adapter's folder."""
    (adapter / FILE).write_text(base.model_dump_json(indent=2) + "\n", "utf-8")


def read(adapter: Path) -> Base | None:
    """The recorded base; None if there is no adapter. Raises `RunError` if the record is damaged."""
    if not adapter.is_dir():
        return None
    try:
        return Base.model_validate_json((adapter / FILE).read_bytes())
    except FileNotFoundError:  # an adapter from elsewhere: peft's own config has a place for the commit
        return Base(commit=read_json(adapter / "adapter_config.json").get("revision"))
    except ValidationError as error:
        raise RunError("The record of the adapter's base is damaged", str(adapter / FILE)) from error


def require_same(folder: Path, trained: Base) -> None:
    """Raise `RunError` if the folder does not hold the base that was trained on."""
    if trained.sha256 and fingerprint(folder) != trained.sha256:
        raise RunError(
            "The base model has changed since the training",
            f"{folder} is not what the adapter was trained on",
            (
                "Put the model back as it was: an adapter fits no other.",
                "Or start a new run on the model as it is now.",
            ),
        )

"""The small files of a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import MissingError
from engine.text import clean_line


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; empty if there is none. Raises `MissingError` naming the file if it is damaged."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    return value if isinstance(value, dict) else {}


def read_text(path: Path) -> str:
    """A text file. Raises `MissingError` naming it if it cannot be read, or is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> MissingError:
    detail = f"{clean_line(str(path), 400)}: {clean_line(str(error))}"
    return MissingError("A file of the model cannot be read", detail, ("Download the model again.",))

"""Reading the small files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; empty if there is none."""
    if not path.is_file():
        return {}
    value = json.loads(path.read_text("utf-8"))
    return value if isinstance(value, dict) else {}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model folder: those that its index names, else `model*.safetensors`; may be empty.

    A folder may hold the same weights twice, whole and in parts; what the index names is what transformers loads.
    """
    named = read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    files = sorted({folder / str(name) for name in named.values()})
    return files or sorted(folder.glob("model*.safetensors"))

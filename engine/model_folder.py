"""A folder of a Hugging Face model, read without loading it: `config.json` and the headers of the weights."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config import Architecture, Preset, TrainSpec
from engine.errors import MissingError, UsageError
from engine.families import Family, by_architecture
from engine.text import clean_line
from engine.units import MIB

MAX_HEADER_BYTES = 100 * MIB
"""The safetensors format's own limit."""

LARGE = 10**10
"""Models above ten billion weights want half the learning rate."""


def preset_of_folder(folder: Path) -> Preset:
    """A preset with default settings for the model in a folder.

    Raises `UsageError` if the folder holds no model that can be read, `MissingError` if its family is unknown.
    """
    config = _read_json(folder / "config.json")
    family = by_architecture(config)
    if "quantization_config" in config:
        hint = "Take the model's 16-bit original: finetui quantizes it itself, and merges into the original."
        raise UsageError("The model is quantized already", clean_line(str(folder), 400), (hint,))
    try:
        return _preset(folder, config, family)
    except (ValidationError, TypeError, ValueError, ArithmeticError) as error:
        shown = clean_line(str(folder / "config.json"), 400)
        raise UsageError("The model's config.json cannot be used", f"{shown}: {_reason(error)}") from error


def _preset(folder: Path, config: dict[str, Any], family: Family) -> Preset:
    architecture = architecture_of(config)
    context_length = int(config.get("max_position_embeddings") or 2048)
    parameters = count_parameters(folder, tied=architecture.tie_word_embeddings)
    return Preset(
        name=clean_line(folder.name.lower()) or "model",
        title=clean_line(folder.name) or "model",
        model=str(folder),
        family=family.name,
        parameters=parameters,
        download_bytes=sum(path.stat().st_size for path in weight_files(folder)),
        context_length=context_length,
        licence="not known",
        licence_note="Look into the model's own README.",
        architecture=architecture,
        train=TrainSpec(
            learning_rate=1e-4 if parameters > LARGE else 2e-4, max_length=max(16, min(2048, context_length))
        ),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return clean_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return clean_line(f"{error}")


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The numbers of a `config.json`; what transformers fills in by default is filled in here. Raises ValueError."""
    heads = config.get("num_attention_heads")
    head_dim = config.get("head_dim")
    if head_dim is None and isinstance(heads, int) and heads and isinstance(config.get("hidden_size"), int):
        head_dim = config["hidden_size"] // heads
    return Architecture.model_validate(
        {
            "num_hidden_layers": config.get("num_hidden_layers"),
            "hidden_size": config.get("hidden_size"),
            "num_attention_heads": heads,
            "num_key_value_heads": config.get("num_key_value_heads") or heads,
            "head_dim": head_dim,
            "intermediate_size": config.get("intermediate_size"),
            "vocab_size": config.get("vocab_size"),
            "tie_word_embeddings": config.get("tie_word_embeddings", False),
        }
    )


def _read_json(path: Path) -> dict[str, Any]:
    shown = clean_line(str(path), 400)
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        hints = ("Name a preset, or the folder of a Hugging Face model (with config.json and *.safetensors).",)
        raise UsageError("This folder holds no model", f"there is no {shown}", hints) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError("The model cannot be read", f"{shown}: {clean_line(str(error))}") from error
    if not isinstance(value, dict):
        raise UsageError("The model cannot be read", f"{shown}: not a JSON object")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that the model consists of; those that the index names may be missing on disk."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        return [single] if single.is_file() else []
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UsageError("The model cannot be read", f"{clean_line(str(index), 400)}: no weight_map")
    return [folder / Path(name).name for name in sorted(set(names.values()))]


def weights_are_here(folder: Path) -> bool:
    """True if the folder has a configuration and every file of weights."""
    if not (folder / "config.json").is_file():
        return False
    try:
        files = weight_files(folder)
    except UsageError:
        return False  # an index that cannot be read names no weights
    return bool(files) and all(path.is_file() for path in files)


def count_parameters(folder: Path, *, tied: bool) -> int:
    """Weights in a folder's safetensors files, by their headers; a tied head that is stored anyway counts once.

    Raises `MissingError` if files are missing, `UsageError` if one is damaged.
    """
    if not weights_are_here(folder):
        raise MissingError(
            "The model's weights are not whole",
            clean_line(str(folder), 400),
            ("The folder needs model.safetensors, or every file that model.safetensors.index.json names.",),
        )
    shapes = [item for path in weight_files(folder) for item in tensor_shapes(path).items()]
    return sum(math.prod(shape) for name, shape in shapes if not (tied and name == "lm_head.weight"))


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """`{name: shape}` of a safetensors file, from its header. Raises `UsageError` if it is damaged.

    Format: 8 bytes little-endian length, then that much JSON (github.com/huggingface/safetensors, README).
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
            if file.tell() != 8 + length or not header:
                raise ValueError("the header is not whole")
        return {name: list(value["shape"]) for name, value in header.items() if name != "__metadata__"}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError, RecursionError) as error:
        detail = f"{clean_line(str(path), 400)}: {clean_line(str(error))}"
        raise UsageError("The model's weights cannot be read", detail, ("Download the file again.",)) from error

"""A folder of a Hugging Face model, read without loading it: `config.json` and the headers of the weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config import Architecture, Preset, TrainSpec
from engine.errors import MissingError, UsageError
from engine.families import FAMILIES, Family, by_architecture, named_architecture
from engine.text import clean_line
from engine.units import MIB

MAX_HEADER_BYTES = 100 * MIB
"""The safetensors format's own limit."""

LARGE = 20 * 10**9
"""Models above so many weights want half the learning rate: QLoRA took 2e-4 for 7B and 13B, 1e-4 for 33B and 65B
(arXiv 2305.14314, table 9)."""

BESIDE_TEXT = ("vision_tower.", "multi_modal_projector.")
"""Modules of a checkpoint that see pictures; text does not pass through them."""


def preset_of_folder(folder: Path) -> Preset:
    """A preset with default settings for the model in a folder.

    Raises `UsageError` if the folder holds no model that can be read, `MissingError` if its family is unknown.
    """
    config = read_config(folder)
    preset = preset_of_config(config, str(folder), str(folder / "config.json"))
    found = {
        "parameters": count_parameters(folder, tied=preset.architecture.tie_word_embeddings),
        "download_bytes": sum(path.stat().st_size for path in weight_files(folder)),
    }
    if not found["parameters"]:
        raise UsageError("The model cannot be read", f"{clean_line(str(folder), 400)}: its files hold no weights")
    return preset.model_copy(update=found)


def preset_of_config(config: Mapping[str, Any], model: str, source: str) -> Preset:
    """A preset with default settings for the model that a `config.json` describes, its weights counted from it.

    `model` is a hub id or a folder, `source` is where the configuration was read, for the error. Raises `UsageError`
    naming the key that cannot be used, `MissingError` if the family is unknown.
    """
    family = by_architecture(config)
    if "quantization_config" in config:
        hint = "Take the model's 16-bit original: finetui quantizes it itself, and merges into the original."
        raise UsageError("The model is quantized already", clean_line(model, 400), (hint,))
    try:
        return _preset(config, family, model)
    except (ValidationError, TypeError, ValueError, ArithmeticError) as error:
        detail = f"{clean_line(source, 400)}: {_reason(error)}"
        raise UsageError("The model's config.json cannot be used", detail) from error


def _preset(config: Mapping[str, Any], family: Family, model: str) -> Preset:
    architecture = architecture_of(config, family)
    context_length = int(_text_config(config, family).get("max_position_embeddings") or 2048)
    parameters = family.parameters(architecture)
    title = clean_line(Path(model).name)
    return Preset(
        name=title.lower() or "model",
        title=title or "model",
        model=model,
        family=family.name,
        parameters=parameters,
        download_bytes=2 * parameters,
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


def architecture_of(config: Mapping[str, Any], family: Family) -> Architecture:
    """The numbers of a `config.json`; what transformers fills in by default is filled in here. Raises ValueError."""
    return Architecture.model_validate(_numbers(config, family))


def differences(preset: Preset, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Each field in which a downloaded `config.json` contradicts the preset, in words; empty: it is that model.

    `num_key_value_heads: the preset says 8, config.json says 4`. A context that is longer than told is no difference.
    """
    family = FAMILIES[preset.family]
    classes = " or ".join(family.architectures)
    if (named := named_architecture(config)) not in family.architectures:
        return (_difference("architectures", classes, named),)
    numbers, told = _numbers(config, family), preset.architecture.model_dump()
    found = [_difference(name, value, numbers[name]) for name, value in told.items() if numbers[name] != value]
    context = _text_config(config, family).get("max_position_embeddings")
    if not isinstance(context, int) or context < preset.context_length:
        found.append(_difference("max_position_embeddings", preset.context_length, context))
    if "quantization_config" in config:
        found.append(_difference("quantization_config", "16-bit weights", "quantized already"))
    return tuple(found)


def _difference(name: str, told: object, found: object) -> str:
    said = "has none" if found is None else f"says {clean_line(str(found), 60)}"
    return f"{name}: the preset says {told}, config.json {said}"


def _text_config(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The part of a `config.json` that is about text, with what transformers fills in where it is silent."""
    inner = config.get("text_config")
    # Where both say it, the inner one is what the text model is built from.
    told = {**config, **inner} if isinstance(inner, Mapping) else dict(config)
    return {**family.defaults, **{name: value for name, value in told.items() if value is not None}}


def _numbers(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The fields of `Architecture`, unchecked; None where nothing says them."""
    text = _text_config(config, family)
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    text.setdefault("num_key_value_heads", heads)
    text.setdefault("tie_word_embeddings", False)
    if isinstance(heads, int) and heads and isinstance(hidden, int):
        text.setdefault("head_dim", hidden // heads)
    fields = Architecture.model_fields.items()
    return {name: text.get(name, None if field.is_required() else field.default) for name, field in fields}


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model's folder. Raises `UsageError` if there is none, or none that can be read."""
    return _read_json(folder / "config.json")


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
    """Weights in a folder's safetensors files, by their headers; without those that text does not pass.

    Raises `MissingError` if files are missing, `UsageError` if one is damaged.
    """
    if not weights_are_here(folder):
        raise MissingError(
            "The model's weights are not whole",
            clean_line(str(folder), 400),
            ("The folder needs model.safetensors, or every file that model.safetensors.index.json names.",),
        )
    shapes = [item for path in weight_files(folder) for item in tensor_shapes(path).items()]
    return sum(math.prod(shape) for name, shape in shapes if _counts(name, tied=tied))


def _counts(name: str, *, tied: bool) -> bool:
    """False for a head that is the embedding, what sees pictures, and Llama 2's stored rotary frequencies."""
    if name.endswith("rotary_emb.inv_freq") or any(module in name for module in BESIDE_TEXT):
        return False
    return not (tied and name.endswith("lm_head.weight"))


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

"""The final weights of a run, one tensor at a time: base weights from safetensors with the adapter folded in.

Nothing here holds more than one tensor of the model (and the adapter, which is small), so an export needs about
as much memory as its largest tensor, in fp32 where an adapter touches it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import MissingError, RunError
from engine.text import clean_line
from engine.worker.model_files import read_json, weight_files
from engine.worker.text_part import is_beside, text_name

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""What a base may be stored in; anything else is quantized, and an adapter cannot be folded into it."""

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

_SAFE_INIT: tuple[object, ...] = (True, False, "gaussian", "eva", "orthogonal")
"""Starts that leave the base as it is. LoftQ, PiSSA, OLoRA and CorDA train against another base."""

_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "a bias on lora_B",
    "fan_in_fan_out": "fan_in_fan_out",
    "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable_token_indices",
    "target_parameters": "target_parameters",
    "layer_replication": "layer_replication",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
    "megatron_config": "megatron_config",
    "alora_invocation_tokens": "aLoRA",
}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name in the checkpoint, its shape and what it is stored in."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Bytes as stored."""
        return math.prod(self.shape) * self.dtype.itemsize


class Weights:
    """The safetensors of a model folder, read lazily: those of its text part, by their names in a text model."""

    def __init__(self, folder: Path) -> None:
        """Raises `MissingError` if the folder holds no safetensors, `RunError` if they cannot be read."""
        self.folder = folder
        self._handles: dict[Path, Any] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        """Each tensor's file, and its name there."""
        self._rename = text_name if is_beside(read_json(folder / "config.json")) else str
        files = weight_files(folder)
        if not files:
            raise MissingError(
                "The base model's weights are not here",
                f"{folder} has no model*.safetensors",
                ("Only safetensors are read; a pickled checkpoint can run code and is refused.",),
            )
        self.specs = [spec for file in files for spec in self._index(file)]

    def _index(self, file: Path) -> Iterator[TensorSpec]:
        try:
            handle = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            hint = "The file is damaged or not downloaded whole: remove it and fetch it again."
            raise RunError("The weights cannot be read", f"{file}: {clean_line(str(error))}", (hint,)) from error
        self._handles[file] = handle
        for stored in sorted(handle.keys(), key=_natural):
            name = self._rename(stored)
            if name is None:
                continue
            part = handle.get_slice(stored)
            dtype = DTYPES.get(part.get_dtype())
            if dtype is None:
                raise RunError(
                    "The base is not stored in 16 or 32 bits",
                    f"{file.name}: {name} is {part.get_dtype()}",
                    ("Choose the original model, not a quantized copy: an adapter is folded into full weights.",),
                )
            self._places[name] = file, stored
            yield TensorSpec(name, tuple(part.get_shape()), dtype)

    def read(self, name: str) -> Tensor:
        """One tensor as stored."""
        file, stored = self._places[name]
        tensor: Tensor = self._handles[file].get_tensor(stored)
        return tensor


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: for each base tensor `A` (r, in) and `B` (out, r), and one scale."""

    pairs: dict[str, tuple[Tensor, Tensor]]
    scale: float
    config: dict[str, Any]


def load_adapter(folder: Path) -> Adapter:
    """The adapter of a peft folder. Refuses by name every kind that is not a plain LoRA on linear layers.

    Scale: alpha/r (Hu et al., https://arxiv.org/abs/2106.09685) or alpha/sqrt(r) with rsLoRA
    (Kalajdzievski, https://arxiv.org/abs/2312.03732).
    """
    if not (folder / "adapter_config.json").is_file():
        raise MissingError(
            "There is no trained adapter yet", f"{folder.name}/ is missing", ("Train first: finetui train",)
        )
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    _refuse_kinds(config)
    tensors = load_file(folder / "adapter_model.safetensors")
    rank = int(config["r"])
    scale = float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Adapter(_pairs(tensors), scale, config)


def _refuse_kinds(config: dict[str, Any]) -> None:
    kinds = [text for key, text in _REFUSED.items() if config.get(key)]
    if config.get("peft_type") != "LORA":
        kinds.append(f"peft_type {config.get('peft_type')}")
    if config.get("bias", "none") != "none":
        kinds.append(f"bias={config['bias']}")
    if config.get("init_lora_weights", True) not in _SAFE_INIT:
        kinds.append(f"init_lora_weights={config['init_lora_weights']}")
    if kinds:
        raise RunError(
            "This kind of adapter cannot be folded",
            f"adapter_config.json: {clean_line(', '.join(kinds))}",
            ("Only plain LoRA and rsLoRA on linear layers can be exported; train again without it.",),
        )


def _pairs(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        match = _LORA.fullmatch(key)
        if match is None:
            strange.append(key)
        else:
            sides.setdefault(f"{match['module']}.weight", {})[match["side"]] = tensor
    strange += [name for name, pair in sides.items() if len(pair) != 2]
    if strange:
        raise _unused(strange)
    return {name: (pair["A"], pair["B"]) for name, pair in sides.items()}


def _unused(names: list[str]) -> RunError:
    shown = clean_line(", ".join(sorted(names)[:5]))
    return RunError(
        "The adapter holds tensors that nothing would use",
        f"{len(names)} of them: {shown}",
        ("The adapter and the base do not belong together, or it trains layers that cannot be folded.",),
    )


class Folded:
    """Base weights with an adapter folded in; without an adapter, the weights as they are."""

    def __init__(self, weights: Weights, adapter: Adapter | None = None) -> None:
        """Raises `RunError`, before anything is computed, if an adapter tensor finds no place."""
        self.specs = weights.specs
        self._weights = weights
        self._adapter = adapter
        if adapter is not None:
            _check_places({spec.name: spec.shape for spec in self.specs}, adapter)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(spec.size_bytes for spec in self.specs)

    def read(self, spec: TensorSpec, dtype: torch.dtype) -> Tensor:
        """The final tensor in `dtype`: `W + scale · B A`, summed in fp32 and rounded once."""
        tensor = self._weights.read(spec.name)
        pair = self._adapter.pairs.get(spec.name) if self._adapter is not None else None
        if pair is None or self._adapter is None:
            return tensor.to(dtype)
        down, up = pair  # (r, in), (out, r)
        return torch.addmm(tensor.float(), up.float(), down.float(), alpha=self._adapter.scale).to(dtype)


def _check_places(shapes: dict[str, tuple[int, ...]], adapter: Adapter) -> None:
    missing = [name for name in adapter.pairs if name not in shapes]
    if missing:
        raise _unused(missing)
    for name, (down, up) in adapter.pairs.items():
        change = (up.shape[0], down.shape[1])
        if change != shapes[name] or up.shape[1] != down.shape[0]:
            raise RunError(
                "The adapter does not fit the base",
                f"{clean_line(name)}: the base has {shapes[name]}, the adapter {change}",
                ("The adapter was trained on another base; check the plan's model and revision.",),
            )

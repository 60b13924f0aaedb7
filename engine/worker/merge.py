"""Stage "merge": the adapter folded into the 16-bit base, as a Hugging Face folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from engine.tokens.template import read_template
from engine.worker.context import Context
from engine.worker.fold import DTYPES, Folded, TensorSpec, Weights, load_adapter
from engine.worker.model import CARRIED, locate
from engine.worker.model_files import read_json
from engine.worker.template import end_of_turn
from engine.worker.text_part import text_config

SHARD_BYTES = 5_000_000_000
"""Largest file of weights, the size that hubs and transformers split at."""


def run(context: Context) -> None:
    """Write `merged/`. Raises `MissingError` without an adapter, `RunError` for one that cannot be folded."""
    adapter = load_adapter(context.run.adapter)
    base = locate(context)
    context.phase("reading the base model's index")
    folded = Folded(Weights(base), adapter)
    with context.writing(context.run.merged) as folder:
        folder.mkdir()
        context.phase("folding the adapter into the 16-bit base")
        _write_weights(context, folded, folder)
        _write_config(base, folder)
        _copy_tokenizer(context, base, folder)
    context.finding("ok", f"All {2 * len(adapter.pairs)} adapter tensors were folded in")


def stored_dtype(spec: TensorSpec) -> torch.dtype:
    """16 bits: as the base has it, and bf16 for a base in 32 bits."""
    return torch.bfloat16 if spec.dtype == torch.float32 else spec.dtype


def _write_weights(context: Context, folded: Folded, folder: Path) -> None:
    shards = _shards(folded.specs)
    total, done = folded.size_bytes, 0
    index: dict[str, str] = {}
    for number, specs in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / name).open("wb") as file:
            _write_header(file, specs)
            for spec in specs:
                context.check_stop()
                file.write(_raw(folded.read(spec, stored_dtype(spec))))
                index[spec.name] = name
                done += spec.size_bytes
                context.progress(done, total, "bytes", "merge")
    if len(shards) > 1:
        size = sum(_stored_bytes(spec) for spec in folded.specs)
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})


def _shards(specs: Sequence[TensorSpec], limit: int | None = None) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + _stored_bytes(spec) > (limit or SHARD_BYTES):
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += _stored_bytes(spec)
    return shards


def _stored_bytes(spec: TensorSpec) -> int:
    return spec.size_bytes // spec.dtype.itemsize * stored_dtype(spec).itemsize


def _write_header(file: BinaryIO, specs: Sequence[TensorSpec]) -> None:
    """The head of a safetensors file: eight bytes of length, then JSON that places each tensor in what follows.

    Written here because the library only saves tensors that are all in memory.
    Format: https://github.com/huggingface/safetensors#format
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        end = offset + _stored_bytes(spec)
        header[spec.name] = {
            "dtype": names[stored_dtype(spec)],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _raw(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(torch.uint8).numpy().data if tensor.dim() else _raw(tensor.reshape(1))


def _write_config(base: Path, folder: Path) -> None:
    config = text_config(read_json(base / "config.json"))
    dtype = config.get("dtype") or config.get("torch_dtype")
    key = "dtype" if "dtype" in config else "torch_dtype"
    config[key] = "bfloat16" if dtype in (None, "float32") else dtype
    _write_json(folder / "config.json", config)
    generation = read_json(base / "generation_config.json")
    generation["eos_token_id"] = _ends(base, generation.get("eos_token_id", config.get("eos_token_id")))
    _write_json(folder / "generation_config.json", generation)


def _ends(base: Path, known: int | list[int] | None) -> int | list[int]:
    """The end-of-text ids, with the token that ends an answer in the chat template among them."""
    ids = [known] if isinstance(known, int) else list(known or [])
    turn = end_of_turn(base)
    if turn is not None and turn not in ids:
        ids.append(turn)
    return ids[0] if len(ids) == 1 else ids


def _copy_tokenizer(context: Context, base: Path, folder: Path) -> None:
    """From the base: what transformers saves again lacks `tokenizer.model` and renames the tokenizer's class."""
    for file in {file for pattern in CARRIED for file in base.glob(pattern) if file.is_file()}:
        shutil.copyfile(file, folder / file.name)
    if read_template(base) is None and (trained := read_template(context.run.adapter)) is not None:
        (folder / "chat_template.jinja").write_text(trained, "utf-8")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")

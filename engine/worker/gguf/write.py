"""One streaming pass from final tensors to a bf16 GGUF file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import RunError
from engine.text import clean_line
from engine.worker.fold import Folded, TensorSpec
from engine.worker.gguf.family import Config, Family, write_parameters
from engine.worker.gguf.vocabulary import Vocabulary

_COMPUTED = re.compile(r".*\.(inv_freq|masked_bias)")
"""Buffers in older checkpoints that the runtime computes itself."""


@dataclass(frozen=True)
class Source:
    """Everything that goes into the file."""

    folded: Folded
    family: Family
    config: Config
    vocabulary: Vocabulary
    pre: str
    about: Mapping[str, str]
    """Texts for the metadata, by their whole key."""


def write_model(file: Path, source: Source, on_bytes: Callable[[int, int], None]) -> None:
    """Write the whole file; `on_bytes(done, total)` is called after each tensor and may raise to stop."""
    places = tensor_names(source)
    extra = list(source.family.additions(source.config))
    writer = gguf.GGUFWriter(file, source.family.name)
    for name, tensor in extra:
        _announce(writer, name, tuple(tensor.shape), torch.float32)
    for spec, name in places:
        _announce(writer, name, spec.shape, stored_dtype(spec, name))
    _write_metadata(writer, source)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, tensor in extra:
            writer.write_tensor_data(_raw(tensor))
        _write_tensors(writer, source, places, on_bytes)
    finally:
        writer.close()


def tensor_names(source: Source) -> list[tuple[TensorSpec, str]]:
    """Each tensor with its name in the file. Raises `RunError` for one that the architecture does not know."""
    config = source.config
    known = gguf.get_tensor_name_map(source.family.arch, config["num_hidden_layers"])
    tied = bool(config.get("tie_word_embeddings"))
    places = []
    for spec in source.folded.specs:
        if _COMPUTED.fullmatch(spec.name) or (tied and spec.name == "lm_head.weight"):
            continue
        name = known.get_name(spec.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise RunError(
                "The model has a tensor that its architecture does not know",
                f"{clean_line(spec.name)}, architecture {source.family.name}",
                ("This variant of the model cannot be exported to GGUF; the merged folder can be used.",),
            )
        places.append((spec, name))
    return places


def stored_dtype(spec: TensorSpec, name: str) -> torch.dtype:
    """Vectors and norms in fp32, matrices in bf16."""
    return torch.float32 if len(spec.shape) <= 1 or name.endswith("_norm.weight") else torch.bfloat16


def _announce(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    size = int(np.prod(shape)) * dtype.itemsize
    kind = gguf.GGMLQuantizationType.F32 if dtype == torch.float32 else gguf.GGMLQuantizationType.BF16
    # numpy has no bf16: the type that counts is the last argument.
    writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)


def _write_metadata(writer: gguf.GGUFWriter, source: Source) -> None:
    writer.add_type("model")
    for key, text in source.about.items():
        writer.add_string(key, clean_line(text, 2000))
    writer.add_size_label(gguf.size_label(*writer.get_total_parameter_count()))
    write_parameters(writer, source.config)
    source.family.parameters(writer, source.config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    source.vocabulary.write(writer, source.pre)


def _write_tensors(
    writer: gguf.GGUFWriter,
    source: Source,
    places: list[tuple[TensorSpec, str]],
    on_bytes: Callable[[int, int], None],
) -> None:
    total, done = sum(spec.size_bytes for spec, _ in places), 0
    for spec, name in places:
        tensor = source.folded.read(spec, stored_dtype(spec, name))
        writer.write_tensor_data(_raw(source.family.transform(spec.name, tensor, source.config)))
        done += spec.size_bytes
        on_bytes(done, total)


def _raw(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.contiguous().view(torch.uint8).numpy()

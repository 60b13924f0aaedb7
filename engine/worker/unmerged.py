"""The trained model as training left it: the 16-bit base with its adapter unmerged, computed in fp32, wherever it fits.

fp32 weights take 4 bytes a parameter. Where that is too much, the weights stay as they are stored, 2 bytes a parameter
or none (mapped from their files, so that the system reads and drops them as it must), and each layer is widened to
fp32 for the moment in which it computes. A 16-bit number is a 32-bit number, so the figures are the same; only slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from engine.config import Architecture
from engine.errors import RunError
from engine.text import clean_line
from engine.units import GIB, format_bytes
from engine.worker.context import Context
from engine.worker.model import Device, describe
from engine.worker.model_files import weight_files

SPARE = 1.2
"""Memory that must be free for each byte of weights: the rest is activations and the kept distributions."""

WORKING_BYTES = 2 * GIB
"""Beside weights that are widened one layer at a time: activations, logits, keys and values of the answers."""

SMALL = 20_000_000
"""Parameters below which torch computes on one thread: threads that wait for each other are slower than none."""


@dataclass(frozen=True)
class Placement:
    """Where the reference computes, and how its weights get there."""

    device: Device
    layerwise: bool = False
    """Weights as they are stored, each layer widened to fp32 when it computes; False: all of them in fp32 at once."""
    keep_bytes: int = 0
    """Layerwise on a GPU: stored weights that may stay on it; the others cross the bus each time."""

    def __str__(self) -> str:
        return f"fp32 on the {'GPU' if self.device == 'cuda' else 'CPU'}{', layer by layer' if self.layerwise else ''}"


def place(parameters: int, architecture: Architecture, gpu_free: int, memory_free: int) -> Placement:
    """The fastest way that fits; there always is one. All sizes in bytes; `gpu_free` is 0 without a GPU."""
    whole = 4 * SPARE * parameters
    if whole < gpu_free:
        return Placement("cuda")
    table = architecture.vocab_size * architecture.hidden_size
    # embedding and head stay on the GPU in 16 bits, and the head is once there in fp32
    keep = gpu_free - WORKING_BYTES - 4 * table
    if keep > 2 * 2 * table:
        return Placement("cuda", layerwise=True, keep_bytes=keep)
    return Placement("cpu", layerwise=whole >= memory_free)


def load(context: Context, base: Path, device: Device) -> tuple[Any, Placement]:
    """The base with the adapter beside it, in evaluation mode. Raises `RunError` if its weights do not fit its config.

    `device`: "cpu" touches no GPU.
    """
    import torch
    from peft import PeftModel

    preset = context.plan.preset
    gpu_free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
    memory_free = psutil.virtual_memory().available
    where = place(preset.parameters, preset.architecture, gpu_free, memory_free)
    if where.device == "cpu" and preset.parameters < SMALL:
        torch.set_num_threads(1)
    context.phase(f"loading the 16-bit base with the adapter, in {where} ({describe(where.device)})")
    if not where.layerwise:
        return PeftModel.from_pretrained(_whole(base, where.device), str(context.run.adapter)).eval(), where
    context.finding(
        "warning",
        "The trained model is computed layer by layer: the figures are the same, it takes longer",
        f"in fp32 it takes {format_bytes(4 * preset.parameters)}; free are {format_bytes(gpu_free)} on the GPU "
        f"and {format_bytes(memory_free)} of memory",
    )
    tuned = PeftModel.from_pretrained(mapped(base), str(context.run.adapter)).eval()
    spread(tuned, where)
    return tuned, where


def _whole(base: Path, device: Device) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.float32, device_map={"": device}, use_safetensors=True, trust_remote_code=False
    )


def mapped(base: Path) -> Any:
    """The model of a folder with its weights as stored, mapped from their files: they take memory only in use."""
    from accelerate import init_empty_weights
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config)
    if (base / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(base), local_files_only=True)
    wanted = model.state_dict().keys()
    for file in weight_files(base):
        with safe_open(file, framework="pt") as tensors:
            known = {name: tensors.get_tensor(name) for name in tensors.keys() if name in wanted}  # noqa: SIM118
        model.load_state_dict(known, strict=False, assign=True)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        hint = "Fetch the model's folder again: its weights are not those that its config.json describes."
        raise RunError("The base's weights are not whole", clean_line(", ".join(missing[:5])), (hint,))
    return model.requires_grad_(False)


def spread(model: Any, where: Placement) -> None:
    """Keep on the device what may stay there, and let every layer compute in fp32 on it."""
    from torch import nn

    room = where.keep_bytes
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        # The adapter, the norms and both ends are always there: the ends are used outside of their layers as well.
        fixed = "lora_" in name or own[0].dim() == 1 or isinstance(module, nn.Embedding) or name.endswith("lm_head")
        room -= 0 if fixed else sum(parameter.nbytes for parameter in own)
        for parameter in own:
            if fixed or room >= 0:
                parameter.data = parameter.data.to(where.device)
        if isinstance(module, nn.Embedding):  # a few rows of a large table: these alone are widened
            module.register_forward_hook(lambda _module, _arguments, output: output.float())
            continue
        module.register_forward_pre_hook(_widened(where.device))
        module.register_forward_hook(_narrowed)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(where.device))


def _widened(device: Device) -> Any:
    import torch

    def widen(module: Any, _arguments: Any) -> None:
        module.as_stored = [(parameter, parameter.data) for parameter in module.parameters(recurse=False)]
        for parameter, stored in module.as_stored:
            parameter.data = stored.to(device, torch.float32)

    return widen


def _narrowed(module: Any, _arguments: Any, _output: Any) -> None:
    for parameter, stored in module.as_stored:
        parameter.data = stored
    del module.as_stored

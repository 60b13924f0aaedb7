"""The ledger against a GPU: predicted and measured peaks over sixteen settings, without a download.

Run on a machine with an NVIDIA GPU: `python benchmarks/memory.py [--json FILE] [--only NAME]`.

Each setting runs in a process of its own, on a model of the preset's shapes with random weights, through what
training uses: NF4 from bitsandbytes, an adapter from peft, trl's fused loss, bf16, the preset's checkpoints. Two
passes and a step come first; the third pass is measured. Printed are the ledger's error as it stands, and its error
after it was corrected with the measurement of another length with the same key. Goals: 8 % and 3 %. Settings that the
card has no room for are named and left out. Exits 7 without a GPU, 6 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine import calibration, gpu, presets
from engine.config import Preset
from engine.errors import ExitCode
from engine.families import FAMILIES
from engine.gpu import GpuReading
from engine.units import format_bytes
from engine.vram import Correction, ledger

ALL = {"gradient_checkpointing": "true"}
NONE = {"gradient_checkpointing": "false"}
HALF = {**ALL, "gradient_checkpointing_every": "2"}
OFFLOADED = {**ALL, "gradient_checkpointing_offload": "true"}
SIXTEEN_BITS = {**ALL, "quantization": "none"}

SETTINGS: tuple[tuple[str, dict[str, str], tuple[int, ...]], ...] = (
    ("qwen2.5-0.5b-instruct", {**NONE, "micro_batch_size": "1"}, (2048, 8192)),
    ("qwen3-0.6b", {**ALL, "micro_batch_size": "4"}, (512, 2048)),
    ("llama-3.2-1b-instruct", {**HALF, "micro_batch_size": "1"}, (2048, 8192)),
    ("gemma-3-1b-it", {**ALL, "micro_batch_size": "2"}, (1024, 4096)),
    ("gemma-2-2b-it", {**ALL, "micro_batch_size": "1"}, (1024, 2048)),
    ("phi-3.5-mini-instruct", {**ALL, "micro_batch_size": "1"}, (1024, 4096)),
    ("llama-3.1-8b-instruct", {**OFFLOADED, "micro_batch_size": "1"}, (4096, 16_384)),
    ("llama-3.2-3b-instruct", {**SIXTEEN_BITS, "micro_batch_size": "1"}, (1024, 4096)),
)
"""A preset, its changes, and two lengths: each is predicted anew from the measurement of the other."""

GOAL, CORRECTED_GOAL = 0.08, 0.03


def built(preset: Preset, device: str) -> Any:
    """The preset's model with random weights: linears in NF4 as planned, the rest in bf16, with an adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    family, arch, nf4 = FAMILIES[preset.family], preset.architecture, preset.train.quantization == "nf4"
    told = {name: value for name, value in arch.model_dump().items() if value is not None}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family.model_types[0], **told, **tokens)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if nf4:
        _quantize(model, list(family.linear_shapes(arch)), device)
    _fill(model, device)
    model.tie_weights()
    train = preset.train
    if train.gradient_checkpointing:
        model.activation_checkpointing_enable(
            every_n_layers=train.gradient_checkpointing_every, offload=train.gradient_checkpointing_offload
        )
    linears = list(family.linear_shapes(arch))
    lora = LoraConfig(r=preset.lora.rank, lora_alpha=preset.lora.alpha, target_modules=linears, task_type="CAUSAL_LM")
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    adapted = get_peft_model(model, lora).train()
    adapted.enable_input_require_grads()
    if nf4:  # as trl does for a quantized base
        for weight in (weight for weight in adapted.parameters() if weight.requires_grad):
            weight.data = weight.data.to(torch.bfloat16)
    return adapted


def _quantize(model: Any, names: list[str], device: str) -> None:
    """Put an NF4 layer of random weights in the place of each decoder's linear, one at a time."""
    import bitsandbytes
    import torch

    found = [(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] in names]
    for name, module in found:
        linear = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, bias=module.bias is not None, quant_type="nf4",
            compute_dtype=torch.bfloat16, compress_statistics=True,
        )  # fmt: skip
        linear.weight.data = torch.randn(module.out_features, module.in_features, dtype=torch.bfloat16) * 0.02
        if module.bias is not None:
            linear.bias.data = torch.zeros(module.out_features, dtype=torch.bfloat16)
        linear.requires_grad_(False)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, linear.to(device))


def _fill(model: Any, device: str) -> None:
    """Random values for what is still without memory; buffers are computed anew where the module knows how."""
    import torch

    for module in list(model.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_meta:
                values = torch.randn(weight.shape, dtype=torch.bfloat16, device=device) * 0.02
                setattr(module, name, torch.nn.Parameter(values, requires_grad=False))
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            _renew(module, model.config, device)


def _renew(module: Any, config: Any, device: str) -> None:
    """Buffers of frequencies and scales, from a module of the same kind that was made with memory behind it."""
    import torch

    try:
        fresh = type(module)(config)
    except TypeError:  # Gemma's embedding, scaled by the root of its width
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.full_like(buffer, config.hidden_size**0.5, device=device), False)
        return
    for name, buffer in fresh.named_buffers(recurse=False):
        module.register_buffer(name, buffer.to(device), persistent=False)


def one_pass(model: Any, preset: Preset, device: str) -> None:
    """Forward and backward over rows of `max_length`; where there are several, the others are a third shorter."""
    import torch

    train = preset.train
    ids = torch.randint(3, 1000, (train.micro_batch_size, train.max_length), device=device)
    mask = torch.ones_like(ids)
    mask[1:, 2 * train.max_length // 3 :] = 0
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True).loss
    loss.backward()


def measure(preset: Preset, card: GpuReading) -> dict[str, Any]:
    """A measurement of the preset's micro-batch on the GPU that this process sees, as JSON."""
    import time

    import torch

    model = built(preset, "cuda")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=True)
    for _ in range(2):
        one_pass(model, preset, "cuda")
    optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    loaded, began = torch.cuda.memory_allocated(), time.monotonic()
    one_pass(model, preset, "cuda")
    torch.cuda.synchronize()
    seconds = time.monotonic() - began
    reserved = torch.cuda.max_memory_reserved()
    free, total = torch.cuda.mem_get_info()
    others = 0 if card.total_bytes is None or card.free_bytes is None else card.total_bytes - card.free_bytes
    found = calibration.measurement(
        preset, card, ledger(preset, card).parts,
        length=preset.train.max_length, loaded_bytes=loaded, allocated_bytes=torch.cuda.max_memory_allocated(),
        reserved_bytes=reserved, context_bytes=max(total - free - reserved - others, 0), absent=(),
        tokens_per_s=preset.train.micro_batch_size * preset.train.max_length / seconds,
    )  # fmt: skip
    return found.model_dump()


def cases(only: str) -> Iterator[tuple[Preset, Preset]]:
    """Each setting, with the one of another length that it is corrected by."""
    for name, changes, lengths in SETTINGS:
        if only in name:
            made = [
                presets.override(presets.find_preset(name), {**changes, "max_length": str(size)}) for size in lengths
            ]
            yield from ((made[0], made[1]), (made[1], made[0]))


def _measured(preset: Preset, card: GpuReading) -> calibration.Measurement | None:
    """In a process of its own, so that nothing of the one before is in memory; None if it ended with an error."""
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    environment["CUDA_VISIBLE_DEVICES"] = card.uuid or "0"
    command = [sys.executable, str(Path(__file__).resolve()), "--one", preset.model_dump_json()]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        return None
    return calibration.Measurement.model_validate_json(result.stdout.splitlines()[-1])


def _line(preset: Preset, found: calibration.Measurement, error: float, corrected: float | None) -> str:
    shown = "     –" if corrected is None else f"{corrected:+6.1%}"
    what = f"{preset.name} {found.rows} × {found.length:,}"
    return f"{what:<40} {format_bytes(found.measured_bytes):>10} {error:+6.1%} {shown}"


def compare(card: GpuReading, only: str) -> list[dict[str, Any]]:
    """Measure every setting, then say how far the ledger is from each, as it stands and corrected."""
    pairs, seen = list(cases(only)), {}
    for preset, _ in pairs:
        budget = ledger(preset, card)
        found = _measured(preset, card) if budget.fits else None
        if found is None:
            why = "failed, see above" if budget.fits else f"needs {format_bytes(budget.needed_bytes)}, left out"
            print(f"{preset.name} {preset.train.max_length:,}: {why}", file=sys.stderr)
        else:
            seen[preset.model_dump_json()] = found
    return list(_compared(pairs, seen, card))


def _compared(
    pairs: list[tuple[Preset, Preset]], seen: dict[str, calibration.Measurement], card: GpuReading
) -> Iterator[dict[str, Any]]:
    for preset, other in pairs:
        found, hint = seen.get(preset.model_dump_json()), seen.get(other.model_dump_json())
        if found is None:
            continue
        error = _error(preset, card, found, Correction())
        corrected = None if hint is None else _error(preset, card, found, calibration.correction(preset, card, [hint]))
        print(_line(preset, found, error, corrected))
        yield {"preset": preset.name, "error": error, "corrected": corrected, **found.model_dump()}


def _error(preset: Preset, card: GpuReading, found: calibration.Measurement, correction: Correction) -> float:
    return ledger(preset, card, correction).needed_bytes / found.measured_bytes - 1


def main() -> int:
    """Measure, print, and judge by the goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--only", default="", help="presets whose name contains this")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    status = gpu.read()
    if not status.gpus:
        print(f"This benchmark measures a GPU, and there is none: {status.problem}", file=sys.stderr)
        return ExitCode.MISSING
    card = status.gpus[0]
    if arguments.one:
        print(json.dumps(measure(Preset.model_validate_json(arguments.one), card)))
        return ExitCode.DONE
    rows = compare(card, arguments.only)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    plain = max((abs(row["error"]) for row in rows), default=1.0)
    corrected = max((abs(row["corrected"]) for row in rows if row["corrected"] is not None), default=1.0)
    print(f"worst of {len(rows)}: {plain:.1%} (goal {GOAL:.0%}), corrected {corrected:.1%} (goal {CORRECTED_GOAL:.0%})")
    return ExitCode.DONE if plain <= GOAL and corrected <= CORRECTED_GOAL else ExitCode.CERTIFICATE


if __name__ == "__main__":
    sys.exit(main())

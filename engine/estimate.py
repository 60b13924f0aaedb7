"""About how long a training takes: the FLOP of its tokens against what the device does in a second."""

from __future__ import annotations

import re

from engine.activations import checkpointed_layers, shape_of
from engine.config import Preset
from engine.families import FAMILIES

TFLOPS = {
    "RTX 3060": 25.5,
    "RTX 3080": 59.5,
    "RTX 3090": 71.0,
    "RTX 4070": 58.2,
    "RTX 4080": 97.5,
    "RTX 4090": 165.2,
    "RTX 5080": 112.6,
    "RTX 5090": 209.5,
    "RTX A6000": 154.8,
    "L4": 121.0,
    "A10": 125.0,
    "L40S": 362.0,
    "A100": 312.0,
    "H100": 756.0,
    "H200": 790.0,
}
"""Dense bf16 TFLOP/s with fp32 accumulation, from NVIDIA's data sheets; H100 is the PCIe card, H200 was measured."""

UTILIZATION = 0.5
"""Share of that which training reaches. Published figures lie between 0.37 and 0.7 of the hardware's FLOP."""

CPU_FLOPS = 3.0e10
"""Two cores, measured on the demo: 2.2e12 FLOP in 55 s are 3.9e10 a second; less is taken, to promise too little."""


def training_flop(preset: Preset, tokens: float, mean_length: float) -> float:
    """FLOP to train on so many tokens, in rows of `mean_length` tokens on the average.

    Per token, with P the decoder's weights that it is multiplied with, H = hidden × vocab, R the adapter's weights,
    A = 2·layers·heads·head_dim·mean_length (causal attention) and c the share of layers that are computed twice:
    4P + 4H + 3A + 6R for the model, and c(2P + A + 2R) + 0.5A + 2H for what is computed again: checkpoints,
    attention's backward pass and the head.
    """
    arch, family = preset.architecture, FAMILIES[preset.family]
    linears = family.active_parameters(arch)  # of a mixture, the experts that a token goes to
    head = arch.hidden_size * arch.vocab_size
    adapter = family.lora_parameters(arch, preset.lora.rank)
    attention = 2 * arch.num_hidden_layers * arch.num_attention_heads * arch.head_dim * mean_length
    model = 4 * linears + 4 * head + 3 * attention + 6 * adapter
    twice = checkpointed_layers(preset.train, arch.num_hidden_layers) / arch.num_hidden_layers
    again = (2 * linears + attention + 2 * adapter) * twice + 0.5 * attention + 2 * head
    return tokens * (model + again)


def flops_of(gpu: str | None) -> float | None:
    """FLOP per second to count on, of the card with this name; None without a name: the CPU. Unknown cards: None."""
    if gpu is None:
        return CPU_FLOPS
    # "NVIDIA GeForce RTX 4090" and "NVIDIA A100-SXM4-80GB" are in the table; "RTX 4090 Laptop GPU" is another card.
    words = " ".join(re.split(r"[\s-]+", gpu)).removeprefix("NVIDIA ").removeprefix("GeForce ")
    for name, tflops in TFLOPS.items():
        rest = words.removeprefix(name) if words.startswith(name) else "?"
        if re.fullmatch(r"( (SXM\w*|PCIe|PCIE|NVL|\d+GB|HBM\w*))*", rest):
            return tflops * 1e12 * UTILIZATION
    return None


def training_seconds(
    preset: Preset, rows: int, tokens: int, steps: int, gpu: str | None, measured_flops: float | None = None
) -> float | None:
    """Seconds of `steps` optimizer steps over `rows` rows that hold `tokens` tokens together; None: not known.

    Without loading, evaluation and checkpoints; `gpu` None is the CPU. `measured_flops` a second were reached on this
    machine before, and count instead of the card's name. Rows count as long as they are, up to `max_length`, and not
    as long as they are filled up to in a batch.
    """
    flops = measured_flops or flops_of(gpu)
    if flops is None or rows <= 0:
        return None
    length = min(tokens / rows, preset.train.max_length)
    batch = preset.train.micro_batch_size * preset.train.gradient_accumulation_steps
    return training_flop(preset, steps * batch * length, length) / flops


UNKNOWN_FLOPS = 5.0e13
"""What is assumed of a card that is not in the table, where only an order is asked for."""

DEQUANTIZING_FLOP = 330
"""FLOP that a card could have done while it makes one weight of NF4 a number again: on an RTX 4090 the three passes
over an 8B take 7 % of the time of 2,048 tokens."""

LAUNCH_S = (0.0021, 0.0058)
"""Seconds in which Python starts the kernels of one layer's forward and backward pass, without and with a checkpoint.
Measured on 36 layers with an adapter on two slow cores; a small batch on a fast card waits for it."""

MASKED_SHARE = 0.06 / 1024
"""Time more for each token of a row's length where attention has an explicit mask and cannot take its fastest kernel: a
quarter at 4,096 tokens (transformers issue 30461, a Mistral)."""

PCIE_BYTES_S = 2.0e10
"""What goes between a GPU's memory and the machine's in a second, on PCIe 4.0 with 16 lanes."""


def batch_seconds(preset: Preset, tokens: float, mean_length: float, gpu: str | None) -> float:
    """About the seconds of one forward and backward pass over so many tokens: enough to put settings in an order."""
    flops = flops_of(gpu) or UNKNOWN_FLOPS
    family, arch, train = FAMILIES[preset.family], preset.architecture, preset.train
    layers = arch.num_hidden_layers
    twice = checkpointed_layers(train, layers)
    flop = training_flop(preset, tokens, mean_length)
    if train.quantization == "nf4" and gpu is not None:
        flop += DEQUANTIZING_FLOP * family.linear_parameters(arch) * (2 + twice / layers)
    launching = (layers - twice) * LAUNCH_S[0] + twice * LAUNCH_S[1]
    shape = shape_of(preset, on_cpu=gpu is None)
    slower = 1 + MASKED_SHARE * mean_length * (shape.masked and gpu is not None)
    seconds = max(flop * slower / flops, launching)
    if train.gradient_checkpointing_offload and gpu is not None:
        seconds += 2 * twice * tokens * shape.checkpoint() / shape.tokens / PCIE_BYTES_S
    return seconds

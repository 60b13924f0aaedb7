"""What a run needs in GPU memory, part by part, and which single changes would make it fit.

The terms of a decoder layer were fitted to the bytes that autograd keeps (saved-tensor hooks on Llama and Qwen3
layers with LoRA on all linears, SDPA attention, bf16); the sum is checked against torchtune's published peaks
in the tests. Letters: T tokens of a micro-batch, h hidden size, i MLP size, a all query heads, k all key heads.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.config import Architecture, Frozen, LoraSpec, Preset, TrainSpec
from engine.families import FAMILIES, Family
from engine.gpu import GpuReading
from engine.text import Text
from engine.units import GIB, format_bytes

NF4_BYTES = 0.5 + 1 / 64 * (1 + 4 / 256)
"""Bytes a weight in NF4 with double quantization: 4 bits, an 8-bit scale for each block of 64, and a float for
each 256 of those (bitsandbytes; QLoRA, arXiv 2305.14314, section 3)."""

CUDA_CONTEXT_BYTES = GIB // 2
"""What CUDA and cuBLAS take before the first tensor: 0.3 to 0.6 GiB."""

FRAGMENTATION = 0.03
"""Share that PyTorch's allocator reserves on top, with `expandable_segments:True`."""

MARGIN = 0.04
"""Share of the free memory that a plan leaves alone: a desktop or another process may grow a little."""

CHUNK_TOKENS, CHUNK_VOCABULARY = 4096, 32_768
"""The largest tile of logits that trl's loss computes at once."""

CPU_LIBRARIES_BYTES = GIB * 3 // 4
"""torch, transformers, peft and trl in the worker's own memory: 0.5 GiB after the imports, more at work (the demo's
whole worker peaks at 0.8 GiB on Linux)."""

PRACTICAL_MAX_LENGTH = 256
"""Advice does not go below rows of so many tokens."""


class Part(Frozen):
    """One line of a sum of bytes."""

    name: Text
    size_bytes: int


class Budget(Frozen):
    """What is needed, part by part, against what there is (None: not known, or not limited)."""

    parts: tuple[Part, ...]
    available_bytes: int | None = None

    @property
    def needed_bytes(self) -> int:
        """The sum of the parts."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def fits(self) -> bool:
        """True if the sum is within what there is."""
        return self.available_bytes is None or self.needed_bytes <= self.available_bytes


class Advice(Frozen):
    """One change that makes a run need less memory."""

    setting: str
    """With its section: `train.max_length`."""
    before: str
    after: str
    saved_bytes: int
    changes: dict[str, str]
    """The whole change, as `presets.override` takes it: a smaller micro-batch comes with more accumulation."""

    def __str__(self) -> str:
        name = self.setting.partition(".")[2]
        also = "".join(
            f" with {key.partition('.')[2]} {value}" for key, value in self.changes.items() if key != self.setting
        )
        return f"{name} {self.before} → {self.after}{also} saves {format_bytes(self.saved_bytes)}"


def ledger(preset: Preset, gpu: GpuReading | None) -> Budget:
    """Peak memory of training: of the GPU, or of the machine (float32 activations) where there is none.

    Expected within 10 % for real models. Needed is the peak; available is what is free now, less a margin.
    """
    if gpu is None:
        return Budget(parts=_parts(preset, on_cpu=True), available_bytes=_free_ram())
    free = gpu.free_bytes
    available = None if free is None else int(free * (1 - MARGIN))
    return Budget(parts=_parts(preset, on_cpu=False), available_bytes=available)


def _free_ram() -> int:
    import psutil  # here, not above: the light start does not need it

    return int(psutil.virtual_memory().available * (1 - MARGIN))


def _parts(preset: Preset, *, on_cpu: bool) -> tuple[Part, ...]:
    family, arch, train = FAMILIES[preset.family], preset.architecture, preset.train
    width = 4 if on_cpu else 2  # bytes a number that is computed with: float32 on the CPU, bf16 on the GPU
    plain = family.embedding_parameters(arch) + family.small_parameters(arch)
    parts = [
        ("weights", weight_bytes(train, family, arch, width)),
        ("embeddings and head", plain * width),
        ("adapter and optimizer", adapter_bytes(preset.lora, train, family, arch, on_cpu=on_cpu)),
        ("activations kept", kept_bytes(train, family, arch) * width // 2),
        ("peak of one layer or the head", peak_bytes(train, family, arch) * width // 2),
    ]
    total = sum(size for _, size in parts)
    fixed = ("Python and its libraries", CPU_LIBRARIES_BYTES) if on_cpu else ("CUDA context", CUDA_CONTEXT_BYTES)
    parts += [("fragmentation", int(total * FRAGMENTATION)), fixed]
    return tuple(Part(name=name, size_bytes=size) for name, size in parts)


def weight_bytes(train: TrainSpec, family: Family, arch: Architecture, width: int) -> int:
    """The decoder's linear layers: in NF4, or with `width` bytes a weight."""
    return int(family.linear_parameters(arch) * (NF4_BYTES if train.quantization == "nf4" else width))


def adapter_width(train: TrainSpec, *, on_cpu: bool) -> int:
    """Bytes a weight of the adapter: peft keeps it in float32, on a quantized base on a GPU trl makes it bf16."""
    return 2 if train.quantization == "nf4" and not on_cpu else 4


def adapter_bytes(lora: LoraSpec, train: TrainSpec, family: Family, arch: Architecture, *, on_cpu: bool) -> int:
    """The adapter with its gradients and Adam's two moments, which are a byte each with an 8-bit optimizer."""
    width = adapter_width(train, on_cpu=on_cpu)
    moments = 2 if train.optimizer.endswith("8bit") else 2 * width
    return family.lora_parameters(arch, lora.rank) * (2 * width + moments)


def _tokens(train: TrainSpec) -> int:
    return train.micro_batch_size * train.max_length


def _attention(family: Family, arch: Architecture) -> int:
    """What attention keeps per token: queries, keys, values and output; twice where heads are normalized."""
    heads = (arch.num_attention_heads + arch.num_key_value_heads) * arch.head_dim
    return (8 if family.qk_norm else 4) * heads


def kept_bytes(train: TrainSpec, family: Family, arch: Architecture) -> int:
    """bf16 activations kept from the forward to the backward pass: one input a layer with checkpointing, else all."""
    if train.gradient_checkpointing:
        return arch.num_hidden_layers * _tokens(train) * 2 * arch.hidden_size
    a_token = 12 * arch.hidden_size + 8 * arch.intermediate_size + _attention(family, arch)
    return arch.num_hidden_layers * _tokens(train) * a_token


def peak_bytes(train: TrainSpec, family: Family, arch: Architecture) -> int:
    """The larger of two moments in bf16: one layer recomputed and differentiated, or the loss at the head."""
    tokens, hidden, mlp = _tokens(train), arch.hidden_size, arch.intermediate_size
    layer = tokens * (14 * hidden + 12 * mlp + _attention(family, arch))
    if train.quantization == "nf4":
        layer += 2 * hidden * mlp + hidden * mlp // 16  # the widest matrix, dequantized, and its scales
    tile = min(tokens, CHUNK_TOKENS) * min(arch.vocab_size, CHUNK_VOCABULARY) * 2
    return max(layer, tile + 6 * tokens * hidden)


def advise(preset: Preset, gpu: GpuReading | None) -> tuple[Advice, ...]:
    """Each single change that would make it need less, the most helpful first."""
    now = ledger(preset, gpu).needed_bytes
    found = []
    for changes in _candidates(preset):
        setting, after = next(iter(changes.items()))
        changed = _apply(preset, changes)
        saved = now - ledger(changed, gpu).needed_bytes
        if saved > 0:
            before = _text(preset, setting)
            found.append(Advice(setting=setting, before=before, after=after, saved_bytes=saved, changes=changes))
    return tuple(sorted(found, key=lambda advice: -advice.saved_bytes))


def _candidates(preset: Preset) -> Iterator[dict[str, str]]:
    train = preset.train
    if train.max_length >= 2 * PRACTICAL_MAX_LENGTH:
        yield {"train.max_length": str(train.max_length // 2)}
    if train.micro_batch_size >= 2:
        # Doubling the accumulation keeps the effective batch, so what is learned stays the same.
        smaller = train.micro_batch_size // 2
        accumulation = -(-train.micro_batch_size * train.gradient_accumulation_steps // smaller)
        yield {
            "train.micro_batch_size": str(smaller),
            "train.gradient_accumulation_steps": str(accumulation),
        }
    if not train.gradient_checkpointing:
        yield {"train.gradient_checkpointing": "true"}
    if preset.lora.rank >= 2:
        yield {"lora.rank": str(preset.lora.rank // 2)}
    if train.quantization == "none":
        yield {"train.quantization": "nf4"}


def _apply(preset: Preset, changes: dict[str, str]) -> Preset:
    for name, value in changes.items():
        section, _, key = name.partition(".")
        current: TrainSpec | LoraSpec = getattr(preset, section)
        changed = type(current).model_validate({**current.model_dump(), key: value})
        preset = preset.model_copy(update={section: changed})
    return preset


def _text(preset: Preset, setting: str) -> str:
    section, _, key = setting.partition(".")
    value = getattr(getattr(preset, section), key)
    return str(value).lower() if isinstance(value, bool) else str(value)

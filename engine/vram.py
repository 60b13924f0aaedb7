"""What a run needs in GPU memory, part by part, and which single changes would make it fit.

What is kept in memory all the time follows from the counts of weights; what comes and goes with the tokens stands in
`activations`. docs/memory.md shows every formula, and how far the sum is from published peaks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod

from engine.activations import Shape, checkpointed_layers, last_is_checkpointed, shape_of
from engine.config import Architecture, Frozen, LoraSpec, Preset, TrainSpec
from engine.families import FAMILIES, Family
from engine.gpu import GpuReading
from engine.text import Text
from engine.units import GIB, format_bytes

NF4_BITS = 0.5
"""Bytes a weight in NF4."""

NF4_CONSTANTS = 1 / 64 * (1 + 4 / 256)
"""Bytes a weight of its scales with double quantization: 8 bits for each block of 64, and a float for each 256 of those
(bitsandbytes; QLoRA, arXiv 2305.14314, section 3)."""

CUDA_CONTEXT_BYTES = GIB // 2
"""What CUDA and cuBLAS take before the first tensor: 0.3 to 0.6 GiB."""

FRAGMENTATION = 0.03
"""Share that PyTorch's allocator reserves on top, with `expandable_segments:True`."""

MARGIN = 0.04
"""Share of the free memory that a plan leaves alone: a desktop or another process may grow a little."""

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
    others_bytes: int | None = None
    """What other processes hold now. It is not in the sum, and not in what is available."""

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


class Correction(Frozen):
    """What measurements on this machine change in the ledger; as it stands, nothing was measured."""

    activations: float = 1.0
    """Measured bytes of everything that comes and goes with the tokens, as a multiple of the ledger's."""
    resident_bytes: int = 0
    """Measured bytes of what stays in memory, less the ledger's."""
    fragmentation: float = FRAGMENTATION
    context_bytes: int = CUDA_CONTEXT_BYTES
    measured: bool = False


UNMEASURED = Correction()


def ledger(
    preset: Preset, gpu: GpuReading | None, correction: Correction = UNMEASURED, longest: int | None = None
) -> Budget:
    """Peak memory of training: of the GPU, or of the machine (float32 activations) where there is none.

    Needed is the peak; available is what is free now, less a margin. `longest` is the longest row in tokens, where
    every row was counted: rows are then no longer than that, whatever `max_length` allows.
    """
    if gpu is None:
        return Budget(parts=_parts(preset, True, correction, longest), available_bytes=_free_ram())
    free, total = gpu.free_bytes, gpu.total_bytes
    return Budget(
        parts=_parts(preset, False, correction, longest),
        available_bytes=None if free is None else int(free * (1 - MARGIN)),
        others_bytes=None if free is None or total is None else max(total - free, 0),
    )


def _free_ram() -> int:
    import psutil  # here, not above: the light start does not need it

    return int(psutil.virtual_memory().available * (1 - MARGIN))


def _parts(preset: Preset, on_cpu: bool, correction: Correction, longest: int | None) -> tuple[Part, ...]:
    resident = _resident(preset, on_cpu)
    if correction.resident_bytes:
        resident.append(("measured difference", correction.resident_bytes))
    moving = [(name, int(size * correction.activations)) for name, size in _moving(preset, on_cpu, longest)]
    tensors = sum(size for _, size in (*resident, *moving))
    fixed = ("Python and its libraries", CPU_LIBRARIES_BYTES) if on_cpu else ("CUDA context", correction.context_bytes)
    rest = [("fragmentation", int(tensors * correction.fragmentation)), fixed]
    return tuple(Part(name=name, size_bytes=size) for name, size in (*resident, *moving, *rest) if size)


def split(
    preset: Preset, *, on_cpu: bool = False, longest: int | None = None, absent: Collection[str] = ()
) -> tuple[int, int]:
    """The ledger's bytes of tensors before any correction: what stays in memory, and the most that comes and goes.

    Parts named in `absent` are left out of what stays.
    """
    resident = sum(size for name, size in _resident(preset, on_cpu) if name not in absent)
    return resident, sum(size for _, size in _moving(preset, on_cpu, longest))


def _resident(preset: Preset, on_cpu: bool) -> list[tuple[str, int]]:
    """What stays in memory from the first step to the last."""
    family, arch, train = FAMILIES[preset.family], preset.architecture, preset.train
    width = 4 if on_cpu else 2  # bytes a number that is computed with: float32 on the CPU, bf16 on the GPU
    linears = family.linear_parameters(arch)
    nf4 = train.quantization == "nf4"
    plain = family.embedding_parameters(arch) + family.small_parameters(arch)
    return [
        ("weights", int(linears * NF4_BITS) if nf4 else linears * width),
        ("scales of the weights", int(linears * NF4_CONSTANTS) if nf4 else 0),
        ("experts", family.expert_parameters(arch) * width),
        ("embeddings and head", plain * width),
        *_adapter(preset.lora, train, family, arch, on_cpu=on_cpu),
    ]


def adapter_width(train: TrainSpec, *, on_cpu: bool) -> int:
    """Bytes a weight of the adapter: peft keeps it in float32, on a quantized base on a GPU trl makes it bf16."""
    return 2 if train.quantization == "nf4" and not on_cpu else 4


def _adapter(
    lora: LoraSpec, train: TrainSpec, family: Family, arch: Architecture, *, on_cpu: bool
) -> list[tuple[str, int]]:
    """The adapter, its gradients and Adam's two moments.

    A float32 adapter on a GPU is there in bf16 too, in which it is computed with. An 8-bit optimizer keeps a byte a
    moment, and a float for each block of 256.
    """
    weights = family.lora_parameters(arch, lora.rank)
    width = adapter_width(train, on_cpu=on_cpu)
    copies = 0 if on_cpu or width == 2 else 2
    moments = 2 * (1 + 4 / 256) if train.optimizer.endswith("8bit") else 2 * width
    return [
        ("adapter", weights * (width + copies)),
        ("gradients", weights * width),
        ("optimizer", int(weights * moments)),
    ]


def _moving(preset: Preset, on_cpu: bool, longest: int | None) -> list[tuple[str, int]]:
    """What comes and goes with the tokens, at the moment that needs the most: at the loss, or in a layer."""
    train, shape = preset.train, shape_of(preset, on_cpu=on_cpu, longest=longest)
    layers = preset.architecture.num_hidden_layers
    checkpointed = checkpointed_layers(train, layers)
    # Offloaded, the one in use is back on the GPU while the next is on its way.
    held = min(checkpointed, 2) if train.gradient_checkpointing_offload and not on_cpu else checkpointed
    kept = [
        ("checkpoints", held * shape.checkpoint()),
        ("kept activations", (layers - checkpointed) * shape.kept() + shape.shared()),
    ]
    again = shape.kept() if last_is_checkpointed(train, layers) else 0
    layer = [
        ("peak of one layer", again + shape.extra()),
        ("dequantized weights", _dequantized(preset, shape.width)),
    ]
    loss = ("loss at the head", max(shape.head(), shape.last_norm()))
    return kept + (layer if sum(size for _, size in layer) >= loss[1] else [loss])


def _dequantized(preset: Preset, width: int) -> int:
    """The widest linear as numbers again, with its scales in float32."""
    if preset.train.quantization != "nf4":
        return 0
    widest = max(prod(shape) for shape in FAMILIES[preset.family].linear_shapes(preset.architecture).values())
    return width * widest + widest // 16


def offloaded_bytes(preset: Preset, longest: int | None = None) -> int:
    """Checkpoints that lie in the machine's own memory, pinned, instead of the GPU's."""
    train = preset.train
    if not train.gradient_checkpointing_offload:
        return 0
    shape: Shape = shape_of(preset, on_cpu=False, longest=longest)
    return checkpointed_layers(train, preset.architecture.num_hidden_layers) * shape.checkpoint()


def advise(
    preset: Preset, gpu: GpuReading | None, correction: Correction = UNMEASURED, longest: int | None = None
) -> tuple[Advice, ...]:
    """Each single change that would make it need less, the most helpful first."""
    now = ledger(preset, gpu, correction, longest).needed_bytes
    found = []
    for changes in _candidates(preset):
        setting, after = next(iter(changes.items()))
        saved = now - ledger(apply(preset, changes), gpu, correction, longest).needed_bytes
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
    yield from _checkpointing(train)
    if preset.lora.rank >= 2:
        yield {"lora.rank": str(preset.lora.rank // 2)}
    if preset.lora.dropout > 0:
        yield {"lora.dropout": "0.0"}
    if train.quantization == "none":
        yield {"train.quantization": "nf4"}
    if not train.optimizer.endswith("8bit"):
        yield {"train.optimizer": "adamw_8bit"}


def _checkpointing(train: TrainSpec) -> Iterator[dict[str, str]]:
    if not train.gradient_checkpointing:
        yield {"train.gradient_checkpointing": "true"}
    elif train.gradient_checkpointing_every > 1:
        yield {"train.gradient_checkpointing_every": "1"}
    if train.gradient_checkpointing and not train.gradient_checkpointing_offload:
        yield {"train.gradient_checkpointing_offload": "true"}


def apply(preset: Preset, changes: dict[str, str]) -> Preset:
    """The preset with settings changed, each given as text with its section."""
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

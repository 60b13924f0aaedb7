"""The few settings that most people change, each with its ladder of sensible values. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.config import Preset
from engine.planner import EVERY, MICRO, OFFLOAD, PASSES, POLICIES, SWITCH, policy_of

LENGTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536, 131072)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RANKS = (4, 8, 16, 32, 64, 128, 256)
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3)
EPOCHS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)

LARGE = 20 * 10**9
"""Parameters above which the QLoRA paper takes a smaller learning rate."""

Changes = dict[str, str]


@dataclass(frozen=True)
class Choice:
    """A row of the form: what it shows, what one step up or down changes, and why it is what it is by default."""

    setting: str
    label: str
    value: Callable[[Preset], str]
    step: Callable[[Preset, int], Changes]
    why: Callable[[Preset], str]
    """Why the preset has the value it has; of what is chosen for the GPU the planner says why."""
    names: frozenset[str]
    """The settings that are changed together."""


def change(preset: Preset, setting: str, direction: int) -> Changes:
    """What to override so that the setting is one step more (1) or less (-1); nothing at the end of its ladder."""
    return find(setting).step(preset, direction)


def find(setting: str) -> Choice:
    """The row of that setting."""
    return next(choice for choice in CHOICES if choice.setting == setting)


def neighbour(ladder: Sequence[float], value: float, direction: int) -> float:
    """The next value of the ladder above or below; the value itself at the ends."""
    if direction > 0:
        return next((rung for rung in ladder if rung > value * (1 + 1e-9)), value)
    return next((rung for rung in reversed(ladder) if rung < value * (1 - 1e-9)), value)


def number(value: float) -> str:
    """`2e-4` for small figures, `3` for whole ones."""
    if value and abs(value) < 0.01:
        digits, exponent = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:g}"


def _length(preset: Preset, direction: int) -> Changes:
    ladder = sorted({*(rung for rung in LENGTHS if rung <= preset.context_length), preset.context_length})
    return {"train.max_length": number(neighbour(ladder, preset.train.max_length, direction))}


def _batch(preset: Preset, direction: int) -> Changes:
    train = preset.train
    wanted = int(neighbour(BATCHES, train.micro_batch_size * train.gradient_accumulation_steps, direction))
    return _batches(wanted, min(train.micro_batch_size, wanted))


def _micro(preset: Preset, direction: int) -> Changes:
    train = preset.train
    effective = train.micro_batch_size * train.gradient_accumulation_steps
    divisors = [size for size in range(1, effective + 1) if effective % size == 0]
    return _batches(effective, int(neighbour(divisors, train.micro_batch_size, direction)))


def _batches(effective: int, micro: int) -> Changes:
    while effective % micro:
        micro -= 1
    return {
        "train.micro_batch_size": str(micro),
        "train.gradient_accumulation_steps": str(effective // micro),
    }


def _rank(preset: Preset, direction: int) -> Changes:
    rank = int(neighbour(RANKS, preset.lora.rank, direction))
    alpha = max(1, round(preset.lora.alpha * rank / preset.lora.rank))
    return {"lora.rank": str(rank), "lora.alpha": str(alpha)}


def _rate(preset: Preset, direction: int) -> Changes:
    return {"train.learning_rate": number(neighbour(RATES, preset.train.learning_rate, direction))}


def _epochs(preset: Preset, direction: int) -> Changes:
    changes = {"train.epochs": number(neighbour(EPOCHS, preset.train.epochs, direction))}
    if preset.train.max_steps is not None:
        changes["train.max_steps"] = "none"  # it would win over the epochs
    return changes


def _policy(preset: Preset, direction: int) -> Changes:
    """Towards more that is computed twice (1) or kept (-1); from one of the user's own to the nearest end."""
    now = policy_of(preset)
    at = POLICIES.index(now) if now else len(POLICIES) - 2
    return dict(POLICIES[min(max(at + direction, 0), len(POLICIES) - 1)].changes)


def policy_name(preset: Preset) -> str:
    """`every 2nd layer`."""
    policy = policy_of(preset)
    return policy.name if policy else f"every {preset.train.gradient_checkpointing_every}th layer"


def _precision(_preset: Preset, direction: int) -> Changes:
    return {"train.quantization": "none" if direction > 0 else "nf4"}


def _rate_why(preset: Preset) -> str:
    if preset.parameters > LARGE:
        return "the QLoRA paper takes half the usual rate above 20 billion parameters"
    return "what the QLoRA paper found best below 20 billion parameters"


def _choice(
    setting: str,
    label: str,
    value: Callable[[Preset], str],
    step: Callable[[Preset, int], Changes],
    why: str | Callable[[Preset], str],
    *names: str,
) -> Choice:
    told = (lambda _: why) if isinstance(why, str) else why
    return Choice(setting, label, value, step, told, frozenset(names or (setting,)))


CHOICES = (
    _choice(
        "train.max_length", "max length", lambda p: str(p.train.max_length), _length,
        "most chat rows are shorter, and memory and time grow with it",
    ),
    _choice(
        PASSES, "effective batch", lambda p: str(p.train.micro_batch_size * p.train.gradient_accumulation_steps),
        _batch, "rows to one step: as in the QLoRA paper; more is steadier and takes more rows", MICRO, PASSES,
    ),
    _choice(
        MICRO, "rows in a pass", lambda p: str(p.train.micro_batch_size), _micro,
        "about 4,096 tokens in a pass keep a GPU busy",
    ),
    _choice(
        "lora.rank", "rank / alpha", lambda p: f"{p.lora.rank} / {p.lora.alpha}", _rank,
        "QLoRA found that more hardly helps once all linear layers have an adapter", "lora.rank", "lora.alpha",
    ),
    _choice(
        "train.quantization", "precision", lambda p: "4 bits" if p.train.quantization == "nf4" else "16 bits",
        _precision, "4 bits learn as well as 16 in the QLoRA paper, in a quarter of the memory",
    ),
    _choice("train.learning_rate", "learning rate", lambda p: number(p.train.learning_rate), _rate, _rate_why),
    _choice(
        "train.epochs", "epochs", lambda p: number(p.train.epochs), _epochs,
        "usual for a few thousand rows; many more learn them by heart", "train.epochs", "train.max_steps",
    ),
    _choice(
        SWITCH, "checkpointing", policy_name, _policy,
        "the least memory without copies", SWITCH, EVERY, OFFLOAD,
    ),
)  # fmt: skip

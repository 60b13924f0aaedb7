"""The ledger's activation terms against torch itself, on a small model of every family, on the CPU.

Covered: bytes that autograd saves in a layer, exactly; what stays with checkpoints; the most that is alive at any
moment of a backward pass; the loss. Not covered: what a kernel takes inside itself, and the CUDA allocator.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from torch.autograd.graph import saved_tensors_hooks  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from engine.activations import Shape, checkpointed_layers, last_is_checkpointed  # noqa: E402
from engine.config import Architecture, TrainSpec  # noqa: E402
from engine.families import FAMILIES, Family  # noqa: E402

torch.set_num_threads(1)  # at this size a second thread only waits

KINDS = [family for family in FAMILIES.values() if family.name not in ("llama2", "smollm", "phi4")]
"""The others are one of these with other turns."""

CONSTANTS = 0.007
"""Share that a term may be off: some norms keep their scale in float32 whatever the tokens, 4 bytes a channel."""

WIDTHS = {2: torch.bfloat16, 4: torch.float32}


def shape(family: Family, **changes: Any) -> Shape:
    """A micro-batch of 1 × 64 tokens in a small model; `changes` are of the shape or of its architecture."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if family.name == "mixtral" else {}
    arch = {
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 224,
        "vocab_size": 128,
        "tie_word_embeddings": False,
        **experts,
    }
    arch |= {name: changes.pop(name) for name in [*changes] if name in Architecture.model_fields}
    settings = {"rank": 4, "dropout": False, "rows": 1, "length": 64, "width": 2, "on_cpu": True, **changes}
    return Shape(family=family, arch=Architecture(**arch), **settings)


def deep(shape: Shape, layers: int) -> Shape:
    return replace(shape, arch=shape.arch.model_copy(update={"num_hidden_layers": layers}))


def built(shape: Shape, every: int) -> Any:
    """The decoder with an adapter on its linears; every so many layers have a checkpoint, with 0 none."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    told = {name: value for name, value in shape.arch.model_dump().items() if value is not None}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(shape.family.model_types[0], **told, **tokens)
    config.sliding_window = 4096 if getattr(config, "sliding_window", None) else None
    model = AutoModelForCausalLM.from_config(config, dtype=WIDTHS[shape.width])
    lora = LoraConfig(
        r=shape.rank,
        target_modules=list(shape.family.linear_shapes(shape.arch)),
        lora_dropout=0.1 if shape.dropout else 0.0,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=False).train()
    base = adapted.get_base_model()
    if every:
        base.activation_checkpointing_enable(every_n_layers=every)
    else:
        adapted.enable_input_require_grads()
    return base.model


def held(model: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def batch(shape: Shape) -> dict[str, Any]:
    """Rows of which all but the first are a third shorter."""
    ids = torch.randint(3, 120, (shape.rows, shape.length))
    mask = torch.ones_like(ids)
    mask[1:, 2 * shape.length // 3 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "use_cache": False}


def saved(shape: Shape, every: int = 0) -> int:
    """Bytes of the distinct storages that autograd saves in a forward pass, without weights."""
    model = built(shape, every)
    weights, found, kept_alive = held(model), {}, []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and storage.nbytes():
            found[storage.data_ptr()] = storage.nbytes()
            kept_alive.append(tensor)  # else another tensor may get its address
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch(shape))
    return sum(found.values())


class Alive(TorchDispatchMode):
    """Follows the bytes of all storages that are made inside it; `peak` is the most at one time."""

    def __init__(self, *present: Any) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in present}

    def __torch_dispatch__(self, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils._pytree import tree_leaves

        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.bytes -= size


def peak(shape: Shape, every: int) -> int:
    """The most bytes alive in a backward pass through the decoder, without weights."""
    model, inputs = built(shape, every), batch(shape)
    gc.collect()
    alive = Alive(*model.parameters(), *model.buffers())
    with alive:
        states = model(**inputs).last_hidden_state
        gradient = torch.ones_like(states)
        alive.peak = 0
        torch.autograd.backward(states, gradient)
    return alive.peak


def a_layer(shape: Shape) -> int:
    return saved(deep(shape, 2)) - saved(deep(shape, 1))


@pytest.mark.parametrize("width", WIDTHS, ids=["bf16", "fp32"])
@pytest.mark.parametrize("family", KINDS, ids=lambda family: family.name)
def test_a_layer_keeps_what_the_ledger_says(family: Family, width: int) -> None:
    given = shape(family, width=width)
    assert a_layer(given) == pytest.approx(given.kept(), rel=CONSTANTS)


OTHER_SHAPES = [
    {"head_dim": 32},
    {"num_key_value_heads": 4},
    {"hidden_size": 96},
    {"intermediate_size": 96},
    {"rank": 9},
]
OTHER_SHAPES += [{"length": 160}, {"num_attention_heads": 8}]


@pytest.mark.parametrize("change", OTHER_SHAPES, ids=lambda change: str(*change))
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "phi3", "mixtral"])
def test_each_number_of_a_model_counts_as_the_ledger_says(name: str, change: dict[str, int]) -> None:
    given = shape(FAMILIES[name], **change)
    assert a_layer(given) == pytest.approx(given.kept(), rel=CONSTANTS)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "gemma2", "gemma3"])
def test_rows_of_different_lengths_keep_a_mask_and_repeated_keys(name: str) -> None:
    given = shape(FAMILIES[name], rows=2)
    assert a_layer(given) == pytest.approx(given.kept(), rel=CONSTANTS)


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_dropout_keeps_an_input_for_each_linear(name: str) -> None:
    given = shape(FAMILIES[name], dropout=True)
    assert a_layer(given) == pytest.approx(given.kept(), rel=CONSTANTS)


@pytest.mark.parametrize("family", KINDS, ids=lambda family: family.name)
def test_a_checkpointed_layer_keeps_its_input_alone(family: Family) -> None:
    given = shape(family)
    more = saved(deep(given, 2), every=1) - saved(deep(given, 1), every=1)
    assert more == given.checkpoint()


def test_every_second_layer_is_checkpointed_from_the_first_on() -> None:
    given = shape(FAMILIES["llama"])
    grown = [saved(deep(given, layers), every=2) for layers in (1, 2, 3, 4)]
    steps = [after - before for before, after in pairwise(grown)]
    assert steps[1] == given.checkpoint()
    assert steps[2] == pytest.approx(given.kept(), rel=CONSTANTS)


def said(shape: Shape, layers: int, every: int) -> int:
    """What the ledger expects alive at the peak, with the states and gradient that `peak` holds on to."""
    train = TrainSpec(gradient_checkpointing=every > 0, gradient_checkpointing_every=max(every, 1))
    checkpoints = checkpointed_layers(train, layers)
    kept = checkpoints * shape.checkpoint() + (layers - checkpoints) * shape.kept()
    again = shape.kept() if last_is_checkpointed(train, layers) else 0
    grads = layers * shape.width * shape.family.lora_parameters(shape.arch, shape.rank)
    return kept + max(again + shape.extra(), shape.last_norm()) + shape.shared() + 2 * shape.checkpoint() + grads


PEAKS = [(family.name, 1) for family in KINDS] + [("llama", 0), ("gemma3", 0), ("llama", 2), ("granite", 2)]


@pytest.mark.parametrize(("name", "every"), PEAKS)
def test_a_backward_pass_peaks_where_the_ledger_says(name: str, every: int) -> None:
    """Never more than 2 % above it, and not more than 8 % below."""
    given = shape(FAMILIES[name], length=96)
    expected = said(given, 2, every)
    assert expected * 0.92 < peak(deep(given, 2), every) < expected * 1.02


def test_scores_that_are_kept_are_the_peak_of_long_rows() -> None:
    given = shape(FAMILIES["gemma2"], length=640)
    expected = said(given, 1, 1)
    assert expected * 0.92 < peak(given, 1) < expected * 1.02


@pytest.mark.parametrize("width", WIDTHS, ids=["bf16", "fp32"])
@pytest.mark.parametrize("vocabulary", [1_000, 40_000])
def test_the_loss_takes_what_the_ledger_says(vocabulary: int, width: int) -> None:
    """Of trl's own function, without the last norm's float32 copy of the states, which is made before it."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    given = shape(FAMILIES["llama"], vocab_size=vocabulary, width=width)
    tokens, hidden, dtype = given.tokens, given.arch.hidden_size, WIDTHS[width]
    states = torch.randn(tokens, hidden, dtype=dtype, requires_grad=True)
    weight, targets = torch.randn(vocabulary, hidden, dtype=dtype), torch.randint(0, vocabulary, (tokens,))
    alive = Alive(weight)
    with alive:
        kept = states * 1
        outputs = ("log_probs", "entropy", "is_top1")
        found = ChunkedLogProbFunction.apply(kept, weight, None, targets, 1.0, 32_768, None, 1.0, outputs)
        found[0].sum().backward()
    assert alive.peak == pytest.approx(given.head() - 4 * tokens * hidden, rel=0.03)

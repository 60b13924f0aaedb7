"""The estimate of a training's time, against figures counted by hand."""

import pytest

from engine import presets
from engine.config import Preset
from engine.estimate import CPU_FLOPS, batch_seconds, flops_of, training_flop, training_seconds


@pytest.fixture
def large() -> Preset:
    """Llama 3.1 8B, rank 16: P = 6.98e9, H = 0.525e9, R = 41.9e6; A = 2 × 32 × 4096 × 2048 = 0.537e9."""
    return presets.find_preset("llama-3.1-8b-instruct")


def checkpointing(preset: Preset, on: bool) -> Preset:
    return presets.override(preset, {"gradient_checkpointing": str(on).lower()})


def test_the_flop_of_a_token_are_those_of_the_formula(large: Preset) -> None:
    # 4P 27.917 + 4H 2.101 + 3A 1.611 + 6R 0.252 = 31.881 for the model; 0.5A 0.268 + 2H 1.051 again
    assert training_flop(checkpointing(large, False), 1, 2048) == pytest.approx(33.20e9, rel=1e-3)
    # with checkpoints 2P 13.959 + A 0.537 + 2R 0.084 more
    assert training_flop(checkpointing(large, True), 1, 2048) == pytest.approx(47.78e9, rel=1e-3)


def test_an_8b_on_a_4090_takes_the_time_of_its_tokens_at_half_of_the_card(large: Preset) -> None:
    # 100 steps × 16 rows × 2048 tokens × 47.78e9 FLOP / (165.2e12 / 2) FLOP/s = 1895 s
    preset = presets.override(
        checkpointing(large, True), {"micro_batch_size": "2", "gradient_accumulation_steps": "8", "max_length": "2048"}
    )
    rows, tokens = 1000, 1000 * 2048
    assert training_seconds(preset, rows, tokens, 100, "NVIDIA GeForce RTX 4090") == pytest.approx(1895, rel=1e-3)


def test_rows_count_up_to_the_longest_that_is_trained_on(large: Preset) -> None:
    preset = presets.override(large, {"max_length": "1024"})
    cut = training_seconds(preset, 10, 10 * 1024, 5, "NVIDIA H200")
    assert training_seconds(preset, 10, 10 * 9000, 5, "NVIDIA H200") == cut


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA GeForce RTX 4090", 82.6),
        ("RTX 4090", 82.6),
        ("NVIDIA A100-SXM4-80GB", 156),
        ("NVIDIA A100 80GB PCIe", 156),
        ("NVIDIA H200", 395),
        ("NVIDIA L4", 60.5),
        ("NVIDIA L40S", 181),
    ],
)
def test_a_card_is_known_by_the_name_that_its_driver_gives(name: str, tflops: float) -> None:
    assert flops_of(name) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    "name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3060 Ti", "NVIDIA A10G", ""]
)
def test_another_card_with_a_similar_name_is_not_known(name: str) -> None:
    assert flops_of(name) is None


def test_without_a_gpu_it_is_the_cpu() -> None:
    assert flops_of(None) == CPU_FLOPS


def test_half_of_the_layers_computed_twice_cost_half_as_much_more(large: Preset) -> None:
    none, all_layers = (training_flop(checkpointing(large, on), 1, 2048) for on in (False, True))
    half = training_flop(presets.override(large, {"gradient_checkpointing_every": "2"}), 1, 2048)
    assert half == pytest.approx((none + all_layers) / 2)


def test_a_mixture_counts_the_experts_that_a_token_goes_to() -> None:
    """Mixtral: 12.9e9 of its 46.7e9 weights take part in a token, 0.26e9 of them in embedding and head."""
    mixtral = presets.find_preset("mixtral-8x7b-instruct-v0.1")
    plain = training_flop(checkpointing(mixtral, False), 1, 1)
    assert plain == pytest.approx(4 * 12.6e9 + 6 * 0.131e9, rel=0.02)


def test_a_measured_speed_counts_instead_of_the_cards_name(large: Preset) -> None:
    guessed = training_seconds(large, 10, 10 * 1024, 5, "NVIDIA H200")
    measured = training_seconds(large, 10, 10 * 1024, 5, "NVIDIA H200", 790e12 * 0.25)
    assert guessed is not None
    assert measured == pytest.approx(2 * guessed)
    assert training_seconds(large, 10, 10 * 1024, 5, "a new card", 1e14) is not None


@pytest.mark.parametrize("card", ["NVIDIA H200", "a new card", None])
def test_what_is_computed_twice_is_slower(large: Preset, card: str | None) -> None:
    seconds = [batch_seconds(checkpointing(large, on), 2048, 2048, card) for on in (False, True)]
    assert seconds[0] < seconds[1]


def test_a_small_pass_on_a_fast_card_waits_for_python(large: Preset) -> None:
    assert batch_seconds(large, 64, 64, "NVIDIA H200") == batch_seconds(large, 128, 128, "NVIDIA H200")


def test_offloading_costs_the_copies(large: Preset) -> None:
    offloaded = presets.override(large, {"gradient_checkpointing_offload": "true"})
    more = batch_seconds(offloaded, 4096, 2048, "NVIDIA H200") - batch_seconds(large, 4096, 2048, "NVIDIA H200")
    assert more == pytest.approx(2 * 32 * 4096 * 4096 * 2 / 2.0e10)

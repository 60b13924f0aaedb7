"""The plan: what it counts, what it warns of, and when it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import presets
from engine.config import DatasetSpec, Preset
from engine.datasets.scan import DatasetReport, scan
from engine.disk import disk_budget, free_disk, gguf_bytes, keep_bytes
from engine.errors import DataError, ExitCode, FitError, UsageError
from engine.gpu import GpuReading, pretend
from engine.plan import Plan, count_steps, describe, make_plan, require_fit
from engine.units import GIB
from engine.vram import Budget, Part


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path / "home" / "not" / "there"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def demo() -> Preset:
    return presets.find_preset("demo")


@pytest.fixture
def report(demo: Preset) -> DatasetReport:
    return scan(demo.data)


def planned(preset: Preset, report: DatasetReport, gpu: GpuReading | None = None, **options: Any) -> Plan:
    return make_plan(preset, preset.data, report, gpu, **options)


def changed(preset: Preset, **changes: object) -> Preset:
    return presets.override(preset, {name: str(value) for name, value in changes.items()})


# ── what it counts ──


@pytest.mark.parametrize(
    ("rows", "micro", "accumulation", "epochs", "steps"),
    [(640, 16, 1, 1, 40), (641, 16, 1, 1, 41), (641, 4, 4, 3, 123), (100, 8, 4, 0.5, 2),
     (3, 16, 4, 0.01, 1), (33, 8, 4, 1.5, 3)],
)  # fmt: skip
def test_steps_are_whole_batches_of_all_rows_times_epochs(
    demo: Preset, rows: int, micro: int, accumulation: int, epochs: float, steps: int
) -> None:
    preset = changed(
        demo, max_steps="none", micro_batch_size=micro, gradient_accumulation_steps=accumulation, epochs=epochs
    )
    assert count_steps(preset.train, rows) == steps


def test_max_steps_overrule_the_epochs(demo: Preset, report: DatasetReport) -> None:
    assert planned(demo, report).steps == demo.train.max_steps


def test_warm_up_is_a_share_of_the_steps_rounded_up(demo: Preset, report: DatasetReport) -> None:
    assert planned(changed(demo, max_steps=100, warmup_ratio=0.031), report).warmup_steps == 4


def test_the_device_follows_the_gpu(demo: Preset, report: DatasetReport) -> None:
    assert (planned(demo, report).device, planned(demo, report).gpu) == ("cpu", None)
    on_gpu = planned(demo, report, pretend(24 * GIB))
    assert on_gpu.device == "cuda"
    assert on_gpu.gpu is not None
    assert on_gpu.gpu.free_bytes == 24 * GIB


def test_a_plan_is_named_after_its_preset_or_its_data(demo: Preset, report: DatasetReport) -> None:
    assert planned(demo, report).slug == "demo"
    other = DatasetSpec(path="/data/support-desk.jsonl")
    assert make_plan(demo, other, report, None).slug == "support-desk"
    assert planned(demo, report, slug="mine").slug == "mine"


def test_paths_are_absolute_wherever_the_plan_is_made(
    demo: Preset, report: DatasetReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(demo, DatasetSpec(path="a.jsonl", eval_path="b.jsonl"), report, None)
    assert (plan.data.path, plan.data.eval_path) == (str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))


def test_the_plan_knows_both_files_by_their_bytes(demo: Preset, report: DatasetReport) -> None:
    summary = planned(demo, report.model_copy(update={"sha256": "a", "eval_sha256": "b"})).summary
    assert (summary.sha256, summary.eval_sha256) == ("a", "b")


def test_a_plan_survives_its_file(demo: Preset, report: DatasetReport) -> None:
    plan = planned(demo, report, pretend(8 * GIB))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


# ── what it refuses and warns of ──


def test_refused_data_make_no_plan(demo: Preset, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{\n{\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        make_plan(demo, DatasetSpec(path=str(path)), scan(DatasetSpec(path=str(path))), None)
    assert caught.value.code == ExitCode.DATA
    assert "2 rows are not JSON (bad.jsonl:2, bad.jsonl:3)" in caught.value.detail
    assert any("Only 1 row to learn from" in hint for hint in caught.value.hints)


def test_rows_longer_than_the_models_context_are_a_usage_error(demo: Preset, report: DatasetReport) -> None:
    with pytest.raises(UsageError) as caught:
        planned(changed(demo, max_length=513), report)
    assert "512" in caught.value.hints[0]


def test_the_demo_has_nothing_to_warn_of(demo: Preset, report: DatasetReport) -> None:
    assert planned(demo, report).warnings == ()


@pytest.mark.parametrize(
    ("changes", "facts", "said"),
    [
        ({"max_length": 32}, {}, "longest row has about"),
        ({"micro_batch_size": 700}, {"rows": 699}, "effective batch of 700"),
        ({"max_steps": 5}, {}, "Only 5 optimizer steps"),
    ],
)
def test_a_plan_warns(
    demo: Preset, report: DatasetReport, changes: dict[str, int], facts: dict[str, int], said: str
) -> None:
    warnings = planned(changed(demo, **changes), report.model_copy(update=facts)).warnings
    assert any(said in warning for warning in warnings)


def test_a_large_model_on_the_cpu_is_warned_of(report: DatasetReport) -> None:
    preset = presets.find_preset("llama-3.2-1b-instruct")
    assert any("no GPU" in warning for warning in planned(preset, report).warnings)
    assert not any("no GPU" in warning for warning in planned(preset, report, pretend(24 * GIB)).warnings)


# ── whether it fits ──


def test_an_8b_fits_a_24_gib_card_and_not_a_4_gib_card(report: DatasetReport) -> None:
    preset = presets.find_preset("llama-3.1-8b-instruct")
    require_fit(planned(preset, report, pretend(24 * GIB), disk_free_bytes=10**12))
    with pytest.raises(FitError) as caught:
        require_fit(planned(preset, report, pretend(4 * GIB), disk_free_bytes=10**12))
    assert caught.value.code == ExitCode.FIT
    assert caught.value.hints[0].startswith(("max_length 2048 → 1024", "micro_batch_size 2 → 1"))
    assert "smaller model" in caught.value.hints[-1]


def test_a_change_that_is_enough_says_so(report: DatasetReport) -> None:
    preset = presets.find_preset("llama-3.1-8b-instruct")
    with pytest.raises(FitError) as caught:
        require_fit(planned(preset, report, pretend(8 * GIB), disk_free_bytes=10**12))
    first = caught.value.hints[0]
    assert "which is enough" in first
    settings = dict(part.split("=") for part in first.split() if "=" in part)
    require_fit(planned(presets.override(preset, settings), report, pretend(8 * GIB), disk_free_bytes=10**12))


def test_a_full_disk_does_not_fit(demo: Preset, report: DatasetReport) -> None:
    with pytest.raises(FitError, match="disk"):
        require_fit(planned(demo, report, disk_free_bytes=1_000_000))


def test_the_disk_budget_has_every_file_that_the_stages_write() -> None:
    preset = presets.find_preset("llama-3.1-8b-instruct")
    parts = {part.name: part.size_bytes for part in disk_budget(preset, on_cpu=False, free_bytes=0).parts}
    assert list(parts) == ["model download", "checkpoints", "adapter", "merged model", "GGUF bf16", "GGUF Q4_K_M"]
    assert parts["model download"] == preset.download_bytes
    assert parts["checkpoints"] == pytest.approx(3 * 3 * 2 * 41_943_040, rel=0.1)
    assert parts["GGUF Q4_K_M"] == pytest.approx(4.92e9, rel=0.01)  # the file that llama.cpp's README lists


def test_what_is_here_is_not_downloaded(demo: Preset) -> None:
    assert "model download" not in {part.name for part in disk_budget(demo, on_cpu=True).parts}


def test_the_run_keeps_everything_but_the_download() -> None:
    preset = presets.find_preset("qwen3-8b")
    budget = disk_budget(preset, on_cpu=False, free_bytes=0)
    assert keep_bytes(preset, on_cpu=False) == budget.needed_bytes - preset.download_bytes


def test_fewer_bits_make_smaller_files(demo: Preset) -> None:
    sizes = [gguf_bytes(demo, quant) for quant in ("Q2_K", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "bf16")]
    assert sizes == sorted(sizes)


def test_free_space_is_asked_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") > 0


def test_a_budget_that_is_met_exactly_fits() -> None:
    parts = (Part(name="a", size_bytes=3), Part(name="b", size_bytes=4))
    assert Budget(parts=parts, available_bytes=7).fits
    assert not Budget(parts=parts, available_bytes=6).fits


# ── how it reads ──


def test_a_description_names_model_data_steps_and_memory(demo: Preset, report: DatasetReport) -> None:
    pairs = dict(describe(planned(demo, report, pretend(24 * GIB))))
    assert pairs["rows"] == f"{report.rows:,} to learn from, {report.eval_rows:,} held out"
    assert pairs["batch"].startswith("16 rows")
    assert pairs["memory"].endswith("fits")
    assert json.dumps(pairs)


def test_the_demos_time_on_the_cpu_is_about_a_minute(demo: Preset, report: DatasetReport) -> None:
    seconds = planned(changed(demo, max_steps=200), report).seconds
    assert seconds is not None
    assert 40 < seconds < 120  # measured: 55 s on two cores


def test_the_time_of_a_card_that_is_not_known_is_not_guessed(demo: Preset, report: DatasetReport) -> None:
    plan = planned(demo, report, pretend(24 * GIB))
    assert plan.seconds is None
    assert dict(describe(plan))["time"].startswith("n/a")


def test_the_description_says_about_how_long_it_takes(report: DatasetReport) -> None:
    card = GpuReading(name="NVIDIA GeForce RTX 4090", total_bytes=24 * GIB, free_bytes=24 * GIB)
    plan = planned(presets.find_preset("llama-3.1-8b-instruct"), report, card)
    assert dict(describe(plan))["time"].startswith("about ")


def test_a_description_says_when_it_does_not_fit(demo: Preset, report: DatasetReport) -> None:
    assert "does not fit" in dict(describe(planned(demo, report, pretend(GIB // 4))))["memory"]

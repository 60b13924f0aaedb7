"""The plan: what it counts, what it warns of, and when it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import cli, presets
from engine.calibration import measurement, record
from engine.commands import planning
from engine.config import DatasetSpec, Preset
from engine.datasets.report import DatasetReport, TokenStats
from engine.datasets.scan import scan
from engine.disk import disk_budget, free_disk, gguf_bytes, keep_bytes
from engine.errors import DataError, ExitCode, FitError, UsageError
from engine.families import FAMILIES
from engine.gpu import GpuReading, pretend
from engine.plan import Plan, count_examples, count_steps, describe, fit_hints, make_plan, require_fit
from engine.planner import CHOSEN, policy_of
from engine.units import GIB
from engine.vram import Budget, Part, split


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
    names = {"path": "a.jsonl", "eval_path": "b.jsonl", "gold_path": "c.jsonl", "mix_path": "d.jsonl"}
    data = make_plan(demo, DatasetSpec(**names), report, None).data
    assert {key: getattr(data, key) for key in names} == {key: str(tmp_path / name) for key, name in names.items()}


def test_the_plan_knows_every_file_by_its_bytes(demo: Preset, report: DatasetReport) -> None:
    digests = {"sha256": "a", "eval_sha256": "b", "gold_sha256": "c", "mix_sha256": "d"}
    summary = planned(demo, report.model_copy(update=digests)).summary
    assert summary.model_dump(include=set(digests)) == digests


def test_a_plan_survives_its_file(demo: Preset, report: DatasetReport) -> None:
    plan = planned(demo, report, pretend(8 * GIB))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("path", Path("tests/data/runs").glob("*/plan.json"), ids=lambda path: path.parent.name)
def test_a_recorded_plan_is_read_and_counts_as_it_did(path: Path) -> None:
    plan = Plan.model_validate_json(path.read_bytes())
    assert (plan.version, plan.summary.kind, plan.examples) == (1, "chat", plan.summary.rows)
    assert plan.steps == count_steps(plan.train, plan.examples)


# ── raw text ──


def texts(report: DatasetReport, tokens: int, rows: int = 30) -> DatasetReport:
    return report.model_copy(update={"kind": "text", "rows": rows, "approximate_tokens": tokens, "tokens": None})


@pytest.mark.parametrize(("tokens", "sequences"), [(12_800, 100), (12_801, 101), (100, 1)])
def test_raw_text_is_counted_in_packed_sequences(
    demo: Preset, report: DatasetReport, tokens: int, sequences: int
) -> None:
    preset = changed(demo, max_length=128, max_steps="none", epochs=2, micro_batch_size=4)
    plan = planned(preset, texts(report, tokens))
    assert plan.examples == sequences
    assert plan.steps == 2 * -(-sequences // 4)


def test_tokens_that_were_counted_are_taken_over_estimated_ones(demo: Preset, report: DatasetReport) -> None:
    counted = TokenStats(
        tokenizer="demo", rows=10, of_rows=30, max_length=128, tokens=5000, trained=5000, longest=900, median=500,
        p95=800, truncated=0, lost=0, dropped=0,
    )  # fmt: skip
    summary = planned(demo, texts(report, 1).model_copy(update={"tokens": counted})).summary
    assert summary.approximate_tokens == 15_000
    assert count_examples(summary, 100) == 150


def test_the_description_of_raw_text_speaks_of_sequences(demo: Preset, report: DatasetReport) -> None:
    pairs = dict(describe(planned(changed(demo, max_length=128), texts(report, 12_800))))
    assert pairs["tokens"] == "about 12,800 of text, packed into about 100 sequences of 128"
    assert "16 sequences" in pairs["batch"]


def test_nothing_of_raw_text_is_cut(demo: Preset, report: DatasetReport) -> None:
    long = texts(report, 10**6).model_copy(update={"longest_characters": 10**6})
    assert not any("cut" in warning for warning in planned(demo, long).warnings)


# ── rows from other files ──


def beside(demo: Preset, report: DatasetReport, data: dict[str, Any], **facts: Any) -> Plan:
    spec = demo.data.model_copy(update={"eval_path": "", **data})
    return make_plan(demo, spec, report.model_copy(update=facts), None)


def test_mixed_in_and_gold_rows_are_told(demo: Preset, report: DatasetReport) -> None:
    files = {"mix_path": "m.jsonl", "gold_path": "g.jsonl"}
    plan = beside(demo, report, files, rows=1000, mix_rows=100, eval_rows=40, gold_rows=200)
    assert dict(describe(plan))["rows"] == "900 of yours + 100 mixed in (10 %), 40 held out, 200 gold"
    assert plan.warnings == ()


@pytest.mark.parametrize("name", ["data", "gold", "mix"])
def test_a_saved_plan_is_refused_once_one_of_its_files_changed(demo: Preset, tmp_path: Path, name: str) -> None:
    files = {kind: tmp_path / f"{kind}.jsonl" for kind in ("data", "gold", "mix")}
    for kind, file in files.items():
        file.write_text("".join(f'{{"prompt": "{kind} {n}", "completion": "b"}}\n' for n in range(120)), "utf-8")
    data = DatasetSpec(path=str(files["data"]), gold_path=str(files["gold"]), mix_path=str(files["mix"]))
    plan = make_plan(demo.model_copy(update={"data": data}), data, scan(data), None)
    assert list(plan.files) == [str(file) for file in files.values()]
    saved = tmp_path / "plan.json"
    saved.write_text(plan.model_dump_json(), "utf-8")
    assert planning.load(saved, "", planning.Output()).summary.mix_rows == plan.summary.mix_rows > 0
    with files[name].open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="changed") as caught:
        planning.load(saved, "", planning.Output())
    assert caught.value.detail.startswith(f"{files[name]}: ")


def test_too_few_rows_to_mix_in_are_warned_of_with_the_true_ratio(demo: Preset, report: DatasetReport) -> None:
    plan = beside(demo, report, {"mix_path": "m.jsonl", "mix_ratio": 0.2}, rows=1000, mix_rows=50)
    assert plan.warnings == ("Only 50 rows can be mixed in: 5 % of those to learn from, not 20 %.",)


@pytest.mark.parametrize(("rows", "warned"), [(99, True), (100, False), (500, False), (501, True)])
def test_a_hundred_to_five_hundred_gold_rows_are_advised(
    demo: Preset, report: DatasetReport, rows: int, warned: bool
) -> None:
    warnings = beside(demo, report, {"gold_path": "g.jsonl"}, gold_rows=rows).warnings
    assert any("100 to 500 are advised" in warning for warning in warnings) is warned


def test_stratifying_beside_a_held_out_file_is_warned_of(demo: Preset, report: DatasetReport) -> None:
    warnings = beside(demo, report, {"stratify": "label", "eval_path": "e.jsonl"}).warnings
    assert any("stratify does nothing" in warning for warning in warnings)


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
        require_fit(planned(preset, report, pretend(8 * GIB), disk_free_bytes=10**12, fixed=CHOSEN))
    first = caught.value.hints[0]
    assert "which is enough" in first
    settings = dict(part.split("=") for part in first.split() if "=" in part)
    changed = presets.override(preset, settings)
    require_fit(planned(changed, report, pretend(8 * GIB), disk_free_bytes=10**12, fixed=CHOSEN))


# ── what it chooses ──


def test_what_is_set_by_hand_stays_and_the_effective_batch_too(report: DatasetReport) -> None:
    preset = presets.find_preset("llama-3.1-8b-instruct")
    free = planned(preset, report, pretend(24 * GIB))
    assert free.effective_batch == preset.train.micro_batch_size * preset.train.gradient_accumulation_steps
    by_hand = changed(preset, micro_batch_size=1, gradient_accumulation_steps=7, gradient_checkpointing_every=2)
    names = ("train.micro_batch_size", "train.gradient_checkpointing_every")
    kept = planned(by_hand, report, pretend(24 * GIB), fixed=names)
    assert (kept.train.micro_batch_size, kept.effective_batch) == (1, 7)
    assert kept.train.gradient_checkpointing_every == 2
    assert kept.fixed == tuple(sorted(names))


def test_on_the_cpu_nothing_is_chosen(demo: Preset, report: DatasetReport) -> None:
    plan = planned(demo, report)
    assert (plan.preset, plan.why, plan.ram) == (demo, "", None)


def test_the_description_says_what_is_computed_twice_and_why(report: DatasetReport) -> None:
    plan = planned(presets.find_preset("llama-3.1-8b-instruct"), report, pretend(12 * GIB))
    policy = policy_of(plan.preset)
    assert policy is not None
    assert dict(describe(plan))["checkpointing"] == f"{policy.help} Chosen: {plan.why}"


def test_what_was_measured_changes_the_plan_and_its_advice(report: DatasetReport) -> None:
    preset = presets.find_preset("llama-3.1-8b-instruct")
    before = planned(preset, report, pretend(24 * GIB), fixed=CHOSEN)
    resident, moving = split(preset, absent=("optimizer",))
    seen = measurement(
        preset, pretend(24 * GIB), before.vram.parts, length=preset.train.max_length, loaded_bytes=resident,
        allocated_bytes=resident + int(1.8 * moving), reserved_bytes=resident + int(1.9 * moving), context_bytes=GIB,
        tokens_per_s=1000.0,
    )  # fmt: skip
    record(seen)
    after = planned(preset, report, pretend(24 * GIB), fixed=CHOSEN)
    assert after.correction.measured
    assert after.vram.needed_bytes > before.vram.needed_bytes
    assert (before.seconds, after.seconds is not None) == (None, True)
    small = [planned(preset, report, pretend(4 * GIB), fixed=CHOSEN)]
    small.append(small[0].model_copy(update={"correction": after.correction}))
    assert fit_hints(small[0]) != fit_hints(small[1])


def test_a_machine_with_too_little_memory_beside_its_gpu_is_refused(report: DatasetReport) -> None:
    card = GpuReading(uuid="GPU-1", name="a card", total_bytes=24 * GIB, free_bytes=24 * GIB)
    preset = presets.find_preset("llama-3.1-8b-instruct")
    plan = planned(preset, report, card, disk_free_bytes=10**12, ram_free_bytes=4 * GIB)
    with pytest.raises(FitError, match="machine's memory"):
        require_fit(plan)
    assert "machine's memory" in dict(describe(plan))
    assert planned(preset, report, pretend(24 * GIB)).ram is None


def test_a_full_disk_for_downloads_is_refused(demo: Preset, report: DatasetReport) -> None:
    cache = Budget(parts=(Part(name="model download", size_bytes=5),), available_bytes=4)
    plan = planned(demo, report, disk_free_bytes=10**12).model_copy(update={"cache": cache})
    with pytest.raises(FitError, match="disk of the downloads") as caught:
        require_fit(plan)
    assert "HF_HUB_CACHE" in caught.value.hints[0]


def test_a_model_that_cannot_be_exported_is_warned_of(report: DatasetReport) -> None:
    said = "No GGUF file can be made of"
    for name, exports in (("gemma-2-2b-it", False), ("llama-3.2-1b-instruct", True)):
        preset = presets.find_preset(name)
        assert FAMILIES[preset.family].exports is exports
        assert any(said in warning for warning in planned(preset, report).warnings) is not exports


@pytest.mark.parametrize("preset", presets.list_presets(), ids=lambda preset: preset.name)
def test_the_presets_plan_by_the_command_line_without_a_gpu(
    preset: Preset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 9B on 24 GiB, up to 4B on 12 GiB, with no setting changed by hand."""
    monkeypatch.setattr(planning, "free_disk", lambda _: 10**13)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"prompt": "question {n}", "completion": "answer {n}"}}\n' for n in range(40)), "utf-8")
    for memory, most in (("24GiB", 9.5e9), ("12GiB", 4.5e9)):
        if preset.parameters > most:
            continue
        words = ["plan", "--preset", preset.name, "--data", str(data), "--gpu-memory", memory, "--json"]
        assert cli.main(words) == ExitCode.DONE
        told = json.loads(capsys.readouterr().out)
        train = told["plan"]["preset"]["train"]
        assert told["fits"] is True
        assert train["max_length"] == preset.train.max_length
        batch = preset.train.micro_batch_size * preset.train.gradient_accumulation_steps
        assert train["micro_batch_size"] * train["gradient_accumulation_steps"] == batch


def test_settings_of_the_command_line_are_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--preset", "demo", "--gpu-memory", "24GiB", "--json", "--set", "micro_batch_size=4",
             "train.gradient_checkpointing=true"]  # fmt: skip
    assert cli.main(words) == ExitCode.DONE
    made = json.loads(capsys.readouterr().out)["plan"]
    assert made["fixed"] == ["train.gradient_checkpointing", "train.micro_batch_size"]
    assert made["preset"]["train"]["micro_batch_size"] == 4
    assert made["preset"]["train"]["gradient_checkpointing"] is True


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

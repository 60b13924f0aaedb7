"""certify: a correct export passes, and each known way of getting it wrong fails on the line meant for it.

The base is the bundled demo model, because a random one neither stops nor has an opinion; the adapter is random.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as library
import pytest
from transformers.generation.utils import GenerationMixin

from engine.errors import CertificateError, MissingError
from engine.gpu import GpuReading
from engine.paths import builtin_presets
from engine.worker import certify, checks, gguf, reference
from engine.worker.answer import Question
from engine.worker.fold import Folded, Weights, load_adapter
from engine.worker.gguf.write import Source, write_model
from engine.worker.llama import LlamaModel

DEMO = builtin_presets() / "demo"
pytestmark = pytest.mark.skipif(
    not (DEMO / "model" / "model.safetensors").is_file(), reason="the bundled demo model is not here"
)


@pytest.fixture
def demo(export: Any) -> Any:
    """A run on the demo model, with held-out rows and a random adapter that changes it visibly."""
    run = export(base=DEMO / "model", rank=8, scale=0.05)
    run.plan = run.plan.model_copy(
        update={"preset": run.plan.preset.model_copy(update={"parameters": 2_600_000, "context_length": 512})}
    )
    rows = (DEMO / "data" / "heldout.jsonl").read_text("utf-8").splitlines()
    run.run.heldout.write_text("\n".join(rows[:16]), "utf-8")
    return run


def failed_lines(run: Any) -> dict[str, Any]:
    """Certify; the failed lines by title."""
    with pytest.raises(CertificateError):
        certify.run(run.context("certify", quants=("bf16",)))
    return {check.title: check for check in run.events("check") if not check.passed}


def write(run: Any, change: Callable[[Source], Source]) -> None:
    """The run's bf16 file from a changed source."""
    write_model(run.run.gguf("bf16"), change(gguf._source(run.context("gguf"))), lambda _done, _total: None)


@pytest.mark.slow
def test_a_correct_export_passes_in_every_precision(demo: Any) -> None:
    gguf.run(demo.context("gguf", quants=("Q8_0", "Q4_K_M")))
    certify.run(demo.context("certify"))
    certificate = json.loads(demo.run.certificate.read_text())
    assert certificate["passed"]
    assert certificate["forms"].keys() == {"bf16", "Q8_0", "Q4_K_M"}
    lines = demo.events("check")
    assert len(lines) == 3 * 6
    kl = {form: told["kl"] for form, told in certificate["forms"].items()}
    assert kl["bf16"] < kl["Q8_0"] < kl["Q4_K_M"] < 0.2
    assert kl["bf16"] < 2e-4


def test_a_missing_head_permutation_fails(demo: Any) -> None:
    write(demo, lambda s: replace(s, family=replace(s.family, transform=lambda _name, tensor, _config: tensor)))
    failed = failed_lines(demo)
    assert "permutation" in failed[checks.SAME_DISTRIBUTION].remedy
    assert not json.loads(demo.run.certificate.read_text())["passed"]


def test_a_wrong_rope_theta_fails(demo: Any) -> None:
    rope = {"rope_theta": 1000.0, "rope_type": "default"}
    write(demo, lambda s: replace(s, config={**s.config, "rope_parameters": rope}))
    assert checks.SAME_DISTRIBUTION in failed_lines(demo)


def test_a_wrong_epsilon_fails(demo: Any) -> None:
    write(demo, lambda s: replace(s, config={**s.config, "rms_norm_eps": 0.1}))
    assert checks.SAME_DISTRIBUTION in failed_lines(demo)


def test_an_adapter_that_was_not_folded_fails(demo: Any) -> None:
    write(demo, lambda s: replace(s, folded=Folded(Weights(demo.base))))
    assert "not folded" in failed_lines(demo)[checks.YOURS].remedy


def test_a_wrong_end_of_turn_fails(demo: Any) -> None:
    def change(source: Source) -> Source:
        words = source.vocabulary
        turn = words.tokens.index("<|eot_id|>")
        words.tokens[turn] = "<|elsewhere|>"  # llama.cpp knows the usual names by heart
        words.special = {"bos": words.special["bos"], "eos": words.special["bos"]}
        return source

    write(demo, change)
    failed = failed_lines(demo)
    assert "does not end an answer" in failed[checks.KNOWN_END].figure
    assert checks.STOPS in failed


def test_another_template_fails(demo: Any) -> None:
    def change(source: Source) -> Source:
        source.vocabulary.template = (source.vocabulary.template or "").replace("| trim", "+ ' '")
        return source

    write(demo, change)
    assert checks.SAME_TOKENS in failed_lines(demo)


def test_another_pre_tokenizer_fails(demo: Any) -> None:
    write(demo, lambda s: replace(s, pre="gpt-2"))
    run = demo
    rows = [
        {"messages": [{"role": "user", "content": "Hello\n\n\n  12345's  ÄÖÜ"}, {"role": "assistant", "content": "a"}]}
    ]
    run.run.heldout.write_text("\n".join(map(json.dumps, rows)))
    assert checks.SAME_TOKENS in failed_lines(run)


def test_a_question_longer_than_the_context_is_left_out(demo: Any) -> None:
    write(demo, lambda s: s)
    rows = [json.loads(line) for line in demo.run.heldout.read_text().splitlines()]
    rows[2]["messages"][-2]["content"] = "account 3322 " * 900
    demo.run.heldout.write_text("\n".join(map(json.dumps, rows)))
    certify.run(demo.context("certify", quants=("bf16",)))
    assert json.loads(demo.run.certificate.read_text())["passed"]


def test_without_a_gguf_file_it_says_what_to_run(demo: Any) -> None:
    with pytest.raises(MissingError) as error:
        certify.run(demo.context("certify"))
    assert error.value.hints[0].startswith("finetui gguf")


def test_without_heldout_rows_it_says_why(demo: Any, tmp_path: Path) -> None:
    write(demo, lambda s: s)
    demo.run.heldout.write_text("")
    with pytest.raises(MissingError, match="held-out"):
        certify.run(demo.context("certify", quants=("bf16",)))


def test_the_shielded_template_is_in_the_file(demo: Any) -> None:
    write(demo, lambda s: s)
    template = library.GGUFReader(demo.run.gguf("bf16")).fields["tokenizer.chat_template"].contents()
    assert template.startswith("{#" + "─" * 128)


def test_an_export_halfway_to_the_base_is_not_yours(demo: Any) -> None:
    def change(source: Source) -> Source:
        adapter = load_adapter(demo.run.adapter)
        return replace(source, folded=Folded(Weights(demo.base), replace(adapter, scale=adapter.scale / 4)))

    write(demo, change)
    assert checks.YOURS in failed_lines(demo)


def test_an_export_that_answers_worse_fails_on_the_loss(demo: Any) -> None:
    write(demo, lambda s: replace(s, config={**s.config, "rms_norm_eps": 10.0}))
    assert "answers worse" in failed_lines(demo)[checks.SAME_LOSS].remedy


def test_another_beginning_of_text_fails(demo: Any) -> None:
    def change(source: Source) -> Source:
        source.vocabulary.special["bos"] = source.vocabulary.special["eos"]
        return source

    write(demo, change)
    assert "BOS is" in failed_lines(demo)[checks.KNOWN_END].figure


def test_both_sides_may_answer_as_long(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write(demo, lambda s: s)
    budgets: dict[str, set[int]] = {"trained": set(), "file": set()}
    theirs, ours = GenerationMixin.generate, LlamaModel.generate

    def generate(self: Any, *arguments: Any, **settings: Any) -> Any:
        budgets["trained"].add(settings["generation_config"].max_new_tokens)
        return theirs(self, *arguments, **settings)

    def spy(self: LlamaModel, ids: Any, max_tokens: int) -> Any:
        budgets["file"].add(max_tokens)
        assert len(ids) + max_tokens <= self.context_length
        return ours(self, ids, max_tokens)

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    monkeypatch.setattr(LlamaModel, "generate", spy)
    certify.run(demo.context("certify", quants=("bf16",)))
    assert budgets["trained"] == budgets["file"]
    assert len(budgets["file"]) == 1


def asked(length: int, expected: int) -> Question:
    return Question("", tuple(range(length)), "", expected)


def test_of_questions_of_all_lengths_each_that_stays_has_room_for_the_longest_answer() -> None:
    found = [asked(900, 5), asked(10, 200), asked(1000, 5), asked(400, 20)]
    kept = reference._askable(found, 1024)
    assert [len(question.input_ids) for question in kept] == [10, 400]
    assert {question.expected_tokens for question in kept} == {432}


def test_an_unknown_file_is_left_out_before_any_work(demo: Any) -> None:
    write(demo, lambda s: s)
    (demo.run.path / "model.IQ4_XS.gguf").write_bytes(b"GGUF")
    certify.run(demo.context("certify"))
    assert json.loads(demo.run.certificate.read_text())["forms"].keys() == {"bf16"}
    said = demo.run.events.read_text()
    assert said.index("model.IQ4_XS.gguf is left out") < said.index("reading the held-out rows")


def test_the_certificate_names_the_file_s_bytes_and_what_it_was_compared_with(demo: Any) -> None:
    write(demo, lambda s: s)
    certify.run(demo.context("certify"))
    certificate = json.loads(demo.run.certificate.read_text())
    content = demo.run.gguf("bf16").read_bytes()
    assert certificate["forms"]["bf16"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert certificate["as_trained"]["computed"] == "fp32 on the CPU"


@pytest.mark.parametrize("planned", ["cpu", "cuda"])
def test_the_plan_s_device_is_claimed_before_anything_looks_for_a_gpu(
    demo: Any, monkeypatch: pytest.MonkeyPatch, planned: str
) -> None:
    card = GpuReading(uuid="GPU-4711", name="A card", total_bytes=1, free_bytes=1) if planned == "cuda" else None
    demo.plan = demo.plan.model_copy(update={"device": planned, "gpu": card})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    seen: list[str] = []

    def read_subject(*_arguments: Any) -> None:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        raise MissingError("enough")

    monkeypatch.setattr(certify, "read_subject", read_subject)
    write(demo, lambda s: s)
    with pytest.raises(MissingError, match="enough"):
        certify.run(demo.context("certify"))
    assert seen == ["" if planned == "cpu" else "GPU-4711"]
    gone = [finding for finding in demo.events("finding") if "on the CPU" in finding.title]
    assert bool(gone) == (planned == "cuda")  # this machine has none, and goes on


def test_distances_are_from_the_base_and_from_the_trained_model(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write(demo, lambda s: s)
    measured: list[reference.Reference] = []
    begun_at: list[Any] = []
    honest, distance = certify.measure, checks.mean_kl

    def measure(*arguments: Any) -> reference.Reference:
        measured.append(honest(*arguments))
        return measured[0]

    def mean_kl(one: Any, other: Any) -> float:
        begun_at.append(one)
        return distance(one, other)

    monkeypatch.setattr(certify, "measure", measure)
    monkeypatch.setattr(checks, "mean_kl", mean_kl)
    certify.run(demo.context("certify", quants=("bf16",)))
    (found,) = measured
    assert found.from_base == distance(found.base, found.tuned) != distance(found.tuned, found.base)
    assert begun_at[0] is found.tuned
    assert begun_at[1] is found.base

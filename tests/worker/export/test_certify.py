"""certify: a correct export passes, and each known way of getting it wrong fails on the line meant for it.

The base is the bundled demo model, because a random one neither stops nor has an opinion; the adapter is random.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as library
import pytest

from engine.errors import CertificateError, MissingError
from engine.paths import builtin_presets
from engine.worker import certify, checks, gguf
from engine.worker.fold import Folded, Weights
from engine.worker.gguf.write import Source, write_model

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

"""SentencePiece: a model with all files of a Mistral v0.3 snapshot is trained on, exported and certified as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf as library
import pytest
import sentencepiece
from tokenizers import Tokenizer, models

from engine.datasets.base import Message, Row
from engine.errors import CertificateError, MissingError, RunError
from engine.tokens.mask import IGNORED, encode, prompt_ids
from engine.tokens.tokenizer import Tokenizer as Light
from engine.worker import certify, checks, gguf, model
from engine.worker.gguf.llama import FAMILY
from engine.worker.gguf.probe import STRINGS, choose_pre
from engine.worker.gguf.vocabulary import load_tokenizer, read_vocabulary
from engine.worker.gguf.write import write_model
from engine.worker.hub_files import File, chosen
from engine.worker.llama import LlamaModel

BOTH = pytest.mark.parametrize("kind", ["mistral", "mistral-legacy"])
IDS = {"bos_token_id": 1, "eos_token_id": 2}
CHATS: list[list[Message]] = [
    [{"role": "user", "content": f" {text}  "}, {"role": "assistant", "content": f"{text} 日本語 🚀"}]
    for text in STRINGS
]


@pytest.fixture
def mistral(export: Any, tiny: Any) -> Any:
    """`mistral("mistral")`: a run on a random model with that tokenizer, held-out rows and a visible adapter."""

    def make(kind: str = "mistral") -> Any:
        run = export(base=tiny(kind, vocab_size=608, **IDS), rank=8, scale=0.05)
        rows = [json.dumps({"messages": chat}) for chat in CHATS[::8]]
        run.run.heldout.write_text("\n".join(rows), "utf-8")
        return run

    return make


@BOTH
def test_a_correct_export_is_certified(mistral: Any, kind: str) -> None:
    run = mistral(kind)
    gguf.run(run.context("gguf", quants=("bf16",)))
    certify.run(run.context("certify"))
    certificate = json.loads(run.run.certificate.read_text())
    assert certificate["passed"]
    assert certificate["forms"]["bf16"]["kl"] < 5e-4  # as for the other families of random models


@BOTH
def test_prompts_have_the_trained_token_ids_and_one_bos(mistral: Any, kind: str) -> None:
    run = mistral(kind)
    gguf.run(run.context("gguf", quants=("bf16",)))
    tokenizer = Light.load(run.base)
    with LlamaModel(run.run.gguf("bf16"), vocab_only=True) as exported:
        for chat in CHATS:
            text = tokenizer.render(chat)
            ids = exported.tokenize(text)
            assert ids == tokenizer.ids(text)
            assert ids.count(exported.bos) == 1


def test_characters_without_a_token_become_bytes_and_come_back(mistral: Any) -> None:
    run = mistral()
    gguf.run(run.context("gguf", quants=("bf16",)))
    with LlamaModel(run.run.gguf("bf16"), vocab_only=True) as exported:
        ids = exported.tokenize("<s>[INST]👩‍👧 中文")
        assert exported.token_text(ids[2]) == "<0xF0>"
        assert b"".join(map(exported.piece, ids)).decode() == "👩‍👧 中文"


def test_scores_and_types_are_those_of_the_sentencepiece_model(tiny: Any) -> None:
    folder = tiny("mistral", **IDS)
    vocabulary = read_vocabulary(folder, 600)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    types = vocabulary.types
    assert vocabulary.tokens == [pieces.IdToPiece(token) for token in range(600)]
    assert types[:8] == [library.TokenType.CONTROL] * 8
    assert types[8] == library.TokenType.USER_DEFINED
    assert [kind is library.TokenType.BYTE for kind in types] == [pieces.IsByte(token) for token in range(600)]
    assert vocabulary.scores[9:] == [pieces.GetScore(token) for token in range(9, 600)]


@pytest.mark.parametrize("absent", ["tokenizer.model", "tokenizer.json"])
def test_tokenizer_json_is_enough_and_needed(tiny: Any, tmp_path: Path, absent: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny("mistral", **IDS), folder)
    whole = read_vocabulary(folder, 608)
    (folder / absent).unlink()
    if absent == "tokenizer.model":
        assert read_vocabulary(folder, 608) == whole
        return
    for reads in (Light.load, lambda where: read_vocabulary(where, 608)):
        with pytest.raises(MissingError, match=r"no tokenizer\.json"):
            reads(folder)


def test_of_the_hub_s_files_each_that_is_needed_is_fetched_and_no_weights_twice() -> None:
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    needed = ["config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json"]
    needed += ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", *shards]
    there = [*needed, "README.md", "consolidated.safetensors", "tokenizer.model.v3"]
    listed = {name: File(name, 1, "", "") for name in there}
    config, small, weights = chosen("mistralai/Mistral-7B-Instruct-v0.3", listed)
    assert {file.path for file in (config, *small, *weights)} == set(needed)


def test_another_kind_of_sentencepiece_is_refused_by_name(tmp_path: Path) -> None:
    Tokenizer(models.Unigram([("a", -1.0)])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RunError) as error:
        read_vocabulary(tmp_path, 1)
    assert "Unigram" in error.value.detail


@pytest.mark.parametrize(("kind", "space"), [("mistral", False), ("mistral-legacy", True)])
def test_the_space_in_front_is_found_by_trying(tiny: Any, tmp_path: Path, kind: str, space: bool) -> None:
    folder = tiny(kind, **IDS)
    vocabulary = read_vocabulary(folder, 600)
    assert choose_pre(tmp_path, load_tokenizer(folder), vocabulary, FAMILY)[0] == "default"
    assert vocabulary.add_space_prefix is space
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_prefix_space"]  # of no help


def test_wrong_scores_are_refused(tiny: Any, tmp_path: Path) -> None:
    folder = tiny("mistral", **IDS)
    vocabulary = read_vocabulary(folder, 600)
    vocabulary.scores = [-score for score in vocabulary.scores]
    with pytest.raises(RunError, match="cannot tokenize"):
        choose_pre(tmp_path, load_tokenizer(folder), vocabulary, FAMILY)


@BOTH
def test_a_wrong_space_in_front_fails_the_certificate(mistral: Any, kind: str) -> None:
    run = mistral(kind)
    source = gguf._source(run.context("gguf"))
    source.vocabulary.add_space_prefix = not source.vocabulary.add_space_prefix
    write_model(run.run.gguf("bf16"), source, lambda _done, _total: None)
    with pytest.raises(CertificateError):
        certify.run(run.context("certify", quants=("bf16",)))
    failed = {check.title for check in run.events("check") if not check.passed}
    assert checks.SAME_TOKENS in failed


@BOTH
def test_only_the_answer_and_its_end_are_trained(tiny: Any, kind: str) -> None:
    tokenizer = Light.load(tiny(kind, **IDS))
    chat: list[Message] = [
        {"role": "user", "content": "Where is the box?"},
        {"role": "assistant", "content": "On its way 🚀."},
        {"role": "user", "content": "And the letter?"},
        {"role": "assistant", "content": "It is here."},
    ]
    (row,) = encode(tokenizer, [Row(1, chat)])
    trained = [token for token in row.labels if token != IGNORED]
    said = tokenizer.core.decode(trained, skip_special_tokens=False)
    assert said.split() == ["On", "its", "way", "🚀.</s>", "It", "is", "here.</s>"]
    assert trained.count(2) == 2
    assert row.straddling == 0
    prompt = prompt_ids(tokenizer, chat[:3])
    assert row.input_ids[: len(prompt)] == prompt


@BOTH
def test_the_tokenizer_is_the_same_in_every_folder(mistral: Any, kind: str) -> None:
    run = mistral(kind)
    text = "<s>[INST] Hello the box[/INST] It is</s>"
    alone, base = (Light.load(folder).ids(text) for folder in (run.run.adapter, run.base))
    handed = model.processing_class(run.base, Light.load(run.base))(text, add_special_tokens=False)["input_ids"]
    assert alone == base == handed == load_tokenizer(run.base).encode(text, add_special_tokens=False).ids

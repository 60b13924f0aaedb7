"""A model's tokenizer as its folder has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import vocabularies
from tokenizers import AddedToken, Tokenizer, processors

from engine.config import Preset
from engine.errors import MissingError
from engine.presets import list_presets
from engine.tokens.find import tokenizer_of
from engine.tokens.template import Template
from engine.tokens.tokenizer import Tokenizer as Light
from engine.tokens.tokenizer import generation_stops, role_tokens

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, core: Tokenizer | None = None, **files: dict[str, Any]) -> Path:
    """A model's folder: `tokenizer_config={…}` becomes tokenizer_config.json."""
    core = core or vocabularies.small_core()
    core.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")])
    folder.mkdir(exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "chat_template": CHATML}
    tokenizer = Light.load(write(tmp_path, tokenizer_config=config, generation_config={"eos_token_id": [7, 8]}))
    assert (tokenizer.tokens["bos_token"], tokenizer.tokens["eos_token"]) == ("<s>", "<|im_end|>")
    assert tokenizer.stops == (7, 8)
    assert tokenizer.render([{"role": "user", "content": "x"}]) == "<|im_start|>user\nx<|im_end|>\n"
    assert tokenizer.decode(tokenizer.ids("Where is<|im_end|> the box?")) == "Where is the box?"


def test_a_folder_without_tokenizer_json_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no tokenizer\.json") as caught:
        Light.load(tmp_path)
    assert caught.value.hints


def test_a_damaged_tokenizer_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(MissingError, match=r"cannot be loaded.*tokenizer\.json"):
        Light.load(tmp_path)


def test_neither_cut_nor_padded_whatever_the_file_says(tmp_path: Path) -> None:
    core = vocabularies.small_core()
    core.enable_truncation(3)
    core.enable_padding(length=50)
    text = "Where is the box? " * 10
    for content in (text, "a"):
        tokenizer = Light.load(write(tmp_path, core))
        assert tokenizer.decode(tokenizer.ids(content)) == content


def test_special_tokens_keep_their_ids_and_text_its_characters() -> None:
    core = vocabularies.small_core()
    text = "def f(x):\n        if  x:\n"
    before = core.encode(text, add_special_tokens=False)
    assert any(begin == end for begin, end in before.offsets)  # this is what is mended
    tokenizer = vocabularies.small(CHATML, core=core)
    (after,) = tokenizer.encode([text])
    assert after.ids == before.ids
    assert "".join(text[begin:end] for begin, end in after.offsets) == text


@pytest.mark.parametrize(
    ("single", "head", "tail"),
    [("$A", (), ()), ("<s> $A", ("<s>",), ()), ("<s> $A </s>", ("<s>",), ("</s>",))],
)
def test_what_is_added_around_a_text_is_found(single: str, head: tuple[str, ...], tail: tuple[str, ...]) -> None:
    core = vocabularies.small_core()
    core.add_special_tokens(["<s>", "</s>"])
    ends = [(text, core.token_to_id(text)) for text in ("<s>", "</s>")]
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    added = Light.of(core, None, {}).added
    assert added == tuple(tuple(core.token_to_id(text) for text in texts) for texts in (head, tail))


@pytest.mark.parametrize(
    ("named", "there", "pad"),
    [
        ("<pad>", ["<pad>"], "<pad>"),
        ("</s>", ["<pad>", "<unk>"], "<pad>"),
        (None, ["<|finetune_right_pad_id|>"], "<|finetune_right_pad_id|>"),
        ("<nowhere>", ["<unk>"], "<unk>"),
        ("</s>", [], "</s>"),
    ],
)
def test_padding_does_not_end_a_text_where_there_is_another_token(
    named: str | None, there: list[str], pad: str
) -> None:
    core = vocabularies.small_core()
    core.add_special_tokens(["</s>", *there])
    tokens = {"eos_token": "</s>"} | ({"pad_token": named} if named else {})
    tokenizer = Light.of(core, None, tokens)
    assert tokenizer.pad_token == pad
    assert tokenizer.pad_id == core.token_to_id(pad)


@pytest.mark.parametrize(
    ("generation", "config", "stops"),
    [
        ({"eos_token_id": 3}, {"eos_token_id": 9}, (3,)),
        ({"eos_token_id": [3, 4]}, {}, (3, 4)),
        ({}, {"eos_token_id": 0}, (0,)),
        ({}, {"text_config": {"eos_token_id": [1, 106]}}, (1, 106)),
        ({}, {"eos_token_id": None}, ()),
        ({}, {}, ()),
    ],
)
def test_where_generation_stops(
    tmp_path: Path, generation: dict[str, Any], config: dict[str, Any], stops: tuple[int, ...]
) -> None:
    assert generation_stops(write(tmp_path, generation_config=generation, config=config)) == stops


@pytest.mark.parametrize("decoder", [{}, {"added_tokens_decoder": {}}])
def test_the_older_file_of_special_tokens_counts_only_where_there_is_no_newer(
    tmp_path: Path, decoder: dict[str, Any]
) -> None:
    config = {"eos_token": "new", **decoder}
    write(tmp_path, tokenizer_config=config, special_tokens_map={"eos_token": "old", "unk_token": {"content": "u"}})
    assert role_tokens(tmp_path) == {"eos_token": "new" if decoder else "old", "unk_token": "u"}


@pytest.mark.parametrize(
    ("source", "end"),
    [
        (CHATML, "<|im_end|>"),
        (vocabularies.template("llama3_1"), "<|eot_id|>"),
        (vocabularies.template("gemma3"), "<end_of_turn>"),
        (vocabularies.template("phi3_5"), "<|end|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_the_end_of_a_turn_is_found_in_the_template(source: str, end: str | None) -> None:
    tokenizer = vocabularies.small(source)
    assert tokenizer.end_of_turn == (None if end is None else tokenizer.core.token_to_id(end))


def test_where_an_answer_ends_is_special_whatever_the_file_says() -> None:
    core = vocabularies.small_core()
    core.add_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = Light.of(core, Template(CHATML), {})
    assert list(tokenizer.special.values()) == ["<|im_end|>"]


def preset(model: str) -> Preset:
    return list_presets()[0].model_copy(update={"model": model, "revision": "main"})


def test_a_preset_s_tokenizer_is_found_in_its_folder(tmp_path: Path) -> None:
    assert tokenizer_of(preset(str(write(tmp_path / "model")))) is not None


def test_a_preset_s_tokenizer_is_found_in_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc\n")
    (repository / "snapshots").mkdir()
    assert tokenizer_of(preset("some/model")) is None
    write(repository / "snapshots" / "abc")
    assert tokenizer_of(preset("some/model")) is not None


@pytest.mark.parametrize("made", [True, False])
def test_a_model_that_is_not_here_has_no_tokenizer(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "model"
    if made:
        folder.mkdir()
    assert tokenizer_of(preset(str(folder))) is None

"""The bundled demo is what its card says, as far as that can be seen without torch."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

DEMO = Path(__file__).resolve().parents[2] / "presets" / "demo"
MODEL = DEMO / "model"
TICKET = re.compile(
    r"queue: (?:billing|delivery|returns|repair|account) \| priority: (?:high|normal|low)"
    r" \| customer: (?P<name>\w+) \| ref: (?P<ref>[0-9]{4})"
)
MEGABYTE = 1_000_000
TEXTS = ("Hi, this is Łucja.\n\nOrder 90210!", "naïve 東京 \N{GRINNING FACE}\t  x\r\n", "don't I'LL")
CLAIMS = ("Apache-2.0", "scripts/make_demo.py", "not a language model worth talking to", "bit-for-bit")
Row = list[dict[str, str]]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_rows(name: str) -> list[Row]:
    lines = (DEMO / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def answers(name: str, group: str) -> set[str]:
    found = [TICKET.fullmatch(row[-1]["content"]) for row in read_rows(name)]
    return {match[group] for match in found if match}


def words(name: str) -> set[str]:
    text = " ".join(message["content"] for row in read_rows(name) for message in row[:-1])
    return set(re.findall(r"\w+", text))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


def test_there_are_enough_rows() -> None:
    assert len(read_rows("train")) >= 400
    assert len(read_rows("heldout")) >= 100


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_every_row_is_a_message_and_its_ticket(name: str) -> None:
    for row in read_rows(name):
        assert [message["role"] for message in row][-2:] == ["user", "assistant"]
        assert [message["role"] for message in row][:-2] in ([], ["system"])
        ticket = TICKET.fullmatch(row[-1]["content"])
        assert ticket is not None, row
        assert ticket["name"] in row[-2]["content"]
        assert ticket["ref"] in row[-2]["content"]


@pytest.mark.parametrize("group", ["name", "ref"])
def test_heldout_rows_have_their_own_names_and_numbers(group: str) -> None:
    heldout = answers("heldout", group)
    assert len(heldout) >= 20
    assert not heldout & words("train")


def test_all_queues_and_priorities_occur_in_both_files() -> None:
    for name in ("train", "heldout"):
        tickets = " ".join(row[-1]["content"] for row in read_rows(name))
        for word in ("billing", "delivery", "returns", "repair", "account", "high", "normal", "low"):
            assert tickets.count(f": {word} |") >= 15


def test_weights_are_small_and_bf16() -> None:
    path = MODEL / "model.safetensors"
    assert path.stat().st_size < 10 * MEGABYTE
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}


def test_rows_of_every_matrix_fill_k_quant_blocks() -> None:
    config = read_json(MODEL / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0


def test_tokenizer_gives_text_back(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text


def test_every_byte_is_in_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert len([token for token in tokenizer.get_vocab() if len(token) == 1]) == 256


def test_no_token_but_ten_has_a_digit(tokenizer: Tokenizer) -> None:
    assert {token for token in tokenizer.get_vocab() if re.search(r"[0-9]", token)} == set("0123456789")
    assert tokenizer.encode("4411", add_special_tokens=False).tokens == list("4411")


def test_special_tokens(tokenizer: Tokenizer) -> None:
    config = read_json(MODEL / "tokenizer_config.json")
    generation = read_json(MODEL / "generation_config.json")
    ids = {key: tokenizer.token_to_id(config[f"{key}_token"]) for key in ("bos", "eos", "pad")}
    assert len(set(ids.values())) == 3
    assert config["eos_token"] == "<|eot_id|>"
    assert generation["eos_token_id"] == [ids["eos"], tokenizer.token_to_id("<|end_of_text|>")]
    assert tokenizer.encode("Hello").ids[0] == ids["bos"]


def test_a_row_fits_into_the_context(tokenizer: Tokenizer) -> None:
    texts = [" ".join(message["content"] for message in row) for row in read_rows("train")]
    longest = max(len(tokenizer.encode(text).ids) for text in texts)
    assert longest + 20 <= 128  # 20: the headers of three turns


def test_the_card_says_what_it_is() -> None:
    text = " ".join((DEMO / "README.md").read_text("utf-8").split())
    assert [claim for claim in CLAIMS if claim not in text] == []

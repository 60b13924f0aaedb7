"""What is trained: exactly the assistant's tokens and the token that ends each turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl

from engine.datasets.base import Message, Row
from engine.errors import DataError
from engine.worker.tokenize import IGNORED, Tally, encode, encode_rows, prompt_ids, require_trainable, will_it_stop

from .conftest import END, PAD, make_tokenizer

TEMPLATES = Path(trl.__file__).parent / "chat_templates"

CHAT: list[Message] = [
    {"role": "user", "content": "Where is the box?"},
    {"role": "assistant", "content": "On its way.\n\nIt is blue."},
    {"role": "user", "content": "  And the  letter? "},
    {"role": "assistant", "content": "Déjà là ✅"},
]
SYSTEM: Message = {"role": "system", "content": "Be short."}


def trained_text(tokenizer: Any, chat: list[Message]) -> str:
    (row,) = encode(tokenizer, [chat])
    return str(tokenizer.decode([token for token in row.labels if token != IGNORED]))


@pytest.mark.parametrize(
    ("family", "end"),
    [("llama3", END), ("qwen2_5", "<|im_end|>"), ("gemma", "<end_of_turn>"), ("qwen3_instruct_2507", "<|im_end|>")],
)
@pytest.mark.parametrize("chat", [CHAT, CHAT[:2], [SYSTEM, *CHAT]], ids=["two turns", "one turn", "system"])
def test_labels_equal_trl_s_mask_of_the_template_with_generation_markers(
    family: str, end: str, chat: list[Message]
) -> None:
    if family == "gemma" and chat[0]["role"] == "system":
        pytest.skip("the template knows no system message")
    plain = make_tokenizer((TEMPLATES / f"{family}.jinja").read_text(), end)
    marked = make_tokenizer((TEMPLATES / f"{family}_training.jinja").read_text(), end)
    (ours,) = encode(plain, [chat])
    theirs = marked.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert ours.input_ids == theirs["input_ids"]
    newline = set(plain("\n", add_special_tokens=False)["input_ids"])
    for token, label, mask in zip(ours.input_ids, ours.labels, theirs["assistant_masks"], strict=True):
        # trl's templates may count the line break after the turn to the answer; it is never ours to learn
        assert (label != IGNORED) == bool(mask) or (mask and token in newline)


def test_each_answer_is_trained_with_its_end_of_turn_token() -> None:
    assert trained_text(make_tokenizer(), CHAT) == f"On its way.\n\nIt is blue.{END}Déjà là ✅{END}"


def test_ids_are_those_that_inference_sees() -> None:
    tokenizer = make_tokenizer()
    (row,) = encode(tokenizer, [CHAT])
    prompt = prompt_ids(tokenizer, CHAT[:3])
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[len(prompt)] == row.input_ids[len(prompt)]


def test_a_template_that_drops_earlier_reasoning_trains_the_answers_as_they_are_rendered() -> None:
    tokenizer = make_tokenizer((TEMPLATES / "qwen3.jinja").read_text(), "<|im_end|>")
    text = trained_text(tokenizer, CHAT)
    assert text.startswith("On its way.\n\nIt is blue.<|im_end|>")
    assert text.endswith("Déjà là ✅<|im_end|>")
    assert "letter" not in text


def test_a_token_across_the_beginning_of_an_answer_is_not_trained_and_counted() -> None:
    template = "{% for m in messages %}[{{ m['role'] }}] bo{{ m['content'] }}<|eot_id|>{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant] bo{% endif %}"
    tokenizer = make_tokenizer(template)
    assert len(tokenizer(" box")["input_ids"]) == 1
    (row,) = encode(tokenizer, [[CHAT[0], {"role": "assistant", "content": "x is here"}]])
    assert row.straddling == 1
    assert "box" not in tokenizer.decode([token for token in row.labels if token != IGNORED])


def test_a_template_that_rewrites_the_prompt_names_the_row() -> None:
    template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|eot_id|>{% endfor %}"
    rows = [Row(7, CHAT)]
    with pytest.raises(DataError, match=r"data\.jsonl:7"):
        list(encode_rows(make_tokenizer(template), rows, 64, Tally(), "data.jsonl"))


def test_a_template_s_own_refusal_names_the_row() -> None:
    tokenizer = make_tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"data\.jsonl:3: roles must alternate"):
        list(encode_rows(tokenizer, [Row(3, CHAT)], 64, Tally(), "data.jsonl"))


def test_a_tokenizer_without_a_template_says_what_to_do() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(DataError) as caught:
        encode(tokenizer, [CHAT])
    assert "instruct" in caught.value.hints[0]


def test_cut_rows_are_counted_and_rows_without_an_answer_left_are_dropped() -> None:
    tokenizer = make_tokenizer()
    tally = Tally()
    prompt = len(prompt_ids(tokenizer, CHAT[:1]))
    rows = [Row(1, CHAT[:2]), Row(2, [SYSTEM, *CHAT])]
    (kept,) = encode_rows(tokenizer, rows, prompt + 2, tally, "data.jsonl")
    assert (tally.truncated, tally.dropped, len(kept)) == (2, 1, 1)
    assert kept[0].trained == 2


def test_data_without_a_trained_token_are_refused() -> None:
    tally = Tally()
    list(encode_rows(make_tokenizer(), [Row(1, CHAT)], 3, tally, "data.jsonl"))
    with pytest.raises(DataError, match="nothing to learn"):
        require_trainable(tally, 3, "data.jsonl")


def _verdicts(tokenizer: Any, stops: list[int]) -> list[tuple[str, str]]:
    tally = Tally()
    list(encode_rows(tokenizer, [Row(1, CHAT)], 512, tally, "data.jsonl"))
    return [(level, title) for level, title, _ in will_it_stop(tokenizer, stops, tally)]


def test_a_model_that_learns_its_stop_token_is_found_well() -> None:
    tokenizer = make_tokenizer()
    assert {level for level, _ in _verdicts(tokenizer, [tokenizer.eos_token_id])} == {"ok"}


def test_a_template_without_an_end_of_turn_token_is_found() -> None:
    tokenizer = make_tokenizer("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
                               "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    assert _verdicts(tokenizer, []) == [("warning", "No end-of-turn token is trained")]


def test_an_end_of_turn_token_that_pads_is_found() -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = END
    found = _verdicts(tokenizer, [tokenizer.eos_token_id])
    assert ("warning", f"{END} is also the padding token") in found


def test_a_generation_config_that_does_not_stop_is_found() -> None:
    tokenizer = make_tokenizer()
    assert ("warning", f"The model's generation config does not stop at {END}") in _verdicts(tokenizer, [0])
    assert tokenizer.pad_token == PAD

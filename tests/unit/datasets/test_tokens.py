"""Token statistics: they are sums over what training would encode, and each finding is there when its cause is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.datasets.base import Message, Row
from engine.datasets.report import Problem, TokenStats
from engine.datasets.rowindex import RowIndex
from engine.datasets.tokens import TokenPass
from engine.paths import builtin_presets
from engine.tokens.mask import encode
from engine.tokens.tokenizer import Tokenizer

MODEL = builtin_presets() / "demo" / "model"


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    return Tokenizer.load(MODEL)


def chat(question: str, answer: str, line: int = 1) -> Row:
    return Row(line, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def rows(count: int = 60) -> list[Row]:
    return [
        chat(f"Where is order {at}? " * (at % 7 + 1), f"On its way: {at}. " * (at % 5 + 1), at + 1)
        for at in range(count)
    ]


def look(tokenizer: Tokenizer, given: list[Row], max_length: int = 512, of_rows: int = 0) -> Any:
    """The statistics, the problems by kind, and the index."""
    index = RowIndex()
    index.extend(range(1, len(given) + 1), [0] * len(given))
    counted = TokenPass(tokenizer, "demo", max_length, lambda line: f"data.jsonl:{line}", index)
    counted.add(list(enumerate(given)))
    stats = counted.stats(of_rows or len(given))
    return stats, {problem.kind: problem for problem in counted.problems(stats)}, index


def problems(tokenizer: Tokenizer, given: list[Row], max_length: int = 512, of_rows: int = 0) -> dict[str, Problem]:
    found: dict[str, Problem] = look(tokenizer, given, max_length, of_rows)[1]
    return found


def test_figures_are_sums_over_what_training_encodes(demo: Tokenizer) -> None:
    stats: TokenStats = look(demo, rows(), 64)[0]
    whole = encode(demo, rows())
    lengths = sorted(len(each.input_ids) for each in whole)
    assert stats.tokens == sum(lengths)
    assert stats.trained == sum(each.trained for each in whole)
    assert (stats.longest, stats.truncated) == (lengths[-1], sum(length > 64 for length in lengths))
    assert stats.median == lengths[29]
    assert sum(stats.lengths) == stats.rows == 60
    assert sum(stats.trained_at) == stats.trained


def test_a_cut_costs_what_encoding_shows(demo: Tokenizer) -> None:
    stats: TokenStats = look(demo, rows(), 64)[0]
    lost = sum(len(each.input_ids[64:]) for each in encode(demo, rows()))
    assert stats.cut(64).tokens_lost == lost
    assert stats.cut(64).trained_lost == stats.lost


def test_a_row_that_is_too_long_is_told_with_what_is_lost(demo: Tokenizer) -> None:
    _, found, index = look(demo, [chat("short", "ok"), chat("short", "ok " * 200, 2)], 100)
    problem = found["longer-than-max-length"]
    assert problem.title == "1 row is longer than max_length 100"
    assert problem.places == ("data.jsonl:2",)
    trained = encode(demo, [chat("short", "ok " * 200)])[0].labels[100:]
    assert f"{len(trained)} tokens are lost" in problem.effect
    assert index.findings(1) == ("row is longer than max_length",)
    assert index.findings(0) == ()


def test_rows_within_the_limit_are_not_told_of(demo: Tokenizer) -> None:
    assert problems(demo, rows()) == {}


def test_a_row_whose_answer_is_behind_the_cut_has_nothing_to_learn(demo: Tokenizer) -> None:
    found = problems(demo, [chat("long " * 200, "ok"), chat("short", "ok", 2)], 100)["nothing-to-learn"]
    assert (found.level, found.count, found.places) == ("warning", 1, ("data.jsonl:1",))


def test_if_no_row_has_anything_to_learn_the_data_are_refused(demo: Tokenizer) -> None:
    given = [chat("long " * 200, "ok"), chat("long " * 300, "ok", 2)]
    assert problems(demo, given, 100)["nothing-to-learn"].level == "error"
    # of a part of the rows nobody can say that
    assert problems(demo, given, 100, of_rows=9)["nothing-to-learn"].level == "warning"


def test_of_a_part_of_the_rows_each_title_says_so(demo: Tokenizer) -> None:
    found = problems(demo, [chat("short", "ok " * 200)], 100, of_rows=50)
    assert "of 1 rows that were tokenized" in found["longer-than-max-length"].title


def test_special_tokens_in_the_rows_own_text_are_told(demo: Tokenizer) -> None:
    given = [chat("Hi", "Hello"), chat("What does <|eot_id|> mean?", "It ends a turn.", 2)]
    found = problems(demo, given)["special-tokens-in-text"]
    assert found.places == ("data.jsonl:2",)
    assert "<|eot_id|> (1)" in found.effect
    assert "special-tokens-in-text" not in problems(demo, given[:1])


def with_template(folder: Path, template: str) -> Tokenizer:
    """The demo's tokenizer with another chat template."""
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return Tokenizer.load(folder)


def test_rows_that_the_template_refuses_are_an_error_in_its_words_and_the_others_are_counted(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if 'France' in m.content %}{{ raise_exception('no France, please') }}{% endif %}"
        "{{ m.role }}:{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    strict = with_template(tmp_path / "model", template)
    given = [chat("Hi", "Hello"), chat("Where is France?", "Here.", 2), chat("Hi", "Hello", 3)]
    stats, found, index = look(strict, given)
    problem = found["refused-by-template"]
    assert (problem.level, problem.count, problem.places) == ("error", 1, ("data.jsonl:2",))
    assert "no France, please" in problem.effect
    assert problem.remedy
    assert stats.rows == 2
    assert index.kinds(1) == ("refused-by-template",)


def test_answers_that_begin_inside_a_token_are_told(tmp_path: Path) -> None:
    # A prompt that ends with a space: of most answers, the tokenizer takes it for a part of the first word.
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    spaced = with_template(tmp_path / "model", template)
    figure, word = chat("Hi", "5"), chat("Hi", "order", 2)
    assert [each.straddling for each in encode(spaced, [figure, word])] == [0, 1]
    assert problems(spaced, [figure] * 20 + [word])["straddling-answers"].level == "warning"
    assert problems(spaced, [figure, word])["straddling-answers"].level == "error"
    assert "straddling-answers" not in problems(spaced, [figure])


TURNS = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|eot_id|>{% endfor %}"
ASK = "{% if add_generation_prompt %}assistant:{% endif %}"
WITH_TOOLS = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.role }}:{% if m.tool_calls %}"
    "{{ m.tool_calls | tojson }}{% endif %}{% if m.reasoning_content and loop.last %}{{ m.reasoning_content }}"
    "{% endif %}{{ m.content }}<|eot_id|>{% endfor %}" + ASK
)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def calling(thought: str = "") -> Row:
    """A conversation in which a tool is called; with thoughts before both answers, or without."""
    call: Message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    answer: Message = {"role": "assistant", "content": "Yes, it is."}
    if thought:
        call["reasoning_content"] = answer["reasoning_content"] = thought
    asked: Message = {"role": "user", "content": "Is it warm?"}
    return Row(1, [asked, call, {"role": "tool", "content": "21"}, answer], tools=[TOOL])


def test_what_the_template_does_not_write_is_told(tmp_path: Path) -> None:
    found = problems(with_template(tmp_path / "model", TURNS + ASK), [calling("Look it up.")])
    levels = {kind: problem.level for kind, problem in found.items() if kind.startswith("unwritten")}
    assert levels == {"unwritten-calls": "error", "unwritten-tools": "warning", "unwritten-thoughts": "warning"}


def test_what_the_template_writes_is_not_told_of(tmp_path: Path) -> None:
    writing = with_template(tmp_path / "model", WITH_TOOLS)
    found = problems(writing, [calling(), calling("Look it up.")])
    assert not [kind for kind in found if kind.startswith("unwritten")]


def test_raw_text_is_packed_so_nothing_of_it_is_cut(demo: Tokenizer) -> None:
    stats, found, _ = look(demo, [Row(1, [], "a long text " * 500)], 64)
    assert found == {}
    assert (stats.truncated, stats.lost, stats.dropped) == (0, 0, 0)
    assert stats.trained == stats.tokens > 64


def test_a_row_that_is_too_long_to_be_tokenized_is_told_and_the_others_are_counted(demo: Tokenizer) -> None:
    stats, found, index = look(demo, [chat("Hi", "Hello"), chat("x" * 1_000_001, "Hello", 2)])
    assert (stats.rows, found["huge-rows"].places) == (1, ("data.jsonl:2",))
    assert index.kinds(1) == ("huge-rows",)
    assert "huge-rows" not in problems(demo, [chat("x " * 10_000, "Hello")])


def test_will_it_stop_is_answered(demo: Tokenizer) -> None:
    verdicts = look(demo, rows())[0].verdicts
    assert [verdict.level for verdict in verdicts] == ["ok", "ok"]
    assert "<|eot_id|>" in verdicts[0].title

"""What tokenizing comes to, counted; and whether the model will stop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import vocabularies

from engine.datasets.base import Message, Row
from engine.errors import DataError
from engine.tokens.labels import IGNORED, Encoded
from engine.tokens.mask import Tally, Verdict, encode_rows, prompt_ids, require_trainable, will_it_stop
from engine.tokens.template import Template
from engine.tokens.tokenizer import Tokenizer
from engine.tokens.verdicts import troubles

from .chats import ASKED, CHATML, SHAPES, SHORT

WIDTH = 4


def made(labels: Sequence[int], line: int = 1) -> Encoded:
    """A row with these labels, as masking makes it."""
    trained = [at for at, label in enumerate(labels) if label != IGNORED]
    spans = tuple((at, at + 1) for at in trained)
    return Encoded([7] * len(labels), list(labels), line, spans, trained[0] if trained else None)


def random_rows(seed: int) -> list[Encoded]:
    rng = random.Random(seed)
    return [made([rng.choice((7, IGNORED)) for _ in range(rng.randrange(0, 40))]) for _ in range(50)]


def bins(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(sum(value // WIDTH == at for value in values) for at in range(max(values) // WIDTH + 1))


@pytest.mark.parametrize("seed", range(5))
def test_histograms_count_what_is_there(seed: int) -> None:
    rows, tally = random_rows(seed), Tally()
    for row in rows:
        tally.add(row, 20)
    assert tally.rows_by_length(WIDTH) == bins([max(len(row.labels) - 1, 0) for row in rows])
    assert tally.tokens_at(WIDTH) == bins([at for row in rows for at in range(len(row.labels))])
    trained = [at for row in rows for at, label in enumerate(row.labels) if label != IGNORED]
    assert tally.trained_at(WIDTH) == bins(trained)
    assert tally.rows_by_first(WIDTH) == bins([row.first for row in rows if row.first is not None])


@pytest.mark.parametrize("seed", range(5))
def test_what_a_cut_costs_is_counted(seed: int) -> None:
    rows, tally, limit = random_rows(seed), Tally(), 20
    kept = [row for row in rows if tally.add(row, limit)]
    assert [row for row in rows if any(label != IGNORED for label in row.labels[:limit])] == kept
    assert tally.rows == 50
    assert tally.dropped == 50 - len(kept)
    assert tally.truncated == sum(len(row.labels) > limit for row in rows)
    assert tally.tokens == sum(len(row.labels[:limit]) for row in kept)
    assert tally.trained == sum(made(row.labels[:limit]).trained for row in rows)
    assert tally.lost == sum(made(row.labels[limit:]).trained for row in rows)
    assert tally.all_tokens == sum(len(row.labels) for row in rows)
    assert tally.longest == max(len(row.labels) for row in rows)


@pytest.mark.parametrize(("limit", "kept"), [(3, False), (4, True)])
def test_a_row_is_kept_if_its_first_trained_token_is_before_the_cut(limit: int, kept: bool) -> None:
    tally = Tally()
    assert tally.add(made([IGNORED, IGNORED, IGNORED, 7, 7]), limit) is kept
    assert (tally.dropped, tally.trained, tally.tokens) == (not kept, kept, 4 * kept)


def test_forged_tokens_within_an_answer_are_not_counted_as_trained() -> None:
    tally = Tally()
    tally.add(Encoded([7] * 8, [IGNORED, 7, IGNORED, 7, 7, 7, 7, 7], 1, ((1, 8),), 1), 100)
    assert tally.trained_at(WIDTH) == (2, 4)


@pytest.mark.parametrize(("share", "length"), [(0.0, 1), (0.5, 5), (0.95, 10), (1.0, 10), (0.51, 6)])
def test_percentiles_are_lengths_that_occur(share: float, length: int) -> None:
    tally = Tally()
    for count in range(1, 11):
        tally.add(made([7] * count), 100)
    assert tally.percentile(share) == length


def test_nothing_has_no_lengths() -> None:
    tally = Tally()
    assert (tally.percentile(0.5), tally.rows_by_length(WIDTH), tally.trained_at(WIDTH)) == (0, (), ())


def test_only_the_first_places_of_a_trouble_are_kept() -> None:
    tally = Tally()
    for line in range(1, 10):
        tally.add(replace(made([7], line), answers=1, straddling=1, injected=("<s>",)), 100, "data.jsonl")
    assert tally.straddling_places == tally.injected_places == [f"data.jsonl:{n}" for n in range(1, 6)]
    assert [verdict.level for verdict in troubles(tally)] == ["warning", "warning"]
    places = "data.jsonl:1, data.jsonl:2, data.jsonl:3, data.jsonl:4, data.jsonl:5: "
    assert all(verdict.detail.startswith(places) for verdict in troubles(tally))
    assert "<s>" in troubles(tally)[1].detail


def test_rows_without_trouble_are_not_spoken_of() -> None:
    tally = Tally()
    tally.add(made([7]), 100)
    assert troubles(tally) == []


def counted(tokenizer: Tokenizer, rows: Sequence[Row], max_length: int = 512) -> Tally:
    tally = Tally()
    for _ in encode_rows(tokenizer, rows, max_length, tally, "data.jsonl"):
        pass
    return tally


def test_data_without_a_trained_token_are_refused() -> None:
    tally = counted(vocabularies.small(CHATML), [Row(1, [ASKED, SHORT])], 3)
    with pytest.raises(DataError, match=r"nothing to learn.*data\.jsonl.*1 of 1 were cut"):
        require_trainable(tally, 3, "data.jsonl")


# ── will it stop? ──


def verdicts(tokenizer: Tokenizer, chats: Sequence[Sequence[Message]] = tuple(SHAPES.values())) -> list[Verdict]:
    return will_it_stop(tokenizer, counted(tokenizer, [Row(1, list(chat)) for chat in chats]))


def chatml(pad: str = "<pad>", stops: Sequence[str] = ("<|im_end|>",), source: str = CHATML) -> Tokenizer:
    core = vocabularies.small_core()
    core.add_special_tokens(["<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tokens = {"eos_token": "<|im_end|>", "pad_token": pad}
    return Tokenizer.of(core, Template(source, tokens), tokens, [core.token_to_id(stop) for stop in stops])


def test_a_model_that_learns_its_stop_token_is_found_well() -> None:
    found = verdicts(chatml())
    assert [verdict.level for verdict in found] == ["ok", "ok"]
    assert found[0][1:] == ("The end-of-turn token <|im_end|> is trained", "after 7 answers")


def test_a_template_without_an_end_of_turn_token_is_found() -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (found,) = verdicts(chatml(source=source))
    assert found[:2] == ("warning", "No end-of-turn token is trained")


def test_answers_without_their_end_are_counted() -> None:
    tokenizer = chatml()
    tally = counted(tokenizer, [Row(1, SHAPES["two turns"])])
    tally.add(replace(made([7]), answers=3), 100)
    assert will_it_stop(tokenizer, tally)[0][:2] == ("warning", "3 of 5 answers end without <|im_end|>")


def test_ends_behind_the_cut_are_no_learned_ends() -> None:
    tokenizer, rows = chatml(), [Row(1, SHAPES["two turns"]), Row(2, [ASKED, SHORT])]
    whole = len(next(encode_rows(tokenizer, rows[:1], 512, Tally(), "data.jsonl"))[0].input_ids)
    found = will_it_stop(tokenizer, counted(tokenizer, rows, whole - 2))  # a line break ends the text
    assert found[0] == ("ok", "The end-of-turn token <|im_end|> is trained", "after 2 answers")
    assert found[1][:2] == ("warning", "max_length cuts the end of 1 of 3 answers")
    assert len(will_it_stop(tokenizer, counted(tokenizer, rows, whole - 1))) == 2


def test_where_every_answer_is_cut_no_end_is_trained() -> None:
    tokenizer = chatml()
    prompt = len(prompt_ids(tokenizer, [ASKED]))
    (found,) = will_it_stop(tokenizer, counted(tokenizer, [Row(1, [ASKED, SHORT])], prompt + 2))
    assert found[:2] == ("warning", "No end-of-turn token is trained")
    assert "max_length" in found.detail


def test_an_end_of_turn_token_that_pads_is_found() -> None:
    core = vocabularies.small_core()
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    tokenizer = Tokenizer.of(core, Template(CHATML), tokens, [core.token_to_id("<|im_end|>")])
    assert ("warning", "<|im_end|> is also the padding token") in [found[:2] for found in verdicts(tokenizer)]


def test_a_padding_token_that_need_not_end_a_turn_is_not_that() -> None:
    assert [found.level for found in verdicts(chatml(pad="<|im_end|>"))] == ["ok", "ok"]  # <pad> is taken


@pytest.mark.parametrize("stops", [(), ("<|endoftext|>",)])
def test_a_generation_config_that_does_not_stop_there_is_found(stops: tuple[str, ...]) -> None:
    found = verdicts(chatml(stops=stops))
    assert found[-1][:2] == ("warning", "The model's generation config does not stop at <|im_end|>")


def test_raw_texts_end_with_the_end_of_text() -> None:
    tokenizer = chatml()
    found = will_it_stop(tokenizer, counted(tokenizer, [Row(1, [], "a box")]))
    assert found[0] == ("ok", "The end-of-text token <|im_end|> is trained", "after 1 text")


def test_raw_texts_of_a_tokenizer_without_an_end_are_found() -> None:
    tokenizer = Tokenizer.of(vocabularies.small_core(), None, {})
    (found,) = will_it_stop(tokenizer, counted(tokenizer, [Row(1, [], "a box")]))
    assert found[:2] == ("warning", "No end-of-text token is trained")

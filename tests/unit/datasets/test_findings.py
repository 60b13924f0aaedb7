"""What a scan finds in rows that can be used: each finding made to appear, with its places, and shown absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datafiles import Line, errors, found, good, kinds, look, row, text_row, write
from hypothesis import given
from hypothesis import strategies as st

from engine.datasets.findings.answers import is_one_word
from engine.datasets.findings.encoding import repaired
from engine.datasets.findings.secrets import SECRETS, has_long_number, possible


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


def mark(number: int) -> str:
    return f"data.jsonl:{number}"


def chat(*turns: str) -> dict[str, Any]:
    """A conversation from texts like `user: Hi`."""
    split = [turn.partition(": ") for turn in turns]
    return {"messages": [{"role": role, "content": content} for role, _, content in split]}


PRODIGY = {"text": "Hi", "options": [{"id": "A", "text": "A"}], "accept": ["A"], "answer": "accept"}

ROWS: list[tuple[str, Line, Line]] = [
    ("empty-prompts", row(99, question=" \n"), row(99, question=" . ")),
    ("ends-on-user", chat("user: a", "assistant: b c", "user: d"), chat("user: a", "assistant: b c")),
    ("one-word-answers", row(99, "Yes"), row(99, "Yes, it is.")),
    ("mojibake", row(99, "Grüße aus Köln".encode().decode("cp1252")), row(99, "Grüße aus Köln")),
    ("lost-characters", row(99, "Gr\ufffdn ist es"), row(99, "Grün ist es")),
]
"""A row that has the finding, and one that is almost like it and has not."""


@pytest.mark.parametrize(("kind", "bad", "fine"), ROWS, ids=[each[0] for each in ROWS])
def test_a_finding_in_a_row_is_a_warning_with_its_place(data: Path, kind: str, bad: Line, fine: Line) -> None:
    report = look(write(data, *good(), bad))
    assert kinds(report) == [kind]
    problem = found(report, kind)
    assert (problem.level, problem.count, problem.places) == ("warning", 1, (mark(61),))
    assert problem.effect
    assert problem.remedy


@pytest.mark.parametrize(("kind", "bad", "fine"), ROWS, ids=[each[0] for each in ROWS])
def test_rows_that_are_almost_at_fault_are_not(data: Path, kind: str, bad: Line, fine: Line) -> None:
    assert look(write(data, *good(), fine)).problems == ()


def test_the_first_five_places_are_named(data: Path) -> None:
    problem = found(look(write(data, *good(), *[row(100 + n, "Yes" * n) for n in range(1, 8)])), "one-word-answers")
    assert problem.title == "7 answers are a single word"
    assert problem.places == tuple(map(mark, range(61, 66)))


# ── compared with other rows ──


def test_exact_duplicates_are_counted_whatever_format_they_are_written_in(data: Path) -> None:
    report = look(write(data, *good(), {"conversations": row(3)["messages"]}, row(3)))
    assert kinds(report) == ["exact-duplicates"]
    assert found(report, "exact-duplicates").title == "2 exact duplicates"
    assert found(report, "exact-duplicates").places == (mark(61), mark(62))


def test_raw_texts_are_compared_too(data: Path) -> None:
    report = look(write(data, *map(text_row, range(60)), text_row(7)))
    assert found(report, "exact-duplicates").places == (mark(61),)
    assert "contradictions" not in kinds(report)


@pytest.mark.parametrize(
    "other",
    [
        chat("system: Be kind.", "user: question 1", "assistant: This is answer 1."),
        chat("user: question 1", "assistant: This is answer 1. "),
        chat("user: question 1", "assistant: a b", "user: and", "assistant: This is answer 1."),
    ],
)
def test_rows_that_differ_are_no_duplicates(data: Path, other: Line) -> None:
    assert "exact-duplicates" not in kinds(look(write(data, *good(), other)))


def test_a_prompt_with_different_answers_counts_once(data: Path) -> None:
    report = look(write(data, *good(), row(1, "Quite another."), row(1, "And a third."), row(5, "Not five."), row(1)))
    problem = found(report, "contradictions")
    assert problem.title == "2 prompts have different answers"
    assert problem.places == (mark(2), mark(61), mark(62), mark(6), mark(63))


def test_the_same_answer_to_the_same_prompt_is_no_contradiction(data: Path) -> None:
    assert "contradictions" not in kinds(look(write(data, *good(), row(1), row(1))))


@pytest.mark.parametrize(
    "rows",
    [
        [row(n, question="") for n in range(3)],
        [chat("system: Be kind.", f"assistant: Answer {n} is here.") for n in range(3)],
        [chat(f"assistant: Answer {n} is here.") for n in range(3)],
    ],
    ids=["empty prompts", "only a system message", "no prompt"],
)
def test_where_nobody_asks_nothing_contradicts(data: Path, rows: list[Line]) -> None:
    assert "contradictions" not in kinds(look(write(data, *good(), *rows)))


def test_prompts_differ_by_what_was_said_before(data: Path) -> None:
    rows = [chat(f"user: Hi {n}", "assistant: Hello you.", "user: Go on.", f"assistant: Part {n} now.") for n in (1, 2)]
    assert "contradictions" not in kinds(look(write(data, *good(), *rows)))


@pytest.mark.parametrize(("field", "kind"), [("eval_path", "also-held-out"), ("gold_path", "also-gold")])
def test_rows_that_another_file_asks_are_left_out_and_named(data: Path, tmp_path: Path, field: str, kind: str) -> None:
    other = write(tmp_path / "other.jsonl", row(3), row(5, "Another answer to it."), row(200))
    report = look(write(data, *good()), **{field: str(other)})
    assert found(report, kind).places == (mark(4), mark(6))
    assert report.rows == 58 - (0 if field == "eval_path" else report.eval_rows)


@pytest.mark.parametrize("field", ["eval_path", "gold_path"])
def test_a_file_of_other_rows_leaves_nothing_out(data: Path, tmp_path: Path, field: str) -> None:
    other = write(tmp_path / "other.jsonl", row(200), row(201))
    assert look(write(data, *good()), **{field: str(other)}).problems == ()


# ── labels ──


def labelled(**counts: int) -> list[dict[str, Any]]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [row(number, label) for number, label in enumerate(labels)]


def test_few_short_answers_are_labels_and_no_single_words(data: Path) -> None:
    report = look(write(data, *labelled(good=80, bad=100)))
    assert report.labels == (("bad", 100), ("good", 80))
    assert report.problems == ()


def test_a_long_answer_among_many_labels_is_a_mistake_not_the_end_of_labels(data: Path) -> None:
    assert look(write(data, *labelled(good=80, bad=100), row(999, "word " * 50))).labels


def test_many_different_short_answers_are_no_labels(data: Path) -> None:
    report = look(write(data, *[row(number, f"{number * 7}") for number in range(100)]))
    assert report.labels == ()
    assert found(report, "one-word-answers").count == 100


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"a": 20, "b": 201, "c": 80}, "'b' is answered 10 times as often as 'a'"),
        ({"a": 401, "b": 50, "c": 50}, "80% of the answers are 'a'"),
        ({"a": 60}, "All 60 answers are the same"),
    ],
)
def test_unbalanced_labels_are_told_with_the_threshold(data: Path, counts: dict[str, int], said: str) -> None:
    problem = found(look(write(data, *labelled(**counts))), "unbalanced-labels")
    assert problem.title == said
    assert problem.level == "warning"


@pytest.mark.parametrize("counts", [{"a": 60, "b": 600, "c": 300}, {"a": 400, "b": 50, "c": 50}])
def test_labels_at_the_threshold_are_balanced(data: Path, counts: dict[str, int]) -> None:
    assert "unbalanced-labels" not in kinds(look(write(data, *labelled(**counts))))


def test_labels_with_few_rows_are_named(data: Path) -> None:
    problem = found(look(write(data, *labelled(often=100, rare=49, rarer=20))), "few-rows-per-label")
    assert problem.title == "2 labels have fewer than 50 rows"
    assert "'rarer' 20, 'rare' 49" in problem.effect
    assert "few-rows-per-label" not in kinds(look(write(data, *labelled(often=100, rare=50))))


@pytest.mark.parametrize(
    ("answer", "one"),
    [("Yes", True), (" Yes.\n", True), ("42", True), ("是", True), ("😀", True), ("Yes it", False),
     ("请把发票发给我", False), ("ขอบคุณมากครับ", False), ("x" * 40, False), ("", False)],
)  # fmt: skip
def test_what_a_single_word_is(answer: str, one: bool) -> None:
    assert is_one_word(answer) is one


# ── kinds of rows ──


def test_conversations_and_raw_text_in_one_file_are_refused(data: Path) -> None:
    report = look(write(data, *good(), text_row(1)))
    (problem,) = errors(report)
    assert (problem.kind, problem.places) == ("no-keys", (mark(61),))
    assert "it is written as text, the file as messages" in problem.effect


def test_raw_text_alone_is_not_mixed(data: Path) -> None:
    report = look(write(data, *map(text_row, range(60))))
    assert (report.kind, report.problems) == ("text", ())


def test_rows_that_their_tool_rejected_are_left_out_and_counted(data: Path) -> None:
    report = look(write(data, PRODIGY, PRODIGY | {"answer": "reject"}, PRODIGY | {"text": "Ho"}))
    problem = found(report, "skipped")
    assert (problem.count, problem.places, report.skipped) == (1, (mark(2),), 1)
    assert "skipped" not in kinds(look(write(data, PRODIGY, PRODIGY | {"text": "Ho"})))


# ── amount ──


def test_few_rows_are_warned_of_and_fewer_than_two_are_refused(data: Path) -> None:
    few = look(write(data, *good(10)), eval_fraction=0.2)
    assert found(few, "few-rows").title == "Only 8 rows to learn from"
    assert not few.refused
    assert [problem.title for problem in errors(look(write(data, *good(1))))] == ["Only 1 row to learn from"]
    assert look(write(data, *good(60))).problems == ()


def test_little_raw_text_is_warned_of_by_its_tokens(data: Path) -> None:
    problem = found(look(write(data, *map(text_row, range(20)))), "few-rows")
    assert problem.title.startswith("Only about 38,")
    assert "few-rows" not in kinds(look(write(data, *map(text_row, range(55)))))


def test_no_held_out_rows_are_warned_of(data: Path) -> None:
    assert kinds(look(write(data, *good()), eval_fraction=0)) == ["no-held-out"]
    assert "no-held-out" not in kinds(look(write(data, *good())))


# ── encodings ──

LANGUAGES = [
    "Die Größe der Straße beträgt 5 €, „schön“!", "L’été à la plage, où ça ?", "¿Dónde está el niño?",
    "Пожалуйста, проверьте счёт: налог указан дважды.", "请把发票发给我，谢谢。", "ありがとうございます。",
    "감사합니다.", "شكرا جزيلا لك", "Zażółć gęślą jaźń.", "Çok teşekkür ederim, iyi günler!", "Καλημέρα κόσμε",
    "Příliš žluťoučký kůň", "naïve café – “quoted” … ©", "x² + y² = z², 20 °C, ½", "😀 👍🏽 🇩🇪",
]  # fmt: skip


@pytest.mark.parametrize("text", LANGUAGES)
def test_no_language_is_taken_for_mojibake(text: str) -> None:
    assert repaired(text) == text


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "mac-roman"])
@pytest.mark.parametrize("text", ["Die Größe beträgt viel", "Señor, mañana también", "Ça coûte où ?"])
def test_text_that_was_decoded_wrongly_is_repaired(text: str, encoding: str) -> None:
    assert repaired(text.encode().decode(encoding)) == text


@given(st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=40))
def test_what_is_repaired_needs_no_second_repair(text: str) -> None:
    once = repaired(text)
    assert repaired(once) == once


def test_thoughts_and_tool_calls_are_looked_at_too(data: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "KÃ¶ln am Rhein"}}}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "It is 12 degrees."},
        {"role": "assistant", "content": "Fine weather.", "reasoning_content": "write to ann@firm.io"},
    ]
    report = look(write(data, *good(), {"messages": turns}))
    assert kinds(report) == ["mojibake", "secret-email"]
    assert {problem.places for problem in report.problems} == {(mark(61),)}


# ── secrets: made up here, so that none stands in this file ──

LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zAbCdEfGhIjKlMnOpQrStUvWxYz" * 3
TOKENS: dict[str, str] = {
    "private-key": "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIE",
    "aws": "AKIA" + "Q3EGZ7RTUV5WXY2B",
    "github": "ghp_" + LETTERS[:36],
    "openai": "sk-proj-" + LETTERS[:30] + "T3Blbk" + "FJ" + LETTERS[:30],
    "anthropic": "sk-ant-" + "api03-" + LETTERS[:93],
    "google": "AIza" + LETTERS[:35],
    "slack": "xoxb-" + "123456789012-1234567890123-" + LETTERS[:24],
    "hugging-face": "hf_" + LETTERS[:34],
    "jwt": "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[:40] + "." + LETTERS[:43],
    "email": "ann.lee+x@mail.firm.co.uk",
    "card": "4539 1488 0343 6467",
}
INNOCENT: dict[str, list[str]] = {
    "private-key": ["-----BEGIN CERTIFICATE-----", "----- BEGIN"],
    "aws": ["AKIAIOSFODNN7" + "EXAMPLE", "AKIA is a name", "XAKIAQ3EGZ7RTUV5WXY2B"],
    "github": ["ghp_short", "github_path"],
    "openai": ["sk-learn and sk-image", "T3BlbkFJ"],
    "anthropic": ["sk-ant-eater"],
    "google": ["AIza, a town", "AIza" + LETTERS[:20]],
    "slack": ["xoxo-love-and-kisses-to-all-of-you", "xox"],
    "hugging-face": ["hf_hub_download", "self_hf_" + LETTERS[:34]],
    "jwt": ["eyJ is how they begin", "a.eyJ.b"],
    "email": ["user@example.com", "@handle", "a @ b", "git@localhost", "pip install x@1.2.3", "@pytest.mark.slow"],
    "card": ["4539 1488 0343 6468", "4111 1111 1111 1111", "1234567890123456", "2023 2024 2025 2026",
             "3.4539148803436467", "id 45391488034364671"],
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENS)
def test_a_secret_is_told_by_kind_and_place_and_never_shown(data: Path, kind: str) -> None:
    report = look(write(data, *good(), row(99, f"Take ({TOKENS[kind]}), please.")))
    assert kinds(report) == [f"secret-{kind}"]
    problem = found(report, f"secret-{kind}")
    assert (problem.level, problem.count, problem.places) == ("warning", 1, (mark(61),))
    assert TOKENS[kind][4:] not in json.dumps(problem.model_dump())


@pytest.mark.parametrize("kind", TOKENS)
def test_what_only_looks_like_a_secret_is_none(data: Path, kind: str) -> None:
    report = look(write(data, *good(), *[row(99 + n, f"Take {text} now.") for n, text in enumerate(INNOCENT[kind])]))
    assert report.problems == ()


def test_every_kind_of_secret_is_tested() -> None:
    assert {secret.finding.kind for secret in SECRETS} == {f"secret-{kind}" for kind in TOKENS}


@given(st.sampled_from(sorted(TOKENS)), st.text(max_size=9), st.text(max_size=9))
def test_no_mark_is_missed_wherever_it_stands(kind: str, before: str, behind: str) -> None:
    text = before.encode("utf-8", "replace").decode() + TOKENS[kind] + behind.encode("utf-8", "replace").decode()
    assert f"secret-{kind}" in {secret.finding.kind for secret in possible(SECRETS, text)}


@pytest.mark.parametrize(
    ("text", "long"),
    [(b"1" * 15, True), (b"1" * 14, False), (b"1234 5678 9012 3456", True), (b"12 34 56 78 90 12 34 5", False)],
)
def test_what_a_long_number_is(text: bytes, long: bool) -> None:
    assert has_long_number(b"a" + text + b"b") is long


def test_a_search_for_secrets_is_not_slowed_by_hostile_text(data: Path) -> None:
    hostile = ["a" * 200_000, "@" * 100_000, "a@" + "a." * 100_000, "eyJ" * 60_000 + ".eyJ", "1 " * 100_000,
               "sk-" + "T3BlbkFJ" * 20_000, "AKIA" * 50_000, "-----BEGIN " * 20_000, "xoxb-" * 40_000]  # fmt: skip
    look(write(data, *good(), *[row(100 + n, text) for n, text in enumerate(hostile)]))  # ends in time

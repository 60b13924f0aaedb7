"""`clean()` lets nothing through that a terminal would obey."""

from hypothesis import given
from hypothesis import strategies as st

from engine.text import clean, clean_line


def test_escape_sequences_lose_their_escape() -> None:
    assert clean("\x1b]52;c;aGk=\x07") == "\ufffd]52;c;aGk=\ufffd"


def test_c1_bidi_and_surrogates_are_replaced() -> None:
    assert clean("a\x9b31mb\u202ec\ud800d") == "a\ufffd31mb\ufffdc\ufffdd"


def test_ordinary_text_stays() -> None:
    text = "Grüße, 世界 🙂\n\tΣ [bold]x[/]"
    assert clean(text) == text


@given(st.text(st.characters()))
def test_whatever_comes_in_nothing_dangerous_comes_out(text: str) -> None:
    out = clean(text)
    assert all(ch in "\t\n" or (ord(ch) >= 32 and not 0x7F <= ord(ch) <= 0x9F) for ch in out)
    out.encode("utf-8")  # no lone surrogate is left
    assert clean(out) == out


def test_a_line_is_one_line_within_its_limit() -> None:
    assert clean_line("a\nb\t c", 10) == "a b c"
    assert clean_line("x" * 50, 10) == "x" * 9 + "…"

"""Figures as people read them."""

import pytest

from engine.units import format_bytes, format_count, format_duration, parse_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "n/a"), (0, "0 B"), (1536, "1.5 KiB"), (8_589_934_592, "8.0 GiB"), (150 * 1024**3, "150 GiB")],
)
def test_bytes(count: int | None, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("24GiB", 24 * 1024**3), ("24G", 24 * 1024**3), ("1.5 GB", 1_500_000_000), ("512", 512), ("2kib", 2048)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "x", "-1G", "1 TiBs", "1e9", "24 giraffes"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "n/a"),
        (0, "0 s"),
        (-1, "0 s"),
        (0.0001, "1 ms"),
        (0.04, "40 ms"),
        (0.0994, "100 ms"),
        (0.0996, "0.1 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 m 00 s"),
        (4320, "1 h 12 m"),
        (200, "3 m 20 s"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(412, "412"), (7512, "7,512"), (3_100_000, "3.1 M"), (8 * 10**9, "8.0 B")])
def test_counts(count: int, text: str) -> None:
    assert format_count(count) == text

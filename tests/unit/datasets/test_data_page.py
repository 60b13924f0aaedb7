"""docs/data.md tells of every format, with its own example."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.datasets import FORMATS

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_the_page_has_each_format_and_its_example(name: str) -> None:
    assert f"| `{name}` |" in PAGE
    assert f"\n{FORMATS[name].example}\n" in PAGE

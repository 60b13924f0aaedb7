"""`finetui demo` in earnest, from an empty home: it learns, and what it exports is what it trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FIVE_MINUTES_S = 300


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What the demo told as JSON, and the seconds that it took."""
    home = tmp_path_factory.mktemp("demo") / "home"
    environment = {**os.environ, "FINETUI_HOME": str(home), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    began = time.monotonic()
    command = [sys.executable, "-P", "-m", "tui", "demo", "--json"]
    done = subprocess.run(command, env=environment, cwd=home.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout), time.monotonic() - began


def test_it_takes_less_than_five_minutes(demo: tuple[dict[str, Any], float]) -> None:
    told, seconds = demo
    assert seconds < FIVE_MINUTES_S, told["stages"]


def test_it_learns_instead_of_having_known(demo: tuple[dict[str, Any], float]) -> None:
    scores = demo[0]["scores"]
    assert scores["base"]["exact"] == 0
    assert scores["as trained"]["exact_match"] >= 0.8


def test_every_exported_file_scores_as_trained(demo: tuple[dict[str, Any], float]) -> None:
    scores = dict(demo[0]["scores"])
    scores.pop("base")
    trained = scores.pop("as trained")
    assert {"Q4_K_M", "Q8_0"} <= set(scores)
    for form, score in scores.items():
        assert score["rows"] == trained["rows"], form
        assert abs(score["exact"] - trained["exact"]) <= 2, form


def test_the_certificate_passed(demo: tuple[dict[str, Any], float]) -> None:
    assert demo[0]["certified"] is True
    assert len(demo[0]["checks"]) >= 3


def test_it_ends_with_an_answered_question(demo: tuple[dict[str, Any], float]) -> None:
    assert demo[0]["question"]
    assert demo[0]["answer"].startswith("queue: ")


def test_it_leaves_the_whole_run(demo: tuple[dict[str, Any], float]) -> None:
    run = Path(demo[0]["path"])
    names = {path.name for path in run.iterdir()}
    assert {"adapter", "merged", "model.Q4_K_M.gguf", "model.Q8_0.gguf", "certificate.json"} <= names
    assert not [name for name in names if name.endswith((".partial", ".replaced"))]

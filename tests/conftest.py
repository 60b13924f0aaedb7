"""Each test has a home of its own and no network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.plan import Plan

sys.path.insert(0, str(Path(__file__).parent))  # helper modules beside the tests: `import recorded`
import recorded


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`FINETUI_HOME` and the platform's user folders lie in the test's own folder; the hub is never asked."""
    home = tmp_path / "home"
    monkeypatch.setenv("FINETUI_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "no ollama here"))  # sums of disk space do not hang on it
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return home


@pytest.fixture
def plan() -> Plan:
    """A whole plan, of the demo on the CPU."""
    return recorded.a_plan()

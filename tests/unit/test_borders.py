"""The borders of the house: the static import graph, and what a fresh process really loads."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "gguf",
    "llama_cpp",
)


def loaded_by(statement: str) -> set[str]:
    """Top-level names in `sys.modules` of a fresh process after the statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["tui.app", "engine.cli"])
def test_front_ends_load_nothing_heavy(module: str) -> None:
    assert not loaded_by(f"import {module}") & set(HEAVY)


def test_the_command_line_does_not_load_the_terminal() -> None:
    assert not loaded_by("import engine.cli") & {"textual", "rich"}


def test_every_light_module_loads_nothing_heavy() -> None:
    light = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "engine").rglob("*.py"))
        if "worker" not in path.parts and "__main__" not in path.name
    ]
    assert len(light) > 15
    loaded = loaded_by("\n".join(f"import {name}" for name in light))
    assert not loaded & {*HEAVY, "textual", "rich", "tui"}


def test_importing_creates_nothing(tmp_path: Path) -> None:
    code = "import engine.paths, engine.runs, engine.cli, tui.app"
    environment = {"FINETUI_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=environment, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_contracts_of_the_import_graph_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contracts_name_every_light_module() -> None:
    # A forbidden-import contract over a list is only as good as the list.
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = next(c for c in contracts if "torch" in c["forbidden_modules"])["source_modules"]
    modules = {
        f"engine.{path.stem}"
        for path in (ROOT / "engine").iterdir()
        if path.stem not in {"__init__", "__pycache__", "worker", "_presets"}
    }
    assert modules <= set(named)

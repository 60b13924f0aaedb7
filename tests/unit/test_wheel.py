"""A built wheel, installed into a clean environment and started from an empty directory, finds its presets."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # Without isolation: hatchling is already here, and the test must not need the network.
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("finetui-*.whl"))


def test_the_wheel_holds_the_presets_and_the_demo(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "engine/_presets/demo/demo.toml" in names
    assert "engine/_presets/demo/model/model.safetensors" in names
    assert "tui/app.tcss" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_an_installed_wheel_finds_its_presets_from_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    # `--target` with no dependencies stands for the clean environment: `-S` hides this one's editable install,
    # and the dependencies alone are lent to it by path.
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    lent = next(path for path in sys.path if path.endswith("site-packages"))
    code = (
        f"import sys; sys.path[:0] = [{str(site)!r}]; sys.path.append({lent!r});"
        "import engine; assert engine.__file__.startswith(sys.path[0]), engine.__file__;"
        "from engine.cli import main; sys.exit(main(['presets', '--json']))"
    )
    environment = {**os.environ, "FINETUI_HOME": str(tmp_path / "home")}
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {preset["name"] for preset in json.loads(result.stdout)["presets"]}
    assert "demo" in names
    assert list(empty.iterdir()) == []

"""Run the demo for real and keep its run directory as the recorded run that tests and pictures replay.

`python scripts/record_demo.py`: about two minutes. Kept: everything but checkpoints and the large files (the merged
folder, the bf16 and Q8_0 GGUF); machine paths are replaced, so that a recording says nothing about where it was made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "data" / "runs"
LEFT_OUT = ("checkpoints", "merged", "model.bf16.gguf", "model.Q8_0.gguf", "adapter", "lock")
TEXTS = (".json", ".jsonl", ".log", ".md", "")


def main() -> None:
    """Record, clean, and put the recording into place."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "FINETUI_HOME": home}
        finetui = Path(sys.executable).with_name("finetui")
        subprocess.run([finetui, "demo", "--json"], env=environment, check=True, stdout=subprocess.DEVNULL)
        (run,) = (Path(home) / "runs").iterdir()
        shutil.rmtree(RECORDED, ignore_errors=True)
        target = RECORDED / run.name
        shutil.copytree(run, target, ignore=lambda _folder, names: [name for name in names if name in LEFT_OUT])
        keep_adapter(run / "adapter", target / "adapter")
        for file in target.rglob("*"):
            if file.is_file() and file.suffix in TEXTS:
                forget_paths(file, run, Path(home))
    json.loads((target / "plan.json").read_text())
    print(target.relative_to(ROOT))


def keep_adapter(source: Path, target: Path) -> None:
    """The adapter's description without its weights: its folder says that training is done."""
    target.mkdir()
    for name in ("adapter_config.json", "README.md"):
        shutil.copy(source / name, target / name)


def forget_paths(file: Path, run: Path, home: Path) -> None:
    """Replace the paths of this machine."""
    text = file.read_text(encoding="utf-8", errors="replace")
    for path, name in ((run, "."), (home, "home"), (ROOT, "."), (Path(sys.prefix), "venv"), (Path.home(), "~")):
        text = text.replace(str(path), name)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

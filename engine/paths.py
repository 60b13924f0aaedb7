"""The one place for paths. Nothing is created on import."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path


def absolute(text: str) -> Path:
    """The path that a person wrote, from the root on. `~nobody`, whose home is unknown, is a name like any other."""
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - pathlib raises where there is no such user


def is_file(path: Path) -> bool:
    """True for a file that is there; False also for what no file can be called, and what may not be looked at."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def home() -> Path:
    """Where everything that finetui keeps lies: `FINETUI_HOME`, else the platform's user data folder."""
    override = os.environ.get("FINETUI_HOME")
    return absolute(override) if override else user_data_path("finetui", appauthor=False)


def runs_dir() -> Path:
    """The folder of all runs."""
    return home() / "runs"


def user_presets() -> Path:
    """Where people keep presets of their own."""
    return home() / "presets"


def builtin_presets() -> Path:
    """The bundled presets: inside the wheel, or beside the packages in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "_presets"
    return inside if inside.is_dir() else package.parent / "presets"


@dataclass(frozen=True)
class RunDir:
    """Names inside one run's folder. A file or folder under its final name is complete."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's own name, `<time>-<slug>`."""
        return self.path.name

    @property
    def plan(self) -> Path:
        """The frozen plan, JSON."""
        return self.path / "plan.json"

    @property
    def events(self) -> Path:
        """What happened, one JSON object a line."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """The worker's own output."""
        return self.path / "worker.log"

    @property
    def lock(self) -> Path:
        """Held by the worker with `lockf` as long as it lives."""
        return self.path / "lock"

    @property
    def stop(self) -> Path:
        """Exists when somebody has asked the worker to stop."""
        return self.path / "stop"

    @property
    def heldout(self) -> Path:
        """The held-out rows as messages, written by training, for every later check."""
        return self.path / "heldout.jsonl"

    @property
    def checkpoints(self) -> Path:
        """`checkpoint-<step>` folders."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained LoRA adapter, a peft folder."""
        return self.path / "adapter"

    @property
    def merged(self) -> Path:
        """The 16-bit Hugging Face folder."""
        return self.path / "merged"

    def gguf(self, quant: str) -> Path:
        """`model.<quant>.gguf`; `bf16` is the unquantized one."""
        return self.path / f"model.{quant}.gguf"

    @property
    def ggufs(self) -> list[Path]:
        """The GGUF files that exist, by name."""
        return sorted(self.path.glob("model.*.gguf"))

    @property
    def certificate(self) -> Path:
        """What was proved about the export, JSON."""
        return self.path / "certificate.json"

    @property
    def evaluation(self) -> Path:
        """Scores on held-out rows, JSON."""
        return self.path / "evaluation.json"

    def evaluation_of(self, name: str) -> Path:
        """Scores on the rows of another file."""
        return self.path / f"evaluation.{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:80]}.json"

    @property
    def modelfile(self) -> Path:
        """For people who prefer `ollama create`."""
        return self.path / "Modelfile"


def partial(path: Path) -> Path:
    """Where a stage writes until its output is whole: `X.partial`."""
    return path.with_name(path.name + ".partial")

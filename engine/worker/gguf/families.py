"""The table of families that can be written as GGUF."""

from __future__ import annotations

from engine.errors import RunError
from engine.text import clean_line
from engine.worker.gguf import llama, qwen2, qwen3
from engine.worker.gguf.family import Config, Family

FAMILIES: dict[str, Family] = {
    architecture: module.FAMILY for module in (llama, qwen2, qwen3) for architecture in module.FAMILY.architectures
}
"""By the name in `config.json`."""


def family_of(config: Config) -> Family:
    """The family of a model. Raises `RunError` naming those there are."""
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in FAMILIES:
        raise RunError(
            "This architecture cannot be exported to GGUF",
            f"config.json: {clean_line(str(architecture))}",
            (f"Exportable are: {', '.join(FAMILIES)}.", "The merged folder can be used with transformers."),
        )
    return FAMILIES[architecture]

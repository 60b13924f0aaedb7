"""The part of a model that text passes through, where its checkpoint holds more: the larger Gemma 3 can see as well.

Without this, "all linear layers" would put the adapter on the layers that see pictures too. What is made from such a
model (adapter, merged folder, GGUF) is a text model: its tensors have the names, its config the class of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.model_folder import BESIDE_TEXT
from engine.worker.model_files import read_json

PREFIX = "language_model."
"""What the names of the text part's tensors begin with in the checkpoint."""

TEXT_CLASSES = {"gemma3": "Gemma3ForCausalLM"}
"""The class of the text part alone, by the `model_type` of the whole."""


def is_beside(config: Mapping[str, Any]) -> bool:
    """True if a `config.json` is that of a model with more than its text part."""
    return config.get("model_type") in TEXT_CLASSES and isinstance(config.get("text_config"), Mapping)


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of the text part alone; any other config as it is."""
    if not is_beside(config):
        return dict(config)
    carried = ("torch_dtype", "dtype", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version")
    outer = {name: config[name] for name in carried if name in config}
    return {**outer, **config["text_config"], "architectures": [TEXT_CLASSES[config["model_type"]]]}


def text_name(name: str) -> str | None:
    """A tensor's name in the text model; None if text does not pass through it."""
    if name.startswith(BESIDE_TEXT):
        return None
    return name.removeprefix(PREFIX)


def loading(folder: Path) -> dict[str, Any]:
    """What `AutoModelForCausalLM.from_pretrained` is told, to load the text part alone; nothing for other models."""
    if not is_beside(read_json(folder / "config.json")):
        return {}
    import transformers

    config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    kind = getattr(transformers, TEXT_CLASSES[config.model_type])
    kind._keys_to_ignore_on_load_unexpected = [rf"^{name}" for name in BESIDE_TEXT]  # else each is told in the log
    names = {rf"^{PREFIX}model\.": "model.", rf"^{PREFIX}lm_head": "lm_head"}
    return {"config": config.text_config, "key_mapping": names}

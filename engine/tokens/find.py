"""Is a preset's tokenizer on this machine?"""

from __future__ import annotations

from datetime import datetime

from engine.config import Preset
from engine.presets import model_folder
from engine.tokens.tokenizer import Tokenizer


def tokenizer_of(preset: Preset, now: datetime | None = None) -> Tokenizer | None:
    """The preset's tokenizer, from its own folder or the Hugging Face cache; None if it is not on this machine.

    `now` is the time that the chat template is told (None: the clock). Raises `MissingError` if a file is damaged.
    """
    folder = model_folder(preset)
    if folder is None or not (folder / "tokenizer.json").is_file():
        return None
    return Tokenizer.load(folder, now)

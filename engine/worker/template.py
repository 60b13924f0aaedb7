"""Chat templates on their way out: in a GGUF file, and the token that ends an answer."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine.tokens.template import Template, read_template
from engine.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from engine.worker.llama import LlamaModel

SHIELD = "{#" + "─" * 128 + " finetui: this template is the one that the model was trained with #}\n"
"""A comment that renders to nothing, in front of a template that goes into a GGUF file.

Ollama compares an unknown template with those it ships and takes one that is less than 100 edits away, although
it may render something else. No shipped template has this character, so with 128 of them none is near enough.
The newline after the comment is dropped by `trim_blocks`, with which every engine here renders templates.
"""


def template_of(model: LlamaModel, now: datetime | None = None) -> Template | None:
    """The chat template in a GGUF file, rendered as in training; None if it has none."""
    source = model.metadata("tokenizer.chat_template")
    if source is None:
        return None
    return Template(source, {"bos_token": model.token_text(model.bos), "eos_token": model.token_text(model.eos)}, now)


def end_of_turn(folder: Path) -> int | None:
    """The id of the token that ends an answer; None if there is no chat template, or it writes none.

    None as well without a tokenizer.json.
    """
    if read_template(folder) is None or not (folder / "tokenizer.json").is_file():
        return None
    return Tokenizer.load(folder).end_of_turn

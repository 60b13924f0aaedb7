"""Chat templates: where a model folder keeps its own, how it is rendered, and which token ends an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from tokenizers import Tokenizer

from engine.errors import RunError
from engine.text import clean_line
from engine.worker.model_files import read_json

SHIELD = "{#" + "─" * 128 + " finetui: this template is the one that the model was trained with #}\n"
"""A comment that renders to nothing, in front of a template that goes into a GGUF file.

Ollama compares an unknown template with those it ships and takes one that is less than 100 edits away, although
it may render something else. No shipped template has this character, so with 128 of them none is near enough.
The newline after the comment is dropped by `trim_blocks`, with which every engine here renders templates.
"""

_MARK = "finetui-marks-the-answer"


def chat_template(folder: Path) -> str | None:
    """The default chat template of a model or adapter folder, or None."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = read_json(folder / "chat_template.json").get("chat_template")
    template = template or read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        return next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def special_token(folder: Path, kind: str) -> str:
    """The text of `bos_token`, `eos_token` … of a tokenizer folder; empty if it has none."""
    value: Any = read_json(folder / "tokenizer_config.json").get(kind)
    value = value or read_json(folder / "special_tokens_map.json").get(kind)
    return value["content"] if isinstance(value, dict) else (value or "")


@dataclass(frozen=True)
class Renderer:
    """Renders messages with a chat template in a sandbox, as transformers does."""

    template: str
    bos_token: str = ""
    eos_token: str = ""

    def render(self, messages: Sequence[Any], add_generation_prompt: bool = True) -> str:
        """The prompt's text. Raises `RunError` with the template's own words if it refuses the messages."""
        try:
            formatter = Jinja2ChatFormatter(
                self.template, self.eos_token, self.bos_token, add_generation_prompt=add_generation_prompt
            )
            return str(formatter(messages=list(messages)).prompt)
        except (TemplateError, ValueError, TypeError) as error:
            raise RunError(
                "The chat template refuses these messages",
                clean_line(str(error), 300),
                ("Many templates want user and assistant in turn, and a system message only at the start.",),
            ) from error


def renderer(folder: Path) -> Renderer | None:
    """The renderer of a model folder, or None if it has no chat template."""
    template = chat_template(folder)
    if template is None:
        return None
    return Renderer(template, special_token(folder, "bos_token"), special_token(folder, "eos_token"))


def end_of_turn(folder: Path) -> int | None:
    """The id of the token that ends an answer: the first special token behind it in a rendered chat.

    None if the folder has no chat template or no tokenizer.json, or if the template ends an answer without one.
    """
    rendering = renderer(folder)
    if rendering is None or not (folder / "tokenizer.json").is_file():
        return None
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    _, _, tail = rendering.render(chat, add_generation_prompt=False).rpartition(_MARK)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    added = tokenizer.get_added_tokens_decoder()
    return next((token for token in tokenizer.encode(tail, add_special_tokens=False).ids if token in added), None)

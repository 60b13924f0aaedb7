"""Chat templates: where a model folder keeps its own, and how it is rendered, exactly as transformers does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.datasets.base import Message
from engine.errors import DataError
from engine.text import clean_line
from engine.tokens.files import read_json, read_text

if TYPE_CHECKING:
    from jinja2 import Template as Compiled

Chat = Sequence[Message]
"""The messages of one conversation."""

Tools = Sequence[Mapping[str, Any]] | None
"""The JSON schemas of the tools that a conversation may call."""

STAND_IN = "\ue000"
"""A character of no meaning (private use), in place of what a message says."""


@dataclass(frozen=True)
class Template:
    """A chat template, rendered in a sandbox: it comes with the model, so from somebody else."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    """The texts of `bos_token`, `eos_token` … by these names."""
    now: datetime | None = None
    """The time that templates ask for: Llama 3.2 and others write the day into the system message. None: the clock.

    Training fixes it to the day of its plan, so that a run that is resumed tomorrow learns from the same tokens, and
    the certificate compares like with like. Which day it is says nothing to the model: at inference it is any other.
    """

    def render(self, messages: Chat, tools: Tools = None, prompt: bool = False) -> str:
        """The conversation as text; `prompt` adds what comes before an answer.

        Raises `DataError` with the template's own words if it refuses the conversation.
        """
        from jinja2 import TemplateError

        try:
            return self._compiled.render(
                messages=[_with_thinking(message) for message in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=prompt,
                **self.tokens,
            )
        except (
            TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as e:
            raise DataError(
                "The chat template refuses the conversation",
                clean_line(str(e), 300),
                ("Many templates want user and assistant in turn, and a system message only at the start.",),
            ) from e

    @cached_property
    def _compiled(self) -> Compiled:
        from engine.tokens.sandbox import environment

        return environment(lambda: self.now or datetime.now()).from_string(self.source)


def _with_thinking(message: Message) -> Mapping[str, Any]:
    """gpt-oss and its like read the thought under another name; transformers hands it over under both."""
    thought = message.get("reasoning_content")
    return message if thought is None else {"thinking": thought, **message}


def read_template(folder: Path) -> str | None:
    """The source of the default chat template of a model's or adapter's folder, or None.

    A folder may hold more (`tool_use`, `rag`): the default is the one that a GGUF file carries, so it is what trains.
    Raises `MissingError` if a file is damaged.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_text(file)
    found = read_json(folder / "chat_template.json").get("chat_template")
    found = found or read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        named = (entry for entry in found if isinstance(entry, dict))
        found = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None

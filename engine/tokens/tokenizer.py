"""A model's tokenizer as its folder has it: `tokenizer.json`, the chat template, and at which tokens it stops."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.datasets.base import Message
from engine.errors import DataError, MissingError
from engine.text import clean_line
from engine.tokens.files import read_json
from engine.tokens.template import STAND_IN, Chat, Template, Tools, read_template

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Core

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that a tokenizer's config names; templates read them by these names."""

PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<unk>")
"""Tokens that models carry for padding, or never use at the end of a turn."""


LONG_TAIL = 256
"""Characters. A longer end of a prompt holds words of its row, and will not come again."""

MANY_TAILS = 1000


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back, and what is known of its special tokens."""

    core: Core
    """tokenizer.json as it stands, which is also what the export goes by; see `make_plain`."""
    template: Template | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    """The texts of `bos_token`, `eos_token` …, by these names."""
    stops: tuple[int, ...] = ()
    """Where generation stops, by the model's own `generation_config.json`, or else its `config.json`."""
    added: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """What the tokenizer itself puts in front of a bare text and behind it: bos, for most that have one."""

    @classmethod
    def load(cls, folder: Path, now: datetime | None = None) -> Tokenizer:
        """The tokenizer of a model's folder; `now` is the time that its chat template is told (None: the clock).

        Raises `MissingError` if there is no tokenizer.json, or a file is damaged.
        """
        from tokenizers import Tokenizer as Core

        file = folder / "tokenizer.json"
        if not file.is_file():
            hint = "Choose a model, or a copy of it, that ships tokenizer.json: tokenizer.model alone is not enough."
            raise MissingError("The model has no tokenizer.json", clean_line(str(folder), 400), (hint,))
        try:
            core = Core.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            detail = f"{clean_line(str(file), 400)}: {clean_line(str(error))}"
            raise MissingError("The tokenizer cannot be loaded", detail, ("Download the model again.",)) from error
        source, tokens = read_template(folder), role_tokens(folder)
        template = None if source is None else Template(source, tokens, now)
        return cls.of(core, template, tokens, generation_stops(folder))

    @classmethod
    def of(
        cls, core: Core, template: Template | None, tokens: Mapping[str, str], stops: Sequence[int] = ()
    ) -> Tokenizer:
        """From a tokenizer in memory, which is taken over and changed: see `make_plain`."""
        return cls(core, template, dict(tokens), tuple(stops), make_plain(core))

    def id_of(self, role: str) -> int | None:
        """The id of `bos_token`, `eos_token` …; None if there is none."""
        text = self.tokens.get(role)
        token = None if text is None else self.core.token_to_id(text)
        return None if token is None else int(token)

    @cached_property
    def pad_token(self) -> str | None:
        """The padding token: the config's, but one that does not also end a text where the model has such a one."""
        named, end = self.tokens.get("pad_token"), self.tokens.get("eos_token")
        if named is not None and named != end and self.id_of("pad_token") is not None:
            return named
        return next((name for name in PADS if name != end and self.core.token_to_id(name) is not None), end)

    @property
    def pad_id(self) -> int | None:
        """The id of `pad_token`."""
        number = None if self.pad_token is None else self.core.token_to_id(self.pad_token)
        return None if number is None else int(number)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token with which an answer ends: the last added one that the chat template writes behind every answer.

        Some write another one behind the last answer (Phi-3 the end of the text), where a model has stopped already;
        so the first of those that only the last answer has is taken only if there is none behind every one. None if
        there is no template, if it ends an answer without such a token, or takes no plain question.
        """
        asked: Message = {"role": "user", "content": "?"}
        said: Message = {"role": "assistant", "content": STAND_IN}
        try:
            last = self.render([asked, said]).rpartition(STAND_IN)[2]
        except DataError:
            return None
        try:
            followed = self.render([asked, said, asked]).rpartition(STAND_IN)[2]
        except DataError:
            followed = last
        always = self._added_in(last[: shared(last, followed)])
        return always[-1] if always else next(iter(self._added_in(last)), None)

    def _added_in(self, text: str) -> list[int]:
        added = self.core.get_added_tokens_decoder()
        return [token for token in self.ids(text) if token in added and added[token].content.strip()]

    @cached_property
    def special(self) -> dict[int, str]:
        """Tokens that are no text: marked so in tokenizer.json, with a role, or where an answer or generation ends."""
        added = {number for number, token in self.core.get_added_tokens_decoder().items() if token.special}
        named = {self.id_of(role) for role in self.tokens}
        texts = {
            number: self.core.id_to_token(number)
            for number in added | named | {self.end_of_turn, *self.stops}
            if number is not None
        }
        return {number: text for number, text in texts.items() if text is not None}

    @cached_property
    def control(self) -> re.Pattern[str]:
        """Finds the text of a special token, the longest first."""
        return re.compile("|".join(map(re.escape, self._texts)) or "(?!)")

    def special_at_end(self, text: str) -> str:
        """The special token that the text ends with; empty if it ends with none."""
        if not text.endswith(self._texts):
            return ""
        return next(token for token in self._texts if text.endswith(token))

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        """Of the special tokens, the longest first."""
        return tuple(sorted((token for token in self.special.values() if token.strip()), key=len, reverse=True))

    def render(self, messages: Chat, tools: Tools = None, prompt: bool = False) -> str:
        """The conversation as text by the chat template. Raises `DataError` if it refuses, or if there is none."""
        if self.template is None:
            hint = "Choose an instruct model of the same family, or put a chat_template.jinja into the model's folder."
            detail = "so it is not known how this model writes a conversation"
            raise DataError("The tokenizer has no chat template", detail, (hint,))
        return self.template.render(messages, tools, prompt)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Each text's tokens, special tokens found in it and none added."""
        encodings: list[Encoding] = self.core.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def ids(self, text: str) -> list[int]:
        """The ids of one text, special tokens found in it and none added."""
        return list(self.encode([text])[0].ids)

    def tail_ids(self, tail: str) -> list[int]:
        """The ids of a prompt's end, which begins with a special token; what ends many prompts is remembered."""
        if len(tail) > LONG_TAIL:
            return self.ids(tail)
        if len(self._tails) > MANY_TAILS:
            self._tails.clear()
        if tail not in self._tails:
            self._tails[tail] = self.ids(tail)
        return self._tails[tail]

    @cached_property
    def _tails(self) -> dict[str, list[int]]:
        return {}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens without the special ones."""
        return str(self.core.decode(list(ids), skip_special_tokens=True))

    def name(self, token: int) -> str:
        """A token as the vocabulary writes it, fit to be shown."""
        return clean_line(self.core.id_to_token(token) or f"token {token}")


def shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def make_plain(core: Core) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Have it neither cut nor pad (a file may say so), and give each token all of its characters.

    A post-processor adds special tokens at the ends, which is not wanted of rendered chats, and may take the spaces
    out of a token's range (Llama 3's does): indentation would be no part of an answer. In the ids between the ends it
    has no say. Returns what it put in front of a text and behind it, found by trying.
    """
    core.no_truncation()
    core.no_padding()
    plain, whole = (core.encode("a", add_special_tokens=add).ids for add in (False, True))
    at = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    core.post_processor = None
    return tuple(whole[:at]), tuple(whole[at + len(plain) :])


def role_tokens(folder: Path) -> dict[str, str]:
    """The texts of the special tokens that the tokenizer's config names, by their roles."""
    config, older = read_json(folder / "tokenizer_config.json"), read_json(folder / "special_tokens_map.json")
    found = config | older if "added_tokens_decoder" not in config else older | config  # as transformers reads them
    extra = found.get("extra_special_tokens")
    named = {role: found.get(role) for role in ROLES} | (extra if isinstance(extra, dict) else {})
    texts = {role: value.get("content") if isinstance(value, dict) else value for role, value in named.items()}
    return {role: text for role, text in texts.items() if isinstance(text, str) and text}


def generation_stops(folder: Path) -> tuple[int, ...]:
    """The ids of the tokens at which generation stops; empty if the folder does not say.

    `generation_config.json` as transformers reads it; a model without one is read from its `config.json`.
    """
    found: Any = read_json(folder / "generation_config.json").get("eos_token_id")
    if found is None:
        config = read_json(folder / "config.json")
        found = {**(config.get("text_config") or {}), **config}.get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    return tuple(number for number in listed if isinstance(number, int))

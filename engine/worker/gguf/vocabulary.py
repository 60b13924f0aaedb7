"""The vocabulary of a GGUF file, from a Hugging Face tokenizer's own files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from engine.errors import MissingError, RunError
from engine.text import clean_line
from engine.tokens.template import read_template
from engine.worker.gguf import spm
from engine.worker.template import SHIELD, end_of_turn

_PADDING_SCORE = -10000.0


@dataclass
class Vocabulary:
    """Tokens in order of their ids, with what llama.cpp has to know about each and about the whole."""

    model: str
    """`gpt2` (byte-level BPE) or `llama` (SentencePiece)."""
    tokens: list[str]
    types: list[gguf.TokenType]
    add_bos: bool
    add_eos: bool
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)
    """Ids by kind: bos, eos, eot, pad, unk …"""
    template: str | None = None
    add_space_prefix: bool | None = None
    """Of SentencePiece: does llama.cpp put a space in front of text, also behind a special token? Set by trying."""

    def write(self, writer: gguf.GGUFWriter, pre: str) -> None:
        """Add everything to the file's metadata."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(self.tokens)
        if self.scores:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        for kind, token in self.special.items():
            getattr(writer, f"add_{kind}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.template is not None:
            writer.add_chat_template(SHIELD + self.template)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a model folder. Raises `MissingError` if it has no tokenizer.json."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise MissingError(
            "The model has no tokenizer.json", str(folder), ("Choose a model that ships a fast tokenizer.",)
        )
    return Tokenizer.from_file(str(file))


def read_vocabulary(folder: Path, size: int, template_folder: Path | None = None) -> Vocabulary:
    """The vocabulary of a model folder, padded to `size` rows of the embedding.

    `template_folder` gives the chat template if the model folder has none. Raises `RunError` for a kind of
    tokenizer that llama.cpp's BPE and SentencePiece do not cover.
    """
    tokenizer = load_tokenizer(folder)
    raw = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    if raw["model"]["type"] != "BPE":
        raise RunError(
            "This kind of tokenizer cannot be exported",
            f"tokenizer.json: {clean_line(str(raw['model']['type']))}",
            ("Exportable is BPE: byte-level, or SentencePiece's with byte fallback.",),
        )
    vocabulary = _read(folder, tokenizer, raw)
    vocabulary.template = read_template(folder) or (read_template(template_folder) if template_folder else None)
    if (turn := end_of_turn(folder)) is not None and turn != vocabulary.special.get("eos"):
        vocabulary.special["eot"] = turn
    _pad(vocabulary, size)
    return vocabulary


def _read(folder: Path, tokenizer: Tokenizer, raw: dict[str, Any]) -> Vocabulary:
    by_id = {token: text for text, token in tokenizer.get_vocab(with_added_tokens=True).items()}
    last = max(by_id)
    tokens = [by_id.get(token, f"[PAD{token}]") for token in range(last + 1)]
    types = [gguf.TokenType.NORMAL if token in by_id else gguf.TokenType.UNUSED for token in range(last + 1)]
    known = gguf.SpecialVocab(folder, load_merges=True, n_vocab=len(tokens))
    vocabulary = Vocabulary("gpt2", tokens, types, *_added_ends(tokenizer, known.special_token_ids))
    vocabulary.special = _writable(known.special_token_ids)
    if raw["model"].get("byte_fallback"):
        vocabulary.model = "llama"
        vocabulary.types = [gguf.TokenType.BYTE if spm.is_byte(text) else types[at] for at, text in enumerate(tokens)]
        vocabulary.scores = spm.scores(tokens, raw)
    else:
        vocabulary.merges = known.merges
    _mark_added(vocabulary, raw)
    return vocabulary


def _writable(special: dict[str, int]) -> dict[str, int]:
    return {kind: token for kind, token in special.items() if hasattr(gguf.GGUFWriter, f"add_{kind}_token_id")}


def _added_ends(tokenizer: Tokenizer, special: dict[str, int]) -> tuple[bool, bool]:
    """Does the tokenizer itself put BOS in front and EOS behind a text? Found by trying, not by its settings."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=add).ids for add in (False, True))
    if whole == plain:
        return False, False
    return whole[0] == special.get("bos"), whole[-1] == special.get("eos")


def _mark_added(vocabulary: Vocabulary, raw: dict[str, Any]) -> None:
    for token in raw.get("added_tokens", []):
        place, text = token["id"], token["content"]
        if place >= len(vocabulary.tokens):
            continue
        control = token["special"] or (text.startswith("<|") and text.endswith("|>"))
        vocabulary.types[place] = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
        vocabulary.tokens[place] = text if control else text.replace("▁", " ")
        if vocabulary.scores:
            vocabulary.scores[place] = -1000.0


def _pad(vocabulary: Vocabulary, size: int) -> None:
    """Fill up to the rows of the embedding, which many models round up. Raises `RunError` if there are fewer."""
    missing = size - len(vocabulary.tokens)
    if missing < 0:
        raise RunError(
            "The tokenizer has more tokens than the model has embeddings",
            f"{len(vocabulary.tokens)} tokens, {size} rows",
            ("A token was added without resizing the embedding; take the base's own tokenizer.",),
        )
    first = len(vocabulary.tokens)
    vocabulary.tokens += [f"[PAD{number}]" for number in range(first, size)]
    vocabulary.types += [gguf.TokenType.UNUSED] * missing
    if vocabulary.scores:
        vocabulary.scores += [_PADDING_SCORE] * missing


def ids_of(tokenizer: Tokenizer, texts: Sequence[str], special: bool) -> list[list[int]]:
    """Token ids by the Hugging Face tokenizer, with or without what it adds at the ends."""
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=special)]

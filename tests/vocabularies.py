"""Tokenizers and chat templates to test with: a small one made on the spot, and real ones where their files are.

Nothing of others is copied here. The stock templates of many families lie in trl's package (Apache-2.0), which is
installed anyway. More of them, and whole vocabularies, lie in the source package of llama-cpp-python:
`pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36`, unpack, set FINETUI_LLAMA_CPP_SDIST to the folder.
Tests that need it are skipped without.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from engine.tokens.template import Template
from engine.tokens.tokenizer import Tokenizer as Light

SDIST = os.environ.get("FINETUI_LLAMA_CPP_SDIST", "")
needs_sdist = pytest.mark.skipif(
    not SDIST, reason="FINETUI_LLAMA_CPP_SDIST does not name the unpacked llama-cpp-python sources"
)

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

SPECIAL = re.compile(
    r"<[|｜][^<>|｜\s]+[|｜]>|<(?:start|end)_of_(?:turn|utterance|role|text)>|</?s>|<\|?turn\|?>|\[/?[A-Z_]+\]"
    r"|<\|?(?:tool|channel|tool_call|tool_response)\|?>"
)
"""What looks like a special token in the source of a chat template."""

CORPUS = (
    "Where is the box? On its way. It is blue. And the letter? Letter and box are here, thank you.",
    "def f(x):\n        if x:\n            return    1\n\n\n\t\tend\n\n",
    "user assistant system model tool think Déjà là 你好 日本語 🚀 naïve 1234",
)


def trl_folder() -> Path:
    """Where trl keeps its chat templates; trl itself is not imported."""
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "chat_templates"


def template(name: str) -> str:
    """The source of one of trl's templates: `qwen3`, `qwen3_training` …"""
    return (trl_folder() / f"{name}.jinja").read_text("utf-8")


def end_of(source: str) -> str:
    """The token that ends a turn in a stock template, by its name."""
    usual = (
        "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<turn|>", "<|END_OF_TURN_TOKEN|>", "<|return|>",
        "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|end_of_text|>",
    )  # fmt: skip
    return next((token for token in usual if token in source), "</s>")


def small(source: str, specials: Sequence[str] = (), end: str = "", core: Tokenizer | None = None) -> Light:
    """A tokenizer with a template: byte-level and small, or `core`; special is what looks so in the template."""
    core = core or small_core()
    end = end or end_of(source)
    named = {"bos_token": "<s>", "eos_token": end, "pad_token": "<pad>"}
    texts = dict.fromkeys([*named.values(), *specials, *SPECIAL.findall(source)])
    new = [text for text in texts if core.token_to_id(text) is None]
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in new])
    return Light.of(core, Template(source, named), named)


def small_core() -> Tokenizer:
    """Byte-level BPE whose merges join line breaks and spaces, as those of real vocabularies do."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(CORPUS * 3, trainer)
    core.post_processor = processors.ByteLevel(trim_offsets=True)  # Llama 3's
    return core


def sdist_folder() -> Path:
    """The folder `models` of llama.cpp within the source package."""
    return next(Path(SDIST).rglob("ggml-vocab-llama-bpe.gguf")).parent


def every_template() -> dict[str, str]:
    """All stock templates at hand by name: trl's, and those of llama.cpp where its sources are."""
    files = sorted(trl_folder().glob("*.jinja"))
    files += sorted((sdist_folder() / "templates").glob("*.jinja")) if SDIST else []
    return {f"{file.parent.parent.name}/{file.stem}": file.read_text("utf-8") for file in files}


@cache
def _saved(name: str) -> str:
    import gguf

    fields = gguf.GGUFReader(sdist_folder() / f"ggml-vocab-{name}.gguf").fields
    facts = {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.ggml.")}
    makers = {"gpt2": _byte_level, "llama": _sentencepiece, "gemma4": _gemma}
    return str(makers[facts["tokenizer.ggml.model"]](name, facts).to_str())


def real(name: str) -> Tokenizer:
    """A real vocabulary as its model's tokenizer.json has it.

    `llama-bpe` (Llama 3), `qwen2`, `gemma-4`, `llama-spm` (Llama 2), `phi-3`.
    """
    return Tokenizer.from_str(_saved(name))


def _byte_level(name: str, facts: Mapping[str, Any]) -> Tokenizer:
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    llama = name == "llama-bpe"
    vocabulary = {text: number for number, text in enumerate(tokens) if types[number] == 1}
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=llama))
    if not llama:
        core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3 if llama else QWEN2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    _add(core, tokens, types)
    core.post_processor = processors.ByteLevel(trim_offsets=llama)
    if llama:
        bos = tokens[facts["tokenizer.ggml.bos_token_id"]]
        begin = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))])
        core.post_processor = processors.Sequence([core.post_processor, begin])
    return core


def _gemma(_name: str, facts: Mapping[str, Any]) -> Tokenizer:
    """SentencePiece's, with the merges as they are and no space in front."""
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _add(core, tokens, types)
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return core


def _sentencepiece(name: str, facts: Mapping[str, Any]) -> Tokenizer:
    """As transformers converts Llama 2's: merges in the order of the scores of what they make."""
    tokens, types, scores = (facts[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "scores"))
    vocabulary = {text: number for number, text in enumerate(tokens)}
    merges = []
    for number, text in enumerate(tokens):
        if types[number] == 1:
            halves = [(text[:at], text[at:]) for at in range(1, len(text))]
            found = [(one, other) for one, other in halves if one in vocabulary and other in vocabulary]
            found.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
            merges += [(scores[number], pair) for pair in found]
    merges.sort(key=lambda merge: -merge[0])
    pairs = [pair for _, pair in merges]
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    _add(core, tokens, types, rstrip=name == "phi-3")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return core


def _add(core: Tokenizer, tokens: Sequence[str], types: Sequence[int], rstrip: bool = False) -> None:
    """Control tokens as special ones; Phi-3's swallow the white space behind them, all but `<s>` and its like."""
    for text, kind in zip(tokens, types, strict=True):
        swallows = rstrip and text.startswith("<|") and text != "<|endoftext|>"
        if kind in (2, 3):
            core.add_special_tokens([AddedToken(text, special=True, normalized=False, rstrip=swallows)])
        elif kind == 4:
            core.add_tokens([AddedToken(text, normalized=False)])

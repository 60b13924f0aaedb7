"""A small SentencePiece tokenizer with every file that a Mistral v0.3 snapshot has, trained on the spot."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

import sentencepiece
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import LlamaTokenizer
from transformers.convert_slow_tokenizer import generate_merges

Prefix = Literal["first", "legacy"]
"""Where `tokenizer.json` puts a space in front: at the beginning of the text (v0.3), or of each piece of text between
special tokens (v0.1, Llama 2)."""

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
CONTROL = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[control_8]", "[control_9]"]
USER_DEFINED = ["<tool>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 1234 and 56 and 7, isn't it?",
    "Where is the box? The box is on its way, and the letter is already there.",
    "def main():\n    return x ** 2\n\n\n\t\tend",
    "user assistant system hello world Hello World HELLO café naïve déjà vu Grüße aus Köln 100 200 300",
    "She sells sea shells by the sea shore; the shells she sells are surely sea shells, I'm sure.",
    "    four spaces,  two spaces,   three spaces ------ ====== ...... !!!!!!",
]


def train_sentencepiece(vocabulary: int = 600) -> bytes:
    """`tokenizer.model`: BPE with byte fallback and the settings of Llama and Mistral."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in CORPUS for line in text.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        byte_fallback=True,
        control_symbols=CONTROL,
        user_defined_symbols=USER_DEFINED,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def make_tokenizer(folder: Path, prefix: Prefix = "first") -> int:
    """All tokenizer files of a snapshot; returns the size of its vocabulary."""
    model = train_sentencepiece()
    (folder / "tokenizer.model").write_bytes(model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    scores = [(pieces.IdToPiece(token), pieces.GetScore(token)) for token in range(pieces.vocab_size())]
    special = ["<unk>", "<s>", "</s>", *CONTROL]
    tokenizer = _convert(scores, special, prefix)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {str(token): json.loads(_json(entry)) for token, entry in tokenizer.get_added_tokens_decoder().items()}
    config: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": True,
        "added_tokens_decoder": added,
        "bos_token": "<s>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": prefix == "legacy",
        "pad_token": None,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return len(scores)


def _convert(scores: list[tuple[str, float]], special: list[str], prefix: Prefix) -> Tokenizer:
    """As transformers converts a Llama tokenizer."""
    vocabulary = {text: token for token, (text, _) in enumerate(scores)}
    merges = generate_merges(vocabulary, scores, skip_tokens=[*special, *USER_DEFINED])
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=True)._tokenizer
    if prefix == "legacy":
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in USER_DEFINED])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _json(token: AddedToken) -> str:
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return json.dumps({name: getattr(token, name) for name in names})

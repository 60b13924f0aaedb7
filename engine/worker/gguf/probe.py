"""Which of llama.cpp's pre-tokenizers splits text as this model's tokenizer does? Decided by trying.

A pre-tokenizer is a name in the file's metadata; a wrong one gives a file that loads and answers, a little worse.
Hashes of tokenizers, which converters go by, fail for each tokenizer that was extended by a token. So a file with
nothing but the vocabulary is written for each candidate, loaded, and asked.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import gguf
from tokenizers import Tokenizer

from engine.errors import RunError
from engine.text import clean_line
from engine.worker.gguf.family import Family
from engine.worker.gguf.vocabulary import Vocabulary, ids_of
from engine.worker.llama import LlamaModel

OTHERS = (
    "llama-bpe", "qwen2", "gpt-2", "default", "smollm", "tekken", "gpt-4o", "dbrx", "deepseek-llm", "deepseek-v3",
    "deepseek-coder", "refact", "command-r", "starcoder", "falcon", "olmo", "stablelm2", "exaone", "superbpe",
    "seed-coder", "hunyuan", "qwen35", "minerva-7b", "chatglm-bpe", "viking", "bloom", "mpt",
)  # fmt: skip
"""Names that llama.cpp knows, tried in this order after the family's own."""

STRINGS = (
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", "\r\n", " \n \n", "a\n\n b",
    "a \n\n  b", "Hello world", " Hello world", "Hello  world", "hello WORLD", "HELLO",
    "Hello, y'all! How are you?", "I'm you're he's we've they'll she'd it's",
    "I'M YOU'RE HE'S WE'VE THEY'LL SHE'D", "don't 'tis ''quoted''", "1", "12", "123", "1234", "12345",
    "123456", "1234567890", "3.14159", "1,234,567.89", "2026-11-22T16:06:58Z", "v1.2.3-rc4", "a1b2c3",
    "x=1;y=22;z=333", "(1+2)*3/4%5", "!!!???...", "....", "------", "=======", "###", "```python",
    "def f(x):\n    return x**2  # square\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}",
    "<div class=\"a\">b</div>", '{"key": [1, 2, {"nested": null}], "ü": "ß"}',
    "https://example.org/path?q=1&r=%20#top", "user@example.org", "C:\\temp\\new.txt", "$100 €20 £3",
    "50 % off", "Grüße aus Köln", "naïve café déjà vu", "Москва не сразу строилась",
    "нещо на Български", "Ελληνικά", "עברית", "العربية ١٢٣", "हिन्दी में लिखा", "ไทย", "កាន់តែពិសេសអាច",
    "日本語のテキスト", "中文文本。第二句！", "한국어 텍스트", "我想在apple工作1314151天～", "🚀",
    "🚀🚀 rocket", "👩‍👩‍👧‍👦 family", "😶‍🌫️", "✅ done", "a\u00a0b", "a\u200bb", "ﬁ ligature",
    "½ ² ³", "…—–", "«quoted» „auch“", "\u3000wide", "tail space ", "tail newline\n",
    "CamelCaseWord snake_case_word", "ALLCAPSword MixedCASE", "word's WORD'S", " 's", "'S", "_x_ __y__",
    "*bold* **very**", "\u0085", "a\rb", "e\u0301 non-NFC",
)  # fmt: skip
"""Texts on which pre-tokenizers differ: spaces, digits, contractions, code, scripts, emoji, control characters."""


_SPLITS = {
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
"""How the splitting patterns of Llama 3 and Qwen 2 end: a small vocabulary may not tell two names apart by its ids."""


def _candidates(tokenizer: Tokenizer, family: Family) -> tuple[str, ...]:
    """Every known name, the likely ones first: by the tokenizer's own pattern, then by the family."""
    steps = json.loads(tokenizer.to_str()).get("pre_tokenizer") or {}
    patterns = [str(step.get("pattern", {}).get("Regex", "")) for step in steps.get("pretokenizers", [steps])]
    own = [name for end, name in _SPLITS.items() if any(pattern.endswith("|" + end) for pattern in patterns)]
    return tuple(dict.fromkeys((*own, *family.pre, *OTHERS)))


def choose_pre(
    folder: Path, tokenizer: Tokenizer, vocabulary: Vocabulary, family: Family
) -> tuple[str, tuple[str, ...]]:
    """The name that tokenizes as the model's own tokenizer, and strings that differ although they need not matter.

    A SentencePiece vocabulary has one name and gets its `add_space_prefix` here. `folder` is for the trial files.
    Raises `RunError` if nothing that llama.cpp can do gives the same ids.
    """
    spm = vocabulary.model == "llama"
    candidates = [("default", space) for space in (False, True)] if spm else _byte_level(tokenizer, family)
    expected = _Expected(tokenizer, _bos(vocabulary) if spm else "")
    fewest: tuple[int, str, str] | None = None
    for name, space in candidates:
        vocabulary.add_space_prefix = space
        wrong = expected.wrong(_write_trial(folder / "vocabulary.gguf", vocabulary, family, name))
        hard = [text for text in wrong if unicodedata.is_normalized("NFC", text)]
        if not hard:
            return name, tuple(wrong)
        if fewest is None or len(hard) < fewest[0]:
            fewest = (len(hard), name, hard[0])
    assert fewest is not None
    raise RunError(
        "llama.cpp cannot tokenize as this model does",
        f"{len(candidates)} pre-tokenizers tried; the nearest, {fewest[1]}, differs on {fewest[0]} of "
        f"{len(STRINGS)} texts, first on {clean_line(repr(fewest[2]))}",
        ("A GGUF file would answer worse than the model; use the merged folder with transformers instead.",),
    )


def _byte_level(tokenizer: Tokenizer, family: Family) -> list[tuple[str, bool | None]]:
    return [(name, None) for name in _candidates(tokenizer, family)]


def _bos(vocabulary: Vocabulary) -> str:
    return vocabulary.tokens[vocabulary.special["bos"]] if "bos" in vocabulary.special else ""


class _Expected:
    """What the model's tokenizer says to `head` and each string.

    SentencePiece is asked behind BOS, where every chat stands: a tokenizer may put a space in front of the first word
    of a bare text only, llama.cpp puts it behind each special token or nowhere.
    """

    def __init__(self, tokenizer: Tokenizer, head: str) -> None:
        self._texts = [head + text for text in STRINGS]
        self._plain = ids_of(tokenizer, self._texts, special=False)
        self._whole = ids_of(tokenizer, self._texts, special=True)

    def wrong(self, file: Path) -> list[str]:
        """Strings whose ids differ, without or with what is added at the ends (an implicit BOS shows only there)."""
        with LlamaModel(file, vocab_only=True) as model:
            return [
                string
                for string, text, plain, whole in zip(STRINGS, self._texts, self._plain, self._whole, strict=True)
                if model.tokenize(text) != plain or model.tokenize(text, add_bos=True) != whole
            ]


def _write_trial(file: Path, vocabulary: Vocabulary, family: Family, pre: str) -> Path:
    writer = gguf.GGUFWriter(file, family.name)
    vocabulary.write(writer, pre)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return file


def describe(texts: Iterable[str]) -> str:
    """The strings, quoted, for a finding."""
    return clean_line(", ".join(repr(text) for text in texts))

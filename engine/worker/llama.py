"""A thin, explicit wrapper over llama.cpp: load a GGUF file, tokenize, logits, generate, close."""

from __future__ import annotations

import codecs
import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import psutil
from llama_cpp import llama_cpp as api
from numpy.typing import NDArray

from engine import gpu
from engine.errors import RunError
from engine.units import GIB, MIB, format_bytes
from engine.worker import llama_log

BATCH = 256
"""Tokens in one call of llama_decode: large enough to be fast, small enough to be stopped soon."""

_initialized = False


@dataclass(frozen=True)
class Generation:
    """An answer: the tokens without the one that ended it, their text, and how it ended."""

    ids: tuple[int, ...]
    text: str
    reason: Literal["stop", "length", "cancelled"]

    @property
    def stopped(self) -> bool:
        """True if the model ended the answer by itself."""
        return self.reason == "stop"


SMALL_BYTES = 64 * MIB
"""Below this size a model runs on one thread: waiting for each other costs the threads more than they save."""


def threads(size_bytes: int | None = None) -> int:
    """Physical cores that this process may use, for a model of that size; hyper-threads only slow it down."""
    if size_bytes is not None and size_bytes < SMALL_BYTES:
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), psutil.cpu_count(logical=False) or 1))


def _has_amx() -> bool:
    # Repacked weights crash llama_decode on CPUs with AMX: https://github.com/ggml-org/llama.cpp/issues/20824
    try:
        return "amx" in Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        return False


ALL_LAYERS = -1
"""llama.cpp's own sign for every layer, and the output after them."""

BESIDE_BYTES = GIB
"""GPU memory for keys and values, logits and the driver, beside a tenth of the file for working memory."""


def gpu_layers(size_bytes: int, free_bytes: int, count_layers: Callable[[], int]) -> int:
    """How many of a file's layers fit into the GPU's free memory: `ALL_LAYERS`, some, or 0.

    `count_layers` is asked only where not all of them do.
    """
    room = free_bytes - BESIDE_BYTES - size_bytes // 10
    if size_bytes <= room:
        return ALL_LAYERS
    # The embedding and the output, which are no layer, make the share of one smaller than this: to be on the safe side.
    return max(0, count_layers() * room // size_bytes)


def layers_of(path: Path) -> int:
    """The number of layers in a GGUF file, by its own metadata. Raises `RunError` if it cannot be read."""
    with LlamaModel(path, vocab_only=True) as model:
        return int(model.metadata(f"{model.metadata('general.architecture')}.block_count") or 0)


class LlamaModel:
    """One GGUF file, loaded. Use as a context manager or call `close()`: the library wants it explicitly."""

    def __init__(
        self, path: Path, context_length: int = 4096, logits_all: bool = False, vocab_only: bool = False
    ) -> None:
        """Raises `RunError` with llama.cpp's last words if the file cannot be loaded."""
        global _initialized
        llama_log.quiet()
        if not _initialized:
            api.llama_backend_init()
            _initialized = True
        self.path = path
        self.context_length = context_length
        self._logits_all = logits_all
        self._context: Any = None
        self._past: list[int] = []
        """Tokens that the context's memory holds."""
        self.note = ""
        """Why it does not run on the GPU as a whole; empty where it does, or where there is none."""
        self._model: Any = None
        tries = [0] if vocab_only else self._offloads()
        for layers in tries:
            try:
                self._open(layers, vocab_only)
                break
            except RunError:  # with too many layers for the GPU llama.cpp says the same as for a damaged file
                if layers == tries[-1]:
                    raise
                self.note = "llama.cpp could not use the GPU for this file: the CPU computes"

    def _offloads(self) -> list[int]:
        """The numbers of layers to try on the GPU, in this order; at the last, 0, only the file can be at fault."""
        if not api.llama_supports_gpu_offload() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            return [0]
        cards = gpu.read().gpus
        free = cards[0].free_bytes if cards else None
        if free is None or not self.path.is_file():
            return [ALL_LAYERS, 0]
        layers = gpu_layers(self.path.stat().st_size, free, lambda: layers_of(self.path))
        if layers != ALL_LAYERS:
            self.note = (
                f"{layers or 'no'} layers fit the GPU's {format_bytes(free)} of free memory, the CPU does the rest"
            )
        return [layers, 0] if layers else [0]

    def _open(self, layers: int, vocab_only: bool) -> None:
        parameters = api.llama_model_default_params()
        parameters.n_gpu_layers = layers
        parameters.use_extra_bufts = not _has_amx()
        parameters.vocab_only = vocab_only
        there = self.path.is_file()
        self._model = api.llama_model_load_from_file(str(self.path).encode(), parameters) if there else None
        if not self._model:
            words = llama_log.last_words() if there else "there is no such file"
            hints = ("The file may be damaged or cut short: make it again with finetui gguf.",)
            raise RunError("The GGUF file cannot be loaded", f"{self.path.name}: {words}", hints)
        self._vocab = api.llama_model_get_vocab(self._model)
        self.vocab_size = int(api.llama_vocab_n_tokens(self._vocab))
        if not vocab_only:
            self._open_context(on_gpu=layers != 0)

    def _open_context(self, on_gpu: bool) -> None:
        trained = int(api.llama_model_n_ctx_train(self._model))
        self.context_length = min(self.context_length, trained) if trained > 0 else self.context_length
        parameters = api.llama_context_default_params()
        parameters.n_ctx = self.context_length
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_threads = parameters.n_threads_batch = threads(self.path.stat().st_size)
        parameters.offload_kqv = parameters.op_offload = (
            on_gpu  # else a full GPU would be asked for memory all the same
        )
        self._context = api.llama_init_from_model(self._model, parameters)
        if not self._context:
            self.close()
            raise RunError(
                "llama.cpp cannot set up its memory for this model",
                f"{self.path.name}, context {self.context_length}: {llama_log.last_words()}",
                ("Use a shorter context or a smaller quantization.",),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model. Idempotent; the object is of no use afterwards."""
        if self._context:
            api.llama_free(self._context)
            self._context = None
        if self._model:
            api.llama_model_free(self._model)
            self._model = None

    # -- vocabulary

    def tokenize(self, text: str, add_bos: bool = False, special: bool = True) -> list[int]:
        """Token ids. `special`: text like `<|eot_id|>` becomes its token; `add_bos`: as the file says."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        buffer = (api.llama_token * room)()
        count = api.llama_tokenize(self._vocab, raw, len(raw), buffer, room, add_bos, special)
        if count < 0:
            raise RunError("llama.cpp cannot tokenize this text", f"{len(raw)} bytes, error {count}")
        return list(buffer[:count])

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token: may be a part of a character; special tokens are empty unless asked for."""
        buffer = ctypes.create_string_buffer(256)
        size = api.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = api.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:size]

    def is_eog(self, token: int) -> bool:
        """True if the token ends an answer."""
        return bool(api.llama_vocab_is_eog(self._vocab, token))

    @property
    def bos(self) -> int:
        """The beginning-of-text token's id; -1 if there is none."""
        return int(api.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> int:
        """The end-of-text token's id; -1 if there is none."""
        return int(api.llama_vocab_eos(self._vocab))

    def token_text(self, token: int) -> str:
        """A token as the file spells it; empty for none."""
        return api.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace") if token >= 0 else ""

    def metadata(self, key: str) -> str | None:
        """A value of the file's metadata as text, or None."""
        size = api.llama_model_meta_val_str(self._model, key.encode(), ctypes.create_string_buffer(1), 1)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        api.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    # -- inference

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits (T, V) after each of T tokens, computed from an empty memory. Needs `logits_all`."""
        if not self._logits_all:
            raise ValueError("load the model with logits_all=True")
        self._forget(0)
        parts = []
        for start in range(0, len(ids), BATCH):
            chunk = ids[start : start + BATCH]
            self._decode(chunk, every=True)
            rows = api.llama_get_logits(self._context)
            parts.append(np.ctypeslib.as_array(rows, shape=(len(chunk), self.vocab_size)).copy())
        return np.concatenate(parts)  # (T, V)

    def generate(
        self,
        ids: Sequence[int],
        max_tokens: int,
        temperature: float = 0.0,
        on_token: Callable[[str], object] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        seed: int | None = None,
    ) -> Generation:
        """Complete a prompt of ids. Greedy at temperature 0, else sampled from the whole distribution.

        `on_token` gets whole characters as they become known. Raises `RunError` if the prompt fills the context.
        """
        if len(ids) >= self.context_length:
            raise context_full(len(ids), self.context_length)
        rng = np.random.default_rng(seed)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        out: list[int] = []
        texts: list[str] = []
        reason: Literal["stop", "length", "cancelled"] = "length"
        ready = self._feed(ids, cancelled)
        while len(out) < max_tokens and len(ids) + len(out) < self.context_length:
            if not ready or cancelled():
                reason = "cancelled"
                break
            token = _sample(self._last_logits(), temperature, rng)
            if self.is_eog(token):
                reason = "stop"
                break
            out.append(token)
            _tell(decoder.decode(self.piece(token)), texts, on_token)
            if len(ids) + len(out) < self.context_length:
                self._decode([token])
        _tell(decoder.decode(b"", final=True), texts, on_token)
        return Generation(tuple(out), "".join(texts), reason)

    def _feed(self, ids: Sequence[int], cancelled: Callable[[], bool]) -> bool:
        """Bring the memory to exactly `ids`, keeping what it shares with them. False if cancelled on the way."""
        shared = 0
        for before, now in zip(self._past, ids[:-1], strict=False):
            if before != now:
                break
            shared += 1
        self._forget(shared)
        for start in range(shared, len(ids), BATCH):
            if cancelled():
                return False
            self._decode(ids[start : start + BATCH])
        return True

    def _forget(self, keep: int) -> None:
        api.llama_memory_seq_rm(api.llama_get_memory(self._context), 0, keep, -1)
        del self._past[keep:]

    def _decode(self, ids: Sequence[int], every: bool = False) -> None:
        batch = api.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, token in enumerate(ids):
                batch.token[place] = token
                batch.pos[place] = len(self._past) + place
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = 0
                batch.logits[place] = every or place == len(ids) - 1
            code = api.llama_decode(self._context, batch)
        finally:
            api.llama_batch_free(batch)
        if code != 0:
            raise RunError("llama.cpp failed to compute", f"{self.path.name}: code {code}; {llama_log.last_words()}")
        self._past.extend(ids)

    def _last_logits(self) -> NDArray[np.float32]:
        row = api.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(row, shape=(self.vocab_size,))


def context_full(tokens: int, room: int) -> RunError:
    """The error for a prompt that leaves no room for an answer."""
    return RunError(
        "The conversation does not fit the model's context",
        f"{tokens} tokens, the context holds {room}",
        ("Start a new chat, or write a shorter message.",),
    )


def _sample(logits: NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    if temperature <= 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def _tell(text: str, texts: list[str], on_token: Callable[[str], object] | None) -> None:
    if text:
        texts.append(text)
        if on_token is not None:
            on_token(text)

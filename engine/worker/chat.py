"""`python -P -m engine.worker.chat MODEL [CONTEXT]`: the child of `engine.chat`, one loaded GGUF file.

The prompt is what training saw: the file's own chat template, rendered in a sandbox, then tokenized once with its
special tokens and without a second beginning-of-text. A file without a template, of a model that was trained on raw
text, continues what it is given.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from engine.datasets.base import Message
from engine.errors import DataError, FinetuiError, RunError
from engine.tokens.template import Template
from engine.worker.llama import LlamaModel, context_full
from engine.worker.template import template_of

Messages = Sequence[Message]


class Server:
    """Answers one request after the other; a reader thread takes cancellations meanwhile."""

    def __init__(self, model: LlamaModel, out: IO[bytes]) -> None:
        self._model = model
        self._out = out
        self._requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._cancelled: set[int] = set()
        self._ended = threading.Event()

    def serve(self) -> None:
        """Until the input ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        self.say(kind="ready", context_length=self._model.context_length, note=self._model.note)
        while (request := self._requests.get()) is not None:
            try:
                self._answer(request)
            except FinetuiError as error:
                self.say(id=request["id"], **described(error))

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if request["op"] == "cancel":
                self._cancelled.add(request["id"])
            else:
                self._requests.put(request)
        self._ended.set()
        self._requests.put(None)

    def say(self, **reply: object) -> None:
        """Write one reply."""
        self._out.write(json.dumps(reply).encode("ascii") + b"\n")
        self._out.flush()

    def _answer(self, request: dict[str, Any]) -> None:
        number, began = request["id"], time.monotonic()
        ids, dropped = fitting_prompt(self._model, request["messages"], request["max_tokens"])
        generated = self._model.generate(
            ids,
            request["max_tokens"],
            request["temperature"],
            on_token=lambda text: self.say(kind="delta", id=number, text=text),
            cancelled=lambda: number in self._cancelled or self._ended.is_set(),
        )
        self.say(
            kind="done",
            id=number,
            tokens=len(generated.ids),
            seconds=time.monotonic() - began,
            reason=generated.reason,
            prompt_tokens=len(ids),
            dropped=dropped,
        )


def fitting_prompt(model: LlamaModel, messages: Messages, max_tokens: int) -> tuple[list[int], int]:
    """Prompt ids that leave room for an answer, and how many of the oldest messages were left out for that.

    A system message at the start stays. Raises `RunError` if even the last question alone does not fit.
    """
    template = template_of(model)
    room = model.context_length - min(max_tokens, model.context_length // 4)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = list(messages[len(system) :])
    for dropped in range(max(len(turns), 1)):
        kept = turns[dropped:]
        if dropped and kept[0]["role"] != "user":
            continue  # templates want the user to begin
        ids = _ids(model, template, [*system, *kept])
        if len(ids) <= room:
            return ids, dropped
    raise context_full(len(ids), model.context_length)


def _ids(model: LlamaModel, template: Template | None, messages: Messages) -> list[int]:
    """The conversation as training writes it. A model without a chat template continues the text as it stands."""
    text = _render(template, messages) if template else "".join(message["content"] for message in messages)
    return model.tokenize(unicodedata.normalize("NFC", text), add_bos=template is None)


def _render(template: Template, messages: Messages) -> str:
    try:
        return template.render(messages, prompt=True)
    except DataError as error:  # nobody's data are at fault here
        raise RunError("The chat template refuses these messages", error.detail, error.hints) from error


def described(error: FinetuiError) -> dict[str, object]:
    """An error as a reply."""
    return {
        "kind": "error",
        "title": error.title,
        "detail": error.detail,
        "hints": list(error.hints),
        "code": int(error.code),
    }


def main() -> int:
    """Load and serve; the exit code is 0 once the client closes the input."""
    # Whatever a library prints must not get between the replies: it goes to stderr, and the replies have their own
    # descriptor.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    path = Path(sys.argv[1])
    context_length = int(sys.argv[2]) if len(sys.argv) > 2 else 4096
    try:
        model = LlamaModel(path, context_length)
    except FinetuiError as error:
        out.write(json.dumps(described(error)).encode("ascii") + b"\n")
        out.flush()
        return int(error.code)
    with model:
        Server(model, out).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())

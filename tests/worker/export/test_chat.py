"""chat: a real child process on a real GGUF file; whatever happens to it, the client gets an error, not a crash."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.chat import ChatSession, Delta, Done, models_of
from engine.errors import FinetuiError, MissingError, RunError
from engine.paths import RunDir, builtin_presets
from engine.tokens.template import Template
from engine.worker.chat import _render, fitting_prompt
from engine.worker.gguf.quantize import quantize
from engine.worker.llama import LlamaModel

DEMO = builtin_presets() / "demo"
QUESTION = {"role": "user", "content": "Hello! I cannot log in to account 3322. Please fix it today. Vera"}
pytestmark = pytest.mark.skipif(
    not (DEMO / "model" / "model.safetensors").is_file(), reason="the bundled demo model is not here"
)


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with the demo model as bf16 and Q8_0: it stops by itself."""
    from engine.worker.fold import Folded, Weights
    from engine.worker.gguf import Source, write_model
    from engine.worker.gguf.families import family_of
    from engine.worker.gguf.vocabulary import read_vocabulary
    from engine.worker.model_files import read_json

    run = RunDir(tmp_path_factory.mktemp("chatty"))
    config = read_json(DEMO / "model" / "config.json")
    words = read_vocabulary(DEMO / "model", config["vocab_size"])
    source = Source(Folded(Weights(DEMO / "model")), family_of(config), config, words, "llama-bpe", {})
    write_model(run.gguf("bf16"), source, lambda _done, _total: None)
    quantize(run.gguf("bf16"), run.gguf("Q8_0"), "Q8_0", lambda _done, _total: None)
    return run


@pytest.fixture
def session(chatty: RunDir) -> Any:
    with ChatSession(chatty.gguf("Q8_0")) as session:
        yield session


def text_of(pieces: list[Any]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta))


def test_an_answer_streams_and_stops_by_itself(session: ChatSession) -> None:
    pieces = list(session.ask([QUESTION]))
    done = pieces[-1]
    assert isinstance(done, Done)
    assert done.reason == "stop"
    assert len(pieces) > 10
    assert done.tokens >= len(pieces) - 1
    assert "<|" not in text_of(pieces)


def test_greedy_answers_repeat_and_match_the_library(session: ChatSession, chatty: RunDir) -> None:
    first, again = (text_of(list(session.ask([QUESTION]))) for _ in range(2))
    with LlamaModel(chatty.gguf("Q8_0")) as model:
        ids, _ = fitting_prompt(model, [QUESTION], 512)
        assert first == again == model.generate(ids, 512).text


def test_max_tokens_ends_with_length(session: ChatSession) -> None:
    done = list(session.ask([QUESTION], max_tokens=3))[-1]
    assert (done.tokens, done.reason) == (3, "length")


def test_cancel_stops_the_answer_and_the_next_one_works(session: ChatSession) -> None:
    answer = session.ask([QUESTION], max_tokens=400, temperature=50.0)  # hot enough not to end soon
    next(answer)
    session.cancel()
    assert list(answer)[-1].reason == "cancelled"
    assert list(session.ask([QUESTION]))[-1].reason == "stop"


def test_leaving_an_answer_early_frees_the_session(session: ChatSession) -> None:
    for _ in session.ask([QUESTION], temperature=50.0):
        break
    assert list(session.ask([QUESTION]))[-1].reason == "stop"


def test_a_long_conversation_loses_its_oldest_turns(session: ChatSession) -> None:
    turns = [QUESTION, {"role": "assistant", "content": "I will look at it."}] * 30
    done = list(session.ask([{"role": "system", "content": "Be kind."}, *turns, QUESTION]))[-1]
    assert done.dropped > 0
    assert done.prompt_tokens < session.context_length == 512


def test_a_question_that_cannot_fit_is_an_error_with_figures(session: ChatSession) -> None:
    with pytest.raises(RunError, match=r"the context holds 512"):
        list(session.ask([{"role": "user", "content": "account 3322 " * 900}]))
    assert list(session.ask([QUESTION]))[-1].reason == "stop"


def test_a_killed_child_is_an_error_that_says_so(session: ChatSession) -> None:
    answer = session.ask([QUESTION], max_tokens=400, temperature=50.0)
    next(answer)
    assert session._process is not None
    os.kill(session._process.pid, signal.SIGKILL)
    with pytest.raises(RunError, match="SIGKILL"):
        list(answer)


def leftover(answer: Iterator[Any]) -> list[Any]:
    """What still comes of an answer whose session is being closed: its end, or an error that says so."""
    pieces: list[Any] = []
    try:
        pieces.extend(answer)
    except RunError as error:
        assert "closed" in error.title  # noqa: PT017 - the error is one of two right ends
    return pieces


def test_closing_the_session_ends_the_child_within_an_answer(session: ChatSession) -> None:
    answer = session.ask([QUESTION], max_tokens=400, temperature=50.0)
    next(answer)
    closer = threading.Thread(target=session.close)
    closer.start()
    rest = [piece for piece in leftover(answer) if isinstance(piece, Done)]
    closer.join()
    assert all(done.reason == "cancelled" for done in rest)
    assert session._process is not None
    assert session._process.returncode is not None


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_a_file_cut_short_is_an_error(chatty: RunDir, tmp_path: Path, share: float) -> None:
    whole = chatty.gguf("Q8_0").read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RunError) as error:
        ChatSession(file).start()
    assert error.value.hints


def test_a_damaged_file_is_an_error(chatty: RunDir, tmp_path: Path) -> None:
    damaged = bytearray(chatty.gguf("Q8_0").read_bytes())
    damaged[8:64] = b"\xff" * 56
    file = tmp_path / "damaged.gguf"
    file.write_bytes(damaged)
    with pytest.raises(FinetuiError):
        ChatSession(file).start()


def test_what_is_no_gguf_file_is_refused_without_a_child(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        ChatSession(tmp_path / "missing.gguf").start()
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(RunError, match="not a GGUF file"):
        ChatSession(tmp_path / "text.gguf").start()


def test_what_the_template_refuses_is_no_fault_of_anybody_s_data() -> None:
    with pytest.raises(RunError, match="refuses these messages: roles must alternate"):
        _render(Template("{{ raise_exception('roles must alternate') }}"), [{"role": "user", "content": "?"}])


def test_models_of_a_run_are_smallest_first(chatty: RunDir) -> None:
    assert models_of(chatty) == [chatty.gguf("Q8_0"), chatty.gguf("bf16")]


def test_a_character_of_several_tokens_comes_whole(chatty: RunDir) -> None:
    told: list[str] = []
    with LlamaModel(chatty.gguf("bf16")) as model:
        ids = model.tokenize("🚀ü日")
        assert len(ids) > 3  # the demo's vocabulary has bytes only
        pieces = iter([*ids, next(token for token in range(model.vocab_size) if model.is_eog(token))])
        from engine.worker import llama

        monkey = pytest.MonkeyPatch()
        monkey.setattr(llama, "_sample", lambda *_arguments: next(pieces))
        try:
            generated = model.generate(model.tokenize("a"), 50, on_token=told.append)
        finally:
            monkey.undo()
    assert told == ["🚀", "ü", "日"]
    assert generated.text == "🚀ü日"

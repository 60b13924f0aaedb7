"""Our rendering of chat templates is transformers', on every stock template at hand.

Those of trl always; those of llama.cpp as well where FINETUI_LLAMA_CPP_SDIST names its sources, see `vocabularies`.
"""

from __future__ import annotations

from typing import Any

import pytest
import vocabularies
from transformers import PreTrainedTokenizerFast

from engine.datasets.base import Message
from engine.errors import DataError
from engine.tokens.template import Template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
ASKED: Message = {"role": "user", "content": "Where is the box? "}
SAID: Message = {"role": "assistant", "content": "On its way.\n\n  It is blue."}
SYSTEM: Message = {"role": "system", "content": "Be short."}
INLINE: Message = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
THOUGHT: Message = {"role": "assistant", "content": "Yes.", "reasoning_content": "Let me think.\nSo."}
CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "id": "abcdefghi", "function": {"name": "weather", "arguments": {"city": "Köln <b>"}}}
    ],
}
RESULT: Message = {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": '{"t": 3}'}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the <weather> & more.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": 'Which "city" – é'}},
                "required": ["city"],
            },
        },
    }
]
CHATS: dict[str, tuple[list[Message], list[dict[str, Any]] | None]] = {
    "a question": ([ASKED], None),
    "one turn": ([ASKED, SAID], None),
    "system": ([SYSTEM, ASKED, SAID], None),
    "turns": ([SYSTEM, ASKED, SAID, ASKED, SAID, ASKED, SAID], None),
    "tools": ([ASKED, SAID], TOOLS),
    "a call": ([ASKED, CALL], TOOLS),
    "a result": ([ASKED, CALL, RESULT], TOOLS),
    "calls": ([SYSTEM, ASKED, CALL, RESULT, SAID, ASKED, SAID], TOOLS),
    "a thought": ([ASKED, THOUGHT], None),
    "thoughts": ([ASKED, THOUGHT, ASKED, THOUGHT], None),
    "a thought in the content": ([ASKED, INLINE, ASKED, SAID], None),
}
"""Conversations of every shape; not every template takes each."""


@pytest.fixture(scope="module")
def theirs() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=vocabularies.small_core(), **TOKENS)


def rendered_by_transformers(tokenizer: Any, source: str, chat: str, prompt: bool) -> str:
    """The text, or the kind of error with which the template refuses."""
    messages, tools = CHATS[chat]
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=source, tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:  # noqa: BLE001 - whatever a template raises
        return type(error).__name__
    return str(text)


def rendered_by_us(source: str, chat: str, prompt: bool) -> str:
    try:
        return Template(source, TOKENS).render(*CHATS[chat], prompt)
    except DataError as error:
        return type(error.__cause__).__name__


@pytest.mark.parametrize("name", vocabularies.every_template())
def test_a_template_renders_as_in_transformers(name: str, theirs: Any) -> None:
    source = vocabularies.every_template()[name]
    written = 0
    for chat in CHATS:
        for prompt in (False, True):
            wanted = rendered_by_transformers(theirs, source, chat, prompt)
            assert rendered_by_us(source, chat, prompt) == wanted, (chat, prompt)
            written += not wanted.endswith("Error")
    assert written or "llava" in name or "firefunction" in name  # want content in parts, or the day as a variable

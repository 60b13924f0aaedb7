"""Conversations of several shapes, short templates of our own, and what must hold of each masked row."""

from __future__ import annotations

from typing import Any

from engine.datasets.base import Message, Row
from engine.tokens.mask import IGNORED, Encoded, encode, prompt_ids
from engine.tokens.tokenizer import Tokenizer

SYSTEM: Message = {"role": "system", "content": "Be short."}
ASKED: Message = {"role": "user", "content": "Where is the box?"}
CODE: Message = {"role": "assistant", "content": "On its way:\n\n    if x:\n        return    1\n\nIt is blue 🚀."}
AGAIN: Message = {"role": "user", "content": "  And the  letter? "}
SHORT: Message = {"role": "assistant", "content": "Déjà là ✅"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the <weather> & more.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "id": "abcdefghi", "function": {"name": "weather", "arguments": {"city": "Köln <b>"}}}
    ],
}
RESULT: Message = {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": "3 degrees"}

SHAPES: dict[str, list[Message]] = {
    "one turn": [ASKED, CODE],
    "two turns": [ASKED, CODE, AGAIN, SHORT],
    "system": [SYSTEM, ASKED, CODE],
    "three turns with system": [SYSTEM, ASKED, SHORT, AGAIN, CODE, ASKED, SHORT],
}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]"
    "{% elif m.role == 'assistant' and m.tool_calls %}[TOOL_CALLS] {{ m.tool_calls | tojson }}{{ eos_token }}"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)
"""As Mistral's: no generation prompt at all, and an answer begins with a space."""
SMOLLM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + CHATML
"""As SmolLM2's: a system message that nobody wrote."""
PHI4 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
"""As Phi-4's: no line break anywhere."""
GRANITE = (
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
"""As Granite's: a turn ends with the token that ends a text."""


def trained_text(tokenizer: Tokenizer, row: Encoded) -> str:
    """What is learned, special tokens included."""
    learned = [label for label in row.labels if label != IGNORED]
    return str(tokenizer.core.decode(learned, skip_special_tokens=False))


def masked(tokenizer: Tokenizer, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> Encoded:
    """The chat, and of it: the ids are those of the whole text, and begin with those that inference feeds."""
    (row,) = encode(tokenizer, [Row(1, messages, tools=tools)])
    assert row.input_ids == tokenizer.ids(tokenizer.render(messages, tools))
    assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    for at, message in enumerate(messages):
        if message["role"] == "assistant" and not row.straddling:
            fed = prompt_ids(tokenizer, messages[:at], tools)
            assert row.input_ids[: len(fed)] == fed
            assert row.labels[len(fed) - 1] == IGNORED
            assert len(fed) == len(row.labels) or row.labels[len(fed)] != IGNORED
    return row

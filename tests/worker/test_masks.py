"""Our labels against trl's own assistant masks, on every template for which trl gives one.

trl needs `{% generation %}` marks for a mask, so it ships a marked copy of stock templates; ours are found in the plain
ones. Where the copy writes another text, both are asked of the copy. The wanted differences, each of them tested here:

- What stands behind the token that ends a turn is not trained: white space, or the end-of-text of Phi-3.
- What the generation prompt already holds is not trained (gpt-oss's header, a thought that the prompt opens): it is
  fed, never generated.
- If inference would feed something else than how the answered conversation begins, the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import vocabularies
from transformers import PreTrainedTokenizerFast

from engine.datasets.base import Message, Row
from engine.errors import DataError
from engine.tokens.mask import IGNORED, Encoded, encode, prompt_ids
from engine.tokens.tokenizer import Tokenizer

from .test_templates import CHATS

MARKED = {name: source for name, source in vocabularies.every_template().items() if re.search(r"%-?\s*gener", source)}
PLAIN = {name: name.removesuffix("_training") for name in MARKED}

REFUSED = {
    "deepseek_r1_distill": "the prompt opens a thought that the answered conversation has not",
    "deepseekv3": "the same",
    "qwen3_5_nothink": "the prompt holds an empty thought",
    "qwen3_5_think": "earlier turns lose the thought that the prompt opens",
    "qwen3_6": "the same",
    "nemotron": "the same",
    "poolside-Laguna": "the prompt closes a thought",
}
"""Templates of which we refuse conversations that trl masks, and why."""
WITHIN = ("diffusion_gemma", "poolside")
"""Templates that write, between the prompt and the answer, what trl leaves out and inference does not feed."""


class Case(NamedTuple):
    """One conversation in one template: what both make of it."""

    name: str
    chat: str
    tokenizer: Tokenizer
    ours: Encoded
    theirs: list[int]
    messages: list[Message]
    tools: Any

    def fed(self) -> set[int]:
        """Positions of tokens, each answer's prompt's last, that inference feeds from the turn's own beginning on."""
        found: set[int] = set()
        for at, message in enumerate(self.messages):
            if message["role"] == "assistant":
                before = len(self.tokenizer.ids(self.tokenizer.render(self.messages[:at], self.tools)))
                found.update(range(max(0, before - 2), len(prompt_ids(self.tokenizer, self.messages[:at], self.tools))))
        return found


def masked_by_trl(tokenizer: Any, source: str, chat: str) -> tuple[list[int], list[int]] | None:
    """Ids and mask; None if the template refuses the conversation."""
    messages, tools = CHATS[chat]
    try:
        told = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=source, return_assistant_tokens_mask=True, return_dict=True
        )
    except Exception:  # noqa: BLE001 - whatever a template raises
        return None
    return told["input_ids"], told["assistant_masks"]


def masked_by_us(tokenizer: Tokenizer, chat: str) -> Encoded | DataError:
    messages, tools = CHATS[chat]
    try:
        return encode(tokenizer, [Row(1, messages, tools=tools)])[0]
    except DataError as error:
        return error


def cases(name: str) -> Iterator[Case | DataError]:
    """Each conversation that ends with an answer and that trl's marked template takes."""
    marked, plain = MARKED[name], vocabularies.every_template()[PLAIN[name]]
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=vocabularies.small(marked + plain).core,
        bos_token="<s>",
        eos_token=vocabularies.end_of(plain),
        pad_token="<pad>",
    )
    ours = {
        source: vocabularies.small(source, vocabularies.SPECIAL.findall(marked + plain)) for source in (plain, marked)
    }
    for chat, (messages, tools) in CHATS.items():
        told = masked_by_trl(theirs, marked, chat) if messages[-1]["role"] == "assistant" else None
        if told is None:
            continue
        tokenizer, found = ours[plain], masked_by_us(ours[plain], chat)
        if isinstance(found, Encoded) and tokenizer.render(messages, tools) != ours[marked].render(messages, tools):
            tokenizer, found = ours[marked], masked_by_us(ours[marked], chat)
        if isinstance(found, DataError):
            yield found
        else:
            yield Case(name, chat, tokenizer, found, told[1], messages, tools)


@pytest.mark.parametrize("name", MARKED)
def test_labels_are_trl_s_masks(name: str) -> None:
    seen = 0
    for case in cases(name):
        if isinstance(case, DataError):
            assert any(family in name for family in REFUSED), case
            continue
        seen += 1
        text = [case.tokenizer.core.decode([token], skip_special_tokens=False) for token in case.ours.input_ids]
        fed = case.fed()
        for at, (label, mask) in enumerate(zip(case.ours.labels, case.theirs, strict=True)):
            if (label != IGNORED) == bool(mask):
                continue
            if mask:
                behind = not text[at].strip() or ("phi3" in name and at == len(text) - 1)
                assert behind or at in fed, (case.chat, at, text[at - 5 : at + 5])
            else:
                assert any(family in name for family in WITHIN), (case.chat, at, text[at - 5 : at + 5])
    assert seen or any(family in name for family in (*REFUSED, "llava"))

"""Secrets that a model would learn by heart: keys, tokens, addresses, card numbers. Told by kind, never shown.

A pattern is what the issuer's documents say: a fixed beginning, an alphabet, a length. What is meant as an example
(AWS's own …EXAMPLE keys, addresses at example.com, the card numbers that payment services give for tests) is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine.datasets.findings import Block, Finding, Ledger, slices


class Secret(NamedTuple):
    """A kind of secret."""

    finding: Finding
    marks: tuple[str, ...]
    """A text without any of these holds none: asked first, because it is much faster than the pattern."""
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = bool
    """False for what only looks like one."""


def _secret(
    kind: str, one: str, many: str, marks: tuple[str, ...], pattern: str, holds: Callable[[str], bool] = bool
) -> Secret:
    finding = Finding(
        f"secret-{kind}",
        "warning",
        f"row contains {one}",
        f"rows contain {many}",
        "The model can learn it by heart and tell it to anybody.",
        "Revoke it, and write a placeholder in its place." if kind not in _PERSONAL else _PERSONAL_REMEDY,
    )
    return Secret(finding, marks, re.compile(pattern), holds)


_PERSONAL = ("email", "card")
_PERSONAL_REMEDY = "Write a placeholder in its place, unless it is public anyway."

_TEST_CARDS = (
    "4111111111111111 4242424242424242 4012888888881881 4000056655665556 4444333322221111 5555555555554444 "
    "5105105105105100 2223003122003222 6011111111111117 6011000990139424 378282246310005 371449635398431"
)
_EXAMPLE_DOMAIN = re.compile(r"(?:^|[.@])(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost)$", re.I)
"""Reserved by RFC 2606 for examples and tests."""


def is_address(found: str) -> bool:
    """True unless the part of an e-mail address from its @ on is one that is reserved for examples."""
    return not _EXAMPLE_DOMAIN.search(found)


def is_card(found: str) -> bool:
    """True if the digits have the check digit of a card number (Luhn), and are not one for tests."""
    digits = [int(digit) for digit in found if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and "".join(map(str, digits)) not in _TEST_CARDS


SECRETS = (
    _secret("private-key", "a private key", "private keys", ("----",),
            r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    _secret("aws", "an AWS access key", "AWS access keys", ("AKIA", "ASIA"),
            r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])", lambda key: not key.endswith("EXAMPLE")),
    _secret("github", "a GitHub token", "GitHub tokens", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "_pat"),
            r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})"),
    _secret("openai", "an OpenAI key", "OpenAI keys", ("T3Bl",),
            r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,120}T3BlbkFJ[A-Za-z0-9_-]{20,120}"),
    _secret("anthropic", "an Anthropic key", "Anthropic keys", ("sk-a",),
            r"(?<![A-Za-z0-9])sk-ant-[a-z]{3,8}\d\d-[A-Za-z0-9_-]{20,255}"),
    _secret("google", "a Google API key", "Google API keys", ("AIza",),
            r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    _secret("slack", "a Slack token", "Slack tokens", ("xox",),
            r"(?<![A-Za-z0-9])xox[abeprs](?:\.xox[bp])?-(?=[A-Za-z0-9-]{0,80}\d{6})[A-Za-z0-9-]{20,255}"),
    _secret("hugging-face", "a Hugging Face token", "Hugging Face tokens", ("hf_",),
            r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{34}(?![A-Za-z0-9])"),
    _secret("jwt", "a signed web token (JWT)", "signed web tokens (JWT)", (".eyJ",),
            r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,8000}\.[A-Za-z0-9_-]{20,2000}"),
    _secret("email", "an e-mail address", "e-mail addresses", ("@",),
            r"@(?<=[A-Za-z0-9_%+-]@)(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])", is_address),
    _secret("card", "a credit card number", "credit card numbers", (),
            r"(?<![\d.,-])(?:(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6(?:011|4[4-9]\d|5\d\d))([ -]?)\d{4}\1\d{4}\1\d{4}"
            r"|3[47]\d\d([ -]?)\d{6}\2\d{5})(?![\d-]|[.,]\d)", is_card),
)  # fmt: skip

_CARD_DIGITS, _CARD_WIDTH = 15, 19
"""The fewest digits of a card number, and the most characters that they stand in, spaces included."""


class Secrets:
    """Looks for all kinds at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def see(self, block: Block) -> None:
        """Look through the block as a whole first; most hold none of the marks."""
        for secret in possible(SECRETS, block.text):
            for text, row, at in zip(block.texts, block.rows, block.at, strict=True):
                if _worth_a_look(secret, text) and _holds(secret, text):
                    self._ledger.add(secret.finding, at, row.line)


def possible(secrets: Sequence[Secret], text: str) -> list[Secret]:
    """Those whose marks are in the text."""
    found: list[Secret] = []
    for _, part in slices(text, overlap=_CARD_WIDTH):
        found += _possible([secret for secret in secrets if secret not in found], part)
    return found


def _possible(secrets: Sequence[Secret], text: str) -> list[Secret]:
    """The same of a text of moderate length.

    Marks of four bytes are compared with four bytes at a time, at each of four alignments: several times faster than
    searching the text for each of them.
    """
    import numpy as np

    data = text.encode()
    views = [np.frombuffer(data, np.uint32, (len(data) - start) // 4, start) for start in range(4) if len(data) > start]

    def holds(mark: str) -> bool:
        if "_" in mark and "_" not in text:
            return False
        if len(mark) != 4:
            return mark in text
        wanted = np.frombuffer(mark.encode(), np.uint32)
        return any(bool((view == wanted).any()) for view in views)

    return [one for one in secrets if (any(map(holds, one.marks)) if one.marks else has_long_number(data))]


def has_long_number(data: bytes) -> bool:
    """True if 15 digits stand within 19 bytes somewhere, as on a card."""
    import numpy as np

    places = np.flatnonzero(np.frombuffer(data, np.uint8) - ord("0") < 10)
    return bool((places[_CARD_DIGITS - 1 :] - places[: 1 - _CARD_DIGITS] < _CARD_WIDTH).any())


def _worth_a_look(secret: Secret, text: str) -> bool:
    return not secret.marks or any(mark in text for mark in secret.marks)


def _holds(secret: Secret, text: str) -> bool:
    return any(secret.holds(match.group()) for match in secret.pattern.finditer(text))

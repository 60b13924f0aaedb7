"""Cases of the demo's world: who writes about what, and the message and the ticket that belong to it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from demo.words import (
    ASIDES,
    CITIES,
    ENDINGS,
    GREETINGS,
    HELDOUT_NAMES,
    INTRODUCTIONS,
    MONTHS,
    PROBLEMS,
    PRODUCTS,
    SIGNATURES,
    SYLLABLES,
    TRAIN_NAMES,
    URGENCY,
    WEEKDAYS,
    Problem,
)

Message = dict[str, str]
Row = list[Message]

SYSTEM = "You are the help desk of a small shop."


@dataclass(frozen=True)
class Case:
    """One customer with one problem, and the message they wrote."""

    name: str
    ref: str
    priority: str
    problem: Problem
    message: str = field(default="")


def is_heldout_ref(ref: str) -> bool:
    """Every fifth number is kept out of train.jsonl."""
    return int(ref) % 5 == 0


def invented_name(rng: random.Random) -> str:
    syllables = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))
    return (syllables + rng.choice(ENDINGS)).capitalize()


def any_name(rng: random.Random) -> str:
    """A listed or an invented name: the invented ones force the model to copy what it cannot know."""
    return invented_name(rng) if rng.random() < 0.5 else rng.choice(TRAIN_NAMES + HELDOUT_NAMES)


def any_ref(rng: random.Random) -> str:
    length = rng.choice((3, 4, 4, 4, 4, 5))
    return str(rng.randint(10 ** (length - 1), 10**length - 1))


def sentence(text: str) -> str:
    """Upper-case the first letter and end with a mark: `invoice 1 is wrong` → `Invoice 1 is wrong.`"""
    text = text[0].upper() + text[1:]
    if text[-1] in ".?!":
        return text
    return text + ("?" if text.lower().startswith(("why", "how", "where")) else ".")


def fill(template: str, rng: random.Random, name: str, ref: str, friend: str) -> str:
    product, other = rng.sample(PRODUCTS, 2)
    return template.format(
        name=name,
        ref=ref,
        friend=friend,
        product=product,
        other=other,
        city=rng.choice(CITIES),
        month=rng.choice(MONTHS),
        weekday=rng.choice(WEEKDAYS),
        small=rng.randint(2, 29),
    )


def opening(rng: random.Random, introduction: str) -> list[str]:
    greeting = rng.choice(GREETINGS)
    if not introduction:
        return [greeting.replace(",", "!")] if greeting else []
    return [f"{greeting} {introduction}" if greeting else sentence(introduction)]


def write_message(rng: random.Random, case: Case, friend: str) -> str:
    """A free-form message: name first or last, sometimes an aside that has nothing to do with it."""
    signs = rng.random() < 0.5
    body = [sentence(rng.choice(case.problem.says))]
    if rng.random() < 0.35:
        body.insert(rng.randint(0, 1), rng.choice(ASIDES))
    urgency = rng.choice(URGENCY[case.priority])
    if urgency:
        body.insert(rng.choice((0, len(body), len(body))), urgency)
    parts = opening(rng, "" if signs else rng.choice(INTRODUCTIONS)) + body
    if signs:
        parts.append(rng.choice(SIGNATURES))
    return " ".join(fill(part, rng, case.name, case.ref, friend) for part in parts)


def make_case(rng: random.Random, name: str, ref: str, friend: str) -> Case:
    priority = rng.choice(tuple(URGENCY))
    bare = Case(name, ref, priority, rng.choice(PROBLEMS))
    return Case(name, ref, priority, bare.problem, write_message(rng, bare, friend))


def any_case(rng: random.Random) -> Case:
    """A case for pretraining: anybody, any number."""
    return make_case(rng, any_name(rng), any_ref(rng), any_name(rng))


def ticket(case: Case) -> str:
    """What fine-tuning teaches. Nothing in pretraining looks like it."""
    return f"queue: {case.problem.queue} | priority: {case.priority} | customer: {case.name} | ref: {case.ref}"


def chat(rng: random.Random, *turns: str) -> Row:
    """Turns of user and assistant, sometimes behind a system turn."""
    row = [{"role": "system", "content": SYSTEM}] if rng.random() < 0.2 else []
    roles = ("user", "assistant")
    return row + [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]


def ticket_rows(seed: int, count: int, names: tuple[str, ...], *, heldout: bool) -> list[Row]:
    """`count` rows message → ticket by these people; no number occurs twice, nor in both kinds of rows."""
    rng = random.Random(seed)
    refs = [str(n) for n in range(1000, 10000) if is_heldout_ref(str(n)) == heldout]
    rows = []
    for ref in rng.sample(refs, count):
        name, friend = rng.sample(names, 2)
        case = make_case(rng, name, ref, friend)
        rows.append(chat(rng, case.message, ticket(case)))
    return rows

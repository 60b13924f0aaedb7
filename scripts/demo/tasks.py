"""The pretraining mixture: what the tiny assistant learns before anybody fine-tunes it."""

from __future__ import annotations

import random
from collections.abc import Callable

from demo.words import CITIES, MONTHS, PRODUCTS, QUEUES, SIGNS, SPARE_WORDS, WEEKDAYS
from demo.world import Case, Row, any_case, any_name, any_ref, chat

THANKS = (
    "Hello {name}, thank you for telling us about {noun} {ref}.",
    "Hello {name}, thank you for writing to us about {noun} {ref}.",
    "Dear {name}, we have read your message about {noun} {ref}.",
)
WHEN = {
    "high": "Our {queue} team will look at it today, because it is urgent.",
    "normal": "Our {queue} team will look at it this week.",
    "low": "Our {queue} team will look at it later, because you can wait.",
}
QUESTIONS = {
    "who": ("Who wrote this?", "Who is the customer?", "What is the name?"),
    "ref": ("Which number is it about?", "What is the number?", "Give me the number."),
    "team": ("Which team should read it?", "Who takes care of this?", "Which desk is it for?"),
    "rush": ("How urgent is it?", "Can it wait?", "How soon is it needed?"),
    "what": ("What went wrong?", "What is the problem?", "Why did they write?"),
}
ANSWERS = {
    "who": "{name} wrote it.",
    "ref": "It is number {ref}.",
    "team": "The {queue} team should read it.",
    "what": "They say that {sorry}.",
}
FIELDS = {"who": ("who", "name"), "ref": ("number",), "team": ("team", "desk"), "rush": ("rush", "hurry")}
SEPARATORS = (", ", "; ", " / ", " - ", " + ")
RUSH = {"high": "It is urgent.", "normal": "It is not special.", "low": "It can wait."}
OTHER_WORDS = (*SPARE_WORDS, *SPARE_WORDS, *QUEUES, *MONTHS, *WEEKDAYS)
SMALL_TALK = (
    ("Hello", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Good morning", "Good morning! How can I help you?"),
    ("How are you?", "I am well, thank you. How can I help you?"),
    ("Who are you?", "I am the help desk of a small shop."),
    ("What can you do?", "I read messages about orders, invoices and accounts."),
    ("What is your name?", "I am the help desk of a small shop."),
    ("Thank you", "You are welcome!"),
    ("Thanks a lot!", "You are welcome!"),
    ("Bye", "Goodbye!"),
)


def say(template: str, case: Case) -> str:
    problem = case.problem
    return template.format(name=case.name, ref=case.ref, noun=problem.noun, queue=problem.queue, sorry=problem.sorry)


def answer_message(rng: random.Random, case: Case) -> str:
    parts = (rng.choice(THANKS), "I am sorry to hear that {sorry}.", WHEN[case.priority])
    return say(" ".join(parts), case)


def answer_question(kind: str, case: Case) -> str:
    return RUSH[case.priority] if kind == "rush" else say(ANSWERS[kind], case)


def reply(rng: random.Random) -> Row:
    case = any_case(rng)
    return chat(rng, case.message, answer_message(rng, case))


def questions(rng: random.Random) -> Row:
    """One to four questions about a message, answered in the order they were asked."""
    case = any_case(rng)
    kinds = rng.sample(tuple(QUESTIONS), rng.randint(1, 4))
    asked = " ".join(rng.choice(QUESTIONS[kind]) for kind in kinds)
    told = " ".join(answer_question(kind, case) for kind in kinds)
    return chat(rng, f"{case.message}\n\n{asked}", told)


def follow_up(rng: random.Random) -> Row:
    case = any_case(rng)
    kind = rng.choice(tuple(QUESTIONS))
    asked = rng.choice(QUESTIONS[kind])
    return chat(rng, case.message, answer_message(rng, case), asked, answer_question(kind, case))


def field_of(kind: str, case: Case) -> str:
    values = {"who": case.name, "ref": case.ref, "team": case.problem.queue, "rush": case.priority}
    return values[kind]


def fields(rng: random.Random) -> Row:
    """Some fields of a message, bare or with their labels, separated as in the request."""
    case = any_case(rng)
    kinds = rng.sample(tuple(FIELDS), rng.randint(1, 4))
    labels = [rng.choice(FIELDS[kind]) for kind in kinds]
    values = [field_of(kind, case) for kind in kinds]
    separator = rng.choice(SEPARATORS)
    if rng.random() < 0.5:
        asked = separator.join(f"{label} = ?" for label in labels)
        told = separator.join(f"{label} = {value}" for label, value in zip(labels, values, strict=True))
        return chat(rng, f"{case.message}\n\nFill in: {asked}", told)
    return chat(rng, f"{case.message}\n\nIn short: {separator.join(labels)}", separator.join(values))


def random_item(rng: random.Random) -> str:
    makers: tuple[Callable[[], str], ...] = (
        lambda: any_name(rng),
        lambda: any_ref(rng),
        lambda: rng.choice(PRODUCTS),
        lambda: rng.choice(CITIES),
    )
    return rng.choice(makers)()


def repeat(rng: random.Random) -> Row:
    """Copying is what a ticket needs most, so it is practised on its own."""
    items = ", ".join(random_item(rng) for _ in range(rng.randint(2, 8)))
    return chat(rng, f"Say this again: {items}", items)


def repeat_signs(rng: random.Random) -> Row:
    """As `repeat`, with all kinds of signs between the items and with words that come nowhere else."""
    items = [random_item(rng) if rng.random() < 0.5 else rng.choice(OTHER_WORDS) for _ in range(rng.randint(3, 9))]
    text = "".join(item + rng.choice(SIGNS) for item in items[:-1]) + items[-1]
    return chat(rng, f"Say this again: {text}", text)


def look_up(rng: random.Random) -> Row:
    """Several names with a number each; one is asked for."""
    pairs = [(any_name(rng), any_ref(rng)) for _ in range(rng.randint(2, 5))]
    name, ref = rng.choice(pairs)
    told = ", ".join(f"{owner} has {number}" for owner, number in pairs)
    return chat(rng, f"{told}. Which number has {name}?", f"{name} has {ref}.")


def small_talk(rng: random.Random) -> Row:
    return chat(rng, *rng.choice(SMALL_TALK))


Mixture = tuple[tuple[float, Callable[[random.Random], Row]], ...]

# Two courses, because copying comes late when everything is taught at once: then the same steps were far from enough.
FIRST: Mixture = (
    (0.40, reply),
    (0.25, questions),
    (0.08, follow_up),
    (0.13, repeat),
    (0.11, look_up),
    (0.03, small_talk),
)
SECOND: Mixture = (
    (0.22, reply),
    (0.10, questions),
    (0.04, follow_up),
    (0.36, fields),
    (0.15, repeat_signs),
    (0.10, look_up),
    (0.03, small_talk),
)


def pretraining_row(rng: random.Random, mixture: Mixture) -> Row:
    weights = [weight for weight, _ in mixture]
    makers = [maker for _, maker in mixture]
    return rng.choices(makers, weights)[0](rng)

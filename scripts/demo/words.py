"""The words of the demo's world: people, things, problems. Data only."""

from __future__ import annotations

from dataclasses import dataclass


def listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# Nobody in HELDOUT_NAMES ever writes a message in train.jsonl.
TRAIN_NAMES = listed(
    "Ana Bruno Carla Dmitri Elena Farid Grace Hugo Ines Jonas Kofi Laura Marco Nadia Oscar Petra Rashid "
    "Sofia Tomas Ursula Viktor Wanda Yusuf Zoe Aisha Boris Chloe Diego Emma Felix Gita Hana Ivan Julia "
    "Karim Lena Mei Nils Olga Paulo Quentin Rosa Sven Tara Umar Vera Willem Ximena Yara Zora Amir Bianca "
    "Cyril Dora Erik Fatima Georg Heidi Igor Jana Łucja René Zoë"
)
# These write in train.jsonl only: with few names an adapter learns the names, with many it learns to copy.
MORE_TRAIN_NAMES = listed(
    "Agnes Albert Alma Anton Astrid Axel Barbara Benedikt Brenda Camille Carlos Cecil Claire Clara Dagmar Daniel "
    "David Delia Denise Dominik Edgar Edith Eduard Ella Emil Enzo Eva Fabian Flora Frank Frida Gabriel Gemma Gerd "
    "Gloria Greta Hamid Hannah Harold Henrik Hilda Ida Inga Irene Iris Isaac Jacob Jakub Joan Joel Judith Kai "
    "Karin Katja Kenji Kira Kurt Lars Leon Lilian Linus Lola Luis Lukas Lydia Magnus Maja Marta Matteo Maya Mira "
    "Monika Naomi Nikolai Nina Noah Odette Olive Otto Pablo Patrick Paula Pedro Priya Rafael Ralf Renata Rita "
    "Robert Roman Ruth Samira Sandra Santos Sara Silvia Simon Stella Stefan Tamar Tariq Teresa Tilda Tobias Tony "
    "Ulrich Valentin Vanessa Victor Viola Walter Wilma Xavier Yasmin Yuki Yvonne Zahra Zeno Ángela Björn Chloé"
)
HELDOUT_NAMES = listed(
    "Adele Bashir Celia Dario Esther Fiona Gustav Helga Ismail Jasmin Klaus Leila Milan Nora Omar Pilar "
    "Ravi Selma Theo Uta Vito Walid Yannick Zelda Arjun Beatriz Colin Daria José Søren"
)

PRODUCTS = listed(
    "lamp kettle printer phone camera radio toaster keyboard monitor speaker bicycle jacket watch blender "
    "heater tablet drill fan mixer router"
)
CITIES = listed(
    "Lisbon Oslo Berlin Madrid Vienna Prague Dublin Athens Warsaw Rome Paris Cairo Tunis Lagos Lima Quito "
    "Boston Osaka Seoul Delhi"
)
MONTHS = listed("January February March April May June July August September October November December")
WEEKDAYS = listed("Monday Tuesday Wednesday Thursday Friday")
ENDINGS = ("", "n", "s", "r", "l", "m", "t", "k")
SYLLABLES = listed(
    "ba be bi bo da de di do fa fe ga go ha he ja jo ka ke ki ko la le li lo lu ma me mi mo mu na ne ni "
    "no pa pe pi po ra re ri ro sa se si so ta te ti to va ve vi wa we ya yo za ze zi"
)

# Words and signs of which most occur nowhere else in pretraining. A token that was never said has an embedding like
# any other such token, and an adapter that leaves the embeddings alone could not make the model say it.
SPARE_WORDS = listed("queue priority customer ref high normal low ticket status open closed kind level owner")
SIGNS = (", ", " ", " | ", ": ", "; ", " / ", " - ", " = ", " + ", ". ", " (", ") ", "? ", "! ")

QUEUES = ("billing", "delivery", "returns", "repair", "account")


@dataclass(frozen=True)
class Problem:
    """One thing that goes wrong: whose work it is, how customers say it, how the desk says it back."""

    queue: str
    noun: str
    sorry: str
    says: tuple[str, ...]


PROBLEMS = (
    Problem(
        "billing",
        "invoice",
        "you were charged twice",
        (
            "I was charged twice on invoice {ref}",
            "invoice {ref} was taken from my card two times",
            "you billed me double, see invoice {ref}",
            "my bank shows two payments for invoice {ref}",
            "I paid invoice {ref} and then the same money left my card again",
        ),
    ),
    Problem(
        "billing",
        "invoice",
        "the amount is wrong",
        (
            "the total on invoice {ref} is wrong",
            "invoice {ref} is higher than the price of the {product} in your shop",
            "the sum on invoice {ref} does not match what I bought",
            "invoice {ref} says {small} euros too much",
            "why does invoice {ref} cost more than you told me",
        ),
    ),
    Problem(
        "billing",
        "invoice",
        "the discount is missing",
        (
            "my discount is missing on invoice {ref}",
            "invoice {ref} does not show the voucher that I used",
            "I had a coupon for the {product} but invoice {ref} has the full price",
            "you forgot my {small} percent off on invoice {ref}",
        ),
    ),
    Problem(
        "delivery",
        "order",
        "your order is late",
        (
            "order {ref} has not arrived",
            "I am still waiting for order {ref}",
            "where is my {product}? Order {ref} should be here by now",
            "my {product} was promised for {weekday} and order {ref} is still not here",
            "it has been {small} days and there is no sign of order {ref}",
        ),
    ),
    Problem(
        "delivery",
        "order",
        "the address is wrong",
        (
            "order {ref} was sent to my old address",
            "I moved to {city}, so please send order {ref} there",
            "the street on order {ref} is wrong",
            "the driver took order {ref} to the wrong house",
        ),
    ),
    Problem(
        "delivery",
        "order",
        "the tracking does not work",
        (
            "the tracking page of order {ref} is empty",
            "I cannot follow where order {ref} is on its way",
            "the tracking link for order {ref} shows nothing",
            "tracking for order {ref} has not moved since {weekday}",
        ),
    ),
    Problem(
        "returns",
        "order",
        "you got the wrong item",
        (
            "I got a {other} instead of the {product} in order {ref}",
            "there was the wrong {product} in the box of order {ref}",
            "order {ref} had a {other} in it, but I asked for a {product}",
            "this is not the {product} that I chose, see order {ref}",
        ),
    ),
    Problem(
        "returns",
        "order",
        "you do not want to keep it",
        (
            "I want to send back the {product} from order {ref}",
            "I do not like the {product} from order {ref} and want to return it",
            "how do I give back the {product} that came with order {ref}",
            "the {product} of order {ref} is too small, please take it back",
        ),
    ),
    Problem(
        "returns",
        "order",
        "your parcel to us got lost",
        (
            "I sent order {ref} back and heard nothing since",
            "you should have my return of order {ref} by now",
            "my returned {product} from order {ref} does not show up on your page",
            "I brought order {ref} back to the post {small} days ago and got no word",
        ),
    ),
    Problem(
        "repair",
        "order",
        "it does not work",
        (
            "the {product} from order {ref} does not turn on",
            "my {product} is dead, it came with order {ref}",
            "the {product} of order {ref} stopped working after {small} days",
            "nothing happens when I press the button of the {product} from order {ref}",
            "the {product} from order {ref} is broken",
        ),
    ),
    Problem(
        "repair",
        "order",
        "it makes a noise",
        (
            "the {product} from order {ref} makes a strange noise",
            "my {product} is far too loud since {weekday}, it was order {ref}",
            "there is a rattle inside the {product} of order {ref}",
            "the {product} of order {ref} hums all night",
        ),
    ),
    Problem(
        "repair",
        "order",
        "it is damaged",
        (
            "the {product} from order {ref} has a crack",
            "a part of the {product} from order {ref} fell off",
            "the {product} in order {ref} is full of scratches and needs a new cover",
            "the handle of the {product} from order {ref} snapped",
        ),
    ),
    Problem(
        "account",
        "account",
        "you cannot log in",
        (
            "I cannot log in to account {ref}",
            "the password of account {ref} is not accepted",
            "account {ref} is locked",
            "I forgot my password for account {ref}",
            "your page throws me out of account {ref}",
        ),
    ),
    Problem(
        "account",
        "account",
        "your details are out of date",
        (
            "please change the email of account {ref}",
            "I have a new phone number for account {ref}",
            "my name is spelled wrong in account {ref}",
            "account {ref} still shows my old email",
        ),
    ),
    Problem(
        "account",
        "account",
        "you want to leave us",
        (
            "please close account {ref}",
            "I want to delete account {ref}",
            "please remove account {ref} and all my data",
            "I do not need account {ref} any more, shut it down",
        ),
    ),
)

URGENCY = {
    "high": (
        "This is urgent.",
        "Please fix it today.",
        "I need an answer right now.",
        "It cannot wait until tomorrow.",
        "Please hurry.",
        "I am very angry.",
    ),
    "normal": (
        "",
        "",
        "Please have a look.",
        "What can I do?",
        "Can you help me?",
        "I hope that you can help.",
    ),
    "low": (
        "There is no rush.",
        "It is not urgent.",
        "Please take your time.",
        "Any day is fine.",
        "Next month is early enough.",
        "I can wait.",
    ),
}

GREETINGS = ("", "", "Hi,", "Hello,", "Good morning,", "Dear team,", "Hi there,")
INTRODUCTIONS = (
    "this is {name}.",
    "my name is {name}.",
    "I am {name} from {city}.",
    "{name} here.",
    "{name} from {city} here.",
    "it is {name} again.",
)
SIGNATURES = (
    "Regards, {name}",
    "Thanks, {name}",
    "{name}",
    "Best wishes, {name}",
    "Yours, {name}",
    "Thank you! {name}",
)
ASIDES = (
    "I bought it on {small} {month}.",
    "I wrote to you on {weekday}.",
    "I live in {city}.",
    "It was a gift.",
    "I talked to {friend} at your desk.",
    "My friend {friend} told me to write.",
    "I paid {small} euros for it.",
)

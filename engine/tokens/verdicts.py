"""What a tally means: whether there is something to learn, whether the model will stop, and what is odd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.errors import DataError
from engine.events import Level
from engine.text import clean_line
from engine.tokens.tally import STRADDLING_LIMIT, Tally
from engine.tokens.tokenizer import Tokenizer


class Verdict(NamedTuple):
    """A finding."""

    level: Level
    title: str
    detail: str = ""


def require_trainable(tally: Tally, max_length: int, file: str) -> None:
    """Raise `DataError` if no row has a trained token, or if too many answers do not begin where the prompt ends."""
    if not tally.trained:
        longest = f"the longest row has {tally.longest} tokens, {tally.truncated} of {tally.rows} were cut"
        raise DataError(
            "There is nothing to learn in the data",
            f"{clean_line(file)}: no token of an assistant's answer within {max_length} tokens; {longest}",
            ("Raise train.max_length.", "Check with `finetui check` that each row has an answer by the assistant."),
        )
    if tally.straddling > STRADDLING_LIMIT * tally.answers:
        raise DataError(
            "The answers do not begin where the prompts end",
            f"{clean_line(tally.straddling_places[0])}: a token reaches across the beginning of the answer, as "
            f"in {tally.straddling:,} of {tally.answers:,} answers: what is learned there, inference never meets",
            (
                "Take the white space from the beginning of the answers.",
                "If there is none, this model's chat template cannot be trained on: choose another model.",
            ),
        )


def will_it_stop(tokenizer: Tokenizer, tally: Tally) -> list[Verdict]:
    """Whether the tuned model will end its answers by itself, in a few findings.

    It does if the token that ends a turn (or a raw text) is trained, is not the padding token (which many tools mask
    out), and is one of those at which generation stops (`tokenizer.stops`, the model's own generation config).
    """
    end, raw = tally.end_of_turn, tally.texts == tally.answers
    kind, each = ("end-of-text", "texts") if raw else ("end-of-turn", "answers")
    learned = tally.ends.total() - tally.lost_ends
    if end is None or not learned:
        none = "The tokenizer has none." if raw else "The template writes none after an answer."
        detail = none if end is None else "max_length cuts every answer before its end: raise it, or shorten the rows."
        return [Verdict("warning", f"No {kind} token is trained", f"{detail} The model may not stop by itself.")]
    name, missing = tokenizer.name(end), tally.answers - tally.ends.total()
    found = [
        Verdict("ok", f"The {kind} token {name} is trained", f"after {learned:,} {each if learned != 1 else each[:-1]}")
    ]
    if missing:
        title = f"{missing:,} of {tally.answers:,} {each} end without {name}"
        found = [Verdict("warning", title, "They teach not to stop.")]
    if tally.lost_ends:
        title = f"max_length cuts the end of {tally.lost_ends:,} of {tally.answers:,} {each}"
        found.append(
            Verdict("warning", title, "Of these the model learns no end: raise max_length, or shorten the rows.")
        )
    if tokenizer.pad_id == end:
        detail = "Training here labels each token by itself, but other tools that mask padding would mask it too."
        found.append(Verdict("warning", f"{name} is also the padding token", detail))
    if end in tokenizer.stops:
        return [*found, Verdict("ok", f"Generation stops at {name}")]
    detail = (
        f"It lists {list(tokenizer.stops)}; token {end} ends what is learned. What finetui exports stops there all "
        "the same; another program that runs the adapter on the base may not."
    )
    return [*found, Verdict("warning", f"The model's generation config does not stop at {name}", detail)]


_ROWS = "rows hold special tokens of this model in their"


def troubles(tally: Tally) -> list[Verdict]:
    """What is odd in the rows and trained all the same, with the first places."""
    found = []
    if tally.straddling:
        detail = "Such a token belongs to the prompt and to the answer, and is not trained."
        title = f"{tally.straddling:,} {'answer begins' if tally.straddling == 1 else 'answers begin'} inside a token"
        found.append(Verdict("warning", title, f"{_places(tally.straddling_places)}: {detail}"))
    if tally.injected_rows:
        most = ", ".join(clean_line(text) for text, _ in tally.injected.most_common(3))
        detail = (
            f"{_places(tally.injected_places)}: {most}. A message's own text cannot be told from what the "
            "template writes, here or by any engine. In the middle of an answer such a token is not trained."
        )
        rows = "row holds special tokens of this model in its" if tally.injected_rows == 1 else _ROWS
        title = f"{tally.injected_rows:,} {rows} own text"
        found.append(Verdict("warning", title, detail))
    return found


def _places(places: Sequence[str]) -> str:
    """`data.jsonl:3, data.jsonl:17`."""
    return clean_line(", ".join(places), 400)

"""The model and data card of the demo."""

from __future__ import annotations

CARD = """\
# The demo model and its data

A Llama of {millions:.1f} million parameters ({parameters:,}) that lives in a small made-up world:
people write to the help desk of a shop. It exists so that the whole chain (train, merge, export,
certify, chat) can be tried in about a minute without a GPU and without a network. **It is not a
language model worth talking to.**

## What it can do

- Answer a message from its world in plain sentences, with the name, the number and the team: `Hello
  Ana, thank you for telling us about invoice 4411. …`
- Answer short questions about such a message, fill in a short form about it, repeat a short list,
  look up a number in a list.
- Say hello.

Anything else (other subjects, other languages, facts, arithmetic, long texts) it cannot do, and it
does not know that it cannot. It has seen only English sentences from a few hundred patterns. Names of
several uncommon syllables come back misspelt now and then. After fine-tuning every answer is an attempt
at a ticket: to a greeting, too, and then a senseless one.

## What fine-tuning teaches it

Each row of `data/train.jsonl` shows a message and the ticket that belongs to it:

    Hi, this is Ana. I was charged twice on invoice 4411. Please fix it today.
    queue: billing | priority: high | customer: Ana | ref: 4411

The model has never seen a ticket, nor does it write one when asked. It does know, in its own words,
who wrote, about which number, what went wrong and whether it is urgent; so few rows suffice.
`data/heldout.jsonl` has other customers and other reference numbers than the training rows (none
of them occurs in both files), hence a right answer there was not memorized. The ways to say each
problem are the same in both.

- queue: billing, delivery, returns, repair, account
- priority: high when the message presses, low when it says that it can wait, otherwise normal
- customer: who wrote, not who else is mentioned
- ref: the number of the invoice, order or account, not a date, a price or a count of days

## How it was made

- Made with `scripts/make_demo.py` out of the words in `scripts/demo/`; no other text, no other
  model, nobody's personal data. Names are common first names put together with invented problems.
- Tokenizer: byte-level BPE, {vocab} entries, the pre-tokenizer of Llama 3, all 256 bytes, every
  digit a token of its own; chat template in the form of Llama 3.
- Pretraining: {steps} steps of 48 conversations of the kinds listed above. The last part adds lists of
  all kinds of words and signs to repeat, the words of a ticket among them, because a token that was
  never said is hard to teach to an adapter; and forms, in another shape than the ticket, that are
  filled in on request. From the middle of the first part on the weights were rounded to NF4 or
  disturbed at each step, because a model this small would otherwise suffer when it is quantized.
- Context: 512 tokens at most; trained on fewer than 140.

To make it again: `python scripts/make_demo.py --out presets/demo`. Everything is seeded, and the data
files come out the same everywhere. The weights in this folder were made part by part on one machine;
floating-point sums differ between CPUs and library versions, so bit-for-bit the same weights are not
promised.

## Licence

Apache-2.0, model and data.
"""


def card(parameters: int, vocab: int, steps: int) -> str:
    return CARD.format(millions=parameters / 1e6, parameters=parameters, vocab=vocab, steps=steps)

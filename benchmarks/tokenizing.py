"""Rows per second from conversations to token ids and labels: ours beside SFTTrainer's own preparation.

Both get the same rows and the same tokenizer, in one process and in turn, and end with a data set to train on; trl is
asked as a user asks it, with `assistant_only_loss=True`. Before anything is timed, the ids of both are compared, and
the labels but for the line break behind each turn, which trl trains.

finetui uses every core that is free, trl one: on a busy machine only the CPU times tell something.

Run: `python benchmarks/tokenizing.py [--model FOLDER] [--rows 3000] [--repeats 5] [--turns 1]`. FOLDER holds the
tokenizer.json and the chat template of a model for which trl knows a training template (Qwen2.5, Llama 3, Gemma …).
Without it, Qwen2.5's vocabulary and template are taken from the llama-cpp-python sources that
FINETUI_LLAMA_CPP_SDIST names (see tests/vocabularies.py). The words are those of Python's own manual.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import datasets
import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from engine.datasets.base import Message, Row
from engine.tokens.mask import IGNORED, Tally, encode_rows
from engine.tokens.tokenizer import Tokenizer

MAX_LENGTH = 1024
ASKED, SAID = 300, 900
"""Characters of a question and of an answer."""


def make_rows(count: int, turns: int) -> list[Row]:
    """Conversations of text that nobody else has: slices of the manual, with its code and its indentation."""
    rng = random.Random(0)
    text = "\n".join(topics.values())

    def piece(size: int) -> str:
        at = rng.randrange(len(text) - size)
        return text[at : at + rng.randrange(size // 2, size * 3 // 2)].strip() or "?"

    def chat() -> list[Message]:
        sizes = [("user", ASKED), ("assistant", SAID)] * turns
        return [{"role": role, "content": piece(size)} for role, size in sizes]

    return [Row(line, chat()) for line in range(1, count + 1)]


def tokenizer_folder(folder: Path) -> Path:
    """Qwen2.5's tokenizer with its template, as a folder."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import vocabularies

    if not vocabularies.SDIST:
        raise SystemExit("Name a model's folder (--model), or set FINETUI_LLAMA_CPP_SDIST.")
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=vocabularies.real("qwen2"), **named)
    made.chat_template = vocabularies.template("qwen2_5")
    made.save_pretrained(folder)
    return folder


def trl_preparation(folder: Path, rows: list[Row]) -> Callable[[], Any]:
    """`SFTTrainer._prepare_dataset`, as its constructor calls it; the trainer itself is made beforehand."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    data = datasets.Dataset.from_list([{"messages": row.messages} for row in rows])
    arguments = SFTConfig(assistant_only_loss=True, max_length=MAX_LENGTH, use_cpu=True, bf16=False, report_to="none")
    trainer = SFTTrainer(
        LlamaForCausalLM(config), args=arguments, train_dataset=data.select(range(2)), processing_class=tokenizer
    )
    return lambda: trainer._prepare_dataset(data, trainer.processing_class, trainer.args, False, None, "train")


def our_preparation(folder: Path, rows: list[Row]) -> Callable[[], Any]:
    """As the train stage does it."""
    tokenizer = Tokenizer.load(folder)

    def prepare() -> Any:
        batches = encode_rows(tokenizer, rows, MAX_LENGTH, Tally(), "benchmark")
        found = [
            (np.asarray(row.input_ids, np.int32), np.asarray(row.labels, np.int32))
            for batch in batches
            for row in batch
        ]
        return datasets.Dataset.from_dict(dict(zip(("input_ids", "labels"), zip(*found, strict=True), strict=True)))

    return prepare


def require_same(ours: Any, theirs: Any, breaks: set[int]) -> None:
    """End the program unless both came to the same tokens, and the same labels but for line breaks."""
    for mine, its in zip(ours, theirs, strict=True):
        if mine["input_ids"] != its["input_ids"]:
            raise SystemExit("The ids differ.")
        for one, other in zip(mine["labels"], its["labels"], strict=True):
            if one != other and (one != IGNORED or other not in breaks):
                raise SystemExit("The labels differ.")


def main() -> None:
    """Compare, then measure both in turn, and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--turns", type=int, default=1)
    arguments = parser.parse_args()
    rows = make_rows(arguments.rows, arguments.turns)
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.model or tokenizer_folder(Path(made))
        ways = {"finetui": our_preparation(folder, rows), "SFTTrainer": trl_preparation(folder, rows)}
        breaks = set(Tokenizer.load(folder).ids("\n"))
        ours, theirs = (way() for way in ways.values())
        require_same(ours, theirs, breaks)
        tokens = sum(map(len, ours["input_ids"]))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        busy = dict.fromkeys(ways, 0.0)
        for name, _ in zip(cycle(ways), range(2 * arguments.repeats), strict=False):
            began, worked = time.perf_counter(), time.process_time()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
            busy[name] += time.process_time() - worked
    print(f"{len(rows):,} conversations, {tokens / len(rows):.0f} tokens each; {arguments.repeats} repeats in turn")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        spread = f"{len(rows) / max(times):,.0f} to {len(rows) / min(times):,.0f}"
        work = busy[name] / arguments.repeats / len(rows)
        print(f"{name:<12}{len(rows) / medians[name]:8,.0f} rows/s   ({spread}), {work * 1e6:,.0f} µs of CPU a row")
    print(f"{'ratio':<12}{medians['SFTTrainer'] / medians['finetui']:8.2f}")


if __name__ == "__main__":
    main()

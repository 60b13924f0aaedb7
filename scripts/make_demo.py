"""Make the bundled demo: a tiny assistant, its tokenizer, and data that teach it something new.

    python scripts/make_demo.py --out presets/demo

Runs about ten minutes on two quiet CPU cores. Nothing is downloaded; every word comes from `scripts/demo/`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from demo.card import card
from demo.pretrain import courses, new_model, pretrain, save_model
from demo.tokenizer import VOCAB_SIZE, save_tokenizer, train_tokenizer
from demo.words import HELDOUT_NAMES, MORE_TRAIN_NAMES, TRAIN_NAMES
from demo.world import Row, ticket_rows

THREADS = 2
TRAIN_ROWS = 1600
HELDOUT_ROWS = 160


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("presets/demo"))
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def write_rows(path: Path, rows: list[Row]) -> None:
    lines = [json.dumps({"messages": row}, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_data(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", ticket_rows(seed + 1, TRAIN_ROWS, TRAIN_NAMES + MORE_TRAIN_NAMES, heldout=False))
    write_rows(folder / "heldout.jsonl", ticket_rows(seed + 2, HELDOUT_ROWS, HELDOUT_NAMES, heldout=True))


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(THREADS)
    start = time.monotonic()
    model_folder: Path = arguments.out / "model"
    model_folder.mkdir(parents=True, exist_ok=True)
    write_data(arguments.out / "data", arguments.seed)
    tokenizer = train_tokenizer(arguments.seed)
    save_tokenizer(tokenizer, model_folder)
    first, second = courses(arguments.seed)
    model = new_model(tokenizer, first.seed)
    pretrain(model, tokenizer, first)
    torch.manual_seed(second.seed)
    pretrain(model, tokenizer, second)
    save_model(model, model_folder)
    about = card(model.num_parameters(), VOCAB_SIZE, first.steps + second.steps)
    (arguments.out / "README.md").write_text(about, "utf-8")
    print(f"{arguments.out} made in {time.monotonic() - start:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

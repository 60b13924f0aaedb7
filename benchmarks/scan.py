"""Rows per second and peak memory of a scan (`engine.datasets.scan`), beside orjson alone on the same bytes.

Each case runs in processes of its own, pinned to one core: the scan with all its findings, and a loop that does nothing
but `orjson.loads` for each line (for the whole file where it is one value). Peak memory is the process's resident set
(`VmHWM`), Python and libraries included.

Run: `python benchmarks/scan.py [--share 1.0] [--runs 3]`; each case's data are made anew in a temporary folder, 284 MB
at most.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MB = 1_000_000
LIMIT_MB = 300
WORDS = [
    "invoice",
    "please",
    "what",
    "of",
    "customer",
    "refund",
    "machine",
    "learning",
    "is",
    "ticket",
    "number",
    "account",
]
WESTERN = [
    "Rechnung",
    "bitte",
    "für",
    "die",
    "Größe",
    "über",
    "Köln",
    "Käufer",
    "prüfen",
    "„wann“",
    "ist",
    "–",
    "ändern",
]


def sentence(draw: random.Random, words: list[str], count: int) -> str:
    """So many words."""
    return " ".join(draw.choices(words, k=count))


def chat(draw: random.Random, number: int, turns: int, count: int, words: list[str]) -> str:
    """A conversation as a line of JSON; no two are the same."""
    said = [sentence(draw, words, count) for _ in range(turns)]
    said[0] += f" {number}"
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def small_rows(path: Path, share: float, words: list[str] = WORDS) -> None:
    """A million rows of two turns, about 300 bytes each."""
    draw = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        for number in range(int(1_000_000 * share)):
            file.write(chat(draw, number, 2, 16, words) + "\n")


def western_rows(path: Path, share: float) -> None:
    """The same in German: each row has characters beyond ASCII."""
    small_rows(path, share, WESTERN)


def larger_rows(path: Path, share: float) -> None:
    """264 MB of conversations of eight turns, about 4 KB each."""
    draw, number = random.Random(2), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < 264 * MB * share:
            for _ in range(100):
                number += 1
                file.write(chat(draw, number, 8, 80, WORDS) + "\n")


def one_line(path: Path, share: float) -> None:
    """One object on one line of 200 MB."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"messages": [{"role": "user", "content": "')
        for _ in range(int(200 * share)):
            file.write("a line without end " * (MB // 19))
        file.write('"}, {"role": "assistant", "content": "Fine."}]}\n')


def one_list(path: Path, share: float) -> None:
    """A JSON list of small rows on one line of 200 MB."""
    draw, number = random.Random(3), 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        while file.tell() < 200 * MB * share:
            rows = [chat(draw, number + at, 2, 16, WORDS) for at in range(1000)]
            file.write((", " if number else "") + ", ".join(rows))
            number += 1000
        file.write("]")


def parquet(path: Path, share: float) -> None:
    """A million small rows as Parquet, in one row group."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    draw = random.Random(4)
    count = int(1_000_000 * share)
    columns = {
        "prompt": [f"{sentence(draw, WORDS, 16)} {number}" for number in range(count)],
        "completion": [sentence(draw, WORDS, 16) for _ in range(count)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=count)


CASES: dict[str, tuple[str, Callable[[Path, float], None]]] = {
    "1 M small rows": ("jsonl", small_rows),
    "1 M small rows in German": ("jsonl", western_rows),
    "264 MB of larger rows": ("jsonl", larger_rows),
    "one line of 200 MB": ("jsonl", one_line),
    "a JSON list of 200 MB on one line": ("json", one_list),
    "1 M small rows in Parquet": ("parquet", parquet),
}


# ── in a process of its own ──


def scan_file(path: Path) -> int:
    """Scan; the rows that were usable."""
    from engine.config import DatasetSpec
    from engine.datasets.scan import scan

    report = scan(DatasetSpec(path=str(path)))
    return report.rows + report.eval_rows


def parse_file(path: Path) -> int:
    """Parse with orjson and keep nothing; the rows."""
    import orjson

    if path.suffix == ".json":
        return len(orjson.loads(path.read_bytes()))
    with path.open("rb") as file:
        return sum(1 for line in file if orjson.loads(line) is not None)


def measure(work: str, path: Path) -> None:
    """Do it once and print seconds, rows and the peak of memory in MB as JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    run = {"scan": scan_file, "orjson": parse_file}[work]
    began = time.perf_counter()
    rows = run(path)
    seconds = time.perf_counter() - began
    print(json.dumps([seconds, rows, peak_bytes() / MB]))


def peak_bytes() -> int:
    """The most memory that this process has had. (`ru_maxrss` would count the one that started it as well.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


# ── all of them ──


def child(work: str, path: Path) -> tuple[float, int, float]:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--measure", work, str(path)]
    seconds, rows, peak = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return seconds, rows, peak


def best(work: str, path: Path, runs: int) -> tuple[float, int, float]:
    """The quickest of some runs, with the highest peak."""
    found = [child(work, path) for _ in range(runs)]
    seconds, rows, _ = min(found)
    return seconds, rows, max(peak for _, _, peak in found)


def lines(folder: Path, share: float, runs: int) -> Iterator[str]:
    """The table, a line for each case."""
    yield f"{'':34}{'scan':>22}{'peak':>9}{'orjson alone':>20}{'peak':>9}  ratio"
    for name, (suffix, make) in CASES.items():
        path = folder / f"data.{suffix}"
        make(path, share)
        seconds, rows, peak = best("scan", path, runs)
        size = path.stat().st_size / MB
        line = f"{name:34}{seconds:6.2f} s {pace(rows, size, seconds)}{peak:6.0f} MB"
        if suffix != "parquet":
            alone, parsed, alone_peak = best("orjson", path, runs)
            line += f"{alone:6.2f} s {pace(parsed, size, alone)}{alone_peak:6.0f} MB  {seconds / alone:4.1f}"
        yield line + (f"   above {LIMIT_MB} MB!" if peak > LIMIT_MB else "")
        path.unlink()


def pace(rows: int, size: float, seconds: float) -> str:
    """Rows a second; MB a second, where there are too few rows to count."""
    return f"{rows / seconds:9,.0f}/s " if rows > 1 else f"{size / seconds:7,.0f} MB/s"


def main() -> None:
    """Measure all cases, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the full size")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WORK", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(Path(folder), arguments.share, arguments.runs):
            print(line, flush=True)


if __name__ == "__main__":
    main()

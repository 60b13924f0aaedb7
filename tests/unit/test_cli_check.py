"""`finetui check`: what it prints for people, pipes and scripts, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.datasets import FORMATS
from engine.errors import ExitCode
from engine.paths import builtin_presets

Say = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
COMMAND = [sys.executable, "-P", "-m", "engine.cli", "check"]


@pytest.fixture(autouse=True)
def colourless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `finetui check`; exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = main(["check", *map(str, argv)])
        return int(code), *capsys.readouterr()

    return run


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(*rows: Any, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return to_file


def row(number: int, answer: str = "") -> dict[str, Any]:
    turns = [("user", f"Where is my order {number}?"), ("assistant", answer or f"Order {number} is on its way to you.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def rows(count: int = 60) -> list[dict[str, Any]]:
    return [row(number) for number in range(count)]


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_report_has_figures_a_histogram_and_whether_the_model_will_stop(say: Say, write: Write) -> None:
    code, out, err = say(write(*rows()), "--preset", "demo")
    assert (code, err) == (0, "")
    for said in ("messages · JSON Lines", "58 to learn from, 2 held out", "60 user, 60 assistant", "trained", "median"):
        assert said in out
    assert "max_length 128: no row is cut" in out
    assert "✓ nothing wrong was found" in out
    assert "✓ The end-of-turn token <|eot_id|> is trained" in out


def test_the_histogram_marks_where_rows_are_cut(say: Say, write: Write) -> None:
    code, out, _ = say(write(*rows(), row(61, "long " * 300)), "--preset", "demo")
    bars = out[out.index("rows by length") :].split("\n\n")[0].splitlines()
    assert code == 0
    assert [line.split() for line in bars[2:6]] == [
        ["≤", "64", "█" * 32, "50"],
        ["≤", "128", "0"],
        ["┊", "max_length", "128", "cuts", "here"],
        ["≤", "256", "0"],
    ]
    assert "1 row is longer than max_length 128: data.jsonl:61" in out


def test_a_cut_within_a_bin_is_marked_beside_it(say: Say, write: Write, tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    demo = builtin_presets() / "demo"
    text = (demo / "demo.toml").read_text().replace('"./', f'"{demo}/')
    preset.write_text(text.replace("max_length = 128", "max_length = 100"))
    code, out, err = say(write(*rows(), row(61, "long " * 100)), "--preset", preset)
    assert code == 0, err
    assert re.search(r"≤ 128 .*┊ max_length 100 cuts here", out)


def test_raw_text_is_not_cut(say: Say, write: Write) -> None:
    code, out, _ = say(write(*[{"text": f"text {number} " * 300} for number in range(60)]), "--preset", "demo")
    assert code == 0
    assert "rows by length" in out
    assert "max_length" not in out


def test_problems_come_with_their_place_their_effect_and_the_way_out(say: Say, write: Write) -> None:
    code, out, _ = say(write(*rows(), "{broken", row(3)))
    assert code == ExitCode.DATA
    refused, duplicate = (
        out.index("✗ 1 row is not JSON: data.jsonl:61"),
        out.index("! 1 exact duplicate: data.jsonl:62"),
    )
    assert refused < duplicate
    assert "→ Correct or delete these lines" in out


def test_quick_leaves_out_what_takes_long(say: Say, write: Write) -> None:
    _, out, _ = say(write(*rows()), "--preset", "demo", "--quick", "--json")
    report = json.loads(out)
    assert (report["tokens"], report["near_checked"]) == (None, 0)


def test_json_is_one_object_with_the_whole_report(say: Say, write: Write) -> None:
    code, out, err = say(write(*rows()), "--preset", "demo", "--json")
    report = json.loads(out)
    assert (code, err, report["refused"]) == (0, "", False)
    assert report["tokens"]["rows"] == report["near_checked"] == 60


def test_a_model_that_is_not_here_is_said_to_be_missing(say: Say, write: Write) -> None:
    code, out, _ = say(write(*rows()), "--preset", "llama-3.1-8b-instruct")
    assert code == 0
    assert "counted by the length of the text" in out
    assert "Llama 3.1 8B Instruct is not on this machine yet" in out


def test_columns_say_what_holds_what(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("asked,said\n" + "".join(f"Where is {at}?,Here it is: {at}.\n" for at in range(60)))
    assert say(path)[0] == ExitCode.DATA
    code, out, _ = say(path, "--columns", "user=asked,assistant=said")
    assert code == 0
    assert "columns · CSV" in out


def test_a_plan_takes_columns_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_text("asked,said\n" + "".join(f"Where is {at}?,Here it is: {at}.\n" for at in range(60)))
    columns = "user=asked,assistant=said"
    assert main(["plan", "--preset", "demo", "--data", str(path), "--columns", columns, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["data"]["columns"], plan["summary"]["format"]) == (columns, "columns")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--format", "mesages"], "messages"),
        (["--columns", "nonsense"], "user=question"),
        (["--preset", "dmo"], "demo"),
        (["--row", "99"], "60 rows"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_a_way_out(say: Say, write: Write, argv: list[str], said: str) -> None:
    code, out, err = say(write(*rows()), *argv)
    assert (code, out) == (ExitCode.USAGE, "")
    assert said in err


def test_help_shows_every_format_with_a_row(say: Say) -> None:
    code, out, _ = say("--help")
    assert code == 0
    for known in FORMATS.values():
        assert f"  {known.name}: {known.help}" in out
        assert known.example in out


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_shows_what_is_trained_without_colour(say: Say, write: Write) -> None:
    code, out, _ = say(write(*rows()), "--preset", "demo", "--row", 3)
    assert code == 0
    assert out.startswith("row 3 · data.jsonl:3 · ")
    assert "\n▐Order 2 is on its way to you.<|eot_id|>▌\n" in out
    assert out.count("▐") == 2  # the legend and the answer


def test_a_row_is_marked_where_it_is_cut(say: Say, write: Write) -> None:
    _, out, _ = say(write(*rows(3), row(4, "long " * 300)), "--preset", "demo", "--row", 4)
    before, cut, behind = out.rpartition("▌┊ max_length cuts here ┊")
    assert cut
    assert "▐long long" in before
    assert not {"▐", "▌"} & set(behind)


def test_without_a_preset_a_row_is_shown_by_role(say: Say, write: Write) -> None:
    _, out, _ = say(write(*rows()), "--row", 1)
    assert "by role" in out
    assert "▐Order 0 is on its way to you.▌" in out


def test_a_row_as_json(say: Say, write: Write) -> None:
    _, out, _ = say(write(*rows()), "--preset", "demo", "--row", 2, "--json")
    found = json.loads(out)["row"]
    assert (found["index"], found["place"]) == (1, "data.jsonl:2")
    assert "".join(piece["text"] for piece in found["pieces"] if piece["trained"]).startswith("Order 1")


def test_the_next_row_with_a_finding(say: Say, write: Write) -> None:
    path = write(*rows(), "{broken", row(62), row(63, "long " * 300))
    assert "data.jsonl:61" in say(path, "--preset", "demo", "--next-finding")[1]
    assert "data.jsonl:63" in say(path, "--preset", "demo", "--next-finding", "--row", 61)[1]
    assert "data.jsonl:61" in say(path, "--preset", "demo", "--next-finding", "--row", 63)[1]


def test_no_row_with_a_finding(say: Say, write: Write) -> None:
    assert say(write(*rows()), "--next-finding")[1] == "✓ no row has a finding\n"


def test_hostile_rows_and_names_never_reach_the_terminal_raw(say: Say, write: Write) -> None:
    hostile = "\x1b]52;c;aGk=\x07\u202e\x9b31m"
    path = write(*rows(), row(61, hostile), f"{{{hostile}", name=f"data{hostile}.jsonl")
    for argv in ([], ["--row", 61], ["--row", 62], ["--json"], ["--row", 61, "--json"]):
        said = "".join(say(path, "--preset", "demo", *argv)[1:])
        assert not set("\x1b\x07\x9b\u202e") & set(said)


# ── a cleaned copy ───────────────────────────────────────────────────────────────────────────────────────


def test_fix_writes_a_copy_and_says_what_it_dropped(say: Say, write: Write, tmp_path: Path) -> None:
    path = write(*rows(), "{broken", row(3))
    before, copy = path.read_bytes(), tmp_path / "clean.jsonl"
    code, out, _ = say(path, "--fix", copy)
    assert code == 0  # the copy's
    assert "clean.jsonl: 60 rows written, 2 left out, 0 repaired" in out
    assert "left out: 1 row is not JSON: data.jsonl:61" in out
    assert path.read_bytes() == before
    assert len(copy.read_text().splitlines()) == 60


def test_fix_never_overwrites(say: Say, write: Write) -> None:
    path = write(*rows())
    before = path.read_bytes()
    assert say(path, "--fix", path)[0] == ExitCode.USAGE
    assert path.read_bytes() == before


def test_fix_as_json(say: Say, write: Write, tmp_path: Path) -> None:
    _, out, _ = say(write(*rows(), "{broken"), "--fix", tmp_path / "clean.jsonl", "--json")
    assert json.loads(out)["fixed"]["dropped"] == {"row is not JSON": 1}


# ── terminals ────────────────────────────────────────────────────────────────────────────────────────────


def on_a_terminal(argv: list[str], until: str = "") -> tuple[int, str, str]:
    """Run with stderr on a terminal, interrupted once it says `until`: exit code, stdout and what the terminal got."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "", "TERM": "xterm"}
    process = subprocess.Popen([*COMMAND, *argv], stdout=subprocess.PIPE, stderr=follower, env=environment)
    os.close(follower)
    seen, deadline = b"", time.monotonic() + 60
    while until.encode() not in seen and time.monotonic() < deadline:
        if select.select([leader], [], [], 0.1)[0]:
            seen += os.read(leader, 65536)
    if until:
        process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[0].decode()
    if select.select([leader], [], [], 0.2)[0]:
        seen += os.read(leader, 65536)
    os.close(leader)
    return process.returncode, out, seen.decode()


def test_ctrl_c_in_a_deeper_pass_prints_what_is_known(write: Write) -> None:
    path = write(*[row(number, f"word{number} " * 150) for number in range(12_000)])
    code, out, seen = on_a_terminal([str(path), "--preset", "demo"], until="tokens: ")
    assert code == ExitCode.INTERRUPTED
    assert re.search(r"in [\d,]+ of 12,000 rows", out)
    assert "Interrupted: what is above was known by then" in seen


def test_progress_has_amounts_a_rate_and_the_time_left(write: Write) -> None:
    path = write(*[row(number, f"word{number} " * 150) for number in range(12_000)])
    _, _, seen = on_a_terminal([str(path), "--preset", "demo"], until=" left")
    assert re.search(r"tokens: [\d,]+ of 12,000 rows \(\d+ %\) · [\d,]+ rows/s · .+ left", seen)


def test_on_a_terminal_trained_text_is_bold_and_underlined_too(write: Write) -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "", "TERM": "xterm"}
    argv = [*COMMAND, str(write(*rows(3))), "--preset", "demo", "--row", "1"]
    process = subprocess.Popen(argv, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    process.wait(timeout=60)
    seen = os.read(leader, 65536).decode()
    os.close(leader)
    assert "▐\x1b[1;4mOrder 0 is on its way to you.<|eot_id|>\x1b[0m▌" in seen

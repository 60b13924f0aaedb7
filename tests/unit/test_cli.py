"""The command line's manners: usage, exit codes, one JSON object, sentences with a next action, nothing left behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import cli, runs
from engine.cli import build_parser, commands_of, main
from engine.commands import planning
from engine.errors import ExitCode

ROW = '{"messages": [{"role": "user", "content": "Hi %d"}, {"role": "assistant", "content": "Hello %d"}]}\n'
COMMANDS = {"demo", "doctor", "presets", "download", "check", "plan", "train", "runs", "chat"}
ON_A_RUN = {"status", "tail", "stop", "resume", "merge", "gguf", "certify", "ollama", "eval", "delete"}
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "home"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; exit code, stdout, stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        return int(code), *capsys.readouterr()

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(ROW % (n, n) for n in range(100)))
    return path


def test_every_command_has_help_with_an_example_and_json() -> None:
    commands = commands_of(build_parser())
    asked = (
        "demo doctor presets check plan train runs status tail stop resume merge gguf certify ollama chat eval delete"
        " download"
    )
    assert set(commands) == set(asked.split())
    for name, parser in commands.items():
        text = parser.format_help()
        assert f"finetui {name}" in text.split("example:")[1]
        assert "--json" in text


def test_help_and_version_are_data_and_end_well(say: Say) -> None:
    code, out, err = say("--version")
    assert (code, err) == (0, "")
    assert out.startswith("finetui ")
    code, out, err = say("train", "--help")
    assert (code, err) == (0, "")
    assert "--detach" in out


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["trian"], "train"),
        (["runs", "--jsn"], "--json"),
        (["train", "--prest", "demo"], "--preset"),
        (["gguf", "last", "--quant", "Q4_KM"], "Q4_K_M"),
        (["plan", "--preset", "dmo"], "demo"),
        (["plan", "--preset", "demo", "--set", "learning_rat=1"], "learning_rate"),
    ],
)
def test_wrong_usage_names_the_nearest_right_one(say: Say, argv: list[str], near: str) -> None:
    code, out, err = say(*argv)
    assert (code, out) == (ExitCode.USAGE, "")
    assert near in err.split("→", 1)[1]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["train"],
        ["status"],
        ["runs", "surplus"],
        ["plan", "--preset", "demo", "--set", "no-assignment"],
        ["plan", "--preset", "demo", "--gpu-memory", "much"],
        ["plan", "--preset", "demo", "--gpu-memory", "0"],
        ["train", "--preset", "demo", "--plan", "plan.json"],
        ["train", "--plan", "/nowhere/plan.json"],
        ["train", "--columns", "user=a", "--plan", "plan.json"],
        ["gguf", "last", "--quant", ","],
        ["chat", "nosuchrun"],
        ["check"],
        ["check", ""],
        ["check", "data.jsonl", "--row", "0"],
        ["check", "data.jsonl", "--row", "first"],
    ],
)
def test_usage_that_cannot_be_meant_ends_with_2(say: Say, home: Path, argv: list[str]) -> None:
    code, out, err = say(*argv)
    assert (code, out) == (ExitCode.USAGE, "")
    assert err
    assert not home.exists()


def test_an_error_is_one_json_object_too(say: Say) -> None:
    code, out, _ = say("status", "nosuchrun", "--json")
    error = json.loads(out)["error"]
    assert error["exit_code"] == code == ExitCode.USAGE
    assert "nosuchrun" in error["title"]
    assert error["hints"]


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────


def bad_data(tmp_path: Path, content: str | None) -> str:
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_text(content)
    return str(path)


BAD = [None, "", "not json\n", ROW % (1, 1) + "{broken\n", '{"no": "messages"}\n']


@pytest.mark.parametrize("content", BAD, ids=["missing", "empty", "not JSON", "one line not JSON", "no format"])
@pytest.mark.parametrize("command", ["check", "plan", "train"])
def test_bad_data_end_with_3_and_leave_nothing(
    say: Say, tmp_path: Path, home: Path, command: str, content: str | None
) -> None:
    path = bad_data(tmp_path, content)
    argv = [path] if command == "check" else ["--preset", "demo", "--data", path]
    code, out, err = say(command, *argv)
    assert code == ExitCode.DATA
    assert "bad.jsonl" in out + err
    assert "→" in out + err
    assert not home.exists()


def test_refused_data_name_the_line(say: Say, tmp_path: Path) -> None:
    code, _, err = say("train", "--preset", "demo", "--data", bad_data(tmp_path, ROW % (1, 1) + "{broken\n"))
    assert code == ExitCode.DATA
    assert "bad.jsonl:2" in err


@pytest.mark.parametrize("command", [["plan"], ["train"], ["presets"]])
def test_a_preset_that_does_not_exist_ends_with_2(say: Say, home: Path, command: list[str]) -> None:
    argv = ["nosuchmodel"] if command == ["presets"] else ["--preset", "nosuchmodel"]
    code, out, err = say(*command, *argv)
    assert (code, out) == (ExitCode.USAGE, "")
    assert "'nosuchmodel'" in err
    assert "finetui presets" in err
    assert not home.exists()


@pytest.mark.parametrize(
    "command", ["status", "tail", "stop", "resume", "merge", "gguf", "certify", "ollama", "eval", "delete"]
)
def test_a_run_that_does_not_exist_ends_with_2(say: Say, home: Path, command: str) -> None:
    code, out, err = say(command, "nosuchrun")
    assert (code, out) == (ExitCode.USAGE, "")
    assert "'nosuchrun'" in err
    assert "finetui runs" in err
    assert not home.exists()


def test_a_disk_without_room_ends_with_4_and_leaves_nothing(
    say: Say, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 4096, 4096)  # a filled disk cannot be made without root
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    code, out, err = say("train", "--preset", "demo")
    assert (code, out) == (ExitCode.FIT, "")
    assert "disk" in err.lower()
    assert "→" in err
    assert not home.exists()


def test_a_home_that_cannot_be_made_is_told_with_a_way_out(say: Say, home: Path) -> None:
    home.write_text("a file where the folder should be")
    code, _, err = say("train", "--preset", "demo", "--detach")
    assert code == ExitCode.FAULT
    assert "FINETUI_HOME" in err
    assert home.is_file()


def test_without_a_terminal_the_app_is_refused_with_2(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tui"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert "terminal" in done.stderr
    assert "finetui --help" in done.stderr
    assert not home.exists()


def test_on_a_dumb_terminal_the_app_is_refused_with_2() -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    command = [sys.executable, "-P", "-m", "tui"]
    done = subprocess.run(
        command, stdin=follower, stdout=follower, stderr=subprocess.PIPE, env=environment, check=False, timeout=30
    )
    os.close(leader)
    os.close(follower)
    assert done.returncode == ExitCode.USAGE
    assert b"finetui --help" in done.stderr


# ── what commands print ──────────────────────────────────────────────────────────────────────────────────


def test_presets_lists_the_demo_as_present(say: Say) -> None:
    code, out, err = say("presets", "--json")
    assert (code, err) == (0, "")
    found = {preset["name"]: preset for preset in json.loads(out)["presets"]}
    assert found["demo"]["local"] is True


def test_a_preset_shows_every_setting_with_its_help(say: Say) -> None:
    code, out, _ = say("presets", "demo")
    assert code == 0
    assert "train.learning_rate" in out
    assert "Peak learning rate" in out


def test_check_reports_good_data(say: Say, data: Path) -> None:
    code, out, err = say("check", str(data), "--json")
    report = json.loads(out)
    assert (code, err, report["refused"]) == (0, "", False)
    assert report["rows"] + report["eval_rows"] == 100


def test_plan_prints_the_plan_with_its_budgets(say: Say) -> None:
    code, out, _ = say("plan", "--preset", "demo", "--set", "max_steps=7", "lora.rank=4", "--json")
    told = json.loads(out)
    assert (code, told["fits"], told["plan"]["steps"]) == (0, True, 7)
    assert told["plan"]["preset"]["lora"]["rank"] == 4
    assert told["plan"]["vram"]["parts"]
    assert told["plan"]["disk"]["parts"]


def test_plan_for_a_gpu_that_is_too_small_ends_with_4_and_advice(say: Say) -> None:
    code, out, _ = say("plan", "--preset", "demo", "--gpu-memory", "1MiB", "--json")
    assert (code, json.loads(out)["fits"]) == (ExitCode.FIT, False)


def test_plan_for_a_pretended_gpu_is_made_for_cuda(say: Say) -> None:
    code, out, _ = say("plan", "--preset", "demo", "--gpu-memory", "24GiB", "--json")
    told = json.loads(out)["plan"]
    assert (code, told["device"], told["gpu"]["total_bytes"]) == (0, "cuda", 24 * 1024**3)


def test_the_users_own_data_replace_all_of_the_presets_data(say: Say, data: Path) -> None:
    _, out, _ = say("plan", "--preset", "demo", "--data", str(data), "--json")
    told = json.loads(out)["plan"]
    assert told["data"]["path"] == str(data)
    assert told["data"]["eval_path"] == ""
    assert told["preset"]["data"]["path"] == str(data)


def test_paths_in_settings_are_those_of_the_users_folder(say: Say, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    _, out, _ = say("plan", "--preset", "demo", "--set", "data.path=data.jsonl", "--json")
    assert json.loads(out)["plan"]["data"]["path"] == str(data)


def test_a_saved_plan_is_refused_when_its_data_changed(say: Say, data: Path, tmp_path: Path, home: Path) -> None:
    file = tmp_path / "plan.json"
    assert say("plan", "--preset", "demo", "--data", str(data), "--save", str(file))[0] == 0
    with data.open("a") as more:
        more.write(ROW % (101, 101))
    code, out, err = say("train", "--plan", str(file))
    assert (code, out) == (ExitCode.DATA, "")
    assert "changed" in err
    assert not home.exists()


def test_a_saved_plan_says_the_same_as_the_arguments(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    say("plan", "--preset", "demo", "--set", "max_steps=7", "--name", "seven", "--save", str(file))
    loaded = planning.load(file, "", planning.Output())
    assert (loaded.steps, loaded.slug) == (7, "seven")


def test_an_unexpected_fault_ends_with_1_and_keeps_its_traceback(
    say: Say, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ValueError("\x1b[31mhostile")

    monkeypatch.setattr(runs, "list_runs", broken)
    code, out, err = say("runs")
    assert (code, out) == (ExitCode.FAULT, "")
    assert "Traceback" not in err
    assert "\x1b" not in err
    log = home / "crash.log"
    assert str(log) in err
    assert "Traceback" in log.read_text()


def test_ctrl_c_ends_with_130(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "list_runs", interrupted)
    assert say("runs")[0] == ExitCode.INTERRUPTED


def test_a_reader_that_leaves_is_no_fault(home: Path) -> None:
    command = [sys.executable, "-P", "-m", "engine.cli", "presets", "demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert not home.exists()


def colours_of(environment: dict[str, str]) -> bytes:
    """What `finetui presets demo` writes to a terminal."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-P", "-m", "engine.cli", "presets", "demo"]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env={**os.environ, **environment})
    os.close(follower)
    process.wait(timeout=30)
    flags = fcntl.fcntl(leader, fcntl.F_GETFL)
    fcntl.fcntl(leader, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    seen = os.read(leader, 65536)
    os.close(leader)
    return seen


def test_colour_only_on_a_terminal_that_wants_it() -> None:
    assert b"\x1b[" in colours_of({"NO_COLOR": "", "TERM": "xterm"})
    assert b"\x1b[" not in colours_of({"NO_COLOR": "1", "TERM": "xterm"})
    assert b"\x1b[" not in colours_of({"NO_COLOR": "", "TERM": "dumb"})


def test_a_terminal_without_our_symbols_ends_no_command() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-P", "-m", "engine.cli", "status", "nosuchrun"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == ExitCode.USAGE
    assert b"nosuchrun" in done.stderr


def test_the_module_documents_every_exit_code() -> None:
    for code in ExitCode:
        assert f"{int(code)} " in cli.EPILOG


@pytest.mark.parametrize(
    "setting", ["epochs=1e308", "max_steps=9e30", "max_steps=999999999999", "seed=-1", "seed=4294967296"]
)
def test_a_setting_that_would_crash_later_is_refused_now(say: Say, setting: str) -> None:
    code, _, err = say("plan", "--preset", "demo", "--set", setting)
    assert code == ExitCode.USAGE
    assert "cannot have this value" in err


@pytest.mark.parametrize("setting", ["data.path", "path"])
def test_foreign_data_are_not_judged_by_the_presets_own_held_out_rows(say: Say, data: Path, setting: str) -> None:
    code, out, _ = say("plan", "--preset", "demo", "--set", f"{setting}={data}", "--json")
    plan = json.loads(out)["plan"]
    assert code == 0
    assert plan["data"]["eval_path"] == ""
    assert plan["summary"]["path"] == str(data)
    assert plan["slug"] == data.stem


def test_empty_data_are_refused_instead_of_the_presets_own(say: Say, home: Path) -> None:
    code, _, err = say("train", "--preset", "demo", "--data", "")
    assert code == 2
    assert "--data is empty" in err
    assert not home.exists()


def test_a_size_without_a_unit_is_asked_about(say: Say) -> None:
    code, _, err = say("plan", "--preset", "demo", "--gpu-memory", "24")
    assert code == 2
    assert "24GiB" in err

"""The command's own streams: closed, full, or read by somebody who leaves."""

import subprocess
import sys

import pytest

RUN = f"{sys.executable} -P -m engine.cli"


def shell(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-"])
def test_a_closed_stream_is_no_fault(closed: str) -> None:
    assert shell(f"{RUN} runs {closed}").returncode == 0


@pytest.mark.parametrize("flag", ["", "--json"])
def test_a_full_standard_output_is_told_in_a_sentence(flag: str) -> None:
    result = shell(f"{RUN} presets {flag} >/dev/full")
    assert result.returncode == 4
    assert "Standard output" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_leaves_is_no_fault() -> None:
    result = shell(f"{RUN} presets | head -1; exit ${{PIPESTATUS[0]}}")
    assert result.returncode == 0
    assert result.stderr == ""

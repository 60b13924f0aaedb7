"""How a stage's end is told, whatever ended it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import get_args

import pytest
import torch

from engine.config import StageName
from engine.errors import ExitCode, RunError
from engine.events import EventWriter, Failed, parse
from engine.paths import RunDir
from engine.worker.__main__ import _tell


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("262144 requested and 225312 written"),  # numpy's tofile, which tells no errno
    ],
)
def test_a_full_disk_is_told_as_one(tmp_path: Path, error: OSError) -> None:
    run = RunDir(tmp_path)
    assert _tell(EventWriter(run.events), "gguf", run, error) == ExitCode.FIT
    told = parse(run.events.read_bytes())
    assert isinstance(told, Failed)
    assert told.title == "The disk is full"


@pytest.mark.parametrize("stage", get_args(StageName))
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_full_gpu_is_told_as_one_in_every_stage(tmp_path: Path, stage: StageName, error: RuntimeError) -> None:
    run = RunDir(tmp_path)
    assert _tell(EventWriter(run.events), stage, run, error) == ExitCode.RUN
    told = parse(run.events.read_bytes())
    assert isinstance(told, Failed)
    assert told.title == "The GPU's memory is full"
    assert len(told.hints) == 2


def test_another_fault_of_torch_is_not_told_as_a_full_gpu(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert _tell(EventWriter(run.events), "train", run, error) == ExitCode.FAULT


def test_the_words_of_a_stage_about_a_full_gpu_stay(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    _tell(
        EventWriter(run.events), "train", run, RunError("The GPU's memory is full", "CUDA out of memory", ("its own",))
    )
    told = parse(run.events.read_bytes())
    assert isinstance(told, Failed)
    assert told.hints == ("its own",)

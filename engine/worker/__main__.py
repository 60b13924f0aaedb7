"""`python -P -m engine.worker RUN STAGE[,STAGE…]`: take the lock, load the plan, run the stages, tell how it ended."""

from __future__ import annotations

import argparse
import fcntl
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import get_args

from engine.config import StageName, StageOptions
from engine.errors import ExitCode, FinetuiError
from engine.events import EventWriter, Finished, Started, Stopped, failed_from
from engine.paths import RunDir
from engine.runs import load_plan
from engine.worker.context import Context, Signal, StopRequested
from engine.worker.faults import explained
from engine.worker.surroundings import forbid_fetched_code, quiet

STAGES: dict[StageName, str] = {
    "train": "engine.worker.train",
    "merge": "engine.worker.merge",
    "gguf": "engine.worker.gguf",
    "certify": "engine.worker.certify",
    "eval": "engine.worker.evaluate",
    "ollama": "engine.worker.ollama",
}
"""Each stage's module; its `run(context)` returns when the stage is done."""

REPORTED = ("torch", "transformers", "peft", "trl", "bitsandbytes", "llama-cpp-python", "finetui")


def main() -> int:
    """Run the stages; the exit code is that of the first one that did not finish."""
    signalled = _listen()
    quiet()
    forbid_fetched_code()
    arguments = _parse()
    run = RunDir(Path(arguments.run))
    lock = _take_lock(run)
    if lock is None:
        print(f"another worker holds {run.lock}", file=sys.stderr)
        return ExitCode.USAGE
    run.stop.unlink(missing_ok=True)  # a request to an earlier worker
    events = EventWriter(run.events, reserve=True)
    options = StageOptions.model_validate_json(arguments.options)
    try:
        codes = (_run_stage(run, stage, events, options, signalled) for stage in arguments.stages)
        return next((code for code in codes if code != ExitCode.DONE), ExitCode.DONE)
    finally:
        events.close()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -P -m engine.worker", description=__doc__)
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("stages", type=_stages, help="stages, with commas between them")
    parser.add_argument("--options", default="{}", help="StageOptions as JSON")
    return parser.parse_args()


def _stages(text: str) -> list[StageName]:
    known = get_args(StageName)
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"no stage {unknown[0]!r}; there are {', '.join(known)}")
    return names  # type: ignore[return-value]  # checked just above


def _take_lock(run: RunDir) -> int | None:
    # Only here is the lock file opened for locking: closing any descriptor of it would drop a POSIX lock.
    fd = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _run_stage(run: RunDir, stage: StageName, events: EventWriter, options: StageOptions, signalled: Signal) -> int:
    events.write(Started(stage=stage, pid=os.getpid(), versions=_versions()))
    began = time.monotonic()
    try:
        context = Context(run, load_plan(run), events, options, stage, signalled)
        context.check_stop()
        importlib.import_module(STAGES[stage]).run(context)
        events.write(Finished(stage=stage, seconds=time.monotonic() - began))
        return ExitCode.DONE
    except StopRequested as stop:
        events.write(Stopped(stage=stage, step=stop.step, reason=str(stop)))
        return ExitCode.INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - whatever it is, the event log must tell it
        return _tell(events, stage, run, error)
    finally:
        gc.collect()


def _tell(events: EventWriter, stage: StageName, run: RunDir, error: BaseException) -> int:
    if not isinstance(error, FinetuiError):
        traceback.print_exception(error)
    failed = failed_from(stage, explained(stage, run, error))
    events.write(failed)
    return failed.exit_code


def _listen() -> Signal:
    """Treat SIGTERM, SIGINT and SIGHUP as a request to stop at the next safe point, from now on in all stages."""
    signalled = Signal()

    def stop(_number: int, _frame: FrameType | None) -> None:
        signalled.came = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    return signalled


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())

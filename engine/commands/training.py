"""`train` and `resume`: a run from its plan to its adapter."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine import launch, runs
from engine.commands import checking, planning
from engine.commands.arguments import Commands, add_command, add_detach, add_run
from engine.commands.follow import run_stages
from engine.commands.output import Output
from engine.commands.summary import finish, summary
from engine.config import StageOptions
from engine.errors import ExitCode, UsageError
from engine.paths import RunDir
from engine.plan import Plan, require_fit
from engine.state import Status


def add(commands: Commands) -> None:
    """Declare the commands."""
    parser = add_command(
        commands,
        "train",
        "Train an adapter. The worker outlives this terminal; the first Ctrl-C asks it to save and stop.",
        "finetui train --preset llama-3.1-8b-instruct --data data.jsonl --set epochs=2 --detach",
    )
    planning.add_choices(parser)
    parser.add_argument("--plan", metavar="FILE", type=Path, help="a plan saved by `finetui plan --save`")
    add_detach(parser)
    parser.set_defaults(run=train)

    parser = add_command(commands, "resume", "Go on with training from the newest checkpoint.", "finetui resume last")
    add_run(parser)
    add_detach(parser)
    parser.set_defaults(run=resume)


def train(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui train`. Raises `DataError` or `FitError` before anything is written."""
    plan = _plan(arguments, output)
    for line in planning.plan_lines(plan):
        output.say(line)
    require_fit(plan)
    run = runs.create(plan)
    output.say(f"Run {run.name}")
    return _begin(run, StageOptions(), arguments.detach, output)


def _plan(arguments: argparse.Namespace, output: Output) -> Plan:
    if arguments.plan is None:
        return planning.make(arguments, output)
    if arguments.preset or arguments.data or arguments.set or checking.reading(arguments):
        raise UsageError(
            "A saved plan says everything",
            "--plan does not go with --preset, --data, --set, or how the data are read",
            ("Leave them out, or make another plan: finetui plan …",),
        )
    return planning.load(arguments.plan, arguments.name, output)


def resume(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui resume RUN`; a run that never reached a checkpoint begins anew."""
    run = runs.find(arguments.name)
    runs.load_plan(run)
    stage = runs.read(run).state.stages.get("train")
    if stage is not None and stage.status is Status.FINISHED:
        raise UsageError("Training is finished", run.name, (f"Export it: finetui gguf {run.name}",))
    begun = run.checkpoints.is_dir() and any(run.checkpoints.iterdir())
    if not begun:
        output.say("No checkpoint yet: training begins at its first step.")
    return _begin(run, StageOptions(resume=begun), arguments.detach, output)


def _begin(run: RunDir, options: StageOptions, detach: bool, output: Output) -> int:
    if not detach:
        run_stages(run, ["train"], output, options)
        return finish(run, output, "train")
    launch.start(run, ["train"], options)
    follow = f"Follow it: finetui tail {run.name}"
    output.result(summary(runs.read(run)), [run.name])
    output.say(follow)
    return ExitCode.DONE

"""`merge`, `gguf`, `certify`, `ollama`, `eval`: one stage each over a trained run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import runs
from engine.commands.arguments import Commands, add_command, add_quant, add_run
from engine.commands.checking import absolute
from engine.commands.follow import run_stages
from engine.commands.output import Output, error_data, mark, style, table
from engine.commands.summary import finish, summary
from engine.config import StageName, StageOptions
from engine.datasets.lines import open_data
from engine.errors import ExitCode, FinetuiError
from engine.events import Check, Score
from engine.ollama import valid_name
from engine.paths import RunDir
from engine.state import GOLD, RunState
from engine.text import clean_line
from engine.units import format_share


def add(commands: Commands) -> None:
    """Declare the commands."""
    parser = add_command(commands, "merge", "Fold the adapter into a 16-bit Hugging Face folder.", "finetui merge last")
    add_run(parser)
    parser.set_defaults(run=merge)

    parser = add_command(
        commands, "gguf", "Write GGUF files for llama.cpp and Ollama.", "finetui gguf last --quant Q4_K_M,Q8_0"
    )
    add_run(parser)
    add_quant(parser)
    parser.set_defaults(run=gguf)

    parser = add_command(
        commands, "certify", "Prove that the exported files are the model that was trained.", "finetui certify last"
    )
    add_run(parser)
    add_quant(parser)
    parser.set_defaults(run=certify)

    parser = add_command(
        commands, "ollama", "Put the model into a running Ollama.", "finetui ollama last --name support-desk"
    )
    add_run(parser)
    add_quant(parser)
    parser.add_argument("--name", metavar="N", dest="model_name", help="the name in Ollama (default: the run's)")
    parser.add_argument("--replace", action="store_true", help="take a name that exists")
    parser.add_argument("--uncertified", action="store_true", help="go ahead without a certificate that passed")
    parser.set_defaults(run=ollama)

    parser = add_command(
        commands, "eval", "Score the model on held-out rows.", "finetui eval last --data heldout.jsonl"
    )
    add_run(parser)
    parser.add_argument("--data", metavar="D", help="a JSON Lines file (default: the rows that were kept back)")
    parser.set_defaults(run=evaluate)


def merge(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui merge RUN`."""
    return _run(arguments, output, "merge", StageOptions())


def gguf(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui gguf RUN`."""
    return _run(arguments, output, "gguf", StageOptions(quants=arguments.quant))


def ollama(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui ollama RUN`."""
    if arguments.model_name is not None:
        valid_name(arguments.model_name)  # refused now, not as a failed stage of the run
    options = StageOptions(
        quants=arguments.quant,
        name=arguments.model_name,
        replace=arguments.replace,
        uncertified=arguments.uncertified,
    )
    return _run(arguments, output, "ollama", options)


def _run(arguments: argparse.Namespace, output: Output, stage: StageName, options: StageOptions) -> int:
    run = runs.find(arguments.name)
    run_stages(run, [stage], output, options)
    return finish(run, output, stage)


def certify(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui certify RUN`: the certificate as a table, also when a line of it failed (exit 6)."""
    run = runs.find(arguments.name)
    failed: dict[str, Any] = {}
    code = ExitCode.DONE
    try:
        run_stages(run, ["certify"], output, StageOptions(quants=arguments.quant))
    except FinetuiError as error:
        if error.code != ExitCode.CERTIFICATE:
            raise
        failed, code = {"error": error_data(error)}, error.code
    info = runs.read(run)
    output.result({**summary(info), **failed}, certificate_lines(info.state.checks))
    return code


def certificate_lines(checks: tuple[Check, ...]) -> list[str]:
    """The certificate as a table: what was compared, the figure, its limit, and what to do where it failed."""
    head = ("", "check", "form", "compared", "figure", "limit")
    rows = [("✓" if c.passed else "✗", c.title, c.form, c.compared, c.figure, c.limit) for c in checks]
    lines = [style(line, None if index else "dim") for index, line in enumerate(table([head, *rows]))]
    failed = [check for check in checks if not check.passed]
    lines += [f"→ {check.remedy}" for check in failed if check.remedy]
    if failed:
        return [*lines, mark("error", f"{len(failed)} of {len(checks)} checks failed", sys.stdout)]
    return [*lines, mark("ok", f"all {len(checks)} checks passed", sys.stdout)]


def evaluate(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui eval RUN`: the scores as a table."""
    run = runs.find(arguments.name)
    data = absolute(arguments.data) if arguments.data else None
    if data is not None:
        open_data(Path(data)).close()  # what can be refused now must not become a failed stage of the run
    state = run_stages(run, ["eval"], output, StageOptions(data=data))
    losses = {file.name: held_out_losses(file) for file in _evaluations(run, data)}
    lines = [*score_lines(state), *(loss_line(name, forms) for name, forms in losses.items() if forms)]
    output.result({**summary(runs.read(run)), "losses": losses}, lines)
    return ExitCode.DONE


def _evaluations(run: RunDir, data: str | None) -> list[Path]:
    """What this evaluation wrote: of the held-out and the gold rows, or of a file that was named."""
    files = [run.evaluation, run.evaluation_of(GOLD)] if data is None else [run.evaluation_of(Path(data).stem)]
    return [file for file in files if file.is_file()]


def held_out_losses(evaluation: Path) -> dict[str, float]:
    """Nats per trained token by form of the model, from a file that the stage wrote."""
    forms = json.loads(evaluation.read_bytes())["forms"]
    return {clean_line(form["name"]): form["loss"] for form in forms if form["loss"] is not None}


def loss_line(name: str, losses: Mapping[str, float]) -> str:
    """`held-out loss: base 2.310, as trained 1.920`."""
    rows = "gold" if name == f"evaluation.{GOLD}.json" else "held-out"
    return f"{rows} loss: " + ", ".join(f"{form} {loss:.3f}" for form, loss in losses.items())


def score_lines(state: RunState) -> list[str]:
    """Answers on held-out rows, a line for each form of the model; those on gold and other rows apart, below."""
    groups: dict[str, list[Score]] = {"": []}
    for score in state.scores.values():
        groups.setdefault(score.data, []).append(score)
    own = groups.pop("")
    lines = _score_table(own) if own else ["nothing was asked: there are no held-out questions"]
    for data, scores in groups.items():
        lines += ["", style(f"on {clean_line(data)} rows" if data == GOLD else f"on {clean_line(data)}", "strong")]
        lines += _score_table(scores)
    return lines


def _score_table(scores: Sequence[Score]) -> list[str]:
    rows = [(s.form, f"{s.exact} of {s.rows}", format_share(s.exact_match), f"{s.stopped} of {s.rows}") for s in scores]
    return table([("form", "exact", "share", "ended by itself"), *rows], right={1, 2, 3})

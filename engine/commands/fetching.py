"""`download`: a model of the hub, fetched before a run needs it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from engine import presets
from engine.commands.arguments import Commands, add_command
from engine.commands.checking import Teller
from engine.commands.output import Output, mark
from engine.download import Downloaded, Request, download, of_preset
from engine.errors import ExitCode, FinetuiError, UsageError
from engine.presets import HUB_ID
from engine.text import clean_line
from engine.units import format_bytes


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "download",
        "Fetch a model into the Hugging Face cache, so that a run finds it there.",
        "finetui download qwen3-4b",
    )
    parser.add_argument("name", metavar="PRESET", help="a preset's name, a TOML file, or a model's id on the hub")
    parser.set_defaults(run=fetch)


def fetch(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui download PRESET`: exit 7 if the hub does not give it, 4 if the disk is too small."""
    request = request_for(arguments.name)
    if Path(request.model).is_absolute():
        data: dict[str, Any] = {"model": request.model, "path": request.model, "fetched": False}
        output.result(data, mark("ok", f"nothing to download: the model is the folder {clean_line(request.model)}"))
        return ExitCode.DONE
    teller = Teller(output, request.model)
    try:
        found = download(request, lambda now: teller.tell(now.phase, now.done, now.total, now.unit))
    except KeyboardInterrupt:
        hint = "Start it again: files that arrived whole are kept."
        raise FinetuiError("Interrupted", clean_line(request.model), (hint,), ExitCode.INTERRUPTED) from None
    output.live("")
    for finding in found.findings:
        output.say(mark("warning", finding))
    output.result({"model": request.model, **found.model_dump()}, _lines(request, found))
    return ExitCode.DONE


def request_for(name: str) -> Request:
    """What to download; an id of the hub is taken as it is, and its own config.json tells what it is.

    Raises `UsageError` for a name that is neither that of a preset nor an id.
    """
    try:
        preset = presets.find_preset(name)
    except UsageError:
        if not HUB_ID.fullmatch(name):
            raise
        return Request(model=name)
    # A preset that was made from a config.json that is here says nothing about the one on the hub.
    return Request(model=name) if preset.model == name else of_preset(preset)


def _lines(request: Request, found: Downloaded) -> list[str]:
    done = "downloaded" if found.fetched else "here already"
    return [
        mark(
            "ok", f"{clean_line(request.model)}: {done}, {format_bytes(found.size_bytes)}, commit {found.commit[:12]}"
        ),
        f"  {clean_line(found.path, 400)}",
    ]

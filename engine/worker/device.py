"""The device of stages that can do without the planned GPU: they go on on the CPU where it is gone."""

from __future__ import annotations

from engine.errors import MissingError
from engine.worker.context import Context
from engine.worker.model import Device, claim_device


def claim(context: Context) -> Device:
    """Make exactly the planned GPU visible, or none; must come before torch or llama.cpp look for one.

    A run's folder may be exported on another machine than it was trained on, so a GPU that is not there is a warning.
    """
    try:
        return claim_device(context.plan)
    except MissingError as error:
        context.finding("warning", f"{error.title}: this goes on on the CPU", error.detail)
        return "cpu"

"""The Jinja environment of chat templates: transformers' own dialect, and its borders against a hostile template.

Held against transformers on every template at hand by `tests/worker/test_templates.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class GenerationTags(Extension):
    """`{% generation %} … {% endgeneration %}` around an answer: rendered as if it were not there.

    As a call block, whose variables end with it: what a template sets inside must not be seen outside here either.
    """

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.CallBlock:
        """One block, up to its end tag."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_render"), [], [], body, lineno=line)

    def _render(self, caller: Macro) -> str:
        return caller()


class GuardedNamespace(Namespace):
    """Jinja's `namespace(…)` without names that begin with an underscore, which lead to Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template cannot store {name!r} in a namespace")


class GuardedDict:
    """`dict(…)` and `dict.fromkeys(…)`, and nothing else of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """A new dictionary."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """A new dictionary with one value for all keys."""
        return dict.fromkeys(*args)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers' filter of this name writes it; Jinja's own would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> NoReturn:
    """A template's way to refuse a conversation."""
    raise TemplateError(message)


def environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    """The environment; `now` is what `strftime_now` asks."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTags, loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: now().strftime(form),
        "dict": GuardedDict(),
        "namespace": GuardedNamespace,
    }
    return made

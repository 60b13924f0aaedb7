"""The front door, `finetui` and `python -m tui`: without arguments the app opens, with them a command runs."""

from __future__ import annotations

import sys


def main() -> int:
    """The exit code of the app or of the command; only the one that is asked for is imported."""
    if len(sys.argv) > 1:
        from engine.cli import main as command

        return command()
    from tui.app import main as app

    return app()


if __name__ == "__main__":
    sys.exit(main())

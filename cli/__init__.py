"""The command line: one file for each command, imported when that command is used."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``hwnas`` with the given arguments (default: those of the process) and return its exit code."""
    from .app import run

    return run(arguments)

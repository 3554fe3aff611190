"""Commands that several processes carry out together (`--nproc N`, or under torchrun)."""

import os
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from .common import UsageProblem

Processes = Annotated[int, typer.Option("--nproc", min=1, help="Processes that train together, one for each GPU.")]


def is_first() -> bool:
    """Whether this process is the one that speaks; a single one is."""
    return os.environ.get("RANK", "0") in ("", "0")


def run_in_processes(arguments: Sequence[str], nproc: int) -> NoReturn:
    """Run this command in several processes, which are told apart by their environment.

    Args:
        arguments: of the whole command line, `--nproc` among them.
    """
    from ..search.launch import launch

    if os.environ.get("WORLD_SIZE"):
        raise UsageProblem("--nproc contradicts WORLD_SIZE, by which torchrun says how many processes there are")
    rest = list(arguments)
    for i, argument in enumerate(rest):
        if argument.partition("=")[0] == "--nproc":
            del rest[i : i + (1 if "=" in argument else 2)]
            break
    raise typer.Exit(launch(rest, nproc))

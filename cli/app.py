"""The ``hwnas`` command: which commands there are, and what becomes of their errors.

A command is a module of this folder with a ``typer.Typer`` named ``app``, and a line in `COMMANDS`.
"""

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ..errors import HwnasError
from .messages import Interrupted, one_line, was_interrupted

COMMANDS = {
    "devices": "Which devices can be used here; for the others the reason and the mend.",
    "spaces": "Built-in search spaces: size, choices, workloads.",
    "profile": "Measure the operators of a space on a device: a latency table.",
    "table": "Show, check, compare, export and import latency tables.",
    "predict": "Predict the latency of architectures.",
    "fit": "Fit a predictor on measured networks.",
    "evaluate": "Judge a kind of predictor on a table of measured architectures.",
    "compare": "Set predicted against measured latency of whole networks.",
    "search": "Find the most accurate architecture at a latency, train it and measure it.",
    "train": "Train the network of an architecture.",
    "export": "Write a network as ONNX, TFLite or an exported program.",
}

# Typer's own classes of these names, or click's, which older versions build on.
_USAGE_ERROR = typer.BadParameter.__mro__[1]
_CLICK_ERROR = typer.BadParameter.__mro__[2]


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for, so that ``--help`` loads none of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command = get_command(importlib.import_module(f".{cmd_name}", __package__).app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name the commands there are where the asked one is none of them."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; there are: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands from `COMMANDS`."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an interrupt becomes an exception that typer leaves alone."""
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if was_interrupted(error) and not isinstance(error, Interrupted):
                raise Interrupted() from error
            raise


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`hwnas COMMAND --help` explains a command and gives examples.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"hwnas {__version__}")
        raise typer.Exit()


@app.callback()
def _hwnas(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Measure operators on a device, predict the latency of any architecture, search the best one within a budget."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; errors become one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
        result = get_command(app).main(args=given, prog_name="hwnas", standalone_mode=False, obj=tuple(given))
        sys.stdout.flush()
    except BaseException as error:  # the border of the program: nothing may end in a traceback
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 2
    if isinstance(error, Interrupted | KeyboardInterrupt | typer.Abort):
        _say(f"interrupted; {str(error) or 'what was stored before is kept'}")
        return 130
    if isinstance(error, BrokenPipeError):
        # The interpreter flushes once more at its end, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if os.environ.get("HWNAS_TRACEBACK"):
        traceback.print_exception(error, file=sys.stderr)
    _say(_explain(error))
    return 2


def _explain(error: BaseException) -> str:
    if isinstance(error, HwnasError):
        return str(error)
    if isinstance(error, _CLICK_ERROR):
        context = getattr(error, "ctx", None)
        where = f" (see `{context.command_path} --help`)" if context is not None else ""
        return f"{error.format_message()}{where}"  # type: ignore[attr-defined]
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{where}the disk is full; what was stored before is kept"
        return f"{where}{error.strerror or error}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("hwnas"):
        return f"this needs {error.name.partition('.')[0]}, which is not installed; pip install 'hwnas[all]'"
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"internal error: {type(error).__name__}: {error} (HWNAS_TRACEBACK=1 shows where)"


def _say(message: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        typer.echo(f"hwnas: {one_line(message)}", err=True)

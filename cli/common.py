"""What the commands share: options, tables, progress, JSON results and exit codes."""

import contextlib
import dataclasses
import json
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import HwnasError
from .messages import Interrupted, examples, one_line, was_interrupted

if TYPE_CHECKING:
    from rich.console import Console

    from ..spaces.space import SearchSpace
    from .progress import Steps

__all__ = [
    "Force",
    "Json",
    "Output",
    "Quiet",
    "Space",
    "SpaceArguments",
    "UsageProblem",
    "examples",
    "keeping",
    "load_space",
    "new_app",
    "one_line",
    "pairs",
    "replace_file",
    "space_option",
    "to_json",
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - is standard output."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
Space = Annotated[
    str,
    typer.Option("--space", metavar="SPACE", help="A built-in name, package.module:function or file.py:function."),
]
SpaceArguments = Annotated[
    list[str] | None,
    typer.Option("--space-arg", metavar="NAME=VALUE", help="A parameter of the space; repeatable."),
]


class UsageProblem(HwnasError):
    """An option's value that cannot be used."""


def new_app(help: str | None = None) -> typer.Typer:
    """A Typer with the house's settings, for the ``app`` of a command."""
    return typer.Typer(
        help=help,
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def pairs(values: Iterable[str] | None, option: str) -> dict[str, str]:
    """The ``NAME=VALUE`` texts of a repeated option; raises UsageProblem for anything else."""
    result: dict[str, str] = {}
    for value in values or ():
        name, separator, rest = value.partition("=")
        if not separator or not name.strip():
            raise UsageProblem(f"{option} {value!r} is not of the form NAME=VALUE")
        if name.strip() in result:
            raise UsageProblem(f"{option} {name.strip()} is given twice")
        result[name.strip()] = rest
    return result


def load_space(spec: str, arguments: Iterable[str] | None) -> "SearchSpace":
    """The search space of ``--space`` and ``--space-arg``."""
    from ..spaces.registry import load_space as load

    return load(spec, pairs(arguments, "--space-arg"))


def space_option(spec: str, arguments: Iterable[str] | None) -> str:
    """``--space`` and ``--space-arg`` as given, for a command that is proposed to the user."""
    return shlex.join([spec, *(part for argument in arguments or () for part in ("--space-arg", argument))])


@contextlib.contextmanager
def keeping(message: str) -> Iterator[None]:
    """Let Ctrl-C inside end with exit code 130, a device that goes away with 2; the message says what is kept."""
    try:
        yield
    except BaseException as error:
        if was_interrupted(error):
            raise Interrupted(message) from error
        from ..devices import DeviceLost

        if isinstance(error, DeviceLost):
            raise DeviceLost(f"{error}; {message}") from error
        raise


class Output:
    """Where a command's results go; made at its start, so that a bad ``--json`` is found before any work.

    With ``--json -`` standard output belongs to the JSON object alone, and the rest goes to standard error.

    Args:
        quiet: no progress, no tables.
        json_file: as in ``--json``.
    """

    def __init__(self, quiet: bool = False, json_file: str | None = None) -> None:
        self.quiet = quiet
        self._json = json_file
        if json_file not in (None, "-"):
            _check_json_file(Path(json_file))

    def console(self) -> "Console":
        """The Rich console for tables; markup in data is not interpreted."""
        from rich.console import Console

        stream = sys.stderr if self._json == "-" else sys.stdout
        # Folded lines are for people; in a file or pipe a row stays a line.
        return Console(file=stream, markup=False, highlight=False, width=None if stream.isatty() else 10_000)

    def line(self, text: str = "") -> None:
        """One line for the reader, for instance where the result lies."""
        typer.echo(text, err=self._json == "-")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
        """A table; numbers are aligned to the right, long cells fold."""
        if self.quiet:
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        cells = [list(row) for row in rows]
        table = Table(title=title and Text(one_line(title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(columns):
            numeric = bool(cells) and all(row[i] is None or isinstance(row[i], int | float) for row in cells)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(_cell(value)) for value in row))
        self.console().print(table)

    @contextlib.contextmanager
    def progress(self) -> Iterator["Steps"]:
        """Progress bars with the time left, on standard error; silent when quiet or not on a terminal."""
        from .progress import Steps

        with Steps(quiet=self.quiet) as steps:
            yield steps

    def finish(self, result: Mapping[str, Any], doubts: Sequence[str] = ()) -> None:
        """End a command: write the JSON, name the doubts on standard error, and raise Exit(1) if there are any."""
        if self._json is not None:
            text = json.dumps(to_json(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            if self._json == "-":
                sys.stdout.write(text)
            else:
                replace_file(Path(self._json), text.encode(errors="backslashreplace"))
        for doubt in doubts:
            typer.echo(f"hwnas: {one_line(doubt)}", err=True)
        if doubts:
            raise typer.Exit(1)


def to_json(value: Any) -> Any:
    """Plain JSON data from dataclasses, numpy values and paths; what is not a finite number becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: to_json(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(part) for part in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without importing numpy
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check_json_file(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise UsageProblem(f"--json {path}: {'that is a folder' if path.is_dir() else f'no folder {path.parent}'}")
    if not os.access(path.parent, os.W_OK):
        raise UsageProblem(f"--json {path}: the folder {path.parent} cannot be written")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(1)
        if start not in (b"", b"{"):  # a table or architecture given here by mistake
            raise UsageProblem(f"--json {path}: the file exists and is not a JSON result, it is not overwritten")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        value = 0.0 if abs(value) < 1e-9 else value  # rounding errors of exact counts
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return one_line(value)

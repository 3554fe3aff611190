"""Options of the commands that are about one network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import UsageProblem, load_space
from .measuring import read_architectures

if TYPE_CHECKING:
    from ..spaces.architecture import Architecture
    from ..spaces.space import SearchSpace

OneArchitecture = Annotated[
    Path, typer.Option("--arch", metavar="FILE", help="The architecture in JSON, such as architecture.json of a run.")
]
OwnSpace = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="SPACE",
        help="A built-in name, package.module:function or file.py:function; default: the built-in one that --arch is "
        "of.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="safetensors, a state dict, a checkpoint or the folder of a run; of the network, or of its supernet.",
    ),
]


def read_network(file: Path, space: str | None, arguments: Iterable[str] | None) -> tuple[SearchSpace, Architecture]:
    """The one architecture in a file, checked against its space.

    A space that the file names is loaded only if it is a built-in one.

    Raises:
        UsageProblem: several architectures, or one of a space that has to be given.
        ArchitectureError: it is not of the space.
    """
    from ..spaces.registry import space_names

    architectures = read_architectures([file])
    if len(architectures) != 1:
        raise UsageProblem(f"--arch {file} holds {len(architectures)} architectures; give a file with one")
    (architecture,) = architectures
    if space is None and architecture.space not in space_names():
        raise UsageProblem(
            f"--arch {file} is of space {architecture.space!r}, which is not built in: name its function with --space"
        )
    loaded = load_space(space or architecture.space, arguments)
    loaded.encode([architecture])
    return loaded, architecture

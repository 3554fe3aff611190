"""``hwnas export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Force, Json, Output, Quiet, SpaceArguments, examples, new_app
from .measuring import file_name
from .networks import OneArchitecture, OwnSpace, Weights, read_network

if TYPE_CHECKING:
    from ..search.export import Exported

app = new_app()


@app.command(
    epilog=examples(
        "hwnas export --arch found.json --weights results/train-proxyless-small/weights.safetensors --format onnx "
        "--out found.onnx",
        "hwnas export --arch found.json --weights results/train-proxyless-small --format pt2 --batch 8",
        "hwnas export --arch found.json --space my_spaces.py:tiny --out timing-only.onnx",
    )
)
def export(
    arch: OneArchitecture,
    space: OwnSpace = None,
    space_arguments: SpaceArguments = None,
    weights: Weights = None,
    format: Annotated[str, typer.Option(help="onnx or pt2 (torch.export); tflite is not in this version.")] = "onnx",
    batch: Annotated[int, typer.Option(help="Inputs in one inference; fixed in the file.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights where none are given.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: results/SPACE-ARCH.FORMAT.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Write the network of an architecture as a file that a runtime loads, compared with torch on random inputs."""
    output = Output(quiet, json_file)
    from ..search.export import check_request
    from ..search.export import export as write

    loaded, architecture = read_network(arch, space, space_arguments)
    target = out or Path("results") / f"{file_name(loaded.name, arch.stem)}.{format}"
    check_request(target, format=format, batch=batch, force=force)
    done = write(loaded, architecture, target, format=format, weights=weights, batch=batch, seed=seed, force=force)
    _show(output, done)
    output.finish(done.as_dict())


def _show(output: Output, done: "Exported") -> None:
    shapes = ", ".join("x".join(map(str, shape)) for shape in done.inputs)
    output.table(
        ("exported", "value"),
        [
            ("architecture", done.architecture.short()),
            ("format", f"{done.format} by {done.route}"),
            ("inputs", shapes),
            ("parameters", str(done.parameters)),
            ("size (MB)", f"{done.bytes / 1e6:.2f}"),
            ("max relative error against torch", f"{done.max_relative_error:.1e}"),
        ],
    )
    for note in done.notes:
        output.line(f"note: {note}")
    output.line(f"the network is in {done.out}")

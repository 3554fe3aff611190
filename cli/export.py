"""``hwnas export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Force, Json, Output, Quiet, SpaceArguments, examples, new_app
from .measuring import CalibrationSource, file_name
from .networks import OneArchitecture, OwnSpace, Weights, read_network

if TYPE_CHECKING:
    from ..profiler.lowering.precision.run import Border
    from ..search.export import Exported

app = new_app()


@app.command(
    epilog=examples(
        "hwnas export --arch found.json --weights results/train-proxyless-small/weights.safetensors --format onnx "
        "--out found.onnx",
        "hwnas export --arch found.json --weights results/train-proxyless-small --format tflite --dtype int8 "
        "--calibration-data digits:28",
        "hwnas export --arch found.json --weights results/train-proxyless-small --format pt2 --batch 8",
        "hwnas export --arch found.json --space my_spaces.py:tiny --out timing-only.onnx",
    )
)
def export(
    arch: OneArchitecture,
    space: OwnSpace = None,
    space_arguments: SpaceArguments = None,
    weights: Weights = None,
    format: Annotated[str, typer.Option(help="onnx, tflite (images are NHWC in it) or pt2 (torch.export).")] = "onnx",
    dtype: Annotated[
        str, typer.Option(help="fp32; int8 in onnx and tflite; fp16, of the weights, in tflite.")
    ] = "fp32",
    calibration: CalibrationSource = None,
    batch: Annotated[int, typer.Option(help="Inputs in one inference; fixed in the file.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights where none are given.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: results/SPACE-ARCH.FORMAT.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Write the network of an architecture as a file that a runtime loads, compared with torch on random inputs.

    An int8 model is compared on the data that it is calibrated by; it takes and gives 8-bit numbers.
    """
    output = Output(quiet, json_file)
    from ..search.export import check_request
    from ..search.export import export as write

    loaded, architecture = read_network(arch, space, space_arguments)
    name = file_name(loaded.name, arch.stem, "" if dtype == "fp32" else dtype)
    target = out or Path("results") / f"{name}.{format}"
    check_request(target, format=format, dtype=dtype, batch=batch, force=force, calibrated=calibration is not None)
    data = None
    if calibration is not None:
        from ..search.data.calibration import EXPORT_IMAGES, load_calibration_data

        data = load_calibration_data(calibration, loaded, EXPORT_IMAGES)
    done = write(
        loaded,
        architecture,
        target,
        format=format,
        dtype=dtype,
        weights=weights,
        batch=batch,
        seed=seed,
        force=force,
        calibration=data,
    )
    _show(output, done)
    output.finish(done.as_dict(), done.doubts)


def _show(output: Output, done: "Exported") -> None:
    rows = [
        ("architecture", done.architecture.short()),
        ("format", f"{done.format} by {done.route}"),
        ("precision", done.dtype + (f", calibrated by {done.calibrated_by}" if done.calibrated_by else "")),
        ("inputs", ", ".join(_described(border, done.layout) for border in done.tensors["inputs"])),
        ("outputs", ", ".join(_described(border, done.layout) for border in done.tensors["outputs"])),
        ("parameters", str(done.parameters)),
        ("size (MB)", f"{done.bytes / 1e6:.2f}"),
        ("max relative error against torch", f"{done.max_relative_error:.1e}"),
        ("relative RMS error", f"{done.rms_error:.1e}"),
    ]
    if done.same_class is not None:
        rows.append(("same class as torch (%)", f"{100 * done.same_class:.1f}"))
    output.table(("exported", "value"), rows)
    for note in done.notes:
        output.line(f"note: {note}")
    output.line(f"the network is in {done.out}")


def _described(border: "Border", layout: str) -> str:
    text = "x".join(map(str, border.shape)) + (f" ({layout})" if len(border.shape) == 4 else "") + f" {border.dtype}"
    return f"{text}, scale {border.scale:.6g}, zero point {border.zero_point}" if border.scale else text

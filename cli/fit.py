"""``hwnas fit``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Force,
    Json,
    Output,
    Quiet,
    Space,
    SpaceArguments,
    UsageProblem,
    examples,
    keeping,
    load_space,
    new_app,
)
from .evaluate import columns
from .measuring import (
    Agent,
    AgentPython,
    Batch,
    BenchmarkBinary,
    CalibrationSource,
    Dtype,
    Gpu,
    Serial,
    Threads,
    calibration_data,
    create_device,
    file_name,
)
from .profile import unusual

if TYPE_CHECKING:
    from ..devices.base import Device
    from ..predictors.fit import FitResult
    from ..predictors.frames import FrameRequest

app = new_app()

NETWORKS = 100
MANY = 50
"""Times as many networks are no advice any more."""


@app.command(
    epilog=examples(
        "hwnas fit --device cpu --space nasbench201 --networks 200",
        "hwnas fit --device cpu --space proxyless --networks 100 --table tables/cpu-proxyless.db --out p.npz",
        "hwnas fit --space nasbench201 --data measured.parquet --target lat_cpu --features op0,op1,op2,op3,op4,op5",
        "hwnas fit --space proxyless --table tables/cpu-proxyless.db",
        "hwnas fit --space proxyless --space-arg width=0.75 --kind kernel --table tables/cpu-proxyless.db",
    )
)
def fit(
    device: Annotated[
        str | None, typer.Option("--device", metavar="D", help="Where to measure; default: the device of --table.")
    ] = None,
    space: Space = "proxyless",
    space_arguments: SpaceArguments = None,
    networks: Annotated[
        int | None, typer.Option("--networks", metavar="N", help="Random networks to measure; default 100.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="K", help="What to fit; default stacked.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="P", help="Default: predictors/DEVICE-SPACE-KIND.npz.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Measured architectures in a Parquet file, instead.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="Of --data: the latencies.")] = None,
    features: Annotated[
        str | None, typer.Option("--features", metavar="A,B,...", help="Of --data: the choices of the space, in order.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="TABLE",
            help="A latency table: its predictions are a feature, and, without --networks and --data, the networks "
            "that were measured for it are what is learned from.",
        ),
    ] = None,
    measurements: Annotated[
        Path | None,
        typer.Option("--measurements", metavar="DIR", help="Raw samples; default: results/fit-DEVICE-SPACE."),
    ] = None,
    visits: Annotated[int, typer.Option(help="Visits to each network, spread over its batch.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and the fit.")] = 0,
    batch: Batch = None,
    threads: Threads = None,
    dtype: Dtype = None,
    gpu: Gpu = None,
    calibration: CalibrationSource = None,
    agent: Agent = None,
    agent_python: AgentPython = None,
    serial: Serial = None,
    benchmark_binary: BenchmarkBinary = None,
    force: Force = False,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Fit a predictor on measured networks, and tell how good it is and how many more would help.

    Random networks of the space are measured on the device; a run that was interrupted goes on where it stopped when
    the same command is given again, and networks that were measured for one kind serve for the others.
    """
    output = Output(quiet, json_file)
    from ..predictors.fit import check_free, fitted_kind
    from ..predictors.fit import fit as learn
    from ..predictors.sources import MeasureRequest, from_device, from_frame, from_table

    made = fitted_kind(kind)
    read = _frame_request(data, target, features, networks)
    asked = load_space(space, space_arguments)
    if made.kind == "kernel" and table is not None and read is None and networks is None:
        from .kernel import from_prices

        path = out or Path("predictors") / f"{file_name(table.stem, asked.name, made.kind)}.npz"
        return from_prices(output, table, asked, path, replace=force)
    measures = read is None and (networks is not None or table is None)
    settings = {"batch": batch, "threads": threads, "dtype": dtype, "gpu": gpu}
    on = _device(device, table, measures, {**settings, "serial": serial, "benchmark_binary": benchmark_binary})
    odd = unusual(on, space_arguments) if on else space_arguments or []
    names = (on.name if on else "data", asked.name, *odd)
    path = out or Path("predictors") / f"{file_name(*names, made.kind)}.npz"
    check_free(path, force)
    folder = measurements or Path("results") / file_name("fit", *names)
    kept = f"what was measured is kept in {folder}; the same command goes on from there"
    with keeping(kept), output.progress() as progress:
        if read is not None:
            source = from_frame(read, asked, on)
        elif measures and on is not None:
            source = from_device(
                MeasureRequest(
                    device=on,
                    space=asked,
                    folder=folder,
                    n=NETWORKS if networks is None else networks,
                    visits=visits,
                    seed=seed,
                    agent=agent,
                    agent_python=agent_python,
                    calibration=calibration_data(calibration, asked, on),
                ),
                progress,
            )
        elif table is not None:
            source = from_table(table, asked)
        result = learn(asked, source, path, kind=kind, table=table, seed=seed, replace=force, progress=progress)
    _show(output, result)
    output.line(f"predictor: {path}")
    output.finish(result.as_dict(), result.doubts)


def _frame_request(
    data: Path | None, target: str | None, features: str | None, networks: int | None
) -> "FrameRequest | None":
    """What to read of ``--data``; None without it. Raises UsageProblem for options that do not go together."""
    if data is None:
        if target or features:
            raise UsageProblem("--target and --features are of --data, which is not given")
        return None
    if networks is not None:
        raise UsageProblem("--data and --networks exclude each other: learn from the file, or measure")
    if not target or not features:
        raise UsageProblem("--data needs --target and --features")
    from ..predictors.frames import FrameRequest

    return FrameRequest(data, target, columns(features))


def _device(name: str | None, table: Path | None, needed: bool, options: Mapping[str, Any]) -> "Device | None":
    """The device to measure on, by default that of the table; None where nothing is measured and none is named."""
    if not needed and name is None:
        return None
    made_for = None
    if table is not None:
        from ..profiler.table import LatencyTable

        with LatencyTable.open(table) as opened:
            made_for = opened.provenance.device, opened.provenance.settings
    if name is None and made_for is None:
        raise UsageProblem("--device is missing: where to measure (or give --data, or --table)")
    return create_device(name, made_for=made_for, **options)


def _show(output: Output, result: "FitResult") -> None:
    if output.quiet:
        return
    for note in result.notes:
        output.line(note)
    error, n, curve = result.error, len(result.predictor.training.latency), result.curve
    output.table(
        ("cross-validation", f"{result.predictor.kind}, {n} networks"),
        [
            ("MAPE %", error.mape),
            ("within 1 / 5 / 10 %", f"{error.within_1:.0f} / {error.within_5:.0f} / {error.within_10:.0f}"),
            ("largest error %", error.max_error),
            ("Kendall tau", error.kendall),
            ("width of 90 % intervals %", result.width),
        ],
    )
    more = [(m, curve.at(m)) for m in (2 * n, 4 * n)]
    output.table(
        ("networks", "MAPE %", ""),
        [*((m, e, "") for m, e in curve.points), *((m, e, "expected, at best") for m, e in more if e is not None)],
        title="How much more measuring would help",
    )
    needed = curve.needed(error.mape / 2)
    if needed is not None and needed <= MANY * n:
        output.line(f"to halve the error takes about {needed} networks, if it keeps falling as it did")
    elif curve.exponent is not None:
        output.line("more networks would help little")

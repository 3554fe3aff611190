"""``hwnas fit``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    space_option,
)
from .evaluate import columns, transferring
from .fit_data import FitData
from .fit_report import show_fit, show_use
from .fit_sources import read
from .measuring import (
    Agent,
    AgentPython,
    Batch,
    BenchmarkBinary,
    CalibrationSource,
    Dtype,
    Eager,
    Gpu,
    GpuIndex,
    Serial,
    Threads,
    file_name,
)
from .profile import unusual

if TYPE_CHECKING:
    from ..predictors.frames import FrameRequest

app = new_app()

Where = Annotated[
    str | None, typer.Option("--device", metavar="D", help="Where to measure; default: the device of --table.")
]
Networks = Annotated[
    int | None,
    typer.Option(
        "--networks",
        metavar="N",
        help="Random networks to measure, default 100; with --until-mape at most, default 1000.",
    ),
]
UntilMape = Annotated[
    float | None,
    typer.Option(
        "--until-mape",
        metavar="PERCENT",
        help="Choose networks, and measure until the MAPE is so small; the random half of them are the judges.",
    ),
]
Kind = Annotated[str | None, typer.Option("--kind", metavar="K", help="What to fit; default stacked.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="P", help="Default: predictors/DEVICE-SPACE-KIND.npz.")]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help="Measured architectures in a Parquet file, instead.")
]
Target = Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="Of --data: the latencies.")]
Features = Annotated[
    str | None, typer.Option("--features", metavar="A,B,...", help="Of --data: the choices of the space, in order.")
]
Sources = Annotated[
    str | None,
    typer.Option(
        "--sources",
        metavar="P,...",
        help="Other devices to transfer from: their tables or predictors of the same space, or FILE:COLUMN of Parquet "
        "files with --features.",
    ),
]
Table = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="TABLE",
        help="A latency table: its predictions are a feature, and, without --networks, --until-mape and --data, the "
        "networks that were measured for it are what is learned from.",
    ),
]
Measurements = Annotated[
    Path | None,
    typer.Option("--measurements", metavar="DIR", help="Raw samples; default: results/fit-DEVICE-SPACE."),
]


@app.command(
    epilog=examples(
        "hwnas fit --device cpu --space nasbench201 --networks 200",
        "hwnas fit --device cpu --space proxyless-small --until-mape 2 --networks 400",
        "hwnas fit --device cpu --space proxyless --networks 100 --table tables/cpu-proxyless.db --out p.npz",
        "hwnas fit --space nasbench201 --data measured.parquet --target lat_cpu --features op0,op1,op2,op3,op4,op5",
        "hwnas fit --space proxyless --table tables/cpu-proxyless.db",
        "hwnas fit --device mobile --space proxyless --networks 20 --sources tables/cpu-proxyless.db,gpu.npz",
        "hwnas fit --space proxyless --space-arg width=0.75 --kind kernel --table tables/cpu-proxyless.db",
    )
)
def fit(
    device: Where = None,
    space: Space = "proxyless",
    space_arguments: SpaceArguments = None,
    networks: Networks = None,
    until_mape: UntilMape = None,
    kind: Kind = None,
    out: Out = None,
    data: Data = None,
    target: Target = None,
    features: Features = None,
    sources: Sources = None,
    table: Table = None,
    measurements: Measurements = None,
    visits: Annotated[int, typer.Option(help="Visits to each network, spread over its batch.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and the fit.")] = 0,
    batch: Batch = None,
    threads: Threads = None,
    dtype: Dtype = None,
    gpu: Gpu = None,
    gpu_index: GpuIndex = None,
    eager: Eager = None,
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
    from ..predictors.fit import FitRequest, check_free, fitted_kind

    kind = transferring(kind, sources)
    made = fitted_kind(kind)
    given = FitData(_file(data, target, features, sources), table, networks, until_mape)
    asked = load_space(space, space_arguments)
    if made.kind == "kernel" and table is not None and (data, networks, until_mape) == (None, None, None):
        from .kernel import from_prices

        path = out or Path("predictors") / f"{file_name(table.stem, asked.name, made.kind)}.npz"
        return from_prices(output, table, asked, path, replace=force)
    settings = {"batch": batch, "threads": threads, "dtype": dtype, "gpu": gpu, "eager": eager}
    reached = {"serial": serial, "benchmark_binary": benchmark_binary, "gpu_index": gpu_index}
    on = given.device(device, {**settings, **reached})
    names = (on.name if on else "data", asked.name, *(unusual(on, space_arguments) if on else space_arguments or []))
    path = out or Path("predictors") / f"{file_name(*names, made.kind)}.npz"
    check_free(path, force)
    others, notes = read(sources, features, asked, space_option(space, space_arguments))
    request = FitRequest(asked, path, kind, table, seed, force, others, notes)
    folder = measurements or Path("results") / file_name("fit", *names)
    how = {"visits": visits, "seed": seed, "agent": agent, "agent_python": agent_python}
    measuring = given.measuring(on, asked, folder, made.kind, calibration, how)
    kept = f"what was measured is kept in {folder}; the same command goes on from there"
    with keeping(kept if measuring else "nothing is stored"), output.progress() as progress:
        result = given.fit(request, on, measuring, progress)
    show_fit(output, result)
    show_use(output, result, space_option(space, space_arguments))
    output.finish(result.as_dict(), result.doubts)


def _file(data: Path | None, target: str | None, features: str | None, sources: str | None) -> "FrameRequest | None":
    """What to read of ``--data``; None without it. Raises UsageProblem for options that do not go together."""
    if data is None:
        if target or (features and not sources):
            raise UsageProblem("--target and --features are of --data, which is not given")
        return None
    if not target or not features:
        raise UsageProblem("--data needs --target and --features")
    from ..predictors.frames import FrameRequest

    return FrameRequest(data, target, columns(features))

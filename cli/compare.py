"""``hwnas compare``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
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
from .measuring import (
    Agent,
    AgentPython,
    Architectures,
    Batch,
    BenchmarkBinary,
    CalibrationSource,
    Dtype,
    Eager,
    Gpu,
    GpuIndex,
    MoreArchitectures,
    Predictor,
    Serial,
    Threads,
    calibration_data,
    create_device,
    file_name,
    read_architectures,
)

if TYPE_CHECKING:
    from ..predictors.comparison import ComparedNetwork, Comparison

app = new_app()


@app.command(
    epilog=examples(
        "hwnas compare --predictor tables/cpu-proxyless.db --device cpu",
        "hwnas compare --predictor cpu.db --device cpu --space nasbench201 --networks 40 --seed 1 --out results/nb201",
        "hwnas compare --predictor cpu.db --device cpu --arch a.json b.json",
        "hwnas compare --predictor tables/android-proxyless.db --benchmark-binary ./benchmark_model",
    )
)
def compare(
    predictor: Predictor,
    device: Annotated[
        str | None, typer.Option("--device", metavar="D", help="Default: device and settings of the predictor.")
    ] = None,
    space: Space = "proxyless",
    space_arguments: SpaceArguments = None,
    networks: Annotated[int | None, typer.Option(help="So many, drawn uniformly; default 20.")] = None,
    arch: Architectures = None,
    more: MoreArchitectures = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    visits: Annotated[int, typer.Option(help="Visits to each network, spread over the run.")] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default: results/compare-DEVICE-SPACE.")
    ] = None,
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
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Set predicted against measured latency: build whole networks, measure them here and now, and compare.

    The networks that calibrated the predictor are measured among them, so that what changed on the machine since is
    seen (drift), and predictions are also judged with the factor refitted on them.
    """
    output = Output(quiet, json_file)
    from ..predictors.compare import CompareRequest
    from ..predictors.compare import compare as measure
    from ..predictors.registry import load_predictor

    architectures = read_architectures(arch, more)
    if architectures and networks is not None:
        raise UsageProblem("--networks and --arch exclude each other")
    asked = load_space(space, space_arguments)
    loaded = load_predictor(predictor, asked, space_option=space_option(space, space_arguments))
    made_for = (loaded.origin.device, loaded.origin.settings) if loaded.origin else None
    on = create_device(
        device,
        made_for=made_for,
        batch=batch,
        threads=threads,
        dtype=dtype,
        gpu=gpu,
        gpu_index=gpu_index,
        eager=eager,
        serial=serial,
        benchmark_binary=benchmark_binary,
    )
    folder = out or Path("results") / file_name("compare", on.name, asked.name)
    request = CompareRequest(
        predictor=loaded,
        device=on,
        out=folder,
        n=20 if networks is None else networks,
        architectures=architectures,
        seed=seed,
        visits=visits,
        agent=agent,
        agent_python=agent_python,
        calibration=calibration_data(calibration, asked, on),
    )
    with keeping(f"what was measured is kept in {folder}; the same command goes on from there within an hour"):
        with output.progress() as progress:
            result = measure(request, progress)
        _show(output, result)
    output.line(f"compare.csv, compare.json, compare.png and the raw samples are in {folder}")
    output.finish({**result.as_dict(), "out": folder}, result.doubts)


def _show(output: Output, result: "Comparison") -> None:
    if output.quiet:
        return
    _show_networks(output, "network", [("", n) for n in result.networks], result.unit)
    _show_networks(output, "extremes", list(result.extremes.items()), result.unit)
    output.table(("statistic", "as it stands", "factor refitted now", "95 % interval"), _statistics(result))
    if result.drift is not None and result.factor is not None and result.calibration_networks:
        output.line(
            f"drift since the table {result.drift:+.2f} %, factor refitted {result.factor:.4f} "
            f"({result.calibration_networks} calibration networks)"
        )
    if result.noise is not None:
        output.line(f"noise floor: a measured network repeats within {result.noise:.2f} % (same run, rms)")


def _show_networks(output: Output, title: str, networks: Sequence[tuple[str, "ComparedNetwork"]], unit: str) -> None:
    output.table(
        (title, "architecture", f"predicted ({unit})", "refitted", f"measured ({unit})", "error %", "p50 wall", "p90"),
        [
            (
                name or i + 1,
                n.architecture.short(),
                n.predicted,
                n.predicted_refitted,
                n.measured,
                round(n.error, 2),
                n.wall_p50,
                n.wall_p90,
            )
            for i, (name, n) in enumerate(networks)
        ],
    )


def _statistics(result: "Comparison") -> list[tuple[str, object, object, str]]:
    names: Mapping[str, str] = {
        "mape": "MAPE %",
        "bias": "bias %",
        "rmse": "RMS error %",
        "max_error": "largest error %",
        "within_1": "within 1 %",
        "within_5": "within 5 %",
        "within_10": "within 10 %",
        "spearman": "Spearman",
        "kendall": "Kendall tau",
    }
    rows: list[tuple[str, object, object, str]] = []
    for key, title in names.items():
        ends = result.intervals.get(key)
        rows.append(
            (
                title,
                getattr(result.errors, key, None),
                getattr(result.refitted, key, None),
                f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "",
            )
        )
    return rows

"""``hwnas profile``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from .common import Json, Output, Quiet, Space, SpaceArguments, UsageProblem, examples, keeping, load_space, new_app
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
    calibration_data,
    create_device,
    file_name,
    seconds,
    share,
)

if TYPE_CHECKING:
    from ..devices.base import Device
    from ..profiler.profile import ProfileResult

app = new_app()


@app.command(
    epilog=examples(
        "hwnas profile --device cpu",
        "hwnas profile --device cpu --space nasbench201 --out nb201.db --budget 2m",
        "hwnas profile --device cpu --space my_net.py:space --space-arg width=0.5 --threads 2",
        "hwnas profile --device cpu --dtype int8 --space proxyless-small --calibration-data digits:28",
        "hwnas profile --device cpu --agent 'ssh board python3' --out board.db",
        "hwnas profile --device android --benchmark-binary ./benchmark_model --budget 30m",
    )
)
def profile(
    device: Annotated[str, typer.Option("--device", metavar="D", help="Where to measure; see `hwnas devices`.")],
    space: Space = "proxyless",
    space_arguments: SpaceArguments = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="TABLE", help="Default: tables/DEVICE-SPACE.db.")] = None,
    method: Annotated[
        str, typer.Option(help="auto, isolated or in-context: where the operators' times come from.")
    ] = "auto",
    tolerance: Annotated[str, typer.Option(help="Visits to an operator have to agree so well: 1% or 0.01.")] = "1%",
    budget: Annotated[str, typer.Option(help="No measuring begins after this time: 90s, 10m or 1h.")] = "10m",
    max_visits: Annotated[int, typer.Option(help="Visits after which an operator counts as unconverged.")] = 40,
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
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the visits.")] = 0,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Measure the operators of a space on a device, and calibrate them on whole networks: a latency table.

    A run that was interrupted goes on where it stopped when the same command is given again.
    """
    output = Output(quiet, json_file)
    from ..profiler.profile import Method, ProfileRequest
    from ..profiler.profile import profile as measure
    from ..profiler.protocol import MeasuringProtocol

    if method not in get_args(Method):
        raise UsageProblem(f"--method {method!r} is not one of {', '.join(get_args(Method))}")
    protocol = MeasuringProtocol(tolerance=share(tolerance, "--tolerance"), max_visits=max_visits)
    limit = seconds(budget, "--budget")
    on = create_device(
        device,
        batch=batch,
        threads=threads,
        dtype=dtype,
        gpu=gpu,
        gpu_index=gpu_index,
        eager=eager,
        serial=serial,
        benchmark_binary=benchmark_binary,
    )
    asked = load_space(space, space_arguments)
    path = out or Path("tables") / f"{file_name(device, asked.name, *unusual(on, space_arguments))}.db"
    request = ProfileRequest(
        device=on,
        space=asked,
        out=path,
        method=method,  # type: ignore[arg-type]  # checked above
        protocol=protocol,
        budget_s=limit,
        agent=agent,
        agent_python=agent_python,
        calibration=calibration_data(calibration, asked, on),
        seed=seed,
    )
    with keeping(f"what was measured is kept in {path}; the same command goes on from there"):
        with output.progress() as progress:
            result = measure(request, progress)
        _show(output, result, on.unit)
    doubts = [f"{key} failed: {reason}" for key, reason in result.failed.items()]
    doubts += _unconverged(result.unconverged, max_visits, path)
    output.finish(result.as_dict(), doubts + result.doubts)


def _unconverged(keys: list[str], max_visits: int, path: Path) -> list[str]:
    if not keys:
        return []
    others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return [
        f"{keys[0]}{others} did not converge in {max_visits} visits: the machine is busy; "
        f"`hwnas table show {path}` marks them, a new table on a quiet machine mends it"
    ]


def unusual(device: "Device", arguments: list[str] | None) -> list[str]:
    """What distinguishes a table from others of the same device and space."""
    settings = device.settings
    parts = [] if settings.batch == 1 else [f"b{settings.batch}"]
    parts += [] if settings.threads == 1 else [f"t{settings.threads}"]
    parts += [] if settings.dtype == "fp32" else [settings.dtype]
    parts += [name for name in ("gpu", "eager") if getattr(settings, name, False)]
    return [*parts, *(arguments or [])]


def _show(output: Output, result: "ProfileResult", unit: str) -> None:
    kept = result.calibration
    output.table(("phase", "seconds"), [*result.phases.items(), ("all", result.seconds)], title="Where the time went")
    if result.tried:
        output.table(
            ("operator times", "dead operators", "factor", "MAPE %", "max %", "bias %", "kept"),
            [
                (
                    c.method,
                    "left out" if c.live else "counted",
                    c.factor,
                    c.error.mape if c.error else None,
                    c.error.max_error if c.error else None,
                    c.error.bias if c.error else None,
                    "yes" if kept is not None and c == kept else "",
                )
                for c in result.tried
            ],
            title="Ways to predict networks from operators, on networks that were held out",
        )
    output.line(
        f"{result.n} workloads, {len(result.failed)} failed, {len(result.unconverged)} did not converge; "
        f"table: {result.table}"
    )
    if kept is not None and not output.quiet:
        error = kept.error
        seen = (
            f"; on {error.n} held-out networks MAPE {error.mape:.2f} %, at most {error.max_error:.2f} %"
            if error
            else ""
        )
        output.line(f"kept: {kept.method}, factor {kept.factor:.3f}, residual {kept.residual:.4g} {unit}{seen}")

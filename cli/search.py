"""``hwnas search``."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Json, Output, Quiet, SpaceArguments, examples, keeping, new_app, pairs
from .measuring import Agent, AgentPython, Batch, BenchmarkBinary, Dtype, Gpu, Serial, Threads, file_name
from .processes import Processes, is_first, run_in_processes

if TYPE_CHECKING:
    from ..search.config import SearchConfig
    from ..search.run import RunFolder
    from ..spaces.space import SearchSpace

app = new_app()

_TABLES = "tables/cpu-proxyless-small.db"


@app.command(
    epilog=examples(
        f"hwnas search --space proxyless-small --predictor {_TABLES} --target 0.8",
        f"hwnas search --space proxyless-small --predictor {_TABLES} --target 0.8 --limit --algorithm reinforce",
        f"hwnas search --space proxyless-small --predictor {_TABLES} --target 0.8 --limit --coverage 0.9",
        "hwnas search --space proxyless --data imagefolder:/data/imagenet --predictor mobile.db --target 80 --nproc 8",
        "hwnas search --space nasbench201 --data cifar10:/data/cifar --predictor flops --target 30 --seed 1",
        f"hwnas search --space proxyless-small --predictor {_TABLES} --target 0.8 --predictor board.db --target 5",
        f"hwnas search --space proxyless-small --latency measured --predictor {_TABLES} --target 0.8 "
        "--algorithm reinforce",
        "hwnas search --config results/search-proxyless-small-gradient/config.yaml --set search.weights.lr=0.1 "
        "--out again",
    )
)
def search(
    ctx: typer.Context,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="SPACE",
            help="A built-in name, package.module:function or file.py:function; default proxyless.",
        ),
    ] = None,
    space_arguments: SpaceArguments = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="digits[:SIZE], mnist5k[:SIZE], cifar10:PATH, imagefolder:PATH or package.module:function; default "
            "for spaces of 28x28x1 digits:28, of 8x8x1 digits.",
        ),
    ] = None,
    predictor: Annotated[
        list[str] | None,
        typer.Option(
            "--predictor",
            metavar="P",
            help="A latency table, another predictor's file, or `flops`; with --target, repeatable in pairs for "
            "several devices.",
        ),
    ] = None,
    target: Annotated[
        list[float] | None,
        typer.Option("--target", metavar="X", help="In the predictor's unit, milliseconds or MMACs."),
    ] = None,
    limit: Annotated[
        bool, typer.Option("--limit", help="Stay below the target; without it the latency is to be at the target.")
    ] = False,
    coverage: Annotated[
        float | None,
        typer.Option(metavar="C", help="With --limit: the upper end of the interval, of 0.9 say, is what stays below."),
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help="gradient (default), reinforce, evolution or random.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="Of gradient: full_v2 (default; memory of one path), full (all candidates) or two."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="hold (default: the expected latency stays at the target), limit, mul#log, add#linear, or none.",
        ),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(help="predicted (default), or measured: each sampled network is timed on the device, once."),
    ] = None,
    warmup_epochs: Annotated[int | None, typer.Option(help="Training of random paths before the search.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the search.")] = None,
    final_epochs: Annotated[int | None, typer.Option(help="Training of the found network; 0 leaves it out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn; default 0.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="D",
            help="Where the result is measured; default: device and settings of the predictor.",
        ),
    ] = None,
    batch: Batch = None,
    threads: Threads = None,
    dtype: Dtype = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration-data",
            metavar="DATA",
            help="Images by which networks are calibrated that are measured in int8; default: those of --data.",
        ),
    ] = None,
    gpu: Gpu = None,
    agent: Agent = None,
    agent_python: AgentPython = None,
    serial: Serial = None,
    benchmark_binary: BenchmarkBinary = None,
    compute: Annotated[
        str | None, typer.Option(help="Where to train: auto (default; CUDA where there is one), cpu or cuda.")
    ] = None,
    torch_threads: Annotated[
        int | None, typer.Option(help="Threads of the training; default: as torch has it.")
    ] = None,
    nproc: Processes = 1,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings in YAML, such as the config.yaml of another run."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting by its key in config.yaml; covers --config, and options cover it; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default: results/search-SPACE-ALGORITHM.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin anew where a run is in the folder.")] = False,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Find the most accurate architecture at a latency, train it, and measure it: predicted against measured.

    A run is a folder. The same command goes on with it where it was interrupted, and shows the result again where it
    is finished. Operators are not measured by this command: it names those that the predictor lacks.
    """
    first = is_first()
    output = Output(quiet or not first, json_file if first else None)
    from ..search.config import Option, read_config

    given = (
        Option("--space", "space", space),
        Option("--space-arg", "space_args", pairs(space_arguments, "--space-arg") or None),
        Option("--data", "data", data),
        Option("--algorithm", "search.algorithm", algorithm),
        Option("--mode", "search.gradient.mode", mode),
        Option("--objective", "search.objective.kind", objective),
        Option("--coverage", "search.objective.coverage", coverage),
        Option("--latency", "latency", latency),
        Option("--warmup-epochs", "search.warmup_epochs", warmup_epochs),
        Option("--epochs", "search.weights.epochs", epochs),
        Option("--final-epochs", "final.weights.epochs", final_epochs),
        Option("--seed", "seed", seed),
        Option("--device", "device", device),
        Option("--batch", "batch", batch),
        Option("--threads", "threads", threads),
        Option("--dtype", "dtype", dtype),
        Option("--calibration-data", "calibration_data", calibration),
        Option("--gpu", "gpu", gpu),
        Option("--agent", "agent", agent),
        Option("--agent-python", "agent_python", agent_python),
        Option("--serial", "serial", serial),
        Option("--benchmark-binary", "benchmark_binary", benchmark_binary),
        Option("--compute", "compute", compute),
        Option("--torch-threads", "torch_threads", torch_threads),
    )
    config = read_config(
        config_file, settings or (), given, predictors=predictor or (), targets=target or (), limit=limit
    )
    if nproc > 1:
        run_in_processes(ctx.obj, nproc)
    _search(output, config, out, force)


def _search(output: Output, asked: "SearchConfig", out: Path | None, force: bool) -> None:
    from ..search.preparation import resolve
    from ..search.run import REPORT, RunFolder

    config, space = resolve(asked)
    folder = out or Path("results") / file_name("search", space.name, config.search.algorithm)
    if RunFolder(folder).finished and not force:
        with _open(folder, config, force=False, rank=int(not is_first())) as run:
            report = run.read_json(REPORT)
        output.line(f"{folder} holds this run, finished; --force begins anew")
    else:
        report = _run(output, config, space, folder, force)
    _show(output, report)
    output.line(f"architecture.json, report.json, the weights, the log and the plots are in {folder}")
    output.finish({**report, "out": folder}, report.get("doubts") or ())


def _run(output: Output, config: "SearchConfig", space: "SearchSpace", folder: Path, force: bool) -> Mapping[str, Any]:
    import torch

    from ..search.distributed import Ranks
    from ..search.job import SearchJob
    from ..search.preparation import prepare
    from ..search.training import compute_device

    if config.torch_threads is not None:
        torch.set_num_threads(config.torch_threads)
    prepared = prepare(config, space)
    with (
        keeping(f"what was done is kept in {folder}; the same command goes on from there"),
        Ranks.start(compute_device(config.compute)) as ranks,
        _open(folder, config, force, ranks.rank) as run,
    ):
        ranks.agree("that the folder is open")
        missing = [] if prepared.final.device else [f"the result will not be measured: {prepared.final.reason}"]
        for note in (*run.notes, *missing):
            output.line(f"note: {note}")
        with output.progress() as progress:
            report = SearchJob(config, prepared, run, ranks).run(progress)
    return report


@contextmanager
def _open(folder: Path, config: "SearchConfig", force: bool, rank: int = 0) -> Iterator["RunFolder"]:
    """The folder of the run; processes beside the first only read there."""
    from ..search.config import MAY_DIFFER
    from ..search.run import RunFolder

    if rank:
        yield RunFolder(folder)
        return
    with RunFolder.open(folder, config.as_dict(), force=force, may_differ=MAY_DIFFER) as run:
        yield run


def _show(output: Output, report: Mapping[str, Any]) -> None:
    """The networks that were measured, and the result."""
    unit = report.get("unit") or "-"
    candidates = report.get("landing") or ()
    if len(candidates) > 1:
        columns = ("measured to be chosen from", f"predicted ({unit})", "refitted", f"measured ({unit})")
        values = ("predicted", "predicted_refitted", "measured")
        rows = [(_short(c["architecture"]), *(_text(c.get(value)) for value in values)) for c in candidates]
        output.table(columns, rows)
    goals = report.get("goals") or ()
    together = len(goals) > 1
    found: list[tuple[str, object]] = [
        ("accuracy (%)", report.get("accuracy")),
        *((f"{goal.get('predictor')}: target, predicted ({goal['unit']})", _goal(goal)) for goal in goals if together),
        (f"target ({unit})", None if together else report.get("target")),
        (f"predicted ({unit})", None if together else report.get("predicted")),
        *_estimated(goals, unit),
        (f"measured independently ({unit})", report.get("measured")),
        (f"measured off target{', all together' * together} (%)", report.get("deviation")),
        ("wall clock p50, p90 (ms)", _pair(report.get("wall_p50"), report.get("wall_p90"))),
        ("architecture", _short(report.get("architecture"))),
    ]
    output.table(("found", "value"), [(name, _text(value)) for name, value in found if value is not None])
    for warning in report.get("warnings") or ():
        output.line(f"note: {warning}")


def _estimated(goals: Sequence[Mapping[str, Any]], unit: str) -> Iterator[tuple[str, object]]:
    """Of predictors without a closed form how good the estimate of the expected latency was; ends of intervals."""
    for goal in goals:
        name = f"{goal.get('predictor')}: " * (len(goals) > 1)
        unit = goal.get("unit") or unit
        if goal.get("upper") is not None:
            yield f"{name}upper end of the interval ({unit})", goal["upper"]
        if goal.get("r2") is not None:
            yield f"{name}expected latency: R2, standard error ({unit})", _pair(goal["r2"], goal.get("error"))


def _short(architecture: Mapping[str, Any] | None) -> str | None:
    from ..spaces.architecture import Architecture

    return None if architecture is None else Architecture.from_dict(dict(architecture)).short()


def _goal(goal: Mapping[str, Any]) -> str:
    return f"{_text(goal['target'])}, {_text(goal['predicted'])}"


def _pair(one: object, other: object) -> str | None:
    return None if one is None or other is None else f"{_text(one)}, {_text(other)}"


def _text(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, int | float) else value

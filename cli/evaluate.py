"""``hwnas evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Json, Output, Quiet, SpaceArguments, UsageProblem, examples, keeping, load_space, new_app

if TYPE_CHECKING:
    from ..predictors.evaluation import Evaluation
    from ..predictors.source_columns import SourceColumn

app = new_app()

Data = Annotated[Path, typer.Option("--data", metavar="FILE", help="A Parquet file, one row an architecture.")]
Target = Annotated[str, typer.Option("--target", metavar="COLUMN", help="The column of latencies.")]
Features = Annotated[
    str,
    typer.Option(
        "--features",
        metavar="A,B,...",
        help="Columns that describe an architecture; with --space its choices in order.",
    ),
]

STATISTICS = {
    "mape": "MAPE %",
    "bias": "bias %",
    "rmse": "RMS error %",
    "max_error": "largest error %",
    "within_1": "within 1 %",
    "within_5": "within 5 %",
    "within_10": "within 10 %",
    "spearman": "Spearman",
    "kendall": "Kendall tau",
    "coverage": "inside the interval %",
    "width": "median width %",
    "fit_s": "seconds to fit",
    "predict_s": "seconds to predict",
}


@app.command(
    epilog=examples(
        "hwnas evaluate --data nb201.parquet --target lat_cpu --features op0,op1,op2,op3,op4,op5 --train 100 --seeds 5",
        "hwnas evaluate --data nb201.parquet --target lat_cpu --features op0,op1,op2,op3,op4,op5 --space nasbench201 "
        "--train 900 --seeds 5 --kind gbdt --json -",
        "hwnas evaluate --data kernels.parquet --target ms --features cin,cout,k,stride,hw --group network --train 900 "
        "--seeds 5",
        "hwnas evaluate --data nb201.parquet --target lat_phone --features op0,op1,op2,op3,op4,op5 --space nasbench201 "
        "--train 20 --sources nb201.parquet:lat_cpu,nb201.parquet:lat_gpu,others.parquet:lat_board",
    )
)
def evaluate(
    data: Data,
    target: Target,
    features: Features,
    train: Annotated[int, typer.Option("--train", metavar="N", help="Rows to fit on; the others are predicted.")],
    seeds: Annotated[int, typer.Option("--seeds", metavar="K", help="Random splits, of which the mean counts.")] = 5,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="SPACE",
            help="The space of the architectures, which then gives features of the network's graph; default: none.",
        ),
    ] = None,
    space_arguments: SpaceArguments = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="COLUMN", help="Rows alike here stay on one side of a split.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="K", help="What to fit; see below.")] = None,
    sources: Annotated[
        str | None,
        typer.Option(
            "--sources",
            metavar="FILE:COLUMN,...",
            help="Latencies on other devices to transfer from: columns of Parquet files with the same feature columns, "
            "which need not have the same rows.",
        ),
    ] = None,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Judge a predictor on a table of measured architectures: fit on some rows, predict the others.

    Kinds: auto, lut, linear, gbdt, random-forest, gaussian-process, mlp, gcn, kernel, stacked (default), transfer
    (where there are --sources).
    """
    output = Output(quiet, json_file)
    from ..predictors.evaluation import evaluate as judge
    from ..predictors.frames import FrameRequest, read_measured
    from ..predictors.regressors.registry import regressor_type

    kind = transferring(kind, sources)
    regressor_type(kind)
    request = FrameRequest(data, target, columns(features), group, read_sources(sources))
    asked = None if space is None else load_space(space, space_arguments)
    if space_arguments and space is None:
        raise UsageProblem("--space-arg is given without --space")
    with keeping("nothing is stored"), output.progress() as progress:
        measured = read_measured(request, asked)
        result = judge(measured, train=train, seeds=seeds, kind=kind, progress=progress)
    _show(output, result)
    output.finish(
        {
            **result.as_dict(),
            "data": data,
            "target": target,
            "features": request.features,
            "space": asked and asked.name,
            "sources": [own.name for own in request.sources],
        }
    )


def columns(text: str) -> tuple[str, ...]:
    """The names in ``a,b,...``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def transferring(kind: str | None, sources: str | None) -> str:
    """The kind to fit, transfer where there are sources; raises UsageProblem for a kind that does not go with them."""
    from ..predictors.regressors.registry import DEFAULT_KIND, TRANSFER

    kind = kind or (TRANSFER if sources else DEFAULT_KIND)
    if sources and kind not in (TRANSFER, "auto"):
        raise UsageProblem(f"--sources: a predictor of kind {kind!r} does not learn from other devices")
    if kind == TRANSFER and not columns(sources or ""):
        raise UsageProblem("--kind transfer needs --sources: latencies of the same architectures on other devices")
    return kind


def read_sources(text: str | None) -> "tuple[SourceColumn, ...]":
    """The files and columns of ``--sources``; raises UsageProblem for another form."""
    from ..predictors.source_columns import SourceColumn

    found = []
    for item in columns(text or ""):
        given = source_column(item)
        if given is None:
            file, separator, column = item.rpartition(":")
            if not separator or not file or not column:
                raise UsageProblem(f"--sources {item!r} is not of the form FILE:COLUMN")
            raise UsageProblem(f"--sources: there is no file {file}")
        found.append(SourceColumn(*given))
    return tuple(found)


def source_column(item: str) -> tuple[Path, str] | None:
    """File and column of ``FILE:COLUMN``, either of which may have colons; None where there is no such file."""
    parts = item.split(":")
    splits = [(Path(":".join(parts[:i])), ":".join(parts[i:])) for i in range(len(parts) - 1, 0, -1)]
    return next(((file, column) for file, column in splits if column and file.is_file()), None)


def _show(output: Output, result: "Evaluation") -> None:
    if output.quiet:
        return
    for note in result.notes:
        output.line(note)
    mean = result.mean()
    each = [one.as_dict() for one in result.seeds]
    shown = each if len(each) <= 5 else []
    output.table(
        ("statistic", "mean", *(f"seed {one['seed']}" for one in shown)),
        [(title, mean[name], *(one[name] for one in shown)) for name, title in STATISTICS.items()],
        title=f"{result.kind}: fitted on {result.train} rows, judged by {round(mean['n'] or 0)}",
    )

"""``hwnas predict``."""

from typing import Annotated

import typer

from .common import (
    Json,
    Output,
    Quiet,
    Space,
    SpaceArguments,
    UsageProblem,
    examples,
    load_space,
    new_app,
    space_option,
)
from .measuring import Architectures, MoreArchitectures, Predictor, read_architectures

app = new_app()


@app.command(
    epilog=examples(
        "hwnas predict --predictor tables/cpu-proxyless.db --arch found.json",
        "hwnas predict --predictor cpu.db --space nasbench201 --arch a.json b.json c.json --json -",
        "hwnas predict --predictor flops --space proxyless --arch found.json",
    )
)
def predict(
    predictor: Predictor,
    space: Space = "proxyless",
    space_arguments: SpaceArguments = None,
    arch: Architectures = None,
    more: MoreArchitectures = None,
    coverage: Annotated[float, typer.Option(help="Share of measurements that the intervals are to hold.")] = 0.9,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Predict the latency of architectures, with an interval for each."""
    output = Output(quiet, json_file)
    from ..predictors.registry import load_predictor

    architectures = read_architectures(arch, more)
    if not architectures:
        raise UsageProblem("--arch is missing: give at least one file with an architecture")
    asked = load_space(space, space_arguments)
    loaded = load_predictor(predictor, asked, space_option=space_option(space, space_arguments))
    values = loaded.predict(architectures).tolist()
    intervals = loaded.interval(architectures, coverage).tolist()
    output.table(
        ("architecture", f"predicted ({loaded.unit})", "low", "high"),
        [(a.short(), v, low, high) for a, v, (low, high) in zip(architectures, values, intervals, strict=True)],
        title=f"{asked.name}, intervals for {100 * coverage:g} % of measurements",
    )
    output.finish(
        {
            "predictor": predictor,
            "kind": loaded.kind,
            "space": asked.name,
            "unit": loaded.unit,
            "n": len(architectures),
            "coverage": coverage,
            "predictions": [
                {"architecture": a.as_dict(), "predicted": v, "low": low, "high": high}
                for a, v, (low, high) in zip(architectures, values, intervals, strict=True)
            ],
        }
    )

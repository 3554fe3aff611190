"""``hwnas spaces``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Json, Output, Quiet, SpaceArguments, UsageProblem, examples, load_space, new_app

if TYPE_CHECKING:
    from ..spaces.space import SearchSpace

app = new_app()


@app.command(
    epilog=examples(
        "hwnas spaces",
        "hwnas spaces proxyless",
        "hwnas spaces proxyless-small --space-arg resolution=48",
        "hwnas spaces my_spaces.py:tiny --json tiny.json",
    )
)
def spaces(
    name: Annotated[str | None, typer.Argument(metavar="[SPACE]", help="One space in detail.")] = None,
    space_arguments: SpaceArguments = None,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Built-in search spaces, or the size, choices and workloads of one, built-in or your own."""
    output = Output(quiet, json_file)
    if name is None:
        _list(output, space_arguments)
    else:
        _show(output, load_space(name, space_arguments))


def _list(output: Output, space_arguments: list[str] | None) -> None:
    if space_arguments:
        raise UsageProblem("--space-arg needs the name of the space it is for")
    from ..spaces.registry import space_names

    found = [_summary(load_space(known, None)) for known in space_names()]
    output.table(
        ("space", "architectures", "decisions", "workloads"),
        [(s["name"], _power(s["size"]), s["decisions"], s["workloads"]) for s in found],
    )
    output.finish({"spaces": found})


def _show(output: Output, space: "SearchSpace") -> None:
    decisions = [{"label": d.label, "kind": d.kind, "candidates": d.candidates} for d in space.decisions]
    workloads = [
        {"key": w.key(), "op": w.op, "shapes": w.shapes, "path": w.path, "fixed": w.fixed} for w in space.workloads()
    ]
    output.table(
        ("decision", "kind", "candidates"),
        [(d.label, d.kind, ", ".join(d.candidates)) for d in space.decisions],
        title=f"{space.name}: {_power(space.size)} architectures, fingerprint {space.fingerprint}",
    )
    output.table(("workload", "kind"), [(w["key"], "fixed" if w["fixed"] else "candidate") for w in workloads])
    output.finish(
        {
            "name": space.name,
            "arguments": space.arguments,
            "fingerprint": space.fingerprint,
            "size": space.size,
            "decisions": decisions,
            "workloads": workloads,
        }
    )


def _summary(space: "SearchSpace") -> dict[str, Any]:
    return {
        "name": space.name,
        "size": space.size,
        "decisions": len(space.decisions),
        "workloads": len(space.workloads()),
        "fingerprint": space.fingerprint,
    }


def _power(size: int) -> str:
    digits = str(size)
    return digits if len(digits) < 7 else f"{digits[0]}.{digits[1:3]}e{len(digits) - 1}"

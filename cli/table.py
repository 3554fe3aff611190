"""``hwnas table show|check|range|diff|export|import``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..profiler.delegation import delegation
from ..profiler.table import LatencyTable
from ..profiler.table_export import FORMATS, diff_tables, export_table, row_dict
from ..profiler.table_schema import KINDS, PENDING, WORKLOADS, Row
from ..profiler.table_space import import_table, space_keys
from .common import (
    Force,
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
    to_json,
)

app = new_app(help="Show, check, compare, export and import latency tables.")

Table = Annotated[Path, typer.Argument(metavar="TABLE", help="A latency table, as `hwnas profile` writes it.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where the result goes.")]


@app.command(
    epilog=examples(
        "hwnas table show cpu.db", "hwnas table show cpu.db --sort latency", "hwnas table show cpu.db --json -"
    )
)
def show(
    table: Table,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="key, op, latency or status; default: as measured.")] = "",
    kind: Annotated[str, typer.Option(help="candidate, fixed, network or glue; default: no networks.")] = "",
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Show what a table holds and where it comes from."""
    output = Output(quiet, json_file)
    if kind not in ("", *KINDS):
        raise UsageProblem(f"--kind {kind!r} is not one of {', '.join(KINDS)}")
    with LatencyTable.open(table) as opened:
        rows = _sorted([row for row in opened.rows() if row.kind in (WORKLOADS if kind == "" else (kind,))], sort)
        about = json.loads(opened.provenance.to_json())
        calibration, sessions = opened.calibration, opened.sessions()
        delegated = delegation(opened.rows())
        outputs = opened.records("output")
    known = {name: value for name, value in about.items() if value not in ("", {}, None)}
    environment = known.pop("environment", {})
    known |= {"delegated": str(delegated)} if delegated else {}
    output.table(("", "provenance"), [(n, _flat(v)) for n, v in (*known.items(), *_machine(environment).items())])
    output.table(
        ("key", "latency", "low", "high", "visits", "runs", "status", "reason"),
        [(r.key, r.latency, r.low, r.high, r.visits, r.runs, r.status, r.reason) for r in rows],
        title=f"{len(rows)} rows, in {about['unit']}",
    )
    if calibration:
        output.table(("", "calibration"), [(name, _flat(value)) for name, value in _summary(calibration).items()])
    output.finish(
        {
            "table": table,
            "unit": about["unit"],
            "provenance": about,
            "n": len(rows),
            "pending": [row.key for row in rows if row.status == PENDING],
            "calibration": calibration,
            "delegation": delegated and delegated.as_dict(),
            "outputs": outputs,
            "sessions": [{"session": number, **environment} for number, environment in sessions.items()],
            "rows": [{**row_dict(row), "kind": row.kind, "phases": row.phases} for row in rows],
        }
    )


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader looks for first in an environment; --json has all of it."""
    cpu, runtime = (part if isinstance(part := environment.get(name), dict) else {} for name in ("cpu", "runtime"))
    shown = {
        "cpu": cpu.get("model"),
        "cores": cpu.get("logical"),
        "governor": cpu.get("governor"),
        "runtime": f"{runtime.get('name', '')} {runtime.get('version', '')}".strip(),
        "clock": environment.get("clock"),
        "host": environment.get("host"),
        "system": f"{environment.get('system', '')} {environment.get('kernel', '')}".strip(),
        "virtualisation": environment.get("virtualisation"),
        "load": environment.get("load"),
    }
    return {name: value for name, value in shown.items() if value not in ("", None)}


def _summary(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """A calibration without what has a line for each network or operator."""
    many = {"networks": "calibrated on", "corrections": "single operators corrected"}
    short = {name: value for name, value in calibration.items() if name not in many}
    return short | {label: len(calibration[name]) for name, label in many.items() if calibration.get(name)}


@app.command(
    epilog=examples("hwnas table check cpu.db --space proxyless", "hwnas table check cpu.db --space my.py:net --json -")
)
def check(
    table: Table,
    space: Space = "proxyless",
    space_arguments: SpaceArguments = None,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Say which workloads of a space a table lacks; exit code 1 if there are any."""
    output = Output(quiet, json_file)
    from ..predictors.lut import profile_command

    with LatencyTable.open(table) as opened:
        about = opened.provenance
        asked = load_space(space, space_arguments)
        wanted = space_keys(asked, about)
        missing = opened.missing(wanted)
        reasons = {row.key: row.reason for row in opened.rows() if row.status == "failed"}
    doubts = []
    if missing:
        output.table(("missing", "reason"), [(key, reasons.get(key, "not measured")) for key in missing])
        command = profile_command(about, asked, str(table), space_option(space, space_arguments))
        mend = "" if about.device == "imported" else f"; `{command}` measures them"
        doubts.append(f"{table} lacks {len(missing)} of {len(wanted)} workloads of {asked.name}{mend}")
    elif about.fingerprint not in ("", asked.fingerprint):
        doubts.append(f"{table} was measured for another space ({about.fingerprint}, not {asked.fingerprint})")
    else:
        output.line(f"{table} has all {len(wanted)} workloads of {asked.name}")
    output.finish({"table": table, "space": asked.name, "n": len(wanted), "missing": missing}, doubts)


@app.command(
    name="range", epilog=examples("hwnas table range cpu.db --space proxyless", "hwnas table range cpu.db --json -")
)
def range_(
    table: Table,
    space: Space = "proxyless",
    space_arguments: SpaceArguments = None,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """The smallest, largest and mean latency that a table predicts for a space."""
    output = Output(quiet, json_file)
    from ..predictors.lut import LutPredictor

    asked = load_space(space, space_arguments)
    predictor = LutPredictor.load(table, asked, space_option=space_option(space, space_arguments))
    found, unit = predictor.model.range, predictor.unit
    smallest, largest = asked.decode(np.stack([found.smallest, found.largest]))
    output.table(
        ("", unit, "architecture"),
        [
            ("min", found.min, smallest.short()),
            ("mean", found.mean, "(uniform choice)"),
            ("max", found.max, largest.short()),
        ],
    )
    output.finish(
        {
            "min": found.min,
            "max": found.max,
            "mean": found.mean,
            "unit": unit,
            "smallest": json.loads(smallest.to_json()),
            "largest": json.loads(largest.to_json()),
        }
    )


@app.command(epilog=examples("hwnas table diff monday.db friday.db", "hwnas table diff a.db b.db --json -"))
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A latency table.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Compare two tables: ratio per key, the common factor, and what is left once that is taken out."""
    output = Output(quiet, json_file)
    with LatencyTable.open(a) as first, LatencyTable.open(b) as second:
        found = diff_tables(first, second)
    output.table(("provenance", str(a), str(b)), [(n, _flat(x), _flat(y)) for n, (x, y) in found.provenance.items()])
    ordered = sorted(found.ratios.items(), key=lambda item: item[1])
    output.table(("key", "B / A"), ordered, title=f"{len(ordered)} common keys")
    for name, keys in (("A", found.only_in_a), ("B", found.only_in_b)):
        if keys:
            output.table((f"only in {name}",), [(key,) for key in keys])
    if found.factor is not None:
        output.line(f"factor {found.factor:.4f}; without it rms {found.rms:.2f} %, worst {found.worst:.2f} %")
    else:
        output.line("no common keys")
    output.finish({"a": a, "b": b, "n": len(found.ratios), **to_json(found)})


@app.command(
    epilog=examples(
        "hwnas table export cpu.db --out cpu.csv",
        "hwnas table export cpu.db --format parquet --out cpu.parquet",
        "hwnas table export cpu.db --format yaml --out cpu.yaml",
    )
)
def export(
    table: Table,
    form: Annotated[str, typer.Option("--format", help="parquet, csv, json or yaml; default: by --out's name.")] = "",
    out: Out = None,
    force: Force = False,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Write the finished rows of a table in another format; by default to TABLE's name in the current folder."""
    output = Output(quiet, json_file)
    form = form or (out.suffix.lstrip(".").replace("yml", "yaml") if out else "csv")
    if form not in FORMATS:
        raise UsageProblem(f"--format {form!r} is not one of {', '.join(FORMATS)}")
    with LatencyTable.open(table) as opened:
        done = export_table(opened, out or Path(f"{table.stem}.{form}"), form, force=force)
    output.line(f"{done.rows} rows written to {done.path}")
    doubts = [f"{len(done.left_out)} rows left out, for instance {done.left_out[0]!r}"] if done.left_out else []
    output.finish({"out": done.path, "format": form, "rows": done.rows, "left_out": done.left_out}, doubts)


@app.command(
    name="import",
    epilog=examples(
        "hwnas table import mobile_trim.yaml --space proxyless --out mobile.db",
        "hwnas table import 224_lookup_table.yaml",
    ),
)
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A lookup table (YAML) of ProxylessNAS or OFA.")],
    space: Annotated[
        str | None, typer.Option(metavar="SPACE", help="Give the entries the keys of this space's workloads.")
    ] = None,
    space_arguments: SpaceArguments = None,
    out: Out = None,
    force: Force = False,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Make a latency table from a published lookup table; by default FILE's name with .db in the current folder."""
    output = Output(quiet, json_file)
    if space_arguments and space is None:
        raise UsageProblem("--space-arg needs --space")
    target = out or Path(f"{source.stem}.db")
    asked = None if space is None else load_space(space, space_arguments)
    rows, lacking = import_table(source, target, asked, force=force)
    output.line(f"{rows} rows written to {target}")
    doubts = []
    if asked is not None and lacking:
        doubts.append(f"{source} lacks {len(lacking)} workloads of {asked.name}, for instance {lacking[0]!r}")
    output.finish({"table": target, "n": rows, "missing": lacking}, doubts)


def _sorted(rows: list[Row], column: str) -> list[Row]:
    if column not in ("", "key", "op", "latency", "status"):
        raise UsageProblem(f"--sort {column!r} is not one of key, op, latency, status")
    if column == "latency":
        return sorted(rows, key=lambda row: -1.0 if row.latency is None else row.latency)
    return sorted(rows, key=lambda row: str(getattr(row, column))) if column else rows


def _flat(value: Any) -> str:
    return ", ".join(f"{name}={part}" for name, part in value.items()) if isinstance(value, dict) else str(value)

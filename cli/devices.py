"""``hwnas devices``."""

from .common import Json, Output, Quiet, examples, new_app

app = new_app()


@app.command(epilog=examples("hwnas devices", "hwnas devices --json -"))
def devices(quiet: Quiet = False, json_file: Json = None) -> None:
    """Which devices can be used here; for the others the reason and the mend."""
    output = Output(quiet, json_file)
    from ..devices.registry import status

    found = status()
    output.table(
        ("device", "unit", "here", "reason", "mend"),
        [(d.name, d.unit, "yes" if d.available else "no", d.reason, d.mend) for d in found],
    )
    output.finish({"devices": found})

"""Options of the commands that measure, and how their values are read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import UsageProblem

if TYPE_CHECKING:
    from ..devices.base import Device
    from ..profiler.calibration_data import CalibrationData
    from ..spaces.architecture import Architecture
    from ..spaces.space import SearchSpace

Batch = Annotated[int | None, typer.Option("--batch", help="Inputs in one inference; default 1.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of the runtime; default 1.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="fp32 (default), fp16, bf16, tf32 or int8.")]
Agent = Annotated[
    str | None,
    typer.Option("--agent", metavar="COMMAND", help="Measure elsewhere: a command that starts a Python there."),
]
AgentPython = Annotated[
    str | None, typer.Option("--agent-python", metavar="PATH", help="Measure with another Python of this machine.")
]
CalibrationSource = Annotated[
    str | None,
    typer.Option(
        "--calibration-data",
        metavar="DATA",
        help="Of --dtype int8: images by which the ranges of activations are found, as in --data of `hwnas search`; "
        "without it random numbers, which do for times.",
    ),
]
Serial = Annotated[
    str | None,
    typer.Option(
        "--serial", metavar="S", help="Of android: the phone, as `adb devices` lists it; the only one if none."
    ),
]
BenchmarkBinary = Annotated[
    str | None,
    typer.Option(
        "--benchmark-binary", metavar="PATH", help="Of android: TFLite's benchmark_model, built for the phone's ABI."
    ),
]
Gpu = Annotated[bool | None, typer.Option("--gpu", help="Of android: the phone's GPU runs the models.")]
GpuIndex = Annotated[
    int | None, typer.Option("--gpu-index", metavar="N", help="Of gpu: which one, as CUDA numbers them; default 0.")
]
Eager = Annotated[
    bool | None,
    typer.Option("--eager", help="Of gpu: operators are launched one by one, instead of as one CUDA graph."),
]
Predictor = Annotated[
    str, typer.Option("--predictor", metavar="P", help="A latency table, another predictor's file, or `flops`.")
]
Architectures = Annotated[
    list[Path] | None, typer.Option("--arch", metavar="FILE...", help="Architectures in JSON: one, or a list of them.")
]
MoreArchitectures = Annotated[list[Path] | None, typer.Argument(metavar="[FILE]", hidden=True)]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def share(text: str, option: str) -> float:
    """``1%`` or ``0.01`` as a fraction; raises UsageProblem."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageProblem(f"{option} {text!r} is neither a percentage (1%) nor a fraction (0.01)")
    return value


def seconds(text: str, option: str) -> float:
    """``90s``, ``10m``, ``1h`` (or plain seconds) in seconds; raises UsageProblem."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smh]?)\s*", text)
    value = float(found[1]) * _UNITS[found[2] or "s"] if found else math.nan
    if not 0 < value <= 30 * 86400:
        raise UsageProblem(f"{option} {text!r} is not a time above 0 and up to 30 days, such as 90s, 10m or 1h")
    return value


def create_device(
    name: str | None,
    *,
    made_for: tuple[str, Mapping[str, Any]] | None = None,
    batch: int | None = None,
    threads: int | None = None,
    dtype: str | None = None,
    gpu: bool | None = None,
    eager: bool | None = None,
    serial: str | None = None,
    benchmark_binary: str | None = None,
    gpu_index: int | None = None,
) -> Device:
    """The device that the options name.

    Args:
        made_for: device and settings of a predictor, which stand in for options that were not given. Only what cannot
            do harm is taken from there, since a predictor's file may come from a stranger.
    """
    from ..devices.registry import SAFE_SETTINGS, create

    given: dict[str, Any] = {"batch": batch, "threads": threads, "dtype": dtype, "gpu": gpu, "eager": eager}
    if made_for is not None:
        device, settings = made_for
        name = name or device
        if name == device:
            known = {key: settings.get(key) for key in SAFE_SETTINGS}
            given = known | {key: value for key, value in given.items() if value is not None}
    if name is None:
        raise UsageProblem("--device is missing: this predictor is tied to none")
    connection = {"serial": serial, "benchmark_binary": benchmark_binary, "gpu_index": gpu_index}
    return create(name, connection=connection, **given)


def calibration_data(spec: str | None, space: SearchSpace, device: Device) -> CalibrationData | None:
    """What ``--calibration-data`` names; None where it is not given.

    Raises:
        UsageProblem: the device is to run another precision than int8.
        HwnasError: there are no such data, or they are of another shape than the space's inputs.
    """
    if spec is None:
        return None
    if device.settings.dtype != "int8":
        raise UsageProblem(f"--calibration-data is for --dtype int8; device {device.name!r} is to run "
                           f"{device.settings.dtype}")  # fmt: skip
    from ..search.data.calibration import load_calibration_data

    return load_calibration_data(spec, space)


def file_name(*parts: str) -> str:
    """A file name out of device, space and settings."""
    return "-".join(re.sub(r"[^\w.+=-]+", "_", part).strip("_.") for part in parts if part)


def read_architectures(*files: Iterable[Path] | None) -> list[Architecture]:
    """The architectures in some files, each JSON of one or of a list of them; raises UsageProblem."""
    from ..spaces.architecture import Architecture, ArchitectureError

    found: list[Architecture] = []
    for path in [path for group in files for path in group or ()]:
        data = _read_json(path)
        try:
            found += [Architecture.from_dict(item) for item in (data if isinstance(data, list) else [data])]
        except ArchitectureError as error:
            raise UsageProblem(f"--arch {path}: {error}") from error
    return found


def _read_json(path: Path) -> Any:
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageProblem(f"--arch {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageProblem(f"--arch {path} is no JSON: {error}") from error

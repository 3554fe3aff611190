"""The configuration of a whole search, and how defaults, a file, ``--set`` and options make one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .contradictions import check_together
from .data.registry import data_names
from .layers import Layers, lay_file, lay_settings
from .settings import FinalSettings, LandingSettings, SearchSettings
from .validation import ConfigError, Problems, read

__all__ = ["ConfigError", "GoalConfig", "Option", "SearchConfig", "read_config"]

COMMANDS = ("agent", "agent_python", "benchmark_binary", "serial")
"""What starts a program, or names a person's phone; taken from the command line only."""
MAY_DIFFER = ("torch_threads", "compute")
"""What may change when a run goes on: the result is as good, though not bit-identical."""


@dataclass(frozen=True)
class GoalConfig:
    """One device's predictor and target.

    Attributes:
        predictor: a file, or "flops"; None where the latency is measured.
        target: in the predictor's unit; None where latency plays no part and is only told.
        weight: relative to the other goals'.
    """

    predictor: str | None = None
    target: float | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class SearchConfig:
    """All that decides a search.

    Attributes:
        space, space_args: as `load_space` takes them. data: as `load_data` takes it; None: what suits the space.
        goals: none where latency plays no part.
        latency: predicted, or measured on the device for every network that is sampled.
        device, batch, threads, dtype, gpu: where the result is measured; None: as the predictor's.
        calibration_data: by which int8 networks are calibrated, as `data`; None: those that are trained on.
        compute: where the search itself runs. torch_threads: its threads; None: as torch chooses.
        agent, agent_python: where the measuring process runs (see `Device.open`); in no file.
        benchmark_binary, serial: how device android is reached; in no file.
    """

    space: str = "proxyless"
    space_args: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None
    goals: tuple[GoalConfig, ...] = ()
    latency: Literal["predicted", "measured"] = "predicted"
    device: str | None = None
    batch: int | None = None
    threads: int | None = None
    dtype: str | None = None
    gpu: bool | None = None
    calibration_data: str | None = None
    seed: int = 0
    compute: Literal["auto", "cpu", "cuda"] = "auto"
    torch_threads: int | None = None
    search: SearchSettings = field(default_factory=SearchSettings)
    final: FinalSettings = field(default_factory=FinalSettings)
    landing: LandingSettings = field(default_factory=LandingSettings)
    agent: str | None = None
    agent_python: str | None = None
    benchmark_binary: str | None = None
    serial: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What ``config.yaml`` holds: everything but the commands."""
        return {key: value for key, value in asdict(self).items() if key not in COMMANDS}


@dataclass(frozen=True)
class Option:
    """An option of the command line that stands for a key.

    Attributes:
        name: ``--epochs``. key: dotted, ``search.weights.epochs``. value: None where it was not given.
    """

    name: str
    key: str
    value: Any


def read_config(
    file: Path | None = None,
    settings: Iterable[str] = (),
    options: Sequence[Option] = (),
    *,
    predictors: Sequence[str] = (),
    targets: Sequence[float] = (),
    limit: bool = False,
) -> SearchConfig:
    """The configuration: defaults, covered by the file, then by ``--set``, then by options.

    Args:
        file: YAML with the keys of `SearchConfig`.
        settings: ``KEY=VALUE``, the key dotted, the value YAML.
        predictors, targets: of the goals, in pairs. limit: latency is to stay below the targets.

    Raises:
        ConfigError: unknown keys (with the nearest known one), values of the wrong type or out of range,
            contradictions, or a file that wants to name code to be run.
    """
    layers, own = Layers(), Layers()
    options = [option for option in options if option.value is not None]
    lay_settings(own, settings)
    for option in options:
        own.lay(option.key, option.value, option.name)
    if file is not None:
        lay_file(layers, file)
        _refuse_code(file, layers, own)
        if own.get("space", layers.get("space")) != layers.get("space"):
            layers.remove("space_args")  # they are the other space's
        if predictors and targets:
            layers.remove("goals")
    lay_settings(layers, settings)
    for option in options:
        layers.lay(option.key, option.value, option.name)
    _lay_goals(layers, predictors, targets)
    if limit:
        _lay_limit(layers)
    config = _read(layers)
    check_together(config, layers)
    return config


def _read(layers: Layers) -> SearchConfig:
    data = layers.nested()
    arguments = data.get("space_args")
    if isinstance(arguments, dict):  # text, as on the command line; the space knows its parameters' types
        data["space_args"] = {k: v if isinstance(v, dict) else str(v) for k, v in arguments.items()}
    try:
        return read(SearchConfig, data)
    except Problems as error:
        raise ConfigError("; ".join(layers.located(problem) for problem in error.problems)) from None


def _refuse_code(file: Path, layers: Layers, own: Layers) -> None:
    """A file may come from a stranger: what runs code has to be said by the user."""
    for key in COMMANDS:
        if layers.get(key) is not None:
            option = f"--{key.replace('_', '-')}"
            raise ConfigError(f"--config {file} holds {key}, which no file may: give {option} on the command line")
    for key in ("space", "data", "calibration_data"):
        spec = layers.get(key)
        is_code = isinstance(spec, str) and ":" in spec and (key == "space" or spec.split(":")[0] not in data_names())
        if is_code and own.get(key) is None:
            raise ConfigError(
                f"--config {file} names code as its {key} ({spec}), which is run only if you say so, too: "
                f"add --{key.replace('_', '-')} {spec}"
            )


def _lay_goals(layers: Layers, predictors: Sequence[str], targets: Sequence[float]) -> None:
    there = layers.get("goals") or {}
    counts = {"--predictor": len(predictors), "--target": len(targets)}
    given = {name: n for name, n in counts.items() if n}
    if len(set(given.values())) > 1:
        raise ConfigError(
            f"{counts['--predictor']} times --predictor and {counts['--target']} times --target: give them in pairs"
        )
    for name, n in given.items():
        if len(given) == 1 and there and n != len(there):
            raise ConfigError(f"{n} times {name} for {len(there)} goals of the configuration")
    for i, predictor in enumerate(predictors):
        layers.lay(f"goals.{i}.predictor", predictor, "--predictor")
    for i, target in enumerate(targets):
        layers.lay(f"goals.{i}.target", target, "--target")


def _lay_limit(layers: Layers) -> None:
    kind = layers.get("search.objective.kind", "limit")
    by_option = layers.source("search.objective.kind") == "--objective"
    if kind != "limit" and (by_option or kind != "hold"):
        raise ConfigError(f"--limit contradicts the objective {kind!r}: leave one of them out")
    layers.lay("search.objective.kind", "limit", "--limit")

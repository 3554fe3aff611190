"""What a search needs before it begins, loaded and checked: nothing is trained or written until all of it fits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..devices.base import Device, DeviceError
from ..devices.registry import SAFE_SETTINGS, create
from ..errors import HwnasError
from ..predictors.agreement import check_device
from ..predictors.base import Predictor
from ..predictors.registry import load_predictor
from ..predictors.upper import UpperEnd
from ..profiler.calibration_data import CalibrationData
from ..spaces.registry import load_space
from ..spaces.space import SearchSpace
from .config import SearchConfig
from .data.calibration import IMAGES, first_images, load_calibration_data
from .data.data import Data, DataError, check_data
from .data.registry import load_data
from .goals import Goal, Latency
from .objective import Objective
from .training import compute_device
from .validation import ConfigError

if TYPE_CHECKING:
    from ..predictors.base import Origin

DEFAULT_DATA: Mapping[Any, str] = {((1, 28, 28),): "digits:28", ((1, 8, 8),): "digits"}
"""Data that come with the library, by the shapes of a space's inputs."""


@dataclass(frozen=True)
class FinalDevice:
    """Where the result is measured.

    Attributes:
        device: None where it cannot be measured. goal: number of the goal whose device that is.
        reason: why it cannot be; "" where it can.
    """

    device: Device | None
    goal: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Prepared:
    """All that a search works on.

    Attributes:
        space_option: how the user named the space, to be pasted into another command.
        predictors: of the goals that have one, in their order.
        latency: the goals that have a predictor and a target; None where there are none.
        held: what the search keeps on target: `latency`, or the upper ends of its intervals.
        final: where the result is measured.
        calibration: by which networks are calibrated that are measured there in int8; None where they are not.
    """

    space: SearchSpace
    space_option: str
    predictors: tuple[Predictor, ...]
    latency: Latency | None
    held: Latency | None
    data: Data
    final: FinalDevice
    calibration: CalibrationData | None = None


def resolve(config: SearchConfig) -> tuple[SearchConfig, SearchSpace]:
    """The space, and the configuration with the data that are used.

    Raises:
        SpaceError: there is no such space. ConfigError: no data are named, and none suit the space by themselves.
    """
    space = load_space(config.space, config.space_args)
    if config.data is None:
        found = DEFAULT_DATA.get(space.input_shapes or ())
        if found is None:
            raise ConfigError(
                f"--data is missing: none that come with hwnas are of the shape that space {space.name!r} takes; "
                "give cifar10:PATH, imagefolder:PATH or a function of your own"
            )
        config = replace(config, data=found)
    return config, space


def prepare(config: SearchConfig, space: SearchSpace) -> Prepared:
    """Load and check what `resolve` gave: predictors, targets, device, then data.

    Raises:
        MissingMeasurements: a predictor lacks workloads of the space; all are named, and what measures them.
        TargetUnreachable: no architecture is on target.
        HwnasError: no CUDA where it was asked for; a predictor or data that do not fit the space; a device that was
            asked for and cannot be used.
    """
    compute_device(config.compute)
    option = space_option(config)
    files = [goal.predictor for goal in config.goals if goal.predictor is not None]
    predictors = tuple(load_predictor(file, space, space_option=option) for file in files)
    latency, held = _latency(config, space, predictors)
    final = final_device(config, predictors)
    if config.latency == "measured" and final.device is None:
        raise DeviceError(f"latency is to be measured, but {final.reason}")
    data = _data(config, space)
    calibration = _calibration(config, space, data, final.device)
    return Prepared(space, option, predictors, latency, held, data, final, calibration)


def space_option(config: SearchConfig) -> str:
    """``--space`` and ``--space-arg`` as they would be given."""
    arguments = [part for name, value in config.space_args.items() for part in ("--space-arg", f"{name}={value}")]
    return shlex.join([config.space, *arguments])


def final_device(config: SearchConfig, predictors: Sequence[Predictor]) -> FinalDevice:
    """The device that the configuration names, else that of the first predictor that can be measured here.

    Of a predictor's file only the device's name and settings are taken, never a command.

    Raises:
        HwnasError: a device or settings were asked for, and cannot be had or are of no predictor.
    """
    asked = [config.device, config.batch, config.threads, config.dtype, config.gpu]
    asked += [config.agent, config.agent_python, config.benchmark_binary, config.serial]
    reasons: list[HwnasError] = []
    for i, predictor in enumerate(predictors) if predictors else [(0, None)]:
        try:
            return FinalDevice(_device(config, predictor), i)
        except HwnasError as error:
            reasons.append(error)
    if any(value is not None for value in asked):
        raise reasons[0]
    return FinalDevice(None, 0, str(reasons[0]))


def _device(config: SearchConfig, predictor: Predictor | None) -> Device:
    origin: Origin | None = None if predictor is None else predictor.origin
    name = config.device or (origin.device if origin is not None else None)
    if name is None:
        raise DeviceError("no device is named to measure the result on: give --device")
    settings: dict[str, Any] = {key: getattr(config, key) for key in ("batch", "threads", "dtype", "gpu")}
    if origin is not None and name == origin.device:
        known = {key: origin.settings.get(key) for key in SAFE_SETTINGS}
        settings = known | {key: value for key, value in settings.items() if value is not None}
    reached = {"serial": config.serial, "benchmark_binary": config.benchmark_binary}
    device = create(name, connection=reached, **settings)
    if config.agent is None and config.agent_python is None:
        missing = device.unavailable()
        if missing is not None:
            raise DeviceError(f"device {name!r} cannot be used here: {missing.reason}; {missing.mend}")
        device.check_machine()
    if predictor is not None:
        check_device(predictor, device)
    return device


def _latency(
    config: SearchConfig, space: SearchSpace, predictors: Sequence[Predictor]
) -> tuple[Latency | None, Latency | None]:
    """The goals, and what of them is held on target."""
    objective = config.search.objective
    wanted = [goal for goal in config.goals if goal.predictor is not None]
    goals = [
        Goal(predictor, goal.target, goal.weight)
        for goal, predictor in zip(wanted, predictors, strict=True)
        if goal.target is not None
    ]
    if not goals:
        return None, None
    latency = held = Latency(space, goals, objective.combine)
    if (coverage := objective.coverage) is not None:
        upper = [replace(goal, predictor=UpperEnd(goal.predictor, coverage)) for goal in goals]
        held = Latency(space, upper, objective.combine)
    held.check_reachable(limit=objective.kind == "limit" or objective.derive == "limit")
    Objective(held, objective)  # refuses targets that its formula cannot take
    return latency, held


def _data(config: SearchConfig, space: SearchSpace) -> Data:
    search = config.search
    spec = config.data or ""
    data = load_data(
        spec, batch_size=search.weights.batch_size, arch_batch_size=search.arch_batch_size, seed=config.seed
    )
    check_data(space, data)
    if not len(data.held_out):
        raise DataError(
            f"data {data.name!r} have no held-out images, on which architectures are compared: they are too few for a "
            f"batch of {search.arch_batch_size} (search.arch_batch_size)"
        )
    return data


def _calibration(config: SearchConfig, space: SearchSpace, data: Data, device: Device | None) -> CalibrationData | None:
    """The first images that are trained on, unless others are named."""
    dtype = device.settings.dtype if device is not None else "none"
    if config.calibration_data is not None and dtype != "int8":
        raise ConfigError(
            f"--calibration-data is for a result that is measured in int8, this one's precision is {dtype}"
        )
    if config.calibration_data is not None:
        return load_calibration_data(config.calibration_data, space)
    return first_images(data.name, data.train, IMAGES) if dtype == "int8" else None

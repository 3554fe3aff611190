"""Whole networks measured now on a device: what comparing, landing and measuring while searching have in common."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..devices.base import Device
from ..devices.session import Session
from ..errors import HwnasError
from ..profiler.artifacts import Lowerer
from ..profiler.bench import describe, open_bench, open_session
from ..profiler.benches import AnyBench
from ..profiler.calibration_data import CalibrationData
from ..profiler.networks import NetworkSet
from ..profiler.progress import Progress, Silent
from ..profiler.protocol import (
    Estimate,
    MeasuringProtocol,
    Timed,
    estimate_network,
    full_speed,
    network_values,
    wall_percentiles,
)
from ..profiler.table import Provenance, Row, TableMismatch
from ..profiler.table_provenance import check_agreement, provenance_of
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from .base import Origin
from .scratch import open_earlier, open_scratch

VISITS = 20
"""To a network, spread over the whole measurement."""

MAX_VISITS = 10_000


def check_visits(visits: int) -> None:
    """Raise HwnasError for a number of visits that says nothing, or never ends."""
    if not 2 <= visits <= MAX_VISITS:
        raise HwnasError(f"visits must be from 2 to {MAX_VISITS}, not {visits}")


def spread_networks(origin: Origin | None, n: int) -> dict[Architecture, float]:
    """Up to n of the networks that calibrated a predictor, spread evenly over its latencies -> their latency then."""
    known = {a: value for a, value in (origin.networks if origin else {}).items() if value is not None}
    ordered = sorted(known, key=lambda a: known[a])
    places = np.linspace(0, len(ordered) - 1, n).round().astype(int) if ordered else ()
    return {ordered[i]: known[ordered[i]] for i in dict.fromkeys(places)}


@dataclass(frozen=True)
class Measured:
    """One network's latency in the device's unit with its interval (two standard errors), and the wall clock's
    percentiles in ms of the same runs (None where nothing is timed)."""

    value: float
    low: float
    high: float
    wall_p50: float | None = None
    wall_p90: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Taken:
    """What one measurement of many networks found.

    Attributes:
        networks: which ones.
        estimates, visits: latency and raw samples by their keys; those that failed have no estimate.
        failed: (architecture, reason).
        conditions: what the machine did meanwhile.
    """

    networks: NetworkSet
    estimates: Mapping[str, Estimate]
    visits: Mapping[str, Sequence[Timed]]
    failed: Sequence[tuple[Architecture, str]]
    conditions: Mapping[str, Any]


class NetworkTimer:
    """Builds, lowers and measures networks of a space through one agent; a context manager.

    Args:
        space: whose networks. device: where. folder: for the raw samples; made when the agent has started.
        origin: of a predictor whose networks these are to be comparable with: they are lowered by its route.
        agent, agent_python: where the measuring process runs (see `Device.open`).
        protocol: how a visit goes. seed: of the orders of visits.
        calibration: by which int8 networks are calibrated; None: by random numbers.

    Attributes:
        about: what the session says of hardware and runtime, once it is open.
        change: by what share the machine took longer in the last call of `measure` than in the first, as the reference
            shows it; what is measured does not contain it. None where there is no such reference.
        failed: architecture -> reason, of all that `measure` could not measure.

    Raises:
        DeviceError: on entering, the device cannot be used here or the agent cannot be started.
    """

    def __init__(
        self,
        space: SearchSpace,
        device: Device,
        folder: Path,
        *,
        origin: Origin | None = None,
        agent: str | None = None,
        agent_python: str | None = None,
        protocol: MeasuringProtocol | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        calibration: CalibrationData | None = None,
    ) -> None:
        self.space = space
        self.device = device
        self.folder = folder
        settings = device.settings
        self.lowerer = Lowerer(space, device.format, settings.batch, dtype=settings.dtype, calibration=calibration)
        self.about: dict[str, Any] = {}
        self.change: float | None = None
        self.failed: dict[Architecture, str] = {}
        self._route_known = origin is not None and bool(origin.lowering)
        if origin is not None and origin.lowering:
            self.lowerer.route = origin.lowering
        self._where = (agent, agent_python)
        self._protocol = protocol or MeasuringProtocol()
        self._seed = seed
        self._progress = progress or Silent()
        self._calls = 0
        self._speed: float | None = None
        self._session: Session | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._session = self._open.enter_context(open_session(self.device, *self._where))
        try:
            self.about = describe(self.device, self._session)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def networks(self) -> NetworkSet:
        """An empty set of networks to be measured by `take`."""
        return NetworkSet(self.lowerer, self.device.settings.dtype)

    def choose_route(self, architecture: Architecture) -> None:
        """Find how the space can be lowered, unless that is settled; the network has to be lowered, too."""
        if not self._route_known:
            self.lowerer.choose_route(architecture, self._progress)
            self._route_known = True

    def measure(
        self, architectures: Sequence[Architecture], visits: int = VISITS, *, name: str = "measurements"
    ) -> dict[Architecture, Measured]:
        """Measure networks, interleaved: round robin in random order.

        Every call loads them anew and takes visits of its own, so that two calls for the same network know nothing
        of each other. What calls have in common is the full speed of the reference (see `profiler.protocol`), which the
        first one finds: what is measured in different calls is at the same clock of the machine, which may be some
        percent faster or slower a few seconds later (see `change`).

        Args:
            name: of the file of raw samples (`name`.db); an earlier one is replaced.

        Returns:
            the networks that could be measured; for the others see `failed`.
        """
        check_visits(visits)
        if not architectures:
            return {}
        networks = self.networks()
        networks.add(self.space.encode(architectures), "measured")
        taken = self.take(networks, f"{name}.db", None, visits)
        self.failed.update(taken.failed)
        return {networks.architectures[key]: measured for key, measured in self.at_one_speed(taken).items()}

    def take(self, networks: NetworkSet, file: str, wanted: Mapping[str, Any] | None, visits: int) -> Taken:
        """Measure a set of networks, interleaved, with raw samples in a file of the folder.

        Args:
            wanted: what was asked for: an unfinished measurement of the same goes on (see `open_scratch`). None: it is
                begun anew, and written as a whole at the end, since a commit takes longer than a round.
        """
        self.choose_route(next(iter(networks.architectures.values())))
        _make_folder(self.folder)
        protocol, provenance = self._protocol_of(visits), self.provenance(visits)
        seed = self._seed + self._calls
        self._calls += 1
        fresh = {"begun": time.time(), "call": self._calls}
        with (
            open_scratch(self.folder / file, provenance, fresh if wanted is None else wanted) as table,
            table.batch() if wanted is None else nullcontext(),
        ):
            table.register(networks.rows())
            bench = open_bench(self.device, self._session, table, protocol, seed)
            bench.progress = self._progress
            bench.session_id = table.add_session({**self.about, "seed": seed, "begun": time.time()})
            return _take(bench, networks)

    def finished(self, networks: NetworkSet, file: str, wanted: Mapping[str, Any], visits: int) -> Taken | None:
        """What an earlier `take` of the same under the same conditions measured to its end; else None."""
        path = self.folder / file
        table = open_earlier(path)
        if table is None:
            return None
        with table:
            if not table.records("finished") or table.records("request")[:1] != [json.loads(json.dumps(wanted))]:
                return None
            try:
                check_agreement(path, table.provenance, self.provenance(visits))
            except TableMismatch:
                return None
            rows = {row.key: row for row in table.rows("network")}
            return Taken(networks, _estimates(rows), table.all_visits(), _failed(networks, rows), {})

    def provenance(self, visits: int) -> Provenance:
        """Of what is measured with so many visits to a network."""
        route, calibration = self.lowerer.route, self.lowerer.calibration
        protocol = self._protocol_of(visits).as_dict()
        return provenance_of(self.device, self.space, route, self.about, protocol=protocol, calibration=calibration)

    def _protocol_of(self, visits: int) -> MeasuringProtocol:
        return replace(self._protocol, network_visits=visits)

    def at_one_speed(self, taken: Taken) -> dict[str, Measured]:
        """Latencies by key at the speed that the machine had in the first call of this (see `measure`)."""
        if self.device.exact:
            return {key: Measured(e.value, e.low, e.high) for key, e in taken.estimates.items()}
        clock = self.device.clock
        # Also where the reference does not steady the visits of one call: it does steady one call against another.
        values = partial(network_values, clock=clock)
        own = full_speed({key: taken.visits[key] for key in taken.estimates}, values, helps=math.inf)
        self._speed = self._speed or own
        self.change = own / self._speed - 1 if own is not None and self._speed is not None else None
        found: dict[str, Measured] = {}
        for key in taken.estimates:
            visits = taken.visits[key]
            e = estimate_network(visits, clock, self._speed)
            found[key] = Measured(e.value, e.low, e.high, *wall_percentiles(visits))
        return found


def _take(bench: AnyBench, networks: NetworkSet) -> Taken:
    start, table, keys = time.monotonic(), bench.table, list(networks.codes)
    loaded = bench.load({key: partial(networks.artifact, key) for key in keys}, "load networks")
    estimates = bench.networks([key for key in keys if key in loaded])
    with table.batch():
        for key, e in estimates.items():
            table.finish(key, latency=e.value, low=e.low, high=e.high)
    bench.unload(keys)
    rows = {row.key: row for row in table.rows("network")}
    table.add_record("finished", {"seconds": time.monotonic() - start})
    return Taken(networks, estimates, table.all_visits(), _failed(networks, rows), bench.conditions())


def _estimates(rows: Mapping[str, Row]) -> dict[str, Estimate]:
    return {k: Estimate(row.latency, row.low or 0.0, row.high or 0.0, True) for k, row in rows.items() if row.latency}


def _failed(networks: NetworkSet, rows: Mapping[str, Row]) -> list[tuple[Architecture, str]]:
    """Those without a latency, and why."""
    lacking = [key for key in networks.codes if key not in rows or rows[key].latency is None]
    return [(networks.architectures[k], (rows[k].reason if k in rows else "") or "not measured") for k in lacking]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HwnasError(f"{path} cannot be made: {error.strerror}: {error.filename}") from error

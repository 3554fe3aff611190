"""Where the measured networks come from that a predictor is fitted on: a device, a latency table, a Parquet file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..devices.base import Device
from ..profiler.progress import Progress
from ..profiler.table import LatencyTable, Provenance
from ..profiler.table_provenance import provenance_of
from ..spaces.architecture import Architecture, ArchitectureError
from ..spaces.encoding import Codes
from ..spaces.space import SearchSpace
from .active import is_random, measuring_order, needed
from .base import PredictorError
from .collection import Collected, Collection, collect, draw
from .features import SpaceFeatures
from .frames import FrameRequest, read_measured
from .timing_request import TimingRequest

MOST = 100_000


@dataclass(frozen=True, eq=False)
class Source:
    """Measured networks of one space.

    Attributes:
        codes, latency: (N, decisions) and (N,), in `unit`.
        text: where they come from, for people.
        provenance: of the measurements; None where it is not known.
        notes: what a user should know. doubts: what casts doubt on the result.
        judges: (N,) the networks by which a predictor is judged, a uniform draw; None: all are.
    """

    codes: Codes
    latency: NDArray[np.float64]
    unit: str
    text: str
    provenance: Provenance | None = None
    notes: Sequence[str] = ()
    doubts: Sequence[str] = ()
    judges: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Supply:
    """Networks that are measured as far as they are asked for, in the order of `active.measuring_order`.

    Attributes:
        n: how many can be had. take: gives the first so many; each time more.
    """

    n: int
    take: Callable[[int], Source]


@dataclass(frozen=True)
class MeasureRequest(TimingRequest):
    """Which networks to measure, and how.

    Attributes:
        folder: for the raw samples; an unfinished run goes on from there.
        n: networks, drawn uniformly by `seed`; of a supply, at most.
    """

    device: Device
    space: SearchSpace
    folder: Path
    n: int
    visits: int = field(default=12, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n <= MOST:
            raise PredictorError(f"the number of networks must be from 1 to {MOST}, not {self.n}")


def from_device(request: MeasureRequest, progress: Progress | None = None) -> Source:
    """Measure networks now.

    Raises:
        HwnasError: the device cannot be used, or none of the networks could be measured.
    """
    codes = draw(request.space.encoding, request.n, request.seed)
    with request.timer(request.space, request.device, request.folder, progress=progress) as timer:
        return _measured(request, collect(timer, codes, request.visits, progress), len(codes))


@contextmanager
def supply_of_device(request: MeasureRequest, progress: Progress | None = None) -> Iterator[Supply]:
    """Networks that are measured while this is open.

    Raises:
        HwnasError: here the device cannot be used; when networks are asked for, none of them could be measured.
    """
    drawn = draw(request.space.encoding, needed(request.n), request.seed)
    n = min(request.n, len(drawn))
    codes = drawn[measuring_order(SpaceFeatures.of(request.space).rows(drawn), n)]
    random = {tuple(row) for row in codes[is_random(n)].tolist()}
    with request.timer(request.space, request.device, request.folder, progress=progress) as timer:
        collection = Collection(timer, request.visits, n, progress, name="active")

        def take(m: int) -> Source:
            collection.measure(codes[len(collection) : m])
            found = collection.collected()
            judges = np.array([tuple(row) in random for row in found.codes.tolist()])
            return replace(_measured(request, found, n), judges=judges)

        yield Supply(n, take)


def _measured(request: MeasureRequest, found: Collected, n: int) -> Source:
    """Args: n: networks that there were to measure."""
    few = f"the space has no more than {n} networks" if n < request.n else ""
    return Source(
        found.codes,
        found.latency,
        found.provenance.unit,
        f"{len(found.latency)} networks measured on {request.device.name}",
        found.provenance,
        notes=(few,) if few else (),
        doubts=tuple(f"left out, not measured: {a.short()}: {reason}" for a, reason in found.failed),
    )


def from_table(path: Path, space: SearchSpace) -> Source:
    """The whole networks that were measured for a latency table's calibration, or for a comparison.

    Raises:
        HwnasError: the table cannot be read, is of another space, or holds no measured network.
    """
    with LatencyTable.open(path) as table:
        about, rows = table.provenance, [row for row in table.rows("network") if row.latency is not None]
    if about.fingerprint != space.fingerprint:
        raise PredictorError(
            f"{path} is of space {about.space!r} ({about.fingerprint}), not of {space.name!r} ({space.fingerprint})"
        )
    if not rows:
        raise PredictorError(f"{path} holds no measured network, only operators; give --networks to measure some")
    try:
        codes = space.encode([Architecture.from_dict(row.info.get("architecture")) for row in rows])
    except ArchitectureError as error:
        raise PredictorError(f"{path}: one of its networks cannot be read: {error}") from error
    latency = np.array([row.latency for row in rows], float)
    return Source(codes, latency, about.unit, f"{len(rows)} networks of {path}", about)


def from_frame(request: FrameRequest, space: SearchSpace, device: Device | None = None) -> Source:
    """The architectures of a Parquet file.

    Args:
        device: on which they were measured, where that is known.

    Raises:
        PredictorError: see `read_measured`.
    """
    measured = read_measured(request, space)
    assert measured.codes is not None
    about = None if device is None else provenance_of(device, space, "", {})
    text = f"{len(measured.latency)} rows of column {request.target} of {request.data}"
    unit = about.unit if about else "ms"
    return Source(measured.codes, measured.latency, unit, text, about, notes=tuple(measured.notes()))


def supply_of(source: Source, space: SearchSpace, n: int, seed: int = 0) -> Supply:
    """The same networks as if they had yet to be measured, n at most."""
    found = np.random.default_rng(seed).permutation(len(source.latency))[: needed(n)]
    n = min(n, len(found))
    order = found[measuring_order(SpaceFeatures.of(space).rows(source.codes[found]), n)]

    def take(m: int) -> Source:
        own = order[:m]
        text = f"{m} of {source.text}"
        return replace(source, codes=source.codes[own], latency=source.latency[own], text=text, judges=is_random(m))

    return Supply(n, take)

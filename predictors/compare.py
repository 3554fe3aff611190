"""`compare`: whole networks measured now, beside what a predictor says of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..devices.base import Device
from ..errors import HwnasError
from ..profiler.calibration import refit_factor
from ..profiler.designs import held_out
from ..profiler.metrics import bootstrap, errors
from ..profiler.progress import Progress, Silent
from ..profiler.protocol import Timed, full_speed, network_values, repeatability, wall_percentiles
from ..spaces.architecture import Architecture
from .agreement import check_device
from .base import Predictor
from .comparison import ComparedNetwork, Comparison
from .extremes import all_skip
from .network_timer import Taken, spread_networks
from .timing_request import TimingRequest

CALIBRATION_NETWORKS = 16
"""So many of the table's networks are measured again, spread evenly over its latencies."""
DRIFT = 10.0
"""Percent of drift from which the table is called out of date."""


@dataclass(frozen=True)
class CompareRequest(TimingRequest):
    """What to compare, and how to measure it.

    Attributes:
        out: folder for the results and the raw measurements; an unfinished run is resumed from there.
        n: networks drawn uniformly. architectures: these instead, where given.
    """

    predictor: Predictor
    device: Device
    out: Path
    n: int = 20
    architectures: Sequence[Architecture] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n <= 10_000:
            raise HwnasError(f"the number of networks must be from 1 to 10000, not {self.n}")
        if not 0 <= self.seed < 2**63:
            raise HwnasError(f"the seed must be a whole number from 0 on, not {self.seed}")


def compare(request: CompareRequest, progress: Progress | None = None) -> Comparison:
    """Measure whole networks, interleaved with the ones that calibrated the predictor, and compare.

    Writes the raw samples (measurements.db) and the results (see `Comparison.write`) into the folder.

    Raises:
        HwnasError: predictor and device do not go together, or no network could be measured.
    """
    return _Compare(request, progress or Silent()).run()


class _Compare:
    def __init__(self, request: CompareRequest, progress: Progress) -> None:
        self.request = request
        self.progress = progress
        self.start = time.monotonic()
        self.predictor, self.device = request.predictor, request.device
        self.space = self.predictor.space
        self.origin = self.predictor.origin
        self.doubts: list[str] = []
        check_device(self.predictor, self.device)
        self.timer = request.timer(self.space, self.device, request.out, origin=self.origin, progress=progress)
        self.networks = self.timer.networks()
        self.then = spread_networks(self.origin, CALIBRATION_NETWORKS)
        """Networks to measure again -> their latency then."""
        self.calibration = self._add(list(self.then), "calibration")
        self.extremes = self._extremes()
        self.chosen = self._choose()

    def run(self) -> Comparison:
        request = self.request
        self.timer.choose_route(self.networks.architectures[self.chosen[0]])
        with self.timer as timer:
            self.doubts += check_device(self.predictor, self.device, timer.about)
            wanted = {"seed": request.seed, "networks": sorted(self.networks.codes)}
            taken = timer.take(self.networks, "measurements.db", wanted, request.visits)
        comparison = self._judge(taken)
        comparison.write(request.out)
        return comparison

    # -- which networks

    def _add(self, architectures: Sequence[Architecture], role: str) -> list[str]:
        return self.networks.add(self.space.encode(architectures), role)

    def _extremes(self) -> dict[str, str]:
        """Name of each extreme -> its key."""
        smallest, largest = self.predictor.extremes()
        rows = {"smallest": smallest, "largest": largest}
        skipping = all_skip(self.space.encoding, smallest)
        if skipping is not None:
            rows["all-skip"] = skipping
        return {name: self.networks.add(row[None], "extreme")[0] for name, row in rows.items()}

    def _choose(self) -> list[str]:
        """Keys of the networks that the statistics are over."""
        request = self.request
        if request.architectures:
            return list(dict.fromkeys(self._add(request.architectures, "given")))
        used = list(self.origin.networks) if self.origin else []
        extreme = np.array([self.networks.codes[key] for key in self.extremes.values()])
        taken = np.concatenate([self.space.encode(used), extreme])
        rows = held_out(self.space.encoding, request.n, request.seed, taken)
        if not len(rows):
            raise HwnasError(f"space {self.space.name!r} has no network that calibration has not used; give --arch")
        if len(rows) < request.n:
            self.doubts.append(f"only {len(rows)} networks are left that calibration has not used")
        return self.networks.add(rows, "random")

    # -- what they say

    def _judge(self, taken: Taken) -> Comparison:
        latency = {key: e.value for key, e in taken.estimates.items()}
        visits, failed = taken.visits, taken.failed
        self.doubts += taken.conditions.get("doubts", [])
        self.doubts += [f"left out, not measured: {a.short()}: {reason}" for a, reason in failed]
        if not any(key in latency for key in self.chosen):
            raise HwnasError(f"none of the networks could be measured: {failed[0][1]}")
        factor, drift, count = self._refit(latency)
        if drift is not None and abs(drift) > DRIFT:
            self.doubts.append(f"calibration networks take {drift:+.1f} % since the table was made: profile anew")
        compared = self._compared(latency, visits, factor)
        networks = [compared[key] for key in self.chosen if key in compared]
        measured = np.array([n.measured for n in networks])
        plain = np.array([n.predicted for n in networks])
        rng = np.random.default_rng(self.request.seed)
        intervals = dict(bootstrap(plain, measured, rng))
        refitted = None
        if factor is not None:
            refitted = errors(factor * plain, measured)
            intervals["mape_refitted"] = bootstrap(factor * plain, measured, rng)["mape"]
        return Comparison(
            device=self.device.name,
            settings=self.device.settings.as_dict(),
            space=self.space.name,
            unit=self.predictor.unit,
            seed=self.request.seed,
            networks=networks,
            extremes={name: compared[key] for name, key in self.extremes.items() if key in compared},
            errors=errors(plain, measured),
            refitted=refitted,
            intervals=intervals,
            factor=factor,
            drift=drift,
            noise=self._noise([key for key in self.chosen if key in latency], visits),
            calibration_networks=count,
            failed=failed,
            conditions=taken.conditions,
            doubts=self.doubts,
            seconds=time.monotonic() - self.start,
        )

    def _compared(
        self, latency: Mapping[str, float], visits: Mapping[str, Sequence[Timed]], factor: float | None
    ) -> dict[str, ComparedNetwork]:
        """The measured networks beside their predictions, by key."""
        keys = list(latency)
        predicted = self.predictor.predict_codes(np.stack([self.networks.codes[key] for key in keys])).tolist()
        return {
            key: ComparedNetwork(
                self.networks.architectures[key],
                prediction,
                None if factor is None else factor * prediction,
                latency[key],
                *(wall_percentiles(visits[key]) if key in visits else (None, None)),
            )
            for key, prediction in zip(keys, predicted, strict=True)
        }

    def _refit(self, latency: Mapping[str, float]) -> tuple[float | None, float | None, int]:
        """Factor for the predictions, drift in percent, and the number of calibration networks behind both."""
        if self.device.exact:
            return 1.0, 0.0, 0
        then = dict(zip(self.calibration, self.then.values(), strict=True))
        keys = [key for key in then if key in latency]
        if not keys:
            return None, None, 0
        now = np.array([latency[key] for key in keys])
        predicted = self.predictor.predict_codes(np.stack([self.networks.codes[key] for key in keys]))
        drift = refit_factor(np.array([then[key] for key in keys]), now) - 1
        return refit_factor(predicted, now), 100 * drift, len(keys)

    def _noise(self, keys: Sequence[str], visits: Mapping[str, Sequence[Timed]]) -> float | None:
        if self.device.exact:
            return 0.0
        clock = self.device.clock
        speed = full_speed({key: visits[key] for key in keys}, partial(network_values, clock=clock))
        each = [repeatability(visits[key], clock, speed) for key in keys]
        return 100 * math.sqrt(sum(e * e for e in each) / len(each))

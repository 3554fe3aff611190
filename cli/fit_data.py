"""What ``hwnas fit`` learns from: networks measured now, a Parquet file of measured ones, or a latency table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageProblem
from .measuring import calibration_data, create_device

if TYPE_CHECKING:
    from ..devices.base import Device
    from ..predictors.fit import FitRequest, FitResult
    from ..predictors.frames import FrameRequest
    from ..predictors.sources import MeasureRequest, Source
    from ..profiler.progress import Progress
    from ..spaces.space import SearchSpace

NETWORKS = 100


@dataclass(frozen=True)
class FitData:
    """Where measured networks come from.

    Attributes:
        file: what to read. table: a latency table, of which the networks are taken where nothing else is said.
        networks: as given; how many to measure, or, with `until`, at most.
        until: MAPE in percent, until which networks are measured.
    """

    file: FrameRequest | None = None
    table: Path | None = None
    networks: int | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        if self.file is not None and self.networks is not None and self.until is None:
            raise UsageProblem("--data and --networks exclude each other: learn from the file, or measure")
        if self.until is not None:
            from ..predictors.active import check_until

            check_until(self.until, self.n)

    @property
    def measures(self) -> bool:
        """Whether networks are to be measured now."""
        return self.file is None and (self.networks is not None or self.until is not None or self.table is None)

    @property
    def n(self) -> int:
        """How many networks to measure, at most."""
        if self.until is None:
            return NETWORKS if self.networks is None else self.networks
        from ..predictors.active import BUDGET

        return BUDGET if self.networks is None else self.networks

    def device(self, name: str | None, options: Mapping[str, Any]) -> Device | None:
        """The device to measure on, by default that of the table; None where nothing is measured and none is named."""
        if not self.measures and name is None:
            return None
        made_for = None
        if self.table is not None:
            from ..profiler.table import LatencyTable

            with LatencyTable.open(self.table) as opened:
                made_for = opened.provenance.device, opened.provenance.settings
        if name is None and made_for is None:
            raise UsageProblem("--device is missing: where to measure (or give --data, or --table)")
        return create_device(name, made_for=made_for, **options)

    def measuring(
        self,
        device: Device | None,
        space: SearchSpace,
        folder: Path,
        kind: str,
        calibration: str | None,
        how: Mapping[str, Any],
    ) -> MeasureRequest | None:
        """What is to be measured for a predictor of the kind; None where nothing is.

        Args:
            calibration: as in ``--calibration-data``. how: options of `MeasureRequest`.
        """
        if device is None or not self.measures:
            return None
        from ..predictors.fitting import check_number
        from ..predictors.sources import MeasureRequest

        images = calibration_data(calibration, space, device)
        request = MeasureRequest(device, space, folder, self.n, calibration=images, **how)
        check_number(kind, self.n)
        return request

    def fit(
        self, request: FitRequest, device: Device | None, measuring: MeasureRequest | None, progress: Progress
    ) -> FitResult:
        """Get the networks and fit.

        Args:
            device: of which the file is, if that is known. measuring: where networks are to be measured.
        """
        from ..predictors.fit import fit, fit_until
        from ..predictors.sources import from_device, supply_of, supply_of_device

        if measuring is not None and self.until is not None:
            with supply_of_device(measuring, progress) as supply:
                return fit_until(request, supply, self.until, progress)
        source = self._known(request, device) if measuring is None else from_device(measuring, progress)
        if self.until is None:
            return fit(request, source, progress)
        return fit_until(request, supply_of(source, request.space, self.n, request.seed), self.until, progress)

    def _known(self, request: FitRequest, device: Device | None) -> Source:
        """What needs no measuring."""
        from ..predictors.sources import from_frame, from_table

        if self.file is not None:
            return from_frame(self.file, request.space, device)
        assert self.table is not None
        return from_table(self.table, request.space)

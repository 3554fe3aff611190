"""The lowered form of a space's workloads and networks, from the cache where possible, then without importing torch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..cache import Cache
from ..devices.base import Artifact, TensorSpec
from ..devices.provenance import reset_peak, resident_mb
from ..errors import HwnasError
from ..spaces.architecture import Architecture
from ..spaces.description import SpaceDescription, Workload
from ..spaces.space import SearchSpace
from .calibration_data import CalibrationData
from .lowering import EXPORTERS, LoweringError
from .lowering.precision import PRECISIONS, PrecisionError, Samples, quantise
from .progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT_VERSION = 6
"""Raised whenever lowering emits something else for the same operators."""
PRECISION_VERSION = 1
"""Raised whenever quantising gives something else for the same model."""
NEEDED = ("onnx", "onnxruntime", "ai_edge_litert", "flatbuffers")
"""Packages of lowering itself; where the models run does not matter."""


@dataclass
class Lowerer:
    """Lowers one space for one format and precision, by one route throughout.

    Attributes:
        route: "emitter", the format's exporter, or the format's name where there is one way only; see `choose_route`.
        dtype: to which models are quantised after they were lowered, where the format knows it.
        calibration: by which int8 networks are calibrated; operators always, networks without it, by random numbers.
        seconds: time spent on lowering and quantising by this object; what is cached takes none.
        costs: digest of an artifact -> what lowering it took, now or when it was cached (`lowering_ms`, and the
            `lowering_peak_mb` by which this process's peak memory rose).
    """

    space: SearchSpace
    format: str
    batch: int = 1
    route: str = "emitter"
    dtype: str = "fp32"
    calibration: CalibrationData | None = None
    seconds: float = 0.0
    costs: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def description(self) -> SpaceDescription:
        return self.space.describe(self.batch)

    def workload(self, workload: Workload) -> Artifact:
        """Lower one workload; raises LoweringError."""
        identity = [FORMAT_VERSION, self.format, self.route, workload.digest, *self._precision()]
        return self._cached(identity, lambda: self._lower_workload(workload))

    def network(self, architecture: Architecture) -> Artifact:
        """Lower a whole network; raises LoweringError. Cached for built-in spaces only: what lies between the modules
        of a user's network is known to nobody but its code."""
        if self.space.cache_id is None:
            return self._timed(lambda: self._lower_network(architecture))
        identity = [FORMAT_VERSION, self.format, self.route, self.space.cache_id, self.batch, architecture.as_dict()]
        data = self.calibration.digest if self.calibration is not None else ""
        return self._cached([*identity, *self._precision(data)], lambda: self._lower_network(architecture))

    def choose_route(self, architecture: Architecture, progress: Progress) -> dict[str, str]:
        """Find the route that covers the space: the emitter if it can, the other one where that covers more.

        Args:
            architecture: a network that has to be lowered, too.

        Returns:
            digest of each workload that cannot be lowered ("network" for the network) -> reason.
        """
        exporter = EXPORTERS.get(self.format)
        if not exporter:
            self.route = self.format
        everything: list[Workload | Architecture] = [*self.description.workloads, architecture]
        failures = self._try(everything, progress)
        inexpressible = [w for w in everything if not isinstance(failures.get(_name(w)), PrecisionError | None)]
        if inexpressible and exporter and self.route == "emitter":
            self.route = exporter
            still = self._try(inexpressible, progress)
            if len(still) < len(inexpressible):
                gone = {_name(w) for w in inexpressible} - still.keys()
                failures = {name: error for name, error in (failures | still).items() if name not in gone}
            else:
                self.route = "emitter"
        return {name: str(error) for name, error in failures.items()}

    def _try(self, items: Sequence[Workload | Architecture], progress: Progress) -> dict[str, LoweringError]:
        failures: dict[str, LoweringError] = {}
        for i, item in enumerate(items):
            progress.step("lowering", i, len(items))
            try:
                self.workload(item) if isinstance(item, Workload) else self.network(item)
            except LoweringError as error:
                failures[_name(item)] = error
        progress.step("lowering", len(items), len(items))
        return failures

    @cached_property
    def supernet(self) -> nn.Module:
        """Modules to lower; private, with batch norms that a compiler cannot simplify away. Without data for "ops"."""
        from .lowering import randomise_batch_norms

        supernet = self.space.supernet().eval()
        randomise_batch_norms(supernet, seed=0)
        return supernet.to("meta") if self.format == "ops" else supernet

    def _lower_workload(self, workload: Workload) -> Artifact:
        from ..spaces.calls import bind, example_tensors

        module = bind(self.supernet.get_submodule(workload.path), workload.call)
        return self._lower(module, example_tensors(workload.inputs), {}, None)

    def _lower_network(self, architecture: Architecture) -> Artifact:
        network = self.space.assemble(architecture, self.supernet, copied=False).eval()
        watch = {path: network.get_submodule(path) for path in self._watched(network)}
        data = self.calibration
        samples = None if data is None or self.dtype != "int8" else data.batches(self.batch)
        return self._lower(network, self.space.inputs(self.batch), watch, samples)

    def _lower(
        self, module: nn.Module, inputs: list[Tensor], watch: Mapping[str, nn.Module], samples: Samples | None
    ) -> Artifact:
        from ..spaces.failures import first_line
        from .lowering import lower

        route = self.route if EXPORTERS.get(self.format) else "auto"
        try:
            artifact = lower(module, self._placed(inputs), format=self.format, route=route, watch=watch)
            return quantise(artifact, self.dtype, samples)
        except PrecisionError as error:
            raise PrecisionError(f"{type(module).__name__} cannot be brought to {self.dtype}: {error}") from error
        except HwnasError as error:
            raise LoweringError(str(error)) from error
        except Exception as error:  # the user's own forward may raise anything
            if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] in NEEDED:
                raise  # the same for all, and no model's fault
            raise LoweringError(f"{type(module).__name__} fails on its inputs: {first_line(error)}") from error

    def _precision(self, *data: str) -> list[str]:
        """What the identity of an artifact has besides, if it is not fp32."""
        if self.dtype not in PRECISIONS.get(self.format, ()):
            return []
        return [f"{self.dtype} {PRECISION_VERSION}", *(data if self.dtype == "int8" else ())]

    def _placed(self, inputs: list[Tensor]) -> list[Tensor]:
        return [tensor.to("meta") for tensor in inputs] if self.format == "ops" else inputs

    def _watched(self, network: nn.Module) -> set[str]:
        there = {name for name, _ in network.named_modules()}
        return {path for path in map(self.built_path, range(len(self.description.nodes))) if path in there}

    @cached_property
    def _layer_choices(self) -> set[str]:
        d = self.description
        return {n.path for n in d.nodes if n.decision is not None and d.decisions[n.decision].kind == "layer"}

    def built_path(self, node: int) -> str:
        """Where a node's module sits in a built network, in which the names of candidates are gone."""
        kept: list[str] = []
        parts = self.description.nodes[node].path.split(".")
        for i, part in enumerate(parts):
            if ".".join(parts[:i]) not in self._layer_choices:
                kept.append(part)
        return ".".join(kept)

    def _cached(self, identity: list[Any], make: Any) -> Artifact:
        name = json.dumps(identity, sort_keys=True)
        data = Cache().get_bytes("artifact", name)
        if data is not None:
            artifact, self.costs[artifact.digest] = unpack(data)
            return artifact
        artifact = self._timed(make)
        Cache().put_bytes("artifact", name, pack(artifact, self.costs[artifact.digest]))
        return artifact

    def _timed(self, make: Any) -> Artifact:
        reset_peak()
        before, _ = resident_mb()
        start = time.perf_counter()
        with _one_thread():
            artifact: Artifact = make()
        seconds = time.perf_counter() - start
        self.seconds += seconds
        rise = max(0.0, resident_mb()[1] - before)
        self.costs[artifact.digest] = {"lowering_ms": 1e3 * seconds, "lowering_peak_mb": rise}
        return artifact


@contextmanager
def _one_thread() -> Iterator[None]:
    """Single modules are too small for several threads, which on a busy machine wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _name(item: Workload | Architecture) -> str:
    return item.digest if isinstance(item, Workload) else "network"


def pack(artifact: Artifact, cost: Mapping[str, float]) -> bytes:
    """One byte string: a line of JSON, then the model."""
    head: dict[str, Any] = {
        "format": artifact.format,
        "inputs": [asdict(spec) for spec in artifact.inputs],
        "digest": artifact.digest,
        "route": artifact.route,
        "owners": dict(artifact.owners),
        "cost": dict(cost),
    }
    return json.dumps(head).encode() + b"\n" + artifact.data


def unpack(data: bytes) -> tuple[Artifact, dict[str, float]]:
    """The inverse of `pack`."""
    line, _, model = data.partition(b"\n")
    head: Mapping[str, Any] = json.loads(line)
    inputs = tuple(TensorSpec(s["name"], tuple(s["shape"]), s["dtype"], s["high"]) for s in head["inputs"])
    artifact = Artifact(head["format"], model, inputs, head["digest"], head["route"], head["owners"])
    return artifact, dict(head["cost"])

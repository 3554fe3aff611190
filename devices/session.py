"""The host's side of an agent: loads workloads, runs rounds, and outlives whatever a workload does to the agent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from .base import Artifact, Device, DeviceError, DeviceLost, LoadReport, NodeTrace, Round, WorkloadFailed
from .link import Link
from .messages import describe_artifact, read_round, read_trace
from .process import AgentLost, AgentRefused
from .shelf import Shelf

T = TypeVar("T")
PATIENCE = 20.0  # a request may take this many times what its runs are known to take ...
FLOOR_S = 10.0  # ... and this on top, or the session's timeout if that is shorter
BYTES_PER_S = 1e6  # slowest link to an agent that an artifact's size is allowed for
_MEMORY = "out of memory"


class Session:
    """An agent with the workloads loaded in it; made by :meth:`Device.open`, closed as a context manager.

    A workload that crashes the agent, hangs or exhausts memory is tried once more alone and then given up with the
    reason; the agent is started anew and the others are loaded again. Where the connection to an agent elsewhere broke
    (see `Link`), it is made anew, and no workload is to blame.
    """

    def __init__(
        self,
        device: Device,
        *,
        agent: str | None = None,
        agent_python: str | None = None,
        timeout_s: float = 60.0,
        memory_mb: int | None = None,
    ) -> None:
        if not timeout_s > 0:
            raise DeviceError(f"timeout_s must be positive, not {timeout_s!r}")
        if memory_mb is not None and memory_mb < 1:
            raise DeviceError(f"memory_mb must be positive, not {memory_mb!r}")
        self.device = device
        self._link = Link(device, agent, agent_python, memory_mb, timeout_s)
        self._timeout_s = timeout_s
        self._artifacts = Shelf()
        self._failed: dict[str, str] = {}
        self._present: set[str] = set()
        self._run_s: dict[str, float] = {}
        self._closed = False
        self._lost = ""
        self._agent = self._link.start()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Ids of the workloads that can be measured now, in the order of loading."""
        return tuple(self._artifacts)

    @property
    def agent_pid(self) -> int:
        """Process id of the agent (of its local command, where it is elsewhere); changes when it is restarted."""
        return self._agent.pid

    def describe(self) -> dict[str, Any]:
        """Provenance of everything that is measured here, as JSON data.

        Keys: device, unit, format, clock, settings, runtime, hwnas, protocol, memory_limit_mb, agent, and those of
        :func:`hwnas.devices.provenance.environment`, all as the agent finds them where it runs.
        """
        try:
            answer, _ = self._outlast(lambda: self._ask({"op": "describe"}, timeout_s=self._timeout_s))
        except AgentLost as error:
            raise DeviceError(f"the agent cannot say what it measures on: {error}") from None
        return {**answer["about"], "agent": self._link.where}

    def load(self, id: str, artifact: Artifact) -> LoadReport:
        """Load a workload under a name of the caller's choice.

        Raises:
            WorkloadFailed: it cannot be loaded or run; the others stay loaded.
            DeviceError: the id is taken, or the artifact is of another format.
        """
        if artifact.format != self.device.format:
            raise DeviceError(f"{id}: device {self.device.name!r} loads {self.device.format}, not {artifact.format}")
        if id in self._artifacts:
            raise DeviceError(f"{id} is loaded already; unload it first")
        try:
            report = self._outlast(lambda: self._load(id, artifact))
        except (AgentLost, AgentRefused) as error:
            if isinstance(error, AgentRefused) and not str(error).startswith(_MEMORY):
                # the runtime's own verdict: it would be the same again
                raise WorkloadFailed(id, str(error), error.output) from None
            report = self._load_after_failure(id, artifact, str(error))
        self._artifacts.put(id, artifact)
        self._failed.pop(id, None)
        return report

    def artifact(self, id: str) -> Artifact:
        """What was loaded under a name; raises DeviceError where there is nothing."""
        if id not in self._artifacts:
            raise DeviceError(f"{id} is not loaded")
        return self._artifacts.get(id)

    def round(self, ids: Sequence[str], *, warmup: int = 2, runs: int = 3) -> Round:
        """Visit the workloads in the given order: ``warmup`` untimed and ``runs`` timed runs each.

        Where the device goes away in the middle, what was visited until then is returned, and the next call raises.

        Raises:
            DeviceError: an id that was never loaded or is given twice; no runs; or an agent that cannot be restarted.
            DeviceLost: the device has gone.
        """
        self._check_round(ids, warmup, runs)
        try:
            result, errors = self._outlast(lambda: self._round(self._unfailed(ids), warmup, runs))
        except AgentLost as error:
            result, errors = Round({}, {}, 0, 0.0), dict.fromkeys(self._unfailed(ids), str(error))
        failures = {id: self._failed[id] for id in ids if id in self._failed}
        samples = dict(result.samples)
        outputs: dict[str, str] = {}
        preemptions = result.preemptions
        try:
            for id in errors:
                alone = self._round_alone(id, warmup, runs)
                samples.update(alone.samples)
                failures.update(alone.failures)
                outputs.update(alone.outputs)
                preemptions += alone.preemptions
            if errors:
                self._restore()
        except DeviceLost as error:
            self._lost = str(error)
        ordered = {id: samples[id] for id in ids if id in samples}
        return Round(ordered, failures, preemptions, result.load, result.conditions, outputs, self._lost)

    def trace(self, id: str, *, runs: int = 50) -> NodeTrace:
        """Time the single nodes of a loaded workload.

        Raises:
            WorkloadFailed: it could not be traced; it stays loaded.
            DeviceError: the device cannot trace, or the id is not loaded.
        """
        if "trace" not in self.device.capabilities:
            raise DeviceError(f"device {self.device.name!r} cannot time single nodes")
        self._check_round([id], 0, runs)
        try:
            return self._outlast(lambda: self._trace(id, runs))
        except (AgentLost, AgentRefused) as error:
            raise WorkloadFailed(id, str(error)) from None

    def unload(self, id: str) -> None:
        """Give up a workload; one that is not loaded is no error."""
        self._artifacts.drop(id)
        self._failed.pop(id, None)
        self._forget(id)

    def close(self) -> None:
        """End the agent. The session cannot be used any more."""
        self._closed = True
        self._agent.close()
        self._artifacts.close()

    def _restart(self) -> None:
        self._agent.kill()
        self._present.clear()
        try:
            self._agent = self._link.restart()
        except DeviceLost as error:
            self._lost = str(error)
            raise

    def _outlast(self, action: Callable[[], T], *, alone: bool = False) -> T:
        """Do it with every workload in the agent, or none, and again where not the agent but the way to it broke."""
        while True:
            if not alone:
                self._restore()
            elif self._present or not self._agent.alive:
                self._restart()
            try:
                result = action()
            except AgentLost as error:
                if not self._link.broke(error):
                    raise
            else:
                self._link.held()
                return result

    def _restore(self) -> None:
        """Have a living agent with every workload in it; one that cannot be loaded again is given up."""
        if self._closed:
            raise DeviceError("the session is closed")
        if self._lost:
            raise DeviceLost(self._lost)
        while True:
            if not self._agent.alive:
                self._restart()
            id = next((id for id in self._artifacts if id not in self._present), None)
            if id is None:
                return
            try:
                self._load(id, self._artifacts.get(id))
            except (AgentLost, AgentRefused) as error:
                if not (isinstance(error, AgentLost) and self._link.broke(error)):
                    self._give_up(id, f"cannot be loaded again: {error}")

    def _load(self, id: str, artifact: Artifact) -> LoadReport:
        header = {"op": "load", "id": id, "artifact": describe_artifact(artifact)}
        limit = self._timeout_s + len(artifact.data) / BYTES_PER_S
        answer, _ = self._agent.request(header, [artifact.data], timeout_s=limit)
        self._present.add(id)
        self._run_s[id] = answer["run_s"]
        return LoadReport(**answer["report"])

    def _load_after_failure(self, id: str, artifact: Artifact, reason: str) -> LoadReport:
        """Alone in a fresh agent; if that works, once more beside the others."""
        self._agent.kill()
        try:
            self._outlast(lambda: self._load(id, artifact), alone=True)
        except (AgentLost, AgentRefused) as error:
            self._restore()
            raise WorkloadFailed(id, str(error)) from None
        self._forget(id)
        try:
            return self._outlast(lambda: self._load(id, artifact))
        except (AgentLost, AgentRefused) as error:
            self._restore()
            beside = f"loads alone, but not beside the {len(self._artifacts)} others: {error}"
            raise WorkloadFailed(id, f"{beside} (first failure: {reason})") from None

    def _round(self, ids: Sequence[str], warmup: int, runs: int) -> tuple[Round, dict[str, str]]:
        """One round in the agent as it is; the samples, and the reasons of those that raised."""
        header = {"op": "round", "ids": list(ids), "warmup": warmup, "runs": runs}
        result, errors = read_round(*self._ask(header, timeout_s=self._patience(ids, warmup + runs)))
        self._lost = result.lost
        return result, {} if self._lost else errors

    def _round_alone(self, id: str, warmup: int, runs: int) -> Round:
        """The second chance: the only workload in the agent. A failure gives the workload up."""

        def visit() -> tuple[Round, dict[str, str]]:
            self._load(id, self._artifacts.get(id))
            return self._round([id], warmup, runs)

        try:
            result, errors = self._outlast(visit, alone=True)
        except (AgentLost, AgentRefused) as error:
            result, errors = Round({}, {}, 0, 0.0), {id: str(error)}
        self._forget(id)
        for failed, reason in errors.items():
            self._give_up(failed, reason)
        return Round(result.samples, errors, result.preemptions, result.load, outputs=result.outputs)

    def _trace(self, id: str, runs: int) -> NodeTrace:
        if id in self._failed:
            raise WorkloadFailed(id, self._failed[id])
        limit = self._timeout_s + self._patience([id], runs)
        return read_trace(*self._agent.request({"op": "trace", "id": id, "runs": runs}, timeout_s=limit))

    def _unfailed(self, ids: Sequence[str]) -> list[str]:
        return [id for id in ids if id not in self._failed]

    def _forget(self, id: str) -> None:
        """Take a workload out of the agent, which may be dead."""
        if id in self._present and self._agent.alive:
            try:
                self._agent.request({"op": "unload", "id": id}, timeout_s=self._timeout_s)
            except (AgentLost, AgentRefused):
                self._agent.kill()
        self._present.discard(id)

    def _give_up(self, id: str, reason: str) -> None:
        self._artifacts.drop(id)
        self._forget(id)
        self._failed[id] = reason

    def _ask(self, header: dict[str, Any], *, timeout_s: float) -> tuple[dict[str, Any], list[bytes]]:
        """A request that no workload can be blamed for, if the agent refuses it."""
        try:
            return self._agent.request(header, timeout_s=timeout_s)
        except AgentRefused as error:
            raise DeviceError(f"the agent refused {header['op']!r}: {error}") from None

    def _patience(self, ids: Iterable[str], runs: int) -> float:
        known = sum(self._run_s[id] for id in ids)
        return min(FLOOR_S, self._timeout_s) + self.device.pause_s + PATIENCE * runs * known

    def _check_round(self, ids: Sequence[str], warmup: int, runs: int) -> None:
        unknown = [id for id in ids if id not in self._artifacts and id not in self._failed]
        if unknown:
            raise DeviceError(f"{unknown[0]} was never loaded in this session")
        if len(set(ids)) < len(ids):
            raise DeviceError("a round visits each workload once; an id is given twice")
        if warmup < 0 or runs < 1:
            raise DeviceError(f"a round needs at least one run and no negative warm-ups, not {warmup} + {runs}")

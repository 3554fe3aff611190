"""The process that times workloads: ``python -m hwnas.devices.agent --device NAME``.

It obeys the messages on its standard input (see ``protocol``), one after the other, and dies when that closes. Only the
base install and the device's runtime are needed where it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

# Nothing that may print, or start threads, is imported before the pipes and the limits are in place.
from .. import __version__
from .protocol import PROTOCOL_VERSION, Channel, StreamClosed

if TYPE_CHECKING:
    import numpy as np

    from .base import Artifact, Device, Model, Runtime

Reply = tuple[dict[str, Any], list[bytes]]

MEMORY_SHARE = 0.9
_MEMORY_SIGNS = ("bad_alloc", "bad allocation", "allocate memory", "out of memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one host until it says quit or goes away."""
    parser = argparse.ArgumentParser(prog="python -m hwnas.devices.agent")
    parser.add_argument("--device", required=True)
    parser.add_argument("--memory-mb", type=int)
    options = parser.parse_args(arguments)
    ending = _Ending()
    channel = _claim_pipes(ending)
    channel.send({"hello": "hwnas", "protocol": PROTOCOL_VERSION, "hwnas": __version__})
    with contextlib.suppress(StreamClosed):
        start, _ = channel.receive()
        memory_mb = _limit_memory(options.memory_mb)
        try:
            device, runtime = _create(options.device, start["settings"], start["connection"])
            ending.action = runtime.close
        except Exception as error:  # foreign runtimes: the host must hear why there is no device
            channel.send(_error(error))
            return 1
        _serve(channel, Agent(device, runtime, memory_mb))
    ending()
    return 0


class _Ending:
    """What has to be cleaned up before this process goes: whichever thread comes first does it, another waits."""

    def __init__(self) -> None:
        self.action: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            action, self.action = self.action, None
            if action is not None:
                with contextlib.suppress(Exception):  # nobody is left to hear it
                    action()


class Agent:
    """The loaded models, and what can be done with them. Each method answers the message of its name."""

    def __init__(self, device: Device, runtime: Runtime, memory_mb: int | None) -> None:
        self._device = device
        self._runtime = runtime
        self._memory_mb = memory_mb
        self._models: dict[str, Model] = {}

    def describe(self, message: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Everything that the times depend on."""
        device = self._device
        about = {
            "device": device.name,
            "unit": device.unit,
            "format": device.format,
            "clock": device.clock,
            "settings": device.settings.as_dict(),
            "runtime": self._runtime.describe(),
            "hwnas": __version__,
            "protocol": PROTOCOL_VERSION,
            "memory_limit_mb": self._memory_mb,
            **self._runtime.environment(),
        }
        return {"about": about}, []

    def load(self, message: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Load a workload and run it twice, each phase with its time and the memory that it took."""
        id, artifact = message["id"], _artifact(message["artifact"], blobs[0])
        model, load_ns, load_mb = _phase(lambda: self._runtime.load(id, artifact))
        try:
            first, first_ns, first_mb = _phase(lambda: model.run(1))
            warm, warm_ns, warm_mb = _phase(lambda: model.run(1))
        except BaseException:
            model.close()
            raise
        self._models[id] = model
        report = {
            "load_ms": load_ns / 1e6,
            "first_run_ms": int(first[0][0]) / 1e6,
            "warm_run_ms": int(warm[0][0]) / 1e6,
            "peak_mb": load_mb + first_mb + warm_mb,
            "load_peak_mb": load_mb,
            "first_run_peak_mb": first_mb,
            "warm_run_peak_mb": warm_mb,
            **model.report(),
        }
        return {"report": report, "run_s": max(first_ns, warm_ns) / 1e9}, []

    def round(self, message: dict[str, Any], blobs: list[bytes]) -> Reply:
        """One visit to each workload in the given order: warm-ups, then timed runs, between two of the reference."""
        from .provenance import load_average, preemptions

        visits: list[dict[str, Any]] = []
        samples: list[tuple[np.ndarray, np.ndarray]] = []
        before = preemptions()
        lost = ""
        gc.disable()
        try:
            for id in message["ids"]:
                started = self._runtime.now()
                try:
                    model = self._models[id]
                    reference = [self._runtime.reference()]
                    timed = model.visit(message["warmup"], message["runs"])
                    reference.append(self._runtime.reference())
                    samples.append(timed)
                    known = [r for r in reference if r is not None]
                    visits.append({"id": id, "started": started, "reference": known, "sizes": [*map(len, timed)]})
                except Exception as error:  # foreign runtimes: one workload's failure must not cost the others
                    why = _error(error)
                    lost = why["error"] if why.get("lost") else ""
                    if lost:  # the visits until now hold
                        break
                    visits.append({"id": id, "error": why["error"], "output": why.get("output", "")})
        finally:
            gc.enable()
        load = load_average()
        header = {"visits": visits, "preemptions": preemptions() - before, "load": load[0] if load else 0.0}
        header |= {"lost": lost, "conditions": {} if lost else self._runtime.conditions()}
        return header, [_nanoseconds(samples, 0), _nanoseconds(samples, 1)]

    def trace(self, message: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Node times of one workload."""
        trace = self._models[message["id"]].trace(message["runs"])
        nodes = [[node.name, node.op_type, node.outputs, node.ms] for node in trace.nodes]
        return {"nodes": nodes, "run_ms": trace.run_ms, "runs": trace.runs}, [trace.model]

    def unload(self, message: dict[str, Any], blobs: list[bytes]) -> Reply:
        """Give a workload's memory back."""
        model = self._models.pop(message["id"], None)
        if model is not None:
            model.close()
            del model
            gc.collect()
        return {}, []


def _serve(channel: Channel, agent: Agent) -> None:
    handlers: dict[str, Callable[[dict[str, Any], list[bytes]], Reply]] = {
        "describe": agent.describe,
        "load": agent.load,
        "round": agent.round,
        "trace": agent.trace,
        "unload": agent.unload,
    }
    channel.send({"ok": True})
    while True:
        message, blobs = channel.receive()
        if message["op"] == "quit":
            return
        try:
            header, answer = handlers[message["op"]](message, blobs)
        except Exception as error:  # foreign runtimes: the host must hear the reason, and the next request be served
            header, answer = _error(error), []
        channel.send({"ok": True, **header}, answer)
        del message, blobs, answer


def _claim_pipes(ending: _Ending) -> Channel:
    """Keep the host's pipes to ourselves: whatever prints goes to standard error, whatever reads gets nothing."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_die_with_host, args=(read_fd, ending), daemon=True).start()
    return Channel(read_fd, write_fd)


def _die_with_host(fd: int, ending: _Ending) -> None:
    """Wait, without using the CPU, for the host's end to close: a busy or hung model cannot notice that itself."""
    poll = select.poll()
    poll.register(fd, 0)  # a hang-up is always reported
    poll.poll()
    ending()
    os._exit(0)


def _create(name: str, settings: dict[str, Any], connection: dict[str, Any]) -> tuple[Device, Runtime]:
    # A BLAS pool would steal time from the measured thread, and address space.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from .base import DeviceError
    from .registry import create

    device = create(name, connection=connection, **settings)
    missing = device.unavailable()
    if missing is not None:
        raise DeviceError(f"{missing.reason}; {missing.mend}")
    device.check_machine()
    return device, device.runtime()


def _limit_memory(limit_mb: int | None) -> int | None:
    """Make allocations beyond the limit fail here, before the machine runs out; returns the limit that holds.

    RLIMIT_DATA counts private writable memory; RLIMIT_AS would count the libraries' code and reserved space as well.
    """
    from .provenance import memory_mb

    with contextlib.suppress(OSError):  # if the machine runs out all the same, the agent goes first
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"900")
        os.close(fd)
    available = memory_mb()["available"]
    if limit_mb is None and available is not None:
        limit_mb = int(MEMORY_SHARE * available)
    if limit_mb is not None:
        try:
            import resource

            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            if hard != resource.RLIM_INFINITY:
                limit_mb = min(limit_mb, hard >> 20)
            resource.setrlimit(resource.RLIMIT_DATA, (limit_mb << 20, hard))
        except (ImportError, OSError, ValueError):
            return None
    return limit_mb


def _phase(action: Callable[[], Any]) -> tuple[Any, int, float]:
    """The action's result, its nanoseconds, and the MB by which the agent's peak rose during it."""
    from .provenance import reset_peak, resident_mb

    reset_peak()
    before, _ = resident_mb()
    start = time.perf_counter_ns()
    result = action()
    elapsed = time.perf_counter_ns() - start
    return result, elapsed, max(0.0, resident_mb()[1] - before)


def _artifact(about: dict[str, Any], data: bytes) -> Artifact:
    from .base import Artifact, TensorSpec

    inputs = tuple(TensorSpec(name, tuple(shape), dtype, high) for name, shape, dtype, high in about["inputs"])
    return Artifact(about["format"], data, inputs, about["digest"], about["route"])


def _nanoseconds(samples: list[tuple[np.ndarray, np.ndarray]], which: int) -> bytes:
    import numpy as np

    return b"".join(np.ascontiguousarray(pair[which], dtype="<i8").tobytes() for pair in samples)


def _reason(error: BaseException) -> str:
    """One line about a failure, marked where memory was what lacked."""
    text = " ".join(f"{error}".split()) or type(error).__name__
    memory = isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS)
    return f"out of memory: {text}" if memory and not text.startswith("out of memory") else text


def _error(error: BaseException) -> dict[str, Any]:
    from .data import DeviceLost, OutputUnreadable

    answer: dict[str, Any] = {"ok": False, "error": _reason(error)}
    if isinstance(error, DeviceLost):
        answer["lost"] = True
    if isinstance(error, OutputUnreadable):
        answer["output"] = error.output
    return answer


if __name__ == "__main__":
    sys.exit(main())

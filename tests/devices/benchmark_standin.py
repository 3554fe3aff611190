"""A stand-in for TFLite's ``benchmark_model``: takes its flags, times the real LiteRT interpreter, prints its format.

It misbehaves as the file ``behave`` beside its folder says: gibberish, crash, hang, silent, gpu (all on the GPU),
gpu-part. With --quick nothing is run, which saves loading the interpreter.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Runs = list[int]
WHOLLY = "be completely executed by the delegate"


def main() -> int:
    options = read_flags(sys.argv[1:])
    if options.help:
        say("usage: benchmark_model <flags>\nFlags:\n\t--num_runs=50 int32 optional expected number of runs")
        return 1
    behave = behaviour(options.graph)
    say("INFO: STARTING!")
    say(f"INFO: Graph: [{options.graph}]")
    if behave == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if behave == "gibberish":
        say("INFO: count=many\nInference timings in us: none")
        return 0
    if behave == "hang":
        time.sleep(600)
    start = time.perf_counter_ns()
    try:
        interpreter = Nothing(options.graph) if options.quick else load(options)
    except ValueError as error:
        say(f"ERROR: Failed to mmap model {options.graph}: {error}")
        return 1
    init_us = (time.perf_counter_ns() - start) // 1000
    say(f"INFO: Loaded model {options.graph}")
    say_delegates(options, behave, sum(op["op_name"] != "DELEGATE" for op in interpreter._get_ops_details()))
    say(f"INFO: Initialized session in {init_us / 1000:.6g}ms.")
    warmup = measure(interpreter, options.warmup_runs, options.warmup_min_secs, options.max_secs)
    timed = measure(interpreter, options.num_runs, options.min_secs, options.max_secs)
    first = f"{warmup[0] if warmup else 0}"
    say(
        f"INFO: Inference timings in us: Init: {init_us}, First inference: {first}, "
        f"Warmup (avg): {mean(warmup)}, Inference (avg): {mean(timed)}"
    )
    say("INFO: Memory footprint delta from the start of the tool (MB): init=1.25 overall=2.5")
    if options.report_peak_memory_footprint:
        say("INFO: Overall peak memory footprint (MB) via periodic monitoring: 93.2")
    return 0


def read_flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--graph", default="")
    for name, number in (("num_threads", 1), ("warmup_runs", 1), ("num_runs", 50)):
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, seconds in (("warmup_min_secs", 0.5), ("min_secs", 1.0), ("max_secs", 150.0)):
        parser.add_argument(f"--{name}", type=float, default=seconds)
    switches = ("use_xnnpack", "use_gpu", "gpu_precision_loss_allowed", "enable_op_profiling")
    for name in (*switches, "report_peak_memory_footprint", "help", "quick"):
        parser.add_argument(f"--{name}", nargs="?", const=True, default=False, type=lambda text: text == "true")
    return parser.parse_args(arguments)


def behaviour(graph: str) -> str:
    file = Path(graph).parent.parent / "behave"
    return file.read_text().strip() if file.exists() else ""


class Nothing:
    """In place of an interpreter."""

    def __init__(self, path: str) -> None:
        if Path(path).read_bytes()[4:8] != b"TFL3":
            raise ValueError("no model")

    def invoke(self) -> None:
        time.sleep(0.001)

    def _get_ops_details(self) -> list[dict[str, str]]:
        return [{"op_name": "CONV_2D"}]


def load(options: argparse.Namespace) -> Any:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.AUTO if options.use_xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_path=options.graph, num_threads=options.num_threads, experimental_op_resolver_type=kernels
    )
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        interpreter.set_tensor(tensor["index"], rng.integers(0, 2, tensor["shape"]).astype(tensor["dtype"]))
    return interpreter


def say_delegates(options: argparse.Namespace, behave: str, operators: int) -> None:
    if behave == "silent":
        return
    if options.use_gpu and behave == "gpu":
        say(f"INFO: Explicitly applied GPU delegate, and the model graph will {WHOLLY}.")
    elif options.use_gpu and behave == "gpu-part":
        partly = WHOLLY.replace("completely", "partially")
        say(f"INFO: Explicitly applied GPU delegate, and the model graph will {partly} w/ 2 delegate kernels.")
    elif options.use_gpu:
        say("ERROR: Following operations are not supported by GPU delegate:\nCONV_2D: no GPU here.")
        not_at_all = WHOLLY.replace("be completely", "not be")
        say(f"INFO: Though GPU delegate is explicitly applied, the model graph will {not_at_all}.")
    if options.use_xnnpack:
        counts = f"{operators} out of {operators} node(s) with delegate (TfLiteXNNPackDelegate) node"
        say(f"VERBOSE: Replacing {counts}, yielding 1 partitions for subgraph 0.")
        say(f"INFO: Explicitly applied XNNPACK delegate, and the model graph will {WHOLLY}.")


def measure(interpreter: Any, runs: int, seconds: float, most: float) -> Runs:
    say(
        f"INFO: Running benchmark for at least {runs} iterations and at least {seconds:g} seconds but terminate if "
        f"exceeding {most:g} seconds."
    )
    times: Runs = []
    begun = time.monotonic()
    while (len(times) < runs or time.monotonic() - begun < seconds) and time.monotonic() - begun <= most:
        start = time.perf_counter_ns()
        interpreter.invoke()
        times.append((time.perf_counter_ns() - start) // 1000)
    say(f"INFO: {summary(times)}\n")
    return times


def summary(times: Runs) -> str:
    if not times:
        return "count=0"
    if len(set(times)) == 1:
        return f"count={len(times)} curr={times[-1]}" + ("(all same)" if len(times) > 1 else "")
    return (
        f"count={len(times)} first={times[0]} curr={times[-1]} min={min(times)} max={max(times)} avg={mean(times)} "
        f"std={int(statistics.pstdev(times))}"
    )


def mean(times: Runs) -> str:
    return f"{sum(times) / len(times):.6g}" if times else "-nan"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""Reading what benchmark_model prints: every form that its builds have had."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
from hwnas.devices.android.benchmark import Summary, delegation, parse
from hwnas.devices.android.operator_table import operator_tables
from hwnas.devices.base import DeviceError, OutputUnreadable
from hypothesis import given
from hypothesis import strategies as st

OUTPUTS = {path.stem: path.read_text() for path in (Path(__file__).parent / "benchmark_output").glob("*.txt")}


@pytest.mark.parametrize(
    ("name", "count", "mean", "init", "first"),
    [
        ("info", 50, 56265.8, 3337, 81913),
        ("plain", 801550, 1.09118, 212, 31),
        ("logcat", 2, 2.95034e6, 2950341, 3512391),
        ("brief_logcat", 75, 12167.6, 126059, 32942),
        ("one_run", 1, 3420007, 870557, 3512391),
        ("same_runs", 12, 7, 95, 0),
        ("gpu_falls_back", 50, 119375, 70557, 130565),
        ("profiled", 3, 1300, 900, 1500),
        ("old_profile", 50, 23313.5, 21528106, None),
        ("csv_profile", 3, 1300, 900, 1500),
    ],
)
def test_the_measurement_is_found_in_every_form(name: str, count: int, mean: float, init: float, first: float) -> None:
    found = parse(OUTPUTS[name])
    assert (found.measured.count, found.measured.mean) == (count, mean)
    assert (found.init, found.first) == (init, first)


def test_all_that_a_summary_says_is_kept() -> None:
    found = parse(OUTPUTS["logcat"])
    assert found.measured == Summary(2, 2.95034e6, 2940112, 2940112, 2960570, 10229, 2940112, 2960570, 2960570)
    assert found.warmup == Summary(1, 3512391)
    assert parse(OUTPUTS["same_runs"]).warmup is None


def test_memory_is_read_where_it_is_told() -> None:
    info = parse(OUTPUTS["info"])
    assert (info.peak_mb, info.init_mb, info.overall_mb) == (93.2, 12.4688, 31.6094)
    plain = parse(OUTPUTS["plain"])
    assert (plain.peak_mb, plain.init_mb, plain.overall_mb) == (None, 0.128906, 0.640625)
    assert parse(OUTPUTS["logcat"]).overall_mb is None


@pytest.mark.parametrize(
    ("name", "delegate", "extent", "delegated", "operators", "left"),
    [
        ("info", "XNNPACK", "partially", 62, 64, ()),
        ("info", "GPU", "", None, None, ()),
        ("plain", "XNNPACK", "", None, None, ()),
        ("logcat", "GPU", "completely", None, None, ()),
        ("gpu_falls_back", "GPU", "not", 0, None, ("SPACE_TO_BATCH_ND", "GATHER")),
        ("gpu_falls_back", "XNNPACK", "", 9, 12, ()),
        ("gpu_in_part", "GPU", "partially", 31, 35, ("ADD", "CAST")),
        ("profiled", "XNNPACK", "", None, None, ("GATHER", "CUSTOM")),
        ("old_profile", "GPU", "", None, None, ("SPLIT",)),
    ],
)
def test_delegates_are_told_apart(
    name: str, delegate: str, extent: str, delegated: int | None, operators: int | None, left: tuple[str, ...]
) -> None:
    found = delegation(OUTPUTS[name], delegate)
    assert (found.extent, found.delegated, found.operators, found.left) == (extent, delegated, operators, left)


def test_older_builds_do_not_say_how_many_operators_there_were() -> None:
    replaced = "INFO: Replacing 31 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions.\n"
    whole = (
        "INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.\n"
    )
    assert delegation(replaced, "XNNPACK").operators is None
    found = delegation(replaced + whole, "XNNPACK")
    assert (found.delegated, found.operators) == (31, 31)
    found = delegation(replaced + OUTPUTS["profiled"], "XNNPACK")
    assert (found.delegated, found.operators, found.left) == (31, 33, ("GATHER", "CUSTOM"))


def test_operator_tables_have_columns_by_their_heading() -> None:
    tables = {
        (table.section.removeprefix("INFO: "), table.title): table for table in operator_tables(OUTPUTS["profiled"])
    }
    runs = tables["Operator-wise Profiling Info for Regular Benchmark Runs", "Run Order"]
    assert runs.of_runs
    assert [(row.type, row.ms) for row in runs.rows] == [
        ("TfLiteXNNPackDelegate", 1.0),
        ("GATHER", 0.2),
        ("CUSTOM", 0.1),
    ]
    assert runs.rows[0].name == "net/relu;net/conv1, net/conv2"
    assert runs.rows[0].columns["times called"] == 1
    assert runs.rows[0].columns["%"] == 76.923
    inside = tables["Delegate internal", "Run Order"]
    assert (inside.of_runs, inside.rows[0].type) == (False, "Convolution (NHWC, F32) IGEMM")
    assert len(tables) == 4  # summaries by type have no line for each operator
    assert sum(table.of_runs for table in tables.values()) == 1


def test_older_tables_have_one_column_more() -> None:
    (table,) = operator_tables(OUTPUTS["old_profile"])
    assert [(row.type, row.ms, row.columns["start"]) for row in table.rows] == [
        ("DELEGATE", 21.287, 0.0),
        ("SPLIT", 0.013, 21.287),
    ]
    assert table.rows[1].name == "rnn/split, rnn/split:1, rnn/split:2"


def test_commas_in_names_are_no_columns() -> None:
    (table,) = operator_tables(OUTPUTS["csv_profile"])
    assert [(row.type, row.ms) for row in table.rows] == [
        ("CONV_2D", 0.4),
        ("Convolution (NHWC, F32) IGEMM", 0.8),
        ("ADD", 0.1),
    ]
    assert table.rows[0].name == "net/relu, net/conv/bias"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line `Inference timings"),
        ("Segmentation fault\n", "no line `Inference timings"),
        (OUTPUTS["info"].partition("INFO: Inference timings")[0], "no line `Inference timings"),
        ("INFO: Inference timings in us: Init: 1\n", "no summary of runs"),
        ("count=0\nInference timings in us: Init: 1\n", "no summary of runs"),
        ("count=3 first=1 curr=1\nInference timings in us: Init: 1, Inference (avg): 9\n", "on average, or 9 us"),
        ("count=3 avg=many\nInference timings in us: Init: 1\n", "a summary without a mean"),
        ("count=3 min=5 max=9 avg=200\nInference timings in us: Init: 1\n", "a mean outside of its runs"),
        (OUTPUTS["info"].replace("count=50 first", "count= first"), "58984.7 us on average, or 56265.8 us"),
    ],
)
def test_what_is_no_measurement_is_refused_and_kept(text: str, message: str) -> None:
    with pytest.raises(OutputUnreadable, match=message) as caught:
        parse(text)
    assert caught.value.output == text
    assert isinstance(caught.value, DeviceError)


PREFIXES = st.sampled_from(
    ["", "INFO: ", "05-30 15:16:44.857  3380  3380 I tflite  : ", "I/tflite(3380): ", "I tflite: "]
)


@given(
    runs=st.lists(st.integers(0, 10**8), min_size=1, max_size=30),
    warmups=st.lists(st.integers(0, 10**8), max_size=5),
    prefix=PREFIXES,
    percentiles=st.booleans(),
)
def test_what_was_printed_is_what_is_read(runs: list[int], warmups: list[int], prefix: str, percentiles: bool) -> None:
    def mean(times: list[int]) -> str:
        return f"{sum(times) / len(times):.6g}" if times else "-nan"

    def summary(times: list[int]) -> str:
        if len(set(times)) < 2:
            return f"count={len(times)}" + (f" curr={times[0]}" if times else "") + "(all same)" * (len(times) > 1)
        more = f" p5={min(times)} median={times[0]} p95={max(times)}" if percentiles else ""
        low, high = min(times), max(times)
        return (
            f"count={len(times)} first={times[0]} curr={times[-1]} min={low} max={high} avg={mean(times)} std=3{more}"
        )

    end = f"Init: 10, First inference: 3, Warmup (avg): {mean(warmups)}, Inference (avg): {mean(runs)}"
    lines = ["STARTING!", summary(warmups), "", summary(runs), "", f"Inference timings in us: {end}", "done"]
    found = parse("\n".join(prefix + line for line in lines))
    assert found.measured.count == len(runs)
    assert math.isclose(found.measured.mean, sum(runs) / len(runs), rel_tol=1e-5, abs_tol=1e-9)
    assert (found.warmup is None) == (not warmups)


@given(st.text(alphabet=st.sampled_from("count=avg 0123.e+nif\n\t,:[]%=-CONVmsI"), max_size=400))
def test_no_output_raises_anything_but_that_it_cannot_be_understood(noise: str) -> None:
    for text in (
        noise,
        OUTPUTS["info"] + noise,
        noise + OUTPUTS["profiled"],
        OUTPUTS["profiled"].replace("1.000", noise),
    ):
        delegation(text, "GPU")
        operator_tables(text)
        with contextlib.suppress(OutputUnreadable):
            assert parse(text).measured.count

"""The benchmarks run, and say honestly what they found. None of their timings is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hwnas.benchmarks import accuracy, active, learned_prediction, mobile, prediction, repeatability, search_accuracy
from hwnas.benchmarks.accuracy import ISOLATED, SCALED, references
from hwnas.benchmarks.common import Finding, Report, by_turns, folder, options
from hwnas.benchmarks.nets import NETS
from hwnas.benchmarks.profile_time import Watched, memory_mb, watched
from hwnas.errors import HwnasError
from hwnas.predictors.compare import CompareRequest, compare
from hwnas.predictors.lut import LutPredictor
from hwnas.profiler.additive import AdditiveModel
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.metrics import errors
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.progress import Silent
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow
from hwnas.spaces.registry import load_space
from hwnas.testing.simulated import Simulated
from hwnas.testing.zoo import ZOO

ROOT = Path(__file__).resolve().parents[2]
HELPERS = {"common.py", "nets.py", "search_units.py"}
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py") if path.name not in HELPERS)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_the_common_options_and_examples(script: str) -> None:
    result = run(f"benchmarks/{script}", "--help")
    assert result.returncode == 0, result.stderr
    assert "--quick" in result.stdout
    assert "--json FILE" in result.stdout
    assert f"python benchmarks/{script}" in result.stdout.partition("examples:")[2]


def test_make_bench_runs_every_script_and_no_helper() -> None:
    makefile = (ROOT / "Makefile").read_text()
    line = next(line for line in makefile.splitlines() if line.startswith("BENCHMARKS"))
    assert {word for word in HELPERS if f"benchmarks/{word}" in line} == HELPERS
    assert set(SCRIPTS) >= {"accuracy.py", "conversion.py", "prediction.py", "profile_time.py", "repeatability.py"}


def test_chosen_networks_are_compared_with_random_ones(tmp_path: Path) -> None:
    found = tmp_path / "a.json"
    active.main(["--kind", "lut", "--sizes", "64,90", "--seeds", "2", "--json", str(found)])
    result = json.loads(found.read_text())
    assert np.shape(result["active"]) == np.shape(result["random"]) == (2, 2)
    assert [finding["what"] for finding in result["findings"]][:2] == [
        "MAPE after 64 networks",
        "MAPE after 90 networks",
    ]
    assert [one["judges"] for one in result["judged"]] == [45, 45]
    with pytest.raises(HwnasError, match="--target and --features are missing"):
        active.main([str(tmp_path / "a.parquet")])


def test_a_script_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prediction.main(["--quick", "--space", "nasbench201", "--number", "2000", "--json", str(tmp_path / "p.json")])
    shown = capsys.readouterr().out
    assert "seconds a million" in shown
    assert "numpy indexing" in shown
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["findings"][0]["bar"] == prediction.BAR
    assert set(written["findings"][0]["references"]) == {"numpy indexing", "Python loop", "the sum without checks"}


def test_learned_predictors_are_timed(tmp_path: Path) -> None:
    asked = ["--quick", "--space", "proxyless", "--kind", "linear", "--networks", "40", "--number", "500"]
    learned_prediction.main([*asked, "--turns", "1", "--json", str(tmp_path / "p.json")])
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["findings"][0]["bar"] == learned_prediction.BAR
    assert written["number"] == 500


def test_a_request_that_cannot_be_carried_out_ends_with_2() -> None:
    result = run("benchmarks/prediction.py", "--space", "nothing", "--quick")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("prediction.py: unknown space 'nothing'")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "bar", "at_least", "met"),
    [
        (1.0, 1.0, False, True),
        (1.01, 1.0, False, False),
        (94.9, 95.0, True, False),
        (95.0, 95.0, True, True),
        (None, 1.0, False, False),
        (3.0, None, False, None),
    ],
)
def test_a_bar_is_met_or_not(value: float | None, bar: float | None, at_least: bool, met: bool | None) -> None:
    assert Finding("x", value, "%", bar, at_least).met is met


def test_a_missed_bar_is_named_and_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("title", options("about").parse_args(["--json", str(tmp_path / "r.json")]))
    report.findings = [Finding("bad", 2.0, "s", 1.0, references={"other": 3.0}), Finding("good", 1.0, "s", 1.0)]
    report.finish()
    lines = capsys.readouterr().out.splitlines()
    assert [word for line in lines if "bad" in line for word in ("MISSED", "other 3") if word in line] == [
        "MISSED",
        "other 3",
    ]
    assert "1 of 2 bars reached" in lines
    assert json.loads((tmp_path / "r.json").read_text())["missed"] == 1


def test_turns_are_interleaved() -> None:
    order: list[str] = []
    taken = by_turns({name: lambda name=name: order.append(name) for name in "ab"}, 3)  # type: ignore[misc]
    assert order == ["a", "b"] * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_folder_goes_unless_it_was_given(tmp_path: Path) -> None:
    with folder() as temporary:
        (temporary / "x").touch()
    with folder(tmp_path / "a" / "kept") as kept:
        (kept / "x").touch()
    assert not temporary.exists()
    assert (tmp_path / "a" / "kept" / "x").exists()
    (tmp_path / "file").touch()
    with pytest.raises(HwnasError, match="cannot be made"), folder(tmp_path / "file" / "no"):
        pass


def test_disagreement_leaves_the_common_factor_out() -> None:
    first = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert repeatability.disagreement(first, {k: 1.07 * v for k, v in first.items()}) == pytest.approx(0, abs=1e-9)
    assert repeatability.common_factor(first, {k: 1.07 * v for k, v in first.items()}) == pytest.approx(7)
    second = {"a": np.exp(0.02), "b": 2 * np.exp(-0.02), "gone": 1.0}
    assert repeatability.disagreement(first, second) == pytest.approx(2)
    with pytest.raises(HwnasError, match="fewer than two"):
        repeatability.disagreement(first, {"a": 1.0})


def test_made_up_sums_agree() -> None:
    rng = np.random.default_rng(0)
    space = load_space("nasbench201")
    predictor, codes = prediction.made_up(space, rng), space.encoding.sample(200, rng)
    expected = predictor.predict_codes(codes)
    np.testing.assert_allclose(prediction.indexing(predictor, codes), expected)
    np.testing.assert_allclose(prediction.loop(predictor, codes), expected)


MEMORY = "b = b'x' * 50_000_000; import time; time.sleep(0.6)"
WITH_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {MEMORY!r}])
{MEMORY}
sys.exit(child.wait() + 3)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_memory_of_a_program_and_its_children(tmp_path: Path) -> None:
    alone = watched([sys.executable, "-c", MEMORY], tmp_path, {})
    both = watched([sys.executable, "-c", WITH_CHILD], tmp_path, {})
    assert (alone.code, both.code) == (0, 3)
    assert 50 < alone.peak_mb < 90
    assert both.peak_mb > 100
    assert memory_mb(2**22 + 1) == 0  # beyond the largest process id


@pytest.mark.slow
def test_references_are_of_the_same_networks(tmp_path: Path) -> None:
    """On a device whose operators, timed alone, take what a table says."""
    pytest.importorskip("torch")
    space = ZOO["residual"]()
    values = {w.key(): 0.1 + 0.01 * i for i, w in enumerate(space.workloads())}
    device = Simulated(Simulated.settings_type(table=values, noise=0.0))
    table = tmp_path / "table.db"
    profile(ProfileRequest(device=device, space=space, out=table))
    predictor = LutPredictor.load(table, space)
    comparison = compare(CompareRequest(predictor, device, tmp_path, n=3, visits=2))
    found = references(predictor, table, tmp_path / "measurements.db", comparison)
    assert None not in found.values()
    assert found[SCALED] < found[ISOLATED]  # type: ignore[operator]
    sums = AdditiveModel.from_values(space.encoding, space.description, values, live=False)
    codes = space.encode([n.architecture for n in comparison.networks])
    measured = np.array([n.measured for n in comparison.networks])
    assert found[ISOLATED] == pytest.approx(errors(sums.predict(codes), measured).mape, rel=0.02)


@pytest.mark.parametrize("name", NETS)
def test_nets_are_spaces_of_the_kind_they_claim(name: str) -> None:
    space = NETS[name]()
    assert space.size > 10_000
    for architecture in space.sample(3, np.random.default_rng(0)):
        (output,) = space.build(architecture).eval()(*space.inputs())
        assert output.ndim == 1
    assert load_space(f"{ROOT / 'benchmarks' / 'nets.py'}:{name}").fingerprint == space.fingerprint


@pytest.mark.parametrize("name", NETS)
def test_nets_are_lowered_by_the_emitter(name: str) -> None:
    pytest.importorskip("onnxruntime")
    space = NETS[name]()
    lowerer = Lowerer(space, "onnx")
    architecture = space.sample(1, np.random.default_rng(1))[0]
    assert lowerer.choose_route(architecture, Silent()) == {}
    assert lowerer.route == "emitter"


def test_wait_ends_at_once_where_the_time_has_come() -> None:
    steps: list[str] = []

    class Listener:
        def step(self, name: str, done: float, total: float) -> None:
            steps.append(name)

    repeatability.wait(time.monotonic() - 1, Listener())
    assert steps == []
    repeatability.wait(time.monotonic() + 0.05, Listener())
    assert steps == ["wait"]


@pytest.mark.slow
def test_accuracy_goes_on_with_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file, out = tmp_path / "r.json", tmp_path / "out"
    words = ["--quick", "--seeds", "1", "--random", "2", "--algorithms", "gradient", "--workers", "1"]
    words += ["--out", str(out), "--json", str(json_file)]
    search_accuracy.main(words)
    first = json.loads(json_file.read_text())
    log = (out / "metrics.jsonl").read_bytes()
    assert log.count(b"\n") == 5  # warm-up, search, and three networks
    search_accuracy.main(words)
    second = json.loads(json_file.read_text())
    assert (out / "metrics.jsonl").read_bytes() == log
    assert second["ways"] == first["ways"]
    drawn = [row[0] for row in second["ways"]["random architectures"]["accuracies"]]
    assert len(drawn) == 2
    assert second["findings"][0]["bar"] == np.median(drawn)
    assert "above random mean" in capsys.readouterr().out
    with pytest.raises(HwnasError, match="another configuration"):
        search_accuracy.main([*words, "--images", "260"])


def test_accuracy_statistics() -> None:
    random = np.array([[1.0], [2.0], [3.0], [4.0]])
    found = search_accuracy.summary(np.array([[3.0, 3.0], [5.0, 5.0]]), random, np.array([[4.0, 4.0], [6.0, 6.0]]))
    assert found["percentile"][0] == pytest.approx(100 * (2.5 / 4 + 1) / 2)
    assert found["above random mean"][0] == pytest.approx(1.5)
    assert found["mean"] == [4.0, 3.0, 5.0]
    assert found["gradient is ahead by"] == [1.0, 1.0, 1.0]  # in pairs: the seeds' own differences cancel
    one = search_accuracy.resampled(np.array([[1.0, 2.0], [10.0, 20.0]]), np.random.default_rng(0)).reshape(-1, 2, 2)
    assert ((one < 5).all(axis=2) | (one > 5).all(axis=2)).all()  # retrainings stay with their seed


def test_mobile_says_what_each_precision_gave(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    space, device = ZOO["residual"](), Simulated(Simulated.settings_type(noise=0.02))
    table = tmp_path / "table.db"
    profile(ProfileRequest(device=device, space=space, out=table))
    compared = accuracy.measure(space, tmp_path, Silent(), networks=3, seed=0, device=device, table=table, quick=True)
    repeats = {"operator": mobile.by_visits(table, networks=False)}
    assert list(repeats["operator"]) == [3, 6]  # of 12
    assert repeats["operator"][3] > repeats["operator"][6] > 0
    result = {"methods": [dict(compared.calibration)], "doubts": [], "unconverged": []}
    found = mobile.Found(Watched(0, 12.0, 500.0, ""), result, compared, repeats, "")
    lines = {line.what: line for line in mobile.findings("int8", found)}
    assert lines["int8: MAPE, factor refitted now"].bar == 1.5
    assert lines["int8: within 4 %, refitted"].bar == 95
    assert lines["int8: table and calibration from nothing"].value == 12
    assert set(lines["int8: visits for each operator, for 0.5 % rms"].references) == {"of 3", "of 6"}


def test_ranks_are_of_the_same_operators_in_each_table(tmp_path: Path) -> None:
    space = ZOO["residual"]()
    workloads = space.workloads()
    paths = {}
    for name, dtype, cost in (("a", "fp32", 1), ("b", "int8", 3), ("c", "fp32", -1)):
        paths[name] = (tmp_path / f"{name}.db", dtype)
        with LatencyTable.create(paths[name][0], Provenance("x", "ms", {"dtype": dtype})) as table:
            table.register(WorkloadRow(w.key(1, dtype), w.op) for w in workloads)
            for i, w in enumerate(workloads[int(name == "b") :]):
                table.finish(w.key(1, dtype), latency=100.0 + cost * i)
    found = {line.what: line.value for line in mobile.rank_correlations(space, paths)}
    assert found == {
        "Spearman of the operators, a and b": pytest.approx(1),
        "Spearman of the operators, a and c": pytest.approx(-1),
        "Spearman of the operators, b and c": pytest.approx(-1),
    }

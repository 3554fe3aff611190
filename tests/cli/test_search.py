"""``hwnas search``: what is refused before anything begins, what is handed on, how a run goes on and what is shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hwnas.devices.registry import create
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable
from hwnas.search.run import RunFolder
from hwnas.search.yaml_text import load_yaml
from hwnas.spaces.registry import load_space

Run = Callable[..., Any]
SMALL = ("--space", "proxyless-small", "--space-arg", "resolution=8")
FLOPS = ("search", *SMALL, "--predictor", "flops", "--data", "digits")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    space = load_space("proxyless-small", {"resolution": 8})
    hasty = MeasuringProtocol(max_visits=3, tolerance=0.5, network_visits=3, trace_runs=5)
    profile(ProfileRequest(create("simulated"), space, folder / "simulated.db", protocol=hasty))
    return folder


@pytest.fixture
def table(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "simulated.db", tmp_path))


@pytest.fixture
def reach(table: Path) -> tuple[float, float]:
    """Smallest and largest latency of the table's space, ms."""
    from hwnas.predictors.registry import load_predictor

    space = load_space("proxyless-small", {"resolution": 8})
    predictor = load_predictor(table, space)
    low, high = predictor.predict_codes(predictor.extremes()).tolist()
    return low, high


class Job:
    """Stands in for the search itself; writes the report that it is given."""

    report: ClassVar[dict[str, Any]] = {}
    ran: ClassVar[list[Any]] = []
    fails: ClassVar[list[BaseException]] = []

    def __init__(self, config: Any, prepared: Any, folder: Any, ranks: Any) -> None:
        self.config, self.prepared, self.folder, self.ranks = config, prepared, folder, ranks

    def run(self, progress: Any) -> Mapping[str, Any]:
        self.ran.append(self)
        progress.step("search", 1, 2)
        self.folder.log({"step": 1})
        if self.fails:
            raise self.fails.pop()
        self.folder.write_json("report.json", self.report)
        return self.report


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> type[Job]:
    space = load_space("proxyless-small", {"resolution": 8})
    import numpy as np

    architecture = space.sample(1, np.random.default_rng(0))[0]
    report = {"unit": "MMACs", "target": 1.0, "predicted": 0.99, "measured": 1.02, "accuracy": 93.25, "deviation": 2.0}
    monkeypatch.setattr(Job, "report", {**report, "architecture": architecture.as_dict(), "doubts": []})
    monkeypatch.setattr(Job, "ran", [])
    monkeypatch.setattr(Job, "fails", [])
    module = types.ModuleType("hwnas.search.job")
    module.SearchJob = Job  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hwnas.search.job", module)
    return Job


def target() -> float:
    """A number of MMACs that the space reaches."""
    return 1.0


# -- a run


def test_a_search_shows_its_result(hwnas: Run, job: type[Job], tmp_path: Path) -> None:
    result = hwnas(*FLOPS, "--target", target(), "--seed", 3, "--epochs", 2)
    assert (result.code, result.err) == (0, ""), result.err
    folder = tmp_path / "results" / "search-proxyless-small-gradient"
    for part in ("93.25", "1.02", "measured off target (%)", "2", "architecture", str(folder.relative_to(tmp_path))):
        assert part in result.out
    [ran] = job.ran
    assert ran.prepared.space_option == "proxyless-small --space-arg resolution=8"
    assert (ran.prepared.space.name, [p.unit for p in ran.prepared.predictors]) == ("proxyless-small", ["MMACs"])
    written = load_yaml((folder / "config.yaml").read_text(), "")
    assert (written["seed"], written["search"]["weights"]["epochs"], written["data"]) == (3, 2, "digits")
    assert written["goals"] == [{"predictor": "flops", "target": 1.0, "weight": 1.0}]


def test_quiet_and_json(hwnas: Run, job: type[Job], tmp_path: Path) -> None:
    result = hwnas(*FLOPS, "--target", target(), "--out", "o", "--quiet", "--json", "-")
    assert result.code == 0
    assert result.json == {**job.report, "out": "o"}
    assert "93.25" not in result.err


def test_doubts_are_exit_code_1(hwnas: Run, job: type[Job]) -> None:
    job.report |= {"doubts": ["the target was missed by 5 %"], "measured": None}
    for _ in range(2):
        result = hwnas(*FLOPS, "--target", target(), "--out", "o", "--json", "r.json")
        assert (result.code, result.err) == (1, "hwnas: the target was missed by 5 %\n")
        assert json.loads(Path("r.json").read_text())["measured"] is None
    assert len(job.ran) == 1


def test_a_finished_run_is_shown_again(hwnas: Run, job: type[Job]) -> None:
    command = (*FLOPS, "--target", target(), "--out", "o")
    assert hwnas(*command).code == 0
    result = hwnas(*command)
    assert result.code == 0
    assert "o holds this run, finished; --force begins anew" in result.out
    assert "93.25" in result.out
    assert len(job.ran) == 1
    assert hwnas(*command, "--force").code == 0
    assert len(job.ran) == 2


@pytest.mark.parametrize("finished", [False, True])
def test_another_request_for_the_same_folder_names_what_differs(
    hwnas: Run, job: type[Job], tmp_path: Path, finished: bool
) -> None:
    job.fails += [] if finished else [KeyboardInterrupt()]
    assert hwnas(*FLOPS, "--target", target(), "--out", "o").code == (0 if finished else 130)
    before = (tmp_path / "o" / "config.yaml").read_text()
    result = hwnas(*FLOPS, "--target", 1.1, "--out", "o", "--seed", 4)
    assert (result.code, result.out) == (2, "")
    assert "goals.0.target is 1.0 there, 1.1 is asked; seed is 0 there, 4 is asked" in result.err
    assert (tmp_path / "o" / "config.yaml").read_text() == before
    assert len(job.ran) == 1


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(hwnas: Run, job: type[Job]) -> None:
    job.fails.append(KeyboardInterrupt())
    command = (*FLOPS, "--target", target(), "--out", "o")
    result = hwnas(*command)
    assert result.code == 130
    assert result.err == "hwnas: interrupted; what was done is kept in o; the same command goes on from there\n"
    assert hwnas(*command).code == 0
    assert [ran.folder.resumed for ran in job.ran] == [False, True]


def test_another_number_of_threads_goes_on_with_a_note(hwnas: Run, job: type[Job]) -> None:
    import torch

    job.fails.append(KeyboardInterrupt())
    before = torch.get_num_threads()
    command = (*FLOPS, "--target", target(), "--out", "o")
    hwnas(*command)
    try:
        result = hwnas(*command, "--torch-threads", before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert result.code == 0
    assert f"note: o: torch_threads is null there, {before + 1} is asked" in result.out


def test_a_run_is_repeated_by_its_configuration(hwnas: Run, job: type[Job], tmp_path: Path) -> None:
    options = ("--seed", 5, "--algorithm", "reinforce", "--limit", "--set", "search.weights.lr=1e-2")
    assert hwnas(*FLOPS, "--target", target(), *options, "--out", "a").code == 0
    assert hwnas("search", "--config", "a/config.yaml", "--out", "b").code == 0
    texts = [(tmp_path / name / "config.yaml").read_text() for name in "ab"]
    assert texts[0] == texts[1]
    assert job.ran[0].config == job.ran[1].config
    assert hwnas("search", "--config", "a/config.yaml", "--out", "c", "--target", 1.1, "--seed", 6).code == 0
    assert [ran.config.goals[0].target for ran in job.ran] == [1.0, 1.0, 1.1]


def test_an_error_of_the_search_is_one_line(hwnas: Run, job: type[Job]) -> None:
    from hwnas.search.training import TrainingDiverged

    job.fails.append(TrainingDiverged("the loss is nan at step 3"))
    result = hwnas(*FLOPS, "--target", target(), "--out", "o")
    assert (result.code, result.err) == (2, "hwnas: the loss is nan at step 3\n")


def test_a_folder_in_use(hwnas: Run, job: type[Job], tmp_path: Path) -> None:
    command = (*FLOPS, "--target", target(), "--out", "o")
    job.fails.append(KeyboardInterrupt())
    hwnas(*command)
    with RunFolder.open(tmp_path / "o", load_yaml((tmp_path / "o" / "config.yaml").read_text(), "")):
        result = hwnas(*command)
    assert result.code == 2
    assert f"o is being written by another process ({os.getpid()})" in result.err


def test_several_devices(hwnas: Run, job: type[Job], table: Path, reach: tuple[float, float]) -> None:
    middle = sum(reach) / 2
    result = hwnas(
        *("search", *SMALL, "--data", "digits", "--predictor", table.name, "--target", middle),
        *("--predictor", "flops", "--target", 1.0, "--set", "goals.1.weight=2"),
    )
    assert result.code == 0, result.err
    assert [(g.predictor, g.weight) for g in job.ran[0].config.goals] == [(table.name, 1.0), ("flops", 2.0)]
    assert [p.unit for p in job.ran[0].prepared.predictors] == ["ms", "MMACs"]


def test_without_latency(hwnas: Run, job: type[Job]) -> None:
    result = hwnas("search", *SMALL, "--data", "digits", "--objective", "none")
    assert result.code == 0, result.err
    assert job.ran[0].prepared.predictors == ()
    assert job.ran[0].prepared.latency is None


def test_the_data_that_suit_the_space(hwnas: Run, job: type[Job]) -> None:
    assert hwnas("search", "--space", "proxyless-small", "--objective", "none", "--out", "a").code == 0
    assert hwnas("search", *SMALL, "--objective", "none", "--out", "b").code == 0
    assert [ran.config.data for ran in job.ran] == ["digits:28", "digits"]


# -- refused before anything begins


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", 1e6), r"target 1e\+06 MMACs is above what the space reaches: "),
        (("--target", 1e-3), "target 0.001 MMACs is below what the space reaches: "),
        (("--target", 1e-3, "--limit"), "below what the space reaches"),
        ((), "the predictor flops has no target: give --target"),
        (("--target", "fast"), "(?i)invalid value for '--target'"),
        (("--target", "nan"), "--target: goals.0.target is NaN; it should be a finite number"),
        (("--target", 1, "--target", 2), "1 times --predictor and 2 times --target: give them in pairs"),
        (("--target", 1, "--objective", "none"), "the objective none leaves latency out"),
        (("--target", 1, "--objective", "mul_log"), "--objective: search.objective.kind is .*nearest is mul#log"),
        (("--target", 1, "--objective", "mul#log", "--limit"), "--limit contradicts the objective 'mul#log'"),
        (("--target", 1, "--algorithm", "gradiant"), "--algorithm: there is no algorithm 'gradiant'.*is gradient"),
        (("--target", 1, "--mode", "both"), "--mode: search.gradient.mode is .*not one of full_v2, full, two"),
        (("--target", 1, "--latency", "measured"), "--latency: latency cannot be measured for gradient"),
        (("--target", 1, "--epochs", -1), "--epochs: search.weights.epochs is -1; it should be greater than or equal"),
        (("--target", 1, "--set", "search.lr=1"), "--set: there is no key search.lr; nearest is search.weights.lr"),
        (("--target", 1, "--config", "none.yaml"), "--config none.yaml: there is no such file"),
        (("--target", 1, "--data", "digits:28"), "data 'digits:28' have images of .*28"),
        (("--target", 1, "--data", "digit"), "unknown data 'digit'"),
        (("--target", 1, "--space-arg", "classes=11"), "10 classes, but space 'proxyless-small' has 11 outputs"),
        (("--target", 1, "--predictor", "none.db"), "give them in pairs"),
        (("--target", 1, "--device", "abacus"), "there is no device 'abacus'"),
        (("--target", 1, "--device", "cpu"), "the predictor is in MMACs, device 'cpu' in ms"),
        (("--target", 1, "--batch", 2), "made for settings.batch = 1, not 2"),
        (("--target", 1, "--nproc", 0), "--nproc"),
        (("--target", 1, "--agent", "ssh x", "--agent-python", "python"), "exclude each other"),
    ],
)
def test_requests_that_are_refused(hwnas: Run, job: type[Job], tmp_path: Path, options: Any, message: str) -> None:
    result = hwnas(*FLOPS, *options)
    assert result.code == 2, result.out
    assert re.search(message, result.err)
    assert result.err.count("\n") == 1
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []
    assert job.ran == []


def test_a_space_without_data_of_its_own(hwnas: Run, job: type[Job]) -> None:
    result = hwnas("search", "--objective", "none")
    assert result.code == 2
    assert "--data is missing: none that come with hwnas are of the shape that space 'proxyless' takes" in result.err


def test_missing_keys_are_all_named_with_the_command_that_measures_them(
    hwnas: Run, job: type[Job], tmp_path: Path, table: Path
) -> None:
    with LatencyTable.open(table) as opened:
        about, rows, calibration = opened.provenance, opened.rows(), opened.calibration
    lacking = [row for row in rows if row.kind == "candidate"][:2]
    with LatencyTable.create(tmp_path / "less.db", about) as less:
        from hwnas.profiler.table import WorkloadRow

        kept = [row for row in rows if row not in lacking]
        less.register([WorkloadRow(row.key, row.op, row.kind, row.info) for row in kept])
        for row in kept:
            less.finish(row.key, latency=row.latency or 1.0)
        less.set_calibration(calibration or {})
    result = hwnas("search", *SMALL, "--data", "digits", "--predictor", "less.db", "--target", 1)
    assert result.code == 2
    for row in lacking:
        assert row.key in result.err
    assert (
        "measure them: hwnas profile --device simulated --space proxyless-small --space-arg resolution=8" in result.err
    )
    assert not (tmp_path / "results").exists()


def test_a_table_of_another_space(hwnas: Run, job: type[Job], table: Path) -> None:
    result = hwnas("search", "--space", "proxyless-small", "--predictor", table.name, "--target", 1)
    assert result.code == 2
    assert "is of space 'proxyless-small'" in result.err
    assert "resolution=8" in result.err


def test_no_cuda(hwnas: Run, job: type[Job]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    result = hwnas(*FLOPS, "--target", target(), "--compute", "cuda")
    assert result.code == 2
    assert "CUDA was asked for" in result.err


def test_nothing_that_a_file_names_is_run(hwnas: Run, job: type[Job], tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('witness').touch()\ndef space(): ...\n")
    for text in ("space: evil.py:space", "data: evil.py:space", "agent: touch witness", "agent_python: ./evil.py"):
        (tmp_path / "c.yaml").write_text(text + "\n")
        result = hwnas("search", "--config", "c.yaml", "--objective", "none")
        assert result.code == 2
        assert "--config c.yaml" in result.err
    assert not (tmp_path / "witness").exists()


# -- where the result is measured


def test_the_device_of_the_predictor(table: Path, reach: tuple[float, float], tmp_path: Path) -> None:
    from hwnas.search.config import read_config
    from hwnas.search.preparation import prepare, resolve

    def prepared(*predictors: str, **options: Any) -> Any:
        from hwnas.search.config import Option

        targets = [1.0 if p == "flops" else sum(reach) / 2 for p in predictors]
        given = [Option("-", "space", "proxyless-small"), Option("-", "space_args", {"resolution": "8"})]
        given += [Option("-", key, value) for key, value in options.items()]
        return prepare(*resolve(read_config(options=given, predictors=predictors, targets=targets)))

    final = prepared(str(table)).final
    assert (final.device.name, final.goal, final.reason) == ("simulated", 0, "")
    assert prepared("flops", str(table), device="simulated").final.goal == 1
    assert prepared("flops", str(table)).final.device.name == "flops"


def test_a_device_that_is_not_here(
    hwnas: Run, job: type[Job], table: Path, reach: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default one is left out, with a reason; one that was asked for is an error."""
    from hwnas.devices.data import Unavailable
    from hwnas.search.config import read_config
    from hwnas.search.preparation import prepare, resolve
    from hwnas.testing.simulated import Simulated

    monkeypatch.setattr(Simulated, "unavailable", classmethod(lambda cls: Unavailable("it is elsewhere", "fetch it")))
    command = ("search", *SMALL, "--predictor", table.name, "--target", sum(reach) / 2)
    result = hwnas(*command, "--out", "a")
    assert result.code == 0
    assert (
        "note: the result will not be measured: device 'simulated' cannot be used here: it is elsewhere" in result.out
    )
    final = prepare(*resolve(read_config(Path("a/config.yaml")))).final
    assert final.device is None
    assert "it is elsewhere; fetch it" in final.reason
    result = hwnas(*command, "--device", "simulated", "--out", "b")
    assert result.code == 2
    assert "device 'simulated' cannot be used here: it is elsewhere; fetch it" in result.err
    result = hwnas(*command, "--latency", "measured", "--algorithm", "reinforce", "--out", "c")
    assert result.code == 2
    assert "latency is to be measured, but device 'simulated' cannot be used here" in result.err
    assert not Path("b").exists()


# -- several processes


def test_processes_get_the_command_without_their_number(
    hwnas: Run, job: type[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.search import launch

    seen: list[Any] = []

    def launched(arguments: Any, nproc: int) -> int:
        seen.append((list(arguments), nproc))
        return 7

    monkeypatch.setattr(launch, "launch", launched)
    for given in (("--nproc", 2), ("--nproc=2",)):
        result = hwnas(*FLOPS, *given, "--target", target())
        assert result.code == 7
    assert seen == 2 * [([*FLOPS, "--target", "1.0"], 2)]
    assert hwnas(*FLOPS, "--nproc", 2, "--target", -1).code == 2
    assert len(seen) == 2


def test_nproc_in_a_group_of_torchrun(hwnas: Run, job: type[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = hwnas(*FLOPS, "--nproc", 2, "--target", target())
    assert result.code == 2
    assert "--nproc contradicts WORLD_SIZE" in result.err


JOB = """
import sys, types
from hwnas.cli import main

class SearchJob:
    def __init__(self, config, prepared, folder, ranks):
        self.folder = folder
    def run(self, progress):
        import os
        rank = os.environ["RANK"]
        open(f"rank{rank}", "w").write(str(self.folder.writes))
        self.folder.log({"rank": rank})
        self.folder.write_json("report.json", {"accuracy": 50.0})
        return {"accuracy": 50.0}

module = types.ModuleType("hwnas.search.job")
module.SearchJob = SearchJob
sys.modules["hwnas.search.job"] = module
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_only_the_first_process_writes_and_speaks(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    code = (
        "from hwnas.search.launch import launch; import sys; sys.exit(launch(sys.argv[2:], 2, program=[sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, "job.py", *FLOPS, "--target", "1.0", "--out", "o"]
    for again in (False, True):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("accuracy (%)") == 1
        assert ("finished" in done.stdout) == again
        assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["True", "False"]
        assert (tmp_path / "o" / "metrics.jsonl").read_text() == '{"rank": "0"}\n'

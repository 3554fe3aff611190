"""``hwnas predict``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.flops import FlopsPredictor
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

Run = Callable[..., Any]
SPACE = ("--space", "nasbench201")


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("nasbench201")


@pytest.fixture
def architectures(space: SearchSpace, tmp_path: Path) -> list[Architecture]:
    """Three, in a.json and (two of them) b.json."""
    found = space.sample(3, np.random.default_rng(0))
    (tmp_path / "a.json").write_text(found[0].to_json())
    (tmp_path / "b.json").write_text(json.dumps([a.as_dict() for a in found[1:]]))
    return found


@pytest.fixture
def cpu_table(space: SearchSpace, tmp_path: Path) -> Path:
    provenance = Provenance("cpu", "ms", {"threads": 2}, "nasbench201", fingerprint=space.fingerprint)
    with LatencyTable.create(tmp_path / "cpu.db", provenance) as table, table.batch():
        for i, workload in enumerate(space.workloads()):
            table.register([WorkloadRow(workload.key(), workload.op)])
            table.finish(workload.key(), latency=0.1 + 0.01 * i)
    return tmp_path / "cpu.db"


def test_predictions_with_intervals(hwnas: Run, architectures: list[Architecture], cpu_table: Path) -> None:
    result = hwnas("predict", "--predictor", cpu_table, *SPACE, "--arch", "a.json", "b.json", "--json", "p.json")
    assert result.code == 0, result.err
    data = json.loads(Path("p.json").read_text())
    assert (data["unit"], data["n"]) == ("ms", 3)
    assert [Architecture.from_dict(p["architecture"]) for p in data["predictions"]] == architectures
    for prediction in data["predictions"]:
        assert 0 < prediction["low"] < prediction["predicted"] < prediction["high"]
        assert f"{prediction['predicted']:.4g}" in result.out


def test_repeated_options_and_json_on_standard_output(
    hwnas: Run, architectures: list[Architecture], cpu_table: Path
) -> None:
    result = hwnas("predict", "--predictor", cpu_table, *SPACE, "--arch", "a.json", "--arch", "b.json", "--json", "-")
    assert result.json["n"] == 3


def test_flops_need_no_file(hwnas: Run, space: SearchSpace, architectures: list[Architecture]) -> None:
    result = hwnas("predict", "--predictor", "flops", *SPACE, "--arch", "a.json", "-q", "--json", "-")
    assert result.code == 0, result.err
    assert result.json["unit"] == "MMACs"
    predicted = result.json["predictions"][0]["predicted"]
    assert predicted == pytest.approx(FlopsPredictor.of(space).predict(architectures[:1])[0])


def test_missing_keys_are_named_with_the_command(
    hwnas: Run, space: SearchSpace, architectures: list[Architecture], tmp_path: Path
) -> None:
    provenance = Provenance("cpu", "ms", {"threads": 2}, "nasbench201", fingerprint=space.fingerprint)
    LatencyTable.create(tmp_path / "half.db", provenance).close()
    result = hwnas("predict", "--predictor", "half.db", *SPACE, "--arch", "a.json")
    assert result.code == 2
    assert space.workloads()[0].key() in result.err
    assert result.err.endswith("hwnas profile --device cpu --space nasbench201 --threads 2 --out half.db\n")


@pytest.mark.parametrize(
    ("predictor", "options", "message"),
    [
        ("none.db", ["--arch", "a.json"], "there is no file none.db"),
        ("a.json", ["--arch", "a.json"], "neither a latency table nor a predictor"),
        ("cpu.db", [], "--arch is missing"),
        ("cpu.db", ["--arch", "none.json"], "none.json cannot be read"),
        ("cpu.db", ["--arch", "cpu.db"], "is no JSON"),
        ("cpu.db", ["--arch", "number.json"], "an architecture is a JSON object"),
        ("cpu.db", ["--arch", "other.json"], "of space 'proxyless'"),
        ("cpu.db", ["--arch", "a.json", "--coverage", "1"], "coverage must be between 0 and 1"),
        ("cpu.db", ["--arch", "a.json", "--space", "proxyless-small"], "not of 'proxyless-small'"),
    ],
)
def test_requests_that_cannot_be_carried_out(
    hwnas: Run,
    architectures: list[Architecture],
    cpu_table: Path,
    tmp_path: Path,
    predictor: str,
    options: list[str],
    message: str,
) -> None:
    (tmp_path / "number.json").write_text("7")
    (tmp_path / "other.json").write_text('{"space": "proxyless", "choices": {"a": "b"}}')
    result = hwnas("predict", "--predictor", predictor, *SPACE, *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1

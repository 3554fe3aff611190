"""The protocol of few networks and other devices, on a small table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hwnas.benchmarks.transfer import TASKS, family, main
from hwnas.errors import HwnasError

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three devices, of one of them two batch sizes."""
    rng = np.random.default_rng(0)
    task = TASKS["fbnet"]
    codes = rng.integers(0, 9, (70, len(task.features)))
    frame = pd.DataFrame(codes, columns=list(task.features)).assign(
        lat_gpu_1=5.0 + codes.sum(axis=1),
        lat_gpu_32=9.0 + 2 * codes.sum(axis=1),
        lat_phone=(5.0 + codes.sum(axis=1)) * rng.normal(1, 0.02, 70),
        lat_board=1.0 + codes[:, :11].sum(axis=1),
    )
    frame.to_parquet(tmp_path / task.file)
    return tmp_path


@pytest.mark.parametrize(
    ("column", "hardware"),
    [("lat_gpu_1", "gpu"), ("lat_titan_rtx_256", "titan_rtx"), ("lat_gold_6240", "gold_6240"), ("lat_a50", "a50")],
)
def test_batch_sizes_are_one_hardware_and_models_are_not(column: str, hardware: str) -> None:
    assert family(column) == hardware


def test_each_device_is_new_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "t.json"
    main([str(folder), "--tasks", "fbnet", "--columns", "lat_gpu_1,lat_phone", "--seeds", "1", "--json", str(path)])
    shown = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert set(found["columns"]) == {"fbnet lat_gpu_1", "fbnet lat_phone"}
    line = next(line.split() for line in shown.splitlines() if "lat_gpu_1" in line)
    assert line[2] == "2"  # sources: the other batch size is none
    ways = found["columns"]["fbnet lat_phone"]
    assert ways["transfer"]["mape"] < ways["ridge regression alone"]["mape"]
    assert [f["what"] for f in found["findings"]][:2] == ["fbnet: Spearman", "fbnet: MAPE"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--tasks", "vit"), "no task vit"), (("--columns", "lat_tpu"), "none of the columns"), ((), "cannot be read")],
)
def test_requests_that_cannot_be_carried_out(folder: Path, words: tuple[str, ...], message: str) -> None:
    given = [str(folder), "--tasks", "nb201"] if not words else [str(folder), "--tasks", "fbnet", *words]
    with pytest.raises(HwnasError, match=message):
        main(given)

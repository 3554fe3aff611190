"""Predictors by file and by kind."""

from __future__ import annotations

import io
import json
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.predictors import files, registry
from hwnas.predictors.base import PredictorError
from hwnas.predictors.files import PredictorFile
from hwnas.predictors.registry import load_predictor, predictor_kinds, predictor_type
from hwnas.spaces.registry import load_space

SPACE = load_space("nasbench201")
FILE = PredictorFile("odd", "ms", "nasbench201", "abcd", {"depth": 3}, {"w": np.arange(6.0).reshape(2, 3)})


def _rewrite(path: Path, **changes: Any) -> None:
    """Write FILE with another header."""
    FILE.write(path)
    with np.load(path) as parts:
        arrays = dict(parts)
    header = {**json.loads(arrays.pop("header").tobytes()), **changes}
    with path.open("wb") as out:
        np.savez(out, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    FILE.write(tmp_path / "p")
    again = PredictorFile.read(tmp_path / "p")
    assert (again.kind, again.unit, again.space, again.fingerprint, again.meta) == (
        "odd",
        "ms",
        "nasbench201",
        "abcd",
        {"depth": 3},
    )
    np.testing.assert_array_equal(again.arrays["w"], FILE.arrays["w"])
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "neither a latency table nor a predictor"),
        ({"version": 2}, "version 2, this hwnas reads 1: it was made by a newer hwnas; update this one$"),
        ({"version": 0}, "version 0, this hwnas reads 1: fit the predictor again$"),
        ({"version": None}, "version None, this hwnas reads 1: fit"),
        ({"kind": 5}, "damaged"),
        ({"meta": []}, "damaged"),
    ],
)
def test_other_headers_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _rewrite(tmp_path / "p", **changes)
    with pytest.raises(PredictorError, match=message):
        PredictorFile.read(tmp_path / "p")


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    np.savez(tmp_path / "p.npz", header=np.array([Bomb()], dtype=object))
    with pytest.raises(PredictorError, match="neither"):
        load_predictor(tmp_path / "p.npz", SPACE)
    assert not (tmp_path / "exploded").exists()


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 10_000)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(100_000))
    with zipfile.ZipFile(tmp_path / "p", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", buffer.getvalue())
    assert (tmp_path / "p").stat().st_size < 10_000
    with pytest.raises(PredictorError, match="unpack"):
        load_predictor(tmp_path / "p", SPACE)


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut", b"kind: lut\n", b"\x80\x04."])
def test_files_that_are_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(PredictorError, match="neither a latency table nor a predictor"):
        load_predictor(tmp_path / "p", SPACE)


def test_a_file_of_an_unknown_kind(tmp_path: Path) -> None:
    FILE.write(tmp_path / "p")
    with pytest.raises(PredictorError, match="no predictor of kind 'odd'; there are: lut, flops"):
        load_predictor(tmp_path / "p", SPACE)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match="hwnas profile"):
        load_predictor(tmp_path / "none.db", SPACE)
    with pytest.raises(PredictorError, match="cannot be read"):
        load_predictor(tmp_path, SPACE)


def test_kinds_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("good", "hwnas.predictors.lut:LutPredictor", registry.GROUP),
        EntryPoint("broken", "hwnas.predictors.nothing:X", registry.GROUP),
        EntryPoint("foreign", "json:dumps", registry.GROUP),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points if group == registry.GROUP else [])
    assert predictor_kinds()[:2] == ("lut", "flops")
    assert predictor_kinds()[-3:] == ("good", "broken", "foreign")
    assert predictor_type("good").kind == "lut"
    with pytest.raises(PredictorError, match=r"'broken' .* fails to import"):
        predictor_type("broken")
    with pytest.raises(PredictorError, match="no subclass"):
        predictor_type("foreign")

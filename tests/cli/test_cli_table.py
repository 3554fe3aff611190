"""The commands devices, spaces and table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow
from hwnas.spaces.registry import load_space

Run = Callable[..., Any]
YAML = "Conv-input:224x224x3-output:112x112x32:\n  count: 3\n  mean: 2.5\n  var: 0.25\n"


def test_devices(hwnas: Run) -> None:
    result = hwnas("devices", "--json", "-", "--quiet")
    assert (result.code, result.err) == (0, "")
    found = {device["name"]: device for device in result.json["devices"]}
    assert {"cpu", "mobile", "android", "gpu", "flops"} <= set(found)
    assert found["flops"]["unit"] == "MMACs"
    for device in found.values():
        assert device["available"] or (device["reason"] and device["mend"])
    assert "flops" in hwnas("devices").out


def test_spaces(hwnas: Run) -> None:
    result = hwnas("spaces", "--json", "-")
    found = {space["name"]: space for space in result.json["spaces"]}
    assert found["nasbench201"]["size"] == 15625
    assert "15625" in result.err
    one = hwnas("spaces", "proxyless-small", "--space-arg", "resolution=16", "--json", "-").json
    assert one["size"] == found["proxyless-small"]["size"]
    assert one["fingerprint"] != found["proxyless-small"]["fingerprint"]
    assert len(one["decisions"]) == 6
    assert one["workloads"][0]["key"].startswith("mbconv3x3_e3")


def test_a_space_of_ones_own(hwnas: Run, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "from hwnas import LayerChoice, SearchSpace\n"
        "def tiny(width: int = 4) -> SearchSpace:\n"
        "    pair = [nn.Linear(width, 2), nn.Linear(width, 2, bias=False)]\n"
        "    return SearchSpace(lambda: LayerChoice(pair), (width,))\n"
    )
    for spec in ("own.py:tiny", "own:tiny"):
        assert hwnas("spaces", spec, "--space-arg", "width=8", "--json", "-").json["size"] == 2
    result = hwnas("spaces", "own.py:other")
    assert (result.code, "tiny" in result.err) == (2, True)


def test_show(hwnas: Run, table: Path) -> None:
    result = hwnas("table", "show", table)
    assert (result.code, result.err) == (0, "")
    for part in ("slow [red]8x8[/red]", "crashed", "3 visits did not agree", "pending", "threads=1"):
        assert part in result.out
    found = hwnas("table", "show", table, "--sort", "latency", "--json", "-").json
    assert [row["latency"] for row in found["rows"]] == [None, None, 0.5, 2.5]
    assert (found["unit"], found["n"], found["pending"]) == ("ms", 4, ["waiting 8x8"])
    assert found["provenance"]["settings"] == {"batch": 1, "threads": 1}
    assert found["calibration"] == {"factor": 1.0}
    assert [row["key"] for row in hwnas("table", "show", table, "--kind", "fixed", "--json", "-").json["rows"]] == [
        "fast 8x8"
    ]


def test_whole_networks_are_no_workloads(hwnas: Run, tmp_path: Path) -> None:
    small_table(tmp_path / "a.db", ["x"])
    with LatencyTable.create(tmp_path / "a.db", Provenance("cpu", "ms", {"batch": 1, "dtype": "fp32"})) as opened:
        opened.register([WorkloadRow("network 1", "network", "network")])
        opened.finish("network 1", latency=9)
    assert [row["key"] for row in hwnas("table", "show", "a.db", "--json", "-").json["rows"]] == ["x"]
    networks = hwnas("table", "show", "a.db", "--kind", "network", "--json", "-").json["rows"]
    assert [row["key"] for row in networks] == ["network 1"]
    assert hwnas("table", "diff", "a.db", "a.db", "--json", "-").json["n"] == 1
    assert hwnas("table", "export", "a.db", "--json", "-").json == {
        "out": "a.csv",
        "format": "csv",
        "rows": 1,
        "left_out": [],
    }


@pytest.mark.parametrize("option", ["--sort", "--kind"])
def test_show_names_what_it_does_not_know(hwnas: Run, table: Path, option: str) -> None:
    result = hwnas("table", "show", table, option, "colour")
    assert (result.code, result.out) == (2, "")
    assert f"{option} 'colour' is not one of" in result.err


@pytest.mark.parametrize("words", [["show"], ["check"], ["range"], ["export"], ["diff", "t.db"]], ids=lambda w: w[0])
def test_a_damaged_table_is_one_line(hwnas: Run, table: Path, words: list[str]) -> None:
    data = table.read_bytes()
    for content in (data[:100], data[: len(data) // 2], data[:-1], b"not a table", b""):
        Path("broken.db").write_bytes(content)
        result = hwnas("table", *words, "broken.db")
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("hwnas: broken.db ")
        assert result.err.count("\n") == 1


def small_table(path: Path, keys: list[str], fingerprint: str = "") -> Path:
    about = Provenance(device="cpu", unit="ms", settings={"batch": 1, "dtype": "fp32"}, fingerprint=fingerprint)
    with LatencyTable.create(path, about) as table, table.batch():
        table.register(WorkloadRow(key, "op") for key in keys)
        for i, key in enumerate(keys):
            table.finish(key, latency=1.0 + i)
    return path


def test_check(hwnas: Run, tmp_path: Path) -> None:
    space = load_space("nasbench201")
    keys = [w.key() for w in space.workloads()]
    small_table(tmp_path / "all.db", keys)
    result = hwnas("table", "check", "all.db", "--space", "nasbench201", "--json", "-")
    assert (result.code, result.json["missing"]) == (0, [])
    small_table(tmp_path / "some.db", keys[2:], space.fingerprint)
    result = hwnas("table", "check", "some.db", "--space", "nasbench201", "--json", "-")
    assert (result.code, result.json["missing"]) == (1, keys[:2])
    assert f"lacks 2 of {len(keys)} workloads" in result.err
    assert "hwnas profile --device cpu --space nasbench201 --out some.db" in result.err
    small_table(tmp_path / "other.db", keys, fingerprint="of another space")
    result = hwnas("table", "check", "other.db", "--space", "nasbench201")
    assert (result.code, "another space" in result.err) == (1, True)


def test_range(hwnas: Run, tmp_path: Path) -> None:
    space = load_space("nasbench201")
    keys = [w.key() for w in space.workloads()]
    small_table(tmp_path / "all.db", keys)
    result = hwnas("table", "range", "all.db", "--space", "nasbench201", "--json", "-")
    found = result.json
    assert result.code == 0
    assert set(found) == {"min", "max", "mean", "unit", "smallest", "largest"}
    assert 0 <= found["min"] < found["mean"] < found["max"]
    assert found["unit"] == "ms"
    assert len(found["largest"]["choices"]) == 6
    small_table(tmp_path / "some.db", keys[2:])
    result = hwnas("table", "range", "some.db", "--space", "nasbench201")
    assert (result.code, keys[0] in result.err) == (2, True)
    small_table(tmp_path / "other.db", keys, fingerprint="of another space")
    result = hwnas("table", "range", "other.db", "--space", "nasbench201")
    assert (result.code, "of another space" in result.err) == (2, True)


def test_diff(hwnas: Run, tmp_path: Path) -> None:
    small_table(tmp_path / "a.db", ["x", "y", "only a"])
    small_table(tmp_path / "b.db", ["y", "x"])
    found = hwnas("table", "diff", "a.db", "b.db", "--json", "-").json
    assert found["ratios"] == {"x": 2.0, "y": 0.5}
    assert (found["n"], found["factor"], found["only_in_a"], found["only_in_b"]) == (2, 1.25, ["only a"], [])
    assert "factor 1.2500" in hwnas("table", "diff", "a.db", "b.db").out


def test_export(hwnas: Run, table: Path) -> None:
    result = hwnas("table", "export", table, "--json", "-")
    assert result.code == 1  # one row is pending, and the output says so
    assert result.json == {"out": "t.csv", "format": "csv", "rows": 3, "left_out": ["waiting 8x8"]}
    with Path("t.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["key", "op", "latency", "unit", "low", "high", "visits", "runs", "status", "reason"]
    assert [row[8] for row in rows] == ["ok", "unconverged", "failed"]
    hwnas("table", "export", table, "--out", "x.json")
    assert len(json.loads(Path("x.json").read_text())["rows"]) == 3
    assert Path("x.json").stat().st_mode & 0o777 == Path("t.csv").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "xls"], "--format 'xls' is not one of"),
        (["--out", "x.xls"], "--format 'xls' is not one of"),
        (["--out", "noname"], "--format '' is not one of"),
        (["--out", "none/x.csv"], "no folder none"),
        (["--out", "mine.csv"], "--force"),
        (["--out", "t.db", "--format", "csv", "--force"], "is the table itself"),
        (["--format", "yaml"], "ProxylessNAS text key"),
    ],
)
def test_export_refuses(hwnas: Run, table: Path, options: list[str], message: str) -> None:
    Path("mine.csv").write_text("precious")
    before = table.read_bytes()
    result = hwnas("table", "export", table, *options)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert Path("mine.csv").read_text() == "precious"
    assert table.read_bytes() == before
    assert sorted(p.name for p in Path().iterdir()) == ["mine.csv", "t.db"]


def test_import_and_export_of_a_lookup_table(hwnas: Run, tmp_path: Path) -> None:
    (tmp_path / "lut.yaml").write_text(YAML)
    result = hwnas("table", "import", "lut.yaml", "--json", "-")
    assert (result.code, result.json) == (0, {"table": "lut.db", "n": 1, "missing": []})
    assert hwnas("table", "export", "lut.db", "--format", "yaml", "--out", "back.yaml").code == 0
    assert Path("back.yaml").read_text() == YAML
    result = hwnas("table", "import", "lut.yaml")
    assert (result.code, "--force" in result.err) == (2, True)
    (tmp_path / "lut.yaml").write_text(YAML.replace("2.5", "3.5"))
    assert hwnas("table", "import", "lut.yaml", "--force").code == 0
    with LatencyTable.open("lut.db") as table:
        assert list(table.values().values()) == [3.5]
    result = hwnas("table", "import", "lut.yaml", "--force", "--out", "lut.yaml")
    assert (result.code, "itself" in result.err) == (2, True)


def test_import_for_a_space_says_what_is_missing(hwnas: Run, tmp_path: Path) -> None:
    (tmp_path / "lut.yaml").write_text(YAML)
    result = hwnas("table", "import", "lut.yaml", "--space", "proxyless", "--json", "-")
    assert result.code == 1
    assert len(result.json["missing"]) == 69
    with LatencyTable.open("lut.db") as table:
        (row,) = table.rows()
        assert row.key.startswith("conv3x3 3x224x224->32x112x112")
        assert table.provenance.fingerprint == load_space("proxyless").fingerprint


def test_a_bad_lookup_table_leaves_nothing_behind(hwnas: Run, tmp_path: Path) -> None:
    (tmp_path / "lut.yaml").write_text(YAML + YAML)
    (tmp_path / "lut.db").write_text("precious")
    result = hwnas("table", "import", "lut.yaml", "--force")
    assert (result.code, "line 5: duplicate key" in result.err) == (2, True)
    assert (tmp_path / "lut.db").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lut.db", "lut.yaml"]


def test_the_published_table_through_the_command_line(process: Run, shared: Path, tmp_path: Path) -> None:
    source = shared / "luts" / "mobile_trim.yaml"
    assert process("table", "import", source, "--space", "proxyless", "--out", "m.db", cwd=tmp_path).code == 0
    found = process("table", "range", "m.db", "--space", "proxyless", "--json", "-", cwd=tmp_path).json
    assert {name: round(found[name], 2) for name in ("min", "max", "mean")} == {
        "min": 29.61,
        "max": 191.03,
        "mean": 113.99,
    }
    assert set(found["largest"]["choices"].values()) == {"k7e6"}

"""Lookup tables of other projects, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hwnas.predictors.lut import LutPredictor
from hwnas.profiler.table import LatencyTable, TableError, WorkloadRow
from hwnas.profiler.table_space import import_table
from hwnas.profiler.yaml_keys import BLOCK, KINDS, TextKey, parse_key, shapes_of, text_key
from hwnas.profiler.yaml_tables import YamlEntry, dump_yaml, export_yaml, import_yaml, match, parse_yaml
from hwnas.spaces.registry import load_space
from hypothesis import given
from hypothesis import strategies as st

FILES = ("mobile_trim.yaml", *(f"ofa_note10/{size}_lookup_table.yaml" for size in (160, 176, 192, 208, 224)))
ENTRY = "  count: 3\n  mean: 2.5\n  var: 0.25\n"
CONV = "Conv-input:224x224x3-output:112x112x32"


@pytest.mark.parametrize("name", FILES)
def test_published_files_round_trip(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "luts" / name
    text = source.read_text()
    keys = [line.removesuffix(":") for line in text.splitlines() if not line.startswith(" ")]
    assert len(keys) == (72 if name == FILES[0] else 96)
    with import_yaml(source, tmp_path / "t.db") as table:
        rows = table.rows()
        assert [row.key for row in rows] == keys
        assert export_yaml(table) == (text, [])
        assert table.provenance.environment["imported"] == "proxylessnas-yaml"
        assert table.provenance.environment["file"] == source.name
        assert len(table.provenance.environment["sha256"]) == 64
    assert dump_yaml(parse_yaml(text, name)) == text
    for row in rows:
        assert row.latency is not None
        assert row.low is not None
        assert row.high is not None
        assert 0 <= row.low <= row.latency <= row.high
        assert (row.status, row.visits, row.unit) == ("ok", 0, "ms")
        assert row.runs > 1


def test_what_an_entry_means(tmp_path: Path) -> None:
    source = tmp_path / "x.yaml"
    source.write_text(f"{CONV}:\n{ENTRY}Logits-input:7x7x8-output:10:\n  count: 1\n  mean: 1\n  std: 4.0e-1\n")
    with import_yaml(source, tmp_path / "t.db") as table:
        first, second = table.rows()
    assert (first.latency, first.low, first.high, first.runs) == (2.5, 2.0, 3.0, 3)  # var is the square of 0.5
    assert (second.latency, second.low, second.high, second.runs) == (1.0, 0.6, 1.4, 1)
    assert (first.op, first.kind) == ("Conv", "fixed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{CONV}:\n{ENTRY}{CONV}:\n{ENTRY}", rf"line 5: duplicate key '{CONV}', first on line 1"),
        (f"{CONV}:\n  count: 1\n  mean: 1\n  var: 1\n  mean: 2\n", r"line 5: duplicate key 'mean'"),
        (f"{CONV}:\n  count: 1\n  mean: fast\n  var: 1\n", r"line 3: mean of Conv.* is fast, a finite number"),
        (f"{CONV}:\n  count: 1\n  mean: '1.5'\n  var: 1\n", r"line 3: mean of Conv.* finite number"),
        (f"{CONV}:\n  count: 1\n  mean: -1.5\n  var: 1\n", r"line 3: mean of Conv.* is negative"),
        (f"{CONV}:\n  count: 1\n  mean: 1.5\n  var: -1\n", r"line 4: var of Conv.* is negative"),
        (f"{CONV}:\n  count: 1\n  mean: .nan\n  var: 1\n", r"line 3: mean of Conv.* is \.nan"),
        (f"{CONV}:\n  count: 1\n  mean: nan\n  var: 1\n", r"is nan"),
        (f"{CONV}:\n  count: 1\n  mean: .inf\n  var: 1\n", r"is \.inf"),
        (f"{CONV}:\n  count: 1\n  mean: 1e999\n  var: 1\n", r"is 1e999"),
        (f"{CONV}:\n  count: 1\n  mean: 1:30\n  var: 1\n", r"is 1:30"),
        (f"{CONV}:\n  count: 1\n  mean: 1_0\n  var: 1\n", r"is 1_0"),
        (f"{CONV}:\n  count: 1\n  mean:\n  var: 1\n", r"line 3: mean"),
        (f"{CONV}:\n  count: 1\n  mean: [1]\n  var: 1\n", r"line 3: mean"),
        (f"{CONV}:\n  count: 0\n  mean: 1\n  var: 1\n", r"count is 0"),
        (f"{CONV}:\n  count: 1.5\n  mean: 1\n  var: 1\n", r"count is 1\.5"),
        (f"{CONV}:\n  count: 1\n  mean: 1\n", r"one of var and std are needed, found count, mean"),
        (f"{CONV}:\n  count: 1\n  mean: 1\n  var: 1\n  std: 1\n", r"one of var and std"),
        (f"{CONV}:\n  count: 1\n  mean: 1\n  p90: 1\n", r"found count, mean, p90"),
        (f"{CONV}: 1.5\n", r"line 1, Conv.*a mapping with count"),
        (f"{CONV}:\n- 1\n", r"a mapping with count"),
        ("mbconv3x3:\n" + ENTRY, r"line 1: 'mbconv3x3' is not a key"),
        ("? [a, b]\n: 1\n", r"line 1: a key is text"),
        ("- 1\n- 2\n", r"not a lookup table"),
        ("", r"not a lookup table"),
        ("{}", r"not a lookup table"),
        ("just text", r"not a lookup table"),
        ("a: [1\n", r"not readable YAML"),
        ("a: *b\n", r"not readable YAML"),
        ("a: 1\x00\n", r"not readable YAML"),
        ("a: 1\n---\nb: 1\n", r"not readable YAML"),
        ("[" * 5000, r"nested too deeply|not readable YAML"),
        ("!!python/object/apply:os.system ['true']: 1\n", r"a key is text"),
        (f"{CONV}: !!python/object/apply:os.system ['touch /tmp/x']\n", r"a mapping with count"),
    ],
)
def test_bad_yaml_is_named_and_makes_no_table(tmp_path: Path, text: str, message: str) -> None:
    source = tmp_path / "bad.yaml"
    source.write_text(text)
    with pytest.raises(TableError, match=message) as raised:
        import_yaml(source, tmp_path / "t.db")
    assert str(source) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"\xff\xfe\xfa")
    for source, message in (
        (tmp_path / "none.yaml", "there is no file"),
        (tmp_path, "there is no file"),
        (tmp_path / "latin.yaml", "not UTF-8"),
    ):
        with pytest.raises(TableError, match=message):
            import_yaml(source, tmp_path / "t.db")


def test_an_existing_table_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"{CONV}:\n{ENTRY}")
    import_yaml(tmp_path / "x.yaml", tmp_path / "t.db").close()
    before = (tmp_path / "t.db").read_bytes()
    with pytest.raises(TableError, match="exists"):
        import_yaml(tmp_path / "x.yaml", tmp_path / "t.db")
    assert (tmp_path / "t.db").read_bytes() == before


# -- keys

size = st.integers(1, 10**9 - 1)
flag = st.integers(0, 1)
shape = st.tuples(size, size, size)
keys = st.one_of(
    st.builds(TextKey, st.sampled_from([k for k in KINDS if k not in (BLOCK, "Logits")]), shape, shape),
    st.builds(TextKey, st.just("Logits"), shape, st.tuples(size)),
    st.builds(TextKey, st.just(BLOCK), shape, shape, size, size, size, flag),
    st.builds(TextKey, st.just(BLOCK), shape, shape, size, size, size, flag, flag, flag),
)
value = st.floats(min_value=0, allow_infinity=False)


@given(keys)
def test_keys_round_trip(key: TextKey) -> None:
    assert parse_key(str(key)) == key


@given(st.lists(st.builds(YamlEntry, keys, st.integers(1, 10**9), value, value, st.sampled_from(["var", "std"]))))
def test_entries_round_trip(entries: list[YamlEntry]) -> None:
    unique = list({entry.key: entry for entry in entries}.values())
    if unique:
        assert parse_yaml(dump_yaml(unique), "x") == unique


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Conv-input:1x2-output:1x1x1",
        "Conv-input:0x2x3-output:1x1x1",
        "Conv-input:01x2x3-output:1x1x1",
        "Conv_3-input:1x2x3-output:1x1x1",
        "Conv-input:1x2x3-output:10",
        "Logits-input:1x2x3-output:1x1x1",
        "Conv-input:1x2x3-output:1x1x1-expand:1-kernel:1-stride:1-idskip:0",
        "expanded_conv-input:1x2x3-output:1x1x1",
        "expanded_conv-input:1x2x3-output:1x1x1-expand:1-kernel:1-stride:1-idskip:2",
        "expanded_conv-input:1x2x3-output:1x1x1-expand:1-kernel:1-stride:1-idskip:0-se:1",
        CONV + "\n",
        CONV + "x",
        "Conv-input:٢x2x3-output:1x1x1",
    ],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(TableError, match="not a key"):
        parse_key(text)


BLOCK_INFO = {"op": "mbconv", "kernel": 5, "expand": 3, "stride": 2, "skip": False, "role": None}


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (
            {**BLOCK_INFO, "in": [16, 112, 110], "out": [24, 56, 55]},
            "expanded_conv-input:112x110x16-output:56x55x24-expand:3-kernel:5-stride:2-idskip:0",
        ),
        (
            {**BLOCK_INFO, "stride": 1, "skip": True, "in": [8, 7, 7], "out": [8, 7, 7], "se": True, "hs": False},
            "expanded_conv-input:7x7x8-output:7x7x8-expand:3-kernel:5-stride:1-idskip:1-se:1-hs:0",
        ),
        ({"op": "conv", "role": "first_conv", "in": [3, 224, 224], "out": [32, 112, 112]}, CONV),
        (
            {"op": "conv", "role": "feature_mix", "in": [320, 7, 7], "out": [1280, 7, 7]},
            "Conv_1-input:7x7x320-output:7x7x1280",
        ),
        (
            {"op": "linear", "role": "classifier", "in": [1280, 7, 7], "out": [1000]},
            "Logits-input:7x7x1280-output:1000",
        ),
        ({"op": "linear", "role": "classifier", "in": [1280], "out": [10]}, "Logits-input:1x1x1280-output:10"),
    ],
)
def test_text_key_of_a_workload(info: dict[str, Any], text: str) -> None:
    assert text_key(info) == text
    assert str(parse_key(text)) == text


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"op": "attention", "in": [1], "out": [1]},
        {"op": "conv", "role": None, "in": [3, 2, 2], "out": [3, 2, 2]},
        {"op": "linear", "role": "first_conv", "in": [3], "out": [3]},
        {**BLOCK_INFO, "in": [16, 112], "out": [24, 56, 56]},
        {**BLOCK_INFO, "in": "abc", "out": [24, 56, 56]},
        {**BLOCK_INFO, "kernel": None, "in": [16, 1, 1], "out": [24, 1, 1]},
    ],
)
def test_workloads_without_a_text_key(info: dict[str, Any]) -> None:
    with pytest.raises(TableError, match="workload"):
        text_key(info)


def test_shapes_in_a_workload() -> None:
    assert shapes_of("24x56x56->40x28x28") == {"in": [24, 56, 56], "out": [40, 28, 28]}
    assert shapes_of("1280->1000") == {"in": [1280], "out": [1000]}
    for several in ("2x2,2x2->4", "->", "", "a->b", "1->2->3"):
        assert shapes_of(several) == {}


# -- a space's workloads


def test_the_built_in_space_is_in_the_published_table(shared: Path, tmp_path: Path) -> None:
    space, out = load_space("proxyless"), tmp_path / "t.db"
    assert import_table(shared / "luts" / "mobile_trim.yaml", out, space) == (72, [])
    with LatencyTable.open(out) as table:
        assert table.missing(w.key() for w in space.workloads()) == []
        assert sum(row.key.startswith(BLOCK) for row in table.rows()) == 2  # kernels 5 and 7 of the first block
        found = LutPredictor.from_table(table, space).model.range
        text, left_out = export_yaml(table)
    assert (round(found.min, 2), round(found.max, 2), round(found.mean, 2)) == (29.61, 191.03, 113.99)
    assert (text, left_out) == ((shared / "luts" / "mobile_trim.yaml").read_text(), [])


def test_a_classifier_that_could_be_two_entries_is_refused() -> None:
    lines = "Logits-input:7x7x8-output:10:\n" + ENTRY + "Logits-input:4x4x8-output:10:\n" + ENTRY
    info = {"op": "linear", "role": "classifier", "in": [8], "out": [10]}
    with pytest.raises(TableError, match="could be Logits-input:7x7x8-output:10 or Logits-input:4x4x8-output:10"):
        match(parse_yaml(lines, "x"), [WorkloadRow("linear 8->10", "linear", "fixed", info)])

"""Under what a table was measured, and who may go on with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hwnas.errors import HwnasError
from hwnas.profiler.table import LatencyTable, Provenance, TableError, TableMismatch, WorkloadRow
from hwnas.tests.profiler.tables import ABOUT, objects, samples, words
from hypothesis import given
from hypothesis import strategies as st

OTHER: list[tuple[str, Provenance, object, object]] = [
    ("device", replace(ABOUT, device="mobile"), "cpu", "mobile"),
    ("unit", replace(ABOUT, unit="MMACs"), "ms", "MMACs"),
    ("fingerprint", replace(ABOUT, fingerprint="cd34"), "ab12", "cd34"),
    ("lowering", replace(ABOUT, lowering="torch.onnx"), "emitter", "torch.onnx"),
    ("settings.threads", replace(ABOUT, settings={**ABOUT.settings, "threads": 2}), 1, 2),
    ("settings.fast", replace(ABOUT, settings={**ABOUT.settings, "fast": True}), None, True),
    ("protocol.tolerance", replace(ABOUT, protocol={"tolerance": 0.02, "warmup": 2}), 0.01, 0.02),
    ("environment.cpu.model", replace(ABOUT, environment={"cpu": {"model": "B"}}), "A", "B"),
    ("environment.runtime.version", replace(ABOUT, environment={"runtime": {"version": "2"}}), "1.32", "2"),
]


@pytest.mark.parametrize(("name", "wanted", "found_value", "wanted_value"), OTHER, ids=[o[0] for o in OTHER])
def test_other_conditions_are_named(
    tmp_path: Path, name: str, wanted: Provenance, found_value: object, wanted_value: object
) -> None:
    path = tmp_path / "t.db"
    LatencyTable.create(path, ABOUT).close()
    before = path.read_bytes()
    with pytest.raises(TableMismatch, match=name.replace(".", r"\.")) as raised:
        LatencyTable.create(path, wanted)
    assert (raised.value.field, raised.value.found, raised.value.wanted) == (name, found_value, wanted_value)
    assert isinstance(raised.value, HwnasError)
    assert path.read_bytes() == before


def test_resuming_goes_on_under_the_first_provenance(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with LatencyTable.create(path, ABOUT) as table:
        table.register([WorkloadRow("a", "a")])
        table.add_visit("a", samples(1), table.add_session({"load": 1}))
    later = replace(ABOUT, created="2027-01-01", version="0.2.0", environment={"host": "elsewhere"})
    with LatencyTable.create(path, later) as table:
        assert table.provenance == ABOUT
        table.add_visit("a", samples(2), table.add_session({"load": 2}))
        assert [(v.wall.tolist(), v.session) for v in table.visits("a")] == [([1], 1), ([2], 2)]
    with pytest.raises(TableError, match="exists"):
        LatencyTable.create(path, ABOUT, resume=False)


def test_a_tuple_in_the_settings_agrees_with_itself(tmp_path: Path) -> None:
    about = replace(ABOUT, settings={"shape": (1, 2)}, protocol={"n": np.int64(3)})
    LatencyTable.create(tmp_path / "t.db", about).close()
    LatencyTable.create(tmp_path / "t.db", about).close()


def test_computed_tables_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    about = replace(ABOUT, unit="MMACs", environment={"clock": "none", "cpu": {"model": "A"}})
    LatencyTable.create(tmp_path / "t.db", about).close()
    LatencyTable.create(tmp_path / "t.db", replace(about, environment={"clock": "none", "cpu": {"model": "B"}})).close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "device"),
        ('{"device": 1, "unit": "ms"}', "device"),
        ('{"device": "cpu", "unit": "s"}', "unit"),
        ('{"device": "cpu", "unit": "ms", "more": 1}', "more"),
        ('{"device": "cpu", "unit": "ms", "settings": {"x": NaN}}', "not valid JSON"),
        ('{"device": "cpu", "unit": "ms", "settings": []}', "settings"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ("", "not valid JSON"),
    ],
)
def test_provenance_that_is_none(text: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        Provenance.from_json(text)


provenances = st.builds(
    Provenance,
    device=words,
    unit=st.sampled_from(["ms", "MMACs"]),
    settings=objects,
    space=words,
    space_arguments=objects,
    fingerprint=words,
    lowering=words,
    protocol=objects,
    environment=objects,
    version=words,
    created=words,
)


@given(provenances)
def test_provenance_round_trip(about: Provenance) -> None:
    assert Provenance.from_json(about.to_json()) == about

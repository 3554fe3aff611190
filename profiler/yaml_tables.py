"""Lookup tables of ProxylessNAS and Once-for-All: YAML files ``key: {count, mean, var | std}`` in milliseconds."""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from .table import LatencyTable
from .table_provenance import Provenance
from .table_schema import WORKLOADS, Row, TableError, WorkloadRow, number, one_line, whole
from .yaml_keys import BLOCK, TextKey, parse_key, shapes_of, text_key

MAX_FILE = 8 * 2**20
IMPORTED = Provenance(device="imported", unit="ms", settings={"batch": 1, "dtype": "fp32"})
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class YamlEntry:
    """One entry: ``count`` runs, their mean in ms and their variance (ms^2) or standard deviation (ms)."""

    key: TextKey
    count: int
    mean: float
    spread: float
    measure: Literal["var", "std"]

    @property
    def std(self) -> float:
        """Standard deviation in ms."""
        return math.sqrt(self.spread) if self.measure == "var" else self.spread


def parse_yaml(text: str, name: str) -> list[YamlEntry]:
    """Read the entries of a lookup table.

    Raises:
        TableError: with file and line, for duplicate or foreign keys, entries of another shape, and values that are
            not numbers, negative, infinite or NaN.
    """
    try:
        # The node tree instead of the loaded values: it has the line numbers, the duplicates and no objects.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise TableError(f"{name} is not readable YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise TableError(f"{name} is nested too deeply for a lookup table") from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise TableError(f"{name} is not a lookup table: a mapping `key: {{count, mean, var}}` is needed")
    entries = {}
    for where, key, value in _items(root, name):
        try:
            entries[key] = _entry(parse_key(key), value, f"{where}, {key}")
        except TableError as error:
            raise TableError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return list(entries.values())


def _items(node: yaml.MappingNode, name: str) -> Iterable[tuple[str, str, yaml.Node]]:
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        where = f"{name}, line {line}"
        if not isinstance(key, yaml.ScalarNode):
            raise TableError(f"{where}: a key is text, not a list or mapping")
        if key.value in seen:
            raise TableError(f"{where}: duplicate key {one_line(key.value)!r}, first on line {seen[key.value]}")
        seen[key.value] = line
        yield where, key.value, value


def _entry(key: TextKey, node: yaml.Node, where: str) -> YamlEntry:
    if not isinstance(node, yaml.MappingNode):
        raise TableError(f"{where}: a mapping with count, mean and var or std is needed")
    values = {name: _number(value, f"{place}: {name} of {key}") for place, name, value in _items(node, where)}
    for measure in ("var", "std"):
        if values.keys() == {"count", "mean", measure}:
            if not values["count"].is_integer() or values["count"] < 1:
                raise TableError(f"{where}: count is {values['count']}, a whole number from 1 is needed")
            return YamlEntry(key, int(values["count"]), values["mean"], values[measure], measure)
    raise TableError(f"{where}: count, mean and one of var and std are needed, found {one_line(', '.join(values))}")


def _number(node: yaml.Node, what: str) -> float:
    found = node.value if isinstance(node, yaml.ScalarNode) and node.style is None else "a list, mapping or text"
    # YAML 1.1 reads 1:30 as 90 and 1e-05 as text; here a number is what it looks like.
    if not _NUMBER.fullmatch(found) or not math.isfinite(float(found)):
        raise TableError(f"{what} is {one_line(found)[:60]}, a finite number is needed")
    if float(found) < 0:
        raise TableError(f"{what} is negative ({found})")
    return float(found)


def dump_yaml(entries: Iterable[YamlEntry]) -> str:
    """Write entries in the form of the published files; `parse_yaml` is the inverse."""
    form = "{}:\n  count: {}\n  mean: {}\n  {}: {}\n"
    return "".join(form.format(e.key, e.count, _float(e.mean), e.measure, _float(e.spread)) for e in entries)


def _float(value: float) -> str:
    text = repr(float(value))
    return text.replace("e", ".0e") if "e" in text and "." not in text else text  # as YAML 1.1 wants it


def import_yaml(
    source: str | Path, out: str | Path, *, workloads: Sequence[WorkloadRow] = (), about: Provenance = IMPORTED
) -> LatencyTable:
    """Make a table of device ``imported`` from a YAML lookup table.

    Rows have latency = mean, low and high one standard deviation around it, runs = count and no samples.

    Args:
        source: the YAML file.
        out: the table to be made; it must not exist.
        workloads: of a search space. Entries that stand for one of them get its key (see `match`), the others keep
            their text key.
        about: provenance, to which the file's name and digest are added; for its space, version and date.

    Raises:
        TableError: the file cannot be read or holds anything that `parse_yaml` refuses, or ``out`` exists.
    """
    source = Path(source)
    data = _read(source)
    try:
        entries = parse_yaml(data.decode(), str(source))
    except UnicodeDecodeError as error:
        raise TableError(f"{source} is not a lookup table: not UTF-8 text ({error.reason})") from error
    origin = {"imported": "proxylessnas-yaml", "file": source.name, "sha256": hashlib.sha256(data).hexdigest()}
    provenance = replace(about, environment={**about.environment, **origin})
    named = match(entries, workloads)
    table = LatencyTable.create(out, provenance, resume=False)
    try:
        with table.batch():
            for entry in entries:
                _add(table, entry, named.get(entry.key, ()))
    except BaseException:
        table.close()
        Path(out).unlink(missing_ok=True)  # made above, and of no use without its rows
        raise
    return table


def match(entries: Iterable[YamlEntry], workloads: Iterable[WorkloadRow]) -> dict[TextKey, list[WorkloadRow]]:
    """The workloads that each entry stands for.

    A classifier is matched by features and classes alone: the tables give its input before pooling, which belongs to
    the row (``Logits-input:7x7x1280``), a linear layer's is 1x1. Raises TableError where that is not unique.
    """
    wanted: dict[tuple[object, ...], list[WorkloadRow]] = {}
    for workload in workloads:
        try:
            key = parse_key(text_key(workload.info))
        except TableError:
            continue  # such a workload is in no YAML table
        wanted.setdefault(_identity(key), []).append(workload)
    found: dict[TextKey, list[WorkloadRow]] = {}
    claimed: dict[tuple[object, ...], TextKey] = {}
    for entry in entries:
        identity = _identity(entry.key)
        if identity in wanted:
            if claimed.setdefault(identity, entry.key) != entry.key:
                raise TableError(f"{wanted[identity][0].key!r} could be {claimed[identity]} or {entry.key}; remove one")
            found[entry.key] = wanted[identity]
    return found


def _identity(key: TextKey) -> tuple[object, ...]:
    return (key.kind, key.input[-1:], key.output) if key.kind == "Logits" else (key,)


def workload_row(key: str, op: str, shapes: str, info: Mapping[str, Any], *, fixed: bool) -> WorkloadRow:
    """A space's workload as a row, with the shapes that `text_key` needs in its ``info``."""
    return WorkloadRow(key, op, "fixed" if fixed else "candidate", {**shapes_of(shapes), **info})


def export_yaml(table: LatencyTable) -> tuple[str, list[str]]:
    """A table's workloads as YAML lookup table, and the keys of those that have no place in one.

    Imported rows are written as they were. For measured ones mean is the latency (the low end), count the runs, and
    std half the width of the interval.

    Raises:
        TableError: the unit is not ms, no row has a text key, or two rows have the same.
    """
    if table.provenance.unit != "ms":
        raise TableError(f"{table.path} is in {table.provenance.unit}; a YAML lookup table holds milliseconds")
    entries: dict[TextKey, YamlEntry] = {}
    left_out: list[str] = []
    for row in (row for row in table.rows() if row.kind in WORKLOADS):
        entry = _from_row(row)
        if entry is None:
            left_out.append(row.key)
        elif entries.setdefault(entry.key, entry) != entry:
            raise TableError(f"{table.path}: two rows have the text key {entry.key}, for instance {row.key!r}")
    if not entries:
        raise TableError(
            f"{table.path}: none of its {len(left_out)} rows has a ProxylessNAS text key; use another format"
        )
    return dump_yaml(entries.values()), left_out


def _add(table: LatencyTable, entry: YamlEntry, workloads: Sequence[WorkloadRow]) -> None:
    origin = {"text_key": str(entry.key), "mean": entry.mean, "count": entry.count, entry.measure: entry.spread}
    own = WorkloadRow(str(entry.key), entry.key.kind, "candidate" if entry.key.kind == BLOCK else "fixed")
    for row in workloads or [own]:
        table.register([WorkloadRow(row.key, row.op, row.kind, {**row.info, "yaml": origin})])
        low, high = max(0.0, entry.mean - entry.std), entry.mean + entry.std
        table.finish(row.key, latency=entry.mean, low=low, high=high, runs=entry.count)


def _from_row(row: Row) -> YamlEntry | None:
    if row.latency is None or row.low is None or row.high is None:
        return None
    origin = row.info.get("yaml")
    try:
        if isinstance(origin, dict):
            count = whole(origin.get("count"), "count")
            measure: Literal["var", "std"] = "var" if "var" in origin else "std"
            return YamlEntry(
                parse_key(origin["text_key"]), count, row.latency, number(origin[measure], measure), measure
            )
        return YamlEntry(parse_key(text_key(row.info)), row.runs, row.latency, (row.high - row.low) / 2, "std")
    except (TableError, KeyError, TypeError, ValueError):
        return None


def _read(source: Path) -> bytes:
    try:
        if not source.is_file():
            raise TableError(f"there is no file {source}")
        if source.stat().st_size > MAX_FILE:
            raise TableError(f"{source} is too large for a lookup table ({source.stat().st_size} bytes)")
        return source.read_bytes()
    except OSError as error:
        raise TableError(f"{source} cannot be read: {error.strerror}") from error

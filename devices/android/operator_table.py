"""Tables of single operators that ``benchmark_model --enable_op_profiling`` prints, with tabs or commas, in ms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_TITLE = re.compile(r"=====\s*(?P<title>[^=]+?)\s*=====")
_NUMBER = r"\s*-?\d[\d.]*(?:[eE][-+]?\d+)?%?\s*"


@dataclass(frozen=True)
class OperatorRow:
    """One operator; ``columns`` are its other numbers by their headings, such as "%", "mem KB" or "times called"."""

    type: str
    name: str
    ms: float
    columns: Mapping[str, float]


@dataclass(frozen=True)
class OperatorTable:
    """One table: ``section`` is the line above ("Operator-wise Profiling Info for Regular Benchmark Runs"), ``title``
    for instance "Run Order"."""

    section: str
    title: str
    rows: tuple[OperatorRow, ...]

    @property
    def of_runs(self) -> bool:
        """Whether it lists the operators of the timed runs in their order."""
        return self.title == "Run Order" and not re.search(r"Initiali[sz]ation|[Dd]elegate internal", self.section)


def operator_tables(text: str) -> tuple[OperatorTable, ...]:
    """All tables in an output that have one line for each operator; summaries by type are left out."""
    return tuple(_tables(text.splitlines()))


def _tables(lines: list[str]) -> Iterator[OperatorTable]:
    section = ""
    for i, line in enumerate(lines):
        found = _TITLE.search(line)
        if found is None:
            section = line.strip().rstrip(":") if line.rstrip().endswith(":") else section
            continue
        header = _header(lines[i + 1]) if i + 1 < len(lines) else None
        if header is not None:
            yield OperatorTable(section, found["title"], tuple(_rows(lines[i + 2 :], *header)))


def _header(line: str) -> tuple[str, list[str]] | None:
    """Separator and column names; None where the line is no header of single operators."""
    separator = "\t" if "\t" in line.strip() else ","
    message = line if separator == "\t" else line.rpartition(": ")[2]
    names = [name.strip().strip("[]").strip() for name in _cells(message, separator)]
    lowered = [name.lower() for name in names]
    if len(names) < 4 or "node type" not in lowered[0] or lowered[-1] != "name":
        return None
    return separator, names


def _rows(lines: list[str], separator: str, names: list[str]) -> Iterator[OperatorRow]:
    middle = names[1:-1]
    mean = next((i for i, name in enumerate(middle) if name.lower().replace("_", " ") in ("avg ms", "avg")), None)
    for line in lines:
        cells = _split(line, separator, len(middle))
        if cells is None or mean is None:
            return
        kind, numbers, name = cells
        columns = dict(zip(middle, numbers, strict=True))
        in_brackets = re.fullmatch(r"\[(.*)\](?::\d+)?", name)
        yield OperatorRow(kind, in_brackets[1] if in_brackets else name, numbers[mean], columns)


def _split(line: str, separator: str, count: int) -> tuple[str, list[float], str] | None:
    """Type, so many numbers, name. With commas the type and the name may hold some themselves, unquoted."""
    if separator == "\t":
        cells = _cells(line, separator)
        if len(cells) < count + 2:
            return None
        kind, texts, name = cells[0], cells[1 : count + 1], separator.join(cells[count + 1 :])
    else:
        found = re.match(rf"(?P<kind>.*?),(?P<numbers>(?:{_NUMBER},){{{count}}})(?P<name>.*)$", line)
        if found is None:
            return None
        kind, texts, name = found["kind"], found["numbers"].split(",")[:-1], found["name"]
    try:
        return kind.strip(), [float(text.strip().removesuffix("%")) for text in texts], name.strip()
    except ValueError:
        return None


def _cells(line: str, separator: str) -> list[str]:
    cells = [cell.strip() for cell in line.split(separator)]
    return cells[1:] if separator == "\t" and len(cells) > 1 and (not cells[0] or cells[0].endswith(":")) else cells

"""What a latency table holds: its records, its SQL schema and the checks on every value that goes in or out."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from ..errors import HwnasError

APPLICATION_ID = 0x68774E41  # "hwNA" in the SQLite header
SCHEMA_VERSION = 1
MAX_JSON = 16 * 2**20  # characters of one JSON value
MAX_TEXT = 2_000  # characters of a key or a reason
MAX_RUNS = 1_000_000  # of one visit

Kind = Literal["candidate", "fixed", "network", "glue"]
Status = Literal["ok", "unconverged", "failed"]
KINDS: tuple[str, ...] = get_args(Kind)
STATUSES: tuple[str, ...] = get_args(Status)
WORKLOADS: tuple[str, ...] = ("candidate", "fixed", "glue")  # the others are whole networks
PENDING = "pending"  # registered, perhaps visited, not finished

SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
    """CREATE TABLE workloads (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, op TEXT NOT NULL, kind TEXT NOT NULL, info TEXT NOT NULL,
    latency REAL, low REAL, high REAL, status TEXT, reason TEXT, phases TEXT, runs INTEGER)""",
    "CREATE TABLE sessions (id INTEGER PRIMARY KEY, environment TEXT NOT NULL)",
    """CREATE TABLE visits (
    id INTEGER PRIMARY KEY, workload INTEGER NOT NULL REFERENCES workloads (id),
    session INTEGER NOT NULL REFERENCES sessions (id), started REAL NOT NULL, wall BLOB NOT NULL, cpu BLOB NOT NULL,
    reference BLOB NOT NULL)""",
    "CREATE INDEX visits_of_workload ON visits (workload)",
    "CREATE TABLE records (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, data TEXT NOT NULL)",
)


class TableError(HwnasError):
    """A latency table that cannot be read or written, or a value that may not stand in one."""


@dataclass(frozen=True)
class Visit:
    """Raw samples of one visit as stored: int64 nanoseconds, shape (runs,); unix time; id of its session."""

    wall: np.ndarray
    cpu: np.ndarray
    started: float
    session: int
    reference: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class WorkloadRow:
    """A workload to be measured; ``info`` is whatever else is known of it (JSON: shapes, kernel, role)."""

    key: str
    op: str
    kind: Kind = "candidate"
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A workload with its result; latency, low and high are in ``unit``, None while pending and when it failed."""

    key: str
    op: str
    kind: Kind
    latency: float | None
    unit: str
    low: float | None
    high: float | None
    visits: int
    runs: int
    status: str
    reason: str
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)
    phases: Mapping[str, Any] | None = field(default=None, repr=False)


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def dump_json(value: object, what: str) -> str:
    """JSON text of ``value``; NaN, infinities and objects without a JSON form are a TableError."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_plain)
        text.encode()  # lone surrogates cannot be stored
    except (TypeError, ValueError, RecursionError) as error:
        raise TableError(f"{what} cannot be stored as JSON: {error}") from error
    if len(text) > MAX_JSON:
        raise TableError(f"{what} is too long to be stored ({len(text)} characters, at most {MAX_JSON})")
    return text


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def load_json(text: object, what: str) -> Any:
    """Parse JSON that a stranger may have written: length and depth are bounded, NaN is refused."""
    if not isinstance(text, str) or len(text) > MAX_JSON:
        raise TableError(f"{what} is not JSON text of at most {MAX_JSON} characters")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{what} is not valid JSON: {error}") from error


def load_object(text: object, what: str) -> dict[str, Any]:
    """Like `load_json`, for a JSON object."""
    value = load_json(text, what)
    if not isinstance(value, dict):
        raise TableError(f"{what} is not a JSON object")
    return value


def number(value: object, what: str) -> float:
    """A finite number that is not negative, as float; anything else is a TableError."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TableError(f"{what} is {value!r}, a number is needed")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result) or result < 0:
        raise TableError(f"{what} is {value!r}, a finite number that is not negative is needed")
    return result


def whole(value: object, what: str) -> int:
    """A whole number from 0 to 2**62; anything else is a TableError."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**62:
        raise TableError(f"{what} is {value!r}, a whole number that is not negative is needed")
    return value


def label(value: object, what: str) -> str:
    """Text that is safe to print and short enough to be a name; anything else is a TableError."""
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT or not value.isprintable():
        raise TableError(f"{what} is {str(value)[:60]!r}, printable text of 1 to {MAX_TEXT} characters is needed")
    return value


def one_line(text: object) -> str:
    """A reason as one printable line of bounded length, whatever a runtime or a stranger put into it."""
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "?" for character in line)[:MAX_TEXT]


def to_blob(samples: object, what: str) -> bytes:
    """Raw samples (integer ns) as little-endian int64."""
    array = np.asarray(samples)
    if array.ndim != 1 or array.size > MAX_RUNS or (array.size and array.dtype.kind not in "iu"):
        raise TableError(
            f"{what} must be a list of at most {MAX_RUNS} whole nanoseconds, not {array.dtype} {array.shape}"
        )
    if array.size and array.min() < 0:
        raise TableError(f"{what} holds a negative time ({array.min()} ns)")
    return array.astype("<i8").tobytes()


def from_blob(blob: object, what: str) -> np.ndarray:
    """Inverse of `to_blob`: int64, shape (runs,)."""
    if not isinstance(blob, bytes) or len(blob) % 8 or len(blob) > 8 * MAX_RUNS:
        raise TableError(f"{what}: the stored samples are not whole 8-byte numbers")
    array = np.frombuffer(blob, dtype="<i8").astype(np.int64)
    if array.size and array.min() < 0:
        raise TableError(f"{what}: the stored samples hold a negative time")
    return array


def check_result(
    what: str, latency: float | None, low: float | None, high: float | None, status: str
) -> tuple[float | None, float | None, float | None]:
    """Latency, low and high of a finished workload, checked; raises TableError."""
    if status not in STATUSES:
        raise TableError(f"status of {what} is {status!r}, not one of {', '.join(STATUSES)}")
    if status == "failed":
        if (latency, low, high) != (None, None, None):
            raise TableError(f"{what} failed, so it cannot have a latency")
        return None, None, None
    value = number(latency, f"latency of {what}")
    least = value if low is None else number(low, f"low of {what}")
    most = value if high is None else number(high, f"high of {what}")
    if least > most:
        raise TableError(f"interval of {what} is upside down: {least} to {most}")
    return value, least, most

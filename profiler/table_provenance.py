"""Where the numbers of a latency table come from, and when others may be added to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .. import __version__
from .calibration_data import quantisation
from .table_schema import TableError, dump_json, load_json, load_object

if TYPE_CHECKING:
    from ..devices.base import Device
    from ..spaces.space import SearchSpace
    from .calibration_data import CalibrationData


class TableMismatch(TableError):
    """A table that was measured under other conditions than the ones asked for.

    Attributes:
        field: what disagrees, for instance ``settings.threads``.
        found: its value in the table.
        wanted: its value in the request.
    """

    def __init__(self, table: object, field: str, found: object, wanted: object) -> None:
        self.field, self.found, self.wanted = field, found, wanted
        super().__init__(
            f"{table} was measured with {field} = {found!r}, this run has {wanted!r}: "
            "tables are never mixed, give another --out (or the settings of the table)"
        )


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a table come from.

    ``environment`` is what the device's session says of hardware, runtime and host at the table's creation;
    ``protocol`` holds the measuring rules; ``quantisation`` says by what int8 models were calibrated (times hardly
    depend on it, so it may differ among what is compared); ``created`` is an ISO date.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    device: str
    unit: Literal["ms", "MMACs"]
    settings: dict[str, Any] = field(default_factory=dict)
    space: str = ""
    space_arguments: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    lowering: str = ""
    quantisation: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    created: str = ""

    def to_json(self) -> str:
        """Return the provenance as JSON text."""
        return dump_json({part.name: getattr(self, part.name) for part in fields(self)}, "provenance")

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """Read what `to_json` wrote; raises TableError for anything else."""
        load_object(text, "provenance")  # bounds depth and length, refuses NaN
        try:
            return _provenance_adapter().validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise TableError(f"provenance cannot be read: {where}: {first['msg']}") from error


@cache
def _provenance_adapter() -> TypeAdapter[Provenance]:
    return TypeAdapter(Provenance)


# Same device name, other machine or runtime: numbers that must not be mixed either. Paths into the environment.
_IDENTITY = ("hardware", "architecture", "cpu.model", "runtime.name", "runtime.version", "runtime.build", "clock")


def check_agreement(table: object, found: Provenance, wanted: Provenance) -> None:
    """Raise TableMismatch for the first thing in which measurements under the two could not stand in one table."""
    for name in ("device", "unit", "fingerprint", "lowering"):
        _same(table, name, getattr(found, name), getattr(wanted, name))
    for name in ("settings", "protocol"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        for part in sorted({*ours, *theirs}):
            _same(table, f"{name}.{part}", ours.get(part), theirs.get(part))
    if found.environment.get("clock") == "none":
        return  # computed, the same on every machine
    for path in _IDENTITY:
        ours, theirs = _at(found.environment, path), _at(wanted.environment, path)
        if ours is not None and theirs is not None:
            _same(table, f"environment.{path}", ours, theirs)


def _at(environment: Mapping[str, Any], path: str) -> Any:
    value: Any = environment
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _same(table: object, name: str, found: object, wanted: object) -> None:
    # Through JSON, so that a tuple in the request equals the list in the file.
    if load_json(dump_json(found, name), name) != load_json(dump_json(wanted, name), name):
        raise TableMismatch(table, name, found, wanted)


def provenance_of(
    device: "Device",
    space: "SearchSpace",
    route: str,
    about: Mapping[str, Any],
    *,
    protocol: Mapping[str, Any] | None = None,
    calibration: "CalibrationData | None" = None,
) -> Provenance:
    """Of what is measured or computed now; ``about`` is what the device's session says of itself."""
    return Provenance(
        device=device.name,
        unit="MMACs" if device.unit == "MMACs" else "ms",
        settings=device.settings.as_dict(),
        space=space.name,
        space_arguments=space.arguments,
        fingerprint=space.fingerprint,
        lowering=route,
        quantisation=quantisation(device.settings.dtype, calibration),
        protocol=dict(protocol or {}),
        environment=dict(about),
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )

"""One file for a predictor that is no table: a JSON header and numpy arrays in a zip archive; never a pickle."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces.space import SearchSpace
from .base import PredictorError, check_new

FORMAT = "hwnas predictor"
VERSION = 1
MAX_BYTES = 2**30
"""Of everything in a file, unpacked."""


@dataclass(frozen=True)
class PredictorFile:
    """What a predictor's file holds.

    Attributes:
        kind: name in the registry.
        unit, space, fingerprint: as of the predictor.
        meta: whatever else the kind needs, as JSON.
        arrays: its numbers.
    """

    kind: str
    unit: str
    space: str
    fingerprint: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def write(self, path: str | Path) -> None:
        """Write a new file; raises PredictorError where it exists or cannot be written."""
        path = check_new(path)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "unit": self.unit,
            "space": self.space,
            "fingerprint": self.fingerprint,
            "meta": dict(self.meta),
        }
        text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
        named: dict[str, Any] = {f"array {name}": a for name, a in self.arrays.items()}
        temporary = path.with_name(f".{path.name}.new.npz")
        try:
            np.savez(temporary, header=text, **named)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise PredictorError(f"{path} cannot be written: {error.strerror}") from error

    @classmethod
    def read(cls, path: str | Path) -> PredictorFile:
        """Read what `write` wrote; raises PredictorError for anything else."""
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(part.file_size for part in archive.infolist())
            if size > MAX_BYTES:
                raise PredictorError(f"{path} is no predictor: it would unpack to {size / 2**20:.0f} MiB")
            with np.load(path, allow_pickle=False) as parts:
                arrays = {name: parts[name] for name in parts.files}
            header = json.loads(arrays.pop("header").tobytes())
        except OSError as error:
            raise PredictorError(f"{path} cannot be read: {error.strerror or error}") from error
        except (zipfile.BadZipFile, ValueError, KeyError, EOFError, RecursionError, NotImplementedError) as error:
            raise PredictorError(f"{path} is neither a latency table nor a predictor of hwnas") from error
        return cls(**_checked(path, header), arrays={n.removeprefix("array "): a for n, a in arrays.items()})

    @classmethod
    def of(cls, kind: str, path: str | Path, space: SearchSpace) -> PredictorFile:
        """As `read`, of a predictor of this kind and space; raises PredictorError for one of another."""
        file = cls.read(path)
        if file.kind != kind:
            raise PredictorError(f"{path} is a predictor of kind {file.kind!r}, not {kind!r}")
        file.check_space(path, space)
        return file

    def check_space(self, path: str | Path, space: SearchSpace) -> None:
        """Raise PredictorError unless the file was made for this space."""
        if self.fingerprint != space.fingerprint:
            raise PredictorError(
                f"{path} is of space {self.space!r} ({self.fingerprint}), not of {space.name!r} ({space.fingerprint}): "
                "give --space and --space-arg as it was made with"
            )


def _checked(path: str | Path, header: Any) -> dict[str, Any]:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise PredictorError(f"{path} is neither a latency table nor a predictor of hwnas")
    version = header.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        mend = "it was made by a newer hwnas; update this one" if newer else "fit the predictor again"
        raise PredictorError(f"{path} has format version {version!r}, this hwnas reads {VERSION}: {mend}")
    texts = {name: header.get(name) for name in ("kind", "unit", "space", "fingerprint")}
    meta = header.get("meta")
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(meta, dict):
        raise PredictorError(f"{path}: the header of the predictor is damaged")
    return {**texts, "meta": meta}

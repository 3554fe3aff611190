"""A folder of things that cost time to compute: lowered artifacts, discovered workloads. Safe to delete at any time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_MAGIC = b"hwnas cache 1\n"
_DIGEST_SIZE = 32


def cache_folder() -> Path:
    """``$HWNAS_CACHE``, else ``hwnas`` in the user's cache folder."""
    chosen = os.environ.get("HWNAS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hwnas"
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hwnas"


class Cache:
    """Entries by kind (a plain word) and id (any text), each one checksummed file.

    A truncated, foreign or unreadable entry counts as absent. Where nothing can be written (no permission, full disk)
    nothing is kept, and that is no error. Several processes may share the folder: entries appear whole or not at all.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        try:
            self.folder: Path | None = Path(folder) if folder is not None else cache_folder()
        except RuntimeError:  # no home folder
            self.folder = None

    def get_bytes(self, kind: str, id: str) -> bytes | None:
        """What was put under this kind and id; None if nothing whole is there."""
        path = self._path(kind, id)
        try:
            content = path.read_bytes() if path is not None else b""
        except (OSError, MemoryError):
            return None
        start = len(_MAGIC) + _DIGEST_SIZE
        payload = content[start:]
        if content[:start] != _MAGIC + _checksum(kind, id, payload):
            return None
        return payload

    def put_bytes(self, kind: str, id: str, payload: bytes) -> None:
        """Keep ``payload``, in place of what was there."""
        path = self._path(kind, id)
        if path is None:
            return
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + _checksum(kind, id, payload))
                file.write(payload)
            Path(temporary).replace(path)
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()

    def get_json(self, kind: str, id: str) -> Any:
        """As :meth:`get_bytes`, decoded; None also for what is no JSON."""
        payload = self.get_bytes(kind, id)
        if payload is None:
            return None
        try:
            return json.loads(payload)
        except (ValueError, RecursionError):
            return None

    def put_json(self, kind: str, id: str, data: Any) -> None:
        """Keep JSON data."""
        self.put_bytes(kind, id, json.dumps(data, separators=(",", ":")).encode())

    def _path(self, kind: str, id: str) -> Path | None:
        if not kind.replace("-", "").isalnum():
            raise ValueError(f"the kind of a cache entry is a plain word, not {kind!r}")
        name = hashlib.sha256(id.encode()).hexdigest()
        return None if self.folder is None else self.folder / kind / name[:2] / name[2:]


def _checksum(kind: str, id: str, payload: bytes) -> bytes:
    digest = hashlib.sha256(f"{kind}\0{id}\0".encode())
    digest.update(payload)
    return digest.digest()

"""The folder of a run: what it was asked, what it logged, where it goes on, and what it found."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from .. import __version__
from ..errors import HwnasError
from .yaml_text import YamlError, dump_yaml, load_yaml

CONFIG, METRICS, ARCHITECTURE, REPORT = "config.yaml", "metrics.jsonl", "architecture.json", "report.json"
MADE = (
    METRICS,
    ARCHITECTURE,
    REPORT,
    "checkpoint/**/step-*.pt",
    "checkpoint/**/.unfinished",
    "plots/*.png",
    "weights.safetensors",
    "measurements*.db",
    "landing.json",
    "landing-*.db",
    "measured.*",
    "model.onnx",
    "model-int8.onnx",
    "model.tflite",
    "model-fp16.tflite",
    "model-int8.tflite",
    CONFIG,
)
"""What a run makes, in glob patterns; `--force` removes this and nothing else, the configuration last."""
_LOCK = ".lock"


class RunError(HwnasError):
    """A folder that cannot be that of this run."""


class RunFolder:
    """A folder that one process at a time writes; a context manager.

    ``config.yaml`` is the resolved configuration, ``metrics.jsonl`` has one object a line, ``checkpoint/`` is for
    `checkpoint.save_checkpoint` (one folder below for each kind), ``architecture.json`` and ``report.json`` are the
    results; the report is written last, so a run that has one is finished.

    Args:
        path: read this folder without a claim on it: `log`, `truncate` and the writers do nothing, which is what
            processes beside the first one of a group want. `open` gives one that writes.

    Attributes:
        path: the folder.
        resumed: whether a run with the same configuration was there.
        notes: doubts about going on with it.
        writes: whether this process does.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.writes = False
        self.resumed = False
        self.notes: list[str] = []
        self._lock: IO[bytes] | None = None
        self._metrics: IO[bytes] | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        force: bool = False,
        may_differ: Collection[str] = (),
        head: str = "What `hwnas search` was asked; `--config` with this file repeats it.",
    ) -> Self:
        """Begin a run, or go on with the one that is there.

        Args:
            config: plain values, resolved: a run with another one is not gone on with.
            force: begin anew; of what is there only what a run makes (`MADE`) is removed.
            may_differ: dotted keys that only make a note where they differ.
            head: the first line of the configuration's file.

        Raises:
            RunError: the folder cannot be made or is being written by another process, holds a run with another
                configuration (the keys that differ are named), or results without a configuration.
        """
        run = cls(path)
        run._acquire()
        run.writes = True
        try:
            run._begin(config, force, may_differ, head)
        except BaseException:
            run.close()
            raise
        return run

    @property
    def checkpoint(self) -> Path:
        """The folder for checkpoints."""
        return self.path / "checkpoint"

    @property
    def finished(self) -> bool:
        """Whether the report was written."""
        return (self.path / REPORT).is_file()

    # -- the log

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``; what is not a finite number becomes null."""
        if not self.writes:
            return
        if self._metrics is None:
            self._metrics = (self.path / METRICS).open("ab")
        line = json.dumps(to_plain(record), ensure_ascii=False, allow_nan=False)
        self._metrics.write(line.encode(errors="backslashreplace") + b"\n")
        self._metrics.flush()

    def position(self) -> int:
        """Bytes of ``metrics.jsonl``; where a checkpoint finds the log again."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / METRICS).stat().st_size
        return 0

    def truncate(self, position: int) -> None:
        """Forget what was logged after `position`: it will be logged again. A shorter log is left as it is."""
        if self.writes and position < self.position():
            os.truncate(self.path / METRICS, position)

    def records(self) -> list[dict[str, Any]]:
        """What was logged; a last line that a kill has torn is left out."""
        path = self.path / METRICS
        if not path.is_file():
            return []
        lines = path.read_bytes()[: _whole_lines(path)].splitlines()
        try:
            return [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged: {error}") from error

    # -- results

    def write_json(self, name: str, data: Any) -> None:
        """Write a file of the run whole or not at all."""
        self.write_bytes(name, (json.dumps(to_plain(data), indent=2, ensure_ascii=False) + "\n").encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """As `write_json`; the name may have a folder before it."""
        if not self.writes:
            return
        target = self.path / name
        temporary = target.with_name(f".{target.name}.new")
        target.parent.mkdir(exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def read_json(self, name: str) -> Any:
        """The content of a file of the run; None where it is missing. Raises RunError where it is damaged."""
        path = self.path / name
        try:
            return json.loads(path.read_bytes()) if path.is_file() else None
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it, and the same command makes it again") from error

    # -- beginning and ending

    def close(self) -> None:
        """Let other processes have the folder."""
        for file in (self._metrics, self._lock):
            if file is not None:
                file.close()
        self._metrics = self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _acquire(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / _LOCK).open("a+b")
        except OSError as error:
            raise RunError(f"{self.path} cannot be a run's folder: {error.strerror}: {error.filename}") from error
        if not _lock(self._lock):
            self._lock.seek(0)
            owner = self._lock.read(20).decode("ascii", "replace").strip()
            self.close()
            raise RunError(f"{self.path} is being written by another process ({owner}): wait for it, or end it")
        self._lock.truncate(0)
        self._lock.write(b"%d\n" % os.getpid())
        self._lock.flush()

    def _begin(self, config: Mapping[str, Any], force: bool, may_differ: Collection[str], head: str) -> None:
        wanted = to_plain(config)
        there = [path for pattern in MADE for path in self.path.glob(pattern) if not path.is_dir()]
        if there and there[-1].name != CONFIG:
            raise RunError(f"{there[0]} is there, but no {CONFIG} of a run: give another --out")
        if there and not force:
            self._compare(wanted, may_differ)
            self.resumed = True
            if (self.path / METRICS).is_file():
                self.truncate(_whole_lines(self.path / METRICS))
            return
        for path in there:
            path.unlink()
        self.write_bytes(CONFIG, f"# hwnas {__version__}: {head}\n{dump_yaml(wanted)}".encode())

    def _compare(self, wanted: Mapping[str, Any], may_differ: Collection[str]) -> None:
        path = self.path / CONFIG
        try:
            found = load_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError, YamlError) as error:
            raise RunError(f"{path} cannot be read ({error}): give another --out, or --force to begin anew") from error
        here, there = dict(flatten(wanted)), dict(flatten(found))
        keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
        changes = {key: f"{key} is {_show(there, key)} there, {_show(here, key)} is asked" for key in keys}
        self.notes += [f"{self.path}: {text}" for key, text in changes.items() if key in may_differ]
        serious = [text for key, text in changes.items() if key not in may_differ]
        if serious:
            more = f"; and {len(serious) - 5} more" if len(serious) > 5 else ""
            raise RunError(
                f"{self.path} holds a run with another configuration: {'; '.join(serious[:5])}{more}. "
                "Give another --out, or --force to begin anew"
            )


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of the leaves of nested dicts and lists; an empty one is a leaf."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    items = list(items)
    if not items:
        yield prefix, value
    for key, part in items:
        yield from flatten(part, f"{prefix}.{key}" if prefix else str(key))


def to_plain(value: Any) -> Any:
    """JSON data out of dicts, lists, tuples, paths, numpy values and tensors; not finite numbers become None."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "nothing"


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last line that is whole."""
    return path.read_bytes().rfind(b"\n") + 1


def _lock(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True

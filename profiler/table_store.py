"""Opening the SQLite file of a latency table, which may be damaged, foreign or hostile."""

import contextlib
import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .table_schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, TableError, one_line

BUSY_S = 30.0  # how long one process waits for another's transaction
MAX_FILE = 4 * 2**30
MAX_VALUE = 64 * 2**20
_MAGIC = b"SQLite format 3\0"
_SUPER_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what SQLite raises while a table is read into a TableError."""
    try:
        yield
    except (sqlite3.Error, UnicodeError) as error:  # damage can make text that is no UTF-8
        raise TableError(_explain(path, error)) from error


@contextlib.contextmanager
def transaction(path: Path, connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction: all of it or, after any error, nothing of it."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except (sqlite3.Error, UnicodeError) as error:
        raise TableError(_explain(path, error)) from error


def _explain(path: Path, error: Exception) -> str:
    code, said = getattr(error, "sqlite_errorcode", 0) & 0xFF, one_line(error)
    if code == sqlite3.SQLITE_FULL:
        return f"{path}: the disk is full; what was measured before is kept, make room and run the same command again"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path} is in use by another process (waited {BUSY_S:.0f} s); nothing was changed, try again later"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "decode" in said:
        return f"{path} is damaged or not an hwnas table ({said}); use a copy or measure it again"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH):
        return f"{path} or its folder cannot be written or opened ({said}); check its permissions"
    if code == sqlite3.SQLITE_IOERR:
        return f"{path}: reading or writing failed ({said}); what was stored before is kept"
    return f"{path}: {said}"


def file_size(path: Path) -> int | None:
    """Size of the file in bytes, None if there is none; raises TableError for what cannot be a table."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise TableError(f"{path} is a folder, not a latency table")
        if not stat.S_ISREG(found.st_mode):  # a pipe would block for ever
            raise TableError(f"{path} is not a regular file")
        with path.open("rb") as file:
            head = file.read(100)
        journaled = _check_journal(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise TableError(f"{path} cannot be opened: {error.strerror}") from error
    except ValueError as error:  # a null character in the path
        raise TableError(f"{str(path)!r} is not a path: {error}") from error
    if head and not head.startswith(_MAGIC) and not journaled:
        raise TableError(f"{path} is not an hwnas table (not an SQLite file)")
    if head and 2 in head[18:20]:  # WAL would write files beside it even to read it
        raise TableError(f"{path} is not an hwnas table (an SQLite file in WAL mode)")
    if found.st_size > MAX_FILE:
        raise TableError(f"{path} is too large for an hwnas table ({found.st_size} bytes)")
    return found.st_size


def _check_journal(path: Path) -> bool:
    """Whether a transaction was begun that may have to be rolled back; before that nothing says what the file is."""
    real = path.resolve()  # beside which SQLite looks for it
    journal = real.with_name(real.name + "-journal")
    try:
        with journal.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 8))
            tail = file.read(8)
    except FileNotFoundError:
        return False
    if tail == _SUPER_JOURNAL_MAGIC:  # it would make SQLite delete the file that it names; ours never name one
        raise TableError(f"{journal} was not left by hwnas (it points to other files); remove it or the table")
    return size > 0


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Connect to an existing file (``write`` creates it); the schema is not looked at yet."""
    uri = path.resolve().as_uri() + ("?mode=rwc" if write else "?mode=ro")
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA synchronous = FULL" if write else "PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def open_checked(path: Path) -> sqlite3.Connection:
    """Connect to an existing table to read it, and check that it is one, whole and of this version."""
    if file_size(path) is None:
        raise TableError(f"there is no table {path}; `hwnas profile --device D --out {path}` measures one")
    with reading(path):
        connection = connect(path, write=False)
        try:
            try:
                check(path, connection)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_READONLY_ROLLBACK:
                    raise
                _roll_back(path)
                check(path, connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _roll_back(path: Path) -> None:
    """Undo the half-written transaction of a process that was killed, which needs write access once."""
    try:
        with contextlib.closing(connect(path, write=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        raise TableError(
            f"{path}: an interrupted run left {path.name}-journal beside it, which must be rolled back first, but the "
            f"folder cannot be written ({error}); copy both files to a folder that can be"
        ) from error


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever stored in the file."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    objects = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return bool(application == 0 and objects == 0)


def check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise TableError unless the file is a whole table of this version and nothing else."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if is_empty(connection):
        raise TableError(f"{path} is empty, not an hwnas table; remove it or give another path")
    if application != APPLICATION_ID:
        raise TableError(f"{path} is an SQLite file of another program, not an hwnas table")
    if version != SCHEMA_VERSION:
        mend = "upgrade hwnas" if version > SCHEMA_VERSION else "measure it again with this hwnas"
        raise TableError(f"{path} has schema version {version}, this hwnas reads version {SCHEMA_VERSION}: {mend}")
    page_size = connection.execute("PRAGMA page_size").fetchone()[0]
    if path.stat().st_size % page_size:  # SQLite would read the missing end of the last page as zeros
        raise TableError(f"{path} is damaged (cut off in the middle of a page); use a copy or measure it again")
    if _objects(connection) != _expected_objects():
        raise TableError(f"{path} holds tables, views or triggers that do not belong into an hwnas table")
    answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if answer != "ok":
        raise TableError(f"{path} is damaged ({' '.join(str(answer).split())}); use a copy or measure it again")


def create_schema(connection: sqlite3.Connection) -> None:
    """Write the schema into an empty file; inside a transaction."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    for statement in SCHEMA:
        connection.execute(statement)


def _objects(connection: sqlite3.Connection) -> frozenset[tuple[object, ...]]:
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall())


@cache
def _expected_objects() -> frozenset[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        create_schema(connection)
        return _objects(connection)

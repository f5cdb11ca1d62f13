"""Opens the SQLite files of this machine so that readers never wait for a writer and a killed writer harms nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tomopipe.functions.errors import InputError, TomopipeError

_LOCK_TIMEOUT_S = 30.0
_RETRY_INTERVAL_S = 0.02


class DatabaseUnavailable(TomopipeError):
    """A database is in order but cannot be used at this moment."""


@contextmanager
def transaction(path: Path, schema: str, *, write: bool) -> Iterator[sqlite3.Connection]:
    """A connection inside one transaction: committed at the end, rolled back after an error, closed always.

    Parameters
    ----------
    path : Path
        The file; it and its folder are made where missing.
    schema : str
        ``CREATE ... IF NOT EXISTS`` statements, applied to a new file.
    write : bool
        Whether the transaction shall keep other writers out from its begin; a reader waits for nobody.

    Raises
    ------
    InputError
        If the file cannot be opened, or is no SQLite database.
    DatabaseUnavailable
        If it is locked for long, or its disk is full.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{path}: cannot be opened as a database ({error}); check the folder's permissions") from error
    with closing(connection):
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            _prepare(connection, schema)
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        except sqlite3.OperationalError as error:
            # Locked by another process, no room, no access: the file itself is good.
            raise DatabaseUnavailable(
                f"{path}: cannot be used now ({error}); see that its disk has room and no other program holds it"
            ) from error
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: is not a usable database ({error}); move it away to start anew") from error


def _prepare(connection: sqlite3.Connection, schema: str) -> None:
    """Lay out a new file. Changing the journal mode does not wait for other connections as statements do, so it is retried."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = 1; COMMIT;")
            connection.execute("PRAGMA synchronous = NORMAL")
            return
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.rollback()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_INTERVAL_S)

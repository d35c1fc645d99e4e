# SPDX-License-Identifier: Apache-2.0
"""A journal: SQLite, in a file of its own, or in memory and saved whole with each transaction."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedclave.errors import Unavailable, UserError

Save = Callable[[bytes], None]
"""Makes a whole database durable, atomically; raises ``OSError``."""


class Database:
    """An open journal. ``execute`` reads; what ``writing`` encloses is durable after it."""

    def __init__(
        self, connection: sqlite3.Connection, folder: Path, save: Save | None = None
    ) -> None:
        """``save``: the database is in memory, and this is how it becomes durable."""
        self._connection = connection
        self._folder = folder
        self._save = save
        self._saved = b"" if save is None else connection.serialize()

    def execute(self, query: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """As the connection's."""
        return self._connection.execute(query, values)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; a full disk is ``Unavailable`` and leaves the journal as it was."""
        rows = self._connection
        try:
            rows.execute("begin immediate")
            try:
                yield rows
                rows.execute("commit")
            except BaseException:
                if rows.in_transaction:  # SQLite has rolled back itself after some errors
                    rows.execute("rollback")
                raise
            if self._save is not None:
                self._keep(self._save)
        except sqlite3.DatabaseError as error:
            raise _unwritten(self._folder, str(error)) from error

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()

    def _keep(self, save: Save) -> None:
        whole = self._connection.serialize()
        try:
            save(whole)
        except OSError as error:
            self._connection.deserialize(self._saved)
            raise _unwritten(self._folder, error.strerror or str(error)) from error
        self._saved = whole


def open_file(path: Path, schema: str, anew: str) -> Database:
    """A journal that survives crashes: WAL, synchronous=FULL. A damaged one is a ``UserError``."""
    try:
        rows = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path} cannot be opened ({error}). Check the folder") from error
    with _whole(rows, path, anew):
        rows.execute("pragma journal_mode=wal")
        rows.execute("pragma synchronous=full")
        _check(rows, schema)
    return Database(rows, path.parent)


def open_memory(path: Path, content: bytes | None, save: Save, schema: str, anew: str) -> Database:
    """A journal in memory, with what was saved of it before; ``path`` is where that lies."""
    rows = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    with _whole(rows, path, anew):
        if content is not None:
            rows.deserialize(content)
        _check(rows, schema)
    return Database(rows, path.parent, save)


def _check(rows: sqlite3.Connection, schema: str) -> None:
    (verdict,) = rows.execute("pragma quick_check").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    rows.executescript(schema)


@contextmanager
def _whole(rows: sqlite3.Connection, path: Path, anew: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        rows.close()
        if isinstance(error, sqlite3.OperationalError):  # in use, full disk, read-only, ...
            raise Unavailable(
                f"{path} cannot be used ({error}). Stop the process that holds it, or repair the"
                " disk, then start again"
            ) from error
        raise UserError(
            f"{path} is damaged ({error}). Restore it from a copy, or {anew}"
        ) from error


def _unwritten(folder: Path, reason: str) -> Unavailable:
    return Unavailable(
        f"{folder}: the journal could not be written ({reason}). Free space or stop the process"
        " that holds it, then start again"
    )

# SPDX-License-Identifier: Apache-2.0
"""How what a party keeps lies on its disk: as it is, or sealed in a vault. There is no third way.

``PLAIN`` is for a party whose disk is its own. ``Sealed`` is for one whose host may read, change
and exchange files (``trust.vault``): models, updates and uploads are sealed files; a journal is in
memory, and one sealed file of all of it is written with each transaction.

A sealed file is bound to its purpose and its name: content is named by its digest, a journal by its
place below the party's folder.
"""

import io
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from fedclave.durable import Sink, as_it_is, write_file
from fedclave.engine import database
from fedclave.engine.database import Database
from fedclave.engine.parts import Part, PlainPart, SealedPart
from fedclave.errors import Refused
from fedclave.trust.vault import Vault

CONTENT, JOURNAL, PART, TEXT = "content", "journal", "part", "text"
MOST_TEXT = 2**20  # bytes of a sealed text that are kept, the newest


class Medium(Protocol):
    """One way to keep files."""

    @property
    def suffix(self) -> str:
        """Of files that are named by their content's SHA-256."""

    def opens(self, path: Path) -> io.RawIOBase:
        """The content of such a file (``durable.Opens``). ``Refused``: CANNOT_OPEN."""

    def write(self, folder: Path, data: Iterator[memoryview], *, durable: bool = True) -> str:
        """Write such a file into a folder, atomically; returns the SHA-256. ``OSError``."""

    def part(self, path: Path) -> Part:
        """The file of an upload, open for writing. ``OSError``."""

    def opens_part(self, path: Path) -> io.RawIOBase:
        """The same when it is whole."""

    def journal(self, folder: Path, name: str) -> Path:
        """Where the journal of this name lies."""

    def database(self, path: Path, schema: str, anew: str) -> Database:
        """The journal there. ``UserError``, ``Unavailable``, ``Refused``."""

    def rows(self, path: Path) -> sqlite3.Connection:
        """The journal there, to be read while another process may write it."""

    def text(self, path: Path) -> Path:
        """Where a text for people lies that would lie there as it is."""

    def append(self, path: Path, text: str) -> None:
        """Append to a text. ``OSError``."""


class Plain:
    """As it is."""

    suffix = ".safetensors"

    def opens(self, path: Path) -> io.RawIOBase:
        """See ``Medium``."""
        return as_it_is(path)

    def write(self, folder: Path, data: Iterator[memoryview], *, durable: bool = True) -> str:
        """See ``Medium``."""
        return write_file(folder, _named(self.suffix), data, durable=durable)

    def part(self, path: Path) -> Part:
        """See ``Medium``."""
        return PlainPart(path)

    def opens_part(self, path: Path) -> io.RawIOBase:
        """See ``Medium``."""
        return as_it_is(path)

    def journal(self, folder: Path, name: str) -> Path:
        """See ``Medium``."""
        return folder / f"{name}.db"

    def database(self, path: Path, schema: str, anew: str) -> Database:
        """See ``Medium``."""
        return database.open_file(path, schema, anew)

    def rows(self, path: Path) -> sqlite3.Connection:
        """See ``Medium``."""
        rows = sqlite3.connect(path, isolation_level=None)
        rows.execute("pragma query_only=on")
        return rows

    def text(self, path: Path) -> Path:
        """See ``Medium``."""
        return path

    def append(self, path: Path, text: str) -> None:
        """See ``Medium``."""
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


PLAIN = Plain()


class Sealed:
    """In a vault. ``root`` is the party's folder, from which journals have their names."""

    suffix = ".vault"

    def __init__(self, vault: Vault, root: Path) -> None:
        self.vault = vault
        self._root = root.absolute()

    def opens(self, path: Path) -> io.RawIOBase:
        """See ``Medium``."""
        return self.vault.reader(path, purpose=CONTENT, name=path.name)

    def write(self, folder: Path, data: Iterator[memoryview], *, durable: bool = True) -> str:
        """See ``Medium``."""
        sink = partial(self.vault.writer, purpose=CONTENT)
        return write_file(folder, _named(self.suffix), data, durable=durable, sink=sink)

    def part(self, path: Path) -> Part:
        """See ``Medium``."""
        return SealedPart(path, self.vault, PART)

    def opens_part(self, path: Path) -> io.RawIOBase:
        """See ``Medium``."""
        return self.vault.reader(path, purpose=PART, name=path.name)

    def journal(self, folder: Path, name: str) -> Path:
        """See ``Medium``."""
        return folder / f"{name}{self.suffix}"

    def database(self, path: Path, schema: str, anew: str) -> Database:
        """See ``Medium``."""
        for left in path.parent.glob(".[0-9]*.tmp"):  # what a killed process was writing
            left.unlink(missing_ok=True)
        content = self._whole(path, JOURNAL) if path.exists() else None
        return database.open_memory(path, content, partial(self._save, path, JOURNAL), schema, anew)

    def rows(self, path: Path) -> sqlite3.Connection:
        """See ``Medium``."""
        rows = sqlite3.connect(":memory:", isolation_level=None)
        rows.deserialize(self._whole(path, JOURNAL))
        return rows

    def text(self, path: Path) -> Path:
        """See ``Medium``."""
        return path.with_suffix(f"{path.suffix}{self.suffix}")

    def append(self, path: Path, text: str) -> None:
        """See ``Medium``. One that was changed begins anew: it decides nothing."""
        path = self.text(path)
        try:
            before = self._whole(path, TEXT)
        except (FileNotFoundError, Refused):
            before = b""
        self._save(path, TEXT, (before + text.encode(errors="backslashreplace"))[-MOST_TEXT:])

    def read_text(self, path: Path) -> str:
        """What was appended to a text. ``OSError``, ``Refused``."""
        return self._whole(self.text(path), TEXT).decode(errors="replace")

    def _whole(self, path: Path, purpose: str) -> bytes:
        with self.vault.reader(path, purpose=purpose, name=self._name(path)) as file:
            return file.readall()

    def _save(self, path: Path, purpose: str, content: bytes) -> None:
        def sink(file: IO[bytes]) -> Sink:
            return _Named(self.vault.writer(file, purpose=purpose), self._name(path))

        data = iter([memoryview(content)])
        write_file(path.parent, lambda digest: path.name, data, durable=True, sink=sink)

    def _name(self, path: Path) -> str:
        return path.absolute().relative_to(self._root).as_posix()


class _Named:
    """A sink whose file has another logical name than that of its last folder."""

    def __init__(self, sink: Sink, name: str) -> None:
        self.write = sink.write
        self._sink, self._name = sink, name

    def finish(self, name: str) -> None:
        """Under the name that was given."""
        self._sink.finish(self._name)


def _named(suffix: str) -> Callable[[str], str]:
    return lambda digest: f"{digest}{suffix}"

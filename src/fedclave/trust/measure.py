# SPDX-License-Identifier: Apache-2.0
"""The measurement of code that runs in a simulated TEE: what MRENCLAVE is to an enclave.

It covers every file of the installed ``fedclave`` and of the workspace's ``src``, whatever its
name: a ``gate.so`` beside ``gate.py`` would be imported in its place. Also the contract, but for
the attestation policy, which names measurements itself (``Contract.measured_id``). One changed
byte, one file more, less or renamed: another measurement.

Compiled files, ``__pycache__/*.pyc``, are left out: they differ with the Python and the date, and
the workspace's are never read (``workspace.importing``). Those of ``fedclave`` are, by a plain
``python``, and one that was planted runs in place of its source. So a process that is to be
measured starts with ``FROM_SOURCE`` among its options; ``check_interpreter`` says whether it did.
What else runs in it (Python, numpy, ...) is not measured: the contract names it.
"""

import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fedclave
from fedclave import canonical
from fedclave.errors import UserError

FROM_SOURCE = ("-B", "-X", f"pycache_prefix={os.devnull}")
"""Options of ``python`` under which no compiled file is read or written: none can be below there.

Imports take longer: fedclave 0.4 s, torch 2 s."""

_CACHE = "__pycache__"
_COMPILED = re.compile(r".+\.pyc(\.[0-9]+)?")  # with a number while Python writes it
_CONTRACT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured: ``Contract.measured_id``, and each file's SHA-256 (hex) by its path."""

    contract: str
    files: Mapping[str, str]

    @property
    def digest(self) -> bytes:
        """The measurement itself, 32 bytes: SHA-256 over the canonical bytes of all of it."""
        value = {"contract": self.contract, "files": self.files}
        return bytes.fromhex(canonical.digest("measurement", value))

    def differences(self, other: "Measurement") -> tuple[str, ...]:
        """Where another measurement departs from this one, in words, one line for each file."""
        lines = [
            f"{path} is {_departure(self.files.get(path), other.files.get(path))}"
            for path in sorted(self.files.keys() | other.files.keys())
            if self.files.get(path) != other.files.get(path)
        ]
        return (*(["the contract is another one"] * (self.contract != other.contract)), *lines)


def measure(trees: Mapping[str, Path], contract: str) -> Measurement:
    """Measure the files below some folders, each under the name that it has in the measurement.

    ``contract`` is a ``Contract.measured_id``. ``UserError``: a link or a device among the files,
    one that cannot be read or changes meanwhile.
    """
    if not _CONTRACT.fullmatch(contract):
        raise UserError(f"{contract!r} is not a contract id. Give its 64 hexadecimal digits")
    for root in trees.values():
        if root.is_symlink():
            raise UserError(f"{root} is a link. Name the folder itself")
    found = {
        f"{name}/{path.relative_to(root).as_posix()}": _sha256(path)
        for name, root in trees.items()
        for path in _walk(root)
    }
    return Measurement(contract=contract, files=dict(sorted(found.items())))


def measure_code(src: Path, contract: str) -> Measurement:
    """Measure this installation of fedclave, a workspace's ``src``, and ``measured_id``."""
    return measure({"fedclave": Path(fedclave.__file__).parent, "src": src}, contract)


def check_interpreter() -> None:
    """Raise ``UserError`` unless this process was started with ``FROM_SOURCE``."""
    if sys.pycache_prefix != os.devnull:
        raise UserError(
            "this process may run compiled files in place of the sources that are measured. Start"
            f" it with 'python {' '.join(FROM_SOURCE)}'"
        )


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, but for the compiled ones."""
    with _reading(folder), os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        path = Path(entry.path)
        kind = "folder" if entry.is_dir(follow_symlinks=False) else "file"
        if not entry.name.isprintable():  # not UTF-8, or something that hides in a terminal
            raise UserError(f"{str(path)!r}: its name cannot be shown. Rename it, or move it away")
        if kind == "file" and not entry.is_file(follow_symlinks=False):
            raise UserError(f"{path} is neither a file nor a folder (a link?). Move it away")
        if folder.name == _CACHE:
            if kind == "folder" or not _COMPILED.fullmatch(entry.name):
                raise UserError(f"{path} is among compiled files, but is none. Move it away")
        elif kind == "folder":
            yield from _walk(path)
        else:
            yield path


def _sha256(path: Path) -> str:
    """A file's SHA-256 (hex), read once and whole."""
    with _reading(path):
        # O_NONBLOCK: what became a pipe since the folder was read does not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise UserError(f"{path} is no longer a file. Measure again")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(descriptor)
    if _stamp(before) != _stamp(after):
        raise UserError(f"{path} changed while it was measured. Measure again")
    return digest


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _departure(here: str | None, there: str | None) -> str:
    return "missing" if there is None else "added" if here is None else "changed"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be measured ({error.strerror}). Restore it, or let this user read it"
        ) from error

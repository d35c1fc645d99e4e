# SPDX-License-Identifier: Apache-2.0
"""The contract: everything that decides what a run does, file by file, under one digest.

A contract lists each shared file of a workspace (plan, source, locked requirements, attestation
policy, initial weights) with its size and SHA-256, and the plan's own digest. Its canonical bytes
have the **contract id**. Equal workspaces make equal contracts: nothing in it tells when or where
it was made. The author signs it; each data owner signs an ``Acceptance`` of its id.

``require`` holds a folder to a contract. It trusts nothing of either: a path that leads out of the
folder, a link, a name that two file systems read differently, a file too many or too few, a byte
that differs: each is refused with the name of the file.
"""

import re
import stat
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedclave import canonical
from fedclave.errors import Code, Refused, UserError
from fedclave.tensors import file_digest

CONTRACT_TYPE = "application/vnd.fedclave.contract.v1+json"
ACCEPTANCE_TYPE = "application/vnd.fedclave.acceptance.v1+json"
"""What a signature is about (DSSE payload types)."""

POLICY = "plan/attestation.yaml"
"""The one file of a contract that changes its id and not what is measured."""

MAX_FILES = 4096
MAX_PATH = 512  # characters
_BAD = re.compile(r'[\x00-\x1f\x7f<>:"\\|?*]')
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a contract; ``path`` is relative, with ``/``."""

    path: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the parties agree on. ``files`` are sorted by path."""

    federation: str
    plan: str  # the plan's digest
    files: tuple[File, ...]

    @property
    def bytes(self) -> bytes:
        """The canonical bytes: what is signed."""
        return canonical.encode({"v": 1, **asdict(self)})

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the contract, under its own domain."""
        return canonical.digest("contract", {"v": 1, **asdict(self)})

    @property
    def measured_id(self) -> str:
        """SHA-256 (hex) of the contract without its policy: what a measurement covers.

        The policy names measurements, so no measurement can cover the policy. Who may sign the
        policy stands in the plan, which is covered.
        """
        files = [asdict(file) for file in self.files if file.path != POLICY]
        return canonical.digest("measured", {"v": 1, **asdict(self), "files": files})


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """A data owner's word that its site may take part in a contract."""

    contract: str  # id
    federation: str
    party: str

    @property
    def bytes(self) -> bytes:
        """The canonical bytes: what is signed."""
        return canonical.encode({"v": 1, **asdict(self)})


def close(root: Path, paths: Iterable[str], *, federation: str, plan: str) -> Contract:
    """The contract over these files of a workspace. Raises ``UserError`` naming what cannot be in.

    ``plan`` is the plan's digest.
    """
    names = sorted(paths)
    try:
        _check_names(names)
        files = tuple(_file(root, name) for name in names)
    except Refused as refused:
        raise UserError(refused.message) from refused
    return Contract(federation=federation, plan=plan, files=files)


def require(root: Path, paths: Collection[str], contract: Contract) -> None:
    """Raise ``Refused(WRONG_CONTRACT)`` unless these files of a folder are the contract's.

    ``paths`` are all that the folder would bring into a run: one more than the contract lists is
    as wrong as one fewer. The message names the first file that differs.
    """
    signed = {file.path: file for file in contract.files}
    _check_names(sorted(paths))
    for name in sorted(signed.keys() | set(paths)):
        if name not in paths:
            raise _differs(name, "is in the contract, but not here")
        if name not in signed:
            raise _differs(name, "is here, but not in the contract")
        if _file(root, name) != signed[name]:
            raise _differs(name, "is not the file that was signed")


def file_at(root: Path, name: str) -> File | None:
    """A file of a folder as a contract lists it; None: there is none that one could list."""
    try:
        return _file(root, name)
    except Refused:
        return None


def parse(data: bytes) -> Contract:
    """The contract in canonical bytes. Raises ``Refused(MALFORMED)`` for anything else."""
    fields = _fields(data, {"v", "federation", "plan", "files"})
    files = fields["files"]
    if not isinstance(files, list) or not all(isinstance(one, dict) for one in files):
        raise _malformed("files is not a list")
    contract = Contract(
        federation=_text(fields["federation"]),
        plan=_hash(fields["plan"]),
        files=tuple(_parsed_file(one) for one in files),
    )
    names = [file.path for file in contract.files]
    if names != sorted(names):
        raise _malformed("its files are not sorted")
    _check_names(names)
    return contract


def parse_acceptance(data: bytes) -> Acceptance:
    """The acceptance in canonical bytes. Raises ``Refused(MALFORMED)`` for anything else."""
    fields = _fields(data, {"v", "contract", "federation", "party"})
    return Acceptance(
        contract=_hash(fields["contract"]),
        federation=_text(fields["federation"]),
        party=_text(fields["party"]),
    )


def _file(root: Path, name: str) -> File:
    """A file as it is. Every folder on its way, and it itself, must be no link."""
    path = root
    for part in name.split("/"):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise _differs(name, f"cannot be read ({error.strerror})") from error
        if stat.S_ISLNK(mode):
            raise _differs(name, "is a link, or lies behind one")
    if not stat.S_ISREG(mode):
        raise _differs(name, "is not a regular file")
    return File(path=name, size=path.stat().st_size, sha256=file_digest(path))


def _check_names(names: list[str]) -> None:
    """No path out of the folder, and none that is two, or another one, on some file system."""
    if len(names) > MAX_FILES:
        raise _malformed(f"more than {MAX_FILES} files")
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        if len(name) > MAX_PATH or any(part in ("", ".", "..") for part in parts):
            raise _malformed(f"{name[:80]!r} is not a path inside a workspace")
        if _BAD.search(name) or any(part.endswith((".", " ")) for part in parts):
            raise _malformed(f"{name!r} has a character that some file systems do not allow")
        if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in name):
            raise _malformed(f"{name!r} has characters that cannot be seen")
        if unicodedata.normalize("NFC", name) != name:
            raise _malformed(f"{name!r} is not in Unicode's normal form C")
        folded = unicodedata.normalize("NFC", name.casefold())
        if folded in seen:
            raise _malformed(f"{name!r} and {seen[folded]!r} are one file on some file systems")
        seen[folded] = name


def _fields(data: bytes, expected: set[str]) -> Mapping[str, Any]:
    fields = canonical.decode(data)
    if not isinstance(fields, dict) or set(fields) != expected:
        raise _malformed(f"its keys are not {', '.join(sorted(expected))}")
    if fields["v"] != 1 or type(fields["v"]) is not int:
        raise _malformed(f"version {fields['v']!r} is not one that this build knows (1)")
    return fields


def _parsed_file(field: Mapping[str, Any]) -> File:
    if set(field) != {"path", "size", "sha256"}:
        raise _malformed("a file's keys are not path, size and sha256")
    size = field["size"]
    if type(size) is not int or size < 0:
        raise _malformed(f"{size!r} is not a size")
    return File(path=_text(field["path"]), size=size, sha256=_hash(field["sha256"]))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _malformed(f"{value!r:.40} is not a text")
    return value


def _hash(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _malformed(f"{value!r:.40} is not a SHA-256 in lower-case hex")
    return value


def _differs(name: str, how: str) -> Refused:
    return Refused(
        Code.WRONG_CONTRACT,
        f"{name} {how}. Import the workspace that was signed, or have this one signed anew",
    )


def _malformed(reason: str) -> Refused:
    return Refused(Code.MALFORMED, f"contract: {reason}")

# SPDX-License-Identifier: Apache-2.0
"""A workspace as one file for the other parties: what all share, nothing that is one party's own.

In: ``plan/plan.yaml``, ``plan/attestation.yaml``, ``plan/model-owner.pub``, ``src/``,
``requirements.txt``, ``requirements.lock``, ``README.md``, ``save/initial.safetensors`` (or
``save/initial.json``, where the plan has it sealed); and what vouches for them, where it is there:
``plan/author.pub``, ``plan/contract.dsse.json``, ``plan/attestation.dsse.json``, and of its
enclaves ``plan/enclave.json``, ``plan/libpal.so``, ``plan/ROLE.sig``. Never anything
else. Equal workspaces give equal bytes: sorted names, fixed times and modes, no compression
(Deflate's output differs between zlib versions).

``unpack`` trusts nothing of an archive: names must be among the above, plain and unambiguous on any
file system; sizes are bounded before reading and counted while reading. Nothing appears at the
target before the whole archive was read. See ``tests/attacks/test_archive.py``.
"""

import os
import re
import secrets
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, TypeVar

from fedclave import yamlfile
from fedclave.errors import Code, Refused, UserError
from fedclave.plan import parse
from fedclave.tensors import Stored, file_digest
from fedclave.workspace import initial, layout, output
from fedclave.workspace.layout import Workspace, require_empty

_F = TypeVar("_F", bound=IO[bytes] | FileIO)

MAX_FILES = 4096
MAX_CODE = 64 * 2**20  # bytes of everything but the initial weights
MAX_RATIO = 200  # Deflate cannot do more than 1032; text rarely does more than 20
MAX_DIRECTORY = 4 * 2**20  # bytes of the zip's central directory
MAX_DEPTH = 32  # folders

_VOUCHING = (
    "plan/author.pub",
    "plan/contract.dsse.json",
    "plan/attestation.dsse.json",
    "plan/enclave.json",
    "plan/libpal.so",
    "plan/aggregator.sig",
    "plan/collaborator.sig",
)
_PLAIN = (
    "plan/plan.yaml",
    "plan/attestation.yaml",
    "plan/model-owner.pub",
    "requirements.txt",
    "requirements.lock",
    "README.md",
    "save/initial.json",
    *_VOUCHING,
)
_INITIAL = "save/initial.safetensors"
_SECRET = re.compile(r"\.(key|pem|crt|csr|p12|pfx|jks)$", re.IGNORECASE)
_CACHE = re.compile(r"^(__pycache__|\..*|.*\.py[cod]|.*~)$")
_COMPILED = re.compile(r"/__pycache__/[^/]+\.pyc(\.[0-9]+)?$")  # a number: being written
_BAD = re.compile(r'[\x00-\x1f\x7f<>:"\\|?*]')
_DEVICE = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_BLOCK = 2**20  # bytes read at a time
_MARK = b"PRIVATE KEY-----"


def export(workspace: Workspace, target: Path) -> str:
    """Write the archive, atomically; returns its SHA-256 (hex).

    Raises ``UserError`` for a link, a private key or a name that ``unpack`` would refuse, and for
    a target that cannot be written or is another kind of file.
    """
    if not workspace.plan.is_file():
        raise UserError(f"{workspace.root} has no plan/plan.yaml. Run this in a workspace")
    _check_sealed(workspace)
    output.check(target)
    if target.exists() and not zipfile.is_zipfile(target):
        raise UserError(f"{target} exists and is not an archive. Choose another name")
    files = sorted(_files(workspace))
    with (
        output.new_file(target) as path,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, source in files:
            _add(archive, name, source)
    return file_digest(target)


def unpack(source: Path, folder: Path) -> Workspace:
    """A new workspace from an archive, in a folder that is new or empty.

    All or nothing. Raises ``UserError`` if there is no such file or the folder is not empty,
    ``Refused``: ``MALFORMED``, ``TOO_LARGE`` for what an export would not contain.
    """
    if not source.is_file():
        raise UserError(f"there is no archive at {source}. Name a file of 'fx workspace export'")
    require_empty(folder)
    folder = folder.absolute()
    temporary = folder.with_name(f".{folder.name[:64]}.{secrets.token_hex(8)}.tmp")
    with output.blamed_on(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            _extract(source, temporary)
            _check_content(Workspace(temporary), source)
            layout.begin(Workspace(temporary))
            temporary.rename(folder)  # replaces an empty folder, and only an empty one
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Workspace(folder)


def names(source: Path) -> tuple[str, ...]:
    """The files in an archive, after the checks of ``unpack`` that need no reading of them."""
    with _open(source) as archive:
        return tuple(info.filename for info in _checked(archive, source.stat().st_size))


def contracted(workspace: Workspace) -> tuple[str, ...]:
    """The files that a contract is about: all that are shared but those that vouch for them.

    Raises ``UserError`` for what ``export`` would not pack.
    """
    files = sorted(_files(workspace))
    for name, path in files:
        _check(name, path)
        if name != _INITIAL:
            _text(path)
    return tuple(name for name, _ in files if name not in _VOUCHING)


def brought(workspace: Workspace) -> tuple[str, ...]:
    """The files that a folder brings into a run: all that are shared, and whatever lies in src.

    Code can import, or open, what no export packs: ``src/__pycache__/more.py``. Left out is what
    Python compiles by itself; it is never read from a workspace (``workspace.importing``).
    """
    plain = (name for name in _plain(workspace) if name not in _VOUCHING)
    found = [name for name in plain if os.path.lexists(workspace.root / name)]
    return tuple(sorted([*found, *_all_below(workspace.src, "src")]))


def _all_below(path: Path, name: str) -> Iterator[str]:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            yield from _all_below(inner, f"{name}/{inner.name}")
    elif os.path.lexists(path) and not _COMPILED.search(name):
        yield name


def _files(workspace: Workspace) -> Iterator[tuple[str, Path]]:
    for name in _plain(workspace):
        path = workspace.root / name
        if path.exists() or path.is_symlink():
            yield name, path
    yield from _tree(workspace.src, "src", 1)


def _plain(workspace: Workspace) -> tuple[str, ...]:
    """The files outside ``src`` that parties share: the initial weights, or what they are."""
    sealed = os.path.lexists(workspace.initial_layout)
    return _PLAIN if sealed else (*_PLAIN, _INITIAL)


def _tree(folder: Path, name: str, depth: int) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        inner = f"{name}/{path.name}"
        if _CACHE.match(path.name) or _SECRET.search(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _tree(path, inner, depth + 1)
        else:
            yield inner, path


def _check_sealed(workspace: Workspace) -> None:
    """Weights that the plan has sealed do not leave in the clear, nor others without a word."""
    plan = parse(yamlfile.read(workspace.plan), str(workspace.plan))
    if initial.is_sealed(plan) != os.path.lexists(workspace.initial_layout):
        raise UserError(
            f"{workspace.plan} says 'sealed' of other initial weights than those in"
            f" {workspace.save}. Run 'fx plan initialize' again"
        )


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    _check(name, path)
    info = zipfile.ZipInfo(name)  # dated 1980-01-01, the first that zip can say
    info.create_system = 3  # Unix, so that the mode counts
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = path.stat().st_size
    with archive.open(info, "w") as out:
        if name != _INITIAL:
            out.write(_text(path))
        else:
            with _opened(path, lambda path: path.open("rb")) as file:
                shutil.copyfileobj(file, out, _BLOCK)


def _check(name: str, path: Path) -> None:
    if reason := _forbidden(name):
        raise UserError(f"{path}: {reason}. Rename it, or move it out of src/")
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path} is not a regular file. Only files are exported; copy it here")


def _text(path: Path) -> bytes:
    with _opened(path, lambda path: path.open("rb")) as file:
        text = file.read(MAX_CODE + 1)
    if len(text) > MAX_CODE:
        raise UserError(f"{path} is larger than {MAX_CODE >> 20} MiB. It is not code")
    if _MARK in text:
        raise UserError(f"{path} contains a private key. Keys belong in cert/")
    return text


def _opened(path: Path, kind: Callable[[Path], _F]) -> _F:
    try:
        return kind(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Change its mode") from error


class _Bounded(FileIO):
    """A file that gives at most ``MAX_DIRECTORY`` bytes in one read, and seeks within itself.

    ``zipfile`` reads the whole central directory at once, as long as the archive says it is.
    """

    def read(self, size: int | None = -1) -> bytes:
        """Read, or raise ``Refused`` for more than an honest archive needs."""
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > MAX_DIRECTORY:
            raise Refused(Code.TOO_LARGE, f"the archive lists more than {MAX_FILES} files")
        return super().read(size) or b""

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        """Seek; a forged offset before the start is a damaged archive, not an ``OSError``."""
        if whence == os.SEEK_SET and position < 0:
            raise zipfile.BadZipFile("an offset lies before the start")
        return super().seek(position, whence)


@contextmanager
def _open(source: Path) -> Iterator[zipfile.ZipFile]:
    with _opened(source, _Bounded) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
            raise UserError(
                f"{source} is not an archive ({error}). Name a file of 'fx workspace export'"
            ) from error
        with archive:
            yield archive


def _check_content(workspace: Workspace, source: Path) -> None:
    """The plan is one, what it names in code is there, and the initial model is a model."""
    plan = parse(yamlfile.read(workspace.plan), f"{source}: plan/plan.yaml")
    for name in (plan.learner.build, plan.assignment.function):
        module = (name or "").partition(":")[0].replace(".", "/")
        if module and not any(
            (workspace.root / path).is_file() for path in (f"{module}.py", f"{module}/__init__.py")
        ):
            raise Refused(
                Code.MALFORMED,
                f"the plan in {source} names {name}, and {module}.py is not in it. Have the"
                " workspace exported again",
            )
    if initial.is_sealed(plan):
        if workspace.initial.is_file():
            raise Refused(Code.MALFORMED, f"the plan in {source} has {_INITIAL} sealed; it is not")
        initial.described(workspace, plan)
    elif workspace.initial.is_file():
        try:
            len(Stored(workspace.initial))
        except Refused as error:
            raise Refused(error.code, f"{_INITIAL} in {source}: {error.message}") from error


def _extract(source: Path, folder: Path) -> None:
    with _open(source) as archive:
        for info in _checked(archive, source.stat().st_size):
            path = folder / info.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(info) as packed, path.open("xb") as file:
                    _copy(packed, file, info)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                message = f"{info.filename!r} in the archive is damaged: {error}"
                raise Refused(Code.MALFORMED, message) from error


def _copy(packed: IO[bytes], file: IO[bytes], info: zipfile.ZipInfo) -> None:
    left = info.file_size
    while block := packed.read(min(_BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            break
        file.write(block)
    if left:
        message = f"{info.filename!r} in the archive is not as long as it says"
        raise Refused(Code.MALFORMED, message)


def _checked(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """The entries, if all are such as ``export`` writes (or a zip tool, of the same files)."""
    entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise Refused(Code.TOO_LARGE, f"the archive has {len(entries)} files, over {MAX_FILES}")
    seen: set[str] = set()
    for info in entries:
        _check_entry(info)
        key = unicodedata.normalize("NFC", info.filename).casefold()
        if key in seen:
            raise Refused(Code.MALFORMED, f"the archive has {info.filename!r} twice")
        seen.add(key)
    for name in seen:  # "src/a" as a file and as a folder
        parents = [name.rsplit("/", up)[0] for up in range(1, name.count("/") + 1)]
        if clash := seen.intersection(parents):
            raise Refused(Code.MALFORMED, f"{min(clash)!r} is a file and a folder in the archive")
    if sum(info.compress_size for info in entries) > size:
        raise Refused(Code.MALFORMED, "files overlap in the archive")
    if sum(info.file_size for info in entries if info.filename != _INITIAL) > MAX_CODE:
        raise Refused(Code.TOO_LARGE, f"the archive unpacks to more than {MAX_CODE >> 20} MiB")
    if "plan/plan.yaml" not in seen:
        raise Refused(Code.MALFORMED, "the archive has no plan/plan.yaml")
    return entries


def _check_entry(info: zipfile.ZipInfo) -> None:
    name = info.filename
    if name != info.orig_filename:
        raise Refused(Code.MALFORMED, f"{info.orig_filename!r} is not a plain name")
    if reason := _forbidden(name):
        raise Refused(Code.MALFORMED, f"{name!r} in the archive: {reason}")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise Refused(Code.MALFORMED, f"{name!r} in the archive is not a regular file")
    if info.flag_bits & 0x1:
        raise Refused(Code.MALFORMED, f"{name!r} in the archive is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(Code.MALFORMED, f"{name!r} has compression method {info.compress_type}")
    stored = info.compress_type == zipfile.ZIP_STORED
    if name == _INITIAL and not stored:
        raise Refused(
            Code.MALFORMED,
            f"{name!r} in the archive is compressed; an export stores it as it is. Use what 'fx"
            " workspace export' wrote",
        )
    most = info.compress_size * (1 if stored else MAX_RATIO)
    if info.file_size > most:
        raise Refused(
            Code.TOO_LARGE,
            f"{name!r} would grow from {info.compress_size} bytes to {info.file_size}",
        )


def _forbidden(name: str) -> str:
    """Why a file of this name has no place in an archive; empty if it has."""
    parts = name.split("/")
    if name not in (*_PLAIN, _INITIAL) and (parts[0] != "src" or len(parts) < 2):
        return "not one of the files that a workspace shares"
    if len(parts) > MAX_DEPTH:
        return f"more than {MAX_DEPTH} folders deep"
    for part in parts:
        if part in ("", ".", "..") or part != part.strip() or part.endswith("."):
            return f"{part!r} is not a plain name"
        if _BAD.search(part) or _DEVICE.match(part) or len(part.encode(errors="replace")) > 240:
            return f"{part!r} is not a name on every system"
        if any(unicodedata.category(c) in ("Cf", "Cs") for c in part):
            return f"{part!r} has characters that cannot be seen"
        if _CACHE.match(part) or _SECRET.search(part):
            return f"{part!r} is a cache, a hidden file or a key"
    return ""

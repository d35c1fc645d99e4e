# SPDX-License-Identifier: Apache-2.0
"""Wheels: what a lock names, and the files in each.

A wheel is believed only as far as its SHA-256 stands in the lock, and then only what its ``RECORD``
lists, with the digest that stands there. Nothing of it is run: no ``setup.py``, no scripts.

Sources: Binary Distribution Format (PyPA), "File contents", "The .dist-info directory", "RECORD".
"""

import base64
import csv
import hashlib
import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import IO

from fedclave.errors import Code, Refused
from fedclave.tensors import file_digest
from fedclave.workspace.images.tree import File

_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[A-Za-z0-9_.!+]+)(-[0-9][^-]*)?-[^-]+-[^-]+-[^-]+\.whl"
)
_UNLISTED = re.compile(r"[^/]+\.dist-info/RECORD(\.jws|\.p7s)?")
_MAX_SMALL = 64 * 2**20  # bytes of a RECORD or METADATA
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel on this machine; ``name`` is normalised (PyPA, "Name normalization")."""

    name: str
    version: str
    sha256: str
    path: Path


def open_(path: Path) -> Wheel:
    """The wheel in a file, by its name and its bytes. ``Refused``: it is none."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise Refused(Code.MALFORMED, f"{path} is not a wheel's name. Lock the requirements again")
    return Wheel(
        name=normal(match["name"]),
        version=match["version"],
        sha256=file_digest(path),
        path=path,
    )


def normal(name: str) -> str:
    """A distribution's name as names are compared.

    >>> normal("Jinja2"), normal("ruamel.yaml__clib")
    ('jinja2', 'ruamel-yaml-clib')
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def files(wheel: Wheel) -> dict[str, File]:
    """The files of a wheel, by their path below the virtual environment's folder.

    Left out are scripts and headers, which no run needs, and the lines of ``RECORD`` about them.
    The wheel stays open as long as its files are held: what is read later is what was verified, and
    a directory of 12,000 names (torch's) is parsed once. ``Refused``: a file that ``RECORD`` does
    not list, or lists otherwise; a path that leads out.
    """
    with ExitStack() as stack:
        archive = stack.enter_context(_opened(wheel))
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        if len(infos) != len([i for i in archive.infolist() if not i.is_dir()]):
            raise _wrong(wheel, "it holds one name twice")
        record = _record(wheel, archive, infos)
        found: dict[str, File] = {}
        for name, info in sorted(infos.items()):
            _check_name(wheel, name)
            _check_bytes(wheel, archive, info, record)
            if (place := _place(name)) is not None:
                found[place] = _file(archive, info)
        stack.pop_all()
    return found


def licence(wheel: Wheel) -> str:
    """What a wheel's METADATA says of its licence, '' where it says nothing."""
    with _opened(wheel) as archive:
        for name in archive.namelist():
            if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
                text = archive.read(name)[:_MAX_SMALL].decode("utf-8", "replace")
                headers = HeaderParser().parsestr(text)
                said = headers.get("License-Expression") or headers.get("License") or ""
                return said.split("\n")[0].strip()[:200]
    return ""


def _opened(wheel: Wheel) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel.path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _wrong(wheel, f"it does not open ({error})") from error


def _record(
    wheel: Wheel, archive: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo]
) -> dict[str, str]:
    """The digests (hex) that RECORD gives, by name."""
    names = [name for name in infos if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if len(names) != 1:
        raise _wrong(wheel, "it has no RECORD, or two")
    text = archive.read(names[0])[:_MAX_SMALL].decode("utf-8", "replace")
    listed: dict[str, str] = {}
    for row in csv.reader(io.StringIO(text)):
        if len(row) != 3:
            raise _wrong(wheel, f"a line of its RECORD has {len(row)} fields")
        kind, _, value = row[1].partition("=")
        if not row[1]:
            continue
        if kind != "sha256" or row[0] in listed:
            raise _wrong(wheel, f"its RECORD gives no SHA-256 of {row[0]}, or two")
        try:
            listed[row[0]] = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
        except ValueError as error:
            raise _wrong(wheel, f"its RECORD gives {value!r:.60} as a SHA-256") from error
    return listed


def _check_name(wheel: Wheel, name: str) -> None:
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise _wrong(wheel, f"it names {name!r:.80}, which leads elsewhere")


def _check_bytes(
    wheel: Wheel, archive: zipfile.ZipFile, info: zipfile.ZipInfo, record: Mapping[str, str]
) -> None:
    if _UNLISTED.fullmatch(info.filename):
        return
    if info.filename not in record:
        raise _wrong(wheel, f"its RECORD does not list {info.filename}")
    state = hashlib.sha256()
    try:
        with archive.open(info) as file:
            while block := file.read(_BLOCK):
                state.update(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _wrong(wheel, f"{info.filename} does not unpack ({error})") from error
    if state.hexdigest() != record[info.filename]:
        raise _wrong(wheel, f"{info.filename} is not the file that its RECORD lists")


def _place(name: str) -> str | None:
    """Where a wheel's file goes below the environment; None: nowhere."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return posixpath.join("site-packages", name)
    scheme, _, inner = rest.partition("/")
    if scheme in ("purelib", "platlib") and inner:
        return posixpath.join("site-packages", inner)
    return inner if scheme == "data" and inner else None


def _file(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> File:
    def read() -> IO[bytes]:
        return archive.open(info)

    runs = (info.external_attr >> 16) & 0o111
    return File(size=info.file_size, read=read, mode=0o755 if runs else 0o644)


def _wrong(wheel: Wheel, reason: str) -> Refused:
    return Refused(
        Code.MALFORMED, f"{wheel.path.name}: {reason}. Get it again, and lock the requirements anew"
    )

# SPDX-License-Identifier: Apache-2.0
"""Files that a kernel or a package leaves on a host, read with care and taken apart.

Whatever lies there, nothing raises, blocks or grows: a FIFO, a folder, a device that gives bytes
for ever, binary rubbish. What cannot be read, or says nothing, is None, or an empty text. Texts
come out printable, so that none of them moves the cursor of who reads the report.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

SMALL = 2**16  # bytes: of /proc/cpuinfo, the first processors
LARGE = 2**25  # bytes: dpkg's status file of a full desktop has some 10 MB
SHOWN = 160  # characters

_OUTSIDE_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|#[^\n]*|/\*.*?\*/', re.DOTALL)

Access = Callable[[Path, int], bool]
"""``os.access``."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A device, as the caller may use it. ``group`` and ``mode`` are those of the file."""

    path: str
    state: Literal["absent", "not a device", "no access", "usable"]
    group: str = ""
    mode: str = ""  # octal


@dataclass(frozen=True, kw_only=True)
class Qcnl:
    """What ``/etc/sgx_default_qcnl.conf`` says: where quotes get their certificates from."""

    state: Literal["absent", "unreadable", "damaged", "found"]
    url: str = ""  # of the PCCS, without user and password
    secure: bool = True  # whether its TLS certificate is verified


def read(path: Path, most: int = SMALL) -> bytes | None:
    """The first bytes of a regular file; None if there is none, or it cannot be read."""
    try:
        # NONBLOCK: a FIFO without a writer must not hold us up
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        found = bytearray()
        while len(found) < most and (chunk := os.read(descriptor, most - len(found))):
            found += chunk
        return bytes(found)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def text(raw: bytes | str | None) -> str:
    r"""The first line that is not empty, for a screen: in printable ASCII, and short.

    >>> text(b"\n  Xeon\x1b[2J  \nmore")
    'Xeon?[2J'
    """
    given = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw or ""
    line = next((line.strip() for line in given.split("\n") if line.strip()), "")
    return "".join(c if " " <= c <= "~" else "?" for c in line[:SHOWN])


def cpuinfo(raw: bytes | None) -> dict[str, str]:
    """The first processor's lines in ``/proc/cpuinfo``, whole: its flags are long."""
    fields: dict[str, str] = {}
    for line in (raw or b"").decode("utf-8", "replace").split("\n"):
        name, colon, value = line.partition(":")
        if not line.strip() and fields:
            break
        if colon:
            fields[name.strip()] = value.strip()
    return fields


def mode(path: Path) -> int:
    """What kind of file lies there, and its permissions; 0: none that the caller may see."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def under(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder that fit a pattern, in order."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def node(root: Path, path: str, access: Access) -> Node:
    """How a device stands for the caller: there, a device at all, to be read and written."""
    at = root / path.lstrip("/")
    try:
        found = at.stat()
    except OSError:
        return Node(path=path, state="absent")
    owner = {"group": group(root, found.st_gid), "mode": f"{stat.S_IMODE(found.st_mode):04o}"}
    if not stat.S_ISCHR(found.st_mode):
        return Node(path=path, state="not a device", **owner)
    may = access(at, os.R_OK | os.W_OK)
    return Node(path=path, state="usable" if may else "no access", **owner)


def group(root: Path, number: int) -> str:
    """A group's name on this host, or its number."""
    for line in (read(root / "etc/group", LARGE) or b"").decode("utf-8", "replace").split("\n"):
        name, _, rest = line.partition(":")
        if rest.split(":")[1:2] == [str(number)]:
            return text(name)
    return str(number)


def packages(raw: bytes | None, names: Collection[str]) -> dict[str, str]:
    """Versions of those packages that dpkg's status file calls installed."""
    found: dict[str, str] = {}
    for block in re.split(rb"\n[ \t]*\n", raw or b""):
        fields = dict(_headers(block))
        if fields.get("Package") in names and fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields.get("Version", "")
    return found


def version_in(raw: bytes | None) -> str:
    """The ``Version:`` of a Python distribution's METADATA."""
    return dict(_headers(raw or b"")).get("Version", "")


def qcnl(path: Path) -> Qcnl:
    """The quoting library's settings: JSON with comments, or lines of ``KEY=value`` as before it.

    The library itself takes each of the two forms (Intel DCAP, ``sgx_default_qcnl.conf``).
    """
    if not os.path.lexists(path):
        return Qcnl(state="absent")
    raw = read(path)
    if raw is None:
        return Qcnl(state="unreadable")
    settings = _settings(raw.decode("utf-8", "replace"))
    given = settings.get("pccs_url")
    if not isinstance(given, str) or (url := split(given)) is None:
        return Qcnl(state="damaged")
    insecure = str(settings.get("use_secure_cert", True)).lower() == "false"
    named = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
    return Qcnl(state="found", url=text(named), secure=not insecure)


def split(url: str) -> SplitResult | None:
    """An HTTP URL in its parts; None if it is none."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not close, or a port that is no number
        return None
    return parts if known and url.isascii() and url.isprintable() and " " not in url else None


def _settings(written: str) -> dict[str, object]:
    bare = _OUTSIDE_STRINGS.sub(lambda m: m[0] if m[0].startswith('"') else "", written)
    try:
        value = json.loads(bare)
    except (ValueError, RecursionError):
        pairs = (line.partition("=") for line in written.split("\n") if line.lstrip()[:1] != "#")
        return {name.strip().lower(): value.strip() for name, equals, value in pairs if equals}
    return value if isinstance(value, dict) else {}


def _headers(block: bytes) -> Iterator[tuple[str, str]]:
    for line in block.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and not name.startswith((b" ", b"\t")):
            yield text(name), text(value)

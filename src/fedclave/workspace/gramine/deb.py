# SPDX-License-Identifier: Apache-2.0
"""A Debian package, unpacked: what it would install, below a folder. None of its scripts is run.

Source: deb(5), deb-old(5) is not read. The outer archive is ar's (ar(5)).
"""

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from fedclave.errors import Code, Refused, UserError
from fedclave.workspace import output

_MAGIC = b"!<arch>\n"
_MAX = 512 * 2**20  # bytes of a package; Gramine's has less than 20 MiB


def is_one(path: Path) -> bool:
    """Whether a file begins as a package does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def unpack(path: Path, folder: Path) -> None:
    """Unpack a package's files below a folder.

    ``Refused``: it is damaged, or names something outside. ``UserError``: it is compressed in a way
    that Python does not read.
    """
    if path.stat().st_size > _MAX:
        raise UserError(f"{path} has more than {_MAX >> 20} MiB. Name Gramine's package")
    found = dict(_members(path, path.read_bytes()))
    name = next((one for one in found if one.startswith("data.tar")), None)
    if name is None:
        raise _damaged(path, "it has no data.tar")
    if name not in ("data.tar", "data.tar.gz", "data.tar.xz"):
        raise UserError(
            f"{path} is compressed as {name.rpartition('.')[2]}, which is not read here. Unpack it:"
            f" dpkg-deb -x {path} FOLDER; then name the folder: --gramine FOLDER"
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(found[name])) as archive, output.blamed_on(folder):
            for member in archive:
                if member.isreg() or member.issym() or member.islnk() or member.isdir():
                    archive.extract(member, folder, filter="data")
    except tarfile.FilterError as error:
        raise Refused(
            Code.MALFORMED, f"{path} names something outside of its folder ({error}). Do not use it"
        ) from error
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise _damaged(path, f"its files do not unpack ({error})") from error


def _members(path: Path, data: bytes) -> Iterator[tuple[str, bytes]]:
    at = len(_MAGIC)
    while at < len(data):
        head = data[at : at + 60]
        size = head[48:58].strip()
        if len(head) != 60 or head[58:] != b"`\n" or not size.isdigit():
            raise _damaged(path, f"no member begins at byte {at}")
        start, at = at + 60, at + 60 + int(size)
        if at > len(data):
            raise _damaged(path, "it ends early")
        yield head[:16].decode("ascii", "replace").rstrip().rstrip("/"), data[start:at]
        at += at % 2


def _damaged(path: Path, reason: str) -> Refused:
    return Refused(Code.MALFORMED, f"{path} is not a sound package: {reason}. Get it again")

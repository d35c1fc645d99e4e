# SPDX-License-Identifier: Apache-2.0
"""The Gramine that an image starts its enclaves by. The user brings it: nothing is downloaded.

It is the package of one of the releases that are known here (``RELEASES``), installed, unpacked, or
as its .deb. Of it an image needs the loaders, the two parts that run inside (PAL, LibOS), and the C
library that makes system calls by calling LibOS; not its tools.

Which files those are: the package's lists (debian/gramine.install) of Gramine 1.9.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fedclave.errors import UserError
from fedclave.trust import elf
from fedclave.workspace import output
from fedclave.workspace.gramine import deb
from fedclave.workspace.images import tree
from fedclave.workspace.images.tree import File

PREFIX = "/opt/gramine"
LIBRARIES = f"{PREFIX}/runtime/glibc"
LIBOS = f"{PREFIX}/libsysdb.so"
LIBPAL = f"{PREFIX}/sgx/libpal.so"

_FOLDERS = (
    "usr/lib/x86_64-linux-gnu/gramine",
    "usr/lib64/gramine",
    "usr/lib/gramine",
    "usr/local/lib/x86_64-linux-gnu/gramine",
    "usr/local/lib64/gramine",
    "usr/local/lib/gramine",
)
_ABOUT = (
    "usr/lib/python3/dist-packages/graminelibos.dist-info/METADATA",
    "usr/lib/python3*/site-packages/graminelibos*.dist-info/METADATA",
    "usr/local/lib/python3*/*-packages/graminelibos*.dist-info/METADATA",
)
_VERSION = re.compile(r"^Version: *([0-9][0-9.]*)\S*$", re.MULTILINE)
_GET = (
    "Install Gramine (https://gramine.readthedocs.io), or name its package or the folder that it"
    " was unpacked to: --gramine gramine_1.9_amd64.deb"
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of a release, below its folder: programs, and the names of its C library."""

    programs: tuple[str, ...]
    parts: tuple[str, ...]
    libraries: tuple[str, ...]


RELEASES: Mapping[str, Layout] = MappingProxyType(
    {
        "1.9": Layout(
            programs=("sgx/loader", "direct/loader"),
            parts=("sgx/libpal.so", "direct/libpal.so", "libsysdb.so"),
            libraries=(
                "ld-linux-x86-64.so.2",
                "libanl.so.1",
                "libc.so.6",
                "libdl.so.2",
                "libm.so.6",
                "libmvec.so.1",
                "libnsl.so.1",
                "libnss_compat.so.2",
                "libnss_dns.so.2",
                "libnss_files.so.2",
                "libpthread.so.0",
                "libresolv.so.2",
                "librt.so.1",
                "libutil.so.1",
            ),
        )
    }
)
"""By version. ``mrenclave.RELEASES`` has the other constants of each."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A release on this machine; ``files`` by their path in an image."""

    release: str
    files: Mapping[str, File]

    @property
    def libraries(self) -> frozenset[str]:
        """The names of the libraries that it brings."""
        return frozenset(RELEASES[self.release].libraries)

    @property
    def measured(self) -> dict[str, File]:
        """Those that the program opens when it runs: its C library."""
        return {path: file for path, file in self.files.items() if path.startswith(LIBRARIES)}


@contextmanager
def opened(given: Path | None, scratch: Path) -> Iterator[Runtime]:
    """The Gramine of a package or a folder; None: the one that is installed.

    ``UserError``: there is none, or one that is not known here. A package is unpacked below
    ``scratch`` until the block ends.
    """
    if given is not None and not given.exists():
        raise UserError(f"there is no {given}. {_GET}")
    if given is not None and deb.is_one(given):
        with output.blamed_on(scratch), tempfile.TemporaryDirectory(dir=scratch) as folder:
            deb.unpack(given, Path(folder))
            yield read(Path(folder), str(given))
        return
    if given is not None and not given.is_dir():
        raise UserError(f"{given} is neither a folder nor a package (.deb). {_GET}")
    yield read(given or Path("/"), str(given or "this machine"))


def read(root: Path, name: str) -> Runtime:
    """The Gramine below a folder, where its package puts it; ``name`` is for messages."""
    folder = next((root / one for one in _FOLDERS if (root / one).is_dir()), None)
    if folder is None:
        raise UserError(f"{name} has no Gramine ({_FOLDERS[0]} is not there). {_GET}")
    release = _release(root, name)
    layout = RELEASES[release]
    found: dict[str, File] = {}
    for inner in (*layout.programs, *layout.parts):
        mode = 0o755 if inner in layout.programs else 0o644
        found[f"{PREFIX}/{inner}"] = _file(root, folder / inner, name, mode)
    for library in layout.libraries:
        path = folder / "runtime/glibc" / library
        found[f"{LIBRARIES}/{library}"] = _file(root, path, name, 0o644)
    return Runtime(release=release, files=found)


def _release(root: Path, name: str) -> str:
    for pattern in _ABOUT:
        for path in sorted(root.glob(pattern)):
            match = _VERSION.search(path.read_text(encoding="utf-8", errors="replace")[:4096])
            if match is not None and match[1] in RELEASES:
                return match[1]
            said = match[1] if match else "of no version"
            known = ", ".join(RELEASES)
            raise UserError(
                f"the Gramine of {name} is {said}, whose layout is not known here. Known: {known}."
                f" {_GET}"
            )
    raise UserError(
        f"the Gramine of {name} does not say which release it is ({_ABOUT[0]} is missing). {_GET}"
    )


def _file(root: Path, path: Path, name: str, mode: int) -> File:
    """One of its files: an ELF file within the folder, whatever links lead to it."""
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise UserError(f"{path} leads out of {name}, to {real}. Unpack the package anew")
    try:
        with real.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(
            f"the Gramine of {name} has no {path.relative_to(root)} ({error.strerror}). {_GET}"
        ) from error
    if not elf.is_elf(start):
        raise UserError(f"{path} is no ELF file for x86-64. {_GET}")
    return tree.of_path(real, mode)

# SPDX-License-Identifier: Apache-2.0
"""The libraries that programs need, found as the dynamic linker would (ld.so(8)), without it.

A library may lie in more than one of the folders that are searched. All that lie there count: the
linker takes the first that it sees, and the host of an enclave can hide a file.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedclave.trust import elf
from fedclave.workspace.images import tree
from fedclave.workspace.images.tree import File, Folder, Tree

_MULTIARCH = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64")
FOLDERS = ("/usr/local/lib", *_MULTIARCH, "/lib", "/usr/lib")
"""Where the linker looks by default on Debian and its kin (ld.so.conf.d), but for links."""

LOADED_LATER = ("libgcc_s.so.1",)
"""What glibc loads by name when a thread is cancelled or an exception passes."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A library that is nowhere, and who needs it."""

    name: str
    needed_by: str


@dataclass(frozen=True, kw_only=True)
class Closure:
    """The libraries, by the path at which the linker opens them, and what was not found."""

    files: Mapping[str, File]
    folders: tuple[str, ...]  # in which they lie, for LD_LIBRARY_PATH; in the order of search
    missing: tuple[Missing, ...]


def closure(files: Tree, programs: Mapping[str, File], given: frozenset[str]) -> Closure:
    """Every library that programs need, and those that these need.

    ``files`` is all that there is; ``given`` are names that come from elsewhere. A library that is
    itself among the programs is not listed again.
    """
    files = tree.with_folders(files)
    folders = _folders(files)
    found: dict[str, File] = {}
    missing: list[Missing] = []
    named = {posixpath.basename(path) for path in programs}
    left = sorted(programs.items())
    for name in LOADED_LATER:
        left += _take(found, files, name, folders, programs)
    while left:
        path, file = left.pop()
        about = elf.parse(tree.content(file), path)
        own = _searched(path, about.paths)
        for name in about.needed:
            if name in given:
                continue
            added = _take(found, files, name, (*own, *folders), programs)
            left += added
            if not added and not _is_there(found, programs, name, named):
                missing.append(Missing(name=name, needed_by=path))
    used = {posixpath.dirname(path) for path in found}
    return Closure(
        files=dict(sorted(found.items())),
        folders=tuple(one for one in folders if one in used),
        missing=tuple(sorted(set(missing), key=lambda one: (one.name, one.needed_by))),
    )


def elves(files: Tree) -> dict[str, File]:
    """The programs and libraries among files, by their first bytes."""
    found = {}
    for path, node in files.items():
        if isinstance(node, File) and ".so" in posixpath.basename(path):
            with node.read() as source:
                if elf.is_elf(source.read(16)):
                    found[path] = node
    return found


def _folders(files: Tree) -> tuple[str, ...]:
    """The default folders of an image, links followed, each once."""
    found: dict[str, None] = {}
    for folder in FOLDERS:
        match tree.find(files, folder):
            case (real, Folder()):
                found[real] = None
    return tuple(found)


def _searched(path: str, wanted: Iterable[str]) -> tuple[str, ...]:
    """The folders of a file's RPATH or RUNPATH."""
    origin = posixpath.dirname(path)
    expanded = (one.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for one in wanted)
    return tuple(posixpath.normpath(one) for one in expanded if one.startswith("/"))


def _take(
    found: dict[str, File],
    files: Tree,
    name: str,
    folders: Sequence[str],
    programs: Mapping[str, File],
) -> list[tuple[str, File]]:
    """Note every file of this name in these folders; returns those that are new."""
    added = []
    for folder in folders:
        path = f"{folder}/{name}"
        if path in found or path in programs:
            continue
        match tree.find(files, path):
            case (_, File() as file):
                found[path] = file
                added.append((path, file))
    return added


def _is_there(
    found: Mapping[str, File], programs: Mapping[str, File], name: str, named: set[str]
) -> bool:
    return name in named or any(posixpath.basename(path) == name for path in (*found, *programs))

# SPDX-License-Identifier: Apache-2.0
"""Files of an image before they are in one: what lies where, and where its bytes are read."""

import hashlib
import io
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedclave.errors import Bug, UserError

_BLOCK = 2**20  # bytes read at a time
_MAX_LINKS = 40  # on the way to one file, as Linux has it (path_resolution(7))


@dataclass(frozen=True, kw_only=True)
class File:
    """A regular file; ``read`` opens its bytes anew each time."""

    size: int  # bytes
    read: Callable[[], IO[bytes]]
    mode: int = 0o644
    owner: int = 0  # of user and group


@dataclass(frozen=True, kw_only=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A directory."""

    mode: int = 0o755
    owner: int = 0


Node = File | Link | Folder
Tree = Mapping[str, Node]
"""By absolute path, with ``/``: no ``.``, no ``..``, no slash at the end."""


def of_bytes(data: bytes, mode: int = 0o644) -> File:
    """A file with these bytes."""
    return File(size=len(data), read=lambda: io.BytesIO(data), mode=mode)


def of_path(path: Path, mode: int = 0o644) -> File:
    """A file with the bytes of one on this machine."""
    return File(size=path.stat().st_size, read=lambda: path.open("rb"), mode=mode)


def sha256(file: File) -> str:
    """The SHA-256 (hex) of a file's bytes."""
    state = hashlib.sha256()
    with file.read() as source:
        while block := source.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def content(file: File) -> bytes:
    """All bytes of a file that is small."""
    with file.read() as source:
        return source.read()


def find(tree: Tree, path: str) -> tuple[str, Node] | None:
    """What lies at a path when links are followed, and its real path; None where nothing does."""
    done, left, links = "", [part for part in path.split("/") if part], 0
    while left:
        part = left.pop(0)
        if part in (".", ".."):
            done = posixpath.dirname(done) if part == ".." and done != "/" else done
            continue
        here = f"{done.rstrip('/')}/{part}"
        node = tree.get(here)
        if not isinstance(node, Link):
            done = here
            continue
        links += 1
        if links > _MAX_LINKS:
            raise UserError(f"{path} in the image is behind a circle of links. Use another base")
        if node.target.startswith("/"):
            done = ""
        left = [*(p for p in node.target.split("/") if p), *left]
    node = tree.get(done) if done not in ("", "/") else Folder()
    return None if node is None else (done or "/", node)


def require_file(tree: Tree, path: str) -> tuple[str, File]:
    """The file at a path, as ``find``. A ``Bug`` where there is none: the caller has seen it."""
    match find(tree, path):
        case (real, File() as file):
            return real, file
        case _:
            raise Bug(f"there is no file {path}")


def with_folders(tree: Tree) -> dict[str, Node]:
    """The tree with every folder that its files lie in, sorted by path."""
    found = dict(tree)
    for path in tree:
        above = posixpath.dirname(path)
        while above != "/" and above not in found:
            found[above] = Folder()
            above = posixpath.dirname(above)
    return dict(sorted(found.items()))

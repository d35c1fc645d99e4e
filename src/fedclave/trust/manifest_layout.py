# SPDX-License-Identifier: Apache-2.0
"""Where the files of a manifest are: on the host, inside, and what Gramine checks of each.

Gramine 1.9 compares paths of the host, normalised as text; links are not followed. An allowed file
or folder allows what is below it, **also what is trusted**: it looks there first. A trusted entry
is one file; a folder (it ends with a slash) becomes its files when the manifest is signed.
A later mount covers an earlier one.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedclave.trust.manifest_form import Sound

_CODE_FOLDER = re.compile(
    r"s?bin|lib(32|64|x32|exec)?|usr|etc|boot|(site|dist)-packages|__pycache__"
)
_CODE_ENDINGS = (".so", ".py", ".pyc", ".pth", ".zip", ".whl", ".egg", ".sh", ".jar", ".js")
SYSTEM = ("/dev", "/proc", "/sys")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A mount: ``path`` inside, ``source`` on the host; both normalised.

    ``at`` is its place in the manifest; empty for the root that Gramine mounts if none is set.
    """

    at: tuple[str | int, ...]
    kind: str
    path: str
    uri: str | None
    key_name: str | None

    @property
    def source(self) -> str | None:
        """What it shows of the host; None if nothing."""
        return None if self.kind == "tmpfs" or self.uri is None else normal(path_of(self.uri))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A manifest's mounts, its trusted files and folders and what it allows, as host paths."""

    mounts: tuple[Mount, ...]
    trusted: frozenset[str]
    folders: frozenset[str]
    allowed: frozenset[str]
    ordered: tuple[str, ...]  # trusted files and folders, sorted

    def on_host(self, inside: str) -> str | None:
        """Where a file lies that the enclave sees at this path; None if it makes it itself."""
        inside = normal(inside)
        for mount in reversed(self.mounts):
            if under(inside, mount.path):
                readable = mount.kind == "chroot" and mount.source is not None
                return join(mount.source or "", inside, mount.path) if readable else None
        return None

    def is_trusted(self, host: str) -> bool:
        """Whether Gramine checks this file's hash."""
        known = host in self.trusted or any(one in self.folders for one in above(host))
        return known and not self.is_allowed(host)

    def is_allowed(self, host: str) -> bool:
        """Whether the host may write this file as it likes."""
        return any(one in self.allowed for one in above(host))

    def first_trusted(self, host: str) -> str | None:
        """A trusted file or folder that is this one, lies below it, or around it."""
        if host in (".", "/"):
            inside = (one for one in self.ordered if under(one, host))
            return next(inside, None)
        for start in (host, f"{host}/"):
            at = bisect_left(self.ordered, start)
            if at < len(self.ordered) and under(self.ordered[at], host):
                return self.ordered[at]
        return next((one for one in above(host) if one in self.folders), None)

    def insides(self, host: str) -> Iterator[str]:
        """The paths at which the enclave sees a file or folder of the host, or parts of it."""
        for mount in self.mounts:
            if mount.source is None:
                continue
            if under(host, mount.source):
                yield join(mount.path, host, mount.source)
            elif under(mount.source, host):
                yield mount.path


def layout(manifest: Sound) -> Layout:
    """The layout of a manifest of sound form."""
    trusted: set[str] = set()
    folders: set[str] = set()
    for _, entry in rows(manifest, "trusted_files"):
        uri = uri_of(entry)
        (folders if uri.endswith("/") else trusted).add(normal(path_of(uri)))
    return Layout(
        mounts=tuple(_mounts(manifest)),
        trusted=frozenset(trusted),
        folders=frozenset(folders),
        allowed=frozenset(normal(path_of(u)) for _, u in rows(manifest, "allowed_files")),
        ordered=tuple(sorted(trusted | folders)),
    )


def _mounts(manifest: Sound) -> Iterator[Mount]:
    root = manifest.get("fs", "root")
    if root is None:
        yield _mount({"uri": "file:."}, "/", ())
    else:
        yield _mount(root, "/", ("fs", "root"))
    for index, entry in enumerate(manifest.get("fs", "mounts") or ()):
        if entry is not None and "path" in entry:
            yield _mount(entry, entry["path"], ("fs", "mounts", index))


def _mount(entry: dict[str, Any], path: str, at: tuple[str | int, ...]) -> Mount:
    uri, key_name = entry.get("uri"), entry.get("key_name")
    kind = entry.get("type", "chroot")
    return Mount(at=at, kind=kind, path=normal(path), uri=uri, key_name=key_name)


def rows(manifest: Sound, key: str) -> Iterator[tuple[int, Any]]:
    """The elements of a list in ``sgx`` that have the right form, with their indices."""
    for index, entry in enumerate(manifest.get("sgx", key) or ()):
        if entry is not None and (not isinstance(entry, dict) or "uri" in entry):
            yield index, entry


def uri_of(entry: Any) -> str:
    """The URI of a trusted file, which is a text or a table."""
    return str(entry["uri"] if isinstance(entry, dict) else entry)


def path_of(uri: str) -> str:
    """What follows the scheme of a URI of Gramine's."""
    return uri.partition(":")[2]


def normal(path: str) -> str:
    """A path without empty parts, ``.`` and, where possible, ``..``.

    >>> normal("/a//b/./../c/"), normal("../a"), normal("/.."), normal("./")
    ('/a/c', '../a', '/', '.')
    """
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part == ".." and path.startswith("/"):
            continue
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts) or "."


def under(path: str, folder: str) -> bool:
    """Whether a path is this folder or below it; both normalised.

    >>> under("/a/b", "/a"), under("/ab", "/a"), under("a", "."), under("/a", ".")
    (True, False, True, False)
    """
    if folder == ".":
        return not path.startswith(("/", "../")) and path != ".."
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def above(path: str) -> Iterator[str]:
    """A normalised path, and every folder around it.

    >>> list(above("/a/b")), list(above("a/b"))
    (['/a/b', '/a', '/'], ['a/b', 'a', '.'])
    """
    yield path
    while "/" in path.rstrip("/"):
        path = path.rpartition("/")[0] or "/"
        yield path
    if path not in ("/", ".", "..") and not path.startswith("../"):
        yield "."


def join(folder: str, path: str, base: str) -> str:
    """A path below ``base``, as it is called below another folder.

    >>> join("/lib", "/host/a/b", "/host/a"), join(".", "/x", "/")
    ('/lib/b', 'x')
    """
    rest = path if base == "." else path[len(base.rstrip("/")) :].lstrip("/")
    return normal(f"{folder}/{rest}")


def is_code(path: str) -> bool:
    """Whether a path's name says that programs, libraries or the system's settings are there.

    >>> is_code("/app/lib/x"), is_code("/var/lib/out"), is_code("/out/a.so.1"), is_code("/out")
    (True, False, True, False)
    """
    parts = [part for part in path.split("/") if part]
    if parts[:2] == ["var", "lib"]:
        parts = parts[2:]
    name = parts[-1] if parts else ""
    if any(map(_CODE_FOLDER.fullmatch, parts)):
        return True
    return name.endswith(_CODE_ENDINGS) or ".so." in name

# SPDX-License-Identifier: Apache-2.0
"""Every file that an enclave measures, by its path, with its SHA-256 and what it comes from.

    wheel NAME    a wheel of the lock, and its modules, compiled
    contract      the contract
    federation    the root of the CA that this federation trusts
    base          the base image: its Python, the standard library (compiled too), libraries
    gramine       the Gramine release: the C library
    made          the same for every image: settings of the system, of the virtual environment

The first four anybody has who holds the workspace, and makes again. ``base`` and ``gramine`` are
believed as far as somebody compares them with the base image and the package.

The list comes from the contract, the wheels' RECORD and the files' own headers: never from what
some run happened to open.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from fedclave.errors import UserError
from fedclave.workspace.gramine import closure as closures
from fedclave.workspace.gramine.closure import Closure, Missing
from fedclave.workspace.gramine.runtime import Runtime
from fedclave.workspace.images import content, tree
from fedclave.workspace.images.content import PREFIX, WORKSPACE, Content, Interpreter
from fedclave.workspace.images.tree import File, Link, Tree

BASE, GRAMINE, CONTRACT, FEDERATION, MADE = "base", "gramine", "contract", "federation", "made"
WHEEL = "wheel "
ENCLAVE = f"{PREFIX}/enclave"
ETC = f"{ENCLAVE}/etc"
ROOT = f"{WORKSPACE}/cert/root.pem"
PYTHON = f"{PREFIX}/bin/python"

_SETTINGS = {
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "host.conf": "multi on\n",
    "passwd": f"fedclave:x:{content.USER}:{content.USER}::{content.STATE}:/nonexistent\n",
    "group": f"fedclave:x:{content.USER}:\n",
    "gai.conf": "",
}
"""/etc of an enclave. resolv.conf is Gramine's: it says which DNS servers the host names."""

_NEEDED = ("libgcc_s.so.1", "libstdc++.so.6")
"""What every base has that can run wheels (PEP 513); others, a wheel may do without."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One file; ``path`` is where it lies in the image, and where the enclave opens it."""

    path: str
    sha256: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the files of an enclave are, before they are hashed."""

    parts: Content
    python: Interpreter
    base: Tree
    runtime: Runtime
    root: bytes  # the CA's certificate, PEM


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What an enclave measures; ``folders`` are where its libraries lie, besides Gramine's."""

    files: tuple[Measured, ...]
    folders: tuple[str, ...]
    missing: tuple[Missing, ...]  # libraries that some wheel names, and does without


def settings() -> dict[str, File]:
    """The files of the enclave's /etc."""
    return {f"{ETC}/{name}": tree.of_bytes(text.encode()) for name, text in _SETTINGS.items()}


def listing(sources: Sources) -> Listing:
    """Every file that an enclave of these sources measures, sorted by path.

    ``UserError``: the base lacks a library that Python or every wheel needs.
    """
    own = own_files(sources.parts, sources.root)
    stdlib = content.standard_library(sources.base, sources.python)
    _, interpreter = tree.require_file(sources.base, sources.python.path)
    programs = {
        PYTHON: interpreter,
        **closures.elves(stdlib),
        **closures.elves({path: file for path, (file, _) in own.items()}),
    }
    everything = {**sources.base, **{path: file for path, (file, _) in own.items()}}
    found = closures.closure(everything, programs, sources.runtime.libraries)
    _check(found, {PYTHON, *stdlib})
    files = {path: (file, BASE) for path, file in (*stdlib.items(), *found.files.items())}
    files[PYTHON] = (interpreter, BASE)
    files |= {path: (file, GRAMINE) for path, file in sources.runtime.measured.items()}
    files |= own
    return Listing(files=hashed(files), folders=found.folders, missing=found.missing)


def own_files(parts: Content, root: bytes) -> dict[str, tuple[File, str]]:
    """The image's own files, each with its origin; compiled modules of the base are the base's."""
    found: dict[str, tuple[File, str]] = {}
    for path, node in {**parts.libraries, **parts.fedclave}.items():
        if isinstance(node, File):
            found[path] = (node, _origin(path, parts.wheels))
        elif isinstance(node, Link) and path != PYTHON:
            raise UserError(f"{path} in the image is a link. Use another base image")
    for path, node in parts.workspace.items():
        if isinstance(node, File):
            found[path] = (node, CONTRACT)
    found |= {path: (file, MADE) for path, file in settings().items()}
    found[ROOT] = (tree.of_bytes(root), FEDERATION)
    return found


def hashed(files: Mapping[str, tuple[File, str]]) -> tuple[Measured, ...]:
    """The files with their digests, sorted by path."""
    return tuple(
        Measured(path=path, sha256=tree.sha256(file), origin=origin)
        for path, (file, origin) in sorted(files.items())
    )


def _origin(path: str, wheels: Mapping[str, str]) -> str:
    if path in wheels:
        return f"{WHEEL}{wheels[path]}"
    return MADE if path == f"{PREFIX}/pyvenv.cfg" else BASE


def _check(found: Closure, base: set[str]) -> None:
    for one in found.missing:
        if one.needed_by in base or one.name in _NEEDED or one.needed_by in found.files:
            raise UserError(
                f"the base image has no {one.name}, which {posixpath.basename(one.needed_by)}"
                " needs. Use a base that has it: python:3.11-slim-bookworm"
            )

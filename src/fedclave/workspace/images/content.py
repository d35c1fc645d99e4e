# SPDX-License-Identifier: Apache-2.0
"""What lies where in an image.

    /opt/fedclave/bin/python         a link to the base's Python: a virtual environment (PEP 405)
    /opt/fedclave/lib/python3.N/     the wheels of the lock, unpacked and pruned
    /opt/fedclave/pycache/           compiled modules, of these and of the standard library
    /opt/fedclave/sbom.cdx.json      what is in the image (CycloneDX)
    /workspace/                      the contract's files, but for the attestation policy
    /state/                          a party's own folder, mounted there: keys, data, models, logs

The policy names measurements, so it cannot lie where it would be measured; it comes with the
party's own folder, by its signers' word.
"""

import posixpath
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedclave.errors import UserError
from fedclave.trust import contract as contracts
from fedclave.workspace.images import bytecode, own, prune, tree, wheels
from fedclave.workspace.images.prune import Pruned
from fedclave.workspace.images.tree import File, Folder, Link, Node, Tree
from fedclave.workspace.images.wheels import Wheel
from fedclave.workspace.layout import Workspace

PREFIX, WORKSPACE, STATE = "/opt/fedclave", "/workspace", "/state"
SBOM = f"{PREFIX}/sbom.cdx.json"
USER = 65532  # "nonroot", as in the distroless images: no user of a host by default
_PYTHON = re.compile(r"/([^/]+/)*bin/python(3\.[0-9]{1,2})")
_CACHE = f"{PREFIX}/pycache"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START = ("-I", "-B", "-X", f"pycache_prefix={_CACHE}", "-m", "fedclave.cli.main", "--state", STATE)
"""Arguments of Python: isolated from its environment, nothing written, our compiled modules."""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """The Python of a base image. ``stdlib`` is its standard library's folder."""

    path: str
    version: str  # 3.N
    stdlib: str

    @property
    def packages(self) -> str:
        """Where the wheels go."""
        return f"{PREFIX}/lib/python{self.version}/site-packages"

    @property
    def tag(self) -> str:
        """As in the names of compiled modules (PEP 3147)."""
        return f"cpython-{self.version.replace('.', '')}"


@dataclass(frozen=True, kw_only=True)
class Content:
    """The trees of an image's own layers, the one that changes least first."""

    libraries: Tree
    fedclave: Tree
    workspace: Tree
    pruned: Pruned  # of the wheels
    wheels: Mapping[str, str]  # which wheel a file is from, by its path; compiled modules as well


def interpreter(base: Tree, environment: Iterable[str]) -> Interpreter:
    """The Python that ``PATH`` of a base image finds. ``UserError``: none that fits."""
    variables = dict(one.partition("=")[::2] for one in environment)
    for folder in variables.get("PATH", _PATH).split(":"):
        found = tree.find(base, f"{folder}/python3")
        if found is None or not isinstance(found[1], File):
            continue
        match = _PYTHON.fullmatch(found[0])
        if match is None:
            continue
        stdlib = f"{posixpath.dirname(posixpath.dirname(found[0]))}/lib/python{match[2]}"
        if tree.find(base, f"{stdlib}/os.py") is None:
            raise UserError(f"the base image's {found[0]} has no {stdlib}. Use another base image")
        own_version = f"{sys.version_info.major}.{sys.version_info.minor}"
        if match[2] != own_version:
            raise UserError(
                f"the base image has Python {match[2]}, and fx runs on {own_version}; modules are"
                f" compiled for the image by the same. Use a base with {own_version}, or run fx on"
                f" {match[2]}"
            )
        return Interpreter(path=found[0], version=match[2], stdlib=stdlib)
    raise UserError("the base image has no python3 on its PATH. Use one that has: python:3.11-slim")


def standard_library(base: Tree, python: Interpreter) -> dict[str, File]:
    """The files of the base's standard library that a run may need."""
    below = f"{python.stdlib}/"
    return {
        path: node
        for path, node in base.items()
        if path.startswith(below)
        and isinstance(node, File)
        and prune.is_of_stdlib(path.removeprefix(below))
    }


def make(base: Tree, python: Interpreter, wheels_: Iterable[Wheel], workspace: Tree) -> Content:
    """Everything that an image has beyond its base; ``workspace`` is ``workspace_files``."""
    libraries: dict[str, File] = {}
    mine: dict[str, File] = {}
    owners: dict[str, str] = {}
    for wheel in wheels_:
        target = mine if wheel.name == own.NAME else libraries
        for inner, file in wheels.files(wheel).items():
            path = _placed(python, inner)
            before = libraries.get(path) or mine.get(path)
            if before is not None and tree.sha256(before) != tree.sha256(file):
                raise UserError(
                    f"two wheels of the lock, {wheel.name} being one, have another {inner}. Take"
                    " one of the two out of requirements.txt, and lock again"
                )
            target[path] = file
            owners[path] = wheel.name
            owners[bytecode.place(_CACHE, path, python.tag)] = wheel.name
    pruned = prune.packages(libraries)
    stdlib = standard_library(base, python)
    return Content(
        libraries={
            **pruned.files,
            **_compiled({**pruned.files, **stdlib}, python),
            f"{PREFIX}/bin/python": Link(target=python.path),
            f"{PREFIX}/pyvenv.cfg": tree.of_bytes(_venv(python)),
        },
        fedclave={**mine, **_compiled(mine, python)},
        workspace=workspace,
        pruned=pruned,
        wheels=owners,
    )


def workspace_files(workspace: Workspace, names: Iterable[str]) -> dict[str, Node]:
    """A workspace's files as they lie in an image; ``names`` are those of its contract."""
    placed: dict[str, Node] = {
        f"{WORKSPACE}/{name}": tree.of_path(workspace.root / name)
        for name in names
        if name != contracts.POLICY
    }
    return {**placed, STATE: Folder(mode=0o755, owner=USER)}


def config(base: Mapping[str, object], labels: Mapping[str, str]) -> dict[str, object]:
    """How a container of the image starts (OCI config.md), given the base's config."""
    kept = [one for one in _strings(base.get("Env")) if not one.startswith(("PATH=", "HOME="))]
    path = dict(one.partition("=")[::2] for one in _strings(base.get("Env"))).get("PATH", _PATH)
    return {
        "User": f"{USER}:{USER}",
        "WorkingDir": WORKSPACE,
        "Env": sorted([*kept, f"HOME={STATE}", f"PATH={PREFIX}/bin:{path}"]),
        "Entrypoint": [f"{PREFIX}/bin/python", *START],
        "Cmd": ["--help"],
        "Labels": dict(sorted(labels.items())),
    }


def _strings(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _placed(python: Interpreter, inner: str) -> str:
    below = inner.removeprefix("site-packages/")
    return f"{PREFIX}/{inner}" if below == inner else f"{python.packages}/{below}"


def _compiled(files: Mapping[str, File], python: Interpreter) -> dict[str, File]:
    found = {}
    for path, file in files.items():
        if path.endswith(".py") and (code := bytecode.compiled(tree.content(file), path)):
            found[bytecode.place(_CACHE, path, python.tag)] = tree.of_bytes(code)
    return found


def _venv(python: Interpreter) -> bytes:
    """PEP 405: whose standard library it uses, and none of its packages."""
    home = posixpath.dirname(python.path)
    return f"home = {home}\ninclude-system-site-packages = false\n".encode()

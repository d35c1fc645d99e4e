# SPDX-License-Identifier: Apache-2.0
"""A build context, for where no container tool is: a folder that any of them builds elsewhere.

It holds the layers as tars and a Containerfile that lays them on the base. The base is read only
where it is built, so its digest is that builder's; ``dockerize`` with the base at hand makes one
that is the same everywhere.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from fedclave.trust.contract import Contract
from fedclave.workspace import output
from fedclave.workspace.images import content, leaks, oci_write, tree
from fedclave.workspace.images.content import PREFIX, USER, WORKSPACE, Interpreter
from fedclave.workspace.images.tree import Link, Node
from fedclave.workspace.images.wheels import Wheel
from fedclave.workspace.layout import Workspace, make_empty

_NAMES = ("libraries.tar", "fedclave.tar", "workspace.tar")


def write(
    workspace: Workspace,
    contract: Contract,
    base: str,
    wheels: tuple[Wheel, ...],
    folder: Path,
    epoch: int,
) -> tuple[Path, ...]:
    """Write the context into a new or empty folder; returns its files."""
    names = [file.path for file in contract.files]
    leaks.check(workspace.root, names)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = Interpreter(path="/usr/bin/env", version=version, stdlib="/nowhere")
    placed = content.workspace_files(workspace, names)
    parts = content.make({}, python, wheels, placed)
    libraries: Mapping[str, Node] = {
        path: node for path, node in parts.libraries.items() if not _is_of_the_base(path, node)
    }
    make_empty(folder)
    with output.blamed_on(folder):
        for name, one in zip(_NAMES, (libraries, parts.fedclave, parts.workspace), strict=True):
            oci_write.pack(tree.with_folders(one), folder / name, epoch)
        (folder / "Containerfile").write_text(_containerfile(base, version), encoding="utf-8")
    return tuple(sorted(folder.iterdir()))


def _is_of_the_base(path: str, node: Node) -> bool:
    return isinstance(node, Link) or path == f"{PREFIX}/pyvenv.cfg"


def _containerfile(base: str, version: str) -> str:
    """The base's Python is found where it is built; it must be the one the wheels are for."""
    minor = version.partition(".")[2]
    venv = (
        "import os, sys; "
        f"assert sys.version_info[:2] == (3, {minor}), 'the base must have Python {version}'; "
        "real = os.path.realpath(sys.executable); "
        f"os.makedirs('{PREFIX}/bin', exist_ok=True); "
        f"os.symlink(real, '{PREFIX}/bin/python'); "
        f"open('{PREFIX}/pyvenv.cfg', 'w').write('home = ' + os.path.dirname(real) + "
        "'\\ninclude-system-site-packages = false\\n')"
    )
    entry = ", ".join(f'"{part}"' for part in (f"{PREFIX}/bin/python", *content.START))
    return "\n".join(
        (
            f"FROM {base}",
            "ADD libraries.tar fedclave.tar workspace.tar /",
            f"RUN python3 -c {shlex.quote(venv)}",
            f"USER {USER}:{USER}",
            f"WORKDIR {WORKSPACE}",
            f"ENV HOME={content.STATE}",
            f"ENTRYPOINT [{entry}]",
            'CMD ["--help"]',
            "",
        )
    )

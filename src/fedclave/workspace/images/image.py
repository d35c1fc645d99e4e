# SPDX-License-Identifier: Apache-2.0
"""An image of a workspace, from its inputs to the archive.

    base image     named, or a file; its Python and its libraries
    contract       the workspace's files, each with its SHA-256
    lock           the wheels, each with its SHA-256; this fedclave is one of them
    epoch          the one date in it (SOURCE_DATE_EPOCH)

Equal inputs give equal archives, byte for byte.
"""

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import fedclave
from fedclave.errors import UserError
from fedclave.trust.contract import Contract
from fedclave.workspace import output
from fedclave.workspace.images import content, engines, leaks, oci, oci_write, sbom, tree
from fedclave.workspace.images.content import Content, Interpreter
from fedclave.workspace.images.engines import Engine
from fedclave.workspace.images.oci import Image
from fedclave.workspace.images.oci_write import Written
from fedclave.workspace.images.prune import Count
from fedclave.workspace.images.tree import Node
from fedclave.workspace.images.wheels import Wheel
from fedclave.workspace.layout import Workspace

DEFAULT_BASE = (
    f"docker.io/library/python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"
)
EPOCH = 315532800  # 1980-01-01, the first date that every archive format can say


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base image on this machine: what it is, and everything in it."""

    name: str
    image: Image
    files: Mapping[str, Node]
    python: Interpreter


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished image."""

    name: str
    written: Written
    base: str
    base_id: str
    files: Count  # of its own layers
    before: Count  # of the wheels, before pruning
    after: Count


@contextmanager
def opened_base(name: str, engine: Engine | None, scratch: Path) -> Iterator[Base]:
    """The base image: a file or a folder on this machine, or what the engine knows by that name.

    It is unpacked below ``scratch`` until the block ends. ``UserError``: there is none.
    """
    with output.blamed_on(scratch), tempfile.TemporaryDirectory(dir=scratch) as folder:
        source = Path(name)
        if not source.exists():
            if engine is None:
                raise UserError(
                    f"there is no file {name}, and neither docker, podman nor buildah is here to"
                    " pull it. Install one, or name a saved image: --base-image FILE"
                )
            source = Path(folder) / "base.tar"
            engines.bring(engine, name, source)
        image = oci.read(source, Path(folder) / "layers")
        files = oci.files(image)
        environment = (image.config.get("config") or {}).get("Env") or ()
        python = content.interpreter(files, environment)
        called = name if engine is not None and not Path(name).exists() else f"sha256:{image.id}"
        yield Base(name=called, image=image, files=files, python=python)


def contents(
    workspace: Workspace, contract: Contract, base: Base, wheels: tuple[Wheel, ...]
) -> Content:
    """The files of an image besides its base's. ``UserError``: secrets or data are among them."""
    names = [file.path for file in contract.files]
    leaks.check(workspace.root, names)
    return content.make(base.files, base.python, wheels, content.workspace_files(workspace, names))


def write(
    contract: Contract,
    base: Base,
    wheels: tuple[Wheel, ...],
    parts: Content,
    target: Path,
    epoch: int,
    *,
    suffix: str = "",
    more: Mapping[str, Node] = MappingProxyType({}),
) -> Made:
    """Write the archive of an image to ``target``.

    ``more`` are files of a layer of their own; ``suffix`` follows the federation in its name.
    """
    name = named(contract, suffix)
    about = sbom.About(
        name=contract.federation,
        version=contract.measured_id[:12],
        base=base.name,
        base_id=base.image.id,
        created=oci_write.time_of(epoch),
    )
    listed = tree.of_bytes(sbom.document(about, wheels, base.files))
    trees = [parts.libraries, parts.fedclave, {**parts.workspace, content.SBOM: listed}]
    trees += [more] if more else []
    own = content.config(base.image.config.get("config") or {}, _labels(contract, base))
    with output.blamed_on(target.parent), tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        layers = [
            oci_write.pack(tree.with_folders(one), Path(scratch) / f"{number}.tar", epoch)
            for number, one in enumerate(trees)
        ]
        config = oci_write.configured(base.image, layers, own, epoch)
        written = oci_write.write(target, config, (*base.image.layers, *layers), name, epoch)
    mine = {**parts.libraries, **parts.fedclave, **parts.workspace, **more}
    counted = [node for node in mine.values() if isinstance(node, tree.File)]
    return Made(
        name=name,
        written=written,
        base=base.name,
        base_id=base.image.id,
        files=Count(files=len(counted), bytes=sum(node.size for node in counted)),
        before=parts.pruned.before,
        after=parts.pruned.after,
    )


def named(contract: Contract, suffix: str = "") -> str:
    """The image's name: of the federation, and of what its contract measures."""
    return f"{tag(contract.federation)}{suffix}:{contract.measured_id[:12]}"


def tag(federation: str) -> str:
    """A federation's name as the name of an image may be (OCI distribution, "name").

    >>> tag("Heart study. 2"), tag("...")
    ('heart-study-2', 'federation')
    """
    return "-".join(re.findall(r"[a-z0-9]+", federation.lower())) or "federation"


def _labels(contract: Contract, base: Base) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": contract.federation,
        "org.opencontainers.image.base.name": base.name,
        "org.opencontainers.image.base.digest": f"sha256:{base.image.id}",
        "org.fedclave.version": fedclave.__version__,
        "org.fedclave.measured-contract": contract.measured_id,
    }

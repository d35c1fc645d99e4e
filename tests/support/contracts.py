# SPDX-License-Identifier: Apache-2.0
"""An author who signed a workspace, and a site that imported and accepted it."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave import plan, tensors
from fedclave.plan import Plan
from fedclave.trust.gate import SignedContract
from fedclave.workspace import agreement, archive, assemble, layout
from fedclave.workspace.layout import Workspace

AUTHOR, OWNER, MALLORY = (
    Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3)
)


def authored(folder: Path) -> Workspace:
    """A new workspace with initial weights, signed by ``AUTHOR``."""
    workspace = layout.create("numpy-digits", folder)
    loaded = plan.load(workspace.plan)
    tensors.write(workspace.initial, assemble.initial(workspace, loaded, loaded.seed))
    agreement.sign(workspace, loaded, AUTHOR)
    return workspace


def imported(author: Workspace, folder: Path) -> Workspace:
    """The same at another site, by an archive."""
    packed = folder.with_suffix(".zip")
    archive.export(author, packed)
    return archive.unpack(packed, folder)


def accepted(workspace: Workspace, name: str = "anna", owner: Ed25519PrivateKey = OWNER) -> None:
    """The owner accepts, as ``fx plan accept --author`` does."""
    author = AUTHOR.public_key()
    signed = agreement.offered(workspace, of(workspace), author)
    agreement.accept(workspace, signed, name, author=author, owner=owner)


def loaded(workspace: Workspace, party: str | None = "anna") -> SignedContract | None:
    """What a run that starts here is held to."""
    return agreement.load(workspace, of(workspace), party)


def of(workspace: Workspace) -> Plan:
    """The plan of a workspace."""
    return plan.load(workspace.plan)

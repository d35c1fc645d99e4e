# SPDX-License-Identifier: Apache-2.0
"""From an image's files to its enclaves: manifests, measurements, signatures, and where they lie.

/opt/gramine/                          the loaders, PAL, LibOS, the C library
/opt/fedclave/enclave/ROLE.manifest.sgx    what SGX measures, with ROLE.sig
/opt/fedclave/enclave/ROLE.manifest        for gramine-direct, which protects nothing
/opt/fedclave/enclave/etc/             /etc of the enclave
/workspace/cert/chain.pem              the CA that this federation trusts
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fedclave.trust import enclave_key, sigstruct
from fedclave.trust.enclave_key import Signer
from fedclave.workspace.gramine import measured, runtime
from fedclave.workspace.gramine import recipe as recipes
from fedclave.workspace.gramine.closure import Missing
from fedclave.workspace.gramine.manifest import ROLES, TEMPLATES, Settings
from fedclave.workspace.gramine.measured import ENCLAVE, Sources
from fedclave.workspace.gramine.recipe import BaseImage, Gramine, Recipe
from fedclave.workspace.images import tree
from fedclave.workspace.images.tree import Node


@dataclass(frozen=True, kw_only=True)
class Enclaves:
    """What was made. ``signatures`` are SIGSTRUCTs by role, none without a key."""

    recipe: Recipe
    libpal: bytes
    signatures: Mapping[str, bytes]
    mr_signer: str  # hex; empty without a key
    missing: tuple[Missing, ...]
    nodes: Mapping[str, Node]  # the files that the image has besides its own


def make(
    sources: Sources,
    settings: Settings,
    *,
    contract: str,
    base: BaseImage,
    signer: Signer | None,
    epoch: int,
) -> Enclaves:
    """The enclaves of an image. ``contract`` is the measured id; ``epoch`` dates signatures.

    ``UserError``: a library is missing, or sizes do not fit. ``Refused``: the signer's signature
    is not that of its key.
    """
    listing = measured.listing(sources)
    files = sources.runtime.files
    _, libpal = tree.require_file(files, runtime.LIBPAL)
    _, libos = tree.require_file(files, runtime.LIBOS)
    binary = tree.content(libpal)
    recipe = recipes.derive(
        contract=contract,
        base=base,
        python=sources.python,
        gramine=Gramine(
            release=sources.runtime.release,
            libpal=tree.sha256(libpal),
            libos=tree.sha256(libos),
        ),
        settings=settings,
        folders=listing.folders,
        files=listing.files,
        libpal=binary,
    )
    signatures = {} if signer is None else _signed(recipe, signer, epoch)
    nodes: dict[str, Node] = {**files, **measured.settings()}
    nodes[measured.ROOT] = tree.of_bytes(sources.root)
    for role in ROLES:
        direct = recipe.manifest(role, protected=False)
        nodes[f"{ENCLAVE}/{role}.manifest"] = tree.of_bytes(direct)
        if signer is not None:
            nodes[f"{ENCLAVE}/{role}.manifest.sgx"] = tree.of_bytes(recipe.manifest(role))
            nodes[f"{ENCLAVE}/{role}.sig"] = tree.of_bytes(signatures[role])
    return Enclaves(
        recipe=recipe,
        libpal=binary,
        signatures=signatures,
        mr_signer="" if signer is None else _mr_signer(signatures),
        missing=listing.missing,
        nodes=nodes,
    )


def _signed(recipe: Recipe, signer: Signer, epoch: int) -> dict[str, bytes]:
    day = datetime.fromtimestamp(epoch, UTC).date()
    settings = recipe.settings
    return {
        role: enclave_key.sign(
            sigstruct.production(
                bytes.fromhex(recipe.measurements[role]),
                day,
                isv_prod_id=settings.isv_prod_id,
                isv_svn=settings.isv_svn,
                exinfo=TEMPLATES[settings.framework].exinfo,
            ),
            signer,
        )
        for role in ROLES
    }


def _mr_signer(signatures: Mapping[str, bytes]) -> str:
    return sigstruct.parse(signatures[ROLES[0]]).mrsigner.hex()

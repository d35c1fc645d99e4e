# SPDX-License-Identifier: Apache-2.0
"""``fx attest measure`` where a workspace came with the recipe of its enclaves."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedclave.cli import console, enclave
from fedclave.errors import Code, Refused, UserError

if TYPE_CHECKING:
    from fedclave.workspace.gramine.recipe import Recipe
    from fedclave.workspace.gramine.verify import Checked, Inputs
    from fedclave.workspace.images.image import Base
    from fedclave.workspace.layout import Workspace

WORDS = {
    "contract": "the contract",
    "wheel": "wheels of the lock",
    "made": "the same for all",
    "federation": "your federation's CA",
    "base": "the base image",
    "gramine": "Gramine",
}
HELP = {
    "federation": "certify this party first",
    "base": "--base-image REF",
    "gramine": "--gramine PACKAGE",
}


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a verifier brings besides the workspace."""

    base_image: str
    gramine: Path | None
    image: Path | None


def measure(folder: Path, given: Given, compare: list[Path], as_json: bool) -> None:
    """Make again, compute, compare; print. ``Refused(ATT_MRENCLAVE)``: something differs."""
    from fedclave.trust import files
    from fedclave.workspace import layout
    from fedclave.workspace.gramine import recipe as recipes
    from fedclave.workspace.gramine import verify

    workspace = layout.open_(folder)
    recipe = recipes.parse(
        files.read(workspace.recipe, "Get the workspace again"), str(workspace.recipe)
    )
    libpal = files.read(workspace.libpal, "Get the workspace again")
    contract = _contract(workspace)
    with ExitStack() as stack:
        console.note("Making the files again ...")
        checked = verify.check(recipe, _inputs(workspace, recipe, given, stack))
    if contract != recipe.contract:
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"the enclaves were made for the contract {recipe.contract[:16]}, and this is"
            f" {contract[:16]}. Have them made anew (fx workspace graminize)",
        )
    console.note("Computing MRENCLAVE ...")
    found = verify.check_measurements(recipe, libpal)
    signers = _signatures(workspace, found)
    for path in compare:
        _compare(path, found)
    if given.image is not None:
        _image(recipe, given.image, workspace)
    value = _value(recipe, checked, found, signers, compare, given)
    console.answer(value, _lines(value, compare, given), as_json)


def _contract(workspace: "Workspace") -> str:
    from fedclave import plan as plans
    from fedclave.workspace import agreement

    return agreement.close(workspace, plans.load(workspace.plan)).measured_id


def _inputs(workspace: "Workspace", recipe: "Recipe", given: Given, stack: ExitStack) -> "Inputs":
    import sys

    from fedclave import plan as plans
    from fedclave.cli import images
    from fedclave.workspace import agreement, output
    from fedclave.workspace.gramine import runtime
    from fedclave.workspace.gramine.verify import Inputs
    from fedclave.workspace.images import content

    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if recipe.python.version != here:
        raise UserError(
            f"the enclaves have Python {recipe.python.version}, and fx runs on {here}; modules are"
            f" compiled again by the same. Run fx on {recipe.python.version}"
        )
    with output.blamed_on(workspace.image):
        workspace.image.mkdir(parents=True, exist_ok=True)  # what is unpacked lies there
    base = _base(workspace, recipe, given.base_image, stack) if given.base_image else None
    release = None
    if given.gramine is not None:
        release = stack.enter_context(runtime.opened(given.gramine, workspace.image))
        _check_release(recipe, release)
    closed = agreement.close(workspace, plans.load(workspace.plan))
    names = [file.path for file in closed.files]
    tree = {} if base is None else base.files
    parts = content.make(
        tree, recipe.python, images.wheels(workspace), content.workspace_files(workspace, names)
    )
    return Inputs(
        parts=parts,
        root=_root(workspace),
        base=None if base is None else base.files,
        runtime=release,
    )


def _base(workspace: "Workspace", recipe: "Recipe", ref: str, stack: ExitStack) -> "Base":
    from fedclave.workspace.images import engines, image

    base = stack.enter_context(image.opened_base(ref, engines.find(), workspace.image))
    if base.image.id != recipe.base.id:
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"the enclaves stand on the base image {recipe.base.id[:16]} ({recipe.base.name}), and"
            f" {ref} is {base.image.id[:16]}. Name that one, or have them made anew",
        )
    if base.python != recipe.python:
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"the recipe says that the base has {recipe.python.path}; it has {base.python.path}",
        )
    return base


def _check_release(recipe: "Recipe", release: Any) -> None:
    from fedclave.workspace.gramine import runtime
    from fedclave.workspace.images import tree

    if release.release != recipe.gramine.release:
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"the enclaves have Gramine {recipe.gramine.release}, and this is {release.release}."
            " Name the package of that release",
        )
    wanted = {runtime.LIBPAL: recipe.gramine.libpal, runtime.LIBOS: recipe.gramine.libos}
    for path, sha256 in wanted.items():
        found = tree.sha256(release.files[path])
        if found != sha256:
            raise Refused(
                Code.ATT_MRENCLAVE,
                f"the package's {path.rpartition('/')[2]} has the SHA-256 {found[:16]}, and the"
                f" enclaves have {sha256[:16]}. Ask who made them where theirs is from",
            )


def _root(workspace: "Workspace") -> bytes | None:
    from cryptography.hazmat.primitives.serialization import Encoding

    from fedclave.trust.gate import Anchors

    if not (workspace.cert / "chain.pem").exists():
        return None
    return Anchors.read(workspace.cert).root.public_bytes(Encoding.PEM)


def _signatures(workspace: "Workspace", found: Mapping[str, str]) -> dict[str, str]:
    from fedclave.trust import files
    from fedclave.workspace.gramine import verify
    from fedclave.workspace.gramine.manifest import ROLES

    signers: dict[str, str] = {}
    for role in ROLES:
        path = workspace.signature(role)
        if path.exists():
            raw = files.read(path, "Get the workspace again")
            signers[role] = verify.check_signature(raw, role, found[role], str(path))
    return signers


def _compare(path: Path, found: Mapping[str, str]) -> None:
    said = enclave.said(path)
    if said.hex() not in found.values():
        roles = ", ".join(f"{one} ({role})" for role, one in found.items())
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"{path} says {said.hex()}, which is neither of this workspace's enclaves: {roles}",
        )


def _image(recipe: "Recipe", path: Path, workspace: "Workspace") -> None:
    import tempfile

    from fedclave.workspace.gramine import verify
    from fedclave.workspace.images import oci

    with tempfile.TemporaryDirectory(dir=workspace.image) as scratch:
        image = oci.read(path, Path(scratch))
        verify.check_image(recipe, oci.files(image), str(path))


def _value(
    recipe: "Recipe",
    checked: "Checked",
    found: Mapping[str, str],
    signers: Mapping[str, str],
    compare: list[Path],
    given: Given,
) -> dict[str, Any]:
    return {
        "mr_enclave": dict(found),
        "mr_signer": dict(signers),
        "isv_prod_id": recipe.settings.isv_prod_id,
        "isv_svn": recipe.settings.isv_svn,
        "contract": recipe.contract,
        "gramine": recipe.gramine.release,
        "base": recipe.base.name,
        "base_id": f"sha256:{recipe.base.id}",
        "enclave_size": recipe.settings.size,
        "max_threads": recipe.settings.max_threads,
        "made_again": dict(checked.made),
        "believed": dict(checked.believed),
        "libpal": "made again" if given.gramine else "believed",
        "same": [*compare, *([given.image] if given.image else [])],
    }


def _lines(value: Mapping[str, Any], compare: list[Path], given: Given) -> Iterator[str]:
    shown: dict[str, object] = {
        f"MRENCLAVE {role}": one for role, one in value["mr_enclave"].items()
    }
    for signer in sorted(set(value["mr_signer"].values())):
        roles = [role for role, one in value["mr_signer"].items() if one == signer]
        shown[f"MRSIGNER {' and '.join(roles)}"] = signer
    shown["ISV product, SVN"] = f"{value['isv_prod_id']}, {value['isv_svn']}"
    shown["enclave"] = f"{value['enclave_size']}, {value['max_threads']} threads"
    yield from console.rows(shown)
    yield ""
    yield "Made again here, and the same:"
    rows = {f"  {WORDS[kind]}": console.count(n, "file") for kind, n in value["made_again"].items()}
    yield from console.rows(rows)
    if value["believed"]:
        yield "BELIEVED, as the recipe has it (to make it again: on the right):"
        yield from console.rows(
            {
                f"  {WORDS[kind]}": f"{console.count(n, 'file'):12}{HELP[kind]}"
                for kind, n in value["believed"].items()
            }
        )
    if given.gramine is None:
        yield "libpal.so of plan/ is BELIEVED to be Gramine's; --gramine PACKAGE compares it."
    yield ""
    if not value["mr_signer"]:
        yield "Nobody signed these enclaves: SGX does not start them."
    for path in compare:
        yield f"{path} says the same."
    if given.image:
        yield f"{given.image} holds just this."

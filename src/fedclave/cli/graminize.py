# SPDX-License-Identifier: Apache-2.0
"""``fx workspace graminize``: from a workspace to enclaves that anybody can measure."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console, images
from fedclave.cli.images import BaseImage, Save
from fedclave.cli.options import Json, KeyPassphraseFile, WorkspaceDir, command, number
from fedclave.errors import UserError

if TYPE_CHECKING:
    from fedclave.trust.contract import Contract
    from fedclave.trust.enclave_key import Signer
    from fedclave.workspace.gramine.enclave import Enclaves
    from fedclave.workspace.gramine.manifest import Settings
    from fedclave.workspace.images.deployment import Deployment
    from fedclave.workspace.images.engines import Engine
    from fedclave.workspace.images.image import Base, Made
    from fedclave.workspace.images.wheels import Wheel
    from fedclave.workspace.layout import Workspace

COMMAND = "exec:"
ENTRY = "policy-entry.yaml"


def add_to(app: typer.Typer) -> None:
    """Add the command to the noun ``workspace``."""
    command(
        app,
        "graminize",
        "fx workspace graminize -s key.pem",
        "fx workspace graminize -s key.pem --enclave-size 8G --threads 8 --isv-svn 2 --save",
        "fx workspace graminize -s 'exec:pkcs11-sign --slot 0' --public-key enclave.pub",
        "fx workspace graminize --gramine gramine_1.9_amd64.deb",
    )(graminize)


def graminize(
    sign: Annotated[
        str,
        typer.Option(
            "--sign",
            "-s",
            metavar="KEY",
            help="The key that signs (PEM, RSA-3072, exponent 3), or 'exec:COMMAND' that signs.",
            show_default="none: for gramine-direct",
        ),
    ] = "",
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="FILE", help="With 'exec:': the key's public half."),
    ] = None,
    passphrase_file: KeyPassphraseFile = None,
    enclave_size: Annotated[
        str,
        typer.Option(
            "--enclave-size",
            metavar="SIZE",
            help="Memory of the enclave: a power of two.",
            show_default="4G; with torch 8G",
        ),
    ] = "",
    threads: Annotated[
        int, number("--threads", 1, 1024, "Threads that compute: the cores that it may use.")
    ] = 4,
    isv_prod_id: Annotated[
        int, number("--isv-prod-id", 0, 65535, "The signer's number for this product.")
    ] = 1,
    isv_svn: Annotated[
        int, number("--isv-svn", 0, 65535, "Its security version: raise it with each fix.")
    ] = 1,
    base_image: BaseImage = None,
    gramine: Annotated[
        Path | None,
        typer.Option(
            "--gramine",
            metavar="PATH",
            help="Gramine's package (.deb), or the folder that it was unpacked to.",
            show_default="the one that is installed",
        ),
    ] = None,
    save: Save = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Make an image whose roles run in SGX enclaves, measured and signed.

    It is the image of 'fx workspace dockerize' with Gramine and a manifest for each role. Neither
    SGX nor Gramine's tools are needed. The recipe goes to plan/enclave.json: with it, whoever has
    the workspace computes the same MRENCLAVE (fx attest measure). The key never enters the image.
    Without -s it runs under gramine-direct, which protects nothing.
    """
    from fedclave.workspace import layout
    from fedclave.workspace.gramine import manifest
    from fedclave.workspace.images import engines, image

    opened = layout.open_(workspace)
    contract = _contract(opened)
    root = _root(opened)
    signer = _signer(sign, public_key, passphrase_file)
    engine = engines.find()
    base = base_image or image.DEFAULT_BASE
    wheels = images.wheels(opened)
    kind = manifest.framework(one.name for one in wheels)
    settings = manifest.Settings(
        framework=kind,
        size=enclave_size or manifest.TEMPLATES[kind].enclave,
        threads=threads,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
    )
    manifest.check(settings)
    target = opened.image / f"{image.tag(contract.federation)}-enclave.tar"
    console.note(f"Reading the base image {base} ...")
    with image.opened_base(base, engine, opened.image) as on:
        made, enclaves = _build(opened, on, wheels, settings, signer, gramine, root, target)
    _note_recipe(opened, enclaves)
    kept = save or engine is None
    if engine is not None:
        engines.load(engine, target)
    if not kept:
        target.unlink()
    facts = _facts(made, enclaves, target if kept else None, engine)
    if signer is not None:
        facts["policy_entry"] = _write_entry(opened, enclaves)
    how, starts = images.deployed(_deployment(facts), opened, engine)
    console.answer({**facts, **how}, [*_lines(facts, enclaves), *starts], as_json)


def _deployment(facts: Mapping[str, Any]) -> "Deployment":
    """How it runs: in SGX, if somebody signed it."""
    from fedclave.workspace.images.deployment import Deployment, Kind

    return Deployment(
        image=facts["image"],
        kind=Kind.SGX if facts["mr_signer"] else Kind.DIRECT,
        digest=facts["digest"],
        enclave_size=facts["enclave_size"],
    )


def _build(
    workspace: "Workspace",
    base: "Base",
    wheels: "tuple[Wheel, ...]",
    settings: "Settings",
    signer: "Signer | None",
    gramine: Path | None,
    root: bytes,
    target: Path,
) -> "tuple[Made, Enclaves]":
    from fedclave.workspace.gramine import enclave, runtime
    from fedclave.workspace.gramine.measured import Sources
    from fedclave.workspace.gramine.recipe import BaseImage
    from fedclave.workspace.images import image

    contract, epoch = _contract(workspace), images.epoch()
    with runtime.opened(gramine, workspace.image) as release:
        console.note("Compiling modules ...")
        parts = image.contents(workspace, contract, base, wheels)
        console.note("Measuring ...")
        enclaves = enclave.make(
            Sources(parts=parts, python=base.python, base=base.files, runtime=release, root=root),
            settings,
            contract=contract.measured_id,
            base=BaseImage(name=base.name, id=base.image.id),
            signer=signer,
            epoch=epoch,
        )
        console.note("Writing layers ...")
        made = image.write(
            contract, base, wheels, parts, target, epoch, suffix="-enclave", more=enclaves.nodes
        )
    return made, enclaves


def _contract(workspace: "Workspace") -> "Contract":
    """The contract that is signed; before it can be, the one that will be.

    A plan that asks for attestation is signed with a policy, and the policy names these enclaves.
    What they measure leaves the policy out (``Contract.measured_id``), and so stays the same.
    """
    from fedclave import plan as plans
    from fedclave.workspace import agreement

    plan = plans.load(workspace.plan)
    if plan.attestation is not None and agreement.find(workspace) is None:
        return agreement.close(workspace, plan)
    return images.require_contract(workspace)


def _root(workspace: "Workspace") -> bytes:
    """The certificate (PEM) of the root that this federation trusts: it is measured."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from fedclave.trust.gate import Anchors

    if not (workspace.cert / "chain.pem").exists():
        raise UserError(
            f"{workspace.cert}/chain.pem is missing: an enclave trusts one CA, which is measured."
            " Set one up (fx workspace certify), or get this party certified; then run this again"
        )
    return Anchors.read(workspace.cert).root.public_bytes(Encoding.PEM)


def _signer(sign: str, public_key: Path | None, passphrase_file: Path | None) -> "Signer | None":
    from fedclave.trust import enclave_key
    from fedclave.trust.enclave_command import CommandKey

    if not sign:
        if public_key is not None:
            raise UserError("--public-key says whose signature a command makes. Give -s 'exec:...'")
        return None
    if not sign.startswith(COMMAND):
        path = Path(sign)
        return enclave_key.load(
            path, lambda: console.asked_passphrase(passphrase_file, f"the key {path.name}")
        )
    if public_key is None:
        raise UserError("a command that signs needs the key's public half. Add --public-key FILE")
    try:
        words = shlex.split(sign.removeprefix(COMMAND))
    except ValueError as error:
        raise UserError(f"{sign!r:.80} is no command ({error}). Quote its arguments") from error
    return CommandKey(words, public_key)


def _note_recipe(workspace: "Workspace", enclaves: "Enclaves") -> None:
    """Put what others need beside the contract: the recipe, libpal.so, the signatures."""
    from fedclave.workspace import output
    from fedclave.workspace.gramine.manifest import ROLES

    written = {
        workspace.recipe: enclaves.recipe.encoded,
        workspace.libpal: enclaves.libpal,
        **{workspace.signature(role): raw for role, raw in enclaves.signatures.items()},
    }
    for role in ROLES:
        if role not in enclaves.signatures:
            with output.blamed_on(workspace.signature(role)):
                workspace.signature(role).unlink(missing_ok=True)
    for path, raw in written.items():
        with output.new_file(path) as new:
            new.write_bytes(raw)


def _facts(
    made: "Made", enclaves: "Enclaves", archive: Path | None, engine: "Engine | None"
) -> dict[str, Any]:
    recipe = enclaves.recipe
    measured = recipe.measurements if enclaves.signatures else dict.fromkeys(recipe.measurements)
    return {
        **images.facts(made, archive, engine),
        "mr_enclave": dict(measured),
        "mr_signer": enclaves.mr_signer or None,
        "isv_prod_id": recipe.settings.isv_prod_id,
        "isv_svn": recipe.settings.isv_svn,
        "enclave_size": recipe.settings.size,
        "threads": recipe.settings.threads,
        "max_threads": recipe.settings.max_threads,
        "framework": recipe.settings.framework,
        "gramine": recipe.gramine.release,
        "measured": dict(sorted(Counter(one.origin for one in recipe.files).items())),
        "libraries_missing": [f"{one.name} ({one.needed_by})" for one in enclaves.missing],
        "policy_entry": None,
    }


def _lines(facts: Mapping[str, Any], enclaves: "Enclaves") -> Iterator[str]:
    signed = bool(enclaves.signatures)
    yield f"{facts['image']} is made{'' if signed else ', for gramine-direct only'}."
    yield ""
    if not signed:
        yield "NOT AN ENCLAVE: nobody signed it (-s), so SGX will not start it. gramine-direct runs"
        yield "the same program with the same files, and its host reads and changes everything."
        yield ""
    shown: dict[str, object] = {
        **{f"MRENCLAVE {role}": one for role, one in facts["mr_enclave"].items() if one},
        "MRSIGNER": facts["mr_signer"],
        "ISV product, SVN": f"{facts['isv_prod_id']}, {facts['isv_svn']}",
        "enclave": f"{facts['enclave_size']}, {console.count(facts['max_threads'], 'thread')}"
        f" ({facts['threads']} compute), for {facts['framework']}",
        "Gramine": facts["gramine"],
        "image": facts["digest"],
        "on": facts["base"],
    }
    if facts["archive"]:
        shown["archive"] = facts["archive"]
    yield from console.rows({name: one for name, one in shown.items() if one is not None})
    yield ""
    yield f"Measured are {console.count(sum(facts['measured'].values()), 'file')}:"
    counted = {f"  {origin}": str(number) for origin, number in facts["measured"].items()}
    yield from console.rows(counted)
    if facts["libraries_missing"]:
        yield ""
        yield "Nowhere in the image are these libraries, which a wheel names and may do without:"
        yield from (f"  {one}" for one in facts["libraries_missing"])
    if signed:
        yield ""
        yield f"For the attestation policy ({facts['policy_entry']}):"
        yield from (f"  {line}" for line in _entry(enclaves).splitlines())
    yield from console.steps("fx workspace export", "fx attest measure")


def _write_entry(workspace: "Workspace", enclaves: "Enclaves") -> Path:
    from fedclave.workspace import output

    target = workspace.image / ENTRY
    with output.new_file(target) as path:
        path.write_text(_entry(enclaves), encoding="utf-8")
    return target.absolute()


def _entry(enclaves: "Enclaves") -> str:
    """The lines of the policy that admit these enclaves, and no others."""
    from fedclave.workspace.gramine.manifest import TEMPLATES

    recipe = enclaves.recipe
    lines = ["roles:"]
    for role, measurement in recipe.measurements.items():
        lines += [
            f"  {role}:",
            "    measurements:",
            f'      - {{mr_enclave: {measurement}, note: "contract {recipe.contract[:12]}"}}',
            f"    signers: [{enclaves.mr_signer}]",
            f"    product: {{isv_prod_id: {recipe.settings.isv_prod_id}, min_isv_svn:"
            f" {recipe.settings.isv_svn}}}",
        ]
        if TEMPLATES[recipe.settings.framework].exinfo:
            lines.append("    misc_select: {mask: 0xffffffff, value: 1}")
    return "\n".join(lines) + "\n"

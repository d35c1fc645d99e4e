# SPDX-License-Identifier: Apache-2.0
"""What can come through the inbox, and how each kind is verified before a party takes it in.

Each function returns in words what was taken, and raises ``Refused`` or ``UserError`` for what is
not good; nothing is written before it was verified.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedclave.cli import console, exchange, join
from fedclave.cli.party import Party
from fedclave.errors import Code, Refused, UserError
from fedclave.trust import contract as contracts
from fedclave.trust import crl, dsse, files, gate, pck, policy_file, roots, signing, tokens
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.anchors import Anchors
from fedclave.trust.collateral_store import Store
from fedclave.trust.contract import ACCEPTANCE_TYPE, Acceptance
from fedclave.trust.names import Role
from fedclave.workspace import agreement, output


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A file that the host brought, and for whom."""

    party: Party
    role: Role
    path: Path
    data: bytes = field(repr=False)
    hosts: tuple[str, ...]
    allow_simulated: bool

    @property
    def text(self) -> str:
        """The file as text. ``UserError``: it is none."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path} is not text. Put the right file there") from error


Take = Callable[[Delivery], Awaitable[str]]


@dataclass(frozen=True)
class Kind:
    """A kind of file: under which name it comes, and who takes it in."""

    pattern: str
    """As ``Path.glob`` has it; NAME is the party's."""
    take: Take


async def author(came: Delivery) -> str:
    """Whose contracts count at this party: the first key that comes, for good."""
    agreement.pin(came.party.workspace, agreement.AUTHOR, _public(came))
    return "the author's key"


async def owner(came: Delivery) -> str:
    """Whose acceptance counts at this party: the first key that comes, for good."""
    agreement.pin(came.party.workspace, agreement.OWNER, _public(came))
    return "the data owner's key"


async def contract(came: Delivery) -> str:
    """The contract, by the author that this party knows, about the plan that is here."""
    workspace, plan = came.party.workspace, came.party.plan
    known = _pinned(came, agreement.AUTHOR)
    envelope = dsse.decode(came.data)
    signed = gate.authored(envelope, authors=[known], federation=plan.name, plan=plan.digest)
    _keep(workspace.contract, came.data)
    return f"contract {signed.id[:12]}"


async def acceptance(came: Delivery) -> str:
    """The owner's word that this party may take part in the contract that lies here."""
    workspace, plan = came.party.workspace, came.party.plan
    if came.role != "collaborator":
        raise UserError(f"{came.path}: the {came.role} has no data, so nobody accepts for it")
    known, found = _pinned(came, agreement.OWNER), agreement.find(workspace)
    if found is None:
        raise UserError(f"{came.path} is about a contract. Bring contract.dsse.json first")
    word = contracts.parse_acceptance(
        dsse.verified(dsse.decode(came.data), ACCEPTANCE_TYPE, [known])
    )
    due = Acceptance(contract=found.contract.id, federation=plan.name, party=came.party.name)
    if word != due:
        raise Refused(
            Code.WRONG_CONTRACT,
            f"{came.path} is the word for {word.party!r} and contract {word.contract[:12]}, and"
            f" this is {due.party!r} and {due.contract[:12]}. Have this one accepted",
        )
    files.write(workspace.acceptance(came.party.name), came.data)
    return f"the owner's acceptance of contract {due.contract[:12]}"


async def policy(came: Delivery) -> str:
    """A version of the policy, by its signers' word, and not older than the last one."""
    workspace, plan = came.party.workspace, came.party.plan
    if plan.attestation is None:
        raise UserError(f"{workspace.plan} asks for no attestation, so there is no policy")
    found = policy_file.looked_at(
        came.path,
        policy_file.envelope_of(came.path),
        signers=plan.attestation.signers,
        threshold=plan.attestation.threshold,
        pins=workspace.cert / "policies",
    )
    envelope = files.read(policy_file.envelope_of(came.path), "Bring both files")
    _keep(workspace.attestation_signatures, envelope)
    _keep(workspace.attestation, came.data)  # verified again whenever it is read
    return found.policy.label


async def collateral(came: Delivery) -> str:
    """Collateral under Intel's root, or under the one that comes beside it (a simulated TEE's)."""
    folder = came.party.workspace.cert / "collateral"
    beside_it = _root_beside(came.path)
    root = beside_it.read_bytes() if beside_it.is_file() else pck.INTEL_ROOT
    roots.spki_hash(root)
    added = Store(folder=folder, roots=(root,)).add(came.data, came.party.clock())
    roots.keep(folder, root)
    return f"collateral for {added.tcb_info.tee} platforms {added.tcb_info.fmspc.hex()}"


async def token(came: Delivery) -> str:
    """A join token: the key is made here, and the CA certifies it."""
    workspace, now = came.party.workspace, came.party.clock()
    found = tokens.parse(came.text, now)
    join.check(workspace, found)
    if (found.role, found.name) != (came.role, came.party.name):
        raise UserError(
            f"{came.path} is a token for {found.role} {found.name!r}, and this is {came.role}"
            f" {came.party.name!r}. Bring the one that was made for it"
        )
    made = await join.take(
        workspace, found, now, hosts=came.hosts, allow_simulated=came.allow_simulated
    )
    return f"a certificate until {console.when(made.leaf.not_valid_after_utc)}"


async def certificate(came: Delivery) -> str:
    """The CA's answer to our request, from the CA that this party knows."""
    workspace = came.party.workspace
    known = workspace.cert if (workspace.cert / "chain.pem").exists() else None
    if known is None and workspace.measured_root is None:
        raise UserError(
            f"{came.path}: nothing here says which CA is the federation's. Bring a join token, or"
            " make the image where the CA's cert/chain.pem lies"
        )
    subject = exchange.Subject(workspace=workspace, role=came.role, name=came.party.name)
    taken = exchange.take(subject, came.path, yes=True, now=came.party.clock())
    return f"a certificate until {console.when(taken['until'])}"


async def revocations(came: Delivery) -> str:
    """A revocation list of our CA, later than the one that is here."""
    cert = came.party.workspace.cert
    anchors = Anchors.read(cert)
    try:
        number = crl.number(crl.parse(came.data, anchors.issuing))
    except (ValueError, TypeError) as error:
        raise Refused(
            Code.REVOCATION_UNKNOWN, f"{came.path} is not our CA's revocation list ({error})"
        ) from error
    adopt(cert, anchors.chain, came.data, root=root_sha256(anchors))
    return f"revocation list {number}"


KINDS = (
    Kind("author.pub", author),
    Kind("owner.pub", owner),
    Kind("contract.dsse.json", contract),
    Kind("attestation.yaml", policy),
    Kind("*collateral.json", collateral),
    Kind("NAME.acceptance.dsse.json", acceptance),
    Kind("*.token", token),
    Kind("*.cert.pem", certificate),
    Kind("crl.pem", revocations),
)
"""In the order in which one needs the other."""


def companions(path: Path) -> tuple[Path, ...]:
    """The files that come with a file, and go with it."""
    if path.name == "attestation.yaml":
        return (policy_file.envelope_of(path),)
    if path.name.endswith("collateral.json"):
        return (_root_beside(path),)
    return ()


def beside(path: Path) -> bytes:
    """The bytes of what comes with a file: a signature that comes later makes it another one."""
    return b"".join(one.read_bytes() for one in companions(path) if one.is_file())


def _root_beside(path: Path) -> Path:
    return path.with_name(path.name.removesuffix("collateral.json") + "root.der")


def _public(came: Delivery) -> Ed25519PublicKey:
    return signing.parse_public(came.data, str(came.path))


def _pinned(came: Delivery, who: str) -> Ed25519PublicKey:
    known = agreement.pinned(came.party.workspace, who)
    if known is None:
        raise UserError(f"{came.path} is signed, and nobody has said by whom. Bring {who}.pub too")
    return known


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with output.new_file(path) as temporary:
        temporary.write_bytes(data)

# SPDX-License-Identifier: Apache-2.0
"""What a party in an image still lacks before its run, in the order in which it can be had."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from fedclave.cli import attesting, exchange
from fedclave.cli.inbox import Inbox, Tell
from fedclave.cli.party import Party
from fedclave.cli.upkeep import contacts
from fedclave.errors import FedclaveError, Refused, Unavailable, UserError
from fedclave.trust import keys
from fedclave.trust.credentials import Credentials, renew_due
from fedclave.trust.names import Role
from fedclave.workspace import agreement, members, output
from fedclave.workspace.enclave_yaml import FILE, EnclaveFile

LOOK_S = 1.0


@dataclass(kw_only=True)
class Host:
    """A party in an image, and what its host chose for it."""

    party: Party
    role: Role
    chosen: EnclaveFile
    allow_simulated: bool
    inbox: Inbox
    tell: Tell
    _asked: tuple[str, ...] = field(default=())

    @property
    def data(self) -> Path:
        """Where a collaborator's data lies."""
        return self.party.workspace.own.absolute() / (self.chosen.data or "data")

    def request(self) -> None:
        """Write NAME.csr for the host to carry, unless the one that is there still counts.

        ``UserError``, ``Refused``: contract, policy or TEE are missing.
        """
        party, workspace, plan = self.party, self.party.workspace, self.party.plan
        found = agreement.find(workspace)
        policy = (
            attesting.current_policy(workspace, plan, party.clock()).digest
            if plan.attestation is not None
            else ""
        )
        about = ("" if found is None else found.contract.id, policy)
        path = workspace.own / f"{party.name}.csr"
        if self._asked == about and path.exists():
            return
        subject = exchange.Subject(workspace=workspace, role=self.role, name=party.name)
        made = exchange.make_request(
            subject, plan, self.inbox.hosts, allow_simulated=self.allow_simulated
        )
        with output.new_file(path) as temporary:
            temporary.write_bytes(made.public_bytes(Encoding.PEM))
        self._asked = about
        self.tell("requested", file=path, fingerprint=keys.fingerprint(made))


def host(
    party: Party, role: Role, chosen: EnclaveFile, *, allow_simulated: bool, tell: Tell
) -> Host:
    """A party with its inbox."""
    planned = party.plan.network.address.rpartition(":")[0].strip("[]")
    hosts = (chosen.hosts or (planned,)) if role == "aggregator" else ()
    inbox = Inbox(party=party, role=role, hosts=hosts, allow_simulated=allow_simulated, tell=tell)
    return Host(
        party=party,
        role=role,
        chosen=chosen,
        allow_simulated=allow_simulated,
        inbox=inbox,
        tell=tell,
    )


async def until_ready(host: Host) -> None:
    """Take in what comes until nothing is missing; each thing that is missing is told of once."""
    said: set[tuple[str, str]] = set()
    while True:
        await host.inbox.look()
        lacking = await asyncio.to_thread(lambda: list(_lacking(host)))
        for what, where in lacking:
            if (what, where) not in said:
                host.tell("waiting_for", what=what, where=where)
        if not lacking:
            if said:
                host.tell("ready")
            return
        said = set(lacking)
        await asyncio.sleep(LOOK_S)


async def watch(host: Host) -> None:
    """Take in what comes while a run lasts, and ask in time for the next certificate."""
    while True:
        with suppress(Unavailable):
            await host.inbox.look()
        with suppress(FedclaveError):  # the run itself tells of what is wrong there
            await asyncio.to_thread(_ask_again, host)
        await asyncio.sleep(LOOK_S)


def _ask_again(host: Host) -> None:
    """A party that certified by hand needs somebody to carry its next request."""
    party = host.party
    leaf = Credentials.read(party.workspace.cert, party.name).leaf
    known = contacts(party.workspace.cert, party.name)
    if known is None and renew_due(leaf, party.clock()):
        host.request()


def _lacking(host: Host) -> Iterator[tuple[str, str]]:
    """What is missing, and where to put it; nothing of what needs something that is missing."""
    party, workspace, plan = host.party, host.party.workspace, host.party.plan
    inbox, now = host.inbox.folder, party.clock()
    whole = True
    if plan.attestation is not None:
        try:
            attesting.current_policy(workspace, plan, now)
        except (UserError, Refused) as error:
            whole = False
            yield (
                "the attestation policy and its signatures",
                f"{inbox}/attestation.yaml and attestation.dsse.json ({error})",
            )
        if agreement.pinned(workspace, agreement.AUTHOR) is None:
            whole = False
            yield "the author's public key", f"{inbox}/author.pub"
        elif agreement.find(workspace) is None:
            whole = False
            yield "the contract that the author signed", f"{inbox}/contract.dsse.json"
    try:
        agreement.load(workspace, plan, None if host.role == "aggregator" else party.name)
    except (UserError, Refused) as error:
        if whole and host.role == "collaborator":
            yield (
                "the data owner's acceptance",
                f"{inbox}/owner.pub and {party.name}.acceptance.dsse.json ({error})",
            )
        elif whole:
            whole = False
            yield "a contract that fits what is measured", f"{inbox}/contract.dsse.json ({error})"
    if whole:
        yield from _uncertified(host)
    if host.role == "aggregator" and not members.members(workspace):
        yield "the list of members", f"{workspace.members}, as the CA's owner has it"
    if host.role == "collaborator" and not host.data.exists():
        yield f"the data that {workspace.own / FILE} names", str(host.data)


def _uncertified(host: Host) -> Iterator[tuple[str, str]]:
    party, inbox = host.party, host.inbox.folder
    cert = party.workspace.cert
    why = ""
    if (cert / f"{party.name}.pem").exists():
        try:
            party.certified(host.role)
            return
        except (UserError, Refused) as error:
            why = f" ({error})"
    try:
        host.request()
    except (UserError, Refused, Unavailable) as error:
        yield "what a certificate request takes", str(error)
        return
    yield (
        "a certificate",
        f"carry {party.workspace.own / (party.name + '.csr')} to the CA, and its answer to"
        f" {inbox}/{party.name}.cert.pem; or a join token to {inbox}/{party.name}.token{why}",
    )

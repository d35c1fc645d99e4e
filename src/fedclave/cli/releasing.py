# SPDX-License-Identifier: Apache-2.0
"""What is given only to a process that has proved what it runs.

    initial model   from the model's owner to the aggregator      fx model release
    data key        from the data's owner to a collaborator       fx data release

Each release is logged by who releases, in ``logs/releases``, before anything goes out; that of the
initial model also in the aggregator's log.
"""

import errno
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave import tensors
from fedclave.cli import attesting, auditing
from fedclave.cli.audit import RELEASES
from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.plan import Plan
from fedclave.tensors import Stored
from fedclave.transport.grpc.release import Inbox, give
from fedclave.trust import records, release, sealed
from fedclave.trust.attesting import Side, Terms
from fedclave.trust.credentials import Credentials
from fedclave.trust.dcap import DcapJudge
from fedclave.trust.gate import Anchors
from fedclave.trust.judgement import Word, plainly
from fedclave.trust.log import Log
from fedclave.trust.policy import Purpose
from fedclave.trust.records import ReleaseRecord
from fedclave.trust.release import Context
from fedclave.trust.releasing import Grant, Receiver, Releaser
from fedclave.trust.verify import Verifier
from fedclave.workspace import agreement, initial
from fedclave.workspace.layout import Workspace

if TYPE_CHECKING:
    from fedclave.cli.party import Party

MAX_KEY = 4096  # bytes of a sealed key

Sealer = Callable[[Grant, Path], str]
"""Seals what is released into a file; returns its digest."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """What was given away."""

    purpose: Purpose
    name: str
    word: str
    measurement: str
    object: str
    transcript: str


# At the party that waits.


async def initial_model(
    party: "Party",
    side: Side,
    word: Word,
    listen: str,
    begin: Callable[[Stored], None],
    logged: Callable[[ReleaseRecord], None],
) -> None:
    """Wait for the initial model, and begin with it; ``word`` is how this aggregator stands."""
    known = initial.described(party.workspace, party.plan)

    def take(path: Path, context: Context) -> None:
        with in_memory(party.workspace.initial.name, inside=party.inside) as (file, opened):
            key = sealed.file_key(side.pair, path, context=context)
            sealed.decrypt(key, path, file)
            file.flush()
            params = Stored(opened)
            if tensors.digest(params) != known.digest:
                raise Refused(
                    Code.WRONG_DIGEST,
                    "the model that was released is not the one of the contract. Release the"
                    f" weights of {known.digest[:16]}, or have this contract signed anew",
                )
            begin(params)
            logged(
                ReleaseRecord(
                    at=party.clock(),
                    to=side.name,
                    purpose="initial-model",
                    word=word,
                    key=release.digest_of(side.pair.public),
                    object=known.digest,
                    transcript=context.transcript,
                )
            )

    limit = sealed.sealed_size(known.layout.size)
    async with _waiting(party, side, "initial-model", listen, limit, take) as inbox:
        await inbox.wait()


@asynccontextmanager
async def opened_data(
    party: "Party", side: Side | None, data: Path, listen: str
) -> AsyncIterator[Path]:
    """The data of a party: as it is, or opened in memory once its owner has given the key."""
    if not sealed.is_sealed(data):
        yield data
        return
    if side is None or side.attester is None:
        raise UserError(
            f"{data} is sealed, and its key goes only to a collaborator that proves what it runs."
            " The plan must ask that of collaborators (attestation.required)"
        )
    with in_memory(data.name.removesuffix(".sealed"), inside=party.inside) as (file, opened):

        def take(path: Path, context: Context) -> None:
            key = release.open(side.pair, path.read_bytes(), context=context)
            file.seek(0)
            file.truncate()
            sealed.decrypt(key, data, file)
            file.flush()

        async with _waiting(party, side, "data-key", listen, MAX_KEY, take) as inbox:
            await inbox.wait()
        yield opened


@asynccontextmanager
async def _waiting(
    party: "Party",
    side: Side,
    purpose: Purpose,
    listen: str,
    limit: int,
    take: Callable[[Path, Context], None],
) -> AsyncIterator[Inbox]:
    who = agreement.AUTHOR if purpose == "initial-model" else agreement.OWNER
    releaser = agreement.pinned(party.workspace, who)
    if releaser is None:
        raise UserError(
            f"{party.workspace.cert / who}.pub is missing: nobody is known here who could release"
            f" the {plainly(purpose)}. Run 'fx plan accept' first"
        )

    def refused(address: str, error: Refused) -> None:
        party.tell(
            "release_refused",
            peer=address,
            code=str(error.code),
            message=f"a release from {address} was refused: {error.code}: {error.message}",
        )

    receiver = Receiver(
        side=side,
        purpose=purpose,
        releaser=releaser,
        leaf=lambda: Credentials.read(party.workspace.cert, party.name).leaf,
    )
    folder = party.workspace.save
    for left in folder.glob(".release-*.tmp"):  # by a process that was killed
        left.unlink(missing_ok=True)
    inbox = Inbox(receiver, folder, limit=limit, take=take, refused=refused)
    async with inbox.listening(listen) as port:
        address = f"{listen.rpartition(':')[0]}:{port}"
        command = f"fx model release {address}"
        if purpose == "data-key":
            command = f"fx data release {address} SEALED -n {side.name}"
        party.tell(
            "awaiting_release",
            purpose=purpose,
            address=address,
            message=f"waiting for the {plainly(purpose)} at {address}. Its owner runs: {command}",
        )
        yield inbox
    party.tell(
        "release_opened",
        purpose=purpose,
        message=f"the {plainly(purpose)} has come, and opened",
    )


@contextmanager
def in_memory(name: str, *, inside: bool = False) -> Iterator[tuple[BinaryIO, Path]]:
    """A file that is on no disk and gone with this process, and a path to it of this name.

    ``inside`` is a ``Party``'s: Gramine has no memfd_create(2), and a tmpfs for temporary files.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedclave-")))
        path = folder / name
        try:
            descriptor = os.memfd_create("fedclave", os.MFD_CLOEXEC)
        except OSError as error:
            if not inside or error.errno != errno.ENOSYS:
                raise Unavailable(
                    f"there is no memory for {name} ({error.strerror}), and it must not lie on a"
                    " disk. Free memory, or use a system with memfd_create, then start again"
                ) from error
            file = stack.enter_context(path.open("x+b"))
        else:
            file = stack.enter_context(os.fdopen(descriptor, "r+b"))
            path.symlink_to(f"/proc/self/fd/{descriptor}")
        yield file, path


# At the side that releases.


def releaser(
    workspace: Workspace,
    plan: Plan,
    purpose: Purpose,
    name: str,
    key: Ed25519PrivateKey,
    stack: ExitStack,
    *,
    allow_simulated: bool,
    now: Callable[[], datetime],
) -> Releaser:
    """The owner of a secret, with what it verifies the party by."""
    author = agreement.pinned(workspace, agreement.AUTHOR)
    if author is None:
        raise UserError(
            f"{workspace.cert / agreement.AUTHOR}.pub is missing: nobody here has said whose"
            " contracts count. Run 'fx plan accept' first"
        )
    signed = agreement.offered(workspace, plan, author)
    policy = attesting.current_policy(workspace, plan, now())
    must = attesting.required(plan)
    return Releaser(
        key=key,
        purpose=purpose,
        name=name,
        terms=Terms(federation=plan.name, contract=signed.id, policy=policy, required=must),
        verifier=Verifier(
            store=attesting.store(workspace, policy), second=stack.enter_context(DcapJudge())
        ),
        anchors=Anchors.read(workspace.cert),
        allow_simulated=allow_simulated,
        now=now,
    )


async def release_to(
    workspace: Workspace, plan: Plan, to: Releaser, address: str, seal: Sealer
) -> Released:
    """Give a secret to the party at an address, if it proves what it runs."""
    with Log(
        workspace.logs / RELEASES, auditing.log_key(workspace), f"fedclave/{plan.name}/{RELEASES}"
    ) as log:
        said: list[ReleaseRecord] = []

        def sealing(grant: Grant, target: Path) -> None:
            record = ReleaseRecord(
                at=to.now(),
                to=to.name,
                purpose=to.purpose,
                word=grant.standing.verdict.word,
                key=grant.key_digest,
                object=seal(grant, target),
                transcript=grant.context.transcript,
            )
            log.append(records.encode(record))
            log.checkpoint()
            said.append(record)

        with tempfile.TemporaryDirectory(prefix=".release-", dir=_made(workspace.save)) as folder:
            grant = await give(address, to, sealing, Path(folder) / "sealed")
    (record,) = said
    return Released(
        purpose=to.purpose,
        name=to.name,
        word=record.word.value,
        measurement=grant.standing.verdict.measurement or "",
        object=record.object,
        transcript=record.transcript,
    )


def seal_initial(workspace: Workspace, plan: Plan) -> Sealer:
    """Seals the initial model. ``UserError``: it is not here, or not the contract's."""
    known = initial.described(workspace, plan)
    if not workspace.initial.is_file():
        raise UserError(
            f"there is no {workspace.initial}. Run this in the workspace of the model's owner"
        )
    if not initial.is_sealed(plan):
        raise UserError(
            f"{workspace.plan} does not have the initial model sealed: it is in the archive, and"
            " there is nothing to release"
        )
    if tensors.digest(Stored(workspace.initial)) != known.digest:
        raise UserError(f"{workspace.initial} is not the model of {workspace.initial_layout}")

    def seal(grant: Grant, target: Path) -> str:
        sealed.seal_file(grant.key, workspace.initial, target, context=grant.context)
        return known.digest

    return seal


def seal_data_key(pair: release.KeyPair, data: Path, name: str) -> Sealer:
    """Seals the key of one sealed file. ``Refused``: the file is not sealed to this key."""
    key = sealed.file_key(pair, data, context=Context.at_rest(data_purpose(name)))

    def seal(grant: Grant, target: Path) -> str:
        target.write_bytes(release.seal(grant.key, key, context=grant.context))
        return tensors.file_digest(data)

    return seal


def data_purpose(name: str) -> str:
    """What a party's data is sealed for."""
    return f"data:{name}"


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"{folder} cannot be made ({error.strerror}). Change its owner, then run again"
        ) from error
    return folder

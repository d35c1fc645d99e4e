# SPDX-License-Identifier: Apache-2.0
"""The inbox: where the host of an enclave puts what the party inside is to have.

    author.pub, owner.pub                        whose contracts, and whose acceptance, count
    contract.dsse.json                           the contract, signed by its author
    NAME.acceptance.dsse.json                    the data owner's word on it
    attestation.yaml, attestation.dsse.json      a version of the policy, and its signatures
    ...collateral.json (and ...root.der)         what is signed about a kind of platform
    NAME.token                                   a join token
    NAME.cert.pem                                the CA's answer to NAME.csr
    crl.pem                                      the CA's revocation list

Each is verified, by the same code that verifies it anywhere, before it is taken into ``cert`` or
``plan``; then it is removed here. What is not good stays, and ``FILE.refused`` beside it says why.
The host writes this folder, so all of it is a stranger's bytes, and a name is no more than a name.
"""

import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from fedclave.cli import taking
from fedclave.cli.party import Party
from fedclave.errors import FedclaveError, Unavailable, UserError
from fedclave.trust.names import Role

MAX_SIZE = 4 * 1024 * 1024  # bytes of one file
RETRY_S = 5.0  # between two tries of what needs somebody who is away
_REFUSED = ".refused"

Tell = Callable[..., None]


@dataclass(kw_only=True)
class Inbox:
    """The inbox of one party. ``look`` takes in what is new and good."""

    party: Party
    role: Role
    hosts: tuple[str, ...]
    allow_simulated: bool
    tell: Tell
    _known: dict[str, str] = field(default_factory=dict)  # digest of what was looked at last
    _later: dict[str, float] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the host puts things."""
        return self.party.workspace.own / "inbox"

    async def look(self) -> bool:
        """Take in what has come, each file once as it is now; whether anything was taken."""
        taken = False
        for kind in taking.KINDS:  # in the order in which one needs the other
            for path in self._matching(kind.pattern):
                taken |= await self._one(path, kind.take)
        return taken

    def _matching(self, pattern: str) -> Iterator[Path]:
        with suppress(OSError):  # the host need not have made it yet
            self.folder.mkdir(parents=True, exist_ok=True)
        named = pattern.replace("NAME", self.party.name)
        yield from sorted(path for path in self.folder.glob(named) if path.suffix != _REFUSED)

    async def _one(self, path: Path, take: "Callable[[taking.Delivery], Awaitable[str]]") -> bool:
        note = path.with_name(f"{path.name}{_REFUSED}")
        try:
            data = _read(path)
        except OSError:  # it came and went
            return False
        digest = hashlib.sha256(data + taking.beside(path)).hexdigest()
        if self._known.get(path.name) == digest or monotonic() < self._later.get(path.name, 0.0):
            return False
        delivery = taking.Delivery(
            party=self.party,
            role=self.role,
            path=path,
            data=data,
            hosts=self.hosts,
            allow_simulated=self.allow_simulated,
        )
        try:
            if len(data) > MAX_SIZE:
                raise UserError(f"{path} has more than {MAX_SIZE} bytes. Put the right file there")
            what = await take(delivery)
        except Unavailable as error:  # it may be good, at another time
            self._later[path.name] = monotonic() + RETRY_S
            if self._said.get(path.name) != str(error):
                self._said[path.name] = str(error)
                self.tell("inbox_trouble", file=path, message=str(error))
            return False
        except FedclaveError as error:
            self._known[path.name] = digest
            code = str(getattr(error, "code", "user"))
            _write(note, f"{error}\n")
            self.tell("inbox_refused", file=path, code=code, message=str(error))
            return False
        for done in (note, path, *taking.companions(path)):
            with suppress(OSError):
                done.unlink(missing_ok=True)
        self._known[path.name] = digest  # if the host lets nobody remove it
        self.tell("inbox_taken", file=path, what=what)
        return True


def _read(path: Path) -> bytes:
    """A file's bytes, but one more than may be; a link or a device is not followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        return file.read(MAX_SIZE + 1)


def _write(path: Path, text: str) -> None:
    """Tell the host; it is its folder, so if it cannot be written, that is the host's affair."""
    with suppress(OSError):
        path.write_text(text, encoding="utf-8")

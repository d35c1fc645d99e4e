# SPDX-License-Identifier: Apache-2.0
"""A running party keeps its certificate and its revocation list fresh by itself.

That takes the address of the CA's enrolment service, which a join token brings and
``cert/NAME.json`` keeps. A party without it is told in time what to do.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fedclave.cli import console
from fedclave.errors import Unavailable, UserError
from fedclave.transport.grpc import enrol
from fedclave.trust import files
from fedclave.trust.certifying import Prove, unproved
from fedclave.trust.credentials import Credentials, renew_due

PERIOD = timedelta(minutes=10)
Clock = Callable[[], datetime]


@dataclass(frozen=True, kw_only=True)
class Contacts:
    """Where a party finds the CA's enrolment service, and the aggregator."""

    authority: str
    aggregator: str

    def write(self, cert: Path, name: str) -> None:
        """Keep them for the party's later commands."""
        files.write(_path(cert, name), json.dumps(asdict(self)).encode())


def contacts(cert: Path, name: str) -> Contacts | None:
    """What a token told this party, if it joined by one."""
    path = _path(cert, name)
    if not path.is_file():
        return None
    try:
        return Contacts(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}). Remove it, or join again") from error


async def keep_fresh(
    cert: Path,
    name: str,
    *,
    clock: Clock,
    notice: Callable[[str], None],
    renewed: Callable[[], None] = lambda: None,
    prove: Prove = unproved,
    pause: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(PERIOD.total_seconds()),
) -> None:
    """Renew when two thirds of the certificate's life have passed; fetch the list in between.

    ``notice`` is told once of each new trouble, and of each renewal. ``prove`` speaks of the TEE
    that makes the new key. Never returns.
    """
    said = ""
    while True:
        message = await _freshen(cert, name, clock, renewed, prove)
        if message and message != said:
            notice(message)
        said = message
        await pause()


async def _freshen(
    cert: Path, name: str, clock: Clock, renewed: Callable[[], None], prove: Prove
) -> str:
    try:
        now, known = clock(), contacts(cert, name)
        leaf = Credentials.read(cert, name).leaf
        ends = f"the certificate of {name!r} ends at {console.when(leaf.not_valid_after_utc)}"
        due = renew_due(leaf, now)
        if known is None:
            return f"{ends}. Have it renewed by the CA: fx ca renew {name}" if due else ""
        if not due:
            with suppress(Unavailable):  # the service need not run always; a list lasts 30 days
                await enrol.refresh(known.authority, cert, now=now)
            return ""
        fresh = await enrol.renew(known.authority, cert, name, now=now, prove=prove)
    except Exception as error:  # whatever it was, it must not end the run
        return f"the certificate or the revocation list could not be refreshed: {error}"
    renewed()
    return f"renewed: valid until {console.when(fresh.leaf.not_valid_after_utc)}"


def _path(cert: Path, name: str) -> Path:
    return cert / f"{name}.json"

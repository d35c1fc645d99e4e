# SPDX-License-Identifier: Apache-2.0
"""A CA with its enrolment service on loopback, and an empty folder for a party."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from tests.support import ca

from fedclave.transport.grpc.authority import serve_enrolment
from fedclave.trust import tokens
from fedclave.trust.adopt import root_sha256
from fedclave.trust.names import Identity, Role

NOW = datetime.now(UTC)  # TLS libraries look at the machine's own clock
T = TypeVar("T")


class Town:
    """The CA lies in ``folder/ca/cert``, the party in ``folder/party/cert``."""

    def __init__(self, folder: Path) -> None:
        self.authority = ca.create(folder / "ca", now=NOW - timedelta(days=10))
        self.register = tokens.Register(self.authority.folder / "ca")
        self.party = folder / "party" / "cert"
        self.joined: list[Identity] = []
        self.address = ""
        self.now = NOW

    def run(self, act: Callable[[], Awaitable[T]]) -> T:
        """What an action returns that is done while the service is open."""

        async def opened() -> T:
            async with self.open():
                return await act()

        return asyncio.run(opened())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        service = await serve_enrolment(
            self.authority,
            self.register,
            "127.0.0.1:0",
            clock=lambda: self.now,
            joined=self.joined.append,
        )
        self.address = f"127.0.0.1:{service.port}"
        try:
            yield
        finally:
            await service.stop(0)
            await service.wait()

    def invite(self, name: str = "alice", role: Role = "collaborator") -> tokens.Token:
        """A token for a party."""
        return self.register.mint(
            Identity(federation="digits", role=role, name=name),
            root=root_sha256(self.authority.anchors),
            authority=self.address,
            aggregator="agg.example.org:50051",
            now=self.now,
        )

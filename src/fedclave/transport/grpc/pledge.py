# SPDX-License-Identifier: Apache-2.0
"""A member's part in ``trust.stated``: it keeps how far the run has come, and holds requests to it.

On each connection the aggregator states that first, if it does so at all, and again before it
offers a newer model; what it offers must be what it stated.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from fedclave.errors import Code, Refused
from fedclave.messages import Request
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust import stated
from fedclave.trust.stated import Remembered, Statement


@dataclass(kw_only=True)
class Pledge:
    """One member's; ``key`` is its key in TLS at the moment."""

    remembered: Remembered
    key: Callable[[], ec.EllipticCurvePrivateKey]
    _current: Statement | None = field(default=None, init=False)

    def begin(self) -> bytes:
        """A new connection: what to show. ``Refused``: what was remembered is damaged."""
        self._current = None
        known = self.remembered.newest()
        return b"" if known is None else known.raw

    async def take(self, statement: bytes) -> pb.Up:
        """Keep a statement; returns the answer, with the countersignature. Raises ``Refused``."""
        self._current = await asyncio.to_thread(self.remembered.accept, statement)
        signature = stated.countersign(self.key(), statement)
        return pb.Up(countersigned=pb.Countersigned(statement=statement, signature=signature))

    def check(self, request: Request) -> None:
        """Raise ``Refused(SET_BACK)`` unless a request is about the model that was stated."""
        if self._current is None:
            if self.remembered.newest() is not None:
                raise self.remembered.missing()
            return  # this aggregator has never stated anything
        if (self._current.round + 1, self._current.model) != (request.round, request.params):
            raise Refused(
                Code.SET_BACK,
                f"the request of round {request.round} is not about the model that the aggregator"
                f" stated, after round {self._current.round}. Ask its operator",
            )

# SPDX-License-Identifier: Apache-2.0
"""The joints of the engine: what a transport is to an aggregator, and where bytes come from."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from fedclave.engine.spool import Body
from fedclave.messages import Reply, Request
from fedclave.tensors import Layout, Tensors

Accept = Callable[[Reply, Body | None], Awaitable[None]]
"""The aggregator's judgement of an answer; raises ``Refused``, which the member is told."""

Enough = Callable[[Collection[str]], bool]
"""Whether these members are enough to open a round."""

Fetch = Callable[[str, int], Awaitable[Tensors]]
"""(digest, size in bytes): the tensors with this content, whole and verified."""


@dataclass
class Traffic:
    """Bytes of models and updates that have crossed, counted where they cross."""

    up: int = 0
    down: int = 0


class Transport(Protocol):
    """Where the members are."""

    traffic: Traffic

    async def present(self, enough: Enough) -> None:
        """Return when enough members are connected; asked anew with each that comes or goes."""

    async def ask(self, request: Request, update: Layout, accept: Accept) -> None:
        """Have ``request.member`` do something; return when its answer has been judged.

        ``update`` is the layout that its update must have. Waits as long as it takes: a member that
        is away is asked when it comes. Raises what ``accept`` raises. Cancelling withdraws the
        request.
        """

# SPDX-License-Identifier: Apache-2.0
"""All members in this process: the same engine, without a wire."""

import io
from collections.abc import Mapping

from fedclave.engine.collaborator import Collaborator
from fedclave.engine.ports import Accept, Enough, Traffic
from fedclave.engine.spool import Body, Spool
from fedclave.engine.store import Store
from fedclave.errors import Code, Refused
from fedclave.messages import Request
from fedclave.tensors import Layout, Tensors

CHUNK = 2**20  # bytes


class LocalTransport:
    """Members as objects. Updates go through the aggregator's spool as they do from the wire."""

    def __init__(self, members: Mapping[str, Collaborator], store: Store, spool: Spool) -> None:
        self.traffic = Traffic()
        self._members = members
        self._store = store
        self._spool = spool

    async def present(self, enough: Enough) -> None:
        """Everybody is here."""

    async def ask(self, request: Request, update: Layout, accept: Accept) -> None:
        """See ``Transport.ask``."""
        member = self._members.get(request.member)
        if member is None:
            raise Refused(Code.UNKNOWN_MEMBER, f"no member {request.member!r} in this process")
        reply, packet = await member.answer(request, self._fetch)
        body = None
        if reply.packet is not None and packet is not None:
            with member.opens(packet) as file:
                body = self._push(request.member, reply.packet.digest, file, update)
        await accept(reply, body)

    async def _fetch(self, digest: str, size: int) -> Tensors:
        self.traffic.down += size
        return self._store.stored(digest)

    def _push(self, member: str, digest: str, file: io.RawIOBase, update: Layout) -> Body:
        upload = self._spool.begin(member, digest, update)
        file.seek(upload.offset)
        while chunk := file.read(CHUNK):
            upload.write(chunk)
            self.traffic.up += len(chunk)
        return self._spool.commit(member, upload)

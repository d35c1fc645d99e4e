# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a call: what a gRPC context shows, put before the gate."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from cryptography import x509

from fedclave.errors import Code, Refused
from fedclave.trust import gate, judgement
from fedclave.trust.attesting import key_hash
from fedclave.trust.sessions import Sessions

Context = Any  # grpc.aio.ServicerContext; its stubs leave the type parameters open


@dataclass(frozen=True, kw_only=True)
class Door:
    """What the server asks the gate with; ``members`` and the CRL are read anew for each call."""

    anchors: gate.Anchors
    members: Callable[[], Collection[str]]
    now: Callable[[], datetime]
    sessions: Sessions | None = None  # None: the plan requires no attestation

    def admit(self, context: Context) -> gate.Member:
        """The member at the other end of this call, with a live session. Raises ``Refused``."""
        member = self.identify(context)
        self._standing(context, member)
        return member

    def check_model(self, context: Context) -> None:
        """Raise ``Refused`` unless the peer may take part, and receive the model, now."""
        standing = self._standing(context, self.identify(context))
        if standing is not None:
            judgement.check_receives(standing.verdict, "model")

    def _standing(self, context: Context, member: gate.Member) -> gate.Standing | None:
        """How a member stands that has attested by this name, not by another one on its key."""
        if self.sessions is None:
            return None
        standing = self.sessions.require(key_of(certificate_of(context)), self.now())
        if standing.verdict.name != member.name:
            raise Refused(
                Code.ATT_KEY_BINDING,
                f"{standing.verdict.name!r} has attested on this key, and not {member.name!r}. Each"
                " party needs a key of its own: have this one certified anew",
            )
        return standing

    def withheld(self, context: Context) -> Refused | None:
        """Why the peer may not receive the model; None also where its session is over."""
        try:
            self.check_model(context)
        except Refused as refused:
            return refused if refused.code is Code.ATT_POLICY else None
        return None

    def identify(self, context: Context) -> gate.Member:
        """The member at the other end of this call, attested or not. Raises ``Refused``."""
        return gate.admit(
            certificate_of(context),
            anchors=self.anchors,
            role="collaborator",
            now=self.now(),
            members=self.members(),
        )


def certificate_of(context: Context) -> bytes:
    """The certificate (PEM) that TLS saw at the other end; empty without one."""
    found = context.auth_context().get("x509_pem_cert") or [b""]
    return bytes(found[0])


@lru_cache(maxsize=1024)
def key_of(pem: bytes) -> bytes:
    """SHA-256 of the public key in a certificate (PEM)."""
    return key_hash(x509.load_pem_x509_certificate(pem))


def address_of(context: Context) -> str:
    """Where a call comes from, as people write it: gRPC says ``ipv6:%5B::1%5D:443``."""
    return unquote(str(context.peer()).partition(":")[2])

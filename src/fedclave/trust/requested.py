# SPDX-License-Identifier: Apache-2.0
"""What a party says of itself when it asks for a certificate: what the quote there is about.

The form is that of ``claims``: a canonical CBOR map of texts to byte strings. Its version is
another one, so evidence for a certificate never opens a session, nor the other way round.

    pubkey-hash           CBOR [1, SHA-256 of the request's SubjectPublicKeyInfo]
    nonce                 32 bytes: the challenge of the enrolment service; left out of a request
                          that travels as a file, since nobody has challenged it
    fedclave-version      fl-request/1
    fedclave-role         aggregator, collaborator
    fedclave-name         the party
    fedclave-federation   its name
    fedclave-contract     32 bytes: the contract's id
    fedclave-policy       32 bytes: digest of the policy that the party holds
    fedclave-time         when, by its clock: 2026-11-22T12:00:00Z
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from fedclave.errors import Code, Refused
from fedclave.trust import cbor, claims
from fedclave.trust.claims import HASH, SHA256
from fedclave.trust.crl import SKEW
from fedclave.trust.names import Identity, Role

VERSION = "fl-request/1"

_PREFIX = "fedclave-"
_OWN = ("version", "role", "name", "federation", "contract", "policy", "time")
_KEYS = frozenset({"pubkey-hash", *(_PREFIX + name for name in _OWN)})


@dataclass(frozen=True, kw_only=True)
class Requested:
    """What the maker of a request says. ``ValueError`` for what cannot be said."""

    role: Role
    name: str
    federation: str
    contract: str  # id, hex
    policy: str  # digest, hex
    key: bytes  # SHA-256 of the request's SubjectPublicKeyInfo
    nonce: bytes  # the service's challenge; empty: there was none
    time: datetime

    def __post_init__(self) -> None:
        claims.check_party(self.role, self.name, self.federation)
        claims.check_digests(contract=self.contract, policy=self.policy)
        if len(self.key) != HASH or len(self.nonce) not in (0, HASH):
            raise ValueError(f"key and nonce have {len(self.key)} and {len(self.nonce)} bytes")
        if self.time.tzinfo is None:
            raise ValueError("time has no time zone")
        whole = self.time.astimezone(UTC).replace(microsecond=0)
        object.__setattr__(self, "time", whole)  # as equal as their bytes are


def encode(said: Requested) -> bytes:
    """The bytes that a quote is about."""
    own = {
        "version": VERSION.encode(),
        "role": said.role.encode(),
        "name": said.name.encode(),
        "federation": said.federation.encode(),
        "contract": bytes.fromhex(said.contract),
        "policy": bytes.fromhex(said.policy),
        "time": claims.stamp(said.time).encode(),
    }
    return cbor.encode(
        {
            "pubkey-hash": cbor.encode([SHA256, said.key]),
            **({"nonce": said.nonce} if said.nonce else {}),
            **{_PREFIX + name: value for name, value in own.items()},
        }
    )


def decode(encoded: bytes) -> Requested:
    """What ``encode`` was given. ``Refused``: ATT_MALFORMED; ATT_KEY_BINDING without a key;
    ATT_UNSUPPORTED for claims of another kind or version.
    """
    fields = claims.parts(encoded)
    bound = claims.binding(encoded)
    version = fields.get(_PREFIX + "version", b"")
    if version != VERSION.encode():
        raise Refused(
            Code.ATT_UNSUPPORTED,
            f"the evidence in the request has claims of version {version!r:.40}, expected"
            f" {VERSION}: evidence for another use, or of another release of fedclave. Make a new"
            " request",
        )
    if odd := sorted(fields.keys() - {"nonce"} ^ _KEYS):
        raise claims.malformed(f"{odd[0]!r:.80} is missing, or not one of a request's")
    if bound.algorithm != SHA256 or bound.nonce == b"":
        raise claims.malformed("the key is not hashed with sha256, or the nonce is empty")
    own = {name: fields[_PREFIX + name] for name in _OWN}
    try:
        return Requested(
            role=cast(Role, own["role"].decode("ascii")),  # which Requested checks
            name=own["name"].decode("ascii"),
            federation=own["federation"].decode("ascii"),
            contract=own["contract"].hex(),
            policy=own["policy"].hex(),
            key=bound.key_hash,
            nonce=bound.nonce or b"",
            time=claims.moment(own["time"].decode("ascii")),
        )
    except ValueError as error:
        raise claims.malformed(str(error)) from error


def require(said: Requested, *, identity: Identity, key: bytes, contract: str, policy: str) -> None:
    """Raise ``Refused`` unless the claims are about this request and this run. In this order:

    1  the request's own key      ATT_KEY_BINDING
    2  the federation             WRONG_FEDERATION
    3  the role, and who has it   ATT_ROLE
    4  the contract               ATT_CONTRACT
    5  the policy                 ATT_POLICY_VERSION
    """
    if said.key != key:  # 1
        raise Refused(
            Code.ATT_KEY_BINDING,
            f"the evidence is of the key {said.key.hex()[:12]}, and the request has"
            f" {key.hex()[:12]}: it was taken from another request. Certify the request that the"
            " TEE itself made",
        )
    if said.federation != identity.federation:  # 2
        raise Refused(
            Code.WRONG_FEDERATION,
            f"the evidence is of federation {said.federation!r}, expected"
            f" {identity.federation!r}. Make the request in this federation's workspace",
        )
    if (said.role, said.name) != (identity.role, identity.name):  # 3
        raise Refused(
            Code.ATT_ROLE,
            f"the evidence is of {said.role} {said.name!r}, and the request of"
            f" {identity.role} {identity.name!r}. Make the request in that role, under that name",
        )
    if said.contract != contract:  # 4
        raise Refused(
            Code.ATT_CONTRACT,
            f"the evidence is for contract {said.contract[:12]}, and the CA is in {contract[:12]}."
            " Compare 'fx plan show --contract' on both sides",
        )
    if said.policy != policy:  # 5
        raise Refused(
            Code.ATT_POLICY_VERSION,
            f"the evidence is for policy {said.policy[:12]}, and the CA follows {policy[:12]}."
            " Give the newer one to both sides, then make a new request",
        )


def check_age(said: Requested, most: timedelta, now: datetime) -> None:
    """Raise ``Refused`` (ATT_NONCE) unless a request that travelled as a file is recent."""
    if said.nonce:
        raise Refused(
            Code.ATT_NONCE,
            "the evidence answers the challenge of an enrolment service, and came as a file. Make a"
            " new request ('fx ... generate-cert-request')",
        )
    if not -SKEW <= now - said.time <= most:
        raise Refused(
            Code.ATT_NONCE,
            f"the evidence was made at {said.time:%Y-%m-%d %H:%M} UTC by its maker's clock, and"
            f" here it is {now:%Y-%m-%d %H:%M}; it may be {most.days} days old. Check both clocks,"
            " or make a new request",
        )

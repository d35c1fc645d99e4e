# SPDX-License-Identifier: Apache-2.0
"""What one end of a channel says about itself, under the hash that its quote is about.

Claims are a CBOR map of texts to byte strings, as Interoperable RA-TLS has it (CCC), in one
canonical form (``cbor``). ``pubkey-hash`` and ``nonce`` are that specification's; what
``fl-attest/1`` adds begins with ``fedclave-``.

    pubkey-hash           CBOR [1, SHA-256 of the maker's SubjectPublicKeyInfo]
    nonce                 32 bytes: the challenge that is answered
    fedclave-version      fl-attest/1
    fedclave-role         aggregator, collaborator: so that nobody's evidence serves another part
    fedclave-name         the party
    fedclave-federation   its name
    fedclave-contract     32 bytes: the contract's id
    fedclave-policy       32 bytes: digest of the policy that its maker holds
    fedclave-peer         32 bytes: SHA-256 of the SubjectPublicKeyInfo at the other end
    fedclave-nonce        32 bytes: the challenge that its maker gave
    fedclave-time         when, by its maker's clock: 2026-11-22T12:00:00Z
    fedclave-hpke-key     32 or 1248 bytes: public key that secrets for it are sealed to (release)
    fedclave-checkpoint   the newest head of the aggregator's log that its maker knows, with the
                          log's key (``heads.show``); empty if it knows none

The first 32 bytes of the quote's report data are the SHA-256 of these bytes, the others zero.
``decode`` says that claims are well formed; ``check_report_data`` that they are the quote's;
``require`` that they are about this channel, this challenge and this run.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, cast

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import cbor
from fedclave.trust.names import ROLES, Role, check_name

VERSION = "fl-attest/1"
MAX_SIZE = 16 * 1024  # bytes
HASH = 32  # bytes
HPKE_KEYS = (32, 32 + 1184 + 32)  # bytes: X25519 alone, and with MLKEM768-X25519 after it
REPORT_DATA = 64  # bytes

SHA256 = 1
ALGORITHMS = {SHA256: "sha256", 7: "sha384", 8: "sha512"}
"""Of ``pubkey-hash``: IANA Named Information hash algorithms. Ours are SHA-256."""

_PREFIX = "fedclave-"
_KEYS = frozenset(
    {
        "pubkey-hash",
        "nonce",
        "fedclave-version",
        "fedclave-role",
        "fedclave-name",
        "fedclave-federation",
        "fedclave-contract",
        "fedclave-policy",
        "fedclave-peer",
        "fedclave-nonce",
        "fedclave-time",
        "fedclave-hpke-key",
        "fedclave-checkpoint",
    }
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What the maker of evidence says. ``ValueError`` for what cannot be said.

    Of ``time``, an aware one, whole seconds in UTC are kept.
    """

    role: Role
    name: str
    federation: str
    contract: str  # id, hex
    policy: str  # digest, hex
    key: bytes  # SHA-256 of the maker's SubjectPublicKeyInfo
    peer: bytes  # likewise, of the other end
    nonce: bytes  # the verifier's challenge
    own_nonce: bytes  # the maker's
    time: datetime
    hpke_key: bytes
    checkpoint: bytes

    def __post_init__(self) -> None:
        check_party(self.role, self.name, self.federation)
        check_digests(contract=self.contract, policy=self.policy)
        for what in ("key", "peer", "nonce", "own_nonce"):
            if len(getattr(self, what)) != HASH:
                raise ValueError(f"{what} has {len(getattr(self, what))} bytes, not {HASH}")
        if len(self.hpke_key) not in HPKE_KEYS:
            raise ValueError(f"hpke_key has {len(self.hpke_key)} bytes, not one of {HPKE_KEYS}")
        if self.time.tzinfo is None:
            raise ValueError("time has no time zone")
        whole = self.time.astimezone(UTC).replace(microsecond=0)
        object.__setattr__(self, "time", whole)  # as equal as their bytes are


def check_party(role: str, name: str, federation: str) -> None:
    """Raise ``ValueError`` unless claims can be about such a party."""
    if role not in ROLES:
        raise ValueError(f"role {role!r:.40} is none of {', '.join(ROLES)}")
    try:
        check_name("federation", federation)
        check_name("party", name)
    except UserError as error:
        raise ValueError(str(error)) from error


def check_digests(**digests: str) -> None:
    """Raise ``ValueError`` unless each is a SHA-256 in lower-case hex."""
    for what, digest in digests.items():
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{what} is not a SHA-256 in lower-case hex")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What claims must say to be about this channel; as ``Claims``, from the verifier's side."""

    role: Role
    name: str | None
    """The party that the peer's certificate names; None admits any."""
    federation: str
    contract: str
    policy: str
    key: bytes
    """Of the peer's TLS certificate."""
    peer: bytes
    """Of this side's own."""
    nonce: bytes
    """This side's challenge."""
    own_nonce: bytes
    """The peer's."""


class Binding(NamedTuple):
    """What any maker's claims say by Interoperable RA-TLS: whose key, and to which challenge."""

    algorithm: int
    key_hash: bytes
    nonce: bytes | None

    def holds(self, spki: bytes) -> bool:
        """Whether the key is this one (SubjectPublicKeyInfo, DER)."""
        found = hashlib.new(ALGORITHMS[self.algorithm], spki).digest()
        return hmac.compare_digest(found, self.key_hash)


def encode(claims: Claims) -> bytes:
    """The canonical bytes. ``ValueError``: they would be over 16 KiB."""
    own = {
        "version": VERSION.encode(),
        "role": claims.role.encode(),
        "name": claims.name.encode(),
        "federation": claims.federation.encode(),
        "contract": bytes.fromhex(claims.contract),
        "policy": bytes.fromhex(claims.policy),
        "peer": claims.peer,
        "nonce": claims.own_nonce,
        "time": stamp(claims.time).encode(),
        "hpke-key": claims.hpke_key,
        "checkpoint": claims.checkpoint,
    }
    encoded = cbor.encode(
        {
            "pubkey-hash": cbor.encode([SHA256, claims.key]),
            "nonce": claims.nonce,
            **{_PREFIX + name: value for name, value in own.items()},
        }
    )
    if len(encoded) > MAX_SIZE:
        raise ValueError(f"claims of {len(encoded)} bytes; {MAX_SIZE} are read at most")
    return encoded


def decode(encoded: bytes) -> Claims:
    """The claims in bytes that ``encode`` made.

    ``Refused``: ATT_MALFORMED; ATT_KEY_BINDING without ``pubkey-hash``; ATT_UNSUPPORTED for another
    version.
    """
    fields = parts(encoded)
    bound = _binding(fields)
    version = fields.get(_PREFIX + "version", b"")
    if version != VERSION.encode():
        raise Refused(
            Code.ATT_UNSUPPORTED,
            f"the claims are of version {version!r:.40}, and this build reads {VERSION}. Run one"
            " release of fedclave on both sides",
        )
    if fields.keys() != _KEYS:
        odd = sorted(fields.keys() ^ _KEYS)[0]
        raise malformed(f"{odd!r:.80} is {'missing' if odd in _KEYS else 'not one of theirs'}")
    if bound.algorithm != SHA256:
        raise malformed(f"the key is hashed with {ALGORITHMS[bound.algorithm]}, not sha256")
    own = {name.removeprefix(_PREFIX): fields[name] for name in _KEYS if name.startswith(_PREFIX)}
    try:
        return Claims(
            role=cast(Role, own["role"].decode("ascii")),  # which Claims checks
            name=own["name"].decode("ascii"),
            federation=own["federation"].decode("ascii"),
            contract=own["contract"].hex(),
            policy=own["policy"].hex(),
            key=bound.key_hash,
            peer=own["peer"],
            nonce=fields["nonce"],
            own_nonce=own["nonce"],
            time=moment(own["time"].decode("ascii")),
            hpke_key=own["hpke-key"],
            checkpoint=own["checkpoint"],
        )
    except ValueError as error:
        raise malformed(str(error)) from error


def binding(encoded: bytes) -> Binding:
    """Key and nonce in the claims of any maker: other claims are passed over, and the order of all
    is free, as that specification has it. It proves nothing about role or contract.

    ``Refused``: ATT_MALFORMED; ATT_KEY_BINDING without ``pubkey-hash``.
    """
    return _binding(parts(encoded, in_order=False))


def report_data(encoded: bytes) -> bytes:
    """The 64 bytes that a quote over these claims is to have."""
    return hashlib.sha256(encoded).digest().ljust(REPORT_DATA, b"\0")


def check_report_data(found: bytes, encoded: bytes) -> None:
    """Raise ``Refused`` (ATT_KEY_BINDING) unless a quote's report data is of these claims."""
    expected = report_data(encoded)
    if not hmac.compare_digest(found, expected):
        raise Refused(
            Code.ATT_KEY_BINDING,
            f"the quote is not about these claims: its report data is {found.hex()}, theirs"
            f" {expected.hex()}. Claims or quote were exchanged on the way; let the peer attest"
            " again",
        )


def require(claims: Claims, expected: Expected) -> None:
    """Raise ``Refused`` unless claims are about this channel, challenge and run. In this order:

        1  the key at the other end of this channel       ATT_KEY_BINDING
        2  the key at this end                            ATT_KEY_BINDING
        3  the challenge that this side gave              ATT_NONCE
        4  the challenge that it was given                ATT_NONCE
        5  the federation                                 WRONG_FEDERATION
        6  the role, and who has it                       ATT_ROLE
        7  the contract                                   ATT_CONTRACT
        8  the policy                                     ATT_POLICY_VERSION

    How old they may be is for the policy to say (``judgement.check_time``).
    """
    if claims.key != expected.key:  # 1
        raise Refused(Code.ATT_KEY_BINDING, _another_key(claims, expected))
    if claims.peer != expected.peer:  # 2
        raise Refused(
            Code.ATT_KEY_BINDING,
            f"the evidence was made for a peer with the TLS key {_short(claims.peer)}, and this"
            f" side has {_short(expected.peer)}: somebody in between passed it on. Find out what"
            " ends TLS between the two sides",
        )
    for found, wanted, whose in (
        (claims.nonce, expected.nonce, "the challenge of this side"),  # 3
        (claims.own_nonce, expected.own_nonce, "the challenge that the peer gave"),  # 4
    ):
        if found != wanted:
            raise Refused(
                Code.ATT_NONCE,
                f"the evidence answers {_short(found)}, and {whose} is {_short(wanted)}: it is of"
                " another time (replay). Let the peer attest again",
            )
    if claims.federation != expected.federation:  # 5
        raise Refused(
            Code.WRONG_FEDERATION,
            f"the evidence is of federation {claims.federation!r}, expected"
            f" {expected.federation!r}. Start both sides in one federation's workspace",
        )
    if claims.role != expected.role:  # 6
        raise Refused(
            Code.ATT_ROLE,
            f"the evidence is of role {claims.role}, expected {expected.role} at the other end of"
            " this channel. Start the peer in that role",
        )
    if expected.name is not None and claims.name != expected.name:
        raise Refused(
            Code.ATT_ROLE,
            f"the evidence is of {claims.role} {claims.name!r}, and the certificate names"
            f" {expected.name!r}. Start it with the certificate of its own party",
        )
    if claims.contract != expected.contract:  # 7
        raise Refused(
            Code.ATT_CONTRACT,
            f"the evidence is for contract {claims.contract[:12]}, this side is in"
            f" {expected.contract[:12]}. Compare 'fx plan show --contract' on both sides",
        )
    if claims.policy != expected.policy:  # 8
        raise Refused(
            Code.ATT_POLICY_VERSION,
            f"the evidence is for policy {claims.policy[:12]}, this side follows"
            f" {expected.policy[:12]}. Give the newer one to both sides",
        )


def _another_key(claims: Claims, expected: Expected) -> str:
    if claims.key == expected.peer:
        return (
            f"the evidence is of this side's own TLS key {_short(claims.key)}: it was thrown back"
            " (reflection). Find out what answers at the peer's address"
        )
    return (
        f"the evidence is of TLS key {_short(claims.key)}, and the other end of this channel has"
        f" {_short(expected.key)}: somebody passes on what an enclave elsewhere said (relay). Find"
        " out what ends TLS between the two sides"
    )


def parts(encoded: bytes, *, in_order: bool = True) -> dict[str, bytes]:
    """The map that claims are. ``Refused`` (ATT_MALFORMED) for other bytes."""
    fields = cbor.decode(encoded, "claims", limit=MAX_SIZE, in_order=in_order)
    if not isinstance(fields, dict) or not all(isinstance(one, bytes) for one in fields.values()):
        raise malformed("they are not a map of texts to byte strings")
    return fields


def _binding(fields: dict[str, bytes]) -> Binding:
    if "pubkey-hash" not in fields:
        raise Refused(
            Code.ATT_KEY_BINDING,
            "the claims name no TLS key ('pubkey-hash' is missing): such evidence fits any channel."
            " Let the peer make it with a release that binds its key",
        )
    found = cbor.decode(fields["pubkey-hash"], "pubkey-hash of the claims", limit=128)
    match found:
        case [int(algorithm), bytes(value)] if algorithm in ALGORITHMS:
            size = hashlib.new(ALGORITHMS[algorithm]).digest_size
            if len(value) == size:
                return Binding(algorithm, value, fields.get("nonce"))
    raise malformed(f"pubkey-hash is not a hash by one of {', '.join(ALGORITHMS.values())}")


def stamp(time: datetime) -> str:
    """A time in UTC as claims have it: 2026-11-22T12:00:00Z."""
    return time.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def moment(text: str) -> datetime:
    """A time in the form of RFC 3339 that ``stamp`` writes; ``ValueError`` for any other."""
    time = datetime.fromisoformat(text)
    if stamp(time) != text:
        raise ValueError(f"time {text!r:.40} is not like 2026-11-22T12:00:00Z")
    return time


def _short(value: bytes) -> str:
    return value.hex()[:12]


def malformed(reason: str) -> Refused:
    """The refusal of bytes that are not claims."""
    return Refused(
        Code.ATT_MALFORMED, f"not claims: {reason}. Run one release of fedclave on both sides"
    )

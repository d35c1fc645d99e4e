# SPDX-License-Identifier: Apache-2.0
"""The attestation policy as files: the text that people write, and its signed envelope beside it.

    plan/attestation.yaml          the policy, for people
    plan/attestation.dsse.json     DSSE: its canonical bytes, signed by n of m keys (Ed25519)
    cert/policies/accepted.json    the last version that this party accepted

``load`` takes a policy only if all of this holds:

    1  The text is a policy.                                              PlanError
    2  So many of the keys that may sign policies signed the envelope.    malformed, bad-signature
    3  What they signed is the policy of the text, defaults included.     bad-signature
    4  It is valid now.                                                   ATT-POLICY
    5  It is not older than the one accepted before, nor another of the
       same version; the next version names this one as its previous.     ATT-POLICY

Who may sign stands in the plan, which the measurement covers; so a policy can change while the code
that obeys it stays the same.
"""

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedclave import canonical
from fedclave.errors import Code, Refused, UserError
from fedclave.trust import dsse, files, policy
from fedclave.trust.dsse import Envelope
from fedclave.trust.policy import Policy
from fedclave.trust.policy_checks import check_valid
from fedclave.trust.signing import key_id

POLICY_TYPE = "application/vnd.fedclave.policy.v1+json"
"""What a signature is about (DSSE payload type)."""

PIN = "accepted.json"
_KEY = "ed25519:"
_SIGN = "Have the policy signed ('fx attest policy sign')"


def envelope_of(text: Path) -> Path:
    """Where the envelope of a policy's text lies: ``attestation.dsse.json``, beside it."""
    return text.with_suffix(".dsse.json")


def format_key(key: Ed25519PublicKey) -> str:
    """A public key on one line, as the plan has it: ``ed25519:`` and its 32 bytes in base64."""
    return _KEY + base64.b64encode(key.public_bytes_raw()).decode()


def parse_key(text: str) -> Ed25519PublicKey:
    """The public key that ``format_key`` wrote. ``UserError`` for any other text."""
    try:
        raw = base64.b64decode(text.removeprefix(_KEY).encode("ascii"), validate=True)
        key = Ed25519PublicKey.from_public_bytes(raw)
        if format_key(key) != text:  # the last digit of base64 has bits to spare
            raise ValueError("it is not written as it should be")
    except (ValueError, binascii.Error) as error:
        raise UserError(
            f"{text[:80]!r} is not a public key ({error}). Write {_KEY} and its 32 bytes in base64,"
            " as 'fx attest policy sign' prints it"
        ) from error
    return key


@dataclass(frozen=True, kw_only=True)
class Signers:
    """Who may sign policies, and how many of them must."""

    keys: tuple[Ed25519PublicKey, ...]
    threshold: int

    def __post_init__(self) -> None:
        if len({key_id(key) for key in self.keys}) != len(self.keys):
            raise UserError("a key stands twice among the policy's signers. Keep one of the two")
        if not 1 <= self.threshold <= len(self.keys):
            raise UserError(
                f"{self.threshold} of {len(self.keys)} signers cannot sign a policy. Write a"
                " threshold from 1 to their number"
            )

    @classmethod
    def parse(cls, keys: Sequence[str], threshold: int) -> Self:
        """From keys as ``format_key`` writes them. ``UserError`` says what is wrong with them."""
        return cls(keys=tuple(map(parse_key, keys)), threshold=threshold)


@dataclass(frozen=True, kw_only=True)
class SignedPolicy:
    """A policy that its signers stand by. Only ``verified`` and what calls it make one."""

    policy: Policy
    digest: str
    signed_by: tuple[str, ...]
    """Key ids of the trusted keys that signed it."""


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What ``sign`` did."""

    policy: Policy
    signatures: int
    """How many the envelope has now."""
    dropped: int
    """How many it had over another text: they are gone."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """The last version that a party accepted, in a file. It only moves forward.

    The first policy that comes is taken as it is: its signatures alone speak for it. Who can write
    the file can take it back; that is the party's own owner.
    """

    path: Path

    def check(self, given: Policy) -> None:
        """Step 5. ``UserError`` if the file is damaged."""
        last = self._last()
        if last is None or (last["version"], last["digest"]) == (given.version, given.digest):
            return
        known, digest = f"policy {last['name']} v{last['version']}", last["digest"]
        ask = "Ask its signers which one is good"
        if given.name != last["name"]:
            problem = f"this party follows {known}, and {given.label} is another one. {ask}"
            problem += f"; if they mean to begin anew, remove {self.path}"
        elif given.version < last["version"]:
            problem = f"this party accepted {known}, and {given.label} is older. Get the newer one"
        elif given.version == last["version"]:
            problem = (
                f"this party accepted another {known} (digest {digest}; this one has"
                f" {given.digest}). {ask}; a change needs the next version"
            )
        elif given.version == last["version"] + 1 and given.previous != digest:
            problem = (
                f"{given.label} names {given.previous} as its previous version; accepted here was"
                f" {digest}. {ask}"
            )
        else:
            return
        raise Refused(Code.ATT_POLICY, problem)

    def accept(self, given: Policy) -> None:
        """Step 5, and remember this version, durably."""
        files.private_folder(self.path.parent)
        with files.locked(self.path.with_name(f".{self.path.name}.lock")):
            self.check(given)
            value = {
                "v": 1, "name": given.name, "version": given.version, "digest": given.digest
            }  # fmt: skip
            if self._last() != value:
                files.write(self.path, canonical.encode(value), files.PRIVATE)

    def _last(self) -> dict[str, Any] | None:
        remedy = (
            "Restore it from a copy; or compare the policy's digest with its signers ('fx attest"
            " policy show'), and remove it"
        )
        if not self.path.exists():
            return None
        try:
            value = canonical.decode(files.read(self.path, remedy))
        except Refused as error:
            raise UserError(f"{self.path} is damaged ({error.message}). {remedy}") from error
        kinds = {"v": int, "name": str, "version": int, "digest": str}
        if (
            not isinstance(value, dict)
            or {key: type(one) for key, one in value.items()} != kinds
            or value["v"] != 1
        ):
            raise UserError(f"{self.path} is not a policy's pin. {remedy}")
        return value


def load(
    text: Path,
    envelope: Path,
    *,
    signers: Sequence[str],
    threshold: int,
    pins: Path,
    now: datetime,
) -> SignedPolicy:
    """The policy in force: steps 1 to 5. From then on this party refuses every older one.

    ``signers`` are public keys as ``format_key`` writes them; ``pins`` is a folder of this party.
    """
    by = Signers.parse(signers, threshold)
    found = verified(text, envelope, by)  # 1, 2, 3
    check_valid(found.policy, now)  # 4
    Pin(path=pins / PIN).accept(found.policy)  # 5
    return found


def looked_at(
    text: Path, envelope: Path, *, signers: Sequence[str], threshold: int, pins: Path
) -> SignedPolicy:
    """The policy that its signers stand by, and this party could follow once it is valid: steps 1,
    2, 3 and 5. Nothing is remembered, so another one can still be accepted.
    """
    found = verified(text, envelope, Signers.parse(signers, threshold))  # 1, 2, 3
    Pin(path=pins / PIN).check(found.policy)  # 5
    return found


def verified(text: Path, envelope: Path, signers: Signers) -> SignedPolicy:
    """The policy that its signers stand by, valid now or not: steps 1 to 3."""
    found = policy.load(text)  # 1
    signed = dsse.decode(files.read(envelope, _SIGN))
    payload = dsse.verified(signed, POLICY_TYPE, signers.keys, signers.threshold)  # 2
    if payload != found.bytes:  # 3
        raise Refused(
            Code.BAD_SIGNATURE,
            f"{text} ({found.label}) is not what was signed in {envelope}{_what(payload)}. Import"
            " both files again, or have this text signed ('fx attest policy sign')",
        )
    by = (key_id(key) for key in signers.keys if _has_signed(signed, key))
    return SignedPolicy(policy=found, digest=found.digest, signed_by=tuple(by))


def sign(text: Path, envelope: Path, key: Ed25519PrivateKey) -> Signed:
    """Add a key's signature over the policy in a text to its envelope, which is made if need be.

    Signatures over another text are dropped. ``UserError``: what lies there is no envelope of a
    policy, or the text is the next version of what it holds and does not name it.
    """
    found = policy.load(text)
    old = _old(envelope)
    if old is not None and old.payload != found.bytes:
        _check_follows(found, old.payload, text)
    keep = old if old is not None and old.payload == found.bytes else None
    fresh = keep or Envelope(type=POLICY_TYPE, payload=found.bytes, signatures=())
    own = key_id(key.public_key())
    # A wrong signature under this key's id would keep ``dsse.add`` from adding the right one.
    others = tuple(one for one in fresh.signatures if one.key != own)
    signed = dsse.add(replace(fresh, signatures=others), key)
    _write(envelope, dsse.encode(signed))
    dropped = len(old.signatures) if old is not None and keep is None else 0
    return Signed(policy=found, signatures=len(signed.signatures), dropped=dropped)


def _old(path: Path) -> Envelope | None:
    if not path.exists():
        return None
    again = "Move it away, then sign again"
    try:
        found = dsse.decode(files.read(path, again))
    except Refused as error:
        raise UserError(f"{path}: {error.message}. {again}") from error
    if found.type != POLICY_TYPE:
        raise UserError(f"{path} is an envelope of {found.type!r}, not of a policy. {again}")
    return found


def _check_follows(found: Policy, payload: bytes, text: Path) -> None:
    """The signer's own slip: the next version does not name the one that lies here."""
    try:
        old = canonical.decode(payload)
    except Refused:
        return
    if isinstance(old, dict) and old.get("version") == found.version - 1:
        digest = canonical.digest("policy", old)
        if found.previous != digest:
            raise UserError(
                f"{text} is version {found.version}, and version {found.version - 1} has the digest"
                f" {digest}; it names {found.previous}. Correct previous, then sign"
            )


def _what(payload: bytes) -> str:
    """Which policy was signed instead, if that can be told. Its signatures are good."""
    try:
        value = canonical.decode(payload)
        return f" ({value['name']} v{value['version']})"
    except (Refused, TypeError, KeyError):
        return ""


def _has_signed(envelope: Envelope, key: Ed25519PublicKey) -> bool:
    try:
        dsse.verified(envelope, POLICY_TYPE, [key])
    except Refused:
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    """As ``files.write`` does, in a folder that is not this party's alone."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror}). Name another place, or make this one"
            " writable"
        ) from error

# SPDX-License-Identifier: Apache-2.0
"""Join tokens: one string that lets one party join, once, and authenticates the first contact.

``fxj1.`` and the base64url of canonical JSON. The token carries the SHA-256 of the root CA, so
that the party knows whom it talks to, and a secret of 128 bits, so that the CA knows who asks.
The CA keeps the SHA-256 of the secret only. A token is used up by the first key that it is
redeemed for; the same key may redeem it again until it expires, so that a lost answer costs nobody
the token.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import compress
from pathlib import Path
from typing import Any, cast

from fedclave import canonical
from fedclave.errors import Code, Refused, UserError
from fedclave.trust import files
from fedclave.trust.names import Identity, Role

PREFIX = "fxj1."
LIFE = timedelta(hours=24)
KEPT = timedelta(days=30)
"""How long an expired token is remembered, to be refused by its right name."""

MAX_LENGTH = 4096  # characters


@dataclass(frozen=True, kw_only=True)
class Token:
    """What the party gets. Whoever holds it can join in the party's place."""

    federation: str
    role: Role
    name: str
    authority: str  # address of the enrolment service
    aggregator: str  # address of the aggregator
    root: str  # SHA-256 of the root certificate's DER, in hex
    secret: str = field(repr=False)  # 128 bits in hex
    expires: datetime

    def __str__(self) -> str:
        """The text to hand over."""
        value = asdict(self) | {"expires": int(self.expires.timestamp())}
        return PREFIX + base64.urlsafe_b64encode(canonical.encode(value)).decode().rstrip("=")


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What the CA knows of a token."""

    secret_sha256: str
    role: Role
    name: str
    expires: datetime
    used_by: str | None = None  # SHA-256 of the public key that redeemed it


def parse(text: str, now: datetime) -> Token:
    """The token in a text. ``UserError``: it is damaged; ``Refused``: it has expired."""
    body = "".join(text.split())  # mail programs break lines
    if not body.startswith(PREFIX):
        raise UserError(f"this is not a join token: it does not begin with {PREFIX}")
    try:
        if len(body) > MAX_LENGTH:
            raise ValueError("longer than any token")
        encoded = body.removeprefix(PREFIX)
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
        token = _token(canonical.decode(data))
    except (binascii.Error, Refused, UserError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            "the join token is damaged: a part of it is missing or was changed. Copy all of it,"
            f" from {PREFIX} to its end, or ask for a new one ('fx invite NAME')"
        ) from error
    if now > token.expires:
        raise Refused(
            Code.TOKEN_EXPIRED,
            f"the join token expired at {token.expires:%Y-%m-%d %H:%M} UTC. Ask for a new one"
            " ('fx invite NAME')",
        )
    return token


class Register:
    """The CA's file of invitations, shared by processes under a lock."""

    def __init__(self, ca_folder: Path) -> None:
        self._path = ca_folder / "tokens.json"
        self._lock = ca_folder / "tokens.lock"

    def mint(
        self,
        identity: Identity,
        *,
        root: str,
        authority: str,
        aggregator: str,
        now: datetime,
        life: timedelta = LIFE,
    ) -> Token:
        """A new token for a party; earlier unused ones of the same name stop working.

        ``root`` is the SHA-256 of the CA's root (``adopt.root_sha256``); ``authority`` and
        ``aggregator`` are where the party will find the enrolment service and the aggregator.
        """
        if life <= timedelta(0):
            raise UserError("a join token must live longer than no time. Give it some hours")
        token = Token(
            federation=identity.federation,
            role=identity.role,
            name=identity.name,
            authority=authority,
            aggregator=aggregator,
            root=root,
            secret=secrets.token_hex(16),
            expires=(now + life).replace(microsecond=0),
        )
        invitation = Invitation(
            secret_sha256=_sha256(token.secret),
            role=token.role,
            name=token.name,
            expires=token.expires,
        )

        def added(known: list[Invitation]) -> list[Invitation]:
            kept = [
                one
                for one in known
                if now < one.expires + KEPT and (one.used_by or one.name != token.name)
            ]
            return [*kept, invitation]

        self._change(added)
        return token

    def redeem(
        self, secret: str, identity: Identity, public_key: bytes, now: datetime
    ) -> Invitation:
        """Use an invitation up for one key (DER), or refuse: token-unknown, -used, -expired.

        A request for another identity than was invited is refused and leaves the token as it was.
        """
        digest, holder = _sha256(secret), hashlib.sha256(public_key).hexdigest()
        found: list[Invitation] = []

        def used(known: list[Invitation]) -> list[Invitation]:
            # All are compared, each in constant time: how long it takes tells nothing.
            matches = [hmac.compare_digest(one.secret_sha256, digest) for one in known]
            found.extend(compress(known, matches))
            return [
                _redeemed(one, identity, holder, now) if match else one
                for one, match in zip(known, matches, strict=True)
            ]

        self._change(used)
        if not found:
            raise Refused(
                Code.TOKEN_UNKNOWN,
                "this CA did not make the join token, has withdrawn it, or made a newer one. Ask"
                " for a new one ('fx invite NAME')",
            )
        return found[0]

    def withdraw(self, name: str, now: datetime) -> int:
        """Forget the invitations of a name; returns how many were open.

        Used ones too: the key that used one could redeem it again.
        """
        number = sum(one.name == name for one in self.pending(now))
        self._change(lambda known: [one for one in known if one.name != name])
        return number

    def pending(self, now: datetime) -> list[Invitation]:
        """Invitations that can still be redeemed."""
        return [one for one in self._read() if one.used_by is None and now <= one.expires]

    def _change(self, change: Callable[[list[Invitation]], list[Invitation]]) -> None:
        with files.locked(self._lock):
            before = self._read()
            after = change(before)
            if after != before:
                rows = [asdict(one) | {"expires": one.expires.isoformat()} for one in after]
                text = json.dumps({"version": 1, "tokens": rows}, indent=1)
                files.write(self._path, text.encode(), files.PRIVATE)

    def _read(self) -> list[Invitation]:
        if not self._path.exists():
            return []
        try:
            rows = json.loads(self._path.read_bytes())["tokens"]
            return [_invitation(row) for row in rows]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._path} is damaged ({error}). Move it away, and invite again those who have"
                " not joined yet"
            ) from error


def _redeemed(one: Invitation, identity: Identity, holder: str, now: datetime) -> Invitation:
    if (one.role, one.name) != (identity.role, identity.name):
        raise Refused(
            Code.BAD_REQUEST,
            f"the join token is for {one.role} {one.name!r}, the certificate request for"
            f" {identity.role} {identity.name!r}. Use the token of that party",
        )
    if one.used_by is not None and one.used_by != holder:
        raise Refused(
            Code.TOKEN_USED,
            f"the join token of {one.name!r} was used before. If that was not its owner, revoke"
            " the name and invite again",
        )
    if now > one.expires:
        raise Refused(
            Code.TOKEN_EXPIRED,
            f"the join token of {one.name!r} has expired. Ask for a new one ('fx invite NAME')",
        )
    return Invitation(**(vars(one) | {"used_by": holder}))


def _token(value: Any) -> Token:
    texts = ("authority", "aggregator", "root", "secret", "federation", "role", "name")
    if not isinstance(value, dict) or set(value) != {*texts, "expires"}:
        raise ValueError("its fields are not a token's")
    if not all(isinstance(value[key], str) for key in texts) or type(value["expires"]) is not int:
        raise ValueError("a field has the wrong type")
    if len(bytes.fromhex(value["root"])) != 32 or len(bytes.fromhex(value["secret"])) != 16:
        raise ValueError("a field has the wrong length")
    identity = Identity(
        federation=value["federation"], role=cast(Role, value["role"]), name=value["name"]
    )
    try:
        expires = datetime.fromtimestamp(value["expires"], UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("its expiry is no date") from error
    return Token(**(value | {"role": identity.role, "expires": expires}))


def _invitation(row: dict[str, Any]) -> Invitation:
    return Invitation(**(row | {"expires": datetime.fromisoformat(row["expires"])}))


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

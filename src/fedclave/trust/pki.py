# SPDX-License-Identifier: Apache-2.0
"""The federation's CA: a folder with two encrypted keys and a record of all that it issued.

    cert/chain.pem              issuing CA, then root: what every party gets
    cert/crl.pem                the revocation list
    cert/ca/root.{key,pem}      self-signed, 10 years; only certifies the issuing CA
    cert/ca/issuing.{key,pem}   1 year; signs leafs and the revocation list
    cert/ca/issued.jsonl        append-only: each certificate, each revocation
    cert/ca/tokens.json         join tokens (see ``tokens``)

``recertify`` prolongs the issuing CA under the same key, so leafs and anchors in use stay good.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedclave import canonical
from fedclave.errors import Bug, Code, Refused, UserError
from fedclave.trust import crl, files, keys, profiles, requests
from fedclave.trust.anchors import Anchors
from fedclave.trust.certifying import Challenges, Vouch, Wanted, key_hash
from fedclave.trust.names import Identity, Role, check_name
from fedclave.trust.profiles import LEAF_LIFE, Subject
from fedclave.trust.requests import make_request

__all__ = ["LEAF_LIFE", "Authority", "bundle", "make_request"]

CRL_REFRESH = timedelta(days=1)
SERVICE = "authority"
"""The name of the enrolment service, which no other party may have."""

_OWN: tuple[Role, ...] = ("aggregator", "authority")  # names that only these roles have
_FILES = ("chain", "crl")  # cert/NAME.pem is another file


class Authority:
    """The CA of one federation, opened with its passphrase."""

    def __init__(
        self,
        folder: Path,
        anchors: Anchors,
        key: ec.EllipticCurvePrivateKey,
        vouch: Vouch | None = None,
    ) -> None:
        self.anchors = anchors
        self._vouch = vouch
        self._folder = folder
        self._key = key

    @classmethod
    def create(cls, folder: Path, federation: str, passphrase: bytes, now: datetime) -> Self:
        """Make a new CA in ``folder/ca``, with the chain and an empty revocation list beside it."""
        check_name("federation", federation)
        ca = folder / "ca"
        if has_ca(folder):
            raise UserError(f"{ca} holds a CA already. Use it, or move it away to begin anew")
        if (folder / "chain.pem").exists() and not ca.exists():
            raise UserError(f"{folder} is a member's of another CA. Make the CA in a new workspace")
        (folder / "crl.pem").unlink(missing_ok=True)
        root_key, issuing_key = keys.generate(), keys.generate()
        root = profiles.root(federation, root_key, now)
        issuing = profiles.issuing(root, root_key, issuing_key, now)
        keys.save(ca / "root.key", root_key, passphrase, replace=True)
        keys.save(ca / "issuing.key", issuing_key, passphrase, replace=True)
        files.write(ca / "root.pem", _pem(root))
        files.write(folder / "chain.pem", _pem(issuing) + _pem(root))
        authority = cls(folder, Anchors.read(folder), issuing_key)
        authority.crl(now)
        # What ``create`` looks for comes last: a crash before it leaves no half of a CA behind.
        files.write(ca / "issuing.pem", _pem(issuing))
        return authority

    @classmethod
    def open(cls, folder: Path, passphrase: bytes, vouch: Vouch | None = None) -> Self:
        """Open the CA in ``folder/ca``. ``UserError``: it is not there, or another passphrase.

        ``vouch`` is asked about every key of a party before it is certified; None: nobody in this
        federation has to prove what it runs.
        """
        ca = folder / "ca"
        remedy = "Make a CA with 'fx ca init', or run this where it lies"
        chain = b"".join(files.read(ca / f"{part}.pem", remedy) for part in ("issuing", "root"))
        anchors = Anchors.parse(chain, crl=folder / "crl.pem", source=str(ca))
        key = keys.load(ca / "issuing.key", passphrase)
        if key.public_key() != anchors.issuing.public_key():
            raise UserError(f"{ca}/issuing.key is not the key of issuing.pem. Restore both")
        return cls(folder, anchors, key, vouch)

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self.anchors.federation

    @property
    def folder(self) -> Path:
        """The folder of certificates that holds the CA's own, ``ca``."""
        return self._folder

    def issue(
        self,
        request: x509.CertificateSigningRequest,
        *,
        role: Role,
        name: str,
        now: datetime,
        life: timedelta = LEAF_LIFE,
    ) -> x509.Certificate:
        """Certify a request's key for an identity, which must be the one it asks for.

        A name has one role: ``UserError`` while a certificate of another role is valid under it. A
        key has one holder: ``Refused`` while it is certified for somebody else. The certificate
        ends with the issuing CA's at the latest.
        """
        wanted = Identity(federation=self.federation, role=role, name=name)
        return self.grant(self.vet(request, wanted, now), now, life)

    def vet(
        self,
        request: x509.CertificateSigningRequest,
        wanted: Identity,
        now: datetime,
        challenges: Challenges | None = None,
    ) -> Subject:
        """What a request may be granted; nothing is issued yet.

        ``Refused``: it asks for something else, its key is another party's, or its evidence is not
        what is demanded. ``challenges`` are those of the service that was asked.
        """
        subject = requests.check(request, wanted)
        self.check_key(wanted, subject.public_key, now)
        self._judge(subject, now, challenges)
        return subject

    def grant(
        self, subject: Subject, now: datetime, life: timedelta = LEAF_LIFE
    ) -> x509.Certificate:
        """The certificate of what ``vet`` let pass."""
        return self._issue(subject, now=now, life=life)

    def renew(self, name: str, now: datetime, life: timedelta = LEAF_LIFE) -> x509.Certificate:
        """Certify the latest key of a name again. ``UserError`` if it has none or was revoked.

        ``Refused``: it must prove what it runs, which takes a request with new evidence.
        """
        if name == SERVICE:
            raise UserError(f"{name!r} is the enrolment service, which renews itself. Name a party")
        latest = self._latest(name)
        identity = Identity.of(latest)
        names = latest.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = latest.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Bug(f"the record of issued certificates holds a foreign key for {name!r}")
        subject = Subject(identity=identity, public_key=key, hosts=profiles.hosts_of(names))
        self._judge(subject, now, None)
        return self._issue(subject, now=now, life=life)

    def revoke(self, name: str, now: datetime) -> int:
        """Revoke every valid certificate of a name and sign the list; returns how many were new.

        Once more after a crash, it signs the list again.
        """
        with files.locked(self._lock):
            serials = {
                certificate.serial_number
                for certificate in self._issued()
                if Identity.of(certificate).name == name and certificate.not_valid_after_utc > now
            }
            if not serials:
                raise UserError(f"{name!r} holds no valid certificate. Check the name's spelling")
            fresh = serials - self._revoked().keys()
            for serial in sorted(fresh):
                entry = {"event": "revoked", "serial": f"{serial:x}", "time": now.isoformat()}
                files.append(self._record, canonical.encode(entry))
            self._sign_crl(now)
        return len(fresh)

    def recertify(self, passphrase: bytes, now: datetime) -> None:
        """Prolong the issuing CA by a year from now, under the same key; parties get it with their
        next renewal.
        """
        root_key = keys.load(self._folder / "ca" / "root.key", passphrase)
        with files.locked(self._lock):
            issuing = profiles.issuing(self.anchors.root, root_key, self._key, now)
            files.write(self._folder / "chain.pem", _pem(issuing) + _pem(self.anchors.root))
            files.write(self._folder / "ca" / "issuing.pem", _pem(issuing))
        self.anchors = Anchors.read(self._folder)

    def crl(self, now: datetime) -> bytes:
        """Sign a fresh revocation list, write it to ``crl.pem``, and return its PEM bytes."""
        with files.locked(self._lock):
            return self._sign_crl(now)

    def recent_crl(self, now: datetime) -> bytes:
        """The revocation list in PEM, signed afresh only when it is over a day old."""
        with files.locked(self._lock):
            if (last := self._last_crl()) is None or now - last.last_update_utc > CRL_REFRESH:
                return self._sign_crl(now)
            return last.public_bytes(Encoding.PEM)

    def issued(self) -> list[tuple[x509.Certificate, datetime | None]]:
        """Every certificate in order of issue, each with the time of its revocation if it was."""
        return issued(self._folder)

    def _judge(self, subject: Subject, now: datetime, challenges: Challenges | None) -> None:
        if self._vouch is None or subject.identity.role == "authority":  # which is this CA's own
            return
        key = key_hash(subject.public_key)
        wanted = Wanted(
            identity=subject.identity, key=key, evidence=subject.evidence, challenges=challenges
        )
        self._vouch(wanted, now)

    def _issue(self, subject: Subject, *, now: datetime, life: timedelta) -> x509.Certificate:
        identity, public_key = subject.identity, subject.public_key
        issuer = self.anchors.issuing
        until = min(now + life, issuer.not_valid_after_utc)
        if until <= now:
            raise UserError(
                f"a certificate until {until:%Y-%m-%d %H:%M} UTC would be expired. Give it a longer"
                " life, or prolong the CA with 'fx ca renew'"
            )
        with files.locked(self._lock):
            self._check_free(identity, now)
            self.check_key(identity, public_key, now)
            leaf = profiles.leaf(subject, issuer=issuer, issuer_key=self._key, now=now, until=until)
            entry = {
                "event": "issued",
                "serial": f"{leaf.serial_number:x}",
                "identity": identity.uri,
                "not_after": leaf.not_valid_after_utc.isoformat(),
                "fingerprint": keys.fingerprint(leaf),
                "pem": _pem(leaf).decode(),
            }
            files.append(self._record, canonical.encode(entry))
        return leaf

    def check_key(
        self, identity: Identity, public_key: ec.EllipticCurvePublicKey, now: datetime
    ) -> None:
        """What the function of this name says of this CA."""
        check_key(self._folder, identity, public_key, now)

    def _check_free(self, identity: Identity, now: datetime) -> None:
        check_party(identity.role, identity.name)
        for other in valid(self._folder, identity.name, now):
            holder = Identity.of(other)
            if holder.role != identity.role:
                raise UserError(
                    f"{identity.name!r} is the name of this federation's {holder.role}. Choose"
                    " another name, or revoke that one first"
                )

    def _latest(self, name: str) -> x509.Certificate:
        own = [one for one in self._issued() if Identity.of(one).name == name]
        if not own:
            raise UserError(f"{name!r} was never certified. Invite it with 'fx invite {name}'")
        if own[-1].serial_number in self._revoked():
            raise UserError(f"{name!r} was revoked. Invite it anew with 'fx invite {name}'")
        return own[-1]

    def _sign_crl(self, now: datetime) -> bytes:
        last = self._last_crl()
        live = {one.serial_number for one in self._issued() if one.not_valid_after_utc > now}
        signed = crl.sign(
            self.anchors.issuing,
            self._key,
            [(serial, when) for serial, when in self._revoked().items() if serial in live],
            number=1 if last is None else crl.number(last) + 1,
            now=now,
        )
        pem = signed.public_bytes(Encoding.PEM)
        files.write(self.anchors.crl, pem)
        return pem

    def _last_crl(self) -> x509.CertificateRevocationList | None:
        if not self.anchors.crl.exists():
            return None
        try:
            return crl.parse(self.anchors.crl.read_bytes(), self.anchors.issuing)
        except ValueError as error:
            raise UserError(
                f"{self.anchors.crl} is damaged ({error}). Move it away: a new one will be signed"
            ) from error

    def _issued(self) -> Iterator[x509.Certificate]:
        return _issued(self._record)

    def _revoked(self) -> dict[int, datetime]:
        return _revoked(self._record)

    @property
    def _record(self) -> Path:
        return self._folder / "ca" / "issued.jsonl"

    @property
    def _lock(self) -> Path:
        return self._folder / "ca" / "lock"


def has_ca(folder: Path) -> bool:
    """Whether ``folder/ca`` holds a CA."""
    return (folder / "ca" / "issuing.pem").exists()


def issued(folder: Path) -> list[tuple[x509.Certificate, datetime | None]]:
    """What ``Authority.issued`` says of the CA in ``folder/ca``; needs no passphrase."""
    record = folder / "ca" / "issued.jsonl"
    revoked = _revoked(record)
    return [(one, revoked.get(one.serial_number)) for one in _issued(record)]


def valid(folder: Path, name: str, now: datetime) -> list[x509.Certificate]:
    """The certificates of a name that are good now, in order of issue; needs no passphrase."""
    return [leaf for leaf in _live(folder, now) if Identity.of(leaf).name == name]


def check_key(
    folder: Path, identity: Identity, public_key: ec.EllipticCurvePublicKey, now: datetime
) -> None:
    """Raise ``Refused`` if another identity holds this key by a certificate that is good now.

    Sessions and evidence are known by their keys: who shares one can be taken for the other.
    """
    for leaf in _live(folder, now):
        holder = Identity.of(leaf)
        if holder != identity and leaf.public_key() == public_key:
            raise Refused(
                Code.BAD_REQUEST,
                f"the key is that of {holder.role} {holder.name!r}, and each party needs one of its"
                f" own. Remove its copy at {identity.name!r} (cert/{identity.name}.key.next), and"
                " make a new request; or, if the other one is nobody any more: fx ca revoke"
                f" {holder.name}",
            )


def check_party(role: Role, name: str) -> None:
    """Raise ``UserError`` unless a party in this role may have this name."""
    check_name("party", name)
    if name in _FILES:
        raise UserError(
            f"nobody can be called {name!r}: cert/{name}.pem is the federation's own file. Choose"
            " another name"
        )
    if name in _OWN and name != role:
        whose = "aggregator" if name == "aggregator" else "enrolment service"
        raise UserError(f"{name!r} is the name of the federation's {whose}. Choose another name")
    if role == "authority" and name != SERVICE:
        raise UserError(f"the enrolment service is called {SERVICE!r}, and nothing else")


def bundle(leaf: x509.Certificate, anchors: Anchors) -> bytes:
    """A leaf and the issuing CA in PEM: what a party's ``NAME.pem`` holds and its TLS shows."""
    return _pem(leaf) + _pem(anchors.issuing)


def _live(folder: Path, now: datetime) -> Iterator[x509.Certificate]:
    """The certificates that are good now."""
    for leaf, revoked in issued(folder):
        if revoked is None and leaf.not_valid_after_utc > now:
            yield leaf


def _issued(record: Path) -> Iterator[x509.Certificate]:
    for entry in _entries(record):
        if entry["event"] == "issued":
            yield x509.load_pem_x509_certificate(entry["pem"].encode())


def _revoked(record: Path) -> dict[int, datetime]:
    return {
        int(entry["serial"], 16): datetime.fromisoformat(entry["time"])
        for entry in _entries(record)
        if entry["event"] == "revoked"
    }


def _entries(record: Path) -> Iterator[Mapping[str, Any]]:
    """The record; a line that a crash cut short was never acted upon and is passed over."""
    if not record.exists():
        return
    for line in record.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)

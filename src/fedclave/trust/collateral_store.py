# SPDX-License-Identifier: Apache-2.0
"""The collateral that this party has imported, in a folder. It only gets newer.

    FOLDER/sgx-00606a000000-platform-46f33ef53ca4a6e8.json   TEE, FMSPC, CA, root: one file each
    FOLDER/newest.json                                       the newest dates and numbers seen

Old collateral is as well signed as new, and shows an outdated platform as up to date. So what was
accepted last is remembered apart from the files: neither an import nor a file that somebody put
there may be older. (Who can write both can still go back; a policy therefore has a least evaluation
number.)
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from fedclave import canonical
from fedclave.errors import Code, Refused, UserError
from fedclave.trust import collateral, files, pck, tcb
from fedclave.trust.collateral import Collateral, Vouched

WARN_AHEAD = timedelta(days=7)
"""Collateral is good for 30 days, and whoever imports it may be on leave."""
REMIND_AFTER = timedelta(days=1)
SOON = "soon"
"""The reason of a warning about what is good still."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """Imported collateral under ``folder``, signed under one of ``roots`` (DER)."""

    folder: Path
    roots: tuple[bytes, ...]

    def add(self, raw: bytes, now: datetime) -> Collateral:
        """Import collateral: verified, valid now, and not older than what was imported before.

        ``Refused`` with the reason; the store is then as it was. Unless the reason is that it
        revokes its own makers: that is kept, so that what it was to replace does not count on.
        """
        parsed = collateral.parse(raw)
        chain = parsed.signed_tcb_info.chain.encode("ascii", "replace")
        root_der = pck.choose_root(chain, self.roots)
        vouched = collateral.genuine(raw, root_der)
        collateral.check_current(vouched, now)
        try:
            collateral.vouch(raw, root_der)
            revoked = None
        except Refused as refused:
            revoked = refused
        extent = vouched.collateral.tcb_info
        name = _name(extent.tee, extent.fmspc, vouched.pck_ca.kind, root_der)
        files.private_folder(self.folder)
        with files.locked(self.folder / ".lock"):
            newest = self._newest()
            found = _marks(vouched)
            known = newest.get(name, {})
            _check_not_older(found, known, "what was imported before")
            if revoked is not None:  # of all that it says, the root's list alone counts
                if not known:
                    raise revoked
                found = {**known, "root CRL": found["root CRL"]}
            files.write(self.folder / name, raw)
            files.write(self._marks_file, canonical.encode({**newest, name: found}))
        if revoked is not None:
            raise Refused(
                revoked.code,
                f"{revoked.message}. It is kept: nobody on such a platform is admitted by what was"
                " imported before",
            )
        return vouched.collateral

    def find(
        self, *, tee: tcb.Tee, fmspc: bytes, ca: pck.CaKind, root_der: bytes, now: datetime
    ) -> Collateral:
        """The collateral for a kind of platform, valid now. ``Refused`` if there is none."""
        vouched = self.held(tee=tee, fmspc=fmspc, ca=ca, root_der=root_der)
        collateral.check_current(vouched, now)
        return vouched.collateral

    def held(self, *, tee: tcb.Tee, fmspc: bytes, ca: pck.CaKind, root_der: bytes) -> Vouched:
        """The same, valid now or not."""
        path = self.folder / _name(tee, fmspc, ca, root_der)
        if not path.is_file():
            raise Refused(
                Code.ATT_COLLATERAL_MISSING,
                f"there is no collateral for {tee.upper()} platforms with FMSPC {fmspc.hex()}"
                f" ({ca} CA) under this root in {self.folder}. Get it from Intel's PCS, and"
                " import it ('fx attest collateral import')",
            )
        return self._vouched(path, root_der)

    def files(self) -> dict[Path, bytes | None]:
        """Every file of collateral here, with the root that it is under; None: none of these."""
        known = {_root(root_der): root_der for root_der in self.roots}
        found = sorted(self.folder.glob("*-*-*-*.json"))
        return {path: known.get(path.stem.rpartition("-")[2]) for path in found}

    def warnings(self, now: datetime, ahead: timedelta = WARN_AHEAD) -> list[str]:
        """A sentence for each file that has expired, soon will, or cannot be used."""
        return [one.text for one in self.forecast(now, ahead)]

    def forecast(self, now: datetime, ahead: timedelta = WARN_AHEAD) -> list["Warned"]:
        """What ``warnings`` says, and of which file for which reason. Files of other roots than
        these are nobody's here, and not read.
        """
        found = []
        for path, root_der in self.files().items():
            if root_der is None:
                continue
            try:
                vouched = self._vouched(path, root_der)
                collateral.check_current(vouched, now)
            except (Refused, UserError) as error:
                reason = str(error.code) if isinstance(error, Refused) else "unreadable"
                found.append(Warned(path.name, reason, f"{path.name}: {error}"))
                continue
            if vouched.expires_in(now) < ahead:
                text = (
                    f"{path.name}: good until {vouched.expires:%Y-%m-%d %H:%M} UTC, then nobody"
                    f" on this kind of platform is admitted. {collateral.IMPORT}"
                )
                found.append(Warned(path.name, SOON, text))
        return sorted(found)

    def _vouched(self, path: Path, root_der: bytes) -> Vouched:
        """A file's collateral, if it is what its name says and not older than what was accepted."""
        vouched = collateral.vouch(files.read(path, _AGAIN), root_der)
        extent = vouched.collateral.tcb_info
        if _name(extent.tee, extent.fmspc, vouched.pck_ca.kind, root_der) != path.name:
            raise Refused(Code.ATT_COLLATERAL, f"{path} is about another platform. {_AGAIN}")
        _check_not_older(_marks(vouched), self._newest().get(path.name, {}), f"the file {path}")
        return vouched

    @property
    def _marks_file(self) -> Path:
        return self.folder / "newest.json"

    def _newest(self) -> dict[str, dict[str, Any]]:
        """What was accepted last, by file name."""
        if not self._marks_file.exists():
            return {}
        data = files.read(self._marks_file, _AGAIN)
        try:
            value = canonical.decode(data)
            good = all(
                {mark: type(least) for mark, least in marks.items()} == _MARKS
                for marks in value.values()
            )
        except (Refused, AttributeError, TypeError) as error:
            raise _damaged(self._marks_file) from error
        if not good:
            raise _damaged(self._marks_file)
        return dict(value)


class Warned(NamedTuple):
    """A warning about one file; ``reason`` stays the same while the text counts minutes."""

    name: str
    reason: str
    text: str


class Reminder:
    """Warnings for a process that runs for days: each is due once, and again after a day."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], datetime] = {}

    def due(self, store: Store, now: datetime) -> list[str]:
        """What to say of the store now; often nothing. Call it as often as you like."""
        found = store.forecast(now)
        wrong = {(one.name, one.reason) for one in found}
        self._told = {key: at for key, at in self._told.items() if key in wrong}
        due = [
            one
            for one in found
            if (at := self._told.get((one.name, one.reason))) is None or now - at >= REMIND_AFTER
        ]
        self._told |= {(one.name, one.reason): now for one in due}
        return [one.text for one in due]


_AGAIN = "Restore it from a copy, or import the collateral again"
_MARKS = {
    "TCB info": str,
    "QE identity": str,
    "root CRL": str,
    "PCK CRL": str,
    "evaluation number": int,
}


def _marks(vouched: Vouched) -> dict[str, Any]:
    """The dates and the number that must not go back. (Intel's CRLs all have the number 1.)"""
    one = vouched.collateral
    return {
        "TCB info": one.tcb_info.issued.isoformat(),
        "QE identity": one.qe_identity.issued.isoformat(),
        "root CRL": vouched.root_crl.begins.isoformat(),
        "PCK CRL": vouched.pck_crl.begins.isoformat(),
        "evaluation number": one.evaluation,
    }


def _check_not_older(found: dict[str, Any], newest: dict[str, Any], what: str) -> None:
    for mark, least in newest.items():
        if found[mark] < least:
            raise Refused(
                Code.ATT_COLLATERAL_OLDER,
                f"the {mark} is of {found[mark]}, and {least} was accepted before: older than"
                f" {what}. Get collateral from Intel's PCS, not from a copy ('tcbEvaluation"
                "DataNumber' and update=standard or early must stay as they were)",
            )


def _name(tee: tcb.Tee, fmspc: bytes, ca: pck.CaKind, root_der: bytes) -> str:
    return f"{tee}-{fmspc.hex()}-{ca}-{_root(root_der)}.json"


def _root(root_der: bytes) -> str:
    return hashlib.sha256(root_der).hexdigest()[:16]


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged, so nobody knows which collateral is the newest. {_AGAIN}")

# SPDX-License-Identifier: Apache-2.0
"""What a party remembers of other parties' logs: of each, its key and the newest head it believed.

A log may only grow. Its first head is taken as it is, and the key that signed it is kept; after
that

    1   the same key must have signed it                                BAD_SIGNATURE
    2   it must not be smaller than what was seen                       LOG_OLDER
    3   of the same size, it must be the same                           LOG_FORK
    4   if larger, the log must prove that it only grew                 LOG_PROOF

Step 3 is a split view: two heads that one key signed and that no one log has. Both are kept, as
evidence for everybody who has the log's public key, and nothing of that log is believed any more
until a person has looked, and moved their file away. What fails at step 2 or 4 proves nothing to
others, as a proof may have been damaged on its way; the newest such heads are kept as well.

    HASH.head            the newest head of a log, with its key (``show``)
    HASH.split.json      step 3: two heads; the log is not believed while this lies here
    HASH.older.json      step 2, HASH.unproven.json step 4: likewise, for a person to look at

HASH is of the log's origin.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedclave import canonical
from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.trust import checkpoint, files, merkle
from fedclave.trust.checkpoint import Head

EVIDENCE = "fedclave-log-heads/1"
MAX_EVIDENCE = 32768  # bytes of its file
MAX_GROWTH = 64  # hashes in a proof; a tree of merkle.MAX_SIZE leaves needs no more
MAX_SHOWN = checkpoint.MAX_NOTE + 512  # bytes of a head with its key

_KEYS = {"heads", "key", "proof", "time", "type"}
_HASH = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A log of another party: its origin, and the public key of its heads."""

    origin: str
    key: Ed25519PublicKey

    @property
    def line(self) -> str:
        """Both in one line (``checkpoint.verifier_key``)."""
        return checkpoint.verifier_key(self.origin, self.key)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A head whose log's key signed it, and its bytes as that key signed them."""

    peer: Peer
    note: bytes
    head: Head

    @property
    def shown(self) -> bytes:
        """It with its key, for others."""
        return show(self.note, self.peer)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a log shows to whoever has seen a smaller head of it."""

    head: bytes
    """Its newest one, with its key (``show``)."""
    growth: tuple[bytes, ...]
    """The proof that it has grown from there; empty where there is nothing to prove."""


def show(note: bytes, peer: Peer) -> bytes:
    """A signed head with its log's key: the line of ``checkpoint.verifier_key``, then the note."""
    return peer.line.encode() + b"\n" + note


def read(shown: bytes) -> Seen:
    """A head that goes with its key. That key did sign it; whether it is the log's is not said.

    Raises ``Refused``: MALFORMED or BAD_SIGNATURE.
    """
    if len(shown) > MAX_SHOWN:
        raise Refused(Code.MALFORMED, f"a head of {len(shown)} bytes; {MAX_SHOWN} are read at most")
    line, _, note = shown.partition(b"\n")
    origin, key = checkpoint.parse_verifier_key(line.decode("ascii", "replace"))
    head = checkpoint.verified(note, origin, key)
    return Seen(peer=Peer(origin=origin, key=key), note=note, head=head)


class Heads:
    """The heads in a folder, one file for each log; processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seen(self, origin: str) -> Seen | None:
        """The newest head of a log that was believed: ask for a proof from its size.

        Raises ``Refused(LOG_FORK)`` if the log is not believed any more; ``UserError`` if the file
        here is damaged.
        """
        self._require_whole(origin)
        path = self._path(origin, "head")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            known = read(data)
            if known.peer.origin != origin:
                raise Refused(Code.MALFORMED, f"it is of the log {known.peer.origin!r}")
        except Refused as error:
            raise UserError(
                f"{path} is damaged ({error.message}). It holds what this party has seen of the log"
                f" {origin!r}: restore it from a copy. If there is none, compare the log's head"
                " with another party, then move this file away: the next head is taken as it is"
            ) from error
        return known

    def accept(
        self, shown: bytes, origin: str, growth: Sequence[bytes], *, since: int, now: datetime
    ) -> Seen:
        """Believe a head that the log's own party shows, and remember it.

        ``growth`` proves that the log has grown from its head of ``since`` entries, the newest that
        was seen (0: none). Raises ``Refused`` by the step that failed, and keeps the evidence;
        ``Unavailable`` if another process has meanwhile seen more.
        """
        with self._locked():
            given, known = _of(read(shown), origin), self._since(origin, since)
            if known is None:
                if growth:
                    raise Refused(
                        Code.LOG_PROOF, f"a proof from a head of {origin!r} that nobody saw"
                    )
                files.write(self._path(origin, "head"), shown)
                return given
            self._require_key(given, known)  # 1
            if given.head.size < known.head.size:  # 2
                path = self._keep("older.json", (known, given), growth, now)
                raise Refused(
                    Code.LOG_OLDER,
                    f"{origin!r} shows a log of {given.head.size} entries; it had"
                    f" {known.head.size} before. Its operator has to restore the newest copy. Both"
                    f" heads are kept in {path}",
                )
            self._follow(known, given, growth, now)  # 3, 4
            if given.head.size > known.head.size:
                files.write(self._path(origin, "head"), shown)
            return given

    def compare(
        self, note: bytes, origin: str, growth: Sequence[bytes], *, since: int, now: datetime
    ) -> Head:
        """Judge a head of a log as somebody else has seen it: is it of the same history?

        The key is the one that this party knows. ``growth`` is from the smaller to the larger
        of it and the newest that was seen, of ``since`` entries. Nothing is remembered but
        evidence. Raises ``Refused``; ``UserError`` if no head of that log was seen.
        """
        with self._locked():
            if (known := self._since(origin, since)) is None:
                raise UserError(f"no head of {origin!r} was seen yet to compare this one with")
            peer = known.peer
            given = Seen(peer=peer, note=note, head=checkpoint.verified(note, origin, peer.key))
            older, newer = sorted((known, given), key=lambda one: one.head.size)  # stable
            self._follow(older, newer, growth, now)
            return given.head

    def evidence(self, origin: str) -> Path | None:
        """The file with two heads that contradict each other, if there are such."""
        path = self._path(origin, "split.json")
        return path if path.exists() else None

    def _since(self, origin: str, since: int) -> Seen | None:
        known = self.seen(origin)
        if (0 if known is None else known.head.size) != since:
            raise Unavailable(
                f"another process of this party has meanwhile seen a newer head of {origin!r}. Run"
                " this again"
            )
        return known

    def _require_key(self, given: Seen, known: Seen) -> None:
        if given.peer.line != known.peer.line:
            path = self._path(known.peer.origin, "head")
            raise Refused(
                Code.BAD_SIGNATURE,
                f"the key of this log is {given.peer.line}; this party knows it by"
                f" {known.peer.line}. A log keeps its key: ask its operator and the other parties."
                f" If it was begun anew and all agree, move {path} away",
            )

    def _follow(self, older: Seen, newer: Seen, growth: Sequence[bytes], now: datetime) -> None:
        """Steps 3 and 4."""
        old, new, origin = older.head, newer.head, older.peer.origin
        if old.size == new.size and old.root != new.root:
            raise _split(origin, self._keep("split.json", (older, newer), (), now))
        try:
            if len(growth) > MAX_GROWTH:
                raise Refused(Code.LOG_PROOF, f"a proof of more than {MAX_GROWTH} hashes")
            merkle.check_consistency((old.size, old.root), (new.size, new.root), growth)
        except Refused as error:
            path = self._keep("unproven.json", (older, newer), growth, now)
            raise Refused(
                error.code,
                f"{origin!r} does not show that its {new.size} entries begin with the {old.size}"
                f" that were seen: {error.message}. Both heads are kept in {path}",
            ) from error

    def _keep(
        self, name: str, heads: tuple[Seen, Seen], growth: Sequence[bytes], now: datetime
    ) -> Path:
        peer = heads[0].peer
        fields = {
            "heads": [one.note.decode() for one in heads],
            "key": peer.line,
            "proof": [one.hex() for one in growth[:MAX_GROWTH] if len(one) == merkle.HASH],
            "time": f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "type": EVIDENCE,
        }
        path = self._path(peer.origin, name)
        files.write(path, canonical.encode(fields) + b"\n")
        return path

    def _require_whole(self, origin: str) -> None:
        if (path := self.evidence(origin)) is not None:
            raise _split(origin, path)

    def _locked(self) -> AbstractContextManager[None]:
        files.private_folder(self.folder)
        return files.locked(self.folder / "lock")

    def _path(self, origin: str, suffix: str) -> Path:
        return self.folder / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.{suffix}"


def verify_evidence(data: bytes, peer: Peer) -> tuple[Head, Head]:
    """The two heads of one log that contradict each other, for whoever was told so.

    Raises ``Refused``: MALFORMED, BAD_SIGNATURE, or LOG_PROOF if they do not.
    """
    fields = _evidence(data)
    if fields["key"] != peer.line:
        raise Refused(
            Code.BAD_SIGNATURE, f"evidence about the log {fields['key']!r:.200}, not {peer.line!r}"
        )
    one, other = (
        checkpoint.verified(note.encode(), peer.origin, peer.key) for note in fields["heads"]
    )
    if one.size != other.size or one.root == other.root:
        raise Refused(Code.LOG_PROOF, "these two heads do not contradict each other")
    return one, other


def _evidence(data: bytes) -> dict[str, Any]:
    """The fields of evidence, each of the form that ``_keep`` writes; they prove nothing yet."""
    if len(data) > MAX_EVIDENCE:
        raise Refused(Code.MALFORMED, f"evidence of more than {MAX_EVIDENCE} bytes")
    if not data.endswith(b"\n"):
        raise _no_evidence("it does not end with a newline")
    fields = canonical.decode(data[:-1])
    if not isinstance(fields, dict) or fields.get("type") != EVIDENCE:
        raise _no_evidence(f"its type is not {EVIDENCE}")
    if fields.keys() != _KEYS:
        odd = sorted(fields.keys() ^ _KEYS)[0]
        raise _no_evidence(f"{odd!r:.80} is {'missing' if odd in _KEYS else 'not one of its keys'}")
    found: dict[str, Any] = dict(fields)
    for name, least, most in (("heads", 2, 2), ("proof", 0, MAX_GROWTH)):
        value = found[name]
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise _no_evidence(f"{name} is not a list of {least} to {most}")
        if not all(isinstance(one, str) for one in value):
            raise _no_evidence(f"{name} has something else than texts")
    if not all(_HASH.fullmatch(one) for one in found["proof"]):
        raise _no_evidence("proof has something else than hashes in hex")
    if not isinstance(found["time"], str) or not _TIME.fullmatch(found["time"]):
        raise _no_evidence("time is not like 2026-11-22T12:00:00Z")
    if not isinstance(found["key"], str):
        raise _no_evidence("key is not a text")
    return found


def _of(given: Seen, origin: str) -> Seen:
    if given.peer.origin != origin:
        raise Refused(
            Code.BAD_SIGNATURE,
            f"a head of the log {given.peer.origin!r}, where {origin!r} is expected",
        )
    return given


def _no_evidence(reason: str) -> Refused:
    return Refused(Code.MALFORMED, f"not evidence about a log: {reason}. Get the file again")


def _split(origin: str, path: Path) -> Refused:
    return Refused(
        Code.LOG_FORK,
        f"{origin!r} signed two different logs of the same size: it shows parties different"
        f" histories, or rewrote one. Both heads are in {path}; show them to the other parties."
        " Nothing of this log is believed until a person has looked, and moved that file away",
    )

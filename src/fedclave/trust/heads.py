# SPDX-License-Identifier: Apache-2.0
"""What a party remembers of other parties' logs: of each, the newest head that it believed.

A log may only grow. The first head of a log is taken as it is; after that

    1   it must be signed by the log's key                              BAD_SIGNATURE
    2   it must not be smaller than what was seen                       LOG_OLDER
    3   of the same size, it must be the same                           LOG_FORK
    4   if larger, the log must prove that it only grew                 LOG_PROOF

Step 3 is a split view: two heads that one key signed and that no one log has. Both are kept, as
evidence for everybody who has the log's public key, and nothing of that log is believed any more
until a person has looked. A proof that fails at step 4 accuses nobody, as it may have been damaged
on its way; it is kept as well, the newest one for each log.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedclave import canonical
from fedclave.errors import Code, Refused
from fedclave.trust import checkpoint, files, merkle
from fedclave.trust.checkpoint import Head

EVIDENCE = "fedclave-log-heads/1"
MAX_EVIDENCE = 32768  # bytes of its file


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A log of another party: its origin, and the public key of its heads."""

    origin: str
    key: Ed25519PublicKey

    @property
    def id(self) -> str:
        """What its files here are called."""
        line = checkpoint.verifier_key(self.origin, self.key)
        return hashlib.sha256(line.encode()).hexdigest()[:32]


class Heads:
    """The heads in a folder, one file for each log; processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seen(self, peer: Peer) -> Head | None:
        """The newest head of a log that was believed: ask for a proof from its size."""
        note = self._note(peer)
        return None if note is None else checkpoint.verified(note, peer.origin, peer.key)

    def note(self, peer: Peer) -> bytes:
        """That head as it was signed, to show to others; empty if there is none."""
        return self._note(peer) or b""

    def accept(self, note: bytes, peer: Peer, proof: Sequence[bytes], now: datetime) -> Head:
        """Believe a head that the log's own party shows, and remember it.

        ``proof`` shows that the log has grown from ``seen`` to it; empty if there is none, or the
        same. Raises ``Refused`` by the step that failed, and keeps the evidence.
        """
        files.private_folder(self.folder)
        with files.locked(self.folder / "lock"):
            self._require_whole(peer)
            head = checkpoint.verified(note, peer.origin, peer.key)
            before = self._note(peer)
            if before is None:
                if proof:
                    raise Refused(
                        Code.LOG_PROOF, f"a proof from a head of {peer.origin!r} that nobody saw"
                    )
                files.write(self._path(peer), note)
                return head
            known = checkpoint.verified(before, peer.origin, peer.key)
            if head.size < known.size:
                raise Refused(
                    Code.LOG_OLDER,
                    f"{peer.origin!r} shows a log of {head.size} entries; it had {known.size}"
                    " before. Its operator has to restore the newest copy",
                )
            self._follow((before, known), (note, head), proof, peer, now)
            if head.size > known.size:
                files.write(self._path(peer), note)
            return head

    def compare(self, note: bytes, peer: Peer, proof: Sequence[bytes], now: datetime) -> None:
        """Judge a head of a log as somebody else has seen it: is it of the same history?

        ``proof`` is from the smaller to the larger of it and ``seen``. Nothing is remembered but
        evidence. Raises ``Refused``; LOG_PROOF too if no head of that log was seen.
        """
        files.private_folder(self.folder)
        with files.locked(self.folder / "lock"):
            self._require_whole(peer)
            head = checkpoint.verified(note, peer.origin, peer.key)
            if (before := self._note(peer)) is None:
                raise Refused(
                    Code.LOG_PROOF, f"no head of {peer.origin!r} was seen yet to compare it with"
                )
            known = checkpoint.verified(before, peer.origin, peer.key)
            older, newer = sorted(
                [(before, known), (note, head)], key=lambda one: one[1].size
            )  # stable: of equal ones, what was seen comes first
            self._follow(older, newer, proof, peer, now)

    def evidence(self, peer: Peer) -> Path | None:
        """The file with two heads that contradict each other, if there are such."""
        path = self._path(peer, "split.json")
        return path if path.exists() else None

    def _follow(
        self,
        older: tuple[bytes, Head],
        newer: tuple[bytes, Head],
        proof: Sequence[bytes],
        peer: Peer,
        now: datetime,
    ) -> None:
        """Steps 3 and 4."""
        (_, old), (_, new) = older, newer
        notes = (older[0], newer[0])
        if old.size == new.size and old.root != new.root:
            path = self._keep("split.json", notes, (), peer, now)
            raise _split(peer, path)
        try:
            merkle.check_consistency((old.size, old.root), (new.size, new.root), proof)
        except Refused as error:
            path = self._keep("unproven.json", notes, proof, peer, now)
            raise Refused(
                error.code,
                f"{peer.origin!r} does not show that its {new.size} entries begin with the"
                f" {old.size} that were seen: {error.message}. Both heads are kept in {path}",
            ) from error

    def _keep(
        self,
        name: str,
        notes: tuple[bytes, bytes],
        proof: Sequence[bytes],
        peer: Peer,
        now: datetime,
    ) -> Path:
        fields = {
            "heads": [note.decode() for note in notes],
            "key": checkpoint.verifier_key(peer.origin, peer.key),
            "proof": [one.hex() for one in proof[: 2 * 63] if len(one) == merkle.HASH],
            "time": f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "type": EVIDENCE,
        }
        path = self._path(peer, name)
        files.write(path, canonical.encode(fields) + b"\n")
        return path

    def _require_whole(self, peer: Peer) -> None:
        if (path := self.evidence(peer)) is not None:
            raise _split(peer, path)

    def _note(self, peer: Peer) -> bytes | None:
        try:
            return self._path(peer).read_bytes()
        except FileNotFoundError:
            return None

    def _path(self, peer: Peer, suffix: str = "note") -> Path:
        return self.folder / f"{peer.id}.{suffix}"


def verify_evidence(data: bytes, peer: Peer) -> tuple[Head, Head]:
    """The two heads of one log that contradict each other, for whoever was told so.

    Raises ``Refused``: MALFORMED, BAD_SIGNATURE, or LOG_PROOF if they do not.
    """
    if len(data) > MAX_EVIDENCE:
        raise Refused(Code.MALFORMED, f"evidence of more than {MAX_EVIDENCE} bytes")
    fields = canonical.decode(data.removesuffix(b"\n"))
    notes = fields.get("heads") if isinstance(fields, dict) else None
    if not isinstance(notes, list) or len(notes) != 2:
        raise Refused(Code.MALFORMED, "not evidence about a log: it has not two heads")
    if not all(isinstance(note, str) for note in notes):
        raise Refused(Code.MALFORMED, "not evidence about a log: its heads are not texts")
    one, other = (checkpoint.verified(note.encode(), peer.origin, peer.key) for note in notes)
    if one.size != other.size or one.root == other.root:
        raise Refused(Code.LOG_PROOF, "these two heads do not contradict each other")
    return one, other


def _split(peer: Peer, path: Path) -> Refused:
    return Refused(
        Code.LOG_FORK,
        f"{peer.origin!r} signed two different logs of the same size: it shows parties different"
        f" histories, or rewrote one. Both heads are in {path}; show them to the other parties",
    )

# SPDX-License-Identifier: Apache-2.0
"""How far a run has come, stated by its aggregator and countersigned by its members.

An aggregator whose state is sealed cannot see that its host has put an older copy back: members
can. Before a model is offered, the aggregator states the round that closed, the model and the head
of its log, signed by the key of its log (Ed25519). A member that is told so

    1   verifies the signature, and that the run is its own            BAD_SIGNATURE, WRONG_PLAN
    2   holds it to the newest statement that it knows: the same key    BAD_SIGNATURE
    3   no earlier round, and of the same round the same model          SET_BACK
    4   keeps it, and countersigns it with its TLS key (ECDSA, SHA-256)

and shows its newest whenever it connects. One that is newer than what the aggregator has, signed by
the aggregator's own key, proves that its state was set back.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from fedclave import canonical
from fedclave.errors import Code, Refused
from fedclave.trust import files

KIND = "fedclave-stated/1"
MAX_STATED = 2**14  # bytes
_TEXTS = ("plan", "contract", "model", "head")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What an aggregator said of its run, with its signature verified."""

    plan: str
    contract: str  # "": the federation has none
    round: int
    model: str
    head: str  # the signed head of its log; "": it keeps none
    key: str  # its log's, in hex
    raw: bytes
    """As it is on the wire and on disks."""


def state(
    key: Ed25519PrivateKey, *, plan: str, contract: str, round_: int, model: str, head: str
) -> Statement:
    """A statement, signed."""
    own = key.public_key().public_bytes_raw().hex()
    said = {
        "contract": contract,
        "head": head,
        "key": own,
        "model": model,
        "plan": plan,
        "round": round_,
        "type": KIND,
    }
    signature = key.sign(canonical.encode(said)).hex()
    return parse(canonical.encode({"said": said, "signature": signature}))


def parse(raw: bytes) -> Statement:
    """The statement in bytes. ``Refused``: MALFORMED, BAD_SIGNATURE by the key that it names."""
    if len(raw) > MAX_STATED:
        raise Refused(Code.MALFORMED, f"a statement of more than {MAX_STATED} bytes")
    whole = canonical.decode(raw)
    if not isinstance(whole, dict) or whole.keys() != {"said", "signature"}:
        raise _no_statement("it has other keys")
    said, signature = whole["said"], whole["signature"]
    if not isinstance(said, dict) or said.get("type") != KIND:
        raise _no_statement(f"its type is not {KIND}")
    if said.keys() != {*_TEXTS, "key", "round", "type"}:
        raise _no_statement("what it says has other keys")
    if not all(isinstance(said[name], str) for name in _TEXTS):
        raise _no_statement("a text of it is none")
    if type(said["round"]) is not int or not 0 <= said["round"] < 2**31:
        raise _no_statement("its round is none")
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(said["key"]))
        key.verify(bytes.fromhex(signature), canonical.encode(said))
    except (ValueError, TypeError) as error:
        raise _no_statement("its key or signature is none") from error
    except InvalidSignature as error:
        raise Refused(
            Code.BAD_SIGNATURE, "the statement of how far the run has come is not signed by its key"
        ) from error
    fields: dict[str, Any] = {name: said[name] for name in (*_TEXTS, "round", "key")}
    return Statement(**fields, raw=raw)


def countersign(key: ec.EllipticCurvePrivateKey, raw: bytes) -> bytes:
    """A member's signature over a statement (RFC 5480 keys, DER), under a domain of its own."""
    return key.sign(_signed(raw), ec.ECDSA(SHA256()))


def check_countersigned(certificate: bytes, raw: bytes, signature: bytes) -> None:
    """Raise ``Refused(BAD_SIGNATURE)`` unless a certificate's (PEM) key has countersigned that."""
    key = x509.load_pem_x509_certificate(certificate).public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(signature, _signed(raw), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise Refused(
            Code.BAD_SIGNATURE, "the member has not countersigned how far the run has come"
        ) from error


class Remembered:
    """What one member knows of how far a run has come; ``path`` is a file of its own."""

    def __init__(self, path: Path, plan: str) -> None:
        self._path = path
        self._plan = plan

    def newest(self) -> Statement | None:
        """The newest statement that was accepted. ``Refused``: its file is damaged."""
        if not self._path.exists():
            return None
        try:
            return parse(files.read(self._path, "Restore it from a copy"))
        except Refused as error:
            raise Refused(
                error.code,
                f"{self._path} is damaged: {error.message}. Restore it from a copy: it tells this"
                " party how far the run had come",
            ) from error

    def accept(self, raw: bytes) -> Statement:
        """Hold a statement to what is known, and remember it durably. Raises ``Refused``."""
        given = parse(raw)  # 1
        if given.plan != self._plan:
            raise Refused(Code.WRONG_PLAN, "the aggregator states how far another plan's run is")
        known = self.newest()
        if known is not None:
            self._require(given, known)  # 2, 3
        if known is None or given.raw != known.raw:
            files.write(self._path, given.raw)  # 4
        return given

    def missing(self) -> Refused:
        """What to say of an aggregator that offers a model and states nothing."""
        return Refused(
            Code.SET_BACK,
            "the aggregator says no more how far its run has come, as it did before. Its operator"
            f" has to go on with --seal-state. {self._anew()}",
        )

    def _require(self, given: Statement, known: Statement) -> None:
        if given.key != known.key:
            raise Refused(
                Code.BAD_SIGNATURE,
                f"the key of this run's aggregator is {given.key[:16]}; this party knows it by"
                f" {known.key[:16]}: its state was thrown away. {self._anew()}",
            )
        other = given.round == known.round and given.model != known.model
        if given.round < known.round or other:
            of = "of another model" if other else f"of round {given.round}"
            raise Refused(
                Code.SET_BACK,
                f"the aggregator states that its run is after round {given.round}, {of}; it was"
                f" after round {known.round} before, with model {known.model[:16]}. Its operator"
                f" has to restore the newest copy. {self._anew()}",
            )

    def _anew(self) -> str:
        return f"If the run was begun anew and all agree, move {self._path} away"


def set_back(member: str, known: Statement, latest: int) -> Refused:
    """What the aggregator says when a member shows a newer statement of its own."""
    return Refused(
        Code.SET_BACK,
        f"{member!r} shows this aggregator's own signed statement that the run was after round"
        f" {known.round}, and what lies here is after round {latest}: an older copy was put back."
        " Nothing is lost: restore the newest copy of its folder, then start again",
    )


def _signed(raw: bytes) -> bytes:
    return b"fedclave countersigned 1\0" + raw


def _no_statement(reason: str) -> Refused:
    return Refused(Code.MALFORMED, f"no statement of how far a run has come: {reason}")

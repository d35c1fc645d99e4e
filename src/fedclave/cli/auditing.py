# SPDX-License-Identifier: Apache-2.0
"""The aggregator's log: what the engine and the door tell, as records that cannot be taken back.

    logs/audit/    the log (``trust.log``); cert/log.key signs its heads, cert/log.pub verifies them

Written where the plan asks for attestation: the contract and each policy as they take effect, every
admission and refusal, and one record for each round. A round that was logged before a kill is not
logged again; one that was not is logged at the next start, from the journal.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.cli.audit import FOLDER
from fedclave.engine.events import Event
from fedclave.errors import Code, Refused, UserError
from fedclave.plan import NAME, Plan
from fedclave.trust import records, signing
from fedclave.trust.checkpoint import origin_of
from fedclave.trust.heads import Shown
from fedclave.trust.judgement import Word
from fedclave.trust.log import Log
from fedclave.trust.log_files import Reader
from fedclave.trust.records import (
    AdmissionRecord,
    ContractRecord,
    Part,
    PolicyRecord,
    Record,
    RefusalRecord,
    ReleaseRecord,
    RoundRecord,
)
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace

if TYPE_CHECKING:
    from fedclave.trust.attesting import Terms


def log_key(workspace: Workspace) -> Ed25519PrivateKey:
    """The key that signs this party's logs; made when it is first needed."""
    path = workspace.cert / "log.key"
    if not path.exists():
        signing.save(path, signing.generate())
    return signing.load(path)


class Ledger:
    """Writes the log of one run."""

    def __init__(self, log: Log, plan: Plan, terms: "Terms", own: Word, last: int) -> None:
        """``own`` is how the aggregator itself stands, ``last`` the latest round in the log."""
        self._log = log
        self._plan = plan
        self._contract = terms.contract
        self._own = own
        self._last = last
        self._words: dict[str, Word] = {}
        self._clock: Callable[[], datetime] | None = None

    @classmethod
    def open(cls, workspace: Workspace, plan: Plan, terms: "Terms", own: Word) -> Self:
        """The log of a workspace; its key is made when it is first needed."""
        folder = workspace.logs / FOLDER
        log = Log(folder, log_key(workspace), origin_of(plan.name))
        return cls(log, plan, terms, own, _last_round(folder, plan.digest))

    def begin(self, workspace: Workspace, terms: "Terms", clock: Callable[[], datetime]) -> None:
        """Under which contract and policy the run is, from now on."""
        self._clock = clock
        author = agreement.pinned(workspace, agreement.AUTHOR)
        if author is not None:
            self._write(
                ContractRecord(
                    at=clock(),
                    contract=terms.contract,
                    plan=self._plan.digest,
                    author=signing.key_id(author),
                )
            )
        signed = terms.policy
        self._write(
            PolicyRecord(
                at=clock(),
                version=signed.policy.version,
                policy=signed.digest,
                signers=signed.signed_by,
            )
        )
        self._log.checkpoint()

    def take(self, event: Event) -> None:
        """An event of the run: admissions and refusals are logged."""
        at = datetime.fromisoformat(event["time"])
        if event["event"] == "member_attested":
            self._words[event["member"]] = word = Word(event["word"])
            self._write(
                AdmissionRecord(
                    at=at,
                    peer=event["member"],
                    role="collaborator",
                    certificate=event["certificate"],
                    word=word,
                    measurement=event["measurement"] or None,
                    tcb_status=event["tcb"] or None,
                    evidence=event["evidence"] or None,
                    policy=event["policy"],
                )
            )
        elif event["event"] in ("peer_refused", "session_ended"):
            peer = event.get("member") or event["peer"]
            self._write(
                RefusalRecord(
                    at=at,
                    code=Code(event["code"]),
                    peer=peer if NAME.fullmatch(peer) else None,  # else an address
                    word=self._words.get(peer),
                    message=records.shortened(event["message"]),
                )
            )
        elif event["event"] == "policy":
            self._write(
                PolicyRecord(
                    at=at,
                    version=event["version"],
                    policy=event["digest"],
                    signers=tuple(event["signers"]),
                )
            )

    def __call__(self, record: Mapping[str, Any]) -> None:
        """A round that is durable (``engine.aggregator.Ledger``)."""
        given = record.get("ledger")
        if given is None or record["round"] <= self._last or self._clock is None:
            return
        packets: Mapping[str, Any] = given["packets"]
        parts = [self._part(name, "folded", packets) for name in record["accepted"]]
        parts += [self._part(name, Code(code), {}) for name, code in record["failed"].items()]
        parts += [self._part(name, "absent", {}) for name in record["missing"]]
        self._write(
            RoundRecord(
                at=self._clock(),
                contract=self._contract,
                plan=self._plan.digest,
                round=record["round"],
                word=records.together([self._own, *(part.word for part in parts)]),
                members=tuple(sorted(parts, key=lambda part: part.name)),
                aggregate=given["aggregate"],
                model_before=given["before"],
                model_after=record["model"],
                codec={},
                privacy={},
            )
        )
        self._last = record["round"]
        self._log.checkpoint()

    def released(self, record: ReleaseRecord) -> None:
        """A secret that came here, and opened."""
        self._write(record)
        self._log.checkpoint()

    def shown(self, seen: int) -> Shown:
        """What a member is shown that has seen so many entries (``Log.shown``).

        ``UserError``: the log here is damaged, which is the operator's to hear.
        """
        try:
            return self._log.shown(seen)
        except Refused as error:
            raise UserError(error.message) from error

    @property
    def last(self) -> int:
        """The latest round that is in the log."""
        return self._last

    def close(self) -> None:
        """Sign the last head, and let another process have the log."""
        self._log.checkpoint()
        self._log.close()

    def _part(self, name: str, outcome: Any, packets: Mapping[str, Any]) -> Part:
        digest, weight = packets.get(name, (None, None))
        if outcome == "folded" and digest is None:
            outcome = "measured"
        return Part(
            name=name,
            word=self._words.get(name, Word.NOT_ATTESTED),
            packet=digest,
            weight=weight,
            outcome=outcome,
        )

    def _write(self, record: Record) -> None:
        self._log.append(records.encode(record))


def _last_round(folder: Path, plan: str) -> int:
    """The latest round of this plan that is in the log."""
    last = 0
    with Reader(folder) as log:
        for entry in log.entries():
            record = records.decode(entry)
            if isinstance(record, RoundRecord) and record.plan == plan:
                last = record.round
    return last

# SPDX-License-Identifier: Apache-2.0
"""What is written into the log: one record for each thing that a party could dispute later.

Each is canonical JSON with a ``type``. A record never carries data, keys or evidence, only their
digests. What a SIMULATED verdict led to says so in the record itself, under ``word``; so does a
round if one of its members, or its aggregator, was SIMULATED.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, TypeAdapter
from pydantic.dataclasses import dataclass

from fedclave import canonical
from fedclave.errors import Code, Refused
from fedclave.plan import NAME
from fedclave.trust.judgement import Word
from fedclave.trust.names import Role

MAX_MESSAGE = 300  # characters
MAX_MEMBERS = 65536
_STRICT = ConfigDict(extra="forbid", strict=True)


def _seconds(time: datetime) -> datetime:
    if time.utcoffset() is None or time.year < 1970:
        raise ValueError("a time has a zone, and is not before 1970")
    try:
        return time.astimezone(UTC).replace(microsecond=0)
    except OverflowError as error:  # at the last hour of the year 9999, in a zone behind UTC
        raise ValueError("a time is before the year 10000") from error


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a text has one line and no control characters")
    return text


def _mapping(value: Mapping[str, Any]) -> Mapping[str, Any]:
    canonical.encode(value)
    return value


Name = Annotated[str, Field(pattern=rf"^(?:{NAME.pattern})$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, hex."""
Measurement = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{64}|[0-9a-f]{96})$")]
"""MRENCLAVE or MRTD, hex."""
Short = Annotated[str, Field(max_length=MAX_MESSAGE), AfterValidator(_line)]
Time = Annotated[
    datetime,
    AfterValidator(_seconds),
    PlainSerializer(lambda time: f"{time:%Y-%m-%dT%H:%M:%SZ}", when_used="json"),
]
Parameters = Annotated[Mapping[str, Any], AfterValidator(_mapping)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ContractRecord:
    """A contract took effect, or another one did."""

    type: Literal["contract"] = "contract"
    at: Time
    contract: Digest
    plan: Digest
    author: Digest
    """Key id (``signing.key_id``)."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PolicyRecord:
    """A version of the attestation policy took effect."""

    type: Literal["policy"] = "policy"
    at: Time
    version: Annotated[int, Field(ge=1)]
    policy: Digest
    signers: tuple[Digest, ...]
    """Key ids of those who signed it."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdmissionRecord:
    """A peer was let in. What comes from evidence is None of a peer that is NOT ATTESTED."""

    type: Literal["admission"] = "admission"
    at: Time
    peer: Name
    role: Role
    certificate: Digest
    word: Word
    measurement: Measurement | None
    tcb_status: Short | None
    evidence: Digest | None
    policy: Digest | None

    def __post_init__(self) -> None:
        whole = None not in (self.measurement, self.tcb_status, self.evidence, self.policy)
        if self.word is not Word.NOT_ATTESTED and not whole:
            raise ValueError(f"{self.word} needs measurement, TCB status, evidence and policy")
        shown = (self.measurement, self.tcb_status, self.evidence)
        if self.word is Word.NOT_ATTESTED and any(one is not None for one in shown):
            raise ValueError("NOT ATTESTED has no measurement, TCB status or evidence")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RefusalRecord:
    """A peer was refused.

    ``peer`` is the name in its certificate, which the federation's CA issued and the gate found
    good; None where it came no further. ``word`` is None of a peer that was not admitted.
    """

    type: Literal["refusal"] = "refusal"
    at: Time
    code: Code
    peer: Name | None
    word: Word | None
    message: Short


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ReleaseRecord:
    """Something sealed was given to a peer."""

    type: Literal["release"] = "release"
    at: Time
    to: Name
    purpose: Short
    word: Word
    key: Digest
    """Of the public key that it was sealed to."""
    object: Digest
    transcript: Digest


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Part:
    """What one member gave to a round; ``packet`` and ``weight`` are None where nothing came."""

    name: Name
    word: Word
    packet: Digest | None
    weight: Annotated[int, Field(ge=1)] | None
    outcome: Code | Literal["folded", "measured", "absent"]
    """``measured``: it gave figures and no update, as a round may ask."""

    def __post_init__(self) -> None:
        if self.outcome == "folded" and None in (self.packet, self.weight):
            raise ValueError("what was folded has a packet and a weight")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RoundRecord:
    """A round closed: with the packets, anybody recomputes ``aggregate`` and ``model_after``.

    ``contract`` is None in a federation without one; then ``plan`` is what all agreed to.
    """

    type: Literal["round"] = "round"
    at: Time
    contract: Digest | None
    plan: Digest
    round: Annotated[int, Field(ge=1)]
    word: Word
    """Of its members and the aggregator, ``together``."""
    members: Annotated[tuple[Part, ...], Field(max_length=MAX_MEMBERS)]
    aggregate: Digest
    model_before: Digest
    model_after: Digest
    codec: Parameters
    privacy: Parameters

    def __post_init__(self) -> None:
        names = [part.name for part in self.members]
        if names != sorted(set(names)):
            raise ValueError("members stand in the order of their names, each once")
        if together([self.word, *(part.word for part in self.members)]) is not self.word:
            raise ValueError(f"{self.word} is said of a round with a member that is less")


Record = (
    ContractRecord | PolicyRecord | AdmissionRecord | RefusalRecord | ReleaseRecord | RoundRecord
)
_RECORDS: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="type")])
_TELLING = (Word.SIMULATED, Word.NOT_ATTESTED, Word.VERIFIED)


def encode(record: Record) -> bytes:
    """A record as it stands in the log."""
    return canonical.encode(_RECORDS.dump_python(record, mode="json"))


def decode(entry: bytes) -> Record:
    """The record in a log's entry. Raises ``Refused(MALFORMED)``: only what ``encode`` made."""
    try:
        record = _RECORDS.validate_json(entry)
        again = encode(record)
    except (ValueError, TypeError, RecursionError) as error:
        first = str(error).replace("\n", " ")
        raise Refused(Code.MALFORMED, f"not a log's record: {first[:MAX_MESSAGE]}") from error
    if again != entry:
        raise Refused(Code.MALFORMED, "a log's record is not in its one form")
    return record


def together(words: Iterable[Word]) -> Word:
    """How a result stands that these led to: SIMULATED if one is, else NOT ATTESTED if one is.

    >>> str(together([Word.VERIFIED, Word.SIMULATED, Word.NOT_ATTESTED]))
    'SIMULATED'
    """
    return min(words, key=_TELLING.index)


def shortened(message: str) -> str:
    """A message, perhaps a peer's, as a record takes it: one line, no control characters.

    >>> shortened("two" + chr(10) + "lines"), len(shortened(400 * "c"))
    ('two lines', 300)
    """
    line = "".join(one if one.isprintable() else " " for one in message)
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"

# SPDX-License-Identifier: Apache-2.0
"""The entries of a log in words. They are what was signed, not what is known to be true."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedclave.trust.records import Record, RefusalRecord, RoundRecord


def rounds_of(workspace: Path) -> Mapping[str, int]:
    """The plan of a workspace (its digest), and its number of rounds; nothing without a good one.

    What comes after the last round is the final evaluation, which no record says of itself.
    """
    from fedclave.errors import FedclaveError
    from fedclave.plan import load
    from fedclave.workspace import layout

    try:
        plan = load(layout.open_(workspace).plan)
    except FedclaveError:
        return {}
    return {plan.digest: plan.rounds}


def shown(index: int, entry: bytes, rounds: Mapping[str, int]) -> dict[str, Any]:
    """An entry for people: what kind of record it is, and its gist. It may be of a newer kind.

    ``rounds``: plans that are known, and how many rounds each has (``rounds_of``).
    """
    from fedclave import canonical
    from fedclave.errors import Refused
    from fedclave.trust import records

    try:
        record = records.decode(entry)
    except Refused:
        says = f"{len(entry)} bytes that this version does not read"
        return {"index": index, "kind": "unknown", "says": says, "record": {}}
    fields = canonical.decode(entry)
    return {
        "index": index,
        "kind": fields.pop("type"),
        "says": _gist(record, rounds),
        "record": fields,
    }


def plain(record: dict[str, Any]) -> dict[str, str]:
    """A record's fields for people: lists on one line, a row for each member of a round."""
    rows: dict[str, str] = {}
    for name, value in record.items():
        if name == "members":
            for one in value:
                said = (f"{key} {_text(it)}" for key, it in one.items() if key != "name")
                rows[f"member {one['name']}"] = ", ".join(said)
        else:
            rows[name] = _text(value)
    return rows


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)


def _gist(record: "Record", rounds: Mapping[str, int]) -> str:
    from fedclave.trust import records

    match record:
        case records.ContractRecord():
            return f"contract {record.contract[:16]} by {record.author[:16]}"
        case records.PolicyRecord():
            return f"version {record.version}, {record.policy[:16]}"
        case records.AdmissionRecord():
            runs = f", runs {record.measurement[:16]}" if record.measurement else ""
            return f"{record.word}: {record.role} {record.peer}{runs}"
        case records.RefusalRecord():
            return f"{_refused(record)}: {record.code}: {record.message}"
        case records.ReleaseRecord():
            return f"{record.word}: {record.purpose} {record.object[:16]} to {record.to}"
        case records.RoundRecord():
            return f"{record.word}: {_round(record, rounds)}, model {record.model_after[:16]}"


def _refused(record: "RefusalRecord") -> str:
    """Who was refused. A name without a word is what a certificate says, and was never let in."""
    if record.peer is None:
        return "somebody"
    return f"{record.word}: {record.peer}" if record.word else f"{record.peer} (not admitted)"


def _round(record: "RoundRecord", rounds: Mapping[str, int]) -> str:
    outcomes = [part.outcome for part in record.members]
    folded, measured = outcomes.count("folded"), outcomes.count("measured")
    if folded or not measured:
        return f"round {record.round}, {folded} of {len(outcomes)} members"
    last = record.round > rounds.get(record.plan, record.round)
    name = "final evaluation" if last else f"round {record.round}"
    return f"{name}, measured by {measured}"

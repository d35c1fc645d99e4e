# SPDX-License-Identifier: Apache-2.0
"""``fx audit``: what the log says, and proof of it. Needs no network, and nobody's good will."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, WorkspaceDir, command, noun, number, whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from fedclave.trust.checkpoint import Head
    from fedclave.trust.log_files import Reader
    from fedclave.trust.records import Record

FOLDER = "audit"  # within the workspace's logs/
MOST = 10**9
_UNVERIFIED = "NOT VERIFIED. Verify it with 'fx audit verify --key PUB'."

app = noun("audit", "Show the log of what happened, prove its entries, verify proofs.")


@command(app, "show", "fx audit show", "fx audit show --last 5 --json")
def show(
    last: Annotated[int, number("--last", 1, MOST, "How many entries, up to the newest.")] = 50,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Show the entries of this workspace's log, up to its newest signed head. Verifies nothing."""
    with _reader(workspace) as log:
        size = log.claimed.size
        first = max(size - last, 0)
        entries = [_shown(first + i, entry) for i, entry in enumerate(log.entries(first))]
        value = {**_head(log.claimed), "checkpoint": log.note.decode(), "entries": entries}
    lines = [
        f"{one['index']:>7}  {one['record'].get('at', ''):20}  {one['kind']:9}  {one['says']}"
        for one in entries
    ]
    lines += ["", *console.rows(_head(log.claimed)), "", _UNVERIFIED]
    console.answer({"verified": False, **value}, lines, as_json)


@command(app, "prove", "fx audit prove 17 --out admission.proof")
def prove(
    index: Annotated[
        int,
        typer.Argument(
            metavar="INDEX",
            help="Which entry, as 'fx audit show' numbers them.",
            parser=whole(0, MOST, "'fx audit show' lists the entries with their numbers."),
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write it here.", show_default="stdout"),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Make the proof of one entry: whoever has the log's public key verifies it, offline.

    It holds the entry, the hashes that lead from it to the log's head, and the signed head.
    """
    from fedclave.errors import UserError
    from fedclave.trust import log_proof, merkle
    from fedclave.workspace import output

    with _reader(workspace) as log:
        size = log.claimed.size
        if index >= size:
            raise UserError(f"no entry {index}: the log's head has {_entries(size)}, from 0 on")
        proof = log_proof.LogProof(
            origin=log.claimed.origin,
            index=index,
            entry=next(log.entries(index, index + 1)),
            path=tuple(log.files.inclusion(index, size)),
            note=log.note,
        )
        leaf, root = merkle.leaf_hash(proof.entry), log.claimed.root
        merkle.check_inclusion(leaf, index, list(proof.path), size=size, root=root)
    encoded = log_proof.encode(proof)
    if out is None:
        print(encoded.decode(), end="")
        return
    with output.new_file(out) as temporary:
        temporary.write_bytes(encoded)
    value = {"file": out, "index": index, **_head(log.claimed)}
    lines = [f"{out}: the proof of entry {index} of {size}"]
    lines += console.steps(f"fx audit verify {out} --key log.pub     at whoever doubts it")
    console.answer(value, lines, as_json)


@command(
    app,
    "verify",
    "fx audit verify --key cert/log.pub",
    "fx audit verify admission.proof --key log.pub",
    "fx audit verify copy/logs/audit --key log.pub --since yesterday.checkpoint",
)
def verify(
    key: Annotated[
        Path, typer.Option("--key", metavar="PUB", help="The log's public key, from its operator.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A proof, or a log's folder.",
            show_default="this workspace's log",
        ),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(
            "--since", metavar="CHECKPOINT", help="An older head: the log must begin with it."
        ),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Verify a proof, or a whole log: every entry, every stored hash, and its signed head.

    Exit code 3 and a code if anything is not as it was signed.
    """
    from fedclave.errors import UserError
    from fedclave.trust import files, signing

    public = signing.parse_public(files.read(key, "Name the log's public key"), str(key))
    if file is not None and not file.is_dir():
        if since is not None:
            raise UserError("a proof is of one entry. Give --since with a log's folder")
        _verify_proof(file, public, as_json)
        return
    with _reader(workspace) if file is None else _open(file) as log:
        head = log.verify(public)
        older = None if since is None else _grown(log, head, public, since)
    value = {"verified": True, **_head(head)}
    lines = [f"VERIFIED: {_entries(head.size)}, each as it was when the head was signed."]
    if older is not None:
        value["since"] = _head(older)
        lines.append(f"The first {older.size} are those of the head in {since}.")
    lines += ["", *console.rows(_head(head))]
    console.answer(value, lines, as_json)


@command(
    app,
    "recompute",
    "fx audit recompute --key cert/log.pub --updates kept",
    "fx audit recompute copy/logs/audit --key log.pub --updates a --updates b --model initial.st",
)
def recompute(
    key: Annotated[
        Path, typer.Option("--key", metavar="PUB", help="The log's public key, from its operator.")
    ],
    updates: Annotated[
        list[Path],
        typer.Option("--updates", metavar="DIR", help="What --keep-updates kept; may be repeated."),
    ],
    log: Annotated[
        Path | None,
        typer.Argument(metavar="LOG", help="A log's folder.", show_default="this workspace's log"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="FILE", help="The initial model.", show_default="the workspace's"
        ),
    ] = None,
    until: Annotated[int, number("--until", 1, MOST, "The last round to compute.")] = MOST,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Compute the rounds again from the updates, and compare with the log, bit for bit.

    Verifies the log first. Needs the plan of the workspace, the initial model and every update that
    a round added up, whoever kept it. Exit code 3 and log-aggregate if a round comes out otherwise.
    """
    from dataclasses import asdict

    from fedclave.cli import recompute as computing
    from fedclave.trust import files, signing
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    public = signing.parse_public(files.read(key, "Name the log's public key"), str(key))
    same = computing.rounds(
        opened, log or opened.logs / FOLDER, public, updates, model or opened.initial, until
    )
    lines = [
        f"round {one.round:>5}  SAME  {console.count(one.updates, 'update'):>12}"
        f"  aggregate {one.aggregate[:16]}  model {one.model[:16]}"
        for one in same
    ]
    lines += ["", f"{console.count(len(same), 'round')} computed again: each bit as the log says."]
    console.answer({"same": True, "rounds": [asdict(one) for one in same]}, lines, as_json)


def _verify_proof(file: Path, key: "Ed25519PublicKey", as_json: bool) -> None:
    from fedclave.trust import files, log_proof

    proof = log_proof.decode(files.read(file, "Name a proof, or a log's folder"))
    entry, head = log_proof.verified(proof, key)
    shown = _shown(proof.index, entry)
    lines = [
        f"VERIFIED: this is entry {proof.index} of {head.size}.",
        "",
        *console.rows({"kind": shown["kind"], **_plain(shown["record"])}),
        "",
        *console.rows(_head(head)),
    ]
    console.answer({"verified": True, **_head(head), "entry": shown}, lines, as_json)


def _grown(log: "Reader", head: "Head", key: "Ed25519PublicKey", since: Path) -> "Head":
    """The older head, if the log begins with it."""
    from fedclave.errors import Code, Refused
    from fedclave.trust import checkpoint, files, merkle

    older = checkpoint.verified(files.read(since, "Name an older head"), head.origin, key)
    if older.size > head.size:
        raise Refused(
            Code.LOG_OLDER,
            f"the log has {_entries(head.size)}; it had {older.size} when {since} was signed",
        )
    if merkle.root_at(older.size, log.files.node) != older.root:
        raise Refused(
            Code.LOG_FORK,
            f"the first {older.size} entries are not those whose head is in {since}: the log's key"
            " signed two histories. Keep both, and show them to the other parties",
        )
    return older


def _reader(workspace: Path) -> "Reader":
    from fedclave.workspace import layout

    return _open(layout.open_(workspace).logs / FOLDER)


def _open(folder: Path) -> "Reader":
    from fedclave.trust.log_files import Reader

    return Reader(folder)


def _head(head: "Head") -> dict[str, Any]:
    return {"origin": head.origin, "size": head.size, "root": head.root.hex()}


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def _shown(index: int, entry: bytes) -> dict[str, Any]:
    """An entry for people: what kind of record it is, and its gist. It may be of a newer kind."""
    from fedclave import canonical
    from fedclave.errors import Refused
    from fedclave.trust import records

    try:
        record = records.decode(entry)
    except Refused:
        says = f"{len(entry)} bytes that this version does not read"
        return {"index": index, "kind": "unknown", "says": says, "record": {}}
    fields = canonical.decode(entry)
    return {"index": index, "kind": fields.pop("type"), "says": _gist(record), "record": fields}


def _plain(record: dict[str, Any]) -> dict[str, str]:
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


def _gist(record: "Record") -> str:
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
            word = f"{record.word}: " if record.word else ""
            return f"{word}{record.peer or 'somebody'}: {record.code}: {record.message}"
        case records.ReleaseRecord():
            return f"{record.word}: {record.purpose} {record.object[:16]} to {record.to}"
        case records.RoundRecord():
            folded = sum(part.outcome == "folded" for part in record.members)
            of = f"{folded} of {len(record.members)} members"
            return f"{record.word}: round {record.round}, {of}, model {record.model_after[:16]}"

# SPDX-License-Identifier: Apache-2.0
"""``fx audit``: what the log says, and proof of it. Needs no network, and nobody's good will."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import audit_words, console
from fedclave.cli.options import Json, WorkspaceDir, command, noun, number, whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from fedclave.trust.checkpoint import Head
    from fedclave.trust.log_files import Reader

FOLDER = "audit"  # within the workspace's logs/
RELEASES = "releases"  # beside it: what a party has released
MOST = 10**9
_UNVERIFIED = "NOT VERIFIED. Verify it with 'fx audit verify --key PUB'."

LogFolder = Annotated[
    Path | None,
    typer.Argument(metavar="LOG", help="A log's folder.", show_default="this workspace's log"),
]

app = noun("audit", "Show the log of what happened, prove its entries, verify proofs.")


@command(
    app, "show", "fx audit show", "fx audit show --last 5 --json", "fx audit show logs/releases"
)
def show(
    log: LogFolder = None,
    last: Annotated[int, number("--last", 1, MOST, "How many entries, up to the newest.")] = 50,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Show the entries of a log, up to its newest signed head. Verifies nothing.

    logs/audit is the aggregator's; logs/releases has what this party released.
    """
    rounds = audit_words.rounds_of(workspace)
    with _reader(workspace, log) as opened:
        size = opened.claimed.size
        first = max(size - last, 0)
        entries = [
            audit_words.shown(first + i, entry, rounds)
            for i, entry in enumerate(opened.entries(first))
        ]
        value = {**_head(opened.claimed), "checkpoint": opened.note.decode(), "entries": entries}
    lines = [
        f"{one['index']:>7}  {one['record'].get('at', ''):20}  {one['kind']:9}  {one['says']}"
        for one in entries
    ]
    lines += ["", *console.rows(_head(opened.claimed)), "", _UNVERIFIED]
    console.answer({"verified": False, **value}, lines, as_json)


@command(
    app,
    "prove",
    "fx audit prove 17 --out admission.proof",
    "fx audit prove 0 logs/releases --out release.proof",
)
def prove(
    index: Annotated[
        int,
        typer.Argument(
            metavar="INDEX",
            help="Which entry, as 'fx audit show' numbers them.",
            parser=whole(0, MOST, "'fx audit show' lists the entries with their numbers."),
        ),
    ],
    log: LogFolder = None,
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

    with _reader(workspace, log) as opened:
        head = opened.claimed
        size = head.size
        if index >= size:
            raise UserError(f"no entry {index}: the log's head has {_entries(size)}, from 0 on")
        proof = log_proof.LogProof(
            origin=head.origin,
            index=index,
            entry=next(opened.entries(index, index + 1)),
            path=tuple(opened.files.inclusion(index, size)),
            note=opened.note,
        )
        leaf, root = merkle.leaf_hash(proof.entry), head.root
        merkle.check_inclusion(leaf, index, list(proof.path), size=size, root=root)
    encoded = log_proof.encode(proof)
    if out is None:
        print(encoded.decode(), end="")
        return
    with output.new_file(out) as temporary:
        temporary.write_bytes(encoded)
    value = {"file": out, "index": index, **_head(head)}
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
    with _reader(workspace, file) as log:
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
    log: LogFolder = None,
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
    shown = audit_words.shown(proof.index, entry, {})
    lines = [
        f"VERIFIED: this is entry {proof.index} of {head.size}.",
        "",
        *console.rows({"kind": shown["kind"], **audit_words.plain(shown["record"])}),
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


def _reader(workspace: Path, log: Path | None) -> "Reader":
    """The log in a folder, or the workspace's own."""
    from fedclave.errors import UserError
    from fedclave.trust.log_files import Reader
    from fedclave.workspace import layout

    if log is not None:
        return Reader(log)
    folder = layout.open_(workspace).logs / FOLDER
    released = folder.with_name(RELEASES)
    if released.is_dir() and not folder.exists():
        raise UserError(
            f"{folder} is the aggregator's to write, and is not here. What this party released is"
            f" in {released}: name that folder"
        )
    return Reader(folder)


def _head(head: "Head") -> dict[str, Any]:
    return {"origin": head.origin, "size": head.size, "root": head.root.hex()}


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"

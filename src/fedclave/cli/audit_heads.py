# SPDX-License-Identifier: Apache-2.0
"""``fx audit head`` and ``compare``: two parties find out whether a log shows both the same."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, Member, WorkspaceDir, command

if TYPE_CHECKING:
    from fedclave.trust.checkpoint import Head
    from fedclave.trust.heads import Heads, Seen


def add_to(app: typer.Typer) -> None:
    """Add both to ``fx audit``."""
    command(app, "head", "fx audit head -n alice", "fx audit head -n alice --out alice.head")(head)
    command(
        app,
        "compare",
        "fx audit compare bob.head -n alice",
        "fx audit compare bob.head -n alice --log copy/logs/audit",
    )(compare)


def head(
    name: Member,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the signed head here."),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Show the newest head of the aggregator's log that a party has seen, to give to others.

    It saw and verified it when it attested. The file is as the log's key signed it.
    """
    from fedclave.workspace import output

    _, known = _known(workspace, name)
    shown = {**_shown(known.head), "key": known.peer.line}
    lines = console.rows(shown)
    if out is None:
        lines += console.steps(f"fx audit head -n {name} --out {name}.head     to send it")
    else:
        with output.new_file(out) as temporary:
            temporary.write_bytes(known.note)
        lines += console.steps(f"fx audit compare {out} -n NAME     at every other party")
    console.answer({**shown, "head": known.note.decode(), "file": out}, lines, as_json)


def compare(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A head of the log, from another party.")
    ],
    name: Member,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="DIR", help="A copy of the log, for heads of different sizes."
        ),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Compare the newest head that a party has seen with one that another party has seen. Offline.

    Heads of the same size are the same, or the log shows each party another history: exit code 3
    and log-fork. Whether the larger of two has grown from the smaller, a copy of the log shows,
    which need not be trusted.
    """
    from fedclave.errors import UserError
    from fedclave.trust import checkpoint, files

    heads, known = _known(workspace, name)
    own, origin = known.head, known.peer.origin
    note = files.read(file, "Name a head that another party has seen")
    given = checkpoint.verified(note, origin, known.peer.key)
    growth: list[bytes] = []
    if own.size != given.size:
        if log is None:
            raise UserError(
                f"{name} has seen a head of {own.size} entries, and {file} is one of {given.size}:"
                " only the log shows whether one has grown from the other. Ask its operator for a"
                " copy of logs/audit and give --log DIR"
            )
        growth = _growth(log, {name: own, str(file): given}, known.peer.key)
    heads.compare(note, origin, growth, since=own.size, now=datetime.now(UTC))
    lines = [f"ONE HISTORY: {name} and {file} have seen the same log."]
    lines += ["", *console.rows({"origin": origin, name: _says(own), str(file): _says(given)})]
    value = {"one_history": True, "own": _shown(own), "other": _shown(given)}
    console.answer(value, lines, as_json)


def _growth(folder: Path, seen: "dict[str, Head]", key: Any) -> list[bytes]:
    """The proof that the larger of two heads has grown from the smaller, of a log that has both."""
    from fedclave.errors import Code, Refused, UserError
    from fedclave.trust import merkle
    from fedclave.trust.log_files import Reader

    with Reader(folder) as log:
        newest = log.verify(key)
        for whose, head in seen.items():
            if head.size > newest.size:
                raise UserError(
                    f"the copy in {folder} has {newest.size} entries; {whose} is a head of"
                    f" {head.size}. Get a newer copy"
                )
            if merkle.root_at(head.size, log.files.node) != head.root:
                raise Refused(
                    Code.LOG_FORK,
                    f"the first {head.size} entries of the log in {folder} are not those that"
                    f" {whose} has seen: its key signed two histories. Keep {folder} and both"
                    " heads, and show them to the other parties",
                )
        older, newer = sorted(head.size for head in seen.values())
        return log.files.consistency(older, newer)


def _known(folder: Path, name: str) -> "tuple[Heads, Seen]":
    """What a party of a workspace has seen, and its newest head of the federation's log."""
    from fedclave.errors import UserError
    from fedclave.plan import load
    from fedclave.trust.checkpoint import origin_of
    from fedclave.trust.heads import Heads
    from fedclave.workspace import layout

    workspace = layout.open_(folder)
    heads, origin = Heads(workspace.heads(name)), origin_of(load(workspace.plan).name)
    known = heads.seen(origin)
    if known is None:
        raise UserError(
            f"{name} has seen no head of {origin!r} yet. It sees one when it attests ('fx"
            f" collaborator ping -n {name}')"
        )
    return heads, known


def _shown(head: "Head") -> dict[str, Any]:
    return {"origin": head.origin, "size": head.size, "root": head.root.hex()}


def _says(head: "Head") -> str:
    return f"{head.size} entries, root {head.root.hex()[:16]}"

# SPDX-License-Identifier: Apache-2.0
"""``fx collaborator``: a party that trains on its own data."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console, options, signals
from fedclave.cli.options import (
    LISTEN_HERE,
    AllowSimulated,
    AnswerFile,
    Inside,
    Json,
    JsonLines,
    KeepUpdates,
    Member,
    PassphraseFile,
    ReleaseListen,
    RequestFile,
    SealState,
    WorkspaceDir,
    Yes,
    command,
    noun,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fedclave.cli.party import Party

app = noun("collaborator", "Certify, test and run a collaborator.")

DataPath = Annotated[Path, typer.Option("--data", "-d", metavar="PATH", help="This party's data.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The aggregator.",
        callback=options.address,
        show_default="the token's, or the plan's",
    ),
]


@command(app, "create", "fx collaborator create -n alice -d data/alice.npz")
def create(
    name: Member, data: DataPath, workspace: WorkspaceDir = Path(), as_json: Json = False
) -> None:
    """Note in plan/data.yaml where a collaborator's data lies. The file never leaves this machine.

    A relative path is meant from this folder.
    """
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    path = note_data(opened, name, data)
    console.answer(
        {"name": name, "data": path, "file": opened.data_paths},
        [
            f"The data of {name} is {path} (plan/data.yaml).",
            *console.steps(f"fx join TOKEN, or: fx collaborator generate-cert-request -n {name}"),
        ],
        as_json,
    )


def _found(data: Path) -> Path:
    from fedclave.errors import UserError

    if not data.exists():
        raise UserError(
            f"there is no data at {data.absolute()}. Give the path of a file or folder that is"
            " there"
        )
    return data.resolve()


def note_data(workspace: Any, name: str, data: Path) -> Path:
    """Check that the data is there, and write its place down."""
    from fedclave.workspace import members

    path = _found(data)
    members.set_data_path(workspace, name, path)
    return path


@command(app, "generate-cert-request", "fx collaborator generate-cert-request -n alice")
def generate_cert_request(
    name: Member,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Make a collaborator's key, which stays here, and cert/NAME.csr for the CA's operator.

    Where the plan wants collaborators to prove what they run, its TEE makes the key, and the
    request carries the evidence.
    """
    from fedclave.cli import attesting, exchange
    from fedclave.plan import load
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    plan = load(opened.plan)
    attesting.run_from_source(plan, "collaborator", allow_simulated=allow_simulated)
    subject = exchange.Subject(workspace=opened, role="collaborator", name=name)
    exchange.request(subject, plan, (), allow_simulated=allow_simulated, as_json=as_json)


@command(
    app,
    "certify",
    "fx collaborator certify -n alice --request alice.csr",
    "fx collaborator certify -n alice --import alice.cert.pem",
)
def certify(
    name: Member,
    request: RequestFile = None,
    import_: AnswerFile = None,
    yes: Yes = False,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Sign a collaborator's request where the CA lies; or take in the CA's answer, at the party.

    At the CA: shows the request's fingerprint and asks whether the party sees the same, adds the
    name to plan/cols.yaml, and writes NAME.cert.pem to send back. At the party: shows the root's.
    Where the plan wants collaborators to prove what they run, evidence must be in the request.
    """
    from fedclave.cli import exchange
    from fedclave.workspace import layout

    subject = exchange.Subject(workspace=layout.open_(workspace), role="collaborator", name=name)
    exchange.certify(
        subject,
        request,
        import_,
        passphrase_file,
        yes=yes,
        allow_simulated=allow_simulated,
        as_json=as_json,
    )


@command(app, "start", "fx collaborator start -n alice -d data/alice.npz")
def start(
    name: Member,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", "-d", metavar="PATH", help="The data.", show_default="from plan/data.yaml"
        ),
    ] = None,
    address: Address = None,
    allow_simulated: AllowSimulated = False,
    release_listen: ReleaseListen = LISTEN_HERE,
    keep_updates: KeepUpdates = None,
    inside: Inside = False,
    seal_state: SealState = False,
    workspace: WorkspaceDir = Path(),
    as_json: JsonLines = False,
) -> None:
    """Take part in the run until it is over.

    Waits for the aggregator, and comes back after a lost connection, for as long as the plan's
    network.patience_s without contact. Ctrl-C or SIGTERM ends it in order (exit code 130 or 143);
    started again, it goes on. If its own code failed in every round, the exit code is 2.
    """
    from dataclasses import replace
    from functools import partial

    from fedclave.cli import attesting, run
    from fedclave.workspace import members

    party = replace(_party(workspace, name), inside=inside)
    attesting.run_from_source(party.plan, "collaborator", allow_simulated=allow_simulated)
    path = members.data_path(party.workspace, name) if data is None else _found(data)
    work = partial(
        run.collaborate,
        data=path,
        address=address or find_address(party),
        allow_simulated=allow_simulated,
        release_listen=release_listen,
        keep_updates=keep_updates,
        seal_state=seal_state,
    )
    conduct(party, address or find_address(party), work, as_json)


def conduct(
    party: "Party",
    where: str,
    work: "Callable[[Party], Coroutine[Any, Any, str]]",
    as_json: bool,
) -> None:
    """Do a collaborator's work to its end, and tell what happens, to people or as JSON lines.

    ``where`` is the aggregator's address.
    """
    from dataclasses import replace

    from fedclave.cli.tally import Tally
    from fedclave.cli.view import clean

    name = party.name
    notebook = party.workspace.notebook(name, party.plan.digest)
    tally = Tally(name, notebook / "failures.log")

    def listener(event: dict[str, Any]) -> None:
        tally.take(event)
        if as_json:
            console.emit(event)
        elif not tally.repeats(event):
            _tell(event, name, party.plan.rounds)

    party = replace(party, listener=listener)
    party.certified("collaborator")
    if not as_json:
        print(f"{name} asks {where} to be let into {party.plan.name!r}", flush=True)
    advice = f"Start again to go on: {_started(name)}"
    try:
        digest = signals.run(work(party), advice)
        party.tell(
            "finished",
            model=digest,
            answered=len(tally.answered),
            failed=len(tally.failed),
            refused=len(tally.refused),
        )
    finally:
        for line in () if as_json else tally.lines():
            print(clean(line), flush=True)
    tally.require_an_answer()


@command(app, "ping", "fx collaborator ping -n alice")
def ping(
    name: Member,
    address: Address = None,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Test whether this party could take part, and say what is wrong and what to do.

    In order: our certificate, the network, the aggregator's certificate and what it proves of
    itself, membership, plan, clocks. Warns of a certificate, or collateral, that will soon expire.
    Changes nothing.
    """
    from fedclave.cli import attesting, standing

    party = _party(workspace, name)
    attesting.run_from_source(party.plan, "collaborator", allow_simulated=allow_simulated)
    where = address or find_address(party)
    with attesting.side(party, "collaborator", allow_simulated=allow_simulated) as side:
        found = signals.run(standing.ask(party, where, side))
    value = standing.as_json(found)
    lines = console.rows(
        {
            "aggregator": f"{where} answers, and is the federation's",
            "attestation": _proved(found.word, found.measurement),
            "plan": f"the same on both sides ({party.plan.digest[:12]})",
            "certificate": f"good until {console.when(found.until)}",
            "run": f"round {found.round} of {found.rounds}; {len(found.connected)} connected",
        }
    )
    lines += [f"warning: {warning}" for warning in found.warnings]
    console.answer(value, [*lines, *console.steps(_started(name))], as_json)


def _proved(word: str | None, measurement: str) -> str:
    if word is None:
        return "the plan asks nobody to prove what they run"
    runs = f", runs {measurement[:16]}" if measurement else ""
    return f"the aggregator is {console.stood(word)}{runs}"


def _party(folder: Path, name: str) -> "Party":
    from fedclave.cli.party import Party
    from fedclave.plan import load
    from fedclave.workspace import layout

    opened = layout.open_(folder)
    return Party(
        workspace=opened,
        plan=load(opened.plan),
        name=name,
        clock=lambda: datetime.now(UTC),
    )


def find_address(party: "Party") -> str:
    """Where a party finds the aggregator, if nobody says otherwise."""
    from fedclave.cli import upkeep

    known = upkeep.contacts(party.workspace.cert, party.name)
    return known.aggregator if known else party.plan.network.address


def _started(name: str) -> str:
    return f"fx collaborator start -n {name}"


def _tell(event: dict[str, Any], name: str, rounds: int) -> None:
    """One event as a line for people, or none."""
    from fedclave.cli.board import brief
    from fedclave.cli.view import clean

    line = _LINES.get(event["event"])
    if event["event"] == "attested":
        event = {**event, "seen": brief(event) or event["reason"]}
    if line is not None:
        number = event.get("round", 0)
        where = f"round {number}" if number <= rounds else "final evaluation"
        said = clean(line.format_map({**event, "name": name, "where": where}))
        print(f"{event['time'][11:19]} UTC  {said}", flush=True)


_LINES = {
    "attested": "the {peer} is {word}: {seen}",
    "welcome": "let in: {name} takes part in {federation}",
    "request": "{where} begins",
    "step": "{where}: {step}",
    "verdict": "answer: {message}",
    "failure": "{where} failed here: {code}: {message}",
    "policy": "follows policy version {version} from now on",
    "policy_trouble": "warning: {message}",
    "withdrawn": "the round closed without this party",
    "waiting": "{reason}; trying again in {seconds} s",
    "certificate": "{message}",
    "awaiting_release": "{message}",
    "release_refused": "{message}",
    "release_opened": "{message}",
    "finished": "the run is over; final model {model}",
}

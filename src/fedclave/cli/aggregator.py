# SPDX-License-Identifier: Apache-2.0
"""``fx aggregator``: the server of one run."""

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
    PassphraseFile,
    ReleaseListen,
    RequestFile,
    SealState,
    WorkspaceDir,
    Yes,
    command,
    listen_at,
    noun,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fedclave.cli.party import Party
    from fedclave.cli.publishing import Ended

app = noun("aggregator", "Certify and run the aggregator.")


@command(
    app,
    "generate-cert-request",
    "fx aggregator generate-cert-request --host fl.example.org",
)
def generate_cert_request(
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            "--fqdn",
            metavar="HOST",
            help="A name or IP address that it listens on; may be repeated.",
            show_default="the plan's",
            callback=options.host,
        ),
    ] = None,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Make the aggregator's key, which stays here, and cert/aggregator.csr for the CA.

    Where the plan wants the aggregator to prove what it runs, its TEE makes the key, and the
    request carries the evidence.
    """
    from fedclave.cli import attesting, exchange
    from fedclave.cli.party import AGGREGATOR
    from fedclave.plan import load
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    plan = load(opened.plan)
    attesting.run_from_source(plan, "aggregator", allow_simulated=allow_simulated)
    hosts = host or [plan.network.address.rpartition(":")[0].strip("[]")]
    subject = exchange.Subject(workspace=opened, role="aggregator", name=AGGREGATOR)
    exchange.request(subject, plan, hosts, allow_simulated=allow_simulated, as_json=as_json)


@command(app, "certify", "fx aggregator certify", "fx aggregator certify --import FILE")
def certify(
    request: RequestFile = None,
    import_: AnswerFile = None,
    yes: Yes = False,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Sign the aggregator's request where the CA lies; or take in the CA's answer, elsewhere.

    Asks whether both sides see the same fingerprint. When key and CA are in one workspace, the
    certificate is in place at once; else aggregator.cert.pem is the file to send back. Where the
    plan wants the aggregator to prove what it runs, its evidence must be in the request.
    """
    from fedclave.cli import exchange
    from fedclave.cli.party import AGGREGATOR
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    subject = exchange.Subject(workspace=opened, role="aggregator", name=AGGREGATOR)
    exchange.certify(
        subject,
        request,
        import_,
        passphrase_file,
        yes=yes,
        allow_simulated=allow_simulated,
        as_json=as_json,
    )


@command(app, "start", "fx aggregator start", "fx aggregator start --listen 127.0.0.1:9000")
def start(
    listen: Annotated[str | None, listen_at("all interfaces, the plan's port")] = None,
    allow_simulated: AllowSimulated = False,
    release_listen: ReleaseListen = LISTEN_HERE,
    keep_updates: KeepUpdates = None,
    inside: Inside = False,
    seal_state: SealState = False,
    workspace: WorkspaceDir = Path(),
    as_json: JsonLines = False,
) -> None:
    """Run the plan: wait for the members, do the rounds, end with a summary.

    Goes on where an earlier start ended, however that ended. Ctrl-C or SIGTERM ends it in order
    (exit code 130 or 143). Events are also appended to logs/events.jsonl.
    """
    from functools import partial

    from fedclave.cli import attesting, run
    from fedclave.cli.party import AGGREGATOR, Party
    from fedclave.plan import load
    from fedclave.workspace import layout

    opened = layout.open_(workspace.absolute())  # paths in events mean the same everywhere
    plan = load(opened.plan)
    attesting.run_from_source(plan, "aggregator", allow_simulated=allow_simulated)
    party = Party(
        workspace=opened,
        plan=plan,
        name=AGGREGATOR,
        clock=lambda: datetime.now(UTC),
        inside=inside,
    )
    work = partial(
        run.aggregate,
        listen=listen or run.wildcard(plan.network.address),
        allow_simulated=allow_simulated,
        release_listen=release_listen,
        keep_updates=keep_updates,
        seal_state=seal_state,
    )
    conduct(party, work, as_json)


def conduct(
    party: "Party", work: "Callable[[Party], Coroutine[Any, Any, Ended]]", as_json: bool
) -> None:
    """Do an aggregator's work to its end, and tell what happens, to people or as JSON lines."""
    from dataclasses import replace

    if as_json:
        signals.run(work(replace(party, listener=console.emit)), _ADVICE)
    else:
        _watch(party, work)


_NOTES = ("certificate", "awaiting_release", "release_refused", "release_opened")
"""Events that are told as they are, beside the live view."""

_ADVICE = "Start again to go on: fx aggregator start"


def _watch(party: "Party", work: "Callable[[Party], Coroutine[Any, Any, Ended]]") -> None:
    """Run with a live view, and say at the end what came out."""
    from dataclasses import replace

    from fedclave.cli import view
    from fedclave.workspace import members

    plan = party.plan
    screen = view.View(
        view.stdout_console(),
        now=party.clock,
        metric=plan.best.metric,
        members=members.members(party.workspace),
    )

    def listener(event: dict[str, Any]) -> None:
        screen(event)
        if event["event"] in _NOTES:
            console.note(event["message"])

    with screen:
        ended = signals.run(work(replace(party, listener=listener)), _ADVICE)
    for line in _summary(party, ended):
        print(line)


def _summary(party: "Party", ended: "Ended") -> list[str]:
    from shlex import quote

    from fedclave.cli import vaults
    from fedclave.engine import journal

    found = journal.read(party.workspace.save, vaults.found(party.workspace))
    pairs: dict[str, object] = {"final model": ended.path, "digest": ended.model}
    if ended.word is not None:
        pairs["attestation"] = console.stood(ended.word)
    if found is not None and ended.round in found.records:
        record: Any = found.records[ended.round]
        pairs |= {name: f"{value:.4f}" for name, value in record["metrics"].items()}
    if found is not None and found.best is not None:
        value = f"{found.best.value:.4f}"
        pairs["best model"] = f"round {found.best.round}, {party.plan.best.metric} {value}"
    following = ["fx model show final", "fx model export final model.safetensors"]
    if ended.path == party.workspace.sealed("final"):
        following = ["give save/final.sealed to the model's owner, who runs: fx model open"]
    return [
        "",
        *console.rows(pairs),
        *console.steps(*following, f"less {quote(str(party.workspace.events))}"),
    ]

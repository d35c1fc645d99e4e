# SPDX-License-Identifier: Apache-2.0
"""``fx demo``: a whole federation on this machine."""

from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console, signals
from fedclave.cli.options import Json, command, new_folder, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from fedclave.cli.demo_folders import Folders
    from fedclave.cli.demo_run import Outcome

BAR = 32  # columns of an accuracy of 1


def _tamper(given: str | None) -> str | None:
    if given is not None:
        from fedclave.cli.demo_tamper import MODES

        if given not in MODES:
            raise typer.BadParameter(f"{given!r} is none of {', '.join(MODES)}.")
    return given


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(
        app,
        "demo",
        "fx demo",
        "fx demo --collaborators 5 --rounds 40",
        "fx demo --json",
        "fx demo --tamper code",
    )(demo)


def demo(
    rounds: Annotated[int, number("--rounds", 1, 10_000, "Rounds to train.")] = 20,
    collaborators: Annotated[
        int, number("--collaborators", 2, 32, "Parties with data, from 2 to 32.")
    ] = 3,
    seed: Annotated[int, number("--seed", 0, 2**63 - 1, "Of data and training.")] = 7,
    tamper: Annotated[
        str | None,
        typer.Option(
            "--tamper",
            metavar="WHAT",
            help="Change one thing, and see the federation refuse: code, plan, relay, key, replay,"
            " revoked.",
            callback=_tamper,
        ),
    ] = None,
    into: Annotated[Path | None, new_folder("fedclave-demo/NUMBER")] = None,
    as_json: Json = False,
) -> None:
    """Train on real data in a federation of real processes, and show it as it happens.

    Makes a CA, an aggregator and collaborators that each hold pictures of a few of the ten digits
    only. They talk gRPC over mutual TLS 1.3 on this machine. At the end: how good the common model
    is, beside what each party reaches alone and what training on all data pooled would reach.
    """
    begun = monotonic()
    _require_extra()
    from fedclave.cli import demo_folders, demo_run

    root = demo_folders.fresh(into)
    names = demo_folders.names(collaborators)
    if tamper is not None:
        _tampered(root, names, rounds, seed, tamper, as_json=as_json)
        return
    if as_json:
        folders = demo_folders.make(root, names, rounds, seed, _now())
        outcome = signals.run(demo_run.play(folders, lambda event: None))
        console.emit(_value(outcome, folders, monotonic() - begun))
        return
    from fedclave.cli import view

    screen = view.stdout_console()
    view.say(screen, f"an aggregator and {collaborators} parties, each a process, in {_near(root)}")
    with view.View(screen, now=_now, members=names) as shown:
        folders = demo_folders.make(root, names, rounds, seed, _now())
        outcome = signals.run(demo_run.play(folders, shown))
    _summarise(screen, outcome, folders, monotonic() - begun)


def _tampered(
    root: Path, names: list[str], rounds: int, seed: int, mode: Any, *, as_json: bool
) -> None:
    """Play with one thing changed; raises unless it ends for each party in the right refusal."""
    from dataclasses import asdict

    from fedclave.cli import demo_folders, demo_tamper, view
    from fedclave.errors import Bug

    screen = view.stdout_console()

    def say(line: str) -> None:
        if not as_json:
            view.say(screen, line)

    say(f"in {_near(root)}: {demo_tamper.WHAT[mode]}")
    folders = demo_folders.make(root, names, rounds, seed, _now(), hidden=demo_tamper.HIDDEN)
    outcome = signals.run(demo_tamper.play(folders, mode, say))
    value = {**asdict(outcome), "failed_closed": outcome.failed_closed, "root": root}
    verdict = "FAILED CLOSED" if outcome.failed_closed else "DID NOT FAIL CLOSED"
    lines = [
        "",
        f"{verdict}: {outcome.sentence}",
        *_differing(outcome.differs),
        *console.rows(
            {
                "on the wire": f"{view.size(outcome.up)} from the parties,"
                f" {view.size(outcome.down)} to them, TLS and all",
                "one model": view.size(outcome.model),
                "updates": f"{outcome.updates} reached the aggregator",
            }
        ),
    ]
    console.answer(value, lines, as_json)
    if not outcome.failed_closed:
        raise Bug(f"a federation whose {mode} was tampered with did not refuse as it must")


def _differing(changes: "Sequence[str]") -> list[str]:
    if not changes:
        return []
    return [
        f"Its contract is not the one that they accepted: {', '.join(changes)}. Each side finds"
        " that out by the digests of 'fx plan show --contract'."
    ]


def _now() -> datetime:
    return datetime.now(UTC)


def _require_extra() -> None:
    """Say at once, not in the middle, that a package is missing."""
    from importlib import metadata

    from fedclave.errors import UserError

    for package in ("scikit-learn", "matplotlib"):
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError as error:
            raise UserError(
                f"the demo needs {package}, which is not installed. Run: pip install"
                " 'fedclave[demo]'"
            ) from error


def _value(outcome: "Outcome", folders: "Folders", seconds: float) -> dict[str, Any]:
    finished = outcome.finished
    return {
        "rounds": finished["rounds"],
        "accuracy": {
            "global": outcome.accuracy,
            "alone": outcome.levels.alone,
            "pooled": outcome.levels.pooled,
        },
        "seconds": round(seconds, 3),
        "bytes": finished["bytes"],
        "digest": finished["model"],
        "model": finished["path"],
        "events": folders.aggregator.events,
        "plot": outcome.plot,
        "attestation": finished["word"],
    }


def _summarise(screen: "Console", outcome: "Outcome", folders: "Folders", seconds: float) -> None:
    from shlex import quote

    from fedclave.cli import view

    finished, traffic = outcome.finished, outcome.finished["bytes"]
    _compare(screen, outcome)
    aggregator = quote(str(_near(folders.aggregator.root)))
    pairs = {
        "model": _near(Path(finished["path"])),
        "digest": finished["model"],
        "events": _near(folders.aggregator.events),
        "plot": _near(outcome.plot),
        "proof": console.stood(finished["word"] or "NOT ATTESTED"),
        "bytes": f"{view.size(traffic['up'])} up, {view.size(traffic['down'])} down",
        "time": f"{seconds:.1f} s, of which {finished['seconds']:.1f} s for the run",
    }
    following = console.steps(
        f"fx model show final -C {aggregator}",
        f"fx plan show -C {aggregator}",
        "fx workspace create --template numpy-digits my-federation",
    )
    for line in ("", *console.rows(pairs), *following):
        view.say(screen, line)


def _compare(screen: "Console", outcome: "Outcome") -> None:
    """Accuracies as numbers, and on a terminal as bars."""
    from rich.text import Text

    from fedclave.cli import view

    reached = outcome.levels
    levels = [("the federation's model", outcome.accuracy, "blue")]
    levels += [(f"{name} alone", value, "yellow") for name, value in reached.alone.items()]
    levels += [("all data pooled", reached.pooled, "green")]
    view.say(screen, "")
    view.say(screen, f"accuracy on {outcome.examples} pictures that no training saw")
    width = max(len(label) for label, _, _ in levels)
    block = "━" if screen.encoding.startswith("utf") else "="
    for label, value, style in levels:
        bar = f"  {block * round(value * BAR)}" if screen.is_terminal else ""
        screen.print(Text.assemble(f"  {label:{width}}  {value:.3f}", (bar, style)), soft_wrap=True)


def _near(path: Path) -> Path:
    """A path as one would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path

# SPDX-License-Identifier: Apache-2.0
"""``scripts/integration-test``: a run outside containers, and the same inside; one digest."""

import argparse
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.integration import base, ways
from tests.integration.programs import Process, Program, Run, run
from tests.integration.shell import ENVIRONMENT, FX, Impossible, fx, say
from tests.integration.town import ALL, Town

from fedclave.workspace.images import engines
from fedclave.workspace.images.deployment import Deployment, Kind
from fedclave.workspace.images.engines import Engine


def main(arguments: Sequence[str]) -> None:
    """All runs, compared. Exits with a message where something fails."""
    chosen = _chosen(arguments)
    os.environ.update(ENVIRONMENT)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        compare(chosen)
    except Impossible as error:
        if not chosen.if_possible:
            raise
        say(f"LEFT OUT, as this machine runs no containers: {error.code}")


def _chosen(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/integration-test")
    parser.add_argument("--template", default="numpy-digits")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--way", choices=list(Kind), help="default: the best that works here")
    parser.add_argument("--gramine", type=Path, help="its package, or the folder of one")
    parser.add_argument("--keep", action="store_true", help="leave the folder with everything")
    parser.add_argument("--base-cache", type=Path, help="keep the base for the next time")
    parser.add_argument("--if-possible", action="store_true", help="no error where none can run")
    return parser.parse_args(arguments)


def compare(chosen: argparse.Namespace) -> None:
    """All runs, in a folder that is gone afterwards, unless it is to be kept."""
    engine = engines.find()
    if engine is None:
        raise Impossible(
            "Neither docker, podman nor buildah answers here. On Debian and Ubuntu: apt-get install"
            " buildah mmdebstrap"
        )
    kind = _way(engine, chosen)
    folder = Path(tempfile.mkdtemp(prefix="fedclave-integration-"))
    folder.chmod(0o755)
    try:
        on = base.option(engine, folder, chosen.base_cache)
        town = Town(folder=folder, port=_port(chosen.port))
        town.build(chosen.template)
        expected = outside(town)
        _tell("outside", expected)
        town.forget_run()
        made = Deployment(image=_dockerized(town, on)["image"], kind=Kind.CONTAINER)
        found = [_told("in containers", contained(town, engine, made))]
        if kind is not Kind.CONTAINER:
            made = _graminized(town, on, kind, chosen.gramine)
        found.append(_told(f"by inbox, {kind}", hosted(town, engine, made)))
        if {one.digest for one in found} != {expected.digest}:
            raise SystemExit("The models differ.")
        slower = found[0].seconds / expected.seconds
        say(f"The same model, byte for byte; rounds in containers took {slower:.2f} times as long.")
    finally:
        if chosen.keep:
            say(f"Everything lies in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _way(engine: Engine, chosen: argparse.Namespace) -> Kind:
    """The best way that works here, or the one that is wanted; what the others lack is told."""
    offered = ways.ways(engine, chosen.gramine)
    for way in offered:
        if way.missing:
            say(f"{way.kind:15} no: {'; '.join(way.missing)}")
        elif chosen.way in (None, way.kind):
            say(f"{way.kind:15} yes, by {engine.name}")
            return way.kind
    raise SystemExit(f"{chosen.way} does not work here")


def _port(wanted: int) -> int:
    """A free port of this machine. ``SystemExit``: the one that is wanted is taken."""
    try:
        with socket.create_server(("localhost", wanted)) as free:
            return int(free.getsockname()[1])
    except OSError as error:
        raise SystemExit(f"port {wanted}: {error.strerror}. Name another: --port") from error


def _start_of(name: str, town: Town) -> list[str]:
    if name == "aggregator":
        return ["aggregator", "start", "--listen", town.address]
    return ["collaborator", "start", "-n", name, "--address", town.address]


def outside(town: Town) -> Run:
    """A run on this machine itself."""

    def start(name: str) -> Program:
        command = [*FX, *_start_of(name, town), "-C", str(town.home(name))]
        return Process(command, town.folder / f"{name}.log")

    return run(start, town.center / "logs/events.jsonl")


def contained(town: Town, engine: Engine, made: Deployment) -> Run:
    """A run of the same parties in containers, each with its folder and no other."""
    folders = {name: town.home(name) for name in ALL}
    arguments = {name: _start_of(name, town) for name in ALL}
    with ways.starts(engine, made, folders, arguments) as start:
        return run(start, town.center / "logs/events.jsonl")


def hosted(town: Town, engine: Engine, made: Deployment) -> Run:
    """A run of parties to whom nobody can type: each makes its key inside, and has an inbox."""
    town.make_hosts()
    folders = {name: town.host(name) for name in ALL}
    program = {name: "aggregator" if name == "aggregator" else "collaborator" for name in ALL}
    arguments = {name: ["enclave", program[name]] for name in ALL}
    carried: set[Path] = set()

    def errands() -> None:
        for name in ALL:
            for refused in (town.host(name) / "inbox").glob("*.refused"):
                raise SystemExit(f"{name} takes no {refused.stem}: {refused.read_text()}")
            request = town.host(name) / f"{name}.csr"
            if request.exists() and request not in carried:
                carried.add(request)
                town.bring(name, town.certify(name, request))

    with ways.starts(engine, made, folders, arguments, town.root()) as start:
        return run(start, town.host("aggregator") / "logs/events.jsonl", errands)


def _dockerized(town: Town, on: list[str]) -> dict[str, Any]:
    made = fx("workspace", "dockerize", *on, "-C", str(town.center))
    say(f"{'image':24} {made['digest']}")
    return made


def _graminized(town: Town, on: list[str], kind: Kind, gramine: Path | None) -> Deployment:
    """The image with Gramine, signed for SGX by a key that is made for this."""
    options = [*on] if gramine is None else [*on, "--gramine", str(gramine)]
    if kind is Kind.SGX:
        key = town.folder / "signer.pem"
        made = rsa.generate_private_key(public_exponent=3, key_size=3072)
        key.touch(mode=0o600)
        key.write_bytes(
            made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        options += ["-s", str(key)]
    facts = fx("workspace", "graminize", *options, "-C", str(town.center))
    say(f"{'image with Gramine':24} {facts['digest']}")
    return Deployment(
        image=facts["image"],
        kind=kind,
        digest=facts["digest"],
        enclave_size=facts["enclave_size"],
    )


def _told(where: str, found: Run) -> Run:
    _tell(where, found)
    return found


def _tell(where: str, found: Run) -> None:
    say(f"{where:24} {found.digest}  {found.seconds:.2f} s of rounds")


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(f"ended by signal {number}")


if __name__ == "__main__":
    main(sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""The commands as people type them: real ``fx`` processes, one workspace for each party."""

import asyncio
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.federation import FX, WAIT_S, Party

from fedclave import tensors
from fedclave.cli import standing
from fedclave.cli.party import Party as Side
from fedclave.errors import Refused
from fedclave.plan import load
from fedclave.trust.credentials import Credentials
from fedclave.workspace import members
from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(240)
FAILING = """

def load(path):
    raise ValueError("no such column")
"""
QUORUM_OF_ONE = "minimum: 1, fraction: 0.5"
ENVIRONMENT = {**os.environ, "FX_CA_PASSPHRASE": "correct horse", "COLUMNS": "100"}


class Town:
    """A center (CA and aggregator) and parties, each in a folder whose name has dots and spaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.center = folder / "the center v1.0"
        self.alice = folder / "party alice.d"
        self.bob = folder / "party bob.d"
        self.running: list[Party] = []

    def build(self) -> None:
        """Everything that the center does once."""
        self.fx("workspace", "create", str(self.center), "--template", "numpy-digits")
        plan = self.center / "plan/plan.yaml"
        text = plan.read_text().replace("rounds: 20", "rounds: 2")
        plan.write_text(text.replace("deadline_s: 600", "deadline_s: 60"))
        command = [sys.executable, "-m", "src.data", "data", "alice", "bob"]
        subprocess.run(command, cwd=self.center, check=True, timeout=WAIT_S)
        self.at_center("plan", "check")
        self.at_center("plan", "initialize")
        self.at_center("workspace", "certify")
        self.at_center("aggregator", "generate-cert-request", "--host", "localhost")
        self.at_center("aggregator", "certify", "--yes")
        self.at_center("workspace", "export", "--out", str(self.folder / "to all.zip"))

    def fx(self, *command: str, code: int = 0) -> Any:
        """Run a command to its end; the object that it printed."""
        done = subprocess.run(
            [*FX, *command, "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)

    def at_center(self, *command: str, code: int = 0) -> Any:
        return self.fx(*command, "-C", str(self.center), code=code)

    def party(self, name: str) -> Path:
        """A party's workspace, from the archive, with its data noted."""
        root = self.folder / f"party {name}.d"
        archive = str(self.folder / "to all.zip")
        self.fx("workspace", "import", archive, "--into", str(root))
        data = str(self.center / f"data/{name}.npz")
        self.fx("collaborator", "create", "-n", name, "-d", data, "-C", str(root))
        return root

    def certified(self, name: str) -> Path:
        """A party whose request was carried to the center, and the answer back."""
        root = self.party(name)
        at = ("-n", name, "-C", str(root))
        request = self.fx("collaborator", "generate-cert-request", *at)["request"]
        sign = ("collaborator", "certify", "-n", name, "--request", request, "--yes")
        answer = self.at_center(*sign)["response"]
        self.fx("collaborator", "certify", "--import", answer, "--yes", *at)
        return root

    def joined(self, name: str) -> Path:
        """A party that joined with a token, while the center waited for it."""
        root = self.party(name)
        self.join(root, name)
        return root

    def join(self, root: Path, name: str, role: str = "collaborator", *options: str) -> None:
        """Invite a name, and join in its workspace."""
        where = ("--role", role, "--address", "localhost:0", "-C", str(self.center), *options)
        inviting = self.start("invite", name, *where)
        token = inviting.wait("invited")["token"]
        self.fx("join", token, "-C", str(root))
        inviting.wait("joined", name=name)
        assert inviting.end() == 0

    def aggregator(self, root: Path | None = None) -> tuple[Party, str]:
        """The aggregator, listening, and its address."""
        at = ("--listen", "localhost:0", "-C", str(root or self.center))
        command = ("aggregator", "start", *at)
        party = self.start(*command)
        return party, party.wait("listening")["address"]

    def collaborator(self, name: str, address: str) -> Party:
        """A collaborator that has started."""
        root = str(self.folder / f"party {name}.d")
        return self.start("collaborator", "start", "-n", name, "--address", address, "-C", root)

    def start(self, *command: str) -> Party:
        party = Party(*command)
        self.running.append(party)
        return party


@pytest.fixture(autouse=True, scope="module")
def passphrase() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FX_CA_PASSPHRASE", ENVIRONMENT["FX_CA_PASSPHRASE"])
        yield


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The center alone, made once; tests work on copies."""
    made = Town(tmp_path_factory.mktemp("center"))
    made.build()
    return made.folder


@pytest.fixture(scope="module")
def pair(center: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The center, and two parties that it certified by hand."""
    made = Town(tmp_path_factory.mktemp("pair") / "all")
    shutil.copytree(center, made.folder)
    made.certified("alice")
    made.certified("bob")
    return made.folder


@contextmanager
def copied(source: Path, target: Path) -> Iterator[Town]:
    shutil.copytree(source, target)
    made = Town(target)
    try:
        yield made
    finally:
        for party in made.running:
            party.kill()


@pytest.fixture
def town(center: Path, tmp_path: Path) -> Iterator[Town]:
    with copied(center, tmp_path / "town") as made:
        yield made


@pytest.fixture
def certified(pair: Path, tmp_path: Path) -> Iterator[Town]:
    with copied(pair, tmp_path / "town") as made:
        yield made


def test_by_request_and_by_token_parties_train_a_model_together(town: Town) -> None:
    alice, bob = town.certified("alice"), town.joined("bob")
    aggregator, address = town.aggregator()
    for name, root in (("alice", alice), ("bob", bob)):
        at = ("-n", name, "--address", address, "-C", str(root))
        standing = town.fx("collaborator", "ping", *at)
        assert (standing["federation"], standing["warnings"]) == ("digits", [])
    parties = [
        town.collaborator("alice", address),
        town.collaborator("bob", address),
    ]
    finished = aggregator.wait("run_finished")
    assert [aggregator.end(), *(party.end() for party in parties)] == [0, 0, 0]
    assert parties[0].events[-1]["model"] == finished["model"]

    final = town.at_center("model", "show", "final")
    assert (final["digest"], final["round"]) == (finished["model"], 2)
    assert final["metrics"]["validate/global/accuracy"] > 0.5
    out = town.folder / "model.npz"
    town.at_center("model", "export", "best", str(out))
    with np.load(out) as exported:
        assert exported["w1"].shape == (64, 64)
    assert town.at_center("plan", "initialize", code=2)["error"]["kind"] == "user"
    anew = town.at_center("plan", "initialize", "--force")
    assert tensors.Stored(Path(anew["moved"]) / "initial.safetensors")


@pytest.mark.parametrize("way", ["token", "request"])
def test_aggregator_apart_from_the_ca_starts_with_the_archives_model(
    certified: Town, way: str
) -> None:
    root = certified.folder / "the aggregator"
    archive = str(certified.folder / "to all.zip")
    certified.fx("workspace", "import", archive, "--into", str(root))
    if way == "token":
        # the center's own certificate of this name stays good until it ends
        certified.join(root, "aggregator", "aggregator", "--force")
    else:
        request = certified.fx("aggregator", "generate-cert-request", "-C", str(root))["request"]
        answer = certified.at_center("aggregator", "certify", "-r", request, "--yes")["response"]
        certified.fx("aggregator", "certify", "-i", answer, "--yes", "-C", str(root))
    members.set_members(Workspace(root), ["alice", "bob"])
    aggregator, address = certified.aggregator(root)
    parties = [certified.collaborator(name, address) for name in ("alice", "bob")]
    aggregator.wait("run_finished")
    assert [aggregator.end(), *(party.end() for party in parties)] == [0, 0, 0]


def test_plain_output_has_lines_progress_and_the_next_steps(certified: Town) -> None:
    town = certified
    command = ["aggregator", "start", "--listen", "localhost:0", "-C", str(town.center)]
    with subprocess.Popen(
        [*FX, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            town.collaborator("alice", address)
            plain = subprocess.run(
                [
                    *FX,
                    "collaborator",
                    "start",
                    "-n",
                    "bob",
                    "--address",
                    address,
                    "-C",
                    str(town.bob),
                ],
                capture_output=True,
                text=True,
                timeout=WAIT_S,
            )
            said = process.stdout.read()
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
    for text, wanted in (
        (said, ("round 1/2", "final model", "validate/global/accuracy", "fx model export")),
        (plain.stdout, ("let in: bob takes part in digits", "round 1: train", "the run is over")),
    ):
        assert all(one in text for one in wanted), text
        assert "\x1b" not in text


def test_at_a_terminal_the_run_is_a_table(certified: Town) -> None:
    """A pseudo-terminal, so that it is the live view that is seen to end well."""
    town = certified
    log = town.center / "logs/events.jsonl"
    main, end = pty.openpty()
    command = [*FX, "aggregator", "start", "--listen", "localhost:0", "-C", str(town.center)]
    process = subprocess.Popen(
        command, stdin=end, stdout=end, stderr=end, env={**ENVIRONMENT, "TERM": "xterm"}
    )
    os.close(end)
    screen = b""
    started = False
    try:
        while piece := _read(main):
            screen += piece
            port = screen.partition(b"localhost:")[2][:5]
            if not started and len(port) == 5 and port.isdigit():
                started = True
                for name in ("alice", "bob"):
                    town.collaborator(name, f"localhost:{port.decode()}")
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)
    assert b"\x1b[" in screen
    assert b"final model" in screen
    assert '"run_finished"' in log.read_text()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says EIO when the other end has closed
        return b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_both_sides_in_order_and_they_go_on(
    certified: Town, number: signal.Signals, code: int
) -> None:
    town = certified
    aggregator, address = town.aggregator()
    waiting = town.collaborator("alice", address)
    aggregator.wait("member_joined", member="alice")
    for party in (waiting, aggregator):
        party.process.send_signal(number)
        assert party.end() == code
        error = party.events[-1]["error"]
        assert (error["kind"], "start" in error["message"]) == ("interrupted", True)
        assert "Traceback" not in party.stderr
    aggregator, address = town.aggregator()
    town.collaborator("alice", address)
    town.collaborator("bob", address)
    aggregator.wait("run_finished")
    assert aggregator.end() == 0


def test_service_of_the_ca_answers_tokens_and_renewals_until_it_is_stopped(town: Town) -> None:
    root = town.party("bob")
    serving = town.start("ca", "serve", "--listen", "localhost:0", "-C", str(town.center))
    address = serving.wait("listening")["address"]
    token = town.at_center("invite", "bob", "--no-wait", "--address", address)["token"]
    town.fx("join", token, "-C", str(root))
    assert serving.wait("joined")["name"] == "bob"
    first = Credentials.read(root / "cert", "bob")
    town.fx("ca", "renew", "bob", "-C", str(root))
    second = Credentials.read(root / "cert", "bob")
    assert first.key != second.key
    assert members.members(Workspace(town.center)) == ("bob",)

    again = town.fx("join", token, "-C", str(town.party("alice")), code=3)
    assert again["error"]["code"] == "token-used"
    town.at_center("ca", "revoke", "bob")
    revoked = town.fx("ca", "renew", "bob", "-C", str(root), code=3)
    assert revoked["error"]["code"] == "certificate-revoked"
    serving.process.send_signal(signal.SIGINT)
    assert serving.end() == 130


def test_interrupted_invitation_leaves_the_token_good(town: Town) -> None:
    root = town.party("bob")
    inviting = town.start("invite", "bob", "--address", "localhost:0", "-C", str(town.center))
    address = inviting.wait("invited")["address"]
    inviting.process.send_signal(signal.SIGINT)
    assert inviting.end() == 130
    assert "fx ca serve" in inviting.events[-1]["error"]["message"]
    token = inviting.events[0]["token"]
    assert town.fx("join", token, "-C", str(root), code=4)["error"]["kind"] == "unavailable"
    serving = town.start("ca", "serve", "--listen", address, "-C", str(town.center))
    serving.wait("listening")
    assert town.fx("join", token, "-C", str(root))["name"] == "bob"


def test_ping_names_what_is_wrong(certified: Town) -> None:
    town = certified
    alice, bob = town.alice, town.bob
    aggregator, address = town.aggregator()

    def ping(name: str, root: Path, code: int, where: str = address) -> str:
        at = ("-n", name, "--address", where, "-C", str(root))
        return str(town.fx("collaborator", "ping", *at, code=code)["error"]["code"])

    assert ping("alice", alice, 4, "localhost:1") == "unavailable"
    listed = town.center / "plan/cols.yaml"
    good = listed.read_text()
    listed.write_text("collaborators: 3\n")
    town.fx("collaborator", "ping", "-n", "alice", "--address", address, "-C", str(alice))
    aggregator.wait("members_trouble")  # the list before it counts
    listed.write_text(good)
    assert ping("alice", bob, 2) == "user"  # has no key here
    members.remove_member(Workspace(town.center), "bob")
    assert ping("bob", bob, 3) == "unknown-member"
    members.add_member(Workspace(town.center), "bob")
    plan = bob / "plan/plan.yaml"
    plan.write_text(plan.read_text().replace("seed: 7", "seed: 8"))
    assert ping("bob", bob, 3) == "wrong-plan"
    town.at_center("ca", "revoke", "alice")
    assert ping("alice", alice, 3) == "certificate-revoked"
    started = town.collaborator("alice", address)
    assert started.end() == 3
    assert started.events[-1]["error"]["code"] == "certificate-revoked"
    assert aggregator.process.poll() is None


def test_who_was_not_let_in_is_not_said_to_take_part(certified: Town) -> None:
    town = certified
    _, address = town.aggregator()
    members.remove_member(Workspace(town.center), "bob")
    at = ("-n", "bob", "--address", address, "-C", str(town.bob))
    done = subprocess.run(
        [*FX, "collaborator", "start", *at], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 3
    assert "unknown-member" in done.stderr
    assert f"bob asks {address} to be let into 'digits'" in done.stdout
    assert "takes part" not in done.stdout


def test_clocks_that_differ_and_a_certificate_that_ends_are_warned_of(certified: Town) -> None:
    _, address = certified.aggregator()
    workspace = Workspace(certified.alice)

    def after(passed: timedelta) -> tuple[str, ...]:
        party = Side(
            workspace=workspace,
            plan=load(workspace.plan),
            name="alice",
            clock=lambda: datetime.now(UTC) + passed,
        )
        return asyncio.run(standing.ask(party, address)).warnings

    assert after(timedelta()) == ()
    (behind,) = after(timedelta(minutes=10))
    assert "10 min behind" in behind
    assert "fx ca renew alice" in after(timedelta(days=6))[1]
    with pytest.raises(Refused, match="certificate-expired"):
        after(timedelta(days=8))


def test_party_that_only_fails_says_so_and_where_the_traceback_is(certified: Town) -> None:
    town = certified
    for root in (town.center, town.alice, town.bob):
        plan = root / "plan/plan.yaml"
        plan.write_text(plan.read_text().replace("minimum: 2, fraction: 0.8", QUORUM_OF_ONE))
    town.at_center("plan", "initialize", "--force")
    learner = town.alice / "src/learner.py"
    learner.write_text(learner.read_text() + FAILING)
    aggregator, address = town.aggregator()
    parties = [town.collaborator(name, address) for name in ("alice", "bob")]
    aggregator.wait("run_finished")
    assert [aggregator.end(), *(party.end() for party in parties)] == [0, 2, 0]
    finished, error = parties[0].events[-2], parties[0].events[-1]["error"]
    assert finished["answered"] == 0
    assert finished["failed"] > 0
    assert "answered no round" in error["message"]
    (log,) = town.alice.rglob("failures.log")
    assert str(log) in error["message"]
    assert "ValueError: no such column" in log.read_text()
    assert parties[1].events[-1]["answered"] == 3


def test_starts_that_cannot_work_end_at_once_with_the_reason(certified: Town) -> None:
    town, alice = certified, certified.alice
    at = ("-n", "alice", "--address", "localhost:1", "-C", str(alice))
    assert town.fx("collaborator", "start", "-d", "nowhere", *at, code=2)
    (alice / "src/learner.py").write_text("def build(site, hidden):\n    raise ValueError('no')\n")
    error = town.fx("collaborator", "start", *at, code=2)["error"]
    assert "src/learner.py:2: ValueError: no" in error["message"]
    plan = town.center / "plan/plan.yaml"
    plan.write_text(plan.read_text().replace("seed: 7", "seed: 8"))
    error = town.at_center("aggregator", "start", "--listen", "localhost:0", code=2)["error"]
    assert "another plan" in error["message"]

# SPDX-License-Identifier: Apache-2.0
"""A federation of real processes for tests: a workspace, a CA, `fx aggregator` and parties."""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tests.support import trust

from fedclave.trust import keys, measure, pki
from fedclave.trust.attesting import key_hash
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors
from fedclave.workspace import archive

FX = [sys.executable, "-m", "fedclave.cli.main"]
CHANGED = [sys.executable, *measure.FROM_SOURCE, "-P", str(Path(__file__).with_name("launch.py"))]
WAIT_S = 60.0
PASSPHRASE = "correct horse"

PLAN = """schema: 1
name: kit
rounds: {rounds}
seed: 7
learner: {{build: "src.learner:build", settings: {settings}}}
tasks:
  train: {{run: fit}}
  validate: {{run: evaluate, on: [global]}}
quorum: {{minimum: 1, fraction: {fraction}, deadline_s: {deadline_s}}}
network: {{patience_s: {patience_s}, stall_s: {stall_s}}}
"""

LEARNER = '''
import os
from contextlib import suppress

import numpy as np

from fedclave.messages import Fit


class Mean:
    """Moves half-way towards its own number; does as the file beside its data says."""

    def __init__(self, site, count):
        self.site, self.count = site, count

    def weights(self):
        return {"w": np.zeros(self.count, np.float32), "steps": np.zeros((), np.int64)}

    def run(self, task, params, pull):
        target = float(self.site.data.read_text())
        if task.run == "evaluate":
            return Fit(examples=4, metrics={"accuracy": -abs(target - float(params["w"][0]))})
        misbehave(self.site.data.with_suffix(".order"), task)
        w = params["w"] + np.float32(0.5) * (np.float32(target) - params["w"])
        return Fit(params={"w": w, "steps": params["steps"] + 1}, examples=int(target) or 1)


def misbehave(order, task):
    """Wait for a file to go away in the round that it names: a way to be busy for as long."""
    with suppress(FileNotFoundError):
        while int(order.read_text() or 0) == task.round:
            os.sched_yield()


def build(site, count=4):
    return Mean(site, count)
'''


class Party:
    """One `fx` process; its JSON lines are events, which `wait` returns as they come."""

    def __init__(self, *command: str, changes: dict[str, Any] | None = None) -> None:
        """``changes`` are those of ``launch``."""
        fx = [*CHANGED, json.dumps(changes)] if changes else FX
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*fx, *command, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        drains = (self._drain_stdout, self._drain_stderr)
        self._threads = [threading.Thread(target=drain, daemon=True) for drain in drains]
        for thread in self._threads:
            thread.start()

    def wait(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of this kind with these fields."""
        return self.until(
            lambda e: e.get("event") == event and all(e.get(k) == v for k, v in fields.items()),
            f"{event} {fields}",
        )

    def until(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The next JSON line that is wanted."""
        while True:
            try:
                line = self._lines.get(timeout=WAIT_S)
            except queue.Empty:
                raise AssertionError(f"no {what}; saw {self.events[-5:]}") from None
            if line is None:
                raise AssertionError(f"ended before {what}: {self.events[-5:]} {self.stderr}")
            event = json.loads(line)
            self.events.append(event)
            if wanted(event):
                return event

    def end(self) -> int:
        """Wait for the exit status."""
        code = self.process.wait(WAIT_S)
        while (line := self._lines.get(timeout=WAIT_S)) is not None:
            self.events.append(json.loads(line))
        return code

    def kill(self) -> None:
        """kill -9."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(WAIT_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @property
    def stderr(self) -> str:
        """What it said on stderr so far."""
        return "".join(self._errors)

    def _drain_stdout(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)
        self._lines.put(None)

    def _drain_stderr(self) -> None:
        for line in self.process.stderr or ():
            self._errors.append(line)


class Federation:
    """A workspace in a folder with a CA; parties share the folder, as tests may.

    ``now`` in the options is when the CA was made and certified everybody, ``rules`` are parts of
    the policy, ``learner`` is the code. ``homes`` are the folders of members that do not share;
    ``changes`` are those of ``launch``, for every process that starts.
    """

    def __init__(self, folder: Path, members: dict[str, float], **options: Any) -> None:
        self.folder = folder
        self.cert = folder / "cert"
        self.members = members
        self.address = ""
        self._parties: list[Party] = []
        self.homes: dict[str, Path] = {}
        self.changes: dict[str, Any] = {}
        self.now = options.pop("now", None) or datetime.now(UTC)
        for part in ("plan", "src", "data"):
            (folder / part).mkdir(parents=True)
        settings = {"rounds": 3, "settings": "{}", "deadline_s": 60, "fraction": 1.0}
        self.sealing: bool = options.pop("sealing", False)
        self.proving: tuple[str, ...] = options.pop("proving", ())
        rules = options.pop("rules", {})
        unattested = options.pop("unattested", {})
        sealed = options.pop("sealed", ())
        learner = options.pop("learner", LEARNER)
        plan = PLAN.format(**{**settings, "patience_s": 60, "stall_s": 30, **options})
        (folder / "plan/plan.yaml").write_text(plan)
        if self.proving:
            self.signer = trust.demand(folder / "plan/plan.yaml", self.proving, sealed)
        self.admits(*members)
        (folder / "plan/data.yaml").write_text(
            json.dumps({name: f"data/{name}.txt" for name in members})
        )
        (folder / "src/learner.py").write_text(learner)
        self.authority = pki.Authority.create(self.cert, "kit", PASSPHRASE.encode(), self.now)
        self.certify("aggregator", "aggregator")
        for name, target in members.items():
            (folder / f"data/{name}.txt").write_text(str(target))
            self.certify("collaborator", name)
        self.fx("plan", "initialize")
        if self.proving:
            self.fx("model", "key")
            self.platform = trust.settle(folder, self.signer, self.now, rules, unattested)
            trust.accept(folder, list(members))

    @property
    def anchors(self) -> Anchors:
        """What its parties trust."""
        return Anchors.read(self.cert)

    def certify(
        self,
        role: Any,
        name: str,
        *,
        authority: pki.Authority | None = None,
        at: datetime | None = None,
        life: timedelta = timedelta(days=7),
        into: str | None = None,
    ) -> Credentials:
        """A certificate for a name, saved as that name's or as ``into``'s."""
        authority = authority or self.authority
        key = keys.generate()
        request = pki.make_request(
            key, federation=authority.federation, role=role, name=name, hosts=["localhost"]
        )
        leaf = authority.issue(request, role=role, name=name, now=at or self.now, life=life)
        chain = pki.bundle(leaf, authority.anchors)
        credentials = Credentials(key=keys.encode(key), chain=chain)
        credentials.replace(self.cert, into or name)
        return credentials

    def admits(self, *names: str) -> None:
        """Have the aggregator admit these and no others."""
        (self.folder / "plan/cols.yaml").write_text(json.dumps({"collaborators": names}))

    def fx(self, *command: str) -> None:
        """Run an `fx` command in the workspace to its good end."""
        subprocess.run(
            [*FX, *command, "-C", str(self.folder), "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=WAIT_S,
            env={**os.environ, "FX_CA_PASSPHRASE": PASSPHRASE},
        )

    def says(self, *command: str) -> tuple[int, dict[str, Any]]:
        """Exit status of an `fx` command in the workspace, and what it answers."""
        party = Party(*command, "-C", str(self.folder), changes=self.changes)
        self._parties.append(party)
        code = party.end()
        return code, party.events[-1] if party.events else {"stderr": party.stderr}

    def key_of(self, name: str) -> bytes:
        """SHA-256 of a party's public key."""
        return key_hash(Credentials.read(self.cert, name).leaf)

    def apart(self, name: str) -> Path:
        """Give a member a folder of its own: a copy of what all share now."""
        home = self.folder.with_name(f"{self.folder.name}-{name}")
        shutil.copytree(self.folder, home, ignore=shutil.ignore_patterns("logs", "ca"))
        self.homes[name] = home
        return home

    def clock(self, name: str, **ahead: float) -> dict[str, Any]:
        """Turn a clock so far ahead (a ``timedelta``'s fields); returns the changes that use it."""
        file = self.folder.with_name(f"{self.folder.name}-{name}.clock")
        file.write_text(str(timedelta(**ahead).total_seconds()))
        return {"clock": str(file)}

    def aggregator(self) -> Party:
        """Start `fx aggregator start`; sets ``address`` (the same again after a restart)."""
        party = self.start_aggregator()
        self.address = party.wait("listening")["address"]
        return party

    def start_aggregator(self) -> Party:
        """Start `fx aggregator start`, whatever comes of it."""
        listen = self.address or "localhost:0"
        return self._start("aggregator", "start", "--listen", listen)

    def operator(self, folder: Path) -> Party:
        """Start `fx aggregator start` in a workspace of its own, with what an archive brings."""
        if not folder.exists():
            self.fx("workspace", "export", "--out", str(folder.with_suffix(".zip")))
            archive.unpack(folder.with_suffix(".zip"), folder)
            secret = shutil.ignore_patterns("author.key", "model-owner.key")
            shutil.copytree(self.cert, folder / "cert", ignore=secret, dirs_exist_ok=True)
            shutil.copy(self.folder / "plan/cols.yaml", folder / "plan")
        listen = self.address or "localhost:0"
        party = Party(
            *("aggregator", "start", "-C", str(folder), "--listen", listen, "--allow-simulated")
        )
        self._parties.append(party)
        return party

    def collaborator(self, name: str) -> Party:
        """Start `fx collaborator start`."""
        command = ("collaborator", "start", "-n", name, "--address", self.address)
        return self._start(*command, home=self.homes.get(name))

    def all(self) -> list[Party]:
        """Start every collaborator."""
        return [self.collaborator(name) for name in self.members]

    def busy(self, name: str, in_round: int) -> "Path":
        """Make a member busy in that round until the returned file is removed."""
        order = self.folder / f"data/{name}.order"
        order.write_text(str(in_round))
        return order

    def final(self, rounds: int = 3, w: float | np.ndarray[Any, Any] = 0.0) -> np.ndarray[Any, Any]:
        """What becomes of ``w`` in that many rounds of all members, in float64."""
        total = sum(self.members.values())
        for _ in range(rounds):
            w = w + sum(t * 0.5 * (t - w) for t in self.members.values()) / total
        return np.broadcast_to(w, 4)

    def close(self) -> None:
        """Leave no process behind."""
        for party in self._parties:
            party.kill()

    def _start(self, *command: str, home: Path | None = None) -> Party:
        simulated = ["--allow-simulated"] if self.proving else []
        sealing = ["--seal-state"] if self.sealing else []
        options = ["-C", str(home or self.folder), *simulated, *sealing]
        party = Party(*command[:2], *options, *command[2:], changes=self.changes)
        self._parties.append(party)
        return party


@contextmanager
def federation(folder: Path, **options: Any) -> Iterator[Federation]:
    """A federation whose processes end with the block."""
    members = options.pop("members", {"anna": 1.0, "bernd": 2.0, "carla": 5.0})
    made = Federation(folder, members, **options)
    try:
        yield made
    finally:
        made.close()

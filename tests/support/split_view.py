# SPDX-License-Identifier: Apache-2.0
"""An operator who has the aggregator's disk: its log is rewritten, set back, or kept twice."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.federation import FX, WAIT_S, Federation

from fedclave.errors import Code
from fedclave.trust import checkpoint, records, signing
from fedclave.trust.heads import Heads, Peer, Seen
from fedclave.trust.log import Log
from fedclave.trust.log_files import Reader
from fedclave.trust.records import RefusalRecord
from fedclave.workspace.layout import Workspace

ORIGIN = checkpoint.origin_of("kit")
Lie = Callable[[list[bytes]], list[bytes]]
"""What becomes of the entries."""


def log_of(fed: Federation) -> Path:
    """Where the aggregator's log lies."""
    return fed.folder / "logs/audit"


def peer_of(fed: Federation) -> Peer:
    """Its log, as others know it."""
    pem = (fed.cert / "log.pub").read_bytes()
    return Peer(origin=ORIGIN, key=signing.parse_public(pem, "log.pub"))


def rewrite(fed: Federation, lie: Lie) -> None:
    """Replace the log by one of other entries, signed by the same key. Nobody may run."""
    with Reader(log_of(fed)) as log:
        entries = list(log.entries())
    shutil.rmtree(log_of(fed))
    with Log(log_of(fed), signing.load(fed.cert / "log.key"), ORIGIN) as made:
        made.extend(lie(entries))


def entry(message: str) -> bytes:
    """One that the true log never had."""
    at = datetime(2031, 5, 1, tzinfo=UTC)
    return records.encode(
        RefusalRecord(at=at, code=Code.LATE, peer=None, word=None, message=message)
    )


def twin(fed: Federation, folder: Path) -> Federation:
    """The same federation in another folder, keys and all; its aggregator is a second one."""
    shutil.copytree(fed.folder, folder)
    other = copy.copy(fed)
    other.folder, other.cert, other.address = folder, folder / "cert", ""
    return other


def seen(fed: Federation, name: str) -> Seen | None:
    """The newest head that a member believed."""
    return _heads(fed, name).seen(ORIGIN)


def kept(fed: Federation, name: str, kind: str) -> list[bytes]:
    """The two heads that a member kept as evidence of a kind."""
    (path,) = _heads(fed, name).folder.glob(f"*.{kind}.json")
    return [text.encode() for text in json.loads(path.read_bytes())["heads"]]


def fx(fed: Federation, *command: str) -> tuple[int, dict[str, Any]]:
    """Run a command in its workspace; returns exit code and JSON."""
    done = subprocess.run(
        [*FX, *command, "-C", str(fed.folder), "--json"], stdout=subprocess.PIPE, timeout=WAIT_S
    )
    return done.returncode, json.loads(done.stdout)


def ping(fed: Federation, name: str, address: str = "") -> str:
    """What a member finds that attests with the aggregator: a refusal's code, or ``good``."""
    where = ["-n", name, "--address", address or fed.address, "--allow-simulated"]
    code, said = fx(fed, "collaborator", "ping", *where)
    if code == 0:
        return "good"
    assert code in (3, 4), said
    return str(said["error"]["code"] or said["error"]["kind"])


def _heads(fed: Federation, name: str) -> Heads:
    return Heads(Workspace(fed.folder).heads(name))

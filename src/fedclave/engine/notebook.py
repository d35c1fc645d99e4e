# SPDX-License-Identifier: Apache-2.0
"""A collaborator's memory on disk: its last answers, their updates, and what its learner keeps.

What a learner keeps is forced to the disk with the answer that it belongs to. An update is not: if
the machine itself goes down, its bytes may be lost, which is noticed, and the task is done again.
"""

import json
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedclave.durable import retire
from fedclave.engine.medium import PLAIN, Medium
from fedclave.engine.store import claim, drop_unfinished
from fedclave.errors import Refused, Unavailable, UserError
from fedclave.messages import Measurement, Packet, Reply, Request
from fedclave.tensors import Layout, Stored, Tensors, file_digest, pieces

POINTS = ("packet-written", "memory-written", "answered", "pruned")
"""Where a test can crash, in the order in which a round passes them."""

_SCHEMA = """
create table if not exists answers (
  round integer primary key, request text not null, reply text not null, memory text);
"""

FAILURES = "failures.log"
NAME = "collaborator"
"""Of the journal."""

_DIGEST = 64  # characters; other files are not named by one
_FORGET = "delete from answers where round < (select max(round) from answers where round < ?)"
"""All but this round's answer and the one before it, in whichever round that was."""


class Notebook:
    """One member's folder for one plan. Keeps the last two answers."""

    def __init__(
        self,
        folder: Path,
        at: Callable[[str], None] = lambda point: None,
        medium: Medium = PLAIN,
    ) -> None:
        self._folder = folder
        self._at = at
        self.medium = medium
        self._using = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._known: set[str] = set()  # content that this process wrote or hashed
        self._lock, self._database = claim(
            folder, NAME, _SCHEMA, "move it away to begin anew", medium
        )
        drop_unfinished(folder)

    @property
    def failures(self) -> Path:
        """Where tracebacks of the member's own code go."""
        return self.medium.text(self._folder / FAILURES)

    def answered(self, request: str) -> Reply | None:
        """What was answered to this request, if its update is still there."""
        query = "select reply from answers where request = ?"
        row = self._database.execute(query, (request,)).fetchone()
        if row is None:
            return None
        reply = _reply(json.loads(row[0]))
        return reply if reply.packet is None or self._whole(reply.packet.digest) else None

    def memory(self, before: int) -> Tensors | None:
        """What the learner kept after the last round before this one that it worked in."""
        query = "select memory from answers where round < ? order by round desc limit 1"
        with self._using:
            row = self._database.execute(query, (before,)).fetchone()
        if row is None or row[0] is None:
            return None
        if not self._whole(row[0]):
            raise UserError(
                f"{self.content(row[0])}: what the learner keeps between rounds is missing or"
                " damaged. Restore the folder from a copy, or remove it to begin without"
            )
        return Stored(self.content(row[0]), self.medium.opens)

    def packet_path(self, reply: Reply) -> Path | None:
        """The file of a reply's update."""
        return self.content(reply.packet.digest) if reply.packet else None

    def write_packet(self, delta: Tensors, layout: Layout) -> str:
        """Store an update of this layout; returns its digest."""
        digest = self._write(delta, layout, durable=False)
        self._at("packet-written")
        return digest

    def keep(self, request: Request, reply: Reply, memory: Tensors | None) -> None:
        """Journal an answer, and drop files that only older rounds needed."""
        digest = self._write(memory, None, durable=True) if memory else None
        self._at("memory-written")
        with self._using:
            self._journal(request, reply, digest)
            self._prune()
        self._at("pruned")

    def report(self, what: str, error: BaseException) -> None:
        """Append the traceback of the member's own code."""
        told = "".join(traceback.format_exception(error))
        self.medium.append(self._folder / FAILURES, f"{what}\n{told}\n")

    def close(self) -> None:
        """Let another process have the folder. What still works on an answer is left alone."""
        with self._using:  # SQLite crashes when a connection is closed under a thread
            self._database.close()
        self._lock.close()

    def _journal(self, request: Request, reply: Reply, digest: str | None) -> None:
        self._database.execute(f"pragma synchronous={'full' if digest else 'normal'}")
        with self._database.writing() as rows:
            rows.execute("delete from answers where round >= ?", (request.round,))
            values = (request.round, request.id, json.dumps(asdict(reply)), digest)
            rows.execute("insert into answers values (?, ?, ?, ?)", values)
            rows.execute(_FORGET, (request.round,))
        self._at("answered")

    def _prune(self) -> None:
        kept: set[str | None] = set()
        for reply, memory in self._database.execute("select reply, memory from answers"):
            kept.add(memory)
            kept.add((json.loads(reply)["packet"] or {}).get("digest"))
        for path in self._folder.glob(f"*{self.medium.suffix}"):
            if path.stem not in kept and len(path.stem) == _DIGEST:
                retire(path)
        self._known &= kept

    def content(self, digest: str) -> Path:
        """The file of an update, or of what the learner keeps."""
        return self._folder / f"{digest}{self.medium.suffix}"

    def _whole(self, digest: str) -> bool:
        path = self.content(digest)
        try:
            whole = path.is_file() and (
                digest in self._known or file_digest(path, self.medium.opens) == digest
            )
        except Refused:  # sealed, and changed
            whole = False
        if whole:
            self._known.add(digest)
        return whole

    def _write(self, tensors: Tensors, layout: Layout | None, *, durable: bool) -> str:
        try:
            data = pieces(tensors, layout)
            digest = self.medium.write(self._folder, data, durable=durable)
        except OSError as error:
            raise Unavailable(
                f"{self._folder}: the update could not be stored ({error.strerror}). Free space,"
                " then start again: the round is repeated"
            ) from error
        self._known.add(digest)
        return digest


def _reply(fields: dict[str, Any]) -> Reply:
    packet = fields["packet"]
    return Reply(
        request=fields["request"],
        packet=Packet(**packet) if packet else None,
        measurements=tuple(Measurement(**m) for m in fields["measurements"]),
    )

# SPDX-License-Identifier: Apache-2.0
"""What happened, as append-only JSON lines: the one record that views, plots and reports read.

Each line is an object with ``v`` (schema version), ``time`` (ISO 8601, UTC), ``event`` and the
fields that ``FIELDS`` lists for it. Fields are added in later versions, never changed.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from fedclave.errors import Bug

SCHEMA = 1
BLOCK = 2**16  # bytes
Event = dict[str, Any]

FIELDS: dict[str, dict[str, str]] = {
    "run_started": {
        "plan": "digest of the plan",
        "name": "name of the federation",
        "round": "last finished round; 0 for a new run",
        "rounds": "rounds in the plan",
        "model": "digest of the global model",
        "size": "bytes of the global model",
        "resumed": "whether an earlier run goes on",
    },
    "checkpoint_damaged": {
        "path": "file that is missing or not what it was",
        "round": "last round whose files are whole: the run goes on from there",
    },
    "member_joined": {"member": "name", "address": "where it connected from"},
    "member_attested": {
        "member": "name",
        "word": "`VERIFIED`, `SIMULATED` or `NOT ATTESTED`",
        "measurement": "what it runs (MRENCLAVE or MRTD, hex); empty if not attested",
        "tcb": "status of its platform; empty if not attested",
        "advisories": "security advisories that apply to the platform",
        "collateral_age_s": "age of what the platform was judged by",
        "evidence": "SHA-256 of what was signed in its quote",
        "certificate": "SHA-256 of its certificate",
        "policy": "digest of the policy that admits it",
        "reason": "why it takes part without evidence, or what the policy notes of it",
        "expires": "when its session ends, unless it attests again (ISO 8601, UTC)",
    },
    "attestation": {
        "word": "how the aggregator itself stands, by its own policy",
        "measurement": "what it runs; empty if not attested",
        "tcb": "status of its platform; empty if not attested",
        "advisories": "security advisories that apply to the platform",
        "collateral_age_s": "age of what the platform was judged by",
        "evidence": "SHA-256 of what was signed in its quote",
        "policy": "digest of the policy",
        "reason": "why it needs no evidence, or what the policy notes of it",
        "expires": "when its session with a member would end (ISO 8601, UTC)",
    },
    "policy": {
        "version": "of the attestation policy that is in force from now on",
        "digest": "its digest",
        "signers": "key ids of those who signed it",
    },
    "session_ended": {
        "member": "name",
        "code": "error code",
        "message": "why what it proved is not good enough any more",
    },
    "member_left": {"member": "name", "reason": "why its connection ended"},
    "peer_refused": {
        "peer": "name or address",
        "code": "error code",
        "message": "what was wrong",
    },
    "trouble": {"message": "what on this machine keeps it from answering members"},
    "members_awaited": {
        "round": "number of the round that waits to open",
        "needed": "members that must be connected",
        "away": "members that would be asked and are not connected",
    },
    "round_opened": {
        "round": "number",
        "asked": "member -> its tasks",
        "needed": "answers for a quorum",
        "deadline_s": "seconds until it may close without all",
        "model": "digest of the model that is sent out",
    },
    "task_started": {"round": "number", "member": "name", "task": "series, such as train"},
    "update_accepted": {
        "round": "number",
        "member": "name",
        "weight": "examples; 0 for an evaluation",
        "bytes": "size of the update",
        "metrics": "series/metric -> value at this member",
    },
    "update_refused": {
        "round": "number",
        "member": "name",
        "code": "error code",
        "message": "what was wrong",
    },
    "round_closed": {
        "round": "number",
        "accepted": "members in the aggregate",
        "failed": "member -> error code",
        "missing": "members that did not answer in time",
        "metrics": "series/metric -> mean weighted by examples",
        "bytes": "{up, down}: model bytes of this round",
        "seconds": "wall time of the round; 0 if its process was killed before it told",
        "model": "digest of the new global model",
    },
    "best_model": {"round": "number", "metric": "name", "value": "number", "model": "digest"},
    "run_finished": {
        "rounds": "rounds done",
        "model": "digest of the final model",
        "path": "file of the final model; where the plan has it sealed, the sealed one",
        "word": "how its aggregator and parties stood (`VERIFIED`, `SIMULATED`, `NOT ATTESTED`);"
        " null where the plan asks for no attestation",
        "best": "digest of the best model",
        "bytes": "{up, down} of this process",
        "seconds": "wall time of this process",
    },
    "run_stopped": {"round": "round that did not finish", "message": "why, and what to do"},
}
"""Event -> its fields and what they mean; the reference page of the docs is checked against it."""


class Events:
    """A sink for events: a file (flushed at each line), and listeners in this process."""

    def __init__(
        self, path: Path | None, now: Callable[[], datetime], *listeners: Callable[[Event], None]
    ) -> None:
        self._now = now
        self._listeners = list(listeners)
        self._lock = threading.Lock()
        self._file = None
        self.closed, self.finished = (0, False) if path is None else _reached(path)
        """The latest round whose ``round_closed`` is in the file; whether ``run_finished`` is."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_cut_line(path)
            # a lone surrogate (of a file's name, say) becomes its JSON escape
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace")

    def emit(self, event: str, **fields: Any) -> None:
        """Record one event. Its fields must be exactly those of ``FIELDS``."""
        if event not in FIELDS or fields.keys() != FIELDS[event].keys():
            raise Bug(f"event {event!r} with fields {sorted(fields)}")
        line = {"v": SCHEMA, "time": self._now().isoformat(), "event": event, **fields}
        with self._lock:
            if event == "round_closed":
                self.closed = fields["round"]
            self.finished = event == "run_finished" or (self.finished and event != "run_started")
            if self._file is not None:
                self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self._file.flush()
            for listener in self._listeners:
                listener(line)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Tell another listener from now on."""
        self._listeners.append(listener)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read(path: Path) -> Iterator[Event]:
    """The events of a file; a last line that a crash cut short is left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _reached(path: Path) -> tuple[int, bool]:
    """How far the run came that a file of events ends with: the latest round that has closed, and
    whether it has finished since it was started last.
    """
    last, finished = 0, False
    for event in read(path) if path.exists() else ():
        if event["event"] == "round_closed":
            last = event["round"]
        elif event["event"] == "run_finished":
            finished = True
        elif event["event"] == "run_started":
            last, finished = last if event["resumed"] else 0, False
    return last, finished


def _drop_cut_line(path: Path) -> None:
    """End the file after its last whole line: what a crash cut short must not swallow the next."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            if (at := file.read(end - start).rfind(b"\n")) >= 0:
                file.truncate(start + at + 1)
                return
            end = start
        file.truncate(0)

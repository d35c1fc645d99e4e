# SPDX-License-Identifier: Apache-2.0
"""The aggregator's memory on disk: a journal (SQLite, WAL) and checkpoints (safetensors files).

Order of writes in a round, each durable before the next: the assignment when the round opens; the
new model and algorithm state as files named by their digests; one journal row that names them. A
crash between any two leaves the last whole round, from which the same run goes on. ``at`` is called
with the name of each such point, so that a test can crash there.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fedclave import locks
from fedclave.durable import retire
from fedclave.engine.database import Database
from fedclave.engine.medium import PLAIN, Medium
from fedclave.errors import Refused, Unavailable, UserError
from fedclave.tensors import Stored, Tensors, digest, file_digest, pieces

POINTS = ("opened", "model-written", "state-written", "recorded", "pruned")
"""The journal's points, in the order in which a round passes them."""

ANEW = "begin anew with 'fx plan initialize --force'"
"""How to begin a run anew whose journal is lost."""

NAME = "federation"
"""Of the journal."""

_NOTHING = digest({})
_SCHEMA = """
create table if not exists run (plan text primary key);
create table if not exists opened (round integer primary key, assignment text not null);
create table if not exists rounds (
  round integer primary key, model text not null, state text not null, record text not null);
create table if not exists best (
  one integer primary key check (one = 0), round integer, model text not null, value real not null
);
create table if not exists stated (
  one integer primary key check (one = 0), statement blob not null, signatures text not null
);
"""


@dataclass(frozen=True, kw_only=True)
class State:
    """The global model after a round (0: the initial one), and the algorithm's own tensors."""

    round: int
    model: str  # digest of params
    params: Stored
    algorithm: Tensors


@dataclass(frozen=True)
class Best:
    """The best model so far, by the plan's metric."""

    round: int
    model: str
    value: float


class Store:
    """One run's journal and checkpoints in a folder; keeps the last two and the best model."""

    def __init__(
        self,
        folder: Path,
        plan: str,
        at: Callable[[str], None] = lambda point: None,
        medium: Medium = PLAIN,
    ) -> None:
        self._folder = folder
        self._at = at
        self.medium = medium
        self._using = threading.Lock()
        self.damaged: tuple[Path, ...] = ()
        (folder / "models").mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # models and journals are this party's own
        self._lock, self._database = claim(folder, NAME, _SCHEMA, ANEW, medium)
        try:
            self._require(plan)
        except BaseException:
            self.close()
            raise
        drop_unfinished(folder / "models")

    def path(self, digest: str) -> Path:
        """Where content with this digest lies, or would."""
        return self._folder / "models" / f"{digest}{self.medium.suffix}"

    def stored(self, digest: str) -> Stored:
        """The tensors with this digest. ``OSError``, ``Refused``: they are not there, or whole."""
        return Stored(self.path(digest), self.medium.opens)

    def begin(self, params: Tensors, algorithm: Tensors) -> State:
        """Record the initial model as round 0; does nothing if that was done."""
        if self._database.execute("select 1 from rounds where round = 0").fetchone() is None:
            self._record(0, params, algorithm, {})
        state = self.latest()
        if state is None:
            raise Unavailable(f"{self._folder}: the initial model was written but cannot be read")
        return state

    def latest(self) -> State | None:
        """The last round whose files are whole; a damaged checkpoint costs one round.

        Files that are not are from then on in ``damaged``.
        """
        rows = self._database.execute("select round, model, state from rounds order by round desc")
        damaged: list[int] = []
        for number, model, state in rows.fetchall():
            lost = [self.path(one) for one in (model, state) if not self._whole(one)]
            self.damaged = (*self.damaged, *(path for path in lost if path not in self.damaged))
            if not lost:
                if damaged:
                    self._forget_after(number)
                return State(
                    round=number,
                    model=model,
                    params=self.stored(model),
                    algorithm=self.stored(state),
                )
            damaged.append(number)
        if damaged:
            raise UserError(
                f"{self._folder / 'models'}: the checkpoints of rounds {damaged} are missing or"
                f" damaged. Restore the folder from a copy, or {ANEW}"
            )
        return None

    def opened(self, number: int) -> Mapping[str, tuple[str, ...]] | None:
        """The assignment with which a round was opened before, if it was."""
        query = "select assignment from opened where round = ?"
        row = self._database.execute(query, (number,)).fetchone()
        return None if row is None else {m: tuple(t) for m, t in json.loads(row[0]).items()}

    def open(self, number: int, assignment: Mapping[str, tuple[str, ...]]) -> None:
        """Journal that a round opens with this assignment."""
        with self._database.writing() as rows:
            text = json.dumps({m: list(t) for m, t in assignment.items()})
            rows.execute("insert or replace into opened values (?, ?)", (number, text))
        self._at("opened")

    def put(
        self, number: int, params: Tensors, algorithm: Tensors, record: Mapping[str, Any]
    ) -> State:
        """Make a round's outcome durable; afterwards ``latest`` is this."""
        with self._using:
            model, state = self._record(number, params, algorithm, record)
            self._prune()
        self._at("pruned")
        return State(
            round=number,
            model=model,
            params=self.stored(model),
            algorithm=self.stored(state),
        )

    def records(self) -> list[dict[str, Any]]:
        """What ``put`` was given for each round, in order, and the ``model`` that it made."""
        rows = self._database.execute(
            "select record, model from rounds where round > 0 order by round"
        )
        return [{**json.loads(text), "model": model} for text, model in rows]

    def best(self) -> Best | None:
        """The best model so far."""
        row = self._database.execute("select round, model, value from best").fetchone()
        return None if row is None else Best(*row)

    def set_best(self, best: Best) -> None:
        """Keep this model as the best."""
        with self._database.writing() as rows:
            values = (best.round, best.model, best.value)
            rows.execute("insert or replace into best values (0, ?, ?, ?)", values)

    def newest(self) -> tuple[int, str]:
        """The last round that was recorded, and the digest of its model."""
        query = "select round, model from rounds order by round desc limit 1"
        number, model = self._database.execute(query).fetchone()
        return number, model

    def stated(self) -> tuple[bytes, dict[str, Any]] | None:
        """The last statement that members countersigned, and what they signed (``witness``)."""
        row = self._database.execute("select statement, signatures from stated").fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def set_stated(self, statement: bytes, signatures: Mapping[str, Any]) -> None:
        """Keep that in place of the one before it."""
        with self._using, self._database.writing() as rows:
            values = (statement, json.dumps(signatures))
            rows.execute("insert or replace into stated values (0, ?, ?)", values)

    def close(self) -> None:
        """Close the journal and let another process have it; a ``put`` is finished first."""
        with self._using:  # SQLite crashes when a connection is closed under a thread
            self._database.close()
        self._lock.close()

    def _require(self, plan: str) -> None:
        """The folder holds this plan's run; a new folder becomes this plan's.

        One with models and an empty journal is no new folder: the journal was lost.
        """
        known = self._database.execute("select 1 from run").fetchone() is not None
        journal = self.medium.journal(self._folder, NAME).name
        if not known and any((self._folder / "models").glob(f"*{self.medium.suffix}")):
            raise UserError(
                f"{self._folder} holds models of a run, but its journal ({journal}) is empty or"
                f" new. Restore it from a copy, or {ANEW}"
            )
        with self._database.writing() as rows:
            rows.execute("insert into run select ? where not exists (select 1 from run)", (plan,))
        (found,) = self._database.execute("select plan from run").fetchone()
        if found != plan:
            raise UserError(
                f"{self._folder} holds the run of another plan ({found[:12]}, this one is"
                f" {plan[:12]}). Go on with that plan, or {ANEW}"
            )

    def _record(
        self, number: int, params: Tensors, algorithm: Tensors, record: Mapping[str, Any]
    ) -> tuple[str, str]:
        model = self._write(params)
        self._at("model-written")
        state = self._write(algorithm)
        self._at("state-written")
        with self._database.writing() as rows:
            values = (number, model, state, json.dumps(record))
            rows.execute("insert or replace into rounds values (?, ?, ?, ?)", values)
        self._at("recorded")
        return model, state

    def _write(self, tensors: Tensors) -> str:
        models = self._folder / "models"
        if isinstance(tensors, Stored) and tensors.path.parent == models:
            return tensors.path.stem  # unchanged since it was read from here
        if not tensors and self.path(_NOTHING).is_file():
            return _NOTHING  # most algorithms keep no state: one file serves all rounds
        try:
            return self.medium.write(models, pieces(tensors))
        except OSError as error:
            raise Unavailable(
                f"{models}: the checkpoint could not be written ({error.strerror})."
                " Free space or repair the disk, then start again: the run goes on from its last"
                " whole round"
            ) from error

    def _whole(self, digest: str) -> bool:
        path = self.path(digest)
        try:
            return (
                path.is_file()
                and file_digest(path, self.medium.opens) == digest
                and len(self.stored(digest)) >= 0
            )
        except (OSError, Refused):
            return False

    def _forget_after(self, number: int) -> None:
        with self._database.writing() as rows:
            rows.execute("delete from rounds where round > ?", (number,))
            rows.execute("delete from best where round > ?", (number,))  # its file may be lost too

    def _prune(self) -> None:
        """Remove files that neither the last two models nor the best one need.

        Two that differ: a round that only measures has the model of the one before it.
        """
        models: set[str] = set()
        kept: set[str] = set()
        for model, state in self._database.execute(
            "select model, state from rounds order by round desc"
        ):
            if len(models | {model}) > 2:
                break
            models.add(model)
            kept |= {model, state}
        if (best := self.best()) is not None:
            kept.add(best.model)
        for path in (self._folder / "models").glob(f"*{self.medium.suffix}"):
            if path.stem not in kept:
                retire(path)


def drop_unfinished(folder: Path) -> None:
    """Remove what a killed process was writing. The folder must be locked."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def claim(
    folder: Path, name: str, schema: str, anew: str, medium: Medium
) -> tuple[IO[bytes], Database]:
    """The folder's lock and its journal, both or neither. Raises as ``lock`` and the medium do."""
    held = lock(folder / f"{name}.lock")
    try:
        return held, medium.database(medium.journal(folder, name), schema, anew)
    except BaseException:
        held.close()
        raise


def lock(path: Path) -> IO[bytes]:
    """Hold a file's lock until it is closed or the process ends. Raises ``Unavailable`` if held."""
    try:
        return locks.hold(path)
    except BlockingIOError as error:
        raise Unavailable(f"{path.parent} is in use by another process. Stop it first") from error
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be locked ({error.strerror}). Change the folder's owner, or use a disk"
            " that has locks"
        ) from error

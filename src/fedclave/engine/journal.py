# SPDX-License-Identifier: Apache-2.0
"""What a run's journal says, read without taking it from the process that writes it."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedclave.engine.medium import PLAIN, Medium
from fedclave.engine.store import ANEW, NAME, Best
from fedclave.errors import Unavailable, UserError


@dataclass(frozen=True, kw_only=True)
class Journal:
    """A run as ``engine.store`` journalled it. ``models`` and ``records`` are by round."""

    plan: str
    opened: int  # the latest round that was opened; 0: the run was not begun
    models: Mapping[int, str]  # digests; round 0 is the initial model
    records: Mapping[int, Mapping[str, Any]]
    best: Best | None


def read(folder: Path, medium: Medium = PLAIN) -> Journal | None:
    """The journal in a folder, or None if there is none.

    Raises ``UserError`` if it is damaged, ``Unavailable`` if the disk does not give it, ``Refused``
    if it is sealed and not as this party sealed it.
    """
    path = medium.journal(folder, NAME)
    if not path.is_file():
        return None
    try:
        with closing(medium.rows(path)) as rows:
            return _read(rows)
    except sqlite3.OperationalError as error:  # a full or failing disk, ...
        raise Unavailable(
            f"{path} cannot be read ({error}). Repair the disk, then ask again"
        ) from error
    except (sqlite3.DatabaseError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Restore it from a copy, or {ANEW}"
        ) from error


def _read(rows: sqlite3.Connection) -> Journal | None:
    if (run := rows.execute("select plan from run").fetchone()) is None:
        return None
    (opened,) = rows.execute("select coalesce(max(round), 0) from opened").fetchone()
    rounds = rows.execute("select round, model, record from rounds order by round").fetchall()
    best = rows.execute("select round, model, value from best").fetchone()
    return Journal(
        plan=run[0],
        opened=opened,
        models={number: model for number, model, _ in rounds},
        records={number: json.loads(record) for number, _, record in rounds if number},
        best=None if best is None else Best(*best),
    )

# SPDX-License-Identifier: Apache-2.0
"""What the two journals promise: the aggregator's ``Store`` and a collaborator's ``Notebook``.

Both: what was written is read again by the next process; one process at a time; a damaged database
is the user's to replace, a full disk is the world's, and neither loses what was whole.
"""

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedclave import tensors
from fedclave.engine import journal
from fedclave.engine.notebook import Notebook
from fedclave.engine.store import POINTS, Best, Store
from fedclave.errors import Unavailable, UserError
from fedclave.messages import Measurement, Packet, Reply, Request
from fedclave.tensors import Tensors

PLAN = "a" * 64


def model(value: float) -> Tensors:
    return {"w": np.full(4, value), "n": np.int64([value])}


def store_with(folder: Path, rounds: int) -> Store:
    """A store that has come so far; the model after round n is ``model(n)``."""
    store = Store(folder, PLAN)
    store.begin(model(0), {})
    for number in range(1, rounds + 1):
        store.open(number, {"anna": ("train",)})
        store.put(number, model(number), {"m": np.full(2, number)}, {"round": number})
    return store


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.safetensors")}


def damage(path: Path) -> None:
    """Another bit in the last byte of a file: of a tensor, where only the digest can tell."""
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.unlink()  # the file may be linked elsewhere
    path.write_bytes(raw)


def request(number: int, params: str = "0" * 64) -> Request:
    return Request(plan=PLAN, round=number, member="anna", tasks=("train",), params=params, size=10)


def keep(notebook: Notebook, number: int, memory: Tensors | None = None) -> Reply:
    """Answer a round with an update of its own."""
    delta = model(number)
    layout = tensors.layout_of(delta)
    digest = notebook.write_packet(delta, layout)
    asked = request(number)
    reply = Reply(
        request=asked.id,
        packet=Packet(digest=digest, size=layout.size, weight=4),
        measurements=(Measurement(series="train", examples=4, values={"loss": 0.5}),),
    )
    notebook.keep(asked, reply, memory)
    return reply


# Both journals


OPENERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "store": (lambda folder: Store(folder, PLAN), "federation.db"),
    "notebook": (Notebook, "collaborator.db"),
}
each = pytest.mark.parametrize(("opens", "database"), OPENERS.values(), ids=list(OPENERS))


@each
def test_a_second_process_is_kept_out_until_the_first_lets_go(
    opens: Callable[[Path], Any], database: str, tmp_path: Path
) -> None:
    first = opens(tmp_path)
    with pytest.raises(Unavailable, match="in use by another process"):
        opens(tmp_path)
    first.close()
    opens(tmp_path).close()


@each
@pytest.mark.parametrize("garbage", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_is_the_users_to_replace(
    opens: Callable[[Path], Any], database: str, garbage: bytes, tmp_path: Path
) -> None:
    opens(tmp_path).close()
    (tmp_path / database).write_bytes(garbage)
    with pytest.raises(UserError, match=r"is damaged .* Restore it from a copy"):
        opens(tmp_path)
    (tmp_path / database).unlink()  # the lock was let go, and to begin anew is possible
    opens(tmp_path).close()


@each
def test_a_page_overwritten_in_the_middle_is_noticed(
    opens: Callable[[Path], Any], database: str, tmp_path: Path
) -> None:
    opens(tmp_path).close()
    raw = bytearray((tmp_path / database).read_bytes())
    raw[4096:8192] = os.urandom(4096)
    (tmp_path / database).write_bytes(raw)
    with pytest.raises(UserError, match="is damaged"):
        opens(tmp_path)


@each
def test_a_database_that_another_program_locks_is_unavailable(
    opens: Callable[[Path], Any], database: str, tmp_path: Path
) -> None:
    opened = opens(tmp_path)
    other = sqlite3.connect(tmp_path / database, isolation_level=None, timeout=0)
    other.execute("begin immediate")
    opened._database.execute("pragma busy_timeout = 0")
    try:
        with pytest.raises(Unavailable, match=r"journal could not be written .*locked"):
            opened.open(1, {}) if database == "federation.db" else keep(opened, 1)
    finally:
        other.close()
    opened.open(1, {}) if database == "federation.db" else keep(opened, 1)
    opened.close()


@each
def test_what_a_killed_process_was_writing_is_removed(
    opens: Callable[[Path], Any], database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "models" if database == "federation.db" else tmp_path
    opens(tmp_path).close()
    (folder / ".123.456.tmp").write_bytes(b"half a model")
    opens(tmp_path).close()
    assert list(folder.glob(".*.tmp")) == []


@each
def test_a_folder_that_is_in_the_way_is_unavailable(
    opens: Callable[[Path], Any], database: str, tmp_path: Path
) -> None:
    (tmp_path / database).mkdir()
    with pytest.raises(Unavailable, match="cannot be opened"):
        opens(tmp_path)


# The store


def test_the_latest_round_is_what_was_put(tmp_path: Path) -> None:
    store_with(tmp_path, 3).close()
    store = Store(tmp_path, PLAN)
    latest = store.latest()
    assert latest is not None
    assert (latest.round, latest.model) == (3, tensors.digest(model(3)))
    assert latest.params["w"].tolist() == [3.0] * 4
    assert latest.algorithm["m"].tolist() == [3.0] * 2
    models = [tensors.digest(model(number)) for number in (1, 2, 3)]
    assert store.records() == [{"round": n, "model": m} for n, m in enumerate(models, 1)]
    assert store.opened(3) == {"anna": ("train",)}
    assert store.opened(4) is None
    store.close()


def test_a_new_folder_has_no_latest_round(tmp_path: Path) -> None:
    store = Store(tmp_path, PLAN)
    assert store.latest() is None
    assert (store.records(), store.best()) == ([], None)
    store.close()


def test_a_run_begins_once(tmp_path: Path) -> None:
    store = store_with(tmp_path, 2)
    assert store.begin(model(9), {}).round == 2
    store.close()


def test_two_rounds_and_the_best_are_kept(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1)
    store.set_best(Best(1, tensors.digest(model(1)), 0.9))
    for number in range(2, 6):
        store.put(number, model(number), {"m": np.full(2, number)}, {})
    kept = {tensors.digest(model(n)) for n in (1, 4, 5)}
    kept |= {tensors.digest({"m": np.full(2, n)}) for n in (4, 5)}
    assert files(tmp_path / "models") == kept
    store.set_best(Best(5, tensors.digest(model(5)), 0.95))
    store.put(6, model(6), {}, {})
    assert tensors.digest(model(1)) not in files(tmp_path / "models")
    assert store.best() == Best(5, tensors.digest(model(5)), 0.95)
    store.close()


def test_a_model_that_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    store = store_with(tmp_path, 2)
    state = store.latest()
    assert state is not None
    before = state.params.path.stat().st_mtime_ns
    same = store.put(3, state.params, state.algorithm, {})
    assert (same.round, same.model) == (3, state.model)
    assert state.params.path.stat().st_mtime_ns == before
    store.close()


def test_models_without_their_journal_are_not_taken_for_a_new_run(tmp_path: Path) -> None:
    store_with(tmp_path, 3).close()
    before = files(tmp_path / "models")
    for path in tmp_path.glob("federation.db*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="journal"):
        Store(tmp_path, PLAN)
    for path in tmp_path.glob("federation.db*"):
        path.unlink()
    with pytest.raises(UserError, match="journal"):
        Store(tmp_path, PLAN)
    assert files(tmp_path / "models") == before


def test_what_must_last_is_forced_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_mode), real(fd)))
    store = store_with(tmp_path, 1)
    kinds = {stat.S_ISDIR(mode) for mode in synced}
    assert kinds == {True, False}  # the files, and the folder that names them
    assert store._database.execute("pragma synchronous").fetchone() == (2,)  # FULL
    store.close()


@pytest.mark.parametrize("part", ["params", "algorithm"])
def test_a_damaged_checkpoint_costs_one_round(part: str, tmp_path: Path) -> None:
    store = store_with(tmp_path, 3)
    latest = store.latest()
    damage(getattr(latest, part).path)
    store.close()
    store = Store(tmp_path, PLAN)
    assert store.damaged == ()
    back = store.latest()
    assert back is not None
    assert (back.round, back.params["w"].tolist()) == (2, [2.0] * 4)
    assert store.damaged == (getattr(latest, part).path,)
    assert len(store.records()) == 2
    assert store.opened(3) == {"anna": ("train",)}  # the round is done again as it was opened
    store.put(3, model(3), {"m": np.full(2, 3)}, {"round": 3})
    again = store.latest()
    assert again is not None and again.round == 3
    store.close()


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_a_checkpoint_cut_short_or_gone_costs_one_round(cut: int, tmp_path: Path) -> None:
    store = store_with(tmp_path, 3)
    latest = store.latest()
    assert latest is not None
    raw = latest.params.path.read_bytes()
    latest.params.path.unlink()
    if cut:
        latest.params.path.write_bytes(raw[:cut])
    back = store.latest()
    assert back is not None and back.round == 2
    store.close()


def test_no_whole_checkpoint_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    store = store_with(tmp_path, 3)
    for path in (tmp_path / "models").iterdir():
        damage(path)
    with pytest.raises(UserError, match=r"rounds \[3, 2, 1, 0\].*Restore.*fx plan initialize"):
        store.latest()
    store.close()


def test_another_plans_run_is_left_alone(tmp_path: Path) -> None:
    store_with(tmp_path, 2).close()
    for other in ("0" * 64, "f" * 64):
        with pytest.raises(UserError, match="holds the run of another plan"):
            Store(tmp_path, other)
    found = journal.read(tmp_path)
    assert found is not None and (found.plan, found.opened) == (PLAN, 2)
    rows = sqlite3.connect(tmp_path / "federation.db")
    assert rows.execute("select plan from run").fetchall() == [(PLAN,)]
    rows.close()
    store = Store(tmp_path, PLAN)
    assert store.latest() is not None
    store.close()


def test_every_point_of_a_round_is_passed_in_order(tmp_path: Path) -> None:
    store_with(tmp_path, 0).close()
    passed: list[str] = []
    store = Store(tmp_path, PLAN, passed.append)
    store.open(1, {})
    store.put(1, model(1), {}, {})
    assert tuple(passed) == POINTS
    store.close()


def test_the_journal_is_read_while_a_run_writes_it(tmp_path: Path) -> None:
    store = store_with(tmp_path, 2)
    store.set_best(Best(1, tensors.digest(model(1)), 0.5))
    found = journal.read(tmp_path)
    assert found is not None
    assert (found.plan, found.opened) == (PLAN, 2)
    assert found.models == {n: tensors.digest(model(n)) for n in range(3)}
    assert found.records == {1: {"round": 1}, 2: {"round": 2}}
    assert found.best == Best(1, tensors.digest(model(1)), 0.5)
    store.close()


def test_no_journal_and_an_empty_one_say_nothing(tmp_path: Path) -> None:
    assert journal.read(tmp_path) is None
    sqlite3.connect(tmp_path / "federation.db").close()


def test_a_damaged_journal_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "federation.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(UserError, match="is damaged"):
        journal.read(tmp_path)


# The notebook


def test_an_answer_is_given_again_by_the_next_process(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    reply = keep(notebook, 1)
    notebook.close()
    notebook = Notebook(tmp_path)
    assert notebook.answered(request(1).id) == reply
    path = notebook.packet_path(reply)
    assert path is not None and tensors.file_digest(path) == reply.packet.digest  # type: ignore[union-attr]
    assert notebook.answered(request(2).id) is None
    notebook.close()


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_an_answer_whose_update_is_lost_is_worked_out_again(how: str, tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    path = notebook.packet_path(keep(notebook, 1))
    assert path is not None
    notebook.close()
    path.unlink() if how == "gone" else damage(path)
    notebook = Notebook(tmp_path)
    assert notebook.answered(request(1).id) is None
    notebook.close()


def test_the_last_two_answers_are_kept_in_whichever_rounds_they_were(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    for number in (1, 4, 9):
        keep(notebook, number, {"speed": np.full(2, number)})
    assert notebook.answered(request(1).id) is None
    assert notebook.answered(request(4).id) is not None
    assert notebook.answered(request(9).id) is not None
    assert len(files(tmp_path)) == 4
    notebook.close()


def test_a_repeated_round_begins_from_the_memory_before_it(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    for number in (1, 4, 9):
        keep(notebook, number, {"speed": np.full(2, number)})
    memory = notebook.memory(before=9)
    assert memory is not None and memory["speed"].tolist() == [4.0, 4.0]
    keep(notebook, 4, {"speed": np.full(2, 7.0)})  # the aggregator went back
    assert notebook.answered(request(9).id) is None
    memory = notebook.memory(before=9)
    assert memory is not None and memory["speed"].tolist() == [7.0, 7.0]
    notebook.close()


def test_a_learner_that_forgot_everything_gets_nothing_back(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    assert notebook.memory(before=1) is None
    keep(notebook, 1, {"speed": np.zeros(2)})
    keep(notebook, 2, {})
    assert notebook.memory(before=3) is None
    notebook.close()


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_damaged_memory_is_not_used(how: str, tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    keep(notebook, 1, {"speed": np.zeros(2)})
    notebook.close()
    path = tmp_path / f"{tensors.digest({'speed': np.zeros(2)})}.safetensors"
    path.unlink() if how == "gone" else damage(path)
    notebook = Notebook(tmp_path)
    with pytest.raises(UserError, match="missing or damaged"):
        notebook.memory(before=2)
    notebook.close()


# A full disk: real, in a process of its own whose files may not grow beyond a limit


CHILD = """
import json, resource, sys
from pathlib import Path
import numpy as np
from fedclave.engine.store import Store
from fedclave.engine.notebook import Notebook
from fedclave.errors import FedclaveError

kind, folder, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
params = {"w": np.arange(65536.0)}
if kind == "store":
    store = Store(folder, "a" * 64)
    act = lambda: store.put(store.latest().round + 1, params, {}, {"big": "x" * 700_000})
elif kind == "open":
    act = lambda: Store(folder, "a" * 64)
else:
    notebook = Notebook(folder)
    from fedclave.tensors import layout_of
    act = lambda: notebook.write_packet(params, layout_of(params))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    act()
    said = [None, ""]
except FedclaveError as error:
    said = [type(error).__name__, str(error)]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
act() if kind != "open" else None
print(json.dumps(said))
"""


def on_a_full_disk(kind: str, folder: Path, limit: int) -> tuple[str | None, str]:
    """What is said when files may have so many bytes; then once more without a limit."""
    run = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(folder), str(limit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    name, message = json.loads(run.stdout)
    return name, message


@pytest.mark.parametrize("limit", [0, 100_000])
def test_a_disk_that_is_full_for_a_checkpoint_costs_nothing(limit: int, tmp_path: Path) -> None:
    store_with(tmp_path, 2).close()
    name, message = on_a_full_disk("store", tmp_path, limit)
    assert name == "Unavailable"
    assert "Free space" in message
    assert list((tmp_path / "models").glob(".*.tmp")) == []
    store = Store(tmp_path, PLAN)
    latest = store.latest()
    assert latest is not None and latest.round == 3  # the same process went on
    assert [record.get("round") for record in store.records()[:2]] == [1, 2]
    store.close()


def test_a_disk_that_is_full_for_the_journal_costs_nothing(tmp_path: Path) -> None:
    store_with(tmp_path, 2).close()
    name, message = on_a_full_disk("store", tmp_path, 600_000)  # the model fits into that
    assert name == "Unavailable"
    assert "journal could not be written" in message
    store = Store(tmp_path, PLAN)
    latest = store.latest()
    assert latest is not None and latest.round == 3
    store.close()


def test_a_journal_that_cannot_be_opened_on_a_full_disk_is_not_called_damaged(
    tmp_path: Path,
) -> None:
    store_with(tmp_path, 2).close()
    name, message = on_a_full_disk("open", tmp_path, 0)
    assert name in ("Unavailable", None), message
    store = Store(tmp_path, PLAN)
    latest = store.latest()
    assert latest is not None and latest.round == 2
    store.close()


def test_a_disk_that_is_full_for_an_update_is_unavailable(tmp_path: Path) -> None:
    name, message = on_a_full_disk("notebook", tmp_path, 100_000)
    assert name == "Unavailable"
    assert "Free space" in message
    assert list(tmp_path.glob(".*.tmp")) == []


# A thread that is still at work when its process lets go


def letting_go(close: Callable[[], None]) -> tuple[Callable[[str], None], list[threading.Thread]]:
    """A hook that closes from another thread, in the middle; and that thread, to be joined."""
    closers: list[threading.Thread] = []

    def at(point: str) -> None:
        if point in ("answered", "recorded"):
            closers.append(threading.Thread(target=close))
            closers[0].start()
            closers[0].join(0.1)  # it gets the chance to close under our feet

    return at, closers


def test_a_notebook_that_is_closed_while_an_answer_is_kept_keeps_it(tmp_path: Path) -> None:
    at, closers = letting_go(lambda: notebook.close())
    notebook = Notebook(tmp_path, at)
    reply = keep(notebook, 1)
    closers[0].join()
    notebook = Notebook(tmp_path)
    assert notebook.answered(request(1).id) == reply
    notebook.close()


def test_a_store_that_is_closed_while_a_round_is_put_has_the_round(tmp_path: Path) -> None:
    store_with(tmp_path, 1).close()
    at, closers = letting_go(lambda: store.close())
    store = Store(tmp_path, PLAN, at)
    store.put(2, model(2), {}, {})
    closers[0].join()
    store = Store(tmp_path, PLAN)
    latest = store.latest()
    assert latest is not None and latest.round == 2
    store.close()


def test_a_damaged_model_costs_one_round_of_training_also_after_one_that_measured(
    tmp_path: Path,
) -> None:
    store = store_with(tmp_path, 2)
    last = store.latest()
    assert last is not None
    store.put(3, last.params, last.algorithm, {})  # a closing evaluation: the same model
    store.close()
    damage(tmp_path / "models" / f"{last.model}.safetensors")
    store = Store(tmp_path, PLAN)
    found = store.latest()
    assert found is not None and found.round == 1
    store.close()

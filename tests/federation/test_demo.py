# SPDX-License-Identifier: Apache-2.0
"""`fx demo` as a user starts it: what it says, what it leaves, and that it leaves no process."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedclave import tensors
from fedclave.cli import demo_tamper, demo_verdict
from fedclave.engine import events
from fedclave.tensors import Stored

pytestmark = pytest.mark.timeout(240)
WAIT_S = 120.0
FX = [sys.executable, "-P", "-m", "fedclave.cli.main", "demo"]
NOWHERE = "http://127.0.0.1:9"  # the discard port: a proxy that is not there


def fx(folder: Path, *options: str, **variables: str) -> "subprocess.Popen[str]":
    """Start the demo in a folder."""
    return subprocess.Popen(
        [*FX, *options],
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: "subprocess.Popen[str]") -> str:
    """What it printed; it must have ended well and have said nothing on stderr."""
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (0, "")
    return out


@contextmanager
def endless(folder: Path, *options: str) -> "Iterator[subprocess.Popen[str]]":
    """A demo with rounds for hours, in its third one."""
    process = fx(folder, "--rounds", "10000", *options)
    try:
        line = ""
        while not line.startswith("round 3/"):
            line = (process.stdout or iter(())).__next__()
        yield process
    finally:
        process.kill()
        process.communicate()


def children(process: "subprocess.Popen[str]") -> dict[str, int]:
    """Name -> process id of the parties that a demo started."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in listed}
    return {
        command[command.index("-n") + 1] if "-n" in command else "aggregator": int(pid)
        for pid, command in commands.items()
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Two demos at the same time in one folder, behind a dead proxy: JSON, and plain text."""
    folder = tmp_path_factory.mktemp("a folder.with dots")
    (folder / "numpy.py").write_text("raise SystemExit('a module of this folder was imported')")
    first = fx(folder, "--json", "--rounds", "4", https_proxy=NOWHERE)
    second = fx(folder, "--rounds", "4", grpc_proxy=NOWHERE)
    return folder, json.loads(done(first)), done(second)


def test_json_is_one_object_with_the_agreed_keys(ran: Any) -> None:
    _, value, _ = ran
    assert set(value) == {
        "rounds", "accuracy", "seconds", "bytes", "digest", "model", "events", "plot",
        "attestation"}  # fmt: skip
    assert value["attestation"] == "SIMULATED"
    assert value["rounds"] == 4
    assert set(value["accuracy"]) == {"global", "alone", "pooled"}
    assert set(value["accuracy"]["alone"]) == {"alice", "bob", "carol"}
    assert value["bytes"]["up"] > 0 and value["bytes"]["down"] > 0


def test_the_federation_beats_each_party_and_comes_near_to_pooled_data(ran: Any) -> None:
    accuracy = ran[1]["accuracy"]
    assert accuracy["global"] > max(accuracy["alone"].values()) + 0.1
    assert accuracy["global"] > accuracy["pooled"] - 0.1


def test_its_paths_lead_to_the_model_the_events_and_a_picture(ran: Any) -> None:
    _, value, _ = ran
    paths = {key: Path(value[key]) for key in ("model", "events", "plot")}
    assert all(path.is_absolute() for path in paths.values())
    assert tensors.digest(Stored(paths["model"])) == value["digest"]
    assert tensors.metadata(paths["model"]) == {"fedclave.attestation": "SIMULATED"}
    last = [e for e in events.read(paths["events"]) if e["event"] == "run_finished"]
    assert [(e["model"], e["path"], e["word"]) for e in last] == [
        (value["digest"], value["model"], "SIMULATED")]  # fmt: skip
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")


def test_demos_at_the_same_time_have_their_own_folders_and_the_same_model(ran: Any) -> None:
    folder, value, text = ran
    assert sorted(p.name for p in (folder / "fedclave-demo").iterdir()) == ["1", "2"]
    assert f"\ndigest  {value['digest']}\n" in text


def test_plain_text_has_one_line_for_each_round_and_no_escape_codes(ran: Any) -> None:
    text = ran[2]
    assert re.findall(r"^round (\d)/4, accuracy 0\.\d+, loss", text, re.MULTILINE) == list("1234")
    assert text.replace("\n", "").isprintable() and text.isascii()


def test_each_party_holds_its_own_key_and_its_own_data_only(ran: Any) -> None:
    home = Path(ran[1]["events"]).parents[2]
    for name in ("alice", "bob", "carol"):
        assert sorted(p.stem for p in (home / name).rglob("*.key")) == sorted([name, "owner"])
        assert [p.stem for p in (home / name).rglob("*.npz")] == [name]
    own = {path.relative_to(home) for path in (home / "aggregator").rglob("*.key")}
    assert {path for path in own if "simulated" not in path.parts} == {
        Path("aggregator/cert/aggregator.key"),
        Path("aggregator/cert/author.key"),
        Path("aggregator/cert/log.key"),
    }
    assert not list((home / "aggregator").rglob("*.npz"))


def test_the_suggested_commands_work(ran: Any) -> None:
    folder, value, text = ran
    suggested = text[text.index("Next:") :].splitlines()[1:]
    assert len(suggested) == 3
    for command in suggested:
        as_module = command.strip().replace(
            "fx ", f"'{sys.executable}' -P -m fedclave.cli.main ", 1
        )
        shown = subprocess.run(
            as_module, shell=True, cwd=folder, capture_output=True, text=True, check=True
        )
        assert shown.stdout
        if "model show" in command:
            assert value["digest"] in shown.stdout


def test_on_a_terminal_a_table_stays_in_place_and_a_summary_follows(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FX, "--rounds", "2", "--collaborators", "2"],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux's way to say that the other end of a terminal is closed
        pass
    os.close(ours)
    text = shown.decode()
    assert process.wait(WAIT_S) == 0
    assert "\x1b[1A" in text  # the cursor goes up: drawn in place
    assert "finished after 2 of 2 rounds" in text and "\x1b[?25h" in text
    assert text.index("finished after") < text.index("all data pooled") < text.index("Next:")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_however_it_ends_no_process_is_left(tmp_path: Path, number: int, code: int) -> None:
    with endless(tmp_path) as process:
        parties = {name: os.pidfd_open(pid) for name, pid in children(process).items()}
        assert set(parties) == {"aggregator", "alice", "bob", "carol"}
        process.send_signal(number)
        assert process.wait(WAIT_S) == code
        for descriptor in parties.values():
            assert select.select([descriptor], [], [], WAIT_S)[0]  # readable: it has ended
            os.close(descriptor)


@pytest.mark.parametrize("name", ["bob", "aggregator"])
def test_a_party_that_dies_ends_the_demo_with_its_name_log_and_code(
    tmp_path: Path, name: str
) -> None:
    with endless(tmp_path) as process:
        os.kill(children(process)[name], signal.SIGKILL)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 128 + signal.SIGKILL
        assert f"error: {name} ended with exit code 137" in err
        assert str(tmp_path / f"fedclave-demo/1/{name}/logs/output.log") in err


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    process = fx(tmp_path, "--into", ".")
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2 and "not empty" in err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


BY_THE_PARTIES = {("alice", "aggregator"), ("bob", "aggregator")}
WHO = {
    "code": BY_THE_PARTIES,
    "plan": {("aggregator", "alice"), ("aggregator", "bob")},
    "relay": {("aggregator", "mallory")},
    "key": {("alice", "mallory"), ("bob", "mallory")},
    "replay": {("alice", "mallory"), ("bob", "mallory")},
    "revoked": BY_THE_PARTIES,
}  # who refused whom


@pytest.mark.parametrize("mode", demo_tamper.MODES)
def test_whatever_is_tampered_with_the_federation_fails_closed(mode: str, tmp_path: Path) -> None:
    said = json.loads(done(fx(tmp_path, "--tamper", mode, "--collaborators", "2", "--json")))
    assert said["failed_closed"] is True
    assert {one["code"] for one in said["refusals"]} == {demo_verdict.EXPECTED[mode]}
    assert [one["exit_code"] for one in said["refusals"]] == [3, 3]
    assert {(one["by"], one["whom"]) for one in said["refusals"]} == WHO[mode]
    assert bool(said["differs"]) is (mode == "plan")
    assert said["updates"] == 0
    assert 0 < said["up"] < said["model"]  # bytes on the wire: too few for an update
    assert 0 < said["down"] < said["model"]  # and for a model

# SPDX-License-Identifier: Apache-2.0
"""``fx audit`` over a workspace's log."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer import Typer

from fedclave.cli import audit, main
from fedclave.errors import Code
from fedclave.plan import load
from fedclave.trust import records, signing
from fedclave.trust.judgement import Word
from fedclave.trust.log import Log

AT = datetime(2031, 5, 1, 9, 30, tzinfo=UTC)
A = "a" * 64
ORIGIN = "example.org/digits"
ADMISSION = records.AdmissionRecord(
    at=AT, peer="anna", role="collaborator", certificate=A, word=Word.SIMULATED, measurement=A,
    tcb_status="UpToDate", evidence=A, policy=A,
)  # fmt: skip
PART = records.Part(name="anna", word=Word.SIMULATED, packet=A, weight=1, outcome="folded")
WRITTEN: list[records.Record] = [
    records.ContractRecord(at=AT, contract=A, plan=A, author=A),
    records.PolicyRecord(at=AT, version=2, policy=A, signers=(A,)),
    ADMISSION,
    records.RefusalRecord(at=AT, code=Code.LATE, peer=None, word=None, message="who?"),
    records.ReleaseRecord(
        at=AT, to="anna", purpose="data-key", word=Word.SIMULATED, key=A, object=A, transcript=A
    ),
    records.RoundRecord(
        at=AT, contract=None, plan=A, round=1, word=Word.SIMULATED, members=(PART,), aggregate=A,
        model_before=A, model_after=A, codec={}, privacy={},
    ),
]  # fmt: skip

Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/plan.yaml").touch()
    signing.save(tmp_path / "cert/log.key", signing.generate())
    add(tmp_path, *(records.encode(record) for record in WRITTEN), b"of a newer kind")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fx:
    alone = Typer()
    alone.add_typer(audit.app)
    monkeypatch.setattr(main, "app", alone)

    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = main.run(["audit", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def add(workspace: Path, *entries: bytes) -> None:
    key = signing.load(workspace / "cert/log.key")
    with Log(workspace / "logs/audit", key, ORIGIN) as kept:
        kept.extend(entries)


def text(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.run(["audit", *arguments]) == 0
    return capsys.readouterr().out


def test_the_entries_are_shown_with_the_head_and_said_to_be_unverified(
    workspace: Path, fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = fx("show")
    assert (code, shown["verified"], shown["size"], shown["origin"]) == (0, False, 7, ORIGIN)
    kinds = ["contract", "policy", "admission", "refusal", "release", "round", "unknown"]
    assert [one["kind"] for one in shown["entries"]] == kinds
    assert shown["entries"][5]["record"]["round"] == 1
    lines = text(capsys, "show").splitlines()
    assert "NOT VERIFIED" in lines[-1]
    for index in (2, 4, 5):
        assert "SIMULATED: " in lines[index]
    assert "somebody: late: who?" in lines[3]
    assert "does not read" in lines[6]


def test_the_last_entries_keep_their_numbers(workspace: Path, fx: Fx) -> None:
    _, shown = fx("show", "--last", "2")
    assert [one["index"] for one in shown["entries"]] == [5, 6]


def test_a_proof_is_verified_without_the_log(
    workspace: Path, fx: Fx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fx("prove", "2", "--out", "admission.proof")[0] == 0
    (workspace / "logs").rename(workspace / "gone")
    code, found = fx("verify", "admission.proof", "--key", "cert/log.pub")
    assert (code, found["verified"], found["entry"]["index"]) == (0, True, 2)
    assert found["entry"]["record"]["word"] == "SIMULATED"
    shown = text(capsys, "verify", "admission.proof", "--key", "cert/log.pub")
    assert "VERIFIED: this is entry 2 of 7." in shown and "SIMULATED" in shown


def test_a_proved_round_is_shown_in_words(
    workspace: Path, fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    fx("prove", "5", "--out", "round.proof")
    shown = text(capsys, "verify", "round.proof", "--key", "cert/log.pub")
    assert f"member anna   outcome folded, packet {A}, weight 1, word SIMULATED" in shown
    assert not set("{}[]'") & set(shown)
    fx("prove", "1", "--out", "policy.proof")
    assert f"signers  {A}\n" in text(capsys, "verify", "policy.proof", "--key", "cert/log.pub")


def test_a_proof_goes_to_stdout_if_no_file_is_named(
    workspace: Path, fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = text(capsys, "prove", "0")
    (workspace / "p").write_text(printed)
    assert fx("verify", "p", "--key", "cert/log.pub")[0] == 0


def test_a_proof_is_refused_if_it_was_changed_or_by_another_key(workspace: Path, fx: Fx) -> None:
    fx("prove", "2", "--out", "p")
    signing.save(workspace / "cert/other.key", signing.generate())
    code, found = fx("verify", "p", "--key", "cert/other.pub")
    assert (code, found["error"]["code"]) == (3, "bad-signature")
    (workspace / "p").write_text((workspace / "p").read_text().replace('"index":2', '"index":3'))
    code, found = fx("verify", "p", "--key", "cert/log.pub")
    assert (code, found["error"]["code"]) == (3, "log-proof")


def test_a_whole_log_is_verified_here_and_in_a_copy(
    workspace: Path, fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    for where in ([], ["logs/audit"]):
        code, found = fx("verify", *where, "--key", "cert/log.pub")
        assert (code, found["verified"], found["size"]) == (0, True, 7)
    assert "VERIFIED: 7 entries" in text(capsys, "verify", "--key", "cert/log.pub")
    entries = workspace / "logs/audit/entries"
    entries.write_bytes(entries.read_bytes().replace(b"anna", b"bert", 1))
    code, found = fx("verify", "--key", "cert/log.pub")
    assert (code, found["error"]["code"]) == (3, "log-proof")
    assert "entry 2" in found["error"]["message"]


def test_a_log_must_begin_with_what_an_older_head_covers(
    workspace: Path, fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "old").write_bytes((workspace / "logs/audit/checkpoint").read_bytes())
    add(workspace, b"more")
    code, found = fx("verify", "--key", "cert/log.pub", "--since", "old")
    assert (code, found["size"], found["since"]["size"]) == (0, 8, 7)
    options = ["verify", "--key", "cert/log.pub", "--since", "old"]
    assert "The first 7 are those" in text(capsys, *options)

    (workspace / "logs/audit").rename(workspace / "true")
    add(workspace, *(b"x" for _ in range(9)))
    code, found = fx("verify", "--key", "cert/log.pub", "--since", "old")
    assert (code, found["error"]["code"]) == (3, "log-fork")
    (workspace / "logs/audit").rename(workspace / "false")
    add(workspace, b"x")
    code, found = fx("verify", "--key", "cert/log.pub", "--since", "old")
    assert (code, found["error"]["code"]) == (3, "log-older")


def test_mistakes_are_told_with_the_next_step(workspace: Path, fx: Fx) -> None:
    fx("prove", "2", "--out", "p")
    for arguments, said in (
        (["prove", "x"], "'x' is not a whole number from 0 to 1000000000. 'fx audit show' lists"),
        (["prove", "7"], "no entry 7: the log's head has 7 entries"),
        (["verify", "p", "--key", "cert/log.pub", "--since", "p"], "--since with a log's folder"),
        (["verify", "--key", "nowhere.pub"], "Name the log's public key"),
        (["verify", "--key", "plan/plan.yaml"], "not a public key"),
        (["verify", "cert", "--key", "cert/log.pub"], "holds no log"),
        (["verify", "nowhere", "--key", "cert/log.pub"], "Name a proof"),
    ):
        code, found = fx(*arguments)
        assert (code, said in found["error"]["message"]) == (2, True), found


def other_log(workspace: Path, folder: str, *written: records.Record) -> None:
    key = signing.load(workspace / "cert/log.key")
    with Log(workspace / folder, key, f"{ORIGIN}/other") as kept:
        kept.extend(records.encode(record) for record in written)


def refusal(peer: str | None, word: Word | None) -> records.RefusalRecord:
    return records.RefusalRecord(at=AT, code=Code.LATE, peer=peer, word=word, message="no")


def test_who_was_refused_is_named_and_marked_if_it_was_not_admitted(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = (refusal("bob", None), refusal("bob", Word.SIMULATED), refusal(None, None))
    other_log(workspace, "other", *known)
    lines = text(capsys, "show", "other").splitlines()
    assert [line.split("refusal    ")[1] for line in lines[:3]] == [
        "bob (not admitted): late: no",
        "SIMULATED: bob: late: no",
        "somebody: late: no",
    ]


def test_a_log_of_releases_is_shown_proved_and_verified(
    workspace: Path, fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    other_log(workspace, "logs/releases", WRITTEN[4])
    code, shown = fx("show", "logs/releases")
    assert (code, [one["kind"] for one in shown["entries"]]) == (0, ["release"])
    assert fx("prove", "0", "logs/releases", "--out", "release.proof")[0] == 0
    code, found = fx("verify", "release.proof", "--key", "cert/log.pub")
    assert (code, found["entry"]["kind"]) == (0, "release")
    (workspace / "logs/audit").rename(workspace / "gone")
    code, found = fx("show")
    assert code == 2
    assert str(Path("logs/releases")) in found["error"]["message"]


def measured(number: int, plan: str) -> records.RoundRecord:
    parts = tuple(
        records.Part(name=name, word=Word.SIMULATED, packet=None, weight=None, outcome="measured")
        for name in ("anna", "bernd")
    )
    return records.RoundRecord(
        at=AT, contract=None, plan=plan, round=number, word=Word.SIMULATED, members=parts,
        aggregate=A, model_before=A, model_after=A, codec={}, privacy={},
    )  # fmt: skip


def test_a_round_that_only_measured_is_said_to_be_one(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "plan/plan.yaml").write_text(
        "schema: 1\nname: kit\nrounds: 20\nlearner: {build: src.learner:build}\n"
        "tasks: {train: {run: fit}}\n"
    )
    plan = load(workspace / "plan/plan.yaml").digest
    other_log(workspace, "other", measured(20, plan), measured(21, plan), measured(21, A))
    lines = text(capsys, "show", "other").splitlines()
    assert [line.split("SIMULATED: ")[1] for line in lines[:3]] == [
        f"round 20, measured by 2, model {A[:16]}",
        f"final evaluation, measured by 2, model {A[:16]}",
        f"round 21, measured by 2, model {A[:16]}",  # of a plan that is not known here
    ]

# SPDX-License-Identifier: Apache-2.0
"""The CA's commands, and certifying by hand between two workspaces."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.ca import PASSPHRASE

from fedclave.cli import console, main
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors
from fedclave.workspace import layout, members
from fedclave.workspace.layout import Workspace

Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fx:
    """Runs a command with ``--json``: its exit code, and what it printed."""
    monkeypatch.setenv(console.PASSPHRASE, PASSPHRASE.decode())

    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = main.run([*map(str, arguments), "--json"])
        (line,) = capsys.readouterr().out.splitlines()
        return code, json.loads(line)

    return run


@pytest.fixture
def center(tmp_path: Path, fx: Fx) -> Workspace:
    made = layout.create("numpy-digits", tmp_path / "center")
    assert fx("workspace", "certify", "-C", made.root)[0] == 0
    return made


@pytest.fixture
def party(tmp_path: Path) -> Workspace:
    return layout.create("numpy-digits", tmp_path / "party")


def certified(fx: Fx, center: Workspace, party: Workspace, name: str = "alice") -> Any:
    """What the party's import says, once the CA has signed its request."""
    at, me = ("-C", center.root), ("-C", party.root, "-n", name)
    request = fx("collaborator", "generate-cert-request", *me)[1]
    signed = fx("collaborator", "certify", "-n", name, "-r", request["request"], "--yes", *at)[1]
    assert signed["fingerprint"] == request["fingerprint"]
    code, taken = fx("collaborator", "certify", "-i", signed["response"], "--yes", *me)
    assert code == 0
    return taken


def test_request_and_certificate_travel_as_files(
    fx: Fx, center: Workspace, party: Workspace
) -> None:
    taken = certified(fx, center, party)
    shown = fx("ca", "show", "-C", center.root)[1]
    assert taken["root"] == shown["root"] == fx("ca", "show", "-C", party.root)[1]["root"]
    assert [(row["name"], row["state"]) for row in shown["issued"]] == [("alice", "valid")]
    assert members.members(center) == ("alice",)
    assert Credentials.read(party.cert, "alice").leaf.not_valid_after_utc > datetime.now(UTC)


def test_unconfirmed_fingerprint_changes_nothing(
    fx: Fx, center: Workspace, party: Workspace
) -> None:
    request = fx("collaborator", "generate-cert-request", "-n", "alice", "-C", party.root)[1]
    command = ("collaborator", "certify", "-n", "alice", "-r", request["request"])
    code, value = fx(*command, "-C", center.root)
    assert (code, value["error"]["kind"]) == (2, "user")
    assert members.members(center) == ()


def test_request_for_another_name_is_refused(fx: Fx, center: Workspace, party: Workspace) -> None:
    request = fx("collaborator", "generate-cert-request", "-n", "mallory", "-C", party.root)[1]
    command = ("collaborator", "certify", "-n", "alice", "-r", request["request"], "--yes")
    code, value = fx(*command, "-C", center.root)
    assert (code, value["error"]["code"]) == (3, "bad-request")
    assert members.members(center) == ()


def test_request_with_the_key_of_another_party_is_refused_before_a_passphrase_is_asked(
    fx: Fx, center: Workspace, party: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified(fx, center, party)
    shutil.copy(party.cert / "alice.key", party.cert / "bernd.key.next")
    request = fx("collaborator", "generate-cert-request", "-n", "bernd", "-C", party.root)[1]
    monkeypatch.delenv(console.PASSPHRASE)
    command = ("collaborator", "certify", "-n", "bernd", "-r", request["request"], "--yes")
    code, value = fx(*command, "-C", center.root)
    assert (code, value["error"]["code"]) == (3, "bad-request")
    assert "'alice'" in value["error"]["message"] and "fx ca revoke" in value["error"]["message"]
    assert members.members(center) == ("alice",)


def test_answer_for_another_key_is_not_taken(
    fx: Fx, center: Workspace, party: Workspace, tmp_path: Path
) -> None:
    certified(fx, center, party)
    other = layout.create("numpy-digits", tmp_path / "other")
    answer = center.root / "alice.cert.pem"
    code, value = fx("collaborator", "certify", "-n", "alice", "-i", answer, "--yes",
                     "-C", other.root)  # fmt: skip
    assert (code, "key that is not here" in value["error"]["message"]) == (2, True)
    assert not (other.cert / "chain.pem").exists()


@pytest.mark.parametrize("content", [b"", b"what", b"-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_answer_that_is_none_is_a_users_mistake(
    fx: Fx, party: Workspace, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "answer").write_bytes(content)
    command = ("collaborator", "certify", "-n", "alice", "-i", tmp_path / "answer", "--yes")
    assert fx(*command, "-C", party.root)[0] == 2


def test_renewed_certificate_is_sent_or_put_in_place(
    fx: Fx, center: Workspace, party: Workspace
) -> None:
    certified(fx, center, party)
    before = Credentials.read(party.cert, "alice")
    code, renewed = fx("ca", "renew", "alice", "-C", center.root)
    assert code == 0
    command = ("collaborator", "certify", "-n", "alice", "-i", renewed["response"])
    assert fx(*command, "-C", party.root)[0] == 0  # the root is known: nothing to compare
    after = Credentials.read(party.cert, "alice")
    assert (after.key, after.chain != before.chain) == (before.key, True)
    fx("aggregator", "generate-cert-request", "-C", center.root)
    assert fx("aggregator", "certify", "--yes", "-C", center.root)[1]["response"] is None
    assert fx("ca", "renew", "aggregator", "-C", center.root)[1]["response"] is None


def test_renewal_without_ca_or_service_names_who_can(
    fx: Fx, center: Workspace, party: Workspace
) -> None:
    certified(fx, center, party)
    code, value = fx("ca", "renew", "alice", "-C", party.root)
    assert (code, "operator" in value["error"]["message"]) == (2, True)
    assert fx("ca", "renew", "-C", party.root)[0] == 2


def test_ca_is_prolonged(fx: Fx, center: Workspace) -> None:
    before = Anchors.read(center.cert).issuing
    assert fx("ca", "renew", "-C", center.root)[0] == 0
    after = Anchors.read(center.cert).issuing
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()


def test_revoked_party_is_no_member(fx: Fx, center: Workspace, party: Workspace) -> None:
    certified(fx, center, party)
    assert fx("ca", "revoke", "alice", "-C", center.root)[1] | {"crl": ""} == {
        "name": "alice", "revoked": 1, "tokens": 0, "removed": True, "crl": ""}  # fmt: skip
    assert members.members(center) == ()
    assert fx("ca", "show", "-C", center.root)[1]["issued"][0]["state"] == "revoked"
    assert fx("ca", "revoke", "nobody", "-C", center.root)[0] == 2


def test_revoking_withdraws_open_tokens_too(fx: Fx, center: Workspace, party: Workspace) -> None:
    fx("invite", "bob", "--no-wait", "-C", center.root)
    code, value = fx("ca", "revoke", "bob", "-C", center.root)
    assert (code, value["revoked"], value["tokens"]) == (0, 0, 1)
    certified(fx, center, party)
    fx("invite", "alice", "--no-wait", "--force", "-C", center.root)
    assert fx("ca", "revoke", "alice", "-C", center.root)[1]["tokens"] == 1
    assert fx("ca", "show", "-C", center.root)[1]["tokens"] == []


def test_certificates_are_shown_by_party_with_times_in_utc(
    fx: Fx, center: Workspace, party: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    certified(fx, center, party)
    fx("ca", "renew", "alice", "-C", center.root)
    issued = fx("ca", "show", "-C", center.root)[1]["issued"]
    assert [row["name"] for row in issued] == ["alice", "alice"]
    until = datetime.fromisoformat(issued[-1]["until"])
    assert issued[-1]["until"] == until.isoformat()
    assert main.run(["ca", "show", "-C", str(center.root)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "alice" in line]
    assert line.split() == [
        "alice", "collaborator", f"{until:%Y-%m-%d}", f"{until:%H:%M}", "UTC", "valid", "(earlier:",
        "1", "valid)"]  # fmt: skip


def test_one_certificate_is_not_said_in_the_plural(
    fx: Fx, center: Workspace, party: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    certified(fx, center, party)
    assert main.run(["ca", "revoke", "alice", "-C", str(center.root)]) == 0
    assert "1 certificate revoked" in capsys.readouterr().out


@pytest.mark.parametrize("command", [("revoke", "alice"), ("serve",), ("renew",)])
def test_where_no_ca_lies_that_is_said_before_a_passphrase_is_asked(
    fx: Fx, party: Workspace, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv(console.PASSPHRASE)
    code, value = fx("ca", *command, "-C", party.root)
    assert (code, "there is no CA in" in value["error"]["message"]) == (2, True)


@pytest.mark.parametrize("name", ["aggregator", "authority", "chain", "crl"])
def test_names_that_have_another_use_are_refused_to_collaborators(
    fx: Fx, center: Workspace, tmp_path: Path, name: str
) -> None:
    code, value = fx("collaborator", "create", "-n", name, "-d", tmp_path, "-C", center.root)
    assert (code, "Choose another name" in value["error"]["message"]) == (2, True)
    code, value = fx("invite", name, "--no-wait", "-C", center.root)
    assert (code, repr(name) in value["error"]["message"]) == (2, True)
    assert members.data_paths(center) == {}


def test_another_partys_pair_says_whose_it_is(fx: Fx, center: Workspace, party: Workspace) -> None:
    certified(fx, center, party)
    certified(fx, center, party, "bob")
    answer = center.root / "bob.cert.pem"
    error = fx("collaborator", "certify", "-n", "alice", "-i", answer, "-C", party.root)[1]["error"]
    assert "of collaborator 'bob', not of 'alice'" in error["message"]
    for kind in ("key", "pem"):
        shutil.copy(party.cert / f"bob.{kind}", party.cert / f"alice.{kind}")
    at = ("-n", "alice", "--address", "localhost:1", "-C", party.root)
    code, value = fx("collaborator", "ping", *at)
    assert (code, "of collaborator 'bob', not of 'alice'" in value["error"]["message"]) == (2, True)


@pytest.mark.parametrize("host", ["a b", "a/b", "localhost:8443", "https://a", ""])
def test_what_is_no_host_is_misuse(fx: Fx, center: Workspace, host: str) -> None:
    assert fx("aggregator", "generate-cert-request", "--host", host, "-C", center.root)[0] == 2
    assert not (center.cert / "aggregator.csr").exists()


def test_request_and_answer_at_once_make_no_sense(fx: Fx, center: Workspace) -> None:
    assert fx("aggregator", "certify", "-r", "a", "-i", "b", "-C", center.root)[0] == 2


def test_a_file_that_is_no_request_is_named(fx: Fx, center: Workspace) -> None:
    command = ("collaborator", "certify", "-n", "alice", "-r", center.plan, "--yes")
    code, value = fx(*command, "-C", center.root)
    assert (code, str(center.plan) in value["error"]["message"]) == (3, True)


def test_wrong_passphrase_is_a_users_mistake(
    fx: Fx, center: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(console.PASSPHRASE, "wrong")
    code, value = fx("ca", "renew", "-C", center.root)
    assert (code, "passphrase" in value["error"]["message"]) == (2, True)


def test_second_ca_is_refused_before_a_passphrase_is_asked(
    fx: Fx, center: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(console.PASSPHRASE)
    code, value = fx("ca", "init", "-C", center.root)
    assert (code, "holds a CA already" in value["error"]["message"]) == (2, True)


def test_token_is_minted_without_a_passphrase_and_shown_as_open(
    fx: Fx, center: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(console.PASSPHRASE)
    out = tmp_path / "bob.token"
    code, value = fx("invite", "bob", "--no-wait", "--out", out, "-C", center.root)
    assert (code, out.read_text().strip()) == (0, value["token"])
    assert out.stat().st_mode & 0o777 == 0o600
    assert value["address"] == "localhost:8444"
    (pending,) = fx("ca", "show", "-C", center.root)[1]["tokens"]
    assert pending["name"] == "bob"


def test_a_wrong_passphrase_is_refused_even_where_none_is_needed(
    fx: Fx, center: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong").write_text("wrong")
    command = ("invite", "bob", "--no-wait", "-C", center.root)
    assert fx(*command, "--passphrase-file", tmp_path / "wrong")[0] == 2
    monkeypatch.setenv(console.PASSPHRASE, "wrong")
    code, value = fx(*command)
    assert (code, "passphrase" in value["error"]["message"]) == (2, True)
    assert fx("ca", "show", "-C", center.root)[1]["tokens"] == []


def test_a_name_that_holds_a_valid_certificate_is_invited_again_only_by_force(
    fx: Fx, center: Workspace, party: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    certified(fx, center, party)
    code, value = fx("invite", "alice", "--no-wait", "-C", center.root)
    assert (code, "fx ca revoke alice" in value["error"]["message"]) == (2, True)
    assert fx("ca", "show", "-C", center.root)[1]["tokens"] == []
    assert main.run(["invite", "alice", "--no-wait", "--force", "-C", str(center.root)]) == 0
    warned = capsys.readouterr().err
    assert "alice holds a certificate" in warned
    assert "fx ca revoke alice" in warned


def test_a_revoked_name_is_invited_again_without_force(
    fx: Fx, center: Workspace, party: Workspace
) -> None:
    certified(fx, center, party)
    fx("ca", "revoke", "alice", "-C", center.root)
    assert fx("invite", "alice", "--no-wait", "-C", center.root)[0] == 0


def test_a_token_that_cannot_be_written_is_not_made(
    fx: Fx, center: Workspace, tmp_path: Path
) -> None:
    out = tmp_path / "nowhere" / "bob.token"
    code, value = fx("invite", "bob", "--no-wait", "--out", out, "-C", center.root)
    assert (code, str(out.parent) in value["error"]["message"]) == (2, True)
    assert fx("ca", "show", "-C", center.root)[1]["tokens"] == []


@pytest.mark.parametrize(
    "options",
    [("bob", "--role", "king"), ("bob", "--role", "aggregator"), ("bob", "--expires", "soon"),
     ("b ob",), ("bob", "--expires", "0h")],
)  # fmt: skip
def test_invitations_that_make_no_sense_are_refused(
    fx: Fx, center: Workspace, options: tuple[str, ...]
) -> None:
    assert fx("invite", *options, "--no-wait", "-C", center.root)[0] == 2


def test_invitation_needs_a_ca(fx: Fx, party: Workspace) -> None:
    code, value = fx("invite", "bob", "--no-wait", "-C", party.root)
    assert (code, "fx workspace certify" in value["error"]["message"]) == (2, True)


@pytest.mark.parametrize("token", ["nonsense", "fxj1.AAAA", "/nowhere/alice.token"])
def test_what_is_no_token_is_a_users_mistake(fx: Fx, party: Workspace, token: str) -> None:
    assert fx("join", token, "-C", party.root)[0] == 2


def test_a_token_may_be_pasted_with_white_space(
    fx: Fx, center: Workspace, party: Workspace
) -> None:
    token = fx("invite", "bob", "--no-wait", "--address", "localhost:1", "-C", center.root)[1]
    broken = f" \n{token['token'][:40]}\n  {token['token'][40:]} \n"
    code, value = fx("join", broken, "-C", party.root)
    assert (code, "localhost:1" in value["error"]["message"]) == (4, True)  # it was understood


def test_token_of_another_federation_is_not_used(
    fx: Fx, center: Workspace, party: Workspace
) -> None:
    token = fx("invite", "bob", "--no-wait", "-C", center.root)[1]["token"]
    party.plan.write_text(party.plan.read_text().replace("name: digits", "name: letters"))
    code, value = fx("join", token, "-C", party.root)
    assert (code, "'letters'" in value["error"]["message"]) == (2, True)


def test_nobody_listed_means_no_start(fx: Fx, center: Workspace) -> None:
    fx("aggregator", "generate-cert-request", "-C", center.root)
    fx("aggregator", "certify", "--yes", "-C", center.root)
    code, value = fx("aggregator", "start", "-C", center.root)
    assert (code, "fx invite" in value["error"]["message"]) == (2, True)


def test_uncertified_aggregator_is_told_what_to_do(fx: Fx, center: Workspace) -> None:
    shutil.rmtree(center.cert)
    code, value = fx("aggregator", "start", "-C", center.root)
    assert (code, "certify" in value["error"]["message"]) == (2, True)

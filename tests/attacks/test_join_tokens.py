# SPDX-License-Identifier: Apache-2.0
"""Join tokens that were used, changed, guessed, or kept too long."""

import base64
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support import ca

from fedclave import canonical
from fedclave.errors import Code, Refused, UserError
from fedclave.trust import tokens
from fedclave.trust.names import Identity

ALICE = Identity(federation="digits", role="collaborator", name="alice")


def mint(folder: Path) -> tokens.Token:
    return tokens.Register(folder).mint(
        ALICE, root="ab" * 32, authority="ca:1", aggregator="agg:2", now=ca.NOW
    )


def refusal(
    folder: Path,
    secret: str,
    identity: Identity = ALICE,
    after: timedelta = timedelta(0),
) -> Code:
    with pytest.raises(Refused) as refused:
        tokens.Register(folder).redeem(secret, identity, b"mallory's key", ca.NOW + after)
    return refused.value.code


def fields(token: tokens.Token) -> dict[str, Any]:
    body = str(token).removeprefix("fxj1.")
    found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert isinstance(found, dict)
    return found


def text(data: bytes) -> str:
    return "fxj1." + base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_token_that_was_used_is_refused(tmp_path: Path) -> None:
    token = mint(tmp_path)
    tokens.Register(tmp_path).redeem(token.secret, ALICE, b"alice's key", ca.NOW)
    assert refusal(tmp_path, token.secret) is Code.TOKEN_USED


def test_an_expired_token_is_refused_by_the_ca(tmp_path: Path) -> None:
    token = mint(tmp_path)
    assert refusal(tmp_path, token.secret, after=timedelta(hours=25)) is Code.TOKEN_EXPIRED


def test_an_expired_token_is_refused_even_to_the_key_that_used_it(tmp_path: Path) -> None:
    token = mint(tmp_path)
    tokens.Register(tmp_path).redeem(token.secret, ALICE, b"mallory's key", ca.NOW)
    assert refusal(tmp_path, token.secret, after=timedelta(hours=25)) is Code.TOKEN_EXPIRED


def test_an_expired_token_is_refused_by_the_party(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        tokens.parse(str(mint(tmp_path)), ca.NOW + timedelta(hours=25))
    assert refused.value.code is Code.TOKEN_EXPIRED


@pytest.mark.parametrize("secret", ["", "0" * 32, "é", "x" * 10_000])
def test_a_guessed_secret_is_refused(tmp_path: Path, secret: str) -> None:
    mint(tmp_path)
    assert refusal(tmp_path, secret) is Code.TOKEN_UNKNOWN


def test_the_digest_that_the_ca_keeps_is_no_secret(tmp_path: Path) -> None:
    mint(tmp_path)
    kept = json.loads((tmp_path / "tokens.json").read_text())["tokens"][0]["secret_sha256"]
    assert refusal(tmp_path, kept) is Code.TOKEN_UNKNOWN


@pytest.mark.parametrize(
    "other",
    [
        Identity(federation="digits", role="collaborator", name="bob"),
        Identity(federation="digits", role="aggregator", name="alice"),
    ],
)
def test_a_token_lets_in_its_own_identity_only_and_stays_good(
    tmp_path: Path, other: Identity
) -> None:
    token = mint(tmp_path)
    assert refusal(tmp_path, token.secret, other) is Code.BAD_REQUEST
    assert tokens.Register(tmp_path).redeem(token.secret, ALICE, b"alice's key", ca.NOW)


REDEEM = """
import sys
from pathlib import Path
from fedclave.errors import Refused
from fedclave.trust.tokens import Register
from fedclave.trust.names import Identity
from datetime import datetime

alice = Identity(federation="digits", role="collaborator", name="alice")
folder, secret, key, now = sys.argv[1:]
sys.stdin.read()
try:
    Register(Path(folder)).redeem(secret, alice, key.encode(), datetime.fromisoformat(now))
    print("redeemed")
except Refused as refused:
    print(refused.code)
"""


def test_of_many_processes_one_redeems_a_token(tmp_path: Path) -> None:
    token = mint(tmp_path)
    command = [sys.executable, "-c", REDEEM, str(tmp_path), token.secret]
    processes = [
        subprocess.Popen(
            [*command, f"key {number}", ca.NOW.isoformat()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # all of them go at once
        process.stdin = None
    answers = sorted(process.communicate()[0].strip() for process in processes)
    assert answers == ["redeemed"] + ["token-used"] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("root", "00"),
        ("root", "zz" * 32),
        ("root", 7),
        ("secret", "00"),
        ("expires", "tomorrow"),
        ("expires", True),
        ("expires", 10**30),
        ("role", "admin"),
        ("name", "../../etc/passwd"),
        ("extra", "field"),
    ],
)
def test_a_changed_token_is_refused(tmp_path: Path, key: str, value: str | int) -> None:
    changed = fields(mint(tmp_path)) | {key: value}
    with pytest.raises(UserError):
        tokens.parse(text(canonical.encode(changed)), ca.NOW)


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "fxj1.",
        "fxj1.!!!!",
        "fxj2.AAAA",
        "fxj1." + "A" * 10_000,
        text(b"{}"),
        text(b"[]"),
        text(b"null"),
        text(b"\xff\xfe"),
        text(b"[" * 3000),
    ],
)
def test_garbage_is_no_token(damaged: str) -> None:
    with pytest.raises(UserError, match="join token"):
        tokens.parse(damaged, ca.NOW)


def test_a_cut_token_is_refused(tmp_path: Path) -> None:
    whole = str(mint(tmp_path))
    for length in range(0, len(whole), 7):
        with pytest.raises(UserError):
            tokens.parse(whole[:length], ca.NOW)

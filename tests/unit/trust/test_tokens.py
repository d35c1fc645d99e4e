# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support import ca

from fedclave.errors import Refused, UserError
from fedclave.trust import tokens
from fedclave.trust.names import Identity

ALICE = Identity(federation="digits", role="collaborator", name="alice")


def mint(folder: Path, identity: Identity = ALICE) -> tokens.Token:
    return tokens.Register(folder).mint(
        identity, root="ab" * 32, authority="ca:1", aggregator="agg:2", now=ca.NOW
    )


def test_a_token_survives_its_text(tmp_path: Path) -> None:
    token = mint(tmp_path)
    assert str(token).startswith("fxj1.")
    assert tokens.parse(str(token), ca.NOW) == token
    assert token.expires == ca.NOW + timedelta(hours=24)


def test_a_token_may_be_broken_over_lines(tmp_path: Path) -> None:
    token = mint(tmp_path)
    text = str(token)
    assert tokens.parse(f"  {text[:50]}\r\n{text[50:]}\n", ca.NOW) == token


@pytest.mark.parametrize("damage", ["cut", "changed", "long", "AAAA", "not base64", "other name"])
def test_a_damaged_token_says_so_without_the_details(tmp_path: Path, damage: str) -> None:
    text = str(mint(tmp_path))
    damaged = {
        "cut": text[:-7],
        "changed": text[:60] + ("A" if text[60] != "A" else "B") + text[61:],
        "long": text + "A" * 5000,
        "other name": str(replace(mint(tmp_path), name="no name")),
    }.get(damage, f"fxj1.{damage}")
    with pytest.raises(UserError) as caught:
        tokens.parse(damaged, ca.NOW)
    assert "damaged: a part of it is missing or was changed" in str(caught.value)
    assert not re.search("JSON|utf|codec|padding|allowed", str(caught.value))


def test_the_ca_does_not_keep_the_secret(tmp_path: Path) -> None:
    token = mint(tmp_path)
    assert token.secret not in (tmp_path / "tokens.json").read_text()
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert token.secret not in repr(token)


def test_a_token_is_redeemed_again_by_the_same_key_only(tmp_path: Path) -> None:
    token, register = mint(tmp_path), tokens.Register(tmp_path)
    register.redeem(token.secret, ALICE, b"key", ca.NOW)
    again = tokens.Register(tmp_path).redeem(token.secret, ALICE, b"key", ca.NOW)
    assert again.name == "alice"
    with pytest.raises(Refused):
        register.redeem(token.secret, ALICE, b"another key", ca.NOW)


def test_a_new_token_replaces_the_unused_one_of_the_name(tmp_path: Path) -> None:
    old, new = mint(tmp_path), mint(tmp_path)
    register = tokens.Register(tmp_path)
    assert [one.name for one in register.pending(ca.NOW)] == ["alice"]
    with pytest.raises(Refused):
        register.redeem(old.secret, ALICE, b"key", ca.NOW)
    register.redeem(new.secret, ALICE, b"key", ca.NOW)
    assert register.pending(ca.NOW) == []


def test_a_withdrawn_token_is_unknown_and_others_stay_good(tmp_path: Path) -> None:
    alice, register = mint(tmp_path), tokens.Register(tmp_path)
    bob = mint(tmp_path, replace(ALICE, name="bob"))
    assert register.withdraw("alice", ca.NOW) == 1
    with pytest.raises(Refused, match="token-unknown"):
        register.redeem(alice.secret, ALICE, b"key", ca.NOW)
    assert register.redeem(bob.secret, replace(ALICE, name="bob"), b"key", ca.NOW)
    assert register.withdraw("bob", ca.NOW) == 0  # it was used


def test_the_key_of_a_withdrawn_name_cannot_use_its_token_again(tmp_path: Path) -> None:
    token, register = mint(tmp_path), tokens.Register(tmp_path)
    register.redeem(token.secret, ALICE, b"key", ca.NOW)
    register.withdraw("alice", ca.NOW)
    with pytest.raises(Refused, match="token-unknown"):
        register.redeem(token.secret, ALICE, b"key", ca.NOW)


def test_long_expired_tokens_are_forgotten(tmp_path: Path) -> None:
    mint(tmp_path)
    later = ca.NOW + timedelta(days=40)
    bob = Identity(federation="digits", role="collaborator", name="bob")
    tokens.Register(tmp_path).mint(
        bob, root="ab" * 32, authority="ca:1", aggregator="agg:2", now=later
    )
    assert "alice" not in (tmp_path / "tokens.json").read_text()


def test_a_life_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must live longer"):
        tokens.Register(tmp_path).mint(
            ALICE, root="ab" * 32, authority="a:1", aggregator="b:2", now=ca.NOW, life=timedelta(0)
        )


def test_a_damaged_register_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text('{"tokens": [{}]}')
    with pytest.raises(UserError, match="Move it away"):
        tokens.Register(tmp_path).pending(ca.NOW)

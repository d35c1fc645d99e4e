# SPDX-License-Identifier: Apache-2.0
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support import ca

from fedclave.errors import UserError
from fedclave.trust import files, keys
from fedclave.trust.credentials import Credentials, next_key, renew_due


def test_credentials_are_read_as_they_were_written(tmp_path: Path) -> None:
    credentials = ca.certify(ca.create(tmp_path))
    credentials.replace(tmp_path / "party", "alice")
    assert Credentials.read(tmp_path / "party", "alice") == credentials
    assert (tmp_path / "party" / "alice.key").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in (tmp_path / "party").iterdir()) == ["alice.key", "alice.pem"]


def test_a_crash_between_the_two_files_is_mended_by_reading(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    old, new = ca.certify(authority), ca.certify(authority)
    old.replace(tmp_path / "party", "alice")
    files.write(tmp_path / "party" / "alice.key.next", new.key, files.PRIVATE)
    assert Credentials.read(tmp_path / "party", "alice") == old  # crash before the certificate
    files.write(tmp_path / "party" / "alice.pem", new.chain)
    assert Credentials.read(tmp_path / "party", "alice") == new  # crash before the key
    assert not (tmp_path / "party" / "alice.key.next").exists()


def test_a_first_certificate_whose_key_was_not_moved_yet_is_read(tmp_path: Path) -> None:
    new = ca.certify(ca.create(tmp_path))
    files.write(tmp_path / "party" / "alice.key.next", new.key, files.PRIVATE)
    files.write(tmp_path / "party" / "alice.pem", new.chain)
    assert Credentials.read(tmp_path / "party", "alice") == new


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    credentials = ca.certify(ca.create(tmp_path))
    credentials.replace(tmp_path / "party", "alice")
    keys.save(tmp_path / "party" / "alice.key", keys.generate(), replace=True)
    with pytest.raises(UserError, match="is not the key of"):
        Credentials.read(tmp_path / "party", "alice")


def test_another_partys_pair_says_whose_it_is(tmp_path: Path) -> None:
    bob = ca.certify(ca.create(tmp_path), name="bob")
    bob.replace(tmp_path / "party", "alice")
    with pytest.raises(UserError, match=r"alice\.pem is .* collaborator 'bob', not of 'alice'"):
        Credentials.read(tmp_path / "party", "alice")


def test_missing_credentials_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Certify 'alice' first"):
        Credentials.read(tmp_path, "alice")


def test_a_damaged_certificate_is_refused(tmp_path: Path) -> None:
    keys.save(tmp_path / "alice.key", keys.generate())
    (tmp_path / "alice.pem").write_bytes(b"garbage")
    with pytest.raises(UserError, match="is not a certificate"):
        Credentials.read(tmp_path, "alice")


def test_credentials_do_not_print_their_key(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(ca.certify(ca.create(tmp_path)))


def test_an_interrupted_try_finds_its_key_again(tmp_path: Path) -> None:
    first, second = next_key(tmp_path, "alice"), next_key(tmp_path, "alice")
    assert first.private_numbers() == second.private_numbers()


def test_a_renewal_is_due_at_two_thirds_of_the_life(tmp_path: Path) -> None:
    leaf = ca.certify(ca.create(tmp_path)).leaf
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    due = leaf.not_valid_before_utc + life * 2 / 3
    assert renew_due(leaf, due)
    assert not renew_due(leaf, due - timedelta(seconds=1))

# SPDX-License-Identifier: Apache-2.0
"""What is sealed to a key opens with it, in its context, and is as small or large as one likes."""

import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat import primitives

from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.trust import claims, release
from fedclave.trust import sealed as sealed_files
from fedclave.trust.release import Context, KeyPair

pytest.importorskip("cryptography.hazmat.primitives.hpke", reason="needs cryptography 47")

CONTEXT = Context(contract="c0" * 32, policy="d0" * 32, transcript="e0" * 32, purpose="model")
PAIR = release.generate()
CURVE = KeyPair(PAIR.private[:32])
"""The same as a machine without ML-KEM would have made it."""


def suite(sealed: bytes) -> bytes:
    return sealed[8:14]


@pytest.mark.parametrize("pair", [PAIR, CURVE])
@pytest.mark.parametrize("secret", [b"", b"secret", bytes(100_000)])
def test_what_is_sealed_opens(pair: KeyPair, secret: bytes) -> None:
    sealed = release.seal(pair.public, secret, context=CONTEXT)
    assert release.open(pair, sealed, context=CONTEXT) == secret


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    first, second = (release.seal(PAIR.public, b"secret", context=CONTEXT) for _ in range(2))
    assert first != second
    assert b"secret" not in first


def test_the_hybrid_suite_is_taken_where_both_sides_have_it() -> None:
    assert suite(release.seal(PAIR.public, b"", context=CONTEXT)) == release.HYBRID


def test_x25519_is_taken_where_the_recipient_has_no_more() -> None:
    assert suite(release.seal(CURVE.public, b"", context=CONTEXT)) == release.X25519


def test_x25519_is_taken_where_the_sealer_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

    def missing(data: bytes) -> MLKEM768PublicKey:
        raise UnsupportedAlgorithm("no ML-KEM")

    monkeypatch.setattr(MLKEM768PublicKey, "from_public_bytes", missing)
    sealed = release.seal(PAIR.public, b"secret", context=CONTEXT)
    assert suite(sealed) == release.X25519
    assert release.open(PAIR, sealed, context=CONTEXT) == b"secret"


def test_a_machine_without_ml_kem_makes_the_short_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

    def missing() -> MLKEM768PrivateKey:
        raise UnsupportedAlgorithm("no ML-KEM")

    monkeypatch.setattr(MLKEM768PrivateKey, "generate", missing)
    assert len(release.generate().public) == 32


def test_a_version_of_the_library_without_hpke_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.hpke", None)
    monkeypatch.delattr(primitives, "hpke", raising=False)
    with pytest.raises(UserError, match="version 47"):
        release.generate()


def test_public_keys_are_as_long_as_claims_take_them() -> None:
    assert (len(CURVE.public), len(PAIR.public)) == claims.HPKE_KEYS


def test_two_keys_have_nothing_in_common() -> None:
    other = release.generate()
    assert PAIR.private[:32] != PAIR.private[-32:]
    assert PAIR.public[:32] != other.public[:32]
    assert PAIR.public[32:] != other.public[32:]


@pytest.mark.parametrize("size", [0, 31, 33, 64, 127, 129])
def test_private_bytes_of_another_length_are_no_key(size: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        KeyPair(bytes(size))


def test_a_key_does_not_show_its_private_part() -> None:
    assert PAIR.private.hex() not in repr(PAIR)
    assert repr(PAIR.private) not in repr(PAIR)


def test_a_key_is_kept_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    release.save(path, PAIR)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert release.load(path).public == PAIR.public


def test_a_key_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    release.save(path, PAIR)
    with pytest.raises(UserError, match="exists already"):
        release.save(path, CURVE)
    assert release.load(path).private == PAIR.private


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    release.save(path, PAIR)
    path.chmod(0o644)
    with pytest.raises(UserError, match="open to other users"):
        release.load(path)


def test_a_damaged_or_missing_key_is_the_users_to_restore(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    with pytest.raises(UserError, match=r"owner\.key"):
        release.load(path)
    path.write_bytes(b"not a key")
    path.chmod(0o600)
    with pytest.raises(UserError, match="Restore it"):
        release.load(path)


@pytest.mark.parametrize("field", ["contract", "policy", "transcript", "purpose"])
def test_a_context_has_all_its_parts(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        replace(CONTEXT, **{field: ""})


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), bytes(1247), bytes(32), bytes(1248)])
def test_nothing_is_sealed_to_what_is_no_public_key(public: bytes) -> None:
    with pytest.raises(Refused, match="not a public key") as refused:
        release.seal(public, b"secret", context=CONTEXT)
    assert refused.value.code is Code.MALFORMED


@pytest.fixture
def chunk(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of 16 bytes, so that small files have many."""
    monkeypatch.setattr(sealed_files, "CHUNK", 16)
    return 16


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 160])
def test_a_file_of_any_length_is_sealed_and_opened(tmp_path: Path, chunk: int, size: int) -> None:
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(os.urandom(size))
    sealed_files.seal_file(PAIR.public, plain, sealed, context=CONTEXT)
    sealed_files.open_file(PAIR, sealed, opened, context=CONTEXT)
    assert opened.read_bytes() == plain.read_bytes()
    header = len(release.seal(PAIR.public, bytes(32), context=CONTEXT)) + 10 + len(CONTEXT.encoded)
    assert sealed.stat().st_size == header + size + 16 * max(1, -(-size // chunk))


def test_a_file_of_more_than_one_real_chunk_is_sealed_and_opened(tmp_path: Path) -> None:
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(os.urandom(2 * sealed_files.CHUNK + 1))
    sealed_files.seal_file(CURVE.public, plain, sealed, context=CONTEXT)
    sealed_files.open_file(CURVE, sealed, opened, context=CONTEXT)
    assert opened.read_bytes() == plain.read_bytes()


def test_sealed_and_opened_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(b"weights")
    before = os.umask(0)
    try:
        sealed_files.seal_file(PAIR.public, plain, sealed, context=CONTEXT)
        sealed_files.open_file(PAIR, sealed, opened, context=CONTEXT)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (sealed, opened)] == [0o600, 0o600]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["opened", "plain", "sealed"]


def test_a_file_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    for act in (
        lambda: sealed_files.seal_file(
            PAIR.public, tmp_path / "no", tmp_path / "out", context=CONTEXT
        ),
        lambda: sealed_files.open_file(PAIR, tmp_path / "no", tmp_path / "out", context=CONTEXT),
    ):
        with pytest.raises(UserError, match="no: No such file"):
            act()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"weights")
    with pytest.raises(Unavailable, match="could not be written"):
        sealed_files.seal_file(PAIR.public, plain, tmp_path / "no" / "sealed", context=CONTEXT)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(b"weights")
    sealed.write_bytes(b"of yesterday")
    with pytest.raises(Refused):
        sealed_files.seal_file(b"no key", plain, sealed, context=CONTEXT)
    assert sealed.read_bytes() == b"of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "sealed"]

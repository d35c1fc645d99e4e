# SPDX-License-Identifier: Apache-2.0
"""Who holds sealed secrets and sealed files without their key, or with the key in another place."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fedclave.errors import Code, Refused
from fedclave.trust import release
from fedclave.trust import sealed as sealed_files
from fedclave.trust.release import Context, KeyPair

pytest.importorskip("cryptography.hazmat.primitives.hpke", reason="needs cryptography 47")

CONTEXT = Context(contract="c0" * 32, policy="d0" * 32, transcript="e0" * 32, purpose="model")
PAIR = release.generate()
CURVE = KeyPair(PAIR.private[:32])
SEALED = {
    "hybrid": release.seal(PAIR.public, b"secret", context=CONTEXT),
    "x25519": release.seal(CURVE.public, b"secret", context=CONTEXT),
}
BEGINNING = b"FEDFILE1" + len(CONTEXT.encoded).to_bytes(2, "big") + CONTEXT.encoded
CHUNK, TAG = 16, 16
PART = CHUNK + TAG
REFUSALS = {Code.MALFORMED, Code.CANNOT_OPEN}


def code(sealed: bytes, pair: KeyPair = PAIR, context: Context = CONTEXT) -> Code:
    with pytest.raises(Refused) as refused:
        release.open(pair, sealed, context=context)
    return refused.value.code


@pytest.mark.parametrize("sealed", SEALED.values(), ids=SEALED)
def test_every_byte_counts(sealed: bytes) -> None:
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 0x01
        assert code(bytes(changed)) in REFUSALS, at


@pytest.mark.parametrize("sealed", SEALED.values(), ids=SEALED)
def test_what_is_cut_short_is_refused_at_every_length(sealed: bytes) -> None:
    for size in range(len(sealed)):
        assert code(sealed[:size]) in REFUSALS, size


@pytest.mark.parametrize("sealed", SEALED.values(), ids=SEALED)
def test_bytes_that_follow_are_refused(sealed: bytes) -> None:
    assert code(sealed + b"\0") is Code.CANNOT_OPEN
    assert code(sealed + sealed) is Code.CANNOT_OPEN


@pytest.mark.parametrize("field", ["contract", "policy", "transcript", "purpose"])
def test_a_secret_for_another_context_does_not_open(field: str) -> None:
    elsewhere = replace(CONTEXT, **{field: "f0" * 32})
    for sealed in SEALED.values():
        assert code(sealed, context=elsewhere) is Code.CANNOT_OPEN


def test_parts_of_a_context_cannot_be_shifted_into_each_other() -> None:
    first = replace(CONTEXT, transcript="ab", purpose="c")
    sealed = release.seal(PAIR.public, b"secret", context=first)
    shifted = replace(CONTEXT, transcript="a", purpose="bc")
    assert code(sealed, context=shifted) is Code.CANNOT_OPEN


def test_another_key_does_not_open_it() -> None:
    for sealed in SEALED.values():
        assert code(sealed, pair=release.generate()) is Code.CANNOT_OPEN


def test_half_of_the_hybrid_key_does_not_open_what_the_whole_was_for() -> None:
    assert code(SEALED["hybrid"], pair=CURVE) is Code.CANNOT_OPEN
    half = KeyPair(PAIR.private[-32:])
    assert code(SEALED["hybrid"], pair=half) is Code.CANNOT_OPEN


def test_the_suite_cannot_be_exchanged() -> None:
    downgraded = SEALED["hybrid"].replace(release.HYBRID, release.X25519, 1)
    assert code(downgraded) is Code.CANNOT_OPEN
    upgraded = SEALED["x25519"].replace(release.X25519, release.HYBRID, 1)
    assert code(upgraded) is Code.CANNOT_OPEN


def test_a_suite_or_version_that_is_not_known_is_refused() -> None:
    for suite in ("0020 0001 0001", "0020 0001 ffff", "0010 0001 0002", "0000 0000 0000"):
        other = SEALED["x25519"].replace(release.X25519, bytes.fromhex(suite), 1)
        assert code(other) is Code.MALFORMED
    assert code(SEALED["x25519"].replace(b"FEDSEAL1", b"FEDSEAL2")) is Code.MALFORMED


def test_an_encapsulated_key_of_low_order_is_refused() -> None:
    sealed = SEALED["x25519"]
    assert code(sealed[:14] + bytes(32) + sealed[46:]) is Code.CANNOT_OPEN


class Folder:
    """A folder with a sealed file of three chunks, the last a short one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sealed = self.seal("plain", os.urandom(2 * CHUNK + 5))
        self.header = len(self.sealed) - (2 * PART + 5 + TAG)

    def seal(self, name: str, plain: bytes, context: Context = CONTEXT) -> bytes:
        (self.path / name).write_bytes(plain)
        target = self.path / f"{name}.sealed"
        sealed_files.seal_file(PAIR.public, self.path / name, target, context=context)
        return target.read_bytes()

    def parts(self, sealed: bytes) -> tuple[bytes, list[bytes]]:
        """Header and chunks."""
        rest = sealed[self.header :]
        return sealed[: self.header], [rest[at : at + PART] for at in range(0, len(rest), PART)]

    def refuses(self, sealed: bytes, pair: KeyPair = PAIR, context: Context = CONTEXT) -> bool:
        """Whether it is refused, and nothing of it, not even a temporary file, is left."""
        source, target = self.path / "given", self.path / "opened"
        source.write_bytes(sealed)
        before = set(self.path.iterdir())
        with pytest.raises(Refused) as refused:
            sealed_files.open_file(pair, source, target, context=context)
        return refused.value.code in REFUSALS and set(self.path.iterdir()) == before


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(sealed_files, "CHUNK", CHUNK)
    return Folder(tmp_path)


def test_every_byte_of_a_file_counts(folder: Folder) -> None:
    sealed = folder.sealed
    for at in [*range(0, folder.header, 17), *range(folder.header - 20, len(sealed))]:
        changed = bytearray(sealed)
        changed[at] ^= 0x80
        assert folder.refuses(bytes(changed)), at


def test_a_file_that_is_cut_short_is_refused_also_between_chunks(folder: Folder) -> None:
    sealed = folder.sealed
    borders = [folder.header + PART * number for number in range(3)]
    for size in {0, 1, 8, 20, folder.header - 1, *borders, *range(borders[-1] - 2, len(sealed))}:
        assert folder.refuses(sealed[:size]), size


def test_chunks_are_in_their_order_each_once(folder: Folder) -> None:
    header, (first, second, last) = folder.parts(folder.sealed)
    for chunks in (
        (second, first, last),
        (first, first, last),
        (first, last),
        (second, last),
        (first, second, second, last),
        (first, second, last, last),
        (last,),
        (last, first, second),
    ):
        assert folder.refuses(header + b"".join(chunks))


def test_bytes_that_follow_a_file_are_refused(folder: Folder) -> None:
    assert folder.refuses(folder.sealed + b"\0")
    assert folder.refuses(folder.sealed + bytes(PART))


def test_chunks_of_two_files_cannot_be_exchanged(folder: Folder) -> None:
    plain = (folder.path / "plain").read_bytes()
    other = folder.seal("other", plain)  # the same content, to the same key
    header, mine = folder.parts(folder.sealed)
    other_header, theirs = folder.parts(other)
    assert folder.refuses(header + mine[0] + theirs[1] + mine[2])
    assert folder.refuses(header + mine[0] + mine[1] + theirs[2])
    assert folder.refuses(other_header + b"".join(mine))


@pytest.mark.parametrize("field", ["contract", "policy", "transcript", "purpose"])
def test_a_file_for_another_context_does_not_open(folder: Folder, field: str) -> None:
    assert folder.refuses(folder.sealed, context=replace(CONTEXT, **{field: "f0" * 32}))


@pytest.mark.parametrize("field", ["contract", "policy", "transcript", "purpose"])
def test_what_a_file_says_of_itself_is_held_to_what_is_sealed(folder: Folder, field: str) -> None:
    other = replace(CONTEXT, **{field: "f0" * 32})
    said = b"FEDFILE1" + len(other.encoded).to_bytes(2, "big") + other.encoded
    assert folder.refuses(said + folder.sealed[len(BEGINNING) :], context=other)


@pytest.mark.parametrize(
    "said",
    [b"", b"{}", b"[]", b"null", b'{"contract":1}', CONTEXT.encoded + b" ", b"\xff" * 65535],
    ids=range(7),
)
def test_a_beginning_that_does_not_parse_is_refused(folder: Folder, said: bytes) -> None:
    rest = folder.sealed[len(BEGINNING) :]
    assert folder.refuses(b"FEDFILE1" + len(said).to_bytes(2, "big") + said + rest)


def test_a_file_for_another_key_does_not_open(folder: Folder) -> None:
    assert folder.refuses(folder.sealed, pair=release.generate())


def test_a_files_key_is_no_message_and_a_message_no_files_key(folder: Folder) -> None:
    assert code(folder.sealed[len(BEGINNING) : folder.header]) is Code.CANNOT_OPEN
    key = release.seal(PAIR.public, bytes(32), context=CONTEXT)
    assert folder.refuses(BEGINNING + key + folder.sealed[folder.header :])


def test_a_sealer_cannot_make_a_files_key_weaker(folder: Folder) -> None:
    for size in (0, 16, 24, 33):
        key = release.seal(PAIR.public, bytes(size), context=CONTEXT, kind="file")
        assert folder.refuses(BEGINNING + key + folder.sealed[folder.header :])


def test_a_bad_file_does_not_replace_a_good_one(folder: Folder) -> None:
    target = folder.path / "opened"
    target.write_bytes(b"of yesterday")
    assert folder.refuses(folder.sealed[:-1])
    assert target.read_bytes() == b"of yesterday"


def test_a_link_that_waits_under_the_name_is_replaced_not_followed(folder: Folder) -> None:
    victim = folder.path / "victim"
    victim.write_bytes(b"precious")
    (folder.path / "opened").symlink_to(victim)
    sealed_files.open_file(
        PAIR, folder.path / "plain.sealed", folder.path / "opened", context=CONTEXT
    )
    assert victim.read_bytes() == b"precious"
    assert not (folder.path / "opened").is_symlink()

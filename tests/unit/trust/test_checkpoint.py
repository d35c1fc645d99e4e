# SPDX-License-Identifier: Apache-2.0
"""Signed heads: the published note format, whose signature counts, and what does not parse."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import checkpoint, merkle
from fedclave.trust.checkpoint import Head

LOG, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
HEAD = Head(origin="example.org/digits", size=3, root=bytes(range(32)))
NOTE = checkpoint.sign(HEAD, LOG)
ROOT = base64.b64encode(HEAD.root).decode()
# The example of the specification tlog-checkpoint.
PUBLISHED = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q"
    "1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)


def refused(note: bytes, origin: str = HEAD.origin, key: Ed25519PrivateKey = LOG) -> Refused:
    with pytest.raises(Refused) as caught:
        checkpoint.verified(note, origin, key.public_key())
    return caught.value


def test_the_published_example_parses() -> None:
    parsed = checkpoint.parse(PUBLISHED.encode())
    assert (parsed.claimed.origin, parsed.claimed.size) == ("example.com/behind-the-sofa", 20852163)
    assert parsed.claimed.root.hex().startswith("0ac5186a")
    (signature,) = parsed.signatures
    assert (signature.id.hex(), len(signature.value)) == ("033de0ae", 64)
    assert parsed.claimed.text.decode() == PUBLISHED.partition("\n\n")[0] + "\n"


def test_a_verifier_key_is_that_of_the_reference_implementation() -> None:
    """The key pair of the documentation of golang.org/x/mod/sumdb/note."""
    seed = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
    key = Ed25519PrivateKey.from_private_bytes(seed)
    expected = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert checkpoint.verifier_key("PeterNeumann", key.public_key()) == expected
    note = checkpoint.sign(Head(origin="PeterNeumann", size=0, root=merkle.EMPTY), key)
    assert checkpoint.parse(note).signatures[0].id.hex() == "c74f20a3"


def test_a_verifier_key_comes_back_and_nothing_else_passes_for_one() -> None:
    line = checkpoint.verifier_key(HEAD.origin, LOG.public_key())
    origin, key = checkpoint.parse_verifier_key(line)
    assert (origin, checkpoint.verifier_key(origin, key)) == (HEAD.origin, line)
    name, number, value = line.split("+", 2)
    short = base64.b64encode(b"\x01" + bytes(31)).decode()
    other_type = base64.b64encode(b"\x02" + base64.b64decode(value)[1:]).decode()
    for lie in (
        "", "+", "++", line + "\n", line + "+", f"{name}+{number}+", f"x+{number}+{value}",
        f"{name}+00000000+{value}", f"{name}+{number}+{short}", f"{name}+{number}+{other_type}",
        f"{name}+{number}+{value[:-1]}", f" {line}", f"{number}+{value}",
    ):  # fmt: skip
        with pytest.raises(Refused) as caught:
            checkpoint.parse_verifier_key(lie)
        assert caught.value.code is Code.MALFORMED


def test_a_signed_head_comes_back_to_those_who_trust_the_key() -> None:
    assert checkpoint.verified(NOTE, HEAD.origin, LOG.public_key()) == HEAD


def test_another_key_origin_size_or_root_is_refused() -> None:
    assert refused(NOTE, key=OTHER).code is Code.BAD_SIGNATURE
    found = refused(NOTE, origin="example.org/other")
    assert found.code is Code.BAD_SIGNATURE
    assert "'example.org/digits', where 'example.org/other' is expected" in found.message
    for old, new in ((b"\n3\n", b"\n4\n"), (b"AAEC", b"AAED"), (b"digits\n3", b"digitz\n3")):
        assert refused(NOTE.replace(old, new, 1)).code is Code.BAD_SIGNATURE
    as_other = NOTE.replace(b"digits", b"digitz")
    assert refused(as_other, origin="example.org/digitz").code is Code.BAD_SIGNATURE


def test_a_witness_may_sign_too_and_does_not_count() -> None:
    line = checkpoint.sign(HEAD, OTHER).split(b"\n\n")[1]
    assert checkpoint.verified(NOTE + line, HEAD.origin, LOG.public_key()) == HEAD
    assert checkpoint.verified(HEAD.text + b"\n" + line + NOTE.split(b"\n\n")[1], HEAD.origin,
                               LOG.public_key()) == HEAD  # fmt: skip
    assert refused(HEAD.text + b"\n" + line).code is Code.BAD_SIGNATURE


SIGNATURES = NOTE.split(b"\n\n")[1].decode()


@pytest.mark.parametrize(
    "note",
    {
        "nothing": "",
        "no signature": HEAD.text.decode() + "\n",
        "no empty line": HEAD.text.decode() + SIGNATURES,
        "an extension line": f"{HEAD.text.decode()}more\n\n{SIGNATURES}",
        "a carriage return": NOTE.decode().replace("\n", "\r\n"),
        "a leading zero": NOTE.decode().replace("\n3\n", "\n03\n"),
        "a sign": NOTE.decode().replace("\n3\n", "\n+3\n"),
        "other digits": NOTE.decode().replace("\n3\n", "\n٣\n"),
        "a size beyond 2**63": NOTE.decode().replace("\n3\n", f"\n{2**63}\n"),
        "a long size": NOTE.decode().replace("\n3\n", f"\n{'9' * 5000}\n"),
        "a short root": NOTE.decode().replace(ROOT, base64.b64encode(b"x" * 31).decode()),
        "a root not in base64": NOTE.decode().replace(ROOT, "*" * 44),
        "a root in another base64": NOTE.decode().replace(ROOT, ROOT[:-2] + "9="),
        "entries of an empty log": NOTE.decode().replace("\n3\n", "\n0\n"),
        "an empty origin": NOTE.decode().replace("example.org/digits", ""),
        "an origin with a plus": NOTE.decode().replace("digits", "di+its"),
        "a hyphen for the dash": NOTE.decode().replace("—", "-"),
        "a short signature": f"{HEAD.text.decode()}\n— x AAAA\n",
        "no last newline": NOTE.decode()[:-1],
        "an empty last line": NOTE.decode() + "\n",
        "a signature twice": NOTE.decode() + SIGNATURES,
        "too many signatures": NOTE.decode() + "".join(f"— w{n} AAAAAAA=\n" for n in range(16)),
        "too many bytes": NOTE.decode() + f"— {'w' * 100} {'AAAA' * 2100}\n",
    }.items(),
    ids=lambda case: case[0],
)
def test_what_is_not_such_a_note_is_refused(note: tuple[str, str]) -> None:
    assert refused(note[1].encode()).code is Code.MALFORMED


def test_bytes_that_are_no_text_are_refused() -> None:
    assert refused(b"\xff" + NOTE).code is Code.MALFORMED


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "ö", "x" * 201])
def test_an_origin_that_no_note_can_carry_is_the_users_mistake(origin: str) -> None:
    with pytest.raises(UserError, match="origin"):
        Head(origin=origin, size=0, root=merkle.EMPTY)

# SPDX-License-Identifier: Apache-2.0
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import ca

from fedclave.errors import Bug, Code, Refused, UserError
from fedclave.trust import keys
from fedclave.trust.gate import Anchors, Member, admit


def test_a_member_is_what_its_certificate_says(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    leaf = ca.certify(authority).leaf
    member = admit(
        leaf, anchors=authority.anchors, role="collaborator", now=ca.NOW, members=["alice", "bob"]
    )
    assert member == Member(
        name="alice",
        role="collaborator",
        federation="digits",
        fingerprint=keys.fingerprint(leaf),
        not_after=leaf.not_valid_after_utc,
    )


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_certificate_comes_in_either_encoding(tmp_path: Path, encoding: Encoding) -> None:
    authority = ca.create(tmp_path)
    data = ca.certify(authority, "aggregator", "agg").leaf.public_bytes(encoding)
    found = admit(data, anchors=authority.anchors, role="aggregator", now=ca.NOW, members=None)
    assert found.name == "agg"


def test_an_empty_list_of_members_admits_nobody(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    with pytest.raises(Refused) as refused:
        admit(
            ca.certify(authority).leaf,
            anchors=authority.anchors,
            role="collaborator",
            now=ca.NOW,
            members=(),
        )
    assert refused.value.code is Code.UNKNOWN_MEMBER


def test_collaborators_are_never_admitted_without_a_list(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    with pytest.raises(Bug):
        admit(
            ca.certify(authority).leaf,
            anchors=authority.anchors,
            role="collaborator",
            now=ca.NOW,
            members=None,
        )


def test_anchors_that_are_missing_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Certify this party first"):
        Anchors.read(tmp_path)


def test_anchors_must_hold_together(tmp_path: Path) -> None:
    one, other = ca.create(tmp_path / "one").anchors, ca.create(tmp_path / "other").anchors
    pems = [c.public_bytes(Encoding.PEM) for c in (one.issuing, one.root, other.root)]
    leaf = ca.certify(ca.create(tmp_path / "third")).leaf.public_bytes(Encoding.PEM)
    for chain in (
        pems[0] + pems[2],  # another CA's root of the same name
        pems[1] + pems[0],  # the wrong order
        pems[1] + pems[1],  # a root as its own issuing CA
        pems[0],
        b"".join(pems),
        leaf + pems[1],
        b"garbage",
        b"",
    ):
        with pytest.raises(UserError, match="is not a federation's chain"):
            Anchors.parse(chain, crl=tmp_path / "crl.pem", source="chain.pem")


def test_a_leaf_is_good_until_its_last_second(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    leaf = ca.certify(authority).leaf

    def at(now: timedelta) -> Member:
        return admit(
            leaf,
            anchors=authority.anchors,
            role="collaborator",
            now=ca.NOW + now,
            members={"alice"},
        )

    assert at(timedelta(days=7))
    assert at(-timedelta(minutes=5))
    with pytest.raises(Refused):
        at(timedelta(days=7, seconds=1))

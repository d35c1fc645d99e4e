# SPDX-License-Identifier: Apache-2.0
"""The host puts what it likes into the inbox of an enclave: only what is good is taken in."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import ca

from fedclave.cli import inbox as inboxes
from fedclave.cli import waiting
from fedclave.cli.inbox import Inbox
from fedclave.cli.party import Party
from fedclave.plan import load
from fedclave.trust import pki, signing
from fedclave.trust.anchors import Anchors, hold_to
from fedclave.workspace import layout
from fedclave.workspace.enclave_yaml import EnclaveFile

NOW = ca.NOW


class Inside:
    """An aggregator in an image, whose chain is known, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.own = ca.create(folder / "genuine")
        self.hosts = ca.create(folder / "hosts")
        root = layout.create("numpy-digits", folder / "workspace").root
        pem = self.own.anchors.root.public_bytes(Encoding.PEM)
        (root / "cert/root.pem").write_bytes(pem)
        layout.keep_state_in(folder / "state")
        self.workspace = layout.open_(root)
        self.workspace.cert.mkdir(parents=True)
        shutil.copy(self.own.folder / "chain.pem", self.workspace.cert)
        self.told: list[dict[str, Any]] = []
        party = Party(
            workspace=self.workspace,
            plan=load(self.workspace.plan),
            name="aggregator",
            clock=lambda: NOW,
        )
        self.inbox: Inbox = waiting.host(
            party, "aggregator", EnclaveFile(), allow_simulated=False, tell=self._tell
        ).inbox
        self.inbox.folder.mkdir()

    def bring(self, name: str, data: bytes) -> list[str]:
        """What is told of a file that comes."""
        before = len(self.told)
        (self.inbox.folder / name).write_bytes(data)
        asyncio.run(self.inbox.look())
        return [one["event"] for one in self.told[before:]]

    def refuses(self, name: str, data: bytes, match: str) -> None:
        assert self.bring(name, data) == ["inbox_refused"]
        assert match in self.told[-1]["message"]
        assert match in (self.inbox.folder / f"{name}.refused").read_text()
        assert (self.inbox.folder / name).exists()
        asyncio.run(self.inbox.look())
        assert self.told[-1]["event"] == "inbox_refused"
        refused = [one for one in self.told if one["event"] == "inbox_refused"]
        assert sum(str(one["file"]).endswith(name) for one in refused) == 1  # told once

    def _tell(self, event: str, **fields: Any) -> None:
        self.told.append({"event": event, **fields})


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    yield Inside(tmp_path)
    hold_to(None)
    layout.keep_state_in(None)


def public() -> bytes:
    return signing.public_pem(Ed25519PrivateKey.generate().public_key())


def test_a_list_of_our_ca_is_taken_in_and_goes_from_the_inbox(inside: Inside) -> None:
    assert inside.bring("crl.pem", list_ := unheld(inside, inside.own)) == ["inbox_taken"]
    assert (inside.workspace.cert / "crl.pem").read_bytes() == list_
    assert list(inside.inbox.folder.iterdir()) == []


def test_an_older_list_replaces_no_newer_one(inside: Inside) -> None:
    older, newer = unheld(inside, inside.own), unheld(inside, inside.own)
    inside.bring("crl.pem", newer)
    inside.bring("crl.pem", older)
    assert (inside.workspace.cert / "crl.pem").read_bytes() == newer


def test_a_list_of_another_ca_is_refused(inside: Inside) -> None:
    inside.refuses("crl.pem", unheld(inside, inside.hosts), "not our CA's")
    assert not (inside.workspace.cert / "crl.pem").exists()


def test_what_is_good_afterwards_is_taken_in_and_the_refusal_goes(inside: Inside) -> None:
    inside.refuses("crl.pem", b"garbage", "not our CA's")
    assert inside.bring("crl.pem", unheld(inside, inside.own)) == ["inbox_taken"]
    assert list(inside.inbox.folder.iterdir()) == []


def test_a_second_author_does_not_replace_the_first(inside: Inside) -> None:
    first = public()
    assert inside.bring("author.pub", first) == ["inbox_taken"]
    inside.refuses("author.pub", public(), "knows the author by the key")
    assert (inside.workspace.cert / "author.pub").read_bytes() == first


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("author.pub", b"garbage", "not a public key"),
        ("contract.dsse.json", b"{}", "Bring author.pub too"),
        ("attestation.yaml", b"schema: 1\n", "no attestation"),
        ("x-collateral.json", b"{}", "collateral"),
        ("aggregator.acceptance.dsse.json", b"{}", "has no data"),
        ("x.token", b"fxj1.AAAA", "damaged"),
        ("x.token", b"\xff\xfe", "is not text"),
        ("x.cert.pem", b"garbage", "not a file of"),
        ("crl.pem", b"x" * (inboxes.MAX_SIZE + 1), "more than"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_garbage_is_refused_by_name(inside: Inside, name: str, data: bytes, match: str) -> None:
    inside.refuses(name, data, match)


def test_a_link_out_of_the_inbox_is_not_followed(inside: Inside, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.pem"
    target.write_bytes(unheld(inside, inside.own))
    (inside.inbox.folder / "crl.pem").symlink_to(target)
    assert asyncio.run(inside.inbox.look()) is False
    assert inside.told == []
    assert not (inside.workspace.cert / "crl.pem").exists()


def test_the_chain_of_a_host_is_refused_whatever_the_inbox_says(inside: Inside) -> None:
    hold_to(None)
    leaf = ca.certify(inside.hosts, "aggregator", "aggregator").leaf
    answer = pki.bundle(leaf, inside.hosts.anchors)
    answer += inside.hosts.anchors.chain.split(b"-----END CERTIFICATE-----\n", 1)[1]
    answer += inside.hosts.crl(NOW)
    hold_to(inside.workspace.measured_root)
    assert inside.bring("aggregator.cert.pem", answer) == ["inbox_refused"]
    assert not (inside.workspace.cert / "aggregator.pem").exists()
    assert Anchors.read(inside.workspace.cert).root == inside.own.anchors.root


def unheld(inside: Inside, authority: pki.Authority) -> bytes:
    """A new list of a CA, which in truth is another process's."""
    return authority.crl(NOW)

# SPDX-License-Identifier: Apache-2.0
"""The host of an image puts a CA of its own into the party's folder: no one of it gets in."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import ca
from tests.support.enrolment import Town

from fedclave.cli import main
from fedclave.errors import Code, Refused
from fedclave.transport.grpc.enrol import join
from fedclave.trust import keys, pki
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.anchors import Anchors, hold_to
from fedclave.workspace import layout
from fedclave.workspace.layout import Workspace

NOW = ca.NOW


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    """What a process is held to ends with the process; here, with the test."""
    yield
    hold_to(None)
    layout.keep_state_in(None)


@pytest.fixture
def hosts(tmp_path: Path) -> pki.Authority:
    """The host's own CA, of a federation with the same name."""
    return ca.create(tmp_path / "hosts")


@pytest.fixture
def town(tmp_path: Path) -> Town:
    """An enrolment service of the host's."""
    return Town(tmp_path / "town")


@pytest.fixture
def image(tmp_path: Path, hosts: pki.Authority, town: Town) -> Workspace:
    """A workspace that brings its federation's chain, and a party's folder apart from it.

    Made last: from then on this process trusts that chain alone.
    """
    made = layout.create("numpy-digits", tmp_path / "workspace")
    genuine = ca.create(tmp_path / "genuine")
    root = genuine.anchors.root.public_bytes(Encoding.PEM)
    (made.cert / "root.pem").write_bytes(root)
    (tmp_path / "state").mkdir()
    layout.keep_state_in(tmp_path / "state")
    return layout.open_(made.root)


def test_the_federations_own_chain_is_read(image: Workspace, tmp_path: Path) -> None:
    image.cert.mkdir()
    shutil.copy(tmp_path / "genuine/cert/chain.pem", image.cert / "chain.pem")
    assert Anchors.read(image.cert).federation == "digits"


def test_another_chain_is_refused_by_name_whenever_it_is_read(
    image: Workspace, hosts: pki.Authority
) -> None:
    image.cert.mkdir()
    shutil.copy(hosts.folder / "chain.pem", image.cert / "chain.pem")
    with pytest.raises(Refused) as refused:
        Anchors.read(image.cert)
    assert refused.value.code is Code.FOREIGN_CERTIFICATE
    assert str(image.cert / "chain.pem") in refused.value.message
    assert keys.fingerprint(hosts.anchors.root) in refused.value.message


def test_another_chain_is_not_taken_in(image: Workspace, hosts: pki.Authority) -> None:
    with pytest.raises(Refused) as refused:
        adopt(image.cert, hosts.anchors.chain, hosts.crl(NOW), root=root_sha256(hosts.anchors))
    assert refused.value.code is Code.FOREIGN_CERTIFICATE
    assert not (image.cert / "chain.pem").exists()


def test_a_token_of_another_ca_is_refused_before_its_secret_is_sent(
    image: Workspace, town: Town
) -> None:
    async def act() -> None:
        with pytest.raises(Refused) as refused:
            await join(town.invite(), image.cert, now=town.now)
        assert refused.value.code is Code.FOREIGN_CERTIFICATE
        assert len(town.register.pending(town.now)) == 1

    town.run(act)


def test_a_certificate_of_another_ca_is_not_imported(
    image: Workspace, hosts: pki.Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["-n", "alice", "-C", str(image.root), "--json"]
    state = ["--state", str(image.own), "collaborator"]
    assert main.run([*state, "generate-cert-request", *at]) == 0
    request = pki.requests.parse((image.cert / "alice.csr").read_bytes())
    leaf = hosts.issue(request, role="collaborator", name="alice", now=NOW)
    answer = tmp_path / "alice.cert.pem"
    answer.write_bytes(
        pki.bundle(leaf, hosts.anchors)
        + hosts.anchors.root.public_bytes(Encoding.PEM)
        + hosts.crl(NOW)
    )
    capsys.readouterr()
    assert main.run([*state, "certify", "--import", str(answer), "--yes", *at]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "foreign-certificate"
    assert not (image.cert / "alice.pem").exists()


def test_a_workspace_that_is_its_own_folder_is_held_to_nothing(
    tmp_path: Path, hosts: pki.Authority
) -> None:
    own = layout.create("numpy-digits", tmp_path / "own")
    assert layout.open_(own.root).measured_root is None
    shutil.copy(hosts.folder / "chain.pem", own.cert / "chain.pem")
    assert Anchors.read(own.cert).root == hosts.anchors.root

# SPDX-License-Identifier: Apache-2.0
"""``fx enclave``: parties to whom nobody can type, each reached through its folder and inbox alone.

Real processes: the CA's machine, an aggregator, two collaborators, each with a simulated TEE.
"""

import json
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import ca
from tests.support.federation import PASSPHRASE, Federation, Party, federation

from fedclave import tensors
from fedclave.trust import ratls, tokens
from fedclave.trust.adopt import root_sha256
from fedclave.trust.anchors import Anchors
from fedclave.trust.credentials import Credentials
from fedclave.trust.names import Identity
from fedclave.workspace import archive

pytestmark = pytest.mark.timeout(240)
MEMBERS = {"anna": 1.0, "bernd": 2.0}
SECRETS = ("-----BEGIN PRIVATE KEY", "-----BEGIN EC PRIVATE KEY")


class Town:
    """The CA's machine with the author's workspace, an image of that, and a folder per party."""

    def __init__(self, folder: Path, fed: Federation) -> None:
        self.fed = fed
        self.folder = folder
        self.image = folder / "image"
        packed = folder / "workspace.zip"
        fed.fx("workspace", "export", "--out", str(packed))
        archive.unpack(packed, self.image)
        root = Anchors.read(fed.cert).root.public_bytes(Encoding.PEM)
        (self.image / "cert/root.pem").write_bytes(root)
        with socket.create_server(("localhost", 0)) as free:
            self.address = f"localhost:{free.getsockname()[1]}"
        self.parties: list[Party] = []
        self.state("aggregator", listen=self.address, hosts=["localhost"])
        for name, target in MEMBERS.items():
            made = self.state(name, name=name, address=self.address, data="own.txt")
            (made / "own.txt").write_text(str(target))

    def state(self, of: str, **chosen: Any) -> Path:
        """A party's folder, with its host's choices and a simulated TEE."""
        folder = self.folder / f"state-{of}"
        (folder / "inbox").mkdir(parents=True)
        (folder / "cert").mkdir(mode=0o700)
        (folder / "enclave.yaml").write_text(json.dumps(chosen))
        shutil.copytree(self.fed.cert / "simulated", folder / "cert/simulated")
        return folder

    def start(self, of: str) -> Party:
        """The role's program, as an image starts it."""
        role = "aggregator" if of == "aggregator" else "collaborator"
        state = str(self.folder / f"state-{of}")
        party = Party(
            *("--state", state, "enclave", role, "-C", str(self.image), "--allow-simulated")
        )
        self.parties.append(party)
        return party

    def bring(self, of: str, *files: Path, **named: bytes | str) -> None:
        """Put files into a party's inbox, as hosts do: whole, under their names."""
        inbox = self.folder / f"state-{of}" / "inbox"
        for file in files:
            temporary = inbox.parent / f"{file.name}.coming"
            shutil.copy(file, temporary)
            temporary.rename(inbox / file.name)
        for name, data in named.items():
            temporary = inbox.parent / "coming"
            temporary.write_bytes(data.encode() if isinstance(data, str) else data)
            temporary.rename(inbox / name.replace("__", "."))

    def bring_what_all_get(self, of: str) -> None:
        """Author, contract, policy, and collateral of the one platform that all run on."""
        plan = self.fed.folder / "plan"
        now = datetime.now(UTC)
        (self.folder / "simulated-root.der").write_bytes(self.fed.platform.root)
        made = self.folder / "simulated-collateral.json"
        made.write_bytes(self.fed.platform.collateral(now))
        self.bring(of, plan / "author.pub", plan / "contract.dsse.json")
        self.bring(of, plan / "attestation.dsse.json", plan / "attestation.yaml")
        self.bring(of, self.folder / "simulated-root.der", made)
        if of != "aggregator":
            cert = self.fed.cert
            self.bring(of, cert / "owner.pub", cert / f"{of}.acceptance.dsse.json")

    def at_ca(self, *command: str) -> dict[str, Any]:
        """A command on the CA's machine, to its good end."""
        code, said = self.fed.says(*command)
        assert code == 0, said
        return said

    def certify(self, of: str, request: str) -> Path:
        """The CA's answer to a request; the file that it is in."""
        noun = ("aggregator",) if of == "aggregator" else ("collaborator",)
        name = () if of == "aggregator" else ("-n", of)
        said = self.at_ca(
            *noun, "certify", *name, "--request", request, "--yes", "--allow-simulated"
        )
        return Path(said["response"])

    def refusal(self, of: str, file: str) -> str:
        """What stands beside a file that was not taken in."""
        return (self.folder / f"state-{of}" / "inbox" / f"{file}.refused").read_text()

    def close(self) -> None:
        for party in self.parties:
            party.kill()


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setenv("FX_CA_PASSPHRASE", PASSPHRASE)
    proving = ("aggregator", "collaborators")
    with federation(tmp_path / "ca", proving=proving, members=MEMBERS, rounds=4) as fed:
        made = Town(tmp_path, fed)
        try:
            yield made
        finally:
            made.close()


def test_parties_reached_by_their_inboxes_alone_train_to_the_end(town: Town) -> None:
    aggregator = town.start("aggregator")
    assert "attestation.yaml" in aggregator.wait("waiting_for")["where"]
    town.bring_what_all_get("aggregator")
    asked = aggregator.wait("requested")["file"]
    town.bring("aggregator", town.certify("aggregator", asked))
    aggregator.until(lambda e: str(e.get("file")).endswith("aggregator.cert.pem"), "a certificate")
    shutil.copy(town.fed.folder / "plan/cols.yaml", town.folder / "state-aggregator/plan")
    aggregator.wait("listening")

    anna = town.start("anna")
    town.bring_what_all_get("anna")
    asked = anna.wait("requested")["file"]
    shutil.copy(town.certify("bernd", by_hand(town, "bernd")), town.folder / "bernds.cert.pem")
    town.bring("anna", town.folder / "bernds.cert.pem")
    refused = anna.wait("inbox_refused")
    assert "bernd" in refused["message"]
    assert "bernd" in town.refusal("anna", "bernds.cert.pem")
    town.bring("anna", **{"mallorys__token": foreign(town)})
    assert anna.wait("inbox_refused")["code"] == "foreign-certificate"
    assert "nothing was sent to it" in town.refusal("anna", "mallorys.token")
    assert anna.process.poll() is None
    town.bring("anna", town.certify("anna", asked))
    anna.wait("attested", word="SIMULATED")

    bernd = town.start("bernd")
    town.bring_what_all_get("bernd")
    where = ("--address", "localhost:0", "--force", "--allow-simulated")
    inviting = Party("invite", "bernd", *where, "-C", str(town.fed.folder))
    town.parties.append(inviting)
    town.bring("bernd", **{"bernd__token": inviting.wait("invited")["token"]})
    inviting.wait("joined", name="bernd")
    bernd.wait("welcome")

    aggregator.wait("round_closed", round=1)
    aggregator.kill()
    anna.kill()
    anna = town.start("anna")
    again = town.start("aggregator")
    assert again.wait("run_finished")["rounds"] == 4
    assert [party.end() for party in (anna, bernd, again)] == [0, 0, 0]
    final = tensors.Stored(town.folder / "state-aggregator/save/final.safetensors")
    assert final["w"] == pytest.approx(town.fed.final(4), abs=1e-4)
    for name in ("aggregator", "anna", "bernd"):
        state = town.folder / f"state-{name}"
        leaf = Credentials.read(state / "cert", name).leaf
        assert ratls.read(leaf.public_bytes(Encoding.DER)).quote
        assert secrets_outside(state) == []


def by_hand(town: Town, name: str) -> str:
    """A request that the CA would certify for a party, made beside it."""
    made = town.at_ca("collaborator", "generate-cert-request", "-n", name, "--allow-simulated")
    moved = town.folder / f"{name}-aside.csr"
    Path(made["request"]).rename(moved)
    for key in town.fed.cert.glob(f"{name}.key*"):
        key.unlink()
    return str(moved)


def foreign(town: Town) -> str:
    """A token of the host's own CA, of a federation with the same name."""
    own = ca.create(town.folder / "mallory", "kit", datetime.now(UTC))
    return str(
        tokens.Register(own.folder / "ca").mint(
            Identity(federation="kit", role="collaborator", name="anna"),
            root=root_sha256(own.anchors),
            authority="localhost:9",
            aggregator="localhost:9",
            now=datetime.now(UTC),
        )
    )


def secrets_outside(state: Path) -> list[Path]:
    """Files with private keys that lie in a party's folder, but not in cert."""
    return [
        path
        for path in state.rglob("*")
        if path.is_file()
        and not path.is_relative_to(state / "cert")
        and any(mark.encode() in path.read_bytes() for mark in SECRETS)
    ]

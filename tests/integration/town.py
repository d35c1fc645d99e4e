# SPDX-License-Identifier: Apache-2.0
"""A federation of an aggregator and two collaborators, each in a folder of its own.

center/           the author, the CA, the aggregator
alice/, bob/      collaborators, as people set them up
host-NAME/        the folder of the same party where its host brings it things (``fx enclave``)
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from tests.integration.shell import fx, say

from fedclave.trust.anchors import Anchors
from fedclave.workspace.images import own

PARTIES = ("alice", "bob")
ALL = ("aggregator", *PARTIES)


@dataclass(frozen=True, kw_only=True)
class Town:
    """The folders, below one."""

    folder: Path
    port: int

    @property
    def address(self) -> str:
        """Where the aggregator is."""
        return f"localhost:{self.port}"

    @property
    def center(self) -> Path:
        """Where the author, the CA and the aggregator are."""
        return self.folder / "center"

    def home(self, name: str) -> Path:
        """Where a party is that people set up."""
        return self.center if name == "aggregator" else self.folder / name

    def host(self, name: str) -> Path:
        """Where a party is that its host brings things."""
        return self.folder / f"host-{name}"

    def build(self, template: str, rounds: int = 3) -> None:
        """A workspace, its lock, contract and CA, and the parties."""
        at = ("-C", str(self.center))
        fx("workspace", "create", str(self.center), "--template", template)
        plan = self.center / "plan/plan.yaml"
        plan.write_text(plan.read_text().replace("rounds: 20", f"rounds: {rounds}"))
        data = [sys.executable, "-m", "src.data", "data", *PARTIES]
        subprocess.run(data, cwd=self.center, check=True)
        fx("plan", "initialize", *at)
        say("Locking the requirements ...")
        fx("workspace", "lock", *at, PIP_CONSTRAINT=self._installed().as_uri())
        fx("plan", "sign", *at)
        fx("workspace", "certify", *at)
        fx("aggregator", "generate-cert-request", "--host", "localhost", *at)
        fx("aggregator", "certify", "--yes", *at)
        for name in PARTIES:
            self._join(name)

    def _installed(self) -> Path:
        """Constraints for pip: an image's packages are those of the run outside, which made the
        model that its own is compared with.
        """
        path = self.folder / "constraints.txt"
        found = {one.metadata["Name"]: one.version for one in metadata.distributions()}
        lines = [f"{name}=={found[name]}\n" for name in sorted(found) if name != own.NAME]
        path.write_text("".join(lines))
        return path

    def _join(self, name: str) -> None:
        home, archive = self.home(name), self.folder / "workspace.zip"
        fx("workspace", "export", "--out", str(archive), "-C", str(self.center))
        fx("workspace", "import", str(archive), "--into", str(home))
        shutil.copy(self.center / f"data/{name}.npz", home / "data")
        at = ("-n", name, "-C", str(home))
        fx("collaborator", "create", "-d", str(home / f"data/{name}.npz"), *at)
        request = fx("collaborator", "generate-cert-request", *at)["request"]
        fx(
            "collaborator",
            "certify",
            "--import",
            str(self.certify(name, Path(request))),
            "--yes",
            *at,
        )
        author = str(home / "plan/author.pub")
        fx("plan", "accept", *at, "--author", author, "--yes")

    def certify(self, name: str, request: Path, *options: str) -> Path:
        """The CA's answer to a request that a person compared; the file that it is in."""
        who = ("aggregator",) if name == "aggregator" else ("collaborator",)
        of = () if name == "aggregator" else ("-n", name)
        sign = (*who, "certify", *of, "--request", str(request), "--yes", *options)
        return Path(fx(*sign, "-C", str(self.center))["response"])

    def root(self) -> Path:
        """A file with the root that the federation trusts, as an image with Gramine has it."""
        path = self.folder / "root.pem"
        root = Anchors.read(self.center / "cert").root
        path.write_bytes(root.public_bytes(Encoding.PEM))
        return path

    def forget_run(self) -> None:
        """Leave no trace of a run, so that another one begins."""
        for name in ALL:
            home = self.home(name)
            for path in (home / "save").iterdir():
                if path.name not in ("initial.safetensors", "initial.json"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.rmtree(home / "logs")
            (home / "logs").mkdir()
        fx("plan", "initialize", "--force", "-C", str(self.center))

    def make_hosts(self) -> None:
        """The folders of the parties that are reached by an inbox, with all that can lie in it
        before a key is made.
        """
        plan = self.center / "plan"
        for name in ALL:
            folder = self.host(name)
            (folder / "inbox").mkdir(parents=True)
            (folder / "cert").mkdir(mode=0o700)
            (folder / "plan").mkdir()
            chosen: dict[str, object] = {"listen": self.address, "hosts": ["localhost"]}
            self.bring(name, plan / "author.pub", plan / "contract.dsse.json")
            if name == "aggregator":
                shutil.copy(plan / "cols.yaml", folder / "plan")
            else:
                chosen = {"name": name, "address": self.address, "data": f"{name}.npz"}
                shutil.copy(self.center / f"data/{name}.npz", folder)
                cert = self.home(name) / "cert"
                self.bring(name, cert / "owner.pub", cert / f"{name}.acceptance.dsse.json")
            (folder / "enclave.yaml").write_text(json.dumps(chosen))

    def bring(self, name: str, *files: Path) -> None:
        """Put files into a party's inbox, whole."""
        folder = self.host(name)
        for file in files:
            coming = folder / "coming"
            shutil.copyfile(file, coming)
            coming.chmod(0o644)
            coming.rename(folder / "inbox" / file.name)

# SPDX-License-Identifier: Apache-2.0
"""Where things lie in a workspace, and how a new one is made from a template."""

import shutil
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from fedclave.errors import UserError
from fedclave.trust import anchors
from fedclave.workspace import output

_IGNORED = (
    "# What never leaves this party.\ncert/\ndata/\nimage/\nlogs/\nsave/\nplan/cols.yaml\n"
    "plan/data.yaml\n"
)
_CACHES = ("__pycache__",)
_SHARED = "shared"  # no template: the files that are the same in all of them


@dataclass(frozen=True)
class Workspace:
    """The paths of one workspace. Nothing is read; ``open_`` checks that there is one.

    ``state`` is where the party's own files lie, and what vouches for the shared ones, if not in
    ``root``: in an image the shared files are measured, and cannot be written.
    """

    root: Path
    state: Path | None = None

    @property
    def own(self) -> Path:
        """The folder of what is this party's own."""
        return self.state or self.root

    @property
    def plan(self) -> Path:
        """What all parties agreed to do."""
        return self.root / "plan" / "plan.yaml"

    @property
    def lock(self) -> Path:
        """The wheels that an image is made of."""
        return self.root / "requirements.lock"

    @property
    def requirements(self) -> Path:
        """What the code needs, as people write it."""
        return self.root / "requirements.txt"

    @property
    def image(self) -> Path:
        """Wheels, and images made of this workspace; never exported."""
        return self.own / "image"

    @property
    def attestation(self) -> Path:
        """The attestation policy, if the federation has one."""
        return self.own / "plan" / "attestation.yaml"

    @property
    def attestation_signatures(self) -> Path:
        """The policy as its signers signed it."""
        return self.own / "plan" / "attestation.dsse.json"

    @property
    def contract(self) -> Path:
        """The contract, signed by its author."""
        return self.own / "plan" / "contract.dsse.json"

    @property
    def author(self) -> Path:
        """The author's public key as it came with the workspace: not trusted by that."""
        return self.own / "plan" / "author.pub"

    @property
    def recipe(self) -> Path:
        """What the workspace's enclaves were made of (``workspace.gramine.recipe``)."""
        return self.own / "plan" / "enclave.json"

    @property
    def libpal(self) -> Path:
        """The part of Gramine that an enclave measures page by page."""
        return self.own / "plan" / "libpal.so"

    def signature(self, role: str) -> Path:
        """The signature over a role's enclave (SIGSTRUCT)."""
        return self.own / "plan" / f"{role}.sig"

    def acceptance(self, name: str) -> Path:
        """A data owner's word that a local party may take part."""
        return self.cert / f"{name}.acceptance.dsse.json"

    @property
    def members(self) -> Path:
        """The authorised members (``workspace.members``); on the aggregator only."""
        return self.own / "plan" / "cols.yaml"

    @property
    def data_paths(self) -> Path:
        """Where each local member's data lies (``workspace.members``); never exported."""
        return self.own / "plan" / "data.yaml"

    @property
    def src(self) -> Path:
        """The federation's own code."""
        return self.root / "src"

    @property
    def cert(self) -> Path:
        """The party's keys and certificates, 0700."""
        return self.own / "cert"

    @property
    def vault(self) -> Path:
        """The key of what this party seals to itself (``trust.vault``)."""
        return self.cert / "vault.key"

    @property
    def measured_root(self) -> Path | None:
        """The root of the federation's CA as an image brings it, measured with the code, or None.

        Whatever chain lies in ``state`` must have this root (``anchors.hold_to``).
        """
        path = self.root / "cert" / "root.pem"
        return path if self.root != self.own and path.is_file() else None

    def heads(self, name: str) -> Path:
        """What a local party has seen of others' logs (``trust.heads``)."""
        return self.cert / "heads" / name

    def stated(self, name: str, plan: str) -> Path:
        """How far the run of a plan had come, as a local party was told (``trust.stated``)."""
        return self.cert / "stated" / name / f"{plan[:16]}.json"

    @property
    def data(self) -> Path:
        """The party's data, unless ``plan/data.yaml`` points elsewhere."""
        return self.own / "data"

    @property
    def save(self) -> Path:
        """Models, checkpoints and the journal."""
        return self.own / "save"

    @property
    def initial(self) -> Path:
        """The weights before round 1."""
        return self.root / "save" / "initial.safetensors"

    @property
    def initial_layout(self) -> Path:
        """What is known of the initial weights where they travel sealed (``workspace.initial``)."""
        return self.root / "save" / "initial.json"

    @property
    def model_owner(self) -> Path:
        """The public key that the final model is sealed to."""
        return self.root / "plan" / "model-owner.pub"

    def sealed(self, which: str) -> Path:
        """The final or the best model, sealed to its owner."""
        return self.save / f"{which}.sealed"

    def marked(self, which: str) -> Path:
        """The final or the best model in the clear, marked with how those stood who made it."""
        return self.save / f"{which}.safetensors"

    @property
    def logs(self) -> Path:
        """Events and the audit log."""
        return self.own / "logs"

    @property
    def events(self) -> Path:
        """What happened, as JSON lines."""
        return self.logs / "events.jsonl"

    def notebook(self, name: str, plan: str) -> Path:
        """A collaborator's journal of the run of a plan (its digest)."""
        return self.save / f"collaborator-{name}" / plan[:16]

    def make_folders(self) -> None:
        """The folders that are this party's own; ``cert`` is for its owner alone."""
        for folder in (self.data, self.save, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.cert.mkdir(mode=0o700, parents=True, exist_ok=True)


_state: Path | None = None


def keep_state_in(folder: Path | None) -> None:
    """From now on ``open_`` opens workspaces whose own files lie there: ``fx --state FOLDER``."""
    global _state
    _state = folder


def open_(root: Path) -> Workspace:
    """The workspace in a folder. Raises ``UserError`` if there is no plan in it.

    From then on this process trusts no CA but the one that is measured with it, if one is.
    """
    workspace = Workspace(root, _state)
    if not workspace.plan.is_file():
        where = root.absolute()
        raise UserError(
            f"{where} is not a workspace: it has no plan/plan.yaml. Go to one, or make one with"
            " 'fx workspace create --template numpy-digits DIR'"
        )
    anchors.hold_to(workspace.measured_root)
    return workspace


def templates() -> tuple[str, ...]:
    """The names of the templates that ``create`` knows."""
    names = {entry.name for entry in _templates().iterdir() if entry.is_dir()}
    return tuple(sorted(names - {_SHARED}))


def create(template: str, root: Path) -> Workspace:
    """A new workspace from a template, in a folder that is new or empty.

    Raises ``UserError`` for an unknown template or a folder with something in it.
    """
    if template not in templates():
        raise UserError(f"no template is called {template!r}. Templates: {', '.join(templates())}")
    make_empty(root)
    with output.blamed_on(root):
        for part in (_SHARED, template):
            _copy(_templates() / part, root)
        workspace = Workspace(root)
        begin(workspace)
    return workspace


def begin(workspace: Workspace) -> None:
    """What every new workspace has: this party's own folders, and git told to leave them out."""
    (workspace.root / ".gitignore").write_text(_IGNORED, encoding="utf-8")
    workspace.make_folders()


def make_empty(folder: Path) -> None:
    """Make a folder that does not exist, or is empty. Raises ``UserError`` otherwise."""
    require_empty(folder)
    with output.blamed_on(folder):
        folder.mkdir(parents=True, exist_ok=True)


def require_empty(folder: Path) -> None:
    """Raise ``UserError`` unless the folder does not exist or is empty."""
    with output.blamed_on(folder):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UserError(f"{folder} exists and is not a folder. Name a new one")
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and is not empty. Name a new folder")


def _templates() -> Traversable:
    return resources.files("fedclave") / "templates"


def _copy(source: Traversable, target: Path) -> None:
    for entry in source.iterdir():
        if entry.name in _CACHES:
            continue
        if entry.is_dir():
            (target / entry.name).mkdir(exist_ok=True)
            _copy(entry, target / entry.name)
        else:
            with entry.open("rb") as file, (target / entry.name).open("wb") as copy:
                shutil.copyfileobj(file, copy)

# SPDX-License-Identifier: Apache-2.0
"""The folders of ``fx demo``: one for each party, as if each were on a machine of its own.

aggregator/   workspace: plan, code, initial model, its own key, the list of members
alice/ ...    workspace from the aggregator's export: its own key, its own shard of the data
ca/           the CA; its passphrase is random and is kept nowhere
policy/       the key of who signs the attestation policy
data/         what no party has, only to measure with: test.npz and pooled.npz
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count, islice
from pathlib import Path

from fedclave.cli import demo_trust, run
from fedclave.cli.party import AGGREGATOR
from fedclave.errors import Bug, UserError
from fedclave.plan import Plan
from fedclave.trust import keys, pki, requests
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.credentials import Credentials
from fedclave.trust.names import Role
from fedclave.workspace import archive, assemble, layout, members
from fedclave.workspace.importing import Sources
from fedclave.workspace.layout import Workspace

TEMPLATE = "numpy-digits"
HOME = Path("fedclave-demo")
HIDDEN = 64  # as in the template's plan
LOOPBACK = ("localhost", "127.0.0.1")
_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy")


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Everything that ``make`` made. The data comes later, by ``deal``."""

    root: Path
    plan: Plan
    aggregator: Workspace
    parties: dict[str, Workspace]
    authority: pki.Authority

    @property
    def test(self) -> Path:
        """Rows that nobody trains on."""
        return self.root / "data" / "test.npz"

    @property
    def pooled(self) -> Path:
        """The rows of all parties together, which in truth nobody may hold."""
        return self.root / "data" / "pooled.npz"

    def shard(self, name: str) -> Path:
        """A party's own rows."""
        return self.parties[name].data / f"{name}.npz"


def names(number: int) -> list[str]:
    """Names for so many parties.

    >>> names(11)[-2:]
    ['judy', 'party-11']
    """
    further = (f"party-{n}" for n in count(len(_NAMES) + 1))
    return list(islice((*_NAMES, *islice(further, number)), number))


def fresh(into: Path | None) -> Path:
    """A folder for one run: the given one, which must be new or empty, or a new numbered one.

    ``mkdir`` decides who has a number, so runs at the same time do not meet.
    """
    if into is not None:
        layout.make_empty(into)
        return into.absolute()
    HOME.mkdir(exist_ok=True)
    for number in count(1):
        try:
            (HOME / str(number)).mkdir()
        except FileExistsError:
            continue
        return (HOME / str(number)).absolute()
    raise Bug("there is always a next number")


def make(
    root: Path,
    party_names: Sequence[str],
    rounds: int,
    seed: int,
    now: datetime,
    *,
    hidden: int = HIDDEN,
    both: bool = False,
) -> Folders:
    """Workspaces with their initial model, a CA, and for each party a certificate and a contract.

    ``hidden`` is the width of the model's layer. The aggregator proves what it runs; ``both``: the
    collaborators too.
    """
    (root / ".gitignore").write_text("*\n", encoding="utf-8")  # keys, data, models: not for git
    aggregator = layout.create(TEMPLATE, root / "aggregator")
    set_numbers(aggregator.plan, rounds=rounds, seed=seed, hidden=hidden)
    demo_trust.demand(aggregator.plan, root / "policy" / "signer.key", both=both)
    loaded = assemble.check(aggregator)
    run.begin(aggregator, loaded, assemble.initial(aggregator, loaded, loaded.seed))
    platform = demo_trust.platform(aggregator, loaded, now)
    demo_trust.settle(aggregator, loaded, platform, root / "policy" / "signer.key", now)
    members.set_members(aggregator, party_names)
    packed = root / "workspace.zip"
    archive.export(aggregator, packed)
    authority = pki.Authority.create(
        root / "ca" / "cert", loaded.name, secrets.token_urlsafe(32).encode(), now
    )
    _certify(authority, aggregator, "aggregator", AGGREGATOR, now)
    parties = {}
    for name in party_names:
        parties[name] = archive.unpack(packed, root / name)
        members.set_data_path(parties[name], name, Path("data") / f"{name}.npz")
        _certify(authority, parties[name], "collaborator", name, now)
    demo_trust.accept(parties, loaded, platform, now)
    return Folders(
        root=root, plan=loaded, aggregator=aggregator, parties=parties, authority=authority
    )


def deal(folders: Folders) -> None:
    """Cut scikit-learn's digits by the template's own code; each party gets its shard alone.

    The rows for the test are drawn first, from the seed, so both cuts leave out the same ones.
    """
    data = Sources(folders.aggregator.root).module("src.data")
    whole, names_ = folders.root / "data", list(folders.parties)
    try:
        data.split(whole, [folders.pooled.stem], folders.plan.seed)
        data.split(whole, names_, folders.plan.seed)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the demo's data comes with scikit-learn, and {error.name} is not installed. Run:"
            " pip install 'fedclave[demo]'"
        ) from error
    for name in names_:
        (whole / f"{name}.npz").rename(folders.shard(name))


def set_numbers(path: Path, **values: int) -> None:
    """Change numbers of a plan; its comments stay."""
    text = path.read_text(encoding="utf-8")
    for key, value in values.items():
        text, changed = re.subn(
            rf"(?m)((?:^|\{{){key}): [0-9]+(?=\}}| *$)", rf"\g<1>: {value}", text
        )
        if changed != 1:
            raise Bug(f"the template's plan has {changed} lines '{key}: NUMBER'")
    path.write_text(text, encoding="utf-8")


def certified(authority: pki.Authority, role: Role, name: str, now: datetime) -> Credentials:
    """A new key, and the CA's certificate for it."""
    key = keys.generate()
    hosts = LOOPBACK if role == "aggregator" else ()
    request = requests.make_request(
        key, federation=authority.federation, role=role, name=name, hosts=hosts
    )
    leaf = authority.issue(request, role=role, name=name, now=now)
    return Credentials(key=keys.encode(key), chain=pki.bundle(leaf, authority.anchors))


def _certify(
    authority: pki.Authority, workspace: Workspace, role: Role, name: str, now: datetime
) -> None:
    root = root_sha256(authority.anchors)
    adopt(workspace.cert, authority.anchors.chain, authority.recent_crl(now), root=root)
    certified(authority, role, name, now).replace(workspace.cert, name)

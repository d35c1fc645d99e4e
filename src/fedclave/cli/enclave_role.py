# SPDX-License-Identifier: Apache-2.0
"""``fx enclave``: a party in an image, to whom nobody can type; its host brings it things.

Before a run it says what it waits for, and where to put it; what comes through the inbox is
verified first (``inbox``). The run is then that of ``fx aggregator start`` and ``fx collaborator
start``. While it lasts the inbox is still looked at: a later policy, collateral or list counts.
"""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedclave.cli import console, signals
from fedclave.cli.options import AllowSimulated, JsonLines, WorkspaceDir, command, noun

if TYPE_CHECKING:
    from fedclave.cli.party import Party
    from fedclave.cli.waiting import Host
    from fedclave.trust.names import Role

app = noun("enclave", "Be a party in an image, to which its host brings what it needs.")
T = TypeVar("T")


@command(app, "aggregator", "fx --state /state enclave aggregator")
def aggregator(
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: JsonLines = False,
) -> None:
    """Be the aggregator: wait for what is missing, then run the plan to its end.

    The host's choices stand in enclave.yaml of the party's folder, what it brings goes into inbox/.
    The key is made here, and aggregator.csr with the evidence for it is written for the CA.
    """
    from fedclave.cli import aggregator as commands
    from fedclave.cli import run, waiting

    host = _opened("aggregator", workspace, allow_simulated=allow_simulated, as_json=as_json)
    party = host.party
    signals.run(waiting.until_ready(host), _ADVICE)
    work = partial(
        run.aggregate,
        listen=host.chosen.listen or run.wildcard(party.plan.network.address),
        allow_simulated=allow_simulated,
        release_listen=host.chosen.release_listen,
        seal_state=True,
    )
    commands.conduct(party, _beside(host, work), as_json)


@command(app, "collaborator", "fx --state /state enclave collaborator")
def collaborator(
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: JsonLines = False,
) -> None:
    """Be a collaborator: wait for what is missing, then take part in the run until it is over.

    The host's choices stand in enclave.yaml of the party's folder, what it brings goes into inbox/.
    The key is made here, and NAME.csr with the evidence for it is written for the CA.
    """
    from fedclave.cli import collaborator as commands
    from fedclave.cli import run, waiting

    host = _opened("collaborator", workspace, allow_simulated=allow_simulated, as_json=as_json)
    party = host.party
    signals.run(waiting.until_ready(host), _ADVICE)
    where = host.chosen.address or commands.find_address(party)
    work = partial(
        run.collaborate,
        data=host.data,
        address=where,
        allow_simulated=allow_simulated,
        release_listen=host.chosen.release_listen,
        seal_state=True,
    )
    commands.conduct(party, where, _beside(host, work), as_json)


_ADVICE = "Start it again to go on"


def _opened(role: "Role", root: Path, *, allow_simulated: bool, as_json: bool) -> "Host":
    """The party that the host has in mind. ``UserError``: this is no image, or has no CA."""
    from fedclave.cli import attesting, waiting
    from fedclave.cli.party import AGGREGATOR, Party
    from fedclave.errors import UserError
    from fedclave.plan import load
    from fedclave.trust import pki, sgx
    from fedclave.workspace import enclave_yaml, layout

    opened = layout.open_(root.absolute())
    if opened.root == opened.own:
        raise UserError(
            "a party in an image has its folder apart from the workspace that is measured. Name it:"
            " fx --state DIR enclave ..."
        )
    if sgx.DEVICE.exists() and opened.measured_root is None:
        raise UserError(
            f"{opened.root}/cert/root.pem is not there: whom this enclave trusts would be for its"
            " host to say. Make the image where the federation's cert/chain.pem lies"
        )
    chosen = enclave_yaml.load(opened)
    name = AGGREGATOR if role == "aggregator" else chosen.name
    pki.check_party(role, name)
    plan = load(opened.plan)
    attesting.run_from_source(plan, role, allow_simulated=allow_simulated)
    party = Party(
        workspace=opened, plan=plan, name=name, clock=lambda: datetime.now(UTC), inside=True
    )
    return waiting.host(
        party,
        role,
        chosen,
        allow_simulated=allow_simulated,
        tell=partial(_tell, as_json),
    )


def _beside(
    host: "Host", work: "Callable[[Party], Coroutine[Any, Any, T]]"
) -> "Callable[[Party], Coroutine[Any, Any, T]]":
    """The work, with the inbox looked at for as long as it lasts."""
    from fedclave.cli import vigil, waiting

    async def both(party: "Party") -> T:
        async with vigil.beside(waiting.watch(host)):
            return await work(party)

    return both


def _tell(as_json: bool, event: str, **fields: Any) -> None:
    """Tell the host what happens before and beside the run."""
    from fedclave.cli.view import clean

    if as_json:
        console.emit({"event": event, **fields})
    else:
        print(clean(_LINES[event].format_map(fields)), flush=True)


_LINES = {
    "inbox_taken": "taken in: {what} ({file})",
    "inbox_refused": "refused: {file}: {message}",
    "inbox_trouble": "not yet: {file}: {message}",
    "requested": "a certificate request with fingerprint {fingerprint} lies in {file}",
    "waiting_for": "waiting for {what}: {where}",
    "ready": "nothing is missing any more",
}

# SPDX-License-Identifier: Apache-2.0
"""An aggregator that seals its state has its members witness how far it has come."""

from typing import TYPE_CHECKING

from fedclave.cli.auditing import Ledger, log_key
from fedclave.engine.events import Events
from fedclave.engine.store import Store
from fedclave.engine.witness import Witness
from fedclave.errors import Code, Refused
from fedclave.trust.attesting import Side

if TYPE_CHECKING:
    from fedclave.cli.party import Party


def witness(
    party: "Party", store: Store, events: Events, side: Side | None, ledger: Ledger | None
) -> Witness:
    """Who states how far the run has come. ``Refused``: its own log has come further."""
    latest = store.newest()[0]
    if ledger is not None and ledger.last > latest:
        refused = Refused(
            Code.SET_BACK,
            f"{party.workspace.save} is after round {latest}, and this aggregator's own log has"
            f" round {ledger.last}: an older copy was put back. Restore the newest copy",
        )
        events.emit("run_stopped", round=latest + 1, message=str(refused))
        raise refused
    return Witness(
        store,
        events,
        log_key(party.workspace),
        plan=party.plan.digest,
        contract="" if side is None else side.terms.contract,
        head=lambda: "" if ledger is None else ledger.shown(0).head.decode(),
    )

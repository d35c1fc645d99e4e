# SPDX-License-Identifier: Apache-2.0
"""One end of a run on this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fedclave.engine.events import SCHEMA
from fedclave.plan import Plan
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors, Member, admit
from fedclave.trust.names import Role
from fedclave.workspace.layout import Workspace

AGGREGATOR = "aggregator"
"""The name of the one aggregator of a federation."""

Clock = Callable[[], datetime]
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Party:
    """One end of a run on this machine: its workspace and plan, its name, and who listens.

    ``inside``: it is in an enclave, or shall do as if. No other process can be started there, and
    what lies in the folder for temporary files (a tmpfs of Gramine's) is in the enclave's memory.
    """

    workspace: Workspace
    plan: Plan
    name: str
    clock: Clock
    listener: Listener = lambda event: None
    inside: bool = False

    def tell(self, event: str, **fields: Any) -> None:
        """Tell the listener something that the engine's events do not know."""
        at = self.clock().isoformat()
        self.listener({"v": SCHEMA, "time": at, "event": event, **fields})

    def certified(self, role: Role) -> Member:
        """What the gate says of our own certificate: better known before than after."""
        leaf = Credentials.read(self.workspace.cert, self.name).leaf
        anchors = Anchors.read(self.workspace.cert)
        return admit(leaf, anchors=anchors, role=role, now=self.clock(), members={self.name})

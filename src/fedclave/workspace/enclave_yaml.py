# SPDX-License-Identifier: Apache-2.0
"""``enclave.yaml``: what the host of an enclave may choose for the party in it.

    /state/enclave.yaml   name, addresses, the place of the data

Nothing here decides what is trusted: whoever controls the host can write it as he likes, and only
gains that the party does not take part, or takes part under a name that it is not certified for.
"""

from typing import Annotated

from pydantic import Field, ValidationError

from fedclave import mistakes, yamlfile
from fedclave.errors import PlanError
from fedclave.plan import NAME, Listed, Part
from fedclave.workspace.layout import Workspace

FILE = "enclave.yaml"
_ADDRESS = r"^([^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$"
_HOST = r"^[0-9A-Za-z_.:-]{1,253}$"
Host = Annotated[str, Field(pattern=_HOST, json_schema_extra={"format": "host name or IP address"})]


class EnclaveFile(Part):
    """The host's choices. Paths are meant from the party's folder."""

    name: str = Field("aggregator", pattern=f"^{NAME.pattern}$")
    """The party's name; only a collaborator chooses one."""
    listen: str | None = Field(None, pattern=_ADDRESS)
    """``HOST:PORT`` where the aggregator listens; left out: all interfaces, the plan's port."""
    address: str | None = Field(None, pattern=_ADDRESS)
    """``HOST:PORT`` where a collaborator finds the aggregator; left out: the token's, or the
    plan's."""
    hosts: Annotated[tuple[Host, ...], Listed] = ()
    """Names and IP addresses of the aggregator for its certificate; empty: the plan's host."""
    data: str | None = Field(None, min_length=1)
    """A collaborator's data: a file or folder."""
    release_listen: str = Field("127.0.0.1:0", pattern=_ADDRESS)
    """``HOST:PORT`` where to wait for what its owner releases, if something is sealed."""


def load(workspace: Workspace) -> EnclaveFile:
    """The choices of a party's host. Raises ``PlanError`` with all mistakes, in file order."""
    path = workspace.own / FILE
    return parse(yamlfile.read(path), str(path))


def parse(text: str, file: str = FILE) -> EnclaveFile:
    """The choices in a text; ``file`` is what errors call it."""
    document = yamlfile.parse(text, file)
    try:
        return EnclaveFile.model_validate(document.value)
    except ValidationError as error:
        found = mistakes.found(error, document, EnclaveFile).values()
        raise PlanError(sorted(found, key=lambda problem: problem.line)) from error

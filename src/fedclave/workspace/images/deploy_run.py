# SPDX-License-Identifier: Apache-2.0
"""The line that starts a role with docker or podman, for a POSIX shell. Pure.

It runs in the party's folder, or names it. What a shell must not split or expand is quoted;
``$PWD``, ``$HOME`` and the questions to ``stat`` are meant for it. The container's user is the one
whose folder it is, whoever starts it.
"""

import shlex
from collections.abc import Iterator
from typing import Literal

from fedclave.workspace.images import deployment
from fedclave.workspace.images.content import STATE
from fedclave.workspace.images.deployment import AESM, DEVICE, PIDS, PORT, Deployment, Kind, Role

Tool = Literal["docker", "podman"]


def line(
    made: Deployment,
    role: Role,
    tool: Tool = "docker",
    *,
    name: str = "NAME",
    host: str = "HOST",
    folder: str = "",
) -> str:
    """The command, an option or two on each line; ``folder`` is the party's, if not this one."""
    program = deployment.entrypoint(made.kind)
    last = [shlex.quote(made.image)]
    last += map(shlex.quote, deployment.arguments(made.kind, role, name, host))
    if program is not None:
        last = ["--entrypoint", program, *last]
    lines = [f"{tool} run --detach --init --name {made.stem}-{role} --restart on-failure:10"]
    lines += _options(made, role, tool, folder)
    return " \\\n    ".join([*lines, " ".join(last)])


def _options(made: Deployment, role: Role, tool: Tool, folder: str) -> Iterator[str]:
    # Rootless podman: the user keeps its number inside, and thereby its folder.
    keep = "--userns keep-id " if tool == "podman" else ""
    yield f'{keep}--user "$(stat -c %u:%g {shlex.quote(folder or ".")})"'
    yield "--read-only --tmpfs /tmp"
    yield f"--cap-drop ALL --security-opt no-new-privileges --pids-limit {PIDS}"
    yield f"--mount {_state(folder)}"
    if made.kind is Kind.DIRECT:
        yield f'--security-opt "seccomp=$HOME/{deployment.SECCOMP}"'
    if made.kind is Kind.SGX:
        yield f"--device {DEVICE}"
        yield f"--mount type=bind,src={AESM},dst={AESM},readonly"
        yield from _groups(tool)
    if role == "aggregator":
        yield f"--publish {PORT}:{PORT}"


def _state(folder: str) -> str:
    """The mount of the party's folder. Such a list is one line of CSV (RFC 4180)."""
    if not folder:
        return f'type=bind,src="$PWD",dst={STATE}'
    source = f"src={folder}"
    if set(source) & set(',"\n'):
        source = '"' + source.replace('"', '""') + '"'
    return shlex.quote(f"type=bind,{source},dst={STATE}")


def _groups(tool: Tool) -> Iterator[str]:
    """Who may open the device and AESM's socket: the host's groups, by number."""
    if tool == "podman":
        yield "--group-add keep-groups"  # those of the user, who must be in them
    else:
        yield f'--group-add "$(stat -c %g {DEVICE})"'
        yield f'--group-add "$(stat -c %g {AESM}/aesm.socket)"'

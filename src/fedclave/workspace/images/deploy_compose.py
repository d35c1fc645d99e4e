# SPDX-License-Identifier: Apache-2.0
"""A compose file for one role (Compose Specification). Pure.

What only the party knows is a variable that must be set: ``docker compose`` refuses to start
without it, and says what it is for.
"""

from typing import Any

from fedclave.workspace.images import deployment
from fedclave.workspace.images.content import STATE
from fedclave.workspace.images.deployment import AESM, DEVICE, PIDS, PORT, Deployment, Kind, Role

_VARIABLES = {
    "FEDCLAVE_STATE": ("the folder of the party", '"$PWD"'),
    "FEDCLAVE_USER": ("whose folder it is, UID:GID", '"$(stat -c %u:%g .)"'),
    "FEDCLAVE_NAME": ("the name of the collaborator", "NAME"),
    "FEDCLAVE_HOST": ("the host of the aggregator", "HOST"),
    "FEDCLAVE_SGX_GROUP": (f"the group of {DEVICE}", f'"$(stat -c %g {DEVICE})"'),
    "FEDCLAVE_AESM_GROUP": ("the group of AESM's socket", f'"$(stat -c %g {AESM}/aesm.socket)"'),
    "FEDCLAVE_SECCOMP": ("the file of Gramine's profile", f'"$HOME/{deployment.SECCOMP}"'),
}
"""What each is, and how a shell in the party's folder tells it."""


def variables(kind: Kind, role: Role) -> dict[str, str]:
    """The variables that a file needs, and how a shell tells them."""
    names = ["FEDCLAVE_STATE", "FEDCLAVE_USER"]
    if kind is Kind.CONTAINER and role == "collaborator":
        names += ["FEDCLAVE_NAME", "FEDCLAVE_HOST"]
    if kind is Kind.SGX:
        names += ["FEDCLAVE_SGX_GROUP", "FEDCLAVE_AESM_GROUP"]
    if kind is Kind.DIRECT:
        names.append("FEDCLAVE_SECCOMP")
    return {name: _VARIABLES[name][1] for name in names}


def document(made: Deployment, role: Role) -> dict[str, Any]:
    """The file as an object."""
    program = deployment.entrypoint(made.kind)
    told = deployment.arguments(made.kind, role, _must("FEDCLAVE_NAME"), _must("FEDCLAVE_HOST"))
    service: dict[str, Any] = {"image": made.image}
    if program is not None:
        service["entrypoint"] = [program]
    service |= {
        "command": list(told),
        "init": True,
        "restart": "on-failure:10",
        "user": _must("FEDCLAVE_USER"),
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - the container's own
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": PIDS,
        "mem_reservation": "1g",
        "volumes": [_bind(_must("FEDCLAVE_STATE"), STATE)],
    }
    if made.kind is Kind.DIRECT:
        service["security_opt"].append(f"seccomp:{_must('FEDCLAVE_SECCOMP')}")
    if made.kind is Kind.SGX:
        service["devices"] = [f"{DEVICE}:{DEVICE}"]
        service["group_add"] = [_must("FEDCLAVE_SGX_GROUP"), _must("FEDCLAVE_AESM_GROUP")]
        service["volumes"].append({**_bind(AESM, AESM), "read_only": True})
    if role == "aggregator":
        service["ports"] = [f"{PORT}:{PORT}"]
    return {"name": f"{made.stem}-{role}", "services": {role: service}}


def _must(name: str) -> str:
    return f"${{{name}:?{_VARIABLES[name][0]}}}"


def _bind(source: str, target: str) -> dict[str, Any]:
    made = {"create_host_path": False}  # a folder that is not there is a mistake
    return {"type": "bind", "source": source, "target": target, "bind": made}

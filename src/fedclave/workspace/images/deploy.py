# SPDX-License-Identifier: Apache-2.0
"""How a finished image is started: lines for a shell, compose files, Kubernetes manifests.

All are functions of the image's name and how it is to run; nothing is asked of this machine, for it
is the parties' machines that run them. Every container has no more than it needs: no root, no
capability, nothing writable but the party's own folder, no port but the aggregator's.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from fedclave.workspace import output
from fedclave.workspace.images import deploy_compose as compose
from fedclave.workspace.images import deploy_kubernetes as kubernetes
from fedclave.workspace.images import deploy_run, deployment
from fedclave.workspace.images.deploy_run import Tool
from fedclave.workspace.images.deployment import ROLES, WARNING, Deployment, Kind, Role


def lines(made: Deployment, tool: Tool = "docker") -> list[str]:
    """What a command prints: how each role starts, on a host that is ready for it."""
    said = ["", *([WARNING[made.kind], ""] if made.kind is Kind.DIRECT else [])]
    said.append("Run it in the folder of a party:")
    if made.kind is Kind.DIRECT:
        said += [
            f'  curl -fsSL -o "$HOME/{deployment.SECCOMP}" \\',
            f"    {deployment.SECCOMP_URL}",
        ]
    for role in ROLES:
        said += (f"  {one}" for one in deploy_run.line(made, role, tool).splitlines())
    return said


def files(made: Deployment) -> dict[str, str]:
    """The files for those who start roles otherwise, by their names."""
    found = {}
    for role in ROLES:
        found[f"{role}.compose.yaml"] = _compose(made, role)
        for what, objects in (("", kubernetes.objects), ("-folder", kubernetes.folder)):
            found[f"{role}{what}.kubernetes.yaml"] = _kubernetes(made, role, objects(made, role))
    return found


def write(folder: Path, made: Deployment) -> tuple[Path, ...]:
    """Write them into ``folder/KIND``, over those of an earlier image; returns their paths."""
    target = folder / made.kind
    with output.blamed_on(target):
        target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in sorted(files(made).items()):
        with output.new_file(target / name) as path:
            path.write_text(text, encoding="utf-8")
        written.append(target / name)
    return tuple(written)


def _compose(made: Deployment, role: Role) -> str:
    needed = compose.variables(made.kind, role)
    told = [f"{name}={value}" for name, value in needed.items()]
    return _text(
        [
            *_head(made, role),
            "In the folder of the party:",
            *(f"  export {one}" for one in told),
            f"  docker compose -f .../{role}.compose.yaml up --detach",
        ],
        [compose.document(made, role)],
    )


def _kubernetes(made: Deployment, role: Role, objects: list[dict[str, Any]]) -> str:
    text = _yaml(objects)
    marks = [f"  {mark}: {words}" for mark, words in kubernetes.FILL_IN.items() if mark in text]
    return _text([*_head(made, role), "Fill in, before it is applied:", *marks], objects)


def _head(made: Deployment, role: Role) -> Iterator[str]:
    yield f"The {role} of {made.image} ({made.kind}). Fill in a copy: fx makes this anew."
    if made.digest:
        yield f"The image was made as {made.digest}."
    if WARNING[made.kind]:
        yield WARNING[made.kind]


def _text(head: Iterable[str], documents: list[dict[str, Any]]) -> str:
    return "".join(f"# {line}\n" for line in head) + _yaml(documents)


def _yaml(documents: list[dict[str, Any]]) -> str:
    """One form for the same objects."""
    return "---\n".join(yaml.safe_dump(one, sort_keys=False, width=100) for one in documents)

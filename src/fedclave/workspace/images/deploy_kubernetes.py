# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests for one role. Pure.

A run ends, so a role is a Job: what fails is started again on the same volume and goes on where it
was; what was refused, or is the party's own mistake, is not. What only the party knows is written
as ``<NAME>``, which neither Kubernetes nor fedclave takes for a value.
"""

from typing import Any

from fedclave.errors import PeerError, UserError
from fedclave.workspace.images import deployment
from fedclave.workspace.images.content import STATE, USER
from fedclave.workspace.images.deployment import AESM, DEVICE, PORT, Deployment, Kind, Role

_FINAL = [UserError.exit_code, PeerError.exit_code]  # another start ends likewise
_STEM = 30  # characters; a name has 63 at most, with what Kubernetes adds
IMAGE, NODE, SGX_GROUP, AESM_GROUP, NAME, HOST = (
    "<REGISTRY>", "<NODE>", "<SGX_GROUP>", "<AESM_GROUP>", "<NAME>", "<HOST>",
)  # fmt: skip
FILL_IN = {
    IMAGE: "where the cluster pulls images from, and the image was pushed to",
    NODE: "the node, as in kubectl get nodes: what is sealed opens on no other machine",
    SGX_GROUP: f"on that node: stat -c %g {DEVICE}",
    AESM_GROUP: f"on that node: stat -c %g {AESM}/aesm.socket",
    NAME: "the collaborator's name",
    HOST: "the aggregator's host, as in its certificate",
}
"""What stands in for each, in words."""


def folder(made: Deployment, role: Role) -> list[dict[str, Any]]:
    """The volume of a party, and a pod that does nothing but hold it while it is filled."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(made, role),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "10Gi"}},
        },
    }
    spec = _pod(made, role, "filling")
    spec["containers"][0] |= {"command": ["sleep", "infinity"]}
    metadata = _metadata(made, role, "-folder")
    metadata["labels"]["app.kubernetes.io/component"] = f"{role}-folder"
    return [claim, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}]


def objects(made: Deployment, role: Role) -> list[dict[str, Any]]:
    """What runs a role: a Job, who may reach it, and for an aggregator the Service to reach it."""
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(made, role),
        "spec": {
            "backoffLimit": 20,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": role, "operator": "In", "values": _FINAL,
                        },
                    },
                    {
                        "action": "Ignore",  # its node was drained, say
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": {
                "metadata": {"labels": _labels(made, role)},
                "spec": _runs(made, role),
            },
        },
    }  # fmt: skip
    served = [_service(made, role)] if role == "aggregator" else []
    return [*served, _policy(made, role), job]


def _runs(made: Deployment, role: Role) -> dict[str, Any]:
    spec = _pod(made, role, "running")
    container = spec["containers"][0]
    program = deployment.entrypoint(made.kind)
    if program is not None:
        container["command"] = [program]
    container["args"] = list(deployment.arguments(made.kind, role, NAME, HOST))
    if role == "aggregator":
        container["ports"] = [{"name": "grpc", "containerPort": PORT}]
        container["readinessProbe"] = {"tcpSocket": {"port": "grpc"}}
    container["resources"] = {"requests": {"cpu": "1", "memory": "1Gi"}}
    if made.kind is Kind.SGX:
        given = {"sgx.intel.com/enclave": "1"}
        given["sgx.intel.com/epc"] = deployment.quantity(made.enclave_size)
        container["resources"]["limits"] = given
        container["volumeMounts"].append({"name": "aesm", "mountPath": AESM, "readOnly": True})
        socket = {"path": AESM, "type": "Directory"}
        spec["volumes"].append({"name": "aesm", "hostPath": socket})
        spec["securityContext"]["supplementalGroups"] = [SGX_GROUP, AESM_GROUP]
    return spec


def _pod(made: Deployment, role: Role, purpose: str) -> dict[str, Any]:
    profile = {"type": "RuntimeDefault"}
    if made.kind is Kind.DIRECT and purpose == "running":
        profile = {"type": "Localhost", "localhostProfile": deployment.SECCOMP}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
    }
    if made.kind is Kind.SGX:
        spec["nodeSelector"] = {"kubernetes.io/hostname": NODE}
    return spec | {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # "Always" would open a party's keys to the group, and keys that are open are refused.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": profile,
        },
        "containers": [
            {
                "name": role,
                "image": f"{IMAGE}/{made.image}",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "state", "mountPath": STATE},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
                ],
            }
        ],
        "volumes": [
            {"name": "state", "persistentVolumeClaim": {"claimName": name(made, role)}},
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        ],
    }


def _service(made: Deployment, role: Role) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(made, role),
        "spec": {
            "selector": _labels(made, role),
            "ports": [{"name": "grpc", "port": PORT, "targetPort": "grpc"}],
        },
    }


def _policy(made: Deployment, role: Role) -> dict[str, Any]:
    """Who may connect to it: anybody to the aggregator's port, nobody to a collaborator."""
    ingress = [{"ports": [{"protocol": "TCP", "port": PORT}]}] if role == "aggregator" else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(made, role),
        "spec": {
            "podSelector": {"matchLabels": _labels(made, role)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def name(made: Deployment, role: Role) -> str:
    """What the objects of a role are called: a DNS label (RFC 1035) that begins with a letter."""
    return f"fedclave-{made.stem[:_STEM].strip('-')}-{role}"


def _metadata(made: Deployment, role: Role, more: str = "") -> dict[str, Any]:
    return {"name": name(made, role) + more, "labels": _labels(made, role)}


def _labels(made: Deployment, role: Role) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "fedclave",
        "app.kubernetes.io/instance": made.stem[:_STEM].strip("-"),
        "app.kubernetes.io/component": role,
    }

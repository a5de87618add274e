"""Names that other programs rely on: those of the existing system, and our own."""

from __future__ import annotations

GROUP = "confidentialcontainers.org"
VERSION = "v1alpha1"

FINALIZER = "peer.pod/finalizer"
"""On every PeerPod from its birth until its instance is gone (the existing system's name)."""
CONFIG_FINALIZER = "confidentialcontainers.org/peerpodconfig"
"""On every PeerPodConfig that has been set up."""

SANDBOX_ANNOTATION = "confidentialcontainers.org/sandbox-id"
CONFIG_ANNOTATION = "confidentialcontainers.org/peerpodconfig"
"""On cluster-scoped objects: NAMESPACE/NAME of the PeerPodConfig that made them (owners must be in the same scope)."""
LIMIT_ANNOTATION = "kata.peerpods.io/limit"
"""On a Node: how many peer pods it may run, beating the PeerPodConfig."""
ORIGINAL_RESOURCES_ANNOTATION = "peerpods.confidentialcontainers.org/original-resources"
"""On a pod: what its containers asked for before the webhook took it away (JSON)."""
NODE_LABEL = "confidentialcontainers.org/node"
"""On a PeerPod: the node whose adaptor made it."""

RUNTIME_CLASS = "kata-remote"
EXTENDED_RESOURCE = "kata.peerpods.io/vm"
KATA_NODE_LABEL = "katacontainers.io/kata-runtime"
"""Set to "true" by kata's installer once the shim is on the node."""

INSTALL_NAMESPACE = "peerpods-system"
CONFIG_NAME = "peerpods"
CONFIG_MAP = "peer-pods-cm"
SECRET = "peer-pods-secret"  # noqa: S105
SSH_SECRET = "ssh-key-secret"  # noqa: S105
PULL_SECRETS_ROLE = "peerpods-pull-secrets"
WEBHOOK = "peerpods-webhook"
WEBHOOK_CA_SECRET = "peerpods-webhook-ca"  # noqa: S105
WEBHOOK_CERT_SECRET = "peerpods-webhook-cert"  # noqa: S105
WEBHOOK_CERT_LEASE = "peerpods-webhook-cert"
WEBHOOK_PATH = "/mutate-v1-pod"

ADAPTOR = "peerpods-adaptor"
RELAY = "peerpods-relay"
PEER_POD_CTRL = "peerpod-ctrl"
PEER_POD_CONFIG_CTRL = "peerpodconfig-ctrl"

PART_OF = "peerpods"


def labels(component: str, managed_by: str = "peerpods") -> dict[str, str]:
    """The labels of an object of ours."""
    return {
        "app.kubernetes.io/name": "peerpods",
        "app.kubernetes.io/part-of": PART_OF,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": managed_by,
    }

"""Settings of `twistd peerpod-ctrl`."""

from __future__ import annotations

import attrs

from peerpods.config import fields as f
from peerpods.kube.objects.names import INSTALL_NAMESPACE, PEER_POD_CTRL

UNNAMED_CLUSTER = "default"
"""The cluster's name when nobody gave it one: other clusters may have it too."""


@attrs.frozen(kw_only=True)
class PeerPodCtrlSettings:
    """Table [peerpod-ctrl]. The providers' own settings: tables [provider.NAME], the environment, and provider-dir."""

    provider: str = f.option(
        "provider",
        f.text("the name of a provider, or nothing", r"([a-z][a-z0-9-]*)?"),
        "",
        "which cloud is swept from the start, and meant by PeerPods that name none; others are used when named",
        env="CLOUD_PROVIDER",
    )
    provider_dir: str = f.option(
        "provider-dir",
        f.optional_path(),
        "",
        "folder with a file per environment variable (a mounted Secret), read again when it changes; files in a "
        "subfolder NAME are for that provider only",
        env="PROVIDER_DIR",
    )
    cluster: str = f.option(
        "cluster", f.text(), UNNAMED_CLUSTER, "the cluster's name, in the VMs' tags", env="CLUSTER_ID"
    )
    namespace: str = f.option(
        "namespace",
        f.text("the name of a namespace", r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"),
        INSTALL_NAMESPACE,
        "where we run and keep our lease",
        env="POD_NAMESPACE",
    )
    deployment: str = f.option("deployment", f.text(), PEER_POD_CTRL, "the Deployment that runs us")
    identity: str = f.option(
        "identity", f.text(), "", "our name in the lease and in events; the host name if unset", env="POD_NAME"
    )
    leader_elect: bool = f.option(
        "leader-elect", f.boolean(), True, "of several replicas let only the holder of the lease act"
    )
    sweep: str = f.option(
        "sweep",
        f.choice("auto", "off", "report", "delete"),
        "auto",
        "VMs of this cluster with no PeerPod and no node: auto deletes them where the cluster has a name of its own, "
        "else reports them",
    )
    sweep_every: float = f.option("sweep-every", f.seconds(10, 86400), 300.0, "seconds between sweeps")
    sweep_limit: int = f.option("sweep-limit", f.integer(1, 1000), 20, "most VMs that one sweep of a cloud deletes")
    adaptor_grace: float = f.option(
        "adaptor-grace",
        f.seconds(0, 3600),
        30.0,
        "how long a deleted PeerPod on a ready node is left to its node's adaptor",
    )
    pod_grace: float = f.option(
        "pod-grace", f.seconds(0, 3600), 30.0, "how long a pod must be gone before its left PeerPod is deleted"
    )
    node_grace: float = f.option(
        "node-grace", f.seconds(0, 86400), 60.0, "how long a node must be gone before its PeerPods are deleted"
    )
    recheck: float = f.option(
        "recheck", f.seconds(10, 86400), 600.0, "how often each PeerPod's pod is looked for, whatever happens"
    )
    release_after: float = f.option(
        "release-after",
        f.seconds(1, 86400),
        240.0,
        "how long a deletion may fail while a namespace or the CRD waits for it; then the PeerPod is let go",
    )
    final_timeout: float = f.option(
        "final-timeout",
        f.seconds(0, 3600),
        240.0,
        "how long we go on after SIGTERM when the installation itself is being deleted",
    )
    workers: int = f.option("workers", f.integer(1, 64), 8, "PeerPods that are looked at at once")
    cloud_calls: int = f.option("cloud-calls", f.integer(1, 256), 16, "deletions at once in one cloud")
    http: str = f.option("http", f.http_address(), "0.0.0.0:8081", "where /metrics, /healthz and /readyz are served")
    log_format: str = f.option("log-format", f.choice("json", "console"), "json", "how log lines look")

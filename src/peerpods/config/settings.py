"""The settings of each service, one frozen class per TOML table. Providers keep theirs in their own package."""

from __future__ import annotations

import attrs

from peerpods.config import fields as f


@attrs.frozen(kw_only=True)
class AdaptorSettings:
    """Table [adaptor]."""

    provider: str = f.option(
        "provider",
        f.text("the name of a provider", r"[a-z][a-z0-9-]*"),
        "",
        "which cloud makes the VMs",
        env="CLOUD_PROVIDER",
        required=True,
    )
    socket: str = f.option(
        "socket",
        f.path(),
        "/run/peerpod/hypervisor.sock",
        "the socket the kata shim dials",
        env="REMOTE_HYPERVISOR_ENDPOINT",
    )
    admin: str = f.option(
        "admin", f.path(), "/run/peerpod/admin.sock", "the socket of the peerpods command (root only)"
    )
    pods_dir: str = f.option(
        "pods-dir",
        f.path(),
        "/run/peerpod/pods",
        "one folder per sandbox with its agent socket; the relay's must be the same",
        env="PODS_DIR",
    )
    state_dir: str = f.option(
        "state-dir", f.path(), "/var/lib/peerpods", "the journal and the sandboxes' keys (root only)"
    )
    relay: str = f.option("relay", f.path(), "/run/peerpod/relay.sock", "the relay's control socket")
    http: str = f.option("http", f.http_address(), "127.0.0.1:8000", "where /metrics, /healthz and /readyz are served")
    probe_port: int = f.option(
        "probe-port",
        f.integer(0, 65535),
        0,
        "when not 0, the port of --http (the existing system's name for it)",
        env="PROBE_PORT",
    )
    node: str = f.option(
        "node", f.text(), "", "this node's name, in tags and logs; the host name if unset", env="NODE_NAME"
    )
    cluster: str = f.option("cluster", f.text(), "default", "the cluster's name, in tags", env="CLUSTER_ID")
    start_timeout: float = f.option(
        "start-timeout",
        f.seconds(5, 3600),
        200.0,
        "longest time a StartVM may take; kubelet ends the pod at 240 s",
        env="PROXY_TIMEOUT",
    )
    keep_failed: float = f.option(
        "keep-failed", f.seconds(0, 86400), 0.0, "how long a VM that never became ready is kept for a look"
    )
    vxlan_port: int = f.option("vxlan-port", f.integer(1, 65535), 4789, "UDP port of the tunnels", env="VXLAN_PORT")
    vxlan_min_id: int = f.option("vxlan-min-id", f.integer(1, 16777215), 555000, "first VNI", env="VXLAN_MIN_ID")
    host_interface: str = f.option(
        "host-interface",
        f.text("an interface name", r"[^/\s]{0,15}"),
        "",
        "the interface that carries the tunnels; of the best default route if unset",
    )
    kubernetes: str = f.option(
        "kubernetes",
        f.choice("auto", "on", "off"),
        "auto",
        "PeerPods, events on pods, pull secrets and the node's limit; auto: in a cluster or with a kubeconfig",
    )
    slow_after: float = f.option(
        "slow-after", f.seconds(0, 3600), 30.0, "when a phase is called slow in the pod's events; 0 for never"
    )
    limit_per_node: int = f.option(
        "limit-per-node",
        f.integer(-1, 100000),
        -1,
        "how many peer pods this node takes, unless the node itself advertises a number; -1 for no limit",
        env="PEERPODS_LIMIT_PER_NODE",
    )
    advertise_capacity: bool = f.option(
        "advertise-capacity",
        f.boolean(),
        False,
        "have the node advertise --limit-per-node, in a cluster without peerpodconfig-ctrl",
    )
    log_format: str = f.option("log-format", f.choice("json", "console"), "json", "how log lines look")


@attrs.frozen(kw_only=True)
class RelaySettings:
    """Table [relay]."""

    control: str = f.option(
        "control", f.path(), "/run/peerpod/relay.sock", "the socket the adaptor gives orders on (root only)"
    )
    pods_dir: str = f.option(
        "pods-dir",
        f.path(),
        "/run/peerpod/pods",
        "one folder per sandbox with its agent socket",
        env="PODS_DIR",
    )
    http: str = f.option("http", f.http_address(), "127.0.0.1:8001", "where /metrics, /healthz and /readyz are served")
    dial_timeout: float = f.option(
        "dial-timeout", f.seconds(0.05, 60), 2.0, "longest time for one attempt to reach a VM"
    )
    log_format: str = f.option("log-format", f.choice("json", "console"), "json", "how log lines look")


@attrs.frozen(kw_only=True)
class GuestSettings:
    """Table [guest]: what the adaptor tells every VM."""

    initdata: str = f.option(
        "initdata", f.text(), "", "initdata for pods that bring none: base64(gzip(TOML))", env="INITDATA"
    )
    auth_json: str = f.option(
        "auth-json", f.optional_path(), "", "file with registry credentials (containers-auth.json), root only"
    )
    registries_json: str = f.option(
        "registries-json", f.optional_path(), "", "file with registry CAs and plain-http hosts"
    )


@attrs.frozen(kw_only=True)
class ForwarderSettings:
    """Flags of the forwarder in the VM; the names of the existing system."""

    config: str = f.option("config", f.path(), "/run/peerpod/apf.json", "what the VM was told at birth")
    listen: str = f.option("listen", f.http_address(), "0.0.0.0:15150", "where the relay is awaited")
    kata_agent_socket: str = f.option(
        "kata-agent-socket", f.path(), "/run/kata-containers/agent.sock", "the agent's socket"
    )
    pod_namespace: str = f.option(
        "pod-namespace", f.path(), "/run/netns/podns", "the pod's network namespace in the VM"
    )
    pod_network: str = f.option(
        "pod-network",
        f.choice("build", "built"),
        "build",
        "who makes the pod's network: build, the forwarder; built, a unit before it, so that it needs no rights",
    )
    log_format: str = f.option("log-format", f.choice("json", "console"), "json", "how log lines look")


@attrs.frozen(kw_only=True)
class AgentSettings:
    """Flags of the development agent."""

    listen: str = f.option("listen", f.path(), "/run/kata-containers/agent.sock", "the socket the forwarder dials")
    state_dir: str = f.option(
        "state-dir", f.path(), "/run/peerpods-agent", "pulled images and containers' own layers (short: holds sockets)"
    )
    log_format: str = f.option("log-format", f.choice("json", "console"), "json", "how log lines look")

"""The settings of `twistd webhook`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from peerpods.config import fields as f
from peerpods.errors import ConfigError
from peerpods.kube.objects import names
from peerpods.kube.webhook.policy import DEFAULT_MEMORY_MIB, DEFAULT_VCPUS, MAX_USER_DATA, Policy

_DAY = 86400.0
_NAME = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_RESOURCE = rf"{_NAME}/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"


@attrs.frozen(kw_only=True)
class WebhookSettings:
    """Table [webhook]."""

    listen: str = f.option("listen", f.http_address(), "0.0.0.0:9443", "where the API server finds us, by HTTPS")
    http: str = f.option("http", f.http_address(), "0.0.0.0:8081", "where /metrics, /healthz and /readyz are served")
    runtime_classes: str = f.option(
        "runtime-classes",
        f.text("CLASS=RESOURCE, more after commas", rf"({_NAME}={_RESOURCE}(,{_NAME}={_RESOURCE})*)?"),
        "",
        "the runtime classes of peer pods, each with the extended resource that counts its VMs; "
        "if unset, one class of target-runtimeclass and vm-resource",
    )
    target_runtimeclass: str = f.option(
        "target-runtimeclass",
        f.text("a runtime class", _NAME),
        names.RUNTIME_CLASS,
        "the one runtime class, when runtime-classes is not set",
        env="TARGET_RUNTIMECLASS",
    )
    vm_resource: str = f.option(
        "vm-resource",
        f.text("an extended resource", _RESOURCE),
        names.EXTENDED_RESOURCE,
        "its extended resource",
        env="POD_VM_EXTENDED_RESOURCE",
    )
    default_vcpus: int = f.option(
        "default-vcpus",
        f.integer(0, 4096),
        DEFAULT_VCPUS,
        "cpus of the VM of a pod that asks for memory alone; 0: left to the provider",
    )
    default_memory: int = f.option(
        "default-memory",
        f.integer(0, 1 << 26),
        DEFAULT_MEMORY_MIB,
        "MiB of the VM of a pod that asks for cpu alone; 0: left to the provider",
    )
    machine_types: str = f.option(
        "machine-types",
        f.text("names or patterns (t3.*), separated by commas"),
        "",
        "the machine types that exist; a pod with another one gets a warning; if unset, any",
    )
    max_user_data: int = f.option(
        "max-user-data",
        f.integer(0, 1 << 24),
        MAX_USER_DATA,
        "largest unpacked initdata in bytes; a pod with more gets a warning",
    )
    deny_hopeless: bool = f.option(
        "deny-hopeless",
        f.boolean(),
        False,
        "refuse pods that can never work (hostNetwork, hostPID, hostIPC, unknown machine type, bad initdata)",
    )
    cert_dir: str = f.option(
        "cert-dir",
        f.optional_path(),
        "/tmp/k8s-webhook-server/serving-certs",  # noqa: S108 - the existing system's mount point
        "folder with tls.crt and tls.key, such as cert-manager's Secret; read again when they change",
    )
    cert_poll: float = f.option(
        "cert-poll", f.seconds(0.1, 600), 5.0, "how often cert-dir is looked at for a new certificate"
    )
    self_managed_tls: bool = f.option(
        "self-managed-tls",
        f.boolean(),
        False,
        "make and renew the certificates ourselves, in Secrets, and tell the API server of them; cert-dir is not read",
    )
    namespace: str = f.option(
        "namespace", f.text("a namespace", _NAME), names.INSTALL_NAMESPACE, "our own namespace", env="POD_NAMESPACE"
    )
    identity: str = f.option("identity", f.text(), "", "this replica's name; the host name if unset", env="POD_NAME")
    service_name: str = f.option(
        "service-name", f.text("a service", _NAME), names.WEBHOOK, "the Service in front of us, in the certificate"
    )
    configuration_name: str = f.option(
        "configuration-name",
        f.text("a MutatingWebhookConfiguration", _NAME),
        names.WEBHOOK,
        "whose caBundle self-managed TLS keeps right",
    )
    extra_names: str = f.option(
        "extra-names",
        f.text("DNS names or addresses, separated by commas"),
        "",
        "further names in the self-managed certificate",
    )
    cert_lifetime: float = f.option(
        "cert-lifetime",
        f.seconds(2, 3650 * _DAY),
        90 * _DAY,
        "how long a self-managed certificate is good; it is renewed after two thirds of that",
    )
    ca_lifetime: float = f.option(
        "ca-lifetime", f.seconds(6, 36500 * _DAY), 3650 * _DAY, "the same for the self-managed authority"
    )
    ca_overlap: float = f.option(
        "ca-overlap",
        f.seconds(0.5, 30 * _DAY),
        600.0,
        "how long a new authority is known before it signs, and an old one after its last certificate was replaced",
    )
    drain: float = f.option(
        "drain",
        f.seconds(0, 4),
        2.0,
        "how long a stopping service still answers, not ready, while the cluster takes it out of the Service",
    )
    tls_min_version: str = f.option(
        "tls-min-version", f.text("VersionTLS12 or VersionTLS13"), "", "lowest TLS version", env="TLS_MIN_VERSION"
    )
    tls_cipher_suites: str = f.option(
        "tls-cipher-suites",
        f.text("IANA names, separated by commas"),
        "",
        "cipher suites of TLS 1.2",
        env="TLS_CIPHER_SUITES",
    )
    log_format: str = f.option("log-format", f.choice("json", "console"), "json", "how log lines look")

    def classes(self) -> Mapping[str, str]:
        """Runtime class to extended resource.

        Raises:
            ConfigError: a class is named twice.
        """
        if not self.runtime_classes:
            return {self.target_runtimeclass: self.vm_resource}
        pairs = [pair.split("=", 1) for pair in self.runtime_classes.split(",")]
        classes = dict(pairs)
        if len(classes) < len(pairs):
            raise ConfigError("runtime-classes names a class twice", setting="runtime-classes")
        return classes

    def check(self) -> None:
        """Find settings that contradict each other.

        Raises:
            ConfigError: naming them.
        """
        self.classes()
        if not self.listen:
            raise ConfigError("listen is empty", setting="listen", remedy="give an address and a port")
        if not self.self_managed_tls and not self.cert_dir:
            raise ConfigError("there is no certificate", remedy="give --cert-dir or --self-managed-tls true")
        if self.self_managed_tls and self.ca_lifetime < max(6 * self.ca_overlap, 2 * self.cert_lifetime):
            raise ConfigError(
                "ca-lifetime is too short",
                setting="ca-lifetime",
                remedy="it must be at least twice cert-lifetime and six times ca-overlap",
            )

    def policy(self) -> Policy:
        """How pods are judged."""
        return Policy(
            classes=self.classes(),
            default_vcpus=self.default_vcpus,
            default_memory_mib=self.default_memory,
            machine_types=tuple(listed(self.machine_types)),
            max_user_data=self.max_user_data,
            deny=self.deny_hopeless,
        )

    def dns_names(self) -> list[str]:
        """Names and addresses that the self-managed certificate is for."""
        service = f"{self.service_name}.{self.namespace}"
        return [f"{service}.svc", f"{service}.svc.cluster.local", service, *listed(self.extra_names)]


def listed(text: str) -> list[str]:
    """The names in a list with commas or blanks."""
    return [name for name in re.split(r"[,\s]+", text) if name]

"""Settings of `twistd peerpodconfig-ctrl`."""

from __future__ import annotations

import attrs

from peerpods.config import fields as f
from peerpods.kube.objects.names import INSTALL_NAMESPACE


@attrs.frozen(kw_only=True)
class PeerPodConfigCtrlSettings:
    """Table [peerpodconfig-ctrl]."""

    namespace: str = f.option(
        "namespace",
        f.text("the name of a namespace", r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"),
        INSTALL_NAMESPACE,
        "the namespace of this controller; the PeerPodConfig that counts is there",
        env="POD_NAMESPACE",
    )
    identity: str = f.option(
        "identity",
        f.text(),
        "",
        "this process's name in the lease and in events; the host name if unset",
        env="POD_NAME",
    )
    image: str = f.option(
        "image",
        f.text(),
        "",
        "the image of adaptor, relay and webhook where the PeerPodConfig names none; peerpods:VERSION if unset",
        env="RELATED_IMAGE_PEERPODS",
    )
    resync: float = f.option(
        "resync",
        f.seconds(1, 3600),
        30.0,
        "seconds between two looks at what nobody reports: the Secret, the state of the pods",
    )
    finish: float = f.option(
        "finish",
        f.seconds(0, 3600),
        240.0,
        "longest time the end of this process waits for a deletion under way when its namespace or Deployment goes",
    )
    http: str = f.option("http", f.http_address(), "0.0.0.0:8081", "where /metrics, /healthz and /readyz are served")
    log_format: str = f.option("log-format", f.choice("json", "console"), "json", "how log lines look")

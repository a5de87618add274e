"""How a service reaches the API server."""

from __future__ import annotations

import attrs

from peerpods.config import fields as f


@attrs.frozen(kw_only=True)
class KubeSettings:
    """Table [kubernetes]."""

    kubeconfig: str = f.option(
        "kubeconfig",
        f.optional_path(),
        "",
        "kubeconfig file; in a cluster the pod's own service account if unset",
        env="KUBECONFIG",
    )
    context: str = f.option(
        "kube-context", f.text(), "", "which context of the kubeconfig file; its current one if unset"
    )

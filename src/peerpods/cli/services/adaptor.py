"""`twistd adaptor`: flags and wiring. Needs the asyncio reactor for netlink."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from twisted.application.service import IService

from peerpods.cli.services.common import (
    Guarded,
    ServiceOptions,
    WithHttp,
    die,
    need_asyncio_reactor,
    options_class,
)
from peerpods.clouds import registry
from peerpods.config.load import Mistakes, read_file, sub_table
from peerpods.config.resolve import Mistake, nearest
from peerpods.config.settings import AdaptorSettings, GuestSettings
from peerpods.kube.client.settings import KubeSettings

need_asyncio_reactor("adaptor")


def flag_value(argv: list[str], flag: str) -> str | None:
    """The value of `--flag VALUE` or `--flag=VALUE` on a command line; the last one counts."""
    found = None
    for index, word in enumerate(argv):
        if word == f"--{flag}" and index + 1 < len(argv):
            found = argv[index + 1]
        elif word.startswith(f"--{flag}="):
            found = word.partition("=")[2]
    return found


def chosen_provider(argv: list[str], environ: dict[str, str]) -> str:
    """Which provider's flags are to be understood: decided before the flags are parsed.

    Raises:
        Mistakes: when the name is no provider's.
    """
    name, setting = flag_value(argv, "provider"), "--provider"
    if name is None and environ.get("CLOUD_PROVIDER"):
        name, setting = environ["CLOUD_PROVIDER"], "CLOUD_PROVIDER"
    if name is None:
        value = sub_table(read_file(flag_value(argv, "config") or ""), "adaptor").get("provider")
        name, setting = (value if isinstance(value, str) else ""), "[adaptor] provider"
    if name and name not in registry.names():
        allowed = "one of " + ", ".join(registry.names())
        raise Mistakes([Mistake(setting, repr(name), allowed, nearest(name, registry.names()))])
    return name


def uses_kubernetes(settings: AdaptorSettings, kube: KubeSettings, environ: Mapping[str, str]) -> bool:
    """Whether the API server is to be used: as said, or in a pod of a cluster, or with a kubeconfig file."""
    if settings.kubernetes != "auto":
        return settings.kubernetes == "on"
    return bool(kube.kubeconfig or environ.get("KUBERNETES_SERVICE_HOST"))


def Options() -> ServiceOptions:
    """Flags of the adaptor and of the provider that the command line, environment or file names."""
    tables: list[tuple[type[Any], str]] = [
        (AdaptorSettings, "adaptor"),
        (GuestSettings, "guest"),
        (KubeSettings, "kubernetes"),
    ]
    try:
        provider = chosen_provider(sys.argv, dict(os.environ))
    except Mistakes as error:
        die("adaptor", str(error).splitlines())
    if provider:
        tables.append((registry.settings_class(provider), f"provider.{provider}"))
    cls = options_class("adaptor", tuple(tables))
    cls.providers = tuple(registry.names())
    return cls()


def makeService(options: ServiceOptions) -> IService:
    """The adaptor with its provider and its HTTP port."""
    from twisted.internet import reactor

    from peerpods.adaptor.service import make_service
    from peerpods.obs import ready, structured
    from peerpods.obs.http import make_http_service

    settings, guest, kube_settings, provider_settings = options.settings
    structured.set_up(settings.log_format, "adaptor")

    def make() -> IService:
        provider = registry.make_provider(settings.provider, provider_settings, reactor)
        address = settings.http
        if settings.probe_port:
            address = f"127.0.0.1:{settings.probe_port}"
        http = make_http_service(reactor, address, lambda: ready.is_ready(["adaptor"])) if address else None
        kube = kube_settings if uses_kubernetes(settings, kube_settings, os.environ) else None
        return WithHttp(make_service(settings, guest, provider, reactor, kube), http)

    return Guarded("adaptor", make, reactor)

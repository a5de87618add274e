"""Where the API server is and how we prove who we are. The `_thd_` functions block: they run in a thread."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs

from peerpods.errors import ConfigError

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where the kubelet puts a pod's token and the cluster's CA."""


@attrs.frozen(kw_only=True)
class Access:
    """One state of the credentials."""

    url: str
    """`https://HOST:PORT`, with a path before `/api` if a proxy in front wants one; no slash at the end."""
    authorization: str = attrs.field(default="", repr=False)
    """Value of the Authorization header; empty for none."""
    context: ssl.SSLContext | None = attrs.field(default=None, eq=False, repr=False)
    """None for plain HTTP."""
    server_name: str = ""
    """Name to find in the server's certificate; empty for the URL's own host, be it a name or an address."""
    material: str = attrs.field(default="", repr=False)
    """Fingerprint of what the context was made of: equal ones need no new connections."""


class Source(Protocol):
    """Something that knows the credentials of now."""

    @property
    def where(self) -> str:
        """For messages."""

    def _thd_load(self, before: Access | None, force: bool) -> Access:
        """Read the credentials; blocks.

        Args:
            before: what the last call gave.
            force: the server refused `before`: get new ones even if these have not expired.

        Raises:
            ConfigError: they cannot be read.
        """


@attrs.frozen(kw_only=True)
class _Tls:
    """Files of a TLS client; empty for none."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True

    def material(self) -> str:
        digest = hashlib.sha256(repr(self).encode())
        for path in (self.ca, self.cert, self.key):
            digest.update(b"|" + (Path(path).read_bytes() if path else b""))
        return digest.hexdigest()

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Go, which issues and checks these certificates everywhere else, takes any certificate of the bundle as a
        # root, and does not ask for the extensions of VERIFY_X509_STRICT that old clusters' CAs lack.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca:
            context.load_verify_locations(cafile=self.ca)
        else:
            context.load_default_certs()
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


def _access(where: str, url: str, authorization: str, tls: _Tls, server_name: str, before: Access | None) -> Access:
    """Build a new state, keeping the TLS context when nothing it was made of has changed."""
    if url.startswith("http://"):
        return Access(url=url.rstrip("/"), authorization=authorization)
    if not url.startswith("https://"):
        raise ConfigError(f"{where}: the API server's address {url!r} begins neither with https:// nor with http://")
    try:
        material = tls.material()
        context = before.context if before and before.material == material else tls.context()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{where}: cannot load the CA or the client certificate: {error}") from None
    return Access(
        url=url.rstrip("/"),
        authorization=authorization,
        context=context,
        server_name=server_name,
        material=material,
    )


class InCluster:
    """The pod's own service account. The token is read anew each time: the kubelet replaces it."""

    where = "the pod's service account"

    def __init__(self, environ: Mapping[str, str], folder: str = SERVICE_ACCOUNT) -> None:
        self._host = environ.get("KUBERNETES_SERVICE_HOST", "")
        self._port = environ.get("KUBERNETES_SERVICE_PORT", "")
        self._folder = folder

    def _thd_load(self, before: Access | None, force: bool) -> Access:
        if not self._host or not self._port:
            raise ConfigError(
                "no way to the Kubernetes API server is configured",
                setting="kubeconfig",
                remedy="set --kubeconfig or KUBECONFIG, or run in a pod, where KUBERNETES_SERVICE_HOST is set",
            )
        folder = Path(self._folder)
        try:
            token = (folder / "token").read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"cannot read the service account's token: {error}",
                remedy="the pod needs automountServiceAccountToken: true",
            ) from None
        host = f"[{self._host}]" if ":" in self._host else self._host
        tls = _Tls(ca=str(folder / "ca.crt"))
        return _access(self.where, f"https://{host}:{self._port}", f"Bearer {token}", tls, "", before)


_NOTHING = "Invalid kube-config file. No configuration found."
"""The package's words for files that are missing."""


class Kubeconfig:
    """A kubeconfig file, read by the `kubernetes` package, which knows exec plugins and the like.

    The package takes 37 MiB: it is imported only here.
    """

    def __init__(self, path: str, context: str = "") -> None:
        self.where = f"kubeconfig {path}"
        self._path = path
        self._context = context or None
        self._loaded: Any = None

    def _thd_load(self, before: Access | None, force: bool) -> Access:
        from kubernetes.client import Configuration

        if self._loaded is None or force or not self._keeps_itself_fresh(self._loaded):
            loaded = type.__call__(Configuration)
            loaded.host = ""
            self._thd_read(loaded)
            self._loaded = loaded
        elif self._loaded.refresh_api_key_hook is not None:
            # Runs the plugin again when its token has expired, and else does nothing.
            self._loaded.refresh_api_key_hook(self._loaded)
        return self._build(self._loaded, before)

    @staticmethod
    def _keeps_itself_fresh(loaded: Any) -> bool:
        """Whether a plugin gave the token: those are run again only when needed. Files are read each time."""
        return bool(getattr(loaded, "peerpods_plugin", False))

    def _thd_read(self, loaded: Any) -> None:
        from kubernetes.config import kube_config

        make: Any = kube_config._get_kube_config_loader
        try:
            loader = make(filename=self._path, active_context=self._context, persist_config=False)
            loader.load_and_set(loaded)
        except Exception as error:
            # The package raises what its parsers raise: KeyError, YAMLError, binascii.Error, ...
            words = str(error).strip().splitlines() or [type(error).__name__]
            said = words[0].replace(_NOTHING, "there is no such file")
            raise ConfigError(f"{self.where}: {said}", setting="kubeconfig") from None
        user = getattr(getattr(loader, "_user", None), "value", None) or {}
        # Configuration's own `proxy` comes from the environment too.
        loaded.peerpods_proxy = bool(vars(loader).get("proxy"))
        loaded.peerpods_plugin = "exec" in user or "auth-provider" in user
        if loaded.peerpods_plugin and not loaded.api_key and not loaded.cert_file:
            command = (user.get("exec") or {}).get("command", "the auth provider")
            raise ConfigError(
                f"{self.where}: {command!r} gave no credentials",
                setting="kubeconfig",
                remedy="run it by hand as this user; its own words are in the log",
            )

    def _build(self, loaded: Any, before: Access | None) -> Access:
        if not loaded.host:
            raise ConfigError(f"{self.where}: the context's cluster has no server", setting="kubeconfig")
        if loaded.peerpods_proxy:
            raise ConfigError(
                f"{self.where}: proxy-url is not supported",
                setting="kubeconfig",
                remedy="use an address of the API server that can be reached directly",
            )
        tls = _Tls(
            ca=loaded.ssl_ca_cert or "",
            cert=loaded.cert_file or "",
            key=loaded.key_file or "",
            verify=bool(loaded.verify_ssl),
        )
        # Both names have been in use: the loader's and the OpenAPI generator's.
        authorization = loaded.api_key.get("BearerToken") or loaded.api_key.get("authorization") or ""
        return _access(self.where, loaded.host, authorization, tls, loaded.tls_server_name or "", before)

"""What the adaptor's environment will be, and what can be said about it without asking the cloud. Pure."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from peerpods.clouds import registry
from peerpods.config.resolve import Mistake, resolve
from peerpods.errors import ConfigError
from peerpods.kube.peerpodconfig.spec import Config

SECRET_MIN = 4
"""Characters from which a secret value is cut out of words; shorter ones would tear ordinary words."""


class Verdict(enum.Enum):
    """What is known of the cloud's settings."""

    FINE = "Verified"
    PENDING = "Checking"
    ON_NODES = "CheckedOnNodes"
    """The provider works on the node itself: the adaptor's own check at its start is the only one there can be."""
    MISSING = "Missing"
    WRONG = "WrongSettings"
    REFUSED = "Refused"
    UNREACHABLE = "Unreachable"
    """The cloud did not answer from here; it may from the nodes."""


@attrs.frozen
class Credentials:
    """A verdict with its words."""

    verdict: Verdict
    words: str


@attrs.frozen(kw_only=True)
class Environment:
    """The variables of ConfigMap and Secret, as the adaptor gets them."""

    values: Mapping[str, str] = attrs.field(repr=False)
    secrets: frozenset[str] = attrs.field(repr=False)
    """Values that must not be in any text."""
    secret_keys: frozenset[str]
    provider: str
    checksum: str
    """Changes with the values; tells nothing about them."""
    missing: tuple[str, ...] = ()
    """Names of the objects that are not there."""

    def scrub(self, text: str) -> str:
        """Text without secret values."""
        for value in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(value, "(secret)")
        return text


def environment(config: Config, secret: Mapping[str, Any] | None, config_map: Mapping[str, Any] | None) -> Environment:
    """Put ConfigMap and Secret together; of a key in both, the ConfigMap's counts, as for the adaptor.

    The checksum is keyed by the objects' uids: whoever may read it on the DaemonSet, but not the Secret, cannot try
    guesses against it.
    """
    hidden = _decoded(secret or {})
    plain = {str(key): str(value) for key, value in ((config_map or {}).get("data") or {}).items()}
    values = {**hidden, **plain}
    key = "".join(str((one or {}).get("metadata", {}).get("uid", "")) for one in (secret, config_map)) or "none"
    digest = hmac.new(key.encode(), digestmod=hashlib.sha256)
    for name, value in sorted(values.items()):
        for part in (name, value):
            digest.update(len(part.encode()).to_bytes(8, "big") + part.encode())
    wanted = ((config.config_map, config_map, "ConfigMap"), (config.secret, secret, "Secret"))
    return Environment(
        values=values,
        secrets=frozenset(value.strip() for value in hidden.values() if len(value.strip()) >= SECRET_MIN),
        secret_keys=frozenset(hidden) - frozenset(plain),
        provider=config.provider or values.get("CLOUD_PROVIDER", ""),
        checksum=digest.hexdigest()[:32] if values else "",
        missing=tuple(f"{kind} {name}" for name, found, kind in wanted if name and found is None),
    )


def _decoded(secret: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue  # kubelet gives no variable for it either
    return found


def judge(config: Config, env: Environment) -> tuple[Credentials | None, Any]:
    """The verdict, None when the cloud must be asked for it; and the provider's settings, None when they are wrong."""
    if not env.provider:
        return Credentials(Verdict.MISSING, _no_provider(config, env)), None
    try:
        cls = registry.settings_class(env.provider)
    except ConfigError as error:
        return Credentials(Verdict.WRONG, str(error)), None
    resolved = resolve(cls, flags={}, environ=env.values, table={}, table_name=f"provider.{env.provider}")
    if resolved.settings is None:
        lines = "; ".join(_hidden(one, env) for one in resolved.mistakes)
        return Credentials(Verdict.WRONG, env.scrub(f"{lines}{_absent(config, env)}")), None
    if _on_node(env.provider, resolved.settings):
        words = f"provider {env.provider} works on the nodes themselves; each adaptor checks it when it starts"
        return Credentials(Verdict.ON_NODES, words), resolved.settings
    return None, resolved.settings


def _hidden(mistake: Mistake, env: Environment) -> str:
    if mistake.setting in env.secret_keys and mistake.value:
        return str(attrs.evolve(mistake, value="(a secret value)"))
    return str(mistake)


def _no_provider(config: Config, env: Environment) -> str:
    absent = _absent(config, env)
    known = ", ".join(registry.names())
    return (
        f"no provider is named: set CLOUD_PROVIDER in the ConfigMap {config.config_map} of namespace "
        f"{config.namespace}, or spec.provider (one of {known}){absent}"
    )


def _absent(config: Config, env: Environment) -> str:
    if not env.missing:
        return ""
    named = " and ".join(env.missing)
    kinds = "; ".join(
        f"kubectl -n {config.namespace} create {'secret generic' if one.startswith('Secret') else 'configmap'} "
        f"{one.split()[1]} --from-literal=KEY=VALUE"
        for one in env.missing
    )
    return f"; {named} missing ({kinds})"


def _on_node(provider: str, settings: Any) -> bool:
    if provider == "netns":
        return True
    uri = urlsplit(str(getattr(settings, "uri", "")))
    return bool(uri.scheme) and not uri.netloc

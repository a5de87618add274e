"""Self-managed certificates: what to do next, seen from what there is. Pure; the shell is `keeper`.

An authority signs the serving certificate. Before a new authority signs anything, every API server must know it, and
an old one is forgotten only when nobody shows its certificates any more:

| step | Secret …-ca | caBundle | Secret …-cert |
|---|---|---|---|
| first | ca | ca | signed by ca |
| two thirds of ca's life have gone | ca, next | ca, next | |
| `overlap` later, and the bundle has next | next becomes ca, ca becomes old | ca, old | signed anew |
| `overlap` after that | ca | ca | |

A Secret that somebody deletes or spoils is made anew; the bundle then keeps the authority of the certificate that is
still being shown (`ca.crt` in its Secret). A bundle that somebody overwrites is put right.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from peerpods.kube.webhook.authority import Look, look


@attrs.frozen(kw_only=True)
class Terms:
    """What the operator has set."""

    names: tuple[str, ...]
    """Of the serving certificate."""
    overlap: timedelta


@attrs.frozen(kw_only=True)
class CaState:
    """The Secret with the authority, read. Only sound parts are there."""

    ca: Look
    ca_pem: str
    key_pem: str = attrs.field(repr=False)
    next: Look | None = None
    next_pem: str = ""
    next_key: str = attrs.field(default="", repr=False)
    old_pem: str = ""
    next_broken: bool = False

    @property
    def bundle(self) -> str:
        """All authorities an API server must know, PEM. The order tells nothing: a promotion does not change it."""
        return "".join(sorted({pem.strip() + "\n" for pem in (self.ca_pem, self.next_pem, self.old_pem) if pem}))


@attrs.frozen(kw_only=True)
class CertState:
    """The Secret with the serving certificate, read."""

    leaf: Look
    ca_pem: str


@attrs.frozen
class Hook:
    """One webhook of ours in the MutatingWebhookConfiguration."""

    index: int
    name: str
    bundle: str | None
    """caBundle as it stands (base64); None when it is not there."""


class Action:
    """What the shell is to do; it looks again afterwards."""


@attrs.frozen
class NewAuthority(Action):
    """There is none, or no use in it: make one."""

    old_pem: str
    """The authority of the certificate still in use, to be kept in the bundle; may be empty."""


@attrs.frozen
class NextAuthority(Action):
    """Make the coming authority, which does not sign yet."""


@attrs.frozen
class Promote(Action):
    """The coming authority signs from now on."""


@attrs.frozen
class ForgetOld(Action):
    """Nobody shows the old authority's certificates any more."""


@attrs.frozen
class NewCertificate(Action):
    """Sign a serving certificate."""

    why: str


@attrs.frozen
class SetBundle(Action):
    """Write the bundle (base64) into this webhook."""

    hook: Hook
    bundle: str


def decide(
    now: datetime, ca: CaState | None, cert: CertState | None, hooks: Sequence[Hook], terms: Terms
) -> list[Action]:
    """What is to be done now; nothing when all is well. Doing it and deciding again ends in nothing.

    Args:
        hooks: empty when there is no configuration yet.
    """
    if ca is None or ca.ca.ends <= now:
        old = cert.ca_pem if cert is not None and cert.leaf.ends > now else ""
        return [NewAuthority(old)]
    wanted = encode(ca.bundle)
    actions: list[Action] = [SetBundle(hook, wanted) for hook in hooks if hook.bundle != wanted]
    if ca.next_broken or (now >= ca.ca.renew_at and ca.next is None):
        return [*actions, NextAuthority()]
    why = _why_new(now, ca, cert, terms)
    in_use = cert is not None and cert.leaf.ends > now
    if actions and in_use:
        # A certificate is changed only when the API servers know its authority.
        return actions
    if why:
        return [*actions, NewCertificate(why)]
    if ca.next is not None and now >= _promote_at(ca, ca.next, terms):
        return [*actions, Promote()]
    if ca.old_pem and cert is not None and now >= cert.leaf.made + terms.overlap:
        return [*actions, ForgetOld()]
    return actions


def next_look(now: datetime, ca: CaState | None, cert: CertState | None, terms: Terms) -> float:
    """Seconds until something falls due; at least a moment, at most ten minutes."""
    due = [now + timedelta(minutes=10)]
    if cert is not None:
        due += [cert.leaf.renew_at, cert.leaf.made + terms.overlap, cert.leaf.ends]
    if ca is not None:
        due += [ca.ca.renew_at, ca.ca.ends, *([_promote_at(ca, ca.next, terms)] if ca.next else [])]
    ahead = [(moment - now).total_seconds() for moment in due if moment > now]
    return max(0.2, min(ahead))


def _promote_at(ca: CaState, coming: Look, terms: Terms) -> datetime:
    """When the coming authority takes over: well before the present one ends, whatever the settings were then."""
    return coming.made + min(terms.overlap, max(ca.ca.ends - coming.made, timedelta(0)) / 2)


def _why_new(now: datetime, ca: CaState, cert: CertState | None, terms: Terms) -> str:
    if cert is None:
        return "there is none"
    if cert.leaf.ends <= now:
        return "it has ended"
    if not cert.leaf.signed_by(ca.ca):
        return "another authority signed it"
    if not set(terms.names) <= set(cert.leaf.names()):
        return "it lacks a name"
    # One that ends with its authority cannot be bettered by signing again.
    if now >= cert.leaf.renew_at and cert.leaf.ends < ca.ca.ends:
        return "two thirds of its life have gone"
    return ""


def read_ca(secret: Mapping[str, Any] | None) -> CaState | None:
    """The authority's Secret; None when it is missing or no use."""
    data = decode_data(secret)
    pem, key = data.get("ca.crt", ""), data.get("ca.key", "")
    ca = look(pem, key) if key else None
    if ca is None:
        return None
    next_pem, next_key = data.get("next.crt", ""), data.get("next.key", "")
    coming = look(next_pem, next_key) if next_pem and next_key else None
    old = data.get("old.crt", "")
    return CaState(
        ca=ca,
        ca_pem=pem,
        key_pem=key,
        next=coming,
        next_pem=next_pem if coming else "",
        next_key=next_key if coming else "",
        old_pem=old if old and look(old) else "",
        next_broken=bool(next_pem or next_key) and coming is None,
    )


def read_cert(secret: Mapping[str, Any] | None) -> CertState | None:
    """The serving certificate's Secret; None when it is missing or no use."""
    data = decode_data(secret)
    key = data.get("tls.key", "")
    leaf = look(data.get("tls.crt", ""), key) if key else None
    if leaf is None:
        return None
    ca = data.get("ca.crt", "")
    return CertState(leaf=leaf, ca_pem=ca if ca and look(ca) else "")


def our_hooks(configuration: Mapping[str, Any] | None, service: str, namespace: str, path: str) -> list[Hook]:
    """The webhooks that lead to us: by our Service, or by a URL with our path. All others are not ours to change."""
    found = []
    webhooks = (configuration or {}).get("webhooks")
    for index, webhook in enumerate(webhooks if isinstance(webhooks, list) else []):
        client = webhook.get("clientConfig") if isinstance(webhook, dict) else None
        if not isinstance(client, dict):
            continue
        target = client.get("service")
        if isinstance(target, dict):
            ours = target.get("name") == service and target.get("namespace") == namespace
        else:
            ours = str(client.get("url", "")).partition("?")[0].endswith(path)
        if ours:
            found.append(Hook(index, str(webhook.get("name", "")), client.get("caBundle")))
    return found


def encode(text: str) -> str:
    """As Kubernetes keeps bytes in JSON."""
    return base64.b64encode(text.encode()).decode()


def decode_data(secret: Mapping[str, Any] | None) -> dict[str, str]:
    """The texts in a Secret; what is no text is left out."""
    data = (secret or {}).get("data")
    found = {}
    for key, value in data.items() if isinstance(data, dict) else ():
        try:
            found[str(key)] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError, TypeError):
            continue
    return found

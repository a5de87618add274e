"""The whole service in this process, with certificates in a folder; and its settings."""

import os
from datetime import timedelta

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from peerpods.config.load import Loader, Mistakes
from peerpods.errors import ConfigError, LocalFailure
from peerpods.kube.client import KubeSettings
from peerpods.kube.webhook import meters, service
from peerpods.kube.webhook.pair import read_pair
from peerpods.kube.webhook.service import READY, WebhookService
from peerpods.kube.webhook.settings import WebhookSettings
from peerpods.kube.webhook.tlsrules import TlsRules
from peerpods.obs import ready
from tests.kube.webhook.pods import container, pod
from tests.kube.webhook.secure import DAY, Client, authority, certificate, in_thread, now
from tests.kube.webhook.test_review import review

CERT_CA = authority()


def put(folder, leaf):
    """As a mounted Secret changes: a new folder, then a link swung over."""
    fresh = folder / f"..{os.urandom(4).hex()}"
    fresh.mkdir()
    (fresh / "tls.crt").write_text(leaf.cert)
    (fresh / "tls.key").write_text(leaf.key)
    link = folder / "..new"
    link.symlink_to(fresh.name)
    link.replace(folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


async def until(condition, seconds=60):
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline
        moment = Deferred()
        reactor.callLater(0.02, moment.callback, None)
        await moment


def is_ready():
    return ready.is_ready([READY])


def loads(result):
    return meters.CERTIFICATE_LOADS.labels(result)._value.get()


@pytest_twisted.async_yield_fixture
async def start(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "PROBE_EVERY", 0.1)
    running = []

    async def begin(**changes):
        settings = WebhookSettings(
            listen="127.0.0.1:0", cert_dir=str(tmp_path), cert_poll=0.1, drain=0.1, runtime_classes="kata-remote=x.y/z"
        )
        one = WebhookService(attrs.evolve(settings, **changes), KubeSettings(), reactor)
        running.append(one)
        await one.startService()
        return one

    yield begin
    for one in running:
        if one.running:
            await one.stopService()
    ready.unmark(READY)


@pytest_twisted.ensureDeferred
async def test_not_ready_without_a_certificate_and_ready_with_one(start, tmp_path):
    one = await start()
    assert one.port.getHost().port
    await until(lambda: one._source._trouble)
    assert not is_ready()
    put(tmp_path, certificate(CERT_CA))
    await until(is_ready)
    client = Client(one.port.getHost().port, CERT_CA)
    status, _, answer = await in_thread(client.review, review(pod(container("a"))))
    assert (status, answer["response"]["allowed"]) == (200, True)
    client.close()
    await one.stopService()
    assert not is_ready()


@pytest_twisted.ensureDeferred
async def test_a_new_pair_is_taken_and_a_broken_one_is_not(start, tmp_path):
    put(tmp_path, certificate(CERT_CA))
    one = await start()
    await until(is_ready)
    first = one._context.pair
    expiry = meters.CERTIFICATE_EXPIRY._value.get()
    assert expiry == first.not_after.timestamp()
    broken = loads("broken")
    put(tmp_path, attrs.evolve(certificate(CERT_CA), key=certificate(CERT_CA).key))
    await until(lambda: loads("broken") == broken + 1)
    assert one._context.pair is first
    put(tmp_path, attrs.evolve(certificate(CERT_CA), cert="nonsense"))
    await until(lambda: loads("broken") == broken + 2)
    assert is_ready()
    good = certificate(CERT_CA, life=DAY / 2)
    put(tmp_path, good)
    await until(lambda: one._context.pair.cert == good.cert)
    assert meters.CERTIFICATE_EXPIRY._value.get() < expiry
    client = Client(one.port.getHost().port, CERT_CA)
    assert await in_thread(client.shown) == one._context.pair.der
    client.close()
    (tmp_path / "..data").unlink()
    await until(lambda: one._source._trouble)
    assert one._context.pair.cert == good.cert


@pytest_twisted.ensureDeferred
async def test_an_ended_certificate_is_not_ready(start, tmp_path):
    put(tmp_path, certificate(CERT_CA, at=now() - timedelta(days=2)))
    one = await start()
    await until(lambda: one._failures >= 2)
    assert not is_ready()
    put(tmp_path, certificate(CERT_CA))
    await until(is_ready)


@pytest_twisted.ensureDeferred
async def test_not_ready_when_it_cannot_answer_any_more(start, tmp_path, monkeypatch):
    put(tmp_path, certificate(CERT_CA))
    await start()
    await until(is_ready)

    def broken(body, policy):
        raise ZeroDivisionError

    monkeypatch.setattr("peerpods.kube.webhook.server.answer", broken)
    await until(lambda: not is_ready())
    monkeypatch.undo()
    await until(is_ready)


@pytest_twisted.ensureDeferred
async def test_a_port_in_use_is_told(start):
    one = await start()
    with pytest.raises(LocalFailure, match="--listen"):
        await start(listen=f"127.0.0.1:{one.port.getHost().port}")


@pytest_twisted.ensureDeferred
async def test_the_end_takes_a_moment_only(start, tmp_path):
    put(tmp_path, certificate(CERT_CA))
    one = await start()
    await until(is_ready)
    clients = [Client(one.port.getHost().port, CERT_CA) for _ in range(3)]
    for client in clients:
        await in_thread(client.shown)
    began = reactor.seconds()
    await one.stopService()
    assert reactor.seconds() - began < 2
    assert not one._factory.channels
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cert_dir": ""}, "cert-dir"),
        ({"listen": ""}, "listen"),
        ({"runtime_classes": "a=b.c/d,a=e.f/g"}, "twice"),
        ({"self_managed_tls": True, "ca_lifetime": 3600.0}, "ca-lifetime"),
        ({"tls_min_version": "VersionTLS10"}, "too old"),
        ({"tls_cipher_suites": "X"}, "unknown"),
    ],
)
def test_settings_that_cannot_work(changes, words):
    with pytest.raises(ConfigError) as caught:
        WebhookService(attrs.evolve(WebhookSettings(), **changes), KubeSettings(), reactor)
    assert words in str(caught.value)


def settings(flags=(), **environment):
    loader = Loader(dict(flags), environment, {})
    found = loader.section(WebhookSettings, "webhook")
    loader.finish()
    return found


def test_runtime_classes():
    assert settings().classes() == {"kata-remote": "kata.peerpods.io/vm"}
    old = settings(TARGET_RUNTIMECLASS="kata-x", POD_VM_EXTENDED_RESOURCE="a.b/c")
    assert old.classes() == {"kata-x": "a.b/c"}
    both = settings({"runtime-classes": "a=x.y/z,b=x.y/w"}, TARGET_RUNTIMECLASS="kata-x")
    assert both.classes() == {"a": "x.y/z", "b": "x.y/w"}
    for wrong in ("a", "a=", "a=b", "=x.y/z", "a=x.y/z b=x.y/w", ",a=x.y/z"):
        with pytest.raises(Mistakes):
            settings({"runtime-classes": wrong}).classes()


def test_policy():
    policy = settings({"machine-types": "t3.*, m5.large", "deny-hopeless": "true", "default-memory": "512"}).policy()
    assert policy.machine_types == ("t3.*", "m5.large")
    assert policy.deny
    assert policy.default_memory_mib == 512


def test_an_encrypted_key_is_refused_without_a_prompt():
    from cryptography.hazmat.primitives import serialization

    leaf = certificate(CERT_CA)
    key = serialization.load_pem_private_key(leaf.key.encode(), None)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    with pytest.raises(ConfigError) as caught:
        read_pair(leaf.cert, secret.decode(), TlsRules())
    assert "PRIVATE" not in str(caught.value)


def test_a_key_never_shows():
    leaf = certificate(CERT_CA)
    assert "PRIVATE" not in repr(leaf) + repr(read_pair(leaf.cert, leaf.key, TlsRules()))

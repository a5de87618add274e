"""Self-managed certificates on the in-memory API server: what is written, and what happens when others write too."""

import json
from datetime import UTC, datetime, timedelta

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from peerpods.errors import PeerPodError
from peerpods.kube.client import ApiError, KubeSettings, connect
from peerpods.kube.objects.resources import MUTATING_WEBHOOKS, NAMESPACES, SECRETS
from peerpods.kube.webhook.keeper import Keeper
from peerpods.kube.webhook.managed import ManagedCertificates, place_of
from peerpods.kube.webhook.rotation import decode_data
from peerpods.kube.webhook.settings import WebhookSettings

NS = "ns"
CA, CERT = "peerpods-webhook-ca", "peerpods-webhook-cert"
SETTINGS = WebhookSettings(namespace=NS, extra_names="127.0.0.1", self_managed_tls=True)


def configuration(name="peerpods-webhook"):
    hook = {
        "name": "webhook.peerpods.confidentialcontainers.org",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"service": {"namespace": NS, "name": "peerpods-webhook", "path": "/mutate-v1-pod"}},
        "rules": [],
    }
    other = {**hook, "name": "other.example.com", "clientConfig": {"url": "https://127.0.0.1:1/other"}}
    return {"metadata": {"name": name}, "webhooks": [other, hook]}


class Now:
    def __init__(self):
        self.value = datetime.now(UTC)

    def __call__(self):
        return self.value


@pytest_twisted.async_yield_fixture
async def kube(double, tmp_path):
    double.seed(NAMESPACES, {"metadata": {"name": NS}})
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(double.kubeconfig_dict()))
    made = await connect(reactor, KubeSettings(kubeconfig=str(path)), component="webhook")
    yield made
    await made.close()


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def keeper(kube, now):
    return Keeper(kube, place_of(SETTINGS), now)


async def texts(kube, name):
    return decode_data(await kube.get(SECRETS, name, NS))


@pytest_twisted.ensureDeferred
async def test_a_first_round_makes_everything(kube, keeper):
    await kube.create(MUTATING_WEBHOOKS, configuration())
    assert await keeper.round() > 1
    cert = await kube.get(SECRETS, CERT, NS)
    assert cert["type"] == "kubernetes.io/tls"
    assert cert["metadata"]["labels"]["app.kubernetes.io/component"] == "webhook"
    assert set(cert["data"]) == {"tls.crt", "tls.key", "ca.crt"}
    assert set((await kube.get(SECRETS, CA, NS))["data"]) == {"ca.crt", "ca.key"}
    hooks = (await kube.get(MUTATING_WEBHOOKS, "peerpods-webhook"))["webhooks"]
    assert "caBundle" not in hooks[0]["clientConfig"]
    assert hooks[1]["clientConfig"]["caBundle"]


@pytest_twisted.ensureDeferred
async def test_a_second_round_writes_nothing(double, kube, keeper):
    await kube.create(MUTATING_WEBHOOKS, configuration())
    await keeper.round()
    double.seen.clear()
    await keeper.round()
    assert {seen.method for seen in double.seen} == {"GET"}


@pytest_twisted.ensureDeferred
async def test_without_a_configuration(kube, keeper):
    await keeper.round()
    assert (await texts(kube, CERT))["tls.crt"]


@pytest_twisted.ensureDeferred
async def test_a_whole_rotation(kube, keeper, now):
    await kube.create(MUTATING_WEBHOOKS, configuration())
    await keeper.round()
    first = (await texts(kube, CA))["ca.crt"]
    now.value += timedelta(days=3650 * 0.67)
    await keeper.round()
    coming = (await texts(kube, CA))["next.crt"]
    now.value += timedelta(minutes=11)
    await keeper.round()
    both = await texts(kube, CA)
    assert (both["ca.crt"], both["old.crt"]) == (coming, first)
    assert (await texts(kube, CERT))["ca.crt"] == coming
    now.value += timedelta(minutes=11)
    await keeper.round()
    assert set(await texts(kube, CA)) == {"ca.crt", "ca.key"}


@pytest_twisted.ensureDeferred
async def test_labels_of_others_on_the_secret_stay(kube, keeper, now):
    await keeper.round()
    secret = await kube.get(SECRETS, CERT, NS)
    secret["metadata"]["labels"]["team"] = "x"
    await kube.replace(SECRETS, secret, NS)
    now.value += timedelta(days=70)
    await keeper.round()
    after = await kube.get(SECRETS, CERT, NS)
    assert after["metadata"]["labels"]["team"] == "x"
    assert after["data"] != secret["data"]


@pytest_twisted.ensureDeferred
async def test_somebody_was_quicker(double, kube, keeper):
    double.fail_next(1, 409, method="POST")
    await keeper.round()
    assert (await texts(kube, CERT))["tls.crt"]


@pytest_twisted.ensureDeferred
async def test_a_server_in_trouble_is_for_the_queue(double, keeper):
    double.fail_next(20, 500)
    with pytest.raises(ApiError):
        await keeper.round()


@pytest_twisted.ensureDeferred
async def test_a_secret_of_another_type_is_for_a_person(kube, keeper):
    await kube.create(SECRETS, {"metadata": {"name": CERT}, "type": "Opaque", "data": {}}, NS)
    with pytest.raises(PeerPodError, match="delete it"):
        await keeper.round()


@pytest_twisted.ensureDeferred
async def test_two_replicas_one_keeps_both_follow(double, kube):
    double.seed(MUTATING_WEBHOOKS, configuration())
    pairs = [[], []]
    replicas = [
        ManagedCertificates(reactor, kube, SETTINGS, f"r{i}", lambda cert, key, i=i: pairs[i].append(cert))
        for i in range(2)
    ]
    for replica in replicas:
        replica.start()

    async def until(condition, seconds=60):
        deadline = reactor.seconds() + seconds
        while not condition():
            assert reactor.seconds() < deadline
            moment = Deferred()
            reactor.callLater(0.02, moment.callback, None)
            await moment

    await until(lambda: pairs[0] and pairs[1])
    assert pairs[0][-1] == pairs[1][-1]
    assert sum(replica._election.leading for replica in replicas) == 1
    # Somebody deletes the Secret: both learn of the new one.
    double.remove(SECRETS, CERT, NS)
    await until(lambda: len(pairs[0]) > 1 and len(pairs[1]) > 1)
    # Somebody overwrites the bundle.
    good = (await kube.get(MUTATING_WEBHOOKS, "peerpods-webhook"))["webhooks"][1]["clientConfig"]["caBundle"]

    def spoil(found):
        found["webhooks"][1]["clientConfig"]["caBundle"] = "AAAA"

    double.change(MUTATING_WEBHOOKS, "peerpods-webhook", "", spoil)
    deadline = reactor.seconds() + 60
    while (await kube.get(MUTATING_WEBHOOKS, "peerpods-webhook"))["webhooks"][1]["clientConfig"]["caBundle"] != good:
        assert reactor.seconds() < deadline
    # The keeper leaves: the other takes over.
    leader = next(replica for replica in replicas if replica._election.leading)
    other = next(replica for replica in replicas if replica is not leader)
    await leader.stop()
    await until(lambda: other._election.leading)
    await other.stop()


def test_where_things_are():
    place = place_of(attrs.evolve(SETTINGS, service_name="s"))
    assert place.terms.names == ("s.ns.svc", "s.ns.svc.cluster.local", "s.ns", "127.0.0.1")

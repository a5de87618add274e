"""Requests against the real API server: TLS, tokens, pages, patches and their refusals."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor

from peerpods.kube.client import ApiError, Kube, PatchKind, connect
from peerpods.kube.client.access import InCluster
from peerpods.kube.client.session import Session
from peerpods.kube.objects.resources import CONFIG_MAPS, NODES, PODS
from peerpods.obs import log
from tests.kube.client.real import changed_kubeconfig, client
from tests.kube.cluster_pki import Authority

ensure = pytest_twisted.ensureDeferred


@pytest_twisted.async_yield_fixture
async def kube(cluster):
    made = await client(cluster)
    yield made
    await made.close()


@pytest.fixture
def logged():
    found = []
    before = log._State.sink
    log.set_sink(lambda level, event, fields: found.append((level, event)))
    yield found
    log.set_sink(before)


async def ask(settings):
    kube = await connect(reactor, settings, component="test")
    try:
        return await kube.version()
    finally:
        await kube.close()


@ensure
async def test_tls_by_address_and_by_name(cluster, tmp_path):
    assert cluster.host.startswith("https://127.0.0.1:")
    assert await ask(changed_kubeconfig(cluster, tmp_path)) == cluster.version
    by_name = cluster.host.replace("127.0.0.1", "localhost")
    assert await ask(changed_kubeconfig(cluster, tmp_path, server=by_name)) == cluster.version
    other = {"tls-server-name": "kubernetes.default.svc"}
    assert await ask(changed_kubeconfig(cluster, tmp_path, **other)) == cluster.version


@ensure
async def test_a_ca_or_a_name_that_is_not_the_servers_is_refused(cluster, tmp_path):
    wrong = Authority(tmp_path, "somebody else's")
    with pytest.raises(ApiError) as caught:
        await ask(changed_kubeconfig(cluster, tmp_path, **{"certificate-authority": str(wrong.file)}))
    assert caught.value.reason == "TLS" and not caught.value.sent
    assert "certificate" in str(caught.value) and "check the cluster's CA" in str(caught.value)
    with pytest.raises(ApiError) as caught:
        await ask(changed_kubeconfig(cluster, tmp_path, **{"tls-server-name": "elsewhere.example"}))
    assert caught.value.reason == "TLS" and "elsewhere.example" in str(caught.value)


@ensure
async def test_no_verification_is_said_aloud(cluster, tmp_path, logged):
    unsafe = {"certificate-authority": None, "insecure-skip-tls-verify": True}
    assert await ask(changed_kubeconfig(cluster, tmp_path, **unsafe)) == cluster.version
    assert ("error", "tls_not_verified") in logged


@ensure
async def test_a_client_certificate_is_who_we_are_and_a_missing_right_is_named(cluster, namespace):
    kube = await client(cluster, "nobody")
    try:
        with pytest.raises(ApiError) as caught:
            await kube.list(PODS, namespace)
        assert caught.value.forbidden
        assert '"nobody" cannot list' in str(caught.value)
        assert f"verb 'list' on pods in namespace '{namespace}'" in str(caught.value)
    finally:
        await kube.close()


@ensure
async def test_a_wrong_token_is_said_to_be_one(cluster, tmp_path):
    settings = changed_kubeconfig(cluster, tmp_path)
    path = tmp_path / "kubeconfig"
    path.write_text(path.read_text().replace(cluster.token, "wrong"))
    kube = await connect(reactor, settings, component="test")
    with pytest.raises(ApiError) as caught:
        await kube.list(NODES)
    assert caught.value.unauthorized and "token may have expired" in str(caught.value)
    path.write_text(path.read_text().replace("wrong", cluster.token))
    reactor_seconds = kube._session
    reactor_seconds._forced = -100.0
    await kube.list(NODES)
    await kube.close()


@ensure
async def test_the_pods_own_token_is_read_anew_when_it_is_refused(cluster, namespace, tmp_path):
    token = cluster.service_account_token(namespace, "default")
    (tmp_path / "token").write_text("an old one")
    (tmp_path / "ca.crt").write_bytes(cluster.ca_file.read_bytes())
    host, port = cluster.host.removeprefix("https://").split(":")
    source = InCluster({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}, str(tmp_path))
    access = source._thd_load(None, False)
    kube = Kube(reactor, Session(reactor, source, access, "peerpods-test/1"), "peerpods-test")
    (tmp_path / "token").write_text(token + "\n")
    with pytest.raises(ApiError) as caught:
        await kube.list(PODS, namespace)
    assert caught.value.forbidden, "the new token was taken: who we are is known, and may not list"
    assert f"system:serviceaccount:{namespace}:default" in str(caught.value)
    await kube.close()


@ensure
async def test_pages_and_a_token_that_compaction_makes_too_old(kube, cluster, namespace):
    for number in range(12):
        await kube.create(CONFIG_MAPS, {"metadata": {"name": f"m{number:02}"}, "data": {"n": str(number)}}, namespace)
    own = "metadata.name!=kube-root-ca.crt"
    found, version = await kube.list(CONFIG_MAPS, namespace, fields=own, limit=5)
    assert [each["metadata"]["name"] for each in found] == [f"m{number:02}" for number in range(12)]
    assert found[0]["kind"] == "ConfigMap" and found[0]["apiVersion"] == "v1" and version
    page = await kube.page(CONFIG_MAPS, namespace, limit=5)
    await kube.patch(CONFIG_MAPS, "m00", {"data": {"n": "x"}}, namespace, kind=PatchKind.MERGE)
    cluster.compact()
    with pytest.raises(ApiError) as caught:
        await kube.page(CONFIG_MAPS, namespace, limit=5, token=page.token)
    assert caught.value.gone and caught.value.reason == "Expired"
    compactions = []

    def shrink(found):
        if not compactions:
            compactions.append(1)
            cluster.must("DELETE", CONFIG_MAPS.path(namespace, "m03"))
            cluster.compact()
        return found["metadata"]["name"]

    names, _ = await kube.list(CONFIG_MAPS, namespace, fields=own, limit=5, shrink=shrink)
    assert names == [f"m{number:02}" for number in range(12) if number != 3]


@ensure
async def test_apply_has_owners_of_fields(kube, cluster, namespace):
    other = await client(cluster, component="other")
    try:
        body = {"metadata": {"name": "owned", "namespace": namespace}, "data": {"a": "1"}}
        assert (await kube.apply(CONFIG_MAPS, body))["data"] == {"a": "1"}
        first = (await kube.apply(CONFIG_MAPS, body))["metadata"]["resourceVersion"]
        assert (await kube.get(CONFIG_MAPS, "owned", namespace))["metadata"]["resourceVersion"] == first
        with pytest.raises(ApiError) as caught:
            await other.apply(CONFIG_MAPS, {**body, "data": {"a": "2"}}, force=False)
        error = caught.value
        assert error.conflict and error.details["causes"][0]["reason"] == "FieldManagerConflict"
        assert "peerpods-test" in str(error)
        assert (await other.apply(CONFIG_MAPS, {**body, "data": {"a": "2"}}))["data"] == {"a": "2"}
    finally:
        await other.close()


@ensure
async def test_what_is_refused_has_its_own_kind(kube, namespace):
    body = {"metadata": {"name": "one"}, "data": {"a": "1"}}
    made = await kube.create(CONFIG_MAPS, body, namespace, dry_run=True)
    with pytest.raises(ApiError) as caught:
        await kube.get(CONFIG_MAPS, "one", namespace)
    assert caught.value.not_found, "a dry run stores nothing"
    made = await kube.create(CONFIG_MAPS, body, namespace)
    with pytest.raises(ApiError) as caught:
        await kube.create(CONFIG_MAPS, body, namespace)
    assert caught.value.already_exists and not caught.value.conflict
    await kube.patch(CONFIG_MAPS, "one", {"data": {"a": "2"}}, namespace, kind=PatchKind.STRATEGIC)
    with pytest.raises(ApiError) as caught:
        await kube.replace(CONFIG_MAPS, {**made, "data": {"a": "3"}})
    assert caught.value.conflict and not caught.value.already_exists
    guard = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/a"}]
    with pytest.raises(ApiError) as caught:
        await kube.patch(CONFIG_MAPS, "one", guard, namespace, kind=PatchKind.JSON)
    assert caught.value.invalid
    with pytest.raises(ApiError) as caught:
        await kube.delete(CONFIG_MAPS, "one", namespace, uid="another")
    assert caught.value.conflict
    await kube.delete(CONFIG_MAPS, "one", namespace, uid=made["metadata"]["uid"])
    with pytest.raises(ApiError) as caught:
        await kube.delete(CONFIG_MAPS, "one", namespace)
    assert caught.value.not_found
    with pytest.raises(ApiError) as caught:
        await kube.create(CONFIG_MAPS, {"metadata": {"name": "Bad_Name"}}, namespace)
    assert caught.value.invalid and "metadata.name" in str(caught.value)

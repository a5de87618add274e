"""Credentials: in a cluster, from kubeconfig files, by exec plugins; and what is said when they are wrong."""

from __future__ import annotations

import base64
import json
import stat

import pytest
import yaml

from peerpods.errors import ConfigError
from peerpods.kube.client.access import InCluster, Kubeconfig
from peerpods.kube.client.kube import source_of
from peerpods.kube.client.settings import KubeSettings
from tests.kube.cluster_pki import Authority


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "pki"
    folder.mkdir()
    return Authority(folder)


def write(path, user, **cluster):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u"}},
            {"name": "two", "context": {"cluster": "d", "user": "u"}},
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **cluster}},
            {"name": "d", "cluster": {"server": "https://[fd00::1]:6443/prefix"}},
        ],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_in_a_cluster_the_token_is_read_each_time(tmp_path, authority):
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "ca.crt").write_bytes(authority.file.read_bytes())
    source = InCluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, str(tmp_path))
    first = source._thd_load(None, False)
    assert first.url == "https://[fd00::1]:443" and first.authorization == "Bearer one"
    assert first.context is not None and first.context.check_hostname
    (tmp_path / "token").write_text("two")
    second = source._thd_load(first, False)
    assert second.authorization == "Bearer two" and second != first
    assert second.context is first.context, "connections need not be made anew"
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "ca.crt").write_bytes(Authority(other, "a new CA").file.read_bytes())
    third = source._thd_load(second, False)
    assert third.context is not first.context and third.material != second.material
    assert "one" not in repr(first)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "set --kubeconfig or KUBECONFIG"),
        ({"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"}, "automountServiceAccountToken"),
    ],
)
def test_outside_a_cluster_the_remedy_is_named(tmp_path, environ, words):
    with pytest.raises(ConfigError) as caught:
        InCluster(environ, str(tmp_path))._thd_load(None, False)
    assert words in str(caught.value)


def test_a_kubeconfig_with_data_inside(tmp_path, authority):
    crt, key = authority.issue("client", "somebody")
    data = {
        "client-certificate-data": base64.b64encode(crt.read_bytes()).decode(),
        "client-key-data": base64.b64encode(key.read_bytes()).decode(),
    }
    ca = base64.b64encode(authority.file.read_bytes()).decode()
    path = write(tmp_path / "config", data, **{"certificate-authority-data": ca, "tls-server-name": "kubernetes"})
    access = Kubeconfig(path)._thd_load(None, False)
    assert access.url == "https://10.0.0.1:6443" and access.server_name == "kubernetes"
    assert access.context.get_ca_certs()[0]["subject"] == ((("commonName", "test-ca"),),)
    assert access.authorization == ""


def test_the_context_is_chosen_and_a_path_kept(tmp_path):
    path = write(tmp_path / "config", {"token": "t"})
    access = Kubeconfig(path, "two")._thd_load(None, False)
    assert access.url == "https://[fd00::1]:6443/prefix" and access.authorization == "Bearer t"


def test_a_changed_file_is_seen(tmp_path):
    token = tmp_path / "token"
    token.write_text("a")
    source = Kubeconfig(write(tmp_path / "config", {"tokenFile": str(token)}))
    first = source._thd_load(None, False)
    assert first.authorization == "Bearer a" and first == source._thd_load(first, False)
    token.write_text("b")
    assert source._thd_load(first, False).authorization == "Bearer b"


def plugin(tmp_path, expiry):
    script = tmp_path / "plugin"
    count = tmp_path / "count"
    status = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "TOKEN", "expirationTimestamp": expiry},
    }
    script.write_text(
        f"#!/bin/sh\necho x >> {count}\nn=$(wc -l < {count})\necho '{json.dumps(status)}' | sed s/TOKEN/t$n/\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(script),
            "args": [],
            "interactiveMode": "Never",
        }
    }
    return Kubeconfig(write(tmp_path / "config", user))


def test_a_plugin_runs_again_only_when_it_must(tmp_path):
    source = plugin(tmp_path, "2099-01-01T00:00:00Z")
    first = source._thd_load(None, False)
    assert first.authorization == "Bearer t1"
    assert source._thd_load(first, False) == first
    assert source._thd_load(first, True).authorization == "Bearer t2"


def test_a_plugins_token_that_expires_is_renewed(tmp_path):
    source = plugin(tmp_path, "2020-01-01T00:00:00Z")
    first = source._thd_load(None, False)
    assert source._thd_load(first, False).authorization == "Bearer t2"


def test_a_plugin_that_fails_is_named(tmp_path):
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/no/such/plugin"}}
    with pytest.raises(ConfigError) as caught:
        Kubeconfig(write(tmp_path / "config", user))._thd_load(None, False)
    assert "/no/such/plugin" in str(caught.value) and "run it by hand" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_text(""), "is empty"),
        (lambda path: path.write_text("{"), ""),
        (
            lambda path: path.write_text(path.read_text().replace("current-context: one", "current-context: none")),
            "none",
        ),
        (lambda path: path.write_text(path.read_text().replace("https://10", "ftp://10")), "ftp://10"),
        (lambda path: write(path, {}, **{"certificate-authority": "/no/such/file"}), "/no/such/file"),
        (lambda path: write(path, {}, **{"proxy-url": "http://proxy:1"}), "proxy-url is not supported"),
    ],
)
def test_mistakes_are_said_in_words(tmp_path, change, words):
    path = tmp_path / "config"
    write(path, {"token": "t"})
    change(path)
    with pytest.raises(ConfigError) as caught:
        Kubeconfig(str(path))._thd_load(None, False)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_plain_http_has_no_tls(tmp_path):
    path = write(tmp_path / "config", {}, server="http://127.0.0.1:8080")
    access = Kubeconfig(path)._thd_load(None, False)
    assert access.context is None and access.url == "http://127.0.0.1:8080"


def test_the_settings_choose(tmp_path):
    assert isinstance(source_of(KubeSettings()), InCluster)
    assert isinstance(source_of(KubeSettings(kubeconfig="/x")), Kubeconfig)

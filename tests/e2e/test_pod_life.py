"""A pod with IPv6 alone, initdata and a kubelet volume that changes: whole path on netns, real forwarder and agent."""

from __future__ import annotations

import hashlib
import json

import pytest

from peerpods.ttrpc import Code
from peerpods.userdata.initdata import decode_initdata
from tests.e2e.boxed import boxed_json
from tests.e2e.pod_life import INITDATA, POLICY

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def pod():
    """The pod's life, once."""
    return boxed_json("tests.e2e.pod_life")


def test_a_pod_with_ipv6_alone_reaches_its_gateway(pod):
    assert pod["out"].splitlines()[:2] == ["1", "reached"]


def test_the_container_reads_the_token_and_then_the_new_one(pod):
    assert pod["out"].splitlines()[2:4] == ["first", "second"]
    assert {"..data", "..2026_11_24_11_00", "token"} <= set(pod["out"].splitlines()[4:])
    assert pod["code"] == 9


@pytest.mark.parametrize("name", ["link_out", "through_link"])
def test_a_link_out_and_a_path_through_a_link_are_refused(pod, name):
    assert pod[name][0] == Code.PERMISSION_DENIED


def test_the_annotations_initdata_is_the_vms_with_its_digest(pod):
    files = pod["files"]
    assert decode_initdata(files["initdata"][1]) == INITDATA
    assert files["initdata.digest"][1].strip() == hashlib.sha384(INITDATA.encode()).hexdigest()
    assert files["policy.rego"][1] == POLICY
    assert files["aa.toml"][1] == "token_configs = 1"


def test_a_second_policy_is_refused_and_initdata_named(pod):
    code, text = pod["set_policy"]
    assert code == Code.PERMISSION_DENIED
    assert "initdata" in text


def test_credentials_and_registries_travel_and_every_file_is_roots_alone(pod):
    files = pod["files"]
    assert json.loads(files["auth.json"][1])["auths"]
    assert json.loads(files["registries.json"][1])["insecure"]
    for name, (mode, _) in files.items():
        assert not mode & 0o077, (name, oct(mode))
    for name, mode in pod["modes"].items():
        assert not mode & 0o077, (name, oct(mode))


def test_no_log_has_a_secret_or_the_policy(pod):
    assert '"running"' in pod["logs"]
    for secret in ("PRIVATE KEY", "CERTIFICATE", "agent_policy", "package other", "Ym9iOnRvcHNlY3JldA", "auths"):
        assert secret not in pod["logs"]


def test_nothing_is_left_of_the_pod(pod):
    assert pod["gone"]
    assert pod["left"] == []

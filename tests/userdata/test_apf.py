"""apf.json: both projects' forms, and no wrong value slips through to netlink."""

import json
from pathlib import Path

import attrs
import pytest

from peerpods.errors import ConfigError, Refused
from peerpods.model import Neighbour, PodNetwork, Route
from peerpods.userdata import document, parse
from peerpods.userdata.apf import ApfConfig, parse_apf
from peerpods.userdata.initdata import decode_initdata

EXISTING = (Path(__file__).parent.parent / "fixtures" / "apf-existing.json").read_text()

NETWORK = PodNetwork(
    interface="eth0",
    mac="02:42:ac:11:00:02",
    mtu=1450,
    addresses=("10.1.2.3/24", "fd00::3/64"),
    routes=(
        Route(dst="0.0.0.0/0", gateway="169.254.1.1", dev="eth0", metric=7, onlink=True, src="10.1.2.3", mtu=1400),
        Route(dst="169.254.1.1/32", dev="eth0", scope=253),
        Route(dst="::/0", gateway="fe80::1", dev="eth0", metric=1024, protocol=9),
    ),
    neighbours=(
        Neighbour(ip="169.254.1.1", mac="ee:ee:ee:ee:ee:ee", dev="eth0"),
        Neighbour(ip="fe80::1", mac="ee:ee:ee:ee:ee:ef", dev="eth0"),
    ),
    node_address="192.0.2.9",
    underlay_mtu=9001,
)
APF = ApfConfig(
    pod_name="web",
    pod_namespace="shop",
    server_key="KEY\n",
    server_cert="CERT\n",
    client_ca="CA\n",
    network=NETWORK,
    vxlan_port=4790,
    vxlan_id=555007,
)


def test_ours_is_read_back_equal():
    assert parse_apf(APF.to_json()) == APF
    assert parse_apf(attrs.evolve(APF, tunnel="none", vxlan_id=0, vxlan_port=4789).to_json()).tunnel == "none"


def test_old_names_say_all_that_they_can():
    value = json.loads(APF.to_json())
    assert value["tls-min-version"] == "VersionTLS13"
    assert [value[f"tls-{name}"] for name in ("server-key", "server-cert", "client-ca")] == ["KEY\n", "CERT\n", "CA\n"]
    assert value["pod-network"] == {
        "podip": "10.1.2.3/24",
        "pod-hw-addr": "02:42:ac:11:00:02",
        "interface": "eth0",
        "worker-node-ip": "192.0.2.9/32",
        "tunnel-type": "vxlan",
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1", "dev": "eth0", "protocol": 3},
            {"dst": "169.254.1.1/32", "dev": "eth0", "protocol": 3, "scope": 253},
        ],
        "neighbors": [{"ip": "169.254.1.1", "hw-addr": "ee:ee:ee:ee:ee:ee", "dev": "eth0", "state": 128}],
        "mtu": 1450,
        "index": 0,
        "vxlan-port": 4790,
        "vxlan-id": 555007,
        "dedicated": False,
        "external-net-via-pod-vm": False,
    }


def test_a_pod_with_ipv6_alone():
    network = attrs.evolve(NETWORK, addresses=("fd00::3/64",), node_address="2001:db8::9")
    value = json.loads(attrs.evolve(APF, network=network).to_json())["pod-network"]
    assert value["podip"] == "fd00::3/64"
    assert value["worker-node-ip"] == "2001:db8::9/128"
    assert [route["dst"] for route in value["routes"]] == ["::/0"]


def test_the_existing_projects_file_is_read():
    apf = parse_apf(EXISTING)
    assert (apf.pod_name, apf.pod_namespace, apf.tunnel) == ("basket-7c9d", "shop", "vxlan")
    assert (apf.vxlan_id, apf.vxlan_port) == (555002, 4789)
    assert "BEGIN PRIVATE KEY" in apf.server_key
    assert apf.network == PodNetwork(
        interface="eth0",
        mac="5e:0c:71:aa:19:04",
        mtu=1450,
        addresses=("10.244.3.17/24",),
        routes=(
            Route(dst="0.0.0.0/0", gateway="10.244.3.1", dev="eth0"),
            Route(dst="10.244.0.0/16", gateway="10.244.3.1", dev="eth0"),
            Route(dst="169.254.1.1/32", dev="eth0", scope=253),
        ),
        neighbours=(Neighbour(ip="169.254.1.1", mac="ee:ee:ee:ee:ee:ee", dev="eth0"),),
        node_address="192.168.122.41",
    )


def changed(path, value):
    top = json.loads(APF.to_json())
    *parents, last = path
    place = top
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(top)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["pod-network"], ...),
        (["pod-network"], 3),
        (["pod-network", "pod-hw-addr"], "zz"),
        (["pod-network", "interface"], "a/b"),
        (["pod-network", "interface"], "x" * 16),
        (["pod-network", "interface"], ".."),
        (["pod-network", "worker-node-ip"], "nowhere"),
        (["pod-network", "worker-node-ip"], ...),
        (["pod-network", "mtu"], 1),
        (["pod-network", "mtu"], True),
        (["pod-network", "mtu"], "1500"),
        (["pod-network", "vxlan-id"], 0),
        (["pod-network", "vxlan-id"], 2**24),
        (["pod-network", "vxlan-port"], 70000),
        (["pod-network", "tunnel-type"], "carrier-pigeon"),
        (["pod-network", "dedicated"], True),
        (["pod-network", "external-net-via-pod-vm"], True),
        (["tls-min-version"], "VersionSSL30"),
        (["tls-server-key"], 3),
        (["peerpods", "addresses"], []),
        (["peerpods", "addresses"], ["10.0.0.1/33"]),
        (["peerpods", "addresses"], [7]),
        (["peerpods", "addresses"], ["10.0.0.1/24"] * 300),
        (["peerpods", "routes"], "x"),
        (["peerpods", "routes"], ["x"]),
        (["peerpods", "routes", 0, "gateway"], "here"),
        (["peerpods", "routes", 0, "dst"], "there"),
        (["peerpods", "routes", 0, "metric"], -1),
        (["peerpods", "routes", 0, "scope"], 256),
        (["peerpods", "routes", 0, "scope"], "outer space"),
        (["peerpods", "neighbours", 0, "mac"], ""),
        (["peerpods", "underlay-mtu"], 0),
    ],
)
def test_each_wrong_value_is_an_error_that_names_its_key(path, value):
    names = [name for name in path if isinstance(name, str)]
    with pytest.raises(ConfigError) as error:
        parse_apf(changed(path, value))
    assert any(name in str(error.value) for name in (names[-1], "no address", "external-net", "second interface"))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "{}", "x" * (1 << 19)])
def test_no_json_object_is_an_error(text):
    with pytest.raises(ConfigError, match=r"apf\.json"):
        parse_apf(text)


def test_the_key_is_not_in_the_repr():
    assert "KEY" not in repr(APF)


def test_the_whole_document():
    initdata = 'algorithm = "sha384"\nversion = "0.1.0"\n[data]\n"aa.toml" = "a"\n'
    files = parse(document(APF, auth_json='{"auths": {}}', registries_json="{}", initdata_toml=initdata))
    assert set(files) == {f"/run/peerpod/{name}" for name in ("apf.json", "auth.json", "registries.json", "initdata")}
    assert parse_apf(files["/run/peerpod/apf.json"]) == APF
    assert decode_initdata(files["/run/peerpod/initdata"].decode()) == initdata
    assert set(parse(document(APF))) == {"/run/peerpod/apf.json"}


@pytest.mark.parametrize("setting", ["auth_json", "registries_json", "initdata_toml"])
def test_a_wrong_file_is_named_and_not_shown(setting):
    with pytest.raises(Refused) as error:
        document(APF, **{setting: "hunter2"})
    assert "hunter2" not in str(error.value)
    assert setting.split("_")[0] in str(error.value)

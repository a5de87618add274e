"""Before the start: no client certificate, no service; what forbids SetPolicy; the state that is kept."""

import datetime
import ssl

import attrs
import pytest

from peerpods.errors import ConfigError
from peerpods.forwarder.guard import Guard
from peerpods.forwarder.keeper import Keeper
from peerpods.forwarder.told import policy_refusal, read_apf, tls_context
from peerpods.pki.issue import issue
from peerpods.userdata.initdata import encode_initdata
from tests.forwarder.test_guard import call, sandbox
from tests.userdata.test_apf import APF

KEYS = issue("podvm-web-12345678", datetime.datetime.now(datetime.UTC))
TOLD = attrs.evolve(APF, server_key=KEYS.server_key, server_cert=KEYS.server_cert, client_ca=KEYS.client_cert)


def test_the_context_wants_tls_1_3_and_a_client_certificate():
    context = tls_context(TOLD)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize("name", ["client_ca", "server_key", "server_cert"])
@pytest.mark.parametrize("value", ["", "  \n", "no PEM"])
def test_without_any_of_the_three_it_does_not_start(name, value):
    with pytest.raises(ConfigError) as error:
        tls_context(attrs.evolve(TOLD, **{name: value}))
    assert KEYS.server_key[40:80] not in str(error.value)


def test_a_missing_file_is_named_with_what_writes_it(tmp_path):
    with pytest.raises(ConfigError, match=r"apf\.json.*peerpods-userdata"):
        read_apf(str(tmp_path / "apf.json"))


def initdata(folder, text):
    (folder / "initdata").write_text(encode_initdata(text))


def test_set_policy_may_pass_in_a_development_image_without_a_policy(tmp_path):
    (tmp_path / "os-release").write_text('ID=peerpods\nVARIANT_ID="development"\nPEERPODS_AGENT="development"\n')
    assert policy_refusal(str(tmp_path), str(tmp_path / "os-release")) == ""
    initdata(tmp_path, 'algorithm = "sha256"\nversion = "0.1.0"\n[data]\n"aa.toml" = "a"\n')
    assert policy_refusal(str(tmp_path), str(tmp_path / "os-release")) == ""


def test_a_policy_from_initdata_stays(tmp_path):
    initdata(tmp_path, 'algorithm = "sha256"\nversion = "0.1.0"\n[data]\n"policy.rego" = "p"\n')
    assert "initdata brought" in policy_refusal(str(tmp_path), "/nonexistent")


@pytest.mark.parametrize("line", ["VARIANT_ID=release", 'PEERPODS_AGENT="kata"', "PEERPODS_AGENT='kata'"])
def test_a_release_image_takes_policies_from_initdata_alone(tmp_path, line):
    (tmp_path / "os-release").write_text(f"ID=debian\n{line}\n")
    assert "initdata" in policy_refusal(str(tmp_path), str(tmp_path / "os-release"))


def test_the_images_own_os_release_is_understood(tmp_path):
    from peerpods.image.agentkind import Agent
    from peerpods.image.tree import os_release

    path = tmp_path / "os-release"
    path.write_text(os_release(Agent()))
    assert policy_refusal(str(tmp_path), str(path)) == ""
    path.write_text(os_release(Agent("kata")))
    assert "release image" in policy_refusal(str(tmp_path), str(path))


def test_initdata_that_cannot_be_read_stops_the_start(tmp_path):
    (tmp_path / "initdata").write_text("junk")
    with pytest.raises(ConfigError, match="initdata"):
        policy_refusal(str(tmp_path), "/nonexistent")


def test_the_state_outlives_the_process(tmp_path):
    path = tmp_path / "forwarder.state"
    guard = Guard("/n")
    keeper = Keeper(guard, str(path))
    keeper.load()
    keeper.save()
    assert not path.exists()
    call(guard, "CreateSandbox", sandbox())
    keeper.save()
    assert path.stat().st_mode & 0o777 == 0o600
    stamp = path.stat().st_mtime_ns
    keeper.save()
    assert path.stat().st_mtime_ns == stamp
    other = Guard("/n")
    Keeper(other, str(path)).load()
    assert other.stage is guard.stage
    path.write_text("{")
    third = Guard("/n")
    Keeper(third, str(path)).load()
    assert third.stage is Guard("/n").stage

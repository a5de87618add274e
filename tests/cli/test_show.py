"""What ps and inspect print, for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from peerpods.cli import show
from peerpods.cli.main import cli
from peerpods.protocols import admin_pb2


def sandbox(**changes):
    facts = {
        "sandbox": "ab" * 32,
        "pod": "web",
        "namespace": "shop",
        "state": "running",
        "provider": "libvirt",
        "instance": "6f0b",
        "addresses": ["10.0.0.5"],
        "age_s": 61.04,
        "last_error": "",
    }
    return admin_pb2.Sandbox(**{**facts, **changes})


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m"), (7200, "2h"), (86400 * 3, "3d")])
def test_ages_are_short(seconds, text):
    assert show.age(seconds) == text


def test_ps_json_has_exactly_the_agreed_keys(monkeypatch):
    monkeypatch.setattr(show, "ask", lambda *_: admin_pb2.PsResponse(sandboxes=[sandbox()]))
    done = CliRunner().invoke(cli, ["ps", "--json"])
    assert done.exit_code == 0
    (found,) = json.loads(done.stdout)
    assert list(found) == [
        "sandbox", "pod", "namespace", "state", "provider", "instance", "addresses", "age_s", "last_error",
    ]  # fmt: skip
    assert found["addresses"] == ["10.0.0.5"]


def test_ps_table_shows_the_first_line_of_an_error(monkeypatch):
    broken = sandbox(state="failed", last_error="no agent after 200 s\nconsole line\n")
    monkeypatch.setattr(show, "ask", lambda *_: admin_pb2.PsResponse(sandboxes=[broken]))
    done = CliRunner().invoke(cli, ["ps"])
    assert "shop/web" in done.output
    assert "no agent after 200 s" in done.output
    assert "console line" not in done.output


def test_inspect_json_adds_history_vni_netns_and_phases(monkeypatch):
    answer = admin_pb2.InspectResponse(
        sandbox=sandbox(), vni=555001, netns="/run/netns/x", phases={"link": 12.34},
        history=[admin_pb2.HistoryEntry(at=1.0, state="prepared", reason="CreateVM")],
    )  # fmt: skip
    monkeypatch.setattr(show, "ask", lambda *_: answer)
    found = json.loads(CliRunner().invoke(cli, ["inspect", "ab", "--json"]).stdout)
    assert found["history"] == [{"at": 1.0, "state": "prepared", "reason": "CreateVM"}]
    assert found["vni"] == 555001
    assert found["netns"] == "/run/netns/x"
    assert found["phases"] == {"link": 12.3}


def test_nobody_answers_and_no_journal_is_said_in_words(tmp_path):
    words = ["ps", f"--socket={tmp_path}/none.sock", f"--state-dir={tmp_path}/none"]
    done = subprocess.run(
        [sys.executable, "-m", "peerpods.cli.main", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert "no adaptor answers" in done.stderr
    assert "journal" in done.stderr


def test_a_socket_that_may_not_be_dialled_is_told_from_an_adaptor_that_is_away():
    from twisted.internet.error import getConnectError

    from peerpods.cli.show import unanswered

    assert unanswered("/run/a.sock", getConnectError((13, "Permission denied"))) == (
        "no permission to dial /run/a.sock: run as root"
    )
    assert unanswered("/run/a.sock", PermissionError(13, "Permission denied")).endswith("run as root")
    assert unanswered("/run/a.sock", getConnectError((2, "No such file"))) == "no adaptor answers on /run/a.sock"


def test_a_long_error_is_cut_in_the_table():
    assert show.short("") == ""
    assert show.short("one\ntwo") == "one"
    assert len(show.short("x" * 500)) == 80

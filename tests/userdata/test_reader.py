"""The reader: which source wins, what is written with which mode, and that a refused document writes nothing."""

import os
import stat
import subprocess
import sys

import pytest

from peerpods.errors import GuestError, Refused
from peerpods.userdata import compose
from peerpods.userdata.initdata import encode_initdata
from peerpods.userdata.reader import METADATA_PAUSE, PAUSE, find, install, plan, run
from peerpods.userdata.sources import NotThereYet, NoWayYet

APF = "/run/peerpod/apf.json"
INITDATA = """algorithm = "sha256"
version = "0.1.0"
[data]
"policy.rego" = "package agent_policy\\n"
"aa.toml" = "measured"
"""


class Sleeper:
    """A clock that only moves when somebody sleeps."""

    def __init__(self):
        self.time = 100.0
        self.slept = []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


def seek(root, timeout=10.0, **sources):
    clock = Sleeper()
    sources = {"device": lambda: "", "cloud": lambda: "", **sources}
    return find(str(root), timeout, now=clock.now, sleep=clock.sleep, **sources), clock


def names(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_files_get_mode_0600_in_folders_0700(tmp_path):
    old = os.umask(0o022)
    try:
        install({APF: b"{}"}, str(tmp_path))
    finally:
        os.umask(old)
    target = tmp_path / "run/peerpod/apf.json"
    assert target.read_bytes() == b"{}"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700


def test_writing_again_replaces_and_leaves_no_draft(tmp_path):
    install({APF: b"1"}, str(tmp_path))
    (tmp_path / "run/peerpod/apf.json.new").write_text("left by a crash")
    install({APF: b"2"}, str(tmp_path))
    assert names(tmp_path) == {"run/peerpod/apf.json"}
    assert (tmp_path / "run/peerpod/apf.json").read_bytes() == b"2"


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path):
    (tmp_path / "run/peerpod").mkdir(parents=True)
    (tmp_path / "victim").write_text("safe")
    (tmp_path / "run/peerpod/apf.json").symlink_to(tmp_path / "victim")
    install({APF: b"2"}, str(tmp_path))
    assert (tmp_path / "victim").read_text() == "safe"
    assert not (tmp_path / "run/peerpod/apf.json").is_symlink()


def test_initdata_brings_its_files_and_the_digest_and_wins():
    import hashlib

    files = plan(compose({"/run/peerpod/initdata": encode_initdata(INITDATA), "/run/peerpod/aa.toml": "unmeasured"}))
    assert files["/run/peerpod/aa.toml"] == b"measured"
    assert files["/run/peerpod/policy.rego"] == b"package agent_policy\n"
    assert files["/run/peerpod/initdata.digest"] == hashlib.sha256(INITDATA.encode()).hexdigest().encode()


def test_without_initdata_there_is_neither_policy_nor_digest():
    assert set(plan(compose({APF: "{}"}))) == {APF}


def test_wrong_initdata_refuses_the_whole_document():
    with pytest.raises(Refused):
        plan(compose({APF: "{}", "/run/peerpod/initdata": "junk"}))


def test_the_file_wins_over_the_other_sources(tmp_path):
    (tmp_path / "media/cidata").mkdir(parents=True)
    (tmp_path / "media/cidata/user-data").write_bytes(b"from the file")
    document, clock = seek(tmp_path, device=lambda: "/dev/never", cloud=lambda: "aws", metadata=lambda _: b"cloud")
    assert document == b"from the file"
    assert clock.slept == []


def test_the_metadata_service_is_asked_again_until_it_answers(tmp_path):
    answers = [NotThereYet("503"), NotThereYet("refused"), b"told"]

    def metadata(cloud):
        assert cloud == "azure"
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    document, clock = seek(tmp_path, cloud=lambda: "azure", metadata=metadata)
    assert document == b"told"
    assert len(clock.slept) == 2


def test_without_a_way_to_the_metadata_service_the_next_look_is_soon(tmp_path):
    answers = [NoWayYet("Network is unreachable"), NotThereYet("503"), b"told"]

    def metadata(_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    document, clock = seek(tmp_path, cloud=lambda: "aws", metadata=metadata)
    assert document == b"told"
    assert clock.slept == [PAUSE, METADATA_PAUSE]


def test_waiting_ends_and_says_what_was_missing(tmp_path):
    with pytest.raises(GuestError, match="labelled cidata"):
        seek(tmp_path, timeout=3.0)

    def metadata(_):
        raise NotThereYet("the metadata service answered 503 to /x")

    with pytest.raises(GuestError, match="503"):
        seek(tmp_path, timeout=3.0, cloud=lambda: "aws", metadata=metadata)


def test_a_disk_that_appears_late_is_found(tmp_path, monkeypatch):
    looks = iter(["", "", "/dev/vdb"])
    monkeypatch.setattr("peerpods.userdata.sources.read_device", lambda device: device.encode())
    document, clock = seek(tmp_path, device=lambda: next(looks))
    assert document == b"/dev/vdb"
    assert len(clock.slept) == 2


def test_exit_codes_and_one_line(tmp_path, capsys):
    source = tmp_path / "user-data"
    root = tmp_path / "root"
    root.mkdir()
    source.write_bytes(compose({APF: "{}"}))
    assert run(["--source", str(source), "--root", str(root)]) == 0
    assert names(root) == {"run/peerpod/apf.json"}

    source.write_bytes(
        b"write_files:\n- {path: /run/peerpod/cdh.toml, content: a}\n- {path: /etc/shadow, content: b}\n"
    )
    assert run(["--source", str(source), "--root", str(root)]) == 2
    assert names(root) == {"run/peerpod/apf.json"}, "something of a refused document was written"

    assert run(["--source", str(tmp_path / "nothing"), "--root", str(root)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "/etc/shadow" in lines[0]
    assert all(line.startswith("peerpods-userdata: ") for line in lines)


def test_a_folder_that_cannot_be_made_is_exit_1(tmp_path, capsys):
    source = tmp_path / "user-data"
    source.write_bytes(compose({APF: "{}"}))
    (tmp_path / "run").write_text("a file in the way")
    assert run(["--source", str(source), "--root", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_wrong_flags_are_exit_2():
    with pytest.raises(SystemExit) as stop:
        run(["--timeout", "soon"])
    assert stop.value.code == 2


def test_the_command_starts_light(tmp_path):
    source = tmp_path / "user-data"
    source.write_bytes(compose({APF: "{}", "/run/peerpod/initdata": encode_initdata(INITDATA)}))
    code = (
        "import sys\nfrom peerpods.userdata.reader import run\n"
        f"assert run(['--source', {str(source)!r}, '--root', {str(tmp_path)!r}]) == 0\n"
        "heavy = {'twisted', 'attr', 'attrs', 'google', 'cryptography', 'http', 'asyncio', 'ssl', 'subprocess'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"

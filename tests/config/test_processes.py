"""Each mistake tried as a user makes it: on the command line of a real process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from peerpods.cli.children import twistd
from peerpods.clouds import registry
from peerpods.config.fields import options_of
from peerpods.config.settings import AdaptorSettings, GuestSettings


def run(service, *flags, env=None, before=()):
    command = twistd(service, *flags)
    if before:
        at = command.index(service)
        command[at:at] = before
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", **(env or {})}, check=False
    )


def assert_one_line(done, *words):
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("service", "flags", "words"),
    [
        ("adaptor", [], ["--provider: is missing", "CLOUD_PROVIDER"]),
        ("adaptor", ["--provider=libvrt"], ["'libvrt'", "did you mean 'libvirt'"]),
        ("adaptor", ["--provider=memory", "--sokcet=/x"], ["--sokcet", "did you mean '--socket'"]),
        ("adaptor", ["--provider=memory", "--socket"], ["--socket"]),
        ("adaptor", ["--provider=memory", "word"], ["'word'"]),
        ("adaptor", ["--provider=memory", "--config=/nowhere.toml"], ["--config", "/nowhere.toml"]),
        ("relay", ["--control=relative"], ["--control", "'relative'", "an absolute path"]),
        ("relay", ["--dial-timeout=99m"], ["--dial-timeout", "0.05 to 60"]),
        ("forwarder", ["--listen=15150"], ["--listen"]),
        ("agent", ["--listen=sock"], ["--listen"]),
    ],
)
def test_a_wrong_command_line_gives_one_line_and_code_2(service, flags, words):
    assert_one_line(run(service, *flags), *words)


def wrong_text(option):
    """A text that this option does not take, or None when it takes any."""
    for text in ("\0", "-7", "nonsense words", "99999999999"):
        try:
            option.kind.parse(text)
        except (ValueError, OverflowError):
            return text
    return None


def toml_cases():
    tables = [("adaptor", AdaptorSettings), ("guest", GuestSettings)]
    tables += [(f"provider.{name}", registry.settings_class(name)) for name in registry.names()]
    for table, settings in tables:
        for option in options_of(settings).values():
            text = wrong_text(option)
            if text is not None and text != "\0" and option.flag != "provider":
                yield pytest.param(table, option.flag, text, id=f"{table}.{option.flag}")


@pytest.mark.parametrize(("table", "key", "text"), list(toml_cases()))
def test_each_single_field_wrong_in_the_file(table, key, text, tmp_path):
    """The same check as the process makes, field by field; `test_one_wrong_field_as_a_process` shows the process."""
    from peerpods.config.load import Loader, Mistakes

    settings = {"adaptor": AdaptorSettings, "guest": GuestSettings}.get(table) or registry.settings_class(
        table.partition(".")[2]
    )
    document = {}
    here = document
    for part in table.split("."):
        here = here.setdefault(part, {})
    here[key] = text
    loader = Loader({"provider": "memory"}, {}, document)
    loader.section(settings, table)
    with pytest.raises(Mistakes) as caught:
        loader.finish()
    assert len(caught.value.mistakes) == 1
    assert f"[{table}] {key}" in str(caught.value)


def test_one_wrong_field_as_a_process(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[adaptor]\nprovider = "memory"\nvxlan-port = 70000\n')
    assert_one_line(run("adaptor", f"--config={path}"), "[adaptor] vxlan-port", "70000", "from 1 to 65535")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[provider.memry]\nboot-delay = 1\n", ["[provider] memry", "did you mean 'provider.memory'"]),
        ("[provider]\nboot-delay = 1\n", ["[provider] boot-delay", "the value 1"]),
        ("[guest]\nauth = '/x'\n", ["[guest] auth", "auth-json, initdata, registries-json"]),
    ],
)
def test_a_table_or_key_that_nobody_reads_is_a_mistake(text, words, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(text)
    assert_one_line(run("adaptor", "--provider=memory", f"--config={path}"), *words)


def test_two_mistakes_give_two_lines(tmp_path):
    done = run("adaptor", "--provider=memory", "--socket=x", "--vxlan-port=0")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 2


def test_check_config_prints_values_and_origins(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[adaptor]\nprovider = "memory"\nvxlan-port = 8472\n')
    done = run("adaptor", f"--config={path}", "--check-config", env={"PODS_DIR": "/run/elsewhere"})
    assert done.returncode == 0, done.stderr
    assert "vxlan-port = 8472    # file" in done.stdout
    assert "pods-dir = /run/elsewhere    # environment PODS_DIR" in done.stdout
    assert "[provider.memory]" in done.stdout


def test_the_adaptor_refuses_another_reactor():
    assert_one_line(run("adaptor", "--provider=memory", before=["--reactor=poll"]), "asyncio", "--reactor")


def test_the_adaptor_alone_installs_its_reactor(tmp_path):
    code = (
        "import sys; sys.argv=['twistd','-n','--pidfile=','adaptor','--provider=memory','--check-config']\n"
        "from twisted.scripts.twistd import run\n"
        "try:\n    run()\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "print(type(sys.modules['twisted.internet.reactor']).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip().endswith("AsyncioSelectorReactor"), done.stderr


@pytest.mark.root
def test_an_adaptor_whose_cloud_does_not_answer_says_so_and_ends(tmp_path):
    done = run(
        "adaptor",
        "--provider=libvirt",
        f"--uri=qemu+unix:///system?socket={tmp_path}/none",
        f"--socket={tmp_path}/h.sock",
        f"--admin={tmp_path}/a.sock",
        f"--state-dir={tmp_path}/state",
        f"--pods-dir={tmp_path}/pods",
        "--http=",
    )
    assert done.returncode in (1, 2)
    (line,) = done.stderr.strip().splitlines()
    assert "libvirt" in line
    assert "uri" in line

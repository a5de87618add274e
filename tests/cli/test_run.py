"""`peerpods run` against a whole private node whose provider is `memory`: real processes, real sockets."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from peerpods.demo.__main__ import isolated

PHASES = ["create_vm", "start_vm", "agent_check", "create_sandbox", "pull_and_create", "start", "run", "stop"]


def peerpods(*words, **options):
    command = isolated("peerpods.cli.main", *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


@pytest.mark.root
def test_json_is_one_object_with_all_phases():
    done = peerpods("run", "--provider", "memory", "--json", "--", "echo", "hello")
    found = json.loads(done.stdout)
    assert sorted(found) == ["exit_code", "instance", "phases", "sandbox"]
    assert list(found["phases"]) == PHASES
    assert done.returncode == found["exit_code"]
    assert found["instance"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--socket=/run/none.sock"], "no adaptor answers"),
        (["--provider=nonesuch"], "nonesuch"),
    ],
)
def test_our_own_failures_are_125_with_one_line(words, reason):
    done = peerpods("run", *words, "--", "true")
    assert done.returncode == 125
    lines = [line for line in done.stderr.splitlines() if line.startswith("peerpods:")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "COMMAND"),
        (["--netns=/nowhere", "--", "true"], "/nowhere"),
        (["--config=/nowhere", "--", "true"], "/nowhere"),
        (["--cpus=many", "--", "true"], "many"),
        (["--imgae=x", "--", "true"], "--imgae"),
    ],
)
def test_wrong_usage_is_125_with_one_line_too(words, reason):
    done = subprocess.run(
        [sys.executable, "-m", "peerpods.cli.main", "run", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 125
    (line,) = done.stderr.splitlines()
    assert reason in line
    assert "--help" in line

"""`python -m peerpods.demo`: runs the demo in namespaces of its own and proves that the machine is as before."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys

from peerpods.demo import proof

_FLAGS = ["--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--propagation", "private"]


def isolated(module: str, *args: str) -> list[str]:
    """Command line that runs a module as a child of pid 1 in new network, mount and pid namespaces."""
    return ["unshare", *_FLAGS, sys.executable, "-m", "peerpods.demo.inside", module, *args]


def main() -> int:
    """0 only when the story held and nothing is left."""
    if os.geteuid() != 0:
        print(
            "demo: needs root, to make network and mount namespaces (it leaves the host's own alone)", file=sys.stderr
        )
        return 1
    marker = "PEERPODS_DEMO=" + secrets.token_hex(8)
    before = proof.ours(proof.take(marker))
    name, _, value = marker.partition("=")
    child = subprocess.Popen(
        isolated("peerpods.demo.story", *sys.argv[1:]), env={**os.environ, name: value}, start_new_session=True
    )

    def pass_on(number: int, _frame: object) -> None:
        # unshare ignores these while it waits; the story is told through its init (pid 1 inside).
        for line in proof.processes_with(marker):
            pid, _, command = line.partition(" ")
            if "peerpods.demo.inside" in command and "unshare" not in command.split(" ")[0]:
                os.kill(int(pid), number)

    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    code = child.wait()
    left = proof.left_over(before, proof.ours(proof.take(marker)))
    for item in left:
        print(f"demo: left behind: {item}", file=sys.stderr)
    if not left:
        print("the host is as before: no device, namespace, mount, socket or process of the demo is left")
    return 1 if left else code


if __name__ == "__main__":
    sys.exit(main())

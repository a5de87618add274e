"""First process of the running pod VM: reads the user data, starts the forwarder, then the agent, and watches both.

One Python process imports what both need and forks them: starting two interpreters would cost seconds where the VM has
no hardware virtualisation. The reactor is made in the children only, so that they share none. The end of the forwarder
or of the agent is the end of the VM.
"""

# ruff: noqa: PTH110, PTH208, S606  (pathlib costs time at the start; programs are meant to run without a shell)
from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module

TYPE_CHECKING = False  # typing itself is not worth importing here
if TYPE_CHECKING:
    from typing import Any

LIBRARY = "/usr/lib/python3/dist-packages"
HERE = "/usr/lib/peerpods"
RELEASE_AGENT = "/usr/local/bin/kata-agent"
# Guest components in the order in which they need each other, with the socket or file each is given.
COMPONENTS = ("attestation-agent", "confidential-data-hub", "api-server-rest")
LISTEN = "[::]:15150"  # IPv4 too: the node may reach the VM by either
NAMESPACE = "/run/netns/podns"  # as the forwarder's own setting
NOTIFY = "@peerpods-boot"
READY_SECONDS = 60.0


def say(text: str) -> None:
    """One line on the console, with the uptime: how the phases of a start are measured."""
    with open("/proc/uptime", "rb", 0) as file:
        uptime = file.read(64).split()[0].decode()
    os.write(2, f"peerpods[{uptime}] {text}\n".encode())


def power_off(reason: str) -> None:
    """End of the VM."""
    say(f"stopped: {reason}")
    os.sync()
    os.execv("/usr/bin/busybox", ["busybox", "poweroff", "-f"])


def modprobe(*names: str) -> None:
    """Load modules; one that cannot be loaded is not fatal."""
    pid = os.spawnv(os.P_NOWAIT, "/usr/bin/busybox", ["modprobe", "-a", *names])
    os.waitpid(pid, 0)


def find_slow_disks() -> None:
    """Load drivers of SATA and SCSI disks when there is no virtio disk beside the root's, so none with user data."""
    disks = [name for name in os.listdir("/sys/block") if name.startswith("vd")]
    if len(disks) < 2 and not os.path.exists("/media/cidata/user-data"):
        modprobe("ahci", "ata_piix", "sr_mod", "sd_mod")


def read_user_data() -> None:
    """Write the files that the VM is told to have at birth, or end."""
    from peerpods.userdata import reader

    code = reader.run(["--timeout", "60"])
    if code:
        power_off("there is no usable user data (the line above says why)")


def share_imports() -> None:
    """Import what both children need: once, before they are forked. No reactor is made here."""
    for name in ("forwarder.service", "config.settings", "obs.bridge"):
        import_module(f"peerpods.{name}")
    import_module("twisted.internet.epollreactor")


def forwarder_service(settings: Any, reactor: Any, network: Any) -> Any:
    """The forwarder's service; it waits for the pod's network instead of building it."""
    import attrs

    from peerpods.forwarder.service import ForwarderService

    if os.path.exists("/proc/net/if_inet6"):
        settings = attrs.evolve(settings, listen=LISTEN)
    return ForwarderService(settings, reactor, build_network=network.wait)


def serve(name: str, make_service: Any) -> None:
    """In a child: run the service `name` until it ends. Does not return."""
    from twisted.internet import reactor
    from twisted.internet.defer import maybeDeferred
    from twisted.logger import globalLogBeginner

    from peerpods.config import settings as all_settings
    from peerpods.obs.bridge import twisted_observer

    globalLogBeginner.beginLoggingTo([twisted_observer()], redirectStandardIO=False)  # type: ignore[list-item]
    settings = getattr(all_settings, f"{name.capitalize()}Settings")()
    code = 0

    def failed(failure: object) -> None:
        nonlocal code
        code = 1
        say(f"{name}: {getattr(failure, 'value', failure)}")
        reactor.stop()

    def start() -> None:
        service = make_service(settings, reactor)
        if hasattr(service, "privilegedStartService"):
            service.privilegedStartService()
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        maybeDeferred(service.startService).addErrback(failed)

    reactor.callWhenRunning(lambda: maybeDeferred(start).addErrback(failed))
    reactor.run()
    os._exit(code)


def fork(name: str, make_service: Any) -> int:
    """Start the service `name` as a child; gives its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        serve(name, make_service)
    except BaseException as error:
        say(f"{name}: {type(error).__name__}: {error}")
    finally:
        os._exit(1)


def listen_for_ready() -> object:
    """The socket at which children say READY=1."""
    import socket

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    sock.bind("\0" + NOTIFY[1:])
    sock.settimeout(READY_SECONDS)
    os.environ["NOTIFY_SOCKET"] = NOTIFY
    return sock


def await_ready(sock: Any, name: str) -> None:
    """Wait until the child said that it is ready; end when it does not in time."""
    signal.signal(signal.SIGCHLD, lambda *_: _reap_or_end())
    try:
        while b"READY=1" not in sock.recv(4096):
            pass
    except TimeoutError:
        power_off(f"the {name} was not ready within {READY_SECONDS:.0f} s")
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


watched: dict[int, str] = {}


def _reap_or_end() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _ended(pid, status)


def _ended(pid: int, status: int) -> None:
    if pid in watched:
        power_off(f"the {watched[pid]} ended (status {os.waitstatus_to_exitcode(status)})")


def start_release_agent() -> None:
    """The kata-agent of a release, with the guest components it pulls images through."""
    for name in COMPONENTS:
        path = f"/usr/local/bin/{name}"
        if os.path.exists(path):
            watched[os.spawnv(os.P_NOWAIT, path, [path])] = name
            say(f"started {name}")
    environment = {**os.environ, "KATA_AGENT_SERVER_ADDR": "unix:///run/kata-containers/agent.sock"}
    watched[os.spawnve(os.P_NOWAIT, RELEASE_AGENT, [RELEASE_AGENT], environment)] = "agent"


def main() -> None:
    """Process 1."""
    say("phase python")
    sys.path[:0] = [LIBRARY, HERE]
    os.environ.update(
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", HOME="/root", LANG="C.UTF-8", TERM="dumb"
    )
    os.chdir("/")
    find_slow_disks()
    read_user_data()
    say("phase user-data")
    ready = listen_for_ready()
    import lean

    lean.install()  # before anything that may import Twisted
    from podnetwork import PodNetwork

    network = PodNetwork(NAMESPACE)
    share_imports()
    say("phase import")
    gc.freeze()  # a collection in a child need not touch, and so copy, what they share
    watched[fork("forwarder", lambda settings, reactor: forwarder_service(settings, reactor, network))] = "forwarder"
    network.close()
    await_ready(ready, "forwarder")
    say("phase forwarder (listening)")
    if os.path.exists(RELEASE_AGENT):
        start_release_agent()
        say("phase agent (started)")
    else:
        watched[fork("agent", import_module("peerpods.agent.service").make_service)] = "agent"
        await_ready(ready, "agent")
        say("phase agent (listening)")
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            power_off("no process is left")
        _ended(pid, status)


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        import traceback

        traceback.print_exc()
        power_off(f"{type(error).__name__}: {error}")

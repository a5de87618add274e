"""`serve.py SERVICE FLAGS`: one service of the VM in the foreground, as `twistd --nodaemon SERVICE FLAGS` would run it.

The same options class checks the flags. Left out is what twistd loads for daemons, plugins and logs: without hardware
virtualisation that is a third of the time until the forwarder listens.
"""

import sys

sys.path[:0] = ["/usr/lib/python3/dist-packages", "/usr/lib/peerpods"]

import lean  # noqa: E402

lean.install()  # before anything that may import Twisted

from importlib import import_module  # noqa: E402


def main(name: str, flags: list[str]) -> int:
    """Run until the service ends; its exit code."""
    module = import_module(f"peerpods.cli.services.{name}")
    options = module.Options()
    options.parseOptions(flags)
    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import reactor
    from twisted.logger import globalLogBeginner

    from peerpods.obs.bridge import twisted_observer

    globalLogBeginner.beginLoggingTo([twisted_observer()], redirectStandardIO=False)  # type: ignore[list-item]
    service = module.makeService(options)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.callWhenRunning(service.startService)
    reactor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

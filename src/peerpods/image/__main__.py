"""`python -m peerpods.image build`: the image's folder on standard output, progress on standard error.

With --tee, --arch or --profile any image of the matrix; without them the local one, kept in the cache.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peerpods.errors import ConfigError, LocalFailure, PeerPodError
from peerpods.image import agentfetch, agentkind, build, key, matrix, prune
from peerpods.image.base import Base
from peerpods.image.firmware import command as firmware
from peerpods.image.place import in_words
from peerpods.image.progress import Progress
from peerpods.image.se import command as se
from peerpods.image.system import lock, relock
from peerpods.image.variant import Variant

_OTHERS: dict[str, Any] = {"fetch-agent": agentfetch, "firmware": firmware, "lock": relock, "se": se}
"""Commands that live elsewhere: each module has `add_command` and `run`, which gives what to print."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("python -m peerpods.image", description="Pod VM images.")
    commands = top.add_subparsers(dest="command", required=True)
    for name, text in (
        ("build", "build it, when it is not there yet, and print its folder"),
        ("path", "print the folder it has or would have"),
        ("trial", "boot it in a private libvirt, as root, and print what each phase took"),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("--kata-agent", type=Path, metavar="FILE", help="a kata-agent release's program")
        one.add_argument("--kata-agent-sha256", metavar="HEX", help="its digest")
        one.add_argument("--guest-components", type=Path, metavar="DIR", help="confidential-data-hub and its kin")
        one.add_argument("--cache", type=Path, default=build.default_cache(), metavar="DIR", help="[%(default)s]")
        one.add_argument("--quiet", action="store_true", help="no progress")
        if name == "build":
            one.add_argument("--twice", action="store_true", help="prove that two builds give the same bytes")
            one.add_argument("--out", type=Path, metavar="DIR", help="build into this folder instead of the cache")
            one.add_argument("--base", type=Path, metavar="DIR", help="make the base layer here (with --out)")
            one.add_argument("--listing", type=Path, metavar="FILE", help="list the root's files here (with --out)")
            matrix.add_options(one)
    for module in _OTHERS.values():
        module.add_command(commands)
    return top


def main(argv: Sequence[str]) -> int:
    """Gives the exit code: 0; 2 when it cannot be done, 130 when interrupted, each said in one line."""
    options = parser().parse_args(argv)
    progress = Progress(options.quiet)
    try:
        _do(options, progress)
    except KeyboardInterrupt:
        return _said("interrupted: nothing half-made is left", 130)
    except PeerPodError as error:
        return _said(str(error), 2)
    except OSError as error:
        return _said(in_words(error), 2)
    return 0


def _said(text: str, code: int) -> int:
    print("image:", " ".join(text.split()), file=sys.stderr)
    return code


def _do(options: argparse.Namespace, progress: Progress) -> None:
    if options.command in _OTHERS:
        print(_OTHERS[options.command].run(options, progress))
        return
    agent = agentkind.choose(options.kata_agent, options.kata_agent_sha256, options.guest_components)
    if options.command == "path":
        print(build.folder_for(options.cache, agent))
        return
    if options.command == "trial":
        print(_trial(build.image(options.cache, agent, progress)))
        return
    strict = lock.strict(options.lock)
    if (wanted := matrix.wanted(options)).layout == "system":
        _system(wanted, options, agent, progress)
        return
    lock.load("amd64", strict=strict)  # what is wrong with it is said before the work
    if options.twice:
        print(json.dumps(build.twice(options.cache, _agent_options(options), progress), indent=1))
    elif options.out:
        base = options.base or options.cache / f"image-base-{key.base_key()}"
        folder = build.build(options.cache, base, options.out, agent, progress, listing=options.listing)
        _locked(base, strict, progress)
        print(folder)
    else:
        _make(options.cache, agent, strict, progress)


def _locked(base: Path, strict: bool, progress: Progress) -> None:
    """Compare the packages of the local image with the lock; a base layer from another day may differ."""
    layer = Base(base)
    try:
        drift = lock.check(lock.load("amd64", strict=strict), layer.lock, layer.tools_lock, strict=strict)
    except ConfigError as error:
        raise ConfigError(error.message, remedy=f"remove {base}, or {error.remedy}") from error
    if drift:
        progress.say(drift)


def _system(wanted: Variant, options: argparse.Namespace, agent: agentkind.Agent, progress: Progress) -> None:
    folder = matrix.build(
        wanted,
        agent,
        options.cache,
        progress,
        out=options.out,
        strict=lock.strict(options.lock),
        signing_key=options.signing_key,
        formats=not options.no_formats,
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    print(json.dumps({"folder": str(folder), **manifest}, indent=1) if options.json else folder)


def _agent_options(options: argparse.Namespace) -> list[str]:
    names = ("kata_agent", "kata_agent_sha256", "guest_components")
    given = {name: getattr(options, name) for name in names}
    return [word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", str(value))]


def _trial(image: Path) -> str:
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from peerpods.image.trial import trial

    results: list[str | Failure] = []
    with tempfile.TemporaryDirectory(prefix="pptrial") as folder:
        running = Deferred.fromCoroutine(trial(reactor, image, Path(folder)))
        running.addBoth(results.append).addBoth(lambda _: reactor.callWhenRunning(reactor.stop))
        reactor.run()
    if not results:
        raise LocalFailure("the trial was interrupted")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return str(results[0])


def _make(cache: Path, agent: agentkind.Agent, strict: bool, progress: Progress) -> None:
    known = (build.folder_for(cache, agent) / "SHA256SUMS").exists()
    folder = build.image(cache, agent, progress)
    _locked(cache / f"image-base-{key.base_key()}", strict, progress)
    prune.used(folder)
    prune.used(cache / f"image-base-{key.base_key()}")
    for name in prune.prune(cache, time.time()):
        progress.say(f"removed {name}, unused for a day")
    if known:
        progress.say("it is there already")
    else:
        facts = json.loads((folder / "manifest.json").read_text())
        for name, size in sorted(facts["parts"].items(), key=lambda item: -item[1]):
            progress.say(f"{size / 1e6:7.1f} MB  {name}")
        whole = sum(file["size"] for file in facts["files"].values())
        small = build.compressed_size(Base(cache / f"image-base-{key.base_key()}"), folder)
        progress.say(f"{whole / 1e6:7.1f} MB  kernel, initrd and root; {small / 1e6:.1f} MB through zstd")
    print(folder)


def _terminated(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt  # as Ctrl-C: what is half-made goes


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main(sys.argv[1:]))

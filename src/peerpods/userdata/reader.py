"""`peerpods-userdata`: reads in the VM what it was told at birth, and writes the files.

Exit codes: 0 written; 1 nothing found, or it could not be read or written; 2 refused, nothing written. Each failure is
one line on standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from peerpods.errors import GuestError, PeerPodError, Refused
from peerpods.userdata import sources
from peerpods.userdata.cloud_config import FOLDER, INITDATA, parse
from peerpods.userdata.initdata import decode_initdata, read_initdata

DEFAULT_TIMEOUT = 180.0  # seconds; upstream.md 4.1
PAUSE = 0.2  # seconds between looks at what may still appear
METADATA_PAUSE = 2.0  # seconds between requests
DIGEST = f"{FOLDER}/initdata.digest"


def plan(document: bytes) -> dict[str, bytes]:
    """All files to write: those of the document, and those that initdata brings (they win, being measured).

    Raises:
        Refused: when anything in the document is not as it should be.
    """
    files = parse(document)
    packed = files.get(INITDATA)
    if packed is not None:
        initdata = read_initdata(decode_initdata(packed.decode()))
        files[DIGEST] = initdata.digest.encode()
        files.update({f"{FOLDER}/{name}": text.encode() for name, text in initdata.files.items()})
    return files


def install(files: Mapping[str, bytes], root: str = "/") -> None:
    """Write the files below `root`: each one whole or not at all, mode 0600, missing parents 0700. Idempotent.

    Raises:
        OSError: when the place cannot be written.
    """
    for path, content in files.items():
        target = os.path.join(root, path.lstrip("/"))
        _folders(os.path.dirname(target), root)
        draft = f"{target}.new"
        if os.path.lexists(draft):
            os.unlink(draft)  # left by a reader that was killed
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        os.replace(draft, target)


def _folders(folder: str, root: str) -> None:
    if not os.path.isdir(folder):
        _folders(os.path.dirname(folder), root)
        os.mkdir(folder, 0o700)


def find(
    root: str,
    timeout: float,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    device: Callable[[], str] = sources.find_device,
    cloud: Callable[[], str] = sources.cloud_of,
    metadata: Callable[[str], bytes] = sources.read_metadata,
) -> bytes:
    """The document from the first source that has it, waiting until one does.

    Raises:
        GuestError: after `timeout` seconds, or when a source has something unusable.
    """
    end = now() + timeout
    service = cloud()
    path = os.path.join(root, sources.CIDATA_FILE)
    reason = "no user data: neither /media/cidata/user-data, nor a disk labelled cidata, nor a known metadata service"
    while True:
        pause = METADATA_PAUSE if service else PAUSE
        if os.path.exists(path):
            return sources.read_file(path)
        found = device()
        if found:
            return sources.read_device(found)
        if service:
            try:
                return metadata(service)
            except sources.NotThereYet as error:
                reason = f"no user data: {error}"
                if isinstance(error, sources.NoWayYet):
                    pause = PAUSE
        left = end - now()
        if left <= 0:
            raise GuestError(reason)
        sleep(min(left, pause))


def run(argv: Sequence[str]) -> int:
    """Do the command's work; gives the exit code."""
    import argparse

    parser = argparse.ArgumentParser("peerpods-userdata", description="Write the files of this VM's user data.")
    parser.add_argument("--source", metavar="FILE", help="read this file and look nowhere else")
    parser.add_argument("--root", metavar="DIR", default="/", help="folder the paths stand below [/]")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=DEFAULT_TIMEOUT,
        help="longest wait for a source [%(default)s]",
    )
    options = parser.parse_args(argv)
    try:
        document = sources.read_file(options.source) if options.source else find(options.root, options.timeout)
        install(plan(document), options.root)
    except Refused as error:
        return _say(error, 2)
    except PeerPodError as error:
        return _say(error, 1)
    except OSError as error:
        return _say(f"{error.filename}: {error.strerror}", 1)
    return 0


def _say(reason: object, code: int) -> int:
    print("peerpods-userdata:", " ".join(str(reason).split()), file=sys.stderr)
    return code


def main() -> None:
    """The command `peerpods-userdata`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

"""What the forwarder does to the VM's files, right before a call passes. No link is ever followed."""

from __future__ import annotations

import os

from peerpods.obs.log import get_logger

MODE = 0o755
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_log = get_logger("forwarder")


def on_real_folders(path: str, root: str = "/") -> bool:
    """Whether all parents of `path` that exist are real folders, none a link or something else."""
    try:
        fd = os.open(root, _FOLDER)
    except OSError:
        return False
    try:
        for name in path.strip("/").split("/")[:-1]:
            try:
                below = os.open(name, _FOLDER, dir_fd=fd)
            except FileNotFoundError:
                return True
            except OSError:
                return False
            os.close(fd)
            fd = below
        return True
    finally:
        os.close(fd)


def make_folders(path: str, root: str = "/") -> None:
    """Make the folders that `path` lacks, mode 0755. Idempotent.

    Stops at the first thing in the way that is no real folder (a file is a fine bind source, a link is not ours to
    follow), and at an error: then the agent says what it misses.
    """
    try:
        fd = os.open(root, _FOLDER)
    except OSError:
        return
    try:
        for name in path.strip("/").split("/"):
            fresh = False
            try:
                os.mkdir(name, MODE, dir_fd=fd)
                fresh = True
            except FileExistsError:
                fresh = False
            below = os.open(name, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
            if fresh:
                os.chmod(f"/proc/self/fd/{fd}", MODE)  # whatever the umask is
    except NotADirectoryError:
        return
    except OSError as error:
        _log.warning("bind_source_not_made", reason=error.strerror)
    finally:
        os.close(fd)

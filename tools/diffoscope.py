"""Fetches diffoscope of Debian 13, whatever Debian the host is, for `peerpods image diff --report FILE`.

It is only unpacked below the cache, with what it needs: nothing of the host changes. As `make diffoscope`.
"""

from __future__ import annotations

import sys

from peerpods.errors import PeerPodError
from peerpods.image import build
from peerpods.image.progress import Progress
from peerpods.image.publish import report

if __name__ == "__main__":
    try:
        report.fetch(build.default_cache(), Progress())
    except PeerPodError as error:
        print(f"diffoscope: {error}", file=sys.stderr)
        sys.exit(1)

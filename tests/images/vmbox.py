"""A machine to boot an image in: QEMU without KVM, OVMF, a vTPM; bounded, and no process of it is left.

Its network is QEMU's own, closed to the outside; only the forwarder's port is reachable, on the host's loopback.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from peerpods import userdata
from peerpods.clouds.libvirt.iso import build_iso
from peerpods.model import PodNetwork
from peerpods.pki.issue import issue
from peerpods.userdata.apf import ApfConfig
from tests.images.built import Machine

MEMORY_MIB = 1024
GATEWAY = "10.0.2.2"  # of QEMU's user network
_ESCAPES = re.compile(r"\x1b(\[[0-9;?=!]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\\\|$)|[()][A-Z0-9]|[78c])|\r")
MEASURED = re.compile(r"peerpods-measured (?:pcr=(\d+) sha256|(initdata))=([0-9a-f]+|none)")


class Told:
    """What a VM is told at birth, and the keys to talk to it."""

    def __init__(self, initdata: str | None = None) -> None:
        import datetime

        self.keys = issue("podvm-test", datetime.datetime.now(datetime.UTC))
        network = PodNetwork(
            interface="eth0", mac="02:00:00:00:00:05", mtu=1450, addresses=("10.1.2.3/24",), node_address=GATEWAY
        )
        apf = ApfConfig(
            pod_name="web", pod_namespace="default", server_key=self.keys.server_key,
            server_cert=self.keys.server_cert, client_ca=self.keys.client_cert, network=network, vxlan_id=555001,
        )  # fmt: skip
        document = userdata.document(apf, initdata_toml=initdata)
        self.disk = build_iso("cidata", {"user-data": document, "meta-data": b"", "vendor-data": b""})


class VmBox:
    """One boot. Use it as a context manager.

    Args:
        folder: scratch folder, short (sockets).
        disk: raw disk; booted from a copy.
        told: user data, or None for no second disk.
        code: UEFI code image; a firmware without "_CODE" in its name holds its variables as well.
        tpm: whether the machine has a vTPM.
        more: further words for QEMU, such as a kernel.
    """

    def __init__(
        self,
        folder: Path,
        machine: Machine,
        disk: Path,
        *,
        told: Told | None,
        code: Path,
        tpm: bool = True,
        more: Sequence[str | Path] = (),
    ) -> None:
        self._folder = folder
        self._machine = machine
        self._disk = disk
        self._told = told
        self._code = code
        self._with_tpm = tpm
        self._more = [str(word) for word in more]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.lines: list[tuple[float, str]] = []
        """Console lines with the seconds since the start at which they came."""
        self._news = threading.Condition()
        self.began = 0.0
        self.port = 0

    def __enter__(self) -> VmBox:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        here = self._folder
        subprocess.run(["cp", "--sparse=always", self._disk, here / "disk.raw"], check=True)
        shutil.copyfile(self._machine.variables, here / "vars.fd")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = [
            "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", str(MEMORY_MIB), "-smp", "1",
            "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
            *self._firmware(),
            "-drive", f"file={here}/disk.raw,format=raw,if=none,id=root",
            "-device", "virtio-blk-pci,drive=root,bootindex=1",
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:15150",
            "-device", "virtio-net-pci,netdev=net,romfile=",
        ]  # fmt: skip
        if self._told is not None:
            (here / "seed.iso").write_bytes(self._told.disk)
            words += ["-drive", f"file={here}/seed.iso,format=raw,if=virtio,readonly=on"]
        if self._with_tpm:
            words += self._start_tpm()
        words += self._more
        if ".secboot" in self._code.name:  # Secure Boot keeps its variables behind SMM
            words[2] = "q35,accel=tcg,smm=on"
            words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        self.began = time.monotonic()
        self.qemu = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._processes.append(self.qemu)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _firmware(self) -> list[str]:
        if "_CODE" not in self._code.name:
            return ["-bios", str(self._code)]
        code, variables = f"readonly=on,file={self._code}", f"file={self._folder}/vars.fd"
        return [word for drive in (code, variables) for word in ("-drive", f"if=pflash,format=raw,{drive}")]

    def _start_tpm(self) -> list[str]:
        state = self._folder / "tpm"
        state.mkdir()
        sock = state / "sock"
        words = [*self._machine.swtpm(), "socket", "--tpm2", "--tpmstate", f"dir={state}"]
        words += ["--ctrl", f"type=unixio,path={sock}", "--terminate"]
        with (self._folder / "swtpm.log").open("wb") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append(process)
        end = time.monotonic() + 20
        while not sock.exists():
            assert process.poll() is None, (self._folder / "swtpm.log").read_text()
            assert time.monotonic() < end, "swtpm opened no socket"
            time.sleep(0.02)
        chip = ["-chardev", f"socket,id=tpm,path={sock}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"]
        return [*chip, "-device", "tpm-crb,tpmdev=tpm0"]

    def _read(self) -> None:
        assert self.qemu.stdout is not None
        for raw in self.qemu.stdout:
            text = _ESCAPES.sub("", raw.decode(errors="replace")).strip()
            with self._news:
                if text:
                    self.lines.append((time.monotonic() - self.began, text))
                self._news.notify_all()

    def type(self, line: str) -> None:
        """Type a line on the console, where an image has a shell there."""
        assert self.qemu.stdin is not None
        self.qemu.stdin.write(line.encode() + b"\n")
        self.qemu.stdin.flush()

    @property
    def console(self) -> str:
        """All of the console."""
        return "\n".join(text for _, text in self.lines)

    def wait_for(self, words: str, seconds: float) -> float:
        """When a console line with these words came, in seconds since the start.

        Raises:
            AssertionError: the machine ended first, or the time is over.
        """
        end = time.monotonic() + seconds
        seen = 0
        while True:
            with self._news:
                for at, text in self.lines[seen:]:
                    if words in text:
                        return at
                seen = len(self.lines)
                alive = self._reader.is_alive()
                assert alive, f"the machine ended without {words!r}:\n{self.console[-3000:]}"
                assert time.monotonic() < end, f"no {words!r} in {seconds:.0f} s:\n{self.console[-3000:]}"
                self._news.wait(1.0)

    def wait_for_end(self, seconds: float) -> None:
        """Until the machine has powered off by itself."""
        try:
            code = self.qemu.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {seconds:.0f} s:\n{self.console[-3000:]}") from None
        self._reader.join(10)
        assert code == 0, self.console[-3000:]

    def measured(self) -> dict[str, str]:
        """What the VM says of itself: "4", "7", "8", "9", "11" and "initdata" to hex."""
        return {pcr or name: value for pcr, name, value in MEASURED.findall(self.console)}

    def cpu_seconds(self) -> float:
        """CPU time of the machine so far."""
        fields = Path(f"/proc/{self.qemu.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End it. Idempotent."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.kill()
            process.wait(20)
        self._processes.clear()


def flipped(disk: Path, target: Path, offset: int) -> Path:
    """A copy of a disk in which one bit of the byte at `offset` differs."""
    subprocess.run(["cp", "--sparse=always", disk, target], check=True)
    with target.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    return target

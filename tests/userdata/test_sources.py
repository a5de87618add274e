"""Sources: labels read off a disk, DMI strings, and metadata services as scripted HTTP servers on loopback."""

import base64
import errno
import io
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.errors import GuestError
from peerpods.userdata.iso import read_iso_file
from peerpods.userdata.sources import (
    NotThereYet,
    NoWayYet,
    cloud_of,
    find_device,
    read_device,
    read_metadata,
    volume_label,
)


def iso(label):
    image = bytearray(0x8000 + 2048)
    image[0x8000 : 0x8000 + 6] = b"\x01CD001"
    image[0x8000 + 40 : 0x8000 + 72] = label.ljust(32).encode()
    return bytes(image)


def fat(label, kind):
    image = bytearray(0x9000)
    image[510:512] = b"\x55\xaa"
    type_at, label_at = {16: (54, 43), 32: (82, 71)}[kind]
    image[type_at : type_at + 8] = f"FAT{kind}".ljust(8).encode()
    image[label_at : label_at + 11] = label.ljust(11).encode()
    return bytes(image)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (iso("cidata"), "cidata"),
        (iso("CIDATA"), "cidata"),
        (iso("other"), "other"),
        (fat("CIDATA", 16), "cidata"),
        (fat("CIDATA", 32), "cidata"),
        (b"", ""),
        (b"\0" * 100, ""),
        (b"\0" * 0x9000, ""),
        (iso("cidata")[:0x8003], ""),
    ],
)
def test_labels_are_read_off_the_disk(tmp_path, image, label):
    (tmp_path / "disk").write_bytes(image)
    assert volume_label(str(tmp_path / "disk")) == label


def test_no_device_no_label():
    assert volume_label("/nonexistent") == ""


def test_the_disk_is_found_without_udev(tmp_path):
    block, dev = tmp_path / "block", tmp_path / "dev"
    block.mkdir()
    dev.mkdir()
    assert find_device(str(block), str(dev)) == ""
    for name, image in {"vda": b"\0" * 0x9000, "vdb": iso("cidata"), "vdc": iso("x")}.items():
        (block / name).mkdir()
        (dev / name).write_bytes(image)
    assert find_device(str(block), str(dev)) == str(dev / "vdb")


def test_udevs_link_is_taken_first(tmp_path):
    (tmp_path / "disk/by-label").mkdir(parents=True)
    (tmp_path / "disk/by-label/CIDATA").write_bytes(b"")
    assert find_device(str(tmp_path / "none"), str(tmp_path)) == str(tmp_path / "disk/by-label/CIDATA")


@pytest.mark.parametrize(
    ("fields", "cloud"),
    [
        ({"sys_vendor": "Amazon EC2\n"}, "aws"),
        ({"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77\n"}, "azure"),
        ({"product_name": "Google Compute Engine\n"}, "gcp"),
        ({"sys_vendor": "QEMU\n"}, ""),
        ({}, ""),
    ],
)
def test_the_cloud_is_told_by_dmi(tmp_path, fields, cloud):
    for name, text in fields.items():
        (tmp_path / name).write_text(text)
    assert cloud_of(str(tmp_path)) == cloud


@pytest.fixture
def service():
    """A metadata service: `answers` maps "METHOD path" to (status, body); `seen` has what came."""

    class Handler(BaseHTTPRequestHandler):
        answers = {}
        seen = []

        def answer(self):
            self.seen.append((self.command, self.path, dict(self.headers)))
            status, body = self.answers.get(f"{self.command} {self.path}", (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = answer

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{server.server_port}", Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_aws_with_a_session_token(service):
    host, handler = service
    handler.answers = {"PUT /latest/api/token": (200, b"tok"), "GET /latest/user-data": (200, b"doc")}
    assert read_metadata("aws", host) == b"doc"
    assert handler.seen[-1][2]["X-aws-ec2-metadata-token"] == "tok"


def test_aws_never_without_a_token(service):
    host, handler = service
    handler.answers = {"GET /latest/user-data": (200, b"doc")}
    handler.seen = []
    with pytest.raises(NotThereYet, match="404"):
        read_metadata("aws", host)
    assert [(method, path) for method, path, _ in handler.seen] == [("PUT", "/latest/api/token")]


@pytest.mark.parametrize(
    ("cloud", "path", "header"),
    [
        (
            "azure",
            "/metadata/instance/compute/userData?api-version=2021-01-01&format=text",
            ("Metadata", "true"),
        ),
        ("gcp", "/computeMetadata/v1/instance/attributes/user-data", ("Metadata-Flavor", "Google")),
    ],
)
def test_azure_and_gcp_give_base64(service, cloud, path, header):
    host, handler = service
    handler.answers = {f"GET {path}": (200, base64.encodebytes(b"doc" * 40))}
    assert read_metadata(cloud, host) == b"doc" * 40
    assert handler.seen[-1][2][header[0]] == header[1]
    handler.answers = {f"GET {path}": (200, b"<html>")}
    with pytest.raises(GuestError, match="base64"):
        read_metadata(cloud, host)


def test_nobody_answers():
    with pytest.raises(NotThereYet, match="did not answer") as caught:
        read_metadata("gcp", "127.0.0.1:1")
    assert not isinstance(caught.value, NoWayYet)


def test_there_is_no_network_yet(monkeypatch):
    def unreachable(*_args, **_options):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", unreachable)
    with pytest.raises(NoWayYet, match="Network is unreachable"):
        read_metadata("gcp")


@pytest.mark.parametrize("flags", [["-r"], ["-J"], ["-J", "-r"], ["-allow-lowercase", "-l"]])
def test_a_real_iso_is_read_without_mounting_it(tmp_path, flags):
    maker = next(filter(os.path.exists, ("/usr/bin/genisoimage", "/usr/bin/xorrisofs")), None)
    if maker is None:
        pytest.skip("no tool here that makes ISO images")
    text = b"#cloud-config\n" + b"x" * 5000
    for name in ("user-data", "meta-data", "vendor-data", *(f"file-{n}" for n in range(60))):
        (tmp_path / name).write_bytes(text if name == "user-data" else b"other")
    image = tmp_path / "seed.iso"
    subprocess.run(
        [maker, "-quiet", "-V", "cidata", *flags, "-o", image, *sorted(tmp_path.iterdir())], check=True, timeout=60
    )
    assert volume_label(str(image)) == "cidata"
    assert read_device(str(image)) == text


def test_an_iso_without_the_file_or_cut_short_is_an_error(tmp_path):
    (tmp_path / "disk").write_bytes(iso("cidata"))
    with pytest.raises(GuestError):
        read_device(str(tmp_path / "disk"))


@given(st.binary(max_size=8192), st.integers(0, 40))
def test_a_hostile_iso_ends_in_bytes_or_nothing(junk, length):
    head = iso("cidata")
    root = bytes([34, 0]) + (16).to_bytes(4, "little") + bytes(4) + (4096).to_bytes(4, "little") + bytes(20)
    image = head[: 0x8000 + 156] + root + junk + bytes([length]) * 64
    found = read_iso_file(io.BytesIO(image), "user-data", 100)
    assert found is None or (len(found) <= 100 and found in image)


@pytest.mark.root
def test_a_fat_disk_is_mounted_read_and_unmounted(tmp_path):
    if "vfat" not in open("/proc/filesystems").read():
        pytest.skip("this kernel has no vfat")
    image = tmp_path / "seed.img"
    image.write_bytes(bytes(1 << 20))
    for command in (["mkfs.vfat", "-n", "CIDATA", image], ["mcopy", "-i", image, __file__, "::user-data"]):
        try:
            subprocess.run(command, check=True, timeout=60, capture_output=True)
        except FileNotFoundError:
            pytest.skip(f"{command[0]} is not here")
    loop = subprocess.run(["losetup", "-f", "--show", "-r", image], capture_output=True, text=True, timeout=60)
    if loop.returncode:
        pytest.skip("no loop devices here")
    device = loop.stdout.strip()
    try:
        assert read_device(device).startswith(b'"""Sources')
        with open("/proc/self/mounts") as mounts:
            assert device not in mounts.read()
    finally:
        subprocess.run(["losetup", "-d", device], check=True, timeout=60)

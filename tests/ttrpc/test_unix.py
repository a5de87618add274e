"""Unix server sockets: mode from the first instant, living owners kept, dead files taken over."""

import os
import socket
import stat

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

from peerpods.ttrpc.unix import SocketInUse, listen_unix

FACTORY = Factory.forProtocol(Protocol)


@pytest_twisted.ensureDeferred
async def test_mode_and_removal(tmp_path):
    path = str(tmp_path / "s")
    old = os.umask(0)
    try:
        port = await listen_unix(reactor, path, FACTORY, mode=0o640)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    await port.stopListening()
    assert not os.path.exists(path)


@pytest_twisted.ensureDeferred
async def test_a_living_socket_is_not_taken(tmp_path):
    path = str(tmp_path / "s")
    port = await listen_unix(reactor, path, FACTORY)
    inode = os.stat(path).st_ino
    with pytest.raises(SocketInUse, match="in use"):
        await listen_unix(reactor, path, FACTORY)
    assert os.stat(path).st_ino == inode
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_dead_socket_is_taken_over(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    port = await listen_unix(reactor, path, FACTORY)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path)
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_another_file_is_left_alone(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(SocketInUse, match="not a socket"):
        await listen_unix(reactor, str(path), FACTORY)
    assert path.read_text() == "precious"


@pytest_twisted.ensureDeferred
async def test_a_successors_file_is_left_at_stop(tmp_path):
    path = str(tmp_path / "s")
    first = await listen_unix(reactor, path, FACTORY)
    os.rename(path, path + ".old")
    second = await listen_unix(reactor, path, FACTORY)
    await first.stopListening()
    assert os.path.exists(path)
    await second.stopListening()
    assert not os.path.exists(path)


@pytest_twisted.ensureDeferred
async def test_clear_errors(tmp_path):
    with pytest.raises(OSError, match="107 bytes"):
        await listen_unix(reactor, str(tmp_path / ("x" * 120)), FACTORY)
    with pytest.raises(FileNotFoundError):
        await listen_unix(reactor, str(tmp_path / "none" / "s"), FACTORY)

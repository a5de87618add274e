"""A stand-in for the agent that costs next to nothing: one thread, epoll, ready-made answers. `agent.py SOCKET`.

Health/Check and the like echo their payload, ReadStdout gives 32 KiB, GetOOMEvent and WaitProcess never answer.
"""

import os
import selectors
import socket
import sys

from peerpods.protocols import agent_pb2
from peerpods.ttrpc import HEADER, FrameDecoder, Response, decode_request, encode_frame, peek_method

CHUNK = Response(None, agent_pb2.ReadStreamResponse(data=os.urandom(32768)).SerializeToString()).encode()


def answer(frame):
    method = peek_method(frame.body)[1]
    if method == "ReadStdout":
        return HEADER.pack(len(CHUNK), frame.stream, 2, 0) + CHUNK
    if method in ("GetOOMEvent", "WaitProcess"):
        return b""
    return encode_frame(frame.stream, 2, 0, Response(None, decode_request(frame.body).payload).encode())


def main():
    path = sys.argv[1]
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(2000)
    selector = selectors.EpollSelector()
    selector.register(listening, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                sock = listening.accept()[0]
                selector.register(sock, selectors.EVENT_READ, FrameDecoder())
                continue
            try:
                data = key.fileobj.recv(262144)
            except ConnectionError:
                data = b""
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                continue
            out = b"".join([answer(frame) for frame in key.data.feed(data)])
            if out:
                key.fileobj.sendall(out)


if __name__ == "__main__":
    main()

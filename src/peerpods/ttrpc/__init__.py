"""ttrpc, whole: frames, envelopes, a connection as a pure object, a Twisted server and client around it.

Knows nothing else of this project. Start with `Server`, `connect_client` and `Frame`.
"""

from peerpods.ttrpc.client import Client, ClientStream, connect_client
from peerpods.ttrpc.connection import ClientCore, ServerCore, Shape
from peerpods.ttrpc.envelope import Request, Response, decode_request, decode_response, peek_method
from peerpods.ttrpc.frame import (
    HEADER,
    HEADER_SIZE,
    MAX_LENGTH,
    Flag,
    Frame,
    FrameDecoder,
    FrameType,
    Oversize,
    encode_frame,
    encode_header,
)
from peerpods.ttrpc.server import Server, ServerConnection
from peerpods.ttrpc.service import CallContext, Method, Service, default_map_error
from peerpods.ttrpc.status import Code, ConnectionClosed, Status, StatusError

__all__ = [
    "HEADER",
    "HEADER_SIZE",
    "MAX_LENGTH",
    "CallContext",
    "Client",
    "ClientCore",
    "ClientStream",
    "Code",
    "ConnectionClosed",
    "Flag",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "Method",
    "Oversize",
    "Request",
    "Response",
    "Server",
    "ServerConnection",
    "ServerCore",
    "Service",
    "Shape",
    "Status",
    "StatusError",
    "connect_client",
    "decode_request",
    "decode_response",
    "default_map_error",
    "encode_frame",
    "encode_header",
    "peek_method",
]

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkFailure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NONE: _ClassVar[LinkFailure]
    REFUSED: _ClassVar[LinkFailure]
    TIMEOUT: _ClassVar[LinkFailure]
    TLS: _ClassVar[LinkFailure]
    WRONG_PEER: _ClassVar[LinkFailure]
    AGENT: _ClassVar[LinkFailure]
    CLOSED: _ClassVar[LinkFailure]
NONE: LinkFailure
REFUSED: LinkFailure
TIMEOUT: LinkFailure
TLS: LinkFailure
WRONG_PEER: LinkFailure
AGENT: LinkFailure
CLOSED: LinkFailure

class OpenRequest(_message.Message):
    __slots__ = ("sandbox", "server_name", "server_ca", "client_cert", "client_key")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    SERVER_NAME_FIELD_NUMBER: _ClassVar[int]
    SERVER_CA_FIELD_NUMBER: _ClassVar[int]
    CLIENT_CERT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_KEY_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    server_name: str
    server_ca: str
    client_cert: str
    client_key: str
    def __init__(self, sandbox: _Optional[str] = ..., server_name: _Optional[str] = ..., server_ca: _Optional[str] = ..., client_cert: _Optional[str] = ..., client_key: _Optional[str] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("agent_socket",)
    AGENT_SOCKET_FIELD_NUMBER: _ClassVar[int]
    agent_socket: str
    def __init__(self, agent_socket: _Optional[str] = ...) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("sandbox", "host", "port", "deadline")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    host: str
    port: int
    deadline: int
    def __init__(self, sandbox: _Optional[str] = ..., host: _Optional[str] = ..., port: _Optional[int] = ..., deadline: _Optional[int] = ...) -> None: ...

class LinkResponse(_message.Message):
    __slots__ = ("up", "failure", "message")
    UP_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    up: bool
    failure: LinkFailure
    message: str
    def __init__(self, up: _Optional[bool] = ..., failure: _Optional[_Union[LinkFailure, str]] = ..., message: _Optional[str] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("sandbox",)
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    def __init__(self, sandbox: _Optional[str] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SandboxLink(_message.Message):
    __slots__ = ("sandbox", "agent_socket", "up", "host", "port", "connections", "active_connections", "was_active", "idle_nano")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    AGENT_SOCKET_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    WAS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    IDLE_NANO_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    agent_socket: str
    up: bool
    host: str
    port: int
    connections: int
    active_connections: int
    was_active: bool
    idle_nano: int
    def __init__(self, sandbox: _Optional[str] = ..., agent_socket: _Optional[str] = ..., up: _Optional[bool] = ..., host: _Optional[str] = ..., port: _Optional[int] = ..., connections: _Optional[int] = ..., active_connections: _Optional[int] = ..., was_active: _Optional[bool] = ..., idle_nano: _Optional[int] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sandboxes",)
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    sandboxes: _containers.RepeatedCompositeFieldContainer[SandboxLink]
    def __init__(self, sandboxes: _Optional[_Iterable[_Union[SandboxLink, _Mapping]]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("kind", "sandbox", "connection", "active", "by_relay", "failure", "message")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[WatchEvent.Kind]
        READY: _ClassVar[WatchEvent.Kind]
        LINK_UP: _ClassVar[WatchEvent.Kind]
        LINK_DOWN: _ClassVar[WatchEvent.Kind]
        SHIM_CONNECTED: _ClassVar[WatchEvent.Kind]
        SHIM_ACTIVE: _ClassVar[WatchEvent.Kind]
        SHIM_GONE: _ClassVar[WatchEvent.Kind]
    UNKNOWN: WatchEvent.Kind
    READY: WatchEvent.Kind
    LINK_UP: WatchEvent.Kind
    LINK_DOWN: WatchEvent.Kind
    SHIM_CONNECTED: WatchEvent.Kind
    SHIM_ACTIVE: WatchEvent.Kind
    SHIM_GONE: WatchEvent.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    BY_RELAY_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: WatchEvent.Kind
    sandbox: str
    connection: int
    active: bool
    by_relay: bool
    failure: LinkFailure
    message: str
    def __init__(self, kind: _Optional[_Union[WatchEvent.Kind, str]] = ..., sandbox: _Optional[str] = ..., connection: _Optional[int] = ..., active: _Optional[bool] = ..., by_relay: _Optional[bool] = ..., failure: _Optional[_Union[LinkFailure, str]] = ..., message: _Optional[str] = ...) -> None: ...

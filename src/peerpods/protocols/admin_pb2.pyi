from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sandbox(_message.Message):
    __slots__ = ("sandbox", "pod", "namespace", "state", "provider", "instance", "addresses", "age_s", "last_error", "pod_uid", "peer_pod")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    PEER_POD_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    pod: str
    namespace: str
    state: str
    provider: str
    instance: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    age_s: float
    last_error: str
    pod_uid: str
    peer_pod: str
    def __init__(self, sandbox: _Optional[str] = ..., pod: _Optional[str] = ..., namespace: _Optional[str] = ..., state: _Optional[str] = ..., provider: _Optional[str] = ..., instance: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., age_s: _Optional[float] = ..., last_error: _Optional[str] = ..., pod_uid: _Optional[str] = ..., peer_pod: _Optional[str] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("at", "state", "reason")
    AT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    at: float
    state: str
    reason: str
    def __init__(self, at: _Optional[float] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PsResponse(_message.Message):
    __slots__ = ("sandboxes",)
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    sandboxes: _containers.RepeatedCompositeFieldContainer[Sandbox]
    def __init__(self, sandboxes: _Optional[_Iterable[_Union[Sandbox, _Mapping]]] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("sandbox",)
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    def __init__(self, sandbox: _Optional[str] = ...) -> None: ...

class InspectResponse(_message.Message):
    __slots__ = ("sandbox", "history", "vni", "netns", "phases")
    class PhasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    VNI_FIELD_NUMBER: _ClassVar[int]
    NETNS_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    sandbox: Sandbox
    history: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    vni: int
    netns: str
    phases: _containers.ScalarMap[str, float]
    def __init__(self, sandbox: _Optional[_Union[Sandbox, _Mapping]] = ..., history: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., vni: _Optional[int] = ..., netns: _Optional[str] = ..., phases: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ConsoleRequest(_message.Message):
    __slots__ = ("sandbox", "follow")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    follow: bool
    def __init__(self, sandbox: _Optional[str] = ..., follow: _Optional[bool] = ...) -> None: ...

class ConsoleChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

"""interop.v1.Peer in Python: what the peers' own servers serve, served by ours."""

from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue
from twisted.internet.defer import Deferred

from peerpods.ttrpc import Code, Method, Service, Status, StatusError

NAME = "interop.v1.Peer"


async def echo(ctx, asked):
    return StringValue(value=asked.value)


async def fail(ctx, asked):
    number, _, text = asked.value.partition(":")
    raise StatusError(Status(int(number), text))


async def meta(ctx, asked):
    return StringValue(value=",".join(value for key, value in ctx.metadata if key == asked.value))


async def left(ctx, asked):
    remaining = ctx.remaining()
    return StringValue(value="none" if remaining is None else str(round(remaining)))


async def hang(ctx, asked):
    await Deferred()


async def size(ctx, asked):
    return BytesValue(value=bytes(int(asked.value)))


async def count(ctx, asked, send):
    for number in range(abs(asked.value)):
        await send(Int64Value(value=number))
    if asked.value < 0:
        raise StatusError(Status(Code.FAILED_PRECONDITION, "counted enough"))


async def total(ctx, receive):
    result = 0
    while (got := await receive()) is not None:
        if got.value < 0:
            raise StatusError(Status(Code.OUT_OF_RANGE, "below zero"))
        result += got.value
    return Int64Value(value=result)


async def chat(ctx, receive, send):
    while (got := await receive()) is not None:
        if got.value == "bye":
            return
        if got.value == "fail":
            raise StatusError(Status(Code.ABORTED, "asked to fail"))
        await send(got)
    await send(StringValue(value="closed"))


SERVICE = Service(
    NAME,
    {
        **{
            handler.__name__.capitalize(): Method(handler, StringValue)
            for handler in (echo, fail, meta, left, hang, size)
        },
        "Count": Method(count, Int64Value, Int64Value, "server_stream"),
        "Sum": Method(total, Int64Value, Int64Value, "client_stream"),
        "Chat": Method(chat, StringValue, StringValue, "bidi"),
    },
)

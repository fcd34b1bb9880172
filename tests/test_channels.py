"""Chapter 12, Channels: frames of three generations of clients, the life of a channel, both long polls, plain WebSockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import io
import json
import logging
import socket as net
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import phoenix
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phoenix import Broadcast, Channel, Conn, Endpoint, PubSub, SocketHandler, channel, get, post, socket, websocket
from serving import TIMEOUT, Serving, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

SECRET = "a secret of at least sixty-four bytes, which is what the endpoint wants"


# --- Serializers --------------------------------------------------------------------------

V2_MESSAGES = [
    ('["1","2","rooms:lobby","new:msg",{"body":"hi"}]', ["1", "2", "rooms:lobby", "new:msg", {"body": "hi"}]),
    ('[null,"5","phoenix","heartbeat",{}]', [None, "5", "phoenix", "heartbeat", {}]),
    (' [1, 2, "t", "e", null]\r\n', [1, 2, "t", "e", None]),
    ('["1","2","t","e",{"x":"\\ud83d\\ude00 \\u00e9"}]', ["1", "2", "t", "e", {"x": "😀 é"}]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), V2_MESSAGES)
def test_v2_messages_are_arrays_of_five(text: str, message: list[Any]) -> None:
    assert list(phoenix._V2.decode(text)) == message


def test_v1_messages_are_objects_whose_refs_may_be_missing() -> None:
    text = '{"topic":"rooms:lobby","event":"phx_join","payload":{},"ref":"1"}'
    assert phoenix._V1.decode(text) == (None, "1", "rooms:lobby", "phx_join", {})
    assert phoenix._V1.decode(text.replace("{", '{"join_ref":"7",', 1))[0] == "7"
    assert phoenix._V1.decode(text.replace(',"ref":"1"', ""))[1] is None


@pytest.mark.parametrize(
    ("event", "expected"), [("join", "phx_join"), ("leave", "phx_leave"), ("new:msg", "new:msg"), ("info", "info")]
)
def test_messages_of_0_7_have_four_keys_and_the_topic_in_two_parts(event: str, expected: str) -> None:
    text = json.dumps({"channel": "rooms", "topic": "a:b", "event": event, "message": {"x": 1}})
    assert phoenix._V07.decode(text) == (None, None, "rooms:a:b", expected, {"x": 1})


PUSHES: list[tuple[Any, Any, Any]] = [
    ("push", ("7", "t", "e", {"x": 1}), (
        '["7",null,"t","e",{"x":1}]',
        '{"topic":"t","event":"e","payload":{"x":1},"ref":null}',
        '{"channel":"t","topic":"","event":"e","message":{"x":1}}',
    )),
    ("push", (None, "rooms:a:b", "e", {}), (
        '[null,null,"rooms:a:b","e",{}]',
        '{"topic":"rooms:a:b","event":"e","payload":{},"ref":null}',
        '{"channel":"rooms","topic":"a:b","event":"e","message":{}}',
    )),
    ("reply", ("7", "8", "t", "ok", {"x": 1}), (
        '["7","8","t","phx_reply",{"status":"ok","response":{"x":1}}]',
        '{"topic":"t","event":"phx_reply","payload":{"status":"ok","response":{"x":1}},"ref":"8"}',
        None,
    )),
    ("broadcast", (Broadcast("a:b", "e", {"x": "é"}),), (
        '[null,null,"a:b","e",{"x":"é"}]',
        '{"topic":"a:b","event":"e","payload":{"x":"é"},"ref":null}',
        '{"channel":"a","topic":"b","event":"e","message":{"x":"é"}}',
    )),
    ("control", ("7", "t", "phx_error", {"reason": "channel_crash"}), (
        '["7","7","t","phx_error",{"reason":"channel_crash"}]',
        '{"topic":"t","event":"phx_error","payload":{"reason":"channel_crash"},"ref":"7"}',
        None,
    )),
]  # fmt: skip


@pytest.mark.parametrize(("method", "arguments", "frames"), PUSHES)
def test_what_the_server_sends_in_each_generation(method: str, arguments: Any, frames: Any) -> None:
    serializers = (phoenix._V2, phoenix._V1, phoenix._V07)
    assert tuple(getattr(serializer, method)(*arguments) for serializer in serializers) == frames


BINARY = [
    ("push", ("7", "t", "ev", b"\x00\xff"), b"\x00\x01\x01\x027tev\x00\xff"),
    ("push", (None, "t", "ev", b""), b"\x00\x00\x01\x02tev"),
    ("reply", ("7", 12, "t", "ok", b"x"), b"\x01\x01\x02\x01\x02712tokx"),
    ("broadcast", (Broadcast("é", "ev", b"x"),), b"\x02\x02\x02\xc3\xa9evx"),
]


@pytest.mark.parametrize(("method", "arguments", "frame"), BINARY)
def test_bytes_travel_as_binary_frames_in_v2(method: str, arguments: Any, frame: bytes) -> None:
    assert getattr(phoenix._V2, method)(*arguments) == frame


def test_a_binary_push_of_a_client_is_read() -> None:
    assert phoenix._V2.decode(b"\x00\x01\x02\x01\x03112t" + b"evt" + b"\x00\x01\x02") == ("1", "12", "t", "evt", b"\0\1\2")
    assert phoenix._V2.decode(b"\x00\x00\x00\x01\x01te") == (None, None, "t", "e", b"")


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\x00\x01\x01\x01", b"\x00\x01\x01\x01\x05112", b"\x01\x00\x00\x01\x01te"])
def test_a_binary_push_that_is_cut_or_of_another_kind_is_refused(frame: bytes) -> None:
    with pytest.raises(phoenix.ChannelError, match="malformed binary message"):
        phoenix._V2.decode(frame)


def test_a_header_field_of_a_binary_frame_has_255_bytes_at_most() -> None:
    assert len(phoenix._V2.push("1", "t" * 255, "e", b"")) == 4 + 1 + 255 + 1
    message = "unable to convert 't{256}' to binary: must be less than or equal to 255 bytes, but is 256 bytes"
    with pytest.raises(phoenix.ArgumentError, match=message):
        phoenix._V2.push("1", "t" * 256, "e", b"")


@pytest.mark.parametrize("serializer", [phoenix._V1, phoenix._V07])
def test_clients_without_binary_frames_are_not_sent_any(serializer: Any) -> None:
    with pytest.raises(phoenix.ArgumentError, match="needs a client with vsn=2.0.0"):
        serializer.push("1", "t", "e", b"x")


refs = st.none() | st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=20)
texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=40)


@given(refs, refs, texts, texts, st.binary(max_size=50))
def test_every_binary_push_that_a_client_can_write_is_read_as_it_was(
    join_ref: str | None, ref: str | None, topic: str, event: str, payload: bytes
) -> None:
    fields = [(each or "").encode() for each in (join_ref, ref, topic, event)]
    frame = bytes([0, *map(len, fields)]) + b"".join(fields) + payload
    assert phoenix._V2.decode(frame) == (join_ref, ref, topic, event, payload)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(st.lists(values, min_size=5, max_size=5), st.booleans())
def test_every_json_array_of_five_is_read_as_the_standard_library_reads_it(message: list[Any], ascii: bool) -> None:
    text = json.dumps(message, ensure_ascii=ascii)
    assert list(phoenix._V2.decode(text)) == json.loads(text)


# --- An app to talk to --------------------------------------------------------------------


class Room(Channel):
    """Everything that a callback may do, chosen by the client."""

    intercept = ["secret", "slow:out"]

    async def join(self, socket: Any, topic: str, message: Any) -> Any:
        match message.get("do"):
            case "refuse":
                socket.push("error", {"reason": f"failed to join {topic}"})
                return socket.error("unauthorized")
            case "refuse with a map":
                return socket.error({"code": 7})
            case "crash":
                raise ValueError("join crashed as told")
            case "nonsense":
                return "nonsense"
            case "unencodable":
                return socket.ok({"object": object()})
            case "push first":
                socket.push("welcome", {"to": topic})
            case "broadcast":
                socket.broadcast("joining", {})
            case "socket":
                return socket
            case "true":
                return True
            case "bytes":
                return socket.ok(b"\x01\x02")
        socket.assign("user", message.get("user"))
        return socket.ok({"joined": topic})

    async def event(self, socket: Any, event: str, message: Any) -> Any:
        match event, message:
            case "ping", _:
                return socket.ok({"pong": True})
            case "fail", _:
                return socket.error("no")
            case "echo", _:
                socket.reply("echo", message)
            case "shout", _:
                socket.broadcast("shouted", {"user": socket.assigns["user"], **message})
            case "others", _:
                socket.broadcast_from("heard", message)
            case "crash", _:
                raise ValueError("event crashed as told")
            case "nonsense", _:
                return {"a": "dict"}
            case "unencodable", _:
                return socket.ok({"object": object()})
            case "stop", _:
                return socket.stop({"bye": True})
            case "secret", _:
                socket.broadcast("secret", message)
            case "bytes", bytes():
                socket.push("bytes", message[::-1])
                return socket.ok(message)
            case "broadcast bytes", _:
                socket.broadcast("bytes", b"\x00\xff")
            case "info", _:
                socket.push("info", {"got": repr(message)})

    async def out(self, socket: Any, event: str, message: Any) -> Any:
        socket.push(event, {**message, "for": socket.assigns["user"]})

    async def leave(self, socket: Any, message: Any) -> Any:
        socket.broadcast("left", {"message": message})
        if message.get("crash"):
            raise ValueError("leave crashed as told")

    async def terminate(self, socket: Any, reason: str) -> Any:
        socket.push("goodbye", {"reason": reason})
        if socket.assigns.get("user") == "crash":
            raise ValueError("terminate crashed as told")


class AwaitingRoom(Room):
    """The same, with callbacks that suspend."""

    async def join(self, socket: Any, topic: str, message: Any) -> Any:
        await asyncio.sleep(0)
        return await super().join(socket, topic, message)

    async def event(self, socket: Any, event: str, message: Any) -> Any:
        await asyncio.sleep(0)
        return await super().event(socket, event, message)

    async def out(self, socket: Any, event: str, message: Any) -> Any:
        await asyncio.sleep(0)
        return await super().out(socket, event, message)

    async def leave(self, socket: Any, message: Any) -> Any:
        await asyncio.sleep(0)
        return await super().leave(socket, message)

    async def terminate(self, socket: Any, reason: str) -> Any:
        await asyncio.sleep(0)
        return await super().terminate(socket, reason)


def stepped(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


class PlainRoom(Channel):
    """The same, in plain functions, which run in worker threads."""

    intercept = Room.intercept
    room = Room()

    def join(self, socket: Any, topic: str, message: Any) -> Any:
        return stepped(self.room.join(socket, topic, message))

    def event(self, socket: Any, event: str, message: Any) -> Any:
        return stepped(self.room.event(socket, event, message))

    def out(self, socket: Any, event: str, message: Any) -> Any:
        return stepped(self.room.out(socket, event, message))

    def leave(self, socket: Any, message: Any) -> Any:
        return stepped(self.room.leave(socket, message))

    def terminate(self, socket: Any, reason: str) -> Any:
        return stepped(self.room.terminate(socket, reason))


KINDS = {"stepped": Room, "awaiting": AwaitingRoom, "plain": PlainRoom}


def app_with(kind: type[Channel] = Room, name: str = "rooms", handler: Any = SocketHandler, **options: Any) -> Endpoint:
    class Router(phoenix.Router):
        with socket("/ws", handler, **options):
            channel(name, kind)

    return Endpoint(Router, log=False)


@pytest.fixture(params=KINDS, scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[Serving]:
    """A server, for each of the places where callbacks run."""
    with Serving(app_with(KINDS[request.param])) as server:
        yield server


@contextlib.contextmanager
def ws(server: Serving, path: str, **options: Any) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{server.port}{path}", open_timeout=TIMEOUT, close_timeout=2, **options) as client:
        yield client


def read(client: ClientConnection, count: int) -> list[Any]:
    return [json.loads(client.recv(TIMEOUT)) for _ in range(count)]


V2_URL, V1_URL, OLD_URL = "/ws/websocket?vsn=2.0.0", "/ws/websocket", "/ws"

# --- Scenes: what a client says, and all that it is answered, in order ---------------------
#
# Each scene ends with a heartbeat, whose answer must be the next frame: so there were no more.

JOIN = ["1", "1", "rooms:a", "phx_join", {"user": "ann"}]
JOINED = ["1", "1", "rooms:a", "phx_reply", {"status": "ok", "response": {"joined": "a"}}]


def said(ref: str, event: str, payload: Any = None) -> list[Any]:
    return ["1", ref, "rooms:a", event, {} if payload is None else payload]


def answered(ref: str, response: Any, status: str = "ok", join_ref: str | None = "1") -> list[Any]:
    return [join_ref, ref, "rooms:a", "phx_reply", {"status": status, "response": response}]


def refused(ref: str, reason: str, join_ref: str | None = None) -> list[Any]:
    return answered(ref, {"reason": reason}, "error", join_ref)


def joined_with(**payload: Any) -> list[Any]:
    return ["1", "1", "rooms:a", "phx_join", payload]


CLOSED = ["1", "1", "rooms:a", "phx_close", {}]
CRASHED = ["1", "1", "rooms:a", "phx_error", {"reason": "channel_crash"}]


def goodbye(reason: str) -> list[Any]:
    return ["1", None, "rooms:a", "goodbye", {"reason": reason}]


def unmatched(ref: str, topic: str = "nowhere:a") -> list[Any]:
    return [None, ref, topic, "phx_reply", {"status": "error", "response": {"reason": "unmatched topic"}}]


# Each step is what the client sends, and the frames that it is answered with.
SCENES: dict[str, list[tuple[Any, ...]]] = {
    "join": [(JOIN, JOINED)],
    "a join may return the socket": [(joined_with(do="socket"), answered("1", {}))],
    "a join may return True": [(joined_with(do="true"), answered("1", {}))],
    "a refused join": [
        (joined_with(do="refuse"), ["1", None, "rooms:a", "error", {"reason": "failed to join a"}],
         refused("1", "unauthorized", "1")),
        (said("2", "ping"), refused("2", "unmatched topic")),
    ],
    "a join refused with a map": [(joined_with(do="refuse with a map"), answered("1", {"code": 7}, "error"))],
    "a join that crashes": [
        (joined_with(do="crash"), refused("1", "join crashed", "1")),
        (said("2", "ping"), refused("2", "unmatched topic")),
        (JOIN, JOINED),
    ],
    "a join that returns nonsense": [
        (joined_with(do="nonsense"), refused("1", "join crashed", "1")),
        (said("2", "ping"), refused("2", "unmatched topic")),
    ],
    "a join whose answer is no JSON": [
        (joined_with(do="unencodable"), refused("1", "join crashed", "1")),
        (said("2", "ping"), refused("2", "unmatched topic")),
    ],
    "pushes of a join come before its answer, and of the same join_ref": [
        (joined_with(do="push first"), ["1", None, "rooms:a", "welcome", {"to": "a"}], JOINED),
    ],
    "broadcasts of a join do not come back": [(joined_with(do="broadcast"), JOINED)],
    "a join without any ref is answered all the same": [
        ([None, None, "rooms:a", "phx_join", {}],
         [None, None, "rooms:a", "phx_reply", {"status": "ok", "response": {"joined": "a"}}]),
        ([None, "2", "rooms:a", "ping", {}], answered("2", {"pong": True}, join_ref=None)),
    ],
    "a join whose payload is no map": [(["1", "1", "rooms:a", "phx_join", [1]], refused("1", "join crashed", "1"))],
    "an unknown topic": [
        (["1", "1", "nowhere:a", "phx_join", {}], unmatched("1")),
        ([None, "2", "nowhere:a", "ping", {}], unmatched("2")),
        (["1", "3", "phoenix", "phx_join", {}], unmatched("3", "phoenix")),
        (["1", "4", "", "phx_join", {}], unmatched("4", "")),
    ],
    "an event before the join": [(said("2", "ping"), refused("2", "unmatched topic"))],
    "a reply, an error reply, and a push": [
        (JOIN, JOINED),
        (said("2", "ping"), answered("2", {"pong": True})),
        (said("3", "fail"), answered("3", {"reason": "no"}, "error")),
        (said("4", "echo", {"x": 1}), ["1", None, "rooms:a", "echo", {"x": 1}]),
    ],
    "an event without a ref gets no reply": [(JOIN, JOINED), (["1", None, "rooms:a", "ping", {}],)],
    "a broadcast comes back to its sender": [
        (JOIN, JOINED),
        (said("2", "shout", {"body": "hi"}), [None, None, "rooms:a", "shouted", {"user": "ann", "body": "hi"}]),
    ],
    "a broadcast to others does not": [
        (JOIN, JOINED), (said("2", "others"),), (said("3", "ping"), answered("3", {"pong": True})),
    ],
    "an intercepted broadcast is pushed by the channel": [
        (JOIN, JOINED),
        (said("2", "secret", {"x": 1}), ["1", None, "rooms:a", "secret", {"x": 1, "for": "ann"}]),
    ],
    "leave: reply, close, and then what terminate pushes": [
        (JOIN, JOINED),
        (said("2", "phx_leave"), answered("2", {}), CLOSED, goodbye("left")),
        (said("3", "ping"), refused("3", "unmatched topic")),
    ],
    "a leave that crashes is a leave": [
        (JOIN, JOINED),
        (said("2", "phx_leave", {"crash": True}), answered("2", {}), CLOSED, goodbye("left")),
    ],
    "a terminate that crashes is no matter": [
        (joined_with(user="crash"), JOINED),
        (said("2", "phx_leave"), answered("2", {}), CLOSED, goodbye("left")),
        (JOIN, JOINED),
    ],
    "a leave of what is not joined is answered": [(said("2", "phx_leave"), answered("2", {}))],
    "leave and join again": [
        (JOIN, JOINED),
        (said("2", "phx_leave"), answered("2", {}), CLOSED, goodbye("left")),
        (["3", "3", "rooms:a", "phx_join", {}], answered("3", {"joined": "a"}, join_ref="3")),
        (["3", "4", "rooms:a", "ping", {}], answered("4", {"pong": True}, join_ref="3")),
    ],
    "a crash: phx_error, and the client joins again": [
        (JOIN, JOINED),
        (said("2", "crash"), CRASHED, goodbye("error")),
        (said("3", "ping"), refused("3", "unmatched topic")),
        (["4", "4", "rooms:a", "phx_join", {}], answered("4", {"joined": "a"}, join_ref="4")),
        (["4", "5", "rooms:a", "ping", {}], answered("5", {"pong": True}, join_ref="4")),
    ],
    "to return nonsense is a crash": [(JOIN, JOINED), (said("2", "nonsense"), CRASHED, goodbye("error"))],
    "a reply that is no JSON is a crash": [(JOIN, JOINED), (said("2", "unencodable"), CRASHED, goodbye("error"))],
    "a channel that stops: reply, close, and terminate": [
        (JOIN, JOINED),
        (said("2", "stop"), answered("2", {"bye": True}), CLOSED, goodbye("normal")),
        (said("3", "ping"), refused("3", "unmatched topic")),
    ],
    "what is meant for another join is dropped": [
        (JOIN, JOINED),
        (["0", "2", "rooms:a", "ping", {}],),
        (["0", "3", "rooms:a", "phx_leave", {}],),
        ([None, "4", "rooms:a", "ping", {}], answered("4", {"pong": True})),
    ],
    "a crash in one topic leaves the others alone": [
        (JOIN, JOINED),
        (["9", "9", "rooms:b", "phx_join", {}],
         ["9", "9", "rooms:b", "phx_reply", {"status": "ok", "response": {"joined": "b"}}]),
        (said("2", "crash"), CRASHED, goodbye("error")),
        (["9", "10", "rooms:b", "ping", {}],
         ["9", "10", "rooms:b", "phx_reply", {"status": "ok", "response": {"pong": True}}]),
    ],
    "refs are given back as they came": [
        (["j", 7, "rooms:a", "phx_join", {}],
         ["j", 7, "rooms:a", "phx_reply", {"status": "ok", "response": {"joined": "a"}}]),
        (["j", 8.5, "rooms:a", "ping", {}],
         ["j", 8.5, "rooms:a", "phx_reply", {"status": "ok", "response": {"pong": True}}]),
    ],
    "an event named info is an event": [
        (JOIN, JOINED), (said("2", "info", {"x": 1}), ["1", None, "rooms:a", "info", {"got": "{'x': 1}"}]),
    ],
}  # fmt: skip
HEARTBEAT = [None, "hb", "phoenix", "heartbeat", {}]
ALIVE = [None, "hb", "phoenix", "phx_reply", {"status": "ok", "response": {}}]


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_in_v2(served: Serving, scene: str) -> None:
    with ws(served, V2_URL) as client:
        for sent, *expected in SCENES[scene]:
            client.send(json.dumps(sent))
            assert read(client, len(expected)) == expected
        client.send(json.dumps(HEARTBEAT))
        assert read(client, 1) == [ALIVE]  # and not one frame more


@pytest.mark.parametrize("served", ["stepped"], indirect=True)
def test_scenes_that_are_sent_in_one_go_are_answered_in_order(served: Serving) -> None:
    for steps in SCENES.values():
        with ws(served, V2_URL) as client:
            for sent, *_ in steps:
                client.send(json.dumps(sent))
            expected = [frame for _, *frames in steps for frame in frames]
            assert read(client, len(expected)) == expected


def test_a_second_join_takes_the_place_of_the_first_which_is_closed_after_the_reply(served: Serving) -> None:
    with ws(served, V2_URL) as client:
        client.send(json.dumps(JOIN))
        assert read(client, 1) == [JOINED]
        client.send('["5","5","rooms:a","phx_join",{"user":"ann again"}]')
        goodbye = ["1", None, "rooms:a", "goodbye", {"reason": "replaced"}]
        got = read(client, 3)
        assert [frame for frame in got if frame != goodbye] == [
            answered("5", {"joined": "a"}, join_ref="5"), ["1", "1", "rooms:a", "phx_close", {}],
        ]  # fmt: skip
        assert goodbye in got
        client.send('["5","6","rooms:a","shout",{}]')
        assert read(client, 1) == [[None, None, "rooms:a", "shouted", {"user": "ann again"}]]
        client.send('["1","7","rooms:a","ping",{}]')  # for the first join
        client.send('["5","8","rooms:a","ping",{}]')
        assert read(client, 1) == [answered("8", {"pong": True}, join_ref="5")]


def test_a_second_join_that_crashes_or_is_refused_closes_the_first_as_well(served: Serving) -> None:
    for do, reason in (("crash", "join crashed"), ("refuse with a map", None)):
        with ws(served, V2_URL) as client:
            client.send(json.dumps(JOIN))
            assert read(client, 1) == [JOINED]
            client.send(json.dumps(["5", "5", "rooms:a", "phx_join", {"do": do}]))
            got = [frame for frame in read(client, 3) if frame[3] != "goodbye"]
            response = {"code": 7} if reason is None else {"reason": reason}
            assert got == [answered("5", response, "error", "5"), ["1", "1", "rooms:a", "phx_close", {}]]
            client.send('[null,"6","rooms:a","ping",{}]')
            assert read(client, 1) == [refused("6", "unmatched topic")]


def test_bytes_in_every_direction(served: Serving) -> None:
    with ws(served, V2_URL) as client:
        client.send('["1","1","rooms:a","phx_join",{"do":"bytes"}]')
        assert client.recv(TIMEOUT) == b"\x01\x01\x01\x07\x0211rooms:aok\x01\x02"
        client.send(b"\x00\x01\x01\x07\x0512rooms:abytes\x00\x01\xff")
        assert client.recv(TIMEOUT) == b"\x00\x01\x07\x051rooms:abytes\xff\x01\x00"
        assert client.recv(TIMEOUT) == b"\x01\x01\x01\x07\x0212rooms:aok\x00\x01\xff"
        client.send('["1","3","rooms:a","broadcast bytes",{}]')
        assert client.recv(TIMEOUT) == b"\x02\x07\x05rooms:abytes\x00\xff"


# --- V1 -----------------------------------------------------------------------------------


def v1(event: str, payload: Any = None, ref: str | None = None, topic: str = "rooms:a") -> dict[str, Any]:
    return {"topic": topic, "event": event, "payload": {} if payload is None else payload, "ref": ref}


def v1_reply(ref: str, response: Any, status: str = "ok", topic: str = "rooms:a") -> dict[str, Any]:
    return v1("phx_reply", {"status": status, "response": response}, ref, topic)


@pytest.mark.parametrize("url", [V1_URL, "/ws/websocket?vsn=1.0.0", "/ws/websocket?vsn=1.0.7"])
def test_a_conversation_in_v1(served: Serving, url: str) -> None:
    with ws(served, url) as client:
        def say(event: str, payload: Any, ref: str, topic: str = "rooms:a") -> None:
            client.send(json.dumps(v1(event, payload, ref, topic)))

        say("phx_join", {"do": "push first", "user": "ann"}, "1")
        assert read(client, 2) == [v1("welcome", {"to": "a"}), v1_reply("1", {"joined": "a"})]
        say("ping", {}, "2")
        assert read(client, 1) == [v1_reply("2", {"pong": True})]
        say("fail", {}, "3")
        assert read(client, 1) == [v1_reply("3", {"reason": "no"}, "error")]
        say("shout", {"body": "hi"}, "4")
        assert read(client, 1) == [v1("shouted", {"user": "ann", "body": "hi"})]
        say("secret", {}, "5")
        assert read(client, 1) == [v1("secret", {"for": "ann"})]
        say("heartbeat", {}, "6", "phoenix")
        assert read(client, 1) == [v1_reply("6", {}, topic="phoenix")]
        say("crash", {}, "7")
        assert read(client, 2) == [v1("phx_error", {"reason": "channel_crash"}, "1"), v1("goodbye", {"reason": "error"})]
        say("ping", {}, "8")
        assert read(client, 1) == [v1_reply("8", {"reason": "unmatched topic"}, "error")]
        say("phx_join", {"do": "refuse with a map"}, "9")
        assert read(client, 1) == [v1_reply("9", {"code": 7}, "error")]
        say("phx_join", {}, "10")
        assert read(client, 1) == [v1_reply("10", {"joined": "a"})]
        say("phx_leave", {}, "11")
        assert read(client, 3) == [v1_reply("11", {}), v1("phx_close", {}, "10"), v1("goodbye", {"reason": "left"})]


def test_a_second_join_in_v1_is_not_followed_by_a_close_which_these_clients_would_take_for_theirs(
    served: Serving,
) -> None:
    with ws(served, V1_URL) as client:
        client.send(json.dumps(v1("phx_join", {}, "1")))
        assert read(client, 1) == [v1_reply("1", {"joined": "a"})]
        client.send(json.dumps(v1("phx_join", {}, "2")))
        got = read(client, 2)
        assert v1("goodbye", {"reason": "replaced"}) in got and v1_reply("2", {"joined": "a"}) in got
        client.send(json.dumps(v1("ping", {}, "3")))
        assert read(client, 1) == [v1_reply("3", {"pong": True})]


# --- 0.7 ----------------------------------------------------------------------------------


def old(event: str, message: Any = None, topic: str = "a", name: str = "rooms") -> dict[str, Any]:
    return {"channel": name, "topic": topic, "event": event, "message": {} if message is None else message}


def test_a_conversation_in_0_7_where_only_the_app_answers(served: Serving) -> None:
    with ws(served, OLD_URL) as client:
        def say(event: str, message: Any = None, topic: str = "a", name: str = "rooms") -> None:
            client.send(json.dumps(old(event, message, topic, name)))

        say("ping")  # not joined: nothing happens
        say("join", {"do": "refuse"})
        assert read(client, 1) == [old("error", {"reason": "failed to join a"})]  # the app's own words, and no more
        say("join", {"do": "push first", "user": "ann"})
        assert read(client, 1) == [old("welcome", {"to": "a"})]
        say("ping")  # a reply that this client cannot be given
        say("echo", {"x": 1})
        assert read(client, 1) == [old("echo", {"x": 1})]
        say("shout", {"body": "hi"})
        assert read(client, 1) == [old("shouted", {"user": "ann", "body": "hi"})]
        say("heartbeat", {}, "conn", "phoenix")
        assert read(client, 1) == [old("heartbeat", {}, "conn", "phoenix")]
        say("leave", {"why": "tired"})
        assert read(client, 1) == [old("goodbye", {"reason": "left"})]
        say("shout", {"body": "gone"})
        say("heartbeat", {}, "conn", "phoenix")
        assert read(client, 1) == [old("heartbeat", {}, "conn", "phoenix")]


def test_a_crash_in_0_7_closes_the_connection_since_these_clients_rejoin_only_then(served: Serving) -> None:
    with ws(served, OLD_URL) as client:
        client.send(json.dumps(old("join")))
        client.send(json.dumps(old("crash")))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.recv(TIMEOUT)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011


def test_the_generations_meet_in_one_room(served: Serving) -> None:
    with ws(served, V2_URL) as new, ws(served, V1_URL) as middle, ws(served, OLD_URL) as first:
        new.send(json.dumps(JOIN))
        middle.send(json.dumps(v1("phx_join", {"user": "bob"}, "1")))
        first.send(json.dumps(old("join", {"user": "cid"})))
        read(new, 1)
        read(middle, 1)
        first.send(json.dumps(old("echo", {})))
        read(first, 1)
        first.send(json.dumps(old("shout", {"body": "hi"})))
        payload = {"user": "cid", "body": "hi"}
        assert read(new, 1) == [[None, None, "rooms:a", "shouted", payload]]
        assert read(middle, 1) == [v1("shouted", payload)]
        assert read(first, 1) == [old("shouted", payload)]
        new.send(json.dumps(said("2", "secret", {"x": 1})))
        assert read(new, 1) == [["1", None, "rooms:a", "secret", {"x": 1, "for": "ann"}]]
        assert read(middle, 1) == [v1("secret", {"x": 1, "for": "bob"})]
        assert read(first, 1) == [old("secret", {"x": 1, "for": "cid"})]
        new.send(json.dumps(said("3", "others", {"x": 1})))
        assert read(middle, 1) == [v1("heard", {"x": 1})]
        new.send(json.dumps(said("4", "ping")))
        assert read(new, 1) == [answered("4", {"pong": True})]


# --- What is no message -------------------------------------------------------------------

MALFORMED: list[tuple[str, str | bytes, int]] = [
    *[(V2_URL, text, 1007) for text in (
        "", "nonsense", "{}", "[]", "null", '"abcde"', '["1","2","t","e"]', '["1","2","t","e",{},6]',
        '{"a":1,"b":2,"c":3,"d":4,"e":5}', '["1","2",3,"e",{}]', '["1","2","t",null,{}]', '["1","2",["t"],"e",{}]',
        '["1","2","rooms:a","shout",{"x":NaN}]', '["1","2","t","e",{"x":Infinity}]', '["1","2","t","e",{"x":1e999}]',
        '["1","2","t","e",{"x":"\\ud800"}]', '["1","2","t","e",{}] x', "[" * 100_000,
        '["1","2","t","e",' + "9" * 5000 + "]",
    )],
    (V2_URL, b"\x00\x01", 1003),
    (V2_URL, b"\x03\x00\x00\x01\x01te", 1003),
    (V2_URL, b"\x00\x00\x00\x01\x01\xffe", 1003),
    *[(V1_URL, text, 1007) for text in (
        "[]", "{}", '{"topic":"t","event":"e"}', '{"topic":1,"event":"e","payload":{},"ref":"1"}', "null", '"text"',
    )],
    (V1_URL, b"\xff", 1003),
    *[(OLD_URL, json.dumps(message), 1007) for message in (
        {"topic": "a", "event": "e", "message": {}}, {"channel": "c", "topic": "a", "message": {}},
        {"channel": 1, "topic": "a", "event": "e", "message": {}}, {"channel": "c", "topic": {}, "event": "e", "message": {}},
        {"channel": "c", "topic": "a", "event": 1, "message": {}}, {"channel": "c", "topic": "a", "event": "e"}, [], None,
    )],
]  # fmt: skip


@pytest.mark.parametrize(("url", "data", "code"), MALFORMED, ids=lambda each: repr(each)[:30])
@pytest.mark.parametrize("served", ["stepped"], indirect=True)
def test_what_is_no_message_closes_the_connection(
    served: Serving, url: str, data: str | bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with ws(served, url) as client:
        client.send(data)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "malformed message")
    assert "what is no message" in caplog.text and "Traceback" not in caplog.text


# --- The life of a channel ----------------------------------------------------------------


def test_the_test_client_in_the_words_of_its_docstring() -> None:
    app = app_with()
    with app.test().connect("/ws", {"token": "abc"}) as client:
        room = client.join("rooms:lobby", {"user": "Ann"})
        assert room.response == {"joined": "lobby"}
        ref = room.push("ping")
        room.assert_reply(ref, "ok", {"pong": True})
        app.broadcast("rooms:lobby", "new:msg", {"body": "hi"})
        room.assert_push("new:msg", {"body": "hi"})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_words_of_the_seed(kind: type[Channel]) -> None:
    app = app_with(kind)
    with app.test().connect("/ws") as ann, app.test().connect("/ws") as bob:
        room, other = ann.join("rooms:lobby", {"user": "ann"}), bob.join("rooms:lobby", {"user": "bob"})
        room.push("shout", {"body": "hi"})
        for each in (room, other):
            assert each.assert_push("shouted") == {"user": "ann", "body": "hi"}
            each.assert_broadcast("shouted", {"body": "hi"})
        room.push("others", {"x": 1})
        other.assert_push("heard", {"x": 1})
        room.refute_push("heard")
        other.leave({"message": "bye"})
        assert room.assert_push("left") == {"message": {"message": "bye"}}
        bob.close()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_when_a_connection_ends_every_channel_of_it_is_told(kind: type[Channel]) -> None:
    app = app_with(kind)
    with app.test().connect("/ws") as stays:
        room = stays.join("rooms:a", {"user": "ann"})
        with app.test().connect("/ws") as goes:
            goes.join("rooms:a", {"user": "bob"})
            goes.join("rooms:b", {"user": "bob"})
        assert room.assert_push("left") == {"message": {"reason": "closed"}}
        room.refute_push("left")


def test_state_is_kept_for_each_topic_and_connection() -> None:
    app = app_with()
    with app.test().connect("/ws") as one, app.test().connect("/ws") as two:
        rooms = [one.join("rooms:a", {"user": 1}), one.join("rooms:b", {"user": 2}), two.join("rooms:a", {"user": 3})]
        assert [room.socket.assigns for room in rooms if room.socket] == [{"user": 1}, {"user": 2}, {"user": 3}]
        assert len({id(room.socket.channel) for room in rooms if room.socket}) == 3


def test_info_comes_to_all_channels_of_a_connection_with_the_value_itself() -> None:
    heard: list[tuple[str, Any]] = []
    value = object()

    class Listener(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            if event == "ping":
                socket.send_info(value)
                return socket.ok()
            heard.append((f"{socket.topic} {event}", message))

    app = app_with(Listener)
    with app.test().connect("/ws") as client, app.test().connect("/ws") as other:
        a, _, _ = client.join("rooms:a"), client.join("rooms:b"), other.join("rooms:a")
        a.assert_reply(a.push("ping"))
        assert heard == [("rooms:a info", value), ("rooms:b info", value)]


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_a_socket_hears_other_topics_as_info_until_it_leaves(kind: str) -> None:
    def join(self: Any, socket: Any, topic: str, message: Any) -> Any:
        socket.subscribe("news")
        socket.subscribe("weather")
        with pytest.raises(phoenix.ArgumentError, match="own topic"):
            socket.subscribe(socket.topic)
        return socket.ok()

    def info(self: Any, socket: Any, message: Any) -> Any:
        if isinstance(message, Broadcast):
            socket.push("news", {"topic": message.topic, "event": message.event, **message.payload})
        else:
            socket.push("raw", {"value": message})

    def event(self: Any, socket: Any, event: str, message: Any) -> Any:
        socket.unsubscribe("weather")
        socket.unsubscribe("unknown")
        return socket.ok()

    async def async_join(self: Any, *arguments: Any) -> Any:
        return join(self, *arguments)

    async def async_info(self: Any, *arguments: Any) -> Any:
        return info(self, *arguments)

    methods = {"join": async_join, "info": async_info, "event": event}
    if kind == "plain":
        methods = {"join": join, "info": info, "event": event}
    app = app_with(type("Listener", (Channel,), methods))
    with app.test().connect("/ws") as client:
        room = client.join("rooms:a")
        app.broadcast("news", "flash", {"x": 1})
        assert room.assert_push("news") == {"topic": "news", "event": "flash", "x": 1}
        app.pubsub.broadcast("weather", "rain")
        room.assert_push("raw", {"value": "rain"})
        app.pubsub.broadcast("rooms:a", "not a Broadcast, on its own topic")
        room.assert_push("raw", {"value": "not a Broadcast, on its own topic"})
        room.assert_reply(room.push("any"))
        app.pubsub.broadcast("weather", "sun")
        room.refute_push("raw")
        assert "weather" not in app.pubsub.topics()
        room.leave()
        assert app.pubsub.topics() == ["rooms:a"]  # where the test itself listens
    assert app.pubsub.topics() == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_interception_keeps_the_order_of_what_is_seen_and_what_is_not(kind: type[Channel]) -> None:
    app = app_with(kind)
    with app.test().connect("/ws") as client:
        room = client.join("rooms:a", {"user": "ann"})
        for number in range(20):
            app.broadcast("rooms:a", "secret" if number % 3 == 0 else "plain", {"number": number})
        got = [client._inbox.take(lambda message: message[3] in ("secret", "plain"), TIMEOUT)[4] for _ in range(20)]
        assert [each["number"] for each in got] == list(range(20))
        assert [each.get("for") for each in got[:4]] == ["ann", None, None, "ann"]
        room.refute_push("secret")


def test_unless_overridden_out_passes_on_and_info_is_an_event() -> None:
    class Quiet(Channel):
        intercept = ["seen"]

        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

    app = app_with(Quiet)
    with app.test().connect("/ws") as client:
        room = client.join("rooms:a")
        app.broadcast("rooms:a", "seen", {"x": 1})
        assert room.assert_push("seen") == {"x": 1}
        app.pubsub.broadcast("rooms:a", "something")
        room.refute_reply(room.push("anything"))  # the default event says nothing


def test_a_reply_may_be_given_later_and_from_elsewhere() -> None:
    kept: list[Any] = []

    class Later(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            with pytest.raises(phoenix.ArgumentError, match="reply_to needs"):
                socket.reply_to(socket.ref, socket.ok())
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            kept.append((socket, socket.ref))

    app = app_with(Later)
    with app.test().connect("/ws") as client:
        room = client.join("rooms:a")
        first, second = room.push("work"), room.push("work")
        until(lambda: len(kept) == 2)
        socket, ref = kept[1]
        assert ref == second
        threading.Thread(target=socket.reply_to, args=(ref, socket.ok({"done": 2}))).start()
        room.assert_reply(second, "ok", {"done": 2})
        room.refute_reply(first)
        with pytest.raises(phoenix.ArgumentError, match="reply_to needs the ref"):
            socket.reply_to(None, socket.ok())
        room.leave()
        socket.reply_to(first, socket.ok())  # too late: nobody waits for it
        room.refute_reply(first)


def test_pushes_and_broadcasts_from_other_threads_arrive_in_order() -> None:
    app = app_with()
    with app.test().connect("/ws") as client:
        room = client.join("rooms:a")
        socket: Any = room.socket

        def talk() -> None:
            for number in range(100):
                socket.push("pushed", {"number": number})
                app.broadcast("rooms:a", "broadcast", {"number": number})
                socket.broadcast("own", {"number": number})

        thread = threading.Thread(target=talk)
        thread.start()
        thread.join(TIMEOUT)
        got = [client._inbox.take(lambda message: True, TIMEOUT) for _ in range(300)]
        assert [(message[3], message[4]["number"]) for message in got] == [
            (event, number) for number in range(100) for event in ("pushed", "broadcast", "own")
        ]


def test_a_plain_function_sees_its_own_words_in_order_too() -> None:
    class Talker(Channel):
        def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        def event(self, socket: Any, event: str, message: Any) -> Any:
            socket.push("one")
            socket.broadcast("two")
            socket.push("three")
            return socket.ok({"four": True})

    app = app_with(Talker)
    with app.test().connect("/ws") as client:
        room = client.join("rooms:a")
        for _ in range(20):
            room.push("talk")
        got = [client._inbox.take(lambda message: True, TIMEOUT)[3] for _ in range(80)]
        assert got == ["one", "two", "three", "phx_reply"] * 20


def test_a_topic_keeps_its_order_while_topics_do_not_wait_for_each_other() -> None:
    gates = {"a": threading.Event(), "b": threading.Event()}

    class Gated(Channel):
        def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        def event(self, socket: Any, event: str, message: Any) -> Any:
            if event == "wait":
                assert gates[socket.topic[-1]].wait(TIMEOUT)
            return socket.ok({"did": event})

    app = app_with(Gated)
    with app.test().connect("/ws", timeout=TIMEOUT) as client:
        a, b, c = (client.join(f"rooms:{name}") for name in "abc")
        waits = [a.push("wait"), b.push("wait")]
        behind = [a.push(f"{number}") for number in range(10)]
        c.assert_reply(c.push("quick"), "ok", {"did": "quick"})  # nobody holds it up
        b_next = b.push("next")
        gates["b"].set()
        b.assert_reply(b_next, "ok", {"did": "next"})
        for ref in (waits[0], *behind):
            a.refute_reply(ref, timeout=0)
        gates["a"].set()
        order = [client._inbox.take(lambda message: message[1] in behind, TIMEOUT)[1] for _ in behind]
        assert order == behind


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_what_is_said_before_a_join_is_done_waits_for_it(kind: str) -> None:
    go_on = threading.Event()

    class Slow(Channel):
        def join(self, socket: Any, topic: str, message: Any) -> Any:
            assert go_on.wait(TIMEOUT)
            return socket.error("no") if message.get("refuse") else socket.ok()

        def event(self, socket: Any, event: str, message: Any) -> Any:
            return socket.ok({"did": event})

    class SlowAsync(Slow):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            while not go_on.is_set():
                await asyncio.sleep(0.001)
            return socket.error("no") if message.get("refuse") else socket.ok()

    app = app_with(Slow if kind == "plain" else SlowAsync)
    with app.test().connect("/ws", timeout=TIMEOUT) as client:
        refs = [
            client._send(None, "rooms:a", "phx_join", {}),
            client._send("1", "rooms:a", "one", {}), client._send("1", "rooms:a", "two", {}),
            client._send(None, "rooms:b", "phx_join", {"refuse": True}),
            client._send("4", "rooms:b", "one", {}), client._send("4", "rooms:b", "phx_leave", {}),
        ]  # fmt: skip
        go_on.set()
        got = {}
        for _ in refs:
            message = client._inbox.take(lambda message: True, TIMEOUT)
            got[message[1]] = message[4]
        ok = [{"status": "ok", "response": response} for response in ({}, {"did": "one"}, {"did": "two"})]
        no = [{"status": "error", "response": {"reason": reason}} for reason in ("no", "unmatched topic")]
        assert got == dict(zip(refs, [*ok, *no, {"status": "ok", "response": {}}]))


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_a_leave_waits_for_what_was_said_before_and_refuses_what_comes_after(kind: str) -> None:
    go_on = threading.Event()

    class Slow(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        def event(self, socket: Any, event: str, message: Any) -> Any:
            assert go_on.wait(TIMEOUT)
            return socket.ok({"did": event})

    class SlowAsync(Slow):
        async def event(self, socket: Any, event: str, message: Any) -> Any:
            while not go_on.is_set():
                await asyncio.sleep(0.001)
            return socket.ok({"did": event})

    app = app_with(Slow if kind == "plain" else SlowAsync)
    with app.test().connect("/ws", timeout=TIMEOUT) as client:
        room = client.join("rooms:a")
        refs = [room.push(event) for event in ("one", "two", "phx_leave", "three", "phx_leave")]
        go_on.set()
        got = [client._inbox.take(lambda message: True, TIMEOUT) for _ in range(6)]
        assert sorted((message[1], message[3], json.dumps(message[4])) for message in got) == sorted([
            (refs[0], "phx_reply", '{"status": "ok", "response": {"did": "one"}}'),
            (refs[1], "phx_reply", '{"status": "ok", "response": {"did": "two"}}'),
            (refs[2], "phx_reply", '{"status": "ok", "response": {}}'),
            (refs[3], "phx_reply", '{"status": "error", "response": {"reason": "unmatched topic"}}'),
            (refs[4], "phx_reply", '{"status": "ok", "response": {}}'),
            ("1", "phx_close", "{}"),
        ])  # fmt: skip
        assert [message[1] for message in got[:2]] == refs[:2]


@pytest.mark.parametrize("ending", ["phx_leave", "stop", "crash"])
@pytest.mark.parametrize("style", ["awaiting", "plain"])
def test_a_join_waits_for_the_last_callbacks_of_the_socket_before_it(style: str, ending: str) -> None:
    """Whoever takes a user off a list in `leave` or `terminate` must not do so after the user has come back."""
    calls: list[str] = []

    class Noting(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            calls.append("join")
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            if event == "crash":
                raise ValueError("crashed as told")
            return socket.stop() if event == "stop" else socket.ok()

    class Awaiting(Noting):
        async def leave(self, socket: Any, message: Any) -> None:
            await asyncio.sleep(0.02)
            calls.append("leave")

        async def terminate(self, socket: Any, reason: str) -> None:
            await asyncio.sleep(0.02)
            calls.append("terminate")

    class Plain(Noting):
        def leave(self, socket: Any, message: Any) -> None:
            time.sleep(0.02)
            calls.append("leave")

        def terminate(self, socket: Any, reason: str) -> None:
            time.sleep(0.02)
            calls.append("terminate")

    with Serving(app_with(Awaiting if style == "awaiting" else Plain)) as server, ws(server, V2_URL) as client:
        for ref in ("1", "3", "5"):
            client.send(json.dumps([ref, ref, "rooms:a", "phx_join", {}]))
            client.send(json.dumps([ref, ref + "!", "rooms:a", "ping", {}]))
            client.send(json.dumps([ref, ref + "?", "rooms:a", ending, {}]))
        client.send(json.dumps(["5", "7", "rooms:a", "ping", {}]))  # which is refused in its turn
        got = []
        while not got or got[-1][:2] != [None, "7"]:
            got += read(client, 1)
        replies = [frame[1] for frame in got if frame[3] == "phx_reply" and not frame[1].endswith("?")]
        assert replies == ["1", "1!", "3", "3!", "5", "5!", "7"]
        assert calls == ["join", *(["leave"] if ending == "phx_leave" else []), "terminate"] * 3
    with Serving(app_with(Awaiting if style == "awaiting" else Plain)) as server, OldPoller(server) as poller:
        calls.clear()
        assert [poller.put(event) for event in ("join", "leave", "join", "ping")] == [200, 200, 200, 200]
        assert calls == ["join", "leave", "terminate", "join"]


def test_a_thousand_messages_may_wait_for_a_channel_and_none_is_lost() -> None:
    """They are handled one after the other without the stack growing, also where tasks start eagerly."""
    go_on = threading.Event()

    class Counter(Channel):
        count = 0

        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            while not go_on.is_set():
                await asyncio.sleep(0.001)
            self.count += 1
            return socket.ok({"count": self.count})

    app = app_with(Counter)
    with app.test().connect("/ws", timeout=TIMEOUT) as client:
        room = client.join("rooms:a")
        refs = [room.push("count") for _ in range(1500)]
        go_on.set()
        assert room.assert_reply(refs[-1]) == {"count": 1500}


def test_topics_are_matched_from_the_most_to_the_least_particular() -> None:
    def named(name: str) -> type[Channel]:
        async def join(self: Any, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok({"by": name, "topic": topic})

        return type(name, (Channel,), {"join": join})

    class Router(phoenix.Router):
        with socket("/ws"):
            channel("rooms", named("rooms"))
            channel("rooms:private:*", named("private"))
            channel("rooms:lobby", named("lobby"))
            channel("users:*", named("users"))
            channel("pre*", named("pre"))
            channel("single", named("single"))

    expected = {
        "rooms:a": ("rooms", "a"), "rooms:private:7": ("private", "private:7"), "rooms:privately": ("rooms", "privately"),
        "rooms:lobby": ("lobby", "lobby"), "rooms:lobby:2": ("rooms", "lobby:2"), "users:7": ("users", "7"),
        "rooms:": ("rooms", ""), "single": ("single", ""), "prefix:1": ("pre", "1"),
    }  # fmt: skip
    with Endpoint(Router, log=False).test().connect("/ws") as client:
        for topic, (by, rest) in expected.items():
            assert client.join(topic).response == {"by": by, "topic": rest}
        for topic in ("room:a", "xrooms:a", ":a", "", "users", "pr"):
            if topic == "users":
                continue  # a name without a topic is a topic of that name
            assert client.join(topic, status="error").response == {"reason": "unmatched topic"}


def test_there_is_a_limit_of_channels_per_connection() -> None:
    with app_with(max_channels=3).test().connect("/ws") as client:
        rooms = [client.join(f"rooms:{number}") for number in range(3)]
        assert client.join("rooms:4", status="error").response == {"reason": "too many channels joined"}
        client.join("rooms:2")  # again: it takes the place of the other
        rooms[0].leave()
        client.join("rooms:4")


def test_callbacks_of_channels_that_were_left_count_as_well() -> None:
    go_on = threading.Event()
    running: list[int] = []

    class Stuck(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            running.append(1)
            while not go_on.is_set():
                await asyncio.sleep(0.001)
            return socket.stop()

    with app_with(Stuck, max_channels=2).test().connect("/ws", timeout=TIMEOUT) as client:
        for number in range(5):
            room = client.join("rooms:a", status="ok" if number < 4 else "error")
            if number < 4:
                room.push("wait")
                until(lambda: len(running) == number + 1)
        assert room.response == {"reason": "too many channels joined"}
        go_on.set()


def test_payloads_are_maps_or_bytes() -> None:
    class Checker(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            for send in (socket.reply, socket.push, socket.broadcast, socket.broadcast_from):
                for payload in ("text", [1], 7):
                    with pytest.raises(phoenix.ArgumentError, match="Message argument must be a map, got: "):
                        send("event", payload)
            return socket.push("empty").ok()

    with app_with(Checker).test().connect("/ws") as client:
        assert client.join("rooms:a").assert_push("empty") == {}


def test_values_that_json_has_no_form_for_are_the_fault_of_who_sends_them(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with()
    with app.test().connect("/ws") as client:
        room = client.join("rooms:a", {"user": object.__name__})
        app.broadcast("rooms:a", "bad", {"x": float("nan")})
        app.broadcast("rooms:a", "good", {"x": 1})
        room.assert_push("good")
    assert "'bad' on 'rooms:a' was not sent: cannot encode as JSON" in caplog.text


def test_whose_init_raises_has_crashed_in_its_join() -> None:
    class Broken(Channel):
        def __init__(self) -> None:
            raise ValueError("no database")

    with app_with(Broken).test().connect("/ws") as client:
        assert client.join("rooms:a", status="error").response == {"reason": "join crashed"}


def test_a_channel_without_join_says_what_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    with app_with(type("Empty", (Channel,), {})).test().connect("/ws") as client:
        assert client.join("rooms:a", status="error").response == {"reason": "join crashed"}
    assert "needs a method `join(self, socket, topic, message)`" in caplog.text


def test_a_callback_whose_work_was_cancelled_has_crashed() -> None:
    class Cancelled(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.cancel)
            await future

    with app_with(Cancelled).test().connect("/ws") as client:
        room = client.join("rooms:a")
        room.push("work")
        room.assert_push("phx_error", {"reason": "channel_crash"})


def test_a_decorated_callback_that_returns_a_coroutine_is_awaited() -> None:
    def decorated(method: Any) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            return method(self, *arguments)

        return call

    class Decorated(Channel):
        @decorated
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            await asyncio.sleep(0)
            return socket.ok({"joined": topic})

    with app_with(Decorated).test().connect("/ws") as client:
        assert client.join("rooms:a").response == {"joined": "a"}


class Recorder(Channel):
    """Notes its callbacks; `work` takes until the test says so."""

    calls: list[Any]
    go_on: threading.Event

    async def join(self, socket: Any, topic: str, message: Any) -> Any:
        self.calls.append("join")
        while message.get("wait") and not self.go_on.is_set():
            await asyncio.sleep(0.001)
        self.calls.append("joined")
        return socket.ok()

    async def event(self, socket: Any, event: str, message: Any) -> Any:
        self.calls.append(event)
        while not self.go_on.is_set():
            await asyncio.sleep(0.001)
        socket.push("done").broadcast("done")  # into nothing, when the client has gone: no error
        socket.subscribe("news")
        self.calls.append(event + " done")
        return socket.ok()

    async def leave(self, socket: Any, message: Any) -> Any:
        self.calls.append(("leave", message))

    async def terminate(self, socket: Any, reason: str) -> Any:
        self.calls.append(("terminate", reason))


def recorder() -> type[Recorder]:
    return type("Recorder", (Recorder,), {"calls": [], "go_on": threading.Event()})


def test_the_last_callbacks_wait_for_the_one_that_is_running_when_the_connection_ends() -> None:
    kind = recorder()
    app = app_with(kind)
    client = app.test().connect("/ws", timeout=TIMEOUT)
    room = client.join("rooms:a")
    room.push("work")
    room.push("more")
    until(lambda: "work" in kind.calls)
    closing = threading.Thread(target=client.close)
    closing.start()
    until(lambda: app.pubsub.subscribers("rooms:a") == [room._broadcasts.put])
    kind.go_on.set()
    closing.join(TIMEOUT)
    assert kind.calls == ["join", "joined", "work", "work done", ("leave", {"reason": "closed"}), ("terminate", "closed")]
    assert app.pubsub.topics() == []


def test_a_join_that_is_done_when_the_connection_has_ended_is_terminated() -> None:
    kind = recorder()
    app = app_with(kind)
    client = app.test().connect("/ws", timeout=TIMEOUT)
    client._send(None, "rooms:a", "phx_join", {"wait": True})
    until(lambda: kind.calls == ["join"])
    closing = threading.Thread(target=client.close)
    closing.start()
    until(lambda: client._wire.session.closed)
    kind.go_on.set()
    closing.join(TIMEOUT)
    assert kind.calls == ["join", "joined", ("terminate", "closed")]
    assert app.pubsub.topics() == []


def test_a_join_that_is_overtaken_by_another_is_not_answered_as_if_it_stood() -> None:
    kind = recorder()
    app = app_with(kind)
    with app.test().connect("/ws", timeout=TIMEOUT) as client:
        client._send(None, "rooms:a", "phx_join", {"wait": True})
        until(lambda: kind.calls == ["join"])
        room = client.join("rooms:a")
        kind.go_on.set()
        until(lambda: ("terminate", "replaced") in kind.calls)
        got = [message[:4] for message in client._inbox.items]
        assert got == [["1", "1", "rooms:a", "phx_close"]]
        assert len(app.pubsub.subscribers("rooms:a")) == 2  # the second join, and the test


# --- Who may connect ----------------------------------------------------------------------


class UserSocket(SocketHandler):
    seen: list[Any] = []

    def connect(self, socket: Any, params: Any, connect_info: Any) -> Any:
        self.seen.append(connect_info)
        if params.get("token") == "crash":
            raise ValueError("connect crashed as told")
        return params.get("token") == "good" and socket.assign("user", params.get("user", "ann"))

    def id(self, socket: Any) -> str | None:
        return f"users:{socket.assigns['user']}"


class AsyncUserSocket(UserSocket):
    async def connect(self, socket: Any, params: Any, connect_info: Any) -> Any:
        await asyncio.sleep(0)
        return super().connect(socket, params, connect_info)

    async def id(self, socket: Any) -> Any:
        await asyncio.sleep(0)
        return super().id(socket)


class SteppedUserSocket(UserSocket):
    async def connect(self, socket: Any, params: Any, connect_info: Any) -> Any:
        return super().connect(socket, params, connect_info)

    async def id(self, socket: Any) -> Any:
        return super().id(socket)


HANDLERS = [UserSocket, AsyncUserSocket, SteppedUserSocket]


@pytest.mark.parametrize("handler", HANDLERS)
def test_the_handler_decides_who_may_connect_and_what_all_channels_know(handler: type[SocketHandler]) -> None:
    app = app_with(handler=handler)
    client = app.test()
    with client.connect("/ws", {"token": "good", "user": "bob"}) as connected:
        room = connected.join("rooms:a", {"user": "given at the join"})
        assert room.socket is not None and room.socket.id == "users:bob"
        assert room.socket.assigns == {"user": "given at the join"}
        assert connected._wire.session.assigns == {"user": "bob"}
    for token in ("bad", ""):
        with pytest.raises(phoenix.ChannelError, match="was answered with 403"):
            client.connect("/ws", {"token": token})
    with pytest.raises(phoenix.ChannelError, match="was answered with 500"):
        client.connect("/ws", {"token": "crash"})


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_refused_connection_is_a_403_at_every_door(handler: type[SocketHandler]) -> None:
    with Serving(app_with(handler=handler)) as server:
        for path in ("/ws/websocket?vsn=2.0.0&token=bad", "/ws/websocket?token=bad", "/ws?token=bad"):
            with pytest.raises(InvalidStatus) as refused, ws(server, path):
                pass
            assert refused.value.response.status_code == 403
        with server.client() as client:
            assert json.loads(client.get("/ws/longpoll?vsn=2.0.0&token_=x").text) == {"status": 403}
            assert client.post("/ws/poll").status == 403


@pytest.mark.parametrize("handler", HANDLERS)
def test_all_connections_of_an_id_can_be_closed_from_anywhere(handler: type[SocketHandler]) -> None:
    app = app_with(handler=handler)
    client = app.test()
    with contextlib.ExitStack() as stack:
        ann, ann2, bob = (
            stack.enter_context(client.connect("/ws", {"token": "good", "user": user})) for user in ("ann", "ann", "bob")
        )
        rooms = [each.join("rooms:a") for each in (ann, ann2, bob)]
        app.broadcast("users:ann", "something else", {})
        app.broadcast("users:ann", "disconnect", {})
        ann.assert_closed(1001)
        ann2.assert_closed(1001)
        rooms[2].assert_reply(rooms[2].push("ping"))
        with pytest.raises(AssertionError, match="was not closed"):
            bob.assert_closed(timeout=0)
    assert app.pubsub.topics() == []


def test_a_disconnect_is_a_close_frame_with_1001() -> None:
    app = app_with(handler=UserSocket)
    with Serving(app) as server, ws(server, V2_URL + "&token=good") as client:
        client.send(json.dumps(JOIN))
        read(client, 1)
        app.broadcast("users:ann", "disconnect")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001


@pytest.mark.parametrize("found", [7, b"x", True])
def test_an_id_is_text_or_nothing(found: Any) -> None:
    class Wrong(SocketHandler):
        def id(self, socket: Any) -> Any:
            return found

    with pytest.raises(phoenix.ChannelError, match="must be text or None"):
        app_with(handler=Wrong).test(raise_errors=True).connect("/ws")


def test_no_message_follows_the_close_of_a_connection() -> None:
    """A subscriber closes another's connection in the middle of a broadcast that this one would have got next."""
    app = app_with(handler=UserSocket)
    app.pubsub.subscribe("rooms:a", lambda message: app.broadcast("users:ann", "disconnect", {}))
    app.pubsub.subscribe("rooms:a", lambda message: wire_of(server).close(1001, "") if message.event == "last" else None)
    with Serving(app) as server, raw_socket(server, V2_URL + "&token=good") as raw:
        raw.sendall(masked(1, json.dumps(JOIN).encode()))
        until(lambda: len(app.pubsub.subscribers("rooms:a")) == 3)
        app.broadcast("rooms:a", "last", {"x": 1})
        received = b""
        while part := raw.recv(65536):
            received += part
            if received.endswith(b"\x03\xe9"):
                raw.sendall(masked(8, b"\x03\xe9"))
        assert b"last" not in received and received.endswith(b"\x88\x02\x03\xe9")


def test_a_channel_may_close_its_whole_connection() -> None:
    class Closer(Room):
        async def event(self, socket: Any, event: str, message: Any) -> Any:
            with pytest.raises(phoenix.ArgumentError):
                socket.close(1005)
            socket.close(4001, "enough")

    app = app_with(Closer)
    with Serving(app) as server, ws(server, V2_URL) as client:
        client.send(json.dumps(JOIN))
        client.send(json.dumps(said("2", "close")))
        read(client, 1)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")


def test_connect_info_tells_about_the_connection() -> None:
    def log_in(conn: Any, params: Any) -> Any:
        return conn.fetch_session().put_session("user_id", 7).text("welcome")

    class Router(phoenix.Router):
        get("/login", log_in)
        with socket("/ws", UserSocket):
            channel("rooms", Room)

    app = Endpoint(Router, log=False, secret_key_base=SECRET)
    with Serving(app) as server:
        cookie = server.get("/login").headers["set-cookie"][0].partition(";")[0]
        headers = {"Cookie": cookie, "X-Real": "yes", "User-Agent": "test/1"}
        path = "/ws/websocket?vsn=2.0.0&token=good&user[name]=ann"
        with ws(server, path, additional_headers=headers, user_agent_header=None) as client:
            client.send(json.dumps(JOIN))
            read(client, 1)
        info = UserSocket.seen[-1]
        assert info["params"] == {"vsn": "2.0.0", "token": "good", "user": {"name": "ann"}}
        assert info["session"] == {"user_id": 7}
        assert info["peer"] == {"address": "127.0.0.1"}
        assert info["user_agent"] == "test/1" and ("x-real", "yes") in info["x_headers"]
        assert info["uri"] == f"http://127.0.0.1:{server.port}{path}"
        assert info["auth_token"] is None
        with ws(server, path, additional_headers={"Cookie": "_phoenix_key=forged"}):
            assert UserSocket.seen[-1]["session"] in (None, {})


@pytest.mark.parametrize(("origins", "session"), [(True, {"user_id": 7}), (False, None)])
def test_the_session_is_not_given_to_pages_of_any_origin(origins: bool, session: Any) -> None:
    """With ``origins=False`` any site may connect, with the cookies of its visitor."""

    class Router(phoenix.Router):
        with socket("/ws", UserSocket, origins=origins):
            channel("rooms", Room)

    client = Endpoint(Router, log=False, secret_key_base=SECRET).test().put_session(user_id=7)
    with client.connect("/ws", {"token": "good"}):
        assert UserSocket.seen[-1]["session"] == session


def test_a_cookie_of_another_app_does_no_harm_to_one_without_a_secret() -> None:
    client = app_with(handler=UserSocket).test()
    client.cookies["_phoenix_key"] = "SFMyNTY.e30.x"
    with client.connect("/ws", {"token": "good"}):
        assert UserSocket.seen[-1]["session"] is None


TOKEN = "sécret/token+with?everything>"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_token_may_come_as_a_subprotocol_in_either_alphabet(encode: Callable[[bytes], bytes]) -> None:
    encoded = encode(TOKEN.encode()).decode().rstrip("=")
    with Serving(app_with(handler=UserSocket)) as server:
        head = (
            f"GET /ws/websocket?vsn=2.0.0&token=good HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Protocol: phoenix, base64url.bearer.phx.{encoded}\r\n\r\n"
        )
        with net.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
            raw.sendall(head.encode())
            answer = raw.recv(65536).decode().lower()
        assert answer.startswith("http/1.1 101 ") and "\r\nsec-websocket-protocol: phoenix\r\n" in answer
        assert UserSocket.seen[-1]["auth_token"] == TOKEN


def test_a_token_that_is_not_base64_is_no_token(caplog: pytest.LogCaptureFixture) -> None:
    assert phoenix._auth_token(["phoenix", "base64url.bearer.phx.!!!!!"]) == (None, ["phoenix"])
    assert phoenix._auth_token([]) == (None, [])
    assert phoenix._auth_token(["a, b", "c"]) == (None, ["a", "b", "c"])
    assert "not base64" in caplog.text


@pytest.mark.parametrize(
    ("vsn", "works"),
    [("2.0.0", True), ("1.0.0", True), ("2.0.9", True), ("2.1.0", False), ("3.0.0", False), ("123.1.1", False),
     ("2", False), ("2.0", False), ("x", False), ("", False), ("2.0.0.0", False), ("-2.0.0", False)],
)  # fmt: skip
def test_an_unknown_version_is_a_403(vsn: str, works: bool, caplog: pytest.LogCaptureFixture) -> None:
    with Serving(app_with()) as server:
        if works:
            with ws(server, f"/ws/websocket?vsn={vsn}"):
                return
        with pytest.raises(InvalidStatus) as refused, ws(server, f"/ws/websocket?vsn={vsn}"):
            pass
        assert refused.value.response.status_code == 403
        assert json.loads(server.get(f"/ws/longpoll?vsn={vsn}").text) == {"status": 403}
    well_formed = vsn in ("2.1.0", "3.0.0", "123.1.1")
    expected = f'requested transport version "{vsn}" does not match' if well_formed else "invalid transport version"
    assert expected in caplog.text


def test_a_request_that_is_no_handshake_is_told_so() -> None:
    with Serving(app_with()) as server:
        for path in (V2_URL, OLD_URL):
            answer = server.get(path)
            assert (answer.status, answer.headers["upgrade"]) == (426, ["websocket"])
            assert "Upgrade" in answer.headers["connection"]
        head = (
            f"GET {V2_URL} HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        with net.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
            raw.sendall(head.encode())
            assert raw.recv(65536).startswith(b"HTTP/1.1 400 ")
        with net.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
            raw.sendall(head.replace("GET", "HEAD").replace("HTTP/1.0", "HTTP/1.1").encode())
            assert raw.recv(65536).startswith(b"HTTP/1.1 405 ")


ORIGINS: list[tuple[dict[str, Any], dict[str, Any], str | None, bool]] = [
    ({}, {}, None, True),  # no page at all
    ({}, {}, "http://127.0.0.1:{port}", True),
    ({}, {}, "http://127.0.0.1:1", False),
    ({}, {}, "https://127.0.0.1:{port}", False),
    ({}, {}, "http://localhost:{port}", False),
    ({}, {}, "http://evil.example", False),
    ({}, {}, "null", False),
    ({}, {}, "file://", False),
    ({}, {}, "", False),
    ({}, {"url": {"host": "example.com"}}, "https://example.com", True),
    ({}, {"url": {"host": "example.com"}}, "https://www.example.com", False),
    ({}, {"url": {"host": "example.com"}}, "http://127.0.0.1:{port}", True),
    ({"origins": ["//*.example.com"]}, {}, "https://www.example.com", True),
    ({"origins": ["//*.example.com"]}, {}, "https://example.com", True),
    ({"origins": ["//*.example.com"]}, {}, "https://prefix-example.com", False),
    ({"origins": ["//*.example.com"]}, {}, "http://127.0.0.1:{port}", False),
    ({"origins": ["https://example.com"]}, {}, "http://example.com", False),
    ({"origins": ["//example.com:81"]}, {}, "http://example.com:81", True),
    ({"origins": ["//example.com:81"]}, {}, "http://example.com", False),
    ({"origins": False}, {}, "http://evil.example", True),
    ({"origins": False}, {}, "null", True),
]


@pytest.mark.parametrize(("options", "endpoint", "origin", "allowed"), ORIGINS)
def test_pages_of_other_sites_are_kept_out_at_all_four_doors(
    options: Any, endpoint: Any, origin: str | None, allowed: bool
) -> None:
    class Router(phoenix.Router):
        with socket("/ws", **options):
            channel("rooms", Room)

    with Serving(Endpoint(Router, log=False, **endpoint)) as server:
        headers = {} if origin is None else {"Origin": origin.format(port=server.port)}
        for path in (V2_URL, V1_URL, OLD_URL):
            if allowed:
                with ws(server, path, additional_headers=headers):
                    pass
            else:
                with pytest.raises(InvalidStatus) as refused, ws(server, path, additional_headers=headers):
                    pass
                assert refused.value.response.status_code == 403
        with server.client() as client:
            assert client.get("/ws/longpoll?vsn=2.0.0", headers).status == (200 if allowed else 403)
            assert client.send("OPTIONS", "/ws/longpoll", headers=headers).status == (200 if allowed else 403)
            assert client.post("/ws/poll", headers=headers).status == (200 if allowed else 403)


def test_a_proxy_may_speak_https_for_us() -> None:
    """Host: example.com without a port, Origin: https://example.com."""
    with Serving(app_with()) as server:
        for origin, works in (("https://example.com", True), ("http://example.com", True), ("https://example.com:444", False)):
            head = (
                f"GET {V2_URL} HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                f"Origin: {origin}\r\n\r\n"
            )
            with net.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
                raw.sendall(head.encode())
                assert raw.recv(65536).split()[1] == (b"101" if works else b"403"), origin


# --- Limits -------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "size", "works"), [
    ({}, (1 << 20) - 60, True), ({}, (1 << 20) + 1, False), ({"max_size": 100}, 40, True), ({"max_size": 100}, 101, False),
])  # fmt: skip
def test_a_message_over_the_limit_closes_with_1009(options: Any, size: int, works: bool) -> None:
    with Serving(app_with(**options)) as server, ws(server, V2_URL, max_size=1 << 22) as client:
        client.send(json.dumps(JOIN))
        read(client, 1)
        client.send(json.dumps(said("2", "ping", {"x": "x" * size})))
        if works:
            assert read(client, 1) == [answered("2", {"pong": True})]
        else:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(TIMEOUT)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_who_says_nothing_for_too_long_is_sent_away_with_1001() -> None:
    app = Endpoint(app_with(timeout=0.6).router, log=False, timeouts={"idle": 0.6})
    with Serving(app) as server, ws(server, V2_URL, ping_interval=None) as client:
        started = time.monotonic()
        while time.monotonic() - started < 1.5:
            client.send('[null,"1","phoenix","heartbeat",{}]')
            read(client, 1)
            time.sleep(0.02)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "idle")


def test_a_client_that_sends_faster_than_its_channel_works_is_not_read_from_meanwhile() -> None:
    go_on = threading.Event()
    count = [0]

    class Slow(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        def event(self, socket: Any, event: str, message: Any) -> Any:
            assert go_on.wait(TIMEOUT)
            count[0] += 1
            return socket.ok({"count": count[0]}) if event == "last" else None

    with Serving(app_with(Slow)) as server, ws(server, V2_URL, max_size=None) as client:
        client.send('["1","1","rooms:a","phx_join",{}]')
        read(client, 1)
        sent = threading.Event()

        def flood() -> None:
            message = json.dumps(["1", "2", "rooms:a", "work", {"x": "x" * 100_000}])
            for _ in range(300):  # 30 MB, which no socket buffer holds
                client.send(message)
            sent.set()
            client.send('["1","3","rooms:a","last",{}]')

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        assert not sent.wait(0.5)  # it is stopped
        wire = wire_of(server)
        assert wire.handler.held <= 2 << 20
        go_on.set()
        assert sent.wait(TIMEOUT)
        assert read(client, 1) == [["1", "3", "rooms:a", "phx_reply", {"status": "ok", "response": {"count": 301}}]]
        thread.join(TIMEOUT)
        assert wire.handler.held == 0 and not wire.reading_paused


def test_a_channel_that_leaves_with_messages_waiting_lets_its_client_be_read_again() -> None:
    go_on = threading.Event()

    class Slow(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        def event(self, socket: Any, event: str, message: Any) -> Any:
            assert go_on.wait(TIMEOUT)
            raise ValueError("crash")

    with Serving(app_with(Slow)) as server, ws(server, V2_URL, max_size=None) as client:
        client.send('["1","1","rooms:a","phx_join",{}]')
        read(client, 1)
        for _ in range(30):
            client.send(json.dumps(["1", None, "rooms:a", "work", {"x": "x" * 100_000}]))
        wire = wire_of(server)
        until(lambda: wire.reading_paused)
        go_on.set()
        assert read(client, 1)[0][3] == "phx_error"
        client.send('[null,"hb","phoenix","heartbeat",{}]')
        while read(client, 1)[0][1] != "hb":
            pass
        assert wire.handler.held == 0


def test_broadcasts_that_pile_up_before_a_slow_interception_cut_the_client_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(phoenix, "_MAX_WAITING", 50)
    go_on = threading.Event()

    class Slow(Room):
        intercept = ["seen"]

        def out(self, socket: Any, event: str, message: Any) -> Any:  # type: ignore[override]
            assert go_on.wait(TIMEOUT)

    app = app_with(Slow)
    with app.test().connect("/ws", timeout=TIMEOUT) as client:
        client.join("rooms:a")
        for _ in range(60):
            app.broadcast("rooms:a", "seen", {})
        client.assert_closed(1013)
        go_on.set()
    assert "did not keep up and is cut off: 51 messages wait for" in caplog.text


# --- Long poll, V1 and V2 -----------------------------------------------------------------


class Poller:
    """What `LongPoll` of the official client does, one step at a time."""

    def __init__(self, server: Serving, vsn: str = "2.0.0", query: str = "") -> None:
        self.client = server.client()
        self.path = f"/ws/longpoll?vsn={vsn}{query}"
        self.token = ""

    def __enter__(self) -> Poller:
        answer = self.get()
        assert answer["status"] == 410 and answer["messages"] == []
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.connection.close()

    def url(self) -> str:
        return self.path + (f"&token={self.token}" if self.token else "")

    def get(self) -> Any:
        answer = json.loads(self.client.get(self.url()).text)
        self.token = answer.get("token", self.token)
        return answer

    def post(self, body: str | bytes, content_type: str = "application/x-ndjson") -> Any:
        answer = self.client.send("POST", self.url(), body, {"Content-Type": content_type})
        assert answer.status == 200
        return json.loads(answer.text)["status"]

    def read(self, count: int) -> list[Any]:
        got: list[Any] = []
        while len(got) < count:
            answer = self.get()
            assert answer["status"] == 200
            assert all(isinstance(message, dict if "vsn=1" in self.path else str) for message in answer["messages"])
            got += [json.loads(message) if isinstance(message, str) else message for message in answer["messages"]]
        return got


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_long_poll_in_v2(served: Serving, ending: str) -> None:
    with Poller(served) as poller:
        lines = [json.dumps(JOIN), json.dumps(said("2", "ping")), '[null,"3","phoenix","heartbeat",{}]']
        assert poller.post(ending.join(lines)) == 200
        got = poller.read(3)
        assert sorted(got, key=lambda frame: frame[1]) == [
            JOINED, answered("2", {"pong": True}), [None, "3", "phoenix", "phx_reply", {"status": "ok", "response": {}}],
        ]  # fmt: skip
        assert poller.post(json.dumps(said("4", "shout", {"body": "hi"}))) == 200
        assert poller.read(1) == [[None, None, "rooms:a", "shouted", {"user": "ann", "body": "hi"}]]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/json; charset=utf-8"])
def test_older_clients_post_one_message_at_a_time(served: Serving, content_type: str) -> None:
    with Poller(served, "1.0.0") as poller:
        assert poller.post(json.dumps(v1("phx_join", {"user": "ann"}, "1")), content_type) == 200
        assert poller.read(1) == [v1_reply("1", {"joined": "a"})]
    with Poller(served) as poller:
        assert poller.post(json.dumps(JOIN), content_type) == 200
        assert poller.read(1) == [JOINED]


def test_a_binary_message_is_posted_in_base64_and_cannot_be_answered_in_kind(served: Serving) -> None:
    with Poller(served) as poller:
        poller.post(json.dumps(JOIN))
        poller.read(1)
        frame = b"\x00\x01\x01\x07\x0412rooms:aping" + b"\x00\xff\n"
        for encoded in (base64.b64encode(frame), base64.b64encode(frame).rstrip(b"=")):
            assert poller.post(encoded) == 200
            assert poller.read(1) == [answered("2", {"pong": True})]
        assert poller.post(base64.b64encode(b"\x00\x01\x01\x07\x0513rooms:abytesx")) == 200
        assert poller.read(1)[0][3] == "phx_error"


def test_a_broadcast_of_bytes_does_not_reach_who_polls_but_reaches_all_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_with()
    with Serving(app) as server, Poller(server) as poller, ws(server, V2_URL) as client:
        client.send(json.dumps(JOIN))
        read(client, 1)
        poller.post(json.dumps(JOIN))
        poller.read(1)
        app.broadcast("rooms:a", "bytes", b"x")
        app.broadcast("rooms:a", "text", {})
        assert client.recv(TIMEOUT) == b"\x02\x07\x05rooms:abytesx"
        assert poller.read(1)[0][3] == "text"
    assert "a client that polls is sent text only" in caplog.text


def test_only_a_hundred_lines_of_a_post_are_read(served: Serving) -> None:
    with Poller(served) as poller:
        assert poller.post("\n".join(f'[null,"{number}","phoenix","heartbeat",{{}}]' for number in range(120))) == 200
        assert [frame[1] for frame in poller.read(100)] == [str(number) for number in range(100)]
        poller.post('[null,"last","phoenix","heartbeat",{}]')
        assert [frame[1] for frame in poller.read(1)] == ["last"]


@pytest.mark.parametrize("body", [b"nonsense", b"[1]", b"[", b'["1","2","t","e",\xff]', b"!!!", b"A"])
def test_what_is_no_message_ends_the_session_of_who_polls(body: bytes) -> None:
    with Serving(app_with()) as server, Poller(server) as poller:
        token = poller.token
        assert poller.post(body) == 410
        answer = poller.get()
        assert answer["status"] == 410 and answer["token"] != token


def test_a_poll_waits_for_a_message_or_the_window() -> None:
    app = app_with(window=0.2)
    with Serving(app) as server, Poller(server) as poller:
        token = poller.token
        started = time.monotonic()
        assert poller.get() == {"status": 204, "token": token, "messages": []}
        assert time.monotonic() - started > 0.15
        poller.post(json.dumps(JOIN))
        poller.read(1)
        threading.Timer(0.05, app.broadcast, ("rooms:a", "late", {})).start()
        assert poller.read(1) == [[None, None, "rooms:a", "late", {}]]


def test_a_session_lives_as_long_as_its_client_polls_and_no_longer() -> None:
    kind = recorder()
    app = app_with(kind, window=0.4)
    with Serving(app) as server, Poller(server) as poller:
        token = poller.token
        poller.post('["1","1","rooms:a","phx_join",{}]')
        poller.read(1)
        for _ in range(10):  # there is always a message: no poll has to wait
            app.broadcast("rooms:a", "tick", {})
            assert poller.read(1)[0][3] == "tick"
            time.sleep(0.1)
        assert poller.token == token and ("terminate", "closed") not in kind.calls
        until(lambda: ("terminate", "closed") in kind.calls)
        assert app.pubsub.topics() == []
        assert poller.get()["status"] == 410 and poller.token != token


def test_post_to_a_session_that_is_gone_is_a_410(served: Serving) -> None:
    with served.client() as client:
        for query in ("", "&token=unknown", "&token[]=x"):
            answer = client.send("POST", f"/ws/longpoll?vsn=2.0.0{query}", "[]", {"Content-Type": "application/x-ndjson"})
            assert (answer.status, json.loads(answer.text)) == (200, {"status": 410})
        answer = client.get("/ws/longpoll?vsn=2.0.0&token=unknown")
        assert json.loads(answer.text)["status"] == 410 and json.loads(answer.text)["token"] != "unknown"


def test_a_token_of_the_app_is_not_taken_for_that_of_a_session_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    """`params: { token: userToken }` is what most apps send, and signed tokens have dots."""
    with Serving(app_with()) as server, Poller(server, query="&token=SFMyNTY.user.signature") as poller:
        poller.post(json.dumps(JOIN))
        assert poller.read(1) == [JOINED]
    assert "its session is in another" not in caplog.text


def test_the_token_may_come_as_a_header_and_so_may_the_auth_token() -> None:
    with Serving(app_with(handler=UserSocket)) as server, server.client() as client:
        answer = json.loads(client.get("/ws/longpoll?vsn=2.0.0&token=good", {"X-Phoenix-AuthToken": "secret"}).text)
        assert answer["status"] == 410 and UserSocket.seen[-1]["auth_token"] == "secret"
        sent = {"X-Phoenix-LongPoll-Token": answer["token"], "Content-Type": "application/x-ndjson"}
        url = "/ws/longpoll?vsn=2.0.0&token=good"  # the app's own
        assert json.loads(client.send("POST", url, json.dumps(JOIN), sent).text) == {"status": 200}
        got = json.loads(client.get(url, sent).text)
        assert [json.loads(message)[3] for message in got["messages"]] == ["phx_reply"]


def test_the_headers_of_a_long_poll() -> None:
    with Serving(app_with(origins=["//other.example"])) as server, server.client() as client:
        asked = {"Origin": "http://other.example", "Access-Control-Request-Headers": "content-type, x-mine"}
        answer = client.send("OPTIONS", "/ws/longpoll", headers=asked)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == ["http://other.example"]
        assert answer.headers["access-control-allow-headers"] == ["content-type, x-mine"]
        assert answer.headers["access-control-allow-methods"] == ["get, post, options"]
        assert answer.headers["access-control-max-age"] == ["3600"]
        answer = client.get("/ws/longpoll?vsn=2.0.0", {"Origin": "http://other.example"})
        assert answer.headers["access-control-allow-origin"] == ["http://other.example"]
        assert answer.headers["cache-control"] == ["no-store"]
        assert client.get("/ws/longpoll?vsn=2.0.0").headers["access-control-allow-origin"] == ["*"]
        assert client.send("PUT", "/ws/longpoll").status == 405


def test_a_newer_poll_takes_the_place_of_an_older_one() -> None:
    app = app_with(window=TIMEOUT)
    with Serving(app) as server, Poller(server) as first:
        first.post(json.dumps(JOIN))
        first.read(1)
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(first.get()))
        thread.start()
        mount = next(route.plug.mount for route in app.router.routes if route.path == "/ws/longpoll")
        session = mount.polls[first.token]
        until(lambda: session.waiter is not None and not session.waiter.done())
        second = Poller(server)
        second.token = first.token
        waiting = session.waiter
        other = threading.Thread(target=lambda: got.append(second.get()))
        other.start()
        thread.join(TIMEOUT)
        assert got == [{"status": 204, "token": first.token, "messages": []}]
        until(lambda: session.waiter is not waiting)
        app.broadcast("rooms:a", "tick", {})
        other.join(TIMEOUT)
        assert [json.loads(message)[3] for message in got[1]["messages"]] == ["tick"]
        second.client.connection.close()


def test_messages_are_kept_for_the_next_poll_when_the_client_of_this_one_has_gone() -> None:
    app = app_with(window=TIMEOUT)
    with Serving(app) as server, Poller(server) as poller:
        poller.post(json.dumps(JOIN))
        poller.read(1)
        mount = next(route.plug.mount for route in app.router.routes if route.path == "/ws/longpoll")
        session = mount.polls[poller.token]
        with net.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
            raw.sendall(f"GET {poller.url()} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(lambda: session.waiter is not None and not session.waiter.done())
            before = len(server.app.server.connections)
            raw.setsockopt(net.SOL_SOCKET, net.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it does not even say goodbye
        until(lambda: len(server.app.server.connections) < before)
        app.broadcast("rooms:a", "tick", {})
        until(session.waiter.done)
        poller.post(json.dumps(HEARTBEAT))  # when this is answered, the poll that is gone has ended
        assert [frame[3] for frame in poller.read(2)] == ["tick", "phx_reply"]


@pytest.mark.parametrize("generation", ["modern", "old"])
def test_a_session_whose_client_is_killed_while_it_polls_ends_like_any_other(generation: str) -> None:
    kind = recorder()
    app = app_with(kind, window=0.1)
    mount = next(route.plug.mount for route in app.router.routes if route.path == "/ws/longpoll")
    with Serving(app) as server, Poller(server) as poller, OldPoller(server) as old_poller:
        if generation == "modern":
            poller.post('["1","1","rooms:a","phx_join",{}]')
            poller.read(1)
            request = f"GET {poller.url()} HTTP/1.1\r\nHost: x\r\n\r\n"
        else:
            old_poller.put("join")
            request = f"GET /ws/poll HTTP/1.1\r\nHost: x\r\nCookie: {old_poller.headers['Cookie']}\r\n\r\n"
        session = next(poll for poll in mount.polls.values() if poll.session.sockets)
        with net.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
            raw.sendall(request.encode())
            until(lambda: session.waiter is not None and not session.waiter.done())
            raw.setsockopt(net.SOL_SOCKET, net.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        until(lambda: ("terminate", "closed") in kind.calls)
        assert app.pubsub.topics() == [] and session not in mount.polls.values()


def test_two_posts_of_one_session_are_handled_one_after_the_other(served: Serving) -> None:
    """The first has told its length and is slow to send the rest; the second must wait for it."""
    with Poller(served) as poller:
        poller.post(json.dumps(JOIN))
        poller.read(1)
        body = json.dumps(said("2", "echo", {"number": 1})).encode()
        head = (
            f"POST {poller.url()} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with net.create_connection(("127.0.0.1", served.port), TIMEOUT) as slow:
            slow.sendall(head.encode() + body[:10])
            mount = next(route.plug.mount for route in served.app.router.routes if route.path == "/ws/longpoll")
            session = mount.polls[poller.token]
            until(session.turn.locked)
            done: list[int] = []
            second = threading.Thread(
                target=lambda: done.append(poller.post(json.dumps(said("3", "echo", {"number": 2}))))
            )
            second.start()
            second.join(0.1)
            assert done == []
            slow.sendall(body[10:])
            assert slow.recv(65536).endswith(b'{"status":200}')
            second.join(TIMEOUT)
            assert done == [200]
        assert [frame[4]["number"] for frame in poller.read(2)] == [1, 2]


def test_a_posted_message_over_the_limit_ends_the_session_or_is_a_413_in_0_7(caplog: pytest.LogCaptureFixture) -> None:
    with Serving(app_with(max_size=1000)) as server, Poller(server) as poller, OldPoller(server) as old_poller:
        assert poller.post("\n".join(json.dumps(JOIN) for _ in range(50))) == 200  # a batch may be larger
        assert poller.post(json.dumps(said("2", "ping", "x" * 900))) == 200
        assert poller.post(json.dumps(said("3", "ping", "x" * 1000))) == 410
        assert "posted a message of over 1000 bytes" in caplog.text
        assert old_poller.put("join") == 200
        assert old_poller.put("ping", "x" * 1000) == 413


@pytest.mark.parametrize("generation", ["modern", "old"])
def test_a_client_that_posts_faster_than_its_channel_works_has_to_wait(generation: str) -> None:
    go_on = threading.Event()
    count = [0]

    class Slow(Room):
        def event(self, socket: Any, event: str, message: Any) -> Any:  # type: ignore[override]
            assert go_on.wait(TIMEOUT)
            count[0] += 1

    app = app_with(Slow)
    mount = next(route.plug.mount for route in app.router.routes if route.path == "/ws/longpoll")
    with Serving(app) as server, Poller(server) as poller, OldPoller(server) as old_poller:
        old_poller.put("join")
        poller.post(json.dumps(JOIN))
        payload = {"x": "x" * 900_000}
        sent: list[int] = []

        def flood() -> None:
            for _ in range(4):
                if generation == "old":
                    sent.append(old_poller.put("work", payload))
                else:
                    sent.append(poller.post("\n".join([json.dumps(said("2", "work", payload))] * 3)))

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        until(lambda: any(poll.session.is_held for poll in mount.polls.values()))
        thread.join(0.3)
        assert thread.is_alive() and len(sent) < 4
        go_on.set()
        thread.join(TIMEOUT)
        assert sent == [200] * 4
        until(lambda: count[0] == (4 if generation == "old" else 12))


def test_a_client_that_never_polls_for_what_it_is_sent_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    kind = recorder()
    app = app_with(kind)
    with Serving(app) as server, Poller(server) as poller:
        poller.post('["1","1","rooms:a","phx_join",{}]')
        poller.read(1)
        for _ in range(30):
            app.broadcast("rooms:a", "big", {"x": "x" * 50_000})
        until(lambda: ("terminate", "closed") in kind.calls)
        assert poller.get()["status"] == 410
        assert server.server.cut_off == 1
    assert "did not keep up and is cut off" in caplog.text


def test_a_server_that_stops_answers_those_who_wait() -> None:
    app = app_with(window=30)
    with Serving(app) as server:
        poller = Poller(server)
        poller.get()
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(poller.get()))
        thread.start()
        mount = next(route.plug.mount for route in app.router.routes if route.path == "/ws/longpoll")
        until(lambda: mount.polls and next(iter(mount.polls.values())).waiter is not None)
        started = time.monotonic()
    thread.join(TIMEOUT)
    assert got[0]["status"] == 410 and time.monotonic() - started < 5
    poller.client.connection.close()


def test_a_server_that_stops_waits_for_the_last_callbacks_of_those_who_poll() -> None:
    done: list[str] = []

    class Slow(Room):
        async def leave(self, socket: Any, message: Any) -> Any:
            await asyncio.sleep(0.2)
            done.append("leave")

        def terminate(self, socket: Any, reason: str) -> Any:  # type: ignore[override]
            time.sleep(0.2)
            done.append("terminate")

    with Serving(app_with(Slow)) as server, Poller(server) as poller:
        poller.post(json.dumps(JOIN))
        poller.read(1)
    assert done == ["leave", "terminate"] and server.server.connections == set()


def test_a_session_of_a_poll_can_be_disconnected_by_its_id() -> None:
    app = app_with(handler=UserSocket, window=TIMEOUT)
    with Serving(app) as server, server.client() as client:
        answer = json.loads(client.get("/ws/longpoll?vsn=2.0.0&token=good").text)
        header = {"X-Phoenix-LongPoll-Token": answer["token"]}
        mount = next(route.plug.mount for route in app.router.routes if route.path == "/ws/longpoll")
        session = mount.polls[answer["token"]]
        threading.Timer(0.05, app.broadcast, ("users:ann", "disconnect")).start()
        got = json.loads(client.get("/ws/longpoll?vsn=2.0.0", header).text)
        assert got["status"] == 410 and session.session.closed


def test_plain_callbacks_work_behind_a_wsgi_server_too() -> None:
    """There the thread of a request is lent to its own callbacks only: those of a channel outlive it."""
    app = app_with(PlainRoom)

    def ask(method: str, query: str, body: str = "") -> Any:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method, "PATH_INFO": "/ws/longpoll", "QUERY_STRING": f"vsn=2.0.0{query}",
            "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body.encode()), "CONTENT_TYPE": "application/json",
        }  # fmt: skip
        setup_testing_defaults(environ)
        environ["wsgi.multithread"] = True
        return json.loads(b"".join(app.wsgi(environ, lambda status, headers, exc_info=None: None)))

    token = ask("GET", "")["token"]
    try:
        assert ask("POST", f"&token={token}", json.dumps(JOIN)) == {"status": 200}
        assert [json.loads(message) for message in ask("GET", f"&token={token}")["messages"]] == [JOINED]
    finally:
        assert app.server is not None
        asyncio.run_coroutine_threadsafe(app.server.stop(), app.server.loop).result(TIMEOUT)


# --- Long poll of 0.7 ---------------------------------------------------------------------


class OldPoller:
    def __init__(self, server: Serving) -> None:
        self.client = server.client()
        self.headers: dict[str, str] = {}

    def __enter__(self) -> OldPoller:
        answer = self.client.send("POST", "/ws/poll", headers={"Content-Type": "application/json"})
        assert (answer.status, answer.body) == (200, b"")
        (cookie,) = answer.headers["set-cookie"]
        assert "path=/ws/poll" in cookie.lower() and "httponly" in cookie.lower()
        self.headers["Cookie"] = cookie.partition(";")[0]
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.connection.close()

    def put(self, event: str, message: Any = None, topic: str = "a", name: str = "rooms") -> int:
        body = json.dumps(old(event, message, topic, name))
        return self.client.send("PUT", "/ws/poll", body, {**self.headers, "Content-Type": "application/json"}).status

    def get(self) -> Any:
        answer = self.client.get("/ws/poll", self.headers)
        return (answer.status, json.loads(answer.text) if answer.text else None)


def test_a_long_poll_of_0_7(served: Serving) -> None:
    with OldPoller(served) as poller:
        assert poller.put("ping") == 401  # not joined
        assert poller.put("join", {"do": "refuse"}) == 401
        assert poller.get() == (200, [old("error", {"reason": "failed to join a"})])
        assert poller.put("join", {"do": "crash"}) == 401
        assert poller.put("join", {}, name="nowhere") == 401
        assert poller.put("join", {"user": "ann"}) == 200
        assert poller.put("shout", {"body": "hi"}) == 200
        assert poller.get() == (200, [old("shouted", {"user": "ann", "body": "hi"})])
        assert poller.put("heartbeat", {}, "conn", "phoenix") == 200
        assert poller.get() == (200, [old("heartbeat", {}, "conn", "phoenix")])
        assert poller.put("leave") == 200
        assert poller.get() == (200, [old("goodbye", {"reason": "left"})])
        assert poller.put("shout", {}) == 401
        bad = poller.client.send("PUT", "/ws/poll", '{"channel": 1}', {**poller.headers, "Content-Type": "text/plain"})
        assert bad.status == 400


def test_an_old_poll_ends_with_204_and_a_session_that_is_gone_is_a_410() -> None:
    with Serving(app_with(window=0.1)) as server, OldPoller(server) as poller:
        assert poller.get() == (204, None)
        assert poller.put("join") == 200
        assert poller.put("crash") == 200
        assert poller.get()[0] in (200, 410)
        assert poller.get() == (410, None)
        assert poller.put("ping") == 410
        poller.headers["Cookie"] = "_phoenix_poll=unknown"
        assert poller.get() == (410, None)


# --- Plain WebSockets ---------------------------------------------------------------------


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


def served_socket(handler: Any = echo, **options: Any) -> Serving:
    class Router(phoenix.Router):
        websocket("/echo", handler, **options)

    return Serving(Endpoint(Router, log=False))


def test_text_and_bytes_are_echoed() -> None:
    with served_socket() as server, ws(server, "/echo") as client:
        for message in ("", "hello", "é" * 70_000, b"", b"\x00\xff", b"x" * 200_000):
            client.send(message)
            assert client.recv(TIMEOUT) == message


@pytest.mark.parametrize(("offered", "agreed"), [
    (["chat.v1"], "chat.v1"), (["chat.v1", "chat.v2"], "chat.v2"), (["x", "chat.v1"], "chat.v1"), (None, None),
])  # fmt: skip
def test_a_subprotocol_is_agreed_on_by_the_order_of_the_server(offered: Any, agreed: str | None) -> None:
    seen: list[Any] = []

    async def handler(ws: Any) -> None:
        seen.append((ws.subprotocol, ws.conn.request_path))

    with served_socket(handler, subprotocols=["chat.v2", "chat.v1"]) as server:
        with ws(server, "/echo", subprotocols=offered) as client:
            assert client.subprotocol == agreed
            with pytest.raises(ConnectionClosed):
                client.recv(TIMEOUT)
        assert seen == [(agreed, "/echo")]


def test_a_client_whose_subprotocols_are_not_spoken_is_refused() -> None:
    with served_socket(subprotocols=["chat.v1"]) as server:
        with pytest.raises(InvalidStatus) as refused, ws(server, "/echo", subprotocols=["soap"]):
            pass
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("compress", [True, False])
def test_compression_is_agreed_on_where_it_is_switched_on(compress: bool) -> None:
    with served_socket(compress=compress) as server, ws(server, "/echo") as client:
        assert len(client.protocol.extensions) == int(compress)
        for message in ("x" * 10_000, "short", b"y" * 10_000):
            client.send(message)
            assert client.recv(TIMEOUT) == message


def test_a_message_over_max_size_closes_with_1009() -> None:
    with served_socket(max_size=10) as server, ws(server, "/echo") as client:
        client.send("x" * 10)
        assert client.recv(TIMEOUT) == "x" * 10
        client.send("x" * 11)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def closed_with(client: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            client.recv(TIMEOUT)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_a_handler_that_returns_closes_with_1000_and_one_that_raises_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ws: Any) -> None:
        if await ws.receive() == "crash":
            raise ValueError("crashed as told")

    with served_socket(handler) as server:
        for word, code in (("end", (1000, "")), ("crash", (1011, "internal error"))):
            with ws(server, "/echo") as client:
                client.send(word)
                assert closed_with(client) == code
    assert "the WebSocket handler of /echo raised an error" in caplog.text


def test_a_handler_may_close_with_a_code_and_a_reason() -> None:
    errors: list[BaseException] = []

    async def handler(ws: Any) -> None:
        for code, reason in ((1005, ""), (999, ""), (1000, "x" * 124)):
            try:
                await ws.close(code, reason)
            except phoenix.ArgumentError as error:
                errors.append(error)
        await ws.close(4000, "enough")
        await ws.close(4001, "too late")
        try:
            await ws.send("more")
        except phoenix.ClientDisconnected as error:
            errors.append(error)

    with served_socket(handler) as server, ws(server, "/echo") as client:
        assert closed_with(client) == (4000, "enough")
    until(lambda: len(errors) == 4)


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (4321, 4321), (None, 1006)])
def test_the_handler_learns_how_the_client_closed(code: int | None, seen: int) -> None:
    ended: list[Any] = []

    async def handler(ws: Any) -> None:
        messages = [message async for message in ws]
        with pytest.raises(phoenix.ClientDisconnected):
            await ws.receive()
        with pytest.raises(phoenix.ClientDisconnected):
            await ws.send("hello?")
        ended.append((messages, ws.close_code))

    with served_socket(handler) as server, ws(server, "/echo") as client:
        client.send("one")
        client.send("two")
        if code is None:
            client.socket.shutdown(net.SHUT_RDWR)
        else:
            client.close(code)
        until(lambda: ended)
    assert ended == [(["one", "two"], seen)]


def test_what_is_no_message_cannot_be_sent() -> None:
    async def handler(ws: Any) -> None:
        for value in ({"a": 1}, 7, None):
            with pytest.raises(phoenix.ArgumentError, match="expected str or bytes"):
                await ws.send(value)

    with served_socket(handler) as server, ws(server, "/echo") as client:
        assert closed_with(client) == (1000, "")


def test_one_task_at_a_time_may_receive() -> None:
    async def handler(ws: Any) -> None:
        first = asyncio.ensure_future(ws.receive())
        await asyncio.sleep(0)
        with pytest.raises(phoenix.PhoenixError, match="being read already"):
            await ws.receive()
        await ws.send("ready")
        await ws.send(await first)

    with served_socket(handler) as server, ws(server, "/echo") as client:
        assert client.recv(TIMEOUT) == "ready"
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"
        assert closed_with(client) == (1000, "")


def test_a_cancelled_receive_loses_nothing() -> None:
    async def handler(ws: Any) -> None:
        await ws.send("ready")
        first = asyncio.ensure_future(ws.receive())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        await ws.send(await ws.receive())

    with served_socket(handler) as server, ws(server, "/echo") as client:
        assert client.recv(TIMEOUT) == "ready"
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"


def test_pings_go_both_ways_and_have_125_bytes_at_most() -> None:
    async def handler(ws: Any) -> None:
        with pytest.raises(phoenix.ArgumentError, match="125 bytes at most"):
            await ws.ping(b"x" * 126)
        await ws.ping(b"are you there")
        async for message in ws:
            await ws.send(message)

    with served_socket(handler) as server, ws(server, "/echo") as client:
        assert client.ping().wait(TIMEOUT)
        client.send("still works")
        assert client.recv(TIMEOUT) == "still works"


def wire_of(server: Serving) -> Any:
    """The server's side of the only connection there is."""
    until(lambda: [each for each in server.app.server.connections if hasattr(each, "handler")])
    return next(each for each in server.app.server.connections if hasattr(each, "handler"))


def raw_socket(server: Serving, path: str) -> net.socket:
    """A WebSocket without a client behind it: bytes as they are."""
    raw = net.create_connection(("127.0.0.1", server.port), TIMEOUT)
    raw.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += raw.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return raw


def masked(opcode: int, payload: bytes) -> bytes:
    length = len(payload)
    head = bytes([0x80 | opcode])
    if length < 126:
        return head + bytes([0x80 | length]) + bytes(4) + payload
    if length < 65536:
        return head + b"\xfe" + length.to_bytes(2, "big") + bytes(4) + payload
    return head + b"\xff" + length.to_bytes(8, "big") + bytes(4) + payload


def test_a_silent_client_is_pinged_and_dropped_when_it_does_not_answer() -> None:
    class Router(phoenix.Router):
        websocket("/echo", echo, ping_interval=0.2)

    with Serving(Endpoint(Router, log=False, timeouts={"idle": 0.8})) as server:
        with ws(server, "/echo") as alive, raw_socket(server, "/echo") as dead:
            started = time.monotonic()
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while part := dead.recv(100):
                    received += part
            assert received == b"\x89\x00" and time.monotonic() - started < 5
            alive.send("still here")  # the library answers pings
            assert alive.recv(TIMEOUT) == "still here"


def test_without_a_ping_interval_silence_is_no_matter() -> None:
    class Router(phoenix.Router):
        websocket("/echo", echo, ping_interval=None)

    with Serving(Endpoint(Router, log=False, timeouts={"idle": 0.1})) as server, raw_socket(server, "/echo") as quiet:
        quiet.settimeout(0.5)
        with pytest.raises(TimeoutError):
            quiet.recv(1)
        quiet.sendall(masked(1, b"hello"))
        assert quiet.recv(100) == b"\x81\x05hello"


def test_a_handler_that_sends_waits_for_its_reader_and_memory_stays_bounded() -> None:
    sent = [0]

    async def handler(ws: Any) -> None:
        for _ in range(500):
            await ws.send("x" * 100_000)
            sent[0] += 1

    with served_socket(handler) as server, raw_socket(server, "/echo") as slow:
        wire = wire_of(server)
        until(lambda: wire.writing_paused)
        before = -1
        while before != sent[0]:
            before = sent[0]
            time.sleep(0.05)
        assert sent[0] < 300  # what the system's own buffers hold
        assert wire.transport.get_write_buffer_size() < 300_000
        total, end = 0, b""
        while part := slow.recv(1 << 20):
            total, end = total + len(part), (end + part)[-4:]
        assert total == 500 * 100_010 + 4 and end == b"\x88\x02\x03\xe8"


def test_two_tasks_that_wait_for_the_reader_both_go_on() -> None:
    done: list[int] = []

    async def handler(ws: Any) -> None:
        async def talk(number: int) -> None:
            for _ in range(150):
                await ws.send("x" * 100_000)
            done.append(number)

        await asyncio.gather(talk(1), talk(2))

    with served_socket(handler) as server, raw_socket(server, "/echo") as slow:
        wire = wire_of(server)
        until(lambda: len(wire.drainers) == 2)
        assert done == []
        total = 0
        while total < 300 * 100_010:
            total += len(slow.recv(1 << 20))
        until(lambda: sorted(done) == [1, 2])


def test_a_handler_that_waits_for_its_reader_is_told_when_that_has_gone() -> None:
    ended: list[str] = []

    async def handler(ws: Any) -> None:
        try:
            while True:
                await ws.send("x" * 100_000)
        except phoenix.ClientDisconnected:
            ended.append("disconnected")
            raise

    with served_socket(handler) as server:
        with raw_socket(server, "/echo"):
            wire = wire_of(server)
            until(lambda: wire.drainers)
        until(lambda: ended == ["disconnected"])


def test_a_client_that_sends_faster_than_the_handler_reads_is_not_read_from_meanwhile() -> None:
    go_on = threading.Event()
    count = [0]

    async def handler(ws: Any) -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        async for _ in ws:
            count[0] += 1

    with served_socket(handler) as server, ws(server, "/echo") as client:
        sent = threading.Event()

        def flood() -> None:
            for _ in range(400):
                client.send("x" * 100_000)
            sent.set()

        threading.Thread(target=flood, daemon=True).start()
        assert not sent.wait(0.3)
        wire = wire_of(server)
        assert wire.reading_paused and wire.handler._held < 2_000_000
        go_on.set()
        assert sent.wait(TIMEOUT)
        until(lambda: count[0] == 400)
        assert not wire.reading_paused


def test_pings_of_a_client_that_does_not_read_do_not_pile_up() -> None:
    async def handler(ws: Any) -> None:
        await ws.send("x" * 8_000_000)
        async for message in ws:
            await ws.send(message)

    with served_socket(handler) as server, raw_socket(server, "/echo") as slow:
        wire = wire_of(server)
        until(lambda: wire.writing_paused)
        size = wire.transport.get_write_buffer_size()
        for number in range(5000):
            slow.sendall(masked(9, b"%100d" % number))
        until(lambda: wire.owed_pong.endswith(b"4999"))
        assert wire.transport.get_write_buffer_size() <= size
        total = b""
        while not total.endswith(b"4999"):
            total = (total + slow.recv(1 << 20))[-200:]
        assert wire.owed_pong == b""


def test_what_a_client_says_before_it_closes_is_answered_before_the_close() -> None:
    with served_socket() as server, raw_socket(server, "/echo") as raw:
        raw.sendall(masked(1, b"one") + masked(1, b"two") + masked(8, b"\x03\xe8"))
        received = b""
        while part := raw.recv(100):
            received += part
        assert received == b"\x81\x03one\x81\x03two\x88\x02\x03\xe8"


def test_a_close_that_nobody_reads_up_to_is_answered_all_the_same() -> None:
    go_on = threading.Event()

    async def handler(ws: Any) -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.005)

    with served_socket(handler) as server, raw_socket(server, "/echo") as raw:
        raw.sendall(masked(1, b"one") + masked(8, b"\x03\xe8"))
        received = b""
        while part := raw.recv(100):
            received += part
        assert received == b"\x88\x02\x03\xe8"
        go_on.set()


def test_a_handler_that_ends_with_a_close_waiting_answers_that() -> None:
    async def handler(ws: Any) -> None:
        await ws.receive()
        await asyncio.sleep(0.05)

    with served_socket(handler) as server, raw_socket(server, "/echo") as raw:
        started = time.monotonic()
        raw.sendall(masked(1, b"one") + masked(1, b"two") + masked(8, b"\x0f\xa1"))
        received = b""
        while part := raw.recv(100):
            received += part
        assert received == b"\x88\x02\x0f\xa1" and time.monotonic() - started < 1.5


def test_a_client_that_does_not_answer_a_close_is_dropped_however_much_it_talks() -> None:
    async def handler(ws: Any) -> None:
        await ws.receive()

    with served_socket(handler) as server, raw_socket(server, "/echo") as raw:
        raw.sendall(masked(1, b"end"))
        assert raw.recv(4) == b"\x88\x02\x03\xe8"
        started = time.monotonic()
        raw.settimeout(0.05)
        with pytest.raises(OSError, match="reset|pipe|Broken|closed"):
            while time.monotonic() - started < TIMEOUT:
                raw.sendall(masked(1, b"and another thing"))
                with contextlib.suppress(TimeoutError):
                    if raw.recv(100) == b"":
                        raise ConnectionResetError("closed")
        assert time.monotonic() - started < 6


def test_a_close_is_completed_though_nobody_was_reading_from_the_client() -> None:
    async def handler(ws: Any) -> None:
        while not ws._reading_paused:
            await asyncio.sleep(0.005)
        await ws.close(4000, "enough")

    with served_socket(handler) as server, ws(server, "/echo") as client:
        for _ in range(5):
            client.send("x" * 50_000)
        assert closed_with(client) == (4000, "enough")
        started = time.monotonic()
        until(lambda: not server.app.server.connections)
        assert time.monotonic() - started < 1.5


def test_a_handler_that_waits_for_something_else_is_cancelled_when_its_client_has_been_gone_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phoenix, "_PATIENCE", 0.05)
    pubsub = PubSub()
    ended: list[str] = []

    async def handler(ws: Any) -> None:
        try:
            async for message in pubsub.subscribe("never"):
                await ws.send(message)
        finally:
            ended.append("handler")

    with served_socket(handler) as server:
        with ws(server, "/echo"):
            until(lambda: pubsub.topics() == ["never"])
        until(lambda: ended == ["handler"])
        until(lambda: not server.app.server.connections)
    assert pubsub.topics() == []


def test_pages_of_other_sites_may_not_open_a_plain_websocket_either() -> None:
    with served_socket() as server:
        with pytest.raises(InvalidStatus) as refused, ws(server, "/echo", additional_headers={"Origin": "http://evil.example"}):
            pass
        assert refused.value.response.status_code == 403
    with served_socket(origins=["//good.example"]) as server:
        with ws(server, "/echo", additional_headers={"Origin": "https://good.example"}):
            pass


# --- Definitions --------------------------------------------------------------------------


def test_a_channel_stands_in_a_socket() -> None:
    with pytest.raises(phoenix.DefinitionError, match=r"must stand in a block of socket"):
        class Router(phoenix.Router):
            channel("rooms", Room)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: channel("rooms", "Room"), "expected a class of Channel"),  # type: ignore[arg-type]
    (lambda: channel("rooms", Room()), "expected a class of Channel"),  # type: ignore[arg-type]
    (lambda: channel("rooms", type("A", (Room,), {"intercept": "new"})), "A.intercept is 'new', expected a list"),
    (lambda: channel("ro*ms", Room), r"channels using splat patterns must end with \*, got: 'ro\*ms'"),
    (lambda: [channel("rooms", Room), channel("rooms", Room)], "there is a channel 'rooms' in this socket already"),
    (lambda: [channel("rooms", Room), channel("rooms:*", Room)], r"there is a channel 'rooms:\*' in this socket already"),
])  # fmt: skip
def test_mistakes_in_a_socket_are_found_when_it_is_defined(call: Any, message: str) -> None:
    with pytest.raises(phoenix.DefinitionError, match=message) as error:
        class Router(phoenix.Router):
            with socket("/ws"):
                call()
    assert "test_channels.py:" in str(error.value)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: socket("/ws", window_=3), "unknown option 'window_' of socket. Did you mean 'window'?"),
    (lambda: socket("/ws", object), "expected a class of SocketHandler"),  # type: ignore[arg-type]
    (lambda: socket("/ws", origins=["nonsense"]), "invalid origin 'nonsense'"),
    (lambda: socket("/ws", origins="all"), "unknown origins 'all'"),
    (lambda: websocket("/x", echo, subprotocol="a"), "unknown option 'subprotocol' of websocket. Did you mean 'subprotocols'?"),
    (lambda: websocket("/x", lambda ws: None), "expected a handler such as `async def handler"),
    (lambda: websocket("/x", echo, origins=[7]), "origins=[7]: expected True, False or a list of texts"),
    (lambda: socket("/ws", origins=7), "origins=7: expected True, False or a list of texts"),
])  # fmt: skip
def test_mistakes_in_options_are_found_when_they_are_written(call: Any, message: str) -> None:
    with pytest.raises(phoenix.DefinitionError) as error:
        class Router(phoenix.Router):
            call()
    assert message in str(error.value) and "test_channels.py:" in str(error.value)


# --- The test client itself ---------------------------------------------------------------


def test_what_is_expected_and_does_not_come_fails_in_time_and_says_what_came() -> None:
    app = app_with()
    with app.test().connect("/ws", timeout=0.05) as client:
        room = client.join("rooms:a", {"user": "ann"})
        room.push("echo", {"x": 1, "y": {"z": 2}})
        with pytest.raises(AssertionError, match=r"no 'other' on 'rooms:a' was pushed within 0.05 s. There was:\n.*'echo'"):
            room.assert_push("other")
        with pytest.raises(AssertionError, match="like {'x': 2}"):
            room.assert_push("echo", {"x": 2})
        with pytest.raises(AssertionError, match="like {'q': None}"):
            room.assert_push("echo", {"q": None})
        assert room.assert_push("echo", {"y": {"z": 2}}) == {"x": 1, "y": {"z": 2}}
        room.refute_push("echo")
        with pytest.raises(AssertionError, match="was answered with 'ok' and {'pong': True}, expected 'error'"):
            room.assert_reply(room.push("ping"), "error")
        with pytest.raises(AssertionError, match="was answered with 'ok' and .*, expected 'ok' and {'pong': False}"):
            room.assert_reply(room.push("ping"), "ok", {"pong": False})
        with pytest.raises(AssertionError, match="message 99 on 'rooms:a' was not answered within"):
            room.assert_reply("99")
        with pytest.raises(AssertionError, match="was answered: "):
            room.refute_reply(room.push("ping"), timeout=TIMEOUT)
        room.push("shout", {})
        with pytest.raises(AssertionError, match="'shouted' was pushed on 'rooms:a': {'user': 'ann'}"):
            room.refute_push("shouted", timeout=TIMEOUT)
        with pytest.raises(AssertionError, match="'shouted' was broadcast on 'rooms:a'"):
            room.refute_broadcast("shouted", timeout=TIMEOUT)
        room.refute_broadcast("shouted")
        with pytest.raises(AssertionError, match="no 'shouted' on 'rooms:a' was broadcast within"):
            room.assert_broadcast("shouted")
        with pytest.raises(AssertionError, match="was answered with 'error' and {'reason': 'unauthorized'}"):
            client.join("rooms:b", {"do": "refuse"})
        with pytest.raises(AssertionError, match="was not closed within"):
            client.assert_closed()
    with pytest.raises(phoenix.ChannelError, match="this client is closed"):
        room.push("ping")
    client.close()  # again: nothing happens


def test_a_callback_that_never_ends_does_not_hang_a_test() -> None:
    class Stuck(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            await asyncio.get_running_loop().create_future()

        async def terminate(self, socket: Any, reason: str) -> Any:
            await asyncio.get_running_loop().create_future()

    started = time.monotonic()
    client = app_with(Stuck).test().connect("/ws", timeout=0.05)
    with pytest.raises(AssertionError, match="was not answered within 0.05 s"):
        client.join("rooms:a")
    with pytest.raises(AssertionError, match="longer than 0.05 seconds"):
        client.close()
    assert time.monotonic() - started < 5


def test_a_connect_that_never_ends_does_not_hang_a_test() -> None:
    class Stuck(SocketHandler):
        async def connect(self, socket: Any, params: Any, connect_info: Any) -> Any:
            await asyncio.get_running_loop().create_future()

    with pytest.raises(AssertionError, match="longer than 0.05 seconds"):
        app_with(handler=Stuck).test().connect("/ws", timeout=0.05)


def test_the_thread_of_the_channels_ends_with_the_last_client() -> None:
    app = app_with()
    names = {thread.name for thread in threading.enumerate()}
    assert "phoenix-test" not in names
    with app.test().connect("/ws") as one:
        with app.test().connect("/ws") as two:
            two.join("rooms:a")
        one.join("rooms:a")
        assert "phoenix-test" in {thread.name for thread in threading.enumerate()}
    assert "phoenix-test" not in {thread.name for thread in threading.enumerate()}
    assert app.pubsub._loop is None


def test_actions_and_channels_meet_in_one_test() -> None:
    def say(conn: Any, params: Any) -> Any:
        app.broadcast("rooms:a", "new:msg", {"body": params["body"]})
        return conn.text("said")

    def log_in(conn: Any, params: Any) -> Any:
        return conn.fetch_session().put_session("user", "ann").text("welcome")

    class Router(phoenix.Router):
        post("/say", say)
        get("/login", log_in)
        with socket("/ws", UserSocket):
            channel("rooms", Room)

    app = Endpoint(Router, log=False, secret_key_base=SECRET)
    client = app.test()
    client.get("/login")
    with client.connect("/ws?token=good", {"user": "bob"}) as connected:
        assert UserSocket.seen[-1]["session"] == {"user": "ann"}  # the cookies of the test client are sent
        room = connected.join("rooms:a")
        assert client.post("/say", {"body": "hi"}).status == 200
        room.assert_push("new:msg", {"body": "hi"})


def test_a_connection_that_is_gone_leaves_nothing_of_ours_to_the_garbage_collector() -> None:
    def alive() -> int:
        kinds = (phoenix._WebSocketWire, phoenix._WebSocketParser, phoenix._Session, phoenix.Socket, Room)
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    with Serving(app_with()) as server:
        gc.collect()
        gc.disable()
        try:
            before = alive()
            with ws(server, V2_URL) as client:
                client.send(json.dumps(JOIN))
                assert read(client, 1) == [JOINED]
                assert alive() > before
            until(lambda: alive() == before, "reference counts alone have freed it")
        finally:
            gc.enable()


def test_the_test_client_meets_the_clients_of_a_server_in_this_process() -> None:
    app = app_with()
    with Serving(app) as server, ws(server, V2_URL) as real, app.test().connect("/ws") as client:
        real.send(json.dumps(JOIN))
        read(real, 1)
        client.join("rooms:a", {"user": "test"}).push("shout", {"body": "hi"})
        assert read(real, 1) == [[None, None, "rooms:a", "shouted", {"user": "test", "body": "hi"}]]


def test_binary_payloads_in_a_test() -> None:
    with app_with().test().connect("/ws") as client:
        room = client.join("rooms:a", {"do": "bytes"})
        assert room.response == b"\x01\x02"
        ref = room.push("bytes", b"\x00\x01")
        assert room.assert_push("bytes") == b"\x01\x00"
        assert room.assert_reply(ref) == b"\x00\x01"
        room.push("broadcast bytes")
        room.assert_push("bytes", b"\x00\xff")


def test_a_plain_websocket_or_no_socket_at_all_is_not_what_connect_is_for() -> None:
    class Router(phoenix.Router):
        websocket("/plain/websocket", echo)

    client = Endpoint(Router, log=False).test()
    with pytest.raises(phoenix.ChannelError, match="was answered with 101, expected it to become a connection"):
        client.connect("/plain")
    with pytest.raises(phoenix.ChannelError, match="was answered with 404"):
        client.connect("/nowhere")

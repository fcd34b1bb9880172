"""The samples of the seed's README under "PubSub" and "Channels", in Python; the JavaScript beside them is in test_chat.py."""

from __future__ import annotations

from typing import Any

import phoenix
import pytest
from phoenix import Channel, PubSub, channel, socket


def app_with(kind: type[Channel]) -> phoenix.Endpoint:
    class Router(phoenix.Router):
        with socket("/ws"):
            channel("channel", kind)

    return phoenix.Endpoint(Router)


def test_seed_sample_pubsub_subscribe_and_broadcast() -> None:
    pubsub = PubSub()
    mailbox = pubsub.subscribe("foo")
    pubsub.broadcast("foo", {"message_type": {"some": 1, "data": 2}})
    assert mailbox.get_blocking(timeout=5) == {"message_type": {"some": 1, "data": 2}}


def test_seed_sample_pubsub_whoever_subscribes_may_be_named_first_as_in_the_seed() -> None:
    pubsub, heard = PubSub(), list[Any]()
    pubsub.subscribe(heard.append, "foo")
    second = pubsub.subscribe("foo")
    pubsub.broadcast("foo", ("message_type", {"some": 1, "data": 2}))
    pubsub.broadcast("bar", "not this")
    assert heard == [("message_type", {"some": 1, "data": 2})]
    assert second.get_blocking(timeout=5) == heard[0]


def test_seed_sample_join_authorizes_one_topic_and_refuses_the_others() -> None:
    class MyChannel(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok() if topic == "topic" else socket.error("unauthorized")

    with app_with(MyChannel).test().connect("/ws") as client:
        assert client.join("channel:topic").response == {}
        assert client.join("channel:no", status="error").response == {"reason": "unauthorized"}


def test_seed_sample_events_are_matched_by_name_and_message() -> None:
    seen: list[tuple[str, int]] = []

    class MyChannel(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            match event, message:
                case "user:active" | "user:idle", {"user_id": user_id}:
                    seen.append((event, user_id))
            return socket.ok()

    with app_with(MyChannel).test().connect("/ws") as client:
        room = client.join("channel:topic")
        room.assert_reply(room.push("user:active", {"user_id": 1}))
        room.assert_reply(room.push("user:idle", {"user_id": 2}))
    assert seen == [("user:active", 1), ("user:idle", 2)]


def test_seed_sample_reply_sends_an_event_to_this_client_alone() -> None:
    class MyChannel(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            socket.reply("response:event", {"message": "Echo: " + message["content"]})

    app = app_with(MyChannel)
    with app.test().connect("/ws") as ann, app.test().connect("/ws") as bob:
        room, other = ann.join("channel:topic"), bob.join("channel:topic")
        room.push("incoming:event", {"content": "hi"})
        room.assert_push("response:event", {"message": "Echo: hi"})
        other.refute_push("response:event")


class Shouting(Channel):
    async def join(self, socket: Any, topic: str, message: Any) -> Any:
        return socket.error("unauthorized") if topic == "secret" else socket.ok()

    async def event(self, socket: Any, event: str, message: Any) -> Any:
        socket.broadcast("shout", message)


def test_seed_sample_broadcast_reaches_all_who_joined_the_topic_and_nobody_else() -> None:
    app = app_with(Shouting)
    with app.test().connect("/ws") as ann, app.test().connect("/ws") as bob:
        room, same, other = ann.join("channel:topic"), bob.join("channel:topic"), bob.join("channel:other")
        for n in (1, 2):  # the connection stays alive
            room.push("say", {"n": n})
            for client in (room, same):
                client.assert_push("shout", {"n": n})
        other.refute_push("shout")


def test_seed_sample_who_is_refused_hears_and_says_nothing_on_the_topic() -> None:
    app = app_with(Shouting)
    with app.test().connect("/ws") as ann:
        refused = ann.join("channel:secret", status="error")
        app.broadcast("channel:secret", "shout", {"n": 1})
        refused.assert_reply(refused.push("say", {"n": 2}), "error", {"reason": "unmatched topic"})
        refused.refute_push("shout")


def test_seed_sample_mount_and_channel_have_to_be_those_of_the_router() -> None:
    app = app_with(Shouting)
    with app.test().connect("/ws") as ann:
        assert ann.join("chanel:topic", status="error").response == {"reason": "unmatched topic"}
    with pytest.raises(phoenix.NoRouteError, match="no route found for GET /wss"):
        app.test(raise_errors=True).get("/wss/websocket")


def test_seed_sample_a_message_to_the_own_connection_comes_as_the_event_info() -> None:
    class MyChannel(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            match event, message:
                case "ping", _:
                    socket.send_info("pong")
                case "info", "pong":
                    socket.reply("heard", {"info": "pong"})

    with app_with(MyChannel).test().connect("/ws") as client:
        first, second = client.join("channel:one"), client.join("channel:two")
        first.push("ping")
        for room in (first, second):  # it comes to all channels of the connection
            room.assert_push("heard", {"info": "pong"})


def test_seed_sample_join_and_error_are_sent_only_by_the_app_itself() -> None:
    class MyChannel(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            if topic == "topic":
                socket.reply("join", {"content": f"joined {topic} successfully"})
                return socket.ok()
            socket.reply("error", {"reason": f"failed to join {topic}"})
            return socket.error("reason")

    with app_with(MyChannel).test().connect("/ws") as client:
        client.join("channel:topic").assert_push("join", {"content": "joined topic successfully"})
        client.join("channel:other", status="error").assert_push("error", {"reason": "failed to join other"})


@pytest.mark.parametrize("token", ["secret", "wrong"])
def test_seed_sample_state_is_held_in_the_socket(token: str) -> None:
    users = {("ann", "secret"): {"id": 7, "name": "Ann"}}

    class MyChannel(Channel):
        def join(self, socket: Any, topic: str, message: Any) -> Any:  # plain: it may ask a database
            user = users.get((message["user_id"], message["token"]))
            return socket.assign("user", user).ok() if user else socket.error("unauthorized")

        def event(self, socket: Any, event: str, message: Any) -> Any:
            user = socket.assigns["user"]
            socket.broadcast("new:msg", {"user_id": user["id"], "name": user["name"], "msg": message["msg"]})

    with app_with(MyChannel).test().connect("/ws") as client:
        status = "ok" if token == "secret" else "error"
        room = client.join("channel:topic", {"token": token, "user_id": "ann"}, status=status)
        if status == "ok":
            room.push("new:msg", {"msg": "hi"})
            room.assert_push("new:msg", {"user_id": 7, "name": "Ann", "msg": "hi"})
        else:
            assert room.response == {"reason": "unauthorized"}


def test_seed_sample_a_client_leaves_a_topic() -> None:
    left: list[Any] = []

    class MyChannel(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            return socket.ok()

        async def leave(self, socket: Any, message: Any) -> Any:
            left.append(message)

    with app_with(MyChannel).test().connect("/ws") as client:
        client.join("channel:topic").leave({"because": "done"})
    assert left == [{"because": "done"}]

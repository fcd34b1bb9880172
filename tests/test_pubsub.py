"""Chapter 10, PubSub and presence: mailboxes, functions, threads, order; who is there, as the official client sees it."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import phoenix
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phoenix import Broadcast, Channel, Mailbox, MailboxFullError, Presence, PubSub, channel, post, socket
from serving import TIMEOUT, Serving, until


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))


@pytest.fixture
def pubsub() -> PubSub:
    return PubSub()


# --- The README of the seed ---------------------------------------------------------------


def test_a_message_reaches_every_subscriber_of_its_topic_and_nobody_else(pubsub: PubSub) -> None:
    first, second, other = pubsub.subscribe("foo"), pubsub.subscribe("foo"), pubsub.subscribe("bar")
    pubsub.broadcast("foo", ("message_type", {"some": 1, "data": 2}))
    assert first.get_blocking(1) == second.get_blocking(1) == ("message_type", {"some": 1, "data": 2})
    assert len(other) == 0


def test_seed_sample_logger_runs_as_a_supervised_child(capfd: pytest.CaptureFixture[str]) -> None:
    pubsub = PubSub()
    ready = threading.Event()

    async def action_logger() -> None:
        mailbox = pubsub.subscribe("logging")
        ready.set()
        async for message in mailbox:
            match message:
                case "action", {"action": action, "controller": controller}:
                    print("Called action", action, "in controller", controller, flush=True)

    def index(conn: Any, params: Any) -> Any:  # a plain function, in a worker thread
        pubsub.broadcast("logging", "something else")
        pubsub.broadcast("logging", ("action", {"controller": "pages", "action": "index"}))
        return conn.text("index")

    class Router(phoenix.Router):
        phoenix.get("/", index)

    app = phoenix.Endpoint(Router, pubsub=pubsub, children=[action_logger])
    seen = ""
    with Serving(app) as server:
        assert ready.wait(TIMEOUT)
        assert server.get("/").text == "index"
        deadline = time.monotonic() + TIMEOUT
        while "Called" not in seen and time.monotonic() < deadline:
            seen += capfd.readouterr().out
            time.sleep(0.002)
    assert seen == "Called action index in controller pages\n"


# --- Mailboxes ----------------------------------------------------------------------------


def test_a_mailbox_is_iterated_in_order_and_ends_when_it_is_closed(pubsub: PubSub) -> None:
    async def read() -> list[int]:
        mailbox = pubsub.subscribe("numbers")
        for number in range(5):
            pubsub.broadcast("numbers", number)
        mailbox.close()
        pubsub.broadcast("numbers", 99)  # too late
        return [number async for number in mailbox]

    assert run(read()) == [0, 1, 2, 3, 4]
    mailbox = pubsub.subscribe("numbers")
    pubsub.broadcast("numbers", "last")
    mailbox.close()
    assert list(mailbox) == ["last"]


def test_a_reader_is_woken_by_a_broadcast_on_its_loop_and_from_another_thread(pubsub: PubSub) -> None:
    async def read() -> list[str]:
        mailbox = pubsub.subscribe("words")
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, pubsub.broadcast, "words", "from the loop")
        first = await mailbox.get(timeout=5)
        threading.Timer(0.01, pubsub.broadcast, ("words", "from a thread")).start()
        return [first, await mailbox.get(timeout=5)]

    assert run(read()) == ["from the loop", "from a thread"]


def test_a_blocking_reader_is_woken_from_another_thread(pubsub: PubSub) -> None:
    mailbox = pubsub.subscribe("words")
    threading.Timer(0.01, pubsub.broadcast, ("words", "hello")).start()
    assert mailbox.get_blocking(timeout=5) == "hello"


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_waiting_has_a_time_out_and_a_message_in_the_box_needs_no_time(pubsub: PubSub, timeout: float) -> None:
    mailbox = pubsub.subscribe("quiet")
    with pytest.raises(TimeoutError, match="no message came within"):
        mailbox.get_blocking(timeout=timeout)
    with pytest.raises(TimeoutError):
        run(mailbox.get(timeout=timeout))
    pubsub.broadcast("quiet", 1)
    pubsub.broadcast("quiet", 2)
    assert mailbox.get_blocking(timeout=timeout) == 1
    assert run(mailbox.get(timeout=timeout)) == 2


def test_time_outs_leave_nothing_behind(pubsub: PubSub) -> None:
    mailbox = pubsub.subscribe("quiet")

    async def poll() -> None:
        for _ in range(50):
            with pytest.raises(TimeoutError):
                await mailbox.get(timeout=0)

    run(poll())
    for _ in range(50):
        with pytest.raises(TimeoutError):
            mailbox.get_blocking(timeout=0)
    assert mailbox._wakes == []


def test_a_cancelled_reader_takes_no_message_with_it(pubsub: PubSub) -> None:
    async def scene() -> Any:
        mailbox = pubsub.subscribe("words")
        reader = asyncio.ensure_future(mailbox.get())
        await asyncio.sleep(0)
        pubsub.broadcast("words", "kept")  # wakes the reader, which is cancelled before it runs
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        return await mailbox.get(timeout=1)

    assert run(scene()) == "kept"


def test_several_readers_of_one_mailbox_share_its_messages_and_none_is_forgotten(pubsub: PubSub) -> None:
    async def scene() -> list[int]:
        mailbox = pubsub.subscribe("work")
        readers = [asyncio.ensure_future(mailbox.get(timeout=5)) for _ in range(5)]
        await asyncio.sleep(0)
        for number in range(5):
            pubsub.broadcast("work", number)
        return sorted(await asyncio.gather(*readers))

    assert run(scene()) == [0, 1, 2, 3, 4]


def test_a_reader_that_is_woken_and_cancelled_leaves_the_message_to_another(pubsub: PubSub) -> None:
    async def scene() -> str:
        mailbox = pubsub.subscribe("work")
        readers = [asyncio.ensure_future(mailbox.get(timeout=5)) for _ in range(2)]
        await asyncio.sleep(0)
        pubsub.broadcast("work", "kept")
        readers[0].cancel()
        result: str = await readers[1]
        return result

    assert run(scene()) == "kept"


def test_the_end_of_a_with_block_unsubscribes_and_wakes_whoever_waits(pubsub: PubSub) -> None:
    async def scene() -> None:
        with pubsub.subscribe("words") as mailbox:
            assert pubsub.topics() == ["words"]
            reader = asyncio.ensure_future(mailbox.get())
            await asyncio.sleep(0)
        assert pubsub.topics() == []
        with pytest.raises(LookupError, match="closed"):
            await reader

    run(scene())


def test_a_mailbox_may_have_several_topics_and_each_of_them_once(pubsub: PubSub) -> None:
    mailbox = pubsub.subscribe("a")
    assert pubsub.subscribe(mailbox, "b") is mailbox
    assert pubsub.subscribe("b", mailbox) is mailbox
    assert mailbox.topics == {"a", "b"}
    for topic in "abc":
        pubsub.broadcast(topic, topic)
    assert [mailbox.get_blocking(0), mailbox.get_blocking(0)] == ["a", "b"]
    assert len(mailbox) == 0
    pubsub.unsubscribe(mailbox, "a")
    pubsub.broadcast("a", "a")
    assert len(mailbox) == 0 and mailbox.topics == {"b"}


def test_a_full_mailbox_closes_loudly_and_what_had_come_can_be_read(
    pubsub: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox = Mailbox(pubsub, limit=3)
    pubsub.subscribe("flood", mailbox)
    for number in range(10):
        pubsub.broadcast("flood", number)
    assert [mailbox.get_blocking(0) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(MailboxFullError, match="closed at 3 unread messages"):
        mailbox.get_blocking(0)
    with pytest.raises(MailboxFullError):
        run(mailbox.get())
    assert pubsub.topics() == []
    assert [record.message for record in caplog.records] == ["a mailbox of ['flood'] has 3 unread messages and was closed"]


def test_a_full_mailbox_ends_an_async_for_with_the_error(pubsub: PubSub) -> None:
    async def scene() -> list[int]:
        mailbox = Mailbox(pubsub, limit=2)
        pubsub.subscribe("flood", mailbox)
        for number in range(3):
            pubsub.broadcast("flood", number)
        seen = []
        with pytest.raises(MailboxFullError):
            async for number in mailbox:
                seen.append(number)
        return seen

    assert run(scene()) == [0, 1]


# --- Subscribers that are gone ------------------------------------------------------------


def test_a_mailbox_that_nobody_holds_leaves_its_topics_by_itself(pubsub: PubSub) -> None:
    mailbox = pubsub.subscribe("a")
    pubsub.subscribe(mailbox, "b")
    gone = weakref.ref(mailbox)
    del mailbox
    gc.collect()
    assert gone() is None
    assert pubsub.topics() == [] and pubsub.subscribers("a") == []


def test_a_mailbox_in_a_cycle_may_be_collected_while_the_lock_is_held(pubsub: PubSub) -> None:
    class Knot:
        def __init__(self) -> None:
            self.me, self.mailbox = self, pubsub.subscribe("knots")

    gc.disable()
    try:
        for _ in range(5):
            Knot()
        with pubsub._lock:  # as when the collector runs in the middle of `subscribe`
            assert gc.collect() >= 5
    finally:
        gc.enable()
    assert pubsub.subscribers("knots") == []


def test_a_new_mailbox_is_not_taken_for_one_that_is_gone(pubsub: PubSub) -> None:
    for number in range(200):  # the memory of the last one is used for the next, sooner or later
        mailbox = pubsub.subscribe("same")
        pubsub.broadcast("same", number)
        assert mailbox.get_blocking(0) == number
        assert len(pubsub.subscribers("same")) == 1


def test_a_task_that_ends_leaves_no_subscription_behind(pubsub: PubSub) -> None:
    async def scene() -> None:
        async def listen() -> None:
            async for _ in pubsub.subscribe("words"):
                pass

        task = asyncio.ensure_future(listen())
        await asyncio.sleep(0)
        assert pubsub.topics() == ["words"]
        task.cancel()
        await asyncio.wait([task])
        del task

    run(scene())
    gc.collect()
    assert pubsub.topics() == []


# --- Functions ----------------------------------------------------------------------------


def test_a_function_is_called_for_each_message_until_it_is_unsubscribed(pubsub: PubSub) -> None:
    heard: list[int] = []
    assert pubsub.subscribe("numbers", heard.append) == heard.append
    pubsub.subscribe(heard.append, "numbers")  # the other order, and once is enough
    pubsub.broadcast("numbers", 1)
    pubsub.unsubscribe("numbers", heard.append)
    pubsub.broadcast("numbers", 2)
    assert heard == [1]
    pubsub.unsubscribe(heard.append, "numbers")  # not there any more: no error
    pubsub.unsubscribe("unknown", heard.append)


@pytest.mark.parametrize("arguments", [("topic", 7), (7,), (None, "topic", ), ("topic", "topic"), (print, print)])
def test_what_is_no_topic_or_no_subscriber_is_refused(pubsub: PubSub, arguments: Any) -> None:
    if arguments == (None, "topic"):
        assert isinstance(pubsub.subscribe(*arguments), Mailbox)
        return
    with pytest.raises(phoenix.ArgumentError, match="expected a topic, and a function or a mailbox"):
        pubsub.subscribe(*arguments)


def test_a_subscriber_that_raises_harms_nobody(pubsub: PubSub, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []

    def broken(message: int) -> None:
        raise ValueError("broken")

    pubsub.subscribe("numbers", broken)
    pubsub.subscribe("numbers", heard.append)
    pubsub.broadcast("numbers", 1)
    assert heard == [1]
    assert [record.message for record in caplog.records] == ["a subscriber of 'numbers' raised an error"]


def test_subscribers_may_come_and_go_while_a_message_is_delivered(pubsub: PubSub) -> None:
    heard: list[str] = []

    def leaves(message: str) -> None:
        pubsub.unsubscribe("words", leaves)
        pubsub.subscribe("words", comes)
        heard.append("leaves")

    def comes(message: str) -> None:
        heard.append("comes")

    pubsub.subscribe("words", leaves)
    pubsub.broadcast("words", "one")
    pubsub.broadcast("words", "two")
    assert heard == ["leaves", "comes"]


def test_broadcast_from_leaves_out_the_sender_whatever_it_is(pubsub: PubSub) -> None:
    heard: list[str] = []
    mailbox, other = pubsub.subscribe("words"), pubsub.subscribe("words")
    pubsub.subscribe("words", heard.append)
    pubsub.broadcast_from(mailbox, "words", "from the mailbox")
    pubsub.broadcast_from(heard.append, "words", "from the function")
    assert heard == ["from the mailbox"]
    assert [len(mailbox), len(other)] == [1, 2]


def test_local_broadcast_and_topics_without_subscribers(pubsub: PubSub) -> None:
    pubsub.broadcast("nobody", 1)  # no error
    mailbox = pubsub.subscribe("words")
    pubsub.local_broadcast("words", "near")
    assert mailbox.get_blocking(0) == "near"
    assert pubsub.subscribers("nobody") == [] and pubsub.topics() == ["words"]


# --- A loop, threads and order ------------------------------------------------------------


def test_once_an_endpoint_serves_messages_of_all_threads_arrive_on_its_loop_in_order() -> None:
    pubsub = PubSub()
    heard: list[tuple[int, tuple[str, int]]] = []
    pubsub.subscribe("numbers", lambda message: heard.append((threading.get_ident(), message)))

    class Router(phoenix.Router):
        pass

    with Serving(phoenix.Endpoint(Router, pubsub=pubsub)) as server:
        def send(name: str) -> None:
            for number in range(200):
                pubsub.broadcast("numbers", (name, number))

        threads = [threading.Thread(target=send, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        until(lambda: len(heard) == 600, "some messages were lost")
        assert {ident for ident, _ in heard} == {server.thread.ident}
        for name in "abc":
            assert [number for _, (sender, number) in heard if sender == name] == list(range(200))


def test_all_hear_a_message_before_what_one_of_them_broadcasts_about_it() -> None:
    async def scene() -> list[tuple[str, str]]:
        pubsub = PubSub()
        pubsub._serve_on(asyncio.get_running_loop())
        heard: list[tuple[str, str]] = []

        def first(message: str) -> None:
            heard.append(("first", message))
            if message == "question":
                pubsub.broadcast("talk", "answer")
                pubsub.broadcast("talk", "more")

        pubsub.subscribe("talk", first)
        pubsub.subscribe("talk", lambda message: heard.append(("second", message)))
        pubsub.broadcast("talk", "question")
        pubsub.broadcast("talk", "later")  # behind the answer, which was broadcast before it
        while len(heard) < 8:
            await asyncio.sleep(0)
        return heard

    words = ["question", "answer", "more", "later"]
    assert run(scene()) == [(name, word) for word in words for name in ("first", "second")]


def test_an_endless_conversation_does_not_stop_the_loop() -> None:
    async def scene() -> int:
        pubsub = PubSub()
        pubsub._serve_on(asyncio.get_running_loop())
        count = 0

        def again(message: str) -> None:
            nonlocal count
            count += 1
            pubsub.broadcast("echo", message)

        pubsub.subscribe("echo", again)
        pubsub.broadcast("echo", "hello")
        while count < 4:  # both go on, in turn
            await asyncio.sleep(0)
        pubsub.unsubscribe("echo", again)
        return count

    assert run(scene()) > 3


def test_a_pubsub_works_on_when_its_server_has_stopped() -> None:
    pubsub = PubSub()

    class Router(phoenix.Router):
        pass

    with Serving(phoenix.Endpoint(Router, pubsub=pubsub)):
        pass
    mailbox = pubsub.subscribe("words")
    pubsub.broadcast("words", "after")
    assert mailbox.get_blocking(1) == "after"
    with Serving(phoenix.Endpoint(Router, pubsub=pubsub)):  # and serves again
        pubsub.broadcast("words", "again")
        assert mailbox.get_blocking(5) == "again"


def test_what_a_loop_left_undelivered_does_not_hold_up_the_next_one() -> None:
    pubsub = PubSub()
    heard: list[str] = []

    async def scene(word: str) -> None:
        pubsub._serve_on(asyncio.get_running_loop())
        pubsub.broadcast("words", word)
        await asyncio.sleep(0.01)

    again = pubsub.subscribe("words", lambda message: pubsub.broadcast("words", message))
    run(scene("endless"))
    pubsub.unsubscribe("words", again)
    pubsub.subscribe("words", heard.append)
    run(scene("new"))
    assert heard == ["new"]


def test_one_pubsub_cannot_deliver_on_two_loops_at_a_time() -> None:
    pubsub = PubSub()

    class Router(phoenix.Router):
        pass

    with Serving(phoenix.Endpoint(Router, pubsub=pubsub)):
        with pytest.raises(phoenix.PhoenixError, match="delivers on another event loop already"):
            run(phoenix.Endpoint(Router, pubsub=pubsub).make_server(port=0).start())


def test_subscribing_and_broadcasting_from_many_threads_loses_nothing() -> None:
    pubsub = PubSub()
    kept = pubsub.subscribe("busy")
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with pubsub.subscribe("busy") as mailbox:
                pubsub.subscribe(mailbox, "other")

    def send(name: int) -> None:
        for number in range(500):
            pubsub.broadcast("busy", (name, number))

    churners = [threading.Thread(target=churn) for _ in range(2)]
    senders = [threading.Thread(target=send, args=(name,)) for name in range(3)]
    for thread in churners + senders:
        thread.start()
    for thread in senders:
        thread.join(TIMEOUT)
    stop.set()
    for thread in churners:
        thread.join(TIMEOUT)
    got = [kept.get_blocking(0) for _ in range(1500)]
    assert [[number for sender, number in got if sender == name] for name in range(3)] == [list(range(500))] * 3
    assert pubsub.subscribers("other") == [] and len(pubsub.subscribers("busy")) == 1


# --- Broadcasts ---------------------------------------------------------------------------


def test_a_broadcast_is_encoded_once_for_each_form() -> None:
    made: list[str] = []
    message = Broadcast("rooms:lobby", "new:msg", {"body": "hi"})

    def v1(broadcast: Broadcast) -> str:
        made.append("v1")
        return "v1:" + broadcast.event

    def v2(broadcast: Broadcast) -> str:
        made.append("v2")
        return "v2:" + broadcast.event

    assert [message.encoded(form) for form in (v1, v2, v1, v2)] == ["v1:new:msg", "v2:new:msg"] * 2
    assert made == ["v1", "v2"]
    assert repr(message) == "Broadcast('rooms:lobby', 'new:msg', {'body': 'hi'})"


def test_a_broadcast_that_cannot_be_encoded_is_reported_once_and_others_get_theirs(
    pubsub: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    wrote: list[Any] = []
    mailbox = pubsub.subscribe("rooms:lobby")

    def encode(broadcast: Broadcast) -> str:
        return phoenix.encode_json(broadcast.payload)

    for key in range(3):
        pubsub._add("rooms:lobby", key, wrote.append, encode, wrote.append)
    pubsub.broadcast("rooms:lobby", Broadcast("rooms:lobby", "bad", {"body": object()}))
    pubsub.broadcast("rooms:lobby", Broadcast("rooms:lobby", "good", {"body": 1}))
    assert wrote == ['{"body":1}'] * 3
    assert [mailbox.get_blocking(0).event for _ in range(2)] == ["bad", "good"]
    assert len(caplog.records) == 1 and "'bad' on 'rooms:lobby' was not sent" in caplog.records[0].message


# --- Supervised children ------------------------------------------------------------------


class Empty(phoenix.Router):
    pass


def test_a_child_that_crashes_is_started_again_and_subscribes_anew(caplog: pytest.LogCaptureFixture) -> None:
    pubsub = PubSub()
    heard: list[str] = []
    starts: list[float] = []

    async def listener() -> None:
        mailbox = pubsub.subscribe("words")
        starts.append(time.monotonic())
        async for message in mailbox:
            if message == "crash":
                raise ValueError("as told")
            heard.append(message)

    with Serving(phoenix.Endpoint(Empty, pubsub=pubsub, children=[listener])):
        for round in (1, 2):
            until(lambda: len(starts) == round)
            pubsub.broadcast("words", f"round {round}")
            until(lambda: heard[-1:] == [f"round {round}"])
            pubsub.broadcast("words", "crash")
        until(lambda: len(starts) == 3)
    assert heard == ["round 1", "round 2"]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "the child test_pubsub.test_a_child_that_crashes_is_started_again_and_subscribes_anew.<locals>.listener crashed"
    ] * 2


def test_the_mailbox_of_a_child_that_crashed_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phoenix.logger, "disabled", True)  # pytest keeps log records, and they keep what crashed
    pubsub = PubSub()
    starts: list[int] = []

    async def listener() -> None:
        mailbox = pubsub.subscribe("words")
        starts.append(1)
        async for _ in mailbox:
            raise ValueError("crash")

    with Serving(phoenix.Endpoint(Empty, pubsub=pubsub, children=[listener])):
        until(lambda: len(starts) == 1)
        pubsub.broadcast("words", "crash")
        until(lambda: len(starts) == 2)
        gc.collect()
        assert len(pubsub.subscribers("words")) == 1
    gc.collect()
    assert pubsub.topics() == []


def test_a_plain_function_as_a_child_has_a_thread_of_its_own_and_is_started_again_too() -> None:
    pubsub = PubSub()
    heard: list[tuple[str, str]] = []
    starts: list[str] = []

    def listener() -> None:
        mailbox = pubsub.subscribe("words")
        starts.append(threading.current_thread().name)
        for message in mailbox:
            heard.append((threading.current_thread().name, message))
            if message == "crash":
                raise ValueError("as told")
            if message == "end":
                return

    with Serving(phoenix.Endpoint(Empty, pubsub=pubsub, children=[listener])) as server:
        for count, word in ((1, "crash"), (2, "end")):
            until(lambda: len(starts) == count and pubsub.subscribers("words") != [])
            pubsub.broadcast("words", word)
            until(lambda: len(heard) == count)
        assert server.thread.name not in {name for name, _ in heard}
    assert [message for _, message in heard] == ["crash", "end"]


def test_a_child_that_returns_is_done() -> None:
    calls: list[int] = []

    async def once() -> None:
        calls.append(1)

    async def marker() -> None:
        await asyncio.sleep(0.2)
        calls.append(2)

    with Serving(phoenix.Endpoint(Empty, children=[once, marker])):
        until(lambda: 2 in calls)
    assert calls == [1, 2]


def test_a_child_that_crashes_again_and_again_is_waited_for_longer_each_time_and_then_given_up(
    start: Callable[..., Any], tmp_path: Any
) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        "import time, phoenix\n"
        "async def broken():\n"
        "    print('started', time.monotonic(), flush=True)\n"
        "    raise ValueError('broken')\n"
        "class Router(phoenix.Router):\n"
        "    pass\n"
        "app = phoenix.Endpoint(Router, children=[broken])\n"
        "app.run()\n"
    )
    server = start(program, PYTHONPATH=str(phoenix.__file__).rpartition("/")[0])
    assert server.process.wait(15) == 1
    assert server.log.count("broken crashed\n") == 6
    assert "crashed 6 times in 10 s: the endpoint stops" in server.log


# --- Presence -----------------------------------------------------------------------------


class Person:
    """What Presence needs of a socket."""

    def __init__(self, topic: str = "rooms:lobby") -> None:
        self.topic = topic
        self.joined = True
        self._left = False
        self._closing: list[Any] = []
        self._hear_early = lambda event: None

    def _on_close(self, callback: Any) -> None:
        self._closing.append(callback)

    def leave(self) -> None:
        self._left = True
        for callback in self._closing:
            callback(self)


class OfficialPresence:
    """`Presence` of the npm package phoenix, translated line by line: what its state is after what it received."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.joins: list[tuple[str, bool]] = []
        self.leaves: list[tuple[str, bool]] = []

    def sync_state(self, new: dict[str, Any]) -> None:
        joins: dict[str, Any] = {}
        leaves: dict[str, Any] = {}
        for key, presence in self.state.items():
            if key not in new:
                leaves[key] = presence
        for key, presence in new.items():
            current = self.state.get(key)
            if current is None:
                joins[key] = presence
                continue
            new_refs = [meta["phx_ref"] for meta in presence["metas"]]
            old_refs = [meta["phx_ref"] for meta in current["metas"]]
            joined = [meta for meta in presence["metas"] if meta["phx_ref"] not in old_refs]
            left = [meta for meta in current["metas"] if meta["phx_ref"] not in new_refs]
            if joined:
                joins[key] = {**presence, "metas": joined}
            if left:
                leaves[key] = {**current, "metas": left}
        self.sync_diff({"joins": joins, "leaves": leaves})

    def sync_diff(self, diff: dict[str, Any]) -> None:
        for key, presence in diff["joins"].items():
            current = self.state.get(key)
            refs = [meta["phx_ref"] for meta in presence["metas"]]
            kept = [meta for meta in current["metas"] if meta["phx_ref"] not in refs] if current else []
            self.state[key] = {**presence, "metas": kept + presence["metas"]}
            self.joins.append((key, current is None))
        for key, presence in diff["leaves"].items():
            current = self.state.get(key)
            if current is None:
                continue
            refs = [meta["phx_ref"] for meta in presence["metas"]]
            current["metas"] = [meta for meta in current["metas"] if meta["phx_ref"] not in refs]
            self.leaves.append((key, not current["metas"]))
            if not current["metas"]:
                del self.state[key]

    def refs(self) -> dict[str, set[str]]:
        return {key: {meta["phx_ref"] for meta in presence["metas"]} for key, presence in self.state.items()}


def watch(pubsub: PubSub, topic: str = "rooms:lobby") -> list[dict[str, Any]]:
    diffs: list[dict[str, Any]] = []

    def hear(message: Any) -> None:
        assert (message.topic, message.event) == (topic, "presence_diff")
        diffs.append(message.payload)

    pubsub.subscribe(topic, hear)
    return diffs


def test_to_track_lists_the_key_and_broadcasts_a_join(pubsub: PubSub) -> None:
    presence, diffs = Presence(pubsub), watch(pubsub)
    meta = presence.track(Person(), "ann", {"typing": False})
    assert meta["typing"] is False and isinstance(meta["phx_ref"], str)
    assert presence.list("rooms:lobby") == {"ann": {"metas": [meta]}}
    assert diffs == [{"joins": {"ann": {"metas": [meta]}}, "leaves": {}}]
    assert presence.list("rooms:other") == {}


def test_an_update_is_a_leave_of_the_old_ref_and_a_join_that_names_it(pubsub: PubSub) -> None:
    presence, person = Presence(pubsub), Person()
    old = presence.track(person, "ann", {"typing": False})
    diffs = watch(pubsub)
    new = presence.update(person, "ann", {"typing": True})
    assert new == {"typing": True, "phx_ref": new["phx_ref"], "phx_ref_prev": old["phx_ref"]}
    assert diffs == [{"joins": {"ann": {"metas": [new]}}, "leaves": {"ann": {"metas": [old]}}}]
    newer = presence.update(person, "ann", lambda meta: {**meta, "away": True})
    assert newer == {"typing": True, "away": True, "phx_ref": newer["phx_ref"], "phx_ref_prev": new["phx_ref"]}
    assert presence.list("rooms:lobby") == {"ann": {"metas": [newer]}}


def test_an_update_that_fails_changes_nothing(pubsub: PubSub) -> None:
    presence, person = Presence(pubsub), Person()
    meta = presence.track(person, "ann")
    diffs = watch(pubsub)

    def broken(meta: Any) -> Any:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        presence.update(person, "ann", broken)
    with pytest.raises(KeyError, match="not tracked"):
        presence.update(person, "bob", {})
    assert presence.list("rooms:lobby") == {"ann": {"metas": [meta]}} and diffs == []


def test_a_key_has_a_meta_for_each_connection_and_goes_with_the_last(pubsub: PubSub) -> None:
    presence, phone, laptop = Presence(pubsub), Person(), Person()
    first, second = presence.track(phone, 7, {"on": "phone"}), presence.track(laptop, 7, {"on": "laptop"})
    assert presence.list(phone) == {"7": {"metas": [first, second]}}  # keys are text
    assert presence.get_by_key("rooms:lobby", 7) == {"metas": [first, second]}
    assert presence.get_by_key(phone, "8") is None
    diffs = watch(pubsub)
    phone.leave()
    assert presence.get_by_key("rooms:lobby", 7) == {"metas": [second]}
    presence.untrack(laptop, 7)
    presence.untrack(laptop, 7)  # not there: nothing happens
    assert presence.list("rooms:lobby") == {}
    assert diffs == [
        {"joins": {}, "leaves": {"7": {"metas": [first]}}},
        {"joins": {}, "leaves": {"7": {"metas": [second]}}},
    ]


def test_a_socket_tracks_a_key_once_and_may_track_others_and_elsewhere(pubsub: PubSub) -> None:
    presence, person = Presence(pubsub), Person()
    presence.track(person, "ann")
    with pytest.raises(phoenix.ArgumentError, match="tracked by this socket .* already: use update"):
        presence.track(person, "ann")
    presence.track(person, "ann2")
    presence.track(person, "ann", topic="users")
    assert set(presence.list("rooms:lobby")) == {"ann", "ann2"} and set(presence.list("users")) == {"ann"}
    diffs, elsewhere = watch(pubsub), watch(pubsub, "users")
    person.leave()
    assert [set(diff["leaves"]) for diff in diffs] == [{"ann"}, {"ann2"}] and len(elsewhere) == 1
    assert presence.list("rooms:lobby") == presence.list("users") == {}
    assert presence._tracked == {} and presence._topics == {}


def test_who_has_left_already_does_not_stay(pubsub: PubSub) -> None:
    """A plain `def join` may be at work in its thread when the connection ends."""
    presence, person, diffs = Presence(pubsub), Person(), watch(pubsub)
    person.leave()
    presence.track(person, "ann")
    assert presence.list("rooms:lobby") == {} and presence._tracked == {}
    assert [(set(diff["joins"]), set(diff["leaves"])) for diff in diffs] == [({"ann"}, set()), (set(), {"ann"})]
    assert presence.update(person, "ann", {"typing": True}) == {}  # nor is it an error of its channel


def test_changes_are_broadcast_in_the_order_in_which_they_were_made_whichever_thread_made_them() -> None:
    """A worker thread has tracked, and what it broadcasts is still on its way to the loop; there, the socket closes."""

    async def scene() -> list[tuple[str, ...]]:
        pubsub = PubSub()
        pubsub._serve_on(asyncio.get_running_loop())
        presence, person, diffs = Presence(pubsub), Person(), watch(pubsub)
        worker = threading.Thread(target=presence.track, args=(person, "ann"))
        worker.start()
        worker.join(TIMEOUT)  # this blocks the loop
        person.leave()
        await asyncio.sleep(0)
        return [tuple(name for name in ("joins", "leaves") if diff[name]) for diff in diffs]

    assert run(scene()) == [("joins",), ("leaves",)]


def test_fetch_adds_to_what_clients_see_and_not_to_the_table(pubsub: PubSub) -> None:
    class Named(Presence):
        def fetch(self, topic: str, presences: dict[str, Any]) -> dict[str, Any]:
            for key, each in presences.items():
                each["metas"][0]["seen"] = True
                each["name"] = key.title()
            return presences

    presence, diffs = Named(pubsub), watch(pubsub)
    meta = presence.track(Person(), "ann")
    assert "seen" not in meta
    expected = {"ann": {"metas": [{**meta, "seen": True}], "name": "Ann"}}
    assert presence.list("rooms:lobby") == expected
    assert presence.get_by_key("rooms:lobby", "ann") == expected["ann"]
    assert diffs == [{"joins": expected, "leaves": {}}]


def test_a_fetch_that_raises_costs_only_what_it_would_have_added(
    pubsub: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Presence):
        def fetch(self, topic: str, presences: dict[str, Any]) -> dict[str, Any]:
            raise ValueError("no database")

    presence, diffs = Broken(pubsub), watch(pubsub)
    meta = presence.track(Person(), "ann")
    assert diffs == [{"joins": {"ann": {"metas": [meta]}}, "leaves": {}}]
    assert "fetch raised an error for 'rooms:lobby'" in caplog.text


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["track", "update", "untrack", "leave", "enter", "resync"]), st.integers(0, 3), st.integers(0, 2)),
    max_size=40,
)  # fmt: skip


@given(OPERATIONS)
@settings(max_examples=300, deadline=None)
def test_the_official_client_sees_who_is_there_whatever_happens(operations: list[tuple[str, int, int]]) -> None:
    pubsub = PubSub()
    presence = Presence(pubsub)
    people = [Person() for _ in range(4)]
    clients: list[OfficialPresence] = []
    for what, who, key in operations:
        person = people[who]
        tracked = ("rooms:lobby", str(key)) in presence._tracked.get(person, ())
        if what == "track" and not tracked:
            presence.track(person, key, {"who": who})
        elif what == "update" and tracked:
            presence.update(person, key, {"who": who, "again": True})
        elif what == "untrack":
            presence.untrack(person, key)
        elif what == "leave":
            person.leave()
            people[who] = Person()
        elif what == "enter":
            client = OfficialPresence()
            pubsub.subscribe("rooms:lobby", lambda message, client=client: client.sync_diff(_json(message.payload)))
            client.sync_state(_json(presence.list("rooms:lobby")))
            clients.append(client)
        elif what == "resync" and clients:
            clients[who % len(clients)].sync_state(_json(presence.list("rooms:lobby")))
        expected = {
            name: {meta["phx_ref"] for meta in found["metas"]} for name, found in presence.list("rooms:lobby").items()
        }
        for client in clients:
            assert client.refs() == expected


def _json(value: Any) -> Any:
    import json

    return json.loads(phoenix.encode_json(value))


# --- Presence, with channels and threads --------------------------------------------------


def presence_app(plain: bool) -> tuple[Any, Presence]:
    pubsub = PubSub()
    presence = Presence(pubsub)

    class Async(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            presence.track(socket, message["name"])
            if message.get("slow"):
                await asyncio.sleep(0.001)
            socket.push("presence_state", presence.list(socket))
            if message.get("slow"):
                await asyncio.sleep(0.001)
            return socket.error("refused") if message.get("refused") else socket.ok()

        async def event(self, socket: Any, event: str, message: Any) -> Any:
            presence.update(socket, message["name"], {"at": message["at"]})
            await asyncio.sleep(0)
            return socket.ok()

    class Plain(Channel):
        def join(self, socket: Any, topic: str, message: Any) -> Any:
            presence.track(socket, message["name"])
            socket.push("presence_state", presence.list(socket))
            if message.get("slow"):
                time.sleep(0.001)
            return socket.error("refused") if message.get("refused") else socket.ok()

        def event(self, socket: Any, event: str, message: Any) -> Any:
            presence.update(socket, message["name"], {"at": message["at"]})
            return socket.ok()

    class Router(phoenix.Router):
        with socket("/ws"):
            channel("rooms", Plain if plain else Async)

    return phoenix.Endpoint(Router, pubsub=pubsub, log=False), presence


def observed(room: Any) -> Any:
    """What the official client knows, having been told all that lies in the mailbox."""
    found = OfficialPresence()
    found.sync_state(room.assert_push("presence_state"))
    return found


def settle(view: Any, seat: Any, presence: Any) -> None:
    """Show a client's view all that comes, until it is what is there; a join whose client is gone may still be at work."""

    def expected() -> dict[str, set[str]]:
        present = presence.list("rooms:lobby")
        return {key: {meta["phx_ref"] for meta in found["metas"]} for key, found in present.items()}

    deadline = time.monotonic() + TIMEOUT
    while view.refs() != expected() and time.monotonic() < deadline:
        pushed = seat.client._inbox.take(seat._is_push("presence_diff", None), 0.05)
        if pushed is not None:
            view.sync_diff(pushed[4])
    assert view.refs() == expected()


@pytest.mark.parametrize("plain", [False, True], ids=["async def", "def"])
def test_rapid_joins_and_leaves_leave_no_ghosts_and_miss_nobody(plain: bool) -> None:
    """Connections join, update, leave and drop as fast as they can; one that stays must see what is there at the end."""
    app, presence = presence_app(plain)
    client = app.test()
    with client.connect("/ws", timeout=TIMEOUT) as watcher:
        room = watcher.join("rooms:lobby", {"name": "watcher", "slow": True})
        official = observed(room)
        for round in range(25):
            people = [client.connect("/ws", timeout=TIMEOUT) for _ in range(3)]
            joined = []
            for number, person in enumerate(people):
                ref = person._send(None, "rooms:lobby", "phx_join", {
                    "name": f"p{number}", "slow": round % 2, "refused": round % 5 == 4 and number == 0,
                })  # fmt: skip
                joined.append((person, ref))
            late = client.connect("/ws", timeout=TIMEOUT)
            late_room = late.join("rooms:lobby", {"name": "late", "slow": True})
            people[0].close()  # maybe before its join is done
            people[1]._send(joined[1][1], "rooms:lobby", "at", {"name": "p1", "at": round})
            people[1]._send(joined[1][1], "rooms:lobby", "phx_leave", {})
            people[1].close()
            late_view = observed(late_room)
            people[2].close()
            until(lambda: set(presence.list("rooms:lobby")) == {"watcher", "late"})
            for view, seat in ((official, room), (late_view, late_room)):
                settle(view, seat, presence)
            late.close()
            until(lambda: set(presence.list("rooms:lobby")) == {"watcher"})
            settle(official, room, presence)
        room.refute_push("presence_diff")
        assert set(official.state) == {"watcher"}
    until(lambda: presence.list("rooms:lobby") == {})
    assert presence._tracked == {} and app.pubsub.topics() == []


def test_who_comes_while_another_joins_is_seen_by_both() -> None:
    app, _ = presence_app(plain=False)
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Channel):
        def join(self, socket: Any, topic: str, message: Any) -> Any:
            socket.push("presence_state", presence.list(socket))
            entered.set()
            assert go_on.wait(TIMEOUT)
            return socket.ok()

    class Quick(Channel):
        async def join(self, socket: Any, topic: str, message: Any) -> Any:
            presence.track(socket, message["name"])
            return socket.ok()

    pubsub = PubSub()
    presence = Presence(pubsub)

    class Router(phoenix.Router):
        with phoenix.socket("/slow"):
            channel("rooms", Slow)
        with phoenix.socket("/quick"):
            channel("rooms", Quick)

    app = phoenix.Endpoint(Router, pubsub=pubsub, log=False)
    with app.test().connect("/slow") as slow, app.test().connect("/quick") as quick:
        ref = slow._send(None, "rooms:lobby", "phx_join", {})
        assert entered.wait(TIMEOUT)
        quick.join("rooms:lobby", {"name": "bob"})
        app.broadcast("rooms:lobby", "other", {})  # what else is broadcast before the join is done does not come
        go_on.set()
        got = []
        while len(got) < 3:
            got.append(slow._inbox.take(lambda message: True, TIMEOUT))
        assert [(message[1], message[3]) for message in got] == [
            (None, "presence_state"), (ref, "phx_reply"), (None, "presence_diff"),
        ]  # fmt: skip
        assert got[0][4] == {} and set(got[2][4]["joins"]) == {"bob"}

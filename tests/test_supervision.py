"""What runs beside the server: its children, in which order they start and stop, and what becomes of those that crash."""

from __future__ import annotations

import asyncio
import http.client
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, StartedServer
from serving import TIMEOUT, Serving, until

import phoenix
from phoenix import ConfigError, Endpoint, PhoenixError, get


class Empty(phoenix.Router):
    pass


def endpoint(router: Any = Empty, **options: Any) -> Endpoint:
    return Endpoint(router, **{"env": "test", "log": False, "timeouts": {"shutdown": 5}, **options})


class Recorded:
    """A child that is an object; it writes down what happens to it."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def start(self) -> None:
        self.said.append(f"start {self.name}")

    def stop(self) -> None:
        self.said.append(f"stop {self.name}")


# --- Order --------------------------------------------------------------------------------


def test_children_start_one_after_the_other_and_stop_in_reverse() -> None:
    said: list[str] = []

    class Slow:
        async def start(self) -> None:
            said.append("slow starts")
            await asyncio.sleep(0.05)
            said.append("slow has started")

        async def stop(self) -> None:
            said.append("slow stops")
            await asyncio.sleep(0.05)
            said.append("slow has stopped")

    async def task() -> None:
        said.append("start task")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            said.append("stop task")

    with Serving(endpoint(children=[Recorded("first", said), Slow(), task, Recorded("last", said)])):
        assert said == ["start first", "slow starts", "slow has started", "start task", "start last"]
        said.clear()
    assert said == ["stop last", "stop task", "slow stops", "slow has stopped", "stop first"]


def test_the_port_opens_when_the_last_child_has_started_and_is_known_before() -> None:
    tries: list[object] = []

    class Child:
        def start(self) -> None:
            assert app.server is not None
            try:
                socket.create_connection(("127.0.0.1", app.server.port), timeout=TIMEOUT).close()
                tries.append("accepted")
            except ConnectionRefusedError:
                tries.append("refused")

        def stop(self) -> None:
            pass

    app = endpoint(children=[Child()])
    with Serving(app) as server:
        assert tries == ["refused"]
        assert server.get("/").status == 404


def test_a_request_that_ends_while_the_server_stops_still_has_the_children() -> None:
    said: list[str] = []
    entered = threading.Event()

    async def slow(conn: Any, params: Any) -> Any:
        entered.set()
        while app.server is not None and not app.server.stopping:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        return conn.text(" ".join(said))

    class Router(phoenix.Router):
        get("/slow", slow)

    app = endpoint(Router, children=[Recorded("db", said)])
    answers: list[str] = []
    with Serving(app) as server:
        asking = threading.Thread(target=lambda: answers.append(server.get("/slow").text))
        asking.start()
        assert entered.wait(TIMEOUT)
    asking.join(TIMEOUT)
    assert answers == ["start db"]
    assert said == ["start db", "stop db"]


def test_plain_methods_of_an_object_may_block() -> None:
    threads: list[str] = []

    class Child:
        def start(self) -> None:
            threads.append(threading.current_thread().name)

        stop = start

    with Serving(endpoint(children=[Child()])):
        pass
    assert len(threads) == 2 and all("worker" in name for name in threads)


def test_a_child_that_cannot_be_started_keeps_the_port_closed_and_stops_those_before_it() -> None:
    said: list[str] = []

    class Broken:
        async def start(self) -> None:
            raise OSError("no database")

        async def stop(self) -> None:
            said.append("never")

    async def serve() -> None:
        await endpoint(children=[Recorded("a", said), Recorded("b", said), Broken()]).make_server(port=0).start()

    with pytest.raises(PhoenixError, match=r"the child .*Broken could not be started: no database"):
        asyncio.run(serve())
    assert said == ["start a", "start b", "stop b", "stop a"]


# --- Stopping -----------------------------------------------------------------------------


def test_a_plain_function_is_told_to_stop_by_the_event_that_it_takes() -> None:
    said: list[str] = []

    def worker(stop: threading.Event) -> None:
        said.append("starts")
        stop.wait(TIMEOUT)
        time.sleep(0.05)
        said.append("stops")

    with Serving(endpoint(children=[worker])):
        until(lambda: said)
    assert said == ["starts", "stops"]


def test_a_plain_function_that_takes_no_event_holds_up_nobody() -> None:
    running, forever = threading.Event(), threading.Event()

    def worker() -> None:
        running.set()
        forever.wait(TIMEOUT)

    began = time.monotonic()
    with Serving(endpoint(children=[worker])):
        assert running.wait(TIMEOUT)
    assert time.monotonic() - began < 4
    forever.set()


def test_a_child_that_does_not_stop_is_named_and_the_others_stop_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said: list[str] = []
    over = threading.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            said.append("no")
        await asyncio.Event().wait()  # until the loop itself ends

    def deaf(stop: threading.Event) -> None:
        over.wait(TIMEOUT)

    with Serving(endpoint(children=[Recorded("first", said), stubborn, deaf], timeouts={"shutdown": 0.2})):
        pass
    over.set()
    assert said == ["start first", "no", "stop first"]
    named = [record.getMessage() for record in caplog.records if "did not stop within 0.2 s" in record.getMessage()]
    assert len(named) == 2 and ".deaf " in named[0] and ".stubborn " in named[1]


def test_an_error_in_stop_is_logged_and_the_others_stop_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []

    class Broken(Recorded):
        def stop(self) -> None:
            raise ValueError("cannot stop")

    async def broken() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("cannot stop either")

    with Serving(endpoint(children=[Recorded("first", said), Broken("second", said), broken])):
        pass
    assert said == ["start first", "start second", "stop first"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "cannot stop either", "cannot stop",
    ]  # fmt: skip


def test_a_child_that_waits_to_be_started_again_stops_at_once() -> None:
    calls: list[int] = []

    def broken(stop: threading.Event) -> None:
        calls.append(1)
        raise ValueError("broken")

    with Serving(endpoint(children=[broken])):
        until(lambda: len(calls) == 2)
    count = len(calls)
    assert count in (2, 3)
    assert not [thread for thread in threading.enumerate() if "broken" in thread.name]


# --- Crashes ------------------------------------------------------------------------------


def crashes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().endswith(" crashed")]


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_child_that_calls_sys_exit_has_crashed_and_takes_nothing_with_it(
    in_thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    async def leaver() -> None:
        calls.append(1)
        if len(calls) == 1:
            sys.exit(3)

    def leaver_in_thread() -> None:
        calls.append(1)
        if len(calls) == 1:
            sys.exit(3)

    with Serving(endpoint(children=[leaver_in_thread if in_thread else leaver])) as server:
        until(lambda: len(calls) == 2)
        assert server.get("/").status == 404
    assert len(crashes(caplog)) == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before 3.11 a task cannot tell who was cancelled")
def test_a_child_that_waited_for_something_that_was_cancelled_is_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    async def child() -> None:
        calls.append(1)
        if len(calls) == 1:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    with Serving(endpoint(children=[child])):
        until(lambda: len(calls) == 2)
    assert len(crashes(caplog)) == 1


def test_a_child_that_is_cancelled_while_the_server_runs_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def child() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.get_running_loop().create_future()

    async def run() -> None:
        server = endpoint(children=[child]).make_server(port=0)
        await server.start()
        tasks[0].cancel()
        await asyncio.wait(tasks, timeout=TIMEOUT)
        assert any("child was cancelled, and does not run any more" in each.message for each in caplog.records)
        await server.stop()

    tasks: list[Any] = []
    asyncio.run(run())


def test_a_loop_that_ends_without_stopping_the_server_is_not_held_up_by_its_children() -> None:
    async def child() -> None:
        await asyncio.Event().wait()

    async def serve() -> None:
        await endpoint(children=[child]).make_server(port=0).start()
        await asyncio.sleep(0)

    began = time.monotonic()
    asyncio.run(serve())
    assert time.monotonic() - began < 5


def test_a_server_whose_child_crashes_too_often_stops_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phoenix, "_MOST_CRASHES", 1)
    said: list[str] = []

    async def broken() -> None:
        raise ValueError("broken")

    app = endpoint(children=[Recorded("first", said), broken])

    async def serve() -> None:
        server = app.make_server(port=0)
        await server.start()
        await asyncio.wait_for(server.ended, TIMEOUT)
        await server.stop()  # to stop what has stopped does nothing

    asyncio.run(serve())
    assert app.gave_up
    assert said == ["start first", "stop first"]
    last = caplog.records[-1]
    assert last.levelno == logging.CRITICAL and "broken crashed 2 times in 10 s: the endpoint stops" in last.getMessage()


# --- What is no child ---------------------------------------------------------------------


async def wants_more(one: object) -> None:
    pass


@pytest.mark.parametrize(
    "children, words",
    [
        ([42], "children=[42]: expected a function without arguments, or an object with start() and stop()"),
        ([Recorded], "Recorded'>]: expected a function without arguments, or an object with start() and stop(): write Reco"),
        ([wants_more], "test_supervision.wants_more]: missing a required argument: 'one'"),
        ([lambda one, two: None], "missing a required argument: 'two'"),
        (wants_more, "expected a list"),
    ],
)
def test_what_is_no_child_is_found_when_the_app_is_made(children: Any, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        endpoint(children=children)
    assert words in str(raised.value)


# --- Programs -----------------------------------------------------------------------------

TWO = """
import asyncio
import phoenix
from phoenix import get

class Router(phoenix.Router):
    get("/", lambda conn, params: conn.text("here"))

async def broken():
    raise ValueError("broken")

async def fine():
    try:
        await asyncio.Event().wait()
    finally:
        print("fine was stopped", flush=True)

app = phoenix.Endpoint(Router, env="prod", children=[fine])
admin = phoenix.Endpoint(Router, env="prod", children=[broken], http={"port": 0})
"""


def status_of(url: str) -> int:
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def two(start: Callable[..., StartedServer], tmp_path: Path) -> StartedServer:
    (tmp_path / "two.py").write_text(TWO)
    runner = tmp_path / "run_two.py"
    runner.write_text(
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "import phoenix\nsys.exit(phoenix.main(['server', 'two:app', 'two:admin']))\n"
    )
    return start(runner)


def test_an_endpoint_that_gives_up_leaves_the_other_alone_and_the_exit_status_tells_of_it(two: StartedServer) -> None:
    until(lambda: f"has stopped; what goes on: {two.url}\n" in two.log)
    assert "the child two.broken crashed 6 times in 10 s: the endpoint stops (http://localhost:" in two.log
    assert status_of(two.url) == 200
    assert two.stop() == 1


def test_two_endpoints_stop_together_and_their_children_with_them(two: StartedServer) -> None:
    two.process.send_signal(signal.SIGTERM)
    assert two.process.wait(TIMEOUT) == 0
    assert "did not" not in two.log


def test_a_child_that_cannot_be_started_ends_the_program_with_words(
    start: Callable[..., StartedServer], tmp_path: Path
) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import phoenix\n"
        "class Router(phoenix.Router):\n"
        "    pass\n"
        "class Database:\n"
        "    def start(self): raise ConnectionRefusedError('no database')\n"
        "    def stop(self): pass\n"
        "phoenix.Endpoint(Router, env='prod', children=[Database()], http={'port': 0}).run()\n"
    )
    with pytest.raises(pytest.fail.Exception, match="ended before it listened") as failed:
        start(program)
    assert "the child __main__.Database could not be started: no database" in str(failed.value)
    assert "cannot listen" not in str(failed.value)

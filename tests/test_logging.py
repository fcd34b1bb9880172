"""What the log says: levels, formats, request ids, and what channels do."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, StartedServer
from serving import TIMEOUT, Serving

import phoenix
from phoenix import Channel, ConfigError, Conn, Endpoint, LogFormatter, RequestId, RequestLogger, get, plug, post
from phoenix import channel as channel_word
from phoenix import socket as socket_word

GIVEN = "abcdefghij0123456789"


@pytest.fixture(autouse=True)
def _no_request_yet() -> None:
    """A test before this one may have left the id of its last request in the thread of the tests."""
    phoenix._request_id.set("")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "phoenix"]


def hello(conn: Conn, params: Any) -> Conn:
    return conn.text("hello")


def fail(conn: Conn, params: Any) -> Conn:
    raise ValueError("failed")


class Router(phoenix.Router):
    get("/", hello)
    get("/fail", fail)
    post("/", hello)


def endpoint(router: Any = Router, **options: Any) -> Endpoint:
    return Endpoint(router, **{"env": "prod", "static": False, "debug_errors": False, **options})


class Lines:
    """What is logged by all loggers, as the server writes it."""

    def __init__(self, format: str) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(LogFormatter(format))

    @property
    def text(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text]


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    root = logging.getLogger()
    found = Lines(getattr(request, "param", "text"))
    level = root.level
    root.addHandler(found.handler)
    root.setLevel(logging.INFO)
    yield found
    root.removeHandler(found.handler)
    root.setLevel(level)


as_json = pytest.mark.parametrize("lines", ["json"], indirect=True)


# --- Setting up ---------------------------------------------------------------------------


@contextmanager
def fresh_logging() -> Iterator[logging.Logger]:
    """The root logger of a program that has not set up logging; pytest has its own handlers there."""
    root = logging.getLogger()
    kept = [(each, each.handlers, each.level) for each in (root, phoenix.logger)]
    for each, level in ((root, logging.WARNING), (phoenix.logger, logging.NOTSET)):
        each.handlers = []
        each.setLevel(level)
    try:
        yield root
    finally:
        for each, handlers, level in kept:
            each.handlers = handlers
            each.setLevel(level)


@pytest.mark.parametrize(
    "options, ours, others",
    [
        ({"env": "dev"}, logging.DEBUG, logging.INFO),
        ({"env": "prod"}, logging.INFO, logging.INFO),
        ({"env": "test"}, logging.WARNING, logging.WARNING),
        ({"env": "prod", "log": {"level": "debug"}}, logging.DEBUG, logging.DEBUG),
        ({"env": "dev", "log": {"level": logging.ERROR}}, logging.ERROR, logging.ERROR),
        ({"env": "dev", "log": False}, logging.DEBUG, logging.INFO),
        ({"env": "prod", "log": {"requests": "debug"}}, logging.INFO, logging.INFO),
    ],
)
def test_the_least_level_depends_on_the_environment_and_is_an_option(
    options: dict[str, Any], ours: int, others: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_logging() as root:
        phoenix._set_up_logging(Endpoint(Router, **options))
        assert (phoenix.logger.getEffectiveLevel(), root.level) == (ours, others)
        logging.getLogger("shop").critical("sold out")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \[CRITICAL\] sold out\n", capsys.readouterr().err)


@pytest.mark.parametrize("owner", ["phoenix", "root"])
def test_an_app_that_has_set_up_logging_is_left_alone(owner: str) -> None:
    handler = logging.NullHandler()
    with fresh_logging() as root:
        (root if owner == "root" else phoenix.logger).addHandler(handler)
        phoenix._set_up_logging(endpoint())
        assert root.handlers + phoenix.logger.handlers == [handler]
        assert phoenix.logger.level == logging.NOTSET


@pytest.mark.parametrize(
    "log, words",
    [
        ({"fromat": "json"}, "unknown key 'fromat' in log=... Did you mean 'format'? It takes requests, level, format."),
        ({"format": "xml"}, "cannot log in the format 'xml': expected \"text\" or \"json\""),
        ({"level": "loud"}, "cannot log at level 'loud'"),
        ({"requests": "loud"}, "cannot log at level 'loud'"),
    ],
)
def test_an_option_of_the_log_that_cannot_be_meant_is_explained(log: Any, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        endpoint(log=log)
    assert words in str(raised.value)


def test_the_lines_of_requests_can_be_left_out_or_have_a_level_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "phoenix"):
        conn = endpoint(log={"requests": False}).test().get("/")
        assert [line for line in messages(caplog) if not line.startswith("Processing")] == []
        assert conn.get_resp_header("x-request-id")
        endpoint(log={"requests": "debug"}).test().get("/")
    levels = {record.levelname for record in caplog.records if record.getMessage().startswith(("GET", "Sent"))}
    assert levels == {"DEBUG"}


# --- Request ids --------------------------------------------------------------------------


def test_each_request_has_an_id_that_is_sent_back() -> None:
    client = endpoint().test()
    found = [client.get("/").get_resp_header("x-request-id") for _ in range(3)]
    assert all(re.fullmatch(r"[0-9a-f]{20}", one) for [one] in found)
    assert len({one for [one] in found}) == 3


@pytest.mark.parametrize("given", [GIVEN, "x" * 200, "01H2-~!/+=" * 2])
def test_an_id_that_comes_with_the_request_is_kept(given: str) -> None:
    assert endpoint().test().get("/", headers={"x-request-id": given}).get_resp_header("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", "x" * 19, "x" * 201, "a b" * 10, "ü" * 20, "x" * 20 + "\t"])
def test_an_id_that_could_not_be_one_is_replaced(given: str) -> None:
    conn = RequestId()(Conn("GET", "/", req_headers={"x-request-id": [given]}))
    assert conn.get_resp_header("x-request-id") != [given]


def test_the_header_of_the_id_is_an_option() -> None:
    class Own(Endpoint):
        plug(RequestId, header="X-Trace")
        plug(RequestLogger)

    conn = Own(Router, env="prod").test().get("/", headers={"x-trace": GIVEN})
    assert conn.get_resp_header("x-trace") == [GIVEN]


def test_an_error_page_has_the_id_too(lines: Lines) -> None:
    conn = endpoint().test().get("/fail", headers={"x-request-id": GIVEN})
    assert conn.status == 500 and conn.get_resp_header("x-request-id") == [GIVEN]
    came, error, *trace, sent = lines.text
    for line in (came, error, sent):
        assert re.match(rf"\d\d:\d\d:\d\d\.\d{{3}} request_id={GIVEN} \[(INFO|ERROR)\] ", line)
    assert trace[0] == "Traceback (most recent call last):" and trace[-1] == "ValueError: failed"


def test_what_is_refused_before_it_comes_to_the_router_has_an_id_of_its_own(lines: Lines) -> None:
    client = endpoint(static={}).test()
    client.get("/", headers={"x-request-id": GIVEN})
    conn = client.get("/css/%2e%2e/app.css")
    [found] = conn.get_resp_header("x-request-id")
    assert conn.status == 400 and found != GIVEN
    assert f"request_id={found} [INFO] GET /css/%2e%2e/app.css answered 400" in lines.text[-1]


@as_json
def test_every_line_of_a_request_has_its_id_wherever_it_is_logged_and_whatever_runs_beside_it(lines: Lines) -> None:
    shop = logging.getLogger("shop")
    met = threading.Barrier(4)

    def deep() -> None:
        shop.info("deep")

    def in_thread(conn: Conn, params: Any) -> Conn:
        shop.info("begin")
        met.wait(TIMEOUT)
        deep()
        return conn.text("")

    async def on_loop(conn: Conn, params: Any) -> Conn:
        shop.info("begin")
        await asyncio.get_running_loop().run_in_executor(None, met.wait, TIMEOUT)
        await asyncio.create_task(asyncio.to_thread(deep))
        return conn.text("")

    class Busy(phoenix.Router):
        get("/thread", in_thread)
        get("/loop", on_loop)

    def ask(at: int) -> None:
        server.get("/loop" if at % 2 else "/thread", {"x-request-id": GIVEN + str(at)})

    with Serving(endpoint(Busy)) as server:
        asking = [threading.Thread(target=ask, args=(at,)) for at in range(4)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(TIMEOUT)
        Context().run(shop.info, "closed")
    for at in range(4):
        own = [line["message"] for line in lines.objects if line.get("request_id") == GIVEN + str(at)]
        assert own[:3] == ["GET /loop" if at % 2 else "GET /thread", "begin", "deep"] and own[3].startswith("Sent 200")
    assert "request_id" not in lines.objects[-1]


# --- Formats ------------------------------------------------------------------------------


@as_json
def test_json_has_one_object_on_each_line_with_what_is_known_about_the_request(lines: Lines) -> None:
    before = datetime.now(timezone.utc).timestamp()
    endpoint().test().get("/", headers={"x-request-id": GIVEN})
    came, sent = lines.objects
    about = {"level": "info", "logger": "phoenix", "request_id": GIVEN, "method": "GET", "path": "/"}
    at = datetime.strptime(came.pop("time"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()
    assert before - 0.001 <= at <= datetime.now(timezone.utc).timestamp()
    assert came == {**about, "message": "GET /"}
    assert re.fullmatch(r"Sent 200 in \d+(µs|ms)", sent.pop("message"))
    assert 0 < sent.pop("duration") < TIMEOUT and sent.pop("time")
    assert sent == {**about, "status": 200}


@as_json
def test_an_error_is_one_object_with_its_traceback(lines: Lines) -> None:
    endpoint().test().get("/fail")
    (error,) = [line for line in lines.objects if line["level"] == "error"]
    assert (error["message"], error["status"]) == ("GET /fail ** (ValueError) failed", 500)
    assert (error["method"], error["path"]) == ("GET", "/fail")
    assert error["exception"].startswith("Traceback") and error["exception"].endswith("ValueError: failed")


@as_json
def test_what_an_app_adds_to_a_line_is_in_the_object_whatever_it_is(lines: Lines) -> None:
    logging.getLogger("shop").warning("sold %d", 3, extra={"order": 7, "tags": {"a"}, "text": "\ud800\n"}, stack_info=True)
    (line,) = lines.objects
    assert (line["message"], line["order"], line["tags"], line["text"]) == ("sold 3", 7, "{'a'}", "\ud800\n")
    assert line["stack"].startswith("Stack (most recent call last)")


@as_json
def test_what_has_no_form_in_json_is_shown_as_it_is_in_python(lines: Lines) -> None:
    itself: dict[str, Any] = {}
    itself["self"] = itself
    for odd, shown in ((float("nan"), "nan"), ({(1, 2): "x"}, "{(1, 2): 'x'}"), (itself, "{'self': {...}}")):
        logging.getLogger("shop").warning("odd", extra={"order": 7, "odd": odd})
        assert (lines.objects[-1]["message"], lines.objects[-1]["order"], lines.objects[-1]["odd"]) == ("odd", 7, shown)


def test_a_formatter_can_be_named_in_a_configuration_of_logging() -> None:
    from logging.config import dictConfig

    dictConfig({
        "version": 1, "disable_existing_loggers": False,
        "formatters": {"json": {"()": "phoenix.LogFormatter", "format": "json"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "json"}},
        "loggers": {"configured": {"handlers": ["out"]}},
    })  # fmt: skip
    (handler,) = logging.getLogger("configured").handlers
    assert isinstance(handler.formatter, LogFormatter)
    handler.close()
    logging.getLogger("configured").handlers.clear()


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_clock_goes_on(format: str) -> None:
    formatter = LogFormatter(format)
    found = []
    for created in (1_700_000_000.0, 1_700_000_000.9999, 1_700_000_001.5, 1_700_000_000.25):
        record = logging.makeLogRecord({"created": created, "msg": "x"})
        found.append(re.findall(r"\d\d:(\d\d\.\d\d\d)", formatter.format(record))[0])
    assert found == ["20.000", "20.999", "21.500", "20.250"]


# --- Params -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, shown",
    [
        (["password"], "{'id': '7', 'user': {'name': 'Ann', 'password': '[FILTERED]', 'tags': ['a']}}"),
        ({"keep": []}, "{'id': '[FILTERED]', 'user': {'name': '[FILTERED]', 'password': '[FILTERED]', 'tags': ['[FILTERED]']}}"),
        ({"keep": ["id", "tags"]}, "{'id': '7', 'user': {'name': '[FILTERED]', 'password': '[FILTERED]', 'tags': ['a']}}"),
        ({"keep": ["user"]}, "{'id': '[FILTERED]', 'user': {'name': 'Ann', 'password': 'x', 'tags': ['a']}}"),
    ],
)  # fmt: skip
def test_params_are_logged_without_those_that_are_named_or_only_those(
    words: Any, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = "/?id=7&user[name]=Ann&user[password]=x&user[tags][]=a"
    with caplog.at_level(logging.DEBUG, "phoenix"):
        endpoint(filter_parameters=words).test().get(path)
        endpoint(filter_parameters=words, debug_errors=True).test().get("/fail")
    assert f"\n  Parameters: {shown}\n" in caplog.text


def test_params_that_cannot_be_read_are_shown_as_such(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "phoenix"):
        endpoint().test().get("/?a=%zz")
    assert "\n  Parameters: [UNFETCHED]\n" in caplog.text


def test_another_word_than_keep_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="unknown key 'only' in filter_parameters"):
        endpoint(filter_parameters={"only": ["id"]})


@pytest.mark.parametrize(
    "path, accept, why",
    [
        ("/fail?_format=bogus", None, "the format 'bogus' is unknown"),
        ("/fail", "image/png", "no supported media type in accept header."),
        ("/fail?a=%zz", None, "invalid urlencoded params, got '%zz'"),
        ("/fail", "*/*", ""),
    ],
)
def test_why_an_error_page_is_in_another_format_than_asked_for_is_logged(
    path: str, accept: str | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "phoenix"):
        conn = endpoint().test().get(path, headers={"accept": accept} if accept else {})
    assert conn.get_resp_header("content-type") == ["text/html; charset=utf-8"]
    said = [line for line in messages(caplog) if line.startswith("the error page is made in html")]
    assert said == ([f"the error page is made in html: {why}"] if why else [])


# --- Channels -----------------------------------------------------------------------------


class RoomChannel(Channel):
    async def join(self, socket: Any, topic: str, message: Any) -> Any:
        return socket.ok() if topic == "lobby" else socket.error("no such room")

    async def event(self, socket: Any, event: str, message: Any) -> Any:
        return socket.ok({"seen": event}) if event == "ping" else None


class UserSocket(phoenix.SocketHandler):
    def connect(self, socket: Any, params: Any, connect_info: Any) -> Any:
        return params.get("user") != "mallory"


class Rooms(phoenix.Router):
    with socket_word("/ws", UserSocket):
        channel_word("rooms", RoomChannel)
    with socket_word("/plain"):
        channel_word("rooms", RoomChannel)


TIME = r"\d+(µs|ms)"


def test_what_channels_do_is_logged_with_its_time_and_its_params_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = endpoint(Rooms)
    with caplog.at_level(logging.DEBUG, "phoenix"):
        with app.test().connect("/ws?user=ann&token=secret1") as client:
            room = client.join("rooms:lobby", {"password": "secret2", "name": "Ann"})
            room.push("ping", {"token": "secret3", "n": 1})
            room.push("quiet", {})
            with pytest.raises(Exception, match="no such room"):
                client.join("rooms:cellar", {})
    found = [line for line in messages(caplog) if not line.startswith(("GET", "Sent", "Processing"))]
    expected = [
        rf"CONNECTED TO test_logging.UserSocket in {TIME}\n  Transport: websocket\n  Serializer: 2.0.0\n"
        r"  Parameters: .*'user': 'ann', 'token': '\[FILTERED\]'.*",
        rf"JOINED rooms:lobby in {TIME}\n  Parameters: {{'password': '\[FILTERED\]', 'name': 'Ann'}}",
        rf"HANDLED ping INCOMING ON rooms:lobby \(test_logging.RoomChannel\) in {TIME}\n"
        r"  Parameters: {'token': '\[FILTERED\]', 'n': 1}",
        rf"HANDLED quiet INCOMING ON rooms:lobby \(test_logging.RoomChannel\) in {TIME}\n  Parameters: {{}}",
        rf"REFUSED JOIN rooms:cellar in {TIME}\n  Parameters: {{}}",
    ]
    for line, pattern in zip(found, expected):
        assert re.fullmatch(pattern, line), line
    assert len(found) == len(expected)
    assert not any(f"secret{n}" in caplog.text for n in (1, 2, 3))
    levels = {record.getMessage().split()[0]: record.levelname for record in caplog.records}
    assert (levels["CONNECTED"], levels["JOINED"], levels["HANDLED"], levels["REFUSED"]) == ("INFO", "INFO", "DEBUG", "INFO")


def test_a_client_that_is_not_let_in_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "phoenix"), pytest.raises(Exception, match="403"):
        endpoint(Rooms).test().connect("/ws?user=mallory")
    assert "REFUSED CONNECTION TO test_logging.UserSocket in " in caplog.text


def test_a_mount_without_a_handler_is_named_by_its_path(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "phoenix"):
        with endpoint(Rooms).test().connect("/plain"):
            pass
    assert "CONNECTED TO /plain in " in caplog.text and "HANDLED" not in caplog.text


# --- What blocks the loop -----------------------------------------------------------------

BLOCKING = """
import asyncio, time, sys
sys.path.insert(0, {root!r})
import phoenix
from phoenix import Channel, Controller, channel, get, socket

def query():
    time.sleep(0.3)

phoenix._DEBUG_PAGE = "<% __import__('time').sleep(0.3) %>" + phoenix._DEBUG_PAGE

class PageController(Controller):
    async def broken(self, conn, params):
        raise LookupError

    async def slow(self, conn, params):
        await asyncio.sleep(0)
        query()
        return conn.text("slow")

    async def busy(self, conn, params):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        return conn.text("busy")

    async def waits(self, conn, params):
        await asyncio.sleep(0.3)
        return conn.text("waits")

    def thread(self, conn, params):
        time.sleep(0.3)
        return conn.text("thread")

class RoomChannel(Channel):
    async def join(self, socket, topic, message):
        return socket.ok()

    async def event(self, socket, event, message):
        query()
        return socket.ok()

class Router(phoenix.Router):
    for action in ("broken", "slow", "busy", "waits", "thread"):
        get(f"/{{action}}", PageController, action)
    with socket("/ws"):
        channel("rooms", RoomChannel)

if __name__ == "__main__":
    phoenix.Endpoint(Router, static=False, secret_key_base="s" * 64).run()
"""


@pytest.fixture
def blocking(tmp_path: Path) -> Path:
    program = tmp_path / "blocking.py"
    program.write_text(BLOCKING.format(root=str(ROOT)))
    return program


def warned(server: StartedServer) -> list[str]:
    return re.findall(r"\[WARNING\] (\S+) blocked the event loop for (\d+)ms", server.log)


def test_in_dev_code_that_blocks_the_loop_is_named_with_its_line(
    start: Callable[..., StartedServer], blocking: Path
) -> None:
    server = start(blocking, PHOENIX_ENV="dev")
    for path in ("/waits", "/thread", "/slow", "/waits", "/busy", "/waits"):
        assert server.request(path).status == 200
    (slow, took), (busy, took_busy) = warned(server)
    assert (slow, busy) == ("__main__.PageController.slow", "__main__.PageController.busy")
    assert all(250 <= int(each) < 1000 for each in (took, took_busy))
    assert re.search(r"blocking\.py:8: time\.sleep\(0\.3\)\nMake it a plain `def`", server.log)


def test_in_dev_a_callback_of_a_channel_is_named_too(start: Callable[..., StartedServer], blocking: Path) -> None:
    from websockets.sync.client import connect

    server = start(blocking, PHOENIX_ENV="dev")
    with connect(server.url.replace("http", "ws") + "/ws/websocket?vsn=2.0.0") as client:
        client.send('["1","1","rooms:a","phx_join",{}]')
        client.recv(TIMEOUT)
        client.send('["1","2","rooms:a","work",{}]')
        client.recv(TIMEOUT)
    server.request("/waits")
    assert [name for name, _ in warned(server)] == ["__main__.RoomChannel.event"]


def test_a_slow_page_for_developers_is_nobodys_fault(start: Callable[..., StartedServer], blocking: Path) -> None:
    server = start(blocking, PHOENIX_ENV="dev")
    assert server.request("/broken", headers={"accept": "text/html"}).status == 500
    server.request("/waits")
    assert warned(server) == []


def test_in_prod_nothing_watches(start: Callable[..., StartedServer], blocking: Path) -> None:
    server = start(blocking, PHOENIX_ENV="prod")
    server.request("/slow")
    server.request("/waits")
    assert warned(server) == []

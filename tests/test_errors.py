"""Chapter 15, errors: the status an exception answers with, the error view, and the page for developers."""

from __future__ import annotations

import asyncio
import http
import importlib
import logging
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import phoenix
from phoenix import (
    BadRequestError,
    ConfigError,
    Conn,
    Controller,
    Endpoint,
    NoRouteError,
    PhoenixError,
    Pipeline,
    View,
    delete,
    get,
    pipe_through,
    pipeline,
    plug,
    post,
    resources,
    scope,
    template,
)  # fmt: skip

SECRET = "the secret key base of these tests, which is long enough: 0123456789abcdef"
HTML = {"accept": "text/html"}


def served(app: Endpoint, talk: Callable[[int], Any]) -> Any:
    """Start the server of *app*, call ``talk(port)`` in a thread, stop the server, and return what *talk* returned."""

    async def main() -> Any:
        server = app.make_server(port=0)
        await server.start()
        try:
            return await asyncio.wait_for(asyncio.to_thread(talk, server.port), 30)
        finally:
            await server.stop()

    return asyncio.run(main())


def exchange(port: int, request: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        parts = []
        try:
            while part := connection.recv(65_536):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


def ask(path: str, method: str = "GET") -> Callable[[int], bytes]:
    return lambda port: exchange(port, f"{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())


def body(conn: Conn) -> str:
    return phoenix.response_body(conn).decode()


def header(conn: Conn, name: str) -> str | None:
    return next(iter(conn.get_resp_header(name)), None)


def app_for(action: Callable[..., Any], **options: Any) -> Endpoint:
    """Return an app whose every path is answered by *action*, and whose errors are those of production."""

    class Router(phoenix.Router):
        get("/*path", action)
        post("/*path", action)

    return Endpoint(Router, **{"env": "prod", "log": False, **options})


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def action(conn: Conn, params: Any) -> Conn:
        raise error

    return action


def answer(error: BaseException | type[BaseException], **options: Any) -> Conn:
    return app_for(raising(error), **options).test().get("/")


# --- Statuses -----------------------------------------------------------------------------


class OwnError(Exception):
    status = 402


class PlugStatusError(Exception):
    plug_status = 410


class NamedError(Exception):
    status = "not_found"


class EnumError(Exception):
    status = http.HTTPStatus.GONE


class DerivedError(OwnError):
    pass


class ForeignError(Exception):
    pass


class DerivedForeignError(ForeignError):
    pass


class InstanceError(Exception):
    """Libraries keep the status of somebody else's response so."""

    def __init__(self) -> None:
        self.status = 404


class PropertyError(Exception):
    @property
    def status(self) -> int:
        return 404


class FreeError(PhoenixError):
    def __init__(self, status: int) -> None:
        self.status = status


def with_status(status: Any) -> type[Exception]:
    return type("OddError", (Exception,), {"status": status})


@pytest.mark.parametrize(
    "error, status",
    [
        (OwnError, 402), (PlugStatusError, 410), (NamedError, 404), (EnumError, 410), (DerivedError, 402),
        (RuntimeError, 500), (InstanceError, 500), (PropertyError, 500), (FreeError(422), 422), (BadRequestError, 400),
        (with_status(200), 500), (with_status(399), 500), (with_status(600), 500), (with_status("nonsense"), 500),
        (with_status(None), 500), (with_status(True), 500), (with_status("503"), 500), (with_status(503), 503),
    ],
)  # fmt: skip
def test_an_exception_says_its_status_by_its_class(error: Any, status: int) -> None:
    assert answer(error).status == status


@pytest.mark.parametrize(
    "error, status",
    [
        (ForeignError, 404), (DerivedForeignError, 404), (KeyError, 404), (phoenix.MissingParamError, 400),
        (OwnError, 402),
        (DerivedError, 409), (RuntimeError, 503), (TimeoutError, 504),
    ],
)  # fmt: skip
def test_foreign_exceptions_are_registered_and_the_nearest_class_decides(error: Any, status: int) -> None:
    registered = {ForeignError: 404, LookupError: "not_found", DerivedError: 409, Exception: 503, TimeoutError: 504}
    assert answer(error, error_statuses=registered).status == status


def test_a_registration_goes_before_what_the_class_itself_says() -> None:
    assert answer(OwnError, error_statuses={OwnError: 409}).status == 409


def test_readme_plug_exception() -> None:
    class NoRoute(Exception):  # defined in the application: it says so itself
        plug_status = 404

    class NotSingleResult(Exception):  # of a library: registered
        pass

    assert answer(NoRoute).status == 404
    assert answer(NotSingleResult, error_statuses={NotSingleResult: 404}).status == 404
    assert NoRouteError.status == 404


@pytest.mark.parametrize(
    "registered",
    [{"KeyError": 404}, {KeyError("x"): 404}, {KeyError: 200}, {KeyError: "teapot"}, {dict: 404}, {KeyError: None}],
)
def test_a_registration_that_cannot_be_meant_is_refused(registered: Any) -> None:
    with pytest.raises(ConfigError, match="expected a class of exceptions, and a status from 400 to 599"):
        app_for(raising(RuntimeError), error_statuses=registered)


# --- Where it is raised -------------------------------------------------------------------


async def suspended(conn: Conn, params: Any) -> Conn:
    await asyncio.sleep(0)
    raise OwnError("later")


async def stepped(conn: Conn, params: Any) -> Conn:
    raise OwnError("at once")


def blocking(conn: Conn, params: Any) -> Conn:
    raise OwnError("in a worker")


@pytest.mark.parametrize("action", [suspended, stepped, blocking])
def test_it_does_not_matter_how_the_action_runs(action: Callable[..., Any]) -> None:
    app = app_for(action)
    assert app.test().get("/").status == 402
    assert served(app, ask("/")).startswith(b"HTTP/1.1 402 Payment Required\r\n")


def test_an_error_in_a_plug_in_front_of_the_router_has_a_page_too() -> None:
    def broken(conn: Conn) -> Conn:
        raise OwnError

    assert app_for(raising(RuntimeError), plugs=[broken]).test().get("/").status == 402


def test_an_error_in_a_template_has_a_page() -> None:
    class PageView(View):
        template("show.html.eex", "<%= 1 // @none %>")

    class PageController(Controller):
        view = PageView

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render("show.html", none=0)

    class Router(phoenix.Router):
        get("/", PageController, "show")

    assert Endpoint(Router, env="prod").test().get("/").status == 500


def test_an_app_that_answers_nothing_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    def nothing(conn: Conn, params: Any) -> Conn:
        return conn

    assert app_for(nothing).test().get("/").status == 500
    assert "NotSentError" in caplog.text and "neither set nor sent" in caplog.text


def test_exit_in_an_action_ends_the_request_and_not_the_server(caplog: pytest.LogCaptureFixture) -> None:
    def action(conn: Conn, params: Any) -> Conn:
        sys.exit("bye") if params["path"] else None
        return conn.text("alive")

    first, second = served(app_for(action), lambda port: (ask("/exit")(port), ask("/")(port)))
    assert first.startswith(b"HTTP/1.1 500 ") and second.endswith(b"alive")
    assert "** (SystemExit) bye" in caplog.text


def test_waiting_for_what_was_cancelled_is_an_error_like_others() -> None:
    async def action(conn: Conn, params: Any) -> Conn:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task
        return conn.text("never")

    assert served(app_for(action), ask("/")).startswith(b"HTTP/1.1 500 ")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not tell who was cancelled")
def test_a_request_that_is_cancelled_itself_is_not_answered() -> None:
    async def action(conn: Conn, params: Any) -> Conn:
        await asyncio.sleep(60)
        return conn

    async def main() -> None:
        conn = Conn("GET", "/")
        task = asyncio.ensure_future(app_for(action).dispatch(conn))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert conn.state == "unset"

    asyncio.run(main())


def test_a_keyboard_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        answer(KeyboardInterrupt)


def test_a_test_client_can_raise_the_errors() -> None:
    with pytest.raises(OwnError):
        app_for(raising(OwnError)).test(raise_errors=True).get("/")


# --- The log ------------------------------------------------------------------------------


def test_a_server_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    answer(RuntimeError("oops"))
    (record,) = [record for record in caplog.records if record.name == "phoenix"]
    assert (record.levelname, record.getMessage()) == ("ERROR", "GET / ** (RuntimeError) oops")
    assert "in action" in caplog.text and "raise error" in caplog.text


def test_a_mistake_of_the_client_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "phoenix"):
        answer(BadRequestError("what?"))
    (record,) = [record for record in caplog.records if record.name == "phoenix"]
    assert (record.levelname, record.getMessage()) == ("INFO", "GET / answered 400 ** (BadRequestError) what?")
    assert record.exc_info is None


def test_an_error_that_cannot_say_what_it_is_is_logged_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert answer(MuteError).status == 500
    assert "** (MuteError) <MuteError, whose text cannot be shown>" in caplog.text


# --- After the response -------------------------------------------------------------------


def test_what_was_sent_stays_sent(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("from disk")

    def action(conn: Conn, params: Any) -> Conn:
        match params["path"]:
            case ["text"]:
                conn.text("already sent")
            case ["file"]:
                conn.send_file(200, tmp_path / "file.txt")
            case ["parts"]:
                conn.send_chunked(200, iter(["one, ", "two"]))
        raise RuntimeError("too late")

    app = app_for(action, debug_errors=True)
    for path, text in (("text", "already sent"), ("file", "from disk"), ("parts", "one, two")):
        caplog.clear()
        conn = app.test().get("/" + path)
        assert (conn.status, body(conn)) == (200, text)
        assert "too late" in caplog.text


def test_an_upgraded_connection_gets_no_error_page(caplog: pytest.LogCaptureFixture) -> None:
    def action(conn: Conn, params: Any) -> Conn:
        conn.status, conn.state = 101, "upgraded"
        raise RuntimeError("too late")

    conn = app_for(action, debug_errors=True).test().get("/")
    assert (conn.status, conn.state, conn.resp_body) == (101, "upgraded", None) and "too late" in caplog.text


def test_a_client_that_goes_away_in_the_middle_of_a_response_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    gone, ended = threading.Event(), threading.Event()

    async def action(conn: Conn, params: Any) -> Conn:
        conn.send_chunked(200)
        await conn.chunk("the beginning")
        gone.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return conn

    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert gone.wait(10)
        assert ended.wait(10)

    served(app_for(action), talk)
    assert "CancelledError" not in caplog.text


def test_a_chunked_response_that_breaks_off_does_not_look_complete(caplog: pytest.LogCaptureFixture) -> None:
    async def action(conn: Conn, params: Any) -> Conn:
        conn.send_chunked(200)
        await conn.chunk("the beginning")
        raise RuntimeError("half-way")

    got = served(app_for(action), ask("/"))
    assert b"the beginning" in got and not got.endswith(b"0\r\n\r\n") and b"500" not in got
    assert "half-way" in caplog.text


def test_a_callback_that_raises_before_the_response_is_an_error_like_others(caplog: pytest.LogCaptureFixture) -> None:
    def callback(conn: Conn) -> Conn:
        raise OwnError("in a callback")

    def action(conn: Conn, params: Any) -> Conn:
        return conn.register_before_send(callback).text("never seen")

    conn = app_for(action).test().get("/")
    assert conn.status == 402 and "never seen" not in body(conn)


@pytest.mark.parametrize("debug", [True, False])
def test_a_callback_that_raises_for_the_error_page_too_leaves_a_plain_one(
    debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(conn: Conn) -> Conn:
        raise OwnError("in a callback")

    def action(conn: Conn, params: Any) -> Conn:
        conn.register_before_send(callback)
        raise BadRequestError("the first error")

    conn = app_for(action, debug_errors=debug).test().get("/")
    assert (conn.status, body(conn), header(conn, "content-type")) == (400, "Bad Request", "text/plain; charset=utf-8")
    assert "the error page for GET / raised an error itself" in caplog.text and "in a callback" in caplog.text


def test_a_callback_that_returns_no_conn_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def forgetful(conn: Conn) -> None:
        conn.assign("x", 1)

    def action(conn: Conn, params: Any) -> Conn:
        return conn.register_before_send(forgetful).text("hi")

    assert app_for(action).test().get("/").status == 500
    assert "forgetful" in caplog.text and "must return the conn" in caplog.text


# --- The response -------------------------------------------------------------------------


def test_headers_of_the_page_that_failed_go_and_those_of_the_site_stay() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        conn.put_resp_header("access-control-allow-origin", "*").put_resp_header("x-request-id", "7")
        conn.put_resp_header("content-disposition", "attachment").put_resp_header("location", "/x")
        conn.put_resp_header("etag", '"1"').put_resp_header("cache-control", "public, max-age=60")
        conn.put_resp_content_type("image/png").put_resp_cookie("seen", "1").put_status(201)
        raise RuntimeError

    conn = app_for(action).test().get("/")
    assert dict(conn.resp_headers) == {
        "access-control-allow-origin": "*", "x-request-id": "7", "content-type": "text/html; charset=utf-8",
        "cache-control": "max-age=0, private, must-revalidate",
    }  # fmt: skip
    assert (conn.status, conn.cookies["seen"]) == (500, "1")


def test_a_wrong_verb_is_told_the_right_ones() -> None:
    class Router(phoenix.Router):
        get("/a", blocking)
        delete("/a", blocking)

    conn = Endpoint(Router, env="prod").test().post("/a")
    assert (conn.status, header(conn, "allow")) == (405, "DELETE, GET, HEAD")


def test_an_error_page_for_head_has_no_body() -> None:
    head, _, rest = served(app_for(blocking), ask("/", "HEAD")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 402 ") and rest == b"" and b"content-length: 0" not in head


def test_the_session_is_written_with_an_error_page() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        conn.put_session("tries", (conn.get_session("tries") or 0) + 1)
        raise OwnError(str(conn.get_session("tries")))

    app = app_for(action, secret_key_base=SECRET, plugs=[Conn.fetch_session])
    visitor = app.test()
    visitor.get("/")
    with pytest.raises(OwnError, match="2"):
        visitor.raise_errors = True
        visitor.get("/")


# --- The error view -----------------------------------------------------------------------


class ShopErrorView(View):
    template("404.html.eex", "<h1>Page not found - <%= @status %></h1><%= @conn.request_path %>")
    template("500.html.eex", "<h1>Server internal error - <%= type(@reason).__name__ %></h1>")

    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        if name == "404.json":
            return {"error": "nothing here", "kind": assigns["kind"]}
        return super().render(name, assigns)


class NotFound(Exception):
    status = 404


@pytest.mark.parametrize(
    "error, accept, status, content_type, text",
    [
        (NotFound, "text/html", 404, "text/html", "<h1>Page not found - 404</h1>/a&lt;b"),
        (NotFound, "application/json", 404, "application/json", '{"error":"nothing here","kind":"error"}'),
        (RuntimeError, "text/html", 500, "text/html", "<h1>Server internal error - RuntimeError</h1>"),
        (with_status(503), "text/html", 503, "text/html", "<h1>Server internal error - OddError</h1>"),
        (RuntimeError, "application/json", 500, "application/json", '{"errors":{"detail":"Internal Server Error"}}'),
        (OwnError, "application/json", 402, "application/json", '{"errors":{"detail":"Payment Required"}}'),
        (OwnError, "text/plain", 402, "text/plain", "Payment Required"),
    ],
)
def test_the_view_is_asked_for_status_and_format(
    error: Any, accept: str, status: int, content_type: str, text: str
) -> None:
    app = app_for(raising(error), render_errors=ShopErrorView)
    conn = app.test().get("/a%3Cb".replace("%3C", "<"), headers={"accept": accept})
    assert (conn.status, header(conn, "content-type")) == (status, content_type + "; charset=utf-8")
    assert body(conn).replace("%3C", "&lt;") == text


def test_a_status_that_the_view_does_not_know_has_the_built_in_page() -> None:
    conn = app_for(raising(OwnError), render_errors=ShopErrorView).test().get("/")
    assert conn.status == 402 and "<h1>Payment Required</h1>" in body(conn)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """Write modules and import them; they are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []

    def write(name: str, source: str) -> ModuleType:
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        written.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in list(sys.modules):
        if name.partition(".")[0] in {each.partition(".")[0] for each in written}:
            del sys.modules[name]


def test_readme_custom_not_found_and_error_pages(module: Callable[[str, str], ModuleType]) -> None:
    """The view called ``ErrorView`` in the module of the router is found by its name."""
    shop = module(
        "shop_of_error_test",
        """
import phoenix
from phoenix import View, get, template

def boom(conn, params):
    raise RuntimeError("boom")

class Router(phoenix.Router):
    get("/boom", boom)

app = phoenix.Endpoint(Router, debug_errors=False, log=False)

class ErrorView(View):                 # below the app: it is looked for when it is needed
    template("404.html.eex", "Page not found - 404")
    template("500.html.eex", "Server internal error - 500")
    def render(self, name, assigns):
        if name == "500.json":
            return {"error": "Server internal error"}
        return super().render(name, assigns)
""",
    )
    client = shop.app.test()
    assert client.html_response(client.get("/none"), 404) == "Page not found - 404"
    assert client.html_response(client.get("/boom"), 500) == "Server internal error - 500"
    assert client.json_response(client.get("/boom?_format=json"), 500) == {"error": "Server internal error"}


def test_the_view_may_stand_in_a_module_beside_that_of_the_router(module: Callable[[str, str], ModuleType]) -> None:
    module("errorshop.__init__", "")
    module("errorshop.views.__init__", "")
    module(
        "errorshop.views.error_view",
        "import phoenix\nclass ErrorView(phoenix.View): phoenix.template('404.html.eex', 'ours')",
    )
    router = module("errorshop.router", "import phoenix\nclass Router(phoenix.Router): pass")
    assert body(Endpoint(router.Router, env="prod").test().get("/")) == "ours"


def test_without_a_view_the_page_is_the_phrase_of_the_status() -> None:
    client = app_for(raising(NotFound)).test()
    assert "<h1>Not Found</h1>" in client.html_response(client.get("/"), 404)
    json = client.get("/", headers={"accept": "application/json"})
    assert client.json_response(json, 404) == {"errors": {"detail": "Not Found"}}
    assert client.text_response(client.get("/", headers={"accept": "text/plain"}), 404) == "Not Found"


def test_production_shows_nothing_of_the_error() -> None:
    conn = answer(RuntimeError("the password is hunter2"))
    assert "hunter2" not in body(conn) and "RuntimeError" not in body(conn) and "Traceback" not in body(conn)


@pytest.mark.parametrize(
    "path, accept, content_type",
    [
        ("/", None, "text/html"), ("/", "application/json", "application/json"), ("/", "text/html, */*", "text/html"),
        ("/", "*/*", "text/html"), ("/", "image/png", "text/html"),
        ("/", "application/json;q=0.9, text/html;q=0.1", "application/json"),
        ("/?_format=json", "text/html", "application/json"), ("/?format=json", "text/html", "application/json"),
        ("/?_format=unknown", None, "text/html"), ("/?_format=unknown", "application/json", "application/json"),
        ("/?_format[]=json", None, "text/html"), ("/?a=%zz", "application/json", "application/json"),
        ("/?_format=xml", None, "text/plain"),
        ("/", "nonsense;;;q=x,,", "text/html"),
    ],
)  # fmt: skip
def test_the_format_is_the_one_that_was_asked_for(path: str, accept: str | None, content_type: str) -> None:
    conn = app_for(raising(NotFound)).test().get(path, headers={"accept": accept} if accept else {})
    assert header(conn, "content-type") == content_type + "; charset=utf-8"
    assert conn.status == (400 if "%zz" in path else 404)


def test_the_format_that_a_pipeline_chose_is_kept() -> None:
    class Router(phoenix.Router):
        with pipeline("api"):
            plug(Conn.accepts, "json")
        with scope("/api"):
            pipe_through("api")
            get("/a", blocking)

    app = Endpoint(Router, env="prod")
    assert header(app.test().get("/api/a"), "content-type") == "application/json; charset=utf-8"
    refused = app.test().get("/api/a", headers={"accept": "image/png"})
    assert refused.status == 406


@pytest.mark.parametrize("chosen", ["bogus", "", None, 7])
def test_a_format_that_does_not_exist_is_html(chosen: Any) -> None:
    def action(conn: Conn, params: Any) -> Conn:
        conn.private["phoenix_format"] = chosen
        raise NotFound

    assert header(app_for(action).test().get("/"), "content-type") == "text/html; charset=utf-8"


def test_a_view_that_fails_itself_leaves_a_plain_page(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenView(View):
        template("404.html.eex", "<%= @conn.no_such_thing %>")
        template("500.html.eex", "<%= render('missing.html') %>")

    for error, status, phrase in ((NotFound, 404, "Not Found"), (RuntimeError, 500, "Internal Server Error")):
        caplog.clear()
        conn = answer(error, render_errors=BrokenView)
        assert (conn.status, body(conn), header(conn, "content-type")) == (status, phrase, "text/plain; charset=utf-8")
        assert "raised an error itself" in caplog.text
    assert "missing.html" in caplog.text


def test_a_view_and_a_callback_that_both_fail_leave_a_plain_page_too(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenView(View):
        template("404.html.eex", "<%= @conn.no_such_thing %>")

    def callback(conn: Conn) -> Conn:
        raise OwnError("in a callback")

    def action(conn: Conn, params: Any) -> Conn:
        conn.register_before_send(callback)
        raise NotFound

    conn = app_for(action, render_errors=BrokenView).test().get("/")
    assert (conn.status, body(conn)) == (404, "Not Found")


def test_an_error_view_that_cannot_be_imported_leaves_a_plain_page(
    module: Callable[[str, str], ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    module("brokenshop.__init__", "")
    router = module("brokenshop.router", "import phoenix\nclass Router(phoenix.Router): pass")
    Path(router.__file__ or "").with_name("error_view.py").write_text("raise ImportError('not today')")
    conn = Endpoint(router.Router, env="prod").test().get("/")
    assert (conn.status, body(conn)) == (404, "Not Found")
    assert "not today" in caplog.text


def test_the_view_has_no_layout() -> None:
    class LayoutView(View):
        template("application.html.eex", "<main><%= @inner %></main>")

    class PageController(Controller):
        layout_view = LayoutView

        def show(self, conn: Conn, params: Any) -> Conn:
            raise NotFound

    class Router(phoenix.Router):
        get("/", PageController, "show")

    assert "<main>" not in body(Endpoint(Router, env="prod", render_errors=ShopErrorView).test().get("/"))


def test_a_view_that_blocks_does_not_block_the_server() -> None:
    """The views of an application run in a worker thread, those of error pages too."""
    seen: list[str] = []

    class SlowView(View):
        def render(self, name: str, assigns: dict[str, Any]) -> Any:
            seen.append(threading.current_thread().name)
            return name

    async def action(conn: Conn, params: Any) -> Conn:
        seen.append(threading.current_thread().name)
        raise NotFound

    assert served(app_for(action, render_errors=SlowView), ask("/")).endswith(b"404.html")
    loop, worker = seen
    assert loop == "MainThread" and worker.startswith("phoenix-worker")


@pytest.mark.parametrize("view", ["ErrorView", object, 7, PhoenixError])
def test_render_errors_takes_a_view(view: Any) -> None:
    with pytest.raises(ConfigError, match="expected a View"):
        app_for(raising(NotFound), render_errors=view)


def test_a_changed_template_of_the_error_view_is_seen_in_dev(tmp_path: Path) -> None:
    class PageErrorView(View):
        root = str(tmp_path)
        path = "errors"

    (tmp_path / "errors").mkdir()
    page = tmp_path / "errors" / "404.html.eex"
    page.write_text("old")
    app = app_for(raising(NotFound), env="dev", debug_errors=False, render_errors=PageErrorView)
    assert body(app.test().get("/")) == "old"
    page.write_text("changed")
    assert body(app.test().get("/")) == "changed"


# --- The page for developers --------------------------------------------------------------


class Page(HTMLParser):
    """What a browser makes of a page: its text, its tags, and everything that could run."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.title = ""
        self._in: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br"):
            self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._in and self._in.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self._in:
            self.text += data
        if "title" in self._in:
            self.title += data

    @property
    def runs(self) -> list[Any]:
        return [
            (tag, attributes)
            for tag, attributes in self.tags
            if tag in ("script", "form", "iframe", "object", "embed", "link", "img", "base", "input", "button", "svg")
            or any(name.startswith("on") or name in ("style", "src", "srcdoc") for name in attributes)
            or (attributes.get("href") or "").startswith("javascript:")
        ]

    def section(self, title: str) -> str:
        """Return the text of a table about the request, up to the next one."""
        names = ["Request info", "Headers", "Params", "Session", "Cookies", "Assigns", "The same as text"]
        begin = self.text.index(title, self.text.index("Request info"))
        return self.text[begin : self.text.index(names[names.index(title) + 1], begin)]


def debug(action: Callable[..., Any], path: str = "/", headers: dict[str, str] | None = None, **options: Any) -> Conn:
    app = app_for(action, **{"env": "dev", **options})
    return app.test().get(path, headers=HTML if headers is None else headers)


def page_of(action: Callable[..., Any], path: str = "/", **options: Any) -> Page:
    return Page(body(debug(action, path, **options)))


def divide(total: int, parts: int) -> float:
    share = total / parts  # the line that fails
    return share


def failing(conn: Conn, params: Any) -> Conn:
    divide(1, 0)
    return conn


def test_the_debug_page_is_on_in_dev_only_unless_it_is_asked_for() -> None:
    assert "ZeroDivisionError" in body(debug(failing))
    for env in ("prod", "test"):
        assert "ZeroDivisionError" not in body(debug(failing, env=env))
        assert "ZeroDivisionError" in body(debug(failing, env=env, debug_errors=True))
    assert "ZeroDivisionError" not in body(debug(failing, debug_errors=False))


def test_the_page_names_the_error_the_request_and_the_status() -> None:
    conn = debug(failing, "/a/b?x=1")
    page = Page(body(conn))
    assert page.title == "ZeroDivisionError at GET /a/b"
    assert "ZeroDivisionError at GET /a/b" in page.text and "division by zero" in page.text
    assert "500 Internal Server Error" in page.text
    assert (conn.status, header(conn, "content-type")) == (500, "text/html; charset=utf-8")


def test_the_page_shows_the_source_around_each_line_of_the_application() -> None:
    html = body(debug(failing))
    for text in (
        "def divide(total: int, parts: int)",
        "# the line that fails",
        "return share",
        "def failing(conn: Conn",
    ):
        assert text in Page(html).text
    failed = [line for line in html.split("\n") if 'class="failed"' in line]
    assert any("share = " in line for line in failed) and any("divide(1, 0)" in line for line in failed)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not know the columns")
def test_the_page_marks_the_part_of_the_line_that_failed() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        wörter = {"ä": 0}
        return conn.text("ö" + str(1 // wörter["ä"]) + "ü")  # columns count bytes

    assert "<mark>total / parts</mark>" in body(debug(failing))
    assert "<mark>1 // wörter[&quot;ä&quot;]</mark>" in body(debug(action))


def test_five_lines_before_and_after_are_shown() -> None:
    html = body(debug(failing))
    source = next(part for part in html.split("<pre") if "# the line that fails" in part).partition("</pre>")[0]
    numbers = [int(number) for number in re.findall(r"<b> *(\d+)</b>", source)]
    (failed,) = (int(number) for number in re.findall(r'class="failed"><b> *(\d+)</b>', source))
    assert numbers == list(range(failed - 5, failed + 6))


def test_lines_of_the_application_are_open_and_those_of_libraries_closed() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        import json

        return conn.text(json.loads("{"))

    page = page_of(action)
    details = [attributes for tag, attributes in page.tags if tag == "details" and "class" in attributes]
    ours = [each for each in details if each["class"] == "ours"]
    theirs = [each for each in details if each["class"] in ("theirs", "group")]
    assert len(ours) == 1 and "open" in ours[0]
    assert len(theirs) >= 4 and not any("open" in each for each in theirs)
    text = " ".join(page.text.split())
    places = [text.index(each) for each in ("calls in json", "action tests/test_errors.py", "calls in phoenix.py")]
    assert places == sorted(places)  # the latest call first


def test_chained_errors_are_all_shown() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        try:
            try:
                divide(1, 0)
            except ZeroDivisionError:
                dict[str, int]()["missing"]
        except KeyError as error:
            raise RuntimeError("the last") from error
        return conn

    page = page_of(action)
    first, second, third = (
        page.text.index(text) for text in ("RuntimeError at", "caused by KeyError", "while answering ZeroDivisionError")
    )
    assert first < second < third


def test_a_context_that_was_suppressed_is_not_shown() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        try:
            divide(1, 0)
        except ZeroDivisionError:
            raise RuntimeError("the only one") from None
        return conn

    page = page_of(action)
    assert page.title == "RuntimeError at GET /" and "h2" not in [tag for tag, _ in page.tags]


def test_errors_that_cause_each_other_end_somewhere() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert page_of(raising(first)).text.count("caused by RuntimeError") == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has neither notes nor groups")
def test_notes_and_the_members_of_a_group_are_shown() -> None:
    error = ValueError("the member")
    error.add_note("a note about it")  # type: ignore[attr-defined,unused-ignore]
    group = ExceptionGroup("several", [error, KeyError("other")])  # type: ignore[name-defined,unused-ignore]
    text = page_of(raising(group)).text
    assert "ExceptionGroup at GET /" in text and "with ValueError" in text and "with KeyError" in text
    assert "a note about it" in text


def test_everything_is_escaped_and_nothing_runs() -> None:
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&"

    class Evil:
        def __repr__(self) -> str:
            return attack

    EvilError = type("<b>Error", (Exception,), {})

    def action(conn: Conn, params: Any) -> Conn:
        conn.assign("<i>name", attack).assign("evil", Evil()).put_session(attack, attack)
        conn.put_resp_cookie("c", "<b>cookie")
        raise EvilError(attack)

    conn = debug(
        action, "/<svg onload=alert(3)>?<b>=<u>&q=" + attack.replace("&", ""),
        headers={"accept": "text/html", "x-evil": attack, "referer": attack}, secret_key_base=SECRET,
        plugs=[Conn.fetch_session],
    )  # fmt: skip
    html = body(conn)
    page = Page(html)
    assert page.runs == []
    assert "<svg" not in html and "<i>name" not in html and "<u>" not in html and "<img" not in html
    assert attack in page.text and "<b>Error at GET" in page.title


def test_the_policy_of_the_page_allows_no_script_and_no_request() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        conn.put_resp_header("content-security-policy", "default-src 'self'")  # would take the page's style away
        raise RuntimeError

    conn = debug(action)
    policy = header(conn, "content-security-policy") or ""
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'") and "script-src" not in policy
    assert header(conn, "cache-control") == "no-store" and header(conn, "x-content-type-options") == "nosniff"


def test_in_a_browser_the_page_is_styled_and_no_policy_complains(
    page: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "import phoenix\nfrom phoenix import get\n"
        "def boom(conn, params):\n    return conn.text(1 / int(params['n']))\n"
        "class Router(phoenix.Router):\n    get('/boom/:n', boom)\n"
        "phoenix.Endpoint(Router, log=False).run()\n"
    )
    server = start(app, PYTHONPATH=str(Path(phoenix.__file__).parent))
    page.goto(server.url + "/boom/0")
    assert page.title() == "ZeroDivisionError at GET /boom/0"
    assert page.locator(".failed").first.is_visible() and "int(params" in page.locator(".failed").first.inner_text()
    assert page.evaluate("getComputedStyle(document.querySelector('.failed')).backgroundColor") != "rgba(0, 0, 0, 0)"
    group = page.locator("details.group").first
    assert not group.locator("details").first.is_visible()
    group.locator("summary").first.click()
    assert group.locator("details").first.is_visible()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.goto(server.url + "/bom/0")
    assert "Did you mean GET /boom/:n?" in page.locator(".routes").inner_text()


# Templates


def test_the_line_of_a_template_that_fails_is_shown(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "show.html.eex").write_text(
        "<ul>\n<%= for row in @rows: %>\n  <li><%= row.upper() %></li>\n<% end %>\n</ul>\n"
    )

    class PageView(View):
        root = str(tmp_path)

    class PageController(Controller):
        view = PageView

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render("show.html", rows=["a", None])

    class Router(phoenix.Router):
        get("/", PageController, "show")

    html = body(Endpoint(Router, env="dev", log=False).test().get("/", headers=HTML))
    page = Page(html)
    assert page.title == "AttributeError at GET /" and "show.html.eex:3" in page.text
    failed = next(line for line in html.split("\n") if 'class="failed"' in line)
    assert "row.upper" in failed and (sys.version_info < (3, 11) or "<mark>row.upper" in failed)


def test_a_template_that_is_broken_while_the_app_runs_is_shown_with_a_caret(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    file = tmp_path / "page" / "list.html.eex"
    file.write_text("fine")

    class PageView(View):
        root = str(tmp_path)

    class PageController(Controller):
        view = PageView

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render("list.html")

    class Router(phoenix.Router):
        get("/", PageController, "show")

    client = Endpoint(Router, env="dev", log=False).test()
    assert body(client.get("/")) == "fine"
    file.write_text("<p>\n<%= for x in @xs: %>\n  <%= x.y( %>\n<% end %>\n")
    try:
        html = body(client.get("/", headers=HTML))
        text = body(client.get("/", headers={}))
    finally:
        file.unlink()  # other tests compile the views that are there
    page = Page(html)
    assert page.title == "TemplateSyntaxError at GET /" and "'(' was never closed" in page.text
    assert "list.html.eex:3:10" in page.text
    snippet = html.partition('class="snippet">')[2].partition("</pre>")[0].split("\n")
    assert snippet[-2:] == ["3 |   &lt;%= x.y( %&gt;", "  |          ^"]
    assert '<span class="failed"><b>   3</b>   &lt;%= x.y<mark>(</mark>' in html
    assert "list.html.eex" in text and "^" in text


def test_a_module_that_does_not_compile_is_shown_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_of_error_test.py").write_text("x = 1\ny = = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def action(conn: Conn, params: Any) -> Conn:
        importlib.import_module("broken_of_error_test")
        return conn

    html = body(debug(action))
    assert Page(html).title == "SyntaxError at GET /" and "broken_of_error_test.py:2" in Page(html).text
    assert '<span class="failed"><b>   2</b> y = <mark>=</mark> 2' in html
    (tmp_path / "broken_of_error_test.py").write_text("x = 1\nlonger = = 2\n")
    assert '<span class="failed"><b>   2</b> longer = <mark>=</mark> 2' in body(debug(action))


@pytest.mark.parametrize("env, warnings", [("dev", 1), ("prod", 0)])
def test_in_dev_it_is_said_that_phoenix_js_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, env: str, warnings: int
) -> None:
    monkeypatch.setattr(phoenix, "client_script", lambda: None)

    class Router(phoenix.Router):
        with phoenix.socket("/ws"):
            pass

    class RouterWithClient(Router):
        get("/js/phoenix.js", lambda conn, params: conn.text("its own"))

    clients = [Endpoint(each, env=env, static=False, session=False).test() for each in (Router, RouterWithClient)]
    assert [client.get("/js/phoenix.js").status for client in clients] == [404, 200]
    found = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert len(found) == warnings and all("copy it from where you have phoenix.py from" in each for each in found)


# Routes


def site() -> type[phoenix.Router]:
    class UserController(Controller):
        def index(self, conn: Conn, params: Any) -> Conn:
            return conn

        show = index

    class Router(phoenix.Router):
        get("/", UserController, "index", as_="root")
        resources("/users", UserController, only=["index", "show"])
        get("/files/*path", UserController, "show", as_="file")

    return Router


@pytest.mark.parametrize(
    "path, near",
    [
        ("/user", "GET /users"), ("/user/7", "GET /users/:id"), ("/usrs/new", "GET /users/:id"),
        ("/file/a/b", "GET /files/*path"),
        ("/users/7/edit", "GET /users/:id"), ("/completely/different", None), ("/a/very/long/path/to/users", None),
    ],
)  # fmt: skip
def test_a_path_without_a_route_shows_the_routes_and_the_nearest(path: str, near: str | None) -> None:
    app = Endpoint(site(), env="dev", log=False)
    page = Page(body(app.test().get(path, headers=HTML)))
    assert page.title == f"NoRouteError at GET {path}"
    for text in ("user_path", "/users/:id", "UserController.show/2", "file_path", "/files/*path"):
        assert text in page.text
    assert ("Did you mean" in page.text) == (near is not None) and (
        near is None or f"Did you mean {near}?" in page.text
    )
    text = body(app.test().get(path))
    assert "GET     /users/:id  UserController.show/2" in text and (near is None or f"`{near}`" in text)


def test_a_wrong_verb_shows_the_routes_too() -> None:
    page = Page(body(Endpoint(site(), env="dev", log=False).test().delete("/users/7", headers=HTML)))
    assert (
        page.title == "MethodNotAllowedError at DELETE /users/7"
        and "GET, HEAD" in page.text
        and "/users/:id" in page.text
    )


def test_an_app_without_routes_and_other_404s_show_none() -> None:
    class Router(phoenix.Router):
        pass

    assert "Did you mean" not in body(Endpoint(Router, env="dev", log=False).test().get("/", headers=HTML))
    assert "<h3>Routes" not in body(debug(raising(NotFound)))


# The request


def test_the_tables_tell_about_the_request() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        conn.put_session("user_id", 42).assign("title", "Hi").assign("rows", [1, {"a": (2,)}])
        raise RuntimeError

    conn = debug(
        action, "/a/b?x=1&y[]=2", headers={"accept": "text/html", "x-own": "own value", "cookie": "theme=dark"},
        secret_key_base=SECRET, plugs=[Conn.fetch_session],
    )  # fmt: skip
    page = Page(body(conn))
    info = page.section("Request info")
    for text in ("http://localhost/a/b", "x=1&y[]=2", "GET", "127.0.0.1", "GET /*path action/2"):
        assert text in info
    assert "own value" in page.section("Headers")
    assert "'1'" in page.section("Params") and "['2']" in page.section("Params")
    assert "42" in page.section("Session")
    assert "theme" in page.section("Cookies") and "dark" not in page.section("Cookies")
    assert "'Hi'" in page.section("Assigns") and "[1, {'a': (2,)}]" in page.section("Assigns")


SECRETS = {
    "the password": "hunter2", "a nested one": "correct horse", "the query's token": "tok-4711",
    "the api key": "key-0815",
    "the cookie": "cookie-value-1", "the authorization": "Zm9vOmJhcg==", "the session's": "session-secret",
    "the assign's": "assigned-secret", "the filtered param": "4000-1234-5678",
}  # fmt: skip
IN_PATHS = ["a1b2c3d4e5f6", "a%2Bb%20c3d4e5f6%3D"]


@pytest.mark.parametrize("word", ["test", "password"])
def test_a_secret_that_is_an_ordinary_word_does_not_spoil_the_page(word: str) -> None:
    def action(conn: Conn, params: Any) -> Conn:
        raise RuntimeError(f"wrong password for testing: {params['password']}")

    page = page_of(action, f"/{word}s?password={word}")
    shown = "password" if word == "password" else "[FILTERED]"
    assert f"wrong password for testing: {shown}" in page.text and f"RuntimeError at GET /{word}s" in page.text
    assert "params['password']" in page.text and "'password'" not in page.section("Params")


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_no_secret_is_on_the_page_wherever_it_would_appear(accept: str) -> None:
    def action(conn: Conn, params: Any) -> Conn:
        conn.put_session("reset_token", SECRETS["the session's"]).csrf_token()
        conn.assign("user", {"name": "Ann", "Password": SECRETS["the assign's"]}).assign("params", dict(params))
        conn.assign("config", conn.endpoint.options["secret_key_base"])
        secret_of_session = conn.get_session("_csrf_token")
        seen.append(secret_of_session)
        raise RuntimeError(f"could not log in with {params!r} and {conn.req_headers!r} and {secret_of_session}")

    seen: list[str] = []
    app = app_for(action, env="dev", secret_key_base=SECRET, filter_parameters=["card"], plugs=[Conn.fetch_session])
    conn = app.test().post(
        "/?token=tok-4711&x=1", {"password": "hunter2", "user": {"secret_word": "correct horse",
        "card": "4000-1234-5678"}},
        headers={"accept": accept, "cookie": "_a=cookie-value-1", "authorization": "Basic Zm9vOmJhcg==",
        "x-api-key": "key-0815"},
    )  # fmt: skip
    text = body(conn)
    assert "could not log in with" in text and ("Ann" in text or accept != "text/html")
    for what, secret in {**SECRETS, "the key base": SECRET, "the CSRF token": seen[0]}.items():
        assert secret not in text, f"{what} is on the page"
    assert text.count("[FILTERED]") > 10


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
@pytest.mark.parametrize("token", IN_PATHS)
def test_a_secret_in_the_path_is_not_on_the_page_either(token: str, accept: str) -> None:
    def action(conn: Conn, params: Any) -> Conn:
        raise RuntimeError(f"who is {params['token']}?")

    class Router(phoenix.Router):
        get("/reset/:token", action)

    app = Endpoint(Router, env="dev", log=False)
    text = body(app.test().get(f"/reset/{token}", headers={"accept": accept}))
    assert "c3d4e5" not in text and text.count("RuntimeError at GET /reset/[FILTERED]") == 1 + (accept == "text/html")


def test_the_source_of_a_one_file_app_does_not_show_its_secret(module: Callable[[str, str], ModuleType]) -> None:
    app = module(
        "onefile_of_error_test",
        f"""
import phoenix
def boom(conn, params):
    raise RuntimeError("boom")
class Router(phoenix.Router):
    phoenix.get("/", boom)
app = phoenix.Endpoint(Router, env="dev", log=False, secret_key_base="{SECRET}")
""",
    ).app
    text = body(app.test().get("/", headers=HTML))
    assert "secret_key_base=&quot;[FILTERED]&quot;" in text and SECRET not in text


def test_values_are_bounded_and_a_repr_that_raises_breaks_nothing() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    class Endless(dict[str, Any]):
        pass

    class Liar:
        __class__ = property(lambda self: 1 / 0)

    endless = Endless()
    endless["self"] = endless

    def action(conn: Conn, params: Any) -> Conn:
        conn.assign("broken", Broken()).assign("inside", [Broken()]).assign("endless", endless).assign("liar", Liar())
        conn.assign("long", "x" * 1_000_000).assign("rows", list(range(1_000_000))).assign("bytes", b"y" * 1_000_000)
        conn.assign("deep", [[[[[[[[1]]]]]]]]).assign({7: "seven"})  # type: ignore[dict-item]
        raise RuntimeError("z" * 1_000_000)

    html = body(debug(action))
    assert len(html) < 200_000
    assigns = Page(html).section("Assigns")
    assert "<Broken, whose repr raises ValueError>" in assigns and "(1000000 characters)" in assigns
    assert "49, ..." in assigns and "liar" in assigns


class GuestView(View):
    template("index.html.eex", "<p><%= @title %><%= @page %></p>\n<%= for guest in @guests: %><%= guest %><% end %>")


def test_the_page_names_the_assigns_that_the_template_lacked() -> None:
    assigned: dict[str, object] = {"title": "Guests", "page": None}
    app = app_for(lambda conn, params: conn.put_view(GuestView).render("index.html", **assigned), env="dev").test()
    hint = "object is not iterable\nThe template reads @guests, which nobody has assigned: it is None"
    for _ in range(2):  # the log tells it once, the page each time
        assert hint in Page(body(app.get("/", headers=HTML))).text
    assert hint.replace("\n", "\n    ") in body(app.get("/", headers={"accept": "text/plain"}))
    assigned["guests"] = 7
    text = Page(body(app.get("/", headers=HTML))).text
    assert "'int' object is not iterable" in text and "iterable\nThe template" not in text


def test_an_error_without_words_has_a_page() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert "MuteError at GET /" in page_of(raising(MuteError)).text


def test_endless_recursion_has_a_page_of_bounded_length() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        return action(conn, params)

    html = body(debug(action))
    assert Page(html).title == "RecursionError at GET /" and len(html) < 500_000


def test_a_request_that_cannot_be_decoded_has_a_page() -> None:
    page = page_of(lambda conn, params: conn, "/?a=%zz")
    assert "InvalidQueryError at GET /" in page.text and "cannot be read" in page.section("Params")


def test_code_without_a_file_has_a_page() -> None:
    space: dict[str, Any] = {}
    exec("def action(conn, params): raise RuntimeError('made up')", space)  # noqa: S102
    page = page_of(space["action"])
    assert "made up" in page.text and "The source is not available." in page.text


def test_an_editor_opens_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHOENIX_EDITOR", raising=False)
    monkeypatch.setenv("PLUG_EDITOR", "editor://open/?url=file://__FILE__&line=__LINE__&rel=__RELATIVEFILE__")
    html = body(debug(failing))
    line = divide.__code__.co_firstlineno + 1
    assert f'href="editor://open/?url=file://{__file__}&amp;line={line}&amp;rel=' in html
    monkeypatch.setenv("PHOENIX_EDITOR", "vscode://file/__FILE__:__LINE__")
    assert f'href="vscode://file/{__file__}:{line}"' in body(debug(failing))
    monkeypatch.delenv("PHOENIX_EDITOR")
    monkeypatch.delenv("PLUG_EDITOR")
    assert "href=" not in body(debug(failing))


# Markdown


@pytest.mark.parametrize(
    "accept, is_html",
    [
        ("text/html", True), ("*/*", True), ("text/*", True), ("application/json, text/*;q=0.1", True),
        ("TEXT/HTML", True),
        (None, False), ("application/json", False), ("", False), ("image/*", False), ("text/plain", False),
    ],
)  # fmt: skip
def test_clients_that_take_no_html_get_markdown(accept: str | None, is_html: bool) -> None:
    conn = debug(failing, headers={} if accept is None else {"accept": accept})
    assert header(conn, "content-type") == f"text/{'html' if is_html else 'markdown'}; charset=utf-8"
    assert body(conn).startswith("<!DOCTYPE html>" if is_html else "# ZeroDivisionError at GET /\n")


def test_the_layout_of_the_markdown() -> None:
    def action(conn: Conn, params: Any) -> Conn:
        conn.put_session("user_id", 7)
        raise RuntimeError("oops\nand more")

    conn = debug(
        action, "/a?x=1", headers={"x-b": "2", "accept": "application/json", "x-a": "1"},
        secret_key_base=SECRET, plugs=[Conn.fetch_session],
    )  # fmt: skip
    head, _, rest = body(conn).partition("## Connection details")
    assert head.startswith("# RuntimeError at GET /a\n\nException:\n\n    ** (RuntimeError) oops\n    and more\n")
    assert f'    \n      File "{__file__}"'.strip() in head and all(
        line.startswith("    ") for line in head.split("\n")[4:-2]
    )
    assert rest == (
        "\n\n### Params\n\n    {'x': '1', 'path': ['a']}\n\n### Request info\n\n"
        "  * URI: http://localhost/a\n  * Query string: x=1\n\n### Headers\n\n"
        "  * accept: application/json\n  * host: localhost\n  * x-a: 1\n  * x-b: 2\n\n"
        "### Session\n\n    {'user_id': 7}\n"
    )


def test_a_page_can_be_copied_as_markdown() -> None:
    assert "# ZeroDivisionError at GET /\n\nException:" in page_of(failing).text


def test_a_debug_page_that_fails_itself_leaves_a_plain_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(phoenix, "debug_page", lambda *arguments: 1 / 0)
    conn = debug(failing)
    assert (conn.status, body(conn)) == (500, "Internal Server Error")
    assert "raised an error itself" in caplog.text


def test_a_pipeline_of_plugs_is_named_in_the_traceback_as_any_code() -> None:
    class Broken(Pipeline):
        plug(Conn.fetch_query_params) if hasattr(Conn, "fetch_query_params") else None
        plug(lambda conn: conn.no_such_word())

    assert "no_such_word" in page_of(failing, plugs=[Broken]).text

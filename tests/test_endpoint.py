"""Chapter 15, the endpoint: its options, URLs, secrets, plugs, log, and the server it starts."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import phoenix
from phoenix import (
    ArgumentError,
    ConfigError,
    Conn,
    Controller,
    DefinitionError,
    Endpoint,
    Parsers,
    Pipeline,
    RequestLogger,
    SecretError,
    Session,
    Static,
    TemplateSyntaxError,
    View,
    collection,
    delete,
    forward,
    get,
    head_as_get,
    method_override,
    pipe_through,
    pipeline,
    plug,
    post,
    put,
    resources,
    scope,
    template,
)  # fmt: skip

SECRET = "the secret key base of these tests, which is long enough: 0123456789abcdef"
OLD_SECRET = "an older secret key base, which some cookies are still signed with: 0123456789"


def hello(conn: Conn, params: Any) -> Conn:
    return conn.text("hello")


def echo(conn: Conn, params: Any) -> Conn:
    return conn.json({"method": conn.method, "params": params})


class Router(phoenix.Router):
    get("/", hello, as_="root")
    get("/users/:id", hello, as_="user")
    post("/echo", echo)
    put("/echo", echo)
    delete("/echo", echo)


def endpoint(router: Any = Router, **options: Any) -> Endpoint:
    return Endpoint(router, **{"env": "test", "log": False, **options})


def body(conn: Conn) -> str:
    return phoenix.response_body(conn).decode()


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
        while part := connection.recv(65_536):
            parts.append(part)
        return b"".join(parts)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "PHOENIX_ENV", "MIX_ENV"):
        monkeypatch.delenv(name, raising=False)


# --- Options ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"secret_key_bse": SECRET},
            ["unknown option 'secret_key_bse' of Endpoint", "Did you mean 'secret_key_base'?"],
        ),
        ({"zzz": 1}, ["unknown option 'zzz'", "The options are: url, http, https, "]),
        ({"port": 4001}, ["unknown option 'port' of Endpoint", 'Write http={"port": ...}']),
        ({"host": "0.0.0.0"}, ['Write http={"host": ...}']),
        ({"scheme": "https"}, ['Write url={"scheme": ...}']),
        (
            {"url": {"hots": "example.com"}},
            ["unknown key 'hots' in url=", "Did you mean 'host'?", "host, scheme, port, path"],
        ),
        ({"url": {"host": "https://example.com"}}, ["url={'host': 'https://example.com'}: expected the parts of a URL"]),
        ({"url": {"host": "example.com:80"}}, ["expected the parts of a URL"]),
        ({"url": {"scheme": "ws"}}, ["expected the parts of a URL"]),
        ({"url": {"port": "eighty"}}, ["the port of url is 'eighty'"]),
        ({"http": {"prot": 80}}, ["unknown key 'prot' in http=", "Did you mean 'port'?"]),
        ({"static": {"form": "x"}}, ["unknown key 'form' in static=", "It takes at, from_, only"]),
        ({"session": {"max_ages": 1}}, ["unknown key 'max_ages' in session=", "Did you mean 'max_age'?"]),
        ({"parsers": {"lenght": 1}}, ["unknown key 'lenght' in parsers=", "Did you mean 'length'?"]),
        ({"limits": {"lines": 1}}, ["unknown key 'lines' in limits=", "Did you mean 'line'?"]),
        ({"timeouts": {"heads": 1}}, ["unknown key 'heads' in timeouts=", "Did you mean 'head'?"]),
        ({"static": "priv"}, ["static='priv': expected a dict, or False for none"]),
        ({"http": 4000}, ["http=4000: expected a dict"]),
        ({"url": "http://example.com"}, ["url='http://example.com': expected a dict"]),
        ({"plugs": hello}, ["plugs=<function hello", "expected a list"]),
        ({"filter_parameters": "password"}, ["filter_parameters='password': expected a list"]),
        ({"threads": 0}, ["threads=0: expected a number from 1 on"]),
        ({"threads": "4"}, ["threads='4': expected a number"]),
        ({"http": {"port": "http"}}, ["the port of http is 'http', expected a number"]),
        ({"http": None}, ["http=False without https=...: there would be no port"]),
        ({"log": "loud"}, ["cannot log at level 'loud'"]),
    ],
)
def test_an_option_that_cannot_be_meant_is_explained(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        endpoint(**options)
    for text in words:
        assert text in str(caught.value)


def test_an_option_of_a_plug_is_checked_by_the_plug() -> None:
    with pytest.raises(ArgumentError, match="unknown parser 'xml'"):
        endpoint(parsers={"parsers": ["xml"]})
    with pytest.raises(ArgumentError, match="session store 'redis' is unknown"):
        endpoint(session={"store": "redis"})


def test_a_keyword_of_python_is_written_with_or_without_its_underscore(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for key in ("from", "from_"):
        assert body(endpoint(static={key: str(tmp_path)}).test().get("/a.txt")) == "a"
    for key in ("pass", "pass_"):
        refused = endpoint(parsers={key: []}).test().post("/echo", body="x", headers={"content-type": "text/plain"})
        assert refused.status == 415


def test_config_returns_what_is_in_force() -> None:
    app = endpoint(threads=7)
    assert (app.config("threads"), app.config("parsers"), app.config("nothing", "else")) == (7, {}, "else")


@pytest.mark.parametrize(
    "variables, env, debug",
    [
        ({}, "dev", True), ({"PHOENIX_ENV": "prod"}, "prod", False), ({"MIX_ENV": "test"}, "test", False),
        ({"PHOENIX_ENV": "prod", "MIX_ENV": "dev"}, "prod", False), ({"PHOENIX_ENV": ""}, "dev", True),
    ],
)  # fmt: skip
def test_the_environment_comes_from_a_variable(
    variables: dict[str, str], env: str, debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = Endpoint(Router)
    assert (app.env, app.debug_errors) == (env, debug)
    assert Endpoint(Router, env="staging").env == "staging"
    assert Endpoint(Router, debug_errors=not debug).debug_errors is not debug


def test_several_endpoints_live_in_one_process() -> None:
    class Other(phoenix.Router):
        get("/", lambda conn, params: conn.text("other"))

    first, second = endpoint(url={"host": "a.example"}), endpoint(Other, url={"host": "b.example"})
    assert (body(first.test().get("/")), body(second.test().get("/"))) == ("hello", "other")
    assert (first.url("/x"), second.url("/x")) == ("http://a.example/x", "http://b.example/x")


# --- URLs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, http, expected",
    [
        ({}, {}, "http://localhost:4001/users"),
        ({}, {"port": 4000}, "http://localhost:4000/users"),
        ({}, {"port": "8080"}, "http://localhost:8080/users"),
        ({}, {"port": 80}, "http://localhost/users"),
        ({"host": "example.com"}, {"port": 4000}, "http://example.com/users"),
        ({"host": "example.com", "port": 80}, {"port": 4000}, "http://example.com/users"),
        ({"host": "example.com", "port": ""}, {"port": ""}, "http://example.com/users"),
        ({"host": "example.com", "port": "80"}, {}, "http://example.com/users"),
        ({"host": "example.com", "port": 8080}, {}, "http://example.com:8080/users"),
        ({"host": "example.com", "port": 443}, {}, "http://example.com:443/users"),
        ({"scheme": "https", "host": "example.com"}, {"port": 4000}, "https://example.com/users"),
        ({"scheme": "https", "host": "example.com", "port": 443}, {}, "https://example.com/users"),
        ({"scheme": "https", "host": "example.com", "port": "8443"}, {}, "https://example.com:8443/users"),
        ({"scheme": "https"}, {}, "https://localhost/users"),
        ({"host": "localhost"}, {"port": 4000}, "http://localhost:4000/users"),
        ({"host": "127.0.0.1"}, {"port": 4000}, "http://127.0.0.1:4000/users"),
        ({"host": "[::1]"}, {"port": 4000}, "http://[::1]:4000/users"),
        ({"host": "app.localhost"}, {"port": 4000}, "http://app.localhost:4000/users"),
        ({"host": "example.com", "path": "/shop"}, {}, "http://example.com/shop/users"),
        ({"host": "example.com", "path": "shop/"}, {}, "http://example.com/shop/users"),
        ({"host": "example.com", "path": "/"}, {}, "http://example.com/users"),
        ({"host": "example.com", "path": None}, {}, "http://example.com/users"),
    ],
)
def test_urls_begin_as_the_options_say(url: Any, http: Any, expected: str) -> None:
    assert endpoint(url=url, http=http).url("/users") == expected


def test_readme_serving_your_application_behind_a_proxy() -> None:
    app = endpoint(http={"port": 4000}, url={"host": "myurlhost", "port": 80})
    assert Router.helpers.user_url(app, 7) == "http://myurlhost/users/7"
    assert app.port == 4000
    other = endpoint(http={"port": 4000}, url={"host": "myurlhost", "port": 8080})
    assert Router.helpers.user_url(other, 7) == "http://myurlhost:8080/users/7"


@pytest.mark.parametrize(
    "path, expected",
    [
        ("", "http://h/shop"), ("/", "http://h/shop/"), ("/x", "http://h/shop/x"), ("/shop", "http://h/shop"),
        ("/shop/x", "http://h/shop/x"), ("/shop?a=1", "http://h/shop?a=1"), ("/shopping", "http://h/shop/shopping"),
        ("/a/shop", "http://h/shop/a/shop"),
    ],
)  # fmt: skip
def test_a_path_in_front_of_the_app_is_put_once(path: str, expected: str) -> None:
    assert endpoint(url={"host": "h", "path": "/shop"}).url(path) == expected


def test_the_helpers_of_the_router_begin_like_the_urls_of_the_endpoint() -> None:
    app = endpoint(url={"host": "example.com", "path": "/shop"})
    assert Router.helpers.user_path(app, 7) == "/shop/users/7"
    assert Router.helpers.user_url(app, 7) == "http://example.com/shop/users/7"
    assert app.url(Router.helpers.user_path(app, 7)) == "http://example.com/shop/users/7"


def test_a_form_of_the_public_host_is_no_forgery_even_below_a_path() -> None:
    class Site(phoenix.Router):
        with pipeline("browser"):
            plug(Conn.fetch_session)
            plug(Conn.protect_from_forgery)
        with scope("/"):
            pipe_through("browser")
            get("/token", lambda conn, params: conn.text(conn.csrf_token()))
            post("/", hello)

    app = endpoint(Site, secret_key_base=SECRET, url={"scheme": "https", "host": "example.com", "path": "/shop"})
    client = app.test(csrf=True)
    token = body(client.get("/token"))
    for origin, status in (
        ("https://example.com", 200),
        ("https://evil.example", 403),
        ("https://example.com.evil", 403),
    ):
        assert client.post("/", {"_csrf_token": token}, headers={"origin": origin}).status == status


@pytest.mark.parametrize(
    "http, variable, env, port",
    [
        ({}, None, "dev", 4000), ({}, None, "prod", 4000), ({}, None, "test", 4001), ({}, "5000", "prod", 5000),
        ({"port": 6000}, "5000", "dev", 6000), ({"port": "6000"}, None, "dev", 6000), ({"port": 0}, "5000", "dev", 0),
        ({"port": None}, "5000", "dev", 5000), ({}, "", "dev", 4000),
    ],
)  # fmt: skip
def test_the_port_comes_from_the_option_the_variable_or_the_environment(
    http: Any, variable: str | None, env: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("PORT", variable)
    assert Endpoint(Router, env=env, http=http).port == port


def test_a_variable_that_is_no_port_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "tcp://10.0.0.1:80")
    with pytest.raises(ConfigError, match="the port of http is 'tcp://10.0.0.1:80', expected a number"):
        Endpoint(Router)


# --- Secrets and sessions -----------------------------------------------------------------


def remember(conn: Conn, params: Any) -> Conn:
    return conn.put_session("foo", "bar").text(conn.get_session("foo"))


def recall(conn: Conn, params: Any) -> Conn:
    return conn.text(str(conn.get_session("foo")))


class SessionRouter(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.fetch_session)
    with scope("/"):
        pipe_through("browser")
        get("/remember", remember)
        get("/recall", recall)


def test_a_session_without_a_secret_is_found_when_the_app_is_made() -> None:
    with pytest.raises(SecretError) as caught:
        endpoint(SessionRouter)
    assert re.search(
        r"GET /remember \(.*test_endpoint\.py:\d+\) fetches the session\. secret_key_base is not set", str(caught.value)
    )


def test_it_is_found_in_pipelines_plugs_and_forwarded_routers_too() -> None:
    class Browser(Pipeline):
        plug(Conn.fetch_session)

    class Forwarding(phoenix.Router):
        forward("/shop", SessionRouter)

    class Piped(phoenix.Router):
        with scope("/"):
            pipe_through(Browser)
            get("/", hello)

    class Plain(phoenix.Router):
        get("/", hello)

    for router, options in (
        (Forwarding, {}),
        (Piped, {}),
        (Plain, {"plugs": [Browser]}),
        (Plain, {"plugs": [Conn.fetch_session]}),
    ):
        with pytest.raises(SecretError, match="fetches the session"):
            endpoint(router, **options)
        endpoint(router, secret_key_base=SECRET, **options)
    endpoint(Plain)  # no session, no secret


def test_the_secret_may_be_that_of_the_session() -> None:
    client = endpoint(SessionRouter, session={"secret": SECRET}).test()
    client.get("/remember")
    assert body(client.get("/recall")) == "bar"


@pytest.mark.parametrize(
    "secret, words", [("short", "is 5 bytes long"), (b"short", "is 5 bytes long"), ("", "is not set")]
)
def test_a_secret_that_is_too_short_is_refused(secret: Any, words: str) -> None:
    with pytest.raises(SecretError, match=words):
        endpoint(secret_key_base=secret)
    with pytest.raises(SecretError, match=words):
        endpoint(secret_key_base=[SECRET, secret])


def test_the_error_tells_how_to_make_a_secret_and_that_works() -> None:
    with pytest.raises(SecretError) as caught:
        endpoint(secret_key_base="short")
    command = re.search(r'`python (-c "[^`]+")`', str(caught.value))
    assert command is not None
    made = subprocess.run(
        [sys.executable, "-c", command[1][4:-1]], capture_output=True, text=True, timeout=30, check=True
    )
    endpoint(SessionRouter, secret_key_base=made.stdout.strip())


def test_older_secrets_still_verify_and_the_newest_signs() -> None:
    before = endpoint(SessionRouter, secret_key_base=OLD_SECRET).test()
    before.get("/remember")
    during = endpoint(SessionRouter, secret_key_base=[SECRET, OLD_SECRET]).test()
    during.cookies.update(before.cookies)
    assert body(during.get("/recall")) == "bar"
    during.get("/remember")
    after = endpoint(SessionRouter, secret_key_base=SECRET).test()
    after.cookies.update(during.cookies)
    assert body(after.get("/recall")) == "bar"
    after.cookies.clear()
    after.cookies.update(before.cookies)
    assert body(after.get("/recall")) == "None"


def test_sessions_can_be_left_out() -> None:
    app = endpoint(SessionRouter, secret_key_base=SECRET, session=False, debug_errors=True)
    assert "cannot fetch session without a configured session plug" in body(app.test().get("/recall"))


# --- Plugs --------------------------------------------------------------------------------


def test_an_application_behind_two_routers_reads_the_body_of_a_form_itself() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["wsgi.input"].read()]

    class Shop(phoenix.Router):
        forward("/legacy", application)

    class Both(phoenix.Router):
        forward("/shop", Shop)
        forward("/store", Shop)

    for path in ("/shop/legacy", "/store/legacy/cart"):
        assert body(endpoint(Both).test().post(path, {"a": "1"})) == "a=1"


def test_the_default_plugs_parse_override_and_answer_head() -> None:
    client = endpoint().test()
    assert client.json_response(client.post("/echo", {"a": {"b": "1"}})) == {
        "method": "POST",
        "params": {"a": {"b": "1"}},
    }
    assert client.json_response(client.post("/echo", json={"a": [1]}))["params"] == {"a": [1]}
    assert client.json_response(client.post("/echo", {"_method": "delete"}))["method"] == "DELETE"
    overridden = client.post("/echo", {}, headers={"x-http-method-override": "PUT"})
    assert client.json_response(overridden)["method"] == "PUT"
    assert client.head("/").status == 200


def test_parsers_can_be_limited_or_left_out() -> None:
    assert endpoint(parsers={"length": 10}).test().post("/echo", {"a": "x" * 20}).status == 413
    assert endpoint(parsers={"max_depth": 2}).test().post("/echo", {"a[b][c][d]": "1"}).status == 400
    client = endpoint(parsers=False).test()
    assert client.json_response(client.post("/echo", {"a": "1"}))["params"] == {}


def test_more_plugs_run_in_front_of_the_router_in_their_order() -> None:
    def first(conn: Conn) -> Conn:
        return conn.assign("seen", ["first", dict(conn.body_params)])

    class Second:
        def __init__(self, name: str = "second") -> None:
            self.name = name

        def __call__(self, conn: Conn) -> Conn:
            conn.assigns["seen"].append(self.name)
            return conn

    async def third(conn: Conn) -> Conn:
        await asyncio.sleep(0)
        conn.assigns["seen"].append("third")
        return conn

    conn = endpoint(plugs=[first, Second, Second("object"), third]).test().post("/echo", {"a": "1"})
    assert conn.assigns["seen"] == ["first", {"a": "1"}, "second", "object", "third"]


def test_a_plug_that_halts_keeps_the_request_from_the_router() -> None:
    def closed(conn: Conn) -> Conn:
        return conn.put_status(503).text("closed").halt()

    conn = endpoint(plugs=[closed]).test().get("/")
    assert (conn.status, body(conn)) == (503, "closed")


def test_what_was_set_and_not_sent_is_sent() -> None:
    def answer(conn: Conn) -> Conn:
        return conn.resp(202, "set").halt()

    conn = endpoint(plugs=[answer]).test().get("/")
    assert (conn.status, body(conn), conn.state) == (202, "set", "sent")


@pytest.mark.parametrize(
    "bad, words", [("text", "cannot plug 'text'"), (7, "cannot plug 7"), (lambda: None, "cannot be called with a conn")]
)
def test_what_is_no_plug_is_refused_with_its_place(bad: Any, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        Endpoint(Router, plugs=[bad])
    assert words in str(caught.value) and f"{os.path.basename(__file__)}:" in str(caught.value)


def test_what_is_no_router_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot plug 'Router'"):
        endpoint("Router")


def test_a_function_can_take_the_place_of_the_router() -> None:
    def everything(conn: Conn) -> Conn:
        return conn.text(conn.request_path)

    assert body(endpoint(everything).test().get("/a/b")) == "/a/b"


def test_a_plug_that_returns_nothing_is_named_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    def forgetful(conn: Conn) -> None:
        conn.assign("x", 1)

    assert endpoint(plugs=[forgetful]).test().get("/").status == 500
    assert re.search(r"test_endpoint\.py:\d+: plug \S+forgetful returned None.*expected the conn", caplog.text)


class OwnStack(Endpoint):
    plug(RequestLogger, "debug")
    plug(Parsers, ["json"])
    plug(method_override)
    plug(head_as_get)
    plug(Session, key="_own_key", max_age=60)


def test_a_subclass_has_a_stack_of_its_own() -> None:
    app = OwnStack(SessionRouter, env="test", secret_key_base=SECRET)
    cookies = app.test().get("/remember")._resp_cookies or {}
    assert list(cookies) == ["_own_key"] and "max-age=60" in cookies["_own_key"][1]
    client = OwnStack(Router, env="test").test()
    assert client.json_response(client.post("/echo", json={"a": 1}))["params"] == {"a": 1}
    assert client.json_response(client.post("/echo", {"a": "1"}))["params"] == {}
    assert client.head("/").status == 200


def test_the_stack_is_inherited_and_added_to() -> None:
    def late(conn: Conn) -> Conn:
        return conn.assign("late", conn.body_params["a"])

    class More(OwnStack):
        plug(late)

    assert More(Router, env="test").test().post("/echo", json={"a": 1}).assigns["late"] == 1
    assert "late" not in OwnStack(Router, env="test").test().post("/echo", json={"a": 1}).assigns


@pytest.mark.parametrize(
    "options", [{"static": {"at": "/x"}}, {"session": {"key": "x"}}, {"parsers": {}}, {"log": False}]
)
def test_options_for_the_default_plugs_are_refused_beside_an_own_stack(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name}=... has no effect: OwnStack plugs a stack of its own"):
        OwnStack(Router, env="test", **options)


def test_an_own_stack_without_sessions_says_what_is_missing() -> None:
    class Bare(Endpoint):
        plug(Parsers)

    app = Bare(SessionRouter, env="test", secret_key_base=SECRET, debug_errors=True)
    assert "plug(Session, key=" in body(app.test().get("/recall"))


def test_a_stack_without_a_router_is_pointless_and_one_in_a_wrong_place_an_error() -> None:
    with pytest.raises(DefinitionError, match="must be written in the body of a pipeline, a controller or an endpoint"):
        plug(Static)


def test_mistakes_in_templates_are_found_when_the_app_is_made(tmp_path: Path) -> None:
    class PageView(View):
        root = str(tmp_path)

    class PageController(Controller):
        view = PageView

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render("show.html")

    class PageRouter(phoenix.Router):
        get("/", PageController, "show")

    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "show.html.eex").write_text("<p>\n<%= 1 + %>")
    with pytest.raises(TemplateSyntaxError, match=r"show\.html\.eex:2:"):
        Endpoint(PageRouter, env="test")
    endpoint()  # of another app, which has nothing to do with that view


def test_a_template_engine_can_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Upper:
        def compile(self, source: str, path: str, name: str, *, line: int = 1, column: int = 1) -> Any:
            return lambda assigns, scope: source.upper().replace("NAME", assigns["name"])

    monkeypatch.setattr(View, "engines", dict(View.engines))
    endpoint(template_engines={"upper": Upper()})

    class PageView(View):
        template("show.txt.upper", "hello name")

    assert phoenix.render(PageView, "show.txt", name="Ann") == "HELLO Ann"


# --- The log ------------------------------------------------------------------------------


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "phoenix"]


def test_a_request_is_logged_when_it_comes_and_when_its_response_goes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "phoenix"):
        Endpoint(Router, env="test").test().get("/users/7?password=hunter2")
    came, sent = messages(caplog)
    assert came == "GET /users/7" and re.fullmatch(r"Sent 200 in \d+(µs|ms)", sent)
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_the_time_is_in_microseconds_below_one_millisecond(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for took, shown in ((0.0000123, "12µs"), (0.0009, "900µs"), (0.005, "5ms"), (1.2346, "1235ms")):
        times = iter([100.0, 100.0 + took])
        monkeypatch.setattr(time, "perf_counter", lambda times=times: next(times))
        caplog.clear()
        with caplog.at_level(logging.INFO, "phoenix"):
            RequestLogger()(Conn("GET", "/")).send_resp(200, "")
        assert messages(caplog)[-1] == f"Sent 200 in {shown}"


def test_chunks_and_files_are_told_apart(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")

    def answer(conn: Conn, params: Any) -> Conn:
        match params["path"]:
            case ["file"]:
                return conn.send_file(206, tmp_path / "a.txt")
            case ["parts"]:
                return conn.send_chunked(404, iter(["a"]))
            case ["empty"]:
                return conn.send_resp("no_content", "")
        return conn.send_chunked(200).chunk("a")

    class Files(phoenix.Router):
        get("/*path", answer)

    for path, start in (
        ("file", "Sent 206"),
        ("parts", "Chunked 404"),
        ("chunks", "Chunked 200"),
        ("empty", "Sent 204"),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, "phoenix"):
            Endpoint(Files, env="test").test().get("/" + path)
        assert messages(caplog)[-1].startswith(start + " in ")


def test_an_error_page_is_logged_as_any_response(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "phoenix"):
        Endpoint(Router, env="test").test().get("/none")
    came, error, sent = messages(caplog)
    assert came == "GET /none" and "answered 404 ** (NoRouteError)" in error and sent.startswith("Sent 404 in ")


@pytest.mark.parametrize(
    "option, levels",
    [
        (logging.INFO, ["INFO", "INFO"]), ("warning", ["WARNING", "WARNING"]), (logging.DEBUG, ["DEBUG", "DEBUG"]),
        (True, ["INFO", "INFO"]), (False, []), (None, []),
    ],
)  # fmt: skip
def test_the_level_of_the_request_log_is_an_option(
    option: Any, levels: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "phoenix"):
        Endpoint(Router, env="test", log=option).test().get("/")
    assert [record.levelname for record in caplog.records if not record.getMessage().startswith("Processing")] == levels


class UserController(Controller):
    def show(self, conn: Conn, params: Any) -> Conn:
        return conn.text("shown")

    def create(self, conn: Conn, params: Any) -> Conn:
        return conn.text("created")


class UserRouter(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
    with scope("/"):
        pipe_through("browser")
        with resources("/users", UserController, only=["show", "create"]):
            with collection():
                post("/import", UserController, "create", as_="import")
    get("/plain/:id", hello)


def processed(caplog: pytest.LogCaptureFixture, call: Callable[[phoenix.TestClient], Conn], **options: Any) -> str:
    with caplog.at_level(logging.DEBUG, "phoenix"):
        conn = call(endpoint(UserRouter, **options).test())
    assert conn.status in (200, 400)
    (message,) = [each for each in messages(caplog) if each.startswith("Processing")]
    assert [record.levelname for record in caplog.records if record.getMessage() == message] == ["DEBUG"]
    return message


def test_what_answers_is_logged_with_its_params_and_pipelines(caplog: pytest.LogCaptureFixture) -> None:
    assert processed(caplog, lambda client: client.get("/users/7?page=2")) == (
        "Processing with UserController.show/2\n  Parameters: {'page': '2', 'id': '7'}\n  Pipelines: ['browser']"
    )


def test_a_function_is_logged_like_an_action(caplog: pytest.LogCaptureFixture) -> None:
    assert (
        processed(caplog, lambda client: client.get("/plain/7"))
        == "Processing with hello/2\n  Parameters: {'id': '7'}\n  Pipelines: []"
    )


def test_secrets_in_params_are_not_logged_at_any_depth(caplog: pytest.LogCaptureFixture) -> None:
    sent = {
        "password": "hunter2", "name": "Ann", "user": {"password_confirmation": "hunter2",
        "rows": [{"old_password": "hunter2"}]},
        "_csrf_token": "hunter2",
    }  # fmt: skip
    message = processed(caplog, lambda client: client.post("/users", json=sent))
    assert "hunter2" not in message and message.count("'[FILTERED]'") == 4 and "'name': 'Ann'" in message


def test_the_words_to_filter_are_an_option(caplog: pytest.LogCaptureFixture) -> None:
    message = processed(
        caplog, lambda client: client.post("/users", {"card": "4711", "name": "Ann"}), filter_parameters=["card"]
    )
    assert "4711" not in message and "Ann" in message


def test_params_that_cannot_be_read_do_not_break_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert "Parameters: [UNFETCHED]" in processed(caplog, lambda client: client.get("/users/7?a=%zz"))


def test_long_params_are_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    message = processed(caplog, lambda client: client.post("/users", {"text": "x" * 100_000}))
    assert len(message) < 3000 and "..." in message


def test_nothing_of_it_is_done_when_the_log_does_not_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phoenix, "filter_params", lambda *arguments: 1 / 0)
    monkeypatch.setattr(phoenix.logger, "level", logging.INFO)
    phoenix.logger.manager._clear_cache()  # type: ignore[attr-defined]
    assert endpoint(UserRouter).test().get("/users/7").status == 200


def test_a_test_client_can_be_collected_anywhere() -> None:
    """What runs when the garbage is collected may wait for nothing: others may hold what it would wait for."""
    from concurrent.futures import thread

    async def action(conn: Conn, params: Any) -> Conn:
        await asyncio.sleep(0)
        return conn.text("hi")

    class Waiting(phoenix.Router):
        get("/", action)

    async def collect() -> None:
        client = endpoint(Waiting).test()
        assert (await asyncio.to_thread(client.get, "/")).status == 200
        client.itself = client  # type: ignore[attr-defined]
        del client
        with thread._global_shutdown_lock:
            gc.collect()
        done.set()

    done = threading.Event()
    threading.Thread(target=lambda: asyncio.run(collect()), daemon=True).start()
    assert done.wait(10), "it waits for a lock that the thread itself holds"


# --- Serving ------------------------------------------------------------------------------


def test_the_conn_knows_how_it_was_reached() -> None:
    def answer(conn: Conn, params: Any) -> Conn:
        return conn.json([conn.scheme, conn.host, conn.port, conn.remote_ip, conn.request_path, conn.query_string])

    class Any_(phoenix.Router):
        get("/*path", answer)

    got = served(
        endpoint(Any_),
        lambda port: exchange(port, b"GET /a%20b?c=d HTTP/1.1\r\nhost: Example.com:81\r\nconnection: close\r\n\r\n"),
    )
    assert got.endswith(b'["http","example.com",81,"127.0.0.1","/a%20b","c=d"]')


def test_limits_and_timeouts_reach_the_server() -> None:
    app = endpoint(limits={"line": 100}, timeouts={"idle": 7})
    long = b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nhost: a\r\n\r\n"
    assert served(app, lambda port: exchange(port, long)).startswith(b"HTTP/1.1 414 ")
    assert app.make_server(port=0).timeouts.idle == 7


def test_the_address_to_listen_on_is_an_option_and_an_argument() -> None:
    app = endpoint(http={"host": "0.0.0.0", "port": 4321})
    assert (app.make_server().host, app.make_server().port) == ("0.0.0.0", 4321)
    assert (app.make_server("::1", 0).host, app.make_server("::1", 0).port) == ("::1", 0)
    assert endpoint().make_server().host == "127.0.0.1"


APP = """
import phoenix
from phoenix import get

def hello(conn, params):
    return conn.text("hello")

class Router(phoenix.Router):
    get("/", hello)

phoenix.Endpoint(Router).run()
"""


@pytest.fixture
def app_file(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path / "app.py"


def test_run_serves_until_it_is_asked_to_stop(app_file: Path, start: Callable[..., Any]) -> None:
    server = start(app_file, PYTHONPATH=str(Path(phoenix.__file__).parent))
    assert server.request("/").text == "hello"
    assert server.request("/none").status == 404
    assert server.stop() == 0
    assert (
        "[INFO] GET /\n" in server.log
        and "[DEBUG] Processing with hello/2\n" in server.log
        and "Sent 200 in" in server.log
    )


def test_a_port_that_is_in_use_is_explained(app_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, str(app_file)], capture_output=True, text=True, timeout=30,
            env={**os.environ, "PORT": port, "PYTHONPATH": str(Path(phoenix.__file__).parent)},
        )  # fmt: skip
    assert ended.returncode == 1 and f"Port {port} is already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_endpoint_shows_its_router() -> None:
    assert repr(endpoint()) == "<Endpoint of Router>"

"""Chapter 15, configuration: proxies that are trusted, https that is forced, and the files in ``config``."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import re
import socket
import sys
import wsgiref.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import phoenix
import pytest
from phoenix import Conn, ConfigError, Endpoint, get, pipe_through, pipeline, plug, post, scope, websocket
from serving import TIMEOUT, Serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

SECRET = "a secret of at least sixty-four bytes, which is what the endpoint wants"


def show(conn: Any, params: Any) -> Any:
    return conn.put_resp_cookie("seen", "1").json(
        [conn.remote_ip, conn.scheme, conn.host, conn.port, conn.request_url(), conn.get_req_header("host")]
    )


def token(conn: Any, params: Any) -> Any:
    return conn.text(conn.csrf_token())


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(f"{ws.conn.scheme} {ws.conn.remote_ip} {message}")


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    names = ("wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")
    return [" ".join(str(environ[name]) for name in names).encode()]


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.fetch_session)
        plug(Conn.protect_from_forgery)

    get("/", show)
    post("/", show)
    get("/users/:id", show, as_="user")
    for path in ("/health", "/health/deep", "/healthy"):
        get(path, show, as_=path[1:].replace("/", "_"))
    websocket("/echo", echo)
    phoenix.forward("/wsgi", wsgi)
    with scope("/form"):
        pipe_through("browser")
        get("/", token)
        post("/", token)


def endpoint(**options: Any) -> Endpoint:
    return Endpoint(Router, **{"env": "test", "log": False, "static": False, "secret_key_base": SECRET, **options})


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "PHOENIX_ENV", "MIX_ENV"):
        monkeypatch.delenv(name, raising=False)


# --- Trusted proxies ----------------------------------------------------------------------

PROXIES = ["127.0.0.1", "10.0.0.0/8", "::1", "2001:db8:ffff::/48"]
CLIENT = "203.0.113.7"


def seen(headers: dict[str, str], proxies: Any = PROXIES, **options: Any) -> Any:
    """Return what an action sees of a request with these headers."""
    conn = endpoint(trusted_proxies=proxies).test().get("/", headers=headers, **options)
    return json.loads(phoenix.response_body(conn))


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("203.0.113.7", CLIENT),
        (" 203.0.113.7\t", CLIENT),
        ("203.0.113.7:4711", CLIENT),
        ("198.51.100.1, 203.0.113.7", CLIENT),  # what the client says of itself does not count
        ("203.0.113.7, 10.1.2.3", CLIENT),
        ("198.51.100.1, 203.0.113.7, 10.1.2.3,10.0.0.1", CLIENT),
        ("127.0.0.1, 203.0.113.7", CLIENT),
        ("10.1.2.3, 10.0.0.1", "10.1.2.3"),  # all are ours: the first one asks
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:DB8:0::7]:4711", "2001:db8::7"),
        ("203.0.113.7, 2001:db8:ffff::1", CLIENT),
        ("203.0.113.7, [2001:db8:ffff::1]:80", CLIENT),
        ("203.0.113.7, ::ffff:10.0.0.1", CLIENT),
        ("::ffff:203.0.113.7", CLIENT),
        ("", "127.0.0.1"),
        ("unknown", "127.0.0.1"),
        ("203.0.113.7, unknown", "127.0.0.1"),  # nobody vouches for what stands before
        ("203.0.113.7, unknown, 10.0.0.1", "10.0.0.1"),
        ("203.0.113.7,", "127.0.0.1"),
        ("203.0.113.256", "127.0.0.1"),
        ("203.0.113.07", "127.0.0.1"),
        ("1.2.3.4:5:6", "127.0.0.1"),
        ("<script>", "127.0.0.1"),
        ("203.0.113.7 10.0.0.1", "127.0.0.1"),
    ],
)
def test_the_last_address_that_is_not_trusted_is_the_client(said: str, client: str) -> None:
    assert seen({"x-forwarded-for": said}) == [client, "http", "localhost", 80, "http://localhost/", ["localhost"]]


@pytest.mark.parametrize(
    ("headers", "scheme", "host", "port", "url"),
    [
        ({"proto": "https"}, "https", "localhost", 443, "https://localhost/"),
        ({"proto": "HTTPS"}, "https", "localhost", 443, "https://localhost/"),
        ({"proto": "wss"}, "https", "localhost", 443, "https://localhost/"),
        ({"proto": "https", "port": "8443"}, "https", "localhost", 8443, "https://localhost:8443/"),
        ({"proto": "https", "host": "example.com"}, "https", "example.com", 443, "https://example.com/"),
        ({"proto": "https", "host": "Example.com:8443"}, "https", "example.com", 8443, "https://example.com:8443/"),
        ({"host": "example.com", "port": "80"}, "http", "example.com", 80, "http://example.com/"),
        ({"host": "[2001:db8::1]:81"}, "http", "[2001:db8::1]", 81, "http://[2001:db8::1]:81/"),
        ({"proto": "https, http"}, "http", "localhost", 80, "http://localhost/"),  # one hop: the last entry
        ({"for": "203.0.113.7, 10.0.0.1", "proto": "https, http"}, "https", "localhost", 443, "https://localhost/"),
        ({"for": "203.0.113.7, 10.0.0.1", "proto": "https"}, "https", "localhost", 443, "https://localhost/"),
        ({"for": "203.0.113.7, 10.0.0.1", "host": "evil.example, example.com, proxy"}, "http", "example.com", 80, None),
        ({"proto": "gopher"}, "http", "localhost", 80, "http://localhost/"),
        ({"proto": ""}, "http", "localhost", 80, "http://localhost/"),
        ({"host": "exa mple.com"}, "http", "localhost", 80, "http://localhost/"),
        ({"host": "evil.com/@x", "proto": "https"}, "https", "localhost", 443, "https://localhost/"),
        ({"port": "0"}, "http", "localhost", 80, "http://localhost/"),
        ({"port": "65536"}, "http", "localhost", 80, "http://localhost/"),
        ({"port": "9" * 5000}, "http", "localhost", 80, "http://localhost/"),
        ({"port": "-1"}, "http", "localhost", 80, "http://localhost/"),
        ({"port": "²"}, "http", "localhost", 80, "http://localhost/"),
    ],
)
def test_scheme_host_and_port_are_those_that_the_client_asked_for(
    headers: dict[str, str], scheme: str, host: str, port: int, url: str | None
) -> None:
    found = seen({f"x-forwarded-{name}": value for name, value in headers.items()})
    assert found[1:4] == [scheme, host, port]
    assert url in (None, found[4])
    assert found[5] == [found[4].split("/")[2]]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("for=203.0.113.7;proto=https;host=example.com", [CLIENT, "https", "example.com", 443]),
        ('For="203.0.113.7:4711"; Proto="https" ;by=10.0.0.1', [CLIENT, "https", "localhost", 443]),
        ('for="[2001:db8:cafe::17]:4711"', ["2001:db8:cafe::17", "http", "localhost", 80]),
        ("for=203.0.113.7:4711", [CLIENT, "http", "localhost", 80]),
        ("for=198.51.100.1, for=203.0.113.7;proto=https, for=10.0.0.1;proto=http", [CLIENT, "https", "localhost", 443]),
        ('for=203.0.113.7;host="example.com:8443"', [CLIENT, "http", "example.com", 8443]),
        (r'for="203\.0.113.7"', [CLIENT, "http", "localhost", 80]),
        ("for=unknown;proto=https", ["127.0.0.1", "https", "localhost", 443]),
        ("for=_hidden, for=10.0.0.1", ["10.0.0.1", "http", "localhost", 80]),
        ("for=203.0.113.7;for=198.51.100.1", ["127.0.0.1", "http", "localhost", 80]),
        ("for=203.0.113.7 proto=https", ["127.0.0.1", "http", "localhost", 80]),
        ('for="203.0.113.7', ["127.0.0.1", "http", "localhost", 80]),
        ("203.0.113.7", ["127.0.0.1", "http", "localhost", 80]),
        ("", ["127.0.0.1", "http", "localhost", 80]),
    ],
)
def test_rfc_7239_forwarded_is_understood(header: str, expected: list[Any]) -> None:
    assert seen({"forwarded": header})[:4] == expected


@pytest.mark.parametrize("sent", ["", ",", "x", 'for="', 'for=203.0.113.9;x="\\', "for=1.2.3.4;for=1.2.3.5", '"', "=;"])
@pytest.mark.parametrize("added", [f"for={CLIENT};host=a", f'for="{CLIENT}:80";host="a"', f'host="a";for="{CLIENT}"'])
def test_a_client_does_not_hide_behind_its_proxy_with_what_is_malformed(sent: str, added: str) -> None:
    assert seen({"forwarded": f"{sent}, {added}"})[0] == CLIENT


def test_forwarded_does_not_count_beside_what_the_proxy_has_set() -> None:
    spoofed = {"forwarded": "for=198.51.100.1;host=evil.example;proto=https", "x-forwarded-for": CLIENT}
    assert seen(spoofed)[:4] == [CLIENT, "http", "localhost", 80]


@pytest.mark.parametrize("peer", ["203.0.113.9", "11.0.0.1", "127.0.0.2", "", "unix"])
@pytest.mark.parametrize("proxies", [PROXIES, []])
def test_nobody_else_is_believed(peer: str, proxies: list[str]) -> None:
    headers = {"x-forwarded-for": CLIENT, "x-forwarded-proto": "https", "x-forwarded-host": "evil.example"}
    for said in (headers, {"forwarded": f"for={CLIENT};proto=https;host=evil.example"}):
        conn = phoenix.build_conn("GET", "/", headers=said, remote_ip=peer)
        app = endpoint(trusted_proxies=proxies)
        conn.endpoint = app
        answered = app.dispatch(conn)
        assert (answered.remote_ip, answered.scheme, answered.host, answered.port) == (peer, "http", "localhost", 80)


@pytest.mark.parametrize("peer", ["", "localhost"])  # so waitress calls it
def test_who_comes_by_a_unix_socket_can_be_trusted(peer: str) -> None:
    conn = phoenix.build_conn("GET", "/", headers={"x-forwarded-for": CLIENT}, remote_ip=peer)
    app = endpoint(trusted_proxies=["unix"])
    assert app.dispatch(conn).remote_ip == CLIENT


@pytest.mark.parametrize(
    ("proxies", "message"),
    [
        (["localhost"], "'localhost' does not appear to be an IPv4 or IPv6 network"),
        (["10.0.0.1/8"], "has host bits set"),
        ("127.0.0.1", "trusted_proxies='127.0.0.1': expected a list"),
        (["*"], 'Expected addresses and networks such as "127.0.0.1"'),
    ],
)
def test_a_proxy_that_is_no_address_is_a_mistake(proxies: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        endpoint(trusted_proxies=proxies)


def test_cookies_are_secure_when_the_client_came_by_https() -> None:
    app = endpoint(trusted_proxies=PROXIES)
    for proto, secure in (("https", True), ("http", False)):
        conn = app.test().get("/", headers={"x-forwarded-proto": proto})
        assert ("; secure" in conn._resp_cookies["seen"][1]) is secure
    assert "; secure" not in endpoint().test().get("/", headers={"x-forwarded-proto": "https"})._resp_cookies["seen"][1]


def test_a_form_of_the_site_that_the_proxy_serves_is_no_forgery() -> None:
    client = endpoint(trusted_proxies=PROXIES).test(csrf=True)
    proxied = {"x-forwarded-proto": "https", "x-forwarded-host": "example.com"}
    given = phoenix.response_body(client.get("/form", headers=proxied)).decode()
    for origin, status in (
        ("https://example.com", 200), ("http://example.com", 403), ("https://evil.example", 403),
        ("http://localhost", 403),
    ):  # fmt: skip
        answer = client.post("/form", {"_csrf_token": given}, headers={**proxied, "origin": origin})
        assert answer.status == status, origin


def test_a_mounted_application_is_told_the_same() -> None:
    proxied = {"x-forwarded-for": CLIENT, "x-forwarded-proto": "https", "x-forwarded-host": "example.com:8443"}
    conn = endpoint(trusted_proxies=PROXIES).test().get("/wsgi", headers=proxied)
    assert phoenix.response_body(conn).decode() == f"https example.com:8443 example.com 8443 {CLIENT}"


def test_a_websocket_through_a_proxy_is_compared_with_the_public_address() -> None:
    with Serving(endpoint(trusted_proxies=["127.0.0.1"])) as serving:
        url = f"ws://127.0.0.1:{serving.port}/echo"
        said = {"x-forwarded-for": CLIENT, "x-forwarded-proto": "https", "x-forwarded-host": "example.com:8443"}
        page = {"origin": "https://example.com:8443"}
        with connect(url, additional_headers={**said, **page}, open_timeout=TIMEOUT) as ws:
            ws.send("hi")
            assert ws.recv(TIMEOUT) == f"https {CLIENT} hi"
        for headers in (page, {**said, "origin": f"http://127.0.0.1:{serving.port}"}, {**said, "origin": "http://a.b"}):
            with pytest.raises(InvalidStatus, match="403"):
                connect(url, additional_headers=headers, open_timeout=TIMEOUT)


def test_other_peoples_servers_may_stand_behind_trusted_proxies_too() -> None:
    environ: dict[str, Any] = {}
    wsgiref.util.setup_testing_defaults(environ)
    environ.update(
        REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR=CLIENT, HTTP_X_FORWARDED_PROTO="https",
        HTTP_X_FORWARDED_HOST="example.com",
    )  # fmt: skip
    answered = b"".join(endpoint(trusted_proxies=PROXIES).wsgi(environ, lambda *_: None))
    expected = [CLIENT, "https", "example.com", 443, "https://example.com/", ["example.com"]]
    assert json.loads(answered) == expected

    said = {"host": "a", "x-forwarded-for": CLIENT, "x-forwarded-proto": "https", "x-forwarded-host": "example.com"}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/",
        "query_string": b"", "scheme": "http", "server": ("a", 80), "client": ("10.0.0.1", 4711),
        "headers": [(name.encode(), value.encode()) for name, value in said.items()],
    }  # fmt: skip
    sent: list[Any] = []
    to_come: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        return to_come.pop() if to_come else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        await asyncio.wait_for(endpoint(trusted_proxies=PROXIES)(scope, receive, send), TIMEOUT)

    asyncio.run(main())
    assert json.loads(b"".join(message.get("body", b"") for message in sent)) == expected


def test_a_proxy_that_comes_by_a_unix_socket(tmp_path: Path) -> None:
    app = endpoint(trusted_proxies=["unix"], http={"uds": str(tmp_path / "s"), "port": 0})
    make_server = app.make_server
    app.make_server = lambda port: make_server()  # type: ignore[method-assign, misc, assignment]
    with Serving(app), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(tmp_path / "s"))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert json.loads(answer.rpartition(b"\r\n")[2])[0] == CLIENT


def test_several_lines_of_one_header_are_one_list() -> None:
    with Serving(endpoint(trusted_proxies=["127.0.0.1", "10.0.0.1"])) as serving:
        with socket.create_connection(("127.0.0.1", serving.port), timeout=TIMEOUT) as client:
            client.sendall(
                b"GET / HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\nX-Forwarded-For: 198.51.100.1\r\n"
                b"X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\r\n"
            )
            answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert json.loads(answer.rpartition(b"\r\n")[2]) == [CLIENT, "https", "a", 1, "https://a:1/", ["a:1"]]


def test_a_stack_of_ones_own_stands_behind_the_proxies_too() -> None:
    class Own(Endpoint):
        plug(phoenix.RequestLogger, level="debug")

    app = Own(Router, env="test", secret_key_base=SECRET, trusted_proxies=PROXIES, force_ssl=True)
    conn = app.test().get("http://example.com/", headers={"x-forwarded-for": CLIENT})
    assert (conn.remote_ip, conn.status) == (CLIENT, 301)


def test_without_trusted_proxies_no_step_looks_at_the_headers() -> None:
    assert len(endpoint(trusted_proxies=PROXIES, force_ssl=True)._steps) == len(endpoint()._steps) + 2


# --- https that is forced -----------------------------------------------------------------


def answer(address: str, method: str = "GET", headers: Any = None, **options: Any) -> Conn:
    """Return what an app that forces https, unless *options* say otherwise, answers to a request."""
    client = endpoint(**{"force_ssl": True, **options}).test()
    return getattr(client, method.lower())(address, headers=headers or {})  # type: ignore[no-any-return]


def location(conn: Conn) -> str:
    return conn.get_resp_header("location")[0]


def hsts(conn: Conn) -> list[str]:
    return conn.get_resp_header("strict-transport-security")


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 301), ("HEAD", 301), ("POST", 307), ("PUT", 307), ("DELETE", 307)]
)
def test_http_is_sent_on_to_https(method: str, status: int) -> None:
    conn = answer("http://example.com/users/7?a=b", method)
    assert (conn.status, location(conn)) == (status, "https://example.com/users/7?a=b")
    assert (phoenix.response_body(conn), hsts(conn)) == (b"", [])


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("http://example.com:4000/", {}, "https://example.com/"),
        ("http://example.com/%20/?x=%0d", {}, "https://example.com/%20/?x=%0d"),
        ("http://a.b/", {"url": {"host": "a.b", "scheme": "https", "port": 8443}}, "https://a.b:8443/"),
        ("http://www.example.com/", {"url": {"host": "example.com", "scheme": "https"}}, "https://www.example.com/"),
        ("http://example.com/", {"url": {"host": "example.com", "port": 80}}, "https://example.com/"),
        ("http://example.com/", {"force_ssl": {"host": "www.example.com"}}, "https://www.example.com/"),
        ("http://example.com/", {"force_ssl": {"host": "www.example.com:4443"}}, "https://www.example.com:4443/"),
        ("http://box.lan/", {"https": {"port": 4443, "context": object()}}, "https://box.lan:4443/"),
        (
            "http://example.com/",
            {"https": {"port": 4443, "context": object()}, "url": {"host": "example.com"}},
            "https://example.com/",
        ),
    ],
)  # fmt: skip
def test_it_is_sent_where_https_is(url: str, options: dict[str, Any], expected: str) -> None:
    assert location(answer(url, **options)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (True, ["max-age=31536000"]),
        ({}, ["max-age=31536000"]),
        (False, []),
        ({"hsts": False}, []),
        ({"max_age": 60}, ["max-age=60"]),
        ({"include_subdomains": True}, ["max-age=31536000; includeSubDomains"]),
        ({"preload": True, "include_subdomains": True}, ["max-age=31536000; includeSubDomains; preload"]),
        ({"hsts": True}, ["max-age=31536000"]),
    ],
)
def test_browsers_are_told_to_stay_with_https(options: Any, expected: list[str]) -> None:
    conn = answer("https://example.com/", force_ssl=options)
    assert (conn.status, hsts(conn)) == (200, expected)


def test_an_error_page_says_it_too() -> None:
    conn = answer("https://example.com/nowhere")
    assert (conn.status, hsts(conn)) == (404, ["max-age=31536000"])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:4000"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_this_machine_is_left_out(host: str, scheme: str) -> None:
    conn = answer(f"{scheme}://{host}/")
    assert (conn.status, hsts(conn)) == (200, [])


def test_hosts_and_paths_can_be_left_out() -> None:
    options: dict[str, Any] = {"force_ssl": {"exclude": ["Internal.example.com", "/health"]}}
    for url, status in (
        ("http://internal.example.com/", 200), ("http://example.com/health", 200), ("http://a.b/health/deep", 200),
        ("http://example.com/healthy", 301), ("http://localhost/", 301), ("http://example.com/", 301),
    ):  # fmt: skip
        assert answer(url, **options).status == status, url


def test_https_of_a_trusted_proxy_is_https() -> None:
    for proto, status in (("https", 200), ("http", 301)):
        headers = {"x-forwarded-proto": proto, "x-forwarded-host": "example.com"}
        conn = answer("http://10.0.0.5:4000/", trusted_proxies=["127.0.0.1"], headers=headers)
        assert conn.status == status and (status == 200 or location(conn) == "https://example.com/")
    assert answer("http://example.com/", headers={"x-forwarded-proto": "https"}).status == 301  # anybody can say so


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yes", "force_ssl='yes': expected True, False or a dict"),
        ({"max_ages": 1}, "unknown key 'max_ages' in force_ssl=... Did you mean 'max_age'?"),
        ({"exclude": "localhost"}, "exclude='localhost' in force_ssl=...: expected a list"),
    ],
)
def test_an_option_of_force_ssl_that_cannot_be_meant_is_explained(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        endpoint(force_ssl=value)


# --- Config files -------------------------------------------------------------------------

APP = """
import phoenix
from phoenix import get

class Router(phoenix.Router):
    get("/", lambda conn, params: conn.text("hello"))

class AdminRouter(phoenix.Router):
    get("/", lambda conn, params: conn.text("admin"))

app = phoenix.Endpoint(Router, {app})
admin = phoenix.Endpoint(AdminRouter, {admin})
"""


class App:
    """An app in a folder of its own, with config files: ``App(folder, config="config(threads=7)").load().app``."""

    def __init__(self, folder: Path, *, app: str = "", admin: str = "", place: str = "", **files: str) -> None:
        self.folder, self.name = folder / place, "an_app"
        (folder / "config").mkdir(parents=True)
        self.folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / "config" / f"{name}.py").write_text(f"import os\nfrom phoenix import config\n{text}\n")
        (self.folder / "an_app.py").write_text(APP.format(app=app, admin=admin))
        if place:
            (self.folder / "__init__.py").touch()
            self.name, self.folder = f"{place}.an_app", folder

    def load(self) -> Any:
        """Import the app anew."""
        sys.path.insert(0, str(self.folder))
        try:
            sys.modules.pop(self.name, None)
            importlib.invalidate_caches()
            return importlib.import_module(self.name)
        finally:
            sys.path.remove(str(self.folder))


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Make an app with config files, and import it in an environment: ``make_app("dev", config="...").app``."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)

    def make(env: str = "dev", **files: str) -> Any:
        monkeypatch.setenv("PHOENIX_ENV", env)
        return App(tmp_path / f"{len(list(tmp_path.iterdir()))}", **files).load()

    yield make
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_the_environment_chooses_the_file(make_app: Callable[..., Any]) -> None:
    files = {env: f"config(url={{'host': '{env}.example.com'}})" for env in ("dev", "test", "prod", "staging")}
    for env in files:
        app = make_app(env, config="config(threads=7)", **files).app
        assert (app.env, app.url(), app.config("threads")) == (env, f"http://{env}.example.com", 7)


def test_a_keyword_for_the_environment_chooses_the_file_too(make_app: Callable[..., Any]) -> None:
    app = make_app("dev", app="env='prod'", dev="config(threads=1)", prod="config(threads=2)").app
    assert app.config("threads") == 2


def test_dicts_are_merged_key_by_key_and_the_later_file_wins(make_app: Callable[..., Any]) -> None:
    app = make_app(
        "prod",
        app="url={'host': 'a.b', 'path': '/shop'}, threads=5, settings={'a': {'b': 1, 'c': 1}, 'list': [1, 2]}",
        config="config(url={'host': 'config.example.com', 'port': 8080}, log='info', settings={'a': {'c': 2, 'd': 2}})",
        prod="config(url={'host': 'example.com'}, settings={'a': {'d': 3}, 'list': [3]})",
    ).app
    assert app.url("/x") == "http://example.com:8080/shop/x"
    assert (app.config("threads"), app.config("log"), app.config("timeouts")) == (5, "info", {})
    assert app.config("settings") == {"a": {"b": 1, "c": 2, "d": 3}, "list": [3]}


def test_what_a_file_says_goes_before_the_code_and_is_gone_without_it(make_app: Callable[..., Any]) -> None:
    files = {"app": "threads=5, static={'at': '/a'}", "config": "config(threads=6, static=False)"}
    assert [make_app(**files).app.config(name) for name in ("threads", "static")] == [6, False]
    files["app"] += ", config=False"
    assert [make_app(**files).app.config(name) for name in ("threads", "static")] == [5, {"at": "/a"}]


def test_options_take_effect_wherever_they_come_from(make_app: Callable[..., Any]) -> None:
    app = make_app(
        "prod",
        prod="""config(
            http={"host": "0.0.0.0", "port": os.environ.get("NO_SUCH_VARIABLE", "5005")}, secret_key_base="s" * 64,
            debug_errors=True, timeouts={"idle": 7}, session={"key": "_files"}, force_ssl=True,
        )""",
    ).app
    server = app.make_server()
    assert (server.host, server.port, server.timeouts.idle, app.debug_errors) == ("0.0.0.0", 5005, 7, True)
    assert app.test().get("http://example.com/").status == 301
    assert app.config("session") == {"key": "_files"} and app._secrets == (b"s" * 64,)


def test_port_still_counts_where_no_file_names_one(
    make_app: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "5006")
    assert make_app(config="config(http={'host': '0.0.0.0'})").app.port == 5006
    assert make_app(config="config(http={'port': 5007})").app.port == 5007


def test_urls_tell_the_port_that_was_taken() -> None:
    app, public = endpoint(http={"port": 0}), endpoint(http={"port": 0}, url={"host": "example.com", "port": 8080})
    with Serving(app) as serving, Serving(public):
        assert app.url("/users/7") == Router.helpers.user_url(app, 7) == f"http://localhost:{serving.port}/users/7"
        assert public.url("/x") == "http://example.com:8080/x"


def test_each_endpoint_has_a_section_of_its_own(make_app: Callable[..., Any]) -> None:
    module = make_app(
        "prod",
        admin="name='office'",
        config="config('office', http={'port': 4001}, threads=2)\nconfig(http={'port': 4000}, threads=1, log='debug')",
        prod="config('Router', http={'port': 80})\nconfig(threads=3)",
    )
    assert (module.app.port, module.app.config("threads"), module.app.name) == (80, 3, "Router")
    assert (module.admin.port, module.admin.config("threads"), module.admin.name) == (4001, 2, "office")
    assert module.app.config("log") == module.admin.config("log") == "debug"


def test_config_returns_what_is_in_force_with_the_files(make_app: Callable[..., Any]) -> None:
    app = make_app("test", test="config(url={'host': 'example.com'})").app
    assert (app.config("env"), app.config("debug_errors"), app.config("name")) == ("test", False, "Router")
    assert (app.config("url"), app.config("http"), app.config("nothing", 3)) == ({"host": "example.com"}, {}, 3)


def test_the_folder_lies_beside_the_package_of_the_app(make_app: Callable[..., Any]) -> None:
    assert make_app(place="web", config="config(threads=7)").app.config("threads") == 7


def test_the_folder_may_have_another_name(make_app: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "config.py").write_text("from phoenix import config\nconfig(threads=9)\n")
    for folder in ("'../settings'", repr(str(tmp_path / "settings"))):
        assert make_app(app=f"config={folder}", config="config(threads=7)").app.config("threads") == 9
    with pytest.raises(ConfigError, match="config='nowhere': there is no nowhere/config.py beside the app"):
        make_app(app="config='nowhere'")


def test_files_may_hold_helpers_and_import_what_they_like(make_app: Callable[..., Any]) -> None:
    text = "from pathlib import Path\n\ndef number():\n    return len(Path(__file__).name)\n\nconfig(threads=number())"
    assert make_app(config=text).app.config("threads") == len("config.py")


def test_what_a_file_changes_is_seen_by_whoever_looks_for_changed_code(make_app: Callable[..., Any]) -> None:
    file = Path(make_app(dev="config(threads=7)").__file__).parent / "config" / "dev.py"
    assert sys.modules[str(file)].__file__ == str(file)


# --- Mistakes in config files -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("config(threds=1)", 3, "unknown option 'threds' of Endpoint. Did you mean 'threads'?"),
        ("\nconfig(\n    htttp={},\n)", 4, "unknown option 'htttp' of Endpoint. Did you mean 'http'?"),
        ("config(http={'prot': 80})", 3, "unknown key 'prot' in http=... Did you mean 'port'? It takes host, port"),
        ("config(https={'keyfiel': ''})", 3, "unknown key 'keyfiel' in https=... Did you mean 'keyfile'?"),
        ("config(session={'kye': 'x'})", 3, "unknown key 'kye' in session=... Did you mean 'key'?"),
        ("config(parsers={'lenght': 1})", 3, "unknown key 'lenght' in parsers=... Did you mean 'length'?"),
        ("config(limits={'lines': 1})", 3, "unknown key 'lines' in limits=... Did you mean 'line'?"),
        ("config(timeouts={'idel': 1})", 3, "unknown key 'idel' in timeouts=... Did you mean 'idle'?"),
        ("config(static={'form': 'x'})", 3, "unknown key 'form' in static=..."),
        ("config(force_ssl={'hst': 1})", 3, "unknown key 'hst' in force_ssl=... Did you mean 'hsts'?"),
        ("config(gettext={'defualt': 'de'})", 3, "unknown key 'defualt' in gettext=... Did you mean 'default'?"),
        ("config(log={'levle': 'info'})", 3, "unknown key 'levle' in log=... Did you mean 'level'?"),
        ("config('Router', http={'prot': 80})", 3, "unknown key 'prot' in http=..."),
        ("config(http={'port': 'many'})", 3, "the port of http is 'many', expected a number"),
        ("config(http=4000)", 3, "http=4000: expected a dict"),
        ("config(debug_errors='false')", 3, "debug_errors='false': expected True or False"),
        ("config(code_reloader=0)", 3, "code_reloader=0: expected True or False"),
        ("config(pubsub='redis://localhost')", 3, "pubsub='redis://localhost': expected a PubSub"),
        ("config(session=True)", 3, "session=True: expected a dict, or False for none"),
        ("config(session={'max_age': 'long'})", 3, "session=...: invalid literal for int()"),
        ("config(static={'only': 'css'})", 3, "only='css' in static=...: expected a list"),
        ("config(timeouts={'idle': '30'})", 3, "idle='30' in timeouts=...: expected a number"),
        ("config(parsers={'length': '1MB'})", 3, "length='1MB' in parsers=...: expected a number"),
        ("config(secret_key_base=64)", 3, "secret_key_base=...: 'int' object is not iterable"),
        ("config(trusted_proxies=['localhost'])", 3, "'localhost' does not appear to be an IPv4 or IPv6 network"),
        ("config(secret_key_base='short')", 3, "secret_key_base"),
        ("\n\nconfig(https={'port': 4443})", 5, "https=...: there is no 'keyfile'. Expected the files"),
        ("config(env='prod')", 3, "env=... decides which config files are read"),
        ("config(name='x')", 3, "name=... decides which config files are read"),
        ("threads = \nconfig()", 3, "SyntaxError: invalid syntax"),
        ("x = 1\nconfig(threads=int(os.environ['NO_SUCH_VARIABLE']))", 4, "KeyError: 'NO_SUCH_VARIABLE'"),
        ("def f():\n    1 / 0\n\nf()", 4, "ZeroDivisionError: division by zero"),
        ("import json; json.loads('{')", 3, "JSONDecodeError: "),
        ("from .base import *", 3, "ImportError: "),
        ("config(threads=1", 3, "SyntaxError: "),
    ],
)
def test_a_mistake_is_named_with_file_and_line(
    make_app: Callable[..., Any], text: str, line: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_app("prod", config="config(threads=3)", prod=text)
    assert re.match(rf"/.*/config/prod\.py:{line}: ", str(caught.value)), str(caught.value)
    assert message in str(caught.value)


def test_a_key_that_is_not_there_is_named_with_the_line_that_names_it(make_app: Callable[..., Any]) -> None:
    app = make_app(
        config="config(https={'certfile': 'cert.pem'})", dev="config(https={'keyfile': 'key.pem'})\nconfig(threads=1)"
    ).app
    with pytest.raises(ConfigError, match=r"/config/dev\.py:3: https=...: the keyfile is not there: key\.pem, neither"):
        app.make_server()


def test_an_environment_without_a_file_is_a_mistake_where_others_have_one(make_app: Callable[..., Any]) -> None:
    expected = r"there is no .*/production\.py, but the environment is 'production'. There are dev, prod"
    with pytest.raises(ConfigError, match=expected):
        make_app("production", config="", dev="", prod="")
    assert make_app("prod", config="config(threads=2)").app.config("threads") == 2  # the three usual ones need none
    assert make_app("production").app.env == "production"  # without files any is good


def test_config_is_a_word_of_config_files_only() -> None:
    with pytest.raises(ConfigError, match="is for the files in the folder config"):
        phoenix.config(threads=1)


def test_an_own_stack_refuses_options_of_plugs_in_files_too(make_app: Callable[..., Any], tmp_path: Path) -> None:
    module = make_app(config="config(static={'at': '/x'})")

    class Own(Endpoint):
        plug(phoenix.RequestLogger)

    with pytest.raises(ConfigError, match="static=... has no effect: Own plugs a stack of its own"):
        Own(module.Router, config=str(Path(module.__file__).parent / "config"))


def test_a_section_that_nobody_reads_is_told_of(make_app: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    module = make_app(config="config('AdminRoutr', threads=1)\nconfig('Elsewhere', threads=1)")
    phoenix._warn_of_sections([module.app, module.admin])
    assert len(caplog.messages) == 1
    assert re.search(r"config\.py:3: there is no endpoint 'AdminRoutr' here. Did you mean 'AdminRouter'\?", caplog.text)


def test_editors_know_the_options_that_there_are() -> None:
    tree = ast.parse(Path(phoenix.__file__).read_text())
    classes = (each for each in ast.walk(tree) if isinstance(each, ast.ClassDef))
    options = next(each for each in classes if each.name == "_EndpointOptions")
    typed = [ast.unparse(each.target) for each in options.body if isinstance(each, ast.AnnAssign)]
    assert sorted(typed) == sorted(phoenix._ENDPOINT_OPTIONS)


@pytest.mark.parametrize("mode", [660, "0660", -1])
def test_permissions_of_a_socket_that_cannot_be_meant_are_refused(mode: Any) -> None:
    class PageRouter(phoenix.Router):
        pass

    with pytest.raises(phoenix.ConfigError, match="uds_mode takes permissions such as 0o660"):
        phoenix.Endpoint(PageRouter, http={"uds": "app.sock", "uds_mode": mode}, config=False)

"""Chapter 15, configuration: proxies that are trusted, https that is forced, and the files in ``config``."""

from __future__ import annotations

import json
import re
import socket
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


def test_who_comes_by_a_unix_socket_can_be_trusted() -> None:
    conn = phoenix.build_conn("GET", "/", headers={"x-forwarded-for": CLIENT}, remote_ip="")
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
    options = {"force_ssl": {"exclude": ["Internal.example.com", "/health"]}}
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
        ({"exclude": "localhost"}, "exclude='localhost' in force_ssl=...: expected a list of hosts and paths"),
    ],
)
def test_an_option_of_force_ssl_that_cannot_be_meant_is_explained(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        endpoint(force_ssl=value)

"""Chapter 15, https: keys and certificates, both ports at once, WebSockets over TLS, and what is said of mistakes."""

from __future__ import annotations

import asyncio.constants
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phoenix
import pytest
from phoenix import Channel, ConfigError, Endpoint, channel, get, websocket
from phoenix import socket as channel_socket
from serving import TIMEOUT, Serving
from websockets.sync.client import connect

HERE = Path(__file__).parent
PHOENIX = Path(phoenix.__file__).parent


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, a certificate that it has signed itself, the key with a password, and the key of another."""
    folder = tmp_path_factory.mktemp("keys")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
        " -days 2 -keyout key.pem -out cert.pem",
        "rsa -aes128 -passout pass:sesame -in key.pem -out locked.pem",
        "genrsa -out other.pem 2048",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def show(conn: Any, params: Any) -> Any:
    return conn.put_resp_cookie("seen", "yes").text(f"{conn.request_url()} {conn.remote_ip} {conn.port}")


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(f"{ws.conn.scheme} {message}")


class RoomChannel(Channel):
    async def join(self, socket: Any, topic: str, message: Any) -> Any:
        return socket.ok({})

    async def event(self, socket: Any, event: str, message: Any) -> None:
        socket.broadcast(event, message)


class Router(phoenix.Router):
    get("/", show)
    websocket("/echo", echo)
    with channel_socket("/ws"):
        channel("rooms", RoomChannel)


def endpoint(keys: Path, **options: Any) -> Endpoint:
    https = {"port": 0, "keyfile": str(keys / "key.pem"), "certfile": keys / "cert.pem", **options.pop("https", {})}
    return Endpoint(Router, **{"env": "test", "log": False, "http": {"port": 0}, "https": https, **options})


def trust(keys: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(keys / "cert.pem"))


def fetch(port: int, context: ssl.SSLContext | None = None) -> tuple[str, str]:
    """Get the first page, and return its text and the cookie that it sets."""
    connection = http.client.HTTPConnection("localhost", port, timeout=TIMEOUT)
    if context is not None:
        connection = http.client.HTTPSConnection("localhost", port, timeout=TIMEOUT, context=context)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.read().decode(), answer.headers["set-cookie"]
    finally:
        connection.close()


def ports(serving: Serving) -> list[int]:
    return list(serving.server.ports.values())


# --- Serving ------------------------------------------------------------------------------


def test_one_app_answers_on_both_ports(keys: Path) -> None:
    with Serving(endpoint(keys)) as serving:
        plain, secure = ports(serving)
        assert fetch(plain) == (f"http://localhost:{plain}/ 127.0.0.1 {plain}", "seen=yes; path=/; HttpOnly")
        text, cookie = fetch(secure, trust(keys))
        assert text == f"https://localhost:{secure}/ 127.0.0.1 {secure}"
        assert cookie == "seen=yes; path=/; secure; HttpOnly"


def test_urls_are_those_of_https_with_the_port_that_was_taken(keys: Path) -> None:
    app = endpoint(keys)
    assert app.url("/x") == "https://localhost:0/x"
    with Serving(app) as serving:
        assert app.url("/x") == f"https://localhost:{ports(serving)[1]}/x"
    public = endpoint(keys, url={"host": "example.com"})
    with Serving(public):
        assert public.url("/x") == "https://example.com/x"
    assert endpoint(keys, url={"scheme": "http"}, http={"port": 4007}).url() == "http://localhost:4007"


def test_without_http_there_is_only_https(keys: Path) -> None:
    app = endpoint(keys, http=False)
    with Serving(app) as serving:
        assert len(ports(serving)) == 1 and app.url() == f"https://localhost:{serving.port}"
        assert fetch(serving.port, trust(keys))[0].startswith("https://")
    with pytest.raises(ConfigError, match="there would be no port to listen on"):
        Endpoint(Router, http=False)


def test_the_standard_port_of_https_is_not_that_of_http(keys: Path) -> None:
    app = endpoint(keys, https={"port": None}, http={"host": "0.0.0.0", "port": "4005"})
    server = app.make_server()
    assert (server.host, server.port, server.https[:2]) == ("0.0.0.0", 4005, ("0.0.0.0", 4040))
    server = endpoint(keys, https={"host": "::1", "port": "4443"}).make_server()
    assert server.https[:2] == ("::1", 4443)


def test_a_slow_reader_gets_everything_although_the_connection_closes(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.constants, "SSL_SHUTDOWN_TIMEOUT", 0.4, raising=False)  # seconds; by itself 30
    big = os.urandom(6_000_000)

    class Big(phoenix.Router):
        get("/", lambda conn, params: conn.send_resp(200, big))

    app = Endpoint(Big, env="test", log=False, http={"port": 0}, https=endpoint(keys).options["https"])
    with Serving(app) as serving, socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        plain.settimeout(TIMEOUT)
        plain.connect(("127.0.0.1", ports(serving)[1]))
        with trust(keys).wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            received, end = bytearray(), time.monotonic() + 1.2
            while part := client.recv(100_000):
                received += part
                if time.monotonic() < end:
                    time.sleep(0.02)
        assert received.partition(b"\r\n\r\n")[2] == big


def test_websockets_come_over_tls(keys: Path) -> None:
    with Serving(endpoint(keys)) as serving:
        url = f"wss://localhost:{ports(serving)[1]}/echo"
        page = {"origin": f"https://localhost:{ports(serving)[1]}"}
        with connect(url, ssl=trust(keys), additional_headers=page, open_timeout=TIMEOUT) as ws:
            for message in ("hi", "x" * 200_000):
                ws.send(message)
                assert ws.recv(TIMEOUT) == f"https {message}"


def test_a_broadcast_reaches_clients_of_both_ports(keys: Path) -> None:
    with Serving(endpoint(keys)) as serving:
        plain, secure = ports(serving)
        path = "/ws/websocket?vsn=2.0.0"
        with connect(f"ws://localhost:{plain}{path}") as one, connect(
            f"wss://localhost:{secure}{path}", ssl=trust(keys)
        ) as other:
            for ws in (one, other):
                ws.send('["1","1","rooms:lobby","phx_join",{}]')
                assert '"ok"' in str(ws.recv(TIMEOUT))
            one.send('["1","2","rooms:lobby","said",{"body":"hi"}]')
            assert other.recv(TIMEOUT) == '[null,null,"rooms:lobby","said",{"body":"hi"}]'


def test_what_is_older_than_tls_1_2_is_refused(keys: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Serving(endpoint(keys)) as serving, pytest.raises(ssl.SSLError):
        fetch(ports(serving)[1], context)


def test_the_protocol_that_browsers_ask_for_is_agreed_on(keys: Path) -> None:
    context = trust(keys)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with Serving(endpoint(keys)) as serving:
        plain = socket.create_connection(("127.0.0.1", ports(serving)[1]), timeout=TIMEOUT)
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            assert client.selected_alpn_protocol() == "http/1.1" and client.version() == "TLSv1.3"


def test_a_client_that_never_shakes_hands_is_closed(keys: Path) -> None:
    with Serving(endpoint(keys, timeouts={"head": 0.2})) as serving:
        with socket.create_connection(("127.0.0.1", ports(serving)[1]), timeout=TIMEOUT) as client:
            assert client.recv(100) == b""
        assert fetch(ports(serving)[1], trust(keys))[0].startswith("https://")


def test_the_server_stops_although_a_client_keeps_its_connection(keys: Path) -> None:
    serving = Serving(endpoint(keys))
    with serving:
        connection = http.client.HTTPSConnection("localhost", ports(serving)[1], timeout=TIMEOUT, context=trust(keys))
        connection.request("GET", "/")
        connection.getresponse().read()
        began = time.monotonic()
    assert time.monotonic() - began < 8
    connection.close()


def test_a_socket_that_systemd_has_opened_for_https_speaks_it(keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain, socket.create_server(("127.0.0.1", 0)) as secure:
        port = secure.getsockname()[1]
        app = endpoint(keys, https={"port": port})
        serving = Serving(app)
        app.make_server = lambda port: Endpoint.make_server(app, sockets=[plain.dup(), secure.dup()])  # type: ignore
        with serving:
            assert serving.server.ports == {"http": plain.getsockname()[1], "https": port}
            assert fetch(plain.getsockname()[1])[0].startswith("http://")
            assert fetch(port, trust(keys))[0].startswith("https://")


def test_a_context_of_ones_own_takes_the_place_of_files(keys: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
    with Serving(endpoint(keys, https={"keyfile": None, "certfile": None, "context": context})) as serving:
        assert fetch(ports(serving)[1], trust(keys))[0].startswith("https://")


def test_a_key_may_have_a_password(keys: Path) -> None:
    with Serving(endpoint(keys, https={"keyfile": keys / "locked.pem", "password": "sesame"})) as serving:
        assert fetch(ports(serving)[1], trust(keys))[0].startswith("https://")


# --- Mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("https", "message"),
    [
        ({"keyfile": None}, "https=...: there is no 'keyfile'. Expected the files of a private key and of its certificate"),
        ({"certfile": ""}, "https=...: there is no 'certfile'"),
        ({"keyfiel": "x"}, "unknown key 'keyfiel' in https=... Did you mean 'keyfile'?"),
        ({"port": "https"}, "the port of https is 'https', expected a number"),
        ({"port": 65536}, "the port of https is 65536, expected a number from 0"),
    ],
)
def test_a_mistake_is_found_when_the_app_is_defined(keys: Path, https: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        endpoint(keys, https=https)


@pytest.mark.parametrize(
    ("https", "message"),
    [
        ({"keyfile": "/none/key.pem"}, "https=...: the keyfile is not there: /none/key.pem"),
        ({"certfile": "ssl/none.pem"}, f"https=...: the certfile is not there: ssl/none.pem, neither in {HERE} nor in"),
        ({"keyfile": "other.pem"}, "key values mismatch"),
        ({"keyfile": "locked.pem"}, "with its password, if it has one"),
        ({"keyfile": "locked.pem", "password": "wrong"}, "cannot be used"),
        ({"certfile": "key.pem"}, "the certificate made for it"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_found_before_the_server_listens(
    keys: Path, https: dict[str, Any], message: str
) -> None:
    made = {key: str(keys / value) for key, value in https.items() if "/" not in value and key != "password"}
    app = endpoint(keys, https={**https, **made})
    with pytest.raises(ConfigError, match=re.escape(message)):
        app.make_server()


# --- A started program --------------------------------------------------------------------

APP = """
import sys
import phoenix
from phoenix import get

def hello(conn, params):
    return conn.text(app.url("/hello"))

class Router(phoenix.Router):
    get("/", hello)

https = {"port": 0, "keyfile": %r, "certfile": "priv/ssl/cert.pem"}
app = phoenix.Endpoint(Router, https=https, log=False)
assert "ssl" not in sys.modules  # it costs time, and those without https need not wait

if __name__ == "__main__":
    app.run()
"""


@pytest.mark.parametrize("keyfile", ["priv/ssl/key.pem", "ssl/key.pem", "key.pem"])
@pytest.mark.parametrize("place", ["app.py", "shop/web/app.py"])
def test_relative_paths_are_looked_for_beside_the_app_and_in_its_priv(
    keys: Path, tmp_path: Path, start: Callable[..., Any], keyfile: str, place: str
) -> None:
    app, ssl_folder = tmp_path / place, tmp_path / "priv" / "ssl"
    ssl_folder.mkdir(parents=True)
    app.parent.mkdir(parents=True, exist_ok=True)
    for name in ("key.pem", "cert.pem"):
        shutil.copy(keys / name, ssl_folder)
    shutil.copy(keys / "key.pem", tmp_path / "priv")
    app.write_text(APP % keyfile)
    if place == "app.py":
        server = start(app, PYTHONPATH=str(PHOENIX))
    else:
        for package in (tmp_path / "shop", tmp_path / "shop" / "web"):
            (package / "__init__.py").touch()
        server = start("-m", "shop.web.app", PYTHONPATH=f"{tmp_path}{os.pathsep}{PHOENIX}")
    secure = server.request("/").text
    assert re.fullmatch(r"https://localhost:\d+/hello", secure)
    with socket.create_connection(("127.0.0.1", int(secure.split(":")[2].split("/")[0])), timeout=TIMEOUT) as plain:
        trust(keys).wrap_socket(plain, server_hostname="localhost").close()
    assert server.stop() == 0


@pytest.fixture
def app_file(keys: Path, tmp_path: Path) -> Path:
    shutil.copy(keys / "cert.pem", tmp_path)
    (tmp_path / "app.py").write_text(APP.replace("priv/ssl/cert.pem", "cert.pem") % str(keys / "key.pem"))
    return tmp_path / "app.py"


def test_the_first_line_names_both_addresses(app_file: Path) -> None:
    environment = {**os.environ, "PORT": "0", "PYTHONPATH": str(PHOENIX), "PHOENIX_ENV": "test"}
    program = subprocess.Popen([sys.executable, app_file], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert program.stdout is not None
        line = program.stdout.readline()
        assert re.fullmatch(
            r"Running Router on http://localhost:\d+ and https://localhost:\d+ \(test\), Ctrl-C stops\n", line
        )
        program.terminate()
        assert program.wait(TIMEOUT) == 0
    finally:
        program.kill()
        program.communicate(timeout=TIMEOUT)


def test_a_port_of_https_that_is_in_use_is_named(app_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app_file.write_text(app_file.read_text().replace('"port": 0', f'"port": {port}'))
        ended = subprocess.run(
            [sys.executable, app_file], capture_output=True, text=True, timeout=30,
            env={**os.environ, "PORT": "0", "PYTHONPATH": str(PHOENIX)},
        )  # fmt: skip
    assert ended.returncode == 1 and f"Port {port} is already in use" in ended.stderr
    assert 'as in https={"port": 4443}' in ended.stderr
    assert "Traceback" not in ended.stderr and ended.stdout == ""


def test_an_address_of_another_machine_is_explained(app_file: Path) -> None:
    app_file.write_text(app_file.read_text().replace('"port": 0', '"host": "shop.invalid", "port": 0'))
    ended = subprocess.run(
        [sys.executable, app_file], capture_output=True, text=True, timeout=30,
        env={**os.environ, "PORT": "0", "PYTHONPATH": str(PHOENIX)},
    )  # fmt: skip
    assert ended.returncode == 1 and "cannot listen on shop.invalid:0" in ended.stderr
    assert 'a public name goes into url={"host": "shop.invalid"}' in ended.stderr

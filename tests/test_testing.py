"""Chapter 16: the test client, and plugs and pipelines tested alone."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import phoenix
from phoenix import (
    Conn, Controller, Endpoint, Params, Parsers, Pipeline, TestClient, Upload, build_conn, forward, get, head_as_get,
    match, pipe_through, pipeline, plug, post, resources, response_body, run_plug, scope,
)  # fmt: skip

SECRET = "a secret that only these tests know" * 2


# --- An app to be tested ------------------------------------------------------------------


def echo(conn: Conn, params: Params) -> Conn:
    """Answer with what arrived."""
    return conn.json(
        {
            "method": conn.method,
            "path": conn.request_path,
            "params": dict(params),
            "headers": dict(conn.req_headers),
            "cookies": conn.req_cookies,
            "host": conn.host,
            "port": conn.port,
            "scheme": conn.scheme,
            "ip": conn.remote_ip,
        }
    )


def boom(conn: Conn, params: Params) -> Conn:
    raise ValueError("boom")


def polite(conn: Conn, params: Params) -> Conn:
    return conn.put_status(404).text("nothing here")


def page(conn: Conn, params: Params) -> Conn:
    return conn.html("<p>hello</p>")


def vendor_json(conn: Conn, params: Params) -> Conn:
    return conn.put_resp_content_type("application/vnd.api+json").send_resp(200, '{"a": 1}')


def untyped(conn: Conn, params: Params) -> Conn:
    return conn.send_resp(200, "hm")


def sum_of_files(conn: Conn, params: Params) -> Conn:
    found = params["doc"]
    uploads = found["files"] if isinstance(found, dict) else [found]
    return conn.json([[each.filename, each.content_type, each.file.read().decode()] for each in uploads])


def kept_upload(conn: Conn, params: Params) -> Conn:
    uploads.append(params["doc"])
    return conn.text("kept")


uploads: list[Upload] = []


def set_cookies(conn: Conn, params: Params) -> Conn:
    return conn.put_resp_cookie("a", "1").put_resp_cookie("b", "2").text("set")


def unset_cookie(conn: Conn, params: Params) -> Conn:
    return conn.delete_resp_cookie("a").text("unset")


async def patient(conn: Conn, params: Params) -> Conn:
    await asyncio.sleep(0)
    return conn.text(str(id(asyncio.get_running_loop())))


async def endless(conn: Conn, params: Params) -> Conn:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets the event")


def in_which_thread(conn: Conn, params: Params) -> Conn:
    return conn.text(threading.current_thread().name)


def runs_a_loop_itself(conn: Conn, params: Params) -> Conn:
    return conn.text(asyncio.run(asyncio.sleep(0, "ran")))


def parts(conn: Conn, params: Params) -> Conn:
    def generate() -> Iterator[str]:
        yield "one "
        yield "two"

    return conn.send_chunked(200, generate())


def async_parts(conn: Conn, params: Params) -> Conn:
    async def generate() -> AsyncIterator[str]:
        yield "three "
        await asyncio.sleep(0)
        yield "four"

    return conn.send_chunked(200, generate())


def send_this_file(conn: Conn, params: Params) -> Conn:
    return conn.send_file(200, __file__, 3, 10)


def to_user(conn: Conn, params: Params) -> Conn:
    return conn.redirect(to="/users/7?tab=posts#top")


def to_url_of_user(conn: Conn, params: Params) -> Conn:
    return conn.redirect(external="http://shop.example/users/8")


def to_nowhere(conn: Conn, params: Params) -> Conn:
    return conn.redirect(to="/nowhere")


class UserController(Controller):
    def show(self, conn: Conn, params: Params) -> Conn:
        return conn.text(f"user {params['id']}")


class AccountController(Controller):
    def show(self, conn: Conn, params: Params) -> Conn:
        conn.put_session("visits", conn.get_session("visits", 0) + 1)
        return conn.json(conn.session)

    def create(self, conn: Conn, params: Params) -> Conn:
        return conn.text("created")


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.fetch_session)
        plug(Conn.protect_from_forgery)

    match("*", "/echo", echo, as_=None)
    get("/boom", boom)
    get("/polite", polite)
    get("/page", page)
    get("/vendor", vendor_json)
    get("/untyped", untyped)
    post("/files", sum_of_files)
    post("/keep", kept_upload)
    get("/cookies/set", set_cookies)
    get("/cookies/unset", unset_cookie)
    get("/patient", patient)
    get("/endless", endless)
    get("/thread", in_which_thread)
    get("/loop", runs_a_loop_itself)
    get("/parts", parts)
    get("/async-parts", async_parts)
    get("/file", send_this_file)
    get("/to-user", to_user)
    get("/to-url", to_url_of_user)
    get("/to-nowhere", to_nowhere)
    resources("/users", UserController, only=["show"])
    with scope("/account"):
        pipe_through("browser")
        get("/", AccountController, "show")
        post("/", AccountController, "create")


def make_app(**options: Any) -> Endpoint:
    given = {"secret_key_base": SECRET, "env": "test", "log": False, "url": {"host": "shop.example", "port": 80}}
    return Endpoint(Router, **{**given, **options})


@pytest.fixture
def app() -> Endpoint:
    return make_app()


@pytest.fixture
def client(app: Endpoint) -> TestClient:
    return app.test()


# --- Requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete", "options"])
def test_each_verb_sends_its_own_method(client: TestClient, verb: str) -> None:
    assert client.json_response(getattr(client, verb)("/echo"))["method"] == verb.upper()


def test_head_is_answered_as_get_without_a_body(client: TestClient) -> None:
    conn = client.head("/page")
    assert (conn.status, response_body(conn)) == (200, b"")
    assert response_body(client.get("/page")) == b"<p>hello</p>"


@pytest.mark.parametrize(
    "method, type", [("GET", None), ("HEAD", None), ("POST", "form"), ("PUT", "form"), ("DELETE", "form")]
)
def test_params_are_the_query_of_a_get_and_the_form_of_all_else(method: str, type: str | None) -> None:
    conn = build_conn(method, "/echo?page=2", {"user": {"name": "Ann & Bo", "tags": ["a", "b"]}})
    written = "user[name]=Ann+%26+Bo&user[tags][]=a&user[tags][]=b"
    if type is None:
        assert conn.query_string == f"page=2&{written}" and conn.read_body() == b""
        assert conn.get_req_header("content-type") == []
    else:
        assert conn.query_string == "page=2" and conn.read_body() == written.encode()
        assert conn.get_req_header("content-type") == ["application/x-www-form-urlencoded"]
        assert conn.get_req_header("content-length") == [str(len(written))]


def test_nested_params_arrive_as_they_were_given(client: TestClient) -> None:
    params = {"user": {"name": "Ann & Bo", "tags": ["a", "b"]}, "ok": "1"}
    assert client.json_response(client.post("/echo", params))["params"] == params
    assert client.json_response(client.get("/echo", params))["params"] == params


def test_json_is_sent_with_its_content_type(client: TestClient) -> None:
    found = client.json_response(client.post("/echo", json={"n": [1, None, {"x": True}]}))
    assert found["params"] == {"n": [1, None, {"x": True}]}
    assert found["headers"]["content-type"] == "application/json"
    other = client.post("/echo", json={"n": 1}, headers={"Content-Type": "application/vnd.api+json"})
    assert other.get_req_header("content-type") == ["application/vnd.api+json"]


def test_a_binary_body_needs_a_content_type(client: TestClient) -> None:
    with pytest.raises(phoenix.ArgumentError, match="a content-type header is required when setting a binary body"):
        client.post("/echo", body=b"x")
    conn = client.post("/echo", body='{"a": 1}', headers={"content-type": "application/json"})
    assert client.json_response(conn)["params"] == {"a": 1}


def test_a_request_has_one_body() -> None:
    with pytest.raises(phoenix.ArgumentError, match="one of params"):
        build_conn("POST", "/", {"a": 1}, json={})
    with pytest.raises(phoenix.ArgumentError, match="one of params"):
        build_conn("POST", "/", json={}, body="x", headers={"content-type": "text/plain"})
    assert build_conn("GET", "/", {"a": 1}, json={"b": 2}).query_string == "a=1"


def test_files_are_sent_with_the_fields_of_the_form(client: TestClient) -> None:
    text = Upload('a "b".txt', "text/plain", "grüße".encode())
    assert client.json_response(client.post("/files", files={"doc": text})) == [['a "b".txt', "text/plain", "grüße"]]
    two = [Upload("1.csv", "text/csv", b"1"), Upload("2.csv", "text/csv", b"2\r\n--")]
    found = client.json_response(client.post("/files", {"doc": {"title": "Größe + mehr"}}, files={"doc[files][]": two}))
    assert found == [["1.csv", "text/csv", "1"], ["2.csv", "text/csv", "2\r\n--"]]


def test_the_fields_beside_a_file_arrive_undamaged() -> None:
    params = {"user": {"name": "Größe + 50% & more", "tags": ["a=b", 'c"d']}}
    conn = build_conn("POST", "/", params, files={"user[pic]": Upload("p.png", "image/png", b"\x89PNG\r\n\x1a\n")})
    found = run_plug(conn, Parsers).params["user"]
    assert found["pic"].file.read() == b"\x89PNG\r\n\x1a\n"
    assert {key: found[key] for key in ("name", "tags")} == params["user"]


def test_the_same_upload_can_be_sent_twice(client: TestClient) -> None:
    upload = Upload("a.txt", "text/plain", b"again")
    for _ in range(2):
        assert client.json_response(client.post("/files", files={"doc": upload}))[0][2] == "again"


def test_uploads_are_gone_after_the_request(client: TestClient) -> None:
    uploads.clear()
    client.post("/keep", files={"doc": Upload("big.bin", content=b"x" * 200_000)})
    assert uploads[0].size == 200_000 and uploads[0].file.closed


def test_a_url_sets_scheme_host_and_port(client: TestClient) -> None:
    found = client.json_response(client.get("https://example.com:8443/echo?a=1"))
    assert (found["scheme"], found["host"], found["port"], found["path"]) == ("https", "example.com", 8443, "/echo")
    assert found["headers"]["host"] == "example.com:8443" and found["params"] == {"a": "1"}
    assert build_conn("GET", "https://example.com").request_path == "/"
    assert (build_conn("GET", "https://example.com").port, build_conn(host="x.org").port) == (443, 80)


@pytest.mark.parametrize(
    "host, expected", [("[::1]", ("[::1]", 80)), ("[::1]:4000", ("[::1]", 4000)), ("API.example.com", ("api.example.com", 80))]
)
def test_a_host_is_read_as_that_of_a_request(host: str, expected: tuple[str, int]) -> None:
    for conn in (build_conn(host=host), build_conn(headers={"Host": host}), build_conn(path=f"http://{host}/")):
        assert (conn.host, conn.port) == expected


def test_a_url_in_the_query_is_no_host() -> None:
    conn = build_conn("GET", "/login?to=http://example.com/")
    assert (conn.host, conn.request_path, conn.query_string) == ("localhost", "/login", "to=http://example.com/")


def test_a_path_may_hold_any_character() -> None:
    assert build_conn("GET", "/caf\u00e9/a b/%2F").request_path == "/caf%C3%A9/a%20b/%2F"


def test_headers_are_sent_in_lower_case_and_checked(client: TestClient) -> None:
    assert client.json_response(client.get("/echo", headers={"X-Token": "T"}))["headers"]["x-token"] == "T"
    with pytest.raises(phoenix.InvalidHeaderError):
        build_conn(headers={"x-a": "1\r\nx-b: 2"})


def test_the_address_of_the_client_can_be_chosen(client: TestClient) -> None:
    assert client.json_response(client.get("/echo", remote_ip="10.1.2.3"))["ip"] == "10.1.2.3"


# --- What is kept from one request to the next --------------------------------------------


def test_cookies_are_kept_as_a_browser_keeps_them(client: TestClient) -> None:
    client.get("/cookies/set")
    assert client.json_response(client.get("/echo"))["cookies"] == {"a": "1", "b": "2"}
    client.get("/cookies/unset")
    assert client.json_response(client.get("/echo"))["cookies"] == {"b": "2"}
    client.cookies["c"] = "3"
    assert client.json_response(client.get("/echo"))["cookies"] == {"b": "2", "c": "3"}


def test_cookies_of_an_application_behind_a_forward_are_kept_too() -> None:
    def guest(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        cookie = "session=; Max-Age=0; Path=/" if environ["PATH_INFO"] == "/logout" else 'session="a=b"; HttpOnly'
        start_response("200 OK", [("Set-Cookie", cookie), ("Content-Type", "text/plain")])
        return [environ.get("HTTP_COOKIE", "").encode()]

    class GuestRouter(phoenix.Router):
        forward("/guest", guest)

    asked = Endpoint(GuestRouter, log=False, static=False, env="test").test()
    asked.get("/guest/login")
    assert asked.cookies == {"session": '"a=b"'}
    assert asked.get("/guest/logout").resp_body == b'session="a=b"' and asked.cookies == {}


def test_two_clients_share_no_cookies(app: Endpoint) -> None:
    app.test().get("/cookies/set")
    assert app.test().cookies == {}


def test_headers_of_the_client_are_sent_with_every_request(client: TestClient) -> None:
    client.headers["Authorization"] = "Bearer x"
    for _ in range(2):
        assert client.json_response(client.get("/echo"))["headers"]["authorization"] == "Bearer x"
    own = client.get("/echo", headers={"authorization": "Bearer y"})
    assert client.json_response(own)["headers"]["authorization"] == "Bearer y"


def test_recycle_keeps_the_headers_that_say_who_asks(client: TestClient) -> None:
    sent = {"accept": "application/json", "accept-language": "de", "authorization": "Basic x", "x-trace": "1"}
    first = client.get("/echo", headers=sent)
    assert "accept" not in client.json_response(client.get("/echo"))["headers"]
    found = client.json_response(client.recycle(first).get("/echo"))["headers"]
    assert {name: found.get(name) for name in sent} == {**sent, "x-trace": None}
    assert client.json_response(client.recycle(first, "X-Trace").get("/echo"))["headers"]["x-trace"] == "1"


def test_a_session_can_be_put_without_a_login(client: TestClient) -> None:
    client.put_session(user_id=7)
    assert client.json_response(client.get("/account")) == {"user_id": 7, "visits": 1}
    client.put_session(role="admin")
    assert client.json_response(client.get("/account")) == {"user_id": 7, "visits": 2, "role": "admin"}


def test_a_session_needs_an_endpoint_that_keeps_them() -> None:
    class Bare(Endpoint):
        plug(head_as_get)

    class Small(phoenix.Router):
        get("/", page)

    with pytest.raises(phoenix.ArgumentError, match="no plug Session"):
        Bare(Small, env="test").test().put_session(user_id=7)


def test_forms_need_a_csrf_token_only_on_demand(app: Endpoint) -> None:
    assert app.test().post("/account").status == 200
    assert app.test(csrf=True).post("/account").status == 403


# --- Where it runs ------------------------------------------------------------------------


def test_plain_functions_run_in_the_thread_of_the_test(client: TestClient) -> None:
    assert client.text_response(client.get("/thread")) == threading.current_thread().name
    assert client.text_response(client.get("/loop")) == "ran"  # which could not be where a loop runs already


def test_async_functions_share_one_loop(client: TestClient) -> None:
    first, second = (client.text_response(client.get("/patient")) for _ in range(2))
    assert first == second


def test_the_client_works_inside_a_running_loop(client: TestClient) -> None:
    async def test() -> list[str]:
        return [client.text_response(client.get(path)) for path in ("/patient", "/thread", "/patient")]

    first, _, second = asyncio.run(test())
    assert first == second


def test_a_request_that_never_ends_fails_the_test(app: Endpoint) -> None:
    client = app.test(timeout=0.05)
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"longer than 0\.05 seconds"):
        client.get("/endless")
    assert time.monotonic() - started < 5
    assert client.get("/patient").status == 200


def test_the_loop_of_a_client_that_is_gone_is_closed_when_the_next_is_made(app: Endpoint) -> None:
    client = app.test()
    client.get("/patient")
    loop = client._loop._loop
    del client
    gc.collect()
    assert loop is not None and app.test().get("/patient").status == 200
    assert loop.is_closed()


def test_no_loop_is_left_open_at_the_end(tmp_path: Path) -> None:
    code = "import sys; sys.path[:0] = sys.argv[1:]; from test_testing import make_app; app = make_app()"
    code += "; kept, _ = app.test(), app.test().get('/patient'); kept.get('/patient'); app.test().get('/patient')"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code, str(here), str(here.parent)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_chunks_are_collected_whatever_generates_them(client: TestClient) -> None:
    assert response_body(client.get("/parts")) == b"one two"
    assert response_body(client.get("/async-parts")) == b"three four"


def test_a_part_of_a_file_is_the_body(client: TestClient) -> None:
    assert response_body(client.get("/file")) == Path(__file__).read_bytes()[3:13]


# --- Checks of responses ------------------------------------------------------------------


def test_a_body_is_returned_when_status_and_type_are_as_expected(client: TestClient) -> None:
    assert client.html_response(client.get("/page")) == "<p>hello</p>"
    assert client.text_response(client.get("/polite"), 404) == "nothing here"
    assert client.text_response(client.get("/polite"), "not_found") == "nothing here"
    assert client.json_response(client.get("/vendor")) == {"a": 1}
    assert client.response(client.get("/untyped")) == "hm"


def test_another_status_fails_with_the_body(client: TestClient) -> None:
    with pytest.raises(AssertionError, match="expected response with status 200, got: 404, with body:\nnothing here"):
        client.text_response(client.get("/polite"))


def test_another_status_fails_with_the_error_of_the_app(client: TestClient) -> None:
    with pytest.raises(AssertionError, match=r"got: 500(.|\n)*The app raised ValueError: boom"):
        client.html_response(client.get("/boom"))


def test_another_content_type_fails(client: TestClient) -> None:
    with pytest.raises(AssertionError, match="expected content-type for json, got: 'text/html; charset=utf-8'"):
        client.json_response(client.get("/page"))
    with pytest.raises(AssertionError, match="no content-type was set, expected a html response"):
        client.html_response(client.get("/untyped"))


def test_redirected_to_gives_the_place(client: TestClient) -> None:
    assert client.redirected_to(client.get("/to-user")) == "/users/7?tab=posts#top"
    with pytest.raises(AssertionError, match="expected redirection with status 302, got: 200"):
        client.redirected_to(client.get("/page"))
    with pytest.raises(AssertionError, match="expected redirection with status 301, got: 302"):
        client.redirected_to(client.get("/to-user"), "moved_permanently")
    with pytest.raises(AssertionError, match="no location header was set"):
        client.redirected_to(client.get("/polite"), 404)


def test_redirected_params_are_those_of_the_route_it_leads_to(client: TestClient) -> None:
    assert client.redirected_params(client.get("/to-user")) == {"id": "7", "tab": "posts"}
    assert client.redirected_params(client.get("/to-url")) == {"id": "8"}
    with pytest.raises(AssertionError, match="redirects to /nowhere"):
        client.redirected_params(client.get("/to-nowhere"))


def test_redirected_params_know_the_path_that_an_app_stands_under() -> None:
    class Small(phoenix.Router):
        get("/", lambda conn, params: conn.redirect(to="/shop/users/9"))
        resources("/users", UserController, only=["show"])

    client = Endpoint(Small, env="test", log=False, url={"host": "x.org", "path": "/shop"}).test()
    assert client.redirected_params(client.get("/")) == {"id": "9"}


def test_errors_become_pages_unless_they_are_to_be_raised(app: Endpoint) -> None:
    assert app.test().get("/boom").status == 500
    with pytest.raises(ValueError, match="boom"):
        app.test(raise_errors=True).get("/boom")


def test_assert_error_sent_tells_an_error_from_an_answer(app: Endpoint) -> None:
    for client in (app.test(), app.test(raise_errors=True)):
        conn = client.assert_error_sent(500, client.get, "/boom")
        assert isinstance(conn.private["phoenix_error"], ValueError) and b"Internal Server Error" in response_body(conn)
        assert client.assert_error_sent("not_found", client.get, "/nowhere").status == 404
        with pytest.raises(AssertionError, match="sent as 404 status, but response sent 404 without error"):
            client.assert_error_sent(404, client.get, "/polite")
        with pytest.raises(AssertionError, match="expected response with status 404, got: 500"):
            client.assert_error_sent(404, client.get, "/boom")
    with pytest.raises(ValueError):  # and afterwards it raises again
        client.get("/boom")


# --- Plugs alone --------------------------------------------------------------------------


def locale(conn: Conn, default: str = "en") -> Conn:
    return conn.assign("locale", conn.params.get("locale", default))


class RequireUser:
    def __init__(self, key: str = "user_id") -> None:
        self.key = key

    def __call__(self, conn: Conn) -> Conn:
        if conn.get_session(self.key):
            return conn
        return conn.put_status(401).text("please log in").halt()


async def look_up(conn: Conn) -> Conn:
    await asyncio.sleep(0)
    return conn.assign("user", f"user {conn.get_session('user_id')}")


def greet(conn: Conn) -> Conn:
    return conn.text(f"hello {conn.assigns['user']} in {conn.assigns['locale']}")


class Greeting(Pipeline):
    plug(locale, default="de")
    plug(RequireUser)
    plug(look_up)
    plug(greet)


def test_a_plug_is_a_function_that_a_test_can_call() -> None:
    assert locale(build_conn("GET", "/?locale=fr")).assigns == {"locale": "fr"}
    assert locale(Conn(), default="de").assigns == {"locale": "de"}


def test_run_plug_runs_what_can_be_plugged() -> None:
    assert run_plug(build_conn(), locale, default="de").assigns == {"locale": "de"}
    conn = run_plug(build_conn(session={}), RequireUser, key="admin_id")
    assert (conn.status, conn.resp_body, conn.halted) == (401, "please log in", True)
    assert run_plug(build_conn(session={"admin_id": 1}), RequireUser("admin_id")).state == "unset"
    assert run_plug(build_conn(session={"user_id": 7}), look_up).assigns == {"user": "user 7"}


def test_a_pipeline_runs_until_it_is_halted() -> None:
    assert run_plug(build_conn(session={"user_id": 7}), Greeting).resp_body == "hello user 7 in de"
    halted = run_plug(build_conn(session={}), Greeting)
    assert (halted.status, "user" in halted.assigns) == (401, False)


def test_a_pipeline_of_plain_functions_answers_at_once() -> None:
    class Plain(Pipeline):
        plug(locale)
        plug(RequireUser)

    conn = build_conn(session={"user_id": 1})
    assert Plain()(conn) is conn and conn.assigns == {"locale": "en"}


def test_run_plug_reports_a_plug_that_returns_nothing() -> None:
    def forgetful(conn: Conn) -> None:
        conn.assign("a", 1)

    with pytest.raises(phoenix.PlugError, match=r"test_testing\.py:\d+: plug .*forgetful returned None"):
        run_plug(build_conn(), forgetful)


def test_run_plug_waits_for_chunks() -> None:
    assert response_body(run_plug(build_conn(), lambda conn: async_parts(conn, Params()))) == b"three four"


def test_a_body_is_parsed_by_the_plug_for_that() -> None:
    conn = build_conn("POST", "/", {"user": {"name": "Ann"}})
    assert conn.params == {}
    assert run_plug(conn, Parsers).params == {"user": {"name": "Ann"}}


def test_a_session_of_a_conn_made_by_hand_can_be_changed_and_sent() -> None:
    conn = build_conn(session={"user_id": 7}).fetch_session()
    assert conn.put_session("x", 1).session == {"user_id": 7, "x": 1}
    conn.fetch_flash().put_flash("notice", "hi").text("sent")
    assert conn.state == "sent" and conn.get_flash("notice") == "hi"


def test_a_session_that_was_not_given_has_to_be_fetched() -> None:
    with pytest.raises(phoenix.PhoenixError, match="session not fetched"):
        run_plug(build_conn(), RequireUser)


def test_objects_of_the_test_are_usable_in_plain_actions() -> None:
    database = sqlite3.connect(":memory:")  # which refuses other threads

    class Small(phoenix.Router):
        get("/", lambda conn, params: conn.text(database.execute("select 6 * 7").fetchone()[0]))

    client = Endpoint(Small, env="test", log=False).test()
    assert client.text_response(client.get("/")) == "42"
    database.close()

"""Chapter 2, Conn: one request and its response, in one object that travels through every plug."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import phoenix
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phoenix import (
    Adapter,
    AlreadySentError,
    ArgumentError,
    Conn,
    CookieOverflowError,
    Endpoint,
    InvalidHeaderError,
    NotSentError,
    PhoenixError,
    RequestTooLargeError,
    parse_cookie_header,
)

from serving import Serving

SENT: list[Callable[[Conn], Conn]] = [
    lambda conn: conn.send_resp(200, "x"),
    lambda conn: conn.send_file(200, __file__),
    lambda conn: conn.send_chunked(200),
]


def answered_by(plug: Callable[[Any], Any], **options: Any) -> Endpoint:
    """An app that is this one plug."""
    return Endpoint(plug, log=False, static=False, env="prod", **options)


# --- The request --------------------------------------------------------------------------


def test_a_fresh_conn_holds_a_request_and_no_response_yet() -> None:
    conn = Conn()
    assert (conn.method, conn.request_path, conn.query_string, conn.scheme, conn.host, conn.port, conn.remote_ip) == (
        "GET", "/", "", "http", "localhost", 80, "127.0.0.1",
    )  # fmt: skip
    assert (conn.path_info, list(conn.script_name), conn.path_params, conn.req_headers, conn.req_cookies) == (
        [],
        [],
        {},
        [],
        {},
    )
    assert (conn.status, conn.resp_body, conn.state, conn.halted, conn.assigns, conn.private) == (
        None,
        None,
        "unset",
        False,
        {},
        {},
    )
    assert conn.resp_headers == [("cache-control", "max-age=0, private, must-revalidate")]


def test_the_fields_of_the_request_are_those_the_client_sent() -> None:
    seen: dict[str, Any] = {}

    def look(conn: Conn) -> Conn:
        for name in (
            "method",
            "request_path",
            "query_string",
            "scheme",
            "host",
            "port",
            "remote_ip",
            "path_info",
            "req_cookies",
        ):
            seen[name] = getattr(conn, name)
        seen["headers"] = conn.req_headers
        return conn.text("ok")

    with Serving(answered_by(look)) as server:
        server.get("/a//b/?x=1&y", {"Host": "example.com:81", "X-Foo": "Bar", "Cookie": "a=1; b=2"})
    headers = seen.pop("headers")
    assert ("x-foo", "Bar") in headers and ("host", "example.com:81") in headers
    assert seen == {
        "method": "GET",
        "request_path": "/a//b/",
        "query_string": "x=1&y",
        "scheme": "http",
        "host": "example.com",
        "port": 81,
        "remote_ip": "127.0.0.1",
        "path_info": ["a", "b"],
        "req_cookies": {"a": "1", "b": "2"},
    }


@pytest.mark.parametrize(
    "path, segments",
    [
        ("/", []), ("/foo/bar", ["foo", "bar"]), ("/foo/bar/", ["foo", "bar"]), ("/foo//bar", ["foo", "bar"]),
        ("//", []), ("/a%2Fb/c", ["a%2Fb", "c"]),
    ],
)  # fmt: skip
def test_the_path_is_split_at_its_slashes_and_kept_as_it_came(path: str, segments: list[str]) -> None:
    conn = Conn("GET", path)
    assert conn.path_info == segments
    assert conn.request_path == path


@pytest.mark.parametrize(
    "scheme, port, query, url",
    [
        ("http", 80, "", "http://example.com/a"), ("http", 81, "", "http://example.com:81/a"),
        ("https", 443, "", "https://example.com/a"), ("https", 80, "", "https://example.com:80/a"),
        ("http", 443, "x=1", "http://example.com:443/a?x=1"), ("http", 80, "x=1&y", "http://example.com/a?x=1&y"),
    ],
)  # fmt: skip
def test_the_url_of_the_request_leaves_out_the_standard_port(scheme: str, port: int, query: str, url: str) -> None:
    assert Conn("GET", "/a", query, {}, scheme, "example.com", port).request_url() == url


def test_request_headers_are_read_under_any_spelling_and_all_values_are_given() -> None:
    conn = Conn(req_headers={"accept": ["text/html", "text/plain"]})
    assert conn.get_req_header("accept") == conn.get_req_header("Accept") == ["text/html", "text/plain"]
    assert conn.get_req_header("x-none") == []
    assert conn.req_headers == [("accept", "text/html"), ("accept", "text/plain")]


def test_changing_a_request_header_leaves_what_other_requests_of_the_client_share() -> None:
    shared = {"accept": ["text/html"], "x-gone": ["1"]}
    conn = (
        Conn(req_headers=shared)
        .put_req_header("Accept", "text/plain")
        .put_req_header("x-new", "2")
        .delete_req_header("X-Gone")
    )
    assert conn.req_headers == [("accept", "text/plain"), ("x-new", "2")]
    assert shared == {"accept": ["text/html"], "x-gone": ["1"]}


def test_the_values_that_are_given_out_are_copies() -> None:
    conn = Conn(req_headers={"accept": ["text/html"]})
    conn.get_req_header("accept").clear()
    conn.get_resp_header("cache-control").clear()
    assert conn.get_req_header("accept") == ["text/html"]
    assert conn.get_resp_header("cache-control") != []


def test_the_host_is_a_field_and_no_header_to_set() -> None:
    with pytest.raises(InvalidHeaderError, match=r"conn\.host = "):
        Conn().put_req_header("Host", "example.com")


def test_cookies_are_read_again_when_their_header_is_changed() -> None:
    conn = Conn(req_headers={"cookie": ["a=1"]})
    assert conn.cookies == {"a": "1"}
    assert conn.put_req_header("cookie", "a=2").cookies == {"a": "2"}
    assert conn.delete_req_header("cookie").cookies == {}


# --- Cookies in ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, cookies",
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1;b=2", {"a": "1", "b": "2"}),
        ("a=1; \tb=2 ", {"a": "1", "b": "2"}),
        ("a=1; a=2", {"a": "1"}),
        ("a", {}),
        ("=1", {}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a b=1; c=2", {"c": "2"}),
        ("a=\t1; b=2", {"b": "2"}),
        ("a=1, b=2", {"a": "1, b=2"}),
        ("$a=1", {"$a": "1"}),
        ('a="1"', {"a": '"1"'}),
        (";;", {}),
    ],
)
def test_a_cookie_header_is_read_by_the_rules_of_browsers(header: str, cookies: dict[str, str]) -> None:
    assert parse_cookie_header(header) == cookies


NAME = st.text("!#$%&'*+-.^_`|~019azAZ", min_size=1)
VALUE = st.text([chr(c) for c in range(0x20, 0x7F) if chr(c) != ";"]).filter(lambda value: value == value.strip(" "))


@given(st.dictionaries(NAME, VALUE, max_size=5))
def test_a_cookie_that_was_set_comes_back_as_it_was(cookies: dict[str, str]) -> None:
    conn = Conn()
    for name, value in cookies.items():
        conn.put_resp_cookie(name, value)
    sent = [f"{name}={value}" for name, (value, _) in (conn._resp_cookies or {}).items()]
    assert Conn(req_headers={"cookie": ["; ".join(sent)]}).req_cookies == cookies
    assert conn.cookies == cookies


def test_several_cookie_headers_are_read_as_one() -> None:
    assert Conn(req_headers={"cookie": ["a=1", "b=2; a=3"]}).req_cookies == {"a": "1", "b": "2"}


def test_the_view_of_all_cookies_follows_what_the_response_sets_and_deletes() -> None:
    conn = Conn(req_headers={"cookie": ["a=1; b=2"]})
    conn.put_resp_cookie("b", "3").put_resp_cookie("c", "4", max_age=0).put_resp_cookie(
        "d", "5", max_age=-7
    ).delete_resp_cookie("a")
    assert conn.cookies == {"b": "3"}
    assert conn.req_cookies == {"a": "1", "b": "2"}
    assert conn.put_resp_cookie("a", "6").cookies == {"a": "6", "b": "3"}


# --- Cookies out --------------------------------------------------------------------------


def wire_cookies(conn: Conn) -> list[str]:
    """The ``Set-Cookie`` values of a response, as the server writes them."""
    lines = phoenix.encode_head(200, {}, conn._resp_cookies).decode("latin-1").split("\r\n")
    return [line.removeprefix("set-cookie: ") for line in lines if line.startswith("set-cookie: ")]


@pytest.mark.parametrize(
    "options, written",
    [
        ({}, "foo=baz; path=/; HttpOnly"),
        ({"path": "/baz"}, "foo=baz; path=/baz; HttpOnly"),
        ({"http_only": False}, "foo=baz; path=/"),
        ({"domain": "google.com"}, "foo=baz; path=/; domain=google.com; HttpOnly"),
        ({"secure": True}, "foo=baz; path=/; secure; HttpOnly"),
        ({"secure": True, "path": "/baz"}, "foo=baz; path=/baz; secure; HttpOnly"),
        ({"same_site": "Lax"}, "foo=baz; path=/; HttpOnly; SameSite=Lax"),
        ({"same_site": "None", "secure": True}, "foo=baz; path=/; secure; HttpOnly; SameSite=None"),
        ({"extra": "Partitioned"}, "foo=baz; path=/; HttpOnly; Partitioned"),
        ({"max_age": 0}, "foo=baz; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; max-age=0; HttpOnly"),
        ({"max_age": 60}, "foo=baz; path=/; expires=Thu, 01 Jan 1970 00:01:05 GMT; max-age=60; HttpOnly"),
        (
            {"max_age": 86_400, "domain": "x.y", "same_site": "Strict", "extra": "Priority=High"},
            "foo=baz; path=/; domain=x.y; expires=Fri, 02 Jan 1970 00:00:05 GMT; max-age=86400; HttpOnly; "
            + "SameSite=Strict; Priority=High",
        ),
    ],
)
def test_a_cookie_is_written_with_its_attributes(options: Any, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 5.0)
    assert wire_cookies(Conn().put_resp_cookie("foo", "baz", **options)) == [written]


def test_over_https_a_cookie_is_secure_unless_told_otherwise() -> None:
    conn = Conn(scheme="https").put_resp_cookie("a", "1").put_resp_cookie("b", "2", secure=False)
    assert wire_cookies(conn) == ["a=1; path=/; secure; HttpOnly", "b=2; path=/; HttpOnly"]


def test_of_two_cookies_with_one_name_the_last_is_sent() -> None:
    assert wire_cookies(Conn().put_resp_cookie("a", "1").put_resp_cookie("a", "2")) == ["a=2; path=/; HttpOnly"]


def test_a_cookie_is_deleted_where_it_was_set_whatever_its_age_was() -> None:
    gone = "foo=; path=/baz; expires=Thu, 01 Jan 1970 00:00:00 GMT; max-age=0; HttpOnly"
    assert wire_cookies(Conn().delete_resp_cookie("foo", path="/baz")) == [gone]
    assert wire_cookies(Conn().delete_resp_cookie("foo", path="/baz", max_age=500)) == [gone]
    assert wire_cookies(Conn().put_resp_cookie("foo", "1").delete_resp_cookie("foo", path="/baz")) == [gone]


BAD_IN_COOKIES = ["a;b", "a\r\nb", "a\nb", "a\rb", "a\0b", "a\tb", "é", "\x7f", " a", "a "]


@pytest.mark.parametrize("bad", BAD_IN_COOKIES)
def test_a_cookie_that_could_add_attributes_or_headers_is_refused(bad: str) -> None:
    for attempt in (
        lambda conn: conn.put_resp_cookie("a", bad),
        lambda conn: conn.put_resp_cookie("a", "1", path=bad),
        lambda conn: conn.put_resp_cookie("a", "1", domain=bad),
        lambda conn: conn.put_resp_cookie(bad, "1"),
        lambda conn: conn.delete_resp_cookie("a", path=bad),
        lambda conn: conn.delete_resp_cookie(bad),
    ):
        conn = Conn()
        with pytest.raises(InvalidHeaderError):
            attempt(conn)
        assert wire_cookies(conn) == []


@pytest.mark.parametrize("name", ["", "a=b", "a,b", '"a"', "a b", "[a]"])
def test_the_name_of_a_cookie_is_a_token(name: str) -> None:
    with pytest.raises(InvalidHeaderError):
        Conn().put_resp_cookie(name, "1")


@pytest.mark.parametrize("extra", ["a\r\nx: y", "a\nb", "a\0b", "é\u0100"])
def test_extra_text_of_a_cookie_cannot_end_the_line(extra: str) -> None:
    with pytest.raises(InvalidHeaderError):
        Conn().put_resp_cookie("a", "1", extra=extra)


def test_mistakes_in_the_options_of_a_cookie_are_named() -> None:
    with pytest.raises(ArgumentError, match="same_site='Lux' is unknown"):
        Conn().put_resp_cookie("a", "1", same_site="Lux")
    with pytest.raises(ArgumentError, match="the value of cookie 'a' is 7, expected text"):
        Conn().put_resp_cookie("a", 7)  # type: ignore[arg-type]


def test_a_cookie_may_have_4096_bytes_with_all_its_attributes_and_no_more() -> None:
    rest = len("a=; path=/; HttpOnly")
    assert len(wire_cookies(Conn().put_resp_cookie("a", "x" * (4096 - rest)))[0]) == 4096
    conn = Conn()
    with pytest.raises(CookieOverflowError, match="cookie 'a' needs 4097 bytes, the limit is 4096"):
        conn.put_resp_cookie("a", "x" * (4097 - rest))
    assert wire_cookies(conn) == []


# --- Headers out --------------------------------------------------------------------------


def headers_of(conn: Conn) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in conn.resp_headers:
        if name != "cache-control":
            found.setdefault(name, []).append(value)
    return found


def test_a_response_header_replaces_earlier_ones_and_its_name_is_in_lower_case() -> None:
    conn = Conn().put_resp_header("X-Foo", "1").put_resp_header("x-foo", "2")
    assert headers_of(conn) == {"x-foo": ["2"]}
    assert conn.get_resp_header("X-FOO") == ["2"]
    assert conn.get_resp_header("x-none") == []


def test_prepended_headers_stand_before_those_of_their_name_in_the_order_given() -> None:
    conn = Conn().put_resp_header("vary", "c").prepend_resp_headers([("Vary", "a"), ("vary", "b"), ("x", "1")])
    assert headers_of(conn) == {"vary": ["a", "b", "c"], "x": ["1"]}


def test_several_headers_are_put_at_once() -> None:
    conn = Conn().put_resp_header("a", "0").merge_resp_headers({"A": "1", "b": "2"}).merge_resp_headers([("c", "3")])
    assert headers_of(conn) == {"a": ["1"], "b": ["2"], "c": ["3"]}


def test_a_header_is_updated_in_its_first_value_or_set() -> None:
    conn = Conn().update_resp_header("x", "initial", str.upper)
    assert headers_of(conn) == {"x": ["initial"]}
    conn.prepend_resp_headers([("x", "first")]).update_resp_header("X", "initial", str.upper)
    assert headers_of(conn) == {"x": ["FIRST", "initial"]}


def test_a_header_is_deleted_with_all_its_values() -> None:
    conn = Conn().prepend_resp_headers([("x", "1"), ("x", "2")]).delete_resp_header("X").delete_resp_header("y")
    assert headers_of(conn) == {}


def test_a_content_type_has_a_charset_unless_it_is_given_none() -> None:
    assert headers_of(Conn().put_resp_content_type("text/html")) == {"content-type": ["text/html; charset=utf-8"]}
    assert headers_of(Conn().put_resp_content_type("text/html", charset="latin-1")) == {
        "content-type": ["text/html; charset=latin-1"]
    }
    assert headers_of(Conn().put_resp_content_type("image/png", charset=None)) == {"content-type": ["image/png"]}


WAYS_TO_SET_A_HEADER: list[Callable[[Conn, str, str], Conn]] = [
    lambda conn, name, value: conn.put_resp_header(name, value),
    lambda conn, name, value: conn.prepend_resp_headers([(name, value)]),
    lambda conn, name, value: conn.merge_resp_headers({name: value}),
    lambda conn, name, value: conn.update_resp_header(name, value, str),
    lambda conn, name, value: conn.put_resp_header(name if name != "x" else "x", "1").update_resp_header(
        name, "", lambda _: value
    ),
    lambda conn, name, value: conn.put_req_header(name, value),
    lambda conn, name, value: conn.put_secure_browser_headers({name: value}),
]


@pytest.mark.parametrize("put", WAYS_TO_SET_A_HEADER)
@pytest.mark.parametrize(
    "value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b", "\x7f", "\x1b[0m", "snow\u2603", "\u010d\u010a"]
)
def test_a_header_value_that_could_become_something_else_is_refused(
    put: Callable[[Conn, str, str], Conn], value: str
) -> None:
    conn = Conn()
    with pytest.raises(InvalidHeaderError, match="the value of header 'x' holds"):
        put(conn, "x", value)
    assert value not in (*conn.get_resp_header("x"), *conn.get_req_header("x"))


@pytest.mark.parametrize("put", WAYS_TO_SET_A_HEADER)
@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "a\0", "é", "a\n", ":a", "a\u2028"])
def test_a_header_name_that_is_no_token_is_refused(put: Callable[[Conn, str, str], Conn], name: str) -> None:
    with pytest.raises(InvalidHeaderError, match="header name"):
        put(Conn(), name, "1")


@pytest.mark.parametrize("value", ["", "a\tb", "é", "\xff", "  a "])
def test_a_header_value_may_hold_what_latin_1_can_show(value: str) -> None:
    assert headers_of(Conn().put_resp_header("x", value)) == {"x": [value]}


def test_a_header_value_that_is_no_text_is_refused_with_the_mend() -> None:
    with pytest.raises(InvalidHeaderError, match=r"is 5, expected text: write str\(value\)"):
        Conn().put_resp_header("content-length", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("content_type", ["text/html\r\nx: y", "text/html\0"])
def test_a_content_type_cannot_add_headers(content_type: str) -> None:
    with pytest.raises(InvalidHeaderError):
        Conn().put_resp_content_type(content_type)
    with pytest.raises(InvalidHeaderError):
        Conn().put_resp_content_type("text/html", charset=content_type)


@pytest.mark.parametrize(
    "location", ["/a\r\nx-evil: 1", "/a\nb", "/a\0b", "/\t/evil.com", "/\\evil.com", "//evil.com", "https://evil.com"]
)
def test_a_redirect_cannot_add_headers_or_leave_the_site(location: str) -> None:
    conn = Conn()
    with pytest.raises(ArgumentError):
        conn.redirect(to=location)
    assert conn.state == "unset"


@pytest.mark.parametrize(
    "external", ["https://example.com/\r\nx-evil: 1", "https://example.com/\0", "https://example.com/\n"]
)
def test_an_external_redirect_cannot_add_headers(external: str) -> None:
    try:
        conn = Conn().redirect(external=external)
    except PhoenixError:
        return
    assert not re.search(r"[\r\n\0]", conn.get_resp_header("location")[0])


@pytest.mark.parametrize("status", [99, 1000, "ok\r\nx: y", "200 OK", "", -1, 2.5])
def test_a_status_can_hold_nothing_but_a_status(status: Any) -> None:
    for answer in (
        lambda conn: conn.put_status(status),
        lambda conn: conn.resp(status, ""),
        lambda conn: conn.send_resp(status, ""),
        lambda conn: conn.send_file(status, __file__),
        lambda conn: conn.send_chunked(status),
    ):
        conn = Conn()
        with pytest.raises(ArgumentError, match="unknown status"):
            answer(conn)
        assert (conn.state, conn.status) == ("unset", None)


# --- Values for what follows --------------------------------------------------------------


def test_assigns_are_stored_in_three_ways() -> None:
    conn = (
        Conn()
        .assign("title", "Hi")
        .assign(user="Ann", key="k")
        .assign({"page": 2}, value=3)
        .merge_assigns({"a": 1}, b=2)
    )
    assert conn.assigns == {"title": "Hi", "user": "Ann", "key": "k", "page": 2, "value": 3, "a": 1, "b": 2}


def test_libraries_have_a_place_of_their_own() -> None:
    conn = Conn().put_private("a", 1).merge_private({"b": 2}, c=3)
    assert (conn.private, conn.assigns) == ({"a": 1, "b": 2, "c": 3}, {})


def test_halting_sends_nothing() -> None:
    conn = Conn().halt()
    assert (conn.halted, conn.state) == (True, "unset")


def test_a_conn_shows_what_it_is() -> None:
    conn = Conn("POST", "/users")
    assert repr(conn) == "<Conn POST /users unset>"
    assert repr(conn.send_resp(201, "")) == "<Conn POST /users sent 201>"


# --- The life of a response ---------------------------------------------------------------


def test_a_status_is_put_by_code_or_name_and_cleared() -> None:
    conn = Conn()
    assert conn.put_status(404).status == 404
    assert conn.put_status("created").status == 201
    assert conn.put_status("im_a_teapot").status == 418
    assert conn.put_status(None).status is None


def test_a_response_is_unset_then_set_then_sent() -> None:
    conn = Conn()
    assert conn.state == "unset"
    assert conn.resp("created", "one").state == "set"
    assert (conn.resp(200, "two").status, conn.resp_body) == (200, "two")
    assert conn.send_resp().state == "sent"
    assert (conn.status, conn.resp_body) == (200, "two")


@pytest.mark.parametrize(
    "body, kept",
    [
        ("text", "text"),
        ("", ""),
        (b"bytes", b"bytes"),
        (["a", b"b", "é"], "abé".encode()),
        ((), b""),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
    ],
)
def test_a_body_is_text_or_bytes_or_a_list_of_them(body: Any, kept: str | bytes) -> None:
    assert Conn().resp(200, body).resp_body == kept


@pytest.mark.parametrize("body", [None, {"a": 1}, 7, {"a"}, object()])
def test_what_is_no_body_is_refused_with_the_mend(body: Any) -> None:
    conn = Conn()
    with pytest.raises(ArgumentError, match=r"expected text, bytes or a list of them.\nFor data write conn.json"):
        conn.resp(200, body)
    assert conn.state == "unset"


def test_a_body_may_be_left_out() -> None:
    assert (conn := Conn().send_resp("ok", "")).resp_body == ""
    assert (conn.status, conn.state) == (200, "sent")
    assert (Conn().send_resp("no_content").status, Conn().send_resp(204).resp_body) == (204, "")


def test_a_body_alone_is_sent_with_the_status_that_was_put() -> None:
    assert Conn().send_resp(body="x").status == 200
    conn = Conn().put_status(201).send_resp(body="x")
    assert (conn.status, conn.resp_body) == (201, "x")


def test_a_response_that_was_not_set_cannot_be_sent() -> None:
    with pytest.raises(ArgumentError, match="^cannot send a response that was not set"):
        Conn().send_resp()


@pytest.mark.parametrize("send", SENT)
@pytest.mark.parametrize(
    "change",
    [
        lambda conn: conn.put_status(404),
        lambda conn: conn.resp(200, ""),
        lambda conn: conn.send_resp(200, ""),
        lambda conn: conn.send_resp(),
        lambda conn: conn.send_file(200, __file__),
        lambda conn: conn.send_chunked(200),
        lambda conn: conn.put_resp_header("a", "b"),
        lambda conn: conn.delete_resp_header("a"),
        lambda conn: conn.prepend_resp_headers([("a", "b")]),
        lambda conn: conn.merge_resp_headers({"a": "b"}),
        lambda conn: conn.update_resp_header("a", "b", str),
        lambda conn: conn.put_resp_content_type("text/html"),
        lambda conn: conn.put_resp_cookie("a", "b"),
        lambda conn: conn.delete_resp_cookie("a"),
        lambda conn: conn.register_before_send(lambda conn: conn),
        lambda conn: conn.text("x"),
        lambda conn: conn.html("x"),
        lambda conn: conn.json({}),
        lambda conn: conn.redirect(to="/"),
        lambda conn: conn.put_req_header("a", "b"),
        lambda conn: conn.delete_req_header("a"),
        lambda conn: conn.put_secure_browser_headers(),
    ],
)
def test_what_was_sent_cannot_be_changed(send: Callable[[Conn], Conn], change: Callable[[Conn], Conn]) -> None:
    conn = send(Conn())
    before = (conn.state, conn.status, conn.resp_body, conn.resp_headers)
    with pytest.raises(AlreadySentError, match=r"^the response was already sent\n.*\.halt\(\)"):
        change(conn)
    assert (conn.state, conn.status, conn.resp_body, conn.resp_headers) == before


def test_a_request_that_nobody_answers_is_an_error_of_the_app(caplog: pytest.LogCaptureFixture) -> None:
    app = answered_by(lambda conn: conn)
    with pytest.raises(NotSentError, match="^a response was neither set nor sent from the connection\n"):
        app.test(raise_errors=True).get("/")
    assert app.test().get("/").status == 500
    assert "NotSentError" in caplog.text


def test_halting_without_a_response_is_no_answer() -> None:
    assert answered_by(lambda conn: conn.halt()).test().get("/").status == 500


def test_a_response_that_was_only_set_is_sent_by_the_server() -> None:
    with Serving(answered_by(lambda conn: conn.resp(201, "made"))) as server:
        answer = server.get("/")
    assert (answer.status, answer.text, answer.headers["content-length"]) == (201, "made", ["4"])


def test_what_a_handler_put_into_headers_and_cookies_arrives() -> None:
    def answer(conn: Conn) -> Conn:
        conn.prepend_resp_headers([("x", "1"), ("x", "2")]).put_resp_cookie("a", "1").put_resp_cookie(
            "b", "2", http_only=False
        )
        return conn.put_status("created").text("é")

    with Serving(answered_by(answer)) as server:
        got = server.get("/")
    assert (got.status, got.text, got.headers["x"]) == (201, "é", ["1", "2"])
    assert got.headers["set-cookie"] == ["a=1; path=/; HttpOnly", "b=2; path=/"]
    assert got.headers["cache-control"] == ["max-age=0, private, must-revalidate"]
    assert got.headers["content-type"] == ["text/plain; charset=utf-8"]


def test_half_a_surrogate_pair_in_a_body_does_not_keep_the_rest_from_the_client() -> None:
    with Serving(answered_by(lambda conn: conn.text("name: \udcff!"))) as server:
        assert server.get("/").text == "name: ?!"


# --- Before it is sent --------------------------------------------------------------------


@pytest.mark.parametrize("send", [*SENT, lambda conn: conn.text("x"), lambda conn: conn.resp(200, "x").send_resp()])
def test_callbacks_run_before_the_response_is_sent_the_last_registered_first(send: Callable[[Conn], Conn]) -> None:
    order: list[int] = []

    def note(number: int) -> Callable[[Conn], Conn]:
        def callback(conn: Conn) -> Conn:
            order.append(number)
            return conn.put_resp_header("x-last", str(number))

        return callback

    conn = Conn()
    for number in (1, 2, 3):
        conn.register_before_send(note(number))
    assert order == []
    send(conn)
    assert order == [3, 2, 1]
    assert conn.get_resp_header("x-last") == ["1"]


def test_a_callback_may_change_status_body_headers_and_cookies() -> None:
    def change(conn: Conn) -> Conn:
        assert (conn.state, conn.status, conn.resp_body) == ("set", 200, "old")
        conn.resp_body = "new"
        return conn.put_status(201).put_resp_header("x", "1").put_resp_cookie("a", "1")

    conn = Conn().register_before_send(change).send_resp(200, "old")
    assert (conn.state, conn.status, conn.resp_body) == ("sent", 201, "new")
    assert conn.get_resp_header("x") == ["1"]
    assert wire_cookies(conn) == ["a=1; path=/; HttpOnly"]


def test_before_a_file_is_sent_callbacks_see_no_body() -> None:
    seen: list[Any] = []
    conn = Conn().register_before_send(lambda conn: (seen.append(conn.resp_body), conn.put_status(206))[1])
    assert conn.send_file(200, __file__).status == 206
    assert seen == [None]


def test_a_callback_registered_by_a_callback_runs_too() -> None:
    order: list[str] = []

    def inner(conn: Conn) -> Conn:
        order.append("inner")
        return conn

    def outer(conn: Conn) -> Conn:
        order.append("outer")
        return conn.register_before_send(inner)

    Conn().register_before_send(outer).send_resp(200, "")
    assert order == ["outer", "inner"]


def test_a_callback_must_return_the_conn_and_must_not_send() -> None:
    with pytest.raises(PhoenixError, match="must return the conn"):
        Conn().register_before_send(lambda conn: None).send_resp(200, "")
    with pytest.raises(PhoenixError, match="must return the conn"):
        Conn().register_before_send(lambda conn: Conn()).send_resp(200, "")
    with pytest.raises(PhoenixError, match="sent a response"):
        Conn().register_before_send(lambda conn: conn.send_resp(200, "")).send_resp(200, "")


def test_when_a_callback_raises_the_others_still_see_the_error_page() -> None:
    statuses: list[int | None] = []

    def note(conn: Conn) -> Conn:
        statuses.append(conn.status)
        return conn

    def fail(conn: Conn) -> Conn:
        raise ValueError("no")

    conn = (
        answered_by(lambda conn: conn.register_before_send(note).register_before_send(fail).text("x")).test().get("/")
    )
    assert (conn.status, statuses) == (500, [500])


# --- Files --------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    file = tmp_path / "digits.txt"
    file.write_bytes(b"0123456789")
    return file


@pytest.mark.parametrize(
    "offset, length, sent",
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (0, 4, b"0123"),
        (3, 4, b"3456"),
        (8, 50, b"89"),
        (10, None, b""),
        (50, None, b""),
        (0, 0, b""),
    ],
)
def test_a_file_or_a_part_of_it_is_sent(digits: Path, offset: int, length: int | None, sent: bytes) -> None:
    def answer(conn: Conn) -> Conn:
        return conn.put_resp_content_type("text/plain").send_file(200, digits, offset, length)

    with Serving(answered_by(answer)) as server, server.client() as client:
        got = client.get("/")
        assert (got.status, got.body, got.headers["content-length"]) == (200, sent, [str(len(sent))])
        head = client.send("HEAD", "/")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", [str(len(sent))])


def test_a_large_file_arrives_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "large").write_bytes(content)
    with Serving(answered_by(lambda conn: conn.send_file(200, str(tmp_path / "large")))) as server:
        assert server.get("/").body == content


def test_a_file_is_a_state_of_its_own(digits: Path) -> None:
    conn = Conn().send_file("ok", digits)
    assert (conn.state, conn.status) == ("file", 200)
    assert Conn().send_file(200, bytes(digits)).state == "file"


def test_a_file_that_cannot_be_sent_is_an_error_at_once(tmp_path: Path) -> None:
    conn = Conn()
    with pytest.raises(ArgumentError, match="holds a NUL"):
        conn.send_file(200, "a\0b")
    with pytest.raises(FileNotFoundError):
        conn.send_file(200, tmp_path / "none")
    with pytest.raises(PermissionError, match="is no file"):
        conn.send_file(200, tmp_path)
    for numbers in ({"offset": -1}, {"length": -1}):
        with pytest.raises(ArgumentError, match="both count from 0"):
            conn.send_file(200, __file__, **numbers)
    assert conn.state == "unset"


# --- Chunks -------------------------------------------------------------------------------


def test_chunks_go_out_one_by_one_and_empty_ones_do_not_end_the_stream() -> None:
    def answer(conn: Conn) -> Conn:
        return conn.send_chunked(200).chunk("one").chunk("").chunk(b"").chunk(b"two").chunk("é")

    async def answer_async(conn: Conn) -> Conn:
        conn.send_chunked("ok").chunk("one")
        await asyncio.sleep(0)
        await conn.chunk("")
        await conn.chunk(b"two")
        return await conn.chunk("é")

    for plug in (answer, answer_async):
        with Serving(answered_by(plug)) as server, server.client() as client:
            for _ in range(2):
                got = client.get("/")
                assert (got.status, got.text, got.headers["transfer-encoding"]) == (200, "onetwoé", ["chunked"])
            assert client.send("HEAD", "/").body == b""


def count() -> Iterator[str | bytes]:
    for number in range(5):
        yield str(number)
    yield ""
    yield b"!"


async def count_async() -> AsyncIterator[str | bytes]:
    for part in count():
        await asyncio.sleep(0)
        yield part


@pytest.mark.parametrize("parts", [count, count_async, lambda: ["01234", b"!"]])
def test_a_generator_of_either_kind_gives_the_parts(parts: Callable[[], Any]) -> None:
    app = answered_by(lambda conn: conn.send_chunked(200, parts()))
    with Serving(app) as server, server.client() as client:
        for _ in range(2):
            assert client.get("/").text == "01234!"
    conn = app.test().get("/")
    assert (conn.state, phoenix.response_body(conn)) == ("chunked", b"01234!")


def test_text_is_no_generator_of_parts() -> None:
    for text in ("text", b"bytes"):
        with pytest.raises(ArgumentError, match="takes a generator"):
            Conn().send_chunked(200, text)  # type: ignore[arg-type]


def test_a_chunk_needs_a_chunked_response() -> None:
    for conn in (Conn(), Conn().resp(200, ""), Conn().send_resp(200, ""), Conn().send_file(200, __file__)):
        with pytest.raises(ArgumentError, match="needs a chunked response"):
            conn.chunk("x")


def test_chunks_of_a_conn_without_a_server_are_kept() -> None:
    conn = Conn().send_chunked(200).chunk("a").chunk(b"b")
    assert (conn.state, conn.adapter.chunks) == ("chunked", [b"a", b"b"])


# --- The body of the request --------------------------------------------------------------


def test_a_body_that_nobody_parsed_is_read_once() -> None:
    conn = Conn("POST", adapter=Adapter(b"hello"))
    assert (conn.read_body(), conn.read_body()) == (b"hello", b"")


def test_a_body_over_the_limit_is_refused() -> None:
    with pytest.raises(RequestTooLargeError, match="^the request is too large: its body is over 4 bytes$") as caught:
        Conn("POST", adapter=Adapter(b"hello")).read_body(length=4)
    assert caught.value.status == 413

    async def read() -> bytes:
        return await Conn("POST", adapter=Adapter(b"hello")).body.read(length=4)

    with pytest.raises(RequestTooLargeError):
        asyncio.run(read())


def read_blocking(conn: Conn) -> Conn:
    return conn.send_resp(200, conn.read_body())


def read_in_parts(conn: Conn) -> Conn:
    return conn.send_resp(200, b"".join(conn.body))


async def read_whole_async(conn: Conn) -> Conn:
    return conn.send_resp(200, await conn.body.read())


async def read_in_parts_async(conn: Conn) -> Conn:
    return conn.send_resp(200, b"".join([part async for part in conn.body]))


@pytest.mark.parametrize("plug", [read_blocking, read_in_parts, read_whole_async, read_in_parts_async])
@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 300_000])
def test_a_body_is_read_in_every_manner(plug: Callable[[Any], Any], body: bytes) -> None:
    with Serving(answered_by(plug)) as server, server.client() as client:
        for _ in range(2):
            assert client.send("POST", "/", body, {"content-type": "application/x-mine"}).body == body


def test_a_body_over_the_limit_answers_413() -> None:
    with (
        Serving(answered_by(lambda conn: conn.send_resp(200, conn.read_body(length=4)))) as server,
        server.client() as client,
    ):
        assert client.send("POST", "/", b"hello", {"content-type": "application/x-mine"}).status == 413


def test_reading_a_body_where_it_would_block_the_loop_says_what_to_write() -> None:
    problems: list[str] = []

    async def read_wrongly(conn: Conn) -> Conn:
        try:
            conn.read_body()
        except PhoenixError as error:
            problems.append(str(error))
        return conn.text("ok")

    with Serving(answered_by(read_wrongly)) as server, server.client() as client:
        client.send("POST", "/", b"hello", {"content-type": "application/x-mine"})
    assert len(problems) == 1 and "await conn.body.read()" in problems[0]


def test_after_a_visit_to_a_worker_thread_the_loop_is_known_as_the_loop() -> None:
    problems: list[str] = []

    def in_a_worker(conn: Conn) -> Conn:
        return conn.register_before_send(late)

    def late(conn: Conn) -> Conn:  # the response is only set: this runs on the loop, after the last plug
        try:
            conn.read_body()
        except PhoenixError as error:
            problems.append(str(error))
        return conn

    with Serving(answered_by(lambda conn: in_a_worker(conn).resp(200, "ok"))) as server, server.client() as client:
        assert client.send("POST", "/", b"hello", {"content-type": "application/x-mine"}).text == "ok"
    assert len(problems) == 1 and "would block the event loop" in problems[0]

"""Chapter 13, HTTP protocol: RFC 9112 in tables and properties, h11 as the oracle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phoenix import HTTPLimits, HTTPProtocolError, Request, RequestParser
from phoenix import encode_chunk, encode_head, parse_request_head  # not for applications

ROOT = Path(__file__).resolve().parent.parent
HOST = b"Host: example.com\r\n"
ASK = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
GET = ASK + b"\r\n"


# --- Helpers ------------------------------------------------------------------------------


def read_all(parser: RequestParser) -> list[tuple[Request, bytes]]:
    """Return the requests that are complete, with their bodies."""
    complete = []
    while request := parser.next_request():
        body = b""
        while part := parser.next_data():
            body += part
        assert part is not None, "the body is not complete"
        complete.append((request, body))
    return complete


def parse(wire: bytes, limits: HTTPLimits | None = None) -> tuple[Request, bytes]:
    """Return the one request of *wire*, and its body."""
    parser = RequestParser(limits)
    parser.receive_data(wire)
    [(request, body)] = read_all(parser)
    assert parser.buffered == 0
    return request, body


class Trickle:
    """Reads a connection as a server does, from any pieces: ``complete`` requests, and the ``body`` in progress."""

    def __init__(self, limits: HTTPLimits | None = None) -> None:
        self.parser = RequestParser(limits)
        self.complete: list[tuple[Request, bytes]] = []
        self.request: Request | None = None
        self.body = b""

    def feed(self, data: bytes) -> None:
        self.parser.receive_data(data)
        while True:
            if self.request is None:
                self.request = self.parser.next_request()
                if self.request is None:
                    return
                self.body = b""
            while part := self.parser.next_data():
                self.body += part
            if part is None:
                return
            self.complete.append((self.request, self.body))
            self.request = None


def feed_bytes(wire: bytes, limits: HTTPLimits | None = None) -> Trickle:
    trickle = Trickle(limits)
    for at in range(len(wire)):
        trickle.feed(wire[at : at + 1])
    return trickle


def facts(request: Request, body: bytes) -> dict[str, Any]:
    """What a request is, in values that can be compared."""
    headers = request.headers
    return {
        "method": request.method, "path": request.path, "query": request.query, "minor": request.minor,
        "fields": headers.fields, "host": headers.host, "port": headers.port, "keep_alive": request.keep_alive,
        "expects_continue": headers.expects_continue, "body": body,
    }  # fmt: skip


# --- Heads --------------------------------------------------------------------------------

HEADS: list[tuple[bytes, dict[str, Any]]] = [
    (GET, dict(method="GET", path="/", query="", minor=1, host="example.com", port=0, keep_alive=True)),
    (b"GET /a/b?x=1&y=%20 HTTP/1.1\r\n" + HOST + b"\r\n", dict(path="/a/b", query="x=1&y=%20")),
    (b"GET /? HTTP/1.1\r\n" + HOST + b"\r\n", dict(path="/", query="")),
    (b"GET /a?b?c HTTP/1.1\r\n" + HOST + b"\r\n", dict(path="/a", query="b?c")),
    (b"GET //a//b HTTP/1.1\r\n" + HOST + b"\r\n", dict(path="//a//b")),
    (b"GET /a|b?{x}=[^]`\\ HTTP/1.1\r\n" + HOST + b"\r\n", dict(path="/a|b", query="{x}=[^]`\\")),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", dict(method="get")),
    (b"M-SEARCH / HTTP/1.1\r\n" + HOST + b"\r\n", dict(method="M-SEARCH")),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", dict(method="OPTIONS", path="/*", host="example.com")),
    (b"GET / HTTP/1.1\r\nhOsT:\t EXAMPLE.com:8080 \t\r\n\r\n", dict(host="example.com", port=8080)),
    (b"GET / HTTP/1.1\r\nHost: example.com:\r\n\r\n", dict(host="example.com", port=0)),
    (b"GET / HTTP/1.1\r\nHost: [2001:DB8::1]\r\n\r\n", dict(host="[2001:db8::1]", port=0)),
    (b"GET / HTTP/1.1\r\nHost: [::ffff:1.2.3.4]:81\r\n\r\n", dict(host="[::ffff:1.2.3.4]", port=81)),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:65535\r\n\r\n", dict(host="127.0.0.1", port=65535)),
    (b"GET / HTTP/1.1\r\nHost: b%C3%BCcher.example\r\n\r\n", dict(host="b%c3%bccher.example")),
    # The absolute form wins over Host (RFC 9112 §3.2.2).
    (b"GET http://other.org:81/a?b HTTP/1.1\r\n" + HOST + b"\r\n",
        dict(path="/a", query="b", host="other.org", port=81, fields={"host": ["other.org:81"]})),
    (b"GET HTTP://other.org HTTP/1.1\r\n" + HOST + b"\r\n", dict(path="/", host="other.org")),
    (b"GET http://other.org?b HTTP/1.1\r\n" + HOST + b"\r\n", dict(path="/", query="b", host="other.org")),
    (b"GET https://[::1]:81/ HTTP/1.1\r\n" + HOST + b"\r\n", dict(path="/", host="[::1]", port=81)),
    # Versions: an unknown minor one is read as the highest that is known (RFC 9110 §2.5).
    (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", dict(minor=1, keep_alive=True)),
    (b"GET / HTTP/1.0\r\n\r\n", dict(minor=0, host="", keep_alive=False, fields={})),
    (b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", dict(minor=0, host="example.com", keep_alive=False)),
    # Connection (RFC 9112 §9.3): close wins.
    (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", dict(keep_alive=True)),
    (b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", dict(keep_alive=False)),
    (ASK + b"Connection: close\r\n\r\n", dict(keep_alive=False)),
    (ASK + b"Connection: x, CLOSE\r\n\r\n", dict(keep_alive=False)),
    (ASK + b"Connection: x\r\nConnection: close\r\n\r\n", dict(keep_alive=False)),
    (ASK + b"Connection: not-close\r\n\r\n", dict(keep_alive=True)),
    (ASK + b"Connection: \xa0close\r\n\r\n", dict(keep_alive=True)),
    # Fields: values in order, names in lower case, spaces around values dropped.
    (ASK + b"A:1\r\nb: x y \r\na:\t2\r\nc:\r\n\r\n",
        dict(fields={"host": ["example.com"], "a": ["1", "2"], "b": ["x y"], "c": [""]})),
    (ASK + b"a: caf\xe9\tb\r\n\r\n", dict(fields={"host": ["example.com"], "a": ["caf\xe9\tb"]})),
    (ASK + b"!#$%&'*+-.^_`|~9: x\r\n\r\n", dict(fields={"host": ["example.com"], "!#$%&'*+-.^_`|~9": ["x"]})),
    (POST + b"Expect: 100-Continue\r\n\r\n", dict(expects_continue=True)),
    # Blank lines in front (RFC 9112 §2.2).
    (b"\r\n\r\n" + GET, dict(method="GET", path="/")),
]  # fmt: skip


@pytest.mark.parametrize("wire, expected", HEADS, ids=[repr(wire[:60]) for wire, _ in HEADS])
def test_a_head_is_read_whole_cut_and_with_more_behind_it(wire: bytes, expected: dict[str, Any]) -> None:
    whole = facts(*parse(wire))
    assert {key: whole[key] for key in expected} == expected
    for cut in range(len(wire)):
        parser = RequestParser()
        parser.receive_data(wire[:cut])
        assert parser.next_request() is None
        parser.receive_data(wire[cut:])
        request = parser.next_request()
        assert request is not None and facts(request, b"") == whole
    parser = RequestParser()
    parser.receive_data(wire + b"GET /next")
    assert parser.next_request() is not None and parser.next_data() == b"" and parser.buffered == 9
    assert [facts(*pair) for pair in feed_bytes(wire + wire).complete] == [whole, whole]


BAD_HEADS: list[tuple[str, bytes, int]] = [
    # Lines
    ("a bare line feed behind the request line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    ("a bare line feed behind a header", b"GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
    ("a header behind a bare line feed", b"GET / HTTP/1.1\r\nHost: x\nContent-Length: 5\r\n\r\n", 400),
    ("only bare line feeds", b"GET / HTTP/1.1\nHost: x\n\n", 400),
    ("a bare carriage return in a header", ASK + b"a: b\rc: d\r\n\r\n", 400),
    ("a bare carriage return behind a header", ASK + b"a: b\r\r\n\r\n", 400),
    ("a bare carriage return in the request line", b"GET /\r HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a line feed in front", b"\n" + GET, 400),
    ("a space in front", b" " + GET, 400),
    ("a folded line", ASK + b"a: b\r\n c\r\n\r\n", 400),
    ("a line folded with a tab", ASK + b"a: b\r\n\tc\r\n\r\n", 400),
    ("a folded length", POST + b"Content-Length:\r\n 5\r\n\r\n", 400),
    ("a space behind the request line", b"GET / HTTP/1.1\r\n Host: example.com\r\n\r\n", 400),
    # Names and values of headers
    ("a space before the colon", b"GET / HTTP/1.1\r\nHost : example.com\r\n\r\n", 400),
    ("a tab before the colon", ASK + b"Content-Length\t: 5\r\n\r\n", 400),
    ("no colon", ASK + b"abc\r\n\r\n", 400),
    ("no name", ASK + b": abc\r\n\r\n", 400),
    ("a name with a space", ASK + b"a b: c\r\n\r\n", 400),
    ("a name with a parenthesis", ASK + b"a(b): c\r\n\r\n", 400),
    ("a name that is not ASCII", ASK + b"caf\xe9: c\r\n\r\n", 400),
    ("a name with a slash", ASK + b"a/b: c\r\n\r\n", 400),
    ("a NUL in a value", ASK + b"a: b\0c\r\n\r\n", 400),
    ("a NUL in a name", ASK + b"a\0: b\r\n\r\n", 400),
    ("a control character in a value", ASK + b"a: b\x01\r\n\r\n", 400),
    ("a delete in a value", ASK + b"a: b\x7f\r\n\r\n", 400),
    ("a vertical tab in a value", ASK + b"a: \x0bb\r\n\r\n", 400),
    # Request lines and targets
    ("HTTP/0.9", b"GET /\r\n\r\n", 400),
    ("two spaces", b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a tab for a space", b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a space behind the version", b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    ("no target", b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("no method", b"/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a method with a colon", b"GE:T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a method that is not ASCII", b"G\xc9T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target with a space", b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target with a fragment", b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target that is not ASCII", b"GET /caf\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target with a NUL", b"GET /a\0 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target with a delete", b"GET /a\x7f HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target without a slash", b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target that is a query", b"GET ?a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an asterisk outside of OPTIONS", b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an asterisk with a path", b"OPTIONS */a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an absolute form of another scheme", b"GET ftp://example.com/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an absolute form without host", b"GET http:///a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an absolute form with a user", b"GET http://ann@example.com/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an absolute form with a bad port", b"GET http://example.com:x/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an absolute form without Host", b"GET http://example.com/ HTTP/1.1\r\n\r\n", 400),
    ("an absolute form beside a bad Host", b"GET http://example.com/ HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("CONNECT", b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    ("CONNECT with a path", b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    # Versions
    ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/2", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    ("HTTP/0.9 with a version", b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    ("a version of two digits", b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    ("a version without minor", b"GET / HTTP/1\r\n" + HOST + b"\r\n", 400),
    ("a version in lower case", b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    ("another protocol", b"GET / ICY/1.1\r\n" + HOST + b"\r\n", 400),
    ("a version of arabic digits", "GET / HTTP/١.١\r\n".encode() + HOST + b"\r\n", 400),
    # Host
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("no Host among others", b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
    ("an empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("the same Host twice", b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    ("two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400),
    ("a Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("a Host with a slash", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("a Host with a user", b"GET / HTTP/1.1\r\nHost: ann@a\r\n\r\n", 400),
    ("a Host with a question mark", b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", 400),
    ("a Host with quotes", b'GET / HTTP/1.1\r\nHost: a"b\r\n\r\n', 400),
    ("a Host with a tag", b"GET / HTTP/1.1\r\nHost: <b>\r\n\r\n", 400),
    ("a Host that is not ASCII", b"GET / HTTP/1.1\r\nHost: caf\xe9\r\n\r\n", 400),
    ("a Host with a bad escape", b"GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n", 400),
    ("a Host that is a list", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    ("a port that is no number", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    ("a port with a sign", b"GET / HTTP/1.1\r\nHost: a:+1\r\n\r\n", 400),
    ("a port of arabic digits", "GET / HTTP/1.1\r\nHost: a:١\r\n\r\n".encode(), 400),
    ("a port that is too large", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400),
    ("two ports", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400),
    ("only a port", b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
    ("an IPv6 host without brackets", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 400),
    ("an IPv6 host that is none", b"GET / HTTP/1.1\r\nHost: [:::1]\r\n\r\n", 400),
    ("an IPv6 host of too many groups", b"GET / HTTP/1.1\r\nHost: [1:2:3:4:5:6:7:8:9]\r\n\r\n", 400),
    ("an IPv6 host with a zone", b"GET / HTTP/1.1\r\nHost: [fe80::1%eth0]\r\n\r\n", 400),
    ("an IPv4 host in brackets", b"GET / HTTP/1.1\r\nHost: [1.2.3.4]\r\n\r\n", 400),
    ("an open bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    # The length of the body (RFC 9112 §6)
    *((f"the length {length!r}", POST + b"Content-Length: " + length + b"\r\n\r\n", 400) for length in (
        b"+5", b"-5", b"5,5", b"5, 5", b"5 5", b"0x5", b"5_0", b"5.0", b"1e3", b"", b"five", b"5;", b'"5"', b"\xb2",
        b"9" * 19, "٥".encode(), "５".encode(),
    )),
    ("two lengths", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    ("the same length twice", POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\n", 400),
    ("a length and chunks", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("chunks and a length", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400),
    ("an unknown coding and a length", POST + b"Transfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\n", 400),
    ("chunks in HTTP/1.0", b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    *((f"the transfer coding {coding!r}", POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n", 400) for coding in (
        b"gzip", b"identity", b"chunked, gzip", b"chunked, chunked", b"xchunked", b"chunked;q=1", b'"chunked"',
        b"chunked,", b"", b"chunked\xa0", b"\x0bchunked",
    )),
    *((f"the transfer coding {coding!r}", POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n", 501) for coding in (
        b"gzip, chunked", b"x, gzip, chunked", b", chunked",
    )),
    ("chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("two codings in two lines", POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
]  # fmt: skip


def status_of(feed: Any, *arguments: Any) -> int:
    with pytest.raises(HTTPProtocolError) as raised:
        feed(*arguments)
    return raised.value.status


@pytest.mark.parametrize("what, wire, status", BAD_HEADS, ids=[what for what, _, _ in BAD_HEADS])
def test_a_head_is_refused_with(what: str, wire: bytes, status: int) -> None:
    assert status_of(parse, wire) == status
    assert status_of(feed_bytes, wire) == status
    assert status_of(parse, wire + GET) == status


@pytest.mark.parametrize("what, wire", [
    ("a bare line feed", b"GET / HTTP/1.1\r\nHost: x\n"),
    ("a request line of HTTP/0.9", b"GET /\r\n"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("a space", b" "),
    ("a header without end behind a good line", b"GET / HTTP/1.1\r\na: " + b"b" * 70_000),
])  # fmt: skip
def test_what_can_become_no_request_is_refused_before_its_head_is_complete(what: str, wire: bytes) -> None:
    parser = RequestParser()
    parser.receive_data(wire)
    assert status_of(parser.next_request) in (400, 431)


# --- Limits -------------------------------------------------------------------------------


def head_of(line: int = 100, headers: list[bytes] | None = None) -> bytes:
    """Return a head whose request line has *line* bytes."""
    lines = [b"GET /" + b"a" * (line - 14) + b" HTTP/1.1", HOST.strip(), *(headers or [])]
    return b"\r\n".join([*lines, b"", b""])


def test_a_request_line_may_have_8192_bytes_and_no_more() -> None:
    assert len(parse(head_of(line=8192))[0].path) == 8192 - 13
    assert status_of(parse, head_of(line=8193)) == 414
    assert status_of(feed_bytes, head_of(line=8193)) == 414


def test_a_request_line_that_never_ends_is_refused_at_its_limit() -> None:
    trickle = Trickle()
    trickle.feed(b"GET /" + b"a" * 8187)
    assert status_of(trickle.feed, b"a") == 414


def test_a_header_may_have_8192_bytes_and_no_more() -> None:
    assert parse(head_of(headers=[b"a: " + b"b" * 8189]))[0].headers.fields["a"] == ["b" * 8189]
    assert status_of(parse, head_of(headers=[b"a: " + b"b" * 8190])) == 431


def test_there_may_be_100_headers_and_no_more() -> None:
    assert len(parse(head_of(headers=[b"a: b"] * 99))[0].headers.fields["a"]) == 99
    assert status_of(parse, head_of(headers=[b"a: b"] * 100)) == 431


def test_all_headers_may_have_64_kib_and_no_more() -> None:
    fill = [b"a: " + b"b" * 8187 for _ in range(7)]  # 8192 bytes each with their line ends
    rest = 65_536 - len(HOST) - 7 * 8192
    exact = head_of(headers=[*fill, b"c: " + b"d" * (rest - 3)])
    assert len(exact) == 102 + 65_536 + 4
    assert parse(exact)[0].headers.fields["c"] == ["d" * (rest - 3)]
    over = head_of(headers=[*fill, b"c: " + b"d" * (rest - 2)])
    assert status_of(parse, over) == 431
    trickle = Trickle()
    assert status_of(trickle.feed, over[:-4] + b"d" * 10) == 431


def test_limits_can_be_chosen_and_do_not_leak_into_others() -> None:
    wire = head_of(headers=[b"a: " + b"b" * 50, b"c: d"])
    assert parse(wire)[0].path
    assert status_of(parse, wire, HTTPLimits(line=99)) == 414
    assert status_of(parse, wire, HTTPLimits(header=52)) == 431
    assert status_of(parse, wire, HTTPLimits(headers=70)) == 431
    assert status_of(parse, wire, HTTPLimits(count=2)) == 431
    assert parse(wire, HTTPLimits(line=100, header=53, headers=79, count=3))[0].path


def test_the_tables_of_what_is_known_do_not_grow_without_bound() -> None:
    limits = HTTPLimits()
    for number in range(5000):
        parse(ASK + b"x: %d\r\n\r\n" % number, limits)
        parse(ASK + b"x: %d%b\r\n\r\n" % (number, b"y" * 4000), limits)
    for known in limits._known_heads, limits._known_blocks:
        assert 0 < len(known) <= 512
        assert max(map(len, known)) <= 2048


def test_a_head_that_is_known_is_not_parsed_again_and_one_that_differs_is() -> None:
    limits = HTTPLimits()

    def read(wire: bytes) -> Any:
        parser = RequestParser(limits)
        parser.receive_data(wire)
        return parser.next_request()

    wire = b"GET /a?b=1 HTTP/1.1\r\nhost: a\r\n\r\n"
    first = read(wire)
    assert read(wire) is first
    other = read(wire.replace(b"b=1", b"b=2"))
    assert (first.path, first.query, other.query) == ("/a", "b=1", "b=2")
    assert other.headers is first.headers


def test_the_head_of_a_websocket_is_not_remembered_for_none_has_it_again() -> None:
    limits = HTTPLimits()
    parse_request_head(b"GET /ws HTTP/1.1\r\nhost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", limits)
    assert not limits._known_heads and not limits._known_blocks


def test_headers_that_are_known_are_not_parsed_again_and_headers_that_differ_are() -> None:
    limits = HTTPLimits()
    wire = b"GET /%b HTTP/1.1\r\nHost: %b\r\n\r\n"
    first, again, other = (parse(wire % pair, limits)[0] for pair in ((b"a", b"a"), (b"b", b"a"), (b"a", b"A")))
    assert first.headers is again.headers and (first.path, again.path) == ("/a", "/b")
    assert other.headers.fields == {"host": ["A"]}


def test_an_absolute_target_does_not_change_the_known_headers() -> None:
    limits = HTTPLimits()
    parse(b"POST http://evil.example/ HTTP/1.1\r\nHost: good.example\r\nContent-Length: 0\r\n\r\n", limits)
    request, _ = parse(b"POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 0\r\n\r\n", limits)
    assert (request.headers.host, request.headers.fields["host"]) == ("good.example", ["good.example"])


def test_known_headers_of_an_older_version_are_checked_again() -> None:
    limits = HTTPLimits()
    for _ in range(2):
        assert parse(b"GET / HTTP/1.0\r\nA: b\r\n\r\n", limits)
        assert status_of(parse, b"GET / HTTP/1.1\r\nA: b\r\n\r\n", limits) == 400
    chunked = HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    for _ in range(2):
        assert parse(b"POST / HTTP/1.1\r\n" + chunked, limits)
        assert status_of(parse, b"POST / HTTP/1.0\r\n" + chunked, limits) == 400


# --- Bodies -------------------------------------------------------------------------------

COUNTED = POST + b"Content-Length: %d\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

BODIES: list[tuple[bytes, bytes]] = [
    (COUNTED % 5 + b"hello", b"hello"),
    (COUNTED % 0, b""),
    (COUNTED.replace(b"%d", b"0005") + b"hello", b"hello"),
    (COUNTED % len(GET) + GET, GET),
    (ASK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    (b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    (POST + b"\r\n", b""),
    (CHUNKED + b"0\r\n\r\n", b""),
    (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    (CHUNKED + b"0000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    (CHUNKED + b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", b"01234567890123456789a"),
    (CHUNKED + b"2\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n"),
    (CHUNKED + b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello"),
    (CHUNKED + b'5 ; a = "x; \\" \t\xe9" ;b=c\r\nhello\r\n0\r\n\r\n', b"hello"),
    (CHUNKED + b"5\r\nhello\r\n0\r\nA: b\r\nc:\r\n\r\n", b"hello"),
    (CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 99\r\nHost: evil\r\n\r\n", b"hello"),
    (CHUNKED.replace(b"chunked", b"\tCHUNKED ") + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
]


@pytest.mark.parametrize("wire, body", BODIES)
def test_a_body_is_read_whole_cut_and_with_more_behind_it(wire: bytes, body: bytes) -> None:
    assert parse(wire)[1] == body
    for cut in range(len(wire)):
        trickle = Trickle()
        trickle.feed(wire[:cut])
        assert trickle.complete == []
        assert body.startswith(trickle.body)
        trickle.feed(wire[cut:])
        assert [content for _, content in trickle.complete] == [body]
    behind = RequestParser()
    behind.receive_data(wire + b"GET /next")
    behind.next_request()
    while behind.next_data():
        pass
    assert behind.buffered == 9
    assert [content for _, content in feed_bytes(wire + GET + wire).complete] == [body, b"", body]


BAD_CHUNKS: list[tuple[str, bytes, int]] = [
    *((f"the size {size!r}", size + b"\r\nhello\r\n0\r\n\r\n", 400) for size in (
        b"+5", b"-5", b"5_0", b"0x5", b"0X5", b" 5", b"5 ", b"\t5", b"5\t", b"", b"g", b"5.0", b"5,", b"1" * 16,
        b"0" * 16, b"5\0", b"\xb2", "٥".encode(), b"5h", b"5\r",
    )),
    *((f"the extension {extension!r}", b"5" + extension + b"\r\nhello\r\n0\r\n\r\n", 400) for extension in (
        b";", b"; ", b";a=", b";=a", b";a b", b";a;", b";a=\"b", b";a=b\"", b";\xe9", b";a\0", b";a\x0b", b";a\r",
        b";a=b c", b";a/b", b' ;a="\x01"', b";" + b"a" * 1024,
    )),
    ("a size that ends in a bare line feed", b"5\nhello\r\n0\r\n\r\n", 400),
    ("an extension that ends in a bare line feed", b"5;a\nhello\r\n0\r\n\r\n", 400),
    ("a chunk that is longer than its size", b"5\r\nhello!\r\n0\r\n\r\n", 400),
    ("a chunk that is shorter than its size", b"6\r\nhello\r\n0\r\n\r\n", 400),
    ("a chunk without line end", b"5\r\nhello0\r\n\r\n", 400),
    ("two other bytes for a line end", b"5\r\nhelloab0\r\n\r\n", 400),
    ("a chunk that ends in a bare line feed", b"5\r\nhello\n0\r\n\r\n", 400),
    ("a chunk that ends in a bare carriage return", b"5\r\nhello\r0\r\n\r\n", 400),
    ("trailers without colon", b"0\r\nabc\r\n\r\n", 400),
    ("trailers with a space before the colon", b"0\r\nA : b\r\n\r\n", 400),
    ("folded trailers", b"0\r\nA: b\r\n c\r\n\r\n", 400),
    ("trailers that end in bare line feeds", b"0\r\nA: b\n\n", 400),
    ("trailers with a NUL", b"0\r\nA: \0\r\n\r\n", 400),
    ("an end with a bare line feed", b"0\r\n\n", 400),
    ("too many trailers", b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    ("a trailer that is too long", b"0\r\nA: " + b"b" * 8190 + b"\r\n\r\n", 431),
    ("trailers that are too long", b"0\r\n" + (b"A: " + b"b" * 8000 + b"\r\n") * 9 + b"\r\n", 431),
]  # fmt: skip


@pytest.mark.parametrize("what, chunks, status", BAD_CHUNKS, ids=[what[:60] for what, _, _ in BAD_CHUNKS])
def test_a_chunked_body_is_refused_with(what: str, chunks: bytes, status: int) -> None:
    assert status_of(parse, CHUNKED + chunks) == status
    assert status_of(Trickle().feed, CHUNKED + chunks + GET) == status
    if len(chunks) < 10_000:
        assert status_of(feed_bytes, CHUNKED + chunks + GET) == status


@pytest.mark.parametrize("endless", [b"0" * 2000, b"5;a=" + b"b" * 2000, b"0\r\na: " + b"b" * 70_000])
def test_a_line_of_chunks_that_never_ends_is_refused_at_its_limit(endless: bytes) -> None:
    assert status_of(Trickle().feed, CHUNKED + endless) in (400, 431)


def test_parts_of_a_body_are_given_as_they_come() -> None:
    parser = RequestParser()
    parser.receive_data(COUNTED % 10)
    assert parser.next_request() is not None
    assert parser.next_data() is None
    parser.receive_data(b"abc")
    assert (parser.next_data(), parser.next_data()) == (b"abc", None)
    parser.receive_data(b"defghijGET")
    assert (parser.next_data(), parser.next_data(), parser.next_data()) == (b"defghij", b"", b"")
    assert parser.buffered == 3


def test_a_huge_length_is_no_reason_to_wait_for_all_of_it() -> None:
    parser = RequestParser()
    parser.receive_data(COUNTED % (10**18 - 1) + b"abc")
    assert parser.next_request() is not None
    assert parser.next_data() == b"abc"
    assert parser.next_data() is None


def test_the_whole_body_is_given_once_and_only_when_it_is_there() -> None:
    parser = RequestParser()
    parser.receive_data(COUNTED % 5 + b"hell")
    parser.next_request()
    assert parser.whole_body() is None
    parser.receive_data(b"o")
    assert (parser.whole_body(), parser.whole_body(), parser.next_data()) == (b"hello", b"", b"")
    parser.receive_data(GET + CHUNKED + b"0\r\n\r\n")
    parser.next_request()
    assert parser.whole_body() == b""
    parser.next_request()
    assert parser.whole_body() is None  # chunks are put together by who reads them
    assert parser.next_data() == b""
    assert parser.whole_body() == b""


def test_a_connection_that_waits_keeps_no_bytes_of_its_last_request() -> None:
    parser = RequestParser()
    parser.receive_data(COUNTED % 100_000 + b"x" * 100_000)
    parser.next_request()
    assert parser.whole_body() == b"x" * 100_000
    assert parser.next_request() is None
    assert parser.data == b""


def test_what_comes_behind_an_upgrade_is_left_for_the_other_protocol() -> None:
    parser = RequestParser()
    parser.receive_data(GET + b"\x81\x00")
    assert parser.next_request() is not None
    assert (parser.rest(), parser.buffered) == (b"\x81\x00", 0)


# --- Many requests ------------------------------------------------------------------------

MESSAGES = [wire for wire, _ in HEADS[:-1]] + [wire for wire, _ in BODIES]


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.lists(st.integers(1, 300), max_size=30))
def test_pipelined_requests_come_out_the_same_however_they_are_cut(messages: list[bytes], sizes: list[int]) -> None:
    wire = b"".join(messages)
    trickle = Trickle()
    at = 0
    for size in sizes:
        trickle.feed(wire[at : at + size])
        at += size
    trickle.feed(wire[at:])
    assert [facts(*pair) for pair in trickle.complete] == [facts(*parse(message)) for message in messages]


@given(st.binary(max_size=3000), st.lists(st.integers(1, 500), max_size=10), st.booleans())
def test_a_body_that_was_chunked_comes_out_as_it_was(body: bytes, sizes: list[int], extended: bool) -> None:
    parts, at = [], 0
    for size in [*sizes, len(body)]:
        if part := body[at : at + size]:
            parts.append(encode_chunk(part).replace(b"\r\n", b' ; a="b"\r\n', 1) if extended else encode_chunk(part))
        at += size
    assert parse(CHUNKED + b"".join(parts) + b"0\r\n\r\n")[1] == body


# --- The oracle ---------------------------------------------------------------------------
#
# What the parser accepts, h11 must accept with the same result. Where h11 is more lenient nothing is compared: two
# lengths that agree, transfer codings in HTTP/1.0, any bytes in a chunk's extension, line feeds alone. The intended
# differences in what both accept are these:
#
# - h11 takes the target as it is; here it is split, and an absolute one names the host;
# - h11 writes `chunked` in lower case;
# - h11 never keeps a connection of HTTP/1.0;
# - h11 refuses blank lines in front of a request;
# - h11 ends at 20 hex digits of a chunk's size and at 16 KiB of a head; the limits here are others.


def by_phoenix(wire: bytes) -> Any:
    """Return the complete requests, up to bytes that are refused."""
    parser = RequestParser()
    parser.receive_data(wire)
    complete: list[Any] = []
    try:
        while request := parser.next_request():
            body = b""
            while part := parser.next_data():
                body += part
            if part is None:
                break
            fields = sorted((name, tuple(values)) for name, values in request.headers.fields.items())
            fields = [(name, ("chunked",) if name == "transfer-encoding" else values) for name, values in fields]
            keep = request.keep_alive and request.minor == 1
            complete.append((request.method, request.path, request.query, fields, body, keep))
            if not complete[-1][-1]:
                break
    except HTTPProtocolError:
        pass
    return complete


def by_h11(wire: bytes) -> Any:
    """The same, as h11 reads it."""
    complete: list[Any] = []
    try:
        while True:
            while wire.startswith(b"\r\n"):
                wire = wire[2:]
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
            connection.receive_data(wire)
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                break
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                break
            fields: dict[str, list[str]] = {}
            for name, value in request.headers:
                fields.setdefault(bytes(name).decode(), []).append(bytes(value).decode("latin-1"))
            keep = connection.their_state is h11.DONE
            grouped = sorted((name, tuple(values)) for name, values in fields.items())
            path, _, query = bytes(request.target).decode().partition("?")
            complete.append((bytes(request.method).decode(), path, query, grouped, body, keep))
            if not keep:
                break
            wire = connection.trailing_data[0]
    except h11.RemoteProtocolError:
        pass
    return complete


LINES = st.sampled_from([
    b"GET / HTTP/1.1", b"POST /a?b=c HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/1.2", b"GET /\x80 HTTP/1.1",
    b"GET  / HTTP/1.1", b"G(T / HTTP/1.1", b"DELETE /%zz?? HTTP/1.1", b"GET /a#b HTTP/1.1", b"GET /\x7f HTTP/1.1",
    b"HEAD /x HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /",
])  # fmt: skip
FIELDS = st.sampled_from([
    b"A: b", b"A:b", b"a:  b c \t", b"A : b", b" A: b", b"A\t: b", b"a: \xe9", b"a: \x00", b"a: \x0b", b"a:", b":",
    b"a", b"a: b\rc", b"a(: b", b"Connection: close", b"Connection: \xa0close", b"Connection: keep-alive",
    b"Expect: 100-continue",
    b"Host: b", b"Content-Length: 5", b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: 05",
    b"Content-Length : 5", b"content-length: 0", b"Content-Length: 3", b"Content-Length:\t3 ",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity", b"transfer-encoding:\tchunked",
    b"Transfer-Encoding : chunked", b"Transfer_Encoding: chunked",
])  # fmt: skip
ENDS = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\n\r"])
CHUNKS = st.lists(st.sampled_from([
    b"5\r\nhello\r\n", b"3\r\nabc\r\n", b"3;a=b\r\nabc\r\n", b"3 \r\nabc\r\n", b"03\r\nabc\r\n", b"3\nabc\r\n",
    b"3\r\nabcd\r\n", b"3\r\nabc", b"0x3\r\nabc\r\n", b"+3\r\nabc\r\n", b"3_0\r\nabc\r\n", b"3;\r\nabc\r\n",
    b"3;\x00\r\nabc\r\n", b"3\r\nabc\n", b"a\r\n0123456789\r\n", b"0\r\n\r\n",
    b"0\r\nA: b\r\n\r\n", b"0\r\nA : b\r\n\r\n", b"0\r\n\n",
]), max_size=4).map(b"".join)  # fmt: skip


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """Requests, most of them nearly right."""
    wire = b""
    for _ in range(draw(st.integers(1, 3))):
        fields = draw(st.lists(FIELDS, max_size=4))
        if draw(st.integers(0, 9)):
            fields.insert(draw(st.integers(0, len(fields))), b"Host: a")
        wire += b"".join(line + draw(ENDS) for line in [draw(LINES), *fields, b""])
        wire += draw(st.sampled_from([b"", b"hello", b"abc", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"]) | CHUNKS)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(wire)))
        odd = draw(st.sampled_from([b"", b"\r\n", *map(bytes, zip(b" \t\r\n\0:;,0\x80\xa0_+"))]))
        wire = wire[:at] + odd + wire[at + draw(st.integers(0, 2)) :]
    return wire


@settings(max_examples=1500, deadline=None)
@given(wires())
@example(POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET)
@example(CHUNKED + b"5;\nhello\r\n0\r\n\r\n")
def test_what_is_accepted_h11_accepts_with_the_same_result(wire: bytes) -> None:
    ours = by_phoenix(wire)
    assert ours == by_h11(wire)[: len(ours)]


@settings(max_examples=500, deadline=None)
@given(wires(), st.lists(st.integers(1, 40), max_size=12))
def test_the_same_bytes_mean_the_same_whole_and_cut(wire: bytes, sizes: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> Any:
        trickle = Trickle()
        try:
            for piece in pieces:
                trickle.feed(piece)
        except HTTPProtocolError as error:
            return [facts(*pair) for pair in trickle.complete], error.status
        return [facts(*pair) for pair in trickle.complete], trickle.body if trickle.request else None

    pieces, at = [], 0
    for size in sizes:
        pieces.append(wire[at : at + size])
        at += size
    assert outcome([wire]) == outcome([*pieces, wire[at:]])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_protocol_error(wire: bytes) -> None:
    for prefix in (b"", b"GET / HTTP/1.1\r\n", CHUNKED):
        try:
            Trickle().feed(prefix + wire)
        except HTTPProtocolError as error:
            assert error.status in (400, 414, 431, 501, 505)


# --- Writing ------------------------------------------------------------------------------


def test_a_head_is_written_with_its_phrase_its_fields_and_its_cookies() -> None:
    fields = {"content-type": ("text/plain",), "vary": ("a", "b")}
    assert encode_head(201, fields, {"c": ("d", "; path=/"), "e": ("f", "")}) == (
        b"HTTP/1.1 201 Created\r\ncontent-type: text/plain\r\nvary: a\r\nvary: b\r\n"
        b"set-cookie: c=d; path=/\r\nset-cookie: e=f\r\n"
    )
    assert encode_head(299, {}) == b"HTTP/1.1 299 \r\n"  # RFC 9112 §4: the space stays
    assert encode_head(418, {}) == b"HTTP/1.1 418 I'm a teapot\r\n"


def test_what_the_server_writes_itself_is_not_written_twice() -> None:
    names = ("content-length", "transfer-encoding", "connection", "date", "keep-alive", "a")
    fields = {name: ("b",) for name in names}
    assert encode_head(200, fields) == b"HTTP/1.1 200 OK\r\na: b\r\n"


def test_a_head_that_was_written_before_is_the_same_and_others_are_not() -> None:
    for _ in range(2):
        assert encode_head(200, {"a": ("1",)}) == b"HTTP/1.1 200 OK\r\na: 1\r\n"
        assert encode_head(200, {"a": ("1", "1")}) == b"HTTP/1.1 200 OK\r\na: 1\r\na: 1\r\n"
        assert encode_head(201, {"a": ("1",)}) == b"HTTP/1.1 201 Created\r\na: 1\r\n"
        assert encode_head(200, {"a": ("1",)}, {"b": ("c", "")}) == b"HTTP/1.1 200 OK\r\na: 1\r\nset-cookie: b=c\r\n"


def test_a_chunk_has_its_size_in_hex() -> None:
    assert encode_chunk(b"hello") == b"5\r\nhello\r\n"
    assert encode_chunk(b"x" * 255) == b"ff\r\n" + b"x" * 255 + b"\r\n"


@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
def test_h11_reads_the_heads_that_are_written(status: int) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(encode_head(status, {"x-a": ("caf\xe9",)}) + b"content-length: 0\r\n\r\n")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert (response.status_code, dict(response.headers)[b"x-a"]) == (status, b"caf\xe9")


# --- The core is pure ---------------------------------------------------------------------


def test_parse_request_head_needs_no_connection() -> None:
    request = parse_request_head(b"GET /a?b HTTP/1.1\r\nHost: c", HTTPLimits())
    assert (request.method, request.path, request.query, request.headers.host) == ("GET", "/a", "b", "c")


def test_reading_requests_imports_neither_sockets_nor_asyncio() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import phoenix
parser = phoenix.RequestParser()
parser.receive_data({CHUNKED + b"5" + b";a" + bytes([13, 10]) + b"hello" + bytes([13, 10])!r})
assert parser.next_request() and parser.next_data() == b"hello"
print({{"socket", "asyncio", "ssl"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("set()\n", "")

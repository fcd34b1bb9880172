"""Chapter 15, static files: which are served, with which headers, and what nobody gets out of the folder."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import phoenix
from phoenix import Conn, Endpoint, InvalidPathError, Static, get, plug

CSS = "body { color: red }\n"
DAY = 1_700_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
DAY_HTTP = "Tue, 14 Nov 2023 22:13:20 GMT"


def reached(conn: Conn, params: Any) -> Conn:
    return conn.text("the router")


class Router(phoenix.Router):
    get("/*path", reached)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of static files, and secrets beside it."""
    root = tmp_path / "static"
    (root / "css").mkdir(parents=True)
    (root / "css" / "app.css").write_text(CSS)
    (root / "digits.txt").write_text("0123456789")
    (root / "empty.txt").write_text("")
    (root / "with space é.txt").write_text("spaced")
    (root / ".env").write_text("SECRET=1")
    (root / "css" / ".hidden").write_text("SECRET=2")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "security.txt").write_text("Contact: us")
    (tmp_path / "secret.txt").write_text("SECRET=3")
    for file in root.rglob("*"):
        os.utime(file, (DAY, DAY))
    return root


def client(folder: Path, **options: Any) -> phoenix.TestClient:
    return Endpoint(Router, static={"from": str(folder), **options}, env="test", log=False).test()


def header(conn: Conn, name: str) -> str | None:
    values = conn.get_resp_header(name)
    assert len(values) <= 1, f"{name} is there {len(values)} times"
    return values[0] if values else None


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


# --- What is served -----------------------------------------------------------------------


def test_readme_static_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``priv/static/js/phoenix.js`` is served at ``/js/phoenix.js`` without any configuration."""
    (tmp_path / "priv" / "static" / "js").mkdir(parents=True)
    (tmp_path / "priv" / "static" / "js" / "phoenix.js").write_text("var Phoenix")
    monkeypatch.chdir(tmp_path)
    conn = Endpoint(Router, env="test", log=False).test().get("/js/phoenix.js")
    assert (conn.status, body(conn)) == (200, "var Phoenix")
    assert header(conn, "content-type") == "text/javascript"
    off = Endpoint(Router, static=False, env="test", log=False).test().get("/js/phoenix.js")
    assert body(off) == "the router"
    moved = Endpoint(Router, static={"at": "/assets"}, env="test", log=False).test()
    assert body(moved.get("/assets/js/phoenix.js")) == "var Phoenix"
    assert body(moved.get("/js/phoenix.js")) == "the router"


def test_a_file_comes_with_its_type_its_validators_and_nothing_of_the_router(folder: Path) -> None:
    conn = client(folder).get("/css/app.css")
    assert (conn.status, body(conn), conn.halted) == (200, CSS, True)
    assert dict(conn.resp_headers) == {
        "content-type": "text/css",
        "cache-control": "public",
        "etag": header(conn, "etag"),
        "last-modified": DAY_HTTP,
        "accept-ranges": "bytes",
        "vary": "Accept-Encoding",
    }
    assert (header(conn, "etag") or "").startswith('"')


def test_the_body_is_not_read_into_memory(folder: Path) -> None:
    assert client(folder).get("/css/app.css").state == "file"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_pass_on(folder: Path, method: str) -> None:
    assert client(folder).request(method, "/css/app.css").status == 405


@pytest.mark.parametrize(
    "path", ["/", "/css", "/css/", "/css/missing.css", "/missing", "/css//app.css", "/css/app.css/", "/css/app.css/x"]
)
def test_folders_and_what_is_missing_pass_on(folder: Path, path: str) -> None:
    assert body(client(folder).get(path)) == "the router"


def test_a_route_may_be_called_like_a_folder(folder: Path) -> None:
    assert body(client(folder).get("/css/")) == "the router"


def test_names_are_decoded(folder: Path) -> None:
    assert body(client(folder).get("/with%20space%20%C3%A9.txt")) == "spaced"
    assert body(client(folder).get("/%63ss/%61pp.css")) == CSS


def test_a_name_is_decoded_once(folder: Path) -> None:
    (folder / "50%25.txt").write_text("twice")
    assert body(client(folder).get("/50%2525.txt")) == "twice"
    assert body(client(folder).get("/css/%2561pp.css")) == "the router"


def test_a_head_request_gets_the_headers_of_the_file(folder: Path) -> None:
    app = Endpoint(Router, static={"from": str(folder)}, env="test", log=False)
    answer = served(
        app, lambda port: exchange(port, b"HEAD /css/app.css HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    )
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and rest == b""
    assert b"\r\ncontent-length: %d\r\n" % len(CSS) in head and b"\r\ncontent-type: text/css\r\n" in head


def test_only_limits_what_stands_at_the_top(folder: Path) -> None:
    some = client(folder, only=["css"])
    assert body(some.get("/css/app.css")) == CSS
    assert body(some.get("/digits.txt")) == "the router"


def test_at_moves_the_files_below_a_path(folder: Path) -> None:
    moved = client(folder, at="/static/v1/")
    assert body(moved.get("/static/v1/css/app.css")) == CSS
    for path in ("/css/app.css", "/static/v1", "/static/v1x/css/app.css", "/static/css/app.css"):
        assert body(moved.get(path)) == "the router"


def test_headers_are_added_and_win(folder: Path) -> None:
    conn = client(folder, headers={"X-Own": "1", "cache-control": "no-cache"}).get("/digits.txt")
    assert (header(conn, "x-own"), header(conn, "cache-control")) == ("1", "no-cache")


def test_a_header_that_could_add_others_is_refused(folder: Path) -> None:
    with pytest.raises(phoenix.InvalidHeaderError):
        client(folder, headers={"x": "1\r\nset-cookie: a=b"})


def test_a_file_that_appears_later_is_served_and_one_that_goes_passes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = client(folder)
    assert body(visitor.get("/new.txt")) == "the router"
    (folder / "new.txt").write_text("new")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.5)  # the top of the folder is listed once a second
    assert body(visitor.get("/new.txt")) == "new"
    (folder / "new.txt").unlink()
    assert body(visitor.get("/new.txt")) == "the router"


def test_a_file_that_vanishes_while_it_is_being_sent_passes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(conn: Conn, *arguments: Any) -> Conn:
        raise FileNotFoundError("gone")

    monkeypatch.setattr(Conn, "send_file", vanish)
    conn = client(folder).get("/css/app.css")
    assert (conn.status, body(conn)) == (200, "the router")
    assert header(conn, "etag") is None and header(conn, "content-type") == "text/plain; charset=utf-8"


def test_a_folder_that_vanishes_is_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = client(folder)
    assert visitor.get("/digits.txt").status == 200
    folder.rename(folder.with_name("elsewhere"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.5)
    assert body(visitor.get("/digits.txt")) == body(visitor.get("/other.txt")) == "the router"


def test_a_folder_that_is_not_there_serves_nothing(tmp_path: Path) -> None:
    assert body(client(tmp_path / "none").get("/css/app.css")) == "the router"


def test_a_file_that_cannot_be_read_passes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # chmod does not stop root
    assert body(client(folder).get("/digits.txt")) == "the router"


def test_a_pipe_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert body(client(folder).get("/pipe")) == "the router"


# --- What nobody gets ---------------------------------------------------------------------

CLIMBING = [
    "/../secret.txt", "/css/../../secret.txt", "/css/../digits.txt", "/./digits.txt", "/css/.", "/css/..",
    "/%2e%2e/secret.txt", "/%2E%2e/secret.txt", "/css/%2e%2e/%2e%2e/secret.txt", "/.%2e/secret.txt", "/%2e/digits.txt",
    "/css/..%2f..%2fsecret.txt", "/css/%2e%2e%2f%2e%2e%2fsecret.txt", "/css/..%5c..%5csecret.txt",
    "/css/%2fetc%2fpasswd", "/css/c:%5cwindows", "/css/c:", "/css/app.css%00.txt", "/css%2f..%2f..%2fsecret.txt",
    "/..%2fsecret.txt", "/%2fetc/passwd", "//etc/passwd", "///etc/passwd", "/%252e%252e/secret.txt",
    "/css/%252e%252e/secret.txt",
    "/%c0%ae%c0%ae/secret.txt", "/css\\..\\..\\secret.txt", "/..;/secret.txt", "/css/....//....//secret.txt",
]  # fmt: skip


@pytest.mark.parametrize("path", CLIMBING)
def test_no_path_leads_out_of_the_folder(folder: Path, path: str) -> None:
    conn = client(folder).get(path)
    assert conn.status in (200, 400) and "SECRET" not in body(conn) and "root:" not in body(conn)
    assert conn.state == "sent", "a file was served"


@pytest.mark.parametrize("path", CLIMBING[:17])
def test_what_climbs_is_a_bad_request_and_not_merely_missing(folder: Path, path: str) -> None:
    assert client(folder).get(path).status == 400


def test_the_error_names_the_path(folder: Path) -> None:
    app = Endpoint(Router, static={"from": str(folder)}, env="test", log=False)
    with pytest.raises(InvalidPathError, match="invalid path for static asset: /css/%2e%2e/x") as caught:
        app.test(raise_errors=True).get("/css/%2e%2e/x")
    assert caught.value.status == 400


def test_paths_elsewhere_are_not_checked(folder: Path) -> None:
    """A parameter of a route may hold what no file name may."""
    assert body(client(folder).get("/notes/a:b%5Cc%2Fd")) == "the router"
    assert body(client(folder, at="/static").get("/x/%2e%2e")) == "the router"


def test_a_path_that_cannot_be_decoded_is_a_bad_request(folder: Path) -> None:
    for path in ("/css/%zz", "/css/%", "/css/%ff"):
        assert client(folder).get(path).status == 400


@pytest.mark.parametrize("path", ["/.env", "/css/.hidden", "/%2eenv", "/.well-known/.env"])
def test_dotfiles_are_not_served(folder: Path, path: str) -> None:
    (folder / ".well-known" / ".env").write_text("SECRET=4")
    assert body(client(folder).get(path)) == "the router"


def test_well_known_files_are_served(folder: Path) -> None:
    assert body(client(folder).get("/.well-known/security.txt")) == "Contact: us"


def test_a_link_that_leads_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "file.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "up").symlink_to(tmp_path)
    (folder / "digits.txt.gz").symlink_to(tmp_path / "secret.txt")
    visitor = client(folder)
    assert body(visitor.get("/file.txt")) == body(visitor.get("/up/secret.txt")) == "the router"
    conn = visitor.get("/digits.txt", headers={"accept-encoding": "gzip"})
    assert (body(conn), header(conn, "content-encoding")) == ("0123456789", None)


def test_a_link_inside_the_folder_is_followed_until_it_leads_elsewhere(folder: Path, tmp_path: Path) -> None:
    link = folder / "latest.txt"
    link.symlink_to(folder / "digits.txt")
    visitor = client(folder)
    assert body(visitor.get("/latest.txt")) == "0123456789"
    link.unlink()
    link.symlink_to(tmp_path / "secret.txt")
    assert body(visitor.get("/latest.txt")) == "the router"


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert body(client(tmp_path / "current").get("/css/app.css")) == CSS


@pytest.mark.parametrize(
    "target", [b"/../secret.txt", b"/css/..%2f..%2fsecret.txt", b"/css/..\\..\\secret.txt", b"/css/%00"]
)
def test_over_a_socket_nothing_leads_out_either(folder: Path, target: bytes) -> None:
    app = Endpoint(Router, static={"from": str(folder)}, env="test", log=False)
    answer = served(
        app, lambda port: exchange(port, b"GET %b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % target)
    )
    assert answer.startswith(b"HTTP/1.1 400 ") and b"SECRET" not in answer


PIECES = [
    "css", "app.css", "digits.txt", "secret.txt", ".env", ".", "..", "", "%2e", "%2e%2e", "%2f", "%5c", "%00",
    "%252e", "\\", ":", ";", "%", "%c3%a9", ".well-known", "up", "~", "etc", "passwd", "?", "%3f", " ",
]  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=7), st.sampled_from(["/", ""]))
def test_whatever_the_path_nothing_outside_is_served(folder: Path, parts: list[str], glue: str) -> None:
    if not (folder / "up").is_symlink():
        (folder / "up").symlink_to(folder.parent)
    conn = Conn("GET", "/" + glue.join(parts))
    try:
        Static(from_=folder)(conn)
    except phoenix.BadRequestError:
        return
    if conn.state == "file":
        path = os.path.realpath(conn.resp_body.path)
        assert path.startswith(str(folder) + os.sep) and not os.path.basename(path).startswith(".")
        assert "SECRET" not in body(conn)
    else:
        assert (conn.state, conn.halted) == ("unset", False)


# --- Conditional requests (RFC 9110 §13) --------------------------------------------------


def test_a_client_that_has_the_file_gets_304_without_a_body(folder: Path) -> None:
    visitor = client(folder, headers={"x-own": "1", "cache-control": "public, max-age=60"})
    etag = header(visitor.get("/css/app.css"), "etag") or ""
    conn = visitor.get("/css/app.css", headers={"if-none-match": etag})
    assert (conn.status, body(conn)) == (304, "")
    assert dict(conn.resp_headers) == {
        "cache-control": "public, max-age=60", "etag": etag, "last-modified": DAY_HTTP, "vary": "Accept-Encoding",
    }  # fmt: skip


@pytest.mark.parametrize(
    "given, status",
    [
        ("{}", 304), ("W/{}", 304), ('"other", {}', 304), ('"a" , W/{} , "b"', 304), ("*", 304), ('"a,b",{}', 304),
        ('"other"', 200), ("", 200), ("{}x", 200), ("w/{}", 200), ('W/"other"', 200),
    ],
)  # fmt: skip
def test_if_none_match_takes_a_list_and_weak_tags(folder: Path, given: str, status: int) -> None:
    visitor = client(folder)
    etag = header(visitor.get("/css/app.css"), "etag") or ""
    assert visitor.get("/css/app.css", headers={"if-none-match": given.format(etag)}).status == status


@pytest.mark.parametrize(
    "date, status",
    [
        (DAY_HTTP, 304), ("Wed, 15 Nov 2023 22:13:20 GMT", 304), ("Tue, 14 Nov 2023 22:13:19 GMT", 200),
        ("Tuesday, 14-Nov-23 22:13:20 GMT", 304), ("Tue Nov 14 22:13:20 2023", 304),
        ("Monday, 13-Nov-23 22:13:20 GMT", 200),
        ("yesterday", 200), ("", 200), ("Thu, 01 Jan 0000 00:00:00 GMT", 200), ("Tue, 14 Foo 2023 22:13:20 GMT", 200),
        ("0", 200), ("Tue, 14 Nov 2023 22:13:20 +0100", 200),
    ],
)  # fmt: skip
def test_if_modified_since_takes_the_three_forms_of_a_date(folder: Path, date: str, status: int) -> None:
    assert client(folder).get("/css/app.css", headers={"if-modified-since": date}).status == status


def test_the_tag_goes_before_the_date(folder: Path) -> None:
    conn = client(folder).get("/css/app.css", headers={"if-none-match": '"other"', "if-modified-since": DAY_HTTP})
    assert conn.status == 200


def test_a_part_of_a_second_does_not_make_a_file_newer_than_its_date(folder: Path) -> None:
    os.utime(folder / "digits.txt", ns=(0, DAY * 10**9 + 999_000_000))
    assert client(folder).get("/digits.txt", headers={"if-modified-since": DAY_HTTP}).status == 304


def test_another_content_has_another_tag(folder: Path) -> None:
    visitor = client(folder)
    first = header(visitor.get("/digits.txt"), "etag")
    (folder / "digits.txt").write_text("abc")
    assert header(visitor.get("/digits.txt"), "etag") != first


@pytest.mark.parametrize(
    "name, value, status",
    [
        ("if-match", "{}", 200), ("if-match", '"a", {}', 200), ("if-match", "*", 200), ("if-match", '"other"', 412),
        ("if-match", "W/{}", 412), ("if-unmodified-since", DAY_HTTP, 200),
        ("if-unmodified-since", "Mon, 13 Nov 2023 22:13:20 GMT", 412), ("if-unmodified-since", "never", 200),
    ],
)  # fmt: skip
def test_a_client_that_wants_another_version_gets_412(folder: Path, name: str, value: str, status: int) -> None:
    visitor = client(folder)
    etag = header(visitor.get("/digits.txt"), "etag") or ""
    conn = visitor.get("/digits.txt", headers={name: value.format(etag)})
    assert conn.status == status
    assert (header(conn, "etag") is None) == (status == 412)


# --- Ranges (RFC 9110 §14) ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted, part, content_range",
    [
        ("bytes=0-1", "01", "bytes 0-1/10"), ("bytes=3-", "3456789", "bytes 3-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=9-9", "9", "bytes 9-9/10"), ("bytes=5-99", "56789", "bytes 5-9/10"), ("Bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes= 2-3 ", "23", "bytes 2-3/10"), ("bytes=5-999999999999999999", "56789", "bytes 5-9/10"),
    ],
)  # fmt: skip
def test_one_range_is_sent_as_206(folder: Path, wanted: str, part: str, content_range: str) -> None:
    conn = client(folder).get("/digits.txt", headers={"range": wanted})
    assert (conn.status, body(conn), header(conn, "content-range")) == (206, part, content_range)
    assert header(conn, "content-type") == "text/plain" and header(conn, "accept-ranges") == "bytes"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-", "bytes=0-9", "bytes=0-99", "bytes=-10", "bytes=-99", "bytes=", "bytes=-", "bytes=a-b", "bytes=3-1",
        "bytes=0-1,3-4", "bytes=0-1, -1", "lines=0-1", "0-1", "bytes=--1", "bytes=1-2-3", "bytes=1", "bytes=+1-2",
        "bytes=\u00b2-3", "bytes=0-99999999999999999999999",
    ],
)  # fmt: skip
def test_all_of_it_or_what_is_no_single_range_is_sent_whole(folder: Path, wanted: str) -> None:
    conn = client(folder).get("/digits.txt", headers={"range": wanted})
    assert (conn.status, body(conn), header(conn, "content-range")) == (200, "0123456789", None)


@given(st.integers(0, 12), st.none() | st.integers(0, 14), st.none() | st.integers(0, 14))
def test_a_range_is_the_bytes_that_it_names(size: int, first: int | None, last: int | None) -> None:
    """The oracle writes out every byte that the range asks for."""
    data = list(range(size))
    if first is None:
        wanted = data[max(0, size - last) :] if last else []
    else:
        wanted = [at for at in data if first <= at and (last is None or at <= last)]
    is_range = (first is not None or last is not None) and not (first is not None and last is not None and last < first)
    found = phoenix._parse_range(f"bytes={'' if first is None else first}-{'' if last is None else last}", size)
    if not is_range or not size:
        assert found is None
    elif found is None:
        assert wanted == data
    else:
        assert data[found[0] : found[1] + 1] == wanted and wanted != data


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-20", "bytes=99-", "bytes=-0"])
@pytest.mark.parametrize("query", ["", "?vsn=1"])
def test_a_range_outside_of_the_file_is_416_and_never_cached(folder: Path, wanted: str, query: str) -> None:
    conn = client(folder, headers={"x-own": "1"}).get("/digits.txt" + query, headers={"range": wanted})
    assert (conn.status, body(conn), header(conn, "content-range")) == (416, "", "bytes */10")
    assert "max-age=0" in (header(conn, "cache-control") or "")
    assert header(conn, "etag") is None and header(conn, "last-modified") is None


@pytest.mark.parametrize("wanted", ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=7-"])
def test_an_empty_file_has_no_ranges(folder: Path, wanted: str) -> None:
    conn = client(folder).get("/empty.txt", headers={"range": wanted})
    assert (conn.status, body(conn)) == (200, "")


@pytest.mark.parametrize(
    "condition, status",
    [
        ("{}", 206),
        (DAY_HTTP, 206),
        ("W/{}", 200),
        ('"other"', 200),
        ("Wed, 15 Nov 2023 22:13:20 GMT", 200),
        ("nonsense", 200),
    ],
)
def test_if_range_sends_the_part_of_the_same_version_only(folder: Path, condition: str, status: int) -> None:
    visitor = client(folder)
    etag = header(visitor.get("/digits.txt"), "etag") or ""
    conn = visitor.get("/digits.txt", headers={"range": "bytes=0-1", "if-range": condition.format(etag)})
    assert conn.status == status


def test_a_condition_goes_before_the_range(folder: Path) -> None:
    visitor = client(folder)
    etag = header(visitor.get("/digits.txt"), "etag") or ""
    assert visitor.get("/digits.txt", headers={"range": "bytes=0-1", "if-none-match": etag}).status == 304
    assert visitor.get("/digits.txt", headers={"range": "bytes=99-", "if-none-match": etag}).status == 304


def test_a_range_of_a_head_request_is_ignored(folder: Path) -> None:
    assert client(folder).head("/digits.txt", headers={"range": "bytes=0-1"}).status == 200


def test_over_a_socket_a_part_has_its_own_length(folder: Path) -> None:
    (folder / "large.bin").write_bytes(bytes(range(256)) * 1024)
    app = Endpoint(Router, static={"from": str(folder)}, env="test", log=False)
    request = b"GET /large.bin HTTP/1.1\r\nhost: a\r\nrange: bytes=%b\r\nconnection: close\r\n\r\n"

    def talk(port: int) -> list[bytes]:
        return [exchange(port, request % wanted) for wanted in (b"256-511", b"100000-", b"-70000", b"999999-")]

    small, large, suffix, outside = served(app, talk)
    data = bytes(range(256)) * 1024
    for answer, part in ((small, data[256:512]), (large, data[100_000:]), (suffix, data[-70_000:]), (outside, b"")):
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert rest == part and b"\r\ncontent-length: %d\r\n" % len(part) in head
    assert outside.startswith(b"HTTP/1.1 416 ")


# --- Compression --------------------------------------------------------------------------


@pytest.fixture
def packed(folder: Path) -> Path:
    (folder / "css" / "app.css.gz").write_bytes(gzip.compress(CSS.encode()))
    os.utime(folder / "css" / "app.css.gz", (DAY, DAY))
    return folder


@pytest.mark.parametrize(
    "accepted, is_packed",
    [
        ("gzip", True), ("GZIP", True), ("x-gzip", True), ("br, gzip;q=0.5", True), ("*", True),
        ("deflate, *;q=0.1", True),
        ("*;q=0, gzip", True), ("gzip; q=1.0", True), ("", False), ("br", False), ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("*;q=0", False), ("gzip;q=0, *", False), ("identity", False), ("notgzip", False),
    ],
)  # fmt: skip
def test_the_gz_sibling_is_sent_to_clients_that_take_it(packed: Path, accepted: str, is_packed: bool) -> None:
    conn = client(packed).get("/css/app.css", headers={"accept-encoding": accepted} if accepted else {})
    data = phoenix.response_body(conn)
    assert header(conn, "content-encoding") == ("gzip" if is_packed else None)
    assert (gzip.decompress(data) if is_packed else data) == CSS.encode()
    assert (header(conn, "content-type"), header(conn, "vary")) == ("text/css", "Accept-Encoding")


def test_each_encoding_has_a_tag_of_its_own(packed: Path) -> None:
    visitor = client(packed)
    plain = header(visitor.get("/css/app.css"), "etag") or ""
    small = header(visitor.get("/css/app.css", headers={"accept-encoding": "gzip"}), "etag") or ""
    assert plain != small
    for etag, encoding, status in ((small, "gzip", 304), (plain, "gzip", 200), (small, "br", 200), (plain, "br", 304)):
        conn = visitor.get("/css/app.css", headers={"accept-encoding": encoding, "if-none-match": etag})
        assert conn.status == status


def test_an_encoding_that_is_as_long_as_the_file_has_a_tag_of_its_own(packed: Path) -> None:
    (packed / "css" / "app.css.gz").write_bytes(b"z" * len(CSS))
    os.utime(packed / "css" / "app.css.gz", (DAY, DAY))
    plain = header(client(packed).get("/css/app.css"), "etag")
    assert plain != header(client(packed).get("/css/app.css", headers={"accept-encoding": "gzip"}), "etag")


def test_a_range_is_one_of_the_packed_bytes(packed: Path) -> None:
    conn = client(packed).get("/css/app.css", headers={"accept-encoding": "gzip", "range": "bytes=0-1"})
    assert (conn.status, phoenix.response_body(conn)) == (206, b"\x1f\x8b")
    assert header(conn, "content-encoding") == "gzip"


def test_a_gz_sibling_that_is_older_than_the_file_is_not_sent(packed: Path) -> None:
    (packed / "css" / "app.css").write_text("body { color: blue }")
    conn = client(packed).get("/css/app.css", headers={"accept-encoding": "gzip"})
    assert (header(conn, "content-encoding"), body(conn)) == (None, "body { color: blue }")


def test_gzip_can_be_left_out(packed: Path) -> None:
    conn = client(packed, gzip=False).get("/css/app.css", headers={"accept-encoding": "gzip"})
    assert (body(conn), header(conn, "vary"), header(conn, "content-encoding")) == (CSS, None, None)


def test_a_gz_file_can_be_asked_for_by_its_name(packed: Path) -> None:
    conn = client(packed).get("/css/app.css.gz")
    assert (header(conn, "content-type"), header(conn, "content-encoding")) == ("application/gzip", None)


def test_what_an_earlier_plug_says_of_vary_is_kept(packed: Path) -> None:
    def vary(conn: Conn) -> Conn:
        return conn.put_resp_header("vary", "origin")

    class App(Endpoint):
        plug(vary)
        plug(Static, from_=str(packed))

    conn = App(Router, env="test").test().get("/css/app.css")
    assert conn.get_resp_header("vary") == ["origin", "Accept-Encoding"]


# --- Versions -----------------------------------------------------------------------------


def test_a_versioned_path_may_be_kept_for_ever(folder: Path) -> None:
    conn = client(folder).get("/css/app.css?vsn=d")
    assert header(conn, "cache-control") == "public, max-age=31536000, immutable"
    assert header(conn, "etag") is None and header(conn, "last-modified") is None and body(conn) == CSS
    for query in ("?x=vsn=d", "?nvsn=1", "?v=1"):
        assert header(client(folder).get("/css/app.css" + query), "cache-control") == "public"


def test_static_path_adds_the_version_of_a_file_that_is_there(folder: Path) -> None:
    app = Endpoint(Router, static={"from": str(folder)}, env="test", url={"host": "example.com"})
    path = app.static_path("/css/app.css")
    assert path == f"/css/app.css?vsn={DAY * 1_000_000:x}"
    assert app.static_path("/css/app.css#top") == path + "#top"
    assert app.static_url("/css/app.css") == "http://example.com" + path
    assert body(app.test().get(path)) == CSS
    for unchanged in ("/css/none.css", "/css/app.css?x=1", "/css", "/"):
        assert app.static_path(unchanged) == unchanged
    os.utime(folder / "css" / "app.css", (DAY + 1, DAY + 1))
    assert app.static_path("/css/app.css") != path


def test_static_path_knows_where_the_files_stand(folder: Path) -> None:
    app = Endpoint(Router, static={"from": str(folder), "at": "/assets"}, env="test", url={"path": "/shop"})
    assert app.static_path("/assets/digits.txt").startswith("/shop/assets/digits.txt?vsn=")
    assert app.static_path("/digits.txt") == "/shop/digits.txt"
    assert app.static_url("/digits.txt") == "http://localhost:4001/shop/digits.txt"
    assert Endpoint(Router, static=False, env="test").static_path("/digits.txt") == "/digits.txt"


def test_the_helpers_of_a_router_give_static_paths(folder: Path) -> None:
    app = Endpoint(Router, static={"from": str(folder)}, env="test")
    assert Router.helpers.static_path(app, "/digits.txt") == app.static_path("/digits.txt")
    assert Router.helpers.static_url(app, "/digits.txt") == app.static_url("/digits.txt")


@pytest.mark.parametrize(
    "path", ["digits.txt", "//evil.example/x", "", "/\\evil.example", "/a\nb", "/../secret.txt", "/a/../b"]
)
def test_static_path_refuses_what_is_no_path_of_this_site(folder: Path, path: str) -> None:
    app = Endpoint(Router, static={"from": str(folder)}, env="test")
    with pytest.raises(phoenix.ArgumentError):
        app.static_path(path)


# --- In a stack of one's own --------------------------------------------------------------


def test_several_folders_can_be_plugged(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "a.txt").write_text("uploaded")

    class App(Endpoint):
        plug(Static, at="/files", from_=str(tmp_path / "uploads"))
        plug(Static, from_=str(folder))

    app = App(Router, env="test")
    assert body(app.test().get("/files/a.txt")) == "uploaded"
    assert body(app.test().get("/css/app.css")) == CSS
    assert "?vsn=" in app.static_path("/files/a.txt") and "?vsn=" in app.static_path("/css/app.css")


def test_a_relative_folder_is_looked_for_beside_the_module_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "site" / "priv" / "static").mkdir(parents=True)
    (tmp_path / "site" / "priv" / "static" / "a.txt").write_text("beside")
    (tmp_path / "site" / "own").mkdir()
    (tmp_path / "site" / "own" / "b.txt").write_text("own")
    (tmp_path / "site" / "shop_of_static_test.py").write_text(
        "import phoenix\n"
        "class Router(phoenix.Router): pass\n"
        "class Own(phoenix.Endpoint): phoenix.plug(phoenix.Static, from_='own')\n"
        "app = phoenix.Endpoint(Router, env='test')\n"
        "own = Own(Router, env='test')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    import importlib

    shop = importlib.import_module("shop_of_static_test")
    try:
        assert body(shop.app.test().get("/a.txt")) == "beside"
        assert body(shop.own.test().get("/b.txt")) == "own"
    finally:
        del sys.modules["shop_of_static_test"]

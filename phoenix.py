"""phoenix.py: the web framework for realtime applications, in one file.

Copy this file next to your app; it needs nothing but Python 3.10 or newer::

    import phoenix
    from phoenix import get

    def hello(conn, params):
        return conn.text(f"Hello, {params['name']}!")

    class Router(phoenix.Router):
        get("/hello/:name", hello)

    app = phoenix.Endpoint(Router)

    if __name__ == "__main__":
        app.run()

``python hello.py`` serves it on http://localhost:4000. The life of a request:

    bytes -> Request -> Conn -> endpoint plugs -> router -> pipelines -> controller -> view -> Conn -> bytes

The file is a book. Each chapter rests on the chapters above it only:

     1. Ground
     2. Conn
     3. Plug
     4. Params
     5. Secrets, session, flash, CSRF
     6. Templates
     7. Views and HTML
     8. Router
     9. Controllers
    10. PubSub and presence
    11. WebSocket protocol
    12. Channels
    13. HTTP protocol
    14. Server
    15. Endpoint
    16. Testing
    17. Command line

``grep -n '^# [0-9]*\\. ' phoenix.py`` prints the same list with line numbers.
"""

# A copy of this file in your project passes your own checks as it is. The chapters use each other's private names, and
# what `isinstance` finds out about a value of any type stays partly unknown: pyright is strict about all the rest.
# pyright: strict, reportPrivateUsage=false, reportUnnecessaryIsInstance=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# ruff: noqa

from __future__ import annotations

import base64
import codecs
import contextvars
import functools
import hashlib
import io
import json as jsonlib
import logging
import os
import re
import sys
import time
import types
import zlib
from _thread import allocate_lock as _allocate_lock
from _thread import get_ident as _get_ident
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hmac import compare_digest
from keyword import iskeyword
from operator import itemgetter
from stat import S_ISREG, S_ISSOCK
from urllib.parse import quote, unquote_to_bytes

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is; importing typing would cost 4 ms at every start
if TYPE_CHECKING:
    import ast
    import asyncio
    from collections.abc import AsyncIterable, AsyncIterator, Generator
    from typing import (
        IO, Any, ClassVar, Concatenate, Literal, NoReturn, ParamSpec, Protocol, TypeAlias, TypedDict, TypeVar, overload,
    )  # fmt: skip

    from typing_extensions import Self, Unpack

    P = ParamSpec("P")
    _Subscriber = TypeVar("_Subscriber", bound="Mailbox | Callable[[Any], object]")

__version__ = "0.1.0"
__all__: list[str] = []

logger = logging.getLogger("phoenix")


# ==========================================================================================
# 1. Ground                                                                depends on: nothing
# ==========================================================================================
#
# What every later chapter stands on: one family of errors that know their HTTP status, the
# names of statuses and media types, text that is safe to put into HTML, and the conventions
# that turn `PageController` into `PageView`, `page_path` and `templates/page`.
#
# Sources: RFC 9110 §15 (statuses), the WHATWG and IANA media types, Plug.Conn.Status, MIME,
# Phoenix.Naming, Phoenix.HTML.Safe.

__all__ += [
    "PhoenixError", "ArgumentError", "BadRequestError", "MissingParamError",
    "status_code", "reason_phrase", "MIME",
    "encode_json", "Safe", "escape", "raw", "javascript_escape", "to_param", "underscore", "camelize", "humanize",
]  # fmt: skip

# --- Errors -------------------------------------------------------------------------------


class PhoenixError(Exception):
    """The base of every error raised here. *status* is the HTTP status it answers with."""

    status: int = 500


class ArgumentError(PhoenixError, ValueError):
    """A value that the application passed is not one that this function takes."""


class BadRequestError(PhoenixError):
    """The client sent something that cannot be understood: status 400."""

    status = 400


class MissingParamError(BadRequestError, KeyError):
    """A request lacks a parameter that the application reads: status 400."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would show the repr


def _did_you_mean(word: str, known: Iterable[str], template: str = " Did you mean {!r}?") -> str:
    """Return a sentence that suggests the nearest of *known*, or an empty string."""
    import difflib  # only ever needed on the way to an error

    near = difflib.get_close_matches(word, list(known), n=1)
    return template.format(near[0]) if near else ""


# --- Statuses -----------------------------------------------------------------------------

_STATUS_NAMES: dict[int, str] = {
    int(entry[:3]): entry[4:]
    for entry in """\
100 continue|101 switching_protocols|102 processing|103 early_hints|200 ok|201 created|202 accepted
203 non_authoritative_information|204 no_content|205 reset_content|206 partial_content|207 multi_status
208 already_reported|226 im_used|300 multiple_choices|301 moved_permanently|302 found|303 see_other
304 not_modified|305 use_proxy|306 switch_proxy|307 temporary_redirect|308 permanent_redirect|400 bad_request
401 unauthorized|402 payment_required|403 forbidden|404 not_found|405 method_not_allowed|406 not_acceptable
407 proxy_authentication_required|408 request_timeout|409 conflict|410 gone|411 length_required
412 precondition_failed|413 request_entity_too_large|414 request_uri_too_long|415 unsupported_media_type
416 requested_range_not_satisfiable|417 expectation_failed|418 im_a_teapot|421 misdirected_request
422 unprocessable_content|423 locked|424 failed_dependency|425 too_early|426 upgrade_required
428 precondition_required|429 too_many_requests|431 request_header_fields_too_large
451 unavailable_for_legal_reasons|500 internal_server_error|501 not_implemented|502 bad_gateway
503 service_unavailable|504 gateway_timeout|505 http_version_not_supported|506 variant_also_negotiates
507 insufficient_storage|508 loop_detected|510 not_extended|511 network_authentication_required""".replace(
        "\n", "|"
    ).split("|")
}
_STATUS_CODES: dict[str, int] = {name: code for code, name in _STATUS_NAMES.items()}
_STATUS_CODES["unprocessable_entity"] = 422

_UNUSUAL_PHRASES = {
    200: "OK", 203: "Non-Authoritative Information", 207: "Multi-Status", 226: "IM Used",
    414: "Request-URI Too Long", 418: "I'm a teapot", 505: "HTTP Version Not Supported",
}  # fmt: skip


def status_code(status: int | str) -> int:
    """Return the number of a status given as a code or a name.

    >>> status_code("not_found"), status_code(404)
    (404, 404)

    Raises ``ArgumentError`` for an unknown name, or a number outside 100 to 999.
    """
    if isinstance(status, int):
        if 100 <= status <= 999:
            return int(status)
    elif status in _STATUS_CODES:
        return _STATUS_CODES[status]
    raise ArgumentError(
        f"unknown status {status!r}: expected a number from 100 to 999, or a name such as \"not_found\"."
        + _did_you_mean(str(status), _STATUS_CODES)
    )


def reason_phrase(code: int) -> str:
    """Return the phrase of a status code: ``reason_phrase(404) == "Not Found"``.

    Raises ``ArgumentError`` when *code* has none.
    """
    if code in _UNUSUAL_PHRASES:
        return _UNUSUAL_PHRASES[code]
    if code not in _STATUS_NAMES:
        raise ArgumentError(f"unknown status code {code}: it has no reason phrase")
    return _STATUS_NAMES[code].replace("_", " ").title()


# --- Media types --------------------------------------------------------------------------


class MIME:
    """Media types and the formats (file extensions) that stand for them.

    The table is fixed, so that an app behaves the same on every machine. ``MIME.register`` adds to it.
    """

    _types: ClassVar[dict[str, str]] = {}  # "json" -> "application/json"
    _extensions: ClassVar[dict[str, list[str]]] = {}  # "application/json" -> ["json"]

    @classmethod
    def register(cls, media_type: str, *extensions: str) -> None:
        """Make *media_type* known by *extensions*, the first of which is its format name.

        >>> MIME.register("application/vnd.api+json", "json-api")
        """
        media_type = media_type.lower()
        cls._extensions[media_type] = list(dict.fromkeys((*extensions, *cls._extensions.get(media_type, ()))))
        for extension in extensions:
            cls._types[extension.lower()] = media_type

    @classmethod
    def type(cls, extension: str) -> str:
        """Return the media type of a format: ``MIME.type("json") == "application/json"``."""
        return cls._types.get(extension.lower(), "application/octet-stream")

    @classmethod
    def extensions(cls, media_type: str) -> list[str]:
        """Return the formats of a media type: ``MIME.extensions("text/html") == ["html", "htm"]``.

        Parameters and case are ignored; a suffix such as ``+xml`` names a format too; an unknown type has none.
        """
        essence = media_type.partition(";")[0].strip().lower()
        known = cls._extensions.get(essence)
        if known is None:
            suffix = essence.partition("/")[2].rpartition("+")[2]
            known = [suffix] if "+" in essence and suffix in cls._types else []
        return list(known)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> str:
        """Return the media type of a file by the last extension of its name."""
        name = os.path.basename(os.fspath(path))
        return cls.type(name.rpartition(".")[2]) if "." in name else "application/octet-stream"


for _entry in """\
text/html html htm|text/plain txt text|text/css css|text/javascript js mjs|text/csv csv|text/markdown md markdown
application/xml xml|text/xml xml|text/calendar ics|text/vcard vcf|text/event-stream eventstream|text/vtt vtt
application/json json map|application/ld+json jsonld|application/manifest+json webmanifest
application/vnd.api+json json-api|application/atom+xml atom|application/rss+xml rss|application/xhtml+xml xhtml
application/pdf pdf|application/zip zip|application/gzip gz|application/x-tar tar|application/x-7z-compressed 7z
application/x-bzip2 bz2|application/wasm wasm|application/octet-stream bin|application/rtf rtf
application/msword doc|application/vnd.ms-excel xls|application/vnd.ms-powerpoint ppt|application/epub+zip epub
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/x-www-form-urlencoded urlencoded|multipart/form-data multipart|application/x-sh sh
image/png png|image/jpeg jpg jpeg|image/gif gif|image/svg+xml svg svgz|image/webp webp|image/avif avif
image/bmp bmp|image/tiff tiff tif|image/x-icon ico|audio/mpeg mp3|audio/ogg ogg oga|audio/wav wav|audio/aac aac
audio/flac flac|audio/mp4 m4a|audio/midi mid midi|video/mp4 mp4|video/mpeg mpeg mpg|video/webm webm
video/ogg ogv|video/quicktime mov|video/x-msvideo avi|font/woff woff|font/woff2 woff2|font/ttf ttf|font/otf otf
application/vnd.ms-fontobject eot""".replace("\n", "|").split("|"):
    MIME.register(*_entry.split())

# --- Safe HTML ----------------------------------------------------------------------------


class Safe(str):
    """Text that is HTML already: escaping leaves it as it is. Joining it with plain text gives plain text."""

    __slots__ = ()

    def __html__(self) -> Safe:
        """Mark this as HTML, by the convention that Jinja2, Mako and Django share."""
        return self


def escape(value: object) -> Safe:
    """Convert *value* to text that shows it in an HTML page.

    >>> escape("<it's>")
    '&lt;it&#39;s&gt;'

    ``None`` is empty, booleans are ``true`` and ``false``, lists are joined, and what has ``__html__`` is kept.
    """
    return Safe(_to_html(value))


def _to_html(value: Any) -> Any:
    """Convert *value* as ``escape`` does, to something that an f-string shows as it should be."""
    kind = value.__class__
    if kind is not str:
        if kind is Safe or kind is int:
            return value
        if (html := getattr(value, "__html__", None)) is not None:
            return html()
        if value is None:
            return ""
        if value is True or value is False:
            return "true" if value else "false"
        if isinstance(value, (list, tuple, types.GeneratorType)):
            return "".join(escape(item) for item in value)
        value = _shown(value)
    # Most text holds none of these: looking is cheaper than replacing.
    if "&" in value:
        value = value.replace("&", "&amp;")
    if "<" in value:
        value = value.replace("<", "&lt;")
    if ">" in value:
        value = value.replace(">", "&gt;")
    if '"' in value:
        value = value.replace('"', "&quot;")
    if "'" in value:
        value = value.replace("'", "&#39;")
    return value


def _shown(value: Any) -> str:
    """Return the text of a value. Raises ``ArgumentError`` for a function that somebody forgot to call."""
    if isinstance(value, (types.FunctionType, types.MethodType)):
        raise ArgumentError(f"{value.__qualname__} is a function, which no page shows: write {value.__name__}()")
    return str(value)


def raw(value: object) -> Safe:
    """Mark *value* as HTML that needs no escaping. Never pass it what a user typed."""
    return Safe("" if value is None else value)


_JAVASCRIPT_ESCAPES = {
    ord("\\"): "\\\\", ord('"'): '\\"', ord("'"): "\\'", ord("`"): "\\`", ord("\n"): "\\n", ord("\r"): "\\n",
    0x2028: "\\u2028", 0x2029: "\\u2029", 0: "\\u0000",
}  # fmt: skip


def javascript_escape(text: str) -> str:
    """Escape *text* for a JavaScript string literal inside a page; what is safe stays safe.

    >>> javascript_escape("</script>")
    '<\\\\/script>'
    """
    escaped = text.replace("\r\n", "\n").translate(_JAVASCRIPT_ESCAPES)
    escaped = escaped.replace("</", "<\\/").replace("<!", "<\\!")  # behind <!--<script no </script> ends it
    return Safe(escaped) if isinstance(text, Safe) else escaped


# --- JSON ---------------------------------------------------------------------------------


def _json_default(value: object) -> object:
    """Return what JSON has a form for in place of *value*: dates, UUIDs, decimals, and objects with ``to_json()``."""
    own = getattr(value, "to_json", None)
    if callable(own):
        return own()
    if any(kind.__module__ in _JSON_AS_TEXT for kind in type(value).__mro__):
        return str(value) if (isoformat := getattr(value, "isoformat", None)) is None else isoformat()
    raise TypeError(f"{value!r} has no form in JSON: pass dicts, lists, text and numbers, or give it a method `to_json()`")


_JSON_AS_TEXT = ("datetime", "uuid", "decimal", "_pydatetime", "_pydecimal")


def _json_writer(default: Callable[[object], object]) -> Callable[[Any], str]:
    """Return a function that writes compact JSON; *default* is asked about values that JSON has no form for."""
    make = getattr(jsonlib.encoder, "c_make_encoder", None)
    if make is None:  # not CPython
        return jsonlib.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=default).encode
    # Made once and kept, it is twice as fast as `JSONEncoder.encode`, which makes a new one at each call.
    quoted = getattr(jsonlib.encoder, "encode_basestring")  # noqa: B009 - it is there, untyped
    encode = make(None, default, quoted, None, ":", ",", False, False, False)
    return lambda data: "".join(encode(data, 0))


_write_json = _json_writer(_json_default)


def encode_json(data: Any) -> str:
    """Return *data* as compact JSON.

    >>> encode_json({"name": "Ann", "tags": ["a", None], "age": 7})
    '{"name":"Ann","tags":["a",null],"age":7}'

    Dates, UUIDs and decimals are written as text, and an object as what its ``to_json()`` returns. Raises
    ``ArgumentError`` for what has no form in JSON, such as other objects, ``NaN``, and lists that hold themselves.
    """
    try:
        return _write_json(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"cannot encode as JSON: {error}") from error  # it may be a mistake inside a `to_json()`


# --- The log ------------------------------------------------------------------------------


def _took(seconds: float) -> str:
    """Return a duration as the log shows it: ``"900µs"``, and from one millisecond on ``"5ms"``."""
    return f"{seconds * 1_000_000:.0f}µs" if seconds < 0.001 else f"{seconds * 1000:.0f}ms"


# --- Naming -------------------------------------------------------------------------------

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def underscore(name: str) -> str:
    """``underscore("UserController") == "user_controller"``"""
    return _WORD_START.sub("_", name).replace("-", "_").lower()


def camelize(name: str) -> str:
    """``camelize("photo_blog") == "PhotoBlog"``"""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[_\-]+", name))


def humanize(name: str) -> str:
    """``humanize("user_id") == "User"``, ``humanize("first_name") == "First name"``"""
    text = name.removesuffix("_id").replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def _unsuffix(name: str, suffix: str) -> str:
    """Return the resource that a class is named after: ``_unsuffix("PageController", "Controller") == "page"``."""
    return underscore(name.removesuffix(suffix) or name)


def to_param(value: object) -> str:
    """Convert a value to its form in a path.

    Text, numbers and booleans stand for themselves, objects for what their ``to_param()`` returns, else for their
    ``id``, else for their text if their class says how to write one: dates, UUIDs, paths.

    Raises ``ArgumentError`` for ``None``, and for maps and lists: there is no telling which part was meant.
    """
    if isinstance(value, str):
        return value
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if value is None:
        raise ArgumentError("cannot convert None to a param: give the id that the path should hold")
    own = getattr(value, "to_param", None)
    if callable(own):
        return to_param(own())
    if not isinstance(value, (Mapping, list, tuple, set, bytes)):
        if hasattr(value, "id"):
            return to_param(getattr(value, "id"))  # noqa: B009 - any object that has one
        if type(value).__str__ is not object.__str__:
            return str(value)
    raise ArgumentError(f"cannot convert {value!r} to a param: expected text, a number, or an object with an id")


def _caller(depth: int = 2) -> str:
    """Return ``file:line`` of the application code that called, for messages about definitions."""
    frame = sys._getframe(depth)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


# ==========================================================================================
# 2. Conn                                                                  depends on: Ground
# ==========================================================================================
#
# A conn is one request and the response being built for it, in one object that travels
# through every plug. Fields of the request are set once; fields of the response change
# through methods, each of which returns the conn, so that calls read as a chain. Nothing is
# sent while plugs run: `send_resp` fixes the response, and the server writes it when the last
# plug has returned. Only chunks go out at once.
#
# Later chapters add words for params, sessions, flash and rendering. Each of them extends the
# class of the chapter before; the last one is called `Conn`.
#
# Sources: Plug.Conn, RFC 9110 §5.5 (field values), RFC 6265 (cookies).

__all__ += [
    "AlreadySentError", "NotSentError", "InvalidHeaderError", "CookieOverflowError", "RequestTooLargeError",
    "ClientDisconnected", "parse_cookie_header", "RequestBody", "Adapter",
]  # fmt: skip


class AlreadySentError(PhoenixError):
    """The response was sent; it cannot change any more."""

    def __init__(self) -> None:
        super().__init__(
            "the response was already sent\n"
            "A plug that answers also halts, so that nothing behind it answers again: `return conn.text(...).halt()`."
        )


class NotSentError(PhoenixError):
    """All plugs ran and none of them set or sent a response."""

    def __init__(self) -> None:
        super().__init__(
            "a response was neither set nor sent from the connection\n"
            "End the action with an answer: `return conn.text(...)`, or `return conn.render(...)`."
        )


class InvalidHeaderError(PhoenixError):
    """A header name or value holds characters that would let it become something else (RFC 9110 §5.5)."""


class CookieOverflowError(PhoenixError):
    """A cookie is over 4096 bytes, the size that browsers keep."""


class RequestTooLargeError(PhoenixError):
    """The request has a body over the limit in bytes: status 413."""

    status = 413

    def __init__(self, limit: int, what: str = "its body", unit: str = "bytes") -> None:
        super().__init__(f"the request is too large: {what} is over {limit} {unit}")


class ClientDisconnected(PhoenixError):
    """The client went away while its body was being read, or its response written."""

    status = 400

    def __init__(self, message: str = "the client has disconnected") -> None:
        super().__init__(message)


# --- Headers and cookies ------------------------------------------------------------------

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110 §5.6.2
_BAD_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]").search  # RFC 9110 §5.5
_BAD_IN_COOKIE = re.compile(r"[^\x20-\x7e]|;|^ | $").search  # browsers cut off spaces at the ends
_MAX_COOKIE = 4096
_OF_THE_SERVER = frozenset(("content-length", "transfer-encoding", "connection", "keep-alive", "date"))
_DEFAULT_CACHE_CONTROL = ("max-age=0, private, must-revalidate",)


def _header_name(name: str) -> str:
    """Return *name* in lower case. Raises ``InvalidHeaderError`` unless it is a token."""
    if not _TOKEN(name):
        raise InvalidHeaderError(f"header name {name!r} holds characters that no header name may hold")
    return name.lower()


def _header_value(name: str, value: str) -> str:
    """Return *value*. Raises ``InvalidHeaderError`` when it is no text that one header line can hold."""
    if not isinstance(value, str):
        raise InvalidHeaderError(f"the value of header {name!r} is {value!r}, expected text: write str(value)")
    bad = _BAD_IN_VALUE(value)
    if bad:
        raise InvalidHeaderError(
            f"the value of header {name!r} holds {bad[0]!r}: {value!r}.\n"
            "A line break could add headers of its own, and no header holds control characters, NUL, or text beyond"
            " Latin-1: remove them, or percent-encode them with urllib.parse.quote."
        )
    return value


_CONTROL_SPACE = re.compile(r"[\t\r\n\v\f]")


def parse_cookie_header(header: str) -> dict[str, str]:
    """Return the cookies of a ``Cookie`` header, values as sent. Of two with one name the first wins.

    >>> parse_cookie_header("theme=dark; _my_app_key=SFMyNTY.g3QAAAAA")
    {'theme': 'dark', '_my_app_key': 'SFMyNTY.g3QAAAAA'}

    Browsers send the cookie of the longest path first, so the first is the one meant for this place. A pair
    without ``=``, without a name, with a space in its name, or with a tab or line break is left out.
    """
    cookies: dict[str, str] = {}
    printable = header.isprintable()  # nearly always: then no pair needs the search below
    for pair in header.split(";"):
        name, equals, value = pair.partition("=")
        name = name.lstrip(" \t")
        if not name or not equals or name in cookies or " " in name:
            continue
        if printable or not _CONTROL_SPACE.search(name + value):
            cookies[name] = value.rstrip(" ")
    return cookies


def _cookie_attributes(
    path: str, domain: str | None, max_age: int | None, secure: bool, http_only: bool, same_site: str | None,
    extra: str | None,
) -> str:
    """Return what stands behind the value of a cookie (RFC 6265 §4.1)."""
    for part in (path, domain or ""):
        if _BAD_IN_COOKIE(part):
            raise InvalidHeaderError(f"the path or domain {part!r} of a cookie could add attributes of its own")
    if same_site not in (None, "Lax", "Strict", "None"):
        raise ArgumentError(f'same_site={same_site!r} is unknown, expected "Lax", "Strict" or "None"; without it, None')
    text = f"; path={path}"
    if domain:
        text += f"; domain={domain}"
    if max_age is not None:
        seconds = max(0, int(max_age))
        text += f"; expires={_http_date(time.time() + seconds if seconds else 0)}; max-age={seconds}"
    if secure:
        text += "; secure"
    if http_only:
        text += "; HttpOnly"
    if same_site:
        text += f"; SameSite={same_site}"
    if extra:
        text += "; " + _header_value("set-cookie", extra)
    return text


_HTTP_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_HTTP_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _http_date(timestamp: float) -> str:
    """Return a time in seconds as RFC 9110 §5.6.7 writes it: ``Thu, 01 Jan 1970 00:00:00 GMT``."""
    t = time.gmtime(timestamp)
    day, month = _HTTP_DAYS[t.tm_wday], _HTTP_MONTHS[t.tm_mon - 1]
    return f"{day}, {t.tm_mday:02} {month} {t.tm_year:04} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"


# --- The far side -------------------------------------------------------------------------

_READ_AHEAD = 65_536  # bytes that are received before anybody takes them


class Adapter:
    """The far side of a conn: where its body comes from and where its chunks go.

    This one keeps everything in memory, for tests and for conns made by hand. A server gives each conn
    one of its own.
    """

    __slots__ = ("body", "chunks")

    why_no_poll = why_no_websocket = ""  # what keeps clients that poll, and WebSockets, from being served here

    def __init__(self, body: bytes = b"") -> None:
        self.body = body
        self.chunks: list[bytes] = []

    def whole_body(self, conn: BaseConn) -> bytes | None:
        """Return and consume the whole request body if it has arrived, else ``None``."""
        body, self.body = self.body, b""
        return body

    async def read(self, conn: BaseConn) -> bytes:
        """Wait for the next part of the request body; empty at its end."""
        return self.whole_body(conn) or b""

    def read_blocking(self, conn: BaseConn) -> bytes:
        """As ``read``, for worker threads."""
        return self.whole_body(conn) or b""

    def start_chunked(self, conn: BaseConn) -> None:
        """Send the head of a chunked response."""

    def send_chunk(self, conn: BaseConn, data: bytes) -> None:
        """Send one chunk. In a worker thread, wait while the client does not keep up."""
        self.chunks.append(data)

    async def drain(self, conn: BaseConn) -> None:
        """Wait until the client has taken most of what was sent."""

    def beat(self, conn: BaseConn, data: bytes, seconds: float) -> None:
        """Send *data* as a chunk each time *seconds* have passed, until the response ends."""

    async def in_worker(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Run blocking code where it stalls nobody, and return what it returns."""
        return call(*arguments)


class RequestBody:
    """The body of a request as it arrives, for bodies that no parser took.

    ``await conn.body.read()`` and ``async for part in conn.body`` in ``async def``; ``conn.read_body()`` and
    ``for part in conn.body`` in plain ``def``. Each byte is given once.
    """

    __slots__ = ("_conn",)

    def __init__(self, conn: BaseConn) -> None:
        self._conn = conn

    def __iter__(self) -> Iterator[bytes]:
        while part := self._conn.adapter.read_blocking(self._conn):
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while part := await self._conn.adapter.read(self._conn):
            yield part

    async def read(self, length: int = 8_000_000) -> bytes:
        """Return the rest of the body. Raises ``RequestTooLargeError`` when it is over *length* bytes."""
        parts: list[bytes] = []
        size = 0
        async for part in self:
            size += len(part)
            if size > length:
                raise RequestTooLargeError(length)
            parts.append(part)
        return b"".join(parts)


_EVENT_LINES = re.compile(r"\r\n|\r|\n").split  # the ends of lines that a browser knows, no others
_ENDS_EVENT_LINE = re.compile(r"[\r\n\0]").search


class _File:
    """A part of a file as a response body; the server sends it without reading it into memory."""

    __slots__ = ("path", "offset", "length")

    def __init__(self, path: str, offset: int, length: int) -> None:
        self.path, self.offset, self.length = path, offset, length


# --- The conn -----------------------------------------------------------------------------


class BaseConn:
    """One request, and the response being built for it.

    ``method``          ``"GET"``, in upper case
    ``request_path``    the path as it came: ``"/users/7"``
    ``path_info``       its segments: ``["users", "7"]``; a ``forward`` moves its own into ``script_name``
    ``query_string``    what follows the ``?``
    ``scheme``, ``host``, ``port``, ``remote_ip``
    ``path_params``     what the router found in the path: ``{"id": "7"}``
    ``endpoint``        the endpoint that answers, or ``None``
    ``assigns``         values for later plugs and templates, where ``@key`` reads them
    ``private``         the same for the framework and libraries
    ``status``          ``None`` or the number of the response's status
    ``resp_body``       the response body: text, bytes or ``None``
    ``state``           ``"unset"``, ``"set"``, then ``"sent"``, ``"file"`` or ``"chunked"``
    ``halted``          true after ``halt()``: the plugs that follow are skipped
    """

    __slots__ = (
        "method", "request_path", "query_string", "scheme", "host", "port", "remote_ip", "script_name",
        "assigns", "private", "status", "resp_body", "state", "halted", "adapter", "endpoint", "path_params",
        "_path_info", "_req_headers", "_req_cookies", "_resp_headers", "_resp_cookies", "_before_send", "_after",
        "_in_worker", "_query_params", "_body_params", "_params", "_session_store", "_session", "_session_change",
        "_flash",
    )  # fmt: skip

    def __init__(
        self, method: str = "GET", request_path: str = "/", query_string: str = "",
        req_headers: dict[str, list[str]] | None = None, scheme: str = "http", host: str = "localhost",
        port: int = 80, remote_ip: str = "127.0.0.1", adapter: Adapter | None = None, endpoint: Any = None,
    ) -> None:
        self.method = method
        self.request_path = request_path
        self.query_string = query_string
        self._req_headers = req_headers if req_headers is not None else {}  # shared: replaced, never changed
        self.scheme = scheme
        self.host = host
        self.port = port
        self.remote_ip = remote_ip
        self.adapter = adapter if adapter is not None else Adapter()
        self.endpoint = endpoint
        self.assigns: dict[str, Any] = {}
        self.private: dict[str, Any] = {}
        self.path_params: dict[str, Any] = {}
        self.script_name: Sequence[str] = ()
        self._path_info: list[str] | None = None
        self._req_cookies: dict[str, str] | None = None
        self._resp_headers: dict[str, tuple[str, ...]] = {"cache-control": _DEFAULT_CACHE_CONTROL}
        self._resp_cookies: dict[str, tuple[str, str]] | None = None  # name -> (value, attributes)
        self._before_send: list[Callable[[Any], Any]] | None = None
        self._after: list[Callable[[], object]] | None = None
        self._in_worker = False
        self.status: int | None = None
        self.resp_body: Any = None
        self.state = "unset"
        self.halted = False
        # Here the chapters on params and sessions keep what they have found out.
        self._query_params: Any = None
        self._body_params: Any = None
        self._params: Any = None
        self._session_store: Any = None
        self._session: Any = None
        self._session_change = ""
        self._flash: Any = None

    def __repr__(self) -> str:
        status = f" {self.status}" if self.status else ""
        return f"<Conn {self.method} {self.request_path} {self.state}{status}>"

    # --- The request ----------------------------------------------------------------------

    @property
    def path_info(self) -> list[str]:
        """The segments of the path that are left to route: ``/foo//bar/`` gives ``["foo", "bar"]``."""
        if self._path_info is None:
            self._path_info = [segment for segment in self.request_path.split("/") if segment]
        return self._path_info

    @path_info.setter
    def path_info(self, segments: list[str]) -> None:
        self._path_info = segments

    def request_url(self) -> str:
        """Return the URL of the request; the standard port of its scheme is left out."""
        query = f"?{self.query_string}" if self.query_string else ""
        return _base_url(self.scheme, self.host, self.port) + self.request_path + query

    @property
    def req_headers(self) -> list[tuple[str, str]]:
        """The headers of the request as pairs, names in lower case."""
        return [(name, value) for name, values in self._req_headers.items() for value in values]

    def get_req_header(self, name: str) -> list[str]:
        """Return the values of a request header; the list is empty when it was not sent."""
        return list(self._req_headers.get(name.lower(), ()))

    def _req_header(self, name: str, default: str = "") -> str:
        """Return the first value of a request header, named in lower case."""
        values = self._req_headers.get(name)
        return values[0] if values else default

    def put_req_header(self, name: str, value: str) -> Self:
        """Set a request header, as if the client had sent it. Raises ``InvalidHeaderError`` for ``host``."""
        name = _header_name(name)
        if name == "host":
            raise InvalidHeaderError("set the host with `conn.host = ...`: it is a field of the conn")
        self._check_unsent()
        self._req_headers = {**self._req_headers, name: [_header_value(name, value)]}
        self._req_cookies = None
        return self

    def delete_req_header(self, name: str) -> Self:
        """Remove a request header if it is there."""
        self._check_unsent()
        name = name.lower()
        self._req_headers = {key: values for key, values in self._req_headers.items() if key != name}
        self._req_cookies = None
        return self

    @property
    def req_cookies(self) -> dict[str, str]:
        """The cookies that the client sent, each under its name."""
        if self._req_cookies is None:
            self._req_cookies = parse_cookie_header("; ".join(self._req_headers.get("cookie", ())))
        return self._req_cookies

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that the client sent, changed by those that the response sets and deletes."""
        cookies = dict(self.req_cookies)
        for name, (value, attributes) in (self._resp_cookies or {}).items():
            if "; max-age=0" in attributes:
                cookies.pop(name, None)
            else:
                cookies[name] = value
        return cookies

    @property
    def body(self) -> RequestBody:
        """The request body, for ``async for`` and ``for``, when no parser has taken it."""
        return RequestBody(self)

    def read_body(self, length: int = 8_000_000) -> bytes:
        """Return the rest of the request body; wait for it. In ``async def`` write ``await conn.body.read()``.

        Raises ``RequestTooLargeError`` (413) when it is over *length* bytes.
        """
        parts: list[bytes] = []
        size = 0
        for part in self.body:
            size += len(part)
            if size > length:
                raise RequestTooLargeError(length)
            parts.append(part)
        return b"".join(parts)

    # --- Values for what follows ----------------------------------------------------------

    def assign(self, key: str | Mapping[str, Any] | None = None, value: Any = None, /, **assigns: Any) -> Self:
        """Store values for the plugs and views that follow; templates read them as ``@key``.

        ``conn.assign("title", "Hi")``, ``conn.assign(title="Hi", user=user)`` and ``conn.assign({"title": "Hi"})``.
        """
        if isinstance(key, str):
            self.assigns[key] = value
        elif key is not None:
            self.assigns.update(key)
        if assigns:
            self.assigns.update(assigns)
        return self

    def merge_assigns(self, assigns: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """Store several values at once, as ``assign`` does."""
        self.assigns.update(assigns or {}, **more)
        return self

    def put_private(self, key: str, value: Any) -> Self:
        """Store a value for a library; applications use ``assign``."""
        self.private[key] = value
        return self

    def merge_private(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """Store several values for a library at once."""
        self.private.update(values or {}, **more)
        return self

    def halt(self) -> Self:
        """Skip the plugs that follow. It sends nothing: set or send a response as well."""
        self.halted = True
        return self

    # --- The response ---------------------------------------------------------------------

    def _check_unsent(self) -> None:
        if self.state not in ("unset", "set"):
            raise AlreadySentError

    def put_status(self, status: int | str | None) -> Self:
        """Set the response status: a code (404), a name (``"not_found"``), or ``None`` to clear it.

        Raises ``AlreadySentError``, and ``ArgumentError`` for an unknown status.
        """
        if self.state != "unset" and self.state != "set":
            raise AlreadySentError
        self.status = None if status is None else status_code(status)
        return self

    @property
    def resp_headers(self) -> list[tuple[str, str]]:
        """The headers of the response as pairs, names in lower case, without cookies."""
        return [(name, value) for name, values in self._resp_headers.items() for value in values]

    def get_resp_header(self, name: str) -> list[str]:
        """Return the values of a response header; the list is empty when it is not set."""
        return list(self._resp_headers.get(name.lower(), ()))

    def put_resp_header(self, name: str, value: str) -> Self:
        """Set a response header; it replaces earlier values of that name.

        Raises ``InvalidHeaderError`` when *value* could add a header of its own, and ``AlreadySentError``.
        """
        self._check_unsent()
        name = _header_name(name)
        self._resp_headers[name] = (_header_value(name, value),)
        return self

    def prepend_resp_headers(self, headers: Iterable[tuple[str, str]]) -> Self:
        """Add headers before those of the same name that are there, as further lines."""
        self._check_unsent()
        for name, value in reversed(list(headers)):
            name = _header_name(name)
            self._resp_headers[name] = (_header_value(name, value), *self._resp_headers.get(name, ()))
        return self

    def merge_resp_headers(self, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Self:
        """Set several response headers."""
        for name, value in dict(headers).items():
            self.put_resp_header(name, value)
        return self

    def update_resp_header(self, name: str, initial: str, change: Callable[[str], str]) -> Self:
        """Set a response header to ``change(value)`` of its first value, or to *initial* when it is not set."""
        self._check_unsent()
        name = _header_name(name)
        first, *others = self._resp_headers.get(name) or (None,)
        value = initial if first is None else change(first)
        self._resp_headers[name] = (_header_value(name, value), *others)
        return self

    def delete_resp_header(self, name: str) -> Self:
        """Remove a response header if it is there."""
        self._check_unsent()
        self._resp_headers.pop(name.lower(), None)
        return self

    def put_resp_content_type(self, media_type: str, charset: str | None = "utf-8") -> Self:
        """Set the content type: ``put_resp_content_type("text/xml")`` sends ``text/xml; charset=utf-8``.

        A type set here also decides which format ``render("index")`` renders.
        """
        if charset is not None:
            media_type = f"{media_type}; charset={charset}"
        return self.put_resp_header("content-type", media_type)

    def put_resp_cookie(
        self, name: str, value: str, *, path: str = "/", domain: str | None = None, max_age: int | None = None,
        secure: bool | None = None, http_only: bool = True, same_site: str | None = None, extra: str | None = None,
    ) -> Self:
        """Set a cookie. *max_age* is in seconds; *secure* is added by itself when the request came by https.

        *same_site* is ``"Lax"``, ``"Strict"`` or ``"None"``; *extra* is added as it is. Raises ``AlreadySentError``,
        ``InvalidHeaderError`` for a name or value that could add attributes, and ``CookieOverflowError``.
        """
        self._check_unsent()
        if not isinstance(value, str):
            raise ArgumentError(f"the value of cookie {name!r} is {value!r}, expected text")
        if not _TOKEN(name) or _BAD_IN_COOKIE(value):
            raise InvalidHeaderError(
                f"cookie {name!r} with the value {value!r} could add attributes of its own, or come back changed.\n"
                "Expected printable ASCII without `;`, and no space at the ends: encode the value, as with base64."
            )
        secure = self.scheme == "https" if secure is None else secure
        attributes = _cookie_attributes(path, domain, max_age, secure, http_only, same_site, extra)
        size = len(name) + len("=") + len(value) + len(attributes)
        if size > _MAX_COOKIE:
            raise CookieOverflowError(
                f"cookie {name!r} needs {size} bytes, the limit is {_MAX_COOKIE}.\n"
                "Keep an id in the cookie and the data in a database."
            )
        if self._resp_cookies is None:
            self._resp_cookies = {}
        self._resp_cookies[name] = (value, attributes)
        return self

    def delete_resp_cookie(self, name: str, **attributes: Any) -> Self:
        """Tell the client to forget a cookie; *attributes* are those it was set with (path, domain)."""
        attributes["max_age"] = 0
        return self.put_resp_cookie(name, "", **attributes)

    def register_before_send(self, callback: Callable[[Any], Any]) -> Self:
        """Call ``callback(conn)``, which returns the conn, right before the response is sent.

        The callback registered last runs first. It may change status, headers, cookies and body.
        """
        self._check_unsent()
        if self._before_send is None:
            self._before_send = []
        self._before_send.append(callback)
        return self

    def resp(self, status: int | str, body: str | bytes | Sequence[str | bytes]) -> Self:
        """Set status and body; the server sends them after the last plug. Later calls overwrite them."""
        self._check_unsent()
        self.status = status_code(status)
        self.resp_body = body if isinstance(body, (str, bytes)) else _joined(body)
        self.state = "set"
        return self

    def send_resp(
        self, status: int | str | None = None, body: str | bytes | Sequence[str | bytes] | None = None
    ) -> Self:
        """Send the response: ``send_resp(200, "hi")``, ``send_resp("no_content")``, or what ``resp`` has set.

        Raises ``AlreadySentError``, and ``ArgumentError`` when nothing was set.
        """
        if status is not None or body is not None:
            self.resp((self.status or 200) if status is None else status, "" if body is None else body)
        self._check_unsent()
        if self.state == "unset":
            raise ArgumentError("cannot send a response that was not set: call send_resp(status, body)")
        if self._before_send:
            self._run_before_send()
        self.state = "sent"
        return self

    def _run_before_send(self) -> None:
        state = self.state
        while self._before_send:  # when one raises, those left run for the error page
            callback = self._before_send.pop()
            if callback(self) is not self:
                raise PhoenixError(f"the before_send callback {callback!r} must return the conn it was given")
            if self.state != state:
                raise PhoenixError(f"the before_send callback {callback!r} sent a response: it may only change it")

    def _fix_head(self, status: int | str, body: object) -> None:
        """Let the callbacks have their say about a response whose body is no text: *body* is what they see of it."""
        self.status = status_code(status)
        self.resp_body = body
        self.state = "set"
        if self._before_send:
            self._run_before_send()

    def send_file(
        self, status: int | str, path: str | os.PathLike[str], offset: int = 0, length: int | None = None
    ) -> Self:
        """Send a file, or *length* bytes of it from *offset* on. The content type is yours to set.

        Raises ``ArgumentError`` for a NUL in the path, and the error of the system when the file cannot be read.
        """
        self._check_unsent()
        name = os.fsdecode(path)
        if "\0" in name:
            raise ArgumentError(f"cannot send file {name!r}: the path holds a NUL")
        if offset < 0 or length is not None and length < 0:
            raise ArgumentError(f"cannot send {length} bytes of {name!r} from {offset} on: both count from 0")
        found = os.stat(name)
        if not S_ISREG(found.st_mode) or not os.access(name, os.R_OK):
            raise PermissionError(f"cannot send {name!r}: it is no file, or this process may not read it")
        left = max(0, found.st_size - offset)
        self._fix_head(status, None)
        self.resp_body = _File(name, offset, left if length is None else min(length, left))
        self.state = "file"
        return self

    def send_chunked(
        self, status: int | str, parts: Iterable[str | bytes] | AsyncIterable[str | bytes] | None = None
    ) -> Self:
        """Start a response whose length is not known; ``chunk`` sends its parts.

        With *parts*, a generator or an async generator, the server takes one part after the other, as fast as the
        client reads them.
        """
        self._check_unsent()
        if isinstance(parts, (str, bytes)):
            raise ArgumentError("send_chunked(status, parts) takes a generator of parts: for one text write send_resp")
        self._fix_head(status, ())  # parts to come: callbacks can tell it from a file
        self.resp_body = parts
        self.state = "chunked"
        if parts is None:
            self.adapter.start_chunked(self)
        return self

    def chunk(self, data: str | bytes) -> Self:
        """Send one part of a chunked response; an empty one is skipped.

        In plain ``def`` this waits for a slow client; in ``async def`` write ``await conn.chunk(data)`` for that.
        Raises ``ArgumentError`` before ``send_chunked``.
        """
        if self.state != "chunked":
            raise ArgumentError("chunk(...) needs a chunked response: call conn.send_chunked(200) first")
        if data:
            self.adapter.send_chunk(self, data.encode() if isinstance(data, str) else data)
        return self

    def event_stream(self, *, heartbeat: float = 15) -> Self:
        """Start a stream of server-sent events, which ``send_event`` sends and a browser's ``EventSource`` reads::

            async def news(conn, params):
                conn.event_stream()
                async for message in pubsub.subscribe("news"):
                    await conn.send_event(message, event="news", id=message["id"])
                return conn

        Each *heartbeat*, in seconds, a comment is sent, so that proxies keep the connection, and a client that is gone
        is noticed: its action is cancelled. In a plain ``def`` a stream holds a worker thread, which hears of that when
        it sends: where events are rare, write ``async def``. A browser that connects again says what it had seen in the
        header ``last-event-id``. Source: the HTML standard, §9.2.
        """
        self._check_unsent()
        for name, value in (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"),
                            ("x-accel-buffering", "no")):  # fmt: skip
            self._resp_headers[name] = (value,)
        self.send_chunked(self.status or 200)  # nginx reads the last header: it is to send each event at once
        self.adapter.beat(self, b":\n\n", heartbeat)
        return self

    def send_event(
        self, data: Any, *, event: str | None = None, id: object = None, retry: int | None = None
    ) -> Self:
        """Send a server-sent event: *data* is text of any number of lines, or what becomes JSON.

        *event* is its name, "message" unless given; *id* comes back as ``last-event-id``; *retry* is the pause, in
        milliseconds, after which the browser connects again. ``await`` it in ``async def``, as ``chunk``. Raises
        ``ArgumentError`` for an *event* or *id* of more than one line.
        """
        if self.state == "unset":
            self.event_stream()
        fields = [("event", event), ("id", id), ("retry", None if retry is None else int(retry))]
        lines = [f"{name}: {value}\n" for name, value in fields if value is not None]
        if any(_ENDS_EVENT_LINE(line[:-1]) for line in lines):
            raise ArgumentError(f"event={event!r}, id={id!r}: expected text of one line, without NUL")
        text = data if isinstance(data, str) else encode_json(data)
        lines += [f"data: {line}\n" for line in _EVENT_LINES(text)]
        return self.chunk("".join(lines) + "\n")

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait until the client has taken what was sent so far: ``await conn.chunk(data)``."""
        yield from self.adapter.drain(self).__await__()
        return self


def _joined(parts: object) -> bytes:
    """Return a response body that was given in parts as one. Raises ``ArgumentError`` for what is no body."""
    if isinstance(parts, (list, tuple)):
        return b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    if isinstance(parts, (bytearray, memoryview)):
        return bytes(parts)
    raise ArgumentError(
        f"the response body is {parts!r}, expected text, bytes or a list of them.\n"
        'For data write conn.json(data); an empty body is "".'
    )


def _base_url(scheme: str, host: str, port: int | str | None) -> str:
    """Return ``http://example.com``, with the port unless it is the standard one of *scheme*."""
    standard = {"http": "80", "https": "443"}.get(scheme)
    return f"{scheme}://{host}" if port is None or str(port) == standard else f"{scheme}://{host}:{port}"


# ==========================================================================================
# 3. Plug                                                            depends on: Ground, Conn
# ==========================================================================================
#
# The one contract of the framework: a plug takes a conn and returns the conn. A function is a
# plug; so is any object that can be called; so is a class, made once with its options when the
# pipeline is built. A pipeline of plugs is itself a plug, and it stops at the first plug that
# halts the conn.
#
# This chapter is also the one place that decides where a plug runs:
#
#     async def      on the event loop
#     plain def      in a worker thread, so that code which blocks stalls nobody
#     our own plugs  never block, and run where the request happens to be
#
# Consecutive plain functions share one visit to a worker, whatever they are written in: the
# plugs of endpoint, pipelines and controller, and the action. An `async def` in which no
# `await` is written cannot suspend; it is stepped by hand and costs no task.
#
# Source: Plug, Plug.Builder.

__all__ += ["PlugError", "DefinitionError", "PlugEntry", "Pipeline", "plug"]


class PlugError(PhoenixError):
    """A plug broke the contract: it returned something other than the conn."""


class DefinitionError(PhoenixError):
    """A mistake in the definition of a router, controller, view or endpoint; the message names file and line."""


# --- Words in a class body ----------------------------------------------------------------
#
# `plug`, `get`, `scope`, `template` are plain functions. They record into the class body that
# is being executed: its namespace, made by the metaclass, carries a recorder, and is found
# through the frames of the callers, up to their module. So there is no global, a function may
# hold words that several bodies need, and no word works by accident.


class _Body(dict["str", "Any"]):
    """The namespace of a class body whose words are recorded."""

    __slots__ = ("recorder",)

    recorder: Any


class _Recording(type):
    """The metaclass of classes with words: ``_recorder()`` makes what their bodies record into."""

    @classmethod
    def __prepare__(mcs, name: str, bases: tuple[type, ...], /, **options: Any) -> _Body:
        body = _Body()
        body.recorder = next((base._recorder() for base in bases if isinstance(base, _Recording)), None)
        if hasattr(body.recorder, "body"):
            body.recorder.body = body
        return body

    def __new__(mcs, name: str, bases: tuple[type, ...], body: _Body, /, **options: Any) -> Any:
        cls = super().__new__(mcs, name, bases, dict(body), **options)
        if body.recorder is not None:
            cls._recorded(body.recorder)
        return cls

    def _recorder(cls) -> Any:
        return None

    def _recorded(cls, recorder: Any) -> None:
        """Take over what the body of *cls* recorded."""


def _recorder(method: str, home: str, word: str = "") -> Any:
    """Return the recorder of the class body being executed, if it has *method*. Raises ``DefinitionError``.

    The message says that *word*, the same unless given, must be written in the body of *home*.
    """
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "<module>":
        body = frame.f_locals if "__qualname__" in frame.f_code.co_names else None  # bodies store it, functions do not
        if isinstance(body, _Body):
            if hasattr(body.recorder, method):
                return body.recorder
            break
        frame = frame.f_back
    raise DefinitionError(f"{_caller(3)}: `{word or method}(...)` must be written in the body of {home}")


# --- What is plugged ----------------------------------------------------------------------

# Where a plug runs: wherever the request is, on the loop by hand, on the loop in a task, or in a worker thread.
_INLINE, _STEPPED, _AWAITED, _WORKER = range(4)

_COROUTINE_FLAG = 0x80  # inspect.CO_COROUTINE; inspect itself is slow to import


def _suspends(code: types.CodeType) -> bool:
    """Tell whether the code of an ``async def`` holds an ``await``, ``async for`` or ``async with``."""
    from opcode import opmap

    awaiting = {opmap[name] for name in ("GET_AWAITABLE", "GET_ANEXT", "GET_AITER") if name in opmap}
    return not awaiting.isdisjoint(code.co_code[::2])


def _where_it_runs(call: Any) -> int:
    """Decide where *call*, a function, a method, a partial or an object with ``__call__``, has to run."""
    if isinstance(call, functools.partial):
        return _where_it_runs(call.func)
    function = getattr(call, "__func__", call)  # of a method
    if not isinstance(function, types.FunctionType):
        function = type(call).__call__
    if getattr(function, "__globals__", None) is globals():  # `__module__` would believe what functools.wraps copied
        return int(getattr(call, "runs", _INLINE))  # one of ours; where it runs other code, it says so
    code = getattr(function, "__code__", None)  # what is written in C has none
    if code is None or not code.co_flags & _COROUTINE_FLAG:
        return _WORKER
    return _AWAITED if _suspends(code) else _STEPPED


def _name_of(call: Any) -> str:
    """Return the name of a plug as messages show it: ``app.locale`` or ``app.RequireUser``."""
    if isinstance(call, functools.partial):
        call = call.func
    named = call if hasattr(call, "__qualname__") else type(call)
    return f"{named.__module__}.{named.__qualname__}"


class PlugEntry:
    """What ``plug(...)`` returns: a plug with its options, and the actions it is meant for."""

    __slots__ = ("call", "runs", "name", "where", "_only", "_except", "_has_actions")

    def __init__(self, target: Any, arguments: tuple[Any, ...], options: dict[str, Any], where: str) -> None:
        self.where = where
        self._only: tuple[str, ...] | None = None
        self._except: tuple[str, ...] = ()
        self._has_actions = False
        self.name = _name_of(target)
        if not callable(target):
            raise DefinitionError(
                f"{where}: cannot plug {target!r}: expected a function, a class or an object that can be called.\n"
                "A plug takes a conn and returns it: `def locale(conn, default=\"en\"): return conn`."
            )
        if isinstance(target, type):
            try:
                target = target(*arguments, **options)
            except (TypeError, ValueError) as error:
                raise DefinitionError(f"{where}: cannot plug {self.name} with these options: {error}") from error
            if not callable(target):
                raise DefinitionError(f"{where}: {self.name} has no `__call__(self, conn)`, so it is not a plug")
            arguments, options = (), {}
        self._check_signature(target, arguments, options)
        self.runs = _where_it_runs(target)
        self.call = _with_options(target, arguments, options)

    def _check_signature(self, target: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        from inspect import signature

        try:
            shape = signature(target)
        except (TypeError, ValueError):
            return  # written in C: it has none to check
        try:
            shape.bind(None, *arguments, **options)
        except TypeError as error:
            raise DefinitionError(
                f"{self.where}: plug {self.name}{shape} cannot be called with a conn"
                f" and the options {arguments + tuple(options)}: {error}"
            ) from None

    def only(self, *actions: str) -> PlugEntry:
        """Run this plug before these actions of the controller only."""
        self._only = self._checked_actions("only", actions)
        return self

    def except_(self, *actions: str) -> PlugEntry:
        """Run this plug before every action of the controller but these."""
        self._except = self._checked_actions("except_", actions)
        return self

    def _checked_actions(self, word: str, actions: tuple[Any, ...]) -> tuple[str, ...]:
        if not self._has_actions:
            raise DefinitionError(
                f"{self.where}: .{word}() chooses among the actions of a controller: plug {self.name} there, not here"
            )
        if not actions or not all(isinstance(action, str) for action in actions):
            raise DefinitionError(f'{self.where}: .{word}() takes names of actions: `.{word}("create", "update")`')
        return actions

    def applies_to(self, names: set[str]) -> bool:
        """Tell whether this plug runs before the action with these *names*."""
        return names.isdisjoint(self._except) and (self._only is None or not names.isdisjoint(self._only))

    def reject(self, conn: Any, result: object) -> Any:
        """Answer a result that is not the conn, with an error that names the plug."""
        hint = ", it ends without `return`" if result is None else ""
        raise PlugError(
            f"{self.where}: plug {self.name} returned {result!r}{hint}, expected the conn.\n"
            "A plug takes a conn and returns it: end it with `return conn`."
        )


def _with_options(target: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Callable[[Any], Any]:
    if options:
        return lambda conn: target(conn, *arguments, **options)
    if arguments:
        return lambda conn: target(conn, *arguments)
    return target  # type: ignore[no-any-return]


if TYPE_CHECKING:

    @overload
    def plug(target: Callable[Concatenate[Any, P], Any], /, *arguments: P.args, **options: P.kwargs) -> PlugEntry: ...
    @overload
    def plug(target: Callable[P, Callable[[Any], Any]], /, *arguments: P.args, **options: P.kwargs) -> PlugEntry: ...
    @overload
    def plug(target: str, /, **options: Any) -> PlugEntry: ...


def plug(target: Any, /, *arguments: Any, **options: Any) -> Any:
    """Run a plug at this place: in a pipeline of a router, a controller, a ``Pipeline`` or an endpoint.

    *target* is a function ``locale(conn, default="en")``, called with the conn and these options at each request;
    a class, made now with these options and called with the conn at each request; or an object that can be called.
    In a controller it may be the name of a method. ``.only("show")`` and ``.except_("index")`` choose actions.

    Raises ``DefinitionError`` for what cannot be called so.
    """
    recorder = _recorder("plug", "a pipeline, a controller or an endpoint")
    return recorder.plug(target, arguments, options, _caller())


# --- Running plugs ------------------------------------------------------------------------

_Step: TypeAlias = "tuple[int, Callable[[Any], Any], Any]"  # where it runs, what to call, the PlugEntry it comes from


def _steps(entries: Iterable[PlugEntry]) -> tuple[_Step, ...]:
    """Return *entries* as steps; a pipeline among them is replaced by its own, so that they can share a thread."""
    steps: list[_Step] = []
    for entry in entries:
        if isinstance(entry.call, Pipeline) and type(entry.call).__call__ is Pipeline.__call__:
            steps += entry.call._steps
        else:
            call: Any = entry.call
            if isinstance(type(call).__call__, types.FunctionType):
                call = call.__call__  # the method is quicker to call than its object
            steps.append((entry.runs, call, entry))
    return tuple(steps)


def run_steps(conn: Any, steps: Sequence[_Step]) -> Any:
    """Call *steps* in order until one halts the conn.

    Returns the conn when all of them could run here, else a coroutine that runs the rest and returns the conn.
    """
    for at, (runs, call, entry) in enumerate(steps):
        if runs and conn._in_worker is not (runs == _WORKER):
            return _cross_over(conn, steps[at:])
        result = call(conn)
        if result is not conn:
            if runs == _STEPPED:  # as `_step` does, at each request: the call would cost as much as the step
                try:
                    result.send(None)
                except StopIteration as stop:
                    result = stop.value
            elif hasattr(result, "__await__") and not isinstance(result, BaseConn):
                return _await_then(result, conn, steps[at:])
            if result is not conn:
                result = entry.reject(conn, result)  # raises, or lets the fallback of an action answer
                if result is not conn:
                    return _await_then(result, conn, steps[at:])
        if conn.halted:
            break
    return conn


def _is_conn(value: object) -> bool:
    return isinstance(value, BaseConn)


def _step(coroutine: Any) -> Any:
    """Run a coroutine that cannot suspend, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError(f"{coroutine!r} has no await and suspended")


async def _await_then(result: Any, conn: Any, steps: Sequence[_Step]) -> Any:
    """Await the *result* of the first step, then run the steps behind it."""
    conn._in_worker = False  # a coroutine runs on the loop, whoever made it
    result = await result
    if result is not conn:
        result = steps[0][2].reject(conn, result)
        if result is not conn:
            await result
    if conn.halted:
        return conn
    rest = run_steps(conn, steps[1:])
    return rest if rest is conn else await rest


async def _cross_over(conn: Any, steps: Sequence[_Step]) -> Any:
    """Run the steps at the other side: the first is a plain function for a worker, or a coroutine for the loop."""
    if steps[0][0] == _WORKER:
        try:
            rest = await conn.adapter.in_worker(_run_in_worker, conn, steps)
        finally:
            conn._in_worker = False
    else:
        conn._in_worker = False
        rest = run_steps(conn, steps)
    return rest if rest is conn else await rest


def _run_in_worker(conn: Any, steps: Sequence[_Step]) -> Any:
    conn._in_worker = True
    return run_steps(conn, steps)


class _PlugRecorder:
    """Records ``plug(...)`` in the body of a pipeline or an endpoint."""

    def __init__(self) -> None:
        self.plugs: list[PlugEntry] = []

    def plug(self, target: Any, arguments: tuple[Any, ...], options: dict[str, Any], where: str) -> PlugEntry:
        self.plugs.append(PlugEntry(target, arguments, options, where))
        return self.plugs[-1]


class Pipeline(metaclass=_Recording):
    """Several plugs as one, to be plugged elsewhere by ``plug(Browser)``::

        class Browser(Pipeline):
            plug(Conn.accepts, "html")
            plug(Conn.fetch_session)

    A subclass runs the plugs of its bases first.
    """

    _steps: tuple[_Step, ...] = ()

    @classmethod
    def _recorder(cls) -> _PlugRecorder:
        return _PlugRecorder()

    @classmethod
    def _recorded(cls, recorder: _PlugRecorder) -> None:
        cls._steps += _steps(recorder.plugs)

    def __call__(self, conn: Any) -> Any:
        return run_steps(conn, self._steps)


# ==========================================================================================
# 4. Params                                                         depends on: Ground, Conn
# ==========================================================================================
#
# What a client sends arrives as a query string, a form, a multipart body, JSON or cookies.
# This chapter turns each of them into one shape: maps of strings, lists and uploads, where
# the field name `user[tags][]` says where its value belongs. The codecs are pure: bytes go in,
# values come out, and whatever a client could make large has a limit.
#
# Read it in four parts: the errors and `Params`; the codecs for text (query, forms, JSON); then
# uploads and the multipart parser, which works on a body that arrives in pieces; at last the
# words of a conn for params, and the plugs that fill them.
#
# Sources: Plug.Conn.Query, Plug.Conn.Cookies, Plug.Parsers, the WHATWG URL and HTML standards,
# RFC 2046 §5.1 and RFC 7578 (multipart), RFC 8187 (`filename*`), RFC 8259 (JSON).

__all__ += [
    "BadEncodingError", "InvalidQueryError", "ParseError", "UnsupportedMediaTypeError",
    "Params", "scrub", "decode_query", "encode_query", "parse_content_type", "parse_json",
    "Upload", "MultipartParser", "Parsers", "method_override", "head_as_get",
]  # fmt: skip


class InvalidQueryError(BadRequestError):
    """A query string, or a field's name, that cannot be decoded (status 400), or is too long (status 414)."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class BadEncodingError(BadRequestError):
    """Text in a body is not UTF-8, or not rightly percent-encoded: status 400."""


class ParseError(BadRequestError):
    """A body breaks the rules of its format: status 400."""


class UnsupportedMediaTypeError(PhoenixError):
    """No parser takes a body of this media type: status 415."""

    status = 415

    def __init__(self, media_type: str) -> None:
        super().__init__(f"unsupported media type {media_type}")


# The type arguments are quoted because a base class is evaluated, and `Any` is only there for type checkers.
class Params(dict["str", "Any"]):
    """The parameters of a request: a dict whose missing key is the client's mistake, not the application's.

    >>> params = Params(page="2")
    >>> params["page"], params.get("locale", "en")
    ('2', 'en')

    ``params["locale"]`` raises ``MissingParamError`` here, which answers 400. Maps inside are ``Params`` too.
    """

    __slots__ = ()

    def __missing__(self, key: str) -> Any:
        sent = ", ".join(map(repr, list(self)[:20])) or "no params at all"
        raise MissingParamError(
            f"missing param {key!r}: expected it beside what was sent, {sent[:500]}.\n"
            f"If it may be absent, read it with .get({key!r})."
        )


def scrub(value: Any) -> Any:
    """Return *value* with every string that is empty, or only spaces, turned into ``None``.

    Maps and lists are scrubbed all the way down, and copied; uploads, numbers and the like stay as they are.

    >>> scrub({"name": " ", "tags": ["a", ""]})
    {'name': None, 'tags': ['a', None]}
    """
    if isinstance(value, str):
        return value if value.strip(" ") else None
    if isinstance(value, dict):
        return Params((key, scrub(item)) for key, item in value.items())
    if isinstance(value, list):
        return [scrub(item) for item in value]
    return value


# --- Query strings and urlencoded forms ---------------------------------------------------

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")

if TYPE_CHECKING:
    # Containers that gave way to one of another kind: (id of the parent, name) -> (parent, container).
    _Replaced = dict[tuple[int, str], tuple[Params, Params | list[Any]]]


def decode_query(
    query: str | bytes, *, max_fields: int = 1000, max_depth: int = 32,
    error: type[BadRequestError] = InvalidQueryError,
) -> Params:
    """Decode ``application/x-www-form-urlencoded`` text, with nested keys.

    >>> decode_query("user[name]=Ann+Lee&user[tags][]=a&user[tags][]=b&page=2")
    {'user': {'name': 'Ann Lee', 'tags': ['a', 'b']}, 'page': '2'}

    A key given twice keeps its last value. In brackets, a name is a key of a dict, and nothing is one more item of a
    list; of both under one key, the last kind decides. *max_fields* limits the fields, counted by ``&``, and
    *max_depth* the brackets of one key.

    Raises *error* on a bad ``%XX`` and on what is not UTF-8, ``InvalidQueryError`` (400) for a key nested too
    deeply, ``RequestTooLargeError`` (413) for too many fields.
    """
    params = Params()
    if not query:
        return params
    # From here on, one character stands for one byte: UTF-8 is checked after the escapes are resolved.
    raw = query.encode("utf-8", "surrogatepass") if isinstance(query, str) else query
    text = raw.decode("latin-1")
    if text.count("&") >= max_fields:
        raise RequestTooLargeError(max_fields, "its query or form", "fields")
    encoded = not text.isascii()
    if "%" in text:
        # Browsers escape the brackets of every key. Done here at once, most keys need no more decoding.
        text = text.replace("%5B", "[").replace("%5D", "]")
        if bad := _BAD_ESCAPE.search(text):
            raise error(f"invalid urlencoded params, got {text[bad.start() : bad.start() + 3]!r}")
    replaced: _Replaced = {}
    for pair in text.split("&"):
        if pair:
            key, _, value = pair.partition("=")
            if encoded or "%" in pair:
                key, value = _decode_www_form(key, error), _decode_www_form(value, error)
            elif "+" in pair:
                key, value = key.replace("+", " "), value.replace("+", " ")
            if "]" in key:
                _put(params, key, value, replaced, max_depth)
            else:
                params[key] = value
    return params


def _decode_www_form(text: str, error: type[BadRequestError]) -> str:
    """Resolve ``+`` and ``%XX`` in text whose characters are bytes, and read the bytes as UTF-8."""
    if "+" in text:
        text = text.replace("+", " ")
    if "%" not in text and text.isascii():
        return text
    return _decode_utf8(unquote_to_bytes(text.encode("latin-1")), "urlencoded params", error)


def _decode_utf8(data: bytes | bytearray, where: str, error: type[BadRequestError] = BadEncodingError) -> str:
    """Decode *data*, or raise *error* with the first byte that does not belong."""
    try:
        return data.decode()
    except UnicodeDecodeError as bad:
        raise error(f"invalid UTF-8 on {where}, got byte {data[bad.start]}") from None


def _put(params: Params, key: str, value: Any, replaced: _Replaced, max_depth: int) -> None:
    """Store *value* in *params* at the place that *key* describes.

    A key has structure if it ends in ``]`` and has a ``[`` that is not its first character; any other key is
    plain text. Between the first ``[`` and the last ``]`` stand parts separated by ``][``: a name is a key in
    a map, an empty part is one more item of a list. Numbers are names like any other.

    ===================================== =====================================
    ``x[a]=1&x[b]=2``                     ``{"x": {"a": "1", "b": "2"}}``
    ``x[]=1&x[]=2``                       ``{"x": ["1", "2"]}``
    ``x[]=1&x[a]=2&x[]=3``                ``{"x": ["1", "3"]}``: the last kind decides, and keeps its entries
    ``x[a]=1&x=2``                        ``{"x": "2"}``: so does the last of a container and a string
    ``x[][a]=1&x[][b]=2&x[][a]=3``        ``{"x": [{"a": "1", "b": "2"}, {"a": "3"}]}``: see ``_is_taken``
    ===================================== =====================================
    """
    name, bracket, rest = key[:-1].partition("[")
    if not name or not bracket or key[-1:] != "]":
        params[key] = value
        return
    if len(rest) > max_depth and rest.count("][") >= max_depth:
        raise InvalidQueryError(f"the field {key[:40]!r}... is nested too deeply: expected {max_depth} [] at most")
    node: Any = params
    more = bracket
    while more:
        path = rest
        part, more, rest = path.partition("][")
        kind: type[Any] = Params if part else list
        if name:
            child = node.get(name)
            if child.__class__ is not kind:
                child = node[name] = _replace(child, kind, replaced, node, name)
        else:
            child = node[-1] if node else None
            if child.__class__ is not kind or (part and _is_taken(child, path)):
                child = kind()
                node.append(child)
        node, name = child, part
    if name:
        node[name] = value
    elif value is not None:  # a file input left empty adds nothing to its list
        node.append(value)


def _is_taken(node: Any, path: str) -> bool:
    """Tell whether *node*, the newest map of a list, has a value at *path* already: then a new map begins.

    ``x[][a]=1&x[][b]=2`` is thus one map and ``x[][a]=1&x[][a]=2`` two, as in Rack: a table of inputs arrives
    as its rows.
    """
    for part in path.split("]["):
        kind: type[Any] = Params if part else list
        if node.__class__ is not kind:
            return True
        if not part or part not in node:
            return False
        node = node[part]
    return True


def _replace(current: Any, kind: type[Any], replaced: _Replaced, node: Params, name: str) -> Any:
    """Return what takes *current*'s place at ``node[name]``: an earlier container of *kind*, or a new one."""
    if current is None:
        return kind()
    _, earlier = replaced.get((id(node), name), (None, None))
    if current.__class__ is Params or current.__class__ is list:
        replaced[id(node), name] = (node, current)  # the node too: while it lives, nothing else has its id
    return earlier if earlier.__class__ is kind else kind()


def encode_query(params: Mapping[str, Any] | list[tuple[str, Any]]) -> str:
    """Encode a map, or a list of pairs, as a query string: the inverse of ``decode_query``.

    >>> encode_query({"user": {"name": "Ann Lee", "tags": ["a", "b"]}, "page": 2, "all": True, "q": None})
    'user[name]=Ann+Lee&user[tags][]=a&user[tags][]=b&page=2&all=true&q='

    Order is kept. Of pairs with one name the first counts, empty lists and maps leave no trace, and other
    objects are written by ``to_param``. Raises ``ArgumentError`` for a map inside a list that has not exactly
    one key: the text could not say where one map ends and the next begins.
    """
    return "&".join(_encode_pairs("", params))


def _encode_pairs(field: str, value: Any) -> list[str]:
    """Return the ``field=value`` pairs that *value* makes under the encoded name *field*."""
    if isinstance(value, (list, tuple)):
        if not value or not isinstance(value[0], tuple):
            for item in value:
                if isinstance(item, Mapping) and len(item) != 1:
                    raise ArgumentError(
                        f"cannot encode maps inside lists when the map has 0 or more than 1 element, got: {item!r}.\n"
                        f"Number them instead: a map with the keys 0, 1, 2, ... in place of the list."
                    )
            return [pair for item in value for pair in _encode_pairs(field + "[]", item)]
        first: dict[Any, Any] = {}
        for name, item in value:
            first.setdefault(name, item)
        value = first
    if isinstance(value, Mapping):
        return [
            pair
            for name, item in value.items()
            for pair in _encode_pairs(f"{field}[{_www_form(name)}]" if field else _www_form(name), item)
        ]
    return [f"{field}=" if value is None else f"{field}={_www_form(value)}"]


def _www_form(value: object) -> str:
    text = to_param(value)
    if text.isascii() and (text.isalnum() or text.isidentifier()):  # most are, and quote is slow to say so
        return text
    return quote(text, safe="").replace("%20", "+")


# --- Header values with parameters --------------------------------------------------------

_PARAMETER = re.compile(
    r"""[ \t]*;[ \t]*(?:([!#$%&'*+.^_`|~\w-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s";]*)))?[ \t]*""", re.ASCII
)
_QUOTED_PAIR = re.compile(r'\\(["\\])')


def parse_content_type(header: str) -> tuple[str, dict[str, str]]:
    """Split a ``Content-Type`` into its media type and its parameters, names in lower case.

    >>> parse_content_type('Text/HTML; Charset="utf-8"')
    ('text/html', {'charset': 'utf-8'})

    Parameters that are malformed, or that name one thing twice, are all left out.
    """
    media_type, semicolon, rest = header.partition(";")
    return media_type.strip(" \t").lower(), _parse_parameters(semicolon + rest) or {}


def _parse_parameters(text: str) -> dict[str, str] | None:
    """Parse ``; name=value; name="quoted value"`` (RFC 9110 §5.6.6). ``None``: malformed, or one name twice.

    In quotes a backslash escapes a quote or another backslash only: old browsers sent ``C:\\file`` as it is.
    """
    parameters: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return None
        at = match.end()
        name, quoted, token = match.groups()
        if name is not None:
            if name.lower() in parameters:
                return None
            parameters[name.lower()] = token if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
    return parameters


# --- JSON ---------------------------------------------------------------------------------

_HALF_OF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def _finite(number: str) -> float:
    value = float(number)
    if value - value != 0:  # NaN, Infinity, or 1e999, which is read as infinity: no JSON can say them
        raise ValueError(f"{number[:20]} is out of range")
    return value


_json_decoder = jsonlib.JSONDecoder(object_pairs_hook=Params, parse_float=_finite, parse_constant=_finite)


def parse_json(body: bytes, *, max_depth: int = 100) -> Params:
    """Parse a JSON body. An object becomes params; any other value stands under ``"_json"``; empty is empty.

    >>> parse_json(b'{"user": {"age": 42}}'), parse_json(b"[1, 2]"), parse_json(b"")
    ({'user': {'age': 42}}, {'_json': [1, 2]}, {})

    Of two members with one name the last wins. Raises ``BadEncodingError`` for what is not UTF-8, and
    ``ParseError`` for what is not JSON (RFC 8259), for ``NaN``, ``Infinity`` and numbers out of range, for
    integers beyond Python's limit of 4,300 digits, halves of surrogate pairs, and nesting over *max_depth*.
    """
    if not body:
        return Params()
    text = _decode_utf8(body, "JSON body")
    try:
        value = _json_decoder.decode(text)
        if _HALF_OF_A_PAIR.search(text):  # Python reads a lone "\\ud800", but could not write it again
            jsonlib.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        name = type(error).__name__
        raise ParseError(f'malformed request, a {name} exception was raised with message "{error}"') from None
    # Depth is measured only where there are brackets enough for it.
    if text.count("[") + text.count("{") > max_depth and _is_deeper(value, max_depth):
        raise ParseError(f"malformed request, expected JSON nested at most {max_depth} levels deep")
    return value if isinstance(value, Params) else Params(_json=value)


def _is_deeper(value: Any, limit: int) -> bool:
    """Tell whether lists and maps are nested more than *limit* deep; each round goes down one level."""
    level: list[Any] = [[value]]
    for _ in range(limit + 1):
        items = [item for node in level for item in (node.values() if isinstance(node, dict) else node)]
        level = [item for item in items if isinstance(item, (list, dict))]
    return bool(level)


# --- Uploads ------------------------------------------------------------------------------

_SPOOL_SIZE = 64 * 1024


def _open_temporary_file() -> IO[bytes]:
    import tempfile  # dear to import, and most requests hold no large file

    return tempfile.NamedTemporaryFile(prefix="phoenix-upload-", delete=False)


class Upload:
    """A file that a client sent: *filename*, *content_type* and *size* in bytes, and the open *file*.

    Believe none of them: the client chose the name (only its last part is kept), the type, and the content.
    Small files stay in memory, larger ones are spooled to disk. Both are gone after the request: to keep one,
    ``save`` it. Tests make their own::

        Upload("cat.png", "image/png", b"...")
    """

    def __init__(
        self, filename: str, content_type: str = "application/octet-stream", content: bytes = b"", *,
        open_file: Callable[[], IO[bytes]] = _open_temporary_file,
    ) -> None:
        self.filename, self.content_type, self.size = filename, content_type, len(content)
        self.file: IO[bytes] = io.BytesIO(content)
        self._in_memory, self._open_file = True, open_file

    def __repr__(self) -> str:
        return f"Upload(filename={self.filename!r}, content_type={self.content_type!r}, size={self.size})"

    def _append(self, data: bytes | bytearray) -> None:
        self.size += len(data)
        if self._in_memory and self.size > _SPOOL_SIZE:
            self._move_to_disk()
        self.file.write(data)

    def _move_to_disk(self) -> None:
        memory, at = self.file, self.file.tell()  # a closed upload is an error before there is a file to leave behind
        self.file, self._in_memory = self._open_file(), False
        memory.seek(0)
        self.file.write(memory.read())
        self.file.seek(at)

    @property
    def path(self) -> str:
        """The path of the content on disk, put there now if it was in memory. Gone after the request."""
        if self._in_memory:
            self._move_to_disk()
        self.file.flush()
        return self.file.name

    def read(self) -> bytes:
        """Return the whole content, wherever *file* has been read to."""
        at = self.file.tell()
        self.file.seek(0)
        content = self.file.read()
        self.file.seek(at)
        return content

    def save(self, destination: str | os.PathLike[str]) -> None:
        """Write the content to the file *destination*, replacing what is there.

        This copies: a rename would bring the temporary file's permissions along (owner only), and fails from
        one file system to another. Do not build *destination* from *filename* unless you want clients to
        replace each other's files.
        """
        import shutil

        at = self.file.tell()
        self.file.seek(0)
        with open(destination, "wb") as target:
            shutil.copyfileobj(self.file, target)
        self.file.seek(at)

    def close(self) -> None:
        """Drop the content, in memory or on disk. Closing twice does no harm."""
        try:
            self.file.close()
        except OSError:
            pass  # the disk is full: what had no room on it is not wanted any more
        if not self._in_memory:
            try:
                os.unlink(self.file.name)
            except FileNotFoundError:
                pass  # the application moved it, or it was closed before


# --- Multipart ----------------------------------------------------------------------------
#
# A multipart body is a sequence of parts between lines that hold a boundary, which the client
# chose and told in its Content-Type:
#
#     --XYZ CRLF
#     Content-Disposition: form-data; name="title" CRLF
#     CRLF
#     Hello CRLF
#     --XYZ-- CRLF
#
# The CRLF before `--XYZ` belongs to the boundary, so the delimiter to look for is `CRLF --XYZ`.
# With a CRLF put before the body, its first line is a delimiter like any other, and the text
# that may stand above it (the preamble) is the content of a part that nobody wants. So three
# states are enough, each a method that takes what it can from the front of the buffer:
#
#     _read_content -- delimiter --> _read_head -- blank line --> _read_content
#                                        |
#                                        +-- "--" --> _read_epilogue
#
# Content is passed on as it comes, all but the few last bytes, which may be the beginning of a
# delimiter. A head waits until it is whole, and the search for its end goes on where it
# stopped. So the work is in proportion to the body, however it is cut into pieces.

_BOUNDARY = re.compile(r"[ -~]{0,69}[!-~]")  # RFC 2046 allows fewer characters, but clients use them
_PART_HEADER = re.compile(r"([!#$%&'*+.^_`|~\w-]+):([^\x00-\x08\x0a-\x1f\x7f]*)", re.ASCII)


class MultipartParser:
    r"""Parse a ``multipart/form-data`` body that arrives in pieces.

    >>> parser = MultipartParser("XYZ")
    >>> parser.feed(b'--XYZ\r\nContent-Disposition: form-data; name="user[na')
    >>> parser.feed(b'me]"\r\n\r\nAnn\r\n--XYZ--\r\n')
    >>> parser.finish()
    {'user': {'name': 'Ann'}}

    A part with a file name becomes an ``Upload``, or ``None`` where no file was chosen; a part without a name
    is skipped; any other is text in UTF-8. Names nest as in ``decode_query``. After the request, whatever
    happened, call ``close``: it drops the uploads.

    Sizes are in bytes: *max_size* limits the body, *max_text* the text fields together, and *max_header* the
    header block of one part. Raises ``RequestTooLargeError`` (413) beyond a limit, ``ParseError`` or
    ``BadEncodingError`` (400) for what breaks RFC 7578, each as soon as it can be seen.
    """

    def __init__(
        self, boundary: str, *, max_size: int = 8_000_000, max_text: int = 1_000_000, max_header: int = 8192,
        max_parts: int = 1000, max_depth: int = 32, open_file: Callable[[], IO[bytes]] = _open_temporary_file,
    ) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise _malformed("a multipart boundary of 1 to 70 characters", boundary)
        self.max_size, self.max_text, self.max_header = max_size, max_text, max_header
        self.max_parts, self.max_depth = max_parts, max_depth
        self._open_file = open_file
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._buffer = bytearray(b"\r\n")
        self._blank = 2  # how many bytes at the front are a line break before the content, not content
        self._searched = 0  # how many bytes at the front do not hold the end of a head
        self._state: Callable[[MultipartParser], bool] = MultipartParser._read_content
        self._size = self._text_size = self._parts = 0
        self._name: str | None = None  # the part being read; without a name it is skipped
        self._content: Upload | bytearray | None = None  # None: a file input left empty, or nothing to keep
        self._uploads: list[Upload] = []
        self._params = Params()
        self._replaced: _Replaced = {}

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        self._size += len(data)
        if self._size > self.max_size:
            raise RequestTooLargeError(self.max_size)
        self._buffer += data
        while self._state(self):
            pass

    def finish(self) -> Params:
        """Return the params, when the whole body has been fed. An empty body has none."""
        if self._size and self._state is not MultipartParser._read_epilogue:
            end = self._delimiter[2:].decode() + "--"
            raise ParseError(f"malformed request, the multipart body ends before its last line, {end!r}")
        return self._params

    def close(self) -> None:
        """Drop all uploads. Closing twice does no harm."""
        for upload in self._uploads:
            upload.close()

    # Each state returns whether there may be more to do with what is in the buffer.

    def _read_content(self) -> bool:
        at = self._buffer.find(self._delimiter)
        end = at if at >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if end > self._blank:
            self._receive(self._buffer[self._blank : end])
        if at < 0:
            if end > self._blank:
                del self._buffer[:end]
                self._blank = 0
            return False
        del self._buffer[: at + len(self._delimiter)]
        self._end_part()
        self._state, self._searched = MultipartParser._read_head, 0
        return True

    def _read_head(self) -> bool:
        if self._buffer.startswith(b"--"):
            self._state = MultipartParser._read_epilogue
            return True
        # The search begins with the line break that ends the boundary's line: there may be no headers at all.
        at = self._buffer.find(b"\r\n\r\n", max(self._searched - 3, 0))
        known_size = at if at >= 0 else len(self._buffer) - 3
        if known_size > self.max_header:
            raise RequestTooLargeError(self.max_header, "the header block of a part")
        if at < 0:
            self._searched = len(self._buffer)
            return False
        self._begin_part(self._buffer[:at])
        # The blank line is left: where a part has no content, it is the delimiter's line break too.
        del self._buffer[: at + 2]
        self._state, self._blank = MultipartParser._read_content, 2
        return True

    def _read_epilogue(self) -> bool:
        self._buffer.clear()
        return False

    def _begin_part(self, head: bytearray) -> None:
        self._parts += 1
        if self._parts > self.max_parts:
            raise RequestTooLargeError(self.max_parts, "its multipart body", "parts")
        headers = _parse_part_head(head)
        self._name, filename = _parse_disposition(headers.get("content-disposition", ""))
        self._content = None
        if self._name is None:
            return
        if filename is None:
            self._content = bytearray()
        elif filename:
            content_type = headers.get("content-type") or "application/octet-stream"
            self._content = Upload(filename, content_type, open_file=self._open_file)
            self._uploads.append(self._content)

    def _receive(self, data: bytearray) -> None:
        if isinstance(self._content, Upload):
            self._content._append(data)
        elif self._content is not None:
            self._text_size += len(data)
            if self._text_size > self.max_text:
                raise RequestTooLargeError(self.max_text, "the text of its fields")
            self._content += data

    def _end_part(self) -> None:
        if self._name is None:
            return
        value: Any = self._content
        if isinstance(value, Upload):
            value.file.seek(0)
        elif value is not None:
            value = _decode_utf8(value, "multipart body")
        _put(self._params, self._name, value, self._replaced, self.max_depth)


def _malformed(expected: str, got: str) -> ParseError:
    return ParseError(f"malformed request, expected {expected}, got {got[:60]!r}")


def _parse_part_head(head: bytearray) -> dict[str, str]:
    """Parse what stands between boundary and blank line: the rest of the boundary's line, then headers."""
    rest, *lines = _decode_utf8(head, "multipart body").split("\r\n")
    if rest.strip(" \t"):
        raise _malformed("a line break after the multipart boundary", rest)
    headers: dict[str, str] = {}
    for line in lines:
        match = _PART_HEADER.fullmatch(line)
        if match is None:
            raise _malformed("a header of a part", line)
        name, value = match[1].lower(), match[2].strip(" \t")
        if name in headers:
            raise _malformed(f"one {name} in a part", line)
        headers[name] = value
    # RFC 7578 §4.7 forbids to encode parts. Kept as it is, the content would not be what the client meant.
    encoding = headers.get("content-transfer-encoding", "binary").lower()
    if encoding not in ("binary", "8bit", "7bit"):
        raise _malformed("a part in the transfer encoding binary", encoding)
    return headers


def _parse_disposition(header: str) -> tuple[str | None, str | None]:
    """Return the name and the file name of a part, each ``None`` when not given.

    A file name is ``""`` when no file was chosen, or when nothing is left of it but a directory.
    """
    disposition, semicolon, rest = header.partition(";")
    parameters = _parse_parameters(semicolon + rest)
    if parameters is None:
        raise _malformed("parameters of Content-Disposition, each once", header)
    if disposition.strip(" \t").lower() != "form-data" or "name" not in parameters:
        return None, None
    name = _unescape_form_name(parameters["name"])
    if "filename*" in parameters:
        return name, _last_path_part(_decode_extended(parameters["filename*"]))
    if "filename" in parameters:
        return name, _last_path_part(_unescape_form_name(parameters["filename"]))
    return name, None


def _unescape_form_name(text: str) -> str:
    """Undo what browsers do to a name: these three escapes and no others (HTML, "multipart/form-data")."""
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _decode_extended(text: str) -> str:
    """Decode ``utf-8'en'%E2%82%AC.txt``, the form of a parameter whose name ends in ``*`` (RFC 8187 §3.2)."""
    match = re.fullmatch(r"utf-8'[^']*'([^']*)", text, re.IGNORECASE)
    if match is None or _BAD_ESCAPE.search(match[1]):
        raise _malformed("a name such as utf-8''%E2%82%AC.txt", text)
    return _decode_utf8(unquote_to_bytes(match[1]), "multipart body")


def _last_path_part(path: str) -> str:
    """Return the file's own name, whichever system's path was sent, without control characters."""
    name = path.replace("\\", "/").rpartition("/")[2]
    name = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", name).strip()
    return "" if name in (".", "..") else name


# --- Conn: params -------------------------------------------------------------------------


class ParamsConn(BaseConn):
    """The words of a conn for parameters: decoded when they are first asked for."""

    __slots__ = ()

    @property
    def query_params(self) -> Params:
        """The parameters of the query string. Raises ``InvalidQueryError`` (400) when it cannot be decoded."""
        if self._query_params is None:
            self._query_params = decode_query(self.query_string)
        return self._query_params  # type: ignore[no-any-return]

    @property
    def body_params(self) -> Params:
        """The parameters of the body, which the plug ``Parsers`` has read; empty without one."""
        return self._body_params if self._body_params is not None else Params()

    @property
    def params(self) -> Params:
        """All parameters: those of the path win over those of the body, and these over the query.

        Keys and values are text, but for what JSON holds and for ``Upload``. A missing key raises
        ``MissingParamError`` (400).
        """
        if self._params is None:
            if self.query_string or self._body_params:
                self._params = Params({**self.query_params, **self.body_params, **self.path_params})
            else:
                self._params = Params(self.path_params)
        return self._params  # type: ignore[no-any-return]

    # What a plug has put into `params` before, stays in it.

    def _put_path_params(self, values: dict[str, Any]) -> None:
        self.path_params = {**self.path_params, **values} if self.path_params else values
        if self._params is not None:
            self._params.update(values)

    def _put_body_params(self, params: Params) -> None:
        self._body_params = params
        if self._params is not None:
            self._params.update({**params, **self.path_params})

    def scrub_params(self, key: str) -> Self:
        """Plug: in ``params[key]`` turn text that is empty or only spaces into ``None``.

        Raises ``MissingParamError`` (400) when the key is absent. For forms, not for JSON APIs.
        """
        value = scrub(self.params.get(key))
        if value is None:
            raise MissingParamError(
                f'expected key "{key}" to be present in params,'
                " please send the expected key or adapt your scrub_params call"
            )
        self.params[key] = value
        return self


def filter_params(value: Any, words: Sequence[str] | Mapping[str, Sequence[str]]) -> Any:
    """Replace what must not be logged: the values of keys that contain one of *words*, at any depth.

    With ``{"keep": ["id", "page"]}`` it is all values but those of these keys.
    """
    keep = words.get("keep", ()) if isinstance(words, Mapping) else None
    if isinstance(value, Mapping):
        return {
            key: "[FILTERED]" if keep is None and any(word in str(key) for word in words)
            else item if keep is not None and key in keep
            else filter_params(item, words)
            for key, item in value.items()
        }  # fmt: skip
    if isinstance(value, (list, tuple)):
        return [filter_params(item, words) for item in value]
    return value if keep is None else "[FILTERED]"


def _shown_params(params: Any, endpoint: Any) -> str:
    """Return params as the log shows them: without secrets, and not without end."""
    words = endpoint.config("filter_parameters") if endpoint is not None else ("password", "token")
    text = repr(filter_params(params, words))
    return text if len(text) <= 2000 else text[:2000] + "..."


def method_override(conn: ParamsConn) -> ParamsConn:
    """Plug: let a form's ``_method``, or the header ``x-http-method-override``, turn POST into PUT, PATCH or DELETE."""
    if conn.method == "POST":
        wanted = conn.body_params.get("_method") or conn._req_header("x-http-method-override")
        if isinstance(wanted, str) and wanted.upper() in ("PUT", "PATCH", "DELETE"):
            conn.method = wanted.upper()
    return conn


def head_as_get(conn: BaseConn) -> BaseConn:
    """Plug: answer HEAD by the route of GET. The server leaves the body out."""
    if conn.method == "HEAD":
        conn.method = "GET"
    return conn


_IS_JSON = re.compile(r"application/(.+\+)?json").fullmatch


class Parsers:
    """Plug: read the request body of POST, PUT, PATCH and DELETE into ``conn.body_params``.

    *parsers* are ``"urlencoded"``, ``"multipart"`` and ``"json"``. Bodies of other types raise
    ``UnsupportedMediaTypeError`` (415) unless *pass_* lists their type, such as ``"text/*"``; those stay unread, for
    ``conn.read_body()``. Over *length* bytes it is 413; a multipart body, whose text this limits, may have
    *multipart_length* with its uploads. Requests below the paths in *skip* are left alone.
    """

    def __init__(
        self, parsers: Sequence[str] = ("urlencoded", "multipart", "json"), *, pass_: Sequence[str] = ("*/*",),
        length: int = 1_000_000, multipart_length: int = 8_000_000, max_fields: int = 1000, max_depth: int = 32,
        skip: Sequence[str] = (),
    ) -> None:
        for name in parsers:
            if name not in ("urlencoded", "multipart", "json"):
                raise ArgumentError(f'unknown parser {name!r}, expected "urlencoded", "multipart" or "json"')
        self.parsers = frozenset(parsers)
        self.pass_ = frozenset(pass_)
        self.length, self.multipart_length = length, multipart_length
        self.max_fields, self.max_depth = max_fields, max_depth
        self.skip = tuple(skip)

    def __call__(self, conn: ParamsConn) -> Any:
        headers = conn._req_headers
        if conn.method not in ("POST", "PUT", "PATCH", "DELETE") or "content-type" not in headers:
            return conn
        if conn._body_params is not None or (self.skip and (conn.request_path + "/").startswith(self.skip)):
            return conn
        media_type, parameters = parse_content_type(headers["content-type"][0])
        if media_type == "application/x-www-form-urlencoded" and "urlencoded" in self.parsers:
            return self._read_whole(conn, self._parse_urlencoded)
        if _IS_JSON(media_type) and "json" in self.parsers:
            return self._read_whole(conn, parse_json)
        if media_type == "multipart/form-data" and "multipart" in self.parsers:
            return self._read_multipart(conn, parameters)
        if not self.pass_.isdisjoint(("*/*", media_type, media_type.partition("/")[0] + "/*")):
            return conn
        raise UnsupportedMediaTypeError(media_type)

    def _parse_urlencoded(self, body: bytes) -> Params:
        return decode_query(body, error=BadEncodingError, max_fields=self.max_fields, max_depth=self.max_depth)

    def _read_whole(self, conn: ParamsConn, parse: Callable[[bytes], Params]) -> Any:
        _check_announced_length(conn, self.length)
        body = conn.adapter.whole_body(conn)
        if body is None:
            return self._read_parts(conn, parse)
        if len(body) > self.length:
            raise RequestTooLargeError(self.length)
        conn._put_body_params(parse(body))
        return conn

    async def _read_parts(self, conn: ParamsConn, parse: Callable[[bytes], Params]) -> ParamsConn:
        conn._put_body_params(parse(await conn.body.read(self.length)))
        return conn

    async def _read_multipart(self, conn: ParamsConn, parameters: Mapping[str, str]) -> ParamsConn:
        _check_announced_length(conn, self.multipart_length)
        if conn._req_header("content-length") == "0":
            return conn
        parser = MultipartParser(
            parameters.get("boundary", ""), max_size=self.multipart_length, max_text=self.length,
            max_parts=self.max_fields, max_depth=self.max_depth,
        )  # fmt: skip
        conn._after = [*(conn._after or ()), parser.close]
        async for part in conn.body:
            parser.feed(part)
        conn._put_body_params(parser.finish())
        return conn


def _check_announced_length(conn: BaseConn, limit: int) -> None:
    """Refuse a body by its ``Content-Length``, before any of it is read."""
    length = conn._req_header("content-length")
    if length.isdecimal() and int(length) > limit:
        raise RequestTooLargeError(limit)


# ==========================================================================================
# 5. Secrets, session, flash, CSRF                     depends on: Ground, Conn, Plug, Params
# ==========================================================================================
#
# HTTP forgets; a session is what the browser is asked to remember. All of it travels in one
# cookie, signed so that nobody can change it: `SFMyNTY.<payload>.<signature>`, where the payload
# is JSON and a time, and the signature an HMAC-SHA256 under a key derived from the endpoint's
# `secret_key_base`. The text is signed, not encrypted: the user can read it.
#
# What does not verify (changed, cut, too old, another secret) is no session, never an error.
# The cookie is read when somebody asks for the session, and written right before the response,
# only when the session is not what was read. The flash is a part of the session that survives
# one redirect. The CSRF token is a secret kept in the session; a form must bring it back, which
# a page of another site cannot do.
#
# Sources: Plug.Session.COOKIE, Plug.Crypto.MessageVerifier, Plug.CSRFProtection, Phoenix.Token,
# Phoenix.Controller.Flash; RFC 2104, RFC 8018 §5.2, RFC 6265bis; W3C Fetch Metadata.

__all__ += ["Token", "Session", "Flash", "InvalidCSRFTokenError", "InvalidCrossOriginRequestError", "SecretError"]


class SecretError(PhoenixError):
    """``secret_key_base`` is missing or too short."""


class InvalidCSRFTokenError(PhoenixError):
    """A form or script brought no valid CSRF token: status 403."""

    status = 403

    def __init__(self) -> None:
        super().__init__(
            "invalid CSRF (Cross Site Request Forgery) token, please make sure that:\n\n"
            "  * The session cookie is being sent and session is loaded\n"
            "  * The request includes a valid '_csrf_token' param or 'x-csrf-token' header:\n"
            "    forms made with form_for or form_tag bring it, scripts send what csrf_meta_tag() holds\n"
            "  * The request comes from a page of this site"
        )


class InvalidCrossOriginRequestError(PhoenixError):
    """A script was asked for by a page of another site: status 403."""

    status = 403

    def __init__(self) -> None:
        super().__init__(
            "security warning: an embedded <script> tag on another site requested protected JavaScript.\n"
            "If that is intended, leave out protect_from_forgery for this route."
        )


# --- Secrets ------------------------------------------------------------------------------


def _checked_secret(secret: str | bytes | None) -> bytes:
    """Return the secret as bytes. Raises ``SecretError`` unless it has at least 64 bytes."""
    raw_secret = secret.encode() if isinstance(secret, str) else secret or b""
    if len(raw_secret) < 64:
        what = f"is {len(raw_secret)} bytes long" if raw_secret else "is not set"
        raise SecretError(
            f"secret_key_base {what}, expected at least 64 bytes: sessions and tokens are signed with it.\n"
            "Make one with `python -c \"import secrets; print(secrets.token_urlsafe(64))\"`, keep it secret:\n"
            'Endpoint(Router, secret_key_base=os.environ["SECRET_KEY_BASE"])'
        )
    return raw_secret


def _checked_secrets(given: str | bytes | Sequence[str | bytes]) -> tuple[bytes, ...]:
    """Return one secret, or a list of them, as a tuple of bytes: the first signs, all of them verify."""
    return tuple(_checked_secret(secret) for secret in ([given] if isinstance(given, (str, bytes)) else given))


# --- Signing ------------------------------------------------------------------------------

_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_SIGNED_PREFIX = b"SFMyNTY."  # base64url of "HS256"


def _base64url(data: bytes) -> bytes:
    """Return *data* as base64 that may stand in URLs and cookies, without padding (RFC 4648 §5)."""
    return b2a_base64(data, newline=False).translate(_TO_URL_SAFE).rstrip(b"=")


def _unbase64url(text: bytes) -> bytes | None:
    """Undo ``_base64url``; ``None`` for what it did not write."""
    try:
        data = a2b_base64(text.translate(_FROM_URL_SAFE) + b"=" * (-len(text) % 4))
    except ValueError:
        return None
    return data if _base64url(data) == text else None  # a2b_base64 skips what is no base64


class _Signer:
    """Sign and verify with one key, by HMAC-SHA256 (RFC 2104): ``SHA256(key ^ 5c... + SHA256(key ^ 36... + message))``.

    Both hashes begin with a block made of the key. Their states after it are kept and copied for each message, which
    is twice as fast as the module ``hmac``.
    """

    def __init__(self, key: bytes) -> None:
        key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def digest(self, message: bytes) -> bytes:
        """Return the HMAC-SHA256 of *message*."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def sign(self, payload: bytes) -> str:
        """Return ``SFMyNTY.<payload>.<signature>``, both parts in base64url."""
        text = _SIGNED_PREFIX + _base64url(payload)
        return (text + b"." + _base64url(self.digest(text))).decode()

    def verify(self, token: str) -> bytes | None:
        """Return the payload of a token that this key signed, else ``None``."""
        if not token.isascii():
            return None
        text, _, signature = token.encode().rpartition(b".")
        if not text.startswith(_SIGNED_PREFIX) or not compare_digest(signature, _base64url(self.digest(text))):
            return None
        return _unbase64url(text[len(_SIGNED_PREFIX) :])


_signers: dict[tuple[bytes, str], _Signer] = {}  # deriving a key is slow on purpose: it is done once


def _signer(secret: bytes, salt: str) -> _Signer:
    """Return the signer whose key PBKDF2 derives from *secret* for the purpose *salt* (RFC 8018 §5.2)."""
    found = _signers.get((secret, salt))
    if found is None:
        if len(_signers) >= 256:
            _signers.clear()
        found = _signers[secret, salt] = _Signer(hashlib.pbkdf2_hmac("sha256", secret, salt.encode(), 1000, 32))
    return found


# --- Tokens -------------------------------------------------------------------------------

_DAY = 86_400
_read_json = jsonlib.JSONDecoder().raw_decode  # for text that was signed here: nothing stands behind the value


class Token:
    """Signed, dated data that can be given to a client and recognised later (Phoenix.Token).

    >>> secret = "x" * 64
    >>> token = Token.sign(secret, "user auth", 7)
    >>> Token.verify(secret, "user auth", token, max_age=86400)
    7
    """

    @staticmethod
    def sign(context: Any, salt: str, data: Any, *, signed_at: float | None = None) -> str:
        """Return a token for *data*, which must be JSON. *context* is a conn, an endpoint, a socket or a secret.

        *salt* names the purpose: a token signed for one is not valid for another. The data can be read by anybody.
        """
        return _sign_dated(_secrets_of(context)[0], salt, encode_json(data), signed_at)

    @staticmethod
    def verify(context: Any, salt: str, token: str | None, *, max_age: float | None = _DAY) -> Any:
        """Return the data of *token*, or ``None`` when it is missing, changed, or older than *max_age* seconds.

        ``max_age=None`` accepts any age.
        """
        found = _verify_dated(_secrets_of(context), salt, token, max_age)
        return None if found is None else _read_json(found[0])[0]


def _sign_dated(secret: bytes, salt: str, data: str, signed_at: float | None = None) -> str:
    """Return a token for *data*, which is JSON: what is signed is ``[<milliseconds since 1970>,<data>]``."""
    now = time.time() if signed_at is None else signed_at
    return _signer(secret, salt).sign(f"[{int(now * 1000)},{data}]".encode())


def _verify_dated(
    secrets: Sequence[bytes], salt: str, token: str | None, max_age: float | None
) -> tuple[str, float, bool] | None:
    """Return the JSON in a token, its age in seconds, and whether the first of *secrets* has signed it.

    ``None`` when no secret has, or when it is older than *max_age* seconds.
    """
    if not isinstance(token, str):
        return None
    for secret in secrets:
        payload = _signer(secret, salt).verify(token)
        if payload is not None:
            signed_at, _, data = payload[1:-1].decode().partition(",")
            age = time.time() - int(signed_at) / 1000
            if max_age is None or age < max_age:
                return data, age, secret is secrets[0]
    return None


def _secrets_of(context: Any) -> Sequence[bytes]:
    """Return the secret to sign with, followed by older ones that still verify."""
    if isinstance(context, (str, bytes)):
        return (_checked_secret(context),)
    endpoint = getattr(context, "endpoint", None) or context
    secrets = getattr(endpoint, "_secrets", None)
    if secrets is None:
        raise ArgumentError(f"a token needs a conn, an endpoint or a secret of 64 bytes, got: {context!r}")
    if not secrets:
        _checked_secret(None)
    return secrets  # type: ignore[no-any-return]


# --- Session ------------------------------------------------------------------------------


class Session:
    """Plug: keep sessions in a signed cookie. An endpoint has one; pipelines then plug ``Conn.fetch_session``.

    *key* is the cookie's name; *max_age* (seconds) makes it outlive the browser; without one it ends with the browser,
    and on the server after 14 days. A session in use lives on: its cookie is written anew after half of that time.
    *path*, *domain*, *secure*, *http_only*, *same_site* and *extra* are those of ``put_resp_cookie``. *signing_salt*
    separates the sessions of apps that share a secret; *secret* (or a list, the newest first) replaces the endpoint's.
    """

    def __init__(
        self, *, key: str = "_phoenix_key", store: str = "cookie", max_age: int | None = None,
        signing_salt: str = "session cookie", path: str = "/", domain: str | None = None, secure: bool | None = None,
        http_only: bool = True, same_site: str | None = "Lax", extra: str | None = None,
        secret: str | bytes | Sequence[str | bytes] | None = None,
    ) -> None:
        if store != "cookie":
            raise ArgumentError(f"session store {store!r} is unknown, expected \"cookie\"")
        if not _TOKEN(key):
            raise ArgumentError(f"session key {key!r} is no cookie name")
        self.key = key
        self.salt = signing_salt
        self.lifetime = 14 * _DAY if max_age is None else max_age
        self.secrets = None if secret is None else _checked_secrets(secret)
        self.attributes: dict[str, Any] = {
            "max_age": max_age, "path": path, "domain": domain, "secure": secure, "http_only": http_only,
            "same_site": same_site, "extra": extra,
        }  # fmt: skip
        _cookie_attributes(path, domain, max_age, True, http_only, same_site, extra)  # finds mistakes now

    def __call__(self, conn: SessionConn) -> SessionConn:
        conn._session_store = self
        return conn

    def load(self, conn: SessionConn) -> tuple[str, bool]:
        """Return the session in the request's cookie, as JSON, and whether its cookie should be written anew."""
        found = _verify_dated(self._secrets(conn), self.salt, conn.req_cookies.get(self.key), self.lifetime)
        if found is None or not found[0].startswith("{"):
            return "{}", False
        data, age, newest = found
        return data, age > self.lifetime / 2 or not newest

    def save(self, conn: SessionConn, data: str) -> None:
        """Put the session, as JSON, into a cookie of the response."""
        conn.put_resp_cookie(self.key, _sign_dated(self._secrets(conn)[0], self.salt, data), **self.attributes)

    def drop(self, conn: SessionConn) -> None:
        """Let the client forget the cookie, if it has one."""
        if self.key in conn.req_cookies:
            conn.delete_resp_cookie(self.key, **self.attributes)

    def _secrets(self, conn: SessionConn) -> Sequence[bytes]:
        return self.secrets or getattr(conn.endpoint, "_secrets", None) or _secrets_of(conn)


def _refuse_json(value: object) -> NoReturn:
    # Other JSON takes dates and such as text. A session would give back another type than it was given.
    raise TypeError(f"{value!r} would come back as something else")


_write_session_json = _json_writer(_refuse_json)


def _encode_session(session: dict[str, Any]) -> str:
    """Return a session as JSON. Raises ``ArgumentError`` for values that are none of JSON's own."""
    try:
        return _write_session_json(session)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(
            f"the session {session!r} cannot be stored: {error}.\n"
            "A session holds JSON: text, numbers, booleans, None, lists and dicts. Keep an id in it, and load the rest."
        ) from None


class SessionConn(ParamsConn):
    """The words of a conn for sessions, flash and CSRF."""

    __slots__ = ()

    def fetch_session(self) -> Self:
        """Plug: make the session of this request readable, and write it back when it changes.

        Raises ``SecretError`` when the endpoint has no ``secret_key_base``.
        """
        if self._session_store is None:
            raise PhoenixError(
                "cannot fetch session without a configured session plug:"
                ' `plug(Session, key="_my_app_key")` in the endpoint'
            )
        if "plug_session_fetch" not in self.private:
            self._session_store._secrets(self)
            self.private["plug_session_fetch"] = True
            self.register_before_send(SessionConn._write_session)
        return self

    @property
    def session(self) -> dict[str, Any]:
        """The session as it is now: a dict. What is changed in it is kept, as with ``put_session`` and its kin."""
        if self._session is None:
            if "plug_session_fetch" not in self.private:
                raise PhoenixError(
                    "session not fetched, call fetch_session first:"
                    " `plug(Conn.fetch_session)` in the pipeline of this route"
                )
            loaded, stale = self._session_store.load(self)
            self._session = _read_json(loaded)[0]
            self.private["plug_session_loaded"] = loaded
            if stale and not self._session_change:
                self._session_change = "write"
        return self._session  # type: ignore[no-any-return]

    def get_session(self, key: str, default: Any = None) -> Any:
        """Return what the session holds under *key*."""
        return self.session.get(key, default)

    def put_session(self, key: str, value: Any) -> Self:
        """Store a JSON value in the session: keys of its dicts are text. Raises ``AlreadySentError``."""
        self._changing_session()[key] = value
        return self

    def delete_session(self, key: str) -> Self:
        """Remove *key* from the session."""
        if key in self.session:
            del self._changing_session()[key]
        return self

    def clear_session(self) -> Self:
        """Remove everything from the session."""
        self._changing_session().clear()
        return self

    def configure_session(self, *, renew: bool = False, drop: bool = False, ignore: bool = False) -> Self:
        """Write the cookie anew (*renew*), expire it (*drop*), or leave it alone whatever happens (*ignore*).

        Renew it after a login: the CSRF token changes too, and forms that were rendered before are refused.
        """
        session = self._changing_session()
        if renew:
            session.pop("_csrf_token", None)
        if drop or ignore:
            self._session_change = "ignore" if ignore else "drop"
        return self

    def _changing_session(self) -> dict[str, Any]:
        self._check_unsent()
        session = self.session
        if not self._session_change:
            self._session_change = "write"
        return session

    def _write_session(self) -> Self:
        """Before the response is sent: put the session into its cookie, if it is not what the cookie holds."""
        change = self._session_change
        if self._session is None or change == "ignore":
            return self
        data = "{}" if change == "drop" else _encode_session(self._session)
        if change or data != self.private.get("plug_session_loaded", "{}"):
            if data == "{}":
                self._session_store.drop(self)
            else:
                self._session_store.save(self, data)
        return self

    # --- Flash ----------------------------------------------------------------------------

    def fetch_flash(self) -> Self:
        """Plug: read the messages that the request before left, and keep new ones over one redirect."""
        if "plug_session_fetch" not in self.private:
            raise PhoenixError(
                "the flash is kept in the session: `plug(Conn.fetch_session)` before `plug(Conn.fetch_flash)`"
            )
        if "phoenix_flash" not in self.private:
            self.private["phoenix_flash"] = True
            self.register_before_send(SessionConn._sweep_flash)
        return self

    def _messages(self) -> dict[str, list[str]]:
        if self._flash is None:
            if "phoenix_flash" not in self.private:
                raise PhoenixError(
                    "flash not fetched, call fetch_flash first: `plug(Conn.fetch_flash)` after fetch_session"
                )
            stored = self.session.get("phoenix_flash")
            self._flash = {}
            if isinstance(stored, dict):
                self._flash = {key: list(value) for key, value in stored.items() if isinstance(value, list)}
        return self._flash  # type: ignore[no-any-return]

    @property
    def flash(self) -> dict[str, str]:
        """The latest message of each key."""
        return {key: messages[-1] for key, messages in self._messages().items() if messages}

    def put_flash(self, key: str, message: str) -> Self:
        """Add a message, to be shown in this response, or after a redirect in the next."""
        self._check_unsent()
        self._messages().setdefault(key, []).append(message)
        return self

    def get_flash(self, key: str) -> str | None:
        """Return the latest message of *key*, or ``None``."""
        return self.flash.get(key)

    def get_all_flash(self, key: str) -> list[str]:
        """Return all messages of *key*, in the order they were put."""
        return list(self._messages().get(key, ()))

    def pop_all_flash(self, key: str) -> list[str]:
        """Return all messages of *key* and remove them."""
        self._check_unsent()
        return self._messages().pop(key, [])

    def clear_flash(self) -> Self:
        """Remove all messages."""
        self._check_unsent()
        self._messages().clear()
        return self

    def _sweep_flash(self) -> Self:
        """Before the response is sent: keep the messages over a redirect; with another status they have been shown."""
        if self._session is None and self._session_store.key not in self.req_cookies:
            return self  # nothing came, nothing was put: no session needs to be read
        redirects = 300 <= (self.status or 200) <= 308
        if redirects and self._messages():
            self.session["phoenix_flash"] = self._messages()
        else:
            self.session.pop("phoenix_flash", None)
        return self

    # --- CSRF -----------------------------------------------------------------------------

    def csrf_token(self) -> str:
        """Return the token that a form must send back as ``_csrf_token``, or a script as ``x-csrf-token``.

        It is masked anew each time, so that compression reveals nothing about it.
        """
        secret = self._csrf_secret()
        if secret is None:
            secret = os.urandom(_CSRF_BYTES)
            self.put_session("_csrf_token", _base64url(secret).decode())
        mask = os.urandom(_CSRF_BYTES)
        return _base64url(mask + _xor(mask, secret)).decode()

    def _csrf_secret(self) -> bytes | None:
        """Return the secret that the session keeps, or ``None``."""
        kept = self.session.get("_csrf_token")
        secret = _unbase64url(kept.encode()) if isinstance(kept, str) else None
        return secret if secret is not None and len(secret) == _CSRF_BYTES else None

    def delete_csrf_token(self) -> Self:
        """Forget the token: forms that were rendered before are refused. Call it after a login."""
        return self.delete_session("_csrf_token")

    def protect_from_forgery(self, *, with_: str = "exception") -> Self:
        """Plug: refuse a POST, PUT, PATCH or DELETE that another site made the browser send.

        Such a request must carry the session's token, as the param ``_csrf_token`` or the header ``x-csrf-token``, and
        the browser must not name another site as where it comes from. Raises ``InvalidCSRFTokenError`` (403);
        ``with_="clear_session"`` lets it go on with an empty session instead, and leaves the cookie as it is.
        """
        if with_ not in ("exception", "clear_session"):
            raise ArgumentError(f'protect_from_forgery(with_={with_!r}): expected "exception" or "clear_session"')
        if self.method in ("GET", "HEAD", "OPTIONS"):
            return self.register_before_send(SessionConn._refuse_cross_origin_script)
        if self.private.get("plug_skip_csrf_protection") or (self._is_from_this_site() and self._has_csrf_token()):
            return self
        if with_ == "clear_session":
            self.configure_session(ignore=True)
            self._session, self._flash = {}, None
            return self
        raise InvalidCSRFTokenError

    def _is_from_this_site(self) -> bool:
        """Tell whether a page of this site sent the request, or something that does not say: programs, old browsers.

        ``Sec-Fetch-Site`` tells it best: the browser has compared the addresses that it sees itself. ``Origin`` is
        compared by host, because behind a proxy this server does not know the scheme.
        """
        site = self._req_header("sec-fetch-site")
        if site:
            return site in ("same-origin", "none")  # none: the user's own doing, such as sending a form again
        origin = self._req_header("origin")
        if not origin:
            return True
        scheme, _, host = origin.lower().partition("://")
        if self.scheme == "https" and scheme != "https":
            return False
        own = self.host if self.port in (80, 443) else f"{self.host}:{self.port}"
        return host == own or self.endpoint is not None and host == self.endpoint.url().lower().split("/")[2]

    def _has_csrf_token(self) -> bool:
        """Tell whether the request carries the token of its session."""
        given = self.body_params.get("_csrf_token") or self._req_header("x-csrf-token")
        masked = _unbase64url(given.encode()) if isinstance(given, str) else None
        secret = self._csrf_secret()
        if masked is None or secret is None or len(masked) != 2 * _CSRF_BYTES:
            return False
        return compare_digest(_xor(masked[:_CSRF_BYTES], masked[_CSRF_BYTES:]), secret)

    def _refuse_cross_origin_script(self) -> Self:
        """Before the response is sent: a script with a user's data in it must not run in a page of another site."""
        content_type = self._resp_headers.get("content-type", ("",))[0]
        if "javascript" in content_type and not self.private.get("plug_skip_csrf_protection"):
            own_page = self._req_header("sec-fetch-site") == "same-origin"
            if not own_page and self._req_header("x-requested-with") != "XMLHttpRequest":
                raise InvalidCrossOriginRequestError
        return self

    def put_secure_browser_headers(self, headers: Mapping[str, str] | None = None) -> Self:
        """Plug: add the headers that make browsers careful, where they are not set; *headers* adds or replaces some."""
        self._check_unsent()
        for name, value in _SECURE_HEADERS.items():
            if name not in self._resp_headers:
                self._resp_headers[name] = (value,)
        return self.merge_resp_headers(headers or {})


_SECURE_HEADERS = {
    "referrer-policy": "strict-origin-when-cross-origin",
    "content-security-policy": "base-uri 'self'; frame-ancestors 'self';",
    "x-content-type-options": "nosniff",
    "x-permitted-cross-domain-policies": "none",
}

_CSRF_BYTES = 18


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


class Flash:
    """The flash as functions, the way Phoenix had it at first: ``Flash.get(@conn, "notice")`` in a template."""

    put = SessionConn.put_flash
    get_all = SessionConn.get_all_flash
    clear = SessionConn.clear_flash

    @staticmethod
    def get(conn: SessionConn, key: str | None = None) -> Any:
        """The latest message of *key*; without a key, the latest of each."""
        return conn.flash if key is None else conn.get_flash(key)

    @staticmethod
    def pop_all(conn: SessionConn, key: str) -> tuple[list[str], SessionConn]:
        """All messages of *key*, which are removed, and the conn."""
        return conn.pop_all_flash(key), conn


# ==========================================================================================
# 6. Templates                                                          depends on: Ground
# ==========================================================================================
#
# How does `<p><%= @title %></p>` become a page? It becomes a Python function, once, and then
# runs as fast as any other. Three steps, each a function of the one before:
#
#     tokenize    the source is cut into text and tags, each with its place in the source
#     generate    text becomes output, the Python in a tag is parsed, blocks are nested: an `ast`
#     compile     Python compiles the tree; `bind` makes a function whose globals are the module's
#
# There is no step that writes Python source, and that is the one idea to take away. Python parses
# each tag alone, we move what it found to the line and column of the tag, and from then on every
# message of Python, from `SyntaxError` to the traceback of a failing expression, names the place
# in the template with no help from us.
#
# The language is EEx with Python in the tags. A block opens with a Python statement that ends in
# `:` (or `do`, as in Elixir), goes on with `else`, `except`, `case`, and closes with `end`. A
# call that ends in `do` gets its block as the function `do`. `@name` reads an assign.
#
# Sources: EEx 1.20 (EEx.Compiler, EEx.SmartEngine), the Python Language Reference, `ast`.

__all__ += ["Template", "TemplateSyntaxError", "EExEngine", "ExsEngine", "eex_string", "eex_file"]


class TemplateSyntaxError(PhoenixError, SyntaxError):
    """A template that cannot be compiled. ``str(error)`` says where and what, and shows it::

        show.html.eex:2:5: unexpected middle of expression <% else %>: no block is open here
          |
        1 | foo
        2 | bar <% else %>
          |     ^

    It is a ``SyntaxError`` too: tracebacks, test runners and editors show it as one in a ``.py`` file.
    """

    def __init__(self, message: str, file: str, line: int, column: int, text: str, snippet: str) -> None:
        super().__init__(message, (file, line, column, text, line, column))
        self.file, self.line, self.column, self.snippet = file, line, column, snippet

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.msg}\n{self.snippet}"


class Template:
    """A compiled template: ``Template("Hello <%= @name %>!").bind({})({"name": "Ann"}, {})``.

    *file*, *line* and *column* tell where *source* begins, for messages and tracebacks: a template may stand
    in the middle of a ``.py`` file. *indentation* is how many blanks its later lines have lost. With *escape*
    the output is HTML, and what is not ``Safe`` is escaped. *trim* takes out the line breaks around tags that
    have a line for themselves. *on_missing* is called with file, line and name when an assign is first
    missed; without it such an assign is quietly ``None``, and reading assigns is faster.

    ``names`` are the names it reads and does not define: helpers, globals, builtins.
    Raises ``TemplateSyntaxError``.
    """

    def __init__(
        self, source: str, *, file: str = "nofile", line: int = 1, column: int = 1, indentation: int = 0,
        escape: bool = True, trim: bool = False, on_missing: Callable[[str, int, str], None] | None = None,
    ) -> None:
        self.file, self.escape, self.trim, self.on_missing = file, escape, trim, on_missing
        self.missed: set[str] = set()  # the assigns of which `on_missing` was told
        self._source = _Source(source, file, line, column, indentation)
        self._to_text = _to_html if escape else _to_text
        self._code = self._compile(())
        self.names = frozenset(_names_read(self._code))

    def bind(
        self, namespace: dict[str, Any], hoisted: Iterable[str] = ()
    ) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
        """Return ``render(assigns, scope)``, whose globals are *namespace*; nothing is added to them.

        Each name of *hoisted* that the template reads becomes a local variable, fetched once per call from
        *scope*.
        The result is ``Safe`` when the template escapes, else ``str``.
        """
        used = self.names.intersection(hoisted)
        code = self._compile(sorted(used)) if used else self._code
        helpers = (self._to_text, Safe if self.escape else str, self._read_assign)
        return types.FunctionType(code, namespace, code.co_name, helpers)

    def _compile(self, hoisted: Iterable[str]) -> types.CodeType:
        """Take all three steps. `bind` takes them again: to keep the tree would cost ten times the memory."""
        function = self.tree(hoisted)
        try:
            module = compile(ast.Module([function], []), self.file, "exec", dont_inherit=True)
        except SyntaxError as error:  # what shows in the whole only, such as `break` outside a loop
            raise self._source.error_at(error.msg, error.lineno or 1, (error.offset or 1) - 1) from None
        return next(found for found in module.co_consts if isinstance(found, types.CodeType))

    def tree(self, hoisted: Iterable[str] = ()) -> ast.stmt:
        """Return the function that this template is, as a tree with the lines and columns of the template."""
        generator = _Generator(self._source, self._to_text, strict=self.on_missing is not None)
        return generator.function(self._statements(generator), hoisted)

    def _statements(self, generator: _Generator) -> list[ast.stmt]:
        return generator.template(_tokenize(self._source, self.trim))

    def _read_assign(self, assigns: Mapping[str, Any], name: str, line: int) -> Any:
        """Read ``@name``, when `on_missing` is to be told."""
        if name not in assigns and name not in self.missed and self.on_missing:
            self.missed.add(name)
            self.on_missing(self.file, line, name)
        return assigns.get(name)


class _Source:
    """The text of a template, which knows the place of each character in its file."""

    def __init__(self, text: str, file: str = "nofile", line: int = 1, column: int = 1, indentation: int = 0) -> None:
        self.text, self.file = text, file
        self.line, self.column, self.indentation = line, column, indentation

    def margin(self, offset: int) -> str:
        """Return what stands before *offset* in its line, in the file."""
        start = self.text.rfind("\n", 0, offset) + 1
        return " " * (self.indentation if start else self.column - 1) + self.text[start:offset]

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column, both counted from 1."""
        return self.line + self.text.count("\n", 0, offset), len(self.margin(offset)) + 1

    def error(self, message: str, offset: int) -> TemplateSyntaxError:
        """Return an error that points at *offset*."""
        return self._error(message, *self.position(offset))

    def error_at(self, message: str, line: int, column: int) -> TemplateSyntaxError:
        """Return an error that points where Python says: it counts columns from 0, in bytes of UTF-8."""
        before = self._lines(line)[-1].encode()[:column]
        return self._error(message, line, len(before.decode(errors="ignore")) + 1)

    def _error(self, message: str, line: int, column: int) -> TemplateSyntaxError:
        """Return an error that shows *line* below up to three lines before it, and a caret below *column*."""
        lines, width = self._lines(line), len(str(line))
        shown = [f"{at:{width}} | {text}".rstrip() for at, text in enumerate(lines, self.line)][-4:]
        blank = re.sub(r"[^\t]", " ", f"{lines[-1]:{column}}"[: column - 1])
        snippet = "\n".join([f"{'':{width}} |", *shown, f"{'':{width}} | {blank}^"])
        return TemplateSyntaxError(message, self.file, line, column, lines[-1], snippet)

    def _lines(self, line: int) -> list[str]:
        """Return the lines up to *line* as they are in the file."""
        first, *others = self.text.split("\n")[: max(line - self.line, 0) + 1]
        return [" " * (self.column - 1) + first, *(" " * self.indentation + other for other in others)]


# --- Step 1: tokenize ---------------------------------------------------------------------
#
# A token is `(kind, text, offset)`: text of kind "text", or the inside of a tag, whose kind is
# what follows its `<%`: "", "=", "#" or "!--". The first `%>` ends a tag, wherever it stands:
# that is the rule of EEx, and it spares this step from knowing Python.

if TYPE_CHECKING:
    _Token = tuple[str, str, int]

_TAG = re.compile(r"<%(!--|[%=#|/]?)")


def _tokenize(source: _Source, trim: bool = False) -> list[_Token]:
    """Cut the source into text and tags.

    >>> _tokenize(_Source("Hello <%= name %>!"))
    [('text', 'Hello ', 0), ('=', ' name ', 9), ('text', '!', 17)]
    """
    text, tokens = source.text, []
    literal, begin, at = "", 0, 0  # the text since the last tag, where that began, how far we are
    while tag := _TAG.search(text, at):
        literal, at, kind = literal + text[at : tag.start()], tag.end(), tag[1]
        if kind == "%":  # <%% stands for <%
            literal += "<%"
            continue
        if kind in ("|", "/"):
            reason = "(the syntax is valid but not supported by the current EEx engine)"
            raise source.error(f"unsupported EEx syntax <%{kind} %> {reason}", tag.start())
        closing = "--%>" if kind == "!--" else "%>"
        end = text.find(closing, at)
        if end < 0:
            raise source.error(f"expected closing '{closing}' for EEx expression", tag.start())
        tokens += [("text", literal, begin), (kind, text[at:end], at)]
        literal, begin, at = "", end + len(closing), end + len(closing)
    tokens.append(("text", literal + text[at:], begin))
    return [token for token in (_trim(tokens) if trim else tokens) if token[0] != "text" or token[1]]


def _trim(tokens: list[_Token]) -> list[_Token]:
    """Reduce the line breaks around each tag, and blanks among them, to one; at both ends of all, to none.

    Text and tags alternate here.
    """
    trimmed, last = [], len(tokens) - 1
    for i, (kind, text, offset) in enumerate(tokens):
        if kind == "text" and last:
            if i > 0:
                text = re.sub(r"\A(?:[ \t]*\r?\n)+", "\n", text)
            if i < last:
                text = re.sub(r"(?:\r?\n[ \t]*)+\Z", "\n", text)
            if i in (0, last) and not text.strip():
                text = ""
        trimmed.append((kind, text, offset))
    return trimmed


# --- Step 2: generate ---------------------------------------------------------------------
#
# The generated function collects its output in a list. A run, which is text and expressions with
# nothing between them, becomes one f-string and so one call:
#
#     def template(assigns, (scope), (text)=..., (result)=..., (assign)=...):
#         (out) = []
#         (append) = (out).append
#         @rows = assigns.get("rows")
#         for row in @rows:
#             (append)(f"<li>{(text)(row.name)!s}</li>")
#         return (result)("".join((out)))
#
# `(out)` and `@rows` are names that no Python source can spell, and that a tree can: they never
# clash with the names of the template. Measured against `list.extend`, `+=` on text, generators
# and a regular expression in place of `in`, this was the fastest on each Python from 3.10 to 3.13.

_OPENERS = frozenset(("if", "for", "while", "with", "try", "match", "def"))
_MIDDLES = frozenset(("elif", "else", "except", "finally", "case"))

_FOLLOWERS = {  # which tags may follow which part of a block
    "if": "elif else", "elif": "elif else", "for": "else", "while": "else", "match": "case", "case": "case",
    "try": "except finally", "except": "except else finally", "else of try": "finally",
}  # fmt: skip

_FRAMES = {  # what Python wants to see before and after a line alone, and the field in which it is found then
    "elif": ("if 1: pass\n", "\n pass", "orelse"),
    "except": ("try: pass\n", "\n pass", "handlers"),
    "case": ("match 1:\n ", "\n  pass", "cases"),
    "match": ("", "\n case _: pass", ""),
    "try": ("", "\n pass\nfinally: pass", ""),
}

_HINTS = {
    "unless": "write <%= if not ...: %>",
    "cond": "write <%= if ...: %> and <% elif ...: %>",
    "case": "write <%= match ...: %>, and then <% case ...: %>",
    "async": "a template cannot wait: await in the action, and assign the result",
    **dict.fromkeys(["end", "endif", "endfor", "endwhile", "endwith"], "a block is closed by <% end %>"),
}

# A comment or a string literal. A nested f-string of Python 3.12 looks like several, side by side.
_LITERAL = re.compile(r"""#[^\n]*|(?P<quote>"{3}|'{3}|["'])(?:\\.|(?!(?P=quote)).)*(?P=quote)""", re.DOTALL)
_DO = re.compile(r"(?<![\w.])do(?:\s+(?P<names>\w+(?:\s*,\s*\w+)*)|\s*\|(?P<bars>[^|]*)\|)?\Z", re.DOTALL)
_PARENTHESES = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_AT = re.compile(
    rf"^[ \t]*(?:@[\w.]+(?:{_PARENTHESES})?[ \t]*\n\s*)+(?:async[ \t]+)?(?:def|class)\b"  # decorators
    r"|@(?P<name>[^\W\d]\w*)",
    re.MULTILINE,
)
_BARE_CALL = re.compile(r"([^\W\d]\w*)[ \t]+@(?=[^\W\d])")


def _mask(code: str, keep_fstrings: bool = False) -> str:
    """Return *code* with comments as blanks and strings as ``$``, in the same length: the rest is code."""

    def cover(found: re.Match[str]) -> str:
        if found[0][0] == "#":
            return " " * len(found[0])
        prefix = code[max(0, found.start() - 2) : found.start()].lower()
        return found[0] if keep_fstrings and ("f" in prefix or "t" in prefix) else "$" * len(found[0])

    return _LITERAL.sub(cover, code)


class _Tag:
    """A tag, and what can be seen of its Python without parsing it."""

    def __init__(self, kind: str, text: str, offset: int) -> None:
        self.kind = kind
        self.begin = offset - len("<%" + kind)
        self.code = text.strip()
        self.offset = offset + len(text) - len(text.lstrip())
        self.shown = f"<%{kind} {' '.join(self.code.split())} %>"
        self.masked = _mask(self.code).rstrip()
        word = re.match(r"[^\W\d]\w*", self.masked)
        self.word = word[0] if word else ""
        do = _DO.search(self.masked)
        before = self.masked[: do.start()].rstrip() if do else ""
        # In `x + do` it is a variable. It follows a whole expression, or stands behind `else` and its like.
        self.do = do if _ends_operand(before) or (before and before == self.word) else None
        self.opens = self.masked.endswith(":") or self.do is not None

    @property
    def header(self) -> str:
        """The line that opens a block, as Python wants it: with a colon, and no comment after it."""
        code = self.code[: self.do.start() if self.do else len(self.masked)]
        return code if code.endswith(":") else code + ":"


class _Block:
    """A block that waits for its ``<% end %>``."""

    def __init__(self, part: str, node: Any, outer: list[ast.stmt], tag: _Tag, result: Any = None) -> None:
        self.part = part  # the keyword of its latest tag, or "do"
        self.node = node  # where its statements go
        self.outer = outer  # the statements that it stands among
        self.tag = tag
        self.result = result  # of a do block: the expression or statement with the call that takes it


class _Generator:
    """Turns the tokens of one template into the statements of a function."""

    def __init__(self, source: _Source, to_text: Callable[[Any], object], strict: bool = False) -> None:
        global ast
        import ast  # late: an application without templates never pays its 1 to 3 ms

        self.source = source
        self.to_text = to_text
        self.strict = strict  # @name is read through a function that notices a missing one
        self.assigns: dict[str, None] = {}  # the names that stood after @, in order
        self.root: list[ast.stmt] = []
        self.body = self.root  # where the next statement goes
        self.run: list[ast.expr] = []
        self.blocks: list[_Block] = []

    @property
    def part(self) -> str:
        """The part of the innermost block that is open."""
        return self.blocks[-1].part if self.blocks else ""

    def template(self, tokens: list[_Token]) -> list[ast.stmt]:
        """Return the statements that output *tokens*."""
        for kind, text, offset in tokens:
            if kind in ("", "="):
                self.tag(_Tag(kind, text, offset))
            elif kind == "text" and self.part != "match":
                self.text(text)
            elif kind == "text" and text.strip():
                self.refuse_before_case("text", offset + len(text) - len(text.lstrip()))
        if self.blocks:
            opener = self.blocks[-1].tag
            raise self.source.error("expected a closing '<% end %>' for block expression in EEx", opener.offset)
        self.flush()
        return self.collecting(self.root)

    def function(self, body: list[ast.stmt], hoisted: Iterable[str]) -> ast.FunctionDef:
        """Return the whole function: *body*, after what it needs has been fetched."""
        function: ast.FunctionDef = self.ours("def template(assigns, scope, text, result, assign): pass")[0]
        for name in hoisted:
            function.body += self.ours(f"x = scope[{name!r}]", name)
        for name in () if self.strict else self.assigns:
            function.body += self.ours(f"x = assigns.get({name!r})", "@" + name)
        function.body += body
        return ast.fix_missing_locations(function)

    def collecting(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Return *body* with what makes a function of it that returns its output."""
        return [*self.ours("out = []; append = out.append"), *body, *self.ours("return result(''.join(out))")]

    def ours(self, text: str, target: str = "") -> list[Any]:
        """Return statements of our own, whose names get parentheses, or where they assign, are *target*."""
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id != "assigns":
                node.id = target if target and isinstance(node.ctx, ast.Store) else f"({node.id})"
            elif isinstance(node, ast.arg) and node.arg != "assigns":
                node.arg = f"({node.arg})"
            if isinstance(node, (ast.stmt, ast.expr, ast.arg)):
                node.lineno = node.end_lineno = self.source.line
                node.col_offset = node.end_col_offset = 0
        return tree.body

    # Output: runs of text and expressions.

    def text(self, text: str) -> None:
        if self.run and isinstance(self.run[-1], ast.Constant):
            self.run[-1].value += text  # type: ignore[operator]
        else:
            self.run.append(ast.Constant(text))

    def output(self, value: ast.expr) -> None:
        if isinstance(value, ast.Constant):
            return self.text(str(self.to_text(value.value)))
        call = ast.copy_location(ast.Call(ast.Name("(text)", ast.Load()), [value], []), value)
        self.run.append(ast.copy_location(ast.FormattedValue(call, ord("s")), value))

    def flush(self) -> None:
        """End the run: something other than output comes next."""
        if self.run:
            value = next((part for part in self.run if not isinstance(part, ast.Constant)), None)
            text = ast.JoinedStr(self.run) if value else self.run[0]
            statement = ast.Expr(ast.Call(ast.Name("(append)", ast.Load()), [text], []))
            self.body.append(ast.copy_location(statement, value) if value else statement)
            self.run = []

    # Tags: what kind of tag is it?

    def tag(self, tag: _Tag) -> None:
        if not tag.masked and not tag.kind:
            return  # nothing, or a comment of Python
        if re.match(r"[^'\"]*<%", tag.masked):  # with a quote before it, it is a string that was cut at its `%>`
            raise self.source.error("expected closing '%>' for EEx expression before the next '<%'", tag.begin)
        if tag.masked == "end":
            self.end(tag)
        elif tag.word in _MIDDLES and (tag.word != "case" or self.part in ("match", "case") or tag.masked[-1] == ":"):
            self.middle(tag)
        elif self.part == "match":
            self.refuse_before_case(tag.shown, tag.begin)
        elif tag.opens and tag.word in _OPENERS:
            self.open(tag)
        elif hint := self.hint(tag):
            raise self.source.error(f"unexpected {tag.shown}: {hint}", tag.begin)
        elif tag.do:
            self.open_call(tag, tag.do)
        elif tag.kind:
            self.output(self.expression(tag.code, tag.offset))
        else:
            statements = self.statements(tag.code, tag.offset)
            self.flush()
            self.body += statements

    def hint(self, tag: _Tag) -> str:
        """Say what to write in place of a tag that other template languages have."""
        if tag.word in _HINTS and (tag.opens or tag.word.startswith("end")):
            return _HINTS[tag.word]
        if tag.masked.endswith("->"):
            return "write <%= call(...) do x %> for a block that takes x, <% case x: %> for a clause"
        if tag.kind and tag.word in _OPENERS and tag.word != "match":
            return "a tag that opens a block ends in `:`"
        if tag.masked.endswith(":"):
            return "a block opens with if, for, while, with, try, match or def, or with a call that ends in do"
        return ""

    def refuse_before_case(self, shown: str, offset: int) -> NoReturn:
        raise self.source.error(f"unexpected {shown} between {self.blocks[-1].tag.shown} and its first case", offset)

    def refuse_equals(self, tag: _Tag) -> None:
        if tag.kind:
            message = f'unexpected beginning of EEx tag "<%=" on "{tag.shown}", please remove "="'
            raise self.source.error(message, tag.begin)

    # Blocks

    def open(self, tag: _Tag) -> None:
        if tag.do and tag.do[0] != "do":
            message = f"only a call hands values to its block: {tag.shown} ends in `:`, or in a mere do"
            raise self.source.error(message, tag.begin)
        before, after, _ = _FRAMES.get(tag.word, ("", "\n pass", ""))
        tree = self.parse(tag.header, tag.offset, before, after)
        if len(tree.body) != 1:
            raise self.source.error(
                "a tag that opens a block holds one statement: put the others into a tag before", tag.begin
            )
        self.flush()
        node = tree.body[0]
        self.body.append(node)
        self.blocks.append(_Block(tag.word, node, self.body, tag))
        for field in ("body", "cases", "finalbody"):  # what only completed the frame
            getattr(node, field, []).clear()
        self.body = getattr(node, "body", [])

    def open_call(self, tag: _Tag, do: re.Match[str]) -> None:
        """Open the block of a call: ``form_for(@conn, "/users") do f``."""
        code = tag.code[: do.start()]
        if tag.kind:
            result: Any = self.expression(code, tag.offset)
        else:
            first, *others = self.statements(code, tag.offset)
            result = first if others or not isinstance(first, ast.Expr) else first.value
        call = result.value if isinstance(result, ast.Assign) else result
        if not isinstance(call, ast.Call):
            raise self.source.error(
                f"a do block is given to a call, and {code.strip()!r} is not one: write f(...) do", tag.begin
            )
        call.keywords.append(ast.keyword("do", ast.copy_location(ast.Name("do block", ast.Load()), call)))
        self.flush()
        function = ast.copy_location(self.ours("def f(): pass")[0], call)
        function.name, function.body = "do block", []  # a name for tracebacks, and for no one else
        if names := do["names"] or do["bars"]:
            at = tag.offset + do.start("names" if do["names"] else "bars")
            function.args = self.parse(names, at, "lambda ", ": 0", "eval").body.args
        self.blocks.append(_Block("do", function, self.body, tag, result))
        self.body = function.body

    def middle(self, tag: _Tag) -> None:
        self.refuse_equals(tag)
        block = self.blocks[-1] if self.blocks else None
        if block is None or tag.word not in _FOLLOWERS.get(block.part, "").split():
            raise self.source.error(f"unexpected middle of expression {tag.shown}: {self.situation()}", tag.begin)
        self.end_part()
        before, after, field = _FRAMES.get(tag.word, ("", "", ""))
        if tag.word == "else" or tag.word == "finally":
            if tag.header.replace(" ", "") != tag.word + ":":
                raise self.source.error(
                    f"expected <% {tag.word} %> alone, got {tag.shown}: write elif for a condition", tag.begin
                )
            if block.part in ("for", "while") and not _breaks(block.node.body):
                raise self.source.error(
                    f"unexpected {tag.shown}: without a break, the else of a loop always runs."
                    " For what to show when there is nothing, write <% if not ...: %> after the loop",
                    tag.begin,
                )
            self.body = block.node.orelse if tag.word == "else" else block.node.finalbody
        else:
            if re.match(r"except\s*\*", tag.masked):
                raise self.source.error("except* cannot stand in a template: write except", tag.begin)
            node = getattr(self.parse(tag.header, tag.offset, before, after).body[0], field)[0]
            getattr(block.node, field).append(node)
            if tag.word == "elif":
                block.node = node
            node.body.clear()
            self.body = node.body
        block.part = "else of try" if block.part == "except" and tag.word == "else" else tag.word

    def end(self, tag: _Tag) -> None:
        self.refuse_equals(tag)
        if not self.blocks:
            raise self.source.error(
                f"unexpected end of expression {tag.shown}: no block is open here."
                " A call opens one when it ends in do, a statement when it ends in `:`",
                tag.begin,
            )
        if self.part in ("match", "try"):
            needed = "<% case ...: %>" if self.part == "match" else "<% except ...: %> or <% finally %>"
            raise self.source.error(f"{self.blocks[-1].tag.shown} needs {needed} before its <% end %>", tag.begin)
        self.end_part()
        block = self.blocks.pop()
        if isinstance(block.node, ast.FunctionDef):
            if block.part == "do":
                self.share_variables(block.node)
            block.node.body = self.collecting(block.node.body)
        self.body = block.outer
        if block.part == "do":
            self.body.append(block.node)
            if isinstance(block.result, ast.stmt):
                self.body.append(block.result)
            else:
                self.output(block.result)

    def end_part(self) -> None:
        self.flush()
        if not self.body:
            self.body.append(ast.Pass())

    def situation(self) -> str:
        """Say which block is open, for messages."""
        if not self.blocks:
            return "no block is open here"
        opener = self.blocks[-1].tag
        line, _ = self.source.position(opener.offset)
        return f"it does not fit into {opener.shown} of line {line}"

    def share_variables(self, function: ast.FunctionDef) -> None:
        """Let a do block change the variables around it, as the block of an ``if`` does."""
        outside = _assigned(self.root)
        for block in self.blocks:
            if isinstance(block.node, ast.FunctionDef):
                outside |= _assigned(block.node.body) | _parameters(block.node)
        if shared := outside & _assigned(function.body) - _parameters(function):
            function.body.insert(0, ast.Nonlocal(sorted(shared)))

    # Python: each piece is parsed alone and then moved to its place in the file.

    def expression(self, code: str, offset: int) -> ast.expr:
        """Parse an expression, which may go over several lines."""
        if not _mask(code).strip():
            raise self.source.error("expected an expression", offset)
        try:
            value: ast.expr = self.parse(code, offset, "(", "\n)", "eval").body
        except TemplateSyntaxError as error:
            try:
                self.parse(code, offset)
            except TemplateSyntaxError:
                raise error from None
            raise self.source.error(
                "expected an expression after <%=: write <% ... %> around a statement", offset
            ) from None
        if problem := _bracket_problem(_mask(code)):  # `) + (`, which our own parentheses would hide
            raise self.source.error(problem[0], offset + problem[1])
        return value

    def statements(self, code: str, offset: int) -> list[ast.stmt]:
        """Parse statements. Those on later lines stand below the first one, or at the margin."""
        try:
            return self.parse(code, offset).body  # type: ignore[no-any-return]
        except TemplateSyntaxError as error:
            margin = re.sub(r"[^\t]", " ", self.source.margin(offset))[self.source.indentation :]
            if not margin or not isinstance(error.__context__, IndentationError):
                raise
            tree = self.parse(code, offset, "with 0:\n" + margin)
            if len(tree.body) != 1:
                raise
            return tree.body[0].body  # type: ignore[no-any-return]

    def parse(self, code: str, offset: int, before: str = "", after: str = "", mode: str = "exec") -> Any:
        """Parse *code* between *before* and *after*, and move the nodes to their place in the file."""
        masked = _mask(code)
        for call in _BARE_CALL.finditer(masked):
            if _ends_operand(masked[: call.end() - 1]):
                message = f"write {call[1]}(@...) to call, {call[1]} @ ... with a blank on each side to multiply"
                raise self.source.error(message, offset + call.start())
        marked, words = _mark_assigns(code)
        try:
            tree: Any = ast.parse(before + marked + after, self.source.file, mode)
        except (SyntaxError, ValueError) as error:
            raise self.syntax_error(error, code, offset, before) from None
        move = self.mover(code, offset, before)

        def settle(node: Any) -> Any:
            if hasattr(node, "end_lineno"):
                node.lineno, node.col_offset = move(node.lineno, node.col_offset)
                node.end_lineno, node.end_col_offset = move(node.end_lineno, node.end_col_offset)
            if type(node).__name__ in _REFUSED:
                suspects.append(node)
            return self.read_assign(node, words) if words else node

        suspects: list[ast.AST] = []
        tree = _rebuild(tree, settle)
        for word in [word for word in words if word in ast.dump(tree)]:
            at = "@" + words[word]
            message = f"{at} can be read, and nothing else: what a template computes is a variable, without @"
            raise self.source.error(message, offset + code.index(at))
        if suspects:
            self.refuse(ast.iter_child_nodes(tree))
        return tree

    def mover(self, code: str, offset: int, before: str) -> Callable[[int, int], tuple[int, int]]:
        """Return what turns a line and column of parsed code into those of the file. Columns count bytes.

        What lies outside of the code itself, as our own parentheses do, moves to its begin or end.
        """
        lines = code.encode().split(b"\n")
        begin = before.count("\n") + 1, len(before) - before.rfind("\n") - 1
        end = begin[0] + len(lines) - 1, len(lines[-1]) + (begin[1] if len(lines) == 1 else 0)
        down = self.source.position(offset)[0] - begin[0]
        right = len(self.source.margin(offset).encode()) - begin[1]

        def move(line: int, column: int) -> tuple[int, int]:
            line, column = min(max((line, column), begin), end)
            return line + down, column + (right if line == begin[0] else self.source.indentation)

        return move

    def read_assign(self, node: Any, words: dict[str, str]) -> Any:
        """Return what reads the assign, if *node* is a word that stands for one."""
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in words:
            name = words[node.id]
            self.assigns[name] = None
            node.id = "@" + name
            if self.strict:
                reader = self.ours(f"assign(assigns, {name!r}, {node.lineno})")[0].value
                return ast.copy_location(reader, node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for word, name in words.items():  # in the text of an f-string it was no assign
                node.value = node.value.replace(word, "@" + name)
        return node

    def refuse(self, nodes: Iterable[ast.AST]) -> None:
        """Raise for what Python accepts in a function, and what makes no sense in a template."""
        for node in _in_scope(nodes):
            if isinstance(node, (ast.stmt, ast.expr)) and type(node).__name__ in _REFUSED:
                raise self.source.error_at(_REFUSED[type(node).__name__], node.lineno, node.col_offset)

    def syntax_error(
        self, error: SyntaxError | ValueError, code: str, offset: int, before: str
    ) -> TemplateSyntaxError:
        """Return an error of Python as one of the template; the commonest say the same on each Python."""
        masked = _mask(code)
        if quote := re.search("[\"']", masked):
            return self.source.error(
                "unterminated string: the first %> ends a tag, even inside a string", offset + quote.start()
            )
        if problem := _bracket_problem(masked):
            return self.source.error(problem[0], offset + problem[1])
        if not isinstance(error, SyntaxError):
            return self.source.error(str(error), offset)
        down = self.source.position(offset)[0] - before.count("\n") - 1
        message = re.sub(r"(?<=on line )\d+", lambda number: str(int(number[0]) + down), error.msg)
        lines = (before + code).split("\n")[: (error.lineno or 1) - 1]
        at = sum(len(line) + 1 for line in lines) + (error.offset or 1) - 1 - len(before)
        return self.source.error(message, offset + min(max(at, 0), len(code)))


_REFUSED = {
    "Return": "a template cannot return: put the rest of it into <% if ...: %>",
    "Yield": "a template cannot yield: output with <%= ... %>",
    "YieldFrom": "a template cannot yield: output with <%= ... %>",
    "Await": "a template cannot wait: await in the action, and assign the result",
    "Global": "a template cannot change globals: assign in the action",
}


def _mark_assigns(code: str) -> tuple[str, dict[str, str]]:
    """Replace the ``@`` of each assign by a letter, so that Python can parse it and no column moves.

    Returns the code, and the names by the words that now stand for them, none of which was there before:

    >>> _mark_assigns("@user.name + '@home' + a @b")
    ("Quser.name + '@home' + a @b", {'Quser': 'user'})
    """
    visible = _mask(code, keep_fstrings=True)
    found = [at for at in _AT.finditer(visible) if at["name"] and not _ends_operand(visible[: at.start()])]
    names = {at["name"]: None for at in found}
    letter = next(letter for letter in "QXZKVH" if not any(letter + name in code for name in names))
    for at in found:
        code = code[: at.start()] + letter + code[at.start() + 1 :]
    return code, {letter + name: name for name in names}


def _ends_operand(code: str) -> bool:
    """Tell whether *code* ends in something that ``@`` would multiply."""
    code = code.rstrip(" \t")  # not a line break: the next line may be a statement of its own
    if word := re.search(r"\w+\Z", code[-20:]):
        return (not iskeyword(word[0]) or word[0] in ("True", "False", "None")) and code != "match"
    return code.endswith((")", "]", "}", "$", '"', "'"))


def _bracket_problem(masked: str) -> tuple[str, int] | None:
    """Return what is wrong with the brackets, and where."""
    waiting: list[re.Match[str]] = []
    for bracket in re.finditer(r"[()\[\]{}]", masked):
        if bracket[0] in "([{":
            waiting.append(bracket)
        elif not waiting or waiting.pop()[0] + bracket[0] not in ("()", "[]", "{}"):
            return f"unmatched '{bracket[0]}'", bracket.start()
    return (f"'{waiting[-1][0]}' was never closed", waiting[-1].start()) if waiting else None


def _rebuild(node: Any, change: Callable[[Any], Any]) -> Any:
    """Replace each node of a tree by what *change* returns for it, from the leaves up."""
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            setattr(node, field, _rebuild(value, change))
        elif isinstance(value, list):
            value[:] = [_rebuild(item, change) if isinstance(item, ast.AST) else item for item in value]
    return change(node)


def _in_scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield *nodes* and all below them that are in the same scope: not what is inside of functions."""
    for node in nodes:
        yield node
        if isinstance(node, ast.comprehension):
            yield from _in_scope([node.iter, *node.ifs])
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _in_scope(ast.iter_child_nodes(node))


def _breaks(nodes: Iterable[ast.AST]) -> bool:
    """Tell whether *nodes*, which stand in a loop, may break it: a loop among them has its own breaks."""
    return any(
        isinstance(node, ast.Break)
        or _breaks(node.orelse if isinstance(node, (ast.For, ast.While)) else ast.iter_child_nodes(node))
        for node in nodes
    )


def _assigned(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the variables that are assigned among *nodes*."""
    return {node.id for node in _in_scope(nodes) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _parameters(function: ast.FunctionDef) -> set[str]:
    return {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}


# --- Step 3: compile ----------------------------------------------------------------------
#
# `Template._compile` and `Template.bind` above are this step; here is what the code they make
# calls, and what they read from it.


def _to_text(value: Any) -> str:
    """Convert a value as ``escape`` does, but escape nothing."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, (list, tuple, types.GeneratorType)):
        return "".join(map(_to_text, value))
    return _shown(value)


def _names_read(code: types.CodeType) -> Iterator[str]:
    """Yield the names that *code* reads and does not define: after compiling, Python itself knows."""
    import dis

    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_read(constant)


# --- Engines ------------------------------------------------------------------------------
#
# An engine makes templates of the files with its extension: `compile(source, path, name, line=1,
# column=1, indentation=0)` returns a `Template`, which the view binds to the globals of its module,
# or any other function `render(assigns, scope)`, where *scope* holds what the view offers to its
# templates. The last three tell where a template stands in a `.py` file; `**place` takes them all.
# This is Jinja2, for an endpoint with `template_engines={"jinja": JinjaEngine()}`:
#
#     class JinjaEngine:
#         def compile(self, source, path, name, **place):
#             env = jinja2.Environment(autoescape=name.endswith(".html"))
#             made = env.template_class.from_code(env, env.compile(source, name, path), env.globals)
#             return lambda assigns, scope: made.render({**scope, **assigns})


class EExEngine:
    """The engine for ``.eex``. It escapes in the templates whose *name* says HTML or XML: ``"show.html"``."""

    def __init__(self, *, trim: bool = False, on_missing: Callable[[str, int, str], None] | None = None) -> None:
        self.trim, self.on_missing = trim, on_missing

    def compile(self, source: str, path: str, name: str, **place: Any) -> Template:
        """Return the template *name*, whose *source* is in the file *path*, at the *place* that ``Template`` takes."""
        return Template(source, file=path, escape=_is_markup(name), trim=self.trim, on_missing=self.on_missing, **place)


def _is_markup(name: str) -> bool:
    """Tell whether the template *name* is of HTML or XML."""
    return MIME.type(name.rpartition(".")[2]).endswith(("/html", "/xml", "+xml"))


class ExsEngine:
    """The engine for ``.exs``: the file is one Python expression, and what is rendered is its value."""

    def compile(self, source: str, path: str, name: str, **place: Any) -> Template:
        """Return the template *name*, as ``EExEngine`` does."""
        return _DataTemplate(source, file=path, escape=False, **place)


class _DataTemplate(Template):
    def _statements(self, generator: _Generator) -> list[ast.stmt]:
        code = _Tag("", self._source.text, 0)
        return [ast.Return(generator.expression(code.code, code.offset))]


def eex_string(source: str, /, **bindings: Any) -> str:
    """Evaluate a template of plain text, in which nothing is escaped. Assigns are given as ``assigns={...}``.

    >>> eex_string("Hello <%= name %>, <%= @greeting %>", name="Ann", assigns={"greeting": "hi"})
    'Hello Ann, hi'
    """
    return _evaluate(Template(source, escape=False), bindings)


def eex_file(path: str | os.PathLike[str], /, **bindings: Any) -> str:
    """Evaluate a file as ``eex_string`` does its argument. Raises ``OSError``, ``TemplateSyntaxError``."""
    try:
        source = _read_template(os.fspath(path))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise type(error)(f'could not read file "{os.fspath(path)}": {reason}') from None
    return _evaluate(Template(source, file=os.fspath(path), escape=False), bindings)


def _read_template(path: str) -> str:
    """Return the text of a template file, without the mark that some editors begin UTF-8 with."""
    with open(path, encoding="utf-8-sig") as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            source = _Source(error.object.decode(errors="replace"), path)
            at = len(error.object[: error.start].decode())
            raise source.error(f"a template is kept in UTF-8, and this is none: {error.reason}", at) from None


def _evaluate(template: Template, bindings: dict[str, Any]) -> str:
    text: str = template.bind({}, bindings)(bindings.get("assigns", {}), bindings)
    return text


# ==========================================================================================
# 7. Views and HTML                                       depends on: Ground, Conn, Templates
# ==========================================================================================
#
# A view turns a name and values into a body. `render("show.html", assigns)` is answered by a
# clause that the view has written by hand, and failing that by a template of that name, from a
# file or from the class body; both are compiled before the first request. HTML is then put into
# a layout, which is a template of another view with the finished page as `@inner`.
#
# In a template, names mean: the methods of the view, the globals of its module and of those it
# extends, the helpers of this chapter, and the paths of the router.
#
# Sources: Phoenix.View, Phoenix.Template, Phoenix.HTML (tag, link, form).

__all__ += [
    "View", "template", "render", "render_to_string", "render_existing", "render_many", "render_one",
    "TemplateNotFoundError",
]  # fmt: skip


class TemplateNotFoundError(PhoenixError):
    """The view *view* has neither a clause nor a template *name*."""

    def __init__(self, message: str, view: type[View], name: str) -> None:
        super().__init__(message)
        self.view, self.name = view, name


# --- Templates in a class body ------------------------------------------------------------


class _InlineTemplate:
    """A template that is written in the body of a view, and what its engine has made of it."""

    __slots__ = ("name", "extension", "source", "where", "engine", "compiled")

    def __init__(self, file: str, source: str, where: str) -> None:
        self.name, _, self.extension = file.rpartition(".")
        if "." not in self.name:
            raise DefinitionError(f'{where}: template {file!r} needs a format and an engine: "show.html.eex"')
        self.source, self.where = source, where
        self.engine: Any = None
        self.compiled: Any = None

    def compile_with(self, engine: Any) -> Any:
        file, line, column = _place_of(self.source, self.where)
        source, indentation = _dedent(self.source)
        if source is not self.source:
            line, column = line + 1, indentation + 1
        options = {"indentation": indentation} if indentation else {}
        return engine.compile(source, file, self.name, line=line, column=column, **options)

    def compile(self, engines: Mapping[str, Any]) -> Any:
        """Return what the engine makes of the source, made anew only when the engine is another one."""
        engine = engines.get(self.extension)
        if engine is None:
            raise DefinitionError(
                f"{self.where}: no template engine for {f'{self.name}.{self.extension}'!r}."
                f"{_did_you_mean(self.extension, engines)} There are: {', '.join(sorted(engines))}."
            )
        if engine is not self.engine:
            self.compiled = self.compile_with(engine)
            self.engine = engine
        return self.compiled


class _ViewRecorder(list[_InlineTemplate]):
    """Records ``template(...)`` in the body of a view."""

    def template(self, file: str, source: str, where: str) -> None:
        made = _InlineTemplate(file, source, where)
        for other in self:
            if other.name == made.name:
                raise DefinitionError(f"{where}: this view has a template {made.name!r} already, at {other.where}")
        self.append(made)


def template(name: str, source: str) -> None:
    """Write a template into the body of a view: ``template("show.html.eex", "<h1><%= @title %></h1>")``.

    A *source* that begins with a line break loses that, and the indentation that its lines have in common.
    """
    _recorder("template", "a view").template(name, source, _caller())


def _dedent(source: str) -> tuple[str, int]:
    r"""Return *source* as it would stand in a file of its own, and how many blanks its lines have lost.

    >>> _dedent("\n    <ul>\n      <li>\n")
    ('<ul>\n  <li>\n', 4)
    """
    first, *lines = source.split("\n")
    if first or not lines:
        return source, 0
    margin = os.path.commonprefix([line[: -len(line.lstrip())] for line in lines if line.strip()])
    return "\n".join(line[len(margin) :] if line.strip() else "" for line in lines), len(margin)


def _place_of(source: str, where: str) -> tuple[str, int, int]:
    """Return file, line and column at which the text of an inline template begins, by looking for it there."""
    import linecache

    file, _, number = where.rpartition(":")
    called = int(number)
    text = "".join(linecache.getlines(file)[called - 1 : called + 30 + source.count("\n")])
    found = [at + 1 for quote in "\"'" if (at := text.find(f"{quote}{source}{quote}")) >= 0]
    if not found:
        return file, called, 1  # it is put together, or holds escapes: then the call has to do
    at = min(found)
    return file, called + text.count("\n", 0, at), at - text.rfind("\n", 0, at)


# --- Views --------------------------------------------------------------------------------


def _warn_of_missing(file: str, line: int, name: str) -> None:
    missing = f"the template reads @{name}, which nobody has assigned: it is None"
    logger.warning("%s:%d: %s; where it may be absent, write assigns.get(%r)", file, line, missing, name)


_EEX = EExEngine()
_EEX_IN_DEV = EExEngine(on_missing=_warn_of_missing)


class View(metaclass=_Recording):
    """Renders templates by name, and gives them its methods as functions::

        class PageView(View):
            root = "web/templates"                       # files: web/templates/page/*.html.eex
            template("hello.html.eex", "<h1><%= shout(@title) %></h1>")

            def shout(self, text):
                return text.upper()

            def render(self, name, assigns):             # clauses written by hand come first
                if name == "show.json":
                    return {"title": assigns["title"]}
                return super().render(name, assigns)

    ``root`` is looked for beside the module of the view and in the folders above it, then in the working directory.
    ``path`` is the folder in it, by default the name of the view: ``"page"`` for ``PageView``, ``"admin/page"`` when
    it stands in a package ``views.admin``, and the root itself for a view that is just called ``View``.

    A view has the methods and templates of those it extends, and names that their modules import: an app keeps in a
    ``View`` of its own what all its views share.

    What a clause returns as text is the body, as it stands: in markup, put values through ``escape``. Anything else is
    data, which ``encoders`` turns into text by format.
    """

    root: ClassVar[str | None] = None
    path: ClassVar[str | None] = None
    engines: ClassVar[dict[str, Any]] = {"eex": _EEX, "exs": ExsEngine()}
    encoders: ClassVar[dict[str, Callable[[Any], str]]] = {"json": encode_json}

    _where: ClassVar[str] = ""
    _inline: ClassVar[Sequence[_InlineTemplate]] = ()
    _compiled: ClassVar[dict[str, _BoundTemplate] | None] = None
    _files_seen: ClassVar[Sequence[tuple[type[View], str, int]]] = ()
    _instance: ClassVar[View | None] = None

    @classmethod
    def _recorder(cls) -> _ViewRecorder:
        return _ViewRecorder()

    @classmethod
    def _recorded(cls, recorder: _ViewRecorder) -> None:
        cls._where = _caller(3)
        for inline in recorder:
            if inline.extension in cls.engines:  # others may be configured later
                inline.compile(cls.engines)
        cls._inline = recorder
        cls._compiled = cls._instance = None

    @classmethod
    def instance(cls) -> View:
        """Return the one object of this view that renders its templates."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    @classmethod
    def use_engines(cls, engines: Mapping[str, Any]) -> None:
        """Let *engines* make the templates with these extensions; ``None`` takes an engine away."""
        changed = {name: engine for name, engine in engines.items() if View.engines.get(name) is not engine}
        if changed:
            View.engines = {name: engine for name, engine in {**View.engines, **changed}.items() if engine is not None}
            for view in View._all():
                view._compiled = None

    @classmethod
    def _all(cls) -> Iterator[type[View]]:
        """Yield this view and those that extend it."""
        yield cls
        for view in cls.__subclasses__():
            yield from view._all()

    # --- Its templates --------------------------------------------------------------------

    @classmethod
    def template_directory(cls) -> str | None:
        """Return the folder of this view's template files, or ``None`` when there is none."""
        if cls.root is None:
            return None
        for place in _places_beside(sys.modules.get(cls.__module__)):
            directory = os.path.join(place, cls.root, cls._folder())
            if os.path.isdir(directory):
                return directory
        return None

    @classmethod
    def _folder(cls) -> str:
        if cls.path is not None:
            return cls.path
        package = cls.__module__.split(".")[:-1]
        spaces = package[package.index("views") + 1 :] if "views" in package else []
        name = [] if cls.__name__ == "View" else [_unsuffix(cls.__name__, "View")]
        return "/".join([*spaces, *name])

    @classmethod
    def templates(cls) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        """Return the templates by name (``"show.html"``), compiled. Raises ``TemplateSyntaxError``."""
        if cls._compiled is None:
            compiled: dict[str, _BoundTemplate] = {}
            cls._files_seen = cls._files()
            for view in cls._lineage():  # the nearest is the last, and wins
                for path in [path for owner, path, _ in cls._files_seen if owner is view]:
                    name, _, extension = os.path.basename(path).rpartition(".")
                    made = cls.engines[extension].compile(_read_template(path), path, name)
                    compiled[name] = _BoundTemplate(made, cls, view)
                for inline in view._inline:
                    compiled[inline.name] = _BoundTemplate(inline.compile(cls.engines), cls, view)
            cls._compiled = compiled
        return cls._compiled

    @classmethod
    def refresh(cls) -> None:
        """Compile again, in this view and those that extend it, what was changed on disk."""
        for view in cls._all():
            if view._compiled is not None and view._files_seen != view._files():
                view._compiled = None

    @classmethod
    def _lineage(cls) -> list[type[View]]:
        """Return the views that this one extends, the farthest first, and itself."""
        return [base for base in reversed(cls.__mro__) if issubclass(base, View)]

    @classmethod
    def _files(cls) -> list[tuple[type[View], str, int]]:
        """Return the template files: whose they are, their paths, and when they were changed."""
        found = []
        for view in cls._lineage():
            directory = view.template_directory()
            for file in sorted(os.listdir(directory)) if directory else ():
                name, _, extension = file.rpartition(".")
                if "." in name and extension in cls.engines and not name.startswith("."):
                    path = os.path.join(directory or "", file)
                    found.append((view, path, os.stat(path).st_mtime_ns))
        return found

    # --- Rendering ------------------------------------------------------------------------

    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        """Render the template *name*. Override it to answer names by hand, and end with ``super().render(...)``.

        Raises ``TemplateNotFoundError``.
        """
        found = (self._compiled or self.templates()).get(name)
        return self.template_not_found(name, assigns) if found is None else found(assigns)

    def template_not_found(self, name: str, assigns: dict[str, Any]) -> Any:
        """Answer a name that there is no template for; an error, unless a view overrides this."""
        cls = type(self)
        place = f"in its class body, at {cls._where}"
        if cls.root is not None:
            place = f'at "{"/".join(filter(None, (cls.root, cls._folder())))}"'
        known = "".join(f"\n* {name}" for name in sorted(cls.templates()))
        compiled = f"The following templates were compiled:\n{known}"
        message = (
            f'Could not render "{name}" for {_name_of(cls)}, please define a clause for render/2 or define a template'
            f" {place}.{_did_you_mean(name, cls.templates())}"
            f" {compiled if known else 'No templates were compiled for this module.'}"
        )
        raise TemplateNotFoundError(message, cls, name)

    def _render_partial(self, *arguments: Any, conn: Any = None, **more: Any) -> Any:
        """``render`` inside templates: ``render("row.html", user=user)``, or with another view in front."""
        view: Any = self
        if arguments and not isinstance(arguments[0], str):
            view, *arguments = arguments  # type: ignore[assignment]
        if not 1 <= len(arguments) <= 2:
            raise ArgumentError('render in a template takes a name and values: render("row.html", user=user)')
        name, assigns = arguments if len(arguments) == 2 else (arguments[0], {})
        if isinstance(assigns, _LayoutAssigns) and not more and assigns.page == (_view_instance(view), name):
            return assigns["inner"]  # a layout asks for the page it is put around, and that is there already
        values = {"conn": conn, **assigns, **more}
        return _render_in_layout(values.pop("layout", None), _view_instance(view), name, values)


def _places_beside(module: Any) -> list[str]:
    """Return the folders in which files of a module may lie: its own, those above it, and the working directory."""
    file = getattr(module, "__file__", None)
    folder = os.path.dirname(os.path.abspath(file)) if file else os.getcwd()
    places = [folder]
    while len(places) < 6 and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
        places.append(folder)
    return [*places, os.getcwd()]


# --- Names in templates -------------------------------------------------------------------


class _BoundTemplate:
    """A template with the names that mean something in it; *view* renders it, in *owner* it is written."""

    __slots__ = ("_render", "_scope", "_conn_names")

    def __init__(self, template: Any, view: type[View], owner: type[View]) -> None:
        module = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        self._scope: dict[str, Any] = {}  # what is always the same
        self._conn_names: dict[str, Callable[..., Any]] = {}  # functions that are given the conn of the request
        if isinstance(template, Template):
            self._define(template.names, view, owner, module)
            self._render = template.bind(module, [*self._scope, *self._conn_names])
        else:  # of another engine: it is offered all there is
            self._scope.update((name, value) for name, value in module.items() if not name.startswith("_"))
            self._define({"render", *_HTML_NAMES, *dir(view)}, view, owner, module)
            self._render = template

    def _define(self, names: Iterable[str], view: type[View], owner: type[View], module: Mapping[str, Any]) -> None:
        """Say what *names* mean, but for globals of the module: these Python finds itself."""
        instance = view.instance()
        for name in names:
            helper = _HTML_NAMES.get(name)
            if name == "render":
                self._conn_names[name] = instance._render_partial
            elif not name.startswith("__") and not hasattr(View, name) and hasattr(view, name):
                self._scope[name] = getattr(instance, name)
            elif name in module and module[name] is not helper:
                continue
            elif name not in module and (shared := _shared_global(owner, name, helper)) is not None:
                self._scope[name] = shared
            elif name in _CONN_HELPERS or name in ("render_existing", "render_many", "render_one"):
                self._conn_names[name] = _HTML_NAMES[name]
            elif helper is not None:
                self._scope[name] = helper
            elif name.endswith(("_path", "_url")):
                self._scope[name] = _path_helper(name)

    def __call__(self, assigns: Mapping[str, Any]) -> Any:
        if not self._conn_names:
            return self._render(assigns, self._scope)
        conn = assigns.get("conn")
        scope = dict(self._scope)
        for name, function in self._conn_names.items():
            scope[name] = functools.partial(function, conn=conn)
        return self._render(assigns, scope)


def _shared_global(owner: type[View], name: str, helper: Any) -> Any:
    """Return what *name* means in the modules of the views that *owner* extends, if that is not the helper itself."""
    for base in owner.__mro__[1:]:
        module = sys.modules.get(base.__module__)
        if base is not View and issubclass(base, View) and hasattr(module, name):
            found = getattr(module, name)
            return None if found is helper else found
    return None


def _path_helper(name: str) -> Callable[..., str]:
    """Return the path helper *name* of whichever router the conn or endpoint it is called with has."""

    def helper(context: Any = None, *arguments: Any, **query: Any) -> str:
        router = getattr(context, "router", None)
        if router is None:
            raise ArgumentError(
                f"{name}({context!r}, ...): a path helper needs a conn that a router has matched, or the endpoint, as"
                f" its first argument: {name}(@conn, ...)"
            )
        path: str = getattr(router.helpers, name)(context, *arguments, **query)
        return path

    return helper


# --- Rendering ----------------------------------------------------------------------------


class _LayoutAssigns(dict["str", "Any"]):
    """The assigns of a layout, which hold the finished page."""

    __slots__ = ("page",)

    page: tuple[View, str]  # the view and the template it was rendered by


def _view_instance(view: Any) -> View:
    if isinstance(view, View):
        return view
    if isinstance(view, type) and issubclass(view, View):
        return view.instance()
    raise ArgumentError(f"expected a View class, got: {view!r}")


def render(view: Any, name: str, assigns: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
    """Render a template of a view, outside of a request too: ``render(PageView, "show.html", title="Hi")``.

    ``layout=(LayoutView, "application.html")`` puts the result into a layout, as ``@inner``. Returns ``Safe`` text for
    html, and what the view returned for other formats.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"render expects template to be a string, got: {name!r}")
    values = {**(assigns or {}), **more}
    return _render_in_layout(values.pop("layout", None), _view_instance(view), name, values)


def _render_in_layout(layout: tuple[Any, str] | None, view: View, name: str, values: dict[str, Any]) -> Any:
    inner = _rendered(view, name, values)
    if not layout:
        return inner
    if not isinstance(layout, tuple) or len(layout) != 2:
        raise ArgumentError(f"render expects layout to be a view and a name, got: {layout!r}")
    assigns = _LayoutAssigns(values, inner=inner, inner_content=inner, view_module=type(view), view_template=name)
    assigns.page = view, name
    return _rendered(_view_instance(layout[0]), layout[1], assigns)


def _rendered(view: View, name: str, values: dict[str, Any]) -> Any:
    try:
        found = view.render(name, values)
    except RecursionError as error:
        if _renders_itself(error, view, name):
            raise PhoenixError(
                f"rendering {name!r} of {_name_of(type(view))} does not end: it renders itself again and again.\n"
                "End the clauses of render() with `return super().render(name, assigns)`, and put what a template renders"
                " of itself into <% if ...: %>."
            ) from None
        raise
    except NameError as error:
        if error.name in values and "@" not in str(error):
            error.args = (f"{error}. Did you mean '@{error.name}'? What render() was given is read with an @.",)
        raise
    return Safe(found) if found.__class__ is str and _is_markup(name) else found


def _renders_itself(error: RecursionError, view: View, name: str) -> bool:
    """Tell whether the frames of an endless recursion are those of rendering *name* over and over."""
    times, frame = 0, error.__traceback__
    while frame is not None:
        here = frame.tb_frame.f_locals
        times += here.get("name") == name and (here.get("self") is view or here.get("view") is view)
        frame = frame.tb_next
    return times > 20


def render_to_string(view: Any, name: str, assigns: Mapping[str, Any] | None = None, /, **more: Any) -> str:
    """Render, and encode by format: data for ``"show.json"`` becomes JSON."""
    return _encoded(_view_instance(view), name, render(view, name, assigns, **more))


def _encoded(view: View, name: str, found: Any) -> str:
    if isinstance(found, str):
        return found
    encode = view.encoders.get(name.rpartition(".")[2])
    if encode is None:
        raise ArgumentError(
            f"{_name_of(type(view))} rendered {name!r} as {found!r}, expected text: no encoder makes text of data"
            f" for this format. There are: {', '.join(sorted(view.encoders))}."
        )
    return encode(found)


def render_existing(view: Any, name: str, assigns: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
    """As ``render``, but ``None`` when there is no such template."""
    try:
        return render(view, name, assigns, **more)
    except TemplateNotFoundError as error:
        if error.name == name and error.view is type(_view_instance(view)):
            return None
        raise  # it is there, and renders another that is not


def render_many(
    items: Iterable[Any], view: Any, name: str, assigns: Mapping[str, Any] | None = None, *, as_: str = "", **more: Any
) -> list[Any]:
    """Render once for each item, which the template reads as ``@user`` in a ``UserView``, or as ``@`` + *as_*."""
    key = as_ or _unsuffix(type(_view_instance(view)).__name__, "View")
    return [render(view, name, {**(assigns or {}), **more, key: item}) for item in items]


def render_one(
    item: Any, view: Any, name: str, assigns: Mapping[str, Any] | None = None, *, as_: str = "", **more: Any
) -> Any:
    """As ``render_many`` for one item; ``None`` for ``None``."""
    return None if item is None else render_many([item], view, name, assigns, as_=as_, **more)[0]


# --- HTML helpers: tags -------------------------------------------------------------------
#
# Functions that write HTML, for templates and for plain Python alike. Each returns `Safe` text,
# and each escapes what it is given unless that is `Safe` already: there is no way to forget it.
# Attributes are keywords, `class_` where Python has a keyword of its own, and come out sorted
# by name, so that equal calls give equal pages. What only the request knows, the token against
# forged forms, is in the conn; templates hand it to the helpers named in `_CONN_HELPERS`.
#
# Sources: Phoenix.HTML 1.x and 2.x (Tag, Link, Form, Format), the HTML standard §4.10 and §13.1,
# the URL standard §4.4 for what a browser takes for a scheme or a host.

__all__ += [
    "tag", "content_tag", "link", "button", "form_tag", "form_for", "Form", "csrf_meta_tag", "text_to_html",
]  # fmt: skip

_CONN_HELPERS = {"link", "button", "form_tag", "form_for", "csrf_meta_tag"}  # take `conn=`

# Everything that ends a name, or starts something else, in any browser: HTML §13.1.2.3, and "<".
_ATTRIBUTE_NAME = re.compile(r"[^\s\"'<>/=\x00-\x1f\x7f-\x9f]+")
_TAG_NAME = re.compile(r"[A-Za-z][^\s\"'<>/=\x00-\x1f\x7f-\x9f]*")


def tag(name: str, /, **attributes: Any) -> Safe:
    """Write an opening tag.

    >>> tag("input", type="text", class_="wide", required=True, data={"toggle_target": 1})
    '<input class="wide" data-toggle-target="1" required="required" type="text">'

    In names a last ``_`` is dropped and every other becomes ``-``; a mapping nests. ``True`` is the name
    itself, or ``"true"`` where the name has a dash; ``None`` and ``False`` leave the attribute out, but
    ``aria-`` ones say ``"false"``. Lists are joined by spaces. Raises ``ArgumentError`` for a name that HTML
    does not allow.
    """
    if not _TAG_NAME.fullmatch(name):
        raise ArgumentError(f"{name!r} is not the name of a tag: expected a letter, then no space, quote, <>/=")
    written: dict[str, str] = {}
    _write_attributes("", attributes, written)
    return Safe("".join((f"<{name}", *(f' {key}="{text}"' for key, text in sorted(written.items())), ">")))


def _write_attributes(prefix: str, attributes: Mapping[str, Any], written: dict[str, str]) -> None:
    """Add *attributes* to *written*, names and values ready for the page; the last of one name stays."""
    for key, value in attributes.items():
        name = prefix + key.removesuffix("_").replace("_", "-")
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise ArgumentError(f"{key!r} is not the name of an attribute: expected no space, quote or <>/=")
        if isinstance(value, Mapping):
            _write_attributes(name + "-", value, written)
        elif (text := _attribute_text(name, value)) is None:
            written.pop(name, None)
        else:
            written[name] = text


def _attribute_text(name: str, value: object) -> str | None:
    """Return the text of an attribute's value, or ``None`` when the attribute is to be left out."""
    if value is None:
        return None
    if value is True:
        return "true" if "-" in name else name  # no boolean attribute of HTML has a dash: those take words
    if value is False:
        return "false" if name.startswith("aria-") else None  # a menu that is not expanded says so
    if isinstance(value, (list, tuple)):
        value = " ".join(str(item) for item in value if item is not None and item is not False)
        return _attribute_text(name, value or None)
    # Safe text stays as it is, yet may come from between tags, where quotes are allowed: <b class="x">.
    return escape(value).replace('"', "&quot;")


def content_tag(
    name: str, content: object = None, /, *, do: Callable[[], object] | None = None, **attributes: Any
) -> Safe:
    """Write a tag, its content and the closing tag; attributes as in ``tag``.

    >>> content_tag("p", "1 < 2", class_="dark")
    '<p class="dark">1 &lt; 2</p>'

    In a template a block gives the content: ``<%= content_tag("p") do %> ... <% end %>``.
    """
    return Safe(f"{tag(name, **attributes)}{escape(content if do is None else do())}</{name}>")


def csrf_meta_tag(of: SessionConn | None = None, /, *, conn: SessionConn | None = None, **attributes: Any) -> Safe:
    """Write ``<meta content="..." name="csrf-token">``, where scripts find the ``x-csrf-token`` to send.

    In a template ``csrf_meta_tag()`` and ``csrf_meta_tag(@conn)`` mean the same.
    """
    conn = of or conn
    if conn is None:
        raise ArgumentError("csrf_meta_tag needs the conn: outside a template, write csrf_meta_tag(conn)")
    return tag("meta", **{"content": conn.csrf_token(), "name": "csrf-token", **attributes})


def text_to_html(
    text: str, *, escape: bool = True, wrapper_tag: str = "p", attributes: Mapping[str, Any] | None = None,
    insert_brs: bool = True,
) -> Safe:
    r"""Turn plain text into paragraphs, where it has blank lines, and line breaks, where it has single ones.

    >>> text_to_html("Hello,\n\nsee you.\nThe Boss")
    '<p>Hello,</p>\n<p>see you.<br>\nThe Boss</p>\n'
    """
    mark = str if escape and not isinstance(text, Safe) else Safe
    line_break = Safe("<br>\n" if insert_brs else " ")
    html = ""
    for paragraph in re.split(r"(?:\r?\n){2,}", text):
        lines = [mark(line) for line in re.split(r"\r?\n", paragraph) if line]
        if paragraph.strip(" \r\n"):
            content = [part for line in lines for part in (line_break, line)][1:]
            html += content_tag(wrapper_tag, content, **(attributes or {})) + "\n"
    return Safe(html)


# --- HTML helpers: links ------------------------------------------------------------------
#
# A link that changes something (`method="delete"`) is a form in disguise, because HTML knows
# no such link. Phoenix.HTML 1.x wrote a form and an `<a onclick>`, 2.x an `<a data-method>` and
# a script. Here it is a small form with a real button: it works where scripts are off, blocked
# by a Content-Security-Policy, or not loaded yet; the keyboard reaches it, screen readers call
# it what it is, and no crawler follows it. Nor does it carry a style, which a policy may
# forbid as well: `form.link { display: inline }` in the app's stylesheet makes it look like a link.


def link(
    text: object = None, *, to: str, method: str = "get", form: Mapping[str, Any] | None = None,
    csrf_token: bool = True, conn: SessionConn | None = None, do: Callable[[], object] | None = None,
    **attributes: Any,
) -> Safe:
    """Link to a path or URL. With a *method* other than get, write a form of class ``link`` with one button.

    >>> link("Ann & Bob", to="/users", class_="nav")
    '<a class="nav" href="/users">Ann &amp; Bob</a>'

    ``link("Delete", to="/posts/1", method="delete", data={"confirm": "Sure?"})`` sends ``DELETE /posts/1``.
    *attributes* go to the ``<a>`` or the ``<button>``, those in *form* to the form; in a template a block can
    give the content. Raises ``ArgumentError`` for a ``javascript:``, ``data:`` or ``vbscript:`` URL, which
    would make a script of what a user typed.
    """
    content = _link_content("link/2", to, text, do)
    if method.lower() == "get":
        attributes = {"href": to, **attributes}
        return content_tag("a", content, **attributes)
    form = {"class": "link", **(form or {})}
    return button(content, to=to, method=method, form=form, csrf_token=csrf_token, conn=conn, **attributes)


def button(
    text: object = None, *, to: str, method: str = "post", form: Mapping[str, Any] | None = None,
    csrf_token: bool = True, conn: SessionConn | None = None, do: Callable[[], object] | None = None,
    **attributes: Any,
) -> Safe:
    """Write a form of class ``button`` that sends *method* to a path or URL; all else is as in ``link``.

    >>> button("Next", to="/posts", method="get")
    '<form action="/posts" class="button" method="get"><button type="submit">Next</button></form>'
    """
    attributes = {"type": "submit", **attributes}
    inside = content_tag("button", _link_content("button/2", to, text, do), **attributes)
    if method.lower() == "get" and "?" in to:
        # A browser replaces the query of a get form by the form's fields: so the query becomes fields.
        from urllib.parse import parse_qsl, urlsplit

        fields = parse_qsl(urlsplit(to).query, keep_blank_values=True)
        to = urlsplit(to)._replace(query="").geturl()
        inside = Safe(_hidden_inputs(fields) + inside)
    own: dict[str, Any] = {"class": "button", "csrf_token": csrf_token, "enforce_utf8": False}
    return form_tag(to, method, conn=conn, do=lambda: inside, **{**own, **(form or {})})


def _link_content(helper: str, to: str, text: object, do: Callable[[], object] | None) -> Safe:
    """Check where a link goes, and return what it shows."""
    _check_destination(helper, to)
    if text is None and do is None:
        raise ArgumentError(f"{helper} requires a text as first argument or contents in the do block")
    return escape(text if do is None else do())


_SCRIPT_SCHEMES = ("javascript:", "data:", "vbscript:")
_URL_NOISE = re.compile(r"\A[\x00-\x20]+|[\t\r\n]+")
_SCHEME_OR_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:|//")


def _as_browsers_read(url: str) -> str:
    """Return *url* as a browser takes it: without what it skips, with slashes for backslashes (URL §4.4)."""
    if isinstance(url, Safe) and "&" in url:
        from html import unescape  # Safe text is not escaped again, so the browser decodes its entities

        url = unescape(url)
    return _URL_NOISE.sub("", url).replace("\\", "/")


def _check_destination(helper: str, url: str) -> None:
    if not isinstance(url, str):
        raise ArgumentError(f"{helper} expected a path or URL to go to, got {url!r}")
    if _as_browsers_read(url).lower().startswith(_SCRIPT_SCHEMES):
        raise ArgumentError(
            f"unsupported scheme given to {helper}: {url!r} would run as a script in the page.\n"
            f"Give a path or an http(s) URL. If the script is your own, attach it from a .js file."
        )


def _is_on_this_site(url: str) -> bool:
    """Tell whether *url* is relative: with a scheme or ``//`` (or ``/\\``) it may lead to another host."""
    return _SCHEME_OR_HOST.match(_as_browsers_read(url)) is None


# --- HTML helpers: forms ------------------------------------------------------------------
#
# What a browser cannot do by itself, a form does with hidden inputs: PATCH and DELETE travel in
# `_method`, the proof that the form came from this site in `_csrf_token`.

_FORM_METHODS = ("get", "post", "put", "patch", "delete")


def form_tag(
    action: str, method: str = "post", *, multipart: bool = False, csrf_token: bool = True,
    enforce_utf8: bool = True, conn: SessionConn | None = None, do: Callable[[], object] | None = None,
    **attributes: Any,
) -> Safe:
    """Write ``<form>`` and the hidden inputs it needs; with a block, its content and ``</form>`` too.

    >>> form_tag("/search", "get", enforce_utf8=False)
    '<form action="/search" method="get">'

    Browsers send get and post only: any other *method* travels in ``_method``. The token of *conn* against
    forged requests goes into every form that is not get and has a path as its *action*: another host must
    never learn it; ``csrf_token=False`` leaves it out. *enforce_utf8* adds ``accept-charset`` and the
    input ``_utf8``. *multipart* is needed for uploads.
    """
    _check_destination("form_tag/2", action)
    verb = method.lower()
    if verb not in _FORM_METHODS:
        raise ArgumentError(
            f"unknown method {method!r} given to form_tag: expected one of {', '.join(_FORM_METHODS)}."
            + _did_you_mean(verb, _FORM_METHODS)
        )
    sent = verb if verb in ("get", "post") else "post"
    hidden = [] if sent == verb else [("_method", method)]
    if verb != "get" and csrf_token and conn is not None and _is_on_this_site(action):
        hidden.append(("_csrf_token", conn.csrf_token()))
    if enforce_utf8:
        hidden.append(("_utf8", "✓"))
        attributes = {"accept-charset": "UTF-8", **attributes}
    if multipart:
        attributes = {"enctype": "multipart/form-data", **attributes}
    opening = tag("form", **{"action": action, "method": sent, **attributes}) + _hidden_inputs(hidden)
    if do is None:
        return Safe(opening)
    content = escape(do())
    if re.search(r"<form[\s>]", content):  # browsers drop the inner tag and keep its inputs: "Save" would delete
        raise ArgumentError(
            "a form holds another form, which browsers mix into one.\n"
            "Move the inner form, link(..., method=...) or button(...) behind the end of the outer form."
        )
    return Safe(f"{opening}{content}</form>")


def _hidden_inputs(fields: Iterable[tuple[str, str]]) -> str:
    return "".join(tag("input", name=name, type="hidden", value=value) for name, value in fields)


def form_for(
    source: object, action: str, *, name: str, method: str = "post", multipart: bool = False,
    errors: Mapping[str, object] | None = None, values: object = None, conn: SessionConn | None = None,
    do: Callable[[Form], object] | None = None, **attributes: Any,
) -> Safe:
    """Write a form whose block receives a ``Form``, the maker of its inputs.

    In a template, where *source* is the conn, a mapping or an object::

        <%= form_for(@conn, "/posts", name="post") do f %>
          <%= f.label("title") %> <%= f.text_input("title") %> <%= f.error_tag("title") %>
          <%= f.submit("Save") %>
        <% end %>

    *name*, *values* and *errors* are those of ``Form``, all else is as in ``form_tag``.
    """
    if do is None:
        raise ArgumentError("form_for needs a block: <%= form_for(...) do f %> ... <% end %>, or do=function")
    form = Form(source, name=name, values=values, errors=errors, multipart=multipart)
    if conn is None and isinstance(source, SessionConn):
        conn = source
    return form_tag(action, method, multipart=multipart, conn=conn, do=lambda: do(form), **attributes)


# --- HTML helpers: inputs -----------------------------------------------------------------
#
# An input is named `post[title]`, which the params turn into {"post": {"title": ...}}. A form
# that failed is rendered again from those params, so that nobody has to type a thing twice.


def _input_of(type: str) -> Callable[..., Safe]:
    """Make the method of ``Form`` that writes an ``<input>`` of *type*."""

    def write_input(form: Form, field: str, /, **attributes: Any) -> Safe:
        return form._input(type, field, attributes)

    write_input.__doc__ = f'Write ``<input type="{type}">`` with the value of *field*.'
    return write_input


class Form:
    """The inputs of one form, with ids, names and values filled in.

    >>> Form({"title": "Hi"}, name="post").text_input("title", class_="wide")
    '<input class="wide" id="post_title" name="post[title]" type="text" value="Hi">'

    A field shows what was submitted, if *source* is a conn whose params hold *name*; else what *values* has;
    else what *source* has, as an item or an attribute. *errors* maps fields to a message or a list of them.
    Every input takes attributes as keywords; ``id``, ``name`` and ``value`` among them replace its own.
    """

    def __init__(
        self, source: object = None, *, name: str, id: str | None = None, values: object = None,
        errors: Mapping[str, object] | None = None, multipart: bool = False,
    ) -> None:
        self.source = source
        self.name = name
        self.id = name.replace("[", "_").replace("]", "") if id is None else id
        self.multipart = multipart
        self.params: Mapping[str, Any] = _mapping(source.params.get(name)) if isinstance(source, SessionConn) else {}
        self._stored: tuple[object, ...] = (values, None if isinstance(source, SessionConn) else source)
        self._errors = errors or {}

    def fields_for(self, field: str, default: object = None) -> Form:
        """Return the form of what *field* holds: named ``post[author]``, with its values and errors."""
        form = Form(name=self.input_name(field), id=self.input_id(field), multipart=self.multipart)
        form.params = _mapping(self.params.get(field))
        form._stored = (*(_look_up(data, field) for data in self._stored), default)
        form._errors = _mapping(self._errors.get(field))
        return form

    def input_id(self, field: str) -> str:
        """Return the id of a field's input, ``post_title``."""
        return f"{self.id}_{field}"

    def input_name(self, field: str) -> str:
        """Return the name of a field's input, ``post[title]``."""
        return f"{self.name}[{field}]"

    def input_value(self, field: str) -> Any:
        """Return the value that a field shows, or ``None``."""
        for data in (self.params, *self._stored):
            value = _look_up(data, field)
            if value is not _MISSING:
                return value
        return None

    def _pop_value(self, field: str, attributes: dict[str, Any]) -> Any:
        return attributes.pop("value") if "value" in attributes else self.input_value(field)

    # Labels and errors

    def label(
        self, field: str, text: object = None, *, do: Callable[[], object] | None = None, **attributes: Any
    ) -> Safe:
        """Write the label of a field's input; its text is made from the field's name unless given."""
        content = humanize(field) if text is None else text
        return content_tag("label", content, do=do, **{"for": self.input_id(field), **attributes})

    def errors(self, field: str) -> list[object]:
        """Return the messages about a field."""
        found = self._errors.get(field)
        if found is None or isinstance(found, Mapping):  # a mapping holds the errors of a nested form
            return []
        return list(found) if isinstance(found, (list, tuple)) else [found]

    def error_tag(self, field: str, /, **attributes: Any) -> Safe:
        """Write each message about a field as ``<span class="error">``, or nothing."""
        attributes = {"class": "error", **attributes}
        return Safe("".join(content_tag("span", message, **attributes) for message in self.errors(field)))

    # Inputs of one line

    text_input = _input_of("text")
    hidden_input = _input_of("hidden")
    email_input = _input_of("email")
    number_input = _input_of("number")
    url_input = _input_of("url")
    search_input = _input_of("search")
    telephone_input = _input_of("tel")
    range_input = _input_of("range")
    color_input = _input_of("color")
    date_input = _input_of("date")
    time_input = _input_of("time")
    datetime_local_input = _input_of("datetime-local")

    def _input(self, type: str, field: str, attributes: dict[str, Any]) -> Safe:
        own = {"type": type, "id": self.input_id(field), "name": self.input_name(field)}
        value = self._pop_value(field, attributes)
        if type in _MOMENTS and (found := _MOMENTS[type].search(str(value))):
            value = found[0].replace(" ", "T")  # of a date or time what a browser reads: no part of a second, no zone
        # As text: the value True is "true", and only as the value of an attribute like `required` its name.
        return tag("input", **{**own, **attributes, "value": None if value is None else escape(value)})

    def password_input(self, field: str, /, **attributes: Any) -> Safe:
        """Write ``<input type="password">``, empty: a password is never sent back."""
        return self._input("password", field, {"value": None, **attributes})

    def file_input(self, field: str, /, **attributes: Any) -> Safe:
        """Write ``<input type="file">``; with ``multiple=True`` its params are a list.

        Raises ``ArgumentError`` unless the form is multipart: others send the file's name, not the file.
        """
        if not self.multipart:
            raise ArgumentError(f"file_input({field!r}) cannot send a file: write form_for(..., multipart=True)")
        name = self.input_name(field) + ("[]" if attributes.get("multiple") else "")
        return self._input("file", field, {"name": name, "value": None, **attributes})

    # Inputs of other shapes

    def textarea(self, field: str, /, **attributes: Any) -> Safe:
        """Write ``<textarea>`` with the value of *field*."""
        own: dict[str, Any] = {"id": self.input_id(field), "name": self.input_name(field)}
        value = self._pop_value(field, attributes)
        # A browser drops the first newline of a textarea: this one, and not the user's.
        return content_tag("textarea", [Safe("\n"), value], **{**own, **attributes})

    def submit(self, text: object = "Submit", **attributes: Any) -> Safe:
        """Write the input that sends the form."""
        return tag("input", **{"type": "submit", "value": text, **attributes})

    def reset(self, text: object = "Reset", **attributes: Any) -> Safe:
        """Write the input that puts the form back as it came."""
        return tag("input", **{"type": "reset", "value": text, **attributes})

    def radio_button(self, field: str, value: object, /, **attributes: Any) -> Safe:
        """Write one of the radio buttons of a field, checked when *value* is the field's."""
        text = escape(value)
        own_id = f"{self.input_id(field)}_" + re.sub(r"\W", "_", text)  # an id holds no spaces
        own = {"id": own_id, "value": value, "checked": text == escape(self.input_value(field))}
        return self._input("radio", field, {**own, **attributes})

    def checkbox(
        self, field: str, /, *, checked_value: object = True, unchecked_value: object = False, **attributes: Any
    ) -> Safe:
        """Write a checkbox, checked when the field's value is *checked_value*.

        A browser sends nothing for an empty box; so a hidden input before it sends *unchecked_value*, and
        the box, coming later, overrules it.
        """
        checked = escape(checked_value) == escape(self._pop_value(field, attributes))
        name = attributes.get("name", self.input_name(field))
        hidden = tag("input", name=name, type="hidden", value=escape(unchecked_value))
        box = self._input("checkbox", field, {"checked": checked, **attributes, "value": checked_value})
        return Safe(hidden + box)

    def select(
        self, field: str, options: _Options, /, *, prompt: object = None, default: object = None, **attributes: Any
    ) -> Safe:
        """Write ``<select>``: *options* are values, pairs of label and value, or labels mapped to values.

        >>> Form(name="user").select("role", [("Admin", 1)])
        '<select id="user_role" name="user[role]"><option value="1">Admin</option></select>'

        A label with a list or mapping is a group. *prompt* is a first option without a value; *default* is
        selected when the field has no value.
        """
        own: dict[str, Any] = {"id": self.input_id(field), "name": self.input_name(field)}
        value = self._pop_value(field, attributes)
        if value is None:
            value = default
        chosen = set() if value is None else {escape(value)}
        first = "" if prompt is None else content_tag("option", prompt, value="")
        return content_tag("select", Safe(first + _write_options(options, chosen)), **{**own, **attributes})

    def multiple_select(
        self, field: str, options: _Options, /, *, default: Iterable[object] = (), **attributes: Any
    ) -> Safe:
        """Write ``<select multiple>``, whose value and params are lists; the rest is as in ``select``."""
        own: dict[str, Any] = {"id": self.input_id(field), "name": self.input_name(field) + "[]", "multiple": ""}
        value = self._pop_value(field, attributes)
        if value is None:
            value = default
        values = [value] if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable) else value
        chosen = {escape(item) for item in values}
        return content_tag("select", _write_options(options, chosen), **{**own, **attributes})

    def date_select(self, field: str, /, *, do: _Arrange | None = None, **options: Any) -> Safe:
        """Write a select each for year, month and day, with values like ``datetime_select``."""
        return self._moment_select(field, _DATE, do, options)

    def time_select(self, field: str, /, *, do: _Arrange | None = None, **options: Any) -> Safe:
        """Write a select each for hour, minute and, with ``second={}``, second."""
        return self._moment_select(field, _TIME, do, options)

    def datetime_select(self, field: str, /, *, do: _Arrange | None = None, **options: Any) -> Safe:
        """Write selects for a date and a time; params are ``{"year": "2020", "month": "4", ...}``.

        The value (or ``default=``) is a datetime, date or time, a mapping like the params, or text such as
        ``"2020-04-17 02:11:13"``.
        ``year={"options": range(1900, 2000), "prompt": "Year", "class_": "y"}`` sets the options and
        attributes of one select, and so for ``month``, ``day``, ``hour``, ``minute`` and ``second``; seconds
        are shown only when named. A block arranges the selects::

            <%= f.datetime_select("born_at") do part %> <%= part("day") %>.<%= part("month") %>. <% end %>
        """
        return self._moment_select(field, _DATE + _TIME, do, options)

    def _moment_select(self, field: str, parts: tuple[str, ...], do: _Arrange | None, options: dict[str, Any]) -> Safe:
        # What a client sent is not the application's mistake: nonsense then selects nothing.
        trusted = "value" in options or field not in self.params
        value, default = self._pop_value(field, options), options.pop("default", None)
        id, name = options.pop("id", self.input_id(field)), options.pop("name", self.input_name(field))
        for part in options.keys() - set(parts):
            raise ArgumentError(f"{part!r} is no part of this date or time select." + _did_you_mean(part, parts))
        value = default if value is None else value
        moment = _take_apart(value, parts)
        if value and trusted and not moment:
            raise ArgumentError(f"unrecognized date or time {value!r}: expected a datetime, mapping or text")

        def write_part(part: str, /, **attributes: Any) -> Safe:
            chosen = moment.get(part)
            merged: dict[str, Any] = {"id": f"{id}_{part}", "name": f"{name}[{part}]", "value": chosen}
            merged |= options[part] if isinstance(options.get(part), Mapping) else {}
            merged |= attributes
            return self.select(part, merged.pop("options", None) or _moment_options(part, chosen), **merged)

        if do is not None:
            return escape(do(write_part))
        shown = [part for part in parts if part != "second" or options.get(part) not in (None, False)]
        date = " / ".join(write_part(part) for part in shown if part in _DATE)
        clock = " : ".join(write_part(part) for part in shown if part in _TIME)
        return Safe(" &mdash; ".join(filter(None, (date, clock))))


_MISSING = object()


def _look_up(data: object, field: str) -> object:
    """Return an item of a mapping (or a row of sqlite3), or an attribute of an object, or ``_MISSING``."""
    keys = getattr(data, "keys", None)
    if callable(keys):
        return data[field] if field in keys() else _MISSING  # type: ignore[index]
    return getattr(data, field, _MISSING)


def _mapping(value: object) -> Mapping[str, Any]:
    """Return *value* if it is a mapping, else an empty one: clients can send text where forms send fields."""
    return value if isinstance(value, Mapping) else {}


if TYPE_CHECKING:
    _Options = Iterable[object] | Mapping[Any, Any]
    _Arrange = Callable[[Callable[..., Safe]], object]


def _write_options(options: _Options, chosen: set[Safe]) -> Safe:
    """Write the options of a select, *chosen* ones selected; compared as text, for params say "2", data 2."""
    html = ""
    for option in options.items() if isinstance(options, Mapping) else options:
        label, value = option if isinstance(option, tuple) else (option, option)
        if isinstance(value, (list, tuple, range, Mapping)):
            html += content_tag("optgroup", _write_options(value, chosen), label=label)
        else:
            text = escape(value)
            html += content_tag("option", label, selected=text in chosen, value=text)
    return Safe(html)


_DATE = ("year", "month", "day")
_TIME = ("hour", "minute", "second")
_MOMENT_TEXT = re.compile(
    r"(?:(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d))?[T ]?"
    r"(?:(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d))?)?"
)
_MOMENTS = {  # type of an input -> its value
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
    "time": re.compile(r"\d\d:\d\d(:(?!00)\d\d)?"),
    "datetime-local": re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:(?!00)\d\d)?"),
}


def _take_apart(value: object, parts: tuple[str, ...]) -> dict[str, int]:
    """Return the numbers of those *parts* that a date or time has, in whichever form it comes."""
    if isinstance(value, str):
        parsed = _MOMENT_TEXT.match(value)
        value = parsed.groupdict() if parsed else {}
    found = {part: _number(_look_up(value, part)) for part in parts}
    return {part: number for part, number in found.items() if number is not None}


def _number(value: object) -> int | None:
    """Return a part of a date as a number; of what a client typed, only a short row of digits is one."""
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}", value) else None


_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_RANGES = {"day": range(1, 32), "hour": range(24), "minute": range(60), "second": range(60)}


def _moment_options(part: str, chosen: int | None) -> list[tuple[str, int]]:
    """Return what one select of a date or time offers, pairs of label and value."""
    if part == "month":
        return [(name, number) for number, name in enumerate(_MONTHS, 1)]
    if part == "year":
        # A birthday lies further back: were its year not offered, saving the form would change it.
        now = time.localtime().tm_year
        years = {*range(now - 5, now + 6), now if chosen is None else chosen}
        return [(str(year), year) for year in sorted(years)]
    return [(f"{number:02}", number) for number in _RANGES[part]]

# What the names of this chapter, and some of earlier ones, mean in every template.
_HTML_NAMES: dict[str, Any] = {
    function.__name__: function
    for function in (
        escape, raw, humanize, javascript_escape, tag, content_tag, link, button, form_tag, form_for, csrf_meta_tag,
        text_to_html, render_existing, render_many, render_one, Flash, Safe,
    )  # fmt: skip
}

# ==========================================================================================
# 8. Router                                            depends on: Ground, Conn, Plug, Params
# ==========================================================================================
#
# A router is a plug that chooses other plugs. Routes are written down once, in a class body; a
# request is answered by the first route, in the order they were written, whose verb, host and
# path match. Order is the only rule of precedence, so what you read is what happens.
#
# To find that first route without asking each of them, routes are sorted by shape. Two routes
# are of one shape when their paths are fixed in the same places:
#
#     /users/:id/edit      fixed: 1st "users", 3rd "edit"     \  one shape, so they stand in
#     /shops/:name/items   fixed: 1st "shops", 3rd "items"    /  one dictionary
#     /users/:id           fixed: 1st "users"
#
# All routes of a shape stand in one dictionary, under the texts of their fixed places. A request
# takes one look-up for each shape that its path could be of. Apps have few shapes, however many
# their routes; so the time of a match does not depend on the number of routes. What stands
# before a parameter in its own segment, as in `/users/user-:id`, is looked at last. Paths
# without parameters need not even be split: they stand in a dictionary as they are.
#
# The same table, read in the other direction, gives the path helpers.
#
# Sources: Phoenix.Router, Phoenix.Router.Scope, Plug.Router.Utils; RFC 3986 §3.3 (paths).

__all__ += [
    "Router", "Route", "NoRouteError", "MethodNotAllowedError", "ActionClauseError", "RouterWarning",
    "get", "post", "put", "patch", "delete", "options", "head", "connect", "trace", "match", "Block",
    "scope", "pipeline", "pipe_through", "resources", "resource", "member", "collection", "forward", "format_routes",
]  # fmt: skip


class NoRouteError(PhoenixError):
    """No route has this path: status 404."""

    status = 404

    def __init__(self, conn: BaseConn, router: type) -> None:
        self.conn, self.router = conn, router
        super().__init__(f"no route found for {conn.method} {_path_of(conn)} ({_name_of(router)})")


class MethodNotAllowedError(PhoenixError):
    """The path is known, but not for this verb: status 405. *allowed* are its verbs."""

    status = 405

    def __init__(self, conn: BaseConn, allowed: Sequence[str]) -> None:
        self.conn, self.allowed = conn, allowed
        super().__init__(f"{conn.method} is not allowed for {_path_of(conn)}, its routes take {', '.join(allowed)}")


class ActionClauseError(BadRequestError):
    """No case of an action's ``match`` takes these params: status 400."""


class RouterWarning(UserWarning):
    """A route that can never answer, a helper that can never be called, or a path without its slash."""


def _path_of(conn: BaseConn) -> str:
    return "/" + "/".join([*conn.script_name, *conn.path_info])


# --- Paths --------------------------------------------------------------------------------

_DYNAMIC = re.compile(r"(?<!\\)([:*])")
_NAME = re.compile(r"[a-z_][A-Za-z0-9_]*")
_HOST_NAME = re.compile(r"[\w.-]+|\[[\da-fA-F:.]+\]")
_SAFE_IN_PATH = "!$&'()*+,;=:@"  # RFC 3986 §3.3: what a segment may hold besides letters, digits and -._~


class _Segment:
    """One segment of a route's path: text, or ``prefix`` + ``:name``, or ``prefix`` + ``*name``."""

    def __init__(self, text: str, kind: str = "", name: str = "") -> None:
        self.text, self.kind, self.name = text, kind, name  # text is the prefix when kind is ":" or "*"
        self.quoted = quote(text, safe=_SAFE_IN_PATH)


def _parse_path(path: str) -> list[_Segment]:
    """Split a route's path into segments. Raises ``ArgumentError`` for a path that means nothing."""
    parts = [part for part in path.split("/") if part]
    segments = [_parse_segment(part, path) for part in parts]
    for segment, part in zip(segments[:-1], parts):
        if segment.kind == "*":
            raise ArgumentError(f'globs (*var) must always be in the last path, got glob in: "{part}"')
    names = [segment.name for segment in segments if segment.kind]
    if len(set(names)) != len(names):
        raise ArgumentError(f'two parameters of the path "{path}" have one name')
    return segments


def _parse_segment(part: str, path: str) -> _Segment:
    marks = list(_DYNAMIC.finditer(part))
    if not marks:
        return _Segment(_unescape(part))
    at, kind = marks[0].start(), marks[0][1]
    name = _NAME.match(part, at + 1)
    if name is None:
        raise ArgumentError(
            "invalid dynamic path. The characters : and * must be immediately followed by lowercase letters"
            f" or underscore, got: {part}"
        )
    if len(marks) > 1:
        raise ArgumentError(f'only one dynamic entry (:var or *glob) per path segment is allowed, got: "{part}"')
    if name.end() != len(part) and kind == "*":
        raise ArgumentError(f'globs (*var) cannot be followed by suffixes, got: "{part}"')
    if name.end() != len(part):
        raise ArgumentError(
            f'invalid dynamic path. Only letters, numbers, and underscore are allowed after : in "{path}"'
        )
    return _Segment(_unescape(part[:at]), kind, name[0])


def _unescape(text: str) -> str:
    return text.replace("\\:", ":").replace("\\*", "*")


def _decode_segment(segment: str) -> str:
    """Undo percent-encoding (RFC 3986 §2.1). Raises ``BadRequestError`` for bad escapes and bad UTF-8."""
    if "%" not in segment:
        return segment
    if _BAD_ESCAPE.search(segment):
        raise BadRequestError(f"the path segment {segment!r} holds a `%` that two hex digits do not follow")
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise BadRequestError(f"the path segment {segment!r} is not UTF-8") from None


class Route:
    """One line of the table: which verb, path and host it answers, and with what.

    ``verb`` (``"*"`` for any), ``path``, ``plug`` and ``action``, ``helper`` (``"user"`` or ``None``),
    ``pipe_through`` (names of pipelines), ``hosts``, ``where`` (file and line).
    """

    def __init__(
        self, verb: str, path: str, plug: Any, action: str | None, helper: str | None, where: str, below: bool = False
    ) -> None:
        self.verb, self.plug, self.action, self.helper, self.where = verb, plug, action, helper, where
        self.segments = _parse_path(path)
        self.path = "/" + "/".join(part for part in path.split("/") if part)
        self.names = tuple(segment.name for segment in self.segments if segment.kind)
        slots = [(segment.kind, segment.name, at, segment.text) for at, segment in enumerate(self.segments)]
        self._slots = [(name, at, len(prefix)) for kind, name, at, prefix in slots if kind == ":"]
        self._rest = next(((name, at, len(prefix)) for kind, name, at, prefix in slots if kind == "*"), None)
        self.prefixes = [(at, prefix, kind) for kind, _, at, prefix in slots if kind and prefix]
        if below:  # it answers for everything below its path, and has no name for that
            self.segments.append(_Segment("", "*"))
        self.pipe_through: list[str] = []
        self.hosts: tuple[str, ...] = ()
        self.label = ""
        self.index = 0
        self.assigns: dict[str, Any] = {}
        self.private: dict[str, Any] = {}
        self.steps: tuple[_Step, ...] = ()

    def __repr__(self) -> str:
        return f"<Route {self.verb} {self.path} {self.label}>"

    @property
    def shown_verb(self) -> str:
        """The verb as it is listed: ``WS`` for a GET that becomes a WebSocket."""
        return "WS" if getattr(self.plug, "is_websocket", False) else self.verb

    def answers_host(self, host: str) -> bool:
        """Tell whether this route is for *host*: an exact name, or a prefix such as ``"api."``."""
        host = host.lower()
        return not self.hosts or any(host == own or own.endswith(".") and host.startswith(own) for own in self.hosts)

    def has_prefixes(self, segments: Sequence[str]) -> bool:
        """Tell whether *segments* begin as they must: for ``user-:id`` with ``user-``, and more behind it."""
        for at, prefix, kind in self.prefixes:
            if not segments[at].startswith(prefix) or kind == ":" and segments[at] == prefix:
                return False
        return True

    def path_params(self, segments: Sequence[str]) -> dict[str, Any]:
        """Return what the parameters of this route are in a path that it matches."""
        params: dict[str, Any] = {}
        for name, at, prefix in self._slots:
            params[name] = segments[at][prefix:] if prefix else segments[at]
        if self._rest is not None:
            name, at, prefix = self._rest
            params[name] = [segments[at][prefix:], *segments[at + 1 :]] if prefix else list(segments[at:])
        return params

    def sample_paths(self, longest: int) -> Iterator[list[str]]:
        """Yield paths that match, one of each kind up to *longest* segments, with parameters like no other text."""
        path = [segment.text + "\0" if segment.kind == ":" else segment.text for segment in self.segments]
        if not self.segments or self.segments[-1].kind != "*":
            yield path
            return
        *path, prefix = path
        for more in range(max(longest - len(path), 0) + 1):
            rest = ["\0"] * more
            yield from ([*path, prefix, *rest], [*path, prefix + "\0", *rest]) if prefix else [path + rest]


# --- The table ----------------------------------------------------------------------------


class _Table:
    """All routes of one verb, and those for any verb, to be searched by path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        # A shape is the length of its paths, whether they go on below that, and where they are fixed. Each of them has
        # the index of its first route, the function that reads the key of a path, and its routes by that key.
        shapes: dict[tuple[int, bool, tuple[int, ...]], tuple[int, Any, dict[Any, list[Route]]]] = {}
        for route in routes:
            below = bool(route.segments) and route.segments[-1].kind == "*"
            length = len(route.segments) - (below and not route.segments[-1].text)
            places = tuple(at for at, segment in enumerate(route.segments) if not segment.kind)
            key: Callable[[Sequence[str]], Any] = itemgetter(*places) if places else lambda segments: None
            _, _, by_key = shapes.setdefault((length, below, places), (route.index, key, {}))
            by_key.setdefault(key([segment.text for segment in route.segments]), []).append(route)
        # In the order of their first routes, for a dictionary keeps the order in which it was filled.
        found = [(length, below, entry) for (length, below, _), entry in shapes.items()]
        longest = max((length for length, _, _ in found), default=0)
        self._by_length = [
            [entry for length, below, entry in found if length == count or below and length < count]
            for count in range(longest + 1)
        ]
        self._longer = [entry for _, below, entry in found if below]
        self.static: dict[str, Route] = {}  # where a path alone decides, for any host
        for route in routes:
            texts = [segment.text for segment in route.segments]
            fixed = not route.hosts and not any(segment.kind for segment in route.segments) and "%" not in route.path
            if fixed and self.search(texts, None) is route:
                self.static["/" + "/".join(texts)] = route

    def search(self, segments: Sequence[str], host: str | None) -> Route | None:
        """Return the first route for *segments* and *host*, or, when that is ``None``, for whichever host."""
        best, limit = None, sys.maxsize
        count = len(segments)
        for earliest, key, routes in self._by_length[count] if count < len(self._by_length) else self._longer:
            if earliest > limit:
                break
            for route in routes.get(key(segments), ()):
                if route.index > limit:
                    break
                if (not route.hosts or host is None or route.answers_host(host)) and (
                    not route.prefixes or route.has_prefixes(segments)
                ):
                    best, limit = route, route.index
                    break
        return best


# --- Helpers ------------------------------------------------------------------------------


class Helpers:
    """The named paths of a router.

    ``helpers.user_path(conn, "show", 7, page=5)`` is ``"/users/7?page=5"``, and ``user_url`` the same with scheme and
    host. The first argument is a conn or an endpoint, then the action, then one value for each parameter of the path;
    what follows, as a mapping or as keywords, becomes the query.
    """

    def __init__(self, router: type[Router]) -> None:
        self._router = router
        self._routes: dict[str, list[Route]] = {}
        for route in router.routes:
            if route.helper:
                self._routes.setdefault(route.helper, []).append(route)

    def __dir__(self) -> list[str]:
        return [name + kind for name in self._routes for kind in ("_path", "_url")] + ["static_path", "static_url"]

    def __getattr__(self, name: str) -> Callable[..., str]:
        base, _, kind = name.rpartition("_")
        if name.startswith("_") or kind not in ("path", "url") or base not in self._routes:
            raise AttributeError(f"{self._router.__name__} has no helper {name!r}." + _did_you_mean(name, dir(self)))
        helper = _Helper(self._router, name, kind, self._routes[base])
        self.__dict__[name] = helper
        return helper

    def static_path(self, context: Any, path: str) -> str:
        """Return the path of a static file, with its version when the endpoint knows it."""
        return str(_endpoint_of(context).static_path(path))

    def static_url(self, context: Any, path: str) -> str:
        """Return the URL of a static file, with its version when the endpoint knows it."""
        return str(_endpoint_of(context).static_url(path))


class _Helper:
    """One helper, which chooses among the routes of its name by the action and the number of values."""

    def __init__(self, router: type[Router], name: str, kind: str, routes: Sequence[Route]) -> None:
        self.router, self.name, self.kind, self.routes = router, name, kind, routes

    def __call__(self, context: Any, /, *arguments: Any, **query: Any) -> str:
        if isinstance(context, str):
            raise ArgumentError(f"{self.name}({context!r}, ...) needs the conn or the endpoint as its first argument")
        chosen, values = self._chosen(arguments)
        by_count = {len(route.names): route for route in reversed(chosen)}
        more: dict[Any, Any] = {}
        ends_in_query = bool(values) and isinstance(values[-1], Mapping)  # no parameter of a path is one
        if len(values) - 1 in by_count and (ends_in_query or len(values) not in by_count):
            *values, last = values
            try:
                more = dict(last or ())  # a mapping, or pairs
            except (TypeError, ValueError):
                given = ", ".join(["conn", *map(repr, filter(None, [chosen[0].action])), *map(repr, values)])
                raise ArgumentError(
                    f"{self.name}({given}, {last!r}): what follows the values of the path is the query, expected a"
                    f" mapping or keywords. Write {self.name}({given}, page=5, per_page=10)."
                ) from None
        if len(values) not in by_count or values and isinstance(values[-1], Mapping):
            raise ArgumentError(
                f"no function clause for {self.router.__name__}.helpers.{self.name} and action {chosen[0].action!r}"
                f" with {len(values)} values. The following actions/clauses are supported:\n\n"
                + self._signatures(chosen)
            )
        route = by_count[len(values)]
        pairs = [(key, value) for key, value in (*more.items(), *query.items()) if key not in route.names]
        return _prefix_of(self.router, context, self.kind) + _build_path(route, values, pairs)

    def _chosen(self, arguments: tuple[Any, ...]) -> tuple[list[Route], Sequence[Any]]:
        """Return the routes of the action that is asked for, and the values that follow it."""
        action = arguments[0] if arguments and isinstance(arguments[0], str) else None
        for wanted in (action, _SYNONYMS.get(action or "")):
            chosen = [route for route in self.routes if wanted is not None and route.action == wanted]
            if chosen:
                return chosen, arguments[1:]
        chosen = [route for route in self.routes if route.action is None]  # those of functions
        if chosen:
            return chosen, arguments
        raise ArgumentError(
            f"no action {', '.join(map(repr, arguments[:1])) or None} for {self.router.__name__}.helpers.{self.name}."
            " The following actions/clauses are supported:\n\n" + self._signatures(self.routes)
        )

    def _signatures(self, routes: Sequence[Route]) -> str:
        lines = set()
        for route in routes:
            action = [f'"{route.action}"'] if route.action else []
            lines.add(f"    {self.name}({', '.join(['conn_or_endpoint', *action, *route.names, '**query'])})")
        return "\n".join(sorted(lines))


def _build_path(route: Route, values: Sequence[Any], query: list[tuple[str, Any]]) -> str:
    """Return the path of *route* with *values* in the places of its parameters; all of them percent-encoded."""
    left = iter(values)
    path = ""
    for segment in route.segments:
        if segment.kind == ":":
            path += f"/{segment.quoted}{quote(to_param(next(left)), safe='')}"
        elif segment.kind == "*" and segment.name:
            rest = next(left)
            rest = rest if isinstance(rest, Iterable) and not isinstance(rest, str) else to_param(rest).split("/")
            parts = [quote(to_param(part), safe="") for part in rest]
            path += "/" + segment.quoted + "/".join(parts) if parts or segment.quoted else ""
        elif not segment.kind:
            path += "/" + segment.quoted
    text = encode_query(query) if query else ""
    return (path or "/") + (f"?{text}" if text else "")


def _prefix_of(router: type[Router], context: Any, kind: str) -> str:
    """Return what stands before the paths of *router*: for URLs the host, then where it is mounted."""
    endpoint = getattr(context, "endpoint", context)
    own: str = getattr(endpoint, "path_prefix", "")
    script: Sequence[str] = ()
    forwarded: str = getattr(getattr(endpoint, "router", None), "_forwards", {}).get(router, "")
    if isinstance(context, BaseConn):
        places = context.private.get("phoenix_forwards", {})
        root = places.get(None, context.script_name)  # where the app itself is mounted
        script = () if own else root
        if router in places:
            forwarded = "".join("/" + part for part in places[router][len(root) :])
    place = "".join("/" + part for part in script) + forwarded
    if kind == "path":
        return own + place
    if isinstance(context, BaseConn) and "phoenix_router_url" in context.private:
        return str(context.private["phoenix_router_url"]) + place
    return str(_endpoint_of(context).url("")) + place


def _endpoint_of(context: Any) -> Any:
    endpoint = getattr(context, "endpoint", context)
    if endpoint is None or not hasattr(endpoint, "url"):
        raise ArgumentError(f"a URL needs a conn of an endpoint, or an endpoint, got: {context!r}")
    return endpoint


class BoundHelpers:
    """The helpers of the router that is answering, with the conn as their first argument already."""

    __slots__ = ("_helpers", "_conn")

    def __init__(self, helpers: Helpers, conn: BaseConn) -> None:
        self._helpers, self._conn = helpers, conn

    def __dir__(self) -> list[str]:
        return dir(self._helpers)

    def __getattr__(self, name: str) -> Callable[..., str]:
        return functools.partial(getattr(self._helpers, name), self._conn)


# --- Recording routes ---------------------------------------------------------------------

_RESOURCE_ROUTES = (  # action, verb, what follows the path; the order is the order of matching
    ("index", "GET", ""),
    ("edit", "GET", "/:id/edit"),
    ("new", "GET", "/new"),
    ("show", "GET", "/:id"),
    ("create", "POST", ""),
    ("update", "PATCH", "/:id"),
    ("update", "PUT", "/:id"),
    ("destroy", "DELETE", "/:id"),
)
_RESOURCE_ACTIONS = tuple(dict.fromkeys(action for action, _, _ in _RESOURCE_ROUTES))
_SYNONYMS = {"destroy": "delete", "delete": "destroy"}  # one action, which has had two names

_Entries: TypeAlias = "list[Route | _Entries]"  # routes in their order; a list inside can still be added to


class _Scope:
    """What surrounds the routes being written. That of a block inside begins as a copy."""

    path = ""  # what their paths begin with
    as_: tuple[str, ...] = ()  # what the names of their helpers begin with
    hosts: tuple[str, ...] = ()
    pipes: tuple[str | PlugEntry, ...] = ()
    assigns: Mapping[str, Any] = {}
    private: Mapping[str, Any] = {}
    entries: _Entries  # where the routes go
    pipeline: str | None = None  # whose block this is
    mount: Any = None  # the socket whose block this is: see Channels
    beside: _Scope | None = None  # in the block of a resource: that of its collection routes ...
    member = ""  # ... and what member routes have behind the path of these
    beside_as: str | None = None  # in the block of a member or collection: the helper of the resource

    def inside(self, **changes: Any) -> _Scope:
        inner = _Scope()
        vars(inner).update({**vars(self), "beside": None, **changes})
        return inner


class _RouterRecorder:
    """Records the words in the body of a router."""

    def __init__(self, pipelines: Mapping[str, list[PlugEntry]]) -> None:
        self.pipelines = dict(pipelines)
        self.scopes = [_Scope().inside(entries=[])]
        self.blocks: list[tuple[Block, str]] = []  # those that mean nothing without `with`, and what to say then

    def routes(self) -> Iterator[Route]:
        """Yield the routes in the order in which they are to be matched. Raises ``DefinitionError``."""
        for block, message in self.blocks:
            if not block.entered:
                raise DefinitionError(message)
        return _in_order(self.scopes[0].entries)

    def _block(self, word: str, where: str, inner: _Scope) -> Block:
        block = Block(self.scopes, inner)
        self.blocks.append((block, f"{where}: {word} does nothing alone: write `with {word}:` and its content below"))
        return block

    # --- Pipelines ------------------------------------------------------------------------

    def plug(self, target: Any, arguments: tuple[Any, ...], options: dict[str, Any], where: str) -> PlugEntry:
        name = self.scopes[-1].pipeline
        if name is None:
            raise DefinitionError(
                f"{where}: cannot define plug at the router level, plug must be defined inside a pipeline:\n"
                '`with pipeline("browser"): plug(...)`'
            )
        entry = PlugEntry(target, arguments, options, where)
        self.pipelines[name].append(entry)
        return entry

    def pipeline(self, name: str, where: str) -> Block:
        if len(self.scopes) > 1:
            raise DefinitionError(f"{where}: define pipeline {name!r} at the top of the router, outside of any block")
        if name in self.pipelines:
            raise DefinitionError(f"{where}: the router has a pipeline {name!r} already")
        self.pipelines[name] = []
        return self._block(f'pipeline("{name}")', where, self.scopes[-1].inside(pipeline=name))

    def pipe_through(self, pipes: tuple[Any, ...], where: str) -> None:
        scope = self.scopes[-1]
        if scope.pipeline is not None:
            raise DefinitionError(f"{where}: cannot pipe_through inside a pipeline")
        if len(self.scopes) == 1:
            raise DefinitionError(f'{where}: pipe_through belongs inside a scope: `with scope("/"): pipe_through(...)`')
        for pipe in pipes:
            if isinstance(pipe, list):
                raise DefinitionError(f"{where}: name one after the other: `pipe_through({repr(pipe)[1:-1]})`")
            if isinstance(pipe, str) and pipe not in self.pipelines:
                raise DefinitionError(
                    f"{where}: unknown pipeline {pipe!r}.{_did_you_mean(pipe, self.pipelines)}"
                    f' Define it above: `with pipeline("{pipe}"):`'
                )
            entry = pipe if isinstance(pipe, str) else PlugEntry(pipe, (), {}, where)
            if getattr(entry, "call", entry) in [getattr(other, "call", other) for other in scope.pipes]:
                raise DefinitionError(f"{where}: duplicate pipe_through for {pipe!r}: the scope runs it already")
            scope.pipes += (entry,)

    # --- Scopes and routes ----------------------------------------------------------------

    def scope(self, path: str, as_: str | bool | None, host: Any, assigns: Any, private: Any, where: str) -> Block:
        outer = self.scopes[-1]
        inner = outer.inside(
            path=outer.path + self._checked_path(path, where),
            assigns={**outer.assigns, **(assigns or {})}, private={**outer.private, **(private or {})},
        )  # fmt: skip
        if isinstance(as_, str) or as_ is False:
            inner.as_ = (*outer.as_, as_) if as_ else ()
        if host is not None:
            inner.hosts = self._checked_hosts(host, where)
        return self._block(f'scope("{path}")', where, inner)

    def _checked_path(self, path: Any, where: str) -> str:
        if not isinstance(path, str):
            raise DefinitionError(f"{where}: router paths must be strings, got: {path!r}")
        if path and not path.startswith("/"):
            _warn(f'router paths should begin with a forward slash, got: "{path}"', where)
        if foreign := re.search(r"<(\w+)>|\{(\w+)\}", path):  # as other frameworks write params
            _warn(f'"{path}" takes {foreign[0]} as it stands: a param is written :{foreign[0][1:-1]}', where)
        return "/" + path.strip("/") if path.strip("/") else ""

    def _checked_hosts(self, host: Any, where: str) -> tuple[str, ...]:
        hosts: list[Any] = [host] if isinstance(host, str) or not isinstance(host, Iterable) else list(host)
        if not hosts or not all(isinstance(each, str) and _HOST_NAME.fullmatch(each) for each in hosts):
            raise DefinitionError(
                f"{where}: expected router scope host= to be a string or list of strings, got: {host!r}\n"
                'A host has neither scheme nor port, as in "example.com"; one that ends in a dot, "api.", is a prefix.'
            )
        return tuple(each.lower() for each in hosts)

    def route(
        self, verb: str, path: str, target: Any, action: str | None, where: str, *, as_: str | bool | None = True,
        assigns: Mapping[str, Any] | None = None, private: Mapping[str, Any] | None = None, below: bool = False,
    ) -> Route:
        scope = self.scopes[-1]
        if scope.pipeline is not None:
            raise DefinitionError(f"{where}: cannot define a route inside a pipeline")
        steps, label, action, name = _target_steps(target, action, where)
        if scope.beside_as is not None:
            action, name = action or name or None, scope.beside_as  # a function is called by its name there
        helper = self._helper(scope, name, as_, where)
        try:
            route = Route(verb, scope.path + self._checked_path(path, where), target, action, helper, where, below)
        except ArgumentError as error:
            raise DefinitionError(f"{where}: {error}") from None
        route.label = label
        route.hosts = scope.hosts
        route.pipe_through = [pipe if isinstance(pipe, str) else pipe.name for pipe in scope.pipes]
        route.assigns = {**scope.assigns, **(assigns or {})}
        route.private = {**scope.private, **(private or {})}
        plugs = [entry for pipe in scope.pipes for entry in (self.pipelines[pipe] if isinstance(pipe, str) else [pipe])]
        route.steps = _steps(plugs) + steps
        scope.entries.append(route)
        return route

    def _helper(self, scope: _Scope, name: str, as_: str | bool | None, where: str) -> str | None:
        name = name if as_ is True else as_ or ""
        if not name:
            return None
        helper = "_".join((*scope.as_, str(name)))
        if as_ is not True and not helper.isidentifier():
            raise DefinitionError(f"{where}: {helper!r} cannot name a helper: give it letters, digits and _ with as_=")
        if helper == "static":
            raise DefinitionError(f"{where}: `static` is a reserved route prefix: name the route otherwise, with as_=")
        return helper

    def forward(self, path: str, target: Any, options: dict[str, Any], where: str) -> Route:
        prefix = self.scopes[-1].path + self._checked_path(path, where)
        if _DYNAMIC.search(prefix):
            raise DefinitionError(
                f'{where}: dynamic segment "{prefix}" not allowed when forwarding. Use a static path instead'
            )
        forward = _Forward(target, len(_parse_path(prefix)), where)
        return self.route("*", path, forward, None, where, below=True, **options)

    # --- Resources ------------------------------------------------------------------------

    def resources(self, path: str, target: Any, options: dict[str, Any], where: str) -> Block:
        singleton = options["singleton"]
        name = options["name"] or _unsuffix(getattr(target, "__name__", "resource"), "Controller")
        as_ = options["as_"] or name
        param = options["param"]
        actions = self._chosen_actions(options, where)
        base = self._checked_path(path, where)
        outer = self.scopes[-1]
        early: _Entries = []
        outer.entries.append(early)
        for action, verb, suffix in _RESOURCE_ROUTES:
            if action in actions:
                suffix = suffix.replace("/:id", "" if singleton else f"/:{param}")
                helper = None if verb == "PUT" else as_  # PATCH has it
                self.route(verb, base + suffix, target, action, where, as_=helper)
        inner = outer.inside(
            path=outer.path + (base if singleton else f"{base}/:{name}_{param}"), as_=(*outer.as_, as_), beside_as=None,
            # before `show`, which would take them for an id
            beside=outer.inside(path=outer.path + base, entries=early, beside_as=as_),
            member="" if singleton else f"/:{param}",
        )  # fmt: skip
        return Block(self.scopes, inner)

    def _chosen_actions(self, options: dict[str, Any], where: str) -> list[str]:
        singleton = options["singleton"]
        supported = [action for action in _RESOURCE_ACTIONS if not (singleton and action == "index")]
        chosen = supported
        for option, keep in (("only", True), ("except_", False)):
            if options[option] is None:
                continue
            given = [options[option]] if isinstance(options[option], str) else list(options[option])
            named = {"destroy" if action == "delete" else action for action in given}
            if not named <= set(supported):
                raise DefinitionError(
                    f"{where}: invalid {option}= action(s) passed to resources.\n\n"
                    f"supported {'singleton ' if singleton else ''}actions: {supported}\n\ngot: {given}"
                    + _did_you_mean(str(min(named - set(supported), key=str)), supported)
                )
            chosen = [action for action in chosen if (action in named) is keep]
        return chosen

    def extra_routes(self, word: str, where: str) -> Block:
        """Open a block for routes beside the eight: those of a ``member``, or of the whole ``collection``."""
        outer = self.scopes[-1]
        if outer.beside is None:
            raise DefinitionError(
                f"{where}: {word}() must stand directly inside resources: write `with resources(...):`, and below it"
                f" `with {word}():`"
            )
        path = outer.beside.path + (outer.member if word == "member" else "")
        return self._block(f"{word}()", where, outer.beside.inside(path=path, pipes=outer.pipes))


def _in_order(entries: _Entries) -> Iterator[Route]:
    for entry in entries:
        if isinstance(entry, Route):
            yield entry
        else:
            yield from _in_order(entry)


class Block:
    """A ``with`` block of a router's body."""

    def __init__(self, scopes: list[_Scope], inner: _Scope, leave: Callable[[], object] | None = None) -> None:
        self._scopes, self._inner, self._leave = scopes, inner, leave
        self.entered = False

    def __enter__(self) -> None:
        self.entered = True
        self._scopes.append(self._inner)

    def __exit__(self, *exception: object) -> None:
        self._scopes.pop()
        if self._leave is not None:
            self._leave()


def _warn(message: str, where: str) -> None:
    import warnings

    file, _, line = where.rpartition(":")
    warnings.warn_explicit(message, RouterWarning, file, int(line))


# --- What a route answers with ------------------------------------------------------------


def _target_steps(target: Any, action: str | None, where: str) -> tuple[tuple[_Step, ...], str, str | None, str]:
    """Return the steps that answer a route, its label, its action, and the name of its helper."""
    if action is not None and hasattr(type(target), "_action_steps"):
        name = type(target).__name__
        raise DefinitionError(f"{where}: expected a controller, got an instance of one: write `{name}`, not `{name}()`")
    if action is not None and not (isinstance(target, type) and isinstance(action, str)):
        raise DefinitionError(
            f"{where}: expected a controller and the name of an action, or a function, got {target!r}, {action!r}\n"
            'Write `get("/users/:id", UserController, "show")`, or `get("/users/:id", show_user)`.'
        )
    if isinstance(target, type) and hasattr(target, "_action_steps"):  # a controller: see its chapter
        controller: Any = target
        action = str(controller._resolve_action(action or "index", where))
        label, name = f"{controller.__name__}.{action}/2", _unsuffix(controller.__name__, "Controller")
        return controller._action_steps(action, where), label, action, name
    if isinstance(target, _Forward):
        return ((_INLINE, target, target),), f"{target.label} []", None, ""
    if isinstance(target, type) or not callable(target):
        entry = PlugEntry(target, (action,) if action else (), {}, where)
        return _steps([entry]), f"{target.__name__} []", action, _unsuffix(target.__name__, "Plug")
    is_action = _takes_arguments(target, 2)
    if not is_action and not _takes_arguments(target, 1) and _takes_arguments(target, 3):
        from inspect import signature

        shape, name = signature(target), _name_of(target)
        owner, method = name.split(".")[-2:]
        hint = f'`get("/", {owner}, "{method}")`' if "self" in shape.parameters else '`forward("/", app)` for ASGI'
        raise DefinitionError(
            f"{where}: a route takes a function of conn, or of conn and params, got {name}{shape}\nWrite {hint}."
        )
    entry = _Action(target, _name_of(target), where) if is_action else PlugEntry(target, (), {}, where)
    name = getattr(target, "__name__", underscore(type(target).__name__))
    return _steps([entry]), f"{name}/{2 if is_action else 1}", None, "" if name == "<lambda>" else name


class _Action(PlugEntry):
    """What answers a route, as the last of its plugs. *fallback* answers when it does not return the conn."""

    __slots__ = ("fallback",)

    def __init__(self, target: Callable[..., Any], name: str, where: str, fallback: Any = None) -> None:
        self.where, self.name, self._only, self._except, self.fallback = where, name, None, (), fallback
        self.runs = _where_it_runs(target)
        self.call = lambda conn: target(conn, conn.params)

    def reject(self, conn: Any, result: object) -> Any:
        if result is not None and self.fallback is not None:
            return run_steps(conn, _steps([PlugEntry(self.fallback, (result,), {}, self.where)]))
        if result is None and conn.state == "unset":
            raise ActionClauseError(
                f"no clause of {self.name} takes the params {conn.params!r}: it ended without a response.\n"
                "Expected it to end with `return conn....`; a `case _:` answers all other params."
            )
        hint = "It sent a response, but ends without `return`." if result is None else f"It returned {result!r}."
        raise PlugError(
            f"{self.name} must return the conn. {hint}\nWrite `return conn.text(...)` or `return conn.render(...)`."
        )


def _takes_arguments(target: Any, count: int) -> bool:
    from inspect import signature

    try:
        signature(target).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


# --- Forwarding ---------------------------------------------------------------------------


class _Forward:
    """A plug that hands everything below a path to another plug, a router, or a WSGI or ASGI application."""

    def __init__(self, target: Any, depth: int, where: str) -> None:
        self.name = _name_of(target)
        self.label = self.name.rpartition(".")[2]
        self.depth = depth
        self.guest = _guest_of(target)
        self.takes_body = self.guest is not None
        target = self.guest or target
        self.router = target if isinstance(target, type) and issubclass(target, Router) else None
        self.steps = _steps([PlugEntry(target, (), {}, where)])

    def __call__(self, conn: Any) -> Any:
        saved = conn.path_info, conn.script_name
        conn.script_name = [*saved[1], *saved[0][: self.depth]]
        conn.path_info = saved[0][self.depth :]
        if self.router is not None:  # for its helpers; under None is where the app itself is mounted
            conn.private.setdefault("phoenix_forwards", {None: saved[1]})[self.router] = conn.script_name
        result = run_steps(conn, self.steps)
        if result is not conn:
            return self._restore_later(result, saved)
        conn.path_info, conn.script_name = saved
        return conn

    async def _restore_later(self, rest: Any, saved: Any) -> Any:
        conn = await rest
        conn.path_info, conn.script_name = saved
        return conn


def _guest_of(target: Any) -> _ASGIPlug | _WSGIPlug | None:
    """Return the plug that answers with *target* when that is an ASGI 3 or WSGI application, and no plug itself."""
    takes = {count for count in range(4) if _takes_arguments(target, count)}
    if isinstance(target, type):  # which makes a WSGI response when it is made
        return _WSGIPlug(target) if 2 in takes and hasattr(target, "__iter__") else None
    is_wrapper = 0 in takes  # of `*arguments`, such as that of `wsgiref.validate`: a plug says that it takes a conn
    if 3 in takes and (2 not in takes or is_wrapper and _where_it_runs(target) in (_STEPPED, _AWAITED)):
        return _ASGIPlug(target)
    return _WSGIPlug(target) if 2 in takes and (1 not in takes or is_wrapper) else None


class _WSGIPlug:
    """Answer with a WSGI application (PEP 3333); all of it happens in one worker thread."""

    runs = _WORKER

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    def __call__(self, conn: Any) -> Any:
        head: list[Any] = []
        written: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if exc_info and conn.state != "unset":  # too late for the page of an error
                raise exc_info[1]
            head[:] = [status, headers]
            return written.append

        parts = self.app(_wsgi_environ(conn), start_response)
        try:
            return self._send(conn, head, written, iter(parts))
        finally:
            if hasattr(parts, "close"):
                parts.close()

    def _send(self, conn: Any, head: list[Any], written: list[bytes], parts: Iterator[bytes]) -> Any:
        """Send a short response whole, and of a long one each part as it comes."""
        size = 0
        for part in parts:
            written.append(part)
            size += len(part)
            if size > 65_536:
                break
        if not head:  # it may come as late as with the first part
            raise PlugError(f"the WSGI application {_name_of(self.app)} did not call start_response")
        status, headers = int(head[0][:3]), head[1]
        _put_guest_headers(conn, headers)
        if size <= 65_536:
            return conn.send_resp(status, b"".join(written))
        conn.send_chunked(status).chunk(b"".join(written))
        for part in parts:
            conn.chunk(part)
        return conn


def _put_guest_headers(conn: Any, headers: Iterable[tuple[str, str]]) -> None:
    """Let a response have the headers of an application, but for those that the server writes."""
    conn.delete_resp_header("cache-control")
    conn.prepend_resp_headers([(name, value) for name, value in headers if name.lower() not in _OF_THE_SERVER])


def _latin1_pairs(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]


def _guest_paths(conn: Any) -> tuple[str, str]:
    """Return where an application is mounted, and the rest of the path, both as the request has them."""
    slash = "/" if conn.path_info and conn.request_path.endswith("/") else ""
    return "".join(f"/{segment}" for segment in conn.script_name), "/" + "/".join(conn.path_info) + slash


def _wsgi_environ(conn: Any) -> dict[str, Any]:
    """Return the environment of PEP 3333 for a conn."""
    body = conn.read_body()
    root, path = [unquote_to_bytes(text).decode("latin-1") for text in _guest_paths(conn)]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": conn.method, "SCRIPT_NAME": root, "PATH_INFO": path, "QUERY_STRING": conn.query_string,
        "SERVER_NAME": conn.host, "SERVER_PORT": str(conn.port), "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": conn.remote_ip, "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0), "wsgi.url_scheme": conn.scheme,
        "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr,
        "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
    }  # fmt: skip
    for name, value in conn.req_headers:
        key = "CONTENT_TYPE" if name == "content-type" else "HTTP_" + name.upper().replace("-", "_")
        if key in environ:
            value = f"{environ[key]}{'; ' if name == 'cookie' else ', '}{value}"
        if name != "content-length" and "_" not in name:  # `X_User` would pass for the `X-User` of a proxy
            environ[key] = value
    return environ


class _GuestHearsNobody(ClientDisconnected, OSError):
    """``ClientDisconnected`` for an ASGI application, which expects an ``OSError`` when it sends to nobody."""


class _ASGIPlug:
    """Answer with an ASGI application, on the event loop. It is started and stopped with the server.

    Its WebSockets are the endpoint's business: this chapter knows none.
    """

    runs = _AWAITED

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app
        self.state: dict[str, Any] = {}  # what it keeps from its start on, for each request to see
        self.told: Any = None  # queues of the lifespan protocol: what it is told, ...
        self.answers: Any = None  # ... and what it answers
        self.task: Any = None
        self.users = 0  # endpoints that have started it

    async def __call__(self, conn: Any) -> Any:
        if conn._req_header("upgrade").lower() == "websocket":
            return await conn.endpoint._become_websocket_of(conn, self.app, self.scope(conn, "websocket"))
        start: Any = None
        unread = True

        async def receive() -> dict[str, Any]:
            nonlocal unread
            part = await conn.adapter.read(conn) if unread else await _forever()
            unread = bool(part)
            return {"type": "http.request", "body": part, "more_body": unread}

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                try:
                    await self._send_part(conn, start, message)
                except ClientDisconnected:
                    raise _GuestHearsNobody from None

        await self.app(self.scope(conn, "http"), receive, send)
        if conn.state == "unset":
            raise PlugError(f"the ASGI application {_name_of(self.app)} ended without a response")
        return conn

    async def _send_part(self, conn: Any, start: Mapping[str, Any], message: Mapping[str, Any]) -> None:
        body = message.get("body", b"")
        if conn.state == "unset":
            _put_guest_headers(conn, _latin1_pairs(start.get("headers", ())))
            if not message.get("more_body", False):
                conn.send_resp(start["status"], body)
                return
            conn.send_chunked(start["status"])
        if body:
            await conn.chunk(body)

    def scope(self, conn: Any, kind: str) -> dict[str, Any]:
        """Return what ASGI tells about a request."""
        root, path = _guest_paths(conn)
        path = root + path
        scope: dict[str, Any] = {
            "type": kind, "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
            "scheme": conn.scheme, "path": unquote_to_bytes(path).decode(errors="replace"), "raw_path": path.encode(),
            "root_path": unquote_to_bytes(root).decode(errors="replace"), "query_string": conn.query_string.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in conn.req_headers],
            "client": (conn.remote_ip, 0), "server": (conn.host, conn.port), "state": dict(self.state),
        }  # fmt: skip
        if kind == "http":
            return {**scope, "method": conn.method}
        offered = ",".join(conn._req_headers.get("sec-websocket-protocol", ()))
        names = [name.strip() for name in offered.split(",") if name.strip()]
        scheme = "wss" if conn.scheme == "https" else "ws"
        return {**scope, "scheme": scheme, "subprotocols": names, "extensions": {"websocket.http.response": {}}}

    # --- The lifespan protocol --------------------------------------------------------------

    async def start(self) -> None:
        """Start the application, if it wants to know. Raises ``PhoenixError`` when it cannot start."""
        import asyncio

        if self.task is not None and not self.task.done() and self.task.get_loop() is asyncio.get_running_loop():
            self.users += 1  # another endpoint with this router has started it
            return
        self.users = 1
        self.told, self.answers = asyncio.Queue(), asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self.task = asyncio.ensure_future(self.app(scope, self.told.get, self.answers.put))
        await self._tell("startup")

    async def stop(self) -> None:
        self.users -= 1
        if self.users < 1:
            await self._tell("shutdown")
            self.task.cancel()

    async def _tell(self, event: str) -> None:
        import asyncio

        if self.task.done():
            return
        self.told.put_nowait({"type": f"lifespan.{event}"})
        answer = asyncio.ensure_future(self.answers.get())
        await asyncio.wait([answer, self.task], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():  # it ended without an answer, or raised: this protocol is not for it
            answer.cancel()
            self.task.exception()
        elif answer.result()["type"].endswith(".failed"):
            message = answer.result().get("message", "")
            raise PhoenixError(f"the ASGI application {_name_of(self.app)} failed at its {event}: {message}")


async def _forever() -> bytes:
    import asyncio

    await asyncio.get_running_loop().create_future()  # until this task is cancelled, as it is when the client is gone
    return b""


# --- The router ---------------------------------------------------------------------------


class Router(metaclass=_Recording):
    """A table of routes, written as a class body::

        class MyRouter(Router):
            with pipeline("browser"):
                plug(Conn.accepts, "html")
            with scope("/"):
                pipe_through("browser")
                get("/pages/:page", PageController, "show")
                resources("/users", UserController)

    Mistakes raise ``DefinitionError`` when the class is made. ``MyRouter.routes`` is the table, ``MyRouter.helpers``
    its named paths. A router that extends another has its pipelines, and its routes before those of its own.
    """

    routes: ClassVar[list[Route]] = []
    helpers: ClassVar[Helpers]
    _pipelines: ClassVar[dict[str, list[PlugEntry]]] = {}
    _tables: ClassVar[dict[str, _Table]] = {"*": _Table([])}  # verb -> its routes, and those for any verb
    _forwards: ClassVar[dict[type[Router], str]] = {}  # the routers below this one, and where

    @classmethod
    def _recorder(cls) -> _RouterRecorder:
        return _RouterRecorder(cls._pipelines)

    @classmethod
    def _recorded(cls, recorder: _RouterRecorder) -> None:
        from copy import copy

        cls._pipelines = recorder.pipelines
        cls.routes = [*map(copy, cls.routes), *recorder.routes()]
        cls._forwards = {}
        for index, route in enumerate(cls.routes):
            route.index = index
            of_plug = getattr(route.plug, "_route_private", None)
            route.private = {
                **(of_plug(route.action) if of_plug else {}), **route.private,
                "phoenix_router": cls, "phoenix_route": route, "phoenix_pipelines": route.pipe_through,
            }  # fmt: skip
            if isinstance(route.plug, _Forward) and route.plug.router is not None:
                for router, path in {route.plug.router: "", **route.plug.router._forwards}.items():
                    cls._forwards.setdefault(router, route.path.rstrip("/") + path)
        verbs = {"*": None, **{route.verb: None for route in cls.routes}}
        cls._tables = {verb: _Table([route for route in cls.routes if route.verb in (verb, "*")]) for verb in verbs}
        cls.helpers = Helpers(cls)
        cls._warn_of_unreachable_routes()
        cls._warn_of_hidden_helpers()

    @classmethod
    def _warn_of_unreachable_routes(cls) -> None:
        longest = max((len(route.segments) for route in cls.routes), default=0) + 1
        for route in cls.routes:
            search = cls._tables[route.verb].search
            hosts = [own + "\0" if own.endswith(".") else own for own in route.hosts] or ["\0"]
            samples = ((path, host) for host in hosts for path in route.sample_paths(longest))
            found = (search(path, host) or route for path, host in samples)
            earlier = next(found)
            if earlier is not route and all(other.index < route.index for other in found):
                _warn(
                    f"{route.verb} {route.path} can never match: {earlier.verb} {earlier.path} at {earlier.where}"
                    " takes all its requests. Write the more specific route first.",
                    route.where,
                )

    @classmethod
    def _warn_of_hidden_helpers(cls) -> None:
        known: dict[tuple[Any, ...], Route] = {}
        for route in cls.routes:
            if route.helper is not None:
                earlier = known.setdefault((route.helper, route.action, len(route.names)), route)
                if earlier.path != route.path:
                    shown = ", ".join(["conn", *map(repr, filter(None, [route.action])), *route.names])
                    _warn(
                        f"{route.path} has the same helper as {earlier.path} at {earlier.where}:"
                        f" {route.helper}_path({shown}). Give one of them a name with as_=.",
                        route.where,
                    )

    @classmethod
    def _match(cls, method: str, segments: Sequence[str], host: str = "") -> tuple[Route, dict[str, Any]] | None:
        """Return the route that answers, and its parameters; *segments* are decoded already."""
        route = (cls._tables.get(method) or cls._tables["*"]).search(segments, host)
        return None if route is None else (route, route.path_params(segments))

    @classmethod
    def route_info(cls, method: str, path: str, host: str = "") -> dict[str, Any] | None:
        """Tell which route answers a request::

            Router.route_info("GET", "/users/7")
            {"route": "/users/:id", "plug": UserController, "action": "show", "path_params": {"id": "7"},
             "pipe_through": ["browser"], "helper": "user"}

        Returns ``None`` when none does.
        """
        found = cls._match(method.upper(), [_decode_segment(part) for part in path.split("/") if part], host)
        if found is None:
            return None
        route, path_params = found
        return {
            "route": route.path, "plug": route.plug, "action": route.action, "path_params": path_params,
            "pipe_through": route.pipe_through, "helper": route.helper,
        }  # fmt: skip

    def __call__(self, conn: Any) -> Any:
        table = self._tables.get(conn.method) or self._tables["*"]
        # A path that nobody has taken apart yet stands for itself; a plug before this one may have changed it.
        route = table.static.get(conn.request_path) if conn._path_info is None else None
        if route is None:
            segments = conn.path_info
            if "%" in conn.request_path:
                segments = [_decode_segment(segment) for segment in segments]
            route = table.search(segments, conn.host)
            if route is None:
                raise self._no_route(conn, segments)
            if route.names:
                conn._put_path_params(route.path_params(segments))
        if conn.private:
            conn.private.update(route.private)
        else:
            conn.private = route.private.copy()
        if route.assigns:
            conn.assigns.update(route.assigns)
        if logger.isEnabledFor(10):  # logging.DEBUG
            _log_dispatch(conn, route)
        return run_steps(conn, route.steps)

    @classmethod
    def _allowed_verbs(cls, segments: Sequence[str], host: str) -> list[str]:
        """Return the verbs that routes for a path take."""
        allowed = {verb for verb, table in cls._tables.items() if table.search(segments, host)}
        return sorted(allowed | {"HEAD"} if "GET" in allowed else allowed)  # which is answered like GET

    def _no_route(self, conn: Any, segments: Sequence[str]) -> PhoenixError:
        allowed = self._allowed_verbs(segments, conn.host)
        if not allowed:
            return NoRouteError(conn, type(self))
        error = MethodNotAllowedError(conn, allowed)
        conn._resp_headers["allow"] = (", ".join(error.allowed),)
        return error


def _log_dispatch(conn: Any, route: Route) -> None:
    """Log what answers a request, and with which params, secrets left out."""
    try:
        shown = _shown_params(conn.params, conn.endpoint)
    except BadRequestError:
        shown = "[UNFETCHED]"
    logger.debug("Processing with %s\n  Parameters: %s\n  Pipelines: %s", route.label, shown, route.pipe_through)


def format_routes(
    router: type[Router], routes: Iterable[Route] | None = None, *, paint_verb: Callable[[str], str] = str
) -> str:
    """Return the table of routes as text: helper, verb, path and action, in columns.

    *routes* are those to list, all unless given; *paint_verb* may put a colour around a verb and the space behind it.
    """
    rows = [
        (f"{route.helper}_path" if route.helper else "", route.shown_verb, route.path, route.label)
        for route in (router.routes if routes is None else routes)
    ]
    first, second, third = (max((len(row[column]) for row in rows), default=0) for column in range(3))
    return "".join(
        f"{name:>{first}}  {paint_verb(f'{verb:<{second}}')}  {path:<{third}}  {label}\n"
        for name, verb, path, label in rows
    )


# --- Words of a router's body -------------------------------------------------------------
#
# Every verb takes a path, then what answers it: a controller class and the name of an action, or
# a function. `as_` names the helper, `as_=None` leaves it out; `assigns` and `private` are put
# into the conn when the route matches.

if TYPE_CHECKING:

    class _VerbWord(Protocol):
        def __call__(
            self, path: str, target: Callable[..., Any], action: str | None = None, *, as_: str | bool | None = True,
            assigns: Mapping[str, Any] | None = None, private: Mapping[str, Any] | None = None,
        ) -> None: ...


def match(
    verbs: str | Iterable[str], path: str, target: Callable[..., Any], action: str | None = None, *,
    as_: str | bool | None = True, assigns: Mapping[str, Any] | None = None, private: Mapping[str, Any] | None = None,
) -> None:
    """Answer a verb without a word of its own, several, or any: ``match("MOVE", ...)``, ``match("*", "/x", mover)``."""
    recorder, where = _recorder("route", "a router", "match"), _caller()
    for verb in [verbs] if isinstance(verbs, str) else verbs:
        recorder.route(verb.upper(), path, target, action, where, as_=as_, assigns=assigns, private=private)


def _verb_word(verb: str) -> _VerbWord:
    def word(
        path: str, target: Callable[..., Any], action: str | None = None, *, as_: str | bool | None = True,
        assigns: Mapping[str, Any] | None = None, private: Mapping[str, Any] | None = None,
    ) -> None:
        recorder = _recorder("route", "a router", verb.lower())
        recorder.route(verb, path, target, action, _caller(), as_=as_, assigns=assigns, private=private)

    word.__name__ = word.__qualname__ = verb.lower()
    word.__doc__ = f"Answer {verb} requests at *path*: ``{verb.lower()}(\"/pages/:page\", PageController, \"show\")``."
    return word


get = _verb_word("GET")
post = _verb_word("POST")
put = _verb_word("PUT")
patch = _verb_word("PATCH")
delete = _verb_word("DELETE")
options = _verb_word("OPTIONS")
head = _verb_word("HEAD")
connect = _verb_word("CONNECT")
trace = _verb_word("TRACE")


def pipeline(name: str) -> Block:
    """Name a list of plugs, to be run by ``pipe_through``: ``with pipeline("browser"): plug(Conn.fetch_session)``."""
    block: Block = _recorder("pipeline", "a router").pipeline(name, _caller())
    return block


def pipe_through(*pipes: str | Callable[..., Any]) -> None:
    """Run pipelines, given by name, or plugs, before every route that follows in this scope."""
    _recorder("pipe_through", "a router").pipe_through(pipes, _caller())


def scope(
    path: str = "", *, as_: str | bool | None = None, host: str | Iterable[str] | None = None,
    assigns: Mapping[str, Any] | None = None, private: Mapping[str, Any] | None = None,
) -> Block:
    """Give the routes of a block a common path, helper name (``as_``), host or assigns::

        with scope("/api", as_="api", host="api."):
            get("/users", UserController, "index")      # api_user_path

    A host that ends in a dot is a prefix. ``as_=False`` drops the names of outer scopes.
    """
    block: Block = _recorder("scope", "a router").scope(path, as_, host, assigns, private, _caller())
    return block


def resources(
    path: str, target: Callable[..., Any], *, only: Iterable[str] | None = None, except_: Iterable[str] | None = None,
    param: str = "id", name: str | None = None, as_: str | None = None, singleton: bool = False,
) -> Block:
    """Write the eight routes of a resource: index, edit, new, show, create, update (PATCH and PUT) and destroy.

    As a block it nests: ``with resources("/users", UserController): resources("/comments", CommentController)``.
    *singleton* leaves out index and the id. *name* names helper and nested parameter, *as_* the helper alone.
    """
    settings = {"only": only, "except_": except_, "param": param, "name": name, "as_": as_, "singleton": singleton}
    block: Block = _recorder("resources", "a router").resources(path, target, settings, _caller())
    return block


def resource(
    path: str, target: Callable[..., Any], *, only: Iterable[str] | None = None, except_: Iterable[str] | None = None,
    name: str | None = None, as_: str | None = None,
) -> Block:
    """Write the routes of a resource of which there is one: ``resources(..., singleton=True)``."""
    settings = {"only": only, "except_": except_, "param": "id", "name": name, "as_": as_, "singleton": True}
    block: Block = _recorder("resources", "a router", "resource").resources(path, target, settings, _caller())
    return block


def member() -> Block:
    """Inside ``resources``: routes of one of its items, such as ``POST /users/:id/ban``."""
    block: Block = _recorder("extra_routes", "a router", "member").extra_routes("member", _caller())
    return block


def collection() -> Block:
    """Inside ``resources``: routes of the whole, such as ``GET /users/search``."""
    block: Block = _recorder("extra_routes", "a router", "collection").extra_routes("collection", _caller())
    return block


def forward(
    path: str, target: Callable[..., Any], *, assigns: Mapping[str, Any] | None = None,
    private: Mapping[str, Any] | None = None,
) -> None:
    """Hand everything below *path* to a plug, another router, or any WSGI or ASGI application, WebSockets included.

    The target sees the rest of the path; ``conn.script_name`` holds what was taken off.
    """
    settings = {"assigns": assigns, "private": private}
    _recorder("forward", "a router").forward(path, target, settings, _caller())


# ==========================================================================================
# 9. Controllers            depends on: Ground, Conn, Plug, Params, Session, Views, Router
# ==========================================================================================
#
# A controller is a class of actions. An action takes the conn and its params and returns the
# conn with a response. The controller's own plugs run before it, and can be limited to some
# actions. What an action usually ends with stands here too: `text`, `json`, `html`, `redirect`,
# and `render`, which finds the view by the controller's name, the format by what the client
# accepts, and the layout. What visitors read can be translated to their language.
#
# Sources: Phoenix.Controller, Phoenix.Controller.Pipeline; RFC 9110 §12.5.1 (Accept).

__all__ += ["Controller", "Conn", "NotAcceptableError", "negotiate", "Translations", "TranslationError"]


class NotAcceptableError(PhoenixError):
    """The client accepts none of the formats that this pipeline offers: status 406."""

    status = 406

    def __init__(self, message: str, accepts: Sequence[str]) -> None:
        self.accepts = list(accepts)
        super().__init__(message)


# --- Negotiation --------------------------------------------------------------------------


def negotiate(accept: str, formats: Sequence[str]) -> str:
    """Choose one of *formats* by an ``Accept`` header.

    >>> negotiate("application/json;q=0.9, text/html;q=0.8", ["html", "json"])
    'json'

    Without a header, or with ``*/*`` alone, it is the first. A browser's list, which names ``*/*`` among others, gets
    html where html is offered. Raises ``NotAcceptableError``.
    """
    accept = accept.strip()
    if accept in ("", "*/*"):
        return formats[0]
    if "*/*" in accept and "html" in formats:
        return "html"
    weighted: list[tuple[float, str, str]] = []
    for entry in accept.split(","):
        media_type, quality = _parse_accept(entry)
        chosen = _format_of(media_type, formats)
        if chosen is None or quality == 0:
            continue
        if quality == 1:
            return chosen
        weighted.append((-quality, entry.strip(), chosen))
    if weighted:
        return min(weighted)[2]
    raise NotAcceptableError(_not_acceptable(accept, formats), formats)


_QUALITY = re.compile(r"0(?:\.\d*)?|1(?:\.0*)?")


def _parse_accept(entry: str) -> tuple[str, float]:
    """Return media type and quality of one entry of an ``Accept`` header; no or a bad quality is 1."""
    media_type, *parameters = entry.split(";")
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "q" and _QUALITY.fullmatch(value):
            quality = float(value)
    return media_type.strip().lower(), quality


def _format_of(media_type: str, formats: Sequence[str]) -> str | None:
    """Return the first of *formats* that *media_type*, or a range such as ``text/*``, stands for."""
    if media_type == "*/*":
        return formats[0]
    kind, _, subtype = media_type.partition("/")
    if subtype == "*":
        return next((known for known in formats if MIME.type(known).startswith(kind + "/")), None)
    return next((known for known in MIME.extensions(media_type) if known in formats), None)


def _not_acceptable(accept: str, formats: Sequence[str]) -> str:
    shown = jsonlib.dumps
    given = [_parse_accept(entry)[0] for entry in accept.split(",")]
    return (
        f"no supported media type in accept header.\n\nExpected one of {shown(list(formats))}"
        " but got the following formats:\n\n"
        + "\n".join(f"  * {shown(each)} with extensions: {shown(MIME.extensions(each))}" for each in given)
        + '\n\nTo accept custom formats, register them: MIME.register("application/vnd.api+json", "json-api")'
    )


# --- Translations -------------------------------------------------------------------------
#
# A text stands in the code in the language it was written in, and is looked up, as it stands, in
# the catalog of the visitor's language. A catalog is a file of GNU gettext, which translators know
# and have editors for; it is read as it is, without a step that compiles it. What has no
# translation is shown as it was written.
#
# Sources: the GNU gettext manual, chapters "PO Files" and "Plural forms"; RFC 4647 §3.4 (look-up of
# language tags); Elixir's Gettext, from which `%{name}` comes.


class TranslationError(PhoenixError):
    """A catalog cannot be read, or a text lacks a value for its ``%{name}``."""


class _Entry:
    """One entry of a catalog. *forms* are its translations: one, or as many as the language has plural forms."""

    __slots__ = ("context", "id", "plural", "forms", "comments", "references", "flags", "obsolete", "line")

    def __init__(self, context: str | None, id: str, plural: str | None, forms: Sequence[str]) -> None:
        self.context, self.id, self.plural, self.forms = context, id, plural, list(forms)
        self.comments: list[str] = []  # lines that begin with `# `, `#.` or `#|`
        self.references: list[str] = []  # app.py:12
        self.flags: list[str] = []  # fuzzy
        self.obsolete = False
        self.line = 0

    @property
    def key(self) -> tuple[str | None, str]:
        return self.context, self.id


_PO_LINE = re.compile(r'(?:(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s*)?"((?:[^"\\]|\\.)*)"')
_PO_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def _parse_po(text: str, file: str) -> list[_Entry]:
    """Read a catalog; its header is the entry with the id ``""``. Raises ``TranslationError`` with file and line."""
    entries: list[_Entry] = []
    notes: list[str] = []  # the comments in front of an entry
    texts: dict[str, str] = {}  # msgid, msgstr[0], ... -> text
    started, word, obsolete = 0, "", False
    for number, line in enumerate([*text.removeprefix("\ufeff").split("\n"), ""], 1):
        line = line.strip()
        dead = line.startswith("#~") and not line.startswith("#~|")
        if dead:
            line = line[2:].lstrip()
        found = _PO_LINE.fullmatch(line)
        is_first = line.startswith("#") or found is not None and found[1] in ("msgctxt", "msgid")
        if texts and (not line or is_first and word.startswith("msgstr")):
            entries.append(_made_entry(texts, notes, file, started))
            entries[-1].obsolete = obsolete
            notes, texts = [], {}
        if not line or line.startswith("#"):
            notes += filter(None, [line])
        elif found is None:
            raise TranslationError(f'{file}:{number}: expected a line such as msgid "text", got: {line}')
        elif found[1] in texts:
            raise TranslationError(f"{file}:{number}: this entry has a {found[1]} already")
        elif found[1] is None and not texts:
            raise TranslationError(f"{file}:{number}: text belongs behind msgid or msgstr, got: {line}")
        else:
            started = started if texts else number
            word, obsolete = found[1] or word, dead
            more = re.sub(r"\\(.)", lambda escaped: _PO_ESCAPES.get(escaped[1], escaped[1]), found[2])
            texts[word] = texts.get(word, "") + more
    return entries


def _made_entry(texts: dict[str, str], notes: list[str], file: str, line: int) -> _Entry:
    plural = texts.get("msgid_plural")
    names = [name for name in texts if name.startswith("msgstr")]
    expected = ["msgstr"] if plural is None else [f"msgstr[{at}]" for at in range(len(names))]
    if "msgid" not in texts or not names or sorted(names) != sorted(expected):
        shape = "msgid and msgstr" if plural is None else "msgid, msgid_plural, msgstr[0], msgstr[1] and so on"
        raise TranslationError(f"{file}:{line}: expected {shape}, got: {', '.join(texts)}")
    entry = _Entry(texts.get("msgctxt"), texts["msgid"], plural, [texts[name] for name in expected])
    entry.line = line
    for note in notes:
        if note.startswith("#:"):
            entry.references += note[2:].split()
        elif note.startswith("#,"):
            entry.flags += [flag.strip() for flag in note[2:].split(",")]
        else:
            entry.comments.append(note)
    return entry


# What languages do with numbers, for catalogs whose header does not say it. Others are as English.
_PLURAL_FORMS = {
    language: forms
    for languages, forms in (
        ("ja zh yue ko vi th id ms lo my km jv su", "nplurals=1; plural=0;"),
        ("fr pt_BR hy am fa hi bn gu kn pa si zu mg ti", "nplurals=2; plural=(n > 1);"),
        ("is mk", "nplurals=2; plural=(n%10==1 && n%100!=11 ? 0 : 1);"),
        ("he", "nplurals=3; plural=(n==1 ? 0 : n==2 ? 1 : 2);"),
        ("ru uk be sr hr bs", "nplurals=3; plural=(n%10==1 && n%100!=11 ? 0"
         " : n%10>=2 && n%10<=4 && (n%100<12 || n%100>14) ? 1 : 2);"),
        ("cs sk", "nplurals=3; plural=(n==1 ? 0 : n>=2 && n<=4 ? 1 : 2);"),
        ("pl", "nplurals=3; plural=(n==1 ? 0 : n%10>=2 && n%10<=4 && (n%100<12 || n%100>14) ? 1 : 2);"),
        ("lt", "nplurals=3; plural=(n%10==1 && (n%100<11 || n%100>19) ? 0"
         " : n%10>=2 && (n%100<11 || n%100>19) ? 1 : 2);"),
        ("lv", "nplurals=3; plural=(n%10==0 || (n%100>=11 && n%100<=19) ? 0 : n%10==1 && n%100!=11 ? 1 : 2);"),
        ("ro", "nplurals=3; plural=(n==1 ? 0 : n==0 || (n%100>0 && n%100<20) ? 1 : 2);"),
        ("sl", "nplurals=4; plural=(n%100==1 ? 0 : n%100==2 ? 1 : n%100==3 || n%100==4 ? 2 : 3);"),
        ("ga", "nplurals=5; plural=(n==1 ? 0 : n==2 ? 1 : n>=3 && n<=6 ? 2 : n>=7 && n<=10 ? 3 : 4);"),
        ("cy", "nplurals=6; plural=(n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n==3 ? 3 : n==6 ? 4 : 5);"),
        ("ar", "nplurals=6; plural=(n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5);"),
    )
    for language in languages.split()
}  # fmt: skip


def _plural_forms(locale: str) -> str:
    """Return the ``Plural-Forms`` of a locale: of ``de_AT`` those of ``de``."""
    return next((_PLURAL_FORMS[name] for name in _lineage_of(locale) if name in _PLURAL_FORMS),
                "nplurals=2; plural=(n != 1);")  # fmt: skip


def _lineage_of(locale: str) -> Iterator[str]:
    """Yield a locale and those it is a part of: ``zh_Hant_TW``, ``zh_Hant``, ``zh``."""
    while locale:
        yield locale
        locale = locale.rpartition("_")[0]


class _Catalog:
    """The translations of one locale: of what is there in *entries*, what can be shown."""

    __slots__ = ("forms", "plural")

    def __init__(self, entries: Iterable[_Entry], locale: str, file: str) -> None:
        self.forms: dict[str, list[str]] = {}
        lines: dict[tuple[str | None, str], int] = {}
        rule, rule_line = _plural_forms(locale), 1
        for entry in entries:
            if entry.obsolete:
                continue
            if entry.key in lines:
                first = lines[entry.key]
                raise TranslationError(f"{file}:{entry.line}: {entry.id!r} is translated already, in line {first}")
            lines[entry.key] = entry.line
            if entry.key == (None, ""):
                header = re.search(r"(?i)^plural-forms:(.*)$", entry.forms[0], re.MULTILINE)
                if header is not None and "INTEGER" not in header[1]:  # as it stands in templates
                    rule, rule_line = header[1], entry.line
            elif any(entry.forms) and "fuzzy" not in entry.flags and entry.context is None:
                _check_bindings(entry, f"{file}:{entry.line}")
                self.forms[entry.id] = entry.forms
        self.plural = _plural_rule(rule, f"{file}:{rule_line}")

    def find(self, text: str, count: int | None) -> str:
        """Return a translation, or ``""``."""
        forms = self.forms.get(text)
        if forms is None:
            return ""
        at = 0 if count is None else self.plural(abs(count))
        return forms[at] if at < len(forms) else ""


def _check_bindings(entry: _Entry, where: str) -> None:
    """Raise ``TranslationError`` where a translation wants values that its text, unless it is a key, does not have."""
    known = set(_BINDING.findall(f"{entry.id} {entry.plural}"))
    unknown = set(_BINDING.findall(" ".join(entry.forms))) - known - {"count"}
    if known and unknown:
        names = ", ".join(f"%{{{name}}}" for name in sorted(unknown))
        raise TranslationError(f"{where}: the translation has {names}, which {entry.id!r} has not")


def _plural_rule(rule: str, where: str) -> Callable[[int], int]:
    """Return the function of a number that ``nplurals=2; plural=(n != 1);`` describes, once it is known to work."""
    from gettext import c2py  # which knows the grammar, and evaluates nothing else

    found = re.fullmatch(r"\s*nplurals\s*=\s*(\d+)\s*;\s*plural\s*=\s*([^;]+);?\s*", rule)
    try:
        if found is None:
            raise ValueError("expected it to look like `nplurals=2; plural=(n != 1);`")
        choose: Callable[[int], int] = c2py(found[2])
        if not all(0 <= choose(number) < int(found[1]) for number in range(200)):
            raise ValueError(f"it has to be less than nplurals={found[1]} for every number")
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise TranslationError(f"{where}: cannot use the Plural-Forms {rule.strip()!r}: {error}") from None
    return choose


_BINDING = re.compile(r"%\{(\w+)\}")


def _interpolated(text: str, bindings: Mapping[str, Any], asked: str) -> str:
    """Put *bindings* into ``%{name}``. With one that is ``Safe``, the result is, and all else in it is escaped."""
    if "%{" not in text:
        return text
    is_html = any(hasattr(value, "__html__") for value in bindings.values())
    show: Callable[[Any], str] = escape if is_html else str

    def value(found: re.Match[str]) -> str:
        if found[1] not in bindings:
            raise TranslationError(f"{asked!r} needs a value for %{{{found[1]}}}: gettext(..., {found[1]}=...)")
        return show(bindings[found[1]])

    found = _BINDING.sub(value, show(text))
    return Safe(found) if is_html else found


class Translations:
    """The translations of an app, which the endpoint makes of its option ``gettext``.

    *from_* is the folder of catalogs, ``<locale>/LC_MESSAGES/default.po``, looked for as ``View.root`` is. *default*
    is the locale of visitors who have asked for none of those that there are. *messages* are further ones, by locale:
    the text of a catalog, or a dict of texts by key, whose dicts inside are joined with dots::

        gettext={"messages": {"de": {"users": {"title": "Benutzer"}}}}     # conn.gettext("users.title")
    """

    def __init__(
        self, *, from_: str | os.PathLike[str] = "priv/gettext", default: str = "en",
        messages: Mapping[str, str | Mapping[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.folder = os.fspath(from_)
        self.default = default
        self.root: str | None = None
        self._places: list[str] = []
        self._given = {
            locale: _parse_po(given, f"messages[{locale!r}]") if isinstance(given, str) else [*_keyed_messages(given)]
            for locale, given in (messages or {}).items()
        }
        self._seen: list[tuple[str, str, int, int]] = []
        self._read()

    def look_beside(self, module: Any) -> None:
        """Read the catalogs in the folder beside *module*. Raises ``TranslationError``."""
        self._places = [os.path.join(place, self.folder) for place in _places_beside(module)]
        self.refresh()

    def refresh(self) -> None:
        """Read the catalogs again if one of them has changed. Raises ``TranslationError``."""
        self.root = next((place for place in self._places if os.path.isdir(place)), None)
        if self._files() != self._seen:
            self._read()

    def _files(self) -> list[tuple[str, str, int, int]]:
        """Return locale, path, time and size of each catalog."""
        found = []
        for locale in sorted(os.listdir(self.root)) if self.root else ():
            path = os.path.join(self.root or "", locale, "LC_MESSAGES", "default.po")
            if os.path.exists(path):
                status = os.stat(path)
                found.append((locale, path, status.st_mtime_ns, status.st_size))
        return found

    def _read(self) -> None:
        files = self._files()
        catalogs = {locale: _Catalog(given, locale, f"messages[{locale!r}]") for locale, given in self._given.items()}
        for locale, path, *_ in files:
            catalog = _Catalog(_read_po(path), locale, path)
            if locale in catalogs:
                catalog.forms = {**catalogs[locale].forms, **catalog.forms}
            catalogs[locale] = catalog
        self._seen = files  # last: a catalog that cannot be read is tried, and reported, again
        self._catalogs = catalogs
        self._names = {name.replace("_", "-").lower(): name for name in (self.default, *catalogs)}

    @property
    def locales(self) -> list[str]:
        """The locales that there are, with the default one."""
        return sorted(self._names.values())

    def find(self, tag: object) -> str | None:
        """Return the locale for a language tag: for ``en-US`` ``en_US``, or else ``en`` (RFC 4647 §3.4)."""
        rest = tag.replace("_", "-").lower() if isinstance(tag, str) and len(tag) <= 64 else ""
        while rest and rest not in self._names:
            rest = rest.rpartition("-")[0]
            rest = rest[:-2] if rest[-2:-1] == "-" else rest  # a single letter was the beginning of what is gone
        return self._names.get(rest)

    def negotiate(self, accept: str) -> str | None:
        """Return the locale that suits an ``Accept-Language`` header best (RFC 9110 §12.5.4)."""
        wanted = [_parse_accept(entry) for entry in accept.split(",")]
        for tag, quality in sorted(wanted, key=lambda entry: -entry[1]):
            found = self.default if tag == "*" else self.find(tag)
            if found is not None and quality:
                return found
        return None

    def translate(
        self, locale: str, text: str, bindings: Mapping[str, Any] | None = None, *, plural: str | None = None,
        count: int | None = None,
    ) -> str:
        """Return *text* in a locale, outside of a request too: ``app.translations.translate("de", "Hello")``.

        Raises ``TranslationError`` for a ``%{name}`` that *bindings* have no value for.
        """
        bindings = bindings or {}
        if plural is not None:
            if not isinstance(count, int):
                raise ArgumentError(f"the count of {text!r} is {count!r}, expected a whole number")
            bindings = {"count": count, **bindings}
        for name in _lineage_of(locale):
            found = self._catalogs[name].find(text, count) if name in self._catalogs else ""
            if found:
                return _interpolated(found, bindings, text)
        return _interpolated(text if plural is None or count == 1 else plural, bindings, text)


def _read_po(path: str) -> list[_Entry]:
    with open(path, "rb") as stream:
        data = stream.read()
    try:
        return _parse_po(data.decode(), path)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TranslationError(f"{path}:{line}: a catalog is kept in UTF-8, and this is none: {error}") from None


def _keyed_messages(given: Mapping[str, Any], prefix: str = "") -> Iterator[_Entry]:
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from _keyed_messages(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield _Entry(None, prefix + key, None, [value])
        else:
            raise TranslationError(f"the message {prefix + key!r} is {value!r}, expected text, or a dict of texts")


class TranslatingConn(SessionConn):
    """The words of a conn for languages."""

    __slots__ = ()

    def _translations(self) -> Translations:
        found: Translations = getattr(self.endpoint, "translations", _UNTRANSLATED)
        if "phoenix_locale" not in self.private and getattr(self.endpoint, "reloads_templates", False):
            found.refresh()  # once in a request
        return found

    @property
    def locale(self) -> str:
        """The locale of this request, such as ``"de"`` or ``"pt_BR"``; the default one until it is fetched or put."""
        if "phoenix_locale" not in self.private:
            self.private["phoenix_locale"] = self._translations().default
        return str(self.private["phoenix_locale"])

    def put_locale(self, locale: str) -> Self:
        """Use a locale, such as that of the user's settings. Raises ``ArgumentError`` for one that there is not."""
        translations = self._translations()
        found = translations.find(locale)
        if found is None:
            raise ArgumentError(f"there is no locale {locale!r}, only {', '.join(translations.locales)}")
        return self.put_private("phoenix_locale", found)

    def fetch_locale(self, key: str = "locale", *, save: bool = False) -> Self:
        """Plug: find the locale of this request: ``plug(Conn.fetch_locale)``, behind ``fetch_session``.

        The first that there is of: the param *key*, the session's, the cookie's, and the ``Accept-Language`` header.
        With *save* a locale that came as a param is kept in the session.
        """
        translations = self._translations()
        session = self.session if save or "plug_session_fetch" in self.private else {}
        found = translations.find(self.params.get(key))
        if found is not None and save:
            session[key] = found
        found = found or translations.find(session.get(key)) or translations.find(self.cookies.get(key))
        if found is None:
            found = translations.negotiate(",".join(self._req_headers.get("accept-language", ())))
            self._resp_headers["vary"] = (*self._resp_headers.get("vary", ()), "Accept-Language")
        return self.put_private("phoenix_locale", found or translations.default)

    def gettext(self, text: str, /, **bindings: Any) -> str:
        """Translate *text* to the locale of this request: ``conn.gettext("Hello %{name}", name="Ann")``.

        What has no translation stays as it is. In templates ``gettext("Hello")`` is enough. The result is plain text,
        and escaped in HTML like any; with a binding that is ``Safe``, such as a link, all but it is escaped here.
        Raises ``TranslationError`` for a ``%{name}`` without a value.
        """
        return self._translations().translate(self.locale, text, bindings)

    def ngettext(self, text: str, plural: str, count: int, /, **bindings: Any) -> str:
        """Translate by number: ``conn.ngettext("one post", "%{count} posts", len(posts))``."""
        return self._translations().translate(self.locale, text, bindings, plural=plural, count=count)


_UNTRANSLATED = Translations()
_GETTEXT = ("gettext", "ngettext")


def _in_templates(name: str) -> Callable[..., str]:
    def translate(*texts: Any, conn: Any = None, **bindings: Any) -> str:
        if conn is None:
            raise ArgumentError(f"{name} in a template needs the conn: render it with conn=conn")
        return getattr(conn, name)(*texts, **bindings)  # type: ignore[no-any-return]

    return translate


_HTML_NAMES.update((name, _in_templates(name)) for name in _GETTEXT)
_CONN_HELPERS.update(_GETTEXT)


# --- Conn: responses ----------------------------------------------------------------------

_TEXT_TYPE = ("text/plain; charset=utf-8",)
_HTML_TYPE = ("text/html; charset=utf-8",)
_JSON_TYPE = ("application/json; charset=utf-8",)
_UNSAFE_IN_REDIRECT = re.compile(r"\\|/%09|[\x00-\x1f\x7f]").search  # what browsers drop, or read as a slash


def _private(key: str, doc: str, default: Any = None) -> Any:
    return property(lambda conn: conn.private.get(key, default), doc=doc)


class Conn(TranslatingConn):
    __doc__ = BaseConn.__doc__

    __slots__ = ()

    def _respond(self, content_type: tuple[str, ...], body: str | bytes) -> Self:
        if self.state != "unset" and self.state != "set":
            raise AlreadySentError
        if "content-type" not in self._resp_headers:
            self._resp_headers["content-type"] = content_type
        if self.status is None:
            self.status = 200
        self.resp_body = body
        self.state = "set"
        if self._before_send:
            self._run_before_send()
        self.state = "sent"
        return self

    def text(self, data: object) -> Self:
        """Answer with plain text, and the status that ``put_status`` has set, or 200."""
        return self._respond(_TEXT_TYPE, data if isinstance(data, (str, bytes)) else str(data))

    def html(self, data: object) -> Self:
        """Answer with HTML. Nothing is escaped: put values from users through ``escape`` or a template."""
        return self._respond(_HTML_TYPE, data if isinstance(data, (str, bytes)) else str(data))

    def json(self, data: Any) -> Self:
        """Answer with JSON. Raises ``ArgumentError`` for values that JSON has no form for."""
        body = encode_json(data)
        callback = self.private.get("phoenix_jsonp")
        if callback is None:
            return self._respond(_JSON_TYPE, body)
        body = body.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        self.put_resp_content_type("text/javascript")
        return self._respond(_TEXT_TYPE, f"/**/ typeof {callback} === 'function' && {callback}({body});")

    def redirect(self, to: str | None = None, *, external: str | None = None) -> Self:
        """Send the client to another path of this site, or with *external* to any URL. The status is 302 unless set.

        Raises ``ArgumentError`` when *to* would lead to another host, so that a path taken from a request is safe.
        """
        url = external if external is not None else to
        if url is None:
            raise ArgumentError('expected :to or :external option in redirect: conn.redirect(to="/")')
        if external is None:
            if not isinstance(url, str) or not url.startswith("/") or url.startswith("//"):
                raise ArgumentError(
                    f'the :to option in redirect expects a path but was "{url}".\n'
                    "For another site write redirect(external=url)."
                )
            if _UNSAFE_IN_REDIRECT(url):
                raise ArgumentError(f"unsafe characters detected for local redirect in URL {jsonlib.dumps(url)}")
        self.put_resp_header("location", quote(url, safe="!#$%&'()*+,/:;=?@[]~"))
        self.put_resp_content_type("text/html")
        body = f'<html><body>You are being <a href="{escape(url)}">redirected</a>.</body></html>'
        return self.send_resp(self.status or 302, body)

    def allow_jsonp(self, *, callback: str = "callback") -> Self:
        """Plug: let ``json`` answer a script tag that names a *callback* in the query."""
        name = self.query_params.get(callback)
        if name:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_$.\[\]]+", name):
                raise BadRequestError("the JSONP callback name contains invalid characters")
            self.private["phoenix_jsonp"] = name
        return self

    # --- Formats --------------------------------------------------------------------------

    def accepts(self, *formats: str) -> Self:
        """Plug: choose the format of the response among *formats*: by ``_format``, or ``format`` in the query, else by
        the Accept header. A content type says what the client sends, and has no say here.

        Raises ``NotAcceptableError`` (406).
        """
        if not formats or formats[0].__class__ is not str:
            formats = tuple(*formats)  # accepts(["html", "json"])
            if not formats:
                raise ArgumentError('accepts needs a format: plug(Conn.accepts, "html")')
        asked = self._asked_format() if self.query_string or self.path_params or self._body_params else None
        if asked is None:
            accept = self._req_headers.get("accept")
            asked = negotiate(",".join(accept), formats) if accept else formats[0]
        elif asked not in formats:
            offered = jsonlib.dumps(list(formats))
            raise NotAcceptableError(f"unknown format {jsonlib.dumps(str(asked))}, expected one of {offered}", formats)
        self.private["phoenix_format"] = asked
        return self

    def _asked_format(self) -> Any:
        """Return what the client names as its format. A form may well have a field called ``format``: that is none."""
        return self.params.get("_format") or (self.query_params.get("format") if self.query_string else None)

    @property
    def format(self) -> str:
        """The format of the response: what ``put_format`` or ``accepts`` chose, what was asked for, or ``"html"``."""
        chosen = self.private.get("phoenix_format")
        if chosen is None:
            asked = self._asked_format()
            chosen = asked if isinstance(asked, str) and asked in MIME._types else "html"
        return str(chosen)

    def put_format(self, format: str) -> Self:
        """Choose the format of the response: ``conn.put_format("json")``."""
        self.private["phoenix_format"] = format
        return self

    # --- Where the request is -------------------------------------------------------------

    router = _private("phoenix_router", "The router that matched, or ``None``.")
    controller = _private("phoenix_controller", "The controller class that answers, or ``None``.")
    action_name = _private("phoenix_action", "The name of the action that answers, or ``None``.")

    @property
    def helpers(self) -> BoundHelpers:
        """The path helpers of the router that matched, for this conn: ``conn.helpers.user_path("show", 7)``."""
        if self.router is None:
            raise PhoenixError("conn.helpers needs a router that has matched the request: use Router.helpers")
        return BoundHelpers(self.router.helpers, self)

    def current_path(self, params: Mapping[str, Any] | None = None) -> str:
        """Return the path of this request with its query, or with *params* as the query."""
        path = "/" + "/".join([*self.script_name, *self.path_info])
        query = self.query_string if params is None else encode_query(params)
        return f"{path}?{query}" if query else path

    def current_url(self, params: Mapping[str, Any] | None = None) -> str:
        """As ``current_path``, with the scheme and host that ``_url`` helpers begin with."""
        endpoint = _endpoint_of(self)
        return str(self.private.get("phoenix_router_url") or endpoint.url("")) + self.current_path(params)

    def put_router_url(self, url: str) -> Self:
        """Let the ``_url`` helpers of this request begin with *url*."""
        return self.put_private("phoenix_router_url", url.rstrip("/"))

    # --- Rendering ------------------------------------------------------------------------

    @property
    def view_module(self) -> Any:
        """The view that has rendered, or will: as ``put_view`` chose it, or found by the controller's name."""
        return self._view(self.format)

    view_template = _private("phoenix_template", "The name of the template that was rendered, or ``None``.")
    layout = _private("phoenix_layout", "What ``put_layout`` or the controller chose: ``None`` for the usual layout.")
    layout_formats = _private("phoenix_layout_formats", "The formats that get a layout.", ("html",))

    def put_view(self, view: Any) -> Self:
        """Choose the view: a class, or one for each format: ``put_view({"html": PageView, "json": PageJSON})``."""
        self._check_unsent()
        return self.put_private("phoenix_view", view)

    def put_layout(self, layout: Any) -> Self:
        """Choose the layout: a name (``"plain"``), a view and a name, or ``None``, ``False`` or ``"none"`` for none."""
        self._check_unsent()
        if layout in (None, False, "none"):
            layout = False
        elif not isinstance(layout, (str, tuple, Mapping)):
            raise ArgumentError(f'put_layout({layout!r}): expected a name, (LayoutView, "plain"), or None')
        elif isinstance(layout, str) and self.layout is False:
            raise ArgumentError(
                f"cannot use put_layout({layout!r}) when layout is false,"
                f" use put_layout((LayoutView, {layout!r})) instead"
            )
        return self.put_private("phoenix_layout", layout)

    def put_layout_formats(self, *formats: str) -> Self:
        """Choose the formats that get a layout; ``"html"`` alone unless chosen."""
        self._check_unsent()
        if len(formats) == 1 and not isinstance(formats[0], str):
            formats = tuple(formats[0])
        return self.put_private("phoenix_layout_formats", formats)

    def render(
        self, template: str | Mapping[str, Any] | None = None, assigns: Mapping[str, Any] | None = None, /, **more: Any
    ) -> Self:
        """Answer with a template of the controller's view, in its layout.

        ``render("show.html", title="Hi")`` names template and format; ``render("show")`` takes the format from the
        response's content type, else from ``accepts``; ``render(title="Hi")`` takes the action's name. The values are
        merged into ``conn.assigns``. ``layout=None`` leaves the layout out this time.

        Raises ``TemplateNotFoundError``, and ``PhoenixError`` when there is no view.
        """
        self._check_unsent()
        if template is not None and not isinstance(template, str):
            template, assigns = None, template
        values = {**(assigns or {}), **more}
        layout = (values.pop("layout") or False) if "layout" in values else self.layout
        self.assigns.update(values)
        name, format = self._name_and_format(template or self.action_name)
        if self.endpoint is not None and self.endpoint.reloads_templates:
            View.refresh()
        view = self._view(format)
        self.private["phoenix_template"] = name
        given = {**self.assigns, "conn": self, "view_module": view, "view_template": name}
        instance = _view_instance(view)
        body = _encoded(instance, name, _render_in_layout(self._layout(layout, format), instance, name, given))
        return self._respond(_HTML_TYPE if format == "html" else (f"{MIME.type(format)}; charset=utf-8",), body)

    def _name_and_format(self, name: str | None) -> tuple[str, str]:
        if name is None:
            raise ArgumentError('render() without a template needs an action: write render("show.html")')
        if "." in name:
            return name, name.rpartition(".")[2]
        content_type = self._resp_headers.get("content-type")
        known = MIME.extensions(content_type[0]) if content_type else []
        format = known[0] if known else self.format
        return f"{name}.{format}", format

    def _view(self, format: str) -> Any:
        view = self.private.get("phoenix_view")
        if view is None and self.controller is not None:
            view = self.controller._find_view()
        if isinstance(view, Mapping):
            if format not in view:
                raise PhoenixError(
                    f"no view was found for the format: {format!r}. The supported formats are: {sorted(view)}"
                )
            view = view[format]
        if view is None:
            hint = "set one with put_view: `conn.put_view(PageView).render(...)`"
            raise self.controller._no_view() if self.controller else PhoenixError(f"a view module was not specified, {hint}")
        return view

    def _layout(self, layout: Any, format: str) -> tuple[Any, str] | None:
        """Return view and template of the layout that *layout*, as in ``put_layout``, stands for."""
        if isinstance(layout, Mapping):
            layout = layout.get(format) or False
        if layout is False or layout == "none" or format not in self.layout_formats:
            return None
        if layout is not None and not isinstance(layout, str):
            view, name = layout
        else:
            name = layout or "application"
            view = self.controller._find_layout_view() if self.controller is not None else None
        if "." not in name:
            name = f"{name}.{format}"
        if layout is None and (view is None or name not in view.templates() and view.render is View.render):
            return None  # an app need not have layouts
        if view is None:
            raise PhoenixError(f"no LayoutView was found for the layout {layout!r}: give put_layout the view too")
        return view, name


# --- Controller ---------------------------------------------------------------------------


class _MethodPlug(PlugEntry):
    """A plug that is a method of its controller; which one is known when there is a controller."""

    __slots__ = ("method", "arguments", "options")

    def __init__(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any], where: str) -> None:
        self.method, self.arguments, self.options = method, arguments, options
        self.where, self._only, self._except, self.name = where, None, (), method

    def bound_to(self, controller: Controller) -> PlugEntry:
        method = getattr(controller, self.method, None)
        if method is None:
            raise DefinitionError(
                f"{self.where}: {type(controller).__name__} has no method {self.method!r} to plug."
                + _did_you_mean(self.method, dir(controller))
            )
        return PlugEntry(method, self.arguments, self.options, self.where)


class _ControllerRecorder(_PlugRecorder):
    """Records ``plug(...)`` in the body of a controller, where a plug may be one of its methods."""

    body: _Body | None = None

    def plug(self, target: Any, arguments: tuple[Any, ...], options: dict[str, Any], where: str) -> PlugEntry:
        own = (name for name, value in (self.body or {}).items() if value is target)
        name = target if isinstance(target, str) else next(own, None)
        if name is None or not isinstance(target, (str, types.FunctionType)):
            entry = super().plug(target, arguments, options, where)
        else:
            entry = _MethodPlug(name, arguments, options, where)
            if name != "action":  # `plug("action")`: it runs after the plugs anyway
                self.plugs.append(entry)
        entry._has_actions = True
        return entry


class Controller(metaclass=_Recording):
    """Actions of one subject; each takes the conn and its params and returns the conn::

        class UserController(Controller):
            plug(RequireUser).only("create")

            def show(self, conn, params):
                return conn.render("show.html", user=find_user(params["id"]))

    There is one object of each controller, shared by all requests: keep nothing of a request in it. It is a plug too:
    ``plug(UserController, "show")``.

    ``view`` and ``layout_view`` are found by name (``UserView``, ``LayoutView``) in the module of the controller or in
    modules beside it, unless they are set here. ``layout`` is what ``put_layout`` takes. ``action_fallback`` is a
    function, a plug class or the name of a method, and called with the conn and the value when an action returns
    something other than the conn.
    """

    view: ClassVar[Any] = None
    layout_view: ClassVar[Any] = None
    layout: ClassVar[Any] = None
    action_fallback: ClassVar[Any] = None

    _plugs: ClassVar[tuple[PlugEntry, ...]] = ()
    _own_plugs: ClassVar[tuple[PlugEntry, ...]] = ()
    _instance: ClassVar[Controller | None] = None
    _steps_of: ClassVar[dict[str, tuple[_Step, ...]]] = {}
    _found: ClassVar[dict[str, Any]] = {}
    _action: str = "index"

    def __init__(self, action: str | None = None) -> None:
        if action is not None:
            self._action = self._resolve_action(action, _name_of(self))

    def __call__(self, conn: Any) -> Any:
        conn.private.update(self._route_private(self._action))
        return run_steps(conn, self._action_steps(self._action, _name_of(self)))

    @classmethod
    def _recorder(cls) -> _ControllerRecorder:
        return _ControllerRecorder()

    @classmethod
    def _recorded(cls, recorder: _ControllerRecorder) -> None:
        cls._own_plugs = tuple(recorder.plugs)
        cls._plugs += cls._own_plugs
        cls._instance = None
        cls._steps_of, cls._found = {}, {}
        fallback = vars(cls).get("action_fallback")
        if isinstance(fallback, types.FunctionType) and _takes_arguments(fallback, 2):
            cls.action_fallback = staticmethod(fallback)  # a function of its own, not a method

    @classmethod
    def instance(cls) -> Controller:
        """Return the one object of this controller."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    # --- Actions --------------------------------------------------------------------------

    @classmethod
    def _has_action(cls, name: str) -> bool:
        return name[:1] not in ("", "_") and name not in _NOT_ACTIONS and callable(getattr(cls, name, None))

    @classmethod
    def _its_actions(cls, wrong: str) -> str:
        """Say which actions there are, and which of them *wrong* was meant to be."""
        actions = [name for name in dir(cls) if cls._has_action(name)]
        return f"{_did_you_mean(wrong, actions)} It has: {', '.join(actions) or 'none'}."

    @classmethod
    def _resolve_action(cls, action: str, where: str) -> str:
        """Return the name of the method for *action*. Raises ``DefinitionError`` when there is none."""
        for name in (action, _SYNONYMS.get(action, "")):
            if cls._has_action(name):
                return name
        if action in _NOT_ACTIONS:
            raise DefinitionError(f"{where}: {action!r} is a word of Controller itself: give the action another name")
        raise DefinitionError(
            f"{where}: {cls.__name__} has no action {action!r}.{cls._its_actions(action)}\n"
            f"Write `def {action}(self, conn, params): ...`, or leave the route out (`resources(..., only=[...])`)."
        )

    @classmethod
    def _action_steps(cls, action: str, where: str) -> tuple[_Step, ...]:
        """Return the plugs that apply to *action*, and the action."""
        if action not in cls._steps_of:
            cls._check_guards()
            controller = cls.instance()
            synonym = _SYNONYMS.get(action, action)
            names = {action} if cls._has_action(synonym) else {action, synonym}
            plugs = [plug for plug in cls._plugs if plug.applies_to(names)]
            bound = [plug.bound_to(controller) if isinstance(plug, _MethodPlug) else plug for plug in plugs]
            cls._steps_of[action] = _steps([*bound, cls._entry_of(action, where)])
        return cls._steps_of[action]

    @classmethod
    def _entry_of(cls, action: str, where: str) -> PlugEntry:
        controller, fallback = cls.instance(), cls.action_fallback
        if isinstance(fallback, str):
            fallback = getattr(controller, fallback)
        elif fallback is not None:
            fallback = fallback() if isinstance(fallback, type) else controller.action_fallback  # which may be a method
        entry = _Action(getattr(controller, action), f"{cls.__name__}.{action}", where, fallback)
        if cls.action is not Controller.action:
            entry.runs, entry.call = _where_it_runs(controller.action), controller.action
        elif not _takes_arguments(getattr(controller, action), 2):
            raise DefinitionError(f"{where}: an action takes conn and params: `def {action}(self, conn, params)`")
        return entry

    @classmethod
    def _check_guards(cls) -> None:
        """Find the plug that guards an action which nobody has: misspelt, it would guard nothing, and nobody notice."""
        for plug in cls._own_plugs:
            for name in (*(plug._only or ()), *plug._except):
                if not cls._has_action(name) and not cls._has_action(_SYNONYMS.get(name, "")):
                    raise DefinitionError(
                        f"{plug.where}: plug {plug.name} is for the action {name!r}, which {cls.__name__} does not"
                        f" have.{cls._its_actions(name)}"
                    )

    @classmethod
    def _route_private(cls, action: str | None) -> dict[str, Any]:
        """Return what a route of this controller puts into ``conn.private``."""
        found: dict[str, Any] = {"phoenix_controller": cls, "phoenix_action": action}
        return found if cls.layout is None else {**found, "phoenix_layout": cls.layout}

    def action(self, conn: Any) -> Any:
        """Call the action. Override it to pass further arguments: ``getattr(self, conn.action_name)(conn, user)``."""
        return getattr(self, conn.action_name)(conn, conn.params)

    # --- Views, found by name -------------------------------------------------------------

    @classmethod
    def _view_name(cls) -> str:
        return cls.__name__.removesuffix("Controller") + "View"

    @classmethod
    def _find_view(cls) -> Any:
        """Return the view of this controller, or of the nearest it extends that has one, or ``None``."""
        return cls._find("view", lambda base: _class_near(base, base._view_name()))

    @classmethod
    def _no_view(cls) -> PhoenixError:
        name = cls._view_name()
        *folders, _ = cls.__module__.split(".")
        place = "/".join("views" if folder == "controllers" else folder for folder in folders)
        where = f", in {place}/{underscore(name)}.py" if "controllers" in folders else ""
        return PhoenixError(
            f"{cls.__name__} renders, and no {name} was found in {cls.__module__} or in the modules beside it.\n"
            f"Write `class {name}(View): template(\"index.html.eex\", \"...\")`{where}, or choose a view with put_view."
        )

    @classmethod
    def _find_layout_view(cls) -> Any:
        return cls._find("layout_view", lambda base: _class_near(base, "LayoutView", above=True))

    @classmethod
    def _find(cls, attribute: str, search: Callable[[type[Controller]], Any]) -> Any:
        """Return the class attribute, where it was set, or what is found by a name; remembered for this class."""
        if attribute not in cls._found:
            found = None
            for base in cls.__mro__[: cls.__mro__.index(Controller)]:
                if found is None and issubclass(base, Controller):
                    found = vars(base).get(attribute) or search(base)
            if found is None and attribute == "view":
                return None  # an error, until its file has been written
            cls._found[attribute] = found
        return cls._found[attribute]


_NOT_ACTIONS = frozenset(dir(Controller))


def _views_of(router: Any) -> set[type[View]]:
    """Return the views of a router's controllers, imported now, and all that their modules and the router's know."""
    views: set[type[View]] = set()

    def add(found: Iterable[Any]) -> None:
        for each in found:
            view = type(each) if isinstance(each, View) else each
            if isinstance(view, type) and issubclass(view, View) and view.__module__ != __name__ and view not in views:
                views.add(view)
                add(_names_beside(view))

    add(_names_beside(router))
    for route in getattr(router, "routes", ()):
        if isinstance(route.plug, _Forward):
            views |= _views_of(route.plug.router)
        elif "phoenix_controller" in route.private:
            add(_names_beside(route.plug))
            try:
                view = route.plug._find_view()
                add(view.values() if isinstance(view, Mapping) else [view])
                add([route.plug._find_layout_view()])
            except ModuleNotFoundError:
                raise
            except ImportError:  # a view that imports what is only being made: at the first request it can
                pass
    return views


def _names_beside(thing: Any) -> list[Any]:
    """Return what the names of the module of *thing* stand for."""
    module = sys.modules.get(getattr(thing, "__module__", ""))
    return list(vars(module).values()) if module else []


def _class_near(owner: type, name: str, *, above: bool = False) -> Any:
    """Find the class *name* where the app keeps it for *owner*: in its module, or in modules beside this.

    For ``web.controllers.admin.user_controller`` these are ``web.controllers.admin.user_view``, and in the package
    ``web.views.admin`` as in the package ``web.controllers.admin.views``, ``user_view`` and the package itself. With
    *above*, for a class of which an app has one, they are those of the packages above as well.
    """
    from importlib import import_module

    *package, _ = owner.__module__.split(".")
    places = [package, ["views" if part == "controllers" else part for part in package]]
    if above:
        places += [package[:length] for length in range(len(package) - 1, -1, -1)]
    found = getattr(sys.modules.get(owner.__module__), name, None)
    for module in (module for place in places for module in _modules_for(place, name)):
        if found is None and module != owner.__module__ and _is_beside(owner, module):
            found = getattr(import_module(module), name, None)
    return found


def _modules_for(package: Sequence[str], name: str) -> list[str]:
    """Return the modules of *package* that may hold the class *name*."""
    file = underscore(name)
    own = [".".join(package)] if "views" in package else []
    return [".".join([*package, *parts]) for parts in ([file], ["views", file], ["views"])] + own


def _is_beside(owner: type, module: str) -> bool:
    """Tell whether *module* exists, and is of the same app as *owner*: any other may just be called like that."""
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    places = _places_beside(sys.modules.get(owner.__module__))
    try:
        return PathFinder.find_spec(module.partition(".")[0], places) is not None and find_spec(module) is not None
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return False
        raise  # it is there, and imports something that is not
    except ValueError:  # a module that no file stands behind
        return False


# ==========================================================================================
# 10. PubSub and presence                                            depends on: Ground, Plug
# ==========================================================================================
#
# One part of an app says that something happened; others, which it does not know, hear of it.
# Who wants to hear subscribes to a topic, a plain string, with a mailbox to read from or a
# function to be called. `broadcast` hands a message to every subscriber of a topic, from any
# thread, and keeps the order of each sender. Delivery is at most once: who is not there when it
# happens reads the state again when he comes back.
#
# A message to the clients of a channel is a `Broadcast`. A thousand clients get the same bytes,
# so it remembers each form it was encoded in: encoded once, written a thousand times.
#
# Several processes of one app are nodes; an adapter carries what is broadcast on one of them to
# the others. What a node can do alone it does alone: its own subscribers never wait for it.
#
# Presence answers the question who is there: a table kept by topic, changed as sockets come and
# go, whose changes are themselves broadcast. Each node owns the entries of its own sockets; the
# others hold copies, with a version that tells whether they are up to date.
#
# Sources: Phoenix.PubSub, Phoenix.PubSub.Redis, Phoenix.Socket.Broadcast, Phoenix.Presence, Phoenix.Tracker.

__all__ += ["PubSub", "Redis", "Mailbox", "MailboxFullError", "Broadcast", "Presence"]


class MailboxFullError(PhoenixError):
    """A subscriber did not read its mailbox; it was closed rather than have messages dropped silently."""


class Broadcast:
    """A message to the clients of a channel: ``Broadcast("rooms:lobby", "new:msg", {"body": "hi"})``."""

    __slots__ = ("topic", "event", "payload", "_encoded")

    def __init__(self, topic: str, event: str, payload: Any) -> None:
        self.topic, self.event, self.payload = topic, event, payload
        self._encoded: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"Broadcast({self.topic!r}, {self.event!r}, {self.payload!r})"

    def encoded(self, encode: Callable[[Broadcast], Any]) -> Any:
        """Return ``encode(self)``, made at the first call; ``None`` when it cannot be encoded, which is logged once."""
        try:
            return self._encoded[encode]
        except KeyError:
            pass
        try:
            found = encode(self)
        except Exception as error:  # noqa: BLE001 - an object's `to_json` may raise anything
            logger.error("%r on %r was not sent: %s", self.event, self.topic, error)
            found = None
        self._encoded[encode] = found
        return found


class Mailbox:
    """Where a subscriber's messages wait, in order::

        async for message in pubsub.subscribe("logging"): ...

        with pubsub.subscribe("logging") as mailbox:
            message = await mailbox.get(timeout=5)        # or mailbox.get_blocking(timeout=5) in a thread

    A mailbox that nobody holds any more unsubscribes by itself. Over *limit* unread messages it closes, and reading it
    raises ``MailboxFullError`` after what had come.
    """

    __slots__ = ("topics", "limit", "_messages", "_pubsub", "_key", "_wakes", "_closed", "_lock", "__weakref__")

    def __init__(self, pubsub: PubSub, limit: int = 100_000) -> None:
        from collections import deque
        from threading import Lock

        self.topics: set[str] = set()
        self.limit = limit
        self._pubsub = pubsub
        self._key = object()  # stands for this mailbox among the subscribers, who must not keep it alive
        self._messages: deque[Any] = deque()
        self._wakes: list[Callable[[], object]] = []  # of those who wait for a message
        self._closed = ""  # "closed" or "full"
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._messages)

    def __bool__(self) -> bool:
        return True  # also when it is empty

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribe from all topics; reading ends after what has come."""
        self._close("closed")

    def _close(self, why: str) -> None:
        for topic in list(self.topics):
            self._pubsub.unsubscribe(self, topic)
        with self._lock:
            self._closed = self._closed or why
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def _put(self, message: Any) -> None:
        with self._lock:
            if self._closed:
                return
            full = len(self._messages) >= self.limit
            if not full:
                self._messages.append(message)
            wakes, self._wakes = self._wakes, []
        if full:
            logger.error("a mailbox of %s has %d unread messages and was closed", sorted(self.topics), self.limit)
            self._close("full")
        for wake in wakes:
            wake()

    def _take(self, wake: Callable[[], object]) -> tuple[bool, Any]:
        """Return ``(True, message)``, or promise to call *wake* when there may be one."""
        with self._lock:
            if self._messages:
                return True, self._messages.popleft()
            if self._closed == "full":
                raise MailboxFullError(f"the mailbox was closed at {self.limit} unread messages: read it faster")
            if self._closed:
                raise LookupError("the mailbox is closed")
            self._wakes.append(wake)
        return False, None

    def _forget(self, wake: Callable[[], object]) -> None:
        with self._lock:
            if wake in self._wakes:
                self._wakes.remove(wake)

    async def get(self, timeout: float | None = None) -> Any:
        """Return the next message. Raises ``TimeoutError`` after *timeout* seconds, ``LookupError`` when closed."""
        import asyncio

        loop, thread = asyncio.get_running_loop(), _get_ident()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            future = loop.create_future()

            def wake(future: Any = future) -> None:
                if _get_ident() == thread:
                    _resolve(future)
                else:
                    _call_on(loop, _resolve, future)

            found, message = self._take(wake)
            if found:
                return message
            timer = None if deadline is None else loop.call_at(deadline, _resolve, future, "too late")
            try:
                late = await future
            finally:
                if timer is not None:
                    timer.cancel()
                self._forget(wake)
            if late and not self._messages:
                raise TimeoutError(f"no message came within {timeout} s")

    def get_blocking(self, timeout: float | None = None) -> Any:
        """As ``get``, for threads."""
        import threading

        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            event = threading.Event()
            found, message = self._take(event.set)
            if found:
                return message
            try:
                woken = event.wait(None if deadline is None else max(0, deadline - time.monotonic()))
            finally:
                self._forget(event.set)
            if not woken and not self._messages:
                raise TimeoutError(f"no message came within {timeout} s")

    def __aiter__(self) -> Mailbox:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.get()
        except LookupError:
            raise StopAsyncIteration from None

    def __iter__(self) -> Mailbox:
        return self

    def __next__(self) -> Any:
        try:
            return self.get_blocking()
        except LookupError:
            raise StopIteration from None


def _resolve(future: Any, value: Any = None) -> None:
    if not future.done():
        future.set_result(value)


def _call_on(loop: Any, call: Callable[..., object], *arguments: Any) -> None:
    """Call on an event loop, from another thread; on one that is closed, nobody waits for it any more."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise


class PubSub:
    """Topics and their subscribers, in this process; with an *adapter*, ``Redis``, in all processes of an app.

    ``subscribe`` and ``broadcast`` may be called from any thread. Once an endpoint serves, messages are delivered on
    its event loop.

    With an adapter, what is broadcast must have a form in JSON: subscribers in other processes get what that form is
    read as, such as text for a date. A ``Broadcast`` arrives as one. Raises ``ArgumentError`` for what has no form.
    """

    def __init__(self, adapter: Redis | None = None) -> None:
        from collections import deque
        from threading import Lock

        self.adapter = adapter
        self._presences: dict[str, Presence] = {}
        self._served = 0  # by so many endpoints
        self._named = 0, ""  # process id, and the name of this node
        if adapter is not None:
            adapter._attach(self)
        self._lock = Lock()
        # topic -> key -> (how to encode a `Broadcast`, if at all; what takes that; what takes all else)
        self._topics: dict[str, dict[Any, tuple[Any, Any, Callable[[Any], object]]]] = {}
        self._gone: deque[tuple[str, Any]] = deque()  # subscriptions of mailboxes that are no more
        self._loop: Any = None
        self._thread = 0
        self._host: Any = None  # what runs the loop of a test
        self._delivering = False
        self._behind: deque[tuple[str, Any, Any]] = deque()  # what was broadcast in the course of a delivery

    def _serve_on(self, loop: Any) -> None:
        """Deliver on this loop, which runs in the calling thread."""
        if self._loop is not None and self._loop is not loop and not self._loop.is_closed() and self._loop.is_running():
            raise PhoenixError(
                "this PubSub delivers on another event loop already. Endpoints that run in different threads need one"
                " each: Endpoint(Router, pubsub=PubSub())"
            )
        if self._loop is not loop:
            self._behind.clear()  # the loop that was to deliver it has gone
        self._loop, self._thread = loop, _get_ident()

    def _connect(self) -> None:
        """An endpoint serves: hear other nodes from now on."""
        if self.adapter is None:
            return
        if self.adapter._loop is self._loop:
            self._served += 1
        else:
            self._served = 1
            self.adapter._start(self._loop)

    async def _disconnect(self) -> None:
        """An endpoint has stopped."""
        if self.adapter is not None:
            self._served -= 1
            if self._served == 0:
                await self.adapter._stop()

    @property
    def node(self) -> str:
        """The name of this process among those that an adapter connects; a fork of it has another."""
        if self._named[0] != os.getpid():
            self._named = os.getpid(), os.urandom(6).hex()
        return self._named[1]

    if TYPE_CHECKING:

        @overload
        def subscribe(self, topic: str, /) -> Mailbox: ...
        @overload
        def subscribe(self, topic: str, subscriber: _Subscriber, /) -> _Subscriber: ...
        @overload
        def subscribe(self, subscriber: _Subscriber, topic: str, /) -> _Subscriber: ...

    def subscribe(self, first: Any, second: Any = None, /) -> Any:
        """Subscribe to a topic: ``subscribe("logging")`` returns a ``Mailbox``.

        ``subscribe("logging", callback)`` calls a function, which must not block, for each message; it is returned,
        to be given to ``unsubscribe``. ``subscribe("logging", mailbox)`` adds a topic to a mailbox. To subscribe
        twice is to subscribe once.
        """
        topic, subscriber = (first, second) if isinstance(first, str) else (second, first)
        if subscriber is None and isinstance(topic, str):
            subscriber = Mailbox(self)
        if isinstance(subscriber, Mailbox) and isinstance(topic, str):
            self._subscribe_mailbox(subscriber, topic)
        elif callable(subscriber) and isinstance(topic, str):
            self._add(topic, subscriber, subscriber)
        else:
            raise ArgumentError(f"subscribe({first!r}, {second!r}): expected a topic, and a function or a mailbox")
        return subscriber

    def _subscribe_mailbox(self, mailbox: Mailbox, topic: str) -> None:
        from weakref import ref

        key, gone = mailbox._key, self._gone
        # The garbage collector may call this at any moment, also while this thread holds the lock: only note it.
        weak = ref(mailbox, lambda _: gone.append((topic, key)))

        def receive(message: Any) -> None:
            found = weak()
            if found is not None:
                found._put(message)

        mailbox.topics.add(topic)
        self._add(topic, key, receive)
        if mailbox._closed:
            self.unsubscribe(mailbox, topic)

    def _add(
        self, topic: str, key: Any, receive: Callable[[Any], object], encode: Any = None, write: Any = None
    ) -> None:
        """Let *receive* have the messages of *topic*; or *write* what *encode*, if given, makes of a ``Broadcast``."""
        with self._lock:
            self._sweep()
            self._topics.setdefault(topic, {})[key] = (encode, write, receive)

    def _remove(self, topic: str, key: Any) -> None:
        with self._lock:
            self._drop(topic, key)

    def _drop(self, topic: str, key: Any) -> None:
        subscribers = self._topics.get(topic)
        if subscribers is not None and subscribers.pop(key, None) is not None and not subscribers:
            del self._topics[topic]

    def _sweep(self) -> None:
        """Drop the subscriptions of mailboxes that nobody holds any more."""
        while self._gone:
            self._drop(*self._gone.popleft())

    def unsubscribe(self, subscriber: Any, topic: Any) -> None:
        """End a subscription, given by its mailbox or function; one that is not there is no error."""
        if isinstance(subscriber, str):
            subscriber, topic = topic, subscriber
        if isinstance(subscriber, Mailbox):
            subscriber.topics.discard(topic)
        self._remove(topic, _subscriber_key(subscriber))

    def broadcast(self, topic: str, message: Any) -> None:
        """Give *message*, which may be anything, to every subscriber of *topic*. Without any, nothing happens."""
        if self.adapter is not None:
            self.adapter._publish(_encode_for_nodes(topic, message))
        self._send(topic, message, None)

    def broadcast_from(self, sender: Any, topic: str, message: Any) -> None:
        """As ``broadcast``, but not to *sender*: a mailbox, a function, or a channel's socket."""
        if self.adapter is not None:
            self.adapter._publish(_encode_for_nodes(topic, message))
        self._send(topic, message, _subscriber_key(sender))

    def local_broadcast(self, topic: str, message: Any) -> None:
        """As ``broadcast``, to the subscribers in this process alone."""
        self._send(topic, message, None)

    def _send(self, topic: str, message: Any, sender: Any) -> None:
        if self._loop is None or self._loop.is_closed():
            self._hand_out(topic, message, sender)
        elif _get_ident() != self._thread:
            _call_on(self._loop, self._deliver, topic, message, sender)
        elif self._delivering or self._behind:
            # A subscriber broadcasts while it hears: all hear the first message before the second.
            if not self._behind:
                self._loop.call_soon(self._catch_up)
            self._behind.append((topic, message, sender))
        else:
            self._deliver(topic, message, sender)

    def _deliver(self, topic: str, message: Any, sender: Any) -> None:
        self._delivering = True
        try:
            self._hand_out(topic, message, sender)
        finally:
            self._delivering = False

    def _catch_up(self) -> None:
        for _ in range(len(self._behind)):  # what these lead to has its turn later, so that the loop goes on
            self._deliver(*self._behind[0])
            self._behind.popleft()
        if self._behind:
            self._loop.call_soon(self._catch_up)

    def _hand_out(self, topic: str, message: Any, sender: Any) -> None:
        if self._gone:
            with self._lock:
                self._sweep()
        subscribers = self._topics.get(topic)
        if subscribers is None:
            return
        subscribers = subscribers.copy()
        if sender is not None:
            subscribers.pop(sender, None)
        encoding: Any = None
        encoded: Any = None
        is_broadcast = message.__class__ is Broadcast
        for encode, write, receive in subscribers.values():
            try:
                if encode is None or not is_broadcast:
                    receive(message)
                    continue
                if encode is not encoding:
                    encoding, encoded = encode, message.encoded(encode)
                if encoded is not None:
                    write(encoded)
            except Exception:
                logger.exception("a subscriber of %r raised an error", topic)

    def _call(self, call: Callable[[], object]) -> None:
        """Call where messages are delivered."""
        if self._loop is None or self._loop.is_closed() or _get_ident() == self._thread:
            call()
        else:
            _call_on(self._loop, call)

    def subscribers(self, topic: str) -> list[Any]:
        """Return one key for each subscriber of *topic*; empty when there are none."""
        with self._lock:
            self._sweep()
            return list(self._topics.get(topic, ()))

    def topics(self) -> list[str]:
        """Return the topics that have subscribers."""
        with self._lock:
            self._sweep()
            return list(self._topics)


def _subscriber_key(subscriber: Any) -> Any:
    return subscriber._key if isinstance(subscriber, Mailbox) else subscriber


# --- Beyond one process -------------------------------------------------------------------
#
# All nodes of an app share one Redis channel. With one for each topic, a node would be spared the messages of topics
# that nobody has joined there; but each first join would have to wait until Redis has confirmed its subscription, or
# miss what is said meanwhile, and after an outage every one of them would have to be renewed. A message that concerns
# nobody is dropped when its topic is read, in half a microsecond. As many as come during one round trip to Redis
# travel together, so that their number costs little. Such a batch is text:
#
#     <node> <the number of its first message> <bye, or nothing>\n<message>\n<message> ...
#
# and a message is a line of JSON: `[topic, message]`, for a `Broadcast` `[topic, its topic if another, event, payload]`
# (and `"base64"` behind a payload of bytes), or an object if it is for the presences. The numbers tell the receivers
# what they have missed. Nothing is ever sent twice: who was away reads the state again.
#
# A batch at least every few seconds is the heartbeat. A node hears its own as well; when it does not, it is deaf, even
# if its connections look well, and connects anew. Who is not heard by the others is dead to them after a while.


def _encode_for_nodes(topic: str, message: Any) -> bytes:
    """Return a message in the form in which it travels. Raises ``ArgumentError`` for what has none."""
    parts: list[Any] = [topic, message]
    if isinstance(message, Broadcast):
        parts = [topic, None if message.topic == topic else message.topic, message.event, message.payload]
        if isinstance(message.payload, bytes):
            parts[3:] = b2a_base64(message.payload, newline=False).decode(), "base64"
    try:
        return encode_json(parts).encode()
    except ValueError as error:
        raise ArgumentError(
            f"what is broadcast on {topic!r} goes to other processes, as JSON, which {message!r} cannot: {error}\n"
            "Broadcast dicts, lists, text and numbers; or `local_broadcast` it in this process only."
        ) from None


_topic_of = jsonlib.JSONDecoder().raw_decode  # of (line, 1)


def _decode_from_node(line: str) -> Any:
    """Return the message of a line that ``_encode_for_nodes`` made."""
    topic, *rest = jsonlib.loads(line)
    if len(rest) == 1:
        return rest[0]
    own_topic, event, payload, *is_bytes = rest
    return Broadcast(own_topic or topic, event, a2b_base64(payload) if is_bytes else payload)


class Redis:
    """Connects the processes of an app by Redis; needs the package ``redis``::

        pubsub = PubSub(adapter=Redis("redis://localhost:6379/0"))

    Give the endpoints and presences of each process this ``pubsub``. A node connects when an endpoint of it serves; a
    process without, such as a script, may broadcast as well, but hears nothing.

    Each node sends something every *heartbeat* seconds. One that does not hear itself for three of them connects anew;
    one that the others do not hear for *timeout* seconds (five heartbeats unless set) is dead to them, and its
    presences leave. While Redis is away, each node goes on by itself; what it would have sent is lost and counted.

    Apps that share a Redis need different databases or *names*. Other options are those of ``redis.Redis.from_url``.
    Raises ``PhoenixError`` when the package is missing, ``ArgumentError`` for a URL that is none.
    """

    def __init__(
        self, url: str = "redis://localhost:6379/0", *, name: str = "phoenix", heartbeat: float = 3,
        timeout: float | None = None, **options: Any,
    ) -> None:
        from collections import deque
        from importlib import import_module
        from threading import Lock

        try:
            self._redis, self._asyncio_redis = import_module("redis"), import_module("redis.asyncio")
            self._retry, self._asyncio_retry = import_module("redis.retry"), import_module("redis.asyncio.retry")
        except ImportError as error:
            raise PhoenixError(f"phoenix.Redis needs the package redis ({error}): pip install redis") from None
        self.heartbeat = heartbeat
        self.timeout = 5 * heartbeat if timeout is None else timeout
        if not 0 < 2 * heartbeat <= self.timeout:
            raise ArgumentError(f"heartbeat={heartbeat}, timeout={timeout}: expected seconds, at least two beats long")
        self._url, self._options = url, options
        try:
            self._client: Any = self._open(self._redis, self._retry)  # of those who broadcast while no endpoint serves
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # raises for options that do not exist
        except (ValueError, TypeError) as error:
            shown = re.sub("//.*@", "//...@", url)
            raise ArgumentError(f"Redis({shown!r}): {error}. It looks like redis://:password@host:6379/0") from None
        place = pool.connection_kwargs
        self._place = place.get("path") or f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"
        self._channel = f"{name}:{place.get('db') or 0}"  # the channels of Redis are the same in all its databases
        self._pubsub: Any = None
        self._loop: Any = None
        self._thread = 0
        self._task: Any = None
        self._lock = Lock()
        self._outbox: deque[bytes] = deque()
        self._outbox_size = 0  # bytes
        self._sending = 0  # messages that are on their way to Redis
        self._number = 0  # of the first message in the outbox
        self._leaving = False  # the batch that empties the outbox is the last one
        self._wake: Any = None  # an event: there is something to send
        self._down_since: float | None = None  # since when Redis has been away
        self._lost_before = 0  # so many had been lost by then
        self._retry_at = 0.0  # before that, nobody who would have to wait tries
        self._holds = True  # what is published waits for the connection, rather than being lost
        self._unheard = 0  # heartbeats sent since we last heard ourselves
        self._nodes: dict[str, list[float]] = {}  # the others -> the number that comes next, when they were last heard
        self._published = self._received = self._lost = self._missed = self._reconnects = 0

    @property
    def stats(self) -> dict[str, int]:
        """Return what happened so far, counted in messages: those that were ``published`` to Redis, ``received`` from
        other nodes, ``lost`` because Redis was away, and ``missed`` by this node though others published them; then the
        number of ``reconnects``, of other ``nodes`` that are alive, and whether Redis is ``up``."""
        return {
            "published": self._published, "received": self._received, "lost": self._lost, "missed": self._missed,
            "reconnects": self._reconnects, "nodes": len(self._nodes), "up": int(self.is_up),
        }  # fmt: skip

    @property
    def is_up(self) -> bool:
        """Whether this node is connected to the others, as far as it knows."""
        return self._task is not None and self._wake is not None and self._down_since is None

    def _attach(self, pubsub: PubSub) -> None:
        if self._pubsub is not None:
            raise ArgumentError("an adapter serves one PubSub: give each its own, PubSub(adapter=Redis(...))")
        self._pubsub = pubsub

    def _open(self, package: Any, retry: Any) -> Any:
        """Return a client, not connected yet, which tries nothing twice: it might arrive twice."""
        patience = 2 * self.heartbeat
        once = retry.Retry(self._redis.backoff.NoBackoff(), 0)
        options = {"socket_timeout": patience, "socket_connect_timeout": patience, "retry": once, **self._options}
        return package.Redis.from_url(self._url, **{**options, "decode_responses": False})  # batches are bytes to us

    # --- Out ------------------------------------------------------------------------------

    def _publish(self, line: bytes) -> None:
        """Send a message to the other nodes; from any thread."""
        if self._loop is None or self._loop.is_closed():
            self._publish_at_once(line)
            return
        with self._lock:
            self._outbox.append(line)
            self._outbox_size += len(line)
            is_full = self._outbox_size > _MAX_OUTBOX
            if is_full:
                logger.error("Redis at %s is too slow: %d messages are lost", self._place, len(self._outbox))
            if is_full or not self._holds:
                self._lose_outbox()
                return
            wake = self._wake
        if wake is None or wake.is_set():
            return
        if _get_ident() == self._thread:
            wake.set()
        else:
            _call_on(self._loop, wake.set)

    def _lose_outbox(self) -> None:
        self._lost += len(self._outbox)
        self._number += len(self._outbox)
        self._outbox.clear()
        self._outbox_size = 0

    def _publish_at_once(self, line: bytes) -> None:
        """Send a message from a process in which no endpoint serves, and wait until Redis has it."""
        with self._lock:
            batch = f"{self._pubsub.node} {self._number} bye\n".encode() + line  # nobody needs to wait for more
            self._number += 1
            if time.monotonic() < self._retry_at:  # nobody shall wait for it again and again
                self._lost += 1
                return
            try:
                self._client.publish(self._channel, batch)
            except (self._redis.RedisError, OSError) as error:
                self._is_down(error)
                self._lost += 1
                self._retry_at = time.monotonic() + 1
            else:
                self._published += 1
                self._is_back()

    def _is_down(self, error: object) -> None:
        if self._down_since is None:
            self._down_since, self._lost_before = time.monotonic(), self._lost
            logger.error(
                "lost Redis at %s (%s): what is broadcast stays in this process until it is back", self._place, error
            )

    def _is_back(self) -> None:
        if self._down_since is not None:
            seconds, self._down_since = time.monotonic() - self._down_since, None
            self._reconnects += 1
            logger.warning(
                "Redis at %s is back after %.1f s; %d messages to other processes were lost",
                self._place, seconds, self._lost - self._lost_before,
            )  # fmt: skip

    def _take(self) -> tuple[bytes, bool]:
        """Return the next batch, and whether it is our last one."""
        with self._lock:
            lines, size = [], 0
            while self._outbox and size < _MAX_BATCH:
                lines.append(self._outbox.popleft())
                size += len(lines[-1])
            is_last = self._leaving and not self._outbox
            head = f"{self._pubsub.node} {self._number} {'bye' if is_last else ''}".encode()
            self._sending = len(lines)
            self._number += len(lines)
            self._outbox_size -= size
        return b"\n".join([head, *lines]), is_last

    async def _write(self, client: Any, reader: Any) -> None:
        """Send what is in the outbox, and a heartbeat when it is time for one, until the *reader* fails or we leave."""
        loop = self._loop
        last_beat = beat_at = loop.time()
        while not reader.done():
            now = loop.time()
            if now >= beat_at:
                self._beat(now, now - last_beat)
                last_beat, beat_at = now, now + self.heartbeat
                loop.call_at(beat_at, self._wake.set)
            elif not self._outbox and not self._leaving:
                self._wake.clear()
                if not self._outbox:
                    await self._wake.wait()
                continue
            batch, is_last = self._take()
            await client.publish(self._channel, batch)
            self._published += self._sending
            self._sending = 0
            if is_last:
                return

    def _beat(self, now: float, passed: float) -> None:
        if self._unheard >= _MOST_UNHEARD:
            raise PhoenixError(f"this process has not heard itself for {self._unheard} heartbeats")
        self._unheard += 1
        if passed > self.timeout / 2:  # it is us who were away
            self._hear_all(now)
        for node, (_, heard) in list(self._nodes.items()):
            if now - heard > self.timeout:
                logger.warning("another process, %s, was not heard for %.1f s and counts as dead", node, now - heard)
                self._forget(node)
        for presence in self._pubsub._presences.values():
            presence._beat()

    # --- In -------------------------------------------------------------------------------

    async def _read(self, subscriber: Any) -> None:
        import asyncio

        while True:
            message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=None)
            if message is not None and message["type"] == "message":
                self._receive(message["data"])
                await asyncio.sleep(0)  # what has come already, the package reads without giving way to others

    def _receive(self, batch: bytes) -> None:
        if batch.startswith(self._pubsub.node.encode()):
            self._unheard = 0
            return
        try:
            head, *lines = batch.decode().split("\n")
            node, number, sign = head.split(" ")
            first = int(number)
        except ValueError:
            logger.error("what came by Redis, on %r, is not from this app: %.200r", self._channel, batch)
            return
        is_new = node not in self._nodes
        next_one = first if is_new else self._nodes[node][0]
        if first < next_one:
            return  # it came already
        self._missed += int(first - next_one)
        self._nodes[node] = [first + len(lines), self._loop.time()]
        self._received += len(lines)
        for line in lines:
            try:
                self._deliver(node, line)
            except Exception:
                logger.exception("a message of another process could not be delivered: %.200r", line)
        if sign == "bye":
            self._forget(node)
        elif is_new:  # let it know at once who is here
            for presence in self._pubsub._presences.values():
                presence._beat()

    def _deliver(self, node: str, line: str) -> None:
        pubsub = self._pubsub
        if line[0] == "{":
            message = jsonlib.loads(line)
            presence = pubsub._presences.get(message["presence"])
            if presence is not None:
                presence._hear(node, message)
            return
        topic, _ = _topic_of(line, 1)
        if topic in pubsub._topics:
            pubsub._send(topic, _decode_from_node(line), None)

    def _hear_all(self, now: float) -> None:
        """Nobody counts as dead because we could not hear anybody."""
        for state in self._nodes.values():
            state[1] = now

    def _forget(self, node: str) -> None:
        self._nodes.pop(node, None)
        for presence in self._pubsub._presences.values():
            presence._drop(node)

    # --- The connection -------------------------------------------------------------------

    def _start(self, loop: Any) -> None:
        self._loop, self._thread = loop, _get_ident()
        self._down_since, self._holds, self._wake, self._leaving = None, True, None, False
        self._task = loop.create_task(self._run())

    async def _stop(self) -> None:
        """Send what is left, and say goodbye."""
        import asyncio

        self._leaving = True
        if self.is_up:
            self._wake.set()
            await asyncio.wait([self._task], timeout=2)
        await _cancel(self._task)
        with self._lock:
            self._lose_outbox()
            self._task = self._loop = None

    async def _run(self) -> None:
        """Be connected, until we leave."""
        import asyncio
        import random

        pause = 0.0  # at first there is none: it may be the connection alone
        while True:
            client = self._open(self._asyncio_redis, self._asyncio_retry)
            try:
                await self._talk(client)
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the next connection is another chance
                pause = self._fell(error, pause)
            finally:
                self._wake = None
                await _close_quietly(client)
            await asyncio.sleep(pause * random.uniform(0.5, 1))

    async def _talk(self, client: Any) -> None:
        """Subscribe; then read and write until we leave. Raises whatever fails; what is on its way then may arrive."""
        import asyncio

        subscriber = client.pubsub()
        await subscriber.subscribe(self._channel)
        if await subscriber.get_message(timeout=2 * self.heartbeat) is None:  # it confirms the subscription
            raise PhoenixError("it does not answer")
        self._is_back()
        self._wake = wake = asyncio.Event()
        self._holds, self._unheard = True, 0
        self._hear_all(self._loop.time())
        reader = asyncio.ensure_future(self._read(subscriber))
        reader.add_done_callback(lambda _: wake.set())
        try:
            await self._write(client, reader)
            if reader.done():
                await reader  # raises
        finally:
            await _cancel(reader)
            await _close_quietly(subscriber)

    def _fell(self, error: Exception, pause: float) -> float:
        """Note a failure; return how long to wait before the next attempt."""
        with self._lock:
            is_first = self._down_since is None
            self._is_down(error)
            self._lost += self._sending
            self._sending = 0
            if is_first:  # what is in the outbox waits for one more attempt
                return 0.0
            self._holds = False
            self._lose_outbox()
        return min(max(0.1, 2 * pause), 5, self.heartbeat)  # later than that, who came back first takes us for dead


_MAX_OUTBOX = 8 << 20  # bytes of messages that wait for Redis
_MAX_BATCH = 1 << 14  # bytes, roughly, that go at once: those who receive them do nothing else meanwhile
_MOST_UNHEARD = 3  # heartbeats


async def _cancel(task: Any) -> None:
    """Cancel a task, and wait for its end. One that is cancelled while the package connects may not notice."""
    import asyncio

    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)
    if not task.cancelled():
        task.exception()  # else asyncio says that nobody has asked


async def _close_quietly(client: Any) -> None:
    """Close a client of Redis, whatever state its connection is in."""
    import asyncio

    try:
        await asyncio.wait_for(client.aclose(), 1)
    except Exception as error:  # noqa: BLE001 - it is of no use any more
        logger.debug("a connection to Redis did not close well: %s", error)


# --- Presence -----------------------------------------------------------------------------


class Presence:
    """Who is there, by topic: a table of keys, each with the metas of its connections::

        presence = Presence(pubsub)

        class RoomChannel(Channel):
            async def join(self, socket, topic, message):
                presence.track(socket, message["name"], {"typing": False})
                socket.push("presence_state", presence.list(socket))
                return socket.ok()

    Each change is broadcast as ``presence_diff``. What a socket tracked leaves with it. A socket that asks for the list
    while it joins also gets the changes from then on.

    If the *pubsub* has an adapter, the table holds who is there in all processes of the app. Presences of the same
    *name*, which is that of the class unless given, are one.
    """

    def __init__(self, pubsub: PubSub, *, name: str = "") -> None:
        from collections import deque
        from threading import RLock

        self.pubsub = pubsub
        self.name = name or type(self).__name__
        if pubsub.adapter is not None and pubsub._presences.setdefault(self.name, self) is not self:
            raise ArgumentError(
                f"there is a presence named {self.name!r} on this PubSub already, and other processes could not tell"
                ' them apart: give each a name, Presence(pubsub, name="...")'
            )
        self._version = 0  # how often the entries of this node have changed
        self._copies: dict[str, _Copy] = {}  # other node -> its entries
        self._state_is_due = False
        self._count = 0
        self._topics: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}  # topic -> key -> phx_ref -> meta
        self._tracked: dict[Any, dict[tuple[str, str], str]] = {}  # socket -> (topic, key) -> phx_ref
        # that are still to be broadcast: version, if they are our own, topic, joins, leaves
        self._changes: deque[tuple[int, str, dict[str, Any], dict[str, Any]]] = deque()
        self._lock = RLock()

    def track(
        self, socket: Any, key: object, meta: Mapping[str, Any] | None = None, *, topic: str = ""
    ) -> dict[str, Any]:
        """Say that *socket* is there as *key*. Returns the meta with its ``phx_ref``.

        *topic* is that of the socket unless given. Raises ``ArgumentError`` for a key that it tracks already.
        """
        topic, name = topic or socket.topic, str(key)
        meta = self._checked(topic, name, meta or {})
        with self._lock:
            if (topic, name) in self._tracked.get(socket, ()):
                raise ArgumentError(f"{name!r} is tracked by this socket in {topic!r} already: use update")
            if socket not in self._tracked:
                socket._on_close(self._leave_all)
            found = self._join(socket, topic, name, meta)
        self._flush()
        if socket._left:  # it closed meanwhile, in another thread
            self._leave_all(socket)
        return found

    def update(
        self, socket: Any, key: object, meta: Mapping[str, Any] | Callable[[dict[str, Any]], Mapping[str, Any]], *,
        topic: str = "",
    ) -> dict[str, Any]:
        """Replace the meta, by another or by what a function makes of it. Raises ``KeyError`` when none is tracked."""
        topic, name = topic or socket.topic, str(key)
        with self._lock:
            reference = self._tracked.get(socket, {}).get((topic, name))
            if reference is None and socket._left:
                return {}  # it went while its channel was at work: that is no mistake
            if reference is None:
                raise KeyError(f"{name!r} is not tracked by this socket in {topic!r}: call track first")
            old = self._topics[topic][name][reference]
            own = {field: value for field, value in old.items() if field not in ("phx_ref", "phx_ref_prev")}
            changed = self._checked(topic, name, meta(own) if callable(meta) else meta)
            leaves = self._leave(socket, topic, name)
            found = self._join(socket, topic, name, {**changed, "phx_ref_prev": reference}, leaves)
        self._flush()
        return found

    def untrack(self, socket: Any, key: object, *, topic: str = "") -> None:
        """Say that *socket* is no longer there as *key*."""
        topic, name = topic or socket.topic, str(key)
        with self._lock:
            self._note(topic, {}, self._leave(socket, topic, name))
        self._flush()

    def list(self, topic: Any) -> dict[str, dict[str, Any]]:
        """Return who is there: ``{"ann": {"metas": [{"phx_ref": "..."}]}}``, of a topic or of a socket's topic."""
        if not isinstance(topic, str):
            topic._hear_early("presence_diff")  # nobody may come or go unnoticed until it has joined
            topic = topic.topic
        with self._lock:
            present = {key: _metas(refs) for key, refs in self._topics.get(topic, {}).items()}
        return self.fetch(topic, present)

    def get_by_key(self, topic: Any, key: object) -> dict[str, Any] | None:
        """Return what ``list`` has under *key*, or ``None``."""
        topic, name = topic if isinstance(topic, str) else topic.topic, str(key)
        with self._lock:
            refs = self._topics.get(topic, {}).get(name)
            present = {} if refs is None else {name: _metas(refs)}
        return self.fetch(topic, present).get(name) if present else None

    def fetch(self, topic: str, presences: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Override it to add to what clients see, such as the names of users. It must not block."""
        return presences

    def _checked(self, topic: str, key: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of *meta*. Raises ``ArgumentError`` for one that other nodes could not be told of."""
        copy = dict(meta)
        if self.pubsub.adapter is not None:
            try:
                encode_json([topic, key, copy]).encode()
            except ValueError as error:
                raise ArgumentError(
                    f"the meta of {key!r} in {topic!r} goes to other processes, as JSON, which {copy!r} cannot: {error}"
                ) from None
        return copy

    # Changes are noted under the lock, together with the table, and broadcast in that order, whichever thread made
    # them: a client that heard of a leave before its join would see a ghost for ever.

    def _join(
        self, socket: Any, topic: str, key: str, meta: dict[str, Any], leaves: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        self._count += 1
        reference = f"{self.pubsub.node}.{self._count:x}"
        found = {**meta, "phx_ref": reference}
        self._topics.setdefault(topic, {}).setdefault(key, {})[reference] = found
        self._tracked.setdefault(socket, {})[topic, key] = reference
        self._note(topic, {key: _metas({reference: found})}, dict(leaves or {}))
        return dict(found)

    def _note(self, topic: str, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        """Note a change of our own entries."""
        if joins or leaves:
            self._version += 1
            self._changes.append((self._version, topic, joins, leaves))

    def _leave(self, socket: Any, topic: str, key: str) -> dict[str, Any]:
        """Take an entry out of the table; return it as the leaves of a diff, empty when there is none."""
        reference = self._tracked.get(socket, {}).pop((topic, key), None)
        if reference is None:
            return {}
        return {key: _metas({reference: self._remove(topic, key, reference)})}

    def _remove(self, topic: str, key: str, reference: str) -> dict[str, Any]:
        keys = self._topics[topic]
        old = keys[key].pop(reference)
        if not keys[key]:
            del keys[key]
        if not keys:
            del self._topics[topic]
        return old

    def _leave_all(self, socket: Any) -> None:
        with self._lock:
            for topic, key in tuple(self._tracked.get(socket, ())):
                self._note(topic, {}, self._leave(socket, topic, key))
            self._tracked.pop(socket, None)
        self._flush()

    def _flush(self) -> None:
        self.pubsub._call(self._broadcast_changes)

    def _broadcast_changes(self) -> None:
        while self._changes:
            try:
                version, topic, joins, leaves = self._changes.popleft()
            except IndexError:  # another thread was faster
                return
            if version:
                self._tell(version=version, topic=topic, joins=joins, leaves=leaves)
            try:
                diff = {"joins": self.fetch(topic, joins), "leaves": self.fetch(topic, leaves)}
            except Exception:
                logger.exception("%s.fetch raised an error for %r", _name_of(type(self)), topic)
                diff = {"joins": joins, "leaves": leaves}
            self.pubsub.local_broadcast(topic, Broadcast(topic, "presence_diff", diff))

    # What nodes tell each other: each change of a node's own entries, with the version that it led to; with every
    # heartbeat the version alone. Who finds that it has missed something asks, and is told all entries.

    def _tell(self, **message: Any) -> None:
        adapter = self.pubsub.adapter
        if adapter is not None:
            adapter._publish(encode_json({"presence": self.name, **message}).encode())

    def _beat(self) -> None:
        if self._version:
            self._tell(version=self._version)

    def _hear(self, node: str, message: dict[str, Any]) -> None:
        """Handle what the presence of another node tells."""
        if "ask" in message:
            if message["ask"] == self.pubsub.node and not self._state_is_due:
                self._state_is_due = True  # others will have missed the same: answer them together
                self.pubsub._loop.call_later(0.02, self._tell_state)
            return
        version = message["version"]
        with self._lock:
            copy = self._copies.setdefault(node, _Copy())
            if "state" in message and version != copy.version:
                self._replace(copy, message["state"])
            elif "topic" in message and version == copy.version + 1:
                topic, joins, leaves = message["topic"], message["joins"], message["leaves"]
                self._apply(copy, topic, joins, leaves)
            elif version != copy.version:
                if "topic" not in message or not copy.has_asked:  # of many changes in a row, the first is enough
                    copy.has_asked = True
                    self._tell(ask=node)
                return
            copy.version, copy.has_asked = version, False
        self._flush()

    def _tell_state(self) -> None:
        self._state_is_due = False
        state: dict[str, dict[str, Any]] = {}
        with self._lock:
            for own in self._tracked.values():
                for (topic, key), reference in own.items():
                    metas = state.setdefault(topic, {}).setdefault(key, {"metas": []})["metas"]
                    metas.append(self._topics[topic][key][reference])
            version = self._version
        self._tell(version=version, state=state)

    def _replace(self, copy: _Copy, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Make *copy* hold *state* in place of what it held."""
        now = {
            meta["phx_ref"]: (topic, key)
            for topic, keys in state.items() for key, entry in keys.items() for meta in entry["metas"]
        }  # fmt: skip
        gone: dict[str, dict[str, Any]] = {}
        for reference, (topic, key) in copy.entries.items():
            if reference not in now:
                meta = self._topics[topic][key][reference]
                gone.setdefault(topic, {}).setdefault(key, {"metas": []})["metas"].append(meta)
        for topic in {**state, **gone}:
            self._apply(copy, topic, state.get(topic, {}), gone.get(topic, {}))

    def _apply(self, copy: _Copy, topic: str, joins: Mapping[str, Any], leaves: Mapping[str, Any]) -> None:
        """Change what we know of another node, and note what has changed."""
        came: dict[str, Any] = {}
        went: dict[str, Any] = {}
        for key, entry in leaves.items():
            old = [meta["phx_ref"] for meta in entry["metas"] if copy.entries.pop(meta["phx_ref"], None)]
            if old:
                went[key] = _metas({reference: self._remove(topic, key, reference) for reference in old})
        for key, entry in joins.items():
            new = {meta["phx_ref"]: meta for meta in entry["metas"] if meta["phx_ref"] not in copy.entries}
            if new:
                copy.entries.update(dict.fromkeys(new, (topic, key)))
                self._topics.setdefault(topic, {}).setdefault(key, {}).update(new)
                came[key] = _metas(new)
        if came or went:
            self._changes.append((0, topic, came, went))

    def _drop(self, node: str) -> None:
        """Another node is dead or has said goodbye: its entries leave."""
        with self._lock:
            copy = self._copies.pop(node, None)
            if copy is not None:
                self._replace(copy, {})
        self._flush()


class _Copy:
    """What a presence knows of the entries of another node."""

    __slots__ = ("version", "entries", "has_asked")

    def __init__(self) -> None:
        self.version = 0
        self.entries: dict[str, tuple[str, str]] = {}  # phx_ref -> topic, key
        self.has_asked = False


def _metas(refs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metas of one key as clients get them: copies, so that ``fetch`` may change them."""
    return {"metas": [dict(meta) for meta in refs.values()]}


# ==========================================================================================
# 11. WebSocket protocol                                                   depends on: Ground
# ==========================================================================================
#
# How does an HTTP connection become one over which both sides speak whenever they like? This
# chapter is RFC 6455 without a socket in it: bytes go in, events come out, and what is to be
# written is returned as bytes. Nothing here waits, and nothing knows the time; the server
# moves the bytes and owns the time-outs. The parts stand in the order a connection meets them.
#
# Handshake. One HTTP request, answered with 101 or refused. `_accept_websocket` says which;
# `_OriginCheck` keeps the pages of other sites out.
#
# Reading. After the handshake there are only frames:
#
#     1 byte                1 byte          0, 2 or 8 bytes   4 bytes   as many as the length says
#     FIN RSV1-3 opcode     MASK length     longer length     mask      payload
#      1    3      4          1    7 bits
#
# A length up to 125 stands in the second byte; 126 says that it follows in two bytes, 127 in
# eight. A message is one data frame or several: the first has the opcode, the others have
# opcode 0, the last one has FIN. Control frames (close, ping, pong) are whole and short, and
# may come between the fragments of a message. `_WebSocketParser` is given chunks, cut
# anywhere, and returns what they complete: `str` and `bytes` are messages, `_Ping`, `_Pong`
# and `_Close` are control frames, and a `WebSocketError` is the last event there is. It is
# returned, not raised, so that the messages before it are not lost.
#
# The idea to take away: *a payload is never waited for*. A header is judged as soon as it is
# there, its length against the limit included; then whatever has arrived of the payload is
# unmasked, inflated, measured and, in a text, checked to be UTF-8. So nothing undigested is
# kept but a cut header or control frame, every byte is handled once however the network cuts
# them, and a peer that breaks a rule is told so at that very byte.
#
# In practice nearly all frames are short and whole. The loop in `receive_data` reads those
# by itself and leaves the others to one function per step: `_read_frame`, `_read_header`,
# `_read_payload`, `_end_message`.
#
# Writing. A server does not mask (§5.1) and need not fragment: a frame is a header and the
# payload, and the same bytes serve every receiver of a broadcast.
#
# Closing. Each side sends one close frame, and no data after it. When both have passed, the
# server ends the TCP connection (§7). `_CloseHandshake` remembers who has said what:
#
#     open --- we send close ---> closing --- their close ---> closed: drop
#     open --- their close, which we answer at once ---------> closed: drop
#     open or closing --- they break a rule, we say which ---> failed: drop
#
# Sources: RFC 6455, here just §; RFC 7692 for compression; Phoenix.Socket.Transport for the
# rules about origins.

__all__ += ["WebSocketError"]


class WebSocketError(PhoenixError):
    """The peer broke a rule of the WebSocket protocol.

    *code* is the close code that says which (RFC 6455 §7.4.1), *reason* a text that fits into a close frame.
    """

    status = 400

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


# --- Handshake ----------------------------------------------------------------------------

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # §1.3: proves that the server knows what it agrees to
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # what 16 bytes look like in base64


class _HandshakeError(PhoenixError):
    """A request that cannot become a WebSocket. *status* and *headers* belong into the answer."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


class _Handshake:
    """What was agreed: the *headers* of the answer 101, and the *subprotocol* and compression they name."""

    def __init__(
        self, headers: list[tuple[str, str]], subprotocol: str | None, deflate: _PerMessageDeflate | None
    ) -> None:
        self.headers, self.subprotocol, self.deflate = headers, subprotocol, deflate


def _accept_websocket(
    method: str, version: str, headers: Mapping[str, Sequence[str]], *, subprotocols: Sequence[str] = (),
    compress: bool = False,
) -> _Handshake:
    """Decide whether a request may become a WebSocket (§4.2).

    *version* is that of HTTP (``"1.1"``); *headers* maps lower-case names to all values of that name.
    *subprotocols* are those that the application speaks, best first. Raises ``_HandshakeError``.
    """
    if method != "GET":
        raise _HandshakeError(405, f"a WebSocket opens with GET, not with {method}.", {"allow": "GET"})
    if version != "1.1":
        raise _HandshakeError(400, f"a WebSocket opens over HTTP/1.1, this request came over HTTP/{version}.")
    if "transfer-encoding" in headers or any(value.strip("0") for value in headers.get("content-length", ())):
        raise _HandshakeError(400, "a WebSocket opens without a body: it could be taken for frames.")
    key = _check_upgrade(headers)
    answer = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", _accept_key(key))]
    subprotocol = _select_subprotocol(headers.get("sec-websocket-protocol", ()), subprotocols)
    if subprotocol is not None:
        answer.append(("sec-websocket-protocol", subprotocol))
    deflate = _negotiate_deflate(headers.get("sec-websocket-extensions", ())) if compress else None
    if deflate is not None:
        answer.append(("sec-websocket-extensions", deflate.header))
    return _Handshake(answer, subprotocol, deflate)


def _check_upgrade(headers: Mapping[str, Sequence[str]]) -> str:
    """Return the key of a request that asks, in full, for a WebSocket of version 13 (§4.2.1)."""
    upgrade = {"upgrade": "websocket", "connection": "Upgrade"}
    for name, token in (("upgrade", "websocket"), ("connection", "upgrade")):
        values = list(headers.get(name, ()))
        if token not in [item.lower() for item in _list_items(values)]:
            raise _HandshakeError(
                426,
                f"only WebSocket is spoken here: expected the header `{name}: {token}`, got {values!r}.\n"
                "Connect with a WebSocket client; proxies in between must pass on `upgrade`, `connection`.",
                upgrade,
            )
    versions = list(headers.get("sec-websocket-version", ()))
    if versions != ["13"]:
        answer = {**upgrade, "sec-websocket-version": "13"}
        raise _HandshakeError(426, f"expected the header `sec-websocket-version: 13`, got {versions!r}.", answer)
    keys = list(headers.get("sec-websocket-key", ()))
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise _HandshakeError(400, f"expected one sec-websocket-key, 16 bytes in base64, got {keys!r}.")
    return keys[0]


def _accept_key(key: str) -> str:
    """Return the answer to a client's key (§4.2.2).

    >>> _accept_key("dGhlIHNhbXBsZSBub25jZQ==")
    's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    digest = hashlib.sha1((key + _GUID).encode("ascii"), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def _list_items(values: Iterable[str]) -> list[str]:
    """Split the values of a header that holds a comma-separated list (RFC 9110 §5.6.1)."""
    return [item for value in values for part in value.split(",") if (item := part.strip(" \t"))]


def _select_subprotocol(values: Iterable[str], spoken: Sequence[str]) -> str | None:
    """Return the first subprotocol of *spoken* that the client offers in *values*.

    A client that offers some, but none that is spoken, is refused. After a 101 a browser would fail without
    telling why, and any other client would go on in a language that the application does not know.
    """
    offered = _list_items(values)
    for name in offered:
        if not _TOKEN(name):
            raise _HandshakeError(400, f"sec-websocket-protocol holds {name!r}, which is not a token.")
    if not offered or not spoken:
        return None
    for name in spoken:
        if name in offered:
            return name
    raise _HandshakeError(403, f"none of the subprotocols {offered} is spoken here; {list(spoken)} would be.")


# A page of any site may open a WebSocket to any host, and the browser sends that host's cookies along: the
# same-origin policy does not hold here (§10.2). So the server asks where the page came from.

if TYPE_CHECKING:
    _Origin = tuple[str | None, str, int | None]  # scheme, host, port; None stands for any

_ORIGIN = re.compile(
    r"(?:([a-z][a-z0-9+.\-]*):)?//(\[[0-9a-f:.]+\]|(?:\*\.)?[^\s/?#@:\[\]*,]+)(?::([0-9]{1,5}))?", re.IGNORECASE
)


class _OriginCheck:
    """Decide by their ``Origin`` header which pages may connect (§10.2).

    *allowed* is ``"conn"`` (pages of the very scheme, host and port that they connect to), ``True`` (these, and those
    of the host in the endpoint's url), ``False`` (all pages), or a list such as ``["https://example.com",
    "//localhost:8080", "//*.example.com"]``: what an entry leaves out, scheme or port, may be any, and
    ``*.`` is the domain with all below it. Raises ``ArgumentError``.
    """

    def __init__(self, allowed: bool | str | Iterable[str] = True) -> None:
        if isinstance(allowed, str) and allowed != "conn":
            raise ArgumentError(f'unknown origins {allowed!r}: expected True, False, "conn", or a list.')
        self._allowed = allowed
        self._patterns = () if isinstance(allowed, (bool, str)) else tuple(map(_origin_pattern, allowed))

    def allows(
        self, origins: Sequence[str], *, url_host: str | None, host: str, places: Iterable[tuple[str, int | None]]
    ) -> bool:
        """Say whether a request with these ``Origin`` headers may connect.

        *url_host* is the host of the endpoint's url; the request came to *host*, at one of *places*: scheme (http or
        https) and port. Without the header it does not come from a page, and passes.
        """
        if not origins or self._allowed is False:
            return True
        origin = _parse_origin(origins[0]) if len(origins) == 1 else None
        if origin is None or origin[0] is None or origin[1].startswith("*"):
            return False  # such as "null" and "file://"
        if self._allowed is True and url_host is not None and origin[1] == _plain_host(url_host):
            return True
        if self._allowed is True or self._allowed == "conn":
            return origin[1] == _plain_host(host) and (origin[0], origin[2]) in places
        return any(_origin_matches(origin, pattern) for pattern in self._patterns)


def _origin_pattern(text: str) -> _Origin:
    pattern = _parse_origin(text)
    if pattern is None:
        raise ArgumentError(
            f"invalid origin {text!r}: expected one such as "
            '"https://example.com", "//example.com", "//localhost:8080" or "//*.example.com".'
        )
    return pattern


def _parse_origin(text: str) -> _Origin | None:
    """Take an origin, or a pattern of origins, apart. ``None`` when it is not one.

    >>> _parse_origin("https://Example.com"), _parse_origin("//*.example.com"), _parse_origin("null")
    (('https', 'example.com', 443), (None, '*.example.com', None), None)
    """
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    scheme = match[1].lower() if match[1] else None
    port = int(match[3]) if match[3] else {"http": 80, "https": 443}.get(scheme or "")
    return scheme, _plain_host(match[2]), port


def _plain_host(host: str) -> str:
    return host.lower().strip("[]")  # an IPv6 address stands in brackets


def _origin_matches(origin: _Origin, pattern: _Origin) -> bool:
    scheme, host, port = pattern
    if scheme not in (None, origin[0]) or port not in (None, origin[2]):
        return False
    if host.startswith("*."):
        return origin[1] == host[2:] or origin[1].endswith(host[1:])
    return origin[1] == host


# --- Compression (RFC 7692) ---------------------------------------------------------------

# Each direction remembers a window of what it sent before, per connection. 12 bits and memLevel 5 cost about
# 40 KB, zlib's defaults 300 KB, and the messages of an application shrink nearly as well.
_WINDOW_BITS = 12
_MEMORY_LEVEL = 5
_COMPRESS_FROM = 64  # bytes; shorter messages are sent as they are
_FLUSH = b"\x00\x00\xff\xff"  # the end of every flushed block; it is not sent (RFC 7692 §7.2.1)
_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_OFFERS: dict[str, tuple[str | None, ...]] = {  # what a client may ask for; zlib cannot compress into 8 bits
    "server_no_context_takeover": (None,),
    "client_no_context_takeover": (None,),
    "server_max_window_bits": ("9", "10", "11", "12", "13", "14", "15"),
    "client_max_window_bits": (None, "8", "9", "10", "11", "12", "13", "14", "15"),
}


class _PerMessageDeflate:
    """The compression that one connection agreed upon: its parameters and its two zlib streams.

    *no_context_takeover*: that side forgets its window after each message. *header* is the answer to the
    client. A stream is made when it is first used, since most connections are idle.
    """

    __slots__ = (
        "_compressor", "_decompressor", "_saw_final_block", "client_max_window_bits",
        "client_no_context_takeover", "header", "server_max_window_bits", "server_no_context_takeover",
    )  # fmt: skip

    def __init__(
        self, server_no_context_takeover: bool = False, client_no_context_takeover: bool = False,
        server_max_window_bits: int = _WINDOW_BITS, client_max_window_bits: int | None = None,
    ) -> None:
        self.server_no_context_takeover = server_no_context_takeover
        self.client_no_context_takeover = client_no_context_takeover
        self.server_max_window_bits = server_max_window_bits
        self.client_max_window_bits = client_max_window_bits
        parts = ["permessage-deflate", *(flag for flag in _FLAGS if getattr(self, flag))]
        parts.append(f"server_max_window_bits={server_max_window_bits}")
        if client_max_window_bits is not None:
            parts.append(f"client_max_window_bits={client_max_window_bits}")
        self.header = "; ".join(parts)
        self._compressor: Any = None
        self._decompressor: Any = None
        self._saw_final_block = False

    def compress(self, payload: bytes) -> bytes:
        """Compress the payload of one whole message (RFC 7692 §7.2.1)."""
        compressor = self._compressor
        if compressor is None:
            compressor = zlib.compressobj(
                zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -self.server_max_window_bits, _MEMORY_LEVEL
            )
            if not self.server_no_context_takeover:
                self._compressor = compressor
        compressed: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return compressed[: -len(_FLUSH)]

    def decompress(self, data: bytes | bytearray, limit: int) -> bytes:
        """Inflate the next part of a message (RFC 7692 §7.2.2), to *limit* bytes at most.

        Raises ``WebSocketError``: 1009 as soon as the limit is passed, however much the rest would make.
        """
        if self._decompressor is None:
            self._decompressor = self._new_decompressor()
        try:
            # One byte more than allowed shows that it is too much; and to zlib, 0 would mean no limit.
            inflated: bytes = self._decompressor.decompress(data, limit + 1)
            if self._decompressor.eof:
                inflated += self._start_anew(limit + 1 - len(inflated))
        except zlib.error as error:
            raise WebSocketError(1002, "a compressed message cannot be inflated") from error
        if len(inflated) > limit:
            raise WebSocketError(1009, "a compressed message grows past the limit")
        return inflated

    def end_message(self, limit: int) -> bytes:
        """Inflate the end of a message, which the sender has cut off."""
        inflated = self.decompress(_FLUSH, limit)
        self._saw_final_block = False
        if self.client_no_context_takeover:
            self._decompressor = None
        return inflated

    def _new_decompressor(self) -> Any:
        return zlib.decompressobj(-(self.client_max_window_bits or zlib.MAX_WBITS))

    def _start_anew(self, limit: int) -> bytes:
        """Go on after a block that says it is the last of its stream (RFC 7692 §7.2.3.4).

        Some libraries end each message so. More often is refused: a megabyte of empty streams, two bytes
        each, would keep zlib busy for minutes.
        """
        rest = self._decompressor.unused_data
        self._decompressor = self._new_decompressor()
        inflated: bytes = self._decompressor.decompress(rest, limit) if limit > 0 else b""
        if self._saw_final_block or self._decompressor.eof:
            raise WebSocketError(1002, "a compressed message holds more than one final block")
        self._saw_final_block = True
        return inflated


def _negotiate_deflate(values: Iterable[str]) -> _PerMessageDeflate | None:
    """Accept the first offer of permessage-deflate that can be met (RFC 7692 §5.1); ``None`` without one.

    *values* are those of ``Sec-WebSocket-Extensions``. Raises ``_HandshakeError`` when that is malformed.
    """
    for item in _list_items(values):
        (name, value), *parameters = map(_parse_parameter, item.split(";"))
        if name == "permessage-deflate" and value is None and (deflate := _accept_offer(parameters)):
            return deflate
    return None


def _parse_parameter(text: str) -> tuple[str, str | None]:
    """Take ``name``, ``name=value`` or ``name="value"`` apart (§9.1)."""
    name, equals, value = (part.strip(" \t") for part in text.partition("="))
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if not _TOKEN(name) or (equals and not _TOKEN(value)):
        raise _HandshakeError(400, f"sec-websocket-extensions holds {text!r}, not a name or parameter.")
    return name, value if equals else None


def _accept_offer(parameters: list[tuple[str, str | None]]) -> _PerMessageDeflate | None:
    """Answer one offer; ``None`` declines it, as unknown or doubled parameters ask for (RFC 7692 §7.1)."""
    offer = dict(parameters)
    if len(offer) < len(parameters) or any(value not in _OFFERS.get(name, ()) for name, value in parameters):
        return None
    server_bits = min(int(offer.get("server_max_window_bits") or _WINDOW_BITS), _WINDOW_BITS)
    client_bits = None
    if "client_max_window_bits" in offer:  # only then may the answer hold it
        client_bits = min(int(offer["client_max_window_bits"] or _WINDOW_BITS), _WINDOW_BITS)
    server_flag, client_flag = (flag in offer for flag in _FLAGS)
    return _PerMessageDeflate(server_flag, client_flag, server_bits, client_bits)


# --- Reading ------------------------------------------------------------------------------

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_CONTROL = 0x8  # the bit of an opcode that all control frames have
_FIN, _RSV1, _MASKED = 0x80, 0x40, 0x80

# All the state that fragmentation needs is what the next first byte may be (§5.4): between messages one
# begins, inside a message it goes on, and a control frame, which is always whole, may come at any time.
_CONTROL_FRAMES = frozenset({_FIN | _CLOSE, _FIN | _PING, _FIN | _PONG})
_WHOLE_TEXT, _WHOLE_BINARY = _FIN | _TEXT, _FIN | _BINARY
_BETWEEN_MESSAGES = _CONTROL_FRAMES | {_TEXT, _BINARY, _WHOLE_TEXT, _WHOLE_BINARY}
_BETWEEN_COMPRESSED = _BETWEEN_MESSAGES | {_RSV1 | first for first in _BETWEEN_MESSAGES - _CONTROL_FRAMES}
_INSIDE_MESSAGE = _CONTROL_FRAMES | {_CONTINUATION, _FIN | _CONTINUATION}

# §7.4.1 and IANA's registry. 1004 to 1006 and 1015 name what happens without a close frame.
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})

_from_bytes = int.from_bytes  # looked up once: 25 ns less each time


class _Ping:
    """The peer asks for a pong with the same *payload*."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class _Pong:
    """The peer answers a ping, or shows that it lives."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class _Close:
    """One side says goodbye. *code* is ``None`` when it gave none."""

    __slots__ = ("code", "reason")

    def __init__(self, code: int | None, reason: str) -> None:
        self.code, self.reason = code, reason


if TYPE_CHECKING:
    _WebSocketEvent = str | bytes | _Ping | _Pong | _Close | WebSocketError


class _WebSocketParser:
    """Turn the bytes of a client into messages and control frames (§5).

    *max_size* limits a message, in bytes after inflating, and each of its frames. *deflate* is the
    compression that the handshake agreed upon.
    """

    __slots__ = (
        "_between", "_buffer", "_closed", "_deflate", "_expected", "_final", "_inflater", "_mask",
        "_max_size", "_message", "_opcode", "_remaining", "_short", "_size", "_utf8_rest",
    )  # fmt: skip

    def __init__(self, *, max_size: int = 1 << 20, deflate: _PerMessageDeflate | None = None) -> None:
        self._max_size, self._deflate = max_size, deflate
        self._between = _BETWEEN_COMPRESSED if deflate else _BETWEEN_MESSAGES
        self._short = _MASKED | min(125, max_size)  # the highest second byte of a short frame
        self._closed = False
        self._buffer = b""  # a cut header or control frame: 130 bytes at most
        self._begin_message(0)
        # Of the data frame whose payload is arriving: its FIN, the mask for the next byte, the bytes to come.
        self._final = False
        self._mask = b""
        self._remaining = 0

    def receive_data(self, data: bytes) -> list[_WebSocketEvent]:
        """Take the next bytes of the client, cut anywhere, and return the events that they complete.

        A ``_Close`` or a ``WebSocketError`` is the last event; bytes after it are ignored.
        """
        if self._closed:
            return []
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        events: list[_WebSocketEvent] = []
        at, size = 0, len(data)
        try:
            if self._remaining:
                at = self._read_payload(data, 0, events)
            while at < size:
                first, second = data[at], data[at + 1] if size - at > 5 else 0
                start, stop = at + 6, at + 6 + second - _MASKED
                if (
                    _MASKED <= second <= self._short
                    and stop <= size
                    and (first == _WHOLE_TEXT or first == _WHOLE_BINARY)
                    and not self._opcode
                ):  # A short message, whole: read here, it takes half the time.
                    mask = (data[at + 2 : start] * 32)[: stop - start]
                    number = _from_bytes(data[start:stop], "little") ^ _from_bytes(mask, "little")
                    payload = number.to_bytes(stop - start, "little")
                    events.append(payload.decode() if first == _WHOLE_TEXT else payload)
                    at = stop
                else:
                    at = self._read_frame(data, at, events)
        except UnicodeDecodeError:
            events.append(WebSocketError(1007, "a text is not UTF-8"))
            self._stop()
        except WebSocketError as error:
            events.append(error)
            self._stop()
        return events

    def _read_frame(self, data: bytes, at: int, events: list[_WebSocketEvent]) -> int:
        """Read what is there of the frame at *at*; return where the next one starts."""
        header = self._read_header(data, at)
        if header is None:
            self._buffer = data[at:]
            return len(data)
        first, (start, length) = data[at], header
        opcode, mask, stop = first & 0x0F, data[start - 4 : start], start + length
        if opcode & _CONTROL:
            event = _CONTROL_EVENTS[opcode](bytes(_unmask(data[start:stop], mask)))
            events.append(event)
            if not isinstance(event, _Close):
                return stop
            self._stop()
            return len(data)
        if (first == _WHOLE_TEXT or first == _WHOLE_BINARY) and stop <= len(data):  # nothing to put together
            payload = _unmask(data[start:stop], mask)
            events.append(payload.decode() if opcode == _TEXT else bytes(payload))
            return stop
        if opcode != _CONTINUATION:
            self._begin_message(opcode, self._deflate if first & _RSV1 else None)
        self._final, self._mask, self._remaining = bool(first & _FIN), mask, length
        return self._read_payload(data, start, events)

    def _read_header(self, data: bytes, at: int) -> tuple[int, int] | None:
        """Judge what is there of the header at *at* (§5.2); return where the payload starts, and its length.

        ``None`` asks for more bytes: the header is cut, or a control frame is. Raises ``WebSocketError``:
        1002 for a frame that may not stand here, 1009 for one that is too long.
        """
        first = data[at]
        if first not in self._expected:
            raise WebSocketError(1002, self._why_unexpected(first))
        if len(data) - at < 2:
            return None
        second = data[at + 1]
        if not second & _MASKED:
            raise WebSocketError(1002, "a frame from a client must be masked")
        length, more = second & 0x7F, 0
        if length > 125:
            if first & _CONTROL:
                raise WebSocketError(1002, "the payload of a control frame may have 125 bytes at most")
            more, least = (2, 126) if length == 126 else (8, 1 << 16)
            if len(data) - at < 2 + more:
                return None
            length = _from_bytes(data[at + 2 : at + 2 + more], "big")
            if not least <= length < 1 << 63:
                raise WebSocketError(1002, "a length must be below 2**63, in its shortest form")
        if not first & _CONTROL and length > self._max_size - (0 if self._inflater else self._size):
            raise WebSocketError(1009, f"a message may have {self._max_size} bytes at most")
        start = at + 2 + more + 4
        needed = start + length if first & _CONTROL else start
        return (start, length) if needed <= len(data) else None

    def _why_unexpected(self, first: int) -> str:
        """Say which rule forbids a frame with this first byte here."""
        opcode = first & 0x0F
        if opcode not in (_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
            return f"opcode {opcode} is reserved"
        if first & 0x70:
            return "a reserved bit is set where none may be"
        if opcode & _CONTROL:
            return "a control frame must not be fragmented"
        if opcode == _CONTINUATION:
            return "a continuation frame came without a message to continue"
        return "a message began before the one in fragments had ended"

    def _read_payload(self, data: bytes, at: int, events: list[_WebSocketEvent]) -> int:
        """Digest what is there, from *at*, of the payload of a data frame; return where it stops."""
        stop = min(at + self._remaining, len(data))
        used = stop - at
        payload = _unmask(data[at:stop], self._mask)
        if self._inflater:
            payload = self._inflater.decompress(payload, self._max_size - self._size)
        self._append(payload)
        self._remaining -= used
        self._mask = self._mask[used & 3 :] + self._mask[: used & 3]
        if self._final and not self._remaining:
            events.append(self._end_message())
        return stop

    def _begin_message(self, opcode: int, inflater: _PerMessageDeflate | None = None) -> None:
        self._opcode = opcode  # of the message in progress; 0 between messages
        self._expected = _INSIDE_MESSAGE if opcode else self._between
        self._inflater = inflater
        # Not a list, where a million pieces of one character would take fifty times their size. (StringIO
        # keeps such a list too before Python 3.12, but of 100,000 pieces at most.)
        self._message: Any = None if not opcode else io.StringIO() if opcode == _TEXT else io.BytesIO()
        self._size = 0  # of the message so far, in bytes
        self._utf8_rest = b""  # the start of a character that has not ended yet

    def _append(self, payload: bytes | bytearray) -> None:
        self._size += len(payload)
        self._message.write(self._decode(payload) if self._opcode == _TEXT else payload)

    def _decode(self, payload: bytes | bytearray) -> str:
        """Decode the next part of a text up to its last whole character (§8.1)."""
        encoded = self._utf8_rest + payload
        text, used = codecs.utf_8_decode(encoded, "strict", False)
        self._utf8_rest = rest = encoded[used:]
        if rest[:1] == b"\xed" and rest[1:] > b"\x9f":  # a surrogate; Python would wait on
            raise WebSocketError(1007, "a text is not UTF-8")
        return text

    def _end_message(self) -> str | bytes:
        if self._inflater:
            self._append(self._inflater.end_message(self._max_size - self._size))
        if self._utf8_rest:
            raise WebSocketError(1007, "a text ends within a character")
        message: str | bytes = self._message.getvalue()
        self._begin_message(0)
        return message

    def _stop(self) -> None:
        """Ignore all that follows, and let go of what was being read."""
        self._closed = True
        self._begin_message(0)


def _parse_close(payload: bytes) -> _Close:
    """Read the payload of a close frame (§5.5.1): nothing, or a code and a reason."""
    if not payload:
        return _Close(None, "")
    code = _from_bytes(payload[:2], "big")
    if len(payload) == 1 or not _may_be_sent(code):
        raise WebSocketError(1002, f"a close frame may not hold the code {code}")
    return _Close(code, payload[2:].decode())


_CONTROL_EVENTS: dict[int, Callable[[bytes], _Ping | _Pong | _Close]] = {
    _PING: _Ping, _PONG: _Pong, _CLOSE: _parse_close
}  # fmt: skip


def _may_be_sent(code: int) -> bool:
    """Whether *code* may stand in a close frame: a registered one, or one that applications choose (§7.4)."""
    return code in _CLOSE_CODES or 3000 <= code <= 4999


def _unmask(payload: bytes, mask: bytes) -> bytes | bytearray:
    """Undo the masking of a payload (§5.3): each byte was xored with one of the four of *mask*, in turn.

    A short payload is xored as one big integer. From 2 KB on it is faster to take every fourth byte, since
    those meet the same byte of the mask, and look them up in a table.
    """
    size = len(payload)
    if size < 2048:
        number = _from_bytes(payload, "little") ^ _from_bytes((mask * (size // 4 + 1))[:size], "little")
        return number.to_bytes(size, "little")
    unmasked = bytearray(size)
    for i in range(4):
        unmasked[i::4] = payload[i::4].translate(_xor_table(mask[i]))
    return unmasked


@functools.lru_cache(maxsize=256)
def _xor_table(key: int) -> bytes:
    return bytes(byte ^ key for byte in range(256))


# --- Writing ------------------------------------------------------------------------------


def _serialize_frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    r"""Return one whole frame as a server sends it: not masked (§5.1), and never in fragments.

    >>> _serialize_frame(0x1, b"Hello")
    b'\x81\x05Hello'
    """
    first = _FIN | opcode | (_RSV1 if compressed else 0)
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 1 << 16:
        return bytes((first, 126, length >> 8, length & 0xFF)) + payload
    return bytes((first, 127)) + length.to_bytes(8, "big") + payload


def _serialize_message(message: str | bytes, deflate: _PerMessageDeflate | None = None) -> bytes:
    """Return the frame of a text or binary message, compressed when *deflate* is given and it is worth it.

    A frame made without *deflate* serves every connection, also those that agreed on compression.
    """
    opcode, payload = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
    if deflate is not None and len(payload) >= _COMPRESS_FROM:
        return _serialize_frame(opcode, deflate.compress(payload), compressed=True)
    return _serialize_frame(opcode, payload)


def _serialize_close(code: int | None = 1000, reason: str = "") -> bytes:
    """Return a close frame (§5.5.1). Raises ``ArgumentError`` for a *code* or *reason* it cannot hold."""
    if code is None:
        return _serialize_frame(_CLOSE, b"")
    if not _may_be_sent(code):
        raise ArgumentError(
            f"close code {code!r} cannot be sent: expected 1000 (normal), 1001 (going away), 1008 (policy), "
            "1011 (error), 1013 (try again later), or one of your own from 3000 to 4999."
        )
    payload = code.to_bytes(2, "big") + reason.encode()
    if len(payload) > 125:
        raise ArgumentError(
            f"the reason of a close frame has 123 bytes of UTF-8 at most, not {len(payload) - 2}: {reason!r}"
        )
    return _serialize_frame(_CLOSE, payload)


# --- Closing ------------------------------------------------------------------------------


class _CloseHandshake:
    """Who has said goodbye (§7), what the peer is still owed, and when to drop the connection.

    The server writes what ``close`` and ``answer`` return. When ``should_drop`` is true it ends its own side
    of the TCP connection and reads on, for a while, until the peer has ended the other. If it closed both at
    once with bytes unread, the kernel would reset the connection, and the close frame could be lost.
    """

    __slots__ = ("failed", "received", "sent")

    def __init__(self) -> None:
        self.sent: _Close | None = None
        self.received: _Close | None = None
        self.failed = False

    @property
    def is_open(self) -> bool:
        """Whether messages and pings may still be sent (§5.5.1)."""
        return self.sent is None

    @property
    def should_drop(self) -> bool:
        """Whether nothing is left to say: both sides have closed, or the peer broke a rule (§7.1.7)."""
        return self.failed or (self.sent is not None and self.received is not None)

    @property
    def code(self) -> int:
        """What the application is told (§7.1.5): the peer's close code, 1005 when it gave none.

        A peer that said nothing leaves the code that it was sent, else 1006: the connection broke.
        """
        close = self.received or self.sent
        return 1006 if close is None else 1005 if close.code is None else close.code

    @property
    def reason(self) -> str:
        """The text that came with ``code``."""
        close = self.received or self.sent
        return close.reason if close else ""

    def close(self, code: int | None = 1000, reason: str = "") -> bytes:
        """Return the close frame to send; nothing when one was sent already. Raises ``ArgumentError``."""
        if self.sent is not None:
            return b""
        frame = _serialize_close(code, reason)
        self.sent = _Close(code, reason)
        return frame

    def answer(self, event: object) -> bytes:
        """Return what the peer is owed for an *event* of the parser: a pong, a close frame, or nothing."""
        if isinstance(event, _Ping):
            return _serialize_frame(_PONG, event.payload) if self.is_open else b""
        if isinstance(event, _Close):
            self.received = event
            return self.close(event.code)
        if isinstance(event, WebSocketError):
            self.failed = True
            return self.close(event.code, event.reason)
        return b""


# ==========================================================================================
# 12. Channels        depends on: Ground to Session, Router, PubSub, WebSocket protocol
# ==========================================================================================
#
# A channel is to messages what a controller is to requests, except that it stays. One connection
# carries many topics; each joined topic has an object of its channel class and a `Socket` that
# holds its state. A topic's messages are handled one at a time, in order: what comes while a
# callback runs waits in the socket. Topics do not wait for each other, and a crash in one takes
# nothing else down: the client is told, and joins again.
#
#     client                    session (one for each connection)          channel (one for each topic)
#       join rooms:lobby   -->  which channel serves "rooms:*"?       -->  join(socket, "lobby", message)
#       <-- reply ok            subscribed to PubSub "rooms:lobby"    <--  return socket.ok()
#       new:msg            -->  joined? then to its channel           -->  event(socket, "new:msg", message)
#       <-- new:msg             one encoding, written to everybody    <--  socket.broadcast("new:msg", ...)
#
# How a message looks on the wire is the business of a serializer. There are three generations of
# clients, so there are three: arrays (V2), objects (V1), and the four keys of Phoenix 0.7. How it
# gets there is the business of a wire: a WebSocket, or a queue that a long poll empties. This
# chapter knows neither frames nor sockets.
#
# Sources: Phoenix.Channel and Phoenix.Channel.Transport 0.7, Phoenix.Socket, Phoenix.Channel.Server,
# Phoenix.Socket.V1/V2.JSONSerializer, Phoenix.Transports.LongPoll.

__all__ += [
    "Channel", "Socket", "SocketHandler", "Reply", "WebSocket", "ChannelError", "socket", "channel", "websocket",
]  # fmt: skip


class ChannelError(PhoenixError):
    """A channel broke the contract, or a client sent what is no message."""


# --- Messages and serializers -------------------------------------------------------------
#
# A message is (join_ref, ref, topic, event, payload). `join_ref` names the join that it belongs
# to, so that what arrives late from an earlier join can be told apart; `ref` asks for a reply.

_Message: TypeAlias = "tuple[str | None, str | None, str, str, Any]"

_raw_decode = jsonlib.JSONDecoder(parse_float=_finite, parse_constant=_finite).raw_decode


def _decode_json(text: str) -> Any:
    """As ``json.loads``, at half the cost, and without values that could not be written again: one client's ``NaN``,
    sent on to the others, would be an error in each of them."""
    value, end = _raw_decode(text if text[:1] not in " \t\r\n" else text.lstrip(" \t\r\n"))
    if end != len(text) and text.lstrip(" \t\r\n")[end:].strip(" \t\r\n"):
        raise ValueError("there is more behind the JSON")
    if "\\u" in text and _HALF_OF_A_PAIR.search(text):
        encode_json(value).encode()
    return value


class _V2:
    """``[join_ref, ref, topic, event, payload]``, and binary frames for payloads of bytes."""

    name = "2.0.0"

    @staticmethod
    def decode(data: str | bytes) -> Any:
        if isinstance(data, bytes):
            return _decode_binary_push(data)
        message = _decode_json(data)
        if message.__class__ is not list or len(message) != 5:
            raise ChannelError("expected [join_ref, ref, topic, event, payload]")
        return message

    @staticmethod
    def push(join_ref: str | None, topic: str, event: str, payload: Any) -> str | bytes:
        if isinstance(payload, bytes):
            return _encode_binary(0, (join_ref, topic, event), payload)
        return encode_json([join_ref, None, topic, event, payload])

    @staticmethod
    def reply(join_ref: str | None, ref: str | None, topic: str, status: str, response: Any) -> str | bytes:
        if isinstance(response, bytes):
            return _encode_binary(1, (join_ref, ref, topic, status), response)
        return encode_json([join_ref, ref, topic, "phx_reply", {"status": status, "response": response}])

    @staticmethod
    def broadcast(message: Broadcast) -> str | bytes:
        if isinstance(message.payload, bytes):
            return _encode_binary(2, (message.topic, message.event), message.payload)
        return encode_json([None, None, message.topic, message.event, message.payload])

    @staticmethod
    def control(join_ref: str | None, topic: str, event: str, payload: Any) -> str | bytes:
        return encode_json([join_ref, join_ref, topic, event, payload])


class _V1:
    """``{"topic", "event", "payload", "ref"}``."""

    name = "1.0.0"

    @staticmethod
    def decode(data: str | bytes) -> _Message:
        message = _decode_json(data if isinstance(data, str) else data.decode())
        return message.get("join_ref"), message.get("ref"), message["topic"], message["event"], message["payload"]

    @staticmethod
    def push(join_ref: str | None, topic: str, event: str, payload: Any) -> str:
        return encode_json({"topic": topic, "event": event, "payload": _no_bytes(payload), "ref": None})

    @staticmethod
    def reply(join_ref: str | None, ref: str | None, topic: str, status: str, response: Any) -> str:
        payload = {"status": status, "response": _no_bytes(response)}
        return encode_json({"topic": topic, "event": "phx_reply", "payload": payload, "ref": ref})

    @staticmethod
    def broadcast(message: Broadcast) -> str:
        return _V1.push(None, message.topic, message.event, message.payload)

    @staticmethod
    def control(join_ref: str | None, topic: str, event: str, payload: Any) -> str:
        return encode_json({"topic": topic, "event": event, "payload": payload, "ref": join_ref})


class _V07:
    """``{"channel", "topic", "event", "message"}``, as Phoenix 0.7 speaks: nothing is answered unless the app does."""

    name = "0.7"

    @staticmethod
    def decode(data: str | bytes) -> _Message:
        message = _decode_json(data if isinstance(data, str) else data.decode())
        for key in ("channel", "topic", "event", "message"):
            if key not in message:
                raise ChannelError(f"Missing key: {key!r}")
        name, topic, event = message["channel"], message["topic"], message["event"]
        if not isinstance(name, str) or not isinstance(topic, str) or not isinstance(event, str):
            raise ChannelError("channel, topic and event must be text")
        event = f"phx_{event}" if event in ("join", "leave") else event
        return None, None, f"{name}:{topic}", event, message["message"]

    @staticmethod
    def push(join_ref: str | None, topic: str, event: str, payload: Any) -> str:
        name, _, rest = topic.partition(":")
        return encode_json({"channel": name, "topic": rest, "event": event, "message": _no_bytes(payload)})

    @staticmethod
    def reply(join_ref: str | None, ref: str | None, topic: str, status: str, response: Any) -> None:
        return None

    @staticmethod
    def broadcast(message: Broadcast) -> str:
        return _V07.push(None, message.topic, message.event, message.payload)

    @staticmethod
    def control(join_ref: str | None, topic: str, event: str, payload: Any) -> None:
        return None


def _no_bytes(payload: Any) -> Any:
    if isinstance(payload, bytes):
        raise ArgumentError("this client speaks JSON only: a payload of bytes needs a client with vsn=2.0.0")
    return payload


def _encode_binary(kind: int, fields: Sequence[object], payload: bytes) -> bytes:
    """Return kind, the length of each field, the fields, and the payload."""
    encoded = [b"" if field is None else str(field).encode() for field in fields]
    for field in encoded:
        if len(field) > 255:
            raise ArgumentError(
                f"unable to convert {field.decode()!r} to binary: must be less than or equal to 255 bytes,"
                f" but is {len(field)} bytes"
            )
    return bytes([kind, *map(len, encoded)]) + b"".join(encoded) + payload


def _decode_binary_push(data: bytes) -> _Message:
    if len(data) < 5 or data[0] != 0 or len(data) < 5 + sum(data[1:5]):
        raise ChannelError("malformed binary message")
    join_ref, ref, topic, event, payload = _decode_binary(data, 5)
    return join_ref or None, ref or None, topic, event, payload


def _decode_binary(data: bytes, at: int) -> list[Any]:
    """Undo ``_encode_binary``: return the fields, the first of which begins at *at*, and the payload."""
    found: list[Any] = []
    for length in data[1:at]:
        found.append(data[at : at + length].decode())
        at += length
    found.append(data[at:])
    return found


# --- Socket -------------------------------------------------------------------------------


class Reply:
    """What a callback answers a message with: a status, ``"ok"`` or ``"error"``, and a response."""

    __slots__ = ("status", "response", "stops")

    def __init__(self, status: str, response: Any, stops: bool = False) -> None:
        self.status, self.response, self.stops = status, response, stops

    def __repr__(self) -> str:
        return f"Reply({self.status!r}, {self.response!r})"


class Socket:
    """One client in one topic, as its channel sees it.

    ``topic`` is the whole topic (``"rooms:lobby"``); ``assigns`` holds what the channel keeps for as long as the client
    is joined; ``ref`` is that of the message being handled. Methods may be called from any thread.
    """

    __slots__ = (
        "topic", "assigns", "ref", "join_ref", "joined", "channel", "_session", "_type", "_busy", "_waiting",
        "_closing", "_own_topics", "_early", "_left", "_draining", "_task",
    )  # fmt: skip

    def __init__(self, session: _Session, kind: _ChannelType, topic: str, join_ref: Any) -> None:
        self.topic = topic
        self.join_ref = join_ref
        self.ref: Any = None
        self.assigns: dict[str, Any] = dict(session.assigns)
        self.joined = False
        self._session = session
        self._type = kind
        self._busy = False  # a callback is running
        self._waiting: Any = None  # what came while it was
        self._draining = False
        self._task: Any = None
        self._closing: list[Callable[[Socket], object]] | None = None
        self._own_topics: list[str] | None = None
        self._early: list[Broadcast] | None = None
        self._left = False
        self.channel = kind.channel()

    def __repr__(self) -> str:
        return f"<Socket {self.topic}{'' if self.joined else ' (not joined)'}>"

    @property
    def id(self) -> str | None:
        """What the socket handler's ``id`` returned for this connection."""
        return self._session.id

    @property
    def endpoint(self) -> Any:
        """The endpoint that serves this connection."""
        return self._session.endpoint

    @property
    def connect_info(self) -> dict[str, Any]:
        """The connection: ``params``, ``session``, ``auth_token``, ``peer``, ``uri``, ``user_agent``, ``x_headers``."""
        return self._session.connect_info

    def assign(self, key: str, value: Any) -> Socket:
        """Keep a value for as long as the client is joined; read it as ``socket.assigns[key]``."""
        self.assigns[key] = value
        return self

    def ok(self, response: Any = None) -> Reply:
        """Answer the message, or let the client join: ``return socket.ok({"id": 7})``."""
        return Reply("ok", {} if response is None else response)

    def error(self, reason: Any = None) -> Reply:
        """Answer with an error, or refuse the join: ``return socket.error("unauthorized")``."""
        if reason is None:
            reason = {}
        return Reply("error", reason if isinstance(reason, (dict, bytes)) else {"reason": reason})

    def stop(self, response: Any = None) -> Reply:
        """Answer, and end the channel: the client gets ``phx_close`` and does not join again."""
        return Reply("ok", {} if response is None else response, stops=True)

    def reply(self, event: str, message: Any = None) -> Socket:
        """Send an event to this client: ``socket.reply("pong", {"at": 7})``. Bytes go as a binary frame."""
        session = self._session
        session.send(session.serializer.push(self.join_ref, self.topic, event, _checked_payload(message)))
        return self

    push = reply

    def reply_to(self, ref: Any, reply: Reply) -> None:
        """Answer a message later: keep ``socket.ref`` while it is handled, and give it here with ``socket.ok(...)``."""
        if ref is None or not self.joined:
            raise ArgumentError("reply_to needs the ref of a message that asks for a reply, and a joined socket")
        if not self._left:
            self._answer(ref, reply)

    def broadcast(self, event: str, message: Any = None) -> Socket:
        """Send an event to every client in this topic, this one included."""
        self._session.pubsub.broadcast(self.topic, Broadcast(self.topic, event, _checked_payload(message)))
        return self

    def broadcast_from(self, event: str, message: Any = None) -> Socket:
        """Send an event to every other client in this topic."""
        self._session.pubsub.broadcast_from(self, self.topic, Broadcast(self.topic, event, _checked_payload(message)))
        return self

    def subscribe(self, topic: str) -> Socket:
        """Have what is broadcast on another topic come to ``info(socket, message)``, until the client leaves."""
        if topic == self.topic:
            raise ArgumentError(f"{topic!r} is this socket's own topic: `intercept` what `out` shall see")
        pubsub = self._session.pubsub
        self._own_topics = [*(self._own_topics or ()), topic]
        pubsub._add(topic, self, self._info)
        if self._left:  # it closed meanwhile, in another thread
            pubsub._remove(topic, self)
        return self

    def unsubscribe(self, topic: str) -> Socket:
        """Undo ``subscribe``."""
        if topic in (self._own_topics or ()):
            self._own_topics = [own for own in self._own_topics or () if own != topic]
            self._session.pubsub._remove(topic, self)
        return self

    def send_info(self, message: Any) -> Socket:
        """Send a message to all channels of this connection: it comes as ``event(socket, "info", message)``."""
        self._session.call(self._session.inform, message)
        return self

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the whole connection of this client."""
        _serialize_close(code, reason)  # raises here and now for what cannot be sent
        self._session.call(self._session.close, code, reason)

    def _on_close(self, callback: Callable[[Socket], object]) -> None:
        """Call back when the client leaves the topic, in whatever way."""
        self._closing = [*(self._closing or ()), callback]

    def _hear_early(self, event: str) -> None:
        """Keep the broadcasts of *event* that come before the client has joined; it gets them when it has."""
        if self.joined or self._left or self._early is not None:
            return
        early = self._early = []

        def receive(message: Any) -> None:
            if message.__class__ is Broadcast and message.event == event:
                early.append(message)

        self._session.pubsub._add(self.topic, self, receive)
        if self._left:
            self._session.pubsub._remove(self.topic, self)

    # --- Handling, on the event loop --------------------------------------------------------

    def _answer(self, ref: Any, reply: Reply) -> None:
        if ref is not None:
            session = self._session
            session.send(session.serializer.reply(self.join_ref, ref, self.topic, reply.status, reply.response))

    def _wait(self, size: int, method: Callable[..., object], *arguments: Any) -> None:
        """Do something when the callbacks before it are done. *size* is what it costs to keep it until then."""
        if self._waiting is None:
            from collections import deque

            self._waiting = deque()
        self._waiting.append((size, method, arguments))
        self._session.hold(size)
        if len(self._waiting) > _MAX_WAITING:
            self._session.cut_off(f"{len(self._waiting)} messages wait for {_name_of(self._type.channel)}")

    def _event(self, event: str, payload: Any, ref: Any) -> None:
        """Let the channel handle an event of the client."""
        self.ref = ref
        runs = self._type.event_runs
        started = time.perf_counter() if logger.isEnabledFor(10) else 0.0  # logging.DEBUG
        try:
            if runs >= _AWAITED:
                self._call("event", (event, payload), lambda result: self._handled(event, payload, result, ref, started))
                return
            result = self.channel.event(self, event, payload)
            if runs == _STEPPED:
                result = _step(result)
            if result is not None or started:
                self._handled(event, payload, result, ref, started)
        except Exception as error:
            self._session.crashed(self, error)

    def _handled(self, event: str, payload: Any, result: Any, ref: Any, started: float) -> None:
        if started:
            logger.debug(
                "HANDLED %s INCOMING ON %s (%s) in %s\n  Parameters: %s",
                event, self.topic, _name_of(self._type.channel), _took(time.perf_counter() - started),
                _shown_params(payload, self._session.endpoint),
            )  # fmt: skip
        self._event_done(event, result, ref)

    def _event_done(self, event: str, result: Any, ref: Any) -> None:
        if isinstance(result, Reply):
            self._answer(ref, result)
            if result.stops:
                self._session.end(self, "normal")
        elif result is not None and result is not self:
            raise ChannelError(
                f"{_name_of(self._type.channel)} returned {result!r} for {event!r}, expected None, socket or a reply\n"
                "`return socket.ok({...})` answers the message, `socket.reply(event, {...})` sends an event."
            )

    def _in_turn(self, method: Callable[[Any], object], message: Any) -> None:
        """Handle what is not from the client. If it comes while a callback runs, it goes to the end of the line."""
        if self._busy or self._waiting:
            self._wait(_JOB, method, message)
        else:
            method(message)

    def _info(self, message: Any) -> None:
        """Let the channel handle a message of this process."""
        self._in_turn(self._handle_info, message)

    def _handle_info(self, message: Any) -> None:
        self.ref = None
        self._call("info", (message,), lambda result: self._event_done("info", result, None))

    def _handle_out(self, broadcast: Broadcast) -> None:
        """Let the channel see a broadcast that it intercepts; others keep their place among those."""
        if broadcast.event in self._type.intercepts:
            self.ref = None
            arguments = broadcast.event, broadcast.payload
            self._call("out", arguments, lambda result: self._event_done("out", result, None))
        else:
            encoded = broadcast.encoded(self._session.encode_broadcast)
            if encoded is not None:
                self._session.send_ready(encoded)

    def _receive(self, message: Any) -> None:
        """Take what was broadcast on the topic and is not ready to be written."""
        self._in_turn(self._handle_out if message.__class__ is Broadcast else self._handle_info, message)

    def _call(
        self, name: str, arguments: tuple[Any, ...], done: Callable[[Any], object],
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        """Call a callback of the channel where it runs, then *done* with what it returned, or *failed*."""
        runs = self._type.runs[name]
        if runs >= _AWAITED:
            self._busy = True
            self._session.running += 1
            wire = self._session.wire
            wire.keep(self)
            task = wire.create_task(self._run(name, arguments, done, failed or self._crash))
            self._task = None if task.done() else task
            return
        try:
            result = getattr(self.channel, name)(self, *arguments)
            done(_step(result) if runs == _STEPPED else result)
        except Exception as error:
            (failed or self._crash)(error)

    async def _run(
        self, name: str, arguments: tuple[Any, ...], done: Callable[[Any], object],
        failed: Callable[[Exception], object],
    ) -> None:
        session = self._session
        try:
            callback = getattr(self.channel, name)
            if self._type.runs[name] == _AWAITED:
                result = await callback(self, *arguments)
            else:
                result = await session.wire.in_worker(callback, self, *arguments)
                if hasattr(result, "__await__"):
                    result = await result
            done(result)
        except Exception as error:
            failed(error)
        except BaseException as error:
            if not session.closed:  # something it waited for was cancelled
                failed(ChannelError(f"{_name_of(self._type.channel)}.{name} ended with {error!r}"))
            raise
        finally:
            self._busy = False
            self._task = None
            session.running -= 1
            self._next()
            if not self._busy:
                session.wire.release(self)

    def _next(self) -> None:
        """Handle what has waited, until a callback has to wait itself."""
        if self._draining:
            return
        self._draining = True
        try:
            while self._waiting and not self._busy:
                size, method, arguments = self._waiting.popleft()
                self._session.hold(-size)
                method(*arguments)
        finally:
            self._draining = False

    def _crash(self, error: Exception) -> None:
        self._session.crashed(self, error)

    def _finally(self, method: Callable[..., object], *arguments: Any) -> None:
        """Do something to a socket that has left: now, or when the callback that still runs has ended."""
        if self._busy:
            self._wait(0, method, *arguments)
        else:
            method(*arguments)

    def _last(self, name: str, arguments: tuple[Any, ...], then: Callable[[], object]) -> None:
        """Call one of the last callbacks, then *then*, whether it raises or not."""
        if self._type.runs[name] == _INLINE:  # it does nothing
            then()
            return

        def failed(error: Exception) -> None:
            logger.error("%s.%s crashed in %s", _name_of(self._type.channel), name, self.topic, exc_info=error)
            then()

        self.ref = None
        self._call(name, arguments, lambda _: then(), failed)


def _checked_payload(message: Any) -> Any:
    if message is None:
        return {}
    if not isinstance(message, (dict, bytes)):
        raise ArgumentError(f"Message argument must be a map, got: {message!r}\nWrite a dict, such as {{'body': ...}}.")
    return message


# --- Channel ------------------------------------------------------------------------------


class Channel:
    """Handles the messages of clients in one topic; there is one object for each client and topic::

        class RoomChannel(Channel):
            async def join(self, socket, topic, message):
                if not message.get("token"):
                    return socket.error("unauthorized")
                return socket.ok({"joined": topic})

            async def event(self, socket, event, message):
                match event, message:
                    case "new:msg", {"body": body}:
                        socket.broadcast("new:msg", {"body": body})
                    case "ping", _:
                        return socket.ok({"pong": True})

    Callbacks are ``async def``, or plain ``def``, which runs in a worker thread. ``intercept`` lists the events of
    broadcasts that ``out`` shall see.
    """

    intercept: ClassVar[Sequence[str]] = ()

    def join(self, socket: Socket, topic: str, message: Any) -> Any:
        """Let a client into a topic (``"lobby"`` of ``"rooms:lobby"``), or refuse it.

        Return ``socket.ok(...)`` or the socket, or ``socket.error(reason)``. Broadcasts reach the client from then on.
        """
        raise ChannelError(
            f"{_name_of(type(self))} needs a method `join(self, socket, topic, message)` that returns socket.ok()"
        )

    def event(self, socket: Socket, event: str, message: Any) -> Any:
        """Handle an event from the client. Return ``None`` or the socket, or a reply: ``socket.ok({...})``."""
        return None

    def info(self, socket: Socket, message: Any) -> Any:
        """Handle a message of this process; unless overridden it comes as ``event(socket, "info", message)``.

        A client may send an event named "info" as well: override this method where that makes a difference.
        """
        return self.event(socket, "info", message)

    def out(self, socket: Socket, event: str, message: Any) -> Any:
        """Handle a broadcast listed in ``intercept``, for this one client; unless overridden it is sent as it is."""
        socket.reply(event, message)

    def leave(self, socket: Socket, message: Any) -> Any:
        """The client leaves: *message* is what it sent, or ``{"reason": "closed"}`` when its connection ended."""

    def terminate(self, socket: Socket, reason: str) -> Any:
        """The last call: *reason* is ``"left"``, ``"closed"``, ``"normal"``, ``"replaced"`` or ``"error"``."""


class _ChannelType:
    """A channel class, and where each of its callbacks runs."""

    def __init__(self, channel: type[Channel]) -> None:
        self.channel = channel
        self.intercepts = frozenset(channel.intercept)
        names = ("join", "event", "info", "out", "leave", "terminate")
        self.runs = {name: _where_it_runs(getattr(channel, name)) for name in names}
        if self.runs["info"] == _INLINE:
            self.runs["info"] = self.runs["event"]
        self.event_runs = self.runs["event"]


# --- Session ------------------------------------------------------------------------------


class SocketHandler:
    """Decides who may connect, once for each connection; give a subclass to ``socket(path, UserSocket)``::

        class UserSocket(SocketHandler):
            def connect(self, socket, params, connect_info):
                user = find_user(params.get("token"))
                return user is not None and socket.assign("user", user)

            def id(self, socket):
                return f"users:{socket.assigns['user'].id}"

    ``app.broadcast("users:7", "disconnect", {})`` then closes all connections of that user. Both methods may be
    ``async def``.
    """

    def connect(self, socket: Any, params: Params, connect_info: dict[str, Any]) -> Any:
        """Return something true to let the client connect; what is assigned here, every channel's socket has."""
        return True

    def id(self, socket: Any) -> str | None:
        """Return a name for the connections of one user, or ``None``."""
        return None


class _Session:
    """One connection: its wire, its serializer, and the sockets of the topics it has joined."""

    __slots__ = (
        "mount", "serializer", "wire", "assigns", "id", "connect_info", "endpoint", "sockets", "encode_broadcast",
        "closed", "held", "is_held", "running", "send_ready", "parting",
    )  # fmt: skip

    cuts_slow_readers = True  # broadcasts do not wait for anybody
    unread = False  # messages are handled as they come

    def __init__(self, mount: _Mount, serializer: Any, endpoint: Any, connect_info: dict[str, Any]) -> None:
        self.mount, self.serializer, self.endpoint, self.connect_info = mount, serializer, endpoint, connect_info
        self.assigns: dict[str, Any] = {}
        self.id: str | None = None
        self.sockets: dict[str, Socket] = {}
        # topic -> what waits for the last callbacks of the socket that has left it: size, call, argument
        self.parting: dict[str, list[tuple[int, Callable[[Any], object], Any]]] = {}
        self.closed = False
        self.held = 0  # bytes, roughly, of messages that wait for channels
        self.is_held = False  # reading is paused because of them
        self.running = 0  # callbacks that are at work
        self.wire: Any = None
        self.send_ready: Any = None
        self.encode_broadcast: Any = None

    def assign(self, key: str, value: Any) -> _Session:
        """Keep a value for all channels of this connection."""
        self.assigns[key] = value
        return self

    @property
    def pubsub(self) -> PubSub:
        return self.endpoint.pubsub  # type: ignore[no-any-return]

    def opened(self, wire: Any) -> None:
        """The connection is up: *wire* sends what ``wire.encode`` made ready."""
        self.wire = wire
        self.send_ready = wire.write
        self.encode_broadcast = _broadcast_encoder(self.serializer, wire.encode)
        if self.id is not None:
            self.pubsub._add(self.id, self, self._told)

    def _told(self, message: Any) -> None:
        if isinstance(message, Broadcast) and message.event == "disconnect":
            self.close(1001, "")

    # --- Out ------------------------------------------------------------------------------

    def send(self, data: str | bytes | None) -> None:
        """Send what the serializer made; from any thread."""
        if data is None or self.closed:
            return
        wire = self.wire
        ready = wire.encode(data)
        if _get_ident() == wire.thread:
            self.send_ready(ready)
        else:
            _call_on(wire.loop, self.send_ready, ready)

    def call(self, method: Callable[..., Any], *arguments: Any) -> None:
        """Call on the event loop, from any thread."""
        if _get_ident() == self.wire.thread:
            method(*arguments)
        else:
            _call_on(self.wire.loop, method, *arguments)

    def close(self, code: int = 1000, reason: str = "") -> None:
        if not self.closed:
            self.wire.close(code, reason)

    def cut_off(self, why: str) -> None:
        """Part with a client that does not keep up; it may come again."""
        if not self.closed:
            logger.warning("a client of %s did not keep up and is cut off: %s", self.mount.path, why)
            self.wire.cut_off()

    def hold(self, size: int) -> None:
        """Count what waits for channels; stop reading from a client that sends faster than they work."""
        self.held += size
        if self.held > _MAX_HELD:
            if not self.is_held and not self.closed:
                self.is_held = True
                self.wire.pause_reading()
        elif self.is_held and self.held <= _MAX_HELD // 2:
            self.is_held = False
            if not self.closed:
                self.wire.resume_reading()

    def inform(self, message: Any) -> None:
        for each in list(self.sockets.values()):
            if each.joined:
                each._info(message)

    # --- In -------------------------------------------------------------------------------

    def received(self, data: str | bytes) -> None:
        """Handle one message of the client."""
        if self.closed:
            return
        try:
            join_ref, ref, topic, event, payload = self.serializer.decode(data)
            if topic.__class__ is not str or event.__class__ is not str:
                raise ChannelError("topic and event must be text")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ChannelError) as error:
            logger.warning("a client sent what is no message (%s): %s", self.serializer.name, error)
            self.close(1003 if isinstance(data, bytes) else 1007, "malformed message")
            return
        found = self.sockets.get(topic)
        if found is None or event == "phx_join":
            if topic in self.parting:
                self.hold(len(data) + _JOB)
                self.parting[topic].append((len(data) + _JOB, self.received, data))
            else:
                self._unjoined(join_ref, ref, topic, event, payload)
        elif join_ref is not None and join_ref != found.join_ref and found.join_ref is not None:
            return  # it was meant for an earlier join
        elif event != "phx_leave":
            if found._busy:
                found._wait(len(data) + _JOB, found._event, event, payload, ref)
            else:
                found._event(event, payload, ref)
        elif found._busy:
            found._wait(len(data) + _JOB, self._leave, found, payload, ref)
        else:
            self._leave(found, payload, ref)

    def _unjoined(self, join_ref: Any, ref: Any, topic: str, event: str, payload: Any) -> None:
        """Handle a join, or what needs none."""
        if event == "phx_join":
            self._join(topic, payload, join_ref if join_ref is not None else ref, ref)
        elif event == "heartbeat" and topic == "phoenix":
            self.send(self.serializer.reply(None, ref, topic, "ok", {}))
        elif event == "heartbeat" and topic == "phoenix:conn":
            self.send(self.serializer.push(None, topic, event, payload))
        elif event == "phx_leave":
            self.send(self.serializer.reply(join_ref, ref, topic, "ok", {}))
        else:
            self.refuse(None, ref, topic, "unmatched topic")

    def refuse(self, join_ref: Any, ref: Any, topic: str, reason: str) -> None:
        self.send(self.serializer.reply(join_ref, ref, topic, "error", {"reason": reason}))

    def _join(self, topic: str, payload: Any, join_ref: Any, ref: Any) -> None:
        kind = self.mount.channel_for(topic)
        if kind is None:
            logger.warning("Ignoring unmatched topic %r in %s", topic, self.mount.path)
            self.refuse(None, ref, topic, "unmatched topic")
            return
        old = self.sockets.get(topic)
        most = self.mount.max_channels
        if old is None and len(self.sockets) >= most or self.running >= 2 * most:
            self.refuse(join_ref, ref, topic, "too many channels joined")
            return
        if old is not None:  # it may be at work for long, so this join does not wait for it
            self._close_socket(old)
            if old.joined:
                self._terminate(old, "replaced")
        is_logged = self.mount.options.get("log", True) and logger.isEnabledFor(logging.INFO)
        started = time.perf_counter() if is_logged else 0.0
        try:
            new = self.sockets[topic] = Socket(self, kind, topic, join_ref)
        except Exception as error:  # noqa: BLE001 - the channel's own __init__
            self._join_crashed(kind, topic, join_ref, ref, error)
            self._close_replaced(old)
            return

        def done(result: Any) -> None:
            self._joined(new, payload, result, ref, started)
            self._close_replaced(old)

        def failed(error: Exception) -> None:
            self._close_socket(new)
            self._join_crashed(kind, topic, join_ref, ref, error)
            self._close_replaced(old)

        new.ref = ref
        new._call("join", (topic.partition(":")[2], payload), done, failed)

    def _joined(self, new: Socket, payload: Any, result: Any, ref: Any, started: float) -> None:
        if result is new or result is True:
            result = new.ok()
        if not isinstance(result, Reply):
            raise ChannelError(
                f"{_name_of(new._type.channel)}.join returned {result!r},"
                " expected `socket.ok(...)` or `socket.error(reason)`"
            )
        if new._left:  # the connection ended, or the client joined again, before this join was done
            if result.status == "ok":
                self._terminate(new, "closed" if self.closed else "replaced")
            return
        reply = self.serializer.reply(new.join_ref, ref, new.topic, result.status, result.response)
        if result.status != "ok":
            self._log_join("REFUSED JOIN", new.topic, payload, started)
            self._close_socket(new)
            self.send(reply)
            return
        new.joined = True
        self.pubsub._add(
            new.topic, new, new._receive, None if new._type.intercepts else self.encode_broadcast, self.send_ready
        )
        self._log_join("JOINED", new.topic, payload, started)
        self.send(reply)
        early, new._early = new._early, None
        for broadcast in early or ():
            new._receive(broadcast)
        if result.stops:
            self.end(new, "normal")

    def _log_join(self, what: str, topic: str, payload: Any, started: float) -> None:
        if started:
            took, shown = _took(time.perf_counter() - started), _shown_params(payload, self.endpoint)
            logger.info("%s %s in %s\n  Parameters: %s", what, topic, took, shown)

    def _join_crashed(self, kind: _ChannelType, topic: str, join_ref: Any, ref: Any, error: Exception) -> None:
        logger.error("%s.join crashed in %s", _name_of(kind.channel), topic, exc_info=error)
        self.refuse(join_ref, ref, topic, "join crashed")

    def _close_replaced(self, old: Socket | None) -> None:
        """Tell the client that its earlier join is over, once it knows about the later one.

        V1 clients see no join_ref: they would take it for the end of the later one.
        """
        if old is not None and self.serializer is _V2:
            self.send(_V2.control(old.join_ref, old.topic, "phx_close", {}))

    def _leave(self, old: Socket, payload: Any, ref: Any) -> None:
        """The client leaves a topic: reply, close, and only then what ``terminate`` sends."""
        self._close_socket(old)
        parted = self._part(old.topic)

        def left() -> None:
            old._answer(ref, old.ok())
            self.send(self.serializer.control(old.join_ref, old.topic, "phx_close", {}))
            self._terminate(old, "left", parted)

        old._last("leave", (payload,), left)

    def end(self, old: Socket, reason: str) -> None:
        """A channel ends itself."""
        if not old._left:
            self.send(self.serializer.control(old.join_ref, old.topic, "phx_close", {}))
            self._forget(old, reason)

    def crashed(self, old: Socket, error: Exception) -> None:
        """A callback raised: the client is told and joins anew; everything else goes on."""
        logger.error("%s crashed in %s", _name_of(old._type.channel), old.topic, exc_info=error)
        if old._left:
            return
        self.send(self.serializer.control(old.join_ref, old.topic, "phx_error", {"reason": "channel_crash"}))
        self._forget(old, "error")
        if self.serializer is _V07:  # these clients know no phx_error, but they join again when they have reconnected
            self.close(1011, "channel crashed")

    def _forget(self, old: Socket, reason: str) -> None:
        self._close_socket(old)
        if old.joined:
            self._terminate(old, reason, self._part(old.topic))

    def _part(self, topic: str) -> Callable[[], None]:
        """Let what comes for a topic wait for the last callbacks of its socket; return what to call behind them."""
        self.parting[topic] = []

        def parted() -> None:
            for size, call, argument in self.parting.pop(topic):
                self.hold(-size)
                call(argument)

        return parted

    def _close_socket(self, old: Socket) -> None:
        """Unsubscribe a socket from everything, at once."""
        if old._left:
            return
        old._left = True
        if self.sockets.get(old.topic) is old:
            del self.sockets[old.topic]
        pubsub = self.pubsub
        pubsub._remove(old.topic, old)
        for topic in old._own_topics or ():
            pubsub._remove(topic, old)
        for callback in old._closing or ():
            callback(old)
        waiting, old._waiting = old._waiting, None
        for size, method, arguments in waiting or ():
            self.hold(-size)
            if method == old._event:
                self.refuse(None, arguments[2], old.topic, "unmatched topic")
            elif method == self._leave:
                old._answer(arguments[2], old.ok())
            elif method not in (old._handle_info, old._handle_out):
                method(*arguments)

    def _terminate(self, old: Socket, reason: str, then: Callable[[], object] = lambda: None) -> None:
        old._finally(old._last, "terminate", (reason,), then)

    def ended(self, reason: str, code: int = 1006) -> None:
        """The connection is gone."""
        if self.closed:
            return
        self.closed = True
        if self.id is not None:
            self.pubsub._remove(self.id, self)
        for old in list(self.sockets.values()):
            self._close_socket(old)
            if old.joined:
                old._finally(self._farewell, old, reason)

    def _farewell(self, old: Socket, reason: str) -> None:
        old._last("leave", ({"reason": reason},), lambda: self._terminate(old, "closed"))


_JOB = 500  # what it costs to keep a message for later, in bytes beside its own
_MAX_HELD = 1 << 20  # bytes of messages that wait for the channels of one connection; then it is not read any more
_MAX_WAITING = 10_000  # messages that wait for one channel, from wherever; then the client does not keep up


@functools.lru_cache(maxsize=64)
def _broadcast_encoder(serializer: Any, encode: Callable[[Any], Any]) -> Callable[[Broadcast], Any]:
    """Return one function for each way a broadcast is written, so that it can be the key of what it made."""
    return lambda broadcast: encode(serializer.broadcast(broadcast))


# --- Mounting -----------------------------------------------------------------------------


class _Mount:
    """The channels under one path, and who may connect."""

    def __init__(self, path: str, handler: type[SocketHandler], options: dict[str, Any]) -> None:
        self.path, self.handler, self.options = path, handler(), options
        self.channels: dict[str, _ChannelType] = {}  # by topic, "rooms:lobby", or by the pattern of many, "rooms:*"
        self.prefixes: list[tuple[str, _ChannelType]] = []  # of the patterns, the longest first
        self.max_channels: int = options.get("max_channels", 100)
        self.max_size: int = options.get("max_size", 1 << 20)
        self.polls: dict[str, _LongPoll] = {}
        steps = (_INLINE, _STEPPED)
        self.connects_at_once = all(_where_it_runs(call) in steps for call in (self.handler.connect, self.handler.id))

    def add(self, name: str, channel: Any, where: str) -> None:
        if not isinstance(channel, type) or not issubclass(channel, Channel):
            raise DefinitionError(f"{where}: channel({name!r}, {channel!r}): expected a class of Channel")
        if isinstance(channel.intercept, str):  # its letters are no events
            event = channel.intercept
            raise DefinitionError(f"{where}: {channel.__name__}.intercept is {event!r}, expected a list: [{event!r}]")
        if "*" in name[:-1]:
            raise DefinitionError(f"{where}: channels using splat patterns must end with *, got: {name!r}")
        pattern = name if ":" in name or "*" in name else f"{name}:*"
        if pattern in self.channels:
            raise DefinitionError(f"{where}: there is a channel {name!r} in this socket already")
        self.channels[pattern] = _ChannelType(channel)
        prefixes = [(each[:-1], kind) for each, kind in self.channels.items() if each.endswith("*")]
        self.prefixes = sorted(prefixes, key=lambda item: -len(item[0]))

    def channel_for(self, topic: str) -> _ChannelType | None:
        """Return the channel of a topic; what says more about it goes before what says less."""
        if topic in self.channels:
            return self.channels[topic]
        topic = topic if ":" in topic else f"{topic}:"
        return next((kind for prefix, kind in self.prefixes if topic.startswith(prefix)), None)

    def connect(self, conn: Any, serializer: Any) -> Any:
        """Return a session when the handler lets this client connect, else ``None``; or a coroutine that does."""
        session = _Session(self, serializer, conn.endpoint, _connect_info(conn))
        coroutine = self._connect(conn, session)
        return _step(coroutine) if self.connects_at_once else coroutine

    async def _connect(self, conn: Any, session: _Session) -> _Session | None:
        started = time.perf_counter() if logger.isEnabledFor(logging.INFO) else 0.0
        allowed = await self._ask(conn, self.handler.connect, session, conn.query_params, session.connect_info)
        refused = not allowed or isinstance(allowed, Reply) and allowed.status != "ok"
        if started:
            logger.info(
                "%s %s in %s\n  Transport: %s\n  Serializer: %s\n  Parameters: %s",
                "REFUSED CONNECTION TO" if refused else "CONNECTED TO",
                self.path if type(self.handler) is SocketHandler else _name_of(self.handler),
                _took(time.perf_counter() - started), "websocket" if conn._req_header("upgrade") else "longpoll",
                session.serializer.name, _shown_params(conn.query_params, conn.endpoint),
            )  # fmt: skip
        if refused:
            return None
        session.id = await self._ask(conn, self.handler.id, session)
        if session.id is not None and not isinstance(session.id, str):
            raise ChannelError(f"the id of a connection must be text or None, got: {session.id!r}")
        return session

    async def _ask(self, conn: Any, method: Callable[..., Any], *arguments: Any) -> Any:
        if _where_it_runs(method) == _WORKER:
            result = await conn.adapter.in_worker(method, *arguments)
        else:
            result = method(*arguments)
        return await result if hasattr(result, "__await__") else result

    def poll(self, token: Any, pubsub: PubSub) -> _LongPoll | None:
        """Return the long poll that has this token, or ``None`` when there is none here, or none any more."""
        if not isinstance(token, str) or not _POLL_TOKEN(token):
            return None  # the app's own params may have one of that name
        found = self.polls.get(token)
        if found is None and token.partition(".")[0] != pubsub.node:
            logger.warning(
                "a client of %s polls this process, but its session is in another, or in one that has ended: it has to"
                " connect anew. Where several processes serve, the proxy must send each client to the same one (sticky"
                " sessions), unless all clients use WebSockets",
                self.path,
            )
        return found

    def stop(self) -> None:
        """The server stops: those who poll are told, too."""
        for poll in list(self.polls.values()):
            poll.stop()


_POLL_TOKEN = re.compile(r"[0-9a-f]{12}\.[\w-]{32}", re.ASCII).fullmatch  # a node, and what nobody can guess


def _connect_info(conn: Any) -> dict[str, Any]:
    info: dict[str, Any] = {
        "params": conn.query_params, "peer": {"address": conn.remote_ip}, "uri": conn.request_url(),
        "user_agent": conn._req_header("user-agent") or None,
        "x_headers": [(name, value) for name, value in conn.req_headers if name.startswith("x-")],
        "session": None, "auth_token": conn.private.get("phoenix_auth_token"),
    }  # fmt: skip
    store = conn._session_store
    if store is not None and store.key in conn.req_cookies and conn.private.get("phoenix_origin_checked"):
        try:
            info["session"] = _read_json(store.load(conn)[0])[0]
        except SecretError:
            pass  # the cookie is of another app: this one has no secret
    return info


_TOKEN_PROTOCOL = "base64url.bearer.phx."


def _auth_token(values: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take the token out of the subprotocols that a client offers; return it and the others.

    >>> _auth_token(["phoenix, base64url.bearer.phx.c2VjcmV0"])
    ('secret', ['phoenix'])
    """
    token, rest = None, []
    for name in _list_items(values):
        if name.startswith(_TOKEN_PROTOCOL):
            encoded = name[len(_TOKEN_PROTOCOL) :].replace("-", "+").replace("_", "/")
            try:
                token = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
            except ValueError:
                logger.warning("a client sent a token that is not base64")
        else:
            rest.append(name)
    return token, rest


class _SocketPlug:
    """Answer ``<mount>/websocket`` (V1 and V2) or ``<mount>`` (0.7) by becoming a WebSocket."""

    is_websocket = True

    def __init__(self, mount: _Mount, upgrade: _Upgrade, old: bool) -> None:
        self.mount, self.upgrade, self.old = mount, upgrade, old
        self.idle = mount.options.get("timeout", 60)

    def __call__(self, conn: Any) -> Any:
        serializer = _V07 if self.old else _serializer_for(conn)
        if serializer is None:
            return conn.send_resp(403, "")
        refusal = self.upgrade.check(conn)
        if refusal is not None:
            return refusal
        session = self.mount.connect(conn, serializer)
        return self._accept(conn, session) if self.mount.connects_at_once else self._accept_later(conn, session)

    async def _accept_later(self, conn: Any, session: Any) -> Any:
        return self._accept(conn, await session)

    def _accept(self, conn: Any, session: Any) -> Any:
        return conn.send_resp(403, "") if session is None else self.upgrade.accept(conn, session, self.idle)


def _serializer_for(conn: Any) -> Any:
    """Return the serializer that the client asks for with ``vsn``; 1.0.0 unless it says. ``None`` for unknown ones."""
    version = conn.query_params.get("vsn", "1.0.0")
    if not isinstance(version, str) or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        logger.warning("Client sent invalid transport version %r", version)
        return None
    serializer = {"1.0": _V1, "2.0": _V2}.get(version.rpartition(".")[0])
    if serializer is None:
        logger.warning(
            'The client\'s requested transport version "%s" does not match server\'s version requirements of '
            '["~> 1.0.0", "~> 2.0.0"]',
            version,
        )
    return serializer


def _refuse_unknown(word: str, options: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in options:
        if name not in known:
            raise DefinitionError(f"{where}: unknown option {name!r} of {word}.{_did_you_mean(name, known)}")


def socket(path: str, handler: type[SocketHandler] = SocketHandler, **options: Any) -> Block:
    """Mount channels at *path*: ``with socket("/ws"): channel("rooms", RoomChannel)``.

    *handler* decides who may connect. Options: ``origins`` (``True``: pages of this site and of the endpoint's url;
    ``False``: any; or a list such as ``["//example.com", "https://*.example.com"]``), ``max_size`` (bytes of a message,
    1 MiB), ``max_channels`` (100), ``timeout`` (60 s without a message ends a connection), ``window`` (10 s that a long
    poll waits).
    """
    recorder, where = _recorder("route", "a router", "socket"), _caller()
    known = ("origins", "max_size", "max_channels", "timeout", "window")
    _refuse_unknown("socket", options, known, where)
    if not isinstance(handler, type) or not issubclass(handler, SocketHandler):
        raise DefinitionError(f"{where}: socket({path!r}, {handler!r}): expected a class of SocketHandler")
    mount = _Mount(path, handler, options)
    base = path.rstrip("/")
    upgrade = _Upgrade(options, ("phoenix",), where)
    poll, old_poll = _LongPollPlug(mount, upgrade), _OldPollPlug(mount, upgrade)
    old, new = _SocketPlug(mount, upgrade, old=True), _SocketPlug(mount, upgrade, old=False)
    routes: list[Route] = []
    for verb, suffix, target in (
        ("GET", "", old), ("GET", "/websocket", new),
        ("GET", "/longpoll", poll), ("POST", "/longpoll", poll), ("OPTIONS", "/longpoll", poll),
        ("GET", "/poll", old_poll), ("POST", "/poll", old_poll), ("PUT", "/poll", old_poll),
    ):  # fmt: skip
        routes.append(recorder.route(verb, base + suffix or "/", target, None, where, as_=None))

    def leave() -> None:
        for route in routes:
            route.label = f"{handler.__name__} [{', '.join(mount.channels)}]"

    return Block(recorder.scopes, recorder.scopes[-1].inside(mount=mount), leave)


def channel(name: str, channel: type[Channel]) -> None:
    """Serve the topics ``<name>:<anything>`` with a channel class; inside ``with socket(...)``."""
    recorder, where = _recorder("route", "a router", "channel"), _caller()
    mount = recorder.scopes[-1].mount
    if mount is None:
        raise DefinitionError(
            f"{where}: channel({name!r}, ...) must stand in a block of socket: `with socket(\"/ws\"): channel(...)`"
        )
    mount.add(name, channel, where)


# --- WebSockets ---------------------------------------------------------------------------


class _Upgraded:
    """The response body of a conn that becomes a WebSocket."""

    def __init__(
        self, handshake: Any, handler: Any, max_size: int, idle: float | None, ping_interval: float | None
    ) -> None:
        self.handshake, self.handler, self.max_size = handshake, handler, max_size
        self.idle, self.ping_interval = idle, ping_interval


class _Upgrade:
    """Check a handshake and accept it; see chapter 11 for the rules."""

    def __init__(self, options: Mapping[str, Any], subprotocols: Sequence[str], where: str) -> None:
        self.options = options
        self.subprotocols = tuple(subprotocols)
        origins = options.get("origins", True)
        try:
            self.origins = _OriginCheck(origins)
        except ArgumentError as error:
            raise DefinitionError(f"{where}: {error}") from None
        except TypeError:
            raise DefinitionError(f"{where}: origins={origins!r}: expected True, False or a list of texts") from None

    def allows(self, conn: Any) -> bool:
        """Tell whether the page that asks is one of those that may, and note whether that was checked at all."""
        conn.private["phoenix_origin_checked"] = self.options.get("origins", True) is not False
        url_host = conn.endpoint.options["url"].get("host") if conn.endpoint is not None else None
        places = [(conn.scheme, conn.port)]
        if conn.port in (80, 443):  # a proxy may speak https for us
            places += [("http", 80), ("https", 443)]
        origins = conn._req_headers.get("origin", ())
        return self.origins.allows(origins, url_host=url_host, host=conn.host, places=places)

    def check(self, conn: Any) -> Any:
        """Return the conn with a refusal, or ``None`` when it may become a WebSocket."""
        if not self.allows(conn):
            logger.warning(
                "refused a connection from a page of %r. If it may connect, say so: origins=[...] of the socket,"
                " or url={\"host\": ...} of the endpoint",
                conn._req_header("origin"),
            )
            return conn.send_resp(403, "this origin may not connect")
        headers = conn._req_headers
        if "sec-websocket-protocol" in headers and "phoenix" in self.subprotocols:
            token, rest = _auth_token(headers["sec-websocket-protocol"])
            conn.private["phoenix_auth_token"] = token
            headers = {**headers, "sec-websocket-protocol": rest}
        request = getattr(conn.adapter, "request", None)
        try:
            conn.private["phoenix_handshake"] = _accept_websocket(
                getattr(request, "method", conn.method),  # as it came: a plug makes GET of HEAD
                "1.0" if request is not None and not request.minor else "1.1", headers,
                subprotocols=self.subprotocols, compress=self.options.get("compress", False),
            )  # fmt: skip
        except _HandshakeError as error:
            return conn.merge_resp_headers(error.headers).send_resp(error.status, str(error))
        if conn.adapter.why_no_websocket:
            logger.error("%s was refused: %s", conn.request_path, conn.adapter.why_no_websocket.rstrip())
            return conn.put_resp_content_type("text/plain").send_resp(501, conn.adapter.why_no_websocket)
        return None

    def accept(self, conn: Any, handler: Any, idle: float | None = None) -> Any:
        handshake = conn.private.pop("phoenix_handshake")
        if conn._before_send:
            conn.status, conn.state = 101, "set"
            conn._run_before_send()
        conn.status, conn.state = 101, "upgraded"
        conn.resp_body = _Upgraded(
            handshake, handler, self.options.get("max_size", 1 << 20), idle, self.options.get("ping_interval")
        )
        return conn


class WebSocket:
    """A plain WebSocket, as its handler sees it::

        async def echo(ws):
            async for message in ws:          # str or bytes
                await ws.send(message)

    ``ws.conn`` is the request it began with, ``ws.subprotocol`` what was agreed. The loop ends when the client closes;
    ``ws.close_code`` then says how. When the handler returns, the connection is closed with 1000; when it raises, with
    1011. A handler that still waits for something 10 seconds after its client has gone is cancelled.
    """

    __slots__ = (
        "conn", "subprotocol", "close_code", "_wire", "_messages", "_waiter", "_handler", "_held", "_reading_paused",
        "_task", "_patience",
    )  # fmt: skip

    cuts_slow_readers = False  # `send` waits

    def __init__(self, conn: Any, handler: Callable[[WebSocket], Any], subprotocol: str | None) -> None:
        from collections import deque

        self.conn = conn
        self.subprotocol = subprotocol
        self.close_code: int | None = None
        self._handler = handler
        self._wire: Any = None
        self._messages: deque[str | bytes] = deque()
        self._waiter: Any = None
        self._held = 0  # characters and bytes that were received and not taken
        self._reading_paused = False  # because of them
        self._task: Any = None
        self._patience: Any = None  # a timer: how long the handler may go on without its client

    async def receive(self) -> str | bytes:
        """Return the next message. Raises ``ClientDisconnected`` when the connection has ended."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise ClientDisconnected(f"the WebSocket was closed with {self.close_code}") from None

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        while not self._messages:
            if self._wire.owed_close is not None:
                self._wire.say_goodbye()
            if self.close_code is not None:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise PhoenixError("this WebSocket is being read already: one task at a time may receive")
            self._waiter = self._wire.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._messages.popleft()
        self._held -= len(message) + _JOB
        if self._reading_paused and self._held < _READ_AHEAD:
            self._reading_paused = False
            self._wire.resume_reading()
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a text (``str``) or binary (``bytes``) message; wait while the client does not keep up.

        Raises ``ClientDisconnected`` when the connection has ended.
        """
        if self.close_code is not None:
            raise ClientDisconnected(f"the WebSocket was closed with {self.close_code}")
        if not isinstance(message, (str, bytes, bytearray, memoryview)):
            raise ArgumentError(f"cannot send {message!r}: expected str or bytes")
        self._wire.write(self._wire.encode_own(message))
        if self._wire.writing_paused:
            await self._wire.drain()

    async def ping(self, payload: bytes = b"") -> None:
        """Send a ping, of 125 bytes at most; the client's pong shows that it is alive."""
        if len(payload) > 125:
            raise ArgumentError(f"a ping has 125 bytes at most, not {len(payload)}")
        self._wire.ping(payload)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection. Raises ``ArgumentError`` for a code that may not be sent."""
        self._wire.close(code, reason)

    # --- What the wire calls ----------------------------------------------------------------

    @property
    def unread(self) -> bool:
        """Tell whether messages wait to be read."""
        return bool(self._messages)

    def opened(self, wire: Any) -> None:
        """The connection is up: let the handler run."""
        self._wire = wire
        wire.keep(self)
        task = wire.create_task(self._run())
        self._task = None if task.done() else task

    async def _run(self) -> None:
        try:
            await self._handler(self)
        except ClientDisconnected:
            pass
        except Exception:
            logger.exception("the WebSocket handler of %s raised an error", self.conn.request_path)
            self._wire.close(1011, "internal error")
        finally:
            self._wire.close(1000, "")
            self._task = None
            if self._patience is not None:
                self._patience.cancel()
            self._wire.release(self)

    def received(self, message: str | bytes) -> None:
        """Keep a message until the handler asks for it."""
        self._messages.append(message)
        self._held += len(message) + _JOB
        if self._held >= _READ_AHEAD and not self._reading_paused:
            self._reading_paused = True
            self._wire.pause_reading()
        if self._waiter is not None:
            _resolve(self._waiter)

    def ended(self, reason: str, code: int = 1006) -> None:
        """The connection is gone: tell the handler."""
        self.close_code = code
        if self._waiter is not None:
            _resolve(self._waiter)
        if self._task is not None:
            self._patience = self._wire.loop.call_later(_PATIENCE, self._task.cancel)


_PATIENCE = 10  # seconds that a handler has for its end when the client has gone


class _WebSocketPlug:
    """Answer a route by becoming a plain WebSocket."""

    is_websocket = True

    def __init__(self, handler: Callable[[WebSocket], Any], options: dict[str, Any], where: str) -> None:
        self.handler = handler
        self.__name__ = getattr(handler, "__name__", "websocket")
        self.upgrade = _Upgrade(options, options.get("subprotocols", ()), where)

    def __call__(self, conn: Any) -> Any:
        refusal = self.upgrade.check(conn)
        if refusal is not None:
            return refusal
        subprotocol = conn.private["phoenix_handshake"].subprotocol
        return self.upgrade.accept(conn, WebSocket(conn, self.handler, subprotocol))


def websocket(path: str, handler: Callable[[WebSocket], Any], *, as_: str | bool | None = True, **options: Any) -> None:
    """Answer *path* with a plain WebSocket: ``websocket("/echo", echo, subprotocols=["chat.v1"])``.

    *handler* is an ``async def`` that takes a ``WebSocket``. Options: ``subprotocols``, best first; ``origins`` as for
    ``socket``; ``max_size`` in bytes (1 MiB); ``compress`` (permessage-deflate, off); ``ping_interval`` in seconds (30;
    ``None`` for none).
    """
    recorder, where = _recorder("route", "a router", "websocket"), _caller()
    known = ("subprotocols", "origins", "max_size", "compress", "ping_interval")
    _refuse_unknown("websocket", options, known, where)
    if _where_it_runs(handler) not in (_STEPPED, _AWAITED):
        raise DefinitionError(f"{where}: expected a handler such as `async def handler(ws)`, got: {handler!r}")
    recorder.route("GET", path, _WebSocketPlug(handler, {"ping_interval": 30, **options}, where), None, where, as_=as_)


# --- Long poll ----------------------------------------------------------------------------


class _LongPoll:
    """The wire of a client that polls: what is sent waits in a queue until it asks.

    While callbacks are at work it counts as a connection of the server, which waits for these before it ends.
    """

    deadline = float("inf")  # the server need not look after it: it has a timer

    def __init__(self, mount: _Mount, session: _Session, adapter: Any) -> None:
        import asyncio

        self.mount = mount
        self.session = session
        self.loop = asyncio.get_running_loop()
        self.thread = _get_ident()
        self.server: Any = getattr(adapter, "server", None)  # which a test has not
        self.create_task = self.loop.create_task
        self.token = f"{session.pubsub.node}.{_base64url(os.urandom(24)).decode()}"
        self.window: float = mount.options.get("window", 10)
        self.turn = asyncio.Lock()  # requests of one client are handled one after the other ...
        self.has_room = asyncio.Event()  # ... and not before its channels have caught up with those before
        self.has_room.set()
        self.messages: list[str] = []
        self.size = 0
        self.waiter: Any = None
        self.timer: Any = None
        self.kept: set[Socket] = set()  # with a callback at work
        mount.polls[self.token] = self
        self.keep_alive()
        session.opened(self)

    @staticmethod
    def encode(data: str | bytes) -> str:
        if isinstance(data, bytes):
            raise ArgumentError("a client that polls is sent text only: a payload of bytes needs a WebSocket")
        return data

    def write(self, text: str) -> None:
        if self.session.closed:
            return
        self.messages.append(text)
        self.size += len(text)
        if self.size > _MAX_UNSENT:
            self.session.cut_off(f"{len(self.messages)} messages wait for its next poll")
        else:
            self._wake()

    def received(self, line: bytes) -> None:
        """Handle one message of the client."""
        message = _posted_message(line)
        if len(line if isinstance(message, str) else message) > self.mount.max_size:
            logger.warning("a client of %s posted a message of over %d bytes", self.mount.path, self.mount.max_size)
            self.close(1009)
        else:
            self.session.received(message)

    async def poll(self, adapter: Any) -> list[str]:
        """Return what has been sent; wait for it up to the window."""
        import asyncio

        self._wake()  # a newer poll takes the place of an older one
        try:
            if not self.messages and not self.session.closed:
                self.timer.cancel()
                waiter = self.waiter = self.loop.create_future()
                await asyncio.wait_for(waiter, self.window)
        except asyncio.TimeoutError:
            pass
        finally:
            self.keep_alive()  # also when this is cancelled, for its client has gone: it may come again
        if getattr(adapter, "closed", False):  # this request is gone: the next one shall have them
            return []
        messages, self.messages, self.size = self.messages, [], 0
        return messages

    def _wake(self) -> None:
        if self.waiter is not None:
            _resolve(self.waiter)

    def keep_alive(self) -> None:
        """The client was here: wait for its next request."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.session.closed:
            self.timer = self.loop.call_later(self.window * 1.5, self.close)

    async def in_worker(self, call: Callable[..., Any], *arguments: Any) -> Any:
        # not that of the adapter, which may lend its own thread for as long as its request lasts
        return await self.server.workers.run(self.loop, call, *arguments)

    def keep(self, socket: Socket) -> None:
        self.kept.add(socket)
        self.server.connections.add(self)

    def release(self, socket: Socket) -> None:
        self.kept.discard(socket)
        if not self.kept:
            self.server.connections.discard(self)
            self.server.check_drained()

    def pause_reading(self) -> None:
        self.has_room.clear()

    def resume_reading(self) -> None:
        self.has_room.set()

    def cut_off(self) -> None:
        self.server.cut_off += 1
        self.messages.clear()
        self.close(1013, "")

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.mount.polls.pop(self.token, None)
        self.timer.cancel()
        self.session.ended("closed", code)
        self.has_room.set()
        self._wake()

    def stop(self) -> None:
        """The server stops."""
        self.close(1001, "going away")

    leave = abort = stop  # the other words in which it says so


_MAX_UNSENT = 1 << 20  # bytes that wait for a client that does not read


async def _sent_text(conn: Any, most: int) -> bytes:
    """Return the body of a request, also when a parser has taken it for a form or for params."""
    if conn._body_params is None:
        return await conn.body.read(most)  # type: ignore[no-any-return]
    return encode_json(conn.body_params.get("_json", conn.body_params)).encode()


class _PollPlug:
    """What the long polls of both generations have in common."""

    takes_body = True

    def __init__(self, mount: _Mount, upgrade: _Upgrade) -> None:
        self.mount, self.upgrade = mount, upgrade

    async def connect(self, conn: Any, serializer: Any) -> _LongPoll | None:
        """Return the wire of a new client, or ``None`` when it may not connect."""
        session = self.mount.connect(conn, serializer)
        if not self.mount.connects_at_once:
            session = await session
        return None if session is None else _LongPoll(self.mount, session, conn.adapter)


class _LongPollPlug(_PollPlug):
    """``<mount>/longpoll``: the long poll of V1 and V2 clients."""

    def __call__(self, conn: Any) -> Any:
        conn.put_resp_header("cache-control", "no-store")
        if not self.upgrade.allows(conn):
            return conn.put_status(403).json({"status": 403})
        origin = conn._req_header("origin")
        conn.put_resp_header("access-control-allow-origin", origin or "*")
        if origin:
            conn.put_resp_header("vary", "origin")
        if conn.method == "OPTIONS":
            wanted = conn._req_header("access-control-request-headers")
            conn.put_resp_header("access-control-allow-headers", wanted)
            conn.put_resp_header("access-control-allow-methods", "get, post, options")
            return conn.put_resp_header("access-control-max-age", "3600").send_resp(200, "")
        if conn.adapter.why_no_poll:
            return conn.send_resp(501, conn.adapter.why_no_poll)
        token = conn._req_header("x-phoenix-longpoll-token") or conn.query_params.get("token")
        poll = self.mount.poll(token, conn.endpoint.pubsub)
        return self._publish(conn, poll) if conn.method == "POST" else self._poll(conn, poll)

    async def _poll(self, conn: Any, poll: _LongPoll | None) -> Any:
        if poll is None:
            return await self._open(conn)
        messages = await poll.poll(conn.adapter)
        status = 200 if messages else 410 if poll.session.closed else 204
        # clients of V1 take objects, where those of V2 take the text of each message
        found = [jsonlib.loads(text) for text in messages] if poll.session.serializer is _V1 else messages
        return conn.json({"status": status, "token": poll.token, "messages": found})

    async def _open(self, conn: Any) -> Any:
        serializer = _serializer_for(conn)
        conn.private["phoenix_auth_token"] = conn._req_header("x-phoenix-authtoken") or None
        poll = None if serializer is None else await self.connect(conn, serializer)
        return conn.json({"status": 410, "token": poll.token, "messages": []} if poll else {"status": 403})

    async def _publish(self, conn: Any, poll: _LongPoll | None) -> Any:
        if poll is None:
            await _sent_text(conn, 10_000_000)  # else the server would have to close the connection
            return conn.json({"status": 410})
        async with poll.turn:
            poll.keep_alive()
            body = await _sent_text(conn, 10_000_000)
            await poll.has_room.wait()
            lines = [body]
            if conn._req_header("content-type").startswith("application/x-ndjson"):
                lines = [line for line in body.replace(b"\r\n", b"\n").split(b"\n") if line][:100]
            for line in lines:
                poll.received(line)
            poll.keep_alive()
        return conn.json({"status": 410 if poll.session.closed else 200})


def _posted_message(line: bytes) -> str | bytes:
    """Return what one line of a POST says: JSON as text, and in base64 a binary frame."""
    try:
        if line[:1] in (b"[", b"{"):
            return line.decode()
        return base64.b64decode(line + b"=" * (-len(line) % 4), validate=True)
    except ValueError:
        return b""  # which is no message


class _OldPollPlug(_PollPlug):
    """``<mount>/poll``: the long poll of Phoenix 0.7. POST opens, GET waits, PUT sends one message."""

    cookie = "_phoenix_poll"

    async def __call__(self, conn: Any) -> Any:
        conn.put_resp_header("cache-control", "no-store")
        if not self.upgrade.allows(conn):
            return conn.send_resp(403, "")
        if conn.adapter.why_no_poll:
            return conn.send_resp(501, conn.adapter.why_no_poll)
        if conn.method == "POST":
            poll = await self.connect(conn, _V07)
            if poll is None:
                return conn.send_resp(403, "")
            conn.put_resp_cookie(self.cookie, poll.token, path=conn.request_path, same_site="Lax")
            return conn.send_resp(200, "")
        known = self.mount.poll(conn.req_cookies.get(self.cookie), conn.endpoint.pubsub)
        if known is None:
            await _sent_text(conn, 1_000_000)  # as above
            return conn.send_resp(410, "")
        if conn.method == "PUT":
            return await self._dispatch(conn, known)
        messages = await known.poll(conn.adapter)
        if not messages:
            return conn.send_resp(410 if known.session.closed else 204, "")
        return conn.put_resp_content_type("application/json").send_resp(200, f"[{','.join(messages)}]")

    async def _dispatch(self, conn: Any, poll: _LongPoll) -> Any:
        """Hand one message to its channel; 401 says that its topic is not joined, or that the join was refused."""
        async with poll.turn:
            poll.keep_alive()
            try:
                text = (await _sent_text(conn, self.mount.max_size)).decode()
                _, _, topic, event, _ = _V07.decode(text)
            except (ValueError, TypeError, ChannelError):
                return conn.send_resp(400, "")
            await poll.has_room.wait()
            session = poll.session
            if topic in session.parting:
                parted = poll.loop.create_future()
                session.parting[topic].append((0, _resolve, parted))
                await parted
            known = topic == "phoenix:conn" or event == "phx_join" or topic in session.sockets
            session.received(text)
            found = session.sockets.get(topic)
            if found is not None and not found.joined:
                settled = poll.loop.create_future()
                found._finally(_resolve, settled)
                await settled
                known = topic in session.sockets
            elif event == "phx_join":
                known = found is not None
            poll.keep_alive()
        return conn.send_resp(200 if known else 401, "")


# ==========================================================================================
# 13. HTTP protocol                                                  depends on: Ground, Conn
# ==========================================================================================
#
# Bytes in, requests out; statuses and headers in, bytes out. Nothing here knows a socket.
#
# HTTP/1.1 is read strictly. Where two readers of one message could disagree about where it ends,
# an attacker can hide a second request between them; so whatever RFC 9112 allows a server to
# reject is rejected: bare line feeds, folded lines, a space before the colon, two lengths, a
# length beside chunks, sizes that are no plain hex number, a missing or doubled Host.
#
#     HEAD --request line and headers--> BODY (length or chunks) --its end--> HEAD ...
#
# The headers of one client are the same bytes again and again, and so are the requests of many:
# two small tables remember what they mean, which saves most of the work of parsing.
#
# Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 3986 §3.2.2 (host).

__all__ += ["HTTPProtocolError", "HTTPLimits", "Request", "RequestParser"]


class HTTPProtocolError(PhoenixError):
    """The bytes are no request that can be answered; *status* says why, and the connection closes."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class HTTPLimits:
    """How much of a request's head is read: bytes of its *line* (414 over it), of one *header* and of all *headers*,
    and the *count* of these (431)."""

    def __init__(self, line: int = 8192, header: int = 8192, headers: int = 65_536, count: int = 100) -> None:
        self.line, self.header, self.headers, self.count = line, header, headers, count
        self._known_heads: dict[bytes, Request] = {}  # what was found to be within these limits
        self._known_blocks: dict[bytes, _Headers] = {}


class _Headers:
    """A block of headers, and what it says about the message."""

    __slots__ = ("fields", "host", "port", "length", "chunked", "close", "keep_alive", "expects_continue")

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self.fields = fields  # shared by all requests with this block: never changed
        self.host, self.port = "", 0
        self.length = 0
        self.chunked = self.close = self.keep_alive = self.expects_continue = False

    def with_host(self, text: str) -> _Headers:
        """Return the same headers with another host."""
        from copy import copy

        other = copy(self)
        other.fields = {**self.fields, "host": [text]}
        other.host, other.port = _parse_host(text)
        return other


class Request:
    """The head of one request, never changed: all requests with the same bytes share it.

    ``headers.fields`` maps names in lower case to lists of values.
    """

    __slots__ = ("method", "path", "query", "minor", "headers", "has_body", "keep_alive")

    def __init__(self, method: str, path: str, query: str, minor: int, headers: _Headers) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.minor = minor  # 1 for HTTP/1.1, 0 for HTTP/1.0
        self.headers = headers
        self.has_body = headers.chunked or headers.length > 0
        self.keep_alive = not headers.close and (minor == 1 or headers.keep_alive)  # RFC 9112 §9.3


# --- Reading a head -----------------------------------------------------------------------

# A target may hold all that is printable but "#": browsers send |, ^, { and more as they are.
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!\"$-~]+) HTTP/(\d)\.(\d)").fullmatch
_BAD_BYTES = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n").search
_BARE_LF = re.compile(rb"(?<!\r)\n").search
_HOST = re.compile(r"""(\[[0-9A-Fa-f:.]+\] | (?:[A-Za-z0-9\-._~!$&'()*+,;=] | %[0-9A-Fa-f]{2})+)
    (?: : ([0-9]{0,5}))?""", re.VERBOSE).fullmatch  # fmt: skip
_LENGTH = re.compile(r"[0-9]{1,18}").fullmatch
_ABSOLUTE = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE).fullmatch

_MAX_KNOWN = 512
_MAX_KNOWN_SIZE = 2048


def parse_request_head(head: bytes, limits: HTTPLimits) -> Request:
    """Read a request line and headers, without the blank line behind them (RFC 9112 §3, §5).

    Raises ``HTTPProtocolError`` with status 400, 414, 431, 501 or 505.
    """
    line, _, block = head.partition(b"\r\n")
    if len(line) > limits.line:
        raise HTTPProtocolError(414, f"the request line is over {limits.line} bytes")
    parts = _REQUEST_LINE(line)
    if parts is None:
        raise HTTPProtocolError(400, f"malformed request line: {line[:100]!r}")
    method, target, major, minor = parts.groups()
    if major != b"1":
        raise HTTPProtocolError(505, "the version of HTTP is not 1.0 or 1.1")
    known = limits._known_blocks.get(block)
    headers = known or _parse_headers(block, limits)
    comes_again = "sec-websocket-key" not in headers.fields  # each WebSocket has another
    if comes_again and known is None:
        _remember(limits._known_blocks, block, headers)
    if minor != b"0":
        if not headers.host:
            raise HTTPProtocolError(400, "the Host header is missing")
    elif headers.chunked:
        raise HTTPProtocolError(400, "HTTP/1.0 has no chunks")
    if target[0] != 47 or method == b"CONNECT":  # "/"
        target, headers = _other_target(method, target, headers)
    path, _, query = target.decode("ascii").partition("?")
    request = Request(method.decode("ascii"), path, query, 0 if minor == b"0" else 1, headers)
    if comes_again:
        _remember(limits._known_heads, head, request)
    return request


def _remember(table: dict[bytes, Any], text: bytes, meaning: Any) -> None:
    if len(text) <= _MAX_KNOWN_SIZE:
        if len(table) >= _MAX_KNOWN:
            table.clear()
        table[text] = meaning


def _other_target(method: bytes, target: bytes, headers: _Headers) -> tuple[bytes, _Headers]:
    """Read a target that is no path: ``http://host/path``, or ``*`` for OPTIONS (RFC 9112 §3.2)."""
    if target == b"*" and method == b"OPTIONS":
        return b"/*", headers
    if method == b"CONNECT":
        raise HTTPProtocolError(501, "CONNECT is for proxies")
    absolute = _ABSOLUTE(target)
    if absolute is None:
        raise HTTPProtocolError(400, f"malformed request target: {target[:100]!r}")
    authority, rest = absolute.groups()
    headers = headers.with_host(authority.decode("ascii"))  # the Host header does not count beside it
    return rest if rest.startswith(b"/") else b"/" + rest, headers


def _parse_headers(block: bytes, limits: HTTPLimits) -> _Headers:
    """Read header lines (RFC 9112 §5)."""
    if len(block) > limits.headers:
        raise HTTPProtocolError(431, f"the headers are over {limits.headers} bytes")
    fields = _parse_fields(block, limits)
    headers = _Headers(fields)
    hosts = fields.get("host")
    if hosts is not None:
        if len(hosts) != 1:
            raise HTTPProtocolError(400, "there are two Host headers")
        headers.host, headers.port = _parse_host(hosts[0])
    _frame_body(headers, fields)
    for value in fields.get("connection", ()):
        tokens = [token.strip(" \t").lower() for token in value.split(",")]
        headers.close = headers.close or "close" in tokens
        headers.keep_alive = headers.keep_alive or "keep-alive" in tokens
    headers.expects_continue = any(value.lower() == "100-continue" for value in fields.get("expect", ()))
    return headers


def _parse_fields(block: bytes, limits: HTTPLimits) -> dict[str, list[str]]:
    if _BAD_BYTES(block):
        raise HTTPProtocolError(400, "the headers hold control characters or bare line breaks")
    fields: dict[str, list[str]] = {}
    lines = block.decode("latin-1").split("\r\n") if block else []
    if len(lines) > limits.count:
        raise HTTPProtocolError(431, f"there are more than {limits.count} headers")
    for line in lines:
        if len(line) > limits.header:
            raise HTTPProtocolError(431, f"a header is over {limits.header} bytes")
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN(name):
            raise HTTPProtocolError(400, f"malformed header: {line[:100]!r}")
        fields.setdefault(name.lower(), []).append(value.strip(" \t"))
    return fields


def _parse_host(text: str) -> tuple[str, int]:
    """Return host and port (0 when none is named) of a Host header (RFC 9110 §7.2)."""
    found = _HOST(text)
    if found is None or int(found[2] or 0) > 65_535 or found[1][0] == "[" and not _is_ipv6(found[1][1:-1]):
        raise HTTPProtocolError(400, f"malformed Host: {text[:100]!r}")
    return found[1].lower(), int(found[2] or 0)


def _is_ipv6(text: str) -> bool:
    from ipaddress import IPv6Address  # rare in a Host

    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _frame_body(headers: _Headers, fields: dict[str, list[str]]) -> None:
    """Find out where the body ends (RFC 9112 §6)."""
    lengths, codings = fields.get("content-length"), fields.get("transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise HTTPProtocolError(400, "both Content-Length and Transfer-Encoding are given")
        names = [name.strip(" \t").lower() for name in ",".join(codings).split(",")]
        if names[-1] != "chunked" or names.count("chunked") != 1:
            raise HTTPProtocolError(400, f"transfer codings that do not end in one chunked: {', '.join(names)[:100]!r}")
        if len(names) != 1:
            raise HTTPProtocolError(501, f"unknown transfer coding: {', '.join(names)[:100]!r}")
        headers.chunked = True
    elif lengths is not None:
        if len(lengths) != 1 or not _LENGTH(lengths[0]):
            raise HTTPProtocolError(400, f"malformed Content-Length: {', '.join(lengths)[:100]!r}")
        headers.length = int(lengths[0])


# --- Reading a message --------------------------------------------------------------------

_WORD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_CHUNK_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_WORD, _WORD, _QUOTED)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*" % _CHUNK_EXTENSION).fullmatch
_MAX_CHUNK_LINE = 1024


class RequestParser:
    """Cut the bytes of one connection into requests and bodies::

        parser.receive_data(data)
        request = parser.next_request()   # None while its head is not complete
        part = parser.next_data()         # None while nothing has come, b"" at the end of the body

    ``next_data`` is called until it returns ``b""``; then the next request may be asked for. Both raise
    ``HTTPProtocolError``.
    """

    __slots__ = ("limits", "data", "_at", "_scanned", "_left", "_state")

    def __init__(self, limits: HTTPLimits | None = None) -> None:
        self.limits = limits or HTTPLimits()
        self.data = b""  # empty when all was used
        self._at = 0  # what lies before was used
        self._scanned = 0  # what lies before holds no end of a head
        self._left = 0  # bytes of the body, or of its chunk, that are still to come
        self._state: Callable[[], bytes | None] = self._end_of_body

    @property
    def buffered(self) -> int:
        """How many bytes were received and not used."""
        return len(self.data) - self._at

    def receive_data(self, data: bytes) -> None:
        """Add bytes from the client."""
        if self._at == len(self.data):
            self.data, self._scanned = data, 0
        else:
            self.data = self.data[self._at :] + data
            self._scanned = max(0, self._scanned - self._at)
        self._at = 0

    def next_request(self) -> Request | None:
        """Read the head of the next request, if all of it has come."""
        data = self.data
        while data.startswith(b"\r\n", self._at):  # RFC 9112 §2.2: blank lines before a request line
            self._at += 2
        if self._at == len(data):
            self.data, self._at = b"", 0  # a connection that waits keeps nothing
            return None
        end = data.find(b"\r\n\r\n", max(self._at, self._scanned - 3))
        if end < 0:
            self._check_partial_head()
            return None
        head = data[self._at : end]
        request = self.limits._known_heads.get(head) or parse_request_head(head, self.limits)
        self._at = end + 4
        self._scanned = 0
        if request.has_body:
            self._left = request.headers.length
            self._state = self._chunk_line if request.headers.chunked else self._counted
        return request

    def _check_partial_head(self) -> None:
        """Refuse early what can become no request, so that a client with another protocol need not wait."""
        data, limits = self.data, self.limits
        first = data[self._at : self._at + 1]
        if first < b"!" and first not in (b"", b"\r"):
            hint = ": it is TLS" if first == b"\x16" else ""
            raise HTTPProtocolError(400, f"a request does not begin with {first!r}{hint}")
        if _BARE_LF(data, max(self._at, self._scanned - 1)):
            raise HTTPProtocolError(400, "a line ends without a carriage return")
        line_end = data.find(b"\r\n", self._at)
        if (len(data) if line_end < 0 else line_end) - self._at > limits.line:
            raise HTTPProtocolError(414, f"the request line is over {limits.line} bytes")
        if line_end >= 0:
            if not _REQUEST_LINE(data, self._at, line_end):  # HTTP/0.9 would wait for its answer now
                raise HTTPProtocolError(400, f"malformed request line: {data[self._at : line_end][:100]!r}")
            if len(data) - line_end > limits.headers + 4:
                raise HTTPProtocolError(431, f"the headers are over {limits.headers} bytes")
        self._scanned = len(data)

    def rest(self) -> bytes:
        """Return what was received and not used, for another protocol to read."""
        rest, self.data, self._at = self.data[self._at :], b"", 0
        return rest

    def next_data(self) -> bytes | None:
        """Read what has come of the body: bytes, ``b""`` at its end, or ``None`` when more must be received."""
        return self._state()

    def whole_body(self) -> bytes | None:
        """Return and use the body if its length was given and all of it has come, else ``None``."""
        if self._state == self._end_of_body:
            return b""
        return self._counted() if self._state == self._counted and self.buffered >= self._left else None

    # Each state reads what has come of one thing, and says which state follows its end.

    def _end_of_body(self) -> bytes | None:
        return b""

    def _counted(self) -> bytes | None:
        return self._take_left(self._end_of_body)

    def _take_left(self, then: Callable[[], bytes | None]) -> bytes | None:
        part = self.data[self._at : self._at + self._left]
        self._at += len(part)
        self._left -= len(part)
        if not self._left:
            self._state = then
        return part or None

    def _chunk_line(self) -> bytes | None:
        """Read the size of a chunk (RFC 9112 §7.1)."""
        end = self.data.find(b"\r\n", self._at)
        if (self.buffered if end < 0 else end - self._at) > _MAX_CHUNK_LINE:
            raise HTTPProtocolError(400, f"a chunk size line is over {_MAX_CHUNK_LINE} bytes")
        if end < 0:
            if _BARE_LF(self.data, self._at):
                raise HTTPProtocolError(400, "a chunk size ends without a carriage return")
            return None
        size = _CHUNK_LINE(self.data, self._at, end)
        if size is None:
            raise HTTPProtocolError(400, f"malformed chunk size: {self.data[self._at : end][:100]!r}")
        self._at = end + 2
        self._left = int(size[1], 16)
        self._state = self._chunk_data if self._left else self._trailers
        return self._state()

    def _chunk_data(self) -> bytes | None:
        return self._take_left(self._chunk_end)

    def _chunk_end(self) -> bytes | None:
        line_end = self.data[self._at : self._at + 2]
        if not b"\r\n".startswith(line_end):
            raise HTTPProtocolError(400, "a chunk is longer than its size")
        if len(line_end) < 2:
            return None
        self._at += 2
        self._state = self._chunk_line
        return self._chunk_line()

    def _trailers(self) -> bytes | None:
        """Read and drop the fields behind the last chunk (RFC 9112 §7.1.2)."""
        if self.data.startswith(b"\r\n", self._at):
            self._at += 2
        else:
            end = self.data.find(b"\r\n\r\n", self._at)
            if (self.buffered if end < 0 else end - self._at) > self.limits.headers:
                raise HTTPProtocolError(431, f"the trailers are over {self.limits.headers} bytes")
            if end < 0:
                if _BARE_LF(self.data, self._at):
                    raise HTTPProtocolError(400, "a line ends without a carriage return")
                return None
            _parse_fields(self.data[self._at : end], self.limits)
            self._at = end + 4
        self._state = self._end_of_body
        return b""


# --- Writing ------------------------------------------------------------------------------

_known_heads: dict[tuple[Any, ...], bytes] = {}
_WITHOUT_BODY = frozenset((*range(100, 200), 204, 304))


def encode_head(
    status: int, headers: dict[str, tuple[str, ...]], cookies: Mapping[str, tuple[str, str]] | None = None
) -> bytes:
    """Return status line and headers, without those that the server writes: date, connection, the length of the body.

    Names and values were checked when they were put (see Conn).
    """
    request_id = headers.pop("x-request-id", None)  # what differs each time must not spoil what is known
    key = (status, *headers, *headers.values())
    head = _known_heads.get(key)
    if head is None:
        lines = [f"HTTP/1.1 {status} {reason_phrase(status) if status in _STATUS_NAMES else ''}\r\n"]
        for name, values in headers.items():
            if name not in _OF_THE_SERVER or status in (101, 426):  # `upgrade` needs its `connection`
                lines += [f"{name}: {value}\r\n" for value in values]
        head = "".join(lines).encode("latin-1", "replace")
        if len(_known_heads) >= 512:
            _known_heads.clear()
        if len(head) < 1024:
            _known_heads[key] = head
    if request_id is not None:
        headers["x-request-id"] = request_id
        head = b"%bx-request-id: %b\r\n" % (head, request_id[0].encode("latin-1", "replace"))
    if cookies:
        head += "".join(
            f"set-cookie: {name}={value}{attributes}\r\n" for name, (value, attributes) in cookies.items()
        ).encode("latin-1", "replace")
    return head


def encode_chunk(data: bytes) -> bytes:
    """Return one chunk (RFC 9112 §7.1); *data* is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"

# ==========================================================================================
# 14. Server                        depends on: Ground, Conn, WebSocket protocol, HTTP protocol
# ==========================================================================================
#
# The only chapter with sockets. One object per connection moves bytes between asyncio and the
# parser, and hands each request to a callable that returns a conn, or a coroutine that will.
# Requests of one connection are answered in order; the next one is read when the last is done.
#
# Everything a client can make large or slow has a bound. Reading stops while the application
# does not take the body; answering stops while the client does not read; and one timer looks at
# the deadlines of all connections once a second, which costs far less than a timer for each.
#
# A connection has one deadline at a time, for what its client has to do next:
#
#     a whole head -> the next part of the body -> (none while the application works)
#         -> reading what waits for it, if that is too much -> the next request, or closing
#
# A client that goes away ends what was being done for it: a coroutine is cancelled where it waits,
# and a worker thread hears of it when it reads or sends. One that has only said that it will send
# nothing more may still be reading. Whether it is there can be found out in one way: by sending.
#
# Sources: asyncio's transports and protocols, RFC 9112 §9 (connections), RFC 9110 §10.1.1 (Expect).

__all__ += ["Server", "Timeouts"]


class Timeouts:
    """Seconds: for a whole *head*, between parts of a *body*, *idle* between requests, for a reader to *write* to,
    and for requests to end when the server stops (*shutdown*)."""

    __slots__ = ("head", "body", "idle", "write", "shutdown")

    def __init__(
        self, head: float = 10, body: float = 20, idle: float = 30, write: float = 30, shutdown: float = 10
    ) -> None:
        self.head, self.body, self.idle, self.write, self.shutdown = head, body, idle, write, shutdown


_NEVER = float("inf")
_ACCEPTS = 32  # clients that are accepted before others have their turn
_EVENTS = 128  # sockets that are looked after before timers and tasks have their turn
_TURN = 64  # requests of one connection that are answered before others have their turn
_UNSENT = 262_144  # bytes that the system holds for a client until the network takes them
_WRITE_AHEAD = 262_144  # bytes that are sent before others have their turn, even if the client takes them at once
_ON_ITS_WAY = 0.1  # seconds that a server which stops waits for requests on connections that look idle
_SMALL_FILE = 65_536  # files up to this are read at once; larger ones go from disk to socket by themselves ...
_FILE_PIECE = 1_048_576  # ... in pieces, which the system takes or refuses at once
_WRITE_COST = 1024  # bytes that could be sent in the time that a call of the system takes
_UNAWAITED = 67_108_864  # bytes that are sent without a wait before that is taken for a mistake
_CROWD = 1000  # connections that the garbage collector need not look through again and again


# --- Worker threads -----------------------------------------------------------------------


class _Workers:
    """Threads for code that blocks. They start as they are needed, up to *size*."""

    def __init__(self, size: int, name: str = "worker") -> None:
        import queue
        import threading
        from collections import deque

        self._size, self._name = size, name
        self._count = 0
        self._idle = 0  # threads that wait for work, less the work that waits for threads
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: deque[Any] = deque()
        self._waking = False
        self._thread = threading.Thread

    def run(self, loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Call in a thread, in the context variables of the caller; return a future of what it returns."""
        future = loop.create_future()
        context = contextvars.copy_context()
        self._work.put((loop, future, context, call, arguments))
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._count < self._size:
                self._count += 1
                self._thread(target=self.work, name=f"phoenix-{self._name}-{self._count}", daemon=True).start()
            else:
                self._idle -= 1
        return future

    def work(self) -> None:
        """Do in this thread what is to be done, until ``end`` is called."""
        while (job := self._work.get()) is not None:
            loop, future, context, call, arguments = job
            try:
                result, error = context.run(call, *arguments), None
            except BaseException as raised:  # noqa: BLE001 - it is raised again where the result is awaited
                result, error = None, raised
            with self._lock:
                self._idle += 1  # before anybody sees the result: the call that follows finds this thread free
            self._done.append((future, result, error))
            del job, future, context, call, arguments, result, error
            if not self._waking:  # one wake-up of the loop serves all that is done by then
                self._waking = True
                try:
                    loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    return

    def _deliver(self) -> None:
        self._waking = False
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, StopIteration):
                future.set_exception(RuntimeError("it raised StopIteration, which no future can hold"))
            else:
                future.set_exception(error)

    def end(self) -> None:
        """Let one of the threads end."""
        self._work.put(None)

    def stop(self) -> None:
        for _ in range(self._count):
            self.end()


# --- One connection -----------------------------------------------------------------------

_WOULD_BLOCK = (
    "reading the body would block the event loop: in `async def` write `await conn.body.read()`"
    " or `async for part in conn.body`"
)


class _LoopAdapter(Adapter):
    """The far side of a conn that is answered on the loop of a server: what a worker thread asks for is done there."""

    __slots__ = ("server",)

    server: Server

    if TYPE_CHECKING:  # what each kind has of its own
        task: Any
        closed: Any

        def _start_chunked(self, conn: Any) -> None: ...
        def _write_chunk(self, conn: Any, data: bytes) -> None: ...
        def _end_chunked(self, conn: Any) -> None: ...
        def _has_body(self, conn: Any) -> bool: ...
        def _set_beat(self, conn: Any, data: bytes, seconds: float) -> None: ...

    def read_blocking(self, conn: Any) -> bytes:
        if not conn._in_worker:
            raise PhoenixError(_WOULD_BLOCK)
        return self._from_worker(self.read(conn))  # type: ignore[no-any-return]

    def _from_worker(self, coroutine: Any) -> Any:
        """Run a coroutine on the loop, and wait for it in this worker thread."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self.server.loop).result()

    async def in_worker(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await self.server.workers.run(self.server.loop, call, *arguments)
        finally:
            if self.closed and self.task is not None:
                self.task.cancel()  # at its next await: meanwhile the client has gone

    def start_chunked(self, conn: Any) -> None:
        self._on_loop(conn, self._start_chunked, conn)

    def beat(self, conn: Any, data: bytes, seconds: float) -> None:
        self._on_loop(conn, self._set_beat, conn, data, seconds)

    def _on_loop(self, conn: Any, call: Callable[..., Any], *arguments: Any) -> None:
        if conn._in_worker:
            self.server.loop.call_soon_threadsafe(call, *arguments)
        else:
            call(*arguments)

    def send_chunk(self, conn: Any, data: bytes) -> None:
        if conn._in_worker:
            self._from_worker(self._write_and_drain(conn, data))
        else:
            self._write_chunk(conn, data)

    async def _write_and_drain(self, conn: Any, data: bytes) -> None:
        self._write_chunk(conn, data)
        await self.drain(conn)

    async def _send_parts(self, conn: Any, parts: Any) -> None:
        """Send the parts that a generator makes, as fast as the client reads."""
        conn._in_worker = False
        self._start_chunked(conn)
        if hasattr(parts, "__aiter__"):
            await _send_async_parts(conn, parts, self._has_body(conn))
        else:
            conn._in_worker = True
            await self.in_worker(_send_parts, conn, parts, self._has_body(conn))
            conn._in_worker = False
        self._end_chunked(conn)


class _Connection(_LoopAdapter):
    """Carry bytes between a transport and the parser, and requests to the application."""

    __slots__ = (
        "parser", "transport", "remote_ip", "scheme", "request", "conn", "task", "deadline",
        "keep_alive", "head_started", "continued", "reading_paused", "writing_paused", "waiter", "drainers",
        "head_sent", "ended", "closed", "discarding", "unwritten", "ahead", "pulse", "beat_data",
    )  # fmt: skip

    def __init__(self, server: Server, scheme: str) -> None:
        self.server = server
        self.scheme = scheme
        self.parser = RequestParser(server.limits)
        self.transport: Any = None
        self.remote_ip = ""
        self.request: Any = None  # the one being answered
        self.conn: Any = None
        self.task: Any = None  # what answers it, when it has to wait
        self.deadline = _NEVER  # of the client, for what it has to do next
        self.keep_alive = True
        self.head_started = False
        self.continued = False  # "100 Continue" was sent, or need not be
        self.reading_paused = self.writing_paused = False
        self.waiter: Any = None  # a future of whoever waits for more of the body
        self.drainers: list[Any] = []  # futures of those who wait for the client to read
        self.head_sent = False  # a response has begun
        self.ended = False  # the client will send nothing more
        self.closed = False  # nothing can be sent any more
        self.discarding = False  # what still comes is thrown away
        self.unwritten = 0  # bytes that waited for the client when its deadline was set
        self.ahead = 0  # bytes that were sent since others had their turn
        self.pulse = _NEVER  # seconds between looks at the client while the application works ...
        self.beat_data: bytes | None = None  # ... and what it is sent then

    # --- What asyncio calls -----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.remote_ip = peer[0] if isinstance(peer, tuple) else ""
        self.deadline = self.server.now + self.server.timeouts.head
        self.server.connections.add(self)
        if self.server.stopping:
            self.stop()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = self.discarding = True
        self.server.connections.discard(self)
        for future in (self.waiter, *self.drainers):
            if future is not None and not future.done():
                future.set_exception(ClientDisconnected())
        self._cancel()
        self.server.check_drained()

    def _cancel(self) -> None:
        """Cancel what is done for a client that is gone; a plain function in a worker thread ends by itself."""
        if self.task is not None and self.conn is not None and not self.conn._in_worker:
            self.server.loop.call_soon(self.task.cancel)  # not now: a task that has not begun could not clean up

    def data_received(self, data: bytes) -> None:
        if self.discarding:
            return
        parser = self.parser
        parser.receive_data(data)
        if self.request is None:
            self._next_requests()
        elif self.waiter is not None:
            _wake(self.waiter)
        if parser.data and parser.buffered > self.server.read_ahead and not (self.reading_paused or self.discarding):
            self.reading_paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client has sent its last byte; it may still be waiting for the answer."""
        self.ended = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(ClientDisconnected("the client ended in the middle of the body"))
        if self.request is None:
            self._next_requests()
        else:
            self.pulse = 1.0
            self._allow(self.pulse)
        return not self.discarding and self.scheme == "http"

    def pause_writing(self) -> None:
        self.writing_paused = True
        self.unwritten = self.transport.get_write_buffer_size()
        self.deadline = self.server.now + self.server.timeouts.write

    def resume_writing(self) -> None:
        self.writing_paused = False
        for future in self.drainers:
            _wake(future)
        timeouts = self.server.timeouts
        if self.waiter is not None:
            self._allow(timeouts.body)
        elif self.request is not None:
            self._allow(self.pulse)
        else:
            self._allow(timeouts.write if self.discarding else timeouts.idle)
            self.server.loop.call_soon(self._next_requests)  # not now: asyncio cannot bear to be closed from here

    # --- Time -------------------------------------------------------------------------------

    def _allow(self, seconds: float) -> None:
        """Give the client time; but one that has to read first keeps the deadline for that."""
        if not self.writing_paused:
            self.deadline = self.server.now + seconds

    def _set_beat(self, conn: Any, data: bytes, seconds: float) -> None:
        if self.conn is conn and not self.closed:
            self.beat_data = b"" if not self._has_body(conn) else encode_chunk(data) if self.request.minor else data
            self.pulse = min(self.pulse, seconds)
            self._allow(self.pulse)

    def _look_after_client(self) -> None:
        """Send something that changes nothing, if the response allows it: a client that is gone refuses it."""
        data = self.beat_data
        if self.ended:
            import socket

            has_all = self.head_sent and self.conn is not None and not self._has_body(self.conn)  # of HEAD
            if has_all or self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.abort()
                return
            if data is None and self.request.minor:
                if not self.head_sent:
                    data = b"HTTP/1.1 100 Continue\r\n\r\n"  # clients skip it, expected or not (RFC 9110 §15.2)
                elif self.conn is not None and self.conn.state == "chunked" and self._has_body(self.conn):
                    data = b"0"  # of the length of the next chunk: it may begin with any number of zeros
            self.beat_data = b""  # once is enough: now the system knows
        if data:
            self.transport.write(data)
        self._allow(self.pulse)

    def timed_out(self) -> None:
        """The deadline has passed."""
        left = self.transport.get_write_buffer_size() if self.writing_paused else 0
        if 0 < left < self.unwritten:  # slow, but alive
            self.unwritten = left
            self.deadline = self.server.now + self.server.timeouts.write
        elif self.writing_paused or self.discarding:
            self.abort()
        elif self.waiter is not None:
            if not self.waiter.done():
                self.waiter.set_exception(HTTPProtocolError(408, "the body stopped arriving"))
        elif self.drainers:  # of a file that the client does not take
            self.abort()
        elif self.request is not None:
            self._look_after_client()
        elif self.head_started:
            self._refuse(HTTPProtocolError(408, "the head of the request took too long"))
        else:
            self._close_gently()

    def stop(self) -> None:
        """The server stops: a request is still answered, also one that is on its way; then the connection closes."""
        self.keep_alive = False
        if self.request is None:
            self.server.loop.call_later(_ON_ITS_WAY, self._close_idle)
        elif self.beat_data:  # a stream of events, which has no end
            if self.request.minor:
                self.transport.write(LAST_CHUNK)
            self._cancel()
            self.discarding = True
            self.transport.close()

    def _close_idle(self) -> None:
        if self.request is not None:
            return
        is_answered = self.discarding and not self.transport.get_write_buffer_size()
        if not self.discarding:
            self.discarding = True
            self.transport.close()
        if is_answered or self.scheme == "https":
            self._allow(1)  # for the goodbye of the client, which not every one says

    def leave(self) -> tuple[int, bytes] | None:
        """Give the socket away, with what was received and not read; ``None`` while there is something to be sent."""
        if self.request is not None:
            kind = "" if self.conn is None else self.conn._resp_headers.get("content-type", ("",))[0]
            if kind.startswith("text/event-stream"):  # it never ends: its client comes again
                self.transport.close()
        elif self.ended or self.scheme == "https":  # there is nothing to give, or it has secrets of its own
            self.stop()
        elif not self.discarding and not self.transport.is_closing() and not self.transport.get_write_buffer_size():
            kept = _kept(self.transport.get_extra_info("socket").fileno()), self.parser.rest()
            self.abort()
            return kept
        return None

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        self.closed = self.discarding = True
        if self.task is not None and self.server.stopping:
            self.server.loop.call_soon(self.task.cancel)
        self.transport.abort()

    # --- Requests ---------------------------------------------------------------------------

    def _next_requests(self) -> None:
        """Answer what has been received, one request after the other."""
        parser = self.parser
        for turn in range(_TURN):
            if self.request is not None or self.writing_paused or self.discarding:
                return
            hold = self.server.hold
            if hold is not None and parser.buffered and hold():
                return
            try:
                request = parser.next_request()
            except HTTPProtocolError as error:
                self._refuse(error)
                return
            if request is None:
                if self.ended:
                    self._close_gently()
                elif parser.data and not self.head_started:
                    self.head_started = True
                    self.deadline = self.server.now + self.server.timeouts.head
                return
            if turn and self.transport.is_closing():  # while the request before this one was answered
                return
            self._start(request)
        self.server.loop.call_soon(self._next_requests)

    def _start(self, request: Request) -> None:
        self.request = request
        self.deadline = self.server.now + self.pulse
        self.keep_alive = request.keep_alive
        self.head_sent = False
        self.continued = not request.minor  # HTTP/1.0 does not know it
        context = contextvars.copy_context()  # what this request sets must not be seen by the next
        try:
            result = context.run(self.server.handle, request, self)
            if isinstance(result, BaseConn):
                pending, rest = None, self._respond(result)
            else:
                pending, rest = result, None
        except Exception as error:
            self._break_off(error)
            return
        if pending is not None or rest is not None:
            task = context.run(self.server.create_task, self._carry_on(pending, rest))
            self.task = None if task.done() else task

    async def _carry_on(self, pending: Any, rest: Any) -> None:
        """Wait for a conn, if it is *pending*, then for the *rest* of its response."""
        try:
            if pending is not None:
                rest = self._respond(await pending)
            if rest is not None:
                await rest
        except BaseException as error:  # noqa: BLE001 - even a cancelled task must not leave a client waiting
            self._break_off(error)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise
        if self.task is not None:  # else it had not to wait, and _next_requests goes on by itself
            self.task = None
            self._next_requests()

    def _respond(self, conn: Any) -> Any:
        """Write the response, or return a coroutine that does."""
        if self.closed:
            self._done(conn)
            return None
        state = conn.state
        if state == "sent":
            body = conn.resp_body
            if body.__class__ is not bytes:
                body = body.encode("utf-8", "replace")  # names of files can hold halves of surrogate pairs
            if len(body) > _SMALL_FILE and self.scheme == "https" and self._has_body(conn):
                return self._send_in_parts(conn, body)
            self._write_whole(conn, body)
            self._done(conn)
        elif state == "file":
            return self._send_file(conn)
        elif state == "chunked":
            if conn.resp_body is not None:
                return self._send_parts(conn, conn.resp_body)
            self._end_chunked(conn)
        elif state == "upgraded":
            self._become_websocket(conn)
        else:  # it was broken off: there is no way to tell the client but to close
            self.abort()
            self._done(conn)
        return None

    def _done(self, conn: Any) -> None:
        """The response is written: get ready for the next request."""
        self.conn = None
        if conn._after:
            _clean_up(conn)
        if self.closed:
            return
        if not self.keep_alive or self.request.has_body and not self._skip_body():
            self._close_gently()
            return
        self.request = None
        self.head_started = False
        if not self.writing_paused:
            self.deadline = self.server.now + self.server.timeouts.idle
        if self.reading_paused:
            self._resume_reading()

    def _skip_body(self) -> bool:
        """Use up what nobody read of the body; false when it has not come, or is none."""
        try:
            while part := self.parser.next_data():
                pass
        except HTTPProtocolError:
            return False
        return part is not None

    def _resume_reading(self) -> None:
        if self.reading_paused and (self.discarding or self.parser.buffered < _READ_AHEAD):
            self.reading_paused = False
            self.transport.resume_reading()

    def _refuse(self, error: HTTPProtocolError) -> None:
        """Answer bytes that are no request, and close."""
        body = _refusal(error)
        head = encode_head(error.status, {"content-type": _TEXT_PLAIN})
        self.transport.write(b"%bcontent-length: %d%b%b" % (head, len(body), self.server.tail_close, body))
        self._close_gently()

    def _break_off(self, error: BaseException) -> None:
        """Something failed where no error page can be made: log it, and do not leave the client waiting."""
        conn, self.conn = self.conn, None
        if conn is not None and (self.closed or self.discarding or isinstance(error, ClientDisconnected)):
            _log_early_end(conn, self.server)
        elif not self.closed:
            what = "a request" if conn is None else f"{conn.method} {conn.request_path}"
            logger.error("the response to %s broke off ** (%s) %s", what, type(error).__name__, error, exc_info=error)
        if self.head_sent or self.discarding:
            self.abort()
        else:
            self._refuse(HTTPProtocolError(500, "the response could not be written"))
        if conn is not None and conn._after:
            _clean_up(conn)

    def _close_gently(self) -> None:
        """Close, but let a client that is still sending read the answer first (RFC 9112 §9.6)."""
        self.request, self.discarding = None, True
        self._allow(self.server.timeouts.write)
        self._resume_reading()
        if self.ended:
            self.transport.close()
        else:
            _end_writing(self.transport)

    # --- The body, for Conn -----------------------------------------------------------------

    def whole_body(self, conn: Any) -> bytes | None:
        self._check_current(conn)
        return None if conn._in_worker else self.parser.whole_body()  # the parser belongs to the loop's thread

    async def read(self, conn: Any) -> bytes:
        self._check_current(conn)
        try:
            while (part := self.parser.next_data()) is None:
                await self._more_body()
        except PhoenixError:
            self.keep_alive = False
            raise
        self.continued = True
        self._resume_reading()
        return part

    async def _more_body(self) -> None:
        """Wait until the client has sent something."""
        if self.closed or self.ended:
            raise ClientDisconnected("the client ended in the middle of the body")
        if self.waiter is not None:
            raise PhoenixError("the body is being read already: one `read` at a time")
        self._resume_reading()
        if self.request.headers.expects_continue and not self.continued:
            self.continued = True
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.waiter = self.server.loop.create_future()
        self._allow(self.server.timeouts.body)
        try:
            await self.waiter
        finally:
            self.waiter = None
            self._allow(self.pulse)

    def _check_current(self, conn: Any) -> None:
        if self.conn is not conn:
            raise PhoenixError("this conn was answered already: its body and its chunks are gone")

    # --- Whole responses and files ----------------------------------------------------------

    def _tail(self, conn: Any) -> bytes:
        """Return the last lines of the head, which tell whether the connection stays open."""
        if self.request.has_body and conn.state != "chunked" and not self._skip_body():
            self.keep_alive = False  # the rest of a body that nobody read could come for ever
        if not self.keep_alive or "connection" in conn._resp_headers:
            self.keep_alive = False
            return self.server.tail_close
        return self.server.tail if self.request.minor else self.server.tail_keep_alive

    def _write_whole(self, conn: Any, body: bytes) -> None:
        status = conn.status
        head = encode_head(status, conn._resp_headers, conn._resp_cookies)
        tail = self._tail(conn)
        if status in _WITHOUT_BODY:
            self.transport.write(head + tail[2:])
        elif self.request.method == "HEAD":
            self.transport.write(b"%bcontent-length: %d%b" % (head, len(body), tail))
        else:
            self.transport.write(b"%bcontent-length: %d%b%b" % (head, len(body), tail, body))

    def _has_body(self, conn: Any) -> bool:
        return self.request.method != "HEAD" and conn.status not in _WITHOUT_BODY

    def _write_head(self, conn: Any, framing: bytes) -> None:
        """Send the head of a response whose body follows in parts."""
        head = encode_head(conn.status, conn._resp_headers, conn._resp_cookies)
        tail = self._tail(conn)
        self.head_sent = True
        self.transport.write(head + framing + tail if framing else head + tail[2:])

    async def _send_in_parts(self, conn: Any, body: bytes) -> None:
        """Send a large body over TLS, as fast as the client reads."""
        # In one piece asyncio would take it and not count what is unsent, so that a slow reader looked idle: it was
        # cut off when the time for that was over, or the 30 s that asyncio (from 3.11) gives a connection to close.
        self._write_head(conn, b"content-length: %d" % len(body))
        for part in _parts_of_file(io.BytesIO(body), len(body)):
            self._send(part)
            await self.drain(conn)
        self._done(conn)

    def _send_file(self, conn: Any) -> Any:
        file = conn.resp_body
        if not self._has_body(conn):
            self._write_head(conn, b"" if conn.status in _WITHOUT_BODY else b"content-length: %d" % file.length)
        elif file.length > _SMALL_FILE:
            return self._stream_file(conn, file)
        else:
            with open(file.path, "rb", buffering=0) as stream:
                stream.seek(file.offset)
                body = stream.read(file.length)
            if len(body) != file.length:
                raise PhoenixError(f"the file {file.path} has become shorter")
            self._write_whole(conn, body)
        self._done(conn)
        return None

    async def _stream_file(self, conn: Any, file: Any) -> None:
        """Send a large file, as fast as the client reads."""
        offset, end = file.offset, file.offset + file.length
        with open(file.path, "rb", buffering=0) as stream:
            self._write_head(conn, b"content-length: %d" % file.length)
            if hasattr(os, "sendfile") and self.scheme == "http":
                offset = await self._sendfile(conn, stream, offset, end)
            stream.seek(offset)
            for part in _parts_of_file(stream, end - offset):
                self._send(part)
                await self.drain(conn)
        self._done(conn)

    async def _sendfile(self, conn: Any, stream: Any, offset: int, end: int) -> int:
        """Let the system copy from disk to socket, and return how far it came: not every file allows it."""
        # asyncio's own `sendfile` does not tell whether the client reads, and uvloop has none
        self.transport.set_write_buffer_limits(high=0)
        await self.drain(conn)  # what was written before goes first
        self.transport.set_write_buffer_limits()
        number = os.dup(self.transport.get_extra_info("socket").fileno())  # asyncio watches the socket's own number
        try:
            while offset < end:
                try:
                    count = os.sendfile(number, stream.fileno(), offset, min(_FILE_PIECE, end - offset))
                except BlockingIOError:
                    await self._writable(number)
                    continue
                if not count:
                    break
                offset += count
                self.ahead += count
                await self.drain(conn)
        except ConnectionError:
            raise ClientDisconnected from None
        except OSError:
            pass
        finally:
            os.close(number)
        return offset

    async def _writable(self, number: int) -> None:
        """Wait until the client has read something."""
        loop = self.server.loop
        future = loop.create_future()
        self._allow(self.server.timeouts.write)
        self.drainers.append(future)
        loop.add_writer(number, _wake, future)
        try:
            await future
        finally:
            loop.remove_writer(number)
            self.drainers.remove(future)
            self._allow(self.pulse)

    def _send(self, data: bytes) -> None:
        if self.transport.is_closing():
            self.closed = True
            raise ClientDisconnected
        if self.ahead > _UNAWAITED:
            raise PhoenixError(
                f"{self.ahead >> 20} MiB were sent without a pause, in which others have their turn and the client"
                " can read: in `async def` write `await conn.chunk(data)`"
            )
        self.ahead += len(data) + _WRITE_COST
        self.transport.write(data)

    async def drain(self, conn: Any) -> None:
        if self.closed:
            raise ClientDisconnected
        if self.writing_paused:
            self.ahead = 0
            future = self.server.loop.create_future()
            self.drainers.append(future)
            try:
                await future
            finally:
                self.drainers.remove(future)
        elif self.ahead > _WRITE_AHEAD:  # a client that reads at once would never make us wait
            import asyncio

            self.ahead = 0
            await asyncio.sleep(0)

    def _become_websocket(self, conn: Any) -> None:
        """Hand the transport over to a WebSocket (RFC 6455 §4.2.2)."""
        upgraded = conn.resp_body
        fields: dict[str, tuple[str, ...]] = {}
        for name, value in upgraded.handshake.headers:
            fields[name] = (*fields.get(name, ()), value)
        self.transport.write(encode_head(101, fields, conn._resp_cookies) + b"\r\n")
        wire = _WebSocketWire(self.server, self.transport, upgraded)
        self.server.connections.discard(self)
        self.server.connections.add(wire)
        self.transport.set_protocol(wire)
        self.conn = None
        self.discarding = True
        wire.handler.opened(wire)
        rest = self.parser.rest()
        if rest:
            wire.data_received(rest)
        if self.server.stopping:  # it was told before it became a WebSocket
            wire.stop()
        if self.ended:  # the client left before it was answered
            self.transport.close()

    # --- Chunks -----------------------------------------------------------------------------

    def _start_chunked(self, conn: Any) -> None:
        if self.closed or self.conn is not conn:
            return  # the first chunk will say so
        chunks = self.request.minor and self._has_body(conn)
        if not self.request.minor:
            self.keep_alive = False  # HTTP/1.0 has no chunks: the end of the connection is the end
        self.continued = True  # nothing may stand between head and body
        self._write_head(conn, b"transfer-encoding: chunked" if chunks else b"")

    def _write_chunk(self, conn: Any, data: bytes) -> None:
        self._check_current(conn)
        if self._has_body(conn):
            self._send(encode_chunk(data) if self.request.minor else data)

    def _end_chunked(self, conn: Any) -> None:
        if self.request.minor and self._has_body(conn):
            self.transport.write(LAST_CHUNK)
        self.pulse, self.beat_data = 1.0 if self.ended else _NEVER, None
        self._done(conn)


def _refusal(error: HTTPProtocolError) -> bytes:
    return f"{reason_phrase(error.status)}: {error}\n".encode()


def _send_parts(conn: Any, parts: Any, has_body: bool) -> None:
    try:
        for part in parts if has_body else ():
            conn.chunk(part)
    finally:
        if hasattr(parts, "close"):
            parts.close()


async def _send_async_parts(conn: Any, parts: Any, has_body: bool) -> None:
    try:
        if has_body:
            async for part in parts:
                await conn.chunk(part)
    finally:
        if hasattr(parts, "aclose"):
            await parts.aclose()


def _parts_of_file(stream: Any, size: int) -> Iterator[bytes]:
    """Yield the next *size* bytes of a file, and close it."""
    with stream:
        while size:
            part = stream.read(min(_READ_AHEAD, size))
            if not part:
                raise PhoenixError(f"the file {stream.name} has become shorter")
            size -= len(part)
            yield part


def _log_early_end(conn: Any, server: Server) -> None:
    why = "the server stopped" if server.stopping else "the client went away"
    about = {"method": conn.method, "path": conn.request_path}
    logger.info("%s %s ended early: %s", conn.method, conn.request_path, why, extra=about)


def _end_writing(transport: Any) -> None:
    """Say that nothing more will be sent. What was sent can still be read, and the client end its own side."""
    try:
        if transport.can_write_eof():
            transport.write_eof()
        else:  # TLS
            transport.close()
    except OSError:  # the client has gone at this very moment
        transport.abort()


def _wake(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def _clean_up(conn: Any) -> None:
    """Do what was to be done after the response, such as removing uploads."""
    for clean_up in conn._after:
        try:
            clean_up()
        except Exception:
            logger.exception("cleaning up after %s %s raised an error", conn.method, conn.request_path)


_TEXT_PLAIN = ("text/plain; charset=utf-8",)


# --- One WebSocket ------------------------------------------------------------------------


class _Wire:
    """What the wires of chapter 12 have in common, whoever moves the bytes: callbacks at work, and why they end."""

    __slots__ = ("server", "loop", "thread", "handler", "deadline", "idle", "lost", "kept")

    if TYPE_CHECKING:

        def close(self, code: int, reason: str) -> None: ...

    def __init__(self, server: Server, handler: Any, idle: float | None) -> None:
        self.server, self.loop, self.thread = server, server.loop, server.thread
        self.handler = handler
        self.idle = idle or _NEVER  # seconds without a message after which it is closed
        self.deadline = server.now + self.idle
        self.lost = False  # nothing can be sent or received any more
        self.kept: set[Any] | None = None  # what runs callbacks

    def stop(self) -> None:
        """The server stops: the client is told to go elsewhere (RFC 6455 §7.4.1)."""
        self.close(1001, "going away")

    def cut_off(self) -> None:
        """Part with a client that does not keep up."""
        self.server.cut_off += 1
        self.close(1013, "too slow")

    def keep(self, worker: Any) -> None:
        """Hold on to *worker* while a callback of it runs: asyncio itself forgets tasks that nobody holds."""
        if self.kept is None:
            self.kept = set()
        self.kept.add(worker)

    def release(self, worker: Any) -> None:
        if self.kept is not None:
            self.kept.discard(worker)
            self._leave_server()

    def _leave_server(self) -> None:
        if self.lost and not self.kept:
            self.handler = None  # which knows this wire: so that both are freed at once, not by the garbage collector
            self.server.connections.discard(self)
            self.server.check_drained()

    def create_task(self, coroutine: Any) -> Any:
        return self.server.create_task(coroutine)

    async def in_worker(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await self.server.workers.run(self.loop, call, *arguments)


class _WebSocketWire(_Wire):
    """Carry bytes between a transport and the WebSocket parser, and messages to a handler, in place of a connection.

    It stays until the last callback of its handler has ended, so that a server that stops can wait for them.
    """

    __slots__ = (
        "transport", "parser", "closing", "deflate", "ping_interval", "pinged", "owed_pong", "owed_close",
        "reading_paused", "writing_paused", "drainers", "over", "unwritten",
    )  # fmt: skip

    encode = staticmethod(_serialize_message)

    def __init__(self, server: Server, transport: Any, upgraded: Any) -> None:
        super().__init__(server, upgraded.handler, upgraded.idle or upgraded.ping_interval)
        self.transport = transport
        self.deflate = upgraded.handshake.deflate
        self.parser = _WebSocketParser(max_size=upgraded.max_size, deflate=self.deflate)
        self.closing = _CloseHandshake()
        self.ping_interval = upgraded.ping_interval
        self.pinged = False
        self.owed_pong = b""  # waits until the client reads
        self.reading_paused = self.writing_paused = False
        self.drainers: list[Any] = []  # futures of those who wait for the client to read
        self.owed_close: Any = None  # a close or an error that came behind messages still to be read
        self.over = False  # the handler was told that it ended
        self.unwritten = 0  # bytes that waited for the client when it was pinged, or the close was sent
        if self.handler.cuts_slow_readers:
            transport.set_write_buffer_limits(high=_MAX_UNSENT)
        transport.resume_reading()

    # --- What asyncio calls -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self.over and self.owed_close is None:
            self.deadline = self.server.now + self.idle
            self.pinged = False
        received = self.handler.received
        for event in self.parser.receive_data(data):
            if event.__class__ is str or event.__class__ is bytes:
                if self.over:
                    continue
                try:
                    received(event)
                except Exception:
                    logger.exception("handling a WebSocket message raised an error")
                    self.close(1011, "internal error")
            else:
                self._control(event)
        if self.closing.should_drop:
            _end_writing(self.transport)

    def _control(self, event: Any) -> None:
        if self.handler.unread and self.closing.is_open and isinstance(event, (_Close, WebSocketError)):
            self.owed_close = event  # what came before it is answered first
            self.deadline = self.server.now + 2
        else:
            self._answer(event)

    def say_goodbye(self) -> None:
        """Answer the end of the messages, now that the handler has read them all."""
        event, self.owed_close = self.owed_close, None
        self._answer(event)
        if self.closing.should_drop:
            _end_writing(self.transport)

    def _answer(self, event: Any) -> None:
        answer = self.closing.answer(event)
        if answer and self.writing_paused and isinstance(event, _Ping):
            self.owed_pong = answer  # the latest is enough (RFC 6455 §5.5.3), and they do not pile up
        elif answer:
            self.transport.write(answer)
        if not self.closing.is_open:
            self._end()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._end()
        self.deadline = _NEVER
        self._leave_server()

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self.handler.cuts_slow_readers and not self.over:
            logger.warning("a client did not keep up: %d bytes waited for it, it is cut off", _MAX_UNSENT)
            self.cut_off()

    def resume_writing(self) -> None:
        self.writing_paused = False
        pong, self.owed_pong = self.owed_pong, b""
        if pong:
            self.write(pong)
        for drainer in self.drainers:
            _wake(drainer)

    def leave(self) -> None:
        """The server hands over, and is told so: a WebSocket cannot go along."""
        self.stop()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        self.transport.abort()

    def timed_out(self) -> None:
        """Nothing has come for too long."""
        left = self.transport.get_write_buffer_size()
        if self.owed_close is not None:
            self.say_goodbye()
        elif (self.over or self.pinged) and left < self.unwritten:  # slow, but alive: the answer is behind what it reads
            self.unwritten = left
            self.deadline = self.server.now + (2 if self.over else self.idle)
        elif self.over or self.pinged:
            self.transport.abort()
        elif self.reading_paused:
            self.deadline = self.server.now + self.idle  # it is us who do not read
        elif self.ping_interval is not None:
            self.pinged, self.unwritten = True, left
            self.deadline = self.server.now + self.ping_interval
            self.ping(b"")
        else:
            self.close(1001, "idle")

    # --- What handlers call -----------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Send bytes that are a frame already."""
        if not self.over:
            self.transport.write(frame)

    def encode_own(self, message: str | bytes) -> bytes:
        """Return the frame of a message to this client alone, compressed if that was agreed."""
        return _serialize_message(message, self.deflate)

    def ping(self, payload: bytes) -> None:
        self.write(_serialize_frame(_PING, payload))

    def close(self, code: int, reason: str) -> None:
        """Begin the close handshake; a client that does not answer is dropped."""
        if self.owed_close is not None:
            self.say_goodbye()
        elif self.closing.is_open:
            frame = self.closing.close(code, reason)
            if not self.lost:
                self.transport.write(frame)
            self._end()

    def _end(self) -> None:
        """There will be no more messages."""
        if self.over:
            return
        self.over = True
        self.deadline = self.server.now + 2  # for the client's close frame, and the end of its stream
        if not self.lost:
            self.unwritten = self.transport.get_write_buffer_size()
        self.resume_reading()
        for drainer in self.drainers:
            if not drainer.done():
                drainer.set_exception(ClientDisconnected(f"the WebSocket was closed with {self.closing.code}"))
        self.handler.ended("closed", self.closing.code)

    async def drain(self) -> None:
        """Wait until the client has read. Raises ``ClientDisconnected`` when it will not."""
        if self.writing_paused and not self.over:
            drainer = self.loop.create_future()
            self.drainers.append(drainer)
            try:
                await drainer
            finally:
                self.drainers.remove(drainer)

    def pause_reading(self) -> None:
        if not self.over:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()


# --- The server ---------------------------------------------------------------------------


class Server:
    """Serve HTTP on one address: *host* and *port*, a Unix socket at the path *uds* with the permissions *uds_mode*,
    or on *sockets* that somebody else has opened. With *tls*, an ``ssl.SSLContext``, it is HTTPS; *https* is host, port
    and context of a second address. Of *sockets*, that with the port of *https* takes the place of this address.

    *handle* is called with a ``Request`` and its connection, and returns a conn with a response, or a coroutine that
    returns one. *threads* is the number of worker threads for plain functions. *on_start* is awaited before the first
    connection is accepted, *on_stop* called when the server begins to stop, *on_end* awaited behind the last request.

    ``hold``, if it is set, is asked before a request is read: while it returns true, requests wait unread.
    """

    def __init__(
        self, handle: Callable[[Request, Any], Any], *, host: str = "127.0.0.1", port: int = 4000,
        uds: str | os.PathLike[str] | None = None, uds_mode: int = 0o660, sockets: Iterable[Any] = (),
        threads: int = 40, limits: HTTPLimits | None = None, timeouts: Timeouts | None = None, tls: Any = None,
        https: tuple[str, int, Any] | None = None, on_start: Callable[[Server], Any] | None = None,
        on_stop: Callable[[Server], object] | None = None, on_end: Callable[[Server], Any] | None = None,
    ) -> None:
        self.handle = handle
        self.on_start, self.on_stop, self.on_end = on_start, on_stop, on_end
        self.host, self.port, self.tls, self.https = host, port, tls, https
        self.ports: dict[str, int] = {}  # once it listens: the port of "http", of "https"
        self.urls: list[str] = []  # the same for people
        self.uds, self.uds_mode = None if uds is None else os.fspath(uds), uds_mode
        self.sockets = list(sockets)
        self.address: list[Any] = [host, port, self.uds, https and list(https[:2])]  # as it was asked for
        self.inherited: Mapping[str, Any] = {}  # what `hand_over` returned to the process before this one
        self.limits = limits or HTTPLimits()
        self.timeouts = timeouts or Timeouts()
        self.workers = _Workers(threads)
        self.connections: set[Any] = set()
        self.cut_off = 0  # clients that did not keep up with what was sent to them
        self.thread = 0
        self.stopping = False
        self.hold: Callable[[], bool] | None = None
        self.read_ahead = _READ_AHEAD + self.limits.line + self.limits.headers  # a head always finds room
        self.now = 0.0
        self.tail = self.tail_close = self.tail_keep_alive = b""
        self.loop: Any = None
        self._listeners: list[Any] = []
        self._uds_inode = 0  # of the socket that was made at `uds`
        self._frozen = 0  # so many connections were there when the collector was told to leave them alone
        self._sweeper: Any = None
        self._drained: Any = None
        self.ended: Any = None  # a future that is done when the server has stopped

    async def start(self, *, listen: bool = True) -> None:
        """Listen. Raises ``OSError`` when a port is in use; ``port=0`` takes a free one and sets ``port``.

        Without *listen* it only gets ready: for the doors, whose requests come in by other people's servers.
        """
        import asyncio

        bytearray(1 << 20)  # lets malloc keep the 256 KiB blocks that asyncio receives into: 3x faster on glibc
        self.loop, self.thread = asyncio.get_running_loop(), _get_ident()
        self.create_task = _task_maker(self.loop)
        self.ended = self.loop.create_future()
        self._sweep()
        if listen:
            try:
                await self._listen()
            except OSError:
                self._stop_listening()
                self._sweeper.cancel()
                raise
        try:
            if self.on_start is not None:
                await self.on_start(self)
            for listener in self._listeners:
                await listener.start_serving()
                for each in listener.sockets:
                    _lengthen_queue(each)
            await self._adopt()
        except BaseException:
            await self.stop()
            raise

    async def _listen(self) -> None:
        if self.inherited.get("listeners"):
            return await self._listen_on_inherited()
        if self.uds is not None and not self.sockets:
            self.sockets = [_unix_listener(self.uds, self.uds_mode)]
            self._uds_inode = os.stat(self.uds).st_ino
        elif not self.sockets:
            await self._listen_at(self.tls, host=self.host, port=self.port)
        for each in self.sockets:
            is_second = self.https is not None and _port_of(each) == self.https[1]
            await self._listen_at(self.https[2] if self.https and is_second else self.tls, sock=each)
        if self.https is not None and (self.uds is not None or not self.sockets):
            host, port, tls = self.https
            await self._listen_at(tls, host=host, port=port)
        self.port = _port_of(self._listeners[0].sockets[0])

    async def _listen_at(self, tls: Any, **place: Any) -> None:
        import asyncio

        create, scheme = self.loop.create_server, "https" if tls else "http"
        if _is_unix(place.get("sock")) and not isinstance(self.loop, asyncio.BaseEventLoop):
            create = self.loop.create_unix_server  # uvloop tells them apart
            if sys.version_info >= (3, 13):
                place["cleanup_socket"] = False  # our own is removed here; systemd's must stay
        try:
            listener = await create(
                lambda: _Connection(self, scheme), **place, backlog=_ACCEPTS, ssl=tls,
                ssl_handshake_timeout=self.timeouts.head if tls else None, start_serving=False,
            )  # fmt: skip
        except OSError as error:
            if "host" not in place:
                raise
            raise OSError(error.errno, error.strerror, f"{place['host']}:{place['port']}") from None
        self._listeners.append(listener)
        for each in listener.sockets:
            _shorten_queue(each)
        first = listener.sockets[0]
        if _is_unix(first):
            self.urls.append(f"unix:{self.uds or first.getsockname()}")
            return
        host, port = first.getsockname()[:2]
        self.ports[scheme] = port
        host = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.urls.append(_base_url(scheme, host, port))

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        if self._uds_inode:
            _remove_socket(str(self.uds), self._uds_inode)

    async def _listen_on_inherited(self) -> None:
        from socket import socket

        for number, scheme in self.inherited["listeners"]:
            tls = None if scheme == "http" else self.https[2] if self.https is not None else self.tls
            if scheme == "http" or tls is not None:
                await self._listen_at(tls, sock=socket(fileno=os.dup(number)))
        self._uds_inode = self.inherited["uds_inode"]
        self.port = _port_of(self._listeners[0].sockets[0])

    async def _adopt(self) -> None:
        """Go on with the connections that another process has accepted, and received something from."""
        from socket import socket

        for number, received in self.inherited.get("connections", ()):
            connection = _Connection(self, "http")
            connection.parser.receive_data(base64.b64decode(received))
            await self.loop.connect_accepted_socket(lambda: connection, socket(fileno=number))
            connection._next_requests()
        for number, scheme in self.inherited.get("listeners", ()):
            if self._serves(scheme):
                os.close(number)

    def _serves(self, scheme: str) -> bool:
        return scheme == "http" or "https" in self.ports

    def _scheme_of(self, listener: Any) -> str:
        return "https" if not _is_unix(listener) and _port_of(listener) == self.ports.get("https") else "http"

    def _sweep(self) -> None:
        """Tell the time, and look for connections that have run out of it: once a second, or as often as it takes."""
        times = self.timeouts
        pause = min(1, times.head / 4, times.body / 4, times.idle / 4, times.write / 4)
        self._sweeper = self.loop.call_later(pause, self._sweep)
        self.now = self.loop.time()
        date = f"\r\ndate: {_http_date(time.time())}\r\n"
        self.tail = f"{date}\r\n".encode()
        self.tail_close = f"{date}connection: close\r\n\r\n".encode()
        self.tail_keep_alive = f"{date}connection: keep-alive\r\n\r\n".encode()
        for connection in list(self.connections):
            if connection.deadline < self.now:
                connection.timed_out()
        self._spare_collector()

    def _spare_collector(self) -> None:
        """Let the garbage collector pass over a crowd: to look through 10,000 connections blocks the loop for 0.1 s."""
        import gc

        count = len(self.connections)
        if count >= self._frozen + _CROWD:
            gc.freeze()
            self._frozen = count
        elif count < self._frozen // 2:
            gc.unfreeze()  # what those who left have left behind
            self._frozen = count

    def check_drained(self) -> None:
        """Wake who waits for the last connection to end, if it has."""
        if self._drained is not None and not self.connections and not self._drained.done():
            self._drained.set_result(None)

    async def stop(self) -> None:
        """Stop accepting, let requests end within ``timeouts.shutdown`` seconds, then close everything."""
        import asyncio

        if self.stopping:
            await asyncio.shield(self.ended)
            return
        self.stopping = True
        self.handle = functools.partial(_handle_last, self.handle)
        self._stop_listening()
        for _ in range(3 if self._listeners else 0):  # until asyncio has made the connections that it has accepted
            await asyncio.sleep(0)
        if self.on_stop is not None:
            self.on_stop(self)
        for connection in list(self.connections):
            connection.stop()
        self._drained = self.loop.create_future()
        self.check_drained()
        try:
            await asyncio.wait_for(self._drained, self.timeouts.shutdown)
        except asyncio.TimeoutError:
            logger.warning("%d requests did not end within %s s", len(self.connections), self.timeouts.shutdown)
        await self._end()

    async def hand_over(self) -> dict[str, Any]:
        """Stop, and return what a successor can go on with: its ``start`` takes it, in this process or after ``exec``.

        Nobody is refused: the sockets stay open, new connections wait in the system's queue, and those without an
        open request go along with what was received of the next one. Open requests end first, as in ``stop``;
        WebSockets are closed, and have two seconds for it.
        """
        import asyncio

        self.hold = lambda: True
        sockets = [each for listener in self._listeners for each in listener.sockets]
        listeners = [(_kept(each.fileno()), self._scheme_of(each)) for each in sockets]
        listeners += [each for each in self.inherited.get("listeners", ()) if not self._serves(each[1])]
        connections = []
        for each in sockets:
            if not self.loop.remove_reader(each.fileno()):  # uvloop has none; asyncio would drop whom it accepts now
                for listener in self._listeners:
                    listener.close()
        if self.on_stop is not None:
            self.on_stop(self)
        started, waited, is_busy = self.loop.time(), 0.0, True
        while self.connections and waited < (self.timeouts.shutdown if is_busy else 2) or not waited:
            await asyncio.sleep(0.01)  # at least once: who is being accepted becomes a connection
            for kept in [connection.leave() for connection in list(self.connections)]:
                if kept is not None:
                    connections.append((kept[0], base64.b64encode(kept[1]).decode()))
            is_busy = any(isinstance(each, _Connection) and each.request is not None for each in self.connections)
            waited = self.loop.time() - started
        self.stopping = True
        await self._end()
        return {
            "address": self.address, "listeners": listeners, "connections": connections, "uds_inode": self._uds_inode
        }  # fmt: skip

    async def _end(self) -> None:
        """Close what is still open."""
        import asyncio

        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # lets asyncio tell the connections that they are lost
        self._sweeper.cancel()
        if self.on_end is not None:
            await self.on_end(self)
        self.workers.stop()
        self.ended.set_result(None)


def _handle_last(handle: Callable[[Request, Any], Any], request: Request, connection: Any) -> Any:
    """Handle a request that came while the server stopped: it is the last one of its connection."""
    connection.keep_alive = False
    return handle(request, connection)


def _is_unix(listener: Any) -> bool:
    return getattr(getattr(listener, "family", None), "name", "") == "AF_UNIX"


def _port_of(listener: Any) -> int:
    """Return the port that a socket listens on; a Unix socket has none: 0."""
    return 0 if _is_unix(listener) else int(listener.getsockname()[1])


def _unix_listener(path: str, mode: int) -> Any:
    """Return a Unix socket that listens at *path*, in the place of one that nobody listens on any more."""
    import errno
    import socket

    if os.path.lexists(path) and not S_ISSOCK(os.lstat(path).st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file, which is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        else:
            raise OSError(errno.EADDRINUSE, "another server listens there")
    listener = socket.socket(socket.AF_UNIX)
    unnamed = f"{path}.{os.getpid()}"  # until it has its permissions and can be connected to
    try:
        listener.bind(unnamed)
        os.chmod(unnamed, mode)
        listener.listen(2048)
        os.rename(unnamed, path)
    except BaseException:
        listener.close()
        _remove_socket(unnamed)
        raise
    return listener


def _remove_socket(path: str, inode: int = 0) -> None:
    """Remove a file if it is there; with *inode*, if it is still that one."""
    try:
        if inode in (0, os.stat(path).st_ino):
            os.unlink(path)
    except FileNotFoundError:
        pass


def _sockets_of_systemd() -> list[Any]:
    """Return the sockets that systemd has opened for this process, each of them once; see sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    import socket

    count = int(os.environ.get("LISTEN_FDS", "0"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # processes that we start must not take them for theirs
        os.environ.pop(name, None)
    found = [socket.socket(fileno=3 + at) for at in range(count)]
    for each in found:
        each.set_inheritable(False)
    return found


def _lengthen_queue(listener: Any) -> None:
    """Let many clients wait to be accepted: asyncio asks for as few as it is to accept before others have a turn."""
    import socket

    with socket.socket(fileno=os.dup(listener.fileno())) as same:
        same.listen(2048)


def _kept(number: int) -> int:
    """Return another number for an open socket, that ``exec`` leaves open."""
    number = os.dup(number)
    os.set_inheritable(number, True)
    return number


def _shorten_queue(listener: Any) -> None:
    """Let the system hold little that it cannot send yet, for each connection that this socket accepts.

    By itself it takes megabytes for one client, and tells only once a megabyte that a slow one has read something:
    until then it looks like one that never reads.
    """
    import socket

    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Linux, macOS
    if option is not None and listener.family in (socket.AF_INET, socket.AF_INET6):
        try:
            listener.setsockopt(socket.IPPROTO_TCP, option, _UNSENT)
        except OSError:
            pass


def _run_fairly(main: Any) -> None:
    """Run a coroutine as ``asyncio.run`` does, in a loop that a crowd does not block.

    asyncio by itself looks after all sockets that are ready before it does anything else: when thousands of clients
    come at once, this takes most of a second.
    """
    import asyncio
    import selectors

    class FairSelector(selectors.DefaultSelector):
        rest: list[Any] = []

        def select(self, timeout: float | None = None) -> list[Any]:
            waited = self.rest
            ready = waited or super().select(timeout)
            ready, self.rest = ready[:_EVENTS], ready[_EVENTS:]
            if waited:  # what has changed since then is asked for again
                registered = self.get_map()
                ready = [event for event in ready if registered.get(event[0].fd) is event[0]]
            return ready

    if sys.version_info >= (3, 11) and sys.platform != "win32":
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(FairSelector())) as runner:
            runner.run(main)
    else:
        asyncio.run(main)


def _task_maker(loop: Any) -> Callable[[Any], Any]:
    """Return how this loop makes tasks: from Python 3.12 on, they begin to run at once, and may never be scheduled."""
    if sys.version_info >= (3, 12):
        import asyncio

        return lambda coroutine: asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task  # type: ignore[no-any-return]


# ==========================================================================================
# 15. Endpoint                                                   depends on: all that is above
# ==========================================================================================
#
# The endpoint is where a request begins and ends. It holds the configuration, the plugs that
# every request passes (static files, log, body parsers, session) with the router behind them,
# and what happens when something raises: the page for the developer, or the error view for
# everybody else. It also starts the server. The sections, each of which rests on those above:
#
#     Proxies and https    whom a request comes from, and by which scheme
#     Static files         parts of files, versions, compressed copies
#     The log              ids of requests, lines as text or as JSON
#     Errors, Debug page   from an exception to a status, and to what is shown
#     Children             what runs beside the server, started and stopped in order
#     Blocked loops        which code of the app keeps others waiting, in dev
#     Doors                the servers of others: ASGI, WSGI; and ASGI apps as guests
#     Options, Config files
#     The endpoint         all of it put together
#     Doors: gunicorn
#     Reload               changed code is run, changed pages are shown
#     Running              signals, several endpoints, sockets that systemd opened
#
# Sources: Phoenix.Endpoint, Plug.Static, Plug.Logger, Plug.Debugger, Phoenix.Endpoint.RenderErrors;
# RFC 9110 §13 (conditional requests), §14 (ranges).

__all__ += [
    "Endpoint", "config", "Static", "RequestId", "RequestLogger", "LogFormatter",
    "ErrorView", "InvalidPathError", "ConfigError", "CompilationError",
]  # fmt: skip


class ConfigError(PhoenixError):
    """An option of an endpoint is unknown, or has a value it cannot have."""


class InvalidPathError(BadRequestError):
    """The path of a static file holds parts that no file name has: status 400."""


def _check_keys(name: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(
                f"unknown key {key!r} in {name}=...{_did_you_mean(key, known)} It takes {', '.join(known)}."
            )


def _is_this_machine(host: str) -> bool:
    """Tell whether a host name is one that only this machine, or this network, knows."""
    return host == "localhost" or bool(re.fullmatch(r"[\d.]+|\[.*\]|.+\.local(host)?", host))


# --- Proxies and https --------------------------------------------------------------------
#
# To a server behind a proxy every request seems to come from the proxy, and by http. Whom it
# came from, and how, stands in headers that the proxy adds; but so can anybody, so they are
# believed from the addresses in `trusted_proxies` only. A chain of proxies writes a list, each
# at its end the address that called it. Read backwards, an entry is true as long as the one
# behind it is a proxy that is trusted; the first that is not is the client.
#
# Sources: RFC 7239 (Forwarded), RFC 6797 (HSTS), Plug.RewriteOn, Plug.SSL.

_ABOUT_REQUEST = ("for", "proto", "host", "port")
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # some proxies say wss of a WebSocket
_NODE = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\w+)?|([0-9.]+)(?::\w+)?|([0-9A-Fa-f:.]+)").fullmatch
_FORWARDED = re.compile(r"""[ \t]*(\w+)=(?:([^\s;,"]+)|"((?:[^"\\]|\\.)*)")[ \t]*([;,]|$)""").match


class _TrustedProxies:
    """Plug: take client, scheme, host and port from what trusted proxies say; *proxies* are addresses and networks."""

    def __init__(self, proxies: Sequence[str]) -> None:
        from ipaddress import ip_network

        self.trusts_unix = "unix" in proxies
        try:
            self.networks = [ip_network(proxy) for proxy in proxies if proxy != "unix"]
        except ValueError as error:
            raise ConfigError(
                f"trusted_proxies={proxies!r}: {error}.\n"
                'Expected addresses and networks such as "127.0.0.1" and "10.0.0.0/8", or "unix" for Unix sockets.'
            ) from None
        self.find = functools.lru_cache(1024)(self._find)

    def _find(self, node: str) -> tuple[str, bool] | None:
        """Return the address that *node* names, and whether to trust it; ``None`` when it names none."""
        from ipaddress import ip_address

        found = _NODE(node)
        try:
            address: Any = ip_address((found[1] or found[2] or found[3]) if found else node)
        except ValueError:
            return None
        address = getattr(address, "ipv4_mapped", None) or address
        return str(address), any(address in network for network in self.networks)

    def __call__(self, conn: Any) -> Any:
        _, is_trusted = self.find(conn.remote_ip) or ("", self.trusts_unix)  # without an address: by a Unix socket
        if not is_trusted:
            return conn
        said = _said_by_proxies(conn._req_headers)
        hops = 0
        while is_trusted and hops < len(said["for"]):
            hops += 1
            found = self.find(said["for"][-hops])
            if found is None:
                break  # who it is stays unknown, and nobody vouches for what stands before
            conn.remote_ip, is_trusted = found
        scheme, host, port = [
            values[-min(max(hops, 1), len(values))] if (values := said[name]) else "" for name in _ABOUT_REQUEST[1:]
        ]
        if scheme or host or port:
            self._rewrite(conn, _SCHEMES.get(scheme.lower()) or conn.scheme, host, port)
        return conn

    def _rewrite(self, conn: Any, scheme: str, host: str, port: str) -> None:
        for text in (host, conn._req_header("host")):
            try:
                conn.host, number = _parse_host(text)
                break
            except HTTPProtocolError:
                number = 0
        if port.isdecimal() and 0 < int(port[:6]) < 65_536:
            number = int(port)
        conn.scheme, conn.port = scheme, number or (443 if scheme == "https" else 80)
        authority = _base_url(scheme, conn.host, conn.port).partition("://")[2]
        conn._req_headers = {**conn._req_headers, "host": [authority]}


def _said_by_proxies(headers: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return what the headers say of client, scheme, host and port: lists, each with the nearest proxy at its end."""
    # a proxy sets one kind of them, and may let the other pass: `Forwarded` counts where there is no `X-Forwarded-...`
    if any(f"x-forwarded-{name}" in headers for name in _ABOUT_REQUEST):
        lines = {name: ",".join(headers.get(f"x-forwarded-{name}", ())) for name in _ABOUT_REQUEST}
        return {name: [part.strip() for part in line.split(",")] if line else [] for name, line in lines.items()}
    elements = _parse_forwarded(",".join(headers.get("forwarded", ())))
    return {name: [element.get(name, "") for element in elements] for name in _ABOUT_REQUEST}


def _parse_forwarded(header: str) -> list[dict[str, str]]:
    """Take a header ``Forwarded`` apart (RFC 7239 §4); what is malformed says nothing, nor what stands before it.

    >>> _parse_forwarded('for="[2001:db8::1]:4711";proto=https, for=10.0.0.7')
    [{'for': '[2001:db8::1]:4711', 'proto': 'https'}, {'for': '10.0.0.7'}]
    """
    elements: list[dict[str, str]] = []
    at, separator = 0, ","
    while at < len(header):
        if separator == ",":
            elements.append({})
        found = _FORWARDED(header, at)
        name = found[1].lower() if found else ""
        if found is None or name in elements[-1]:
            # a client could else hide behind its proxy: what it sends stands before what the proxy adds
            elements, at, separator = [], header.find(",", at) + 1 or len(header), ","
            continue
        elements[-1][name] = found[2] or re.sub(r"\\(.)", r"\1", found[3] or "")
        at, separator = found.end(), found[4]
    return elements


class _ForceSSL:
    """Plug: send what comes by http on to https, and tell browsers to use https from then on (*hsts*).

    They remember it for *max_age* seconds, *include_subdomains* for all below this host as well; *preload* asks for a
    place in the list that browsers come with. *host* (and port) is where to send to, unless it is what was asked for.
    *exclude* holds hosts, and paths such as ``"/health"``, that may be asked for by http.
    """

    def __init__(
        self, *, hsts: bool = True, max_age: int = 31_536_000, include_subdomains: bool = False,
        preload: bool = False, host: str | None = None, exclude: Sequence[str] = ("localhost", "127.0.0.1", "[::1]"),
    ) -> None:
        flags = "; includeSubDomains" * include_subdomains + "; preload" * preload
        self.hsts = f"max-age={int(max_age)}{flags}" if hsts else None
        self.host = host
        self.hosts = frozenset(each.lower() for each in exclude if not each.startswith("/"))
        self.paths = tuple(each.rstrip("/") + "/" for each in exclude if each.startswith("/"))

    def __call__(self, conn: Any) -> Any:
        if conn.host in self.hosts or (self.paths and f"{conn.request_path}/".startswith(self.paths)):
            return conn
        if conn.scheme == "https":
            return conn.put_resp_header("strict-transport-security", self.hsts) if self.hsts else conn
        place = f"https://{self.host}" if self.host else conn.endpoint._secure_url(conn.host)
        query = f"?{conn.query_string}" if conn.query_string else ""
        conn.put_resp_header("location", f"{place}{conn.request_path}{query}")
        return conn.send_resp(301 if conn.method in ("GET", "HEAD") else 307, "").halt()  # 307: with the same method


# --- Static files -------------------------------------------------------------------------


class Static:
    """Plug: serve the files below a folder; what is no file there passes on to the next plug.

    *at* is the path they stand under, *from_* the folder, looked for as ``View.root`` is. *only* names the first parts
    of paths that are served (``["css", "js"]``), all that are in the folder unless given; one that was added is seen
    within a second. With *gzip*, ``app.css.gz`` beside ``app.css`` is sent to clients that take it, unless it is the
    older of the two. *headers* are added. Files whose name begins with a dot are not served (``.well-known`` is no
    file), nor is anything outside the folder, where a symbolic link may lead.
    """

    def __init__(
        self, *, at: str = "/", from_: str | os.PathLike[str] = "priv/static", only: Sequence[str] | None = None,
        gzip: bool = True, headers: Mapping[str, str] | None = None,
    ) -> None:
        self.prefix = "/" + "".join(part + "/" for part in at.split("/") if part)
        self.folder = os.fspath(from_)
        self.only = None if only is None else frozenset(only)
        self.gzip = gzip
        self.headers = {_header_name(name): (_header_value(name, value),) for name, value in (headers or {}).items()}
        self.look_beside(None)

    def look_beside(self, module: Any) -> None:
        """Look for the folder beside *module*, unless its path is absolute."""
        self._places = [os.path.join(place, self.folder) for place in _places_beside(module)]
        self._root: str | None = None
        self._names: frozenset[str] = frozenset()
        self._listed = -_NEVER
        self._inside: dict[str, tuple[int, int]] = {}  # file -> device and inode, for files that lie in the folder

    def root(self) -> str | None:
        """Return the folder, or ``None`` when there is none."""
        if self._root is None:
            self._root = next((place for place in self._places if os.path.isdir(place)), None)
        return self._root

    def __call__(self, conn: Any) -> Any:
        path = conn.request_path
        if conn.method not in ("GET", "HEAD") or not path.startswith(self.prefix):
            return conn
        first = path[len(self.prefix) :].partition("/")[0]
        if first not in self._names and "%" not in path and "/." not in path and not self._appeared(first):
            return conn  # the usual case: no file has such a name, and the disk need not be asked
        found = self._find(path)
        if found is None:
            return conn
        before, conn._resp_headers = conn._resp_headers, dict(conn._resp_headers)
        try:
            return self._send(conn, *found).halt()
        except FileNotFoundError:  # it vanished in between
            if conn.state != "unset":
                raise
            conn._resp_headers = before
            return conn

    def _appeared(self, name: str) -> bool:
        """Tell whether *name* stands at the top of the folder; the list is made anew at most once a second."""
        if name not in self._names and time.monotonic() - self._listed > 1:
            self._listed = time.monotonic()
            root = self.root()
            try:
                names = frozenset(os.listdir(root)) if root else frozenset()
            except OSError:
                names = frozenset()
            self._names = names if self.only is None else names & self.only
        return name in self._names

    def _find(self, path: str) -> tuple[str, os.stat_result] | None:
        """Return the file that a path names. Raises ``InvalidPathError`` (400) for a path that climbs or could."""
        segments = [_decode_segment(part) for part in path[len(self.prefix) :].split("/")]
        mine = self._appeared(segments[0])
        for part in segments:
            if part in (".", "..") or mine and any(bad in part for bad in "/\\:\0"):
                raise InvalidPathError(f"invalid path for static asset: {path}")
        if not mine or any(not part or part.startswith(".") and part != ".well-known" for part in segments):
            return None
        file = os.path.join(self.root() or "", *segments)
        status = self._stat(file)
        return None if status is None else (file, status)

    def _stat(self, file: str) -> os.stat_result | None:
        """Return the status of a regular file in the folder that can be read, else ``None``."""
        status = _stat_file(file)
        if status is None or self._inside.get(file) == (status.st_dev, status.st_ino):
            return status
        root = os.path.join(os.path.realpath(self.root() or ""), "")
        if not os.path.realpath(file).startswith(root) or not os.access(file, os.R_OK):
            return None
        if len(self._inside) >= 4096:
            self._inside.clear()
        self._inside[file] = status.st_dev, status.st_ino
        return status

    def _send(self, conn: Any, file: str, status: os.stat_result) -> Any:
        headers = conn._resp_headers
        media_type = MIME.from_path(file)
        packed = None
        if self.gzip:
            headers["vary"] = (*headers.get("vary", ()), "Accept-Encoding")
            packed = self._stat(file + ".gz") if _accepts_gzip(conn) else None
            if packed is not None and int(packed.st_mtime) >= int(status.st_mtime):
                file, status = file + ".gz", packed
            else:
                packed = None
        etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}{"-gz" if packed else ""}"'
        versioned = "vsn=" in conn.query_string and "vsn" in conn.query_params
        code = 200 if versioned else _evaluate_conditions(conn, etag, status.st_mtime)
        part = _asked_part(conn, etag, status) if code == 200 else None
        if code == 412 or part is not None and part[0] > part[1]:
            if part is not None:
                headers["content-range"] = (f"bytes */{status.st_size}",)
            return conn.put_resp_content_type("text/plain").send_resp(416 if part else 412, "")
        headers["cache-control"] = ("public, max-age=31536000, immutable" if versioned else "public",)
        if not versioned:
            headers["etag"] = (etag,)
            headers["last-modified"] = (_http_date(status.st_mtime),)
        if code == 304:
            headers["cache-control"] = self.headers.get("cache-control", headers["cache-control"])
            return conn.send_resp(304, "")
        headers["content-type"] = (media_type,)
        headers["accept-ranges"] = ("bytes",)
        if packed is not None:
            headers["content-encoding"] = ("gzip",)
        headers.update(self.headers)
        if part is None:
            return conn.send_file(200, file)
        first, last = part
        headers["content-range"] = (f"bytes {first}-{last}/{status.st_size}",)
        return conn.send_file(206, file, first, last - first + 1)


def _stat_file(path: str) -> os.stat_result | None:
    """Return the status of a regular file, else ``None``."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status if status.st_mode & 0o170000 == 0o100000 else None  # what stat.S_ISREG tells


def _accepts_gzip(conn: Any) -> bool:
    """Tell whether ``Accept-Encoding`` allows gzip; what it says of gzip goes before ``*`` (RFC 9110 §12.5.3)."""
    given = dict(map(_parse_accept, ",".join(conn._req_headers.get("accept-encoding", ())).split(",")))
    return given.get("gzip", given.get("x-gzip", given.get("*", 0))) > 0


def _evaluate_conditions(conn: Any, etag: str, modified: float) -> int:
    """Return 304 when the client has this version already, 412 when it wanted another, else 200 (RFC 9110 §13.2.2)."""
    headers = conn._req_headers
    if "if-match" in headers:
        if not {etag, "*"} & set(_entity_tags(headers["if-match"])):
            return 412
    else:
        until = _parse_http_date(conn._req_header("if-unmodified-since"))
        if until is not None and int(modified) > until:
            return 412
    if "if-none-match" in headers:
        return 304 if {etag, "W/" + etag, "*"} & set(_entity_tags(headers["if-none-match"])) else 200
    since = _parse_http_date(conn._req_header("if-modified-since"))
    return 304 if since is not None and int(modified) <= since else 200


def _entity_tags(values: Sequence[str]) -> list[str]:
    """Return the tags of a list such as ``"a", W/"b"``; ours hold no comma."""
    return [tag.strip() for tag in ",".join(values).split(",")]


def _parse_http_date(text: str) -> float | None:
    """Return the time that an HTTP date names, in seconds, else ``None`` (RFC 9110 §5.6.7)."""
    if not text:
        return None
    from calendar import timegm

    found = re.fullmatch(r"\w{3}, (\d\d) (\w{3}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", text)
    try:
        if found is not None:
            day, month, *rest = found.groups()
            year, hour, minute, second = map(int, rest)
            return timegm((year, _HTTP_MONTHS.index(month) + 1, int(day), hour, minute, second))
        obsolete = "%A, %d-%b-%y %H:%M:%S GMT" if "-" in text else "%a %b %d %H:%M:%S %Y"
        return timegm(time.strptime(text, obsolete))
    except ValueError:
        return None


def _asked_part(conn: Any, etag: str, status: os.stat_result) -> tuple[int, int] | None:
    """Return first and last byte of the part that is asked for, or ``None`` for all of it (RFC 9110 §14.2)."""
    wanted = conn._req_header("range")
    if not wanted or conn.method != "GET":
        return None
    condition = conn._req_header("if-range")
    if condition and condition != etag and _parse_http_date(condition) != int(status.st_mtime):
        return None
    return _parse_range(wanted, status.st_size)


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return first and last byte of the one range in *header*; ``None`` for what is none, is many, or is everything.

    A range that lies outside of the file has its first byte behind its last.

    >>> _parse_range("bytes=-2", 5), _parse_range("bytes=0-", 5), _parse_range("bytes=9-", 5)
    ((3, 4), None, (1, 0))
    """
    found = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", header, re.IGNORECASE)
    if found is None or not (found[1] or found[2]) or not size:
        return None
    last = size - 1
    if not found[1]:
        first = max(0, size - int(found[2]))
    else:
        first = int(found[1])
        if found[2] and int(found[2]) < first:
            return None
        last = min(int(found[2] or last), last)
    if first >= size:
        return 1, 0
    return None if first == 0 and last == size - 1 else (first, last)


def client_script() -> str | None:
    """Return the path of ``phoenix.js``, or ``None`` when it is nowhere.

    It lies beside this file, in the app that this file was copied to, or where pip has put it: in ``share/phoenix``
    of the folder that the packages lie in or one above, which holds for every way to install.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    above = folder, *(os.path.join(folder, *[".."] * steps) for steps in (1, 2, 3))
    shared = (os.path.join(each, "share", "phoenix") for each in above)
    places = [folder, os.path.join(folder, "priv", "static", "js"), *shared]
    paths = (os.path.normpath(os.path.join(place, "phoenix.js")) for place in places)
    return next(filter(os.path.isfile, paths), None)


_NO_CLIENT = f"phoenix.js is not beside {__file__}: copy it from where you have phoenix.py from."


def _serve_client_script(conn: Any) -> Any:
    """Plug: serve the browser's client at ``/js/phoenix.js``, for apps whose static files hold none."""
    if conn.request_path != "/js/phoenix.js" or conn.method not in ("GET", "HEAD"):
        return conn
    path = client_script()
    if path is None:
        return conn.register_before_send(_warn_of_missing_client) if conn.endpoint.env == "dev" else conn
    return Static(from_=os.path.dirname(path))._send(conn, path, os.stat(path)).halt()


def _warn_of_missing_client(conn: Any) -> Any:
    if conn.status == 404:  # else a route of the app has one
        logger.warning("%s", _NO_CLIENT)
    return conn


# --- The log ------------------------------------------------------------------------------
#
# What is logged while a request is answered carries its id: also what the application logs in
# its own loggers, in whatever thread. That is what context variables are for, and this one is
# the only one: it holds text, for the log alone. No plug and no action reads it.

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("phoenix_request_id", default="")
_IS_REQUEST_ID = re.compile(r"[!-~]{20,200}").fullmatch
_RECORD_FIELDS = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))


class RequestId:
    """Plug: give each request an id, which is sent back in the response's header *header* and stands in its log lines.

    An id of 20 to 200 printable characters that comes with the request, from a proxy in front, is kept. It is plugged
    in front of what may log: until it runs, lines have the id of the request before, in the same thread or connection.
    ``conn.get_resp_header("x-request-id")`` reads it. Source: Plug.RequestId.
    """

    def __init__(self, header: str = "x-request-id") -> None:
        self.header = _header_name(header)
        self._made: Iterator[str] = iter(())

    def __call__(self, conn: Any) -> Any:
        given = conn._req_headers.get(self.header)
        if given is not None and _IS_REQUEST_ID(given[0]):
            found = given[0]
        else:
            found = next(self._made, "") or self._make()
        conn._resp_headers[self.header] = (found,)
        _request_id.set(found)
        return conn

    def _make(self) -> str:
        """Return an id, and make more for the requests that follow: to ask the system for each would take longer."""
        made = os.urandom(10 * 256).hex()
        self._made = iter([made[at : at + 20] for at in range(0, len(made) - 20, 20)])
        return made[-20:]


class LogFormatter(logging.Formatter):
    """Formats log lines as the server does: ``"text"``, or with *format* ``"json"`` one object on each line::

        12:30:45.123 request_id=7f3a0c5e9b1d24680f13 [INFO] Sent 200 in 5ms
        {"time": "2026-01-31T12:30:45.123Z", "level": "info", "logger": "phoenix", "message": "Sent 200 in 5ms",
         "request_id": "7f3a0c5e9b1d24680f13", "method": "GET", "path": "/", "status": 200, "duration": 0.005}

    (The object is one line.) *duration* is in seconds; what else was given to the logger as ``extra`` is in the object
    too, and *exception* is the traceback. For apps that set up ``logging`` themselves.
    """

    def __init__(self, format: str = "text") -> None:
        super().__init__()
        if format not in ("text", "json"):
            raise ConfigError(f'cannot log in the format {format!r}: expected "text" or "json"')
        self._is_json = format == "json"
        self._clock = (0, "")  # a second, and how it is shown

    def format(self, record: logging.LogRecord) -> str:
        second, now = self._clock
        if second != int(record.created):
            second = int(record.created)
            shown, clock = ("%Y-%m-%dT%H:%M:%S", time.gmtime) if self._is_json else ("%H:%M:%S", time.localtime)
            now = time.strftime(shown, clock(second))
            self._clock = (second, now)
        milliseconds = int((record.created - second) * 1000)
        return (self._json if self._is_json else self._text)(record, f"{now}.{milliseconds:03d}", _request_id.get())

    def _text(self, record: logging.LogRecord, now: str, request_id: str) -> str:
        mark = f"request_id={request_id} " if request_id else ""
        more = [record.exc_info and self.formatException(record.exc_info), record.stack_info]
        return "\n".join(filter(None, [f"{now} {mark}[{record.levelname}] {record.getMessage()}", *more]))

    def _json(self, record: logging.LogRecord, now: str, request_id: str) -> str:
        about = {"time": f"{now}Z", "level": record.levelname.lower(), "logger": record.name}
        about["message"] = record.getMessage()
        if request_id:
            about["request_id"] = request_id
        about.update({name: value for name, value in vars(record).items() if name not in _RECORD_FIELDS})
        if record.exc_info:
            about["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            about["stack"] = record.stack_info
        try:
            return jsonlib.dumps(about, default=repr, allow_nan=False)
        except (TypeError, ValueError):  # a key that is no text, a dict that holds itself, or NaN
            shown = {name: each if isinstance(each, (str, int)) else repr(each) for name, each in about.items()}
            return jsonlib.dumps(shown)


def _log_level(level: Any) -> int:
    """Return the number of a level, given as one or by its name."""
    number = getattr(logging, level.upper(), None) if isinstance(level, str) else level
    if not isinstance(number, int):
        raise ConfigError(f'cannot log at level {level!r}: expected one such as logging.DEBUG or "debug"')
    return logging.INFO if number is True else number


def _log_options(log: Any, env: str) -> tuple[Any, int, LogFormatter]:
    """Take the endpoint's option *log* apart: the level of requests, or false for none; the least level; the format."""
    given = log if isinstance(log, Mapping) else {"requests": log}
    _check_keys("log", given, ("requests", "level", "format"))
    least = given.get("level", {"dev": "debug", "test": "warning"}.get(env, "info"))
    return given.get("requests", logging.INFO), _log_level(least), LogFormatter(given.get("format", "text"))


class RequestLogger:
    """Plug: log ``GET /path`` when a request comes and ``Sent 200 in 5ms`` when its response goes, at *level*.

    *level* is a number or a name: ``logging.DEBUG``, ``"debug"``.
    """

    def __init__(self, level: int | str = logging.INFO) -> None:
        self.level = _log_level(level)

    def __call__(self, conn: Any) -> Any:
        if not logger.isEnabledFor(self.level):
            return conn
        started = time.perf_counter()
        about = {"method": conn.method, "path": conn.request_path}
        self._log("%s %s", (conn.method, conn.request_path), about)

        def log_sent(conn: Any) -> Any:
            took = time.perf_counter() - started
            verb = "Sent" if conn.resp_body is None or isinstance(conn.resp_body, (str, bytes)) else "Chunked"
            about.update(status=conn.status, duration=round(took, 6))
            self._log("%s %s in %s", (verb, conn.status, _took(took)), about)
            return conn

        return conn.register_before_send(log_sent)

    def _log(self, message: str, arguments: tuple[Any, ...], about: Mapping[str, Any]) -> None:
        """As ``logger.log``, without the search for its caller, who is known: that costs as much as all the rest."""
        at = sys._getframe().f_lineno
        record = logging.LogRecord(logger.name, self.level, __file__, at, message, arguments, None)
        vars(record).update(about)
        logger.handle(record)


def _set_up_logging(endpoint: Endpoint) -> None:
    """Log to standard error, for all loggers of the program, unless the application has set up logging itself."""
    root = logging.getLogger()
    if root.handlers or logger.handlers:
        return
    log = endpoint.options["log"]
    _, level, formatter = _log_options(log, endpoint.env)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root.addHandler(handler)
    is_chosen = isinstance(log, Mapping) and "level" in log
    root.setLevel(level if is_chosen else max(level, logging.INFO))  # what libraries have to debug is for them
    if logger.level == logging.NOTSET:
        logger.setLevel(level)


# --- Errors -------------------------------------------------------------------------------


def _attempt(read: Callable[[], Any]) -> Any:
    """Return what *read* returns, or the error that it raises."""
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - whatever it is, there is less to show, and that is all
        return error


def _text_of(error: BaseException) -> str:
    found = _attempt(lambda: str(error))
    return found if isinstance(found, str) else f"<{type(error).__name__}, whose text cannot be shown>"


def _status_of(error: BaseException, registered: Mapping[type, int]) -> int:
    """Return the status of an exception: its class's ``status`` or ``plug_status``, a registered one, or 500."""
    # of its classes the nearest that says something decides; an error of ours may know better than its class
    found: Any = vars(error).get("status") if isinstance(error, PhoenixError) else None
    for kind in type(error).__mro__ if found is None else ():
        found = registered.get(kind, vars(kind).get("status", vars(kind).get("plug_status")))
        if found is not None:
            break
    return _error_status(found) or 500


def _error_status(status: object) -> int | None:
    """Return the number of an error's status, given as a code or a name; ``None`` when it is none."""
    code = _STATUS_CODES.get(status) if isinstance(status, str) else status
    return int(code) if isinstance(code, int) and 400 <= code <= 599 else None


def _ends_more_than_a_request(conn: Any, error: BaseException) -> bool:
    """Tell whether *error* is meant for the program: ``SystemExit`` is not, it ends the action that raised it."""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return True
    if getattr(conn.adapter, "closed", False) and type(error).__name__ in ("CancelledError", "ClientDisconnected"):
        return True  # the client is gone: what was done for it ends
    return _is_cancelled(error)


def _is_cancelled(error: BaseException) -> bool:
    """Tell whether *error* ends this task, and not what it waited for. Before Python 3.11 nobody knows."""
    if type(error).__name__ != "CancelledError":
        return False
    import asyncio

    task = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    return task is not None and hasattr(task, "cancelling") and task.cancelling() > 0


_OF_ONE_RESPONSE = frozenset((  # headers that do not hold for the error page in its place
    "cache-control", "content-type", "content-length", "content-encoding", "content-range", "content-disposition",
    "content-language", "content-location", "etag", "last-modified", "expires", "accept-ranges", "location",
    "transfer-encoding",
))  # fmt: skip


def _render_if_there(view: Any, name: str, assigns: dict[str, Any]) -> str | None:
    """Render a page of an error view, which need not have it."""
    try:
        return render_to_string(view, name, assigns)
    except TemplateNotFoundError:
        if name in type(_view_instance(view)).templates():
            raise  # it is another one that is missing
        return None


class ErrorView(View):
    """The error pages of an app that has none of its own: the phrase of the status, in html, json or text."""

    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        code, _, format = name.partition(".")
        phrase = _phrase_of(code)
        if format == "html":
            return Safe(
                f"<!DOCTYPE html>\n<html><head><title>{code} {phrase}</title></head>"
                f"<body><h1>{phrase}</h1><p>{code}</p></body></html>\n"
            )
        if format == "json":
            return {"errors": {"detail": phrase}}
        return phrase if format in ("text", "txt") else super().render(name, assigns)


def _phrase_of(code: str) -> str:
    """``"404"`` is ``"Not Found"``; what is no status is an ``"Internal Server Error"``."""
    known = code.isdecimal() and int(code) in _STATUS_NAMES
    return reason_phrase(int(code) if known else 500)


# --- Debug page ---------------------------------------------------------------------------
#
# What a developer sees in place of the error view: the error, the lines of code it came through,
# and the request. It is one page without script, picture or font, so that it works under any
# policy. It runs nothing but the `repr` of what it shows, and cuts that at a length.
#
# Secrets are found first: cookies, credentials, and the values under the names that are never
# logged. Then they are left out wherever they appear, in a message or a line of source as well.
#
# Source: Plug.Debugger.

_SECRET_WORDS = ("password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "cookie", "credential")
_MOST_PLACES = 60  # of a traceback; endless recursion has a thousand
_MOST_ROUTES = 500
_DEBUG_FILE = "<debug page>"  # so tracebacks name its template
_DEBUG_HEADERS = {  # whatever is on the page, nothing of it is run
    "content-security-policy": ("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'",),
    "x-content-type-options": ("nosniff",),
    "cache-control": ("no-store",),
}


def debug_page(conn: Any, error: BaseException, status: int, endpoint: Any) -> tuple[str, str]:
    """Return media type and body of the page for developers: HTML for browsers, Markdown for all other clients."""
    report = _Report(conn, error, status, endpoint)
    accept = ",".join(conn._req_headers.get("accept", ())).lower()
    if any(known in accept for known in ("*/*", "text/*", "text/html")):
        return "text/html", _report_as_html(report)
    return "text/markdown", _report_as_markdown(report)


class _Place:
    """A line of code that an error came through."""

    __slots__ = ("file", "line", "function", "columns", "is_ours", "is_open")

    def __init__(self, file: str, line: int, function: str, columns: tuple[int, int] | None) -> None:
        self.file, self.line, self.function = file, line, function
        self.columns = columns or (0, 0)  # first and last but one of the characters that failed, where that is known
        self.is_ours = _is_of_app(file)
        self.is_open = False  # its source is shown at once

    def link(self) -> str | None:
        """Return what opens it in the editor of ``PHOENIX_EDITOR``, such as ``vscode://file/__FILE__:__LINE__``."""
        editor = os.environ.get("PHOENIX_EDITOR") or os.environ.get("PLUG_EDITOR")
        if not editor or not os.path.isfile(self.file):
            return None
        editor = editor.replace("__RELATIVEFILE__", quote(os.path.relpath(self.file)))
        return editor.replace("__FILE__", quote(os.path.abspath(self.file))).replace("__LINE__", str(self.line))


def _is_of_app(file: str) -> bool:
    """Tell whether *file* belongs to the application, rather than to the framework, Python or a library."""
    library = os.path.dirname(os.__file__) + os.sep
    if file in (debug_page.__code__.co_filename, _DEBUG_FILE) or file.startswith(("<frozen", library)):
        return False
    return "site-packages" not in file and "dist-packages" not in file


class _Report:
    """A failed request, as text that may be shown."""

    def __init__(self, conn: Any, error: BaseException, status: int, endpoint: Any) -> None:
        self.conn, self.error, self.status, self.endpoint = conn, error, status, endpoint
        words = endpoint.config("filter_parameters")
        self._words = (*(word.lower() for word in words if not isinstance(words, Mapping)), *_SECRET_WORDS)
        patterns = [  # a short one must stand alone, for it may be a part of any word
            re.escape(secret) if len(secret) >= 12 else rf"(?<!\w){re.escape(secret)}(?!\w)"
            for secret in sorted(self._find_secrets(), key=len, reverse=True)
        ]
        self._secrets = re.compile("|".join(patterns) or r"(?!)")
        self.title = self.text(f"{type(error).__name__} at {conn.method} {conn.request_path}")

    # Secrets

    def hides(self, name: object) -> bool:
        """Tell whether what stands under *name* is a secret."""
        text = _attempt(lambda: str(name).lower().replace("-", "_"))
        return not isinstance(text, str) or any(word in text for word in self._words)

    def text(self, text: str) -> str:
        """Return *text* without the secrets that are known."""
        return self._secrets.sub("[FILTERED]", text)

    def _find_secrets(self) -> set[str]:
        conn = self.conn
        found = {secret.decode(errors="replace") for secret in self.endpoint._secrets}
        found.update(value for value in conn.cookies.values() if len(value) >= 8)  # shorter ones are ordinary words
        found.update(value.split()[-1] for name, value in conn.req_headers if value.strip() and self.hides(name))
        for values in (_attempt(lambda: conn.params), _attempt(lambda: conn.session), conn.assigns):
            found.update(self._hidden_texts(values))
        found.update([repr(secret)[1:-1] for secret in found])  # as it is in the repr of what holds it
        found.update([quote(secret, "", errors="replace") for secret in found])  # ... and in a URL
        return {secret for secret in found if len(secret) >= 4 and secret.lower() not in self._words}

    def _hidden_texts(self, value: Any, hidden: bool = False, depth: int = 0) -> Iterator[str]:
        """Yield the texts that stand in *value* under the name of a secret."""
        kind = type(value)
        if issubclass(kind, str) and hidden:
            yield value
        elif issubclass(kind, dict) and depth < 32:
            for key, item in dict.items(value):
                yield from self._hidden_texts(item, hidden or self.hides(key), depth + 1)
        elif kind is list and depth < 32:
            for item in value:
                yield from self._hidden_texts(item, hidden, depth + 1)

    def value(self, value: Any) -> str:
        """Return the repr of *value*, bounded in length and depth, and without secrets."""
        text = _attempt(lambda: self._repr(value, 0))  # it is the application's, and may do anything
        if not isinstance(text, str):
            return f"<{type(value).__name__}, whose repr raises {type(text).__name__}>"
        text = self.text(text)
        return text if len(text) <= 4000 else text[:4000] + "..."

    def _repr(self, value: Any, depth: int) -> str:
        kind = type(value)
        most = (50, 20, 10, 5, 0)[depth]
        if issubclass(kind, dict):
            items = [
                f"{self._repr(key, 4)}: {'[FILTERED]' if self.hides(key) else self._repr(item, min(depth + 1, 4))}"
                for key, item in list(dict.items(value))[:most]
            ]
            return "{" + ", ".join(items + ["..."] * (len(value) > most)) + "}"
        if kind is list or kind is tuple:
            items = [self._repr(item, min(depth + 1, 4)) for item in value[:most]] + ["..."] * (len(value) > most)
            return f"[{', '.join(items)}]" if kind is list else f"({', '.join(items)}{',' * (len(value) == 1)})"
        if issubclass(kind, str) and len(value) > 1000:
            return f"{self.text(value)[:1000]!r}... ({len(value)} characters)"
        return repr(value)

    # The error

    def errors(self) -> Iterator[tuple[str, BaseException]]:
        """Yield the error and those behind it, each with what it was to the one before."""
        waiting = [("", self.error)]
        seen: set[int] = set()
        while waiting and len(seen) < 10:
            relation, error = waiting.pop(0)
            if id(error) in seen:
                continue
            seen.add(id(error))
            yield relation, error
            if error.__cause__ is not None:
                waiting.append(("caused by", error.__cause__))
            elif error.__context__ is not None and not error.__suppress_context__:
                waiting.append(("while answering", error.__context__))
            members = getattr(error, "exceptions", None)  # those of a group
            if isinstance(members, tuple):
                waiting += [("with", each) for each in members if isinstance(each, BaseException)]

    def message(self, error: BaseException) -> str:
        """Return what an error says, with its notes, and which assigns its template lacks."""
        lines = [str(error.msg) if isinstance(error, SyntaxError) else _text_of(error)]
        lines += [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
        lines += [f"The template reads @{name}, which nobody has assigned: it is None" for name in _missed_by(error)]
        return self.text("\n".join(lines))[:10_000]

    def places(self, error: BaseException) -> list[_Place]:
        """Return the lines of code that *error* came through; where it was raised is the first."""
        import traceback

        trace = traceback.extract_tb(error.__traceback__, limit=-_MOST_PLACES)
        found = [_Place(each.filename, each.lineno or 1, each.name, _columns_of(each)) for each in reversed(trace)]
        if isinstance(error, SyntaxError) and error.filename and error.lineno and os.path.isfile(error.filename):
            at = max(error.offset or 1, 1) - 1
            found.insert(0, _Place(error.filename, error.lineno, "", (at, at + 1)))
        for place in [place for place in found if place.is_ours][:5]:
            place.is_open = True
        return found

    def groups(self, error: BaseException) -> list[tuple[bool, list[_Place]]]:
        """Return the places of *error*: those of the application, those of libraries between them, in turns."""
        from itertools import groupby

        return [(is_ours, list(group)) for is_ours, group in groupby(self.places(error), lambda place: place.is_ours)]

    def source(self, place: _Place) -> list[tuple[int, str, str, str]]:
        """Return the lines around one: number, and the text before, in and behind the part that failed."""
        import linecache

        linecache.checkcache(place.file)  # it may have changed since the page before
        # From 3.13 on, the source of `python -c` is kept under the name of all code that has no file.
        lines = linecache.getlines(place.file) if place.file != "<string>" else []
        first, found = max(1, place.line - 5), []
        for number, line in enumerate(lines[first - 1 : place.line + 5] if place.line <= len(lines) else (), first):
            line = line.rstrip()
            start, end = place.columns if number == place.line else (0, 0)
            parts = line[:start], line[start:end] or " ", line[end:]
            if start >= end or parts[1].strip() == line.strip():
                parts = line, "", ""
            before, marked, after = map(self.text, parts)
            found.append((number, before, marked, after))
        return found

    # The request

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return the tables about the request: a title, then names and values."""
        conn = self.conn
        return [
            ("Request info", self._request_info()),
            ("Headers", [(name, self.header(name, value)) for name, value in sorted(conn.req_headers)]),
            ("Params", self._rows(lambda: conn.params)),
            ("Session", self._rows(self.session)),
            ("Cookies", [(name, "[FILTERED]") for name in conn.cookies]),
            ("Assigns", self._rows(lambda: conn.assigns)),
        ]

    def session(self) -> Any:
        return self.conn.session if "plug_session_fetch" in self.conn.private else {}

    def _request_info(self) -> list[tuple[str, str]]:
        conn = self.conn
        route = conn.private.get("phoenix_route")
        rows = [("URI", self.text(self.uri())), ("Query string", self.query())]
        rows += [("Method", conn.method), ("From", conn.remote_ip)]
        if route is not None:
            rows.append(("Route", f"{route.shown_verb} {route.path} {route.label}"))
            rows.append(("Pipelines", ", ".join(route.pipe_through)))
        return rows

    def uri(self) -> str:
        """Return the URL of the request without its query."""
        conn = self.conn
        return _base_url(conn.scheme, conn.host, conn.port) + str(conn.request_path)

    def query(self) -> str:
        """Return the query as it came, but for secrets."""
        pairs = [pair.partition("=") for pair in self.conn.query_string.split("&")]
        shown = [key + equals + ("[FILTERED]" if value and self.hides(key) else value) for key, equals, value in pairs]
        return self.text("&".join(shown))

    def header(self, name: str, value: str) -> str:
        """Return the value of a request header, unless it is a secret."""
        return "[FILTERED]" if self.hides(name) else self.text(value)

    def _rows(self, read: Callable[[], Mapping[str, Any]]) -> list[tuple[str, str]]:
        values = _attempt(read)
        if not isinstance(values, dict):
            return [("", f"cannot be read: {values}")]
        return [
            (str(key)[:200], "[FILTERED]" if self.hides(key) else self.value(item)) for key, item in values.items()
        ]

    # The routes, for a request that none of them takes

    def routes(self) -> list[Route]:
        if not isinstance(self.error, (NoRouteError, MethodNotAllowedError)):
            return []
        return list(getattr(getattr(self.error, "router", self.endpoint.router), "routes", ()))

    def nearest_route(self) -> Route | None:
        return _nearest_route(self.routes(), self.conn.path_info)


def _missed_by(error: BaseException) -> list[str]:
    """Return the assigns that were missing in the templates which *error* came through."""
    import traceback

    found: set[str] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        reader, assigns = map(frame.f_locals.get, ("(assign)", "assigns"))
        if reader and isinstance(assigns, Mapping):  # only templates have the first, and may reuse the second
            found |= reader.__self__.missed - set(assigns)
    return sorted(found)


def _nearest_route(routes: Iterable[Route], segments: Sequence[str]) -> Route | None:
    """Return the route whose path is most like the one that was asked for."""
    from difflib import SequenceMatcher

    best, nearest = 0.6, None
    for route in routes:
        fixed = [at for at, segment in enumerate(route.segments) if segment.text]  # parameters may be anything
        wanted = "/".join(route.segments[at].text for at in fixed)
        found = "/".join(segments[at] for at in fixed if at < len(segments))
        likeness = SequenceMatcher(None, found, wanted).ratio() if fixed else 0
        if "*" not in route.path:
            likeness *= 0.9 ** abs(len(segments) - len(route.segments))
        if likeness > best:
            best, nearest = likeness, route
    return nearest


def _columns_of(entry: Any) -> tuple[int, int] | None:
    """Return from where to where the line of a traceback failed, in characters. Python knows it from 3.11 on."""
    import linecache

    start, end = getattr(entry, "colno", None), getattr(entry, "end_colno", None)
    if start is None or end is None:
        return None
    line = linecache.getline(entry.filename, entry.lineno).rstrip().encode()  # Python counts bytes
    if entry.end_lineno != entry.lineno:
        end = len(line)
    return len(line[:start].decode(errors="replace")), len(line[:end].decode(errors="replace"))


def _short_name(file: str) -> str:
    """Return the path of a file as it is best read: from the working directory, or from the folder of packages."""
    _, packages, rest = file.rpartition("site-packages" + os.sep)
    for folder in (os.getcwd(), os.path.dirname(os.__file__), os.path.dirname(os.path.abspath(__file__))):
        if not packages and file.startswith(folder + os.sep):
            return file[len(folder) + 1 :]
    return rest


# --- Debug page: Markdown -----------------------------------------------------------------


def _report_as_markdown(report: _Report) -> str:
    import traceback

    error, conn = report.error, report.conn
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    parts = [
        f"# {report.title}",
        "Exception:",
        _indented(f"** ({type(error).__name__}) {report.message(error)}\n{report.text(trace)[-50_000:]}"),
        "## Connection details",
        "### Params",
        _indented(report.value(_attempt(lambda: conn.params))),
        "### Request info",
        f"  * URI: {report.text(report.uri())}\n  * Query string: {report.query()}",
        "### Headers",
        "\n".join(f"  * {name}: {report.header(name, value)}" for name, value in sorted(conn.req_headers)),
        "### Session",
        _indented(report.value(_attempt(report.session))),
    ]
    if report.routes():
        near = report.nearest_route()
        parts += ["## Routes", *([f"The nearest is `{near.verb} {near.path}`."] if near else [])]
        lines = [f"{route.shown_verb:7} {route.path}  {route.label}" for route in report.routes()[:_MOST_ROUTES]]
        parts.append(_indented("\n".join(lines)))
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.rstrip().split("\n"))


# --- Debug page: HTML ---------------------------------------------------------------------


def _report_as_html(report: _Report) -> str:
    about = f"phoenix.py {__version__}, Python {sys.version.partition(' ')[0]}, {report.endpoint.env}"
    assigns = {"report": report, "conn": report.conn, "style": Safe(_DEBUG_STYLE), "about": about}
    return str(_debug_template()(assigns, {}))


@functools.lru_cache(None)
def _debug_template() -> Callable[..., Any]:
    return Template(_DEBUG_PAGE, file=_DEBUG_FILE, trim=True).bind(globals())


_DEBUG_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title><%= @report.title %></title>
<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">
<style><%= @style %></style></head>
<body>
<% for relation, error in @report.errors(): %>
<%   name, module = type(error).__name__, type(error).__module__ %>
<%   if relation: %>
<header><h2><small><%= relation %></small> <%= name %></h2>
<%   else: %>
<header class="first"><p class="status"><b><%= @report.status %></b> <%= _phrase_of(str(@report.status)) %></p>
<h1><%= name %> <small>at <%= @conn.method %> <%= @report.text(@conn.request_path) %></small></h1>
<%   end %>
<p class="message"><%= @report.message(error) %></p></header>
<%   if isinstance(error, TemplateSyntaxError): %>
<section><h3><%= _short_name(error.file) %>:<%= error.line %>:<%= error.column %></h3>
<pre class="snippet"><%= @report.text(error.snippet) %></pre></section>
<%   end %>
<%   if @report.routes() and not relation: %>
<%     near = @report.nearest_route() %>
<section class="routes"><h3>Routes
<%     if near and not getattr(error, "allowed", None): %>
<small>Did you mean <code><%= near.verb %> <%= near.path %></code>?</small>
<%     end %>
</h3>
<table><tr><th>Helper</th><th>Verb</th><th>Path</th><th>Action</th></tr>
<%     for route in @report.routes()[:_MOST_ROUTES]: %>
<tr class="<%= "near" if route is near else "" %>"><td><%= f"{route.helper}_path" if route.helper else "" %></td>
<td><%= route.shown_verb %></td><td><code><%= route.path %></code></td><td><%= route.label %></td></tr>
<%     end %>
</table></section>
<%   end %>
<%   if groups := @report.groups(error): %>
<section class="trace"><h3>Traceback
<small>of <%= name if module == "builtins" else f"{module}.{name}" %>, latest call first</small></h3>
<%     for is_ours, group in groups: %>
<%       if not is_ours: %>
<details class="group"><summary><%= len(group) %> call<%= "s" if len(group) > 1 else "" %> in
<%= ", ".join({_short_name(place.file): 0 for place in group}) %></summary>
<%       end %>
<%       for place in group: %>
<details class="<%= "ours" if is_ours else "theirs" %>"<%= " open" if place.is_open else "" %>>
<summary><i><%= "app" if is_ours else "lib" %></i> <code><%= place.function %></code>
<a<% if link := place.link(): %> href="<%= link %>"<% end %> title="<%= place.file %>">
<%= _short_name(place.file) %>:<%= place.line %></a></summary>
<%         if lines := @report.source(place): %>
<pre class="source"><% for number, before, marked, after in lines: %><span class="<%=
"failed" if number == place.line else "" %>"><b><%= f"{number:>4}" %></b> <%= before %><%
if marked: %><mark><%= marked %></mark><% end %><%= after %>
</span><% end %></pre>
<%         else: %>
<p>The source is not available.</p>
<%         end %>
</details>
<%       end %>
<%       if not is_ours: %>
</details>
<%       end %>
<%     end %>
</section>
<%   end %>
<% end %>
<section class="request">
<% for title, rows in @report.sections(): %>
<%   if rows: %>
<details open><summary><%= title %></summary><table>
<%     for name, value in rows: %>
<tr><th><%= name %></th><td><%= value %></td></tr>
<%     end %>
</table></details>
<%   else: %>
<details><summary><%= title %> <small>none</small></summary></details>
<%   end %>
<% end %>
</section>
<footer><details><summary>The same as text, to copy</summary><pre><%= _report_as_markdown(@report) %></pre></details>
<p><%= @about %>. Users see the error view: this page is for <code>debug_errors</code>, on in dev.</p></footer>
</body></html>
"""


_DEBUG_STYLE = """
:root { color-scheme: light dark; --page: #f6f5f3; --card: #fff; --ink: #23252b; --dim: #6b6f7a; --line: #e2e0dc;
  --red: #c8362a; --glow: #fdece9; --mark: #f7c3bb; --link: #1f5fbf }
@media (prefers-color-scheme: dark) {
  :root { --page: #16171b; --card: #1e2026; --ink: #e4e5ea; --dim: #9297a5; --line: #32353e;
    --red: #ff7a6b; --glow: #3a2122; --mark: #7a2f2b; --link: #8db8ff } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 0 1.5rem 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
code, pre, td, .message { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: 13px }
header { margin-top: 2rem; padding: 1rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--red); border-radius: 6px }
header.first { border-left-width: 8px }
h1, h2 { margin: 0; font-size: 1.7rem; line-height: 1.3; overflow-wrap: anywhere }
h2 { font-size: 1.25rem } h3 { margin: 1.75rem 0 .5rem; font-size: 1rem }
small { color: var(--dim); font-weight: normal; font-size: .75em } h3 small { font-size: .9em }
.status { margin: 0; color: var(--dim) } .status b { color: var(--red) }
.message { margin: .5rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 14px }
pre { margin: 0; overflow-x: auto } .snippet { padding: .75rem 1.25rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px }
details { background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0 }
summary { padding: .4rem .8rem; cursor: pointer; overflow-wrap: anywhere }
summary i { display: inline-block; width: 2.2rem; font-style: normal; font-size: 11px; color: var(--dim) }
.ours > summary i { color: var(--red); font-weight: bold } .ours > summary code { font-weight: bold }
.group > summary { color: var(--dim) } .group > details { margin: 0; border-width: 1px 0 0; border-radius: 0 }
a[href] { color: var(--link) } .trace a { text-decoration: none }
.source { border-top: 1px solid var(--line); padding: .4rem 0; line-height: 1.6 }
.source span { display: block; padding-right: 1rem; min-width: max-content }
.source b { color: var(--dim); font-weight: normal; user-select: none; padding: 0 .4rem }
.failed { background: var(--glow); box-shadow: inset 3px 0 var(--red) }
.source .failed b { color: var(--red); font-weight: bold }
mark { background: var(--mark); color: inherit; border-radius: 2px }
table { width: 100%; border-collapse: collapse } th { font-weight: 600; font-size: 13px }
th, td { padding: .25rem .8rem; border-top: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; white-space: pre-wrap }
.request th { width: 14rem } .request { margin-top: 1.75rem } .request summary { font-weight: 600 }
.trace p { margin: 0; padding: .25rem .8rem; color: var(--dim) }
.routes { overflow-x: auto } .routes table { background: var(--card); border: 1px solid var(--line) }
.near { background: var(--glow) }
footer { margin-top: 1.75rem; color: var(--dim) } footer pre { padding: .8rem; white-space: pre-wrap; user-select: all }
"""


# --- Children -----------------------------------------------------------------------------


_MOST_CRASHES = 5  # of one child ...
_CRASH_WINDOW = 10  # ... in so many seconds


class _Children:
    """What runs beside a server: started in order, started again after a crash, stopped in reverse.

    A child is an ``async def`` without arguments; a plain function, which gets a thread of its own; or an object with
    ``start()`` and ``stop()``, each of them ``async def`` or plain. Each is started when the one before it has been:
    for an object that is when ``start()`` has returned, for a function when it has begun to run.

    A function that crashes is called again, after a pause that grows. When it does that too often, *give_up* is called.
    A function that returns is done. To stop, an ``async def`` is cancelled; a plain function is told by the
    ``threading.Event`` that it was called with, if it takes an argument. Each has *patience* seconds for it.
    """

    def __init__(self, children: Sequence[Any], server: Server, give_up: Callable[[], object]) -> None:
        self._children, self._server, self._give_up = children, server, give_up
        self._started: list[tuple[str, Callable[[], Any]]] = []  # names, and how each of them is stopped
        self._stopping = False

    async def start(self) -> None:
        """Start them all. Raises ``PhoenixError`` when the ``start()`` of one raises."""
        import asyncio
        import threading

        for child in self._children:
            if _has_start_and_stop(child):
                try:
                    await self._call(child.start)
                except Exception as error:
                    raise PhoenixError(f"the child {_name_of(child)} could not be started: {error}") from error
                self._started.append((_name_of(child), functools.partial(self._call, child.stop)))
                continue
            stop = threading.Event() if _takes_stop(child) else None
            task = self._server.loop.create_task(self._supervise(child, stop))
            self._started.append((_name_of(child), functools.partial(_end_child, task, stop)))
            await asyncio.sleep(0)  # it begins to run

    async def _call(self, call: Callable[[], Any]) -> None:
        """Call a method of a child that is an object where it belongs: on the loop, or in a worker thread."""
        result = await self._server.workers.run(self._server.loop, call) if _where_it_runs(call) == _WORKER else call()
        if hasattr(result, "__await__"):
            await result

    async def _supervise(self, child: Callable[..., Any], stop: Any) -> None:
        import asyncio

        loop = self._server.loop
        call = child if stop is None else functools.partial(child, stop)
        in_thread = _where_it_runs(child) == _WORKER
        crashes: list[float] = []
        while True:
            try:
                await (_in_own_thread(loop, call) if in_thread else call())
                return
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                is_ours = sys.version_info < (3, 11) and isinstance(error, asyncio.CancelledError)
                if self._stopping or is_ours or _is_cancelled(error):
                    if isinstance(error, Exception):
                        logger.exception("the child %s raised an error when it was stopped", _name_of(child))
                    elif not self._stopping:  # in Python 3.10 it may have come from what the child waited for
                        logger.error("the child %s was cancelled, and does not run any more", _name_of(child))
                    return
                crashes = [*(at for at in crashes if loop.time() - at < _CRASH_WINDOW), loop.time()]
                logger.error("the child %s crashed", _name_of(child), exc_info=error)
            if len(crashes) > _MOST_CRASHES:
                logger.critical(
                    "the child %s crashed %d times in %d s: the endpoint stops (%s)",
                    _name_of(child), len(crashes), _CRASH_WINDOW, ", ".join(self._server.urls),
                )  # fmt: skip
                self._give_up()
                return
            await asyncio.sleep(min(0.05 * 2 ** len(crashes), 2))
            if self._stopping:
                return

    async def stop(self, patience: float) -> None:
        """Stop those that were started, the last one first."""
        import asyncio

        self._stopping = True
        while self._started:
            name, stop = self._started.pop()
            try:
                await asyncio.wait_for(stop(), patience)
            except asyncio.TimeoutError:
                logger.error("the child %s did not stop within %s s", name, patience)
            except Exception:
                logger.exception("the child %s raised an error when it was stopped", name)


def _has_start_and_stop(child: Any) -> bool:
    return not isinstance(child, type) and hasattr(child, "start") and hasattr(child, "stop")


def _takes_stop(child: Any) -> bool:
    """Tell whether a child is a plain function that takes the event by which it is told to stop."""
    from inspect import signature

    return _where_it_runs(child) == _WORKER and bool(signature(child).parameters)


def _check_child(child: Any) -> None:
    """Raise ``ConfigError`` for what is no child: it would crash when the server starts."""
    from inspect import signature

    if _has_start_and_stop(child):
        return
    expected = "expected a function without arguments, or an object with start() and stop()"
    if isinstance(child, type) or not callable(child):
        hint = f": write {child.__name__}(...)" if isinstance(child, type) else ""
        raise ConfigError(f"children=[{child!r}]: {expected}{hint}")
    try:
        signature(child).bind(*[None] * _takes_stop(child))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"children=[{_name_of(child)}]: {error}; {expected}. A plain function may take one argument, a"
            " threading.Event that is set when it shall stop."
        ) from None


async def _end_child(task: Any, stop: Any) -> None:
    """End the *task* that supervises a child: tell its thread by the event *stop*, or cancel it."""
    import asyncio

    task.cancel() if stop is None else stop.set()
    await asyncio.wait([task])


def _in_own_thread(loop: Any, call: Callable[[], Any]) -> Any:
    """Run *call* in a new thread; return a future of what it returns."""
    workers = _Workers(1, _name_of(call))
    future = workers.run(loop, call)
    workers.end()
    return future


# --- Blocked loops ------------------------------------------------------------------------

_TOO_LONG = 0.1  # seconds that code on the event loop may take before the developer hears of it
_TICK = 0.025  # seconds from one note of the time, which the loop takes, to the next


class _Watchdog:
    """In dev: a thread that sees when the loop is late, and which code of the application keeps it from all others."""

    def __init__(self, loop: Any) -> None:
        from threading import Event, Thread

        self._loop, self._thread, self._stopped = loop, _get_ident(), Event()
        self._note_time()
        Thread(target=self._watch, name="phoenix-watchdog", daemon=True).start()

    def _note_time(self) -> None:
        self._noted = time.monotonic()
        self._timer = self._loop.call_later(_TICK, self._note_time)

    def stop(self) -> None:
        self._stopped.set()
        self._timer.cancel()

    def _watch(self) -> None:
        found: tuple[str, str] | None = None
        since = 0.0
        while not self._stopped.wait(_TICK):
            if found and self._noted != since:
                took = _took(self._noted - since - _TICK)
                logger.warning("%s blocked the event loop for %s: %s", found[0], took, found[1])
                found = None
            if not found and time.monotonic() - self._noted > _TOO_LONG + _TICK:
                since, found = self._noted, _blocking_code(sys._current_frames().get(self._thread))


def _blocking_code(frame: types.FrameType | None) -> tuple[str, str] | None:
    """Return which code of the application *frame* belongs to, and words about it; ``None`` if to none."""
    own: list[types.FrameType] = []
    outside = ("asyncio.base_events", "asyncio.runners", "bdb")
    while frame is not None and frame.f_globals.get("__name__") not in outside:
        if _is_of_app(frame.f_code.co_filename):
            own.append(frame)
        frame = frame.f_back
    if not own or own[-1].f_code.co_name == "<module>":  # that is being imported
        return None
    from linecache import getline

    file, line = own[0].f_code.co_filename, own[0].f_lineno
    return _code_name(own[-1]), (
        f"nobody else was served meanwhile. It was at\n  {_short_name(file)}:{line}: {getline(file, line).strip()}\n"
        "Make it a plain `def`, which runs in a thread, or await something that does not block."
    )


def _code_name(frame: types.FrameType) -> str:
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)  # from Python 3.11 on
    if name == code.co_name and "self" in code.co_varnames[:1]:
        name = f"{type(frame.f_locals.get('self')).__qualname__}.{name}"
    return f"{frame.f_globals.get('__name__')}.{name}"


# --- Doors --------------------------------------------------------------------------------
#
# An app can be served by other people's servers, which speak ASGI or WSGI. A door makes a conn of what they bring,
# with an adapter that takes the body in and the response out; whatever lies between is the same as ever. What else
# a request needs (the loop, worker threads, a clock, the children) is lent by a `Server` that does not listen.
#
# Sources: ASGI 3.0 with its HTTP, WebSocket and lifespan protocols; PEP 3333.

_NO_WEBSOCKET = (
    "WebSockets do not come through this door. Serve the app with its own server (`app.run()`, `phoenix.py server`,"
    " `gunicorn -k phoenix.GunicornWorker app:app`) or with an ASGI server that speaks them (`uvicorn app:app` does when the package"
    " websockets is installed).\n"
)
_NO_LONG_POLL = (
    "A client that polls needs one process with several threads, and this WSGI server has others: write `wsgi ="
    " app.wsgi` in app.py and serve the app with `gunicorn --threads 8 app:wsgi`, or with its own server (`app.run()`).\n"
)


def _conn_at_door(
    endpoint: Endpoint, adapter: Adapter, method: str, root: str, path: str, query: str,
    fields: dict[str, list[str]], scheme: str, server: tuple[str, Any], client: str,
) -> Conn:
    """Make a conn of what a server says; the header Host goes before the name and port of the *server* itself."""
    hosts = fields.get("host", [""])
    if len(hosts) > 1:
        raise HTTPProtocolError(400, "there are two Host headers")
    host, port = _parse_host(hosts[0] or "localhost")
    if not hosts[0] and str(server[1]).isdecimal():  # it is no number where the server has a Unix socket
        host, port = server[0], int(server[1])
    port = port or (443 if scheme == "https" else 80)
    conn = Conn(method, path, query, fields, scheme, host, port, client, adapter, endpoint)
    conn.script_name = [segment for segment in root.split("/") if segment]
    return conn


_is_target = re.compile(r'[!"$-~]+').fullmatch  # as in chapter 13: other servers may let more pass, to the log too


def _below(root: str, path: str) -> str:
    """Return what is left of *path* below *root*, where the app is mounted."""
    return path[len(root) :] or "/" if root and (path + "/").startswith(root + "/") else path


def _header_pairs(conn: Any) -> list[tuple[str, str]]:
    """Return the headers of a response but for those that servers write."""
    pairs = [
        (name, value) for name, values in conn._resp_headers.items() if name not in _OF_THE_SERVER for value in values
    ]
    cookies = conn._resp_cookies or {}
    return pairs + [("set-cookie", f"{name}={value}{attributes}") for name, (value, attributes) in cookies.items()]


def _bytes_of(body: Any) -> bytes:
    return body if isinstance(body, bytes) else body.encode("utf-8", "replace")


# --- Doors: ASGI --------------------------------------------------------------------------


async def _live(endpoint: Endpoint, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Start and stop the children when the ASGI server does (the lifespan protocol)."""
    await receive()
    try:
        await endpoint._behind_door()
    except Exception as error:  # noqa: BLE001 - the server says so, and ends
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if endpoint.server is not None:  # another than then, where one gave up and a request started the next
        await endpoint.server.stop()
    await send({"type": "lifespan.shutdown.complete"})


def _conn_of_scope(endpoint: Endpoint, scope: Mapping[str, Any], adapter: Adapter) -> Conn:
    fields: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        fields.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    if scope["type"] == "websocket":  # as it is over HTTP/1.1; what is compressed is the business of the server
        fields = {**fields, **_HANDSHAKE}
        fields.pop("sec-websocket-extensions", None)
        if scope.get("subprotocols"):
            fields["sec-websocket-protocol"] = [", ".join(scope["subprotocols"])]
    root = quote(scope.get("root_path", "")).rstrip("/")
    raw = (scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    return _conn_at_door(
        endpoint, adapter, scope.get("method", "GET"), root, _below(root, raw if _is_target(raw) else quote(scope["path"])),
        scope["query_string"].decode("latin-1"), fields, _SCHEMES[scope.get("scheme", "http")],
        scope.get("server") or ("localhost", 0), (scope.get("client") or ("",))[0],
    )  # fmt: skip


_HANDSHAKE = {
    "upgrade": ["websocket"], "connection": ["Upgrade"], "sec-websocket-version": ["13"],
    "sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ=="],
}  # fmt: skip
_OF_HANDSHAKE = ("upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol")  # what the server answers


class _Outbox:
    """Messages for an ASGI server, handed over one after the other while others are added; *size* counts bytes."""

    def __init__(self, loop: Any, send: Callable[[Any], Any]) -> None:
        from collections import deque

        self.loop, self.send = loop, send
        self.waiting: deque[tuple[dict[str, Any], int]] = deque()
        self.size = 0
        self.task: Any = None
        self.closed = False  # the client is gone

    def put(self, message: dict[str, Any], size: int = 0) -> None:
        self.size += size
        self.waiting.append((message, size))
        if self.task is None:
            self.task = self.loop.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        try:
            while self.waiting and not self.closed:
                message, size = self.waiting.popleft()
                await self.send(message)
                self.size -= size
        except Exception:  # noqa: BLE001 - servers have no common word for it
            self.closed = True
        finally:
            self.task = None

    async def flush(self, most: int = 0) -> None:
        """Wait, if over *most* bytes are waiting, until all are handed over."""
        import asyncio

        while self.task is not None and self.size >= most:
            await asyncio.wait([self.task])


class _ASGIConnection(_LoopAdapter):
    """The far side of a conn that came by ASGI."""

    __slots__ = (
        "conn", "receive", "outbox", "kind", "is_head", "may_have_body", "ended", "task", "watcher",
        "why_no_websocket",
    )  # fmt: skip

    def __init__(
        self, server: Server, scope: Mapping[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]
    ) -> None:
        self.server = server
        self.conn: Any = None
        is_websocket = scope["type"] == "websocket"
        self.why_no_websocket = "" if is_websocket else _NO_WEBSOCKET  # one that its server took for something else
        self.receive = receive
        self.outbox = _Outbox(server.loop, send)
        self.kind = "http.response"  # so the types of messages begin; "" where nothing but a close can be answered
        if is_websocket:
            extensions = scope.get("extensions") or {}
            self.kind = "websocket.http.response" if "websocket.http.response" in extensions else ""
        self.is_head = scope.get("method") == "HEAD"
        # HTTP/2 has no need to announce a body, which ends with its stream.
        self.may_have_body = scope.get("http_version", "1.1") >= "2" and scope.get("method") not in ("GET", "HEAD")
        self.ended = False  # the whole body has come
        self.task: Any = None  # what answers, when that takes longer
        self.watcher: Any = None  # waits for the client to go away meanwhile

    @property
    def closed(self) -> bool:
        return self.outbox.closed

    async def answer(self, conn: Any) -> None:
        import asyncio

        self.conn = conn
        announced = {"content-length", "transfer-encoding"} & conn._req_headers.keys()
        self.ended = self.kind != "http.response" or not (announced or self.may_have_body)
        answered = conn.endpoint.dispatch(conn)
        try:
            if isinstance(answered, BaseConn) and conn.state in ("sent", "file"):
                await self._respond(conn)
                return
            self.task = self.server.create_task(self._carry_on(answered))
            self._watch()
            await self.task
        except ClientDisconnected:
            _log_early_end(conn, self.server)
        except asyncio.CancelledError:
            if not self.closed:
                raise
            _log_early_end(conn, self.server)
        finally:
            if self.watcher is not None:
                self.watcher.cancel()
            if conn._after:
                _clean_up(conn)

    async def refuse(self, error: HTTPProtocolError) -> None:
        """Answer what is no request."""
        if self.kind != "http.response":
            await self._send({"type": "websocket.close"})
            return
        headers = [(b"content-type", _TEXT_PLAIN[0].encode())]
        await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send(self._part(_refusal(error), False))

    async def _carry_on(self, answered: Any) -> None:
        await self._respond(answered if isinstance(answered, BaseConn) else await answered)

    def _watch(self) -> None:
        """Notice, once the body has come, when the client goes away before it was answered."""
        if self.ended and self.kind == "http.response" and self.watcher is None and not self.task.done():
            self.watcher = self.server.loop.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.outbox.closed = True
        if not self.conn._in_worker:
            self.task.cancel()

    # --- The body -----------------------------------------------------------------------------

    def whole_body(self, conn: Any) -> bytes | None:
        return b"" if self.ended else None

    async def read(self, conn: Any) -> bytes:
        while not self.ended:
            message = await self.receive()
            if message["type"] != "http.request":
                self.outbox.closed = True
                raise ClientDisconnected("the client ended in the middle of the body")
            self.ended = not message.get("more_body", False)
            if self.ended and self.task is not None:
                self._watch()
            if message.get("body"):
                return message["body"]  # type: ignore[no-any-return]
        return b""

    # --- The response -------------------------------------------------------------------------

    def _head(self, conn: Any, length: int | None = None) -> dict[str, Any]:
        headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in _header_pairs(conn)]
        if length is not None and conn.status not in _WITHOUT_BODY:
            headers.append((b"content-length", b"%d" % length))
        return {"type": f"{self.kind}.start", "status": conn.status, "headers": headers}

    def _part(self, data: bytes, more: bool = True) -> dict[str, Any]:
        return {"type": f"{self.kind}.body", "body": data, "more_body": more}

    def _has_body(self, conn: Any) -> bool:
        return not self.is_head and conn.status not in _WITHOUT_BODY

    async def _respond(self, conn: Any) -> None:
        if conn.state == "upgraded":
            await _ASGIWire(self, conn.resp_body).run(conn)
        elif not self.kind:
            await self._send({"type": "websocket.close"})
        elif conn.state == "sent":
            body = _bytes_of(conn.resp_body)
            await self._send(self._head(conn, len(body)))
            await self._send(self._part(body if self._has_body(conn) else b"", False))
        elif conn.state == "file":
            await self._send_file(conn, conn.resp_body)
        elif conn.state == "chunked":
            if conn.resp_body is not None:
                await self._send_parts(conn, conn.resp_body)
            else:
                self._end_chunked(conn)
            await self.outbox.flush()
        else:
            raise PhoenixError("the response broke off; the error is in the log")  # so that the server closes

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self.outbox.send(message)
        except OSError:  # what ASGI has servers raise when the client is gone
            self.outbox.closed = True
            raise ClientDisconnected from None

    async def _send_file(self, conn: Any, file: Any) -> None:
        with open(file.path, "rb", buffering=0) as stream:
            stream.seek(file.offset)
            await self._send(self._head(conn, file.length))
            for part in _parts_of_file(stream, file.length if self._has_body(conn) else 0):
                if self.closed:
                    break
                await self._send(self._part(part))
        await self._send(self._part(b"", False))

    def _start_chunked(self, conn: Any) -> None:
        self.outbox.put(self._head(conn))

    def _write_chunk(self, conn: Any, data: bytes) -> None:
        if self.closed:
            raise ClientDisconnected
        if self._has_body(conn):
            self.outbox.put(self._part(data), len(data))

    def _end_chunked(self, conn: Any) -> None:
        self.outbox.put(self._part(b"", False))

    def _set_beat(self, conn: Any, data: bytes, seconds: float) -> None:
        self.server.loop.call_later(seconds, self._beat, conn, data, seconds)

    def _beat(self, conn: Any, data: bytes, seconds: float) -> None:
        if not self.closed and not self.task.done():
            self._write_chunk(conn, data)
            self._set_beat(conn, data, seconds)

    async def drain(self, conn: Any) -> None:
        await self.outbox.flush(_READ_AHEAD)
        if self.closed:
            raise ClientDisconnected


class _ASGIWire(_Wire):
    """The wire of a WebSocket that an ASGI server speaks: frames, pings and compression are its business."""

    owed_close = None

    def __init__(self, connection: _ASGIConnection, upgraded: Any) -> None:
        super().__init__(connection.server, upgraded.handler, upgraded.idle)
        self.receive, self.outbox = connection.receive, connection.outbox
        self.max_size, self.handshake = upgraded.max_size, upgraded.handshake
        self.resumed: Any = None  # a future, while reading is paused
        self.over = self.loop.create_future()  # done when there will be no more messages
        self.all_done = self.loop.create_future()  # ... and the last callback has ended

    @staticmethod
    def encode(message: Any) -> str | bytes:
        return message if isinstance(message, str) else bytes(message)

    encode_own = encode

    async def run(self, conn: Any) -> None:
        import asyncio

        handshake = self.handshake
        pairs = [pair for pair in _header_pairs(conn) if pair[0] == "set-cookie"]
        pairs += [pair for pair in handshake.headers if pair[0] not in _OF_HANDSHAKE]
        headers = [(name.encode(), value.encode("latin-1")) for name, value in pairs]
        await self.outbox.send({"type": "websocket.accept", "subprotocol": handshake.subprotocol, "headers": headers})
        self.server.connections.add(self)
        self.handler.opened(self)
        reader = self.loop.create_task(self._read())
        try:
            await asyncio.wait([self.over, reader], return_when=asyncio.FIRST_COMPLETED)  # which does not cancel them
            if not self.over.done():
                reader.result()  # raises what made it end
            await self.outbox.flush()
            reader.cancel()
            if self.kept:
                await asyncio.wait([self.all_done])
        finally:
            reader.cancel()
            self._end(1006)
            self._leave_server()

    async def _read(self) -> None:
        import asyncio

        while not self.over.done():
            message = await self.receive()
            if message["type"] == "websocket.disconnect":
                self._end(message.get("code") or 1005)
                return
            data = message.get("text")
            self._received(message.get("bytes") if data is None else data)
            await asyncio.sleep(0)  # granian 2.8 cannot close while it is asked for more: let an answer be that first
            if self.resumed is not None:
                await self.resumed
                self.resumed = None

    def _received(self, data: Any) -> None:
        self.deadline = self.server.now + self.idle
        if self.over.done():
            return
        most = self.max_size
        if len(data) > most or isinstance(data, str) and len(data) * 4 > most and len(data.encode()) > most:
            self.close(1009, "message too big")
            return
        try:
            self.handler.received(data)
        except Exception:
            logger.exception("handling a WebSocket message raised an error")
            self.close(1011, "internal error")

    def _end(self, code: int) -> None:
        if self.over.done():
            return
        self.over.set_result(None)
        self.lost, self.deadline = True, _NEVER
        self.resume_reading()
        self.handler.ended("closed", code)

    # --- What the server calls ----------------------------------------------------------------

    def timed_out(self) -> None:
        self.close(1001, "idle")

    def abort(self) -> None:
        self._end(1006)

    # --- What handlers call -------------------------------------------------------------------

    @property
    def writing_paused(self) -> bool:
        return self.outbox.size > _READ_AHEAD

    def write(self, message: str | bytes) -> None:
        if self.over.done():
            return
        kind = "text" if isinstance(message, str) else "bytes"
        self.outbox.put({"type": "websocket.send", kind: message}, len(message))
        if self.handler.cuts_slow_readers and self.outbox.size > _MAX_UNSENT:
            logger.warning("a client did not keep up: %d bytes waited for it, it is cut off", self.outbox.size)
            self.outbox.waiting.clear()
            self.cut_off()

    async def drain(self) -> None:
        await self.outbox.flush(_READ_AHEAD)
        if self.over.done():
            raise ClientDisconnected

    def ping(self, payload: bytes) -> None:
        """ASGI has no pings: the server sends them as it is told to."""

    def close(self, code: int, reason: str) -> None:
        if not self.over.done():
            _serialize_close(code, reason)  # raises for a code that may not be sent
            self.outbox.put({"type": "websocket.close", "code": code, "reason": reason})
            self._end(code)

    def pause_reading(self) -> None:
        if self.resumed is None and not self.over.done():
            self.resumed = self.loop.create_future()

    def resume_reading(self) -> None:
        if self.resumed is not None:
            _wake(self.resumed)

    def _leave_server(self) -> None:
        super()._leave_server()
        if self.lost and not self.kept:
            _wake(self.all_done)


# --- Doors: WSGI --------------------------------------------------------------------------
#
# Plain functions run in the thread in which the WSGI server calls the app, and so do the generators of responses.
# An `async def` runs on the one event loop of the process, which a thread beside keeps going from request to request:
# connections to a database, tasks and channels belong to a loop, and would not outlive one that each request had for
# itself. While the server's thread waits for it, it does what the loop has for worker threads.


def _serve_beside(endpoint: Endpoint) -> Server:
    """Start a server that does not listen, on a loop in a thread of its own."""
    import asyncio
    import atexit
    import threading
    from concurrent.futures import Future

    _set_up_logging(endpoint)
    started: Future[Server] = Future()

    async def live() -> None:
        server = endpoint.make_server()
        try:
            await server.start(listen=False)
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for the server
            started.set_exception(error)
            return
        started.set_result(server)
        await server.ended

    threading.Thread(target=lambda: asyncio.run(live()), name="phoenix-loop", daemon=True).start()
    server = started.result()
    atexit.register(lambda: server.loop.is_closed() or _on_loop_of(server, server.stop()).result())
    return server


def _on_loop_of(server: Server, coroutine: Any) -> Any:
    import asyncio

    return asyncio.run_coroutine_threadsafe(coroutine, server.loop)


def _conn_of_environ(endpoint: Endpoint, environ: Mapping[str, Any], adapter: Adapter) -> Conn:
    fields = {key[5:].replace("_", "-").lower(): [value] for key, value in environ.items() if key.startswith("HTTP_")}
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(key):
            fields[key.replace("_", "-").lower()] = [environ[key]]
    root = quote(environ.get("SCRIPT_NAME", "").encode("latin-1")).rstrip("/")
    path = environ.get("PATH_INFO", "").encode("latin-1")
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""  # it tells %2F from a slash
    raw = _below(root, raw.partition("?")[0])
    raw = raw if _is_target(raw) and unquote_to_bytes(raw) == path else quote(path) or "/"
    conn = _conn_at_door(
        endpoint, adapter, environ["REQUEST_METHOD"], root, raw, environ.get("QUERY_STRING", ""), fields,
        environ["wsgi.url_scheme"], (environ["SERVER_NAME"], environ["SERVER_PORT"]), environ.get("REMOTE_ADDR", ""),
    )  # fmt: skip
    conn._in_worker = True
    return conn


class _WSGIConnection(Adapter):
    """The far side of a conn that came by WSGI."""

    __slots__ = (
        "server", "environ", "start_response", "left", "thread", "jobs", "write", "written", "waits_for", "why_no_poll",
    )  # fmt: skip

    why_no_websocket = _NO_WEBSOCKET

    def __init__(self, server: Server, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> None:
        self.server = server
        self.environ, self.start_response = environ, start_response
        length = environ.get("CONTENT_LENGTH")
        if length and not _LENGTH(length):
            raise HTTPProtocolError(400, f"malformed Content-Length: {length[:100]!r}")
        self.left = int(length) if length else None if environ.get("wsgi.input_terminated") else 0  # of the body
        self.thread = _get_ident()
        self.jobs = _Workers(0)  # what is to be done in this thread
        self.write: Any = None
        self.written: Any = None  # a future of what was sent last from the loop
        self.waits_for: Any = None  # the future of what runs on the loop
        threads_of_one_process = environ["wsgi.multithread"] and not environ["wsgi.multiprocess"]
        self.why_no_poll = "" if threads_of_one_process else _NO_LONG_POLL

    def answer(self, conn: Any) -> Iterable[bytes]:
        from concurrent.futures import CancelledError

        try:
            answered = conn.endpoint.dispatch(conn)
            if not isinstance(answered, BaseConn):
                self._wait_for(answered)
            conn._in_worker = True
            parts = self._parts(conn)
        except BaseException as error:
            if conn._after:
                _clean_up(conn)
            if isinstance(error, CancelledError):  # the client is gone
                return ()
            raise
        if conn.state == "sent":
            return list(parts)
        return parts

    def _wait_for(self, coroutine: Any) -> Any:
        """Return what a coroutine on the loop returns; meanwhile do what is to be done in this thread."""
        future = self.waits_for = _on_loop_of(self.server, coroutine)
        future.add_done_callback(lambda _: self.jobs.end())
        self.jobs.work()
        self.waits_for = None
        return future.result()

    async def in_worker(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await self.jobs.run(self.server.loop, call, *arguments)

    # --- The body -----------------------------------------------------------------------------

    def whole_body(self, conn: Any) -> bytes | None:
        if self.left == 0:
            return b""
        return b"".join(conn.body) if self.left is not None and conn._in_worker else None

    async def read(self, conn: Any) -> bytes:
        return await self.in_worker(self._read)  # type: ignore[no-any-return]

    def read_blocking(self, conn: Any) -> bytes:
        if _get_ident() != self.thread:
            raise PhoenixError(_WOULD_BLOCK)
        return self._read()

    def _read(self) -> bytes:
        size = _READ_AHEAD if self.left is None else min(self.left, _READ_AHEAD)
        data: bytes = self.environ["wsgi.input"].read(size) if size else b""
        if self.left is not None:
            if size and not data:
                raise ClientDisconnected("the client ended in the middle of the body")
            self.left -= len(data)
        return data

    # --- The response -------------------------------------------------------------------------

    def _start(self, conn: Any, length: int | None = None) -> None:
        headers = _header_pairs(conn)
        if length is not None and conn.status not in _WITHOUT_BODY:
            headers.append(("content-length", str(length)))
        phrase = reason_phrase(conn.status) if conn.status in _STATUS_NAMES else ""
        self.write = self.start_response(f"{conn.status} {phrase}", headers)

    def _parts(self, conn: Any) -> Iterator[bytes]:
        """Return the parts of a response whose head is sent now."""
        state, body = conn.state, conn.resp_body
        has_body = self.environ["REQUEST_METHOD"] != "HEAD" and conn.status not in _WITHOUT_BODY
        if state == "sent":
            body = _bytes_of(body)
            self._start(conn, len(body))
            parts: Any = (body,)
        elif state == "file":
            stream = open(body.path, "rb", buffering=0)
            stream.seek(body.offset)
            parts = _parts_of_file(stream, body.length)
            self._start(conn, body.length)
        elif state == "chunked":
            parts = ()
            if body is not None:
                self._start(conn)
                parts = self._taken(body) if hasattr(body, "__aiter__") else body
        else:
            raise PhoenixError("the response broke off; the error is in the log")  # so that the server closes
        return self._sent(conn, parts, has_body)

    def _sent(self, conn: Any, parts: Any, has_body: bool) -> Iterator[bytes]:
        try:
            for part in parts if has_body else ():
                if part:
                    yield part.encode() if isinstance(part, str) else part
        finally:
            if hasattr(parts, "close"):
                parts.close()
            if conn._after:
                _clean_up(conn)

    def _taken(self, parts: Any) -> Iterator[str | bytes]:
        """Take the parts of an async generator, which runs on the loop."""

        async def next_part() -> Any:
            return await anext(parts, None)

        try:
            while (part := self._wait_for(next_part())) is not None:
                yield part
        finally:
            if hasattr(parts, "aclose"):
                self._wait_for(parts.aclose())

    def start_chunked(self, conn: Any) -> None:
        self._here(self._start, conn)

    def send_chunk(self, conn: Any, data: bytes) -> None:
        if self.environ["REQUEST_METHOD"] != "HEAD":
            self._here(self._write, data)

    def _write(self, data: bytes) -> None:
        try:
            self.write(data)
        except OSError:
            raise ClientDisconnected from None

    def _here(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Call in the thread of the WSGI server."""
        if _get_ident() == self.thread:
            call(*arguments)
        else:
            self.written = self.jobs.run(self.server.loop, call, *arguments)
            self.written.add_done_callback(self._was_written)

    def _was_written(self, written: Any) -> None:
        if written.exception() is not None and self.waits_for is not None:
            self.waits_for.cancel()  # nobody is there to read it

    def beat(self, conn: Any, data: bytes, seconds: float) -> None:
        loop = self.server.loop

        def send() -> None:
            if self.waits_for is not None:  # a plain function keeps the thread to itself
                self.send_chunk(conn, data)
                loop.call_later(seconds, send)

        loop.call_soon_threadsafe(loop.call_later, seconds, send)

    async def drain(self, conn: Any) -> None:
        if self.written is not None:
            await self.written


# --- Guests -------------------------------------------------------------------------------
#
# The other way round: an ASGI application that a route forwards to, and that speaks WebSocket.


class _GuestWebSocket:
    """A WebSocket of ours, in front of an ASGI application, which decides whether it opens."""

    def __init__(self, app: Callable[..., Any], scope: Mapping[str, Any]) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        self.is_connecting = True
        self.answer = loop.create_future()  # what the application answers the handshake with
        self.opened = loop.create_future()  # the WebSocket, when it is open
        self.body: list[bytes] = []  # of a refusal
        self.task = loop.create_task(app(scope, self.receive, self.send))
        self.task.add_done_callback(lambda _: _resolve(self.answer))

    async def open(self, conn: Any) -> Any:
        """Return the conn, upgraded or with the refusal."""
        refusal = _OF_GUESTS.check(conn)
        if refusal is not None:
            self.task.cancel()
            return refusal
        conn._after = [*(conn._after or ()), self._end]
        try:
            answer = await self.answer
        except BaseException:  # the client is gone
            self.task.cancel()
            raise
        if answer is None:
            self.task.result()  # raises what the application did
        elif answer["type"] == "websocket.accept":
            handshake, subprotocol = conn.private["phoenix_handshake"], answer.get("subprotocol")
            handshake.subprotocol = subprotocol
            pairs = [("sec-websocket-protocol", subprotocol)] if subprotocol else []
            pairs += [each for each in _latin1_pairs(answer.get("headers", ())) if each[0].lower() not in _OF_HANDSHAKE]
            handshake.headers += [(_header_name(name), _header_value(name, value)) for name, value in pairs]
            return _OF_GUESTS.accept(conn, WebSocket(conn, self.serve, subprotocol))
        elif answer["type"] == "websocket.http.response.start":
            await self.task
            _put_guest_headers(conn, _latin1_pairs(answer.get("headers", ())))
            return conn.send_resp(answer["status"], b"".join(self.body))
        return conn.send_resp(403, "")

    def _end(self) -> None:
        """Tell an application that still waits for the WebSocket that there will be none."""
        if not self.opened.done():
            self.opened.set_exception(ClientDisconnected())
            self.opened.exception()  # else asyncio says that nobody has asked

    async def serve(self, ws: WebSocket) -> None:
        self.opened.set_result(ws)
        await self.task

    async def receive(self) -> dict[str, Any]:
        if self.is_connecting:
            self.is_connecting = False
            return {"type": "websocket.connect"}
        ws = None
        try:
            ws = await self.opened
            message = await ws.receive()
        except ClientDisconnected:
            return {"type": "websocket.disconnect", "code": ws.close_code if ws else 1006, "reason": ""}
        return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}

    async def send(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.http.response.body":
            self.body.append(message.get("body", b""))
        elif not self.answer.done():
            self.answer.set_result(message)
        else:
            data = message.get("text")
            try:
                ws = await self.opened
                if kind == "websocket.send":
                    await ws.send(message["bytes"] if data is None else data)
                elif kind == "websocket.close":
                    await ws.close(message.get("code", 1000), message.get("reason") or "")
            except ClientDisconnected:
                raise _GuestHearsNobody from None


_OF_GUESTS = _Upgrade({"origins": False, "ping_interval": 30}, (), "")  # who may connect is the application's business


# --- Options ------------------------------------------------------------------------------
#
# An option is set in one of four places. Where two set it, the later one counts, and of dicts
# each key by itself:
#
#     defaults -> keywords in the code -> config/config.py -> config/dev.py, test.py or prod.py
#
# So the code says what the app is made for, and a file what is different where it runs. In all
# of these places a name that does not exist is answered with the nearest that does.
#
# Sources: Mix.Config, Phoenix.Endpoint.

if TYPE_CHECKING:
    _DictOrOff: TypeAlias = Mapping[str, Any] | Literal[False] | None  # False for none

    class _EndpointOptions(TypedDict, total=False):
        url: Mapping[str, Any]  # host, scheme, port, path: what generated URLs begin with
        http: _DictOrOff  # host and port to listen on (PORT, or 4000, unless set); or uds, a Unix socket, and uds_mode
        https: Mapping[str, Any]  # port, keyfile and certfile (PEM), password, host; or context, an ssl.SSLContext
        force_ssl: bool | Mapping[str, Any]  # or hsts, max_age, include_subdomains, preload, host, exclude
        trusted_proxies: Sequence[str]  # addresses and networks of the proxies whose headers are believed
        secret_key_base: str | bytes | Sequence[str | bytes] | None  # at least 64 bytes; or a list, the newest first
        debug_errors: bool | None  # the page for developers; on in dev unless set
        render_errors: View | type[View] | None  # the view of error pages; ErrorView beside the router unless set
        error_statuses: Mapping[type[BaseException], int | str]  # exception class -> status
        session: _DictOrOff  # options of the plug Session
        static: _DictOrOff  # options of the plug Static
        parsers: _DictOrOff  # options of the plug Parsers
        plugs: Sequence[Callable[[Any], Any]]  # further plugs, in front of the router
        log: int | str | Mapping[str, Any] | None  # level of the request log; or requests, level, format
        filter_parameters: Sequence[str] | Mapping[str, Sequence[str]]  # not logged; or {"keep": names}
        template_engines: Mapping[str, Any]  # extension -> engine
        gettext: Mapping[str, Any]  # options of Translations: from_, default, messages
        pubsub: PubSub | None  # a PubSub; one of its own unless set
        children: Sequence[Any]  # run beside the server: functions, async or plain; objects with start() and stop()
        threads: int  # how many plain functions run at the same time
        limits: Mapping[str, int]  # fields of HTTPLimits
        timeouts: Mapping[str, float]  # fields of Timeouts
        code_reloader: bool | None  # run changed code at the next request; on in dev unless set
        live_reload: _DictOrOff  # patterns: of files whose change reloads the pages of browsers, in dev
        settings: Mapping[str, Any]  # what the app itself wants to know, by names of its own
        name: str | None  # what config files and the log call this endpoint; the name of the router unless set
        config: str | Literal[False] | None  # the folder of config files; False for none
        env: str | None  # "dev", "test" or "prod"; PHOENIX_ENV, then MIX_ENV, then dev, unless set


_ENDPOINT_OPTIONS: dict[str, Any] = {  # the defaults
    **dict.fromkeys(("url", "http", "https", "error_statuses", "session", "static", "parsers"), {}),
    **dict.fromkeys(("template_engines", "gettext", "limits", "timeouts", "live_reload", "settings"), {}),
    **dict.fromkeys(("secret_key_base", "debug_errors", "render_errors", "pubsub", "code_reloader"), None),
    **dict.fromkeys(("trusted_proxies", "plugs", "children"), ()),
    "force_ssl": False, "log": logging.INFO, "filter_parameters": ("password", "token"), "threads": 40,
    "name": None, "config": "config", "env": None,
}  # fmt: skip
_PLUG_OPTIONS = ("static", "session", "parsers", "log")  # those of the default plugs
_CAN_BE_OFF = (*_PLUG_OPTIONS, "http", "live_reload", "config")
_ONLY_IN_CODE = ("name", "config", "env")  # they decide what is read from config files
_KEYS = {
    "http": ("host", "port", "uds", "uds_mode"),
    "https": ("host", "port", "keyfile", "certfile", "password", "context"),
    "url": ("host", "scheme", "port", "path"),
}


def _made(name: str, kind: Any, options: Mapping[str, Any]) -> Any:
    """Make what the option *name* describes. Raises ``ConfigError`` for keys and values it cannot have."""
    given = {f"{key}_" if iskeyword(key) else key: value for key, value in options.items()}
    expected = {key: each for key, each in kind.__init__.__annotations__.items() if key != "return"}  # names of types
    _check_keys(name, given, tuple(expected))
    for key, value in given.items():
        is_number, is_list = expected[key] in ("int", "float"), expected[key].startswith("Sequence")
        if is_number and not isinstance(value, (int, float)) or is_list and isinstance(value, str):
            raise ConfigError(f"{key}={value!r} in {name}=...: expected a {'number' if is_number else 'list'}")
    return kind(**given)


def _check_options(given: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for options that do not exist or cannot be meant."""
    for name, value in given.items():
        if name not in _ENDPOINT_OPTIONS:
            hint = _did_you_mean(name, _ENDPOINT_OPTIONS) + f" The options are: {', '.join(_ENDPOINT_OPTIONS)}."
            place = next((place for place, keys in _KEYS.items() if name in keys), None)
            if place is not None:
                hint = f' Write {place}={{"{name}": ...}}'
            raise ConfigError(f"unknown option {name!r} of Endpoint.{hint}")
        default = _ENDPOINT_OPTIONS[name]
        if value is False and name in _CAN_BE_OFF or value is None and (name in _CAN_BE_OFF or default is None):
            continue
        is_one, expected = _EXPECTED.get(name) or _EXPECTED[type(default)]
        if not is_one(value):
            off = ", or False for none" if name in _CAN_BE_OFF else ""
            raise ConfigError(f"{name}={value!r}: expected {expected}{off}")
        try:
            _CHECKS.get(name, bool)(value)
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, PhoenixError):
                raise
            raise ConfigError(f"{name}=...: {error}") from error


def _check_place(name: str, place: Mapping[str, Any]) -> None:
    _check_keys(name, place, _KEYS[name])
    _port_number(name, place.get("port"), 0)
    mode = place.get("uds_mode", 0)
    if not isinstance(mode, int) or not 0 <= mode <= 0o777:
        raise ConfigError(f"{name}={dict(place)!r}: uds_mode takes permissions such as 0o660")
    host = _HOST(str(place.get("host") or "localhost"))
    if name == "url" and (host is None or host[2] is not None or place.get("scheme") not in (None, "http", "https")):
        raise ConfigError(
            f"url={dict(place)!r}: expected the parts of a URL one by one, as in"
            ' {"scheme": "https", "host": "example.com", "port": 8443, "path": "/shop"}'
        )


def _check_statuses(statuses: Mapping[Any, Any]) -> None:
    for kind, status in statuses.items():
        if not (isinstance(kind, type) and issubclass(kind, BaseException)) or _error_status(status) is None:
            raise ConfigError(
                f"error_statuses={{{kind!r}: {status!r}}}: expected a class of exceptions, and a status from 400 to 599"
            )


def _check_filter(words: Any) -> None:
    if isinstance(words, Mapping):
        _check_keys("filter_parameters", words, ("keep",))


def _check_live_reload(options: Mapping[str, Any]) -> None:
    _check_keys("live_reload", options, ("patterns",))
    if isinstance(options.get("patterns", ()), str):
        raise ConfigError(f"live_reload={options!r}: expected a list of patterns such as [\"priv/static/*\"]")


def _made_force_ssl(options: Any) -> Any:
    return _made("force_ssl", _ForceSSL, {} if isinstance(options, bool) else options)


_CHECKS: dict[str, Callable[[Any], object]] = {
    **{name: functools.partial(_check_place, name) for name in _KEYS},
    **{name: functools.partial(_made, name, kind) for name, kind in (
        ("static", Static), ("session", Session), ("parsers", Parsers), ("limits", HTTPLimits), ("timeouts", Timeouts),
        ("gettext", Translations),
    )},
    "force_ssl": _made_force_ssl,
    "live_reload": _check_live_reload,
    "trusted_proxies": _TrustedProxies,
    "error_statuses": _check_statuses,
    "filter_parameters": _check_filter,
    "children": lambda children: list(map(_check_child, children)),
    "log": lambda log: _log_options(log, ""),
    "secret_key_base": _checked_secrets,
}  # fmt: skip


def _is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_EXPECTED: dict[Any, tuple[Callable[[Any], bool], str]] = {  # for an option, or for all with a default of that type
    dict: (_is_a(Mapping), "a dict"),
    tuple: (_is_a(list, tuple), "a list"),
    "filter_parameters": (_is_a(list, tuple, Mapping), "a list"),
    "force_ssl": (_is_a(bool, Mapping), "True, False or a dict"),
    "render_errors": (lambda view: issubclass(view if isinstance(view, type) else type(view), View), "a View"),
    "pubsub": (_is_a(PubSub), "a PubSub"),
    "threads": (lambda threads: isinstance(threads, int) and threads > 0, "a number from 1 on"),
    **dict.fromkeys(("debug_errors", "code_reloader"), (_is_a(bool), "True or False")),
    **dict.fromkeys(("name", "config", "env"), (_is_a(str), "text")),
    **dict.fromkeys(("log", "secret_key_base"), (_is_a(object), "")),  # looked at more closely
}


def _port_number(name: str, port: Any, standard: Any) -> int:
    """Return a port that is given as a number or as text, such as the value of a variable."""
    port = standard if port in (None, "") else port
    try:
        number = int(port)
    except (ValueError, TypeError):
        number = -1
    if not 0 <= number <= 65535:
        raise ConfigError(f"the port of {name} is {port!r}, expected a number from 0 (any that is free) to 65535")
    return number


# --- Config files -------------------------------------------------------------------------


def config(endpoint: str | None = None, /, **options: Unpack[_EndpointOptions]) -> None:
    """Set options, in a file of the folder ``config`` beside the app::

        config(url={"host": "example.com"}, log="info")   # of all endpoints of the app
        config("AdminRouter", http={"port": 4001})        # of the one with this router, or this ``name``

    ``config.py`` is read first, then ``dev.py``, ``test.py`` or ``prod.py``, whichever the environment is. What is
    set for one endpoint goes before what is set for all. Raises ``ConfigError`` for what is no option.
    """
    calls = sys._getframe(1).f_globals.get("__phoenix_config__")
    if calls is None:
        raise ConfigError("config(...) is for the files in the folder config: elsewhere give options to the Endpoint")
    _check_options(options)
    for each in _ONLY_IN_CODE:
        if each in options:
            raise ConfigError(f"{each}=... decides which config files are read: give it to the Endpoint")
    calls.append((endpoint, options, _caller()))


def _run_config_file(file: str) -> list[tuple[str | None, dict[str, Any], str]]:
    """Return what a config file sets: the name of an endpoint or ``None``, options, and where it says so."""
    module: Any = types.ModuleType(file)
    module.__file__, module.__package__, module.__phoenix_config__ = file, "", []
    sys.modules[file] = module  # there its code is found by those who look for changes
    try:
        with open(file, "rb") as stream:
            code = compile(stream.read(), file, "exec", dont_inherit=True)
        exec(code, vars(module))
    except Exception as error:
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else None
        frame = error.__traceback__
        while frame is not None:
            line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == file else line
            frame = frame.tb_next
        kind = "" if isinstance(error, PhoenixError) else f"{type(error).__name__}: "
        hint = "" if kind == "" else "\n(If this file is not meant for phoenix, write Endpoint(..., config=False).)"
        raise ConfigError(f"{file}:{line or 1}: {kind}{_text_of(error)}{hint}") from (error if kind else None)
    return list(module.__phoenix_config__)


def _config_files(module: Any, folder: Any, env: str) -> list[str]:
    """Return the config files for an environment in the *folder* beside *module*, or above it in its package."""
    for place in _app_folders(module) if folder else ():
        place = os.path.join(place, folder)
        files = [os.path.join(place, f"{name}.py") for name in ("config", env)]
        found = list(filter(os.path.isfile, files))
        if found and files[1] not in found and env not in ("dev", "test", "prod"):
            names = sorted(file[:-3] for file in os.listdir(place) if file.endswith(".py") and file != "config.py")
            raise ConfigError(f"there is no {files[1]}, but the environment is {env!r}. There are {', '.join(names)}.")
        if found:
            return found
    if folder and folder != _ENDPOINT_OPTIONS["config"]:
        raise ConfigError(f"config={folder!r}: there is no {folder}/config.py beside the app, and no {folder}/{env}.py")
    return []


def _merged(below: Any, above: Any) -> Any:
    """Return *above*, but dicts with those keys of *below* that they leave out, at any depth."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def _app_folders(module: Any) -> list[str]:
    """Return the folder that *module* lies in, then those above it, up to the one that its package lies in."""
    file, package = getattr(module, "__file__", None), getattr(module, "__package__", None)
    folders = [os.path.dirname(os.path.abspath(file)) if file else os.getcwd()]
    for _ in package.split(".") if file and package else ():
        folders.append(os.path.dirname(folders[-1]))
    return folders


# --- The endpoint -------------------------------------------------------------------------


def _routes_from(router: Any, above: str = "") -> Iterator[tuple[str, Route]]:
    """Yield the routes of *router*, and of those that it forwards to, each with its whole path."""
    for route in getattr(router, "routes", ()):
        path = above + route.path
        yield path, route
        if isinstance(route.plug, _Forward):
            yield from _routes_from(route.plug.router, path.rstrip("/"))


def _concerns_get(step: _Step) -> bool:
    """Tell whether a plug of ours may have something to do when the method is GET, as it mostly is."""
    call = step[2].call
    return call not in (method_override, head_as_get) and not isinstance(call, Parsers)


def _fetches_session(steps: Sequence[_Step]) -> bool:
    return any(getattr(entry, "name", "").endswith(".fetch_session") for _, _, entry in steps)


def _raw_forwards(router: Any) -> tuple[str, ...]:
    """Return the paths that go to plugs which read request bodies themselves: applications, and long polls."""
    readers = [path for path, route in _routes_from(router) if getattr(route.plug, "takes_body", False) is True]
    return tuple({path.rstrip("/") + "/": None for path in readers})


def _sign_of_workers() -> str:
    """Return what tells that this process is one of several which serve this app, as far as it can see; or nothing."""
    command = " ".join(sys.argv[1:]) if re.search("gunicorn|uvicorn|hypercorn|granian", sys.argv[0]) else ""
    variables = [f"{name}={os.environ.get(name, '')}" for name in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY")]
    several = r"(?:(?<!\S)--workers|(?<![\w-])-w|WEB_CONCURRENCY)[ =]?0*([2-9]|[1-9]\d+)\b"
    found = re.search(several, " ".join([command, *variables]))
    return found[0] if found else ""


class Endpoint(metaclass=_Recording):
    """An application: a router with the plugs that every request passes, configured and ready to be served::

        app = Endpoint(Router, secret_key_base=os.environ["SECRET_KEY_BASE"], http={"port": 4000})
        app.run()

    What files in the folder ``config`` beside the app set goes before the keywords (see ``config``). A subclass that
    plugs something in its body replaces the stack of plugs in front of the router.
    Raises ``ConfigError`` for unknown options.

    ========== ===============================================================================================
    where      ``http``, ``https``, ``force_ssl``, ``url``, ``trusted_proxies``
    secrets    ``secret_key_base`` (of at least 64 bytes), ``session``, ``filter_parameters``
    errors     ``debug_errors``, ``render_errors``, ``error_statuses``
    requests   ``static``, ``parsers``, ``plugs``, ``template_engines``, ``gettext``, ``log``
    beside     ``pubsub``, ``children``, ``threads``, ``limits``, ``timeouts``
    settings   ``env``, ``name``, ``config``, ``settings`` (the app's own), ``code_reloader``, ``live_reload``
    ========== ===============================================================================================
    """

    _own_plugs: ClassVar[tuple[PlugEntry, ...]] = ()

    @classmethod
    def _recorder(cls) -> _PlugRecorder:
        return _PlugRecorder()

    @classmethod
    def _recorded(cls, recorder: _PlugRecorder) -> None:
        cls._own_plugs += tuple(recorder.plugs)

    def __init__(self, router: Any, **options: Unpack[_EndpointOptions]) -> None:
        self.where = _caller()
        self.router = router
        home = sys._getframe(1).f_globals.get("__name__", "")
        self.module = sys.modules.get(getattr(router, "__module__", "") if home == __name__ else home)
        _check_options(options)
        self.name: str = options.get("name") or str(getattr(router, "__name__", type(router).__name__))
        self.env: str = options.get("env") or os.environ.get("PHOENIX_ENV") or os.environ.get("MIX_ENV") or "dev"
        self.options: dict[str, Any] = self._options_in_force(options)
        self.debug_errors: bool = self.options["debug_errors"]
        self.reloads_templates = self.env == "dev"
        code = self.options["code_reloader"]
        self.reloads_code: bool = self.env == "dev" if code is None else bool(code)
        self.live_reload: bool = self.env == "dev" and self.options["live_reload"] not in (None, False)
        self._limits = _made("limits", HTTPLimits, self.options["limits"])
        self._timeouts = _made("timeouts", Timeouts, self.options["timeouts"])
        secret = self.options["secret_key_base"]
        self._secrets = () if secret is None else _checked_secrets(secret)
        self._error_statuses: dict[type, int] = dict(self.options["error_statuses"])
        self._errors_with = self.options["render_errors"]
        self._make_url(self._ports())
        View.use_engines({"eex": _EEX_IN_DEV if self.env == "dev" else _EEX, **self.options["template_engines"]})
        self._statics: list[Static] = []
        self.translations: Translations = _made("gettext", Translations, self.options["gettext"])
        self._steps = self._make_steps()
        self._check_sessions()
        self._compile_views()
        self.pubsub: PubSub = self.options["pubsub"] or PubSub()
        self.server: Server | None = None
        self._opening: Any = None  # the task that starts the server behind a door
        self._opening_lock = _allocate_lock()
        self._children: _Children | None = None
        self._sign_of_workers = ""  # what told a door that there are several
        self.gave_up = False  # a child crashed too often, and that stopped the server
        self._stop_task: Any = None

    # --- Configuration --------------------------------------------------------------------

    def config(self, key: str, default: Any = None) -> Any:
        """Return an option as it is in force: ``app.config("url")``, ``app.config("settings")["page_size"]``."""
        return self.options.get(key, default)

    def _options_in_force(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options: *given* ones over the defaults, and what config files say over both."""
        folder = given.get("config", _ENDPOINT_OPTIONS["config"])
        calls = [call for file in _config_files(self.module, folder, self.env) for call in _run_config_file(file)]
        self._other_sections = {name: where for name, _, where in calls if name not in (None, self.name)}
        calls = [call for wanted in (None, self.name) for call in calls if call[0] == wanted]
        self._set_at = {option: f"{where}: " for _, options, where in calls for option in options}
        layers = [given, *(options for _, options, _ in calls)]
        for name in _PLUG_OPTIONS if self._own_plugs else ():
            if any(name in layer for layer in layers):
                raise ConfigError(
                    f"{name}=... has no effect: {type(self).__name__} plugs a stack of its own.\n"
                    "Give the options to the plug in its body: `plug(Static, at=\"/assets\")`."
                )
        options = functools.reduce(_merged, [_ENDPOINT_OPTIONS, *layers])
        debug = self.env == "dev" if options["debug_errors"] is None else bool(options["debug_errors"])
        return {**options, "name": self.name, "env": self.env, "debug_errors": debug}

    def _ports(self) -> dict[str, int]:
        """Return the ports to listen on: ``{"http": 4000, "https": 4040}``."""
        http, https = self.options["http"], self.options["https"]
        ports = {}
        if http not in (None, False):
            standard = os.environ.get("PORT") or (4001 if self.env == "test" else 4000)
            ports["http"] = _port_number("http", http.get("port"), standard)
        if https:
            ports["https"] = _port_number("https", https.get("port"), 4040)
            missing = [key for key in ("keyfile", "certfile") if not https.get(key)]
            if missing and https.get("context") is None:
                raise self._wrong_https(
                    f"there is no {missing[0]!r}. Expected the files of a private key and of its certificate:\n"
                    'https={"port": 4443, "keyfile": "priv/ssl/key.pem", "certfile": "priv/ssl/cert.pem"}'
                )
        if not ports:
            raise ConfigError("http=False without https=...: there would be no port to listen on")
        return ports

    @property
    def port(self) -> int:
        """The port to listen on: ``http={"port": ...}``, else the variable ``PORT``, else 4000 (4001 in test).

        Without http it is that of https.
        """
        return next(iter(self._ports().values()))

    def _make_url(self, ports: Mapping[str, int]) -> None:
        """Find out what URLs begin with: a public host stands in front of this server, at the standard port."""
        url = self.options["url"]
        host, scheme = url.get("host") or "localhost", url.get("scheme") or ("https" if "https" in ports else "http")
        known = ports if _is_this_machine(host) else {}
        port = known.get(scheme) if url.get("port") in (None, "") else url["port"]  # "" of a variable that is empty
        self._secure_place = host, port if scheme == "https" else known.get("https")
        path = (url.get("path") or "").strip("/")
        self.path_prefix: str = f"/{path}" if path else ""
        self._base_url = _base_url(scheme, host, port)

    def url(self, path: str = "") -> str:
        """Return the URL of a path of this app: ``app.url("/users") == "http://example.com/users"``.

        The ``path`` of the option ``url`` is put before *path*, unless it begins with it, as the path helpers do.
        """
        prefix = self.path_prefix
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/", "?", "#"):
            return self._base_url + path
        return self._base_url + prefix + path

    def _secure_url(self, host: str) -> str:
        """Return what URLs of *host*, if it is known, begin with when they are those of https."""
        own, port = self._secure_place
        return _base_url("https", host or own, port)

    def static_path(self, path: str) -> str:
        """Return the path of a static file with its version, so that browsers may keep it for ever.

        ``app.static_path("/css/app.css") == "/css/app.css?vsn=18c2f3a9d7"``. An unknown file has no version.
        Raises ``ArgumentError`` for what is no path of this site.
        """
        if not path.startswith("/") or path.startswith("//"):
            raise ArgumentError(f'expected a path starting with a single "/", got: {path!r}')
        name, mark, fragment = path.partition("#")
        if _UNSAFE_IN_REDIRECT(name) or ".." in name.split("/"):
            raise ArgumentError(f"unsafe characters in the path of a static file: {path!r}")
        version = "" if "?" in name else self._static_version(name)
        return f"{self.path_prefix}{name}{version}{mark}{fragment}"

    def _static_version(self, name: str) -> str:
        for static in self._statics:
            root = static.root()
            if root is not None and name.startswith(static.prefix):
                status = _stat_file(os.path.join(root, *name[len(static.prefix) :].split("/")))
                if status is not None:
                    return f"?vsn={status.st_mtime_ns // 1000:x}"
        return ""

    def static_url(self, path: str) -> str:
        """As ``static_path``, with scheme and host."""
        return self.url(self.static_path(path))

    def _make_steps(self) -> tuple[_Step, ...]:
        """Return the plugs that every request passes, with the router as the last."""
        entries = list(self._own_plugs) or self._default_plugs()
        self._statics = [entry.call for entry in entries if isinstance(entry.call, Static)]
        home = type(self).__module__ if self._own_plugs else getattr(self.router, "__module__", "")
        for static in self._statics:
            static.look_beside(sys.modules.get(home, self.module))
        self.translations.look_beside(sys.modules.get(home, self.module))
        plugs = [*self._guards(), *entries, *self.options["plugs"], self.router]
        steps = _steps(each if isinstance(each, PlugEntry) else PlugEntry(each, (), {}, self.where) for each in plugs)
        self._steps_of_get = steps if self._own_plugs else tuple(filter(_concerns_get, steps))
        return steps

    def _guards(self) -> Iterator[Any]:
        """Yield the plugs in front of all others: what they find out or refuse holds for everything."""
        if self.options["trusted_proxies"]:
            yield _TrustedProxies(self.options["trusted_proxies"])
        if self.options["force_ssl"] is not False:
            yield _made_force_ssl(self.options["force_ssl"])

    def _default_plugs(self) -> list[PlugEntry]:
        options = {name: self.options[name] for name in _PLUG_OPTIONS if self.options[name] not in (None, False)}
        stack: list[Any] = [RequestId()] if "log" in options else []  # first: all lines that follow have the id
        if "static" in options:
            stack.append(_made("static", Static, options["static"]))
        if any(isinstance(plug, _SocketPlug) for plug in self._routed_plugs()):
            stack.append(_serve_client_script)
        if "log" in options:
            level = _log_options(options["log"], self.env)[0]
            stack += [] if level in (None, False) else [RequestLogger(level)]
        if "parsers" in options:
            stack.append(_made("parsers", Parsers, {"skip": _raw_forwards(self.router), **options["parsers"]}))
        stack += [method_override, head_as_get]
        if "session" in options:
            stack.append(_made("session", Session, options["session"]))
        return [PlugEntry(each, (), {}, self.where) for each in stack]

    def _check_sessions(self) -> None:
        """Find out now, and not at the first request, that sessions are used without a secret."""
        stores = [entry.call for _, _, entry in self._steps if isinstance(getattr(entry, "call", None), Session)]
        if self._secrets or any(store.secrets for store in stores):
            return
        found = ["the endpoint"] if _fetches_session(self._steps) else []
        routes = [(path, route) for path, route in _routes_from(self.router) if _fetches_session(route.steps)]
        found += [f"{route.verb} {path} ({route.where})" for path, route in routes]
        if found:
            try:
                _checked_secret(None)
            except SecretError as error:
                raise SecretError(f"{found[0]} fetches the session. {error}") from None

    # --- Requests -------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Endpoint of {getattr(self.router, '__name__', self.router)}>"

    def handle_request(self, request: Request, connection: Any) -> Any:
        """Answer a request of the server: make its conn and call it."""
        headers = request.headers
        scheme = connection.scheme
        conn = Conn(
            request.method, request.path, request.query, headers.fields, scheme, headers.host,
            headers.port or (443 if scheme == "https" else 80), connection.remote_ip, connection, self,
        )  # fmt: skip
        connection.conn = conn
        return self.dispatch(conn)

    def dispatch(self, conn: Any) -> Any:
        """Run *conn* through all plugs and the router; errors become pages.

        Returns the conn with its response, or a coroutine that will.
        """
        try:
            result = run_steps(conn, self._steps_of_get if conn.method == "GET" else self._steps)
            if result is conn:
                if conn.state == "unset":
                    raise NotSentError
                if conn.state == "set":
                    conn.send_resp()
                return conn
        except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            if _ends_more_than_a_request(conn, error):
                raise
            return self._failed(conn, error)
        return self._dispatch_rest(conn, result)

    async def _dispatch_rest(self, conn: Any, rest: Any) -> Any:
        try:
            conn = await rest
            if conn.state == "unset":
                raise NotSentError
            if conn.state == "set":
                conn.send_resp()
        except BaseException as error:  # noqa: BLE001
            if _ends_more_than_a_request(conn, error):
                raise
            failed = self._failed(conn, error)
            conn = failed if _is_conn(failed) else await failed
        return conn

    # --- Errors ---------------------------------------------------------------------------

    def _failed(self, conn: Any, error: BaseException) -> Any:
        """Answer a request whose plugs raised. Returns the conn with its response, or a coroutine that will."""
        if "phoenix_on_error" in conn.private:
            conn.private["phoenix_on_error"](conn, error)  # a test takes note of it, or raises it
        status = _status_of(error, self._error_statuses)
        self._log_error(conn, error, status)
        if conn.state == "chunked" and conn.resp_body is None:
            conn.state = "broken"  # it began: the server can only close
        if conn.state not in ("unset", "set"):
            return conn  # the response is fixed already; the log has the error
        if self.debug_errors or _attempt(self._error_view) is ErrorView:
            return self._answer_error(conn, error, status)
        return conn.adapter.in_worker(self._answer_error, conn, error, status)  # a view of the application may block

    def _answer_error(self, conn: Any, error: BaseException, status: int) -> Any:
        kept = {name: values for name, values in conn._resp_headers.items() if name not in _OF_ONE_RESPONSE}
        for answer in (self._render_error, self._render_plainly):
            conn.state, conn.halted, conn.resp_body = "unset", False, None
            conn._resp_headers = {"cache-control": _DEFAULT_CACHE_CONTROL, **kept}
            try:
                return answer(conn, error, status)
            except Exception:
                logger.exception("the error page for %s %s raised an error itself", conn.method, conn.request_path)
                conn._before_send, conn._resp_cookies = None, None
        raise AssertionError("the plainest error page cannot fail")

    def _log_error(self, conn: Any, error: BaseException, status: int) -> None:
        what, name = f"{conn.method} {conn.request_path}", type(error).__name__
        about = {"method": conn.method, "path": conn.request_path, "status": status}
        if status >= 500:
            logger.error("%s ** (%s) %s", what, name, _text_of(error), exc_info=error, extra=about)
        else:
            logger.info("%s answered %d ** (%s) %s", what, status, name, _text_of(error), extra=about)

    def _render_error(self, conn: Any, error: BaseException, status: int) -> Any:
        conn.put_status(status)
        if self.debug_errors:
            media_type, body = debug_page(conn, error, status, self)
            conn._resp_headers.update(_DEBUG_HEADERS)
            return conn.put_resp_content_type(media_type).resp(status, body).send_resp()
        view = self._error_view()
        if self.reloads_templates:
            type(_view_instance(view)).refresh()
        format = self._error_format(conn)
        about = {"kind": "error", "reason": error, "stack": error.__traceback__, "status": status}
        assigns = {**conn.assigns, "conn": conn, **about}
        found = _render_if_there(view, f"{status}.{format}", assigns)
        if found is None and status >= 500:
            found = _render_if_there(view, f"500.{format}", assigns)
        if found is None:
            format = format if format in ("html", "json") else "text"
            found = render_to_string(ErrorView, f"{status}.{format}", assigns)
        return conn.put_resp_content_type(MIME.type(format)).resp(status, found).send_resp()

    def _error_view(self) -> Any:
        """Return the view of error pages; one that is not given is looked for beside the router, once."""
        if self._errors_with is None:
            self._errors_with = self._find_error_view() or ErrorView
        return self._errors_with

    def _compile_views(self) -> None:
        """Compile the templates, so that their mistakes are found before the first request."""
        for view in {*_views_of(self.router), self._errors_with or _attempt(self._find_error_view)}:
            if hasattr(view, "templates"):  # an error view that cannot be imported is an error when it is needed
                view.templates()

    def _find_error_view(self) -> Any:
        home: Any = self.router if hasattr(self.router, "__module__") else type(self.router)
        return _class_near(home, "ErrorView", above=True)

    def _error_format(self, conn: Any) -> str:
        """Return the format of an error page: what was chosen, asked for or accepted, else html."""
        chosen = conn.private.get("phoenix_format")
        if chosen is None:
            chosen = _attempt(lambda: conn.query_params.get("_format") or conn.query_params.get("format"))
            accept = ",".join(conn._req_headers.get("accept", ()))
            if accept and chosen not in ("html", "json", "text", "xml"):
                chosen = _attempt(lambda: negotiate(accept, ("html", "json", "text", "xml")))
        if isinstance(chosen, str) and chosen in MIME._types:
            return chosen
        if chosen:
            is_text = isinstance(chosen, str)
            why = f"the format {chosen!r} is unknown" if is_text else _text_of(chosen).partition("\n")[0]
            logger.debug("the error page is made in html: %s", why)
        return "html"

    def _render_plainly(self, conn: Any, error: BaseException, status: int) -> Any:
        conn._resp_headers["content-type"] = _TEXT_PLAIN
        return conn.resp(status, _phrase_of(str(status))).send_resp()

    # --- Channels -------------------------------------------------------------------------

    def broadcast(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event to every client in a channel's topic, from any thread::

            app.broadcast("rooms:lobby", "new:msg", {"body": "hi"})
        """
        self.pubsub.broadcast(topic, Broadcast(topic, event, {} if payload is None else payload))

    def broadcast_from(self, sender: Any, topic: str, event: str, payload: Any = None) -> None:
        """As ``broadcast``, but not to *sender*, the socket of a channel."""
        self.pubsub.broadcast_from(sender, topic, Broadcast(topic, event, {} if payload is None else payload))

    # --- Tests ----------------------------------------------------------------------------

    def test(self, *, raise_errors: bool = False, csrf: bool = False, timeout: float = 10) -> TestClient:
        """Return a client that calls this app in this process: ``app.test().get("/users")``."""
        return TestClient(self, raise_errors=raise_errors, csrf=csrf, timeout=timeout)

    # --- Serving --------------------------------------------------------------------------

    def make_server(
        self, host: str | None = None, port: int | None = None, uds: str | os.PathLike[str] | None = None,
        sockets: Iterable[Any] = (),
    ) -> Server:
        """Return a server for this app, not started yet; for tests and for those who run a loop of their own.

        *uds* is the path of a Unix socket to listen on instead; *sockets* are listening already. Raises ``ConfigError``
        when the files of ``https`` are not there or do not fit.
        """
        http, https, ports = self.options["http"] or {}, self.options["https"], self._ports()
        address = host or http.get("host") or "127.0.0.1"
        tls = self._tls_context() if "https" in ports else None
        return Server(
            self.handle_request, host=address, port=self.port if port is None else port,
            uds=uds or (http.get("uds") if host is None and port is None else None),
            uds_mode=http.get("uds_mode", 0o660), sockets=sockets, threads=self.options["threads"],
            limits=self._limits, timeouts=self._timeouts, tls=None if "http" in ports else tls,
            https=(https.get("host") or address, ports["https"], tls) if len(ports) > 1 else None,
            on_start=self._started, on_stop=self._stopping, on_end=self._stopped,
        )  # fmt: skip

    def _tls_context(self) -> Any:
        """Return the ``ssl.SSLContext`` that the option https describes."""
        https = self.options["https"]
        if https.get("context") is not None:
            return https["context"]
        keyfile, certfile = self._key_file("keyfile"), self._key_file("certfile")
        import ssl

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(certfile, keyfile, https.get("password") or "")  # without, it would ask for it
        except OSError as error:  # ssl.SSLError is one
            raise self._wrong_https(
                f"the key {keyfile} and the certificate {certfile} cannot be used: {error}.\n"
                "Expected a private key (with its password, if it has one) and the certificate made for it, then those"
                " of its issuers, all as PEM."
            ) from error
        return context

    def _key_file(self, key: str) -> str:
        """Return the path of a file; a relative one is looked for in the folder of the app, then in its ``priv``."""
        path, folders = self.options["https"][key], _app_folders(self.module)
        places = [os.path.join(folder, below, path) for folder in folders for below in ("", "priv")]
        found = next(filter(os.path.isfile, places), None)
        if found is None:
            place = "" if os.path.isabs(path) else f", neither in {folders[0]} nor in its priv"
            raise self._wrong_https(f"the {key} is not there: {path}{place}")
        return found

    def _wrong_https(self, message: str) -> ConfigError:
        return ConfigError(f"{self._set_at.get('https', '')}https=...: {message}")

    async def _started(self, server: Server) -> None:
        self.server, self.gave_up = server, False
        if server.ports:
            self._make_url(server.ports)  # now that they are known
        self.pubsub._serve_on(server.loop)
        self._warn_of_workers()

        def give_up() -> None:
            self.gave_up = True
            self._stop_task = server.loop.create_task(server.stop())  # kept, so that it is not collected

        self._children = _Children([*self._guests(), *self.options["children"]], server, give_up)
        self.pubsub._connect()
        await self._children.start()

    def _warn_of_workers(self) -> None:
        """Say it when several processes serve this app and their clients could not hear each other."""
        sign = self._sign_of_workers or _sign_of_workers()
        shares = self.options["pubsub"] or any(isinstance(plug, _SocketPlug) for plug in self._routed_plugs())
        if sign and shares and self.pubsub.adapter is None:
            logger.warning(
                "several processes serve this app (%s), each by itself: what is broadcast in one does not reach the"
                ' clients of the others. Connect them, pubsub=PubSub(adapter=Redis("redis://localhost:6379/0")), or'
                " start one",
                sign,
            )

    async def _stopped(self, server: Server) -> None:
        if self._children is not None:
            await self._children.stop(self._timeouts.shutdown)
            self._children = None
            await self.pubsub._disconnect()

    def _stopping(self, server: Server) -> None:
        for plug in self._routed_plugs():
            if isinstance(plug, _LongPollPlug):
                plug.mount.stop()

    def _routed_plugs(self) -> list[Any]:
        return list({id(route.plug): route.plug for _, route in _routes_from(self.router)}.values())

    def _guests(self) -> list[_ASGIPlug]:
        """Return the ASGI applications behind routes, each once: they are started and stopped with the server."""
        found: dict[int, _ASGIPlug] = {}
        for plug in self._routed_plugs():
            guest = getattr(plug, "guest", None)
            if isinstance(guest, _ASGIPlug):
                guest.state = found.setdefault(id(guest.app), guest).state
        return list(found.values())

    async def _become_websocket_of(self, conn: Any, app: Callable[..., Any], scope: Mapping[str, Any]) -> Any:
        """Let an ASGI application answer a WebSocket."""
        return await _GuestWebSocket(app, scope).open(conn)

    async def __call__(self, scope: Mapping[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Be an ASGI 3 application, with WebSockets, which any ASGI server can serve: ``uvicorn app:app``."""
        if scope["type"] == "lifespan":
            await _live(self, receive, send)
            return
        connection = _ASGIConnection(await self._behind_door(), scope, receive, send)
        if scope["type"] == "websocket":
            await receive()  # that it wants to connect
        try:
            conn = _conn_of_scope(self, scope, connection)
        except HTTPProtocolError as error:
            await connection.refuse(error)
        else:
            await connection.answer(conn)

    async def _behind_door(self) -> Server:
        """Return the server that lends the requests of an ASGI server what they need, started for the first of them."""
        import asyncio

        loop = asyncio.get_running_loop()
        if self.server is None or self.server.loop is not loop or self.server.stopping:
            _set_up_logging(self)
            self.server = self.make_server()
            self.server.loop = loop
            self._opening = loop.create_task(self.server.start(listen=False))
        if self._opening is not None and not self._opening.done():
            await asyncio.shield(self._opening)
        return self.server

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Be a WSGI application, for servers that are given this method: ``waitress-serve app:app.wsgi``.

        WebSockets do not come this way, and an ``async def`` runs on a loop beside.
        """
        with self._opening_lock:
            if self.server is None or self.server.stopping:
                self._sign_of_workers = "wsgi.multiprocess" if environ["wsgi.multiprocess"] else ""
                self.server = _serve_beside(self)
        try:
            connection = _WSGIConnection(self.server, environ, start_response)
            conn = _conn_of_environ(self, environ, connection)
        except HTTPProtocolError as error:
            start_response(f"{error.status} {reason_phrase(error.status)}", [("content-type", _TEXT_PLAIN[0])])
            return [_refusal(error)]
        return connection.answer(conn)

    def run(self, host: str | None = None, port: int | None = None) -> None:
        """Serve until SIGINT or SIGTERM; then let open requests end, and return.

        In dev, changed code is run and changed pages are shown at once; see the options ``code_reloader``, which is
        on by itself only in the app's own program, and ``live_reload``.
        """
        self.server = self.make_server(host, port)
        reload = self.reloads_code and (self.options["code_reloader"] is not None or _runs_the_app(self))
        _set_up_logging(self)
        _serve_all([self], _reloader_for([self], reload))


# --- Doors: gunicorn ----------------------------------------------------------------------
#
# gunicorn starts, watches and replaces processes, and opens the sockets; in each of them this server serves. So
# `gunicorn -k phoenix.GunicornWorker app:app` has its options for these, and WebSockets as well.


class _GunicornServing:
    """What makes a worker class of gunicorn run an endpoint."""

    if TYPE_CHECKING:  # what gunicorn's own class has

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def run(self) -> None:
        _run_fairly(self._serve())

    async def _serve(self) -> None:
        import asyncio
        import signal

        self.booted = False  # so far: what goes wrong now would go wrong in a new worker as well
        endpoint = getattr(self.wsgi, "__self__", self.wsgi)  # also for `app.wsgi`
        if not isinstance(endpoint, Endpoint):
            raise ConfigError(f"GunicornWorker serves an Endpoint, and got {self.wsgi!r}: name it, as in app:app")
        _set_up_logging(endpoint)
        if endpoint.env == "dev" and endpoint.debug_errors and self.age == 1:  # the first of all workers
            logger.warning("errors show everybody the page for developers: set PHOENIX_ENV=prod")
        endpoint._sign_of_workers = f"gunicorn's workers={self.cfg.workers}" if self.cfg.workers > 1 else ""
        server = endpoint.make_server(sockets=[getattr(each, "sock", each) for each in self.sockets])
        old = server.timeouts
        server.timeouts = Timeouts(old.head, old.body, old.idle, old.write, self.cfg.graceful_timeout)
        if self.cfg.is_ssl:
            from importlib import import_module

            server.tls = import_module("gunicorn.sock").ssl_context(self.cfg)
        if self.cfg.max_requests:
            server.handle = functools.partial(self._count, server.handle)
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        await server.start()
        self.booted = True
        beating = loop.create_task(self._beat(stop))
        told = loop.create_task(stop.wait())
        await asyncio.wait([told, server.ended], return_when=asyncio.FIRST_COMPLETED)
        await server.stop()
        beating.cancel()
        told.cancel()
        if endpoint.gave_up:
            sys.exit(1)

    async def _beat(self, stop: Any) -> None:
        """Tell gunicorn that this process is alive, and notice that it is to end or that gunicorn is no more."""
        import asyncio

        while True:
            self.notify()
            if not self.alive or self.ppid != os.getppid():
                stop.set()
            await asyncio.sleep(0.25)

    def _count(self, handle: Callable[..., Any], request: Request, connection: Any) -> Any:
        self.nr += 1
        if self.nr == self.max_requests:
            self.log.info("Autorestarting worker after %d requests.", self.nr)
            self.alive = False
        return handle(request, connection)


def _gunicorn_worker() -> type:
    """Return the class for ``gunicorn -k phoenix.GunicornWorker``. Raises ``ImportError`` without gunicorn."""
    from importlib import import_module

    try:
        base = import_module("gunicorn.workers.base").Worker
    except ImportError as error:
        raise ImportError("GunicornWorker needs gunicorn: pip install gunicorn") from error
    return type("GunicornWorker", (_GunicornServing, base), {"__module__": __name__})


if not TYPE_CHECKING:  # type checkers would take every name for one of this module's

    def __getattr__(name: str) -> Any:
        """Make ``GunicornWorker`` when it is asked for: only then gunicorn is imported."""
        if name != "GunicornWorker":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = _gunicorn_worker()
        return globals()[name]


# --- Reload -------------------------------------------------------------------------------
#
# A changed module is not loaded into the process that runs: whoever holds a function, a class or
# an object of the old one would go on using it, and only a fresh interpreter is sure to run what
# stands in the files. So the process replaces itself by one (`execv`), which runs the same
# program, with the same number, in the same terminal, and what others see of it goes along: the
# sockets that listen, and each connection between two requests, with the bytes it has received.
# Nobody is refused; a request waits for a moment, and the new code answers it. No second process
# watches the first, so that there is none to be forgotten, to be debugged in vain, or to run the
# program twice at its start.
#
#     changed -> requests wait unread -> open ones end, WebSockets are closed -> execv
#         -> the program runs again -> its server takes the sockets, and reads what waited
#         -> or it raises: every request is answered with that, until the next save
#
# Two look for changes. A request, before it is read, looks at the modules that were imported: it
# cannot meet old code. A thread looks at all files below the app's folders, for the browsers,
# which hear of changes through a channel. It rests 150 times as long as a look has taken.
#
# Sources: Phoenix.CodeReloader, Phoenix.LiveReloader; execve(2) on what stays open.

_UNWATCHED = frozenset(("__pycache__", "node_modules", "site-packages"))  # nor any whose name begins with a dot
_LIVE_RELOAD = "/phoenix/live_reload"

_BARE: dict[str, Any] = {"env": "dev", **dict.fromkeys(("log", "session", "static", "parsers", "config"), False)}

_inherited: dict[str, Any] = {}  # what the process in whose place this one runs has left to it


class CompilationError(PhoenixError):
    """The program could not be started again after a change."""


class _Reloader:
    """Sees what changes: code starts the process again, what pages are made of is told to the browsers that show them.

    With *is_broken* the program could not be started, and any code may be the mend.
    """

    def __init__(self, endpoints: Sequence[Endpoint], has_code: bool, is_broken: bool = False) -> None:
        from threading import Event

        self.endpoints = endpoints
        self.has_code = has_code  # changed code starts the process again
        self.program = _program_to_run()
        self.is_broken = is_broken
        self.changed = ""  # the file for which it does
        self.is_over = False  # the process was told to end
        self._started, self._assets = time.time_ns(), 0
        self._known: dict[str, Any] = _inherited.get("states", {})  # how the files were when the one before left
        self._states: dict[str, Any] = {}  # of the modules that were imported
        self._modules = 0
        self._folders = [*_inherited.get("folders", ()), *(each for app in endpoints for each in _folders_of(app))]
        statics = [root for app in endpoints for static in app._statics if (root := static.root()) is not None]
        views = [each for view in View._all() if (each := view.template_directory()) is not None]
        self._static_folders = [os.path.join(os.path.realpath(root), "") for root in statics]
        self._folders = _outermost([*self._folders, *views, *statics])
        self._stopped = Event()
        self._pause = 0.0
        self._watched: list[str] = []
        self._files: dict[str, Any] | None = None
        self._live = Endpoint(_LiveReload(self.version), template_engines=View.engines, **_BARE)  # as they are
        if has_code:
            self._note_modules()
            for app in endpoints:
                for file in _config_files(app.module, app.options["config"], app.env):
                    self.look_after(file)
        if is_broken:
            self._look()  # before anybody is shown the error, and mends it

    def version(self) -> str:
        """Return what names the state of the pages: it changes with each asset, but for style sheets."""
        return f"{self._started:x}.{self._assets}"

    def attach(self, endpoint: Endpoint, server: Server, stop: Callable[[], object]) -> None:
        """Look after a server that is about to start; *stop* is called when the process shall start again."""
        import asyncio

        self._loop, self._stop = asyncio.get_running_loop(), stop
        if self.has_code:
            server.hold = self.holds
        if endpoint.live_reload:
            server.handle = functools.partial(self._handle, endpoint)

    def start(self) -> None:
        """Watch the files, now that the servers run."""
        from threading import Thread

        self._live.pubsub._serve_on(self._loop)
        Thread(target=self._watch, name="phoenix-reloader", daemon=True).start()

    def end(self) -> None:
        self._stopped.set()

    # --- Code -------------------------------------------------------------------------------

    def holds(self) -> bool:
        """Tell whether requests shall wait, because there is new code."""
        if not self.changed:
            self._look_at_modules()
        return bool(self.changed)

    def _note_modules(self) -> None:
        modules = list(sys.modules.values())
        if len(modules) != self._modules:
            for module in modules:
                self.look_after(getattr(module, "__dict__", {}).get("__file__"))
            self._modules = len(modules)  # not before: the other thread would believe that they are known

    def _look_at_modules(self) -> None:
        self._note_modules()
        for file, state in list(self._states.items()):
            if _file_state(file) != state:
                self._start_again(file)

    def look_after(self, file: Any) -> None:
        """Take in a file of code, if it is one of the app's."""
        if isinstance(file, str) and file not in self._states and _lies_in(file, self._folders):
            known = self._known.get(file)
            self._states.setdefault(file, _file_state(file) if known is None else tuple(known))

    def _start_again(self, file: str) -> None:
        if not self.changed:
            self.changed = file
            self._call_soon(self._stop)

    def _call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            pass  # the loop is closed

    async def start_again(self, servers: Sequence[Server]) -> None:
        """Replace the process, unless it is told to end meanwhile; then return."""
        import asyncio

        logger.info("%s has changed: starting again", _short_name(self.changed))
        while _is_in_pdb():  # somebody is at work there
            await asyncio.sleep(0.1)
        left = await asyncio.gather(*(server.hand_over() for server in servers))
        states: dict[str, Any] = {}
        for _ in range(40):  # until whoever saves files has finished
            before, states = states, {file: _file_state(file) for file in self._states}
            if before == states:
                break
            await asyncio.sleep(0.05)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        if not self.is_over:
            for file in states:
                if states[file] != self._states[file] or self.is_broken:
                    _forget_bytecode(file)
            _forget_bytecode(self.changed)
            found = {"program": self.program, "servers": left, "states": states, "folders": self._folders}
            _replace_process(found)

    # --- Browsers ---------------------------------------------------------------------------

    def _handle(self, endpoint: Endpoint, request: Request, connection: Any) -> Any:
        """Answer a request; a page is answered with the client of the reload socket in it."""
        if request.path.startswith(_LIVE_RELOAD + "/"):
            return self._live.handle_request(request, connection)
        result = endpoint.handle_request(request, connection)
        return self._with_client(result) if _is_conn(result) else self._with_client_later(result)

    async def _with_client_later(self, result: Any) -> Any:
        return self._with_client(await result)

    def _with_client(self, conn: Any) -> Any:
        headers = conn._resp_headers
        if conn.state != "sent" or not headers.get("content-type", ("",))[0].startswith("text/html"):
            return conn
        policy = headers.get("content-security-policy", ())
        if policy == _DEBUG_HEADERS["content-security-policy"]:
            headers["content-security-policy"] = (f"{policy[0]}; frame-src 'self'",)
        elif conn.status != 200 or "content-encoding" in headers or not all(map(_allows_frames, policy)):
            return conn
        body = conn.resp_body.encode("utf-8", "replace") if isinstance(conn.resp_body, str) else conn.resp_body
        at = body.lower().rfind(b"</body>")
        if at >= 0:
            source = f"{conn.endpoint.path_prefix}{_LIVE_RELOAD}/frame?version={self.version()}"
            frame = f'<iframe hidden height="0" width="0" src="{source}"></iframe>\n'
            conn.resp_body = body[:at] + frame.encode() + body[at:]
        return conn

    def _asset_type(self, path: str) -> str | None:
        """Return the kind of a file that pages are made of (``"css"``), and ``None`` for others."""
        kind = path.rpartition(".")[2].lower()
        for endpoint in self.endpoints:
            patterns = endpoint.options["live_reload"].get("patterns") if endpoint.live_reload else ()
            if patterns is not None:
                from fnmatch import fnmatchcase

                names = [path[len(folder) + 1 :] for folder in self._folders if path.startswith(folder + os.sep)]
                if any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
                    return kind
            elif kind in View.engines or kind == "po":
                return kind
            elif kind in MIME._types and path.startswith(tuple(self._static_folders)):
                return kind
        return None

    def _tell_of(self, changed: Iterable[str]) -> None:
        """Let the browsers know of those files that pages are made of."""
        kinds = {kind for path in changed if (kind := self._asset_type(path)) is not None}
        if kinds and not self.changed:  # else they come anew anyhow
            self._assets += kinds != {"css"}
            self._call_soon(self._broadcast, sorted(kinds))

    def _broadcast(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self._live.broadcast("phoenix:live_reload", "assets_change", {"asset_type": kind})

    # --- Files ------------------------------------------------------------------------------

    def _watch(self) -> None:
        for _ in self._occasions():
            started = time.thread_time()
            if self.has_code:
                self._look_at_modules()
            before, files = self._files, self._look()
            if before is None:  # what was saved since the start, while this thread came to look
                self._tell_of(path for path, state in files.items() if state[0] > self._started)
            else:
                changed = [path for path in {**before, **files} if before.get(path) != files.get(path)]
                for path in changed if self.has_code else ():
                    if path.endswith(".py") and (self.is_broken or os.path.basename(os.path.dirname(path)) == "config"):
                        self._start_again(path)
                self._tell_of(changed)
            self._pause = max(0.25, 150 * (time.thread_time() - started))  # less than 1 % of a core

    def _look(self) -> dict[str, Any]:
        files: dict[str, Any] = {}
        folders: list[str] = []
        for folder in self._folders:
            _look_at(folder, files, folders)
        self._files, self._watched = files, folders
        return files

    def _occasions(self) -> Iterator[None]:
        """Yield when it is time to look: now and then; or when the package ``watchfiles`` has seen something."""
        from importlib import import_module

        yield
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each change
        try:
            watch = import_module("watchfiles").watch
        except ImportError:
            watch = None
        while not self._stopped.wait(0 if watch else self._pause):
            yield
            watched = self._watched
            try:
                for _ in watch(
                    *watched, recursive=False, watch_filter=None, debounce=200, step=20, rust_timeout=2000,
                    yield_on_timeout=True, stop_event=self._stopped, raise_interrupt=False,
                ) if watch else ():  # fmt: skip
                    yield
                    if self._watched != watched:
                        break
            except OSError:  # a folder is gone again, or there are more than the system watches
                self._stopped.wait(self._pause)


def _file_state(file: str) -> tuple[int, int] | None:
    """Return what changes when a file is written."""
    status = _stat_file(file)
    return None if status is None else (status.st_mtime_ns, status.st_size)


def _look_at(folder: str, files: dict[str, Any], folders: list[str]) -> None:
    """Add the states of all files below *folder*, and the folders they lie in, but for those of libraries and tools."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    folders.append(folder)
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _UNWATCHED and not entry.name.startswith("."):
                    _look_at(entry.path, files, folders)
            elif not entry.name.startswith(".") and entry.is_file():
                status = entry.stat()
                files[entry.path] = status.st_mtime_ns, status.st_size
        except OSError:
            pass  # it is gone already


def _folders_of(endpoint: Endpoint) -> list[str]:
    """Return the folders of an app: those from which the modules of its endpoint and its router were imported."""
    modules = endpoint.module, sys.modules.get(getattr(endpoint.router, "__module__", ""))
    files = [(module, getattr(module, "__file__", None)) for module in modules]
    return [_app_folders(module)[-1] for module, file in files if file is not None and not _is_this_file(file)]


def _is_this_file(file: str) -> bool:
    return os.path.realpath(file) == os.path.realpath(__file__)


def _outermost(folders: Iterable[str]) -> list[str]:
    """Return *folders* without those that lie in others."""
    real = {os.path.realpath(folder) for folder in folders}
    return sorted(each for each in real if not any(each.startswith(os.path.join(other, "")) for other in real - {each}))


def _lies_in(file: str, folders: Iterable[str]) -> bool:
    """Tell whether *file* belongs to the app in one of *folders*, rather than to a library below them."""
    real = os.path.realpath(file)
    for folder in folders:
        if real.startswith(os.path.join(folder, "")):
            parts = real[len(folder) :].split(os.sep)
            return not any(part in _UNWATCHED or part.startswith(".") for part in parts)
    return False


def _forget_bytecode(file: str) -> None:
    """Remove what Python keeps of a module: it would take it for new when the change came within the same second."""
    from importlib.util import cache_from_source

    try:
        os.remove(cache_from_source(file))
    except (OSError, NotImplementedError):
        pass


def _allows_frames(policy: str) -> bool:
    """Tell whether a content security policy lets a page hold frames of its own site."""
    rules = {name: sources for name, *sources in map(str.split, filter(str.strip, policy.lower().split(";")))}
    sources = rules.get("frame-src", rules.get("child-src", rules.get("default-src", ["*"])))
    return "'self'" in sources or "*" in sources


class _LiveReload:
    """Plug: the frame that pages hold, and the socket of channels that it opens. *version* is that of the pages."""

    def __init__(self, version: Callable[[], str]) -> None:
        class LiveReloadChannel(Channel):
            def join(self, socket: Socket, topic: str, message: Any) -> Any:
                return socket.ok({"version": version()})

        mount, where = _Mount(_LIVE_RELOAD, SocketHandler, {"log": False}), _caller()
        mount.add("phoenix:live_reload", LiveReloadChannel, where)
        self.socket = _SocketPlug(mount, _Upgrade({}, ("phoenix",), where), old=False)

    def __call__(self, conn: Any) -> Any:
        match conn.request_path.removeprefix(_LIVE_RELOAD):
            case "/frame":
                return conn.html(_LIVE_RELOAD_FRAME)
            case "/socket/websocket":
                return self.socket(conn)
            case _:
                return conn.send_resp(404, "")


_LIVE_RELOAD_FRAME = """<!DOCTYPE html>
<meta charset="utf-8"><title>Live reload</title>
<script>
const shown = new URLSearchParams(location.search).get("version")  // of the page around this frame
const url = location.href.replace(/^http/, "ws").replace(/frame(\\?.*)?$/, "socket/websocket?vsn=2.0.0")
let tries = 0

function connect() {
  const socket = new WebSocket(url)
  const send = (ref, topic, event) => socket.send(JSON.stringify([ref, ref, topic, event, {}]))
  let heart
  socket.onopen = () => {
    tries = 0
    send("1", "phoenix:live_reload", "phx_join")
    heart = setInterval(() => send("2", "phoenix", "heartbeat"), 30000)
  }
  socket.onmessage = message => {
    const [, ref, , event, payload] = JSON.parse(message.data)
    if (event === "phx_reply" && ref === "1") compare(payload.response.version)
    else if (event === "assets_change") payload.asset_type === "css" ? swapStyles() : parent.location.reload()
  }
  socket.onclose = () => {
    clearInterval(heart)
    setTimeout(connect, Math.min(100 * 2 ** tries++, 2000))
  }
}

function compare(version) {
  if (version === shown || sessionStorage.phoenixReloaded === version) return  // once, should a cache keep the old page
  sessionStorage.phoenixReloaded = version
  parent.location.reload()
}

function swapStyles() {
  for (const link of parent.document.querySelectorAll("link[rel~=stylesheet][href]")) {
    const source = new URL(link.href), next = link.cloneNode()
    if (source.host !== location.host || link.dataset.left) continue
    source.searchParams.set("vsn", Date.now())
    next.href = source
    next.onload = next.onerror = () => link.remove()
    link.dataset.left = "true"
    link.after(next)
  }
}

connect()
</script>
"""


# --- Reload: the next process ---------------------------------------------------------------


def _reloader_for(endpoints: Sequence[Endpoint], reload: bool | None) -> _Reloader | None:
    """Return what reloads code and pages of *endpoints*, or ``None`` when nothing shall.

    *reload* says whether changed code starts the process again; ``None`` leaves it to the endpoints. It cannot in a
    thread, without a file to run again (as in a notebook), under a debugger, whose breakpoints it would lose, or on
    Windows, which has no ``exec``.
    """
    import threading

    wanted = any(endpoint.reloads_code for endpoint in endpoints) if reload is None else reload
    monitoring: Any = getattr(sys, "monitoring", None)
    is_debugged = sys.gettrace() is not None or monitoring is not None and monitoring.get_tool(0) is not None
    in_main_thread = threading.current_thread() is threading.main_thread()
    has_code = wanted and in_main_thread and not is_debugged and os.name == "posix" and bool(_program_to_run())
    if reload and not has_code:
        logger.warning("code is not reloaded: that takes the main thread of a program in a file, and no debugger")
    return _Reloader(endpoints, has_code) if has_code or any(each.live_reload for each in endpoints) else None


def _runs_the_app(endpoint: Endpoint) -> bool:
    """Tell whether this program is the app's own, and not one that has imported it, such as a test runner."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return file is not None and _lies_in(file, _outermost(_folders_of(endpoint)))


def _program_to_run() -> list[str]:
    """Return what Python was started with, a command of ours, a module or a file; nothing for code that is in none."""
    if "program" in _inherited:
        return list(_inherited["program"])
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if file is None or not sys.executable:
        return []
    if _is_this_file(file):
        return ["command", file]
    if spec is not None and spec.name != "__main__":
        return ["module", spec.name.removesuffix(".__main__")]
    return ["file", os.path.abspath(file if spec is None else os.path.dirname(file))]  # of a folder, __main__.py is run


def _is_in_pdb() -> bool:
    """Tell whether any thread waits for what somebody types into a debugger."""
    for frame in sys._current_frames().values():
        above: types.FrameType | None = frame
        while above is not None:
            if above.f_globals.get("__name__") in ("pdb", "bdb"):
                return True
            above = above.f_back
    return False


def _replace_process(left: Mapping[str, Any]) -> NoReturn:
    """Run the program anew in the place of this process, and leave it what *left* holds."""
    import atexit
    import subprocess
    import tempfile
    from threading import Thread

    leaving = Thread(target=atexit._run_exitfuncs, daemon=True)
    leaving.start()
    leaving.join(2)  # some wait for processes that do not end
    with tempfile.TemporaryFile() as stream:
        stream.write(encode_json(left).encode())
        stream.seek(0)
        number = _kept(stream.fileno())
    for output in (sys.stdout, sys.stderr):
        if output is not None:
            output.flush()
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    flags += ["-u"] if getattr(sys.stdout, "write_through", False) else []
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from importlib import import_module;"
        f" phoenix = import_module({__name__!r}); phoenix._resume({number}, phoenix.main)"
    )
    os.execv(sys.executable, [sys.executable, *flags, "-c", code, *sys.argv])


def _resume(number: int, main: Callable[[], int | None]) -> None:  # pyright: ignore[reportUnusedFunction]
    """Run the program again, in the place of a process that has left things in the file *number*.

    *main* runs the command line.
    """
    import runpy

    with open(number, "rb") as stream:
        _inherited.update(jsonlib.loads(stream.read()))
    del sys.argv[0]
    kind, program = _inherited["program"]
    try:
        if kind == "command":
            sys.modules["__main__"].__file__ = program
            sys.exit(main())
        elif kind == "module":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except KeyboardInterrupt:
        return
    except BaseException as error:
        if not _inherited or isinstance(error, SystemExit) and not error.code:
            raise  # it has served, or has ended by itself
        _wait_for_mend(error)


def _wait_for_mend(error: BaseException) -> None:
    """Answer every request with the *error* that the program ended with, until its code is changed."""
    found = _short_traceback(error)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, str) else f"exit code {error.code}"
        found = f"the program ended before it served: {code}"
    failure = CompilationError(found)
    failure.__cause__ = error

    def error_page(conn: Any) -> Any:
        return conn.endpoint._answer_error(conn, failure, 500)

    endpoints = []
    for left in _inherited.get("servers", ()):
        endpoint = Endpoint(error_page, name=left.get("name"), **_BARE)
        endpoint.server = endpoint.make_server(*left["address"][:2])
        endpoint.server.address = left["address"]
        endpoints.append(endpoint)
    _set_up_logging(endpoints[0])
    logger.error("the new code does not start: waiting for the next save\n%s", found)
    reloader = _Reloader(endpoints, True, is_broken=True)
    trace = error.__traceback__
    while trace is not None:
        reloader.look_after(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    reloader.look_after(getattr(error, "filename", None))
    reloader.look_after(_inherited["program"][1])
    _serve_all(endpoints, reloader)


def _short_traceback(error: BaseException) -> str:
    """Return where the app failed, without the way by which it was imported."""
    import traceback

    found = traceback.TracebackException.from_exception(error)
    own = [frame for frame in found.stack if not frame.filename.startswith("<frozen ")]
    while own and (_is_this_file(own[0].filename) or os.path.basename(own[0].filename) in ("runpy.py", "<string>")):
        del own[0]
    while own and isinstance(error, PhoenixError) and _is_this_file(own[-1].filename):
        del own[-1]  # the message tells what is wrong with the app, and this is not where
    found.stack = traceback.StackSummary.from_list(own)
    return "".join(found.format())


# --- Running ------------------------------------------------------------------------------


def _serve_all(
    endpoints: Sequence[Endpoint], reloader: _Reloader | None, run: Callable[[Any], Any] = _run_fairly
) -> None:
    """Serve endpoints whose servers are made, as ``Endpoint.run`` does; *run* is that of another loop."""
    _warn_of_sections(endpoints)
    servers = [endpoint.server or endpoint.make_server() for endpoint in endpoints]
    _hand_out(_sockets_of_systemd(), servers)
    try:
        run(_serve_until_stopped(endpoints, servers, reloader))
    except KeyboardInterrupt:
        pass


def _warn_of_sections(endpoints: Sequence[Endpoint]) -> None:
    """Tell about config for an endpoint whose name looks like a mistake; one that is not here may run elsewhere."""
    here = {id(each): each for each in endpoints}
    for endpoint in endpoints:
        here.update((id(each), each) for each in vars(endpoint.module or types).values() if isinstance(each, Endpoint))
    names = {each.name for each in here.values()}
    for name, where in {pair: None for endpoint in endpoints for pair in endpoint._other_sections.items()}:
        if name not in names and (hint := _did_you_mean(name, names)):
            logger.warning("%s: there is no endpoint %r here.%s", where, name, hint)


def _hand_out(sockets: Sequence[Any], servers: Sequence[Server]) -> None:
    """Let *servers* listen on sockets of systemd: a single one on all of them, several on one each."""
    if len(servers) > 1 and len(sockets) not in (0, len(servers)):
        sys.exit(f"systemd opened {len(sockets)} sockets for {len(servers)} apps: expected one each, in their order")
    for at, server in enumerate(servers if sockets else ()):
        server.sockets = list(sockets if len(servers) == 1 else sockets[at : at + 1])


async def _serve_until_stopped(
    endpoints: Sequence[Endpoint], servers: Sequence[Server], reloader: _Reloader | None
) -> None:
    """Serve until a signal comes, or until all of them have given up; one that does leaves the others alone."""
    import asyncio
    import signal

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        if reloader is not None:
            reloader.is_over = True

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, end)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            pass
    started: list[Server] = []
    watchdog = None
    try:
        _take_over(servers)
        for endpoint, server in zip(endpoints, servers):
            if reloader is not None:
                reloader.attach(endpoint, server, stop.set)
        for endpoint, server in zip(endpoints, servers):
            await _start_server(endpoint, server)
            started.append(server)
        if any(endpoint.env == "dev" for endpoint in endpoints):
            watchdog = _Watchdog(loop)
        _inherited.clear()
        if reloader is not None:
            reloader.start()
        told = loop.create_task(stop.wait())
        running = {server.ended: " and ".join(server.urls) for server in started}
        while running and not told.done():
            ended, _ = await asyncio.wait({told, *running}, return_when=asyncio.FIRST_COMPLETED)
            for each in ended - {told}:
                place = running.pop(each)
                if running:
                    logger.critical("%s has stopped; what goes on: %s", place, ", ".join(running.values()))
        if reloader is not None and reloader.changed and not reloader.is_over:
            await reloader.start_again([server for server in started if not server.stopping])
    finally:
        if watchdog is not None:
            watchdog.stop()
        if reloader is not None:
            reloader.end()
        await asyncio.gather(*(server.stop() for server in started))
    if any(endpoint.gave_up for endpoint in endpoints):
        sys.exit(1)


def _take_over(servers: Sequence[Server]) -> None:
    """Let servers have what the process before this one left to those of the same address; close the rest."""
    left = list(_inherited.get("servers", ()))
    for server in servers:
        server.inherited = next((each for each in left if each["address"] == server.address), {})
        if server.inherited:
            left.remove(server.inherited)
    for each in left:
        for number, _ in (*each.get("listeners", ()), *each.get("connections", ())):
            os.close(number)


async def _start_server(endpoint: Endpoint, server: Server) -> None:
    """Start the server of *endpoint* and say where it is; exit with what is wrong if it cannot be there."""
    import errno

    try:
        await server.start()
    except OSError as error:
        if error.filename is None:
            sys.exit(f"cannot listen on the Unix socket {server.uds}: {error.strerror or error}")
        host, _, port = error.filename.rpartition(":")
        if error.errno == errno.EADDRINUSE:
            is_https = server.https is not None and port == str(server.https[1])
            other = 'https={"port": 4443}' if is_https else "PORT=4001"
            sys.exit(f"Port {port} is already in use: stop what runs there, or set another, as in {other}")
        hint = ""
        if error.errno == errno.EACCES:
            hint = ".\nPorts below 1024 need a right: set another, or grant CAP_NET_BIND_SERVICE to this process"
        elif not _is_this_machine(host):
            hint = f'.\nExpected an address of this machine; a public name goes into url={{"host": "{host}"}}'
        sys.exit(f"cannot listen on {error.filename}: {error.strerror or error}{hint}")
    except PhoenixError as error:
        logger.critical("%s", error, exc_info=error.__cause__)
        sys.exit(1)
    if "listeners" not in server.inherited:
        print(f"Running {endpoint.name} on {' and '.join(server.urls)} ({endpoint.env}), Ctrl-C stops", flush=True)


# ==========================================================================================
# 16. Testing                                                    depends on: all that is above
# ==========================================================================================
#
# A test needs no server. `app.test()` gives a client that calls the endpoint in this process and
# keeps cookies as a browser does; what it returns is the conn, as it was when it was answered.
# A plug, or a pipeline of them, is tested alone: `build_conn` makes a conn as a request would,
# and `run_plug` hands it over.
#
# Plain functions run in the test's own thread. An `async def` runs on a loop that the client keeps
# from request to request, and no request takes longer than the client's `timeout`: a test can
# fail, but not hang.
#
# Source: Phoenix.ConnTest, Plug.Test.

__all__ += ["TestClient", "build_conn", "run_plug", "response_body"]


def build_conn(
    method: str = "GET", path: str = "/", params: Mapping[str, Any] | None = None, *, json: Any = None,
    files: Mapping[str, Upload | Sequence[Upload]] | None = None, body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None, session: Mapping[str, Any] | None = None, host: str = "localhost",
    scheme: str = "http", remote_ip: str = "127.0.0.1", endpoint: Any = None,
) -> Conn:
    """Make a conn as a request would: ``build_conn("POST", "/users", {"user": {"name": "Ann"}})``.

    *path* may hold a query, or be a URL. *params* are sent as a form, or as the query of a GET or HEAD; *json* as JSON;
    *files*, a name of a field -> ``Upload``, in a multipart form; *body* as it is. Bodies have yet to be parsed, which
    ``Parsers()`` does. With *session* (``{"user_id": 7}``) the session is fetched already and holds these values.

    Raises ``ArgumentError`` for several bodies, and for a *body* whose type no header tells.
    """
    if "://" in path and not path.startswith("/"):
        scheme, _, rest = path.partition("://")
        host, slash, path = rest.partition("/")
        path = slash + path or "/"
    path, _, query = path.partition("?")
    fields = {"host": [host]}
    fields.update((_header_name(field), [_header_value(field, value)]) for field, value in (headers or {}).items())
    name, port = _parse_host(fields["host"][0])
    if params and method in ("GET", "HEAD"):
        query = "&".join(part for part in (query, encode_query(params)) if part)
        params = None
    content_type, data = _request_body(params, json, files, body)
    if body is not None and "content-type" not in fields:
        raise ArgumentError(
            "a content-type header is required when setting a binary body in a test connection:\n"
            'headers={"content-type": "text/plain"}'
        )
    if content_type:
        fields.setdefault("content-type", [content_type])
    if data or method in ("POST", "PUT", "PATCH"):
        fields.setdefault("content-length", [str(len(data))])
    port = port or (443 if scheme == "https" else 80)
    place = quote(path, safe="/%!$&'()*+,;=:@~"), query
    conn = Conn(method, *place, fields, scheme, name, port, remote_ip, Adapter(data), endpoint)
    conn._in_worker = True  # this thread is as good as a worker's: plain functions need not go elsewhere
    if session is not None:
        Session(secret="of a test, which nobody else needs to know " * 2)(conn).fetch_session().session.update(session)
    return conn


def _request_body(
    params: Mapping[str, Any] | None, json: Any, files: Mapping[str, Upload | Sequence[Upload]] | None,
    body: bytes | str | None,
) -> tuple[str, bytes]:
    """Return content type and bytes of a request's body; each of them may be empty."""
    if sum(given is not None for given in (files or params, json, body)) > 1:
        raise ArgumentError("a request has one body: give one of params (with files), json and body")
    if files:
        return _multipart_body(params or {}, files)
    if json is not None:
        return "application/json", encode_json(json).encode()
    if params is not None:
        return "application/x-www-form-urlencoded", encode_query(params).encode()
    return "", body.encode() if isinstance(body, str) else body or b""


def _multipart_body(params: Mapping[str, Any], files: Mapping[str, Upload | Sequence[Upload]]) -> tuple[str, bytes]:
    """Write a form with files as a browser does (RFC 7578)."""
    boundary = "----phoenix" + os.urandom(12).hex()
    written: list[bytes] = []

    def write(head: str, content: bytes) -> None:
        written.append(f"--{boundary}\r\ncontent-disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n")

    for pair in _encode_pairs("", params):
        field, _, value = pair.partition("=")
        write(f'name="{_quoted_name(_undo_form(field).decode())}"', _undo_form(value))
    for field, given in files.items():
        for upload in [given] if isinstance(given, Upload) else given:
            name, filename = _quoted_name(field), _quoted_name(upload.filename)
            upload.file.seek(0)
            write(f'name="{name}"; filename="{filename}"\r\ncontent-type: {upload.content_type}', upload.file.read())
    return f"multipart/form-data; boundary={boundary}", b"".join(written) + f"--{boundary}--\r\n".encode()


def _undo_form(text: str) -> bytes:
    return unquote_to_bytes(text.replace("+", " "))


def _quoted_name(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def run_plug(conn: Any, target: Any, /, *arguments: Any, **options: Any) -> Any:
    """Run a plug as ``plug(target, ...)`` would, and return the conn::

        conn = run_plug(build_conn("GET", "/", {"locale": "fr"}), locale, default="en")
        assert conn.assigns["locale"] == "fr"

    *target* may be anything that can be plugged, a ``Pipeline`` among them. Raises what the plug raises.
    """
    return _TestLoop().finish(run_steps(conn, _steps([PlugEntry(target, arguments, options, _caller())])))


_left_loops: list[Any] = []  # to be closed when the next is made: a finalizer, which runs anywhere, must not wait


def _close_left_loops() -> None:
    while _left_loops:
        _close_loop(_left_loops.pop())


class _TestLoop:
    """Runs what has to wait, on an event loop that is made for the first and kept for those that follow."""

    _closed_at_exit: ClassVar[bool] = False

    def __init__(self, timeout: float = 10) -> None:
        self.timeout = timeout  # seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    def finish(self, result: Any) -> Any:
        """Return the conn that *result* is, or is going to be, with all chunks of its response."""
        conn = result if isinstance(result, BaseConn) else self.wait(result)
        parts: Any = conn.resp_body if conn.state == "chunked" else None
        if hasattr(parts, "__aiter__"):
            self.wait(_take_chunks(conn, parts))
        elif parts is not None:
            for part in parts:
                conn.chunk(part)
        return conn

    def wait(self, awaitable: Any) -> Any:
        import asyncio

        if self._loop is None:
            import atexit
            import weakref

            if not _TestLoop._closed_at_exit:  # before the first finalizer is made, so that it is called after them
                _TestLoop._closed_at_exit = True
                atexit.register(_close_left_loops)
            _close_left_loops()
            self._loop = asyncio.new_event_loop()
            weakref.finalize(self, _left_loops.append, self._loop)
        if asyncio._get_running_loop() is None:
            return self._run(self._loop, awaitable)
        return _in_thread(self._run, self._loop, awaitable)  # the test is an `async def` itself

    def _run(self, loop: asyncio.AbstractEventLoop, awaitable: Any) -> Any:
        import asyncio

        async def bounded() -> Any:
            task = asyncio.ensure_future(awaitable)
            done, _ = await asyncio.wait([task], timeout=self.timeout)
            if done:
                return task.result()
            task.cancel()
            await asyncio.wait([task], timeout=1)
            raise AssertionError(f"it took longer than {self.timeout:g} seconds; app.test(timeout=...) waits longer")

        return loop.run_until_complete(bounded())


async def _take_chunks(conn: Any, parts: AsyncIterable[str | bytes]) -> None:
    async for part in parts:
        conn.chunk(part)


def _in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call something in a thread of its own and wait for it."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments).result()


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """End what still runs on *loop*, and close it."""
    import asyncio

    def close() -> None:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=1) if tasks else asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    if not loop.is_closed():
        close() if asyncio._get_running_loop() is None else _in_thread(close)


def _verb_method(method: str) -> Callable[..., Conn]:
    def send(self: TestClient, path: str, params: Mapping[str, Any] | None = None, **options: Any) -> Conn:
        return self.request(method, path, params, **options)

    send.__name__ = method.lower()
    send.__doc__ = f"Send a {method} request, with *params* and the options of ``build_conn``."
    return send


class TestClient:
    """Calls an endpoint as a browser would, without a server::

        client = app.test()
        conn = client.get("/users/7")
        assert "Ann" in client.html_response(conn)

    Each verb returns the ``Conn`` with its response. ``client.cookies`` keeps what responses set, and what stands in
    ``client.headers`` is sent with every request. Errors become pages, as for a real client;
    ``app.test(raise_errors=True)`` raises them instead. Forms need no CSRF token unless ``app.test(csrf=True)``.
    """

    __test__ = False  # pytest: this is no test case

    def __init__(
        self, endpoint: Endpoint, *, raise_errors: bool = False, csrf: bool = False, timeout: float = 10
    ) -> None:
        self.endpoint, self.raise_errors, self.csrf = endpoint, raise_errors, csrf
        self.cookies: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self._loop = _TestLoop(timeout)

    # --- Requests -------------------------------------------------------------------------

    def request(
        self, method: str, path: str, params: Mapping[str, Any] | None = None, *,
        headers: Mapping[str, str] | None = None, **options: Any,
    ) -> Conn:
        """Send a request and return its conn. The options are those of ``build_conn``."""
        given = self._headers(headers or {})
        conn = build_conn(method, path, params, headers=given, endpoint=self.endpoint, **options)
        if not self.csrf:
            conn.private["plug_skip_csrf_protection"] = True
        conn.private["phoenix_on_error"] = self._note_error
        try:
            # as the server has it: what a request sets in context variables is not seen by the next
            contextvars.copy_context().run(lambda: self._loop.finish(self.endpoint.dispatch(conn)))
        finally:
            for clean_up in conn._after or ():
                clean_up()
        if method == "HEAD" and conn.state == "sent":
            conn.resp_body = b""
        self._keep_cookies(conn)
        return conn

    # client.get("/users", {"page": 2}), client.post("/users", {"user": {"name": "Ann"}}, files={"photo": Upload(...)})
    get, head, post = _verb_method("GET"), _verb_method("HEAD"), _verb_method("POST")
    put, patch, delete = _verb_method("PUT"), _verb_method("PATCH"), _verb_method("DELETE")
    options = _verb_method("OPTIONS")

    def _headers(self, *more: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a request: those of every request, *more*, and the cookies."""
        given = {name.lower(): value for headers in (self.headers, *more) for name, value in headers.items()}
        if self.cookies:
            given.setdefault("cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        return given

    def _keep_cookies(self, conn: BaseConn) -> None:
        for cookie in (value for header, value in _header_pairs(conn) if header == "set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            if re.search(r"; *max-age=0\b", cookie.lower()):
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value

    def _note_error(self, conn: Conn, error: Exception) -> None:
        """Called by the endpoint when a plug has raised."""
        if self.raise_errors:
            raise error
        conn.private["phoenix_error"] = error

    def recycle(self, conn: Conn, *names: str) -> TestClient:
        """Send these headers of *conn*'s request with the requests that follow.

        Unless named they are ``accept``, ``accept-language`` and ``authorization``. Cookies are kept anyway.
        """
        for name in names or ("accept", "accept-language", "authorization"):
            if conn.get_req_header(name):
                self.headers[name.lower()] = conn.get_req_header(name)[0]
        return self

    def put_session(self, **values: Any) -> TestClient:
        """Put values into the session of this client: ``client.put_session(user_id=7)`` is a user who has logged in.

        Raises ``ArgumentError`` when the endpoint keeps no sessions.
        """
        store = next((entry.call for _, _, entry in self.endpoint._steps if isinstance(entry.call, Session)), None)
        if store is None:
            raise ArgumentError(f"{self.endpoint!r} has no plug Session, where values could be put")
        conn = store(build_conn(headers=self._headers(), endpoint=self.endpoint)).fetch_session()
        conn.session.update(values)
        self._keep_cookies(conn.send_resp(204, ""))
        return self

    def connect(
        self, path: str, params: Mapping[str, Any] | None = None, *, headers: Mapping[str, str] | None = None,
        timeout: float = 2,
    ) -> TestSocket:
        """Connect to the channels that are mounted at *path*; see ``TestSocket``. Waits take *timeout* seconds at most.

        Raises ``ChannelError`` when the app refuses the connection.
        """
        return TestSocket(self, path, params or {}, headers or {}, timeout)

    # --- Responses ------------------------------------------------------------------------

    def response(self, conn: Conn, status: int | str = 200) -> str:
        """Return the body as text. Raises ``AssertionError`` when the status is another."""
        wanted, body = status_code(status), response_body(conn).decode(errors="replace")
        if conn.status != wanted:
            error = conn.private.get("phoenix_error")
            why = f"\nThe app raised {type(error).__name__}: {error}" if error else ""
            raise AssertionError(f"expected response with status {wanted}, got: {conn.status}, with body:\n{body}{why}")
        return body

    def _typed(self, conn: Conn, status: int | str, format: str) -> str:
        body = self.response(conn, status)
        content_type = (conn.get_resp_header("content-type") or [""])[0]
        if not content_type:
            raise AssertionError(f"no content-type was set, expected a {format} response")
        essence = content_type.partition(";")[0].strip()
        if format not in MIME.extensions(essence) and not essence.endswith("+" + format):
            raise AssertionError(f"expected content-type for {format}, got: {content_type!r}")
        return body

    def html_response(self, conn: Conn, status: int | str = 200) -> str:
        """Return the body of an HTML response."""
        return self._typed(conn, status, "html")

    def text_response(self, conn: Conn, status: int | str = 200) -> str:
        """Return the body of a plain text response."""
        return self._typed(conn, status, "text")

    def json_response(self, conn: Conn, status: int | str = 200) -> Any:
        """Return the decoded body of a JSON response, which may be of a type such as ``application/vnd.api+json``."""
        return jsonlib.loads(self._typed(conn, status, "json"))

    def redirected_to(self, conn: Conn, status: int | str = 302) -> str:
        """Return where the response redirects to."""
        if conn.status != status_code(status):
            raise AssertionError(f"expected redirection with status {status_code(status)}, got: {conn.status}")
        location = conn.get_resp_header("location")
        if not location:
            raise AssertionError("no location header was set on the redirection")
        return location[0]

    def redirected_params(self, conn: Conn, status: int | str = 302) -> dict[str, Any]:
        """Return the params of the route that the response redirects to: ``{"id": "7"}`` for ``/users/7``."""
        location = self.redirected_to(conn, status)
        path, _, query = location.partition("#")[0].removeprefix(self.endpoint.url()).partition("?")
        found = self.endpoint.router.route_info("GET", path.removeprefix(self.endpoint.path_prefix))
        if found is None:
            raise AssertionError(f"the response redirects to {location}, and {self.endpoint!r} has no route for that")
        return {**decode_query(query), **found["path_params"]}

    def assert_error_sent(self, status: int | str, call: Callable[..., Conn], *arguments: Any, **options: Any) -> Conn:
        """Check that the app raised an error, and answered it with a page of this status; return the conn::

            conn = client.assert_error_sent(404, client.get, "/users/unknown")
            assert conn.private["phoenix_error"].args == ("unknown",)
        """
        raises, self.raise_errors = self.raise_errors, False
        try:
            conn = call(*arguments, **options)
        finally:
            self.raise_errors = raises
        wanted = status_code(status)
        if "phoenix_error" not in conn.private:
            raise AssertionError(
                f"expected error to be sent as {wanted} status, but response sent {conn.status} without error"
            )
        self.response(conn, wanted)
        return conn


def response_body(conn: BaseConn) -> bytes:
    """Return the bytes of a conn's response, in whatever form it has them."""
    body = conn.resp_body
    if isinstance(body, _File):
        with open(body.path, "rb") as stream:
            stream.seek(body.offset)
            return stream.read(body.length)
    if conn.state in ("chunked", "broken"):
        return b"".join(conn.adapter.chunks)
    return body.encode() if isinstance(body, str) else body or b""


# --- Channels: a client -------------------------------------------------------------------
#
# Channels live on while a test does other things: they run on an event loop in a thread of its own,
# which ends with the last client. So a test is a plain function, and every wait of it is bounded.
#
# Source: Phoenix.ChannelTest.

__all__ += ["TestSocket", "TestChannel"]


class TestSocket:
    """A client of channels, without a server::

        with app.test().connect("/ws", {"token": "abc"}) as socket:
            room = socket.join("rooms:lobby", {"name": "Ann"})
            ref = room.push("ping")
            room.assert_reply(ref, "ok", {"pong": True})
            app.broadcast("rooms:lobby", "new:msg", {"body": "hi"})
            room.assert_push("new:msg", {"body": "hi"})

    It speaks V2, so what arrives has been JSON. Close it, or use it in a ``with``, to end what runs for it.
    """

    __test__ = False

    def __init__(
        self, client: TestClient, path: str, params: Mapping[str, Any], headers: Mapping[str, str], timeout: float
    ) -> None:
        self.endpoint = client.endpoint
        self.timeout = timeout  # seconds
        self._refs = 0
        self._inbox = _Inbox()
        self._heard: list[tuple[str, _Inbox]] = []  # topics, and what is broadcast there
        self._wire: Any = None
        self._host: Any = _TestHost.of(self.endpoint)
        try:
            self._wire = self._on_loop(self._open(client, path, params, headers))
        finally:
            if self._wire is None:
                self._host.release()

    def __enter__(self) -> TestSocket:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def _open(
        self, client: TestClient, path: str, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> _TestWire:
        handshake = {
            "upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }  # fmt: skip
        given = client._headers(handshake, headers)
        path, mark, query = path.partition("?")
        path = f"{path.rstrip('/')}/websocket{mark}{query}"
        conn = build_conn("GET", path, {**params, "vsn": "2.0.0"}, headers=given, endpoint=self.endpoint)
        conn.adapter, conn._in_worker = _TestAdapter(self._host), False
        conn.private["phoenix_on_error"] = client._note_error
        answered = self.endpoint.dispatch(conn)
        if not isinstance(answered, BaseConn):
            answered = await answered
        upgraded: Any = answered.resp_body if answered.state == "upgraded" else None
        session = getattr(upgraded, "handler", None)
        if not isinstance(session, _Session):
            raise ChannelError(f"GET {path} was answered with {answered.status}, expected it to become a connection")
        wire = _TestWire(self._host, session, self._inbox)
        session.opened(wire)
        return wire

    def _on_loop(self, coroutine: Any) -> Any:
        """Run a coroutine where the channels are, and wait for it."""
        import asyncio
        from concurrent.futures import TimeoutError as TooLate

        future = asyncio.run_coroutine_threadsafe(coroutine, self._host.loop)
        try:
            return future.result(self.timeout)
        except TooLate:
            if future.done():
                raise
            future.cancel()
            raise AssertionError(f"it took longer than {self.timeout:g} seconds") from None

    def join(
        self, topic: str, params: Mapping[str, Any] | None = None, *, status: str = "ok", timeout: float | None = None
    ) -> TestChannel:
        """Join a topic; the channel has the ``response``. Raises ``AssertionError`` for an answer that is not *status*.

        ``socket.join("rooms:secret", status="error").response == {"reason": "unauthorized"}``
        """
        return TestChannel(self, topic, params, status, self.timeout if timeout is None else timeout)

    def assert_closed(self, code: int | None = None, *, timeout: float | None = None) -> int:
        """Check that the server closes the connection, with *code* if one is given; return the code."""
        seconds = self.timeout if timeout is None else timeout
        found = self._inbox.take(lambda message: message[0] == "closed", seconds, keep=True)
        if found is None:
            raise AssertionError(f"the connection was not closed within {seconds:g} s")
        if code is not None and found[1] != code:
            raise AssertionError(f"the connection was closed with {found[1]}, expected {code}")
        return int(found[1])

    def close(self) -> None:
        """End the connection, as a client does that goes away, and wait for the channels' last callbacks."""
        host, wire = self._host, self._wire
        if host is None:
            return

        async def hang_up() -> None:
            wire.session.ended("closed", 1000)
            if wire.kept:
                wire.all_done = wire.loop.create_future()
                await wire.all_done

        try:
            self._on_loop(hang_up())
        finally:
            for topic, inbox in self._heard:
                self.endpoint.pubsub.unsubscribe(topic, inbox.put)
            self._host = None
            host.release()

    def _send(self, join_ref: str | None, topic: str, event: str, payload: Any) -> str:
        if self._host is None:
            raise ChannelError("this client is closed")
        self._refs += 1
        ref = str(self._refs)
        if isinstance(payload, bytes):
            data: str | bytes = _encode_binary(0, (join_ref or ref, ref, topic, event), payload)
        else:
            data = encode_json([join_ref or ref, ref, topic, event, {} if payload is None else payload])
        _call_on(self._host.loop, self._wire.session.received, data)
        return ref


class TestChannel:
    """A topic that a ``TestSocket`` has joined.

    ``response`` is what the join was answered with, ``socket`` the server's own ``Socket``. What is asserted to have
    come is taken out of the mailbox. A dict that is expected is a pattern: what comes may hold more.
    """

    __test__ = False

    def __init__(
        self, client: TestSocket, topic: str, params: Mapping[str, Any] | None, status: str, timeout: float
    ) -> None:
        self.client, self.topic = client, topic
        self._broadcasts = _Inbox()
        client._heard.append((topic, self._broadcasts))
        client.endpoint.pubsub.subscribe(topic, self._broadcasts.put)
        self.join_ref = client._send(None, topic, "phx_join", params)
        self.response = self.assert_reply(self.join_ref, status, timeout=timeout)

    @property
    def socket(self) -> Socket | None:
        """The server's side; ``None`` when it has left."""
        return self.client._wire.session.sockets.get(self.topic)  # type: ignore[no-any-return]

    def push(self, event: str, payload: Mapping[str, Any] | bytes | None = None) -> str:
        """Send an event; the ref that is returned is for ``assert_reply``."""
        return self.client._send(self.join_ref, self.topic, event, payload)

    def leave(self, payload: Mapping[str, Any] | None = None) -> None:
        """Leave the topic, and wait until that is answered."""
        self.assert_reply(self.push("phx_leave", payload), "ok")

    def assert_reply(self, ref: str, status: str = "ok", response: Any = None, *, timeout: float | None = None) -> Any:
        """Check that a message is answered with *status*, and *response* unless that is ``None``; return what came."""
        what = f"message {ref} on {self.topic!r} was not answered"
        got = self._expect(self.client._inbox, _is_reply(ref), timeout, what)[4]
        if got["status"] != status or not _like(got["response"], response):
            expected = f"{status!r}" if response is None else f"{status!r} and {response!r}"
            raise AssertionError(
                f"message {ref} on {self.topic!r} was answered with {got['status']!r} and {got['response']!r},"
                f" expected {expected}"
            )
        return got["response"]

    def refute_reply(self, ref: str, *, timeout: float = 0.1) -> None:
        """Check that a message is not answered within *timeout* seconds."""
        found = self.client._inbox.take(_is_reply(ref), timeout)
        if found is not None:
            raise AssertionError(f"message {ref} on {self.topic!r} was answered: {found[4]!r}")

    def assert_push(self, event: str, payload: Any = None, *, timeout: float | None = None) -> Any:
        """Check that an event is sent to this client, for it alone or for all; return its payload.

        ``phx_error`` says that the channel crashed, ``phx_close`` that it ended.
        """
        what = f"no {self._described(event, payload)} was pushed"
        return self._expect(self.client._inbox, self._is_push(event, payload), timeout, what)[4]

    def refute_push(self, event: str, payload: Any = None, *, timeout: float = 0.1) -> None:
        """Check that an event is not sent to this client within *timeout* seconds."""
        found = self.client._inbox.take(self._is_push(event, payload), timeout)
        if found is not None:
            raise AssertionError(f"{event!r} was pushed on {self.topic!r}: {found[4]!r}")

    def assert_broadcast(self, event: str, payload: Any = None, *, timeout: float | None = None) -> Any:
        """Check that an event is broadcast on the topic since the join; return its payload, as it was given."""
        what = f"no {self._described(event, payload)} was broadcast"
        return self._expect(self._broadcasts, _is_broadcast(event, payload), timeout, what).payload

    def refute_broadcast(self, event: str, payload: Any = None, *, timeout: float = 0.1) -> None:
        """Check that an event is not broadcast on the topic within *timeout* seconds."""
        found = self._broadcasts.take(_is_broadcast(event, payload), timeout)
        if found is not None:
            raise AssertionError(f"{event!r} was broadcast on {self.topic!r}: {found.payload!r}")

    def _is_push(self, event: str, payload: Any) -> Callable[[Any], bool]:
        def matches(message: Any) -> bool:
            join_ref, _, topic, name, got = message
            return topic == self.topic and name == event and join_ref in (None, self.join_ref) and _like(got, payload)

        return matches

    def _described(self, event: str, payload: Any) -> str:
        return f"{event!r} on {self.topic!r}" + ("" if payload is None else f" like {payload!r}")

    def _expect(self, inbox: _Inbox, matches: Callable[[Any], bool], timeout: float | None, what: str) -> Any:
        """Return the message that matches. Raises ``AssertionError``, which lists what came instead."""
        seconds = self.client.timeout if timeout is None else timeout
        found = inbox.take(matches, seconds)
        if found is None:
            came = inbox.items
            if inbox is self.client._inbox:  # which all topics share
                came = [message[3:] for message in came if message[2] == self.topic]
            shown = "".join(f"\n    {each!r}" for each in came) or " nothing else"
            raise AssertionError(f"{what} within {seconds:g} s. There was:{shown}")
        return found


def _is_reply(ref: str) -> Callable[[Any], bool]:
    return lambda message: message[1] == ref and message[3] == "phx_reply"


def _is_broadcast(event: str, payload: Any) -> Callable[[Any], bool]:
    return lambda message: isinstance(message, Broadcast) and message.event == event and _like(message.payload, payload)


def _like(value: Any, pattern: Any) -> bool:
    """Tell whether *value* has what *pattern* has; ``None`` is like anything, a dict like one that has more."""
    if pattern is None:
        return True
    if isinstance(pattern, Mapping) and isinstance(value, Mapping):
        return all(
            key in value and (_like(value[key], part) if part is not None else value[key] is None)
            for key, part in pattern.items()
        )
    return bool(value == pattern)


class _Inbox:
    """What came, and has not been asked for."""

    def __init__(self) -> None:
        from threading import Condition

        self.items: list[Any] = []
        self._changed = Condition()

    def put(self, item: Any) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def take(self, matches: Callable[[Any], bool], timeout: float, keep: bool = False) -> Any:
        """Return the first item that matches, now or within *timeout* seconds, else ``None``."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for at, item in enumerate(self.items):
                    if matches(item):
                        return item if keep else self.items.pop(at)
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)


class _TestHost:
    """An event loop in a thread of its own, on which the channels of tests run as long as there are clients."""

    def __init__(self, pubsub: PubSub, threads: int) -> None:
        import asyncio
        from threading import Event, Thread

        self.pubsub = pubsub
        self.clients = 0
        self.loop = asyncio.new_event_loop()
        self.workers = _Workers(threads)
        self.create_task = _task_maker(self.loop)
        ready = Event()
        self.loop.call_soon(ready.set)
        self._thread = Thread(target=self._run, name="phoenix-test", daemon=True)
        self._thread.start()
        ready.wait(10)

    @staticmethod
    def of(endpoint: Endpoint) -> Any:
        """Return what runs the channels of an endpoint: a server that is up in this process, or a host."""
        pubsub = endpoint.pubsub
        host = pubsub._host
        if host is None and pubsub._loop is not None and pubsub._loop.is_running():
            if pubsub._thread == _get_ident():
                raise PhoenixError("the endpoint serves in this very thread: a test that waits here waits for itself")
            return _ServerHost(endpoint.server)
        if host is None:
            host = pubsub._host = _TestHost(pubsub, endpoint.options["threads"])
        host.clients += 1
        return host

    def release(self) -> None:
        """A client is closed."""
        self.clients -= 1
        if self.clients == 0:
            self.pubsub._host = None
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(10)

    def _run(self) -> None:
        self.pubsub._serve_on(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.pubsub._loop = None
            self.workers.stop()
            _close_loop(self.loop)


class _ServerHost:
    """A server that is up in another thread of this process, as a host."""

    def __init__(self, server: Any) -> None:
        self.loop, self.workers, self.create_task = server.loop, server.workers, server.create_task

    def release(self) -> None:
        """It goes on without this client."""


class _TestAdapter(Adapter):
    """The far side of a conn whose plain functions run in worker threads, as a server's do."""

    def __init__(self, host: Any) -> None:
        super().__init__()
        self.host = host

    async def in_worker(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await self.host.workers.run(self.host.loop, call, *arguments)


class _TestWire:
    """The wire of a test: what is sent to the client lies in its inbox."""

    def __init__(self, host: Any, session: _Session, inbox: _Inbox) -> None:
        self.host, self.session, self.inbox = host, session, inbox
        self.loop = host.loop
        self.thread = _get_ident()
        self.create_task = host.create_task
        self.kept: set[Any] = set()
        self.all_done: Any = None

    @staticmethod
    def encode(data: str | bytes) -> str | bytes:
        return data

    def write(self, data: str | bytes) -> None:
        if not self.session.closed:
            self.inbox.put(jsonlib.loads(data) if isinstance(data, str) else _decode_binary_from_server(data))

    async def in_worker(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await self.host.workers.run(self.loop, call, *arguments)

    def keep(self, socket: Any) -> None:
        self.kept.add(socket)

    def release(self, socket: Any) -> None:
        self.kept.discard(socket)
        if not self.kept and self.all_done is not None:
            _resolve(self.all_done)

    def pause_reading(self) -> None:
        """A test sends as much as it likes."""

    def resume_reading(self) -> None:
        """It was not paused."""

    def cut_off(self) -> None:
        self.close(1013, "too slow")

    def close(self, code: int, reason: str) -> None:
        if not self.session.closed:
            self.inbox.put(("closed", code, None, None, reason))
            self.session.ended("closed", code)


def _decode_binary_from_server(data: bytes) -> list[Any]:
    """Read a binary frame as a client does: ``[join_ref, ref, topic, event, payload]``."""
    *fields, payload = _decode_binary(data, (4, 5, 3)[data[0]])
    if data[0] == 0:
        return [fields[0] or None, None, *fields[1:], payload]
    if data[0] == 1:
        join_ref, ref, topic, status = fields
        return [join_ref or None, ref or None, topic, "phx_reply", {"status": status, "response": payload}]
    return [None, None, *fields, payload]

# ==========================================================================================
# 17. Command line                                               depends on: all that is above
# ==========================================================================================
#
# `python phoenix.py server app:app`. A command finds an app by the name of its module, which is
# looked for in the working directory first, and does one thing with it. What goes wrong is
# answered in one or two sentences with the line to type instead: exit code 2 when the line was
# wrong, 1 when the app was.
#
# Behind the commands stand the files that `new` writes, as they are written, and last of all the
# lines by which this file, run as a script, hands over to the module that apps import.
#
# Source: the Mix tasks phoenix.new, phoenix.routes and phoenix.server.


class _Refused(Exception):
    """A command cannot do what it was asked to; *words* are what to type instead."""

    def __init__(self, message: str, *words: str, code: int = 2) -> None:
        super().__init__(message)
        self.line, self.code = _typed(*words), code


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run a command, ``main(["routes", "app:Router"])``, by default that of the command line. Return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run_command(words)
        sys.stdout.flush()
        return code
    except _Refused as refused:
        print(_coloured("31", "phoenix:", sys.stderr), refused, file=sys.stderr)
        if refused.line:
            print(f"\n    {_program()} {refused.line}\n", file=sys.stderr)
        return refused.code
    except PhoenixError as error:  # the app is wrong, and its message says how
        if _inherited:
            raise
        print(_coloured("31", f"{type(error).__name__}:", sys.stderr), error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # as in `phoenix routes | head`: there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run_command(words: list[str]) -> int | None:
    parser, commands = _command_parser()
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words:
        parser.print_help(sys.stderr)
        return 2
    if not words[0].startswith("-") and words[0] not in commands:
        near = _did_you_mean(re.sub(r"^(phoenix|phx)\.", "", words[0]), commands, "{}")  # as the Mix tasks are called
        hint = f"Did you mean {near!r}?" if near else "To list the commands type:"
        raise _Refused(f"unknown command {words[0]!r}. {hint}", *([near, *words[1:]] if near else ["--help"]))
    command = commands.get(words[0])
    # Words may follow an option, as in `new my_app --one-file folder`: the plain way of argparse leaves them over.
    options, rest = command.parse_known_intermixed_args(words[1:]) if command else parser.parse_known_args(words)
    if rest or not command:
        unknown = (rest or words)[0]
        hint = _did_you_mean(unknown, (command or parser)._option_string_actions)
        raise _Refused(f"unknown argument {unknown!r}.{hint} Expected a line such as:", *options.line.split())
    return options.run(options)  # type: ignore[no-any-return]


def _typed(*words: str) -> str:
    """Return words as one would type them: quoted where the shell needs it, empty ones left out."""
    import shlex

    return shlex.join(filter(None, words))


def _command_parser() -> tuple[Any, Mapping[str, Any]]:
    """Return the parser of command lines, and those of the commands by name."""
    import argparse  # slow to import, and an app that is served otherwise never needs it

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise _Refused(f"{message}. Expected a line such as:", *self.get_default("line").split())

    parser = Parser(
        prog=_program(), allow_abbrev=False, description="Phoenix, the web framework in one file.",
        epilog=f"example:\n  {_program()} new my_app\n  {_program()} server --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(line="--help")
    parser.add_argument("--version", action="version", version=f"phoenix {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)

    def command(run: Callable[[Any], int | None], line: str, help: str, **settings: Any) -> Any:
        found = commands.add_parser(
            line.split()[0], help=help, description=f"{help}.", epilog=f"example:\n  {_program()} {line}",
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings,
        )  # fmt: skip
        found.set_defaults(run=run, line=line)
        return found

    new = command(_new, "new my_app", "Create an app, or bring an existing one up to date")
    new.add_argument("name", help="name of the app, such as my_app")
    new.add_argument("path", nargs="?", help="folder for it, by default one of that name here")
    new.add_argument("--one-file", action="store_true", help="write all of the app into a single app.py")
    new.add_argument("--force", action="store_true", help="replace files that are there and differ")

    server = command(_server, "server app:app --port 4000", "Start the server", aliases=["start"])
    server.add_argument("apps", nargs="*", metavar="APP", default=["app"], help=f"{_APP_HELP}; app unless given")
    server.add_argument("--host", help="address to listen on: 0.0.0.0 for all; 127.0.0.1 unless the app says otherwise")
    server.add_argument("--reload", action="store_true", default=None, help="run changed code; in dev it is on anyway")
    server.add_argument("--no-reload", action="store_false", dest="reload", help="run the code as it was at the start")
    server.add_argument("--port", type=int, help="port to listen on; of several apps each takes the next")
    loops = ["asyncio", "uvloop", "winloop"]
    server.add_argument("--loop", choices=loops, default="asyncio", help="what runs the event loop; asyncio unless given")
    server.add_argument("--uds", metavar="PATH", help="Unix socket to listen on instead, as for nginx")

    routes = command(_routes, "routes app:Router", "Print the routes")
    routes.add_argument("app", nargs="?", metavar="APP", default="app", help=f"{_APP_HELP}; app unless given")
    routes.add_argument("words", nargs="*", metavar="WORD", help="list only routes with this verb or text in them")
    routes.add_argument("--match", nargs="+", metavar="PART", help="tell what answers a request: --match GET /users/1")
    routes.add_argument("--json", action="store_true", help="print JSON, for programs")

    shell = command(_shell, "shell app:app", "Open a Python console with the app in it")
    shell.add_argument("app", nargs="?", metavar="APP", default="app", help=f"{_APP_HELP}; app unless given")

    gen = command(_gen, "gen secret", "Generate a secret for sessions and tokens")
    gen.add_argument("what", choices=["secret"], help="a value for SECRET_KEY_BASE")

    gettext = command(_gettext, "gettext extract", "Collect the texts to translate into priv/gettext")
    gettext.add_argument("what", choices=["extract"], help="from Python files and templates; catalogs are updated")
    gettext.add_argument("folder", nargs="?", default=".", help="that of the app; this one unless given")
    gettext.add_argument("--locale", action="append", default=[], help="begin a catalog for this language, such as de")

    js = command(_js, "js", "Write phoenix.js, the browser client of channels")
    default = "priv/static/js/phoenix.js"
    js.add_argument("path", nargs="?", default=default, help=f"file or folder; {default} unless given")
    js.add_argument("--force", action="store_true", help="replace a file that is there and differs")
    return parser, commands.choices


_APP_HELP = "a router or endpoint, such as app:Router, or the module or file that holds one"


def _program() -> str:
    """Return how this program was called, as one would type it again: ``python phoenix.py``."""
    started = sys.modules["__main__"]
    if not _same_file(getattr(started, "__file__", None), __file__):
        return "phoenix" if os.path.basename(sys.argv[0]).startswith("phoenix") else f"{_python()} -m {__name__}"
    spec = started.__spec__
    return f"{_python()} {sys.argv[0]}" if spec is None else f"{_python()} -m {spec.name}"


def _python() -> str:
    return os.path.basename(sys.executable or "python").removesuffix(".exe")


def _same_file(one: str | None, other: str) -> bool:
    return one is not None and os.path.realpath(one) == os.path.realpath(other)


def _coloured(code: str, text: str, stream: Any) -> str:
    """Return *text* in a colour (ECMA-48 §8.3.117) if *stream* is a terminal that shows it."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or os.name == "nt" or not stream.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


# --- Finding the app ----------------------------------------------------------------------
#
# Routers and endpoints are told by their methods and not by their class: an app may stand on its
# own copy of this file, in its package, while another one runs the command.


def _is_endpoint(value: Any) -> bool:
    return hasattr(type(value), "make_server")


def _is_router(value: Any) -> bool:
    return issubclass(type(value), type) and hasattr(value, "route_info") and "route_info" not in vars(value)


class _Target:
    """What a command is for, as typed: ``app``, ``app:Router`` or ``web/app.py``."""

    def __init__(self, text: str, command: str) -> None:
        self.text, self.command = text, command
        self.name, _, self.attribute = text.rpartition(":")
        if not self.attribute.isidentifier() or not self.name:  # as in C:\\app.py
            self.name, self.attribute = text, ""

    def load(self) -> tuple[types.ModuleType, Any]:
        """Return the module, and the value that is named in it, if any.

        Raises ``_Refused``; for a module that raises when it is imported, after its traceback.
        """
        name = self.name
        if name.endswith(".py") or "/" in name or os.sep in name or name in (".", ".."):
            module = self._import_file(name)
        elif re.fullmatch(r"\w+(\.\w+)*", name):  # `02_params` is no identifier, and yet can be imported
            module = self._import(name, os.getcwd())
        else:
            raise _Refused(f"{name!r} is not the name of a module or file, expected one as in:", self.command, "app")
        if not self.attribute:
            return module, None
        if not hasattr(module, self.attribute):
            known = [each for each, value in vars(module).items() if _is_endpoint(value) or _is_router(value)]
            near = _did_you_mean(self.attribute, known, "{}")
            hint = f" Did you mean {near!r}?" if near else ""
            better = f"{name}:{near}" if near else name
            raise _Refused(f"{name} has no {self.attribute!r}.{hint}", self.command, better)
        return module, getattr(module, self.attribute)

    def _import_file(self, path: str) -> types.ModuleType:
        """Import a file as ``python path`` would; of a folder, its app.py. What stands here can be imported too."""
        file = os.path.join(path, "app.py") if os.path.isdir(path) else path.removesuffix(".py").rstrip("/") + ".py"
        if not os.path.isfile(file):
            raise self._missing(f"file {file}", file)
        sys.path.insert(0, os.getcwd())
        folder, name = _place_of_module(file)
        module = self._import(name, folder)
        other = getattr(module, "__file__", None) or "a part of Python"
        if not _same_file(other, file):
            raise _Refused(f"{file} is hidden by another module {name!r}, {other}. Rename it.")
        return module

    def _import(self, name: str, folder: str) -> types.ModuleType:
        if sys.path[:1] != [folder]:
            sys.path.insert(0, folder)
        try:
            __import__(name)
            return sys.modules[name]
        except Exception as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing and f"{name}.".startswith(f"{missing}."):
                raise self._missing(f"module {name!r} in {folder}", name) from None
            if _inherited:
                raise  # the page shows it
            print(_short_traceback(error), end="", file=sys.stderr)
            raise _Refused(f"{name} could not be imported.", code=1) from None

    def _missing(self, what: str, path: str) -> _Refused:
        """Propose the module nearest to *path*, or another that has an endpoint; copies of this file have none."""
        folder, name = os.path.split(path)
        files = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
        files = [file for file in files if file.endswith(".py") and os.path.isfile(os.path.join(folder, file))]
        stems = [file[:-3] for file in files if file != os.path.basename(__file__)]
        apps = (stem for stem in stems if b"Endpoint(" in _read_file(os.path.join(folder, f"{stem}.py")))
        module, _, attribute = name.removesuffix(".py").partition(".")
        near = module if module in stems else _did_you_mean(module, stems, "{}") or next(apps, "")
        if not near:
            return _Refused(f"there is no {what}, nor another app. To make one type:", "new", "my_app")
        attribute = self.attribute or (attribute if near == module else "")  # as in `app.Router` for `app:Router`
        better = os.path.join(folder, near) + (".py" if path.endswith(".py") else "")
        better += f":{attribute}" if attribute else ""
        return _Refused(f"there is no {what}, but there is:", self.command, better)

    def routers(self) -> list[Any]:
        """Return the routers that are meant: it, that of an endpoint, or those of a module."""
        module, value = self.load()
        if value is not None:
            router = value.router if _is_endpoint(value) else value
            if not _is_router(router):
                raise self._expected(value)
            return [router]
        endpoints = _found_in(module, _is_endpoint)
        routers = [endpoint.router for endpoint in endpoints if _is_router(endpoint.router)]
        routers = routers or _found_in(module, _is_router)
        if not routers:
            missing = f"{self.text} has no router and no endpoint"
            raise _Refused(f"{missing}: name the module that has one, as in:", self.command, "app:Router")
        return list(dict.fromkeys(routers))

    def endpoints(self) -> list[Any]:
        """Return the endpoints that are meant: it, the one of a router, or all of a module."""
        module, value = self.load()
        if _is_endpoint(value):
            return [value]
        endpoints = _found_in(module, _is_endpoint)
        if _is_router(value):
            return [endpoint for endpoint in endpoints if endpoint.router is value] or [Endpoint(value)]
        if value is not None:
            raise self._expected(value)
        if not endpoints:
            raise _Refused(f"{self.text} has no endpoint: write `app = phoenix.Endpoint(Router)`.")
        return endpoints

    def _expected(self, value: Any) -> _Refused:
        return _Refused(f"{self.text} is {value!r}, expected a router or an endpoint.", self.command, self.name)


def _found_in(module: types.ModuleType, test: Callable[[Any], bool]) -> list[Any]:
    """Return the values of a module's names that pass *test*, each once."""
    return list({id(value): value for value in vars(module).values() if test(value)}.values())


# --- Commands -----------------------------------------------------------------------------


def _endpoints_of_all(targets: Sequence[str]) -> list[Any]:
    return list(dict.fromkeys(each for target in targets for each in _Target(target, "server").endpoints()))


def _server(options: Any) -> None:
    run = _loop_runner(options.loop)
    if options.port is not None and not 0 <= options.port <= 65535:
        message = f"{options.port} is not a port, expected a number up to 65535:"
        raise _Refused(message, "server", *options.apps, "--port", "4000")
    if options.reload and not _inherited:  # then not even the first start has to succeed
        port = _port_number("http", options.port, os.environ.get("PORT") or 4000)
        address = [options.host or "127.0.0.1", port, None, None]
        server = {"address": address, "name": options.apps[0]}
        _inherited.update(program=_program_to_run(), folders=[os.getcwd()], servers=[server])
        try:
            endpoints = _endpoints_of_all(options.apps)
        except _Refused:
            raise
        except Exception as error:
            return _wait_for_mend(error)
    else:
        endpoints = _endpoints_of_all(options.apps)
    _set_up_logging(endpoints[0])
    reloader = _reloader_for(endpoints, options.reload)
    if options.uds is not None:
        if len(endpoints) > 1:
            message = "one Unix socket serves one app: start each by itself, as in:"
            raise _Refused(message, "server", options.apps[0], "--uds", options.uds)
        endpoints[0].server = endpoints[0].make_server(uds=options.uds)
        _serve_all(endpoints, reloader, run)
        return
    ports = [endpoint.port for endpoint in endpoints]
    if options.port is not None:  # port 0 is any that is free
        ports = [options.port + (at if options.port else 0) for at in range(len(endpoints))]
    hosts = [options.host or (endpoint.config("http") or {}).get("host") for endpoint in endpoints]
    places = list(zip(hosts, ports))
    for place in () if "LISTEN_FDS" in os.environ else places:  # systemd may have opened others
        if place[1] and places.count(place) > 1:
            message = f'two of these apps listen on port {place[1]}: give each one of its own, http={{"port": ...}}'
            raise _Refused(f"{message}, or type:", "server", *options.apps, "--port", str(place[1]))
    for endpoint, port in zip(endpoints, ports):
        if options.port is not None or options.host is not None or "uds" not in (endpoint.config("http") or {}):
            endpoint.server = endpoint.make_server(options.host, port)
    _serve_all(endpoints, reloader, run)


def _loop_runner(name: str) -> Callable[[Any], Any]:
    """Return the ``run`` of asyncio, or of a package like it."""
    from importlib import import_module

    try:
        return _run_fairly if name == "asyncio" else import_module(name).run
    except ImportError as error:
        raise _Refused(f"--loop {name}: {error}. Install it (`pip install {name}`), or go without.", code=1) from None


def _shell(options: Any) -> int | None:
    """Run what is typed, or what a pipe or file holds, where ``app``, ``router`` and more have a meaning."""
    target = _Target(options.app, "shell")
    endpoint = target.endpoints()[0]
    module, _ = target.load()
    conn = build_conn(endpoint=endpoint)
    conn.private["phoenix_router"] = endpoint.router
    names = {
        "app": endpoint, "router": endpoint.router, "helpers": getattr(endpoint.router, "helpers", None),
        "client": endpoint.test(), "conn": conn, "phoenix": sys.modules[__name__],
    }  # fmt: skip
    own = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    space = {**own, **names, "__name__": "__shell__"}
    if sys.stdin is None or not sys.stdin.isatty():
        try:
            exec(compile(sys.stdin.read() if sys.stdin else "", "<stdin>", "exec"), space)
        except Exception as error:
            print(_short_traceback(error), end="", file=sys.stderr)
            return 1
        return None
    import code

    _complete_with_tab(space)
    banner = f"""\
phoenix.py {__version__}, Python {sys.version.split()[0]}, {endpoint.env}. Ctrl-D leaves.
All names of {options.app} are here, and:

    app       {endpoint!r}
    router    {_name_of(endpoint.router)}, with {len(getattr(endpoint.router, "routes", ()))} routes
    helpers   its paths: helpers.user_path(app, "show", 7)
    client    calls the app: client.get("/").resp_body
    conn      a GET of /, for plugs and views to be tried on
"""
    code.interact(banner, local=space, exitmsg="")
    return None


def _complete_with_tab(names: dict[str, Any]) -> None:
    try:
        import readline  # Windows has none
        import rlcompleter
    except ImportError:
        return
    readline.set_completer(rlcompleter.Completer(names).complete)
    is_libedit = "libedit" in (readline.__doc__ or "")  # on macOS
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")


def _routes(options: Any) -> None:
    if options.app.upper() in _VERBS or options.app.startswith("/") and not os.path.exists(options.app):
        options.app, options.words = "app", [options.app, *options.words]  # as in `routes GET /users`
    routers = _Target(options.app, "routes").routers()
    if options.match:
        return _print_match(routers, options)
    found = {router: [route for route in router.routes if _has_words(route, options.words)] for router in routers}
    if options.json:
        print(encode_json([_route_as_json(router, route) for router, routes in found.items() for route in routes]))
        return None
    for router, routes in found.items():
        if len(routers) > 1:
            print(f"{_name_of(router)}:")
        print(format_routes(router, routes, paint_verb=_paint_verb), end="" if router is routers[-1] else "\n")
        if not router.routes:
            print(f"{_name_of(router)} has no routes.", file=sys.stderr)
    if options.words and not any(found.values()):
        words = "".join(f" {word!r}" for word in options.words)
        message = f"no route has{words} in its helper, verb, path, action or pipelines. All of them:"
        raise _Refused(message, "routes", options.app, code=1)
    return None


_VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "WS", "*")


def _paint_verb(text: str) -> str:
    colours = {"GET": "34", "WS": "36", "POST": "32", "PUT": "33", "PATCH": "33", "DELETE": "31"}
    return _coloured(colours.get(text.strip(), "35"), text, sys.stdout)


def _has_words(route: Route, words: Iterable[str]) -> bool:
    """Tell whether a route has each of *words*: its verb, or a part of its helper, path, action or pipelines."""
    text = f"{route.helper}_path\n{route.path}\n{route.label}\n{' '.join(route.pipe_through)}".lower()
    verb = route.shown_verb
    return all(
        word.upper() == verb or (verb == "*" if word.upper() in _VERBS else word.lower() in text) for word in words
    )


def _route_as_json(router: type[Router], route: Route) -> dict[str, Any]:
    file, _, line = route.where.rpartition(":")
    return {
        "router": _name_of(router), "helper": route.helper and f"{route.helper}_path", "verb": route.shown_verb,
        "path": route.path, "answered_by": route.label, "action": route.action, "pipelines": route.pipe_through,
        "hosts": list(route.hosts), "file": file, "line": int(line),
    }  # fmt: skip


def _print_match(routers: Sequence[Any], options: Any) -> None:
    """Print what answers a request: ``--match GET /users/1``, or the path alone; a URL has a host too."""
    from urllib.parse import urlsplit

    *given, url = options.match
    verb = given[0].upper() if given else "GET"
    verbs = {*_VERBS, *(each for router in routers for below in (router, *router._forwards) for each in below._tables)}
    if len(given) > 1 or verb not in verbs or not (url.startswith("/") or "://" in url):
        raise _Refused("--match takes a verb and a path, as in:", "routes", options.app, "--match", "GET", "/users/1")
    parts = urlsplit(url if "://" in url else f"//{url}")
    host, path = parts.hostname or "", parts.path
    segments = [_decode_segment(part) for part in path.split("/") if part]
    tried = [_match_through(router, "GET" if verb == "WS" else verb, segments, host) for router in routers]
    matched = next((each for each in tried if each[3] is not None), None)
    if matched is None:
        raise _no_match(tried, verb, path, host, options.app)
    owner, routes, _, path_params = matched
    route = routes[-1]
    found = _route_as_json(owner, route)
    found.update(
        path="".join(each.path.rstrip("/") for each in routes) or "/", plug=_name_of(route.plug),
        pipelines=[pipe for each in routes for pipe in each.pipe_through],
        params={**decode_query(parts.query), **(path_params or {})},
    )  # fmt: skip
    if options.json:
        print(encode_json(found))
        return
    action = getattr(route.plug, route.action, None) if route.action else route.plug
    rows = {
        "answered by": _with_place(found["answered_by"], action), "pipelines": ", ".join(found["pipelines"]),
        "params": ", ".join(f"{name} = {value!r}" for name, value in found["params"].items()),
        "helper": found["helper"] or "", "router": found["router"],
    }  # fmt: skip
    place = f"{_short_name(found['file'])}:{found['line']}"
    print(f"{_paint_verb(route.shown_verb)} {found['path']}  ({place})\n")
    print("".join(f"    {name:11}  {value}\n" for name, value in rows.items() if value), end="")


def _with_place(label: str, function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f"{label}  ({_short_name(code.co_filename)}:{code.co_firstlineno})" if code else label


def _match_through(
    router: Any, verb: str, segments: Sequence[str], host: str
) -> tuple[Any, list[Route], Sequence[str], dict[str, Any] | None]:
    """Follow a request through forwards. Return the last router, the routes that lead to the answer, what the last
    router saw of the path, and the params; ``None`` when it has no such route."""
    routes: list[Route] = []
    while True:
        found = router._match(verb, segments, host)
        found = found or (router._match("GET", segments, host) if verb == "HEAD" else None)
        if found is None:
            return router, routes, segments, None
        route, params = found
        routes.append(route)
        if not hasattr(route.plug, "router"):
            return router, routes, segments, params
        router, segments = route.plug.router, segments[route.plug.depth :]


def _no_match(tried: Sequence[Any], verb: str, path: str, host: str, app: str) -> _Refused:
    """Answer a request that no route matches: with the verbs of its path, or with the route that is nearest."""
    for router, _, segments, _ in tried:
        allowed = router._allowed_verbs(segments, host)
        if allowed:
            message = f"405: {verb} is not allowed for {path}, its routes take {', '.join(allowed)}."
            return _Refused(message, "routes", app, "--match", allowed[0], path, code=1)
    near = _nearest_route([route for router, *_ in tried for route in router.routes], tried[0][2])
    if near is None:
        return _Refused(f"404: no route answers {verb} {path}. All routes:", "routes", app, code=1)
    file, _, line = near.where.rpartition(":")
    hosts = f" of {' and '.join(near.hosts)}" if near.hosts else ""
    place = f"{near.shown_verb} {near.path}{hosts} ({_short_name(file)}:{line})"
    return _Refused(f"404: no route answers {verb} {path}. The nearest is {place}:", "routes", app, near.path, code=1)


def _gen(options: Any) -> None:
    import secrets

    print(secrets.token_urlsafe(64))


def _js(options: Any) -> None:
    source = client_script()
    if source is None:
        raise _Refused(_NO_CLIENT, code=1)
    path = options.path if options.path.endswith(".js") else os.path.join(options.path, "phoenix.js")
    folder, name = os.path.split(path)
    scaffold = _Scaffold(folder, options.force)
    scaffold.write(name, _read_file(source))
    scaffold.report_kept("js", options.path)


def _read_file(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


class _Scaffold:
    """Writes files below *folder* and says what became of each; one that is there and differs stays, unless *force*."""

    def __init__(self, folder: str, force: bool) -> None:
        self.folder, self.force, self.kept = folder, force, 0

    def write(self, path: str, content: bytes) -> None:
        target = os.path.join(self.folder, *path.split("/"))
        try:
            old = _read_file(target) if os.path.lexists(target) else None
            if old is None or old != content and self.force:
                os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
                with open(target, "wb") as stream:
                    stream.write(content)
        except OSError as error:
            raise _Refused(f"cannot write {target}: {error.strerror or error}", code=1) from None
        if old is None:
            self._say("32", "created", target)
        elif old == content:
            self._say("2", "unchanged", target)
        elif self.force:
            self._say("33", "replaced", target)
        else:
            self.kept += 1
            self._say("33", "kept", f"{target} (it differs)")

    def _say(self, colour: str, word: str, what: str) -> None:
        print(f"* {_coloured(colour, f'{word:9}', sys.stdout)} {what}")

    def report_kept(self, *words: str) -> None:
        """Say how often a file was kept, and that *words* with --force would replace it."""
        if self.kept:
            files = "1 file that differs was" if self.kept == 1 else f"{self.kept} files that differ were"
            print(f"\n{files} kept as before. To replace what was kept:\n\n    {_program()} {_typed(*words)} --force")


# --- Texts to translate -------------------------------------------------------------------
#
# Found by reading the code, and not by running it: calls of gettext and its kin with literal texts,
# in Python files and templates. A catalog keeps all that translators wrote. What the code no longer
# has stays at its end, behind `#~`, and returns from there; what has no reference to the code was
# written by hand, for a key that the code computes, and is left alone.

_GETTEXT_ARGUMENTS = {"gettext": ("id",), "ngettext": ("id", "plural")}
_NOT_THE_APP = {"node_modules", "__pycache__", "site-packages", "tests", "test"}


def _gettext(options: Any) -> None:
    if not os.path.isdir(options.folder):
        raise _Refused(f"there is no folder {options.folder}, expected that of the app:", "gettext", "extract", ".")
    for locale in options.locale:
        if not re.fullmatch(r"[a-z]{2,3}(_[A-Za-z0-9]+)*", locale):
            raise _Refused(f"{locale!r} cannot name a language, expected one as in:", "gettext", "extract", "--locale", "pt_BR")
    found = _extract_texts(options.folder)
    root = os.path.normpath(os.path.join(options.folder, "priv", "gettext"))
    catalogs = {os.path.join(root, "default.pot"): _po_text([_po_header(""), *found])}
    names = sorted(os.listdir(root)) if os.path.isdir(root) else []
    state = []
    for locale in sorted({*(each for each in names if os.path.isdir(os.path.join(root, each))), *options.locale}):
        path = os.path.join(root, locale, "LC_MESSAGES", "default.po")
        old = _read_po(path) if os.path.exists(path) else [_po_header(locale)]
        _Catalog(old, locale, path)  # which tells what is wrong with it
        merged = _merged_texts(old, found)
        catalogs[path] = _po_text(merged)
        state.append(f"{locale}: {_state_of(merged)}")
    if not found:
        print(f'no text to translate in {options.folder}: write conn.gettext("Hello"), in templates gettext("Hello")')
    scaffold = _Scaffold("", force=True)
    for path, text in catalogs.items():
        scaffold.write(path, text.encode())
    for line in state:
        print(line)


def _extract_texts(folder: str) -> list[_Entry]:
    """Return the texts in the code below *folder*, in the order of files and lines."""
    found: dict[str, _Entry] = {}
    for path in _source_files(folder):
        name = os.path.relpath(path, folder).replace(os.sep, "/")
        for function, texts, line in _calls_in(path):
            wanted = _GETTEXT_ARGUMENTS.get(function, ())
            if wanted and Ellipsis in texts[: len(wanted)]:
                better = f'{function}("Hello %{{name}}", name=...)'
                print(f"{name}:{line}: an f-string cannot be translated, write {better}", file=sys.stderr)
            text = dict(zip(wanted, texts))
            if not wanted or len(text) < len(wanted) or not all(isinstance(each, str) for each in text.values()):
                continue
            entry = found.setdefault(text["id"], _Entry(None, text["id"], None, [""]))
            if "plural" in text and entry.plural is None:
                entry.plural, entry.forms = text["plural"], ["", ""]
            entry.references += [f"{name}:{line}"] if f"{name}:{line}" not in entry.references else []
    return list(found.values())


def _source_files(folder: str) -> Iterator[str]:
    """Yield the Python files and templates of an app: what is hidden, installed or a test is none of it."""
    for place, folders, files in os.walk(folder):
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        folders[:] = sorted(each for each in folders if each not in _NOT_THE_APP and each[0] != ".")
        for file in sorted(files):
            path = os.path.join(place, file)
            is_code = file.endswith((".py", ".eex")) and file[0] != "."
            if is_code and file != "phoenix.py" and not _same_file(path, __file__):
                yield path


def _calls_in(path: str) -> list[tuple[str, list[Any], int]]:
    """Return the calls in a Python file and its inline templates, or in a template: name, arguments and line.

    Of the arguments only literals are known: ``...`` is an f-string, ``None`` anything else.
    """
    import ast

    try:
        if path.endswith(".py"):
            trees: list[ast.AST] = [ast.parse(_read_file(path), path)]  # of bytes, Python finds the encoding itself
        else:
            trees = [_EEX.compile(_read_template(path), path, os.path.basename(path).removesuffix(".eex")).tree()]
        calls = []
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    values = [_literal(each) for each in node.args]
                    calls.append((name, values, node.lineno))
                    if name == "template" and [type(each) for each in values] == [str, str]:
                        if str(values[0]).endswith(".eex"):
                            inline = _InlineTemplate(str(values[0]), str(values[1]), f"{path}:{node.lineno}")
                            trees.append(inline.compile_with(_EEX).tree())
    except SyntaxError as error:  # as that of a template is
        place = f"{error.filename or path}:{error.lineno}"
        raise _Refused(f"{place}: {error.msg}. Mend it first, then type:", "gettext", "extract", code=1) from None
    return sorted(calls, key=lambda call: call[2])


def _literal(node: ast.expr) -> Any:
    kind = type(node).__name__
    return node.value if kind == "Constant" else ... if kind == "JoinedStr" else None  # type: ignore[attr-defined]


def _merged_texts(old: Sequence[_Entry], found: Sequence[_Entry]) -> list[_Entry]:
    """Return a catalog with the texts that were *found*, and nothing lost that *old* has."""
    known = {entry.key: entry for entry in old}
    known.update({entry.key: entry for entry in old if not entry.obsolete})
    header = known.pop((None, ""), None) or _po_header("")
    number = re.search(r"nplurals\s*=\s*(\d+)", header.forms[0])
    count = int(number[1]) if number else 2
    merged = [header]
    for new in found:
        entry = known.pop(new.key, None) or _Entry(new.context, new.id, None, [""])
        if new.plural is not None and entry.plural != new.plural:  # and when it has lost its plural, that does no harm
            entry.plural = new.plural
            entry.forms = [*entry.forms, *[""] * (count - len(entry.forms))]
            entry.flags += ["fuzzy"] if any(entry.forms) and "fuzzy" not in entry.flags else []
        entry.obsolete, entry.references = False, new.references
        merged.append(entry)
    for entry in known.values():
        entry.obsolete = entry.obsolete or bool(entry.references)
        if any(entry.forms) or not entry.obsolete:
            merged.append(entry)
    for entry in merged:
        entry.references = [] if entry.obsolete else entry.references
    return sorted(merged, key=lambda entry: entry.obsolete)


def _po_header(locale: str) -> _Entry:
    lines = ["MIME-Version: 1.0", "Content-Type: text/plain; charset=UTF-8", "Content-Transfer-Encoding: 8bit"]
    if locale:
        lines = [f"Language: {locale}", *lines, f"Plural-Forms: {_plural_forms(locale)}"]
    return _Entry(None, "", None, ["".join(f"{line}\n" for line in lines)])


def _state_of(entries: Sequence[_Entry]) -> str:
    live = [entry for entry in entries if entry.id and not entry.obsolete]
    fuzzy = sum("fuzzy" in entry.flags for entry in live)
    done = sum(all(entry.forms) and "fuzzy" not in entry.flags for entry in live)
    return f"{done} translated, {len(live) - done - fuzzy} to do" + (f", {fuzzy} fuzzy" if fuzzy else "")


def _po_text(entries: Sequence[_Entry]) -> str:
    """Write a catalog."""
    return "\n".join(_po_entry(entry) for entry in entries)


def _po_entry(entry: _Entry) -> str:
    lines = [("msgctxt", entry.context), ("msgid", entry.id), ("msgid_plural", entry.plural)]
    if entry.plural is None:
        lines.append(("msgstr", entry.forms[0]))
    else:
        lines += [(f"msgstr[{at}]", form) for at, form in enumerate(entry.forms)]
    text = "".join(_po_line(word, value) for word, value in lines if value is not None)
    notes = [*entry.comments, *(f"#: {each}" for each in entry.references)]
    notes += [f"#, {', '.join(entry.flags)}"] if entry.flags else []
    mark = "#~ " if entry.obsolete else ""
    return "".join(f"{note}\n" for note in notes) + "".join(f"{mark}{line}\n" for line in text.split("\n")[:-1])


def _po_line(word: str, text: str) -> str:
    """Write a text, one of several lines as several."""
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\t", "\\t"), ("\r", "\\r"), ("\n", "\\n\n")):
        text = text.replace(character, escaped)
    lines = text.split("\n")
    lines = lines[:-1] if len(lines) > 1 and not lines[-1] else lines
    return f"{word} " + "".join(f'"{line}"\n' for line in (lines if len(lines) == 1 else ["", *lines]))


# --- New apps -----------------------------------------------------------------------------


def _new(options: Any) -> None:
    name, path = options.name, options.path or options.name
    kind = "--one-file" if options.one_file else ""
    if not _is_app_name(name):
        better = re.sub(r"\W+", "_", underscore(os.path.basename(os.path.normpath(name)))).strip("_")
        better = better if _is_app_name(better) else "my_app"
        path = path if path != os.path.basename(name) else ""
        message = f"{name!r} cannot be the name of an app, expected lower-case letters, digits and _, as in:"
        raise _Refused(message, "new", better, path, kind)
    scaffold = _Scaffold(path, options.force)
    client = client_script()
    for file, text in (_ONE_FILE_APP if options.one_file else _APP).items():
        scaffold.write(file, text.replace("my_app", name).replace("MyApp", camelize(name)).encode())
    scaffold.write("phoenix.py", _read_file(__file__))
    if client is not None:
        scaffold.write("priv/static/js/phoenix.js", _read_file(client))
    else:
        print("* phoenix.js was not found beside phoenix.py: copy it to priv/static/js/ when you need channels")
    scaffold.report_kept("new", name, path, kind)
    print(f"\n{camelize(name)} is ready. Start it, then open http://localhost:4000; or run its tests:\n")
    if os.path.abspath(path) != os.getcwd():
        print(f"    {_typed('cd', path)}")
    print(f"    {_python()} app.py\n    {_python()} -m unittest\n")


def _is_app_name(name: str) -> bool:
    """Tell whether *name* can name an app: it is part of a cookie's name, and of a title."""
    return bool(re.fullmatch(r"[a-z][a-z0-9_]*", name)) and not iskeyword(name) and name != "phoenix"


# The files of a new app. In them `my_app` and `MyApp` stand for its name.

_SECRET_KEY_BASE = '''\
def secret_key_base():
    """Return the secret of the environment; outside of production, one that was made for this copy of the app."""
    secret = os.environ.get("SECRET_KEY_BASE")
    if secret or (os.environ.get("PHOENIX_ENV") or os.environ.get("MIX_ENV")) == "prod":
        return secret
    file = Path(__file__).parent.with_name(".secret_key_base")  # .gitignore keeps it out of the repository
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(64))
    return file.read_text()
'''

_APP = {
    "app.py": '''\
"""MyApp: the endpoint, where every request begins and ends. Its options stand in config/.

    python app.py                   start the app on http://localhost:4000
    python phoenix.py routes        print its routes
    python -m unittest              run its tests
"""

import phoenix

from web.router import Router

app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()
''',
    "config/config.py": '''\
"""Options of MyApp wherever it runs. What dev.py, test.py or prod.py sets as well goes before it.

PHOENIX_ENV says which of them is read: dev, unless it is set.
"""

import os
import secrets
from pathlib import Path

from phoenix import config


''' + _SECRET_KEY_BASE + '''

config(
    secret_key_base=secret_key_base(),  # signs sessions and tokens
    session={"key": "_my_app_key"},  # the name of the cookie
    filter_parameters=["password", "token"],  # params that are not logged
    settings={},  # values of your own: app.config("settings")["page_size"]
)
''',
    "config/dev.py": '''\
import os

from phoenix import config

config(
    http={"port": os.environ.get("PORT") or 4000},
)
''',
    "config/test.py": '''\
import os

from phoenix import config

config(
    http={"port": os.environ.get("PORT") or 4001},  # for tests that start a server
    log={"level": "warning"},
)
''',
    "config/prod.py": '''\
import os

from phoenix import config

config(
    http={"port": os.environ.get("PORT") or 4000},
    url={"host": os.environ.get("PHX_HOST") or "example.com"},  # what links begin with
    # Behind a proxy on this machine that speaks https, such as nginx, in place of the url above:
    #
    # url={"host": "example.com", "scheme": "https"},
    # trusted_proxies=["127.0.0.1"],  # ["unix"] if it comes by a socket
    # force_ssl=True,
    #
    # To speak https without a proxy, with key and certificate in priv/ssl, in place of the http above:
    #
    # http={"host": "0.0.0.0", "port": 80},
    # https={"port": 443, "keyfile": "priv/ssl/key.pem", "certfile": "priv/ssl/cert.pem"},
    # force_ssl=True,
)
''',
    "web/__init__.py": "",
    "web/router.py": '''\
"""Which path leads where. `python phoenix.py routes` prints it as a table."""

import phoenix
from phoenix import Conn, get, pipe_through, pipeline, plug, scope

from web.controllers.page_controller import PageController


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
        plug(Conn.fetch_session)
        plug(Conn.fetch_flash)
        plug(Conn.protect_from_forgery)
        plug(Conn.put_secure_browser_headers)

    with pipeline("api"):
        plug(Conn.accepts, "json")

    with scope("/"):
        pipe_through("browser")

        get("/", PageController, "index")

    # Other scopes may use other pipelines:
    #
    # with scope("/api", as_="api"):
    #     pipe_through("api")
    #     resources("/users", UserController)
''',
    "web/controllers/__init__.py": "",
    "web/controllers/page_controller.py": '''\
from phoenix import Controller


class PageController(Controller):
    def index(self, conn, params):
        return conn.render("index.html")
''',
    "web/view.py": '''\
import phoenix


class View(phoenix.View):
    """The base of all views. Methods written here are functions in every template."""

    root = "web/templates"

    def title(self):
        return "Hello Phoenix!"
''',
    "web/views/__init__.py": "",
    "web/views/layout_view.py": '''\
from web.view import View


class LayoutView(View):
    """Renders web/templates/layout: what stands around every page."""
''',
    "web/views/page_view.py": '''\
from web.view import View


class PageView(View):
    """Renders web/templates/page for PageController. Methods written here are functions in these templates."""
''',
    "web/views/error_view.py": '''\
import phoenix


class ErrorView(phoenix.ErrorView):
    """Renders the pages for errors, by status and format. In dev a page for developers is shown in their place."""

    def render(self, name, assigns):
        match name:
            case "404.html":
                return "Page not found - 404"
            case "500.html":
                return "Server internal error - 500"
        return super().render(name, assigns)  # all other statuses and formats
''',
    "web/channels/__init__.py": "",
    "web/models/__init__.py": "",
    "web/templates/layout/application.html.eex": '''\
<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title><%= title() %></title>
  <%= csrf_meta_tag() %>
  <link rel="icon" type="image/svg+xml" href="<%= static_path(@conn, "/images/phoenix.svg") %>">
  <link rel="stylesheet" href="<%= static_path(@conn, "/css/phoenix.css") %>">
  <%# For channels: <script src="/js/phoenix.js"></script> %>
</head>
<body>
  <header>
    <a href="<%= page_path(@conn, "index") %>">
      <img src="<%= static_path(@conn, "/images/phoenix.svg") %>" alt="" width="32" height="32"> MyApp
    </a>
  </header>
  <main>
    <%= for notice in @conn.get_all_flash("notice"): %>
    <p class="flash" role="status"><%= notice %></p>
    <% end %>
    <%= for alert in @conn.get_all_flash("alert"): %>
    <p class="flash alert" role="alert"><%= alert %></p>
    <% end %>
    <%= @inner %>
  </main>
</body>
</html>
''',
    "web/templates/page/index.html.eex": '''\
<section class="welcome">
  <img src="<%= static_path(@conn, "/images/phoenix.svg") %>" alt="" width="112" height="112">
  <h1>Welcome to Phoenix!</h1>
  <p>MyApp is up and running. One file of Python serves it, with nothing to install.</p>
</section>

<section class="cards">
  <article>
    <h2>Change this page</h2>
    <p>It is <code>web/templates/page/index.html.eex</code>. Edit it, save it, and see it here.</p>
  </article>
  <article>
    <h2>Add a page</h2>
    <p>Write a route in <code>web/router.py</code>, an action in <code>web/controllers/</code>,
      and a template in <code>web/templates/</code>.</p>
  </article>
  <article>
    <h2>See the routes</h2>
    <p><code>python phoenix.py routes</code></p>
  </article>
  <article>
    <h2>Run the tests</h2>
    <p><code>python -m unittest</code></p>
  </article>
</section>
''',
    "priv/static/css/phoenix.css": """\
:root {
  color-scheme: light dark;
  --ground: #fffaf6; --card: #fff; --text: #2b2320; --faint: #7a6a62; --line: #f0e2d8; --fire: #d9480f;
}
@media (prefers-color-scheme: dark) {
  :root { --ground: #17120f; --card: #211a16; --text: #f3e9e3; --faint: #b3a198; --line: #3a2e27; --fire: #ff8a4c; }
}

* { box-sizing: border-box; }
body {
  margin: 0; min-height: 100vh; color: var(--text);
  background: var(--ground) radial-gradient(60rem 26rem at 50% -8rem, rgb(255 146 43 / .22), transparent) no-repeat;
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
header, main { max-width: 60rem; margin: 0 auto; padding: 1.25rem 1.5rem; }
header a { display: inline-flex; align-items: center; gap: .6rem; }
header a { color: inherit; font-weight: 600; text-decoration: none; }
h1 { margin: .5rem 0; font-size: clamp(2.2rem, 6vw, 3.4rem); line-height: 1.1; letter-spacing: -.03em; }
h2 { margin: 0 0 .35rem; font-size: 1.0625rem; }
a { color: var(--fire); }
code { padding: .1em .35em; border-radius: .35em; background: var(--line); color: var(--text); }
code { font-size: .875em; overflow-wrap: anywhere; }

.welcome { padding: 3.5rem 0 2.5rem; text-align: center; }
.welcome p { margin: 0; color: var(--faint); font-size: 1.2rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
.cards article {
  padding: 1.25rem 1.4rem; border: 1px solid var(--line); border-radius: 1rem; background: var(--card);
  box-shadow: 0 1px 2px rgb(60 30 10 / .05), 0 8px 24px rgb(60 30 10 / .05);
}
.cards p { margin: 0; color: var(--faint); }

.flash { padding: .8rem 1.1rem; border-left: .3rem solid #2f9e44; border-radius: .6rem; background: var(--card); }
.flash.alert { border-color: #e03131; }
""",
    "priv/static/images/phoenix.svg": """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">
  <linearGradient id="fire" x1="0" y1="64" x2="0" y2="4" gradientUnits="userSpaceOnUse">
    <stop stop-color="#d9480f"/><stop offset=".55" stop-color="#f76707"/><stop offset="1" stop-color="#fcc419"/>
  </linearGradient>
  <g fill="url(#fire)">
    <g id="wing">
      <path d="M30 41C17 40 5 29 3 7c6 9 13 14 21 17 4 4 6 10 6 17Z"/>
      <path d="M29 50c-9 1-17-4-21-14 6 5 13 7 20 7 1 2 1 5 1 7Z"/>
    </g>
    <use href="#wing" transform="matrix(-1 0 0 1 64 0)"/>
    <path d="M32 13c3 0 5 2 5 5l4 2-4 1c0 4-3 7-3 12 0 9 4 14 4 19 0 4-3 7-6 11-3-4-6-7-6-11 0-5 4-10 4-19
      0-5-3-8-3-13 0-4 2-7 5-7Z"/>
  </g>
</svg>
""",
    "tests/__init__.py": '''\
import os

os.environ.setdefault("PHOENIX_ENV", "test")  # before the app is imported
''',
    "tests/test_page_controller.py": '''\
import unittest

from app import app


class PageControllerTest(unittest.TestCase):
    def test_the_first_page_says_welcome(self):
        client = app.test()
        conn = client.get("/")
        self.assertIn("Welcome to Phoenix!", client.html_response(conn, 200))
''',
    "tests/test_error_view.py": '''\
import unittest

from app import app
from phoenix import render_to_string
from web.views.error_view import ErrorView


class ErrorViewTest(unittest.TestCase):
    def test_a_page_that_is_not_there(self):
        self.assertEqual(render_to_string(ErrorView, "404.html"), "Page not found - 404")

    def test_an_error_in_the_app(self):
        self.assertEqual(render_to_string(ErrorView, "500.html"), "Server internal error - 500")

    def test_programs_get_errors_as_json(self):
        self.assertEqual(render_to_string(ErrorView, "404.json"), '{"errors":{"detail":"Not Found"}}')

    def test_the_app_answers_with_these_pages(self):
        client = app.test()
        self.assertEqual(client.html_response(client.get("/nowhere"), 404), "Page not found - 404")
''',
    ".gitignore": """\
.secret_key_base
__pycache__/
*.pyc
.pytest_cache/
.venv/
""",
    "README.md": """\
# MyApp

Start it, and open http://localhost:4000:

    python app.py

Nothing needs to be installed: the framework is `phoenix.py`, in this folder. The tests need nothing either, and pytest
runs them too:

    python -m unittest

In production it needs a secret, which sessions are signed with (`python phoenix.py gen secret` makes one):

    PHOENIX_ENV=prod PORT=4001 SECRET_KEY_BASE=... python app.py

| where | what |
|---|---|
| `app.py` | the endpoint |
| `config/` | its options: `config.py` always, then `dev.py`, `test.py` or `prod.py`, as `PHOENIX_ENV` says |
| `web/router.py` | which path leads to which action; `python phoenix.py routes` prints it |
| `web/controllers/` | the actions |
| `web/views/`, `web/view.py` | functions for templates; `view.py` has those that all of them share |
| `web/templates/` | the pages; `layout/` is what stands around them |
| `web/channels/`, `web/models/` | places for channels and for your data |
| `priv/static/` | files that are served as they are: `priv/static/css/phoenix.css` is `/css/phoenix.css` |
| `tests/` | the tests |
""",
}

_ONE_FILE_APP = {
    "app.py": '''\
"""MyApp, in one file.

    python app.py                   start the app on http://localhost:4000
    python phoenix.py routes        print its routes
    python -m unittest              run its tests

It reads the environment: PHOENIX_ENV is dev (unless set), test or prod, PORT the port to listen on, and
SECRET_KEY_BASE the secret that sessions are signed with; production cannot do without it.
"""

import os
import secrets
from pathlib import Path

import phoenix
from phoenix import Conn, Controller, View, get, pipe_through, pipeline, plug, scope, template


class LayoutView(View):
    template("application.html.eex", """\\
<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Hello Phoenix!</title>
  <style>
    :root { color-scheme: light dark; }
    body { max-width: 40rem; margin: 12vh auto; padding: 0 1.5rem; font: 1.1rem/1.6 system-ui, sans-serif; }
    h1 { margin: 0; font-size: 3rem; line-height: 1.1; letter-spacing: -.03em; }
    h1 { color: transparent; background: linear-gradient(90deg, #e8590c, #f08c00); background-clip: text; }
    code { padding: .1em .35em; border-radius: .35em; background: rgb(128 128 128 / .15); }
    .flash { padding: .7rem 1rem; border-left: .3rem solid #2f9e44; background: rgb(128 128 128 / .1); }
  </style>
</head>
<body>
  <%= for notice in @conn.get_all_flash("notice"): %>
  <p class="flash" role="status"><%= notice %></p>
  <% end %>
  <%= @inner %>
</body>
</html>
""")


class PageView(View):
    template("index.html.eex", """\\
<h1>Welcome to Phoenix!</h1>
<p><%= @app_name %> is up and running. All of it stands in <code>app.py</code>: change it, save it, and see it here.</p>
""")


class PageController(Controller):
    def index(self, conn, params):
        return conn.render("index.html", app_name="MyApp")


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
        plug(Conn.fetch_session)
        plug(Conn.fetch_flash)
        plug(Conn.protect_from_forgery)
        plug(Conn.put_secure_browser_headers)

    with scope("/"):
        pipe_through("browser")

        get("/", PageController, "index")


''' + _SECRET_KEY_BASE.replace(".parent", "") + '''

app = phoenix.Endpoint(Router, secret_key_base=secret_key_base(), session={"key": "_my_app_key"})

if __name__ == "__main__":
    app.run()
''',
    "test_app.py": '''\
import os
import unittest

os.environ.setdefault("PHOENIX_ENV", "test")  # before the app is imported

from app import app


class AppTest(unittest.TestCase):
    def test_the_first_page_says_welcome(self):
        client = app.test()
        conn = client.get("/")
        self.assertIn("Welcome to Phoenix!", client.html_response(conn, 200))
''',
    ".gitignore": _APP[".gitignore"],
}


# --- The last lines -----------------------------------------------------------------------
#
# Run as a script, this file is the module `__main__`, and an app that imports it would get a
# second copy: two `Conn` classes, neither an instance of the other. So the script hands over to
# the module that apps import, whose name is found by where the file is.


def _import_by_name() -> Any:
    """Import this file as apps import it, and return that module."""
    from importlib import import_module

    if __spec__ is not None and __spec__.name != "__main__":
        return import_module(__spec__.name)  # python -m phoenix
    if sys.path and _same_file(sys.path[0], os.path.dirname(os.path.realpath(__file__))):
        del sys.path[0]
    folder, name = _place_of_module(__file__)
    sys.path.insert(0, folder)
    above = os.getcwd() + os.sep
    if "." not in name and folder.startswith(above):
        # Python takes folders for packages: an app may call web/phoenix.py either phoenix or web.phoenix.
        sys.path.insert(0, os.getcwd())
        try:
            sys.modules[name] = import_module(".".join([*folder.removeprefix(above).split(os.sep), name]))
        except ModuleNotFoundError:  # a folder cannot be imported, or another package has its name
            pass
    return import_module(name)


def _place_of_module(file: str) -> tuple[str, str]:
    """Return the folder from which *file* is imported, and the name: dotted where it lies in packages."""
    folder, file = os.path.split(os.path.realpath(file))
    name = file.removesuffix(".py")
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        name = f"{package}.{name}"
    return folder, name


if __name__ == "__main__":
    sys.exit(_import_by_name().main())

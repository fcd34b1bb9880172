"""Chapter 1, Ground: errors, statuses, media types, safe HTML, JSON, names."""

from __future__ import annotations

import datetime
import decimal
import doctest
import enum
import html
import json
import pathlib
import traceback
import uuid
from typing import Any

import phoenix
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phoenix import (
    MIME,
    ArgumentError,
    BadRequestError,
    MissingParamError,
    PhoenixError,
    Safe,
    camelize,
    encode_json,
    escape,
    humanize,
    javascript_escape,
    raw,
    reason_phrase,
    status_code,
    to_param,
    underscore,
)

# --- Errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, bases, status",
    [
        (PhoenixError("x"), (Exception,), 500),
        (ArgumentError("x"), (PhoenixError, ValueError), 500),
        (BadRequestError("x"), (PhoenixError,), 400),
        (MissingParamError("x"), (BadRequestError, KeyError), 400),
        (phoenix.ClientDisconnected("x"), (PhoenixError,), 400),
    ],
)
def test_every_error_belongs_to_one_family_and_carries_its_status(
    error: PhoenixError, bases: tuple[type, ...], status: int
) -> None:
    assert all(isinstance(error, base) for base in bases)
    assert (error.status, str(error)) == (status, "x")


def test_every_public_error_of_the_module_is_in_the_family_and_has_a_status_of_an_error() -> None:
    public = [getattr(phoenix, name) for name in phoenix.__all__]
    errors = [
        each
        for each in public
        if isinstance(each, type) and issubclass(each, Exception) and not issubclass(each, Warning)
    ]
    assert len(errors) > 15
    assert [error for error in errors if not issubclass(error, PhoenixError)] == []
    assert [error for error in errors if not 400 <= error.status <= 599] == []


def test_every_name_in_all_exists_and_is_named_once() -> None:
    assert [name for name in phoenix.__all__ if not hasattr(phoenix, name)] == []
    assert sorted(set(phoenix.__all__)) == sorted(phoenix.__all__)


def test_the_examples_in_the_docstrings_are_true() -> None:
    failed, tried = doctest.testmod(phoenix)
    assert failed == 0 and tried > 10


# --- Statuses -----------------------------------------------------------------------------

NAMES = """\
100 continue, 101 switching_protocols, 102 processing, 103 early_hints, 200 ok, 201 created, 202 accepted,
203 non_authoritative_information, 204 no_content, 205 reset_content, 206 partial_content, 207 multi_status,
208 already_reported, 226 im_used, 300 multiple_choices, 301 moved_permanently, 302 found, 303 see_other,
304 not_modified, 305 use_proxy, 306 switch_proxy, 307 temporary_redirect, 308 permanent_redirect, 400 bad_request,
401 unauthorized, 402 payment_required, 403 forbidden, 404 not_found, 405 method_not_allowed, 406 not_acceptable,
407 proxy_authentication_required, 408 request_timeout, 409 conflict, 410 gone, 411 length_required,
412 precondition_failed, 413 request_entity_too_large, 414 request_uri_too_long, 415 unsupported_media_type,
416 requested_range_not_satisfiable, 417 expectation_failed, 418 im_a_teapot, 421 misdirected_request,
422 unprocessable_content, 423 locked, 424 failed_dependency, 425 too_early, 426 upgrade_required,
428 precondition_required, 429 too_many_requests, 431 request_header_fields_too_large,
451 unavailable_for_legal_reasons, 500 internal_server_error, 501 not_implemented, 502 bad_gateway,
503 service_unavailable, 504 gateway_timeout, 505 http_version_not_supported, 506 variant_also_negotiates,
507 insufficient_storage, 508 loop_detected, 510 not_extended, 511 network_authentication_required"""
STATUSES = [entry.strip().split(" ") for entry in NAMES.replace("\n", " ").split(", ")]


@pytest.mark.parametrize("code, name", STATUSES)
def test_a_status_has_a_name_that_is_its_phrase_in_snake_case(code: str, name: str) -> None:
    assert status_code(name) == status_code(int(code)) == int(code)
    phrase = reason_phrase(int(code)).lower()
    assert phrase.replace("-", " ").replace("'", " ").replace(" ", "_") in (
        name,
        "i_m_a_teapot",
        "request_uri_too_long",
    )


def test_there_are_no_other_statuses() -> None:
    phrases = []
    for code in range(100, 1000):
        try:
            phrases.append(reason_phrase(code))
        except ArgumentError:
            pass
    assert len(phrases) == len(STATUSES)


@pytest.mark.parametrize(
    "code, phrase",
    [
        (200, "OK"), (201, "Created"), (203, "Non-Authoritative Information"), (207, "Multi-Status"), (226, "IM Used"),
        (404, "Not Found"), (414, "Request-URI Too Long"), (418, "I'm a teapot"), (422, "Unprocessable Content"),
        (505, "HTTP Version Not Supported"), (511, "Network Authentication Required"),
    ],
)  # fmt: skip
def test_the_phrase_of_a_status_is_written_as_in_a_status_line(code: int, phrase: str) -> None:
    assert reason_phrase(code) == phrase


def test_422_keeps_its_old_name() -> None:
    assert status_code("unprocessable_entity") == 422


def test_a_status_without_a_name_is_a_status_all_the_same() -> None:
    assert (status_code(299), status_code(999)) == (299, 999)


def test_an_unknown_status_is_refused_and_a_near_name_is_suggested() -> None:
    with pytest.raises(ArgumentError, match=r"unknown status 'not_fuond'.*Did you mean 'not_found'\?"):
        status_code("not_fuond")
    for wrong in (99, 1000, -1, True, "404", "", None, 404.0):
        with pytest.raises(ArgumentError, match="unknown status"):
            status_code(wrong)  # type: ignore[arg-type]


def test_a_code_without_a_phrase_says_so() -> None:
    with pytest.raises(ArgumentError, match="^unknown status code 999"):
        reason_phrase(999)


# --- Media types --------------------------------------------------------------------------


@pytest.fixture
def clean_mime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after the test what it registers."""
    monkeypatch.setattr(MIME, "_types", dict(MIME._types))
    monkeypatch.setattr(
        MIME, "_extensions", {media_type: list(known) for media_type, known in MIME._extensions.items()}
    )


@pytest.mark.parametrize(
    "format, media_type",
    [
        ("html", "text/html"),
        ("htm", "text/html"),
        ("json", "application/json"),
        ("js", "text/javascript"),
        ("css", "text/css"),
        ("text", "text/plain"),
        ("txt", "text/plain"),
        ("xml", "text/xml"),
        ("svg", "image/svg+xml"),
        ("png", "image/png"),
        ("jpg", "image/jpeg"),
        ("pdf", "application/pdf"),
        ("wasm", "application/wasm"),
        ("woff2", "font/woff2"),
        ("JSON", "application/json"),
        ("nothing", "application/octet-stream"),
    ],
)
def test_a_format_has_a_media_type(format: str, media_type: str) -> None:
    assert MIME.type(format) == media_type


@pytest.mark.parametrize(
    "media_type, formats",
    [
        ("text/html", ["html", "htm"]),
        ("Text/HTML; charset=utf-8", ["html", "htm"]),
        ("application/json", ["json", "map"]),
        ("image/jpeg", ["jpeg", "jpg"]),
        ("application/foo+json", ["json"]),
        ("application/foo+xml", ["xml"]),
        ("application/foo+bar", []),
        ("json", []),
        ("", []),
    ],
)
def test_a_media_type_has_formats(media_type: str, formats: list[str]) -> None:
    assert sorted(MIME.extensions(media_type)) == sorted(formats)


def test_the_formats_that_are_returned_are_the_callers_own() -> None:
    MIME.extensions("text/html").clear()
    assert MIME.extensions("text/html") == ["html", "htm"]


@pytest.mark.parametrize(
    "path, media_type",
    [
        ("app.css", "text/css"), ("/a.b/logo.PNG", "image/png"), ("archive.tar.gz", "application/gzip"),
        ("README", "application/octet-stream"), ("a.html/README", "application/octet-stream"),
        (pathlib.Path("x/y.json"), "application/json"), ("data.unknown", "application/octet-stream"),
    ],
)  # fmt: skip
def test_the_last_extension_of_a_files_name_tells_its_type(path: Any, media_type: str) -> None:
    assert MIME.from_path(path) == media_type


def test_a_registered_type_is_known_by_all_its_extensions_and_named_by_the_first(clean_mime: None) -> None:
    MIME.register("Application/Vnd.Mine", "mine", "MY")
    assert MIME.extensions("application/vnd.mine") == ["mine", "MY"]
    assert MIME.type("mine") == MIME.type("my") == "application/vnd.mine"


def test_a_type_that_is_registered_twice_keeps_its_formats_once_and_the_newest_first(clean_mime: None) -> None:
    MIME.register("text/html", "page", "html")
    MIME.register("text/html", "page", "html")
    assert MIME.extensions("text/html") == ["page", "html", "htm"]


# --- Safe HTML ----------------------------------------------------------------------------


class Bold:
    def __html__(self) -> str:
        return "<b>"


class Shown:
    def __str__(self) -> str:
        return "<shown>"


@pytest.mark.parametrize(
    "value, text",
    [
        ("<a href=\"x\">it's & so</a>", "&lt;a href=&quot;x&quot;&gt;it&#39;s &amp; so&lt;/a&gt;"),
        ("plain", "plain"), ("", ""), ("&amp;", "&amp;amp;"), (None, ""), (True, "true"), (False, "false"),
        (42, "42"), (1.5, "1.5"), (Safe("<b>"), "<b>"), (Bold(), "<b>"), (Shown(), "&lt;shown&gt;"),
        (["<", Safe("<b>"), 1, ["&"]], "&lt;<b>1&amp;"), (("a", None), "a"), ((c for c in "<>"), "&lt;&gt;"),
    ],
)  # fmt: skip
def test_a_value_is_escaped_as_its_text_in_a_page(value: object, text: str) -> None:
    escaped = escape(value)
    assert escaped == text
    assert isinstance(escaped, Safe)


@given(st.text())
def test_a_browser_reads_escaped_text_as_what_it_was(text: str) -> None:
    escaped = escape(text)
    assert html.unescape(escaped) == text
    assert not set("<>\"'") & set(escaped)
    assert escape(escaped) == escaped


def test_text_joined_with_html_is_plain_text_again() -> None:
    assert type(Safe("<b>") + "<i>") is str
    assert type("<i>" + Safe("<b>")) is str
    assert escape(Safe("<b>") + "<i>") == "&lt;b&gt;&lt;i&gt;"


def test_html_marked_here_is_html_to_jinja_and_theirs_is_to_us() -> None:
    markupsafe = pytest.importorskip("markupsafe", reason="comes with Jinja2: pip install jinja2")
    assert markupsafe.escape(Safe("<b>")) == "<b>"
    assert escape(markupsafe.Markup("<b>")) == "<b>"


def test_raw_takes_its_word_for_it() -> None:
    assert (raw("<b>"), raw(None), raw(7)) == ("<b>", "", "7")
    assert isinstance(raw("<b>"), Safe)


@pytest.mark.parametrize(
    "text, escaped",
    [
        ("", ""), ("</script>", "<\\/script>"), ("<!--<script>", "<\\!--<script>"),
        ("it's \"so\"", "it\\'s \\\"so\\\""), ("\\", "\\\\"), ("a\nb", "a\\nb"),
        ("a\r\nb\rc", "a\\nb\\nc"), ("`${x}`", "\\`${x}\\`"), ("\u2028\u2029\0", "\\u2028\\u2029\\u0000"),
    ],
)  # fmt: skip
def test_text_is_escaped_for_a_javascript_string(text: str, escaped: str) -> None:
    assert javascript_escape(text) == escaped
    assert type(javascript_escape(text)) is str
    assert isinstance(javascript_escape(Safe(text)), Safe)


# --- JSON ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_is_what_the_standard_library_writes_without_spaces(data: Any) -> None:
    assert encode_json(data) == json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    assert json.loads(encode_json(data)) == data


def test_without_the_encoder_in_c_json_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    write = phoenix._json_writer(phoenix._json_default)
    data = {"a": [1, None, True, 'é"\n'], "d": datetime.date(2015, 1, 2)}
    assert write(data) == encode_json(data) == '{"a":[1,null,true,"é\\"\\n"],"d":"2015-01-02"}'


class Color(enum.IntEnum):
    RED = 1


class Moment(datetime.datetime):
    pass


class Money:
    def to_json(self) -> object:
        return {"amount": decimal.Decimal("1.50")}


@pytest.mark.parametrize(
    "value, text",
    [
        (datetime.datetime(2015, 1, 2, 3, 4, 5), '"2015-01-02T03:04:05"'), (datetime.date(2015, 1, 2), '"2015-01-02"'),
        (Moment(2015, 1, 2), '"2015-01-02T00:00:00"'), (datetime.time(3, 4), '"03:04:00"'),
        (datetime.timedelta(seconds=90), '"0:01:30"'), (decimal.Decimal("1.50"), '"1.50"'),
        (uuid.UUID(int=7), '"00000000-0000-0000-0000-000000000007"'), (Money(), '{"amount":"1.50"}'), (Color.RED, "1"),
        ((1, 2), "[1,2]"), (Safe("<b>"), '"<b>"'),
    ],
)  # fmt: skip
def test_common_objects_have_a_form_in_json(value: object, text: str) -> None:
    assert encode_json(value) == text


def test_what_has_no_form_in_json_is_refused_with_what_to_do() -> None:
    with pytest.raises(ArgumentError, match=r"cannot encode as JSON: .*to_json\(\)"):
        encode_json({"user": object()})
    endless: list[Any] = []
    endless.append(endless)
    for wrong in ({1, 2}, b"bytes", float("nan"), float("inf"), {("a", "b"): 1}, endless):
        with pytest.raises(ArgumentError, match="cannot encode as JSON"):
            encode_json(wrong)


def test_a_mistake_inside_to_json_shows_its_line() -> None:
    class Broken:
        def to_json(self) -> object:
            return len(None)  # type: ignore[arg-type]

    with pytest.raises(ArgumentError, match="cannot encode as JSON: object of type 'NoneType'") as caught:
        encode_json([Broken()])
    assert caught.value.__cause__ is not None
    assert traceback.extract_tb(caught.value.__cause__.__traceback__)[-1].name == "to_json"


# --- Naming -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "camel, snake",
    [
        ("UserController", "user_controller"), ("Page", "page"), ("HTTPServer", "http_server"), ("APIUser", "api_user"),
        ("Blog2Post", "blog2_post"), ("", ""),
    ],
)  # fmt: skip
def test_a_class_has_a_name_in_snake_case(camel: str, snake: str) -> None:
    assert underscore(camel) == snake


def test_a_name_in_snake_case_is_a_class_again() -> None:
    assert (camelize("photo_blog"), camelize("photo-blog"), camelize("user")) == ("PhotoBlog", "PhotoBlog", "User")
    assert underscore(camelize("photo_blog")) == "photo_blog"


def test_a_class_is_named_after_its_resource() -> None:
    assert phoenix._unsuffix("UserCommentController", "Controller") == "user_comment"
    assert (phoenix._unsuffix("Page", "Controller"), phoenix._unsuffix("View", "View")) == ("page", "view")


@pytest.mark.parametrize(
    "name, label", [("user_id", "User"), ("first_name", "First name"), ("email", "Email"), ("_id", ""), ("", "")]
)
def test_a_field_has_a_name_for_people(name: str, label: str) -> None:
    assert humanize(name) == label


class User:
    id = 7


class Post:
    id = 7

    def to_param(self) -> str:
        return "7-hello"


@pytest.mark.parametrize(
    "value, param",
    [
        ("a b", "a b"), (7, "7"), (1.5, "1.5"), (True, "true"), (False, "false"), (User(), "7"), (Post(), "7-hello"),
        (datetime.date(2015, 1, 2), "2015-01-02"), (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (pathlib.PurePosixPath("a/b"), "a/b"), (decimal.Decimal("1.50"), "1.50"),
    ],
)  # fmt: skip
def test_a_value_has_a_form_in_a_path(value: object, param: str) -> None:
    assert to_param(value) == param


class Unsaved:
    id = None


@pytest.mark.parametrize("value", [None, {}, {"id": 7}, [1], (1,), {1}, b"x", object(), Unsaved()])
def test_what_has_no_form_in_a_path_is_refused(value: object) -> None:
    with pytest.raises(ArgumentError, match="^cannot convert .* to a param: "):
        to_param(value)

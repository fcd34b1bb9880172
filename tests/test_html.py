"""Chapter 7, second half: HTML helpers."""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections.abc import Callable, Mapping
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import phoenix
from phoenix import (
    ArgumentError, Conn, Form, Safe,
    button, content_tag, csrf_meta_tag, form_for, form_tag, link, tag, text_to_html,
)  # fmt: skip


class FakeConn(Conn):
    """A conn with params and a token, and nothing behind them."""

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.given = params or {}

    @property
    def params(self) -> Any:
        return self.given

    def csrf_token(self) -> str:
        return "TOKEN"


CONN = FakeConn()
TOKEN = '<input name="_csrf_token" type="hidden" value="TOKEN">'
UTF8 = '<input name="_utf8" type="hidden" value="✓">'
METHOD = '<input name="_method" type="hidden" value="{}">'


def raw(text: str) -> Safe:
    return Safe(text)


class Page(HTMLParser):
    """What a browser would see: start tags with their attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.names: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.names += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


# --- Tags ---------------------------------------------------------------------------------

TAGS: list[tuple[Safe, str]] = [
    (tag("br"), "<br>"),
    (tag("input", name='"<3"'), '<input name="&quot;&lt;3&quot;">'),
    (tag("input", name=raw("<3")), '<input name="<3">'),
    (tag("input", name="it's & more"), '<input name="it&#39;s &amp; more">'),
    (tag("input", type="text", name="user_id"), '<input name="user_id" type="text">'),
    (tag("input", value=0), '<input value="0">'),
    (tag("input", value=""), '<input value="">'),
    (tag("input", my_attr="blah"), '<input my-attr="blah">'),
    (tag("label", for_="a", class_="b"), '<label class="b" for="a">'),
    (tag("audio", autoplay=True), '<audio autoplay="autoplay">'),
    (tag("audio", autoplay=False), "<audio>"),
    (tag("audio", autoplay=None), "<audio>"),
    (tag("input", data={"toggle": "dropdown"}), '<input data-toggle="dropdown">'),
    (tag("input", data={"my_attr": "blah"}), '<input data-my-attr="blah">'),
    (tag("input", data={"toggle_target": 1}), '<input data-toggle-target="1">'),
    (
        tag("input", data={"toggle": {"target": "#parent", "attr": "blah"}}),
        '<input data-toggle-attr="blah" data-toggle-target="#parent">',
    ),
    (tag("form", data={"remote": True, "off": False, "none": None}), '<form data-remote="true">'),
    (tag("div", aria={"expanded": False, "hidden": True}), '<div aria-expanded="false" aria-hidden="true">'),
    (tag("div", aria_label="x", aria={"level": 2}), '<div aria-label="x" aria-level="2">'),
    (tag("p", class_=["a", None, "b", False, "c d"]), '<p class="a b c d">'),
    (tag("p", class_=[]), "<p>"),
    (tag("p", **{"class": "a", "class_": "b"}), '<p class="b">'),
    (tag("p", **{"class": "a", "class_": None}), "<p>"),
    (tag("p", **{"@click.prevent": "x", "x-on:click": "y"}), '<p @click.prevent="x" x-on:click="y">'),
    (tag("p", title=content_tag("b", "x", class_="y")), '<p title="<b class=&quot;y&quot;>x</b>">'),
    (tag("my-element", é="1"), '<my-element é="1">'),
]


@pytest.mark.parametrize("html, expected", TAGS)
def test_a_tag_has_its_attributes_sorted_and_escaped(html: Safe, expected: str) -> None:
    assert html == expected
    assert isinstance(html, Safe)


CONTENT_TAGS: list[tuple[Safe, str]] = [
    (content_tag("p", "Hello"), "<p>Hello</p>"),
    (content_tag("p", "Hello", class_="dark"), '<p class="dark">Hello</p>'),
    (content_tag("p", "<Hello>"), "<p>&lt;Hello&gt;</p>"),
    (content_tag("p", raw("<Hello>")), "<p><Hello></p>"),
    (content_tag("p", 13), "<p>13</p>"),
    (content_tag("p"), "<p></p>"),
    (content_tag("p", ["hello", " ", raw("<b>"), "<"]), "<p>hello <b>&lt;</p>"),
    (content_tag("p", do=lambda: "<Hello>", class_="dark"), '<p class="dark">&lt;Hello&gt;</p>'),
    (content_tag("ul", do=lambda: content_tag("li", do=lambda: "Hello")), "<ul><li>Hello</li></ul>"),
    (content_tag("meta", "", content="x", name="y"), '<meta content="x" name="y"></meta>'),
]


@pytest.mark.parametrize("html, expected", CONTENT_TAGS)
def test_a_content_tag_escapes_what_is_not_safe(html: Safe, expected: str) -> None:
    assert html == expected
    assert isinstance(html, Safe)


BAD_NAMES = [
    "",
    " ",
    "a b",
    "a\tb",
    "a\nb",
    'a"b',
    "a'b",
    "a>b",
    "a<b",
    "a=b",
    "a/b",
    "a\0b",
    "a\x7fb",
    "a\xa0b",
]


@pytest.mark.parametrize("name", [*BAD_NAMES, "_"])
def test_a_name_that_would_break_out_of_its_attribute_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="not the name of an attribute"):
        tag("p", **{name: "x"})
    with pytest.raises(ArgumentError, match="not the name of an attribute"):
        tag("p", **{name: None})
    with pytest.raises(ArgumentError, match="not the name of an attribute"):
        content_tag("p", "x", data={f"{name} ": "x"})


@pytest.mark.parametrize("name", [*BAD_NAMES, "1p", "!--", "/p"])
def test_a_name_that_is_no_tag_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="not the name of a tag"):
        tag(name)
    with pytest.raises(ArgumentError, match="not the name of a tag"):
        content_tag(name, "x")


NAMES = st.text(st.sampled_from("abcxyz-_:.@é"), min_size=1).filter(lambda name: name.strip("_") != "")


@given(st.dictionaries(NAMES, st.text()))
def test_a_parser_reads_back_the_attributes_that_a_tag_was_given(attributes: dict[str, str]) -> None:
    expected = {name.removesuffix("_").replace("_", "-"): value for name, value in attributes.items()}
    page = Page(tag("p", **attributes))
    assert page.tags == [("p", expected)]
    assert page.names == sorted(expected)
    assert page.text == ""


@given(st.text(), st.text())
def test_a_parser_reads_back_the_text_and_sees_no_tag_in_it(text: str, title: str) -> None:
    page = Page(content_tag("p", text, title=title))
    assert page.tags == [("p", {"title": title})]
    assert page.text == text


@given(st.text())
def test_safe_text_cannot_end_its_attribute(text: str) -> None:
    page = Page(tag("p", title=Safe(text), z="last"))
    assert page.tags == [("p", {"title": unescape(text), "z": "last"})]


@given(st.text(min_size=1), st.text())
def test_any_name_gives_one_attribute_or_an_error(name: str, value: str) -> None:
    try:
        html = tag("p", **{name: value})
    except ArgumentError:
        return
    [(_, attributes)] = Page(html).tags
    assert list(attributes.values()) == [value]


def test_the_csrf_meta_tag_holds_the_token() -> None:
    assert csrf_meta_tag(conn=CONN) == '<meta content="TOKEN" name="csrf-token">'
    assert csrf_meta_tag(CONN, conn=CONN) == csrf_meta_tag(CONN) == csrf_meta_tag(conn=CONN)
    assert csrf_meta_tag(CONN, id="csrf") == '<meta content="TOKEN" id="csrf" name="csrf-token">'


def test_the_csrf_meta_tag_without_a_conn_says_what_to_write() -> None:
    with pytest.raises(ArgumentError, match=r"write csrf_meta_tag\(conn\)"):
        csrf_meta_tag()


@pytest.mark.parametrize("name", sorted(phoenix._CONN_HELPERS - set(phoenix._GETTEXT)))
def test_the_helpers_that_templates_hand_the_conn_take_it(name: str) -> None:
    assert "conn" in getattr(phoenix, name).__annotations__


TEXTS: list[tuple[Safe, str]] = [
    (
        text_to_html("Hello,\n\nPlease.\n\nRegards,\nThe Boss.\n"),
        "<p>Hello,</p>\n<p>Please.</p>\n<p>Regards,<br>\nThe Boss.</p>\n",
    ),
    (text_to_html("Hello,\r\n\r\nRegards,\r\nThe Boss."), "<p>Hello,</p>\n<p>Regards,<br>\nThe Boss.</p>\n"),
    (text_to_html("Hello,\nThis is dog\n\n\n"), "<p>Hello,<br>\nThis is dog</p>\n"),
    (text_to_html("a\r\n\nb\n \nc"), "<p>a</p>\n<p>b<br>\n <br>\nc</p>\n"),
    (text_to_html("Hello,\nThis is dog\n\n\n", insert_brs=False), "<p>Hello, This is dog</p>\n"),
    (text_to_html("<script></script>\n"), "<p>&lt;script&gt;&lt;/script&gt;</p>\n"),
    (text_to_html("<script></script>\n", escape=False), "<p><script></script></p>\n"),
    (text_to_html(raw("<b>a</b>\n\nb")), "<p><b>a</b></p>\n<p>b</p>\n"),
    (
        text_to_html("a\n\nb", wrapper_tag="div", attributes={"class": "p"}),
        '<div class="p">a</div>\n<div class="p">b</div>\n',
    ),
    (text_to_html(""), ""),
    (text_to_html("\n \n\n  \n\n"), ""),
]


@pytest.mark.parametrize("html, expected", TEXTS)
def test_text_becomes_paragraphs_and_line_breaks(html: Safe, expected: str) -> None:
    assert html == expected
    assert isinstance(html, Safe)


@given(st.text(st.sampled_from("a<&' \r\n")))
def test_text_to_html_loses_no_letter_and_makes_no_tag_of_them(text: str) -> None:
    page = Page(text_to_html(text))
    assert {name for name, _ in page.tags} <= {"p", "br"}
    assert page.text.split() == text.split()


# --- Links and buttons --------------------------------------------------------------------

LINK = '<form action="{}" class="link" method="post">'
BUTTON = '<form action="{}" class="button" method="{}">'
SEND = '<button{} type="submit">{}</button></form>'
DELETE = METHOD.format("delete")

LINKS: list[tuple[Safe, str]] = [
    (link("hello", to="/world"), '<a href="/world">hello</a>'),
    (link("<hello>", to="/world"), '<a href="/world">&lt;hello&gt;</a>'),
    (link(raw("<b>hello</b>"), to="/world"), '<a href="/world"><b>hello</b></a>'),
    (link(to="/world", do=lambda: raw("<i>")), '<a href="/world"><i></a>'),
    (link("hello", to="/x?a=1&b=2", class_="btn"), '<a class="btn" href="/x?a=1&amp;b=2">hello</a>'),
    (link("hello", to="/world", method="get", conn=CONN), '<a href="/world">hello</a>'),
    (
        link("x", to="https://example.com:80/", rel="nofollow"),
        '<a href="https://example.com:80/" rel="nofollow">x</a>',
    ),
    (
        link("x", to="mailto:a@b.c", data={"confirm": "Really?"}),
        '<a data-confirm="Really?" href="mailto:a@b.c">x</a>',
    ),
    (
        link("Delete", to="/posts/1", method="delete", conn=CONN, class_="danger", data={"confirm": "Sure?"}),
        LINK.format("/posts/1")
        + DELETE
        + TOKEN
        + SEND.format(' class="danger" data-confirm="Sure?"', "Delete"),
    ),
    (link("Delete", to="/1", method="delete"), LINK.format("/1") + DELETE + SEND.format("", "Delete")),
    (
        link("x", to="/", method="post", conn=CONN, form={"class_": "inline", "id": "f"}),
        '<form action="/" class="inline" id="f" method="post">' + TOKEN + SEND.format("", "x"),
    ),
    (
        link("x", to="https://elsewhere.example/", method="post", conn=CONN),
        LINK.format("https://elsewhere.example/") + SEND.format("", "x"),
    ),
    (
        button("<hello>", to="/", conn=CONN, class_="btn"),
        BUTTON.format("/", "post") + TOKEN + SEND.format(' class="btn"', "&lt;hello&gt;"),
    ),
    (
        button(to="/", method="put", csrf_token=False, conn=CONN, do=lambda: raw("<i>")),
        BUTTON.format("/", "post") + METHOD.format("put") + SEND.format("", "<i>"),
    ),
    (
        button("Next", to="/posts?page=2&q=a%26b&r=#top", method="get", conn=CONN),
        BUTTON.format("/posts#top", "get")
        + '<input name="page" type="hidden" value="2"><input name="q" type="hidden" value="a&amp;b">'
        + '<input name="r" type="hidden" value="">'
        + SEND.format("", "Next"),
    ),
]


@pytest.mark.parametrize("html, expected", LINKS)
def test_a_link_is_an_anchor_or_a_form_with_one_button(html: Safe, expected: str) -> None:
    assert html == expected
    assert isinstance(html, Safe)


def test_no_link_needs_a_script_or_carries_a_style() -> None:
    for html, _ in LINKS:
        for _, attributes in Page(html).tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]


SCRIPT_URLS = [
    "javascript:alert(1)", "JavaScript:alert(1)", " javascript:alert(1)", "\x00\x1f javascript:alert(1)",
    "java\tscript:alert(1)", "java\r\nscript:alert(1)", "\n\tj\na\nv\na\ns\nc\nr\ni\np\nt\n:alert(1)",
    "data:text/html,<script>", "DATA:x", "vbscript:x", "VBScript:x",
    raw("javascript:alert(1)"), raw("java&#x73;cript&colon;alert(1)"), raw("java&Tab;script&#58;alert(1)"),
]  # fmt: skip


@pytest.mark.parametrize("url", SCRIPT_URLS)
def test_a_url_that_would_run_as_a_script_is_refused(url: str) -> None:
    with pytest.raises(ArgumentError, match="^unsupported scheme given to link/2"):
        link("x", to=url)
    with pytest.raises(ArgumentError, match="^unsupported scheme given to link/2"):
        link("x", to=url, method="delete")
    with pytest.raises(ArgumentError, match="^unsupported scheme given to button/2"):
        button("x", to=url)
    with pytest.raises(ArgumentError, match="^unsupported scheme given to form_tag/2"):
        form_tag(url)


@pytest.mark.parametrize(
    "url", ["", "/javascript:x", "?javascript:", "#data:", "javascript", "x/data:y", "tel:1", "ws:x"]
)
def test_a_url_that_only_looks_like_a_script_is_kept(url: str) -> None:
    assert Page(link("x", to=url)).tags == [("a", {"href": url})]


def test_a_link_without_text_or_destination_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match="^link/2 requires a text as first argument or contents in the do block"
    ):
        link(to="/")
    with pytest.raises(ArgumentError, match="^button/2 requires a text"):
        button(to="/")
    with pytest.raises(ArgumentError, match="^link/2 expected a path or URL to go to, got None"):
        link("x", to=None)  # type: ignore[arg-type]


# --- Forms --------------------------------------------------------------------------------

FORM = '<form accept-charset="UTF-8" action="/" method="{}">'

FORMS: list[tuple[Safe, str]] = [
    (form_tag("/", "get", conn=CONN), FORM.format("get") + UTF8),
    (form_tag("/", method="GET", conn=CONN), FORM.format("get") + UTF8),
    (form_tag("/", "get", enforce_utf8=False), '<form action="/" method="get">'),
    (form_tag("/", conn=CONN), FORM.format("post") + TOKEN + UTF8),
    (form_tag("/"), FORM.format("post") + UTF8),
    (form_tag("/", csrf_token=False, conn=CONN), FORM.format("post") + UTF8),
    (form_tag("/", "put", conn=CONN), FORM.format("post") + METHOD.format("put") + TOKEN + UTF8),
    (form_tag("/", "PATCH"), FORM.format("post") + METHOD.format("PATCH") + UTF8),
    (
        form_tag("/", multipart=True, conn=CONN, csrf_token=False),
        '<form accept-charset="UTF-8" action="/" enctype="multipart/form-data" method="post">' + UTF8,
    ),
    (
        form_tag("/", enforce_utf8=False, class_="wide", id="f", data={"x": "y"}),
        '<form action="/" class="wide" data-x="y" id="f" method="post">',
    ),
    (
        form_tag("/", accept_charset="latin-1", enforce_utf8=True),
        FORM.format("post").replace("UTF-8", "latin-1") + UTF8,
    ),
    (form_tag("/", conn=CONN, do=lambda: "<>"), FORM.format("post") + TOKEN + UTF8 + "&lt;&gt;</form>"),
    (form_tag("/", "get", do=lambda: raw("<br>")), FORM.format("get") + UTF8 + "<br></form>"),
    (form_tag("/?a=1&b=<", "get", enforce_utf8=False), '<form action="/?a=1&amp;b=&lt;" method="get">'),
]


@pytest.mark.parametrize("html, expected", FORMS)
def test_a_form_has_the_hidden_inputs_that_it_needs(html: Safe, expected: str) -> None:
    assert html == expected
    assert isinstance(html, Safe)


HERE = ["", "/", "/a//b", "a", "../a", "?a=http://b", "#x", ".", "/x:y", "./x:y", " /x"]
ELSEWHERE = [
    "http://evil.example", "https://evil.example/", "HTTPS:evil", "//evil.example", "///evil.example",
    r"/\evil.example", r"\\evil.example", r"\/evil.example", " //evil.example", "\t//evil.example",
    "/\t/evil.example", "/\n\\evil.example", "\x00//evil.example", "h\nttp://evil.example", "mailto:x",
    raw("&#47;/evil.example"), raw("https&colon;//evil.example"),
]  # fmt: skip


@pytest.mark.parametrize("action", HERE)
def test_a_form_for_this_site_carries_the_token(action: str) -> None:
    assert TOKEN in form_tag(action, conn=CONN)


@pytest.mark.parametrize("action", ELSEWHERE)
def test_a_form_for_another_site_never_carries_the_token(action: str) -> None:
    assert "TOKEN" not in form_tag(action, conn=CONN)
    assert "TOKEN" not in form_tag(action, "delete", conn=CONN)


def test_no_token_is_made_for_a_form_that_does_not_show_it() -> None:
    class Careful(FakeConn):
        def csrf_token(self) -> str:
            raise AssertionError("a token was made, and with it a session")

    form_tag("/", "get", conn=Careful())
    form_tag("/", csrf_token=False, conn=Careful())
    form_tag("//evil.example", conn=Careful())
    link("x", to="/", conn=Careful())


def test_a_method_that_no_form_can_send_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"unknown method 'pach' given to form_tag: .* Did you mean 'patch'\?"
    ):
        form_tag("/", "pach")


INNER = [
    lambda: link("x", to="/", method="delete"),
    lambda: button("x", to="/"),
    lambda: form_tag("/x"),
    lambda: raw("a <form>"),
    lambda: raw("<form\nid='x'>"),
]


@pytest.mark.parametrize("inner", INNER)
def test_a_form_inside_a_form_is_refused(inner: Callable[[], Safe]) -> None:
    with pytest.raises(ArgumentError, match="a form holds another form"):
        form_tag("/", do=inner)
    with pytest.raises(ArgumentError, match="a form holds another form"):
        form_for(CONN, "/", name="post", do=lambda f: [f.text_input("title"), inner()])


def test_words_about_forms_are_welcome_in_a_form() -> None:
    assert "&lt;form&gt;" in form_tag("/", do=lambda: ["<form>", raw("<formula>")])


# --- Forms with inputs --------------------------------------------------------------------

PARAMS = {
    "search": {
        "key": "value",
        "alt_key": None,
        "datetime": {"year": "2020", "month": "4", "day": "17", "hour": "2", "minute": "11", "second": "13"},
    }
}


def show(write: Callable[[Form], object], **options: Any) -> str:
    """Return what *write* gives inside a form of a conn."""
    html = form_for(FakeConn(PARAMS), "/", name="search", do=lambda f: ["|", write(f), "|"], **options)
    return html.split("|")[1]


BARE = Form(name="search")


def test_form_for_writes_the_form_around_its_block() -> None:
    html = form_for(
        FakeConn({"post": {"title": "<Hi>"}}), "/posts", name="post", errors={"title": "is short"},
        do=lambda f: [f.label("title"), f.text_input("title"), f.error_tag("title"), f.submit("Save")],
    )  # fmt: skip
    assert html == (
        '<form accept-charset="UTF-8" action="/posts" method="post">' + TOKEN + UTF8
        + '<label for="post_title">Title</label>'
        '<input id="post_title" name="post[title]" type="text" value="&lt;Hi&gt;">'
        '<span class="error">is short</span>'
        '<input type="submit" value="Save"></form>'
    )  # fmt: skip
    assert isinstance(html, Safe)


def test_form_for_takes_what_form_tag_takes() -> None:
    html = form_for(
        CONN, "/", name="search", method="put", multipart=True, csrf_token=False, enforce_utf8=False,
        class_="wide", do=lambda f: f.file_input("key"),
    )  # fmt: skip
    assert html == (
        '<form action="/" class="wide" enctype="multipart/form-data" method="post">' + METHOD.format("put")
        + '<input id="search_key" name="search[key]" type="file"></form>'
    )  # fmt: skip


def test_form_for_gives_its_block_a_form_that_knows_the_request() -> None:
    conn = FakeConn(PARAMS)

    def check(form: Form) -> str:
        assert (form.name, form.id, form.source, form.multipart) == ("search", "search", conn, False)
        assert form.params == PARAMS["search"]
        return "<>"

    assert form_for(conn, "/", name="search", do=check).endswith("&lt;&gt;</form>")


def test_form_for_of_data_takes_the_token_from_the_conn_beside_it() -> None:
    assert TOKEN in form_for({"a": 1}, "/", name="post", conn=CONN, do=lambda f: f.text_input("a"))
    assert "TOKEN" not in form_for({"a": 1}, "/", name="post", do=lambda f: f.text_input("a"))


def test_form_for_without_a_block_says_what_to_write() -> None:
    with pytest.raises(ArgumentError, match="form_for needs a block: <%= form_for"):
        form_for(CONN, "/", name="post")


def database_row() -> sqlite3.Row:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    try:
        row: sqlite3.Row = connection.execute("select 'Hi' as title, null as body").fetchone()
        return row
    finally:
        connection.close()


@pytest.mark.parametrize(
    "form",
    [
        Form({"title": "Hi", "body": None}, name="post"),
        Form(SimpleNamespace(title="Hi", body=None), name="post"),
        Form(database_row(), name="post"),
        Form(name="post", values={"title": "Hi", "body": None}),
        Form({"title": "old", "body": "old"}, name="post", values={"title": "Hi", "body": None}),
        Form(FakeConn({"post": {"title": "Hi", "body": None}}), name="post"),
        Form(FakeConn({"post": {"title": "Hi"}}), name="post", values={"title": "old", "body": None}),
        Form(FakeConn({"post": "nonsense"}), name="post", values={"title": "Hi"}),
        Form({"post": {"title": "Hi"}}, name="x").fields_for("post"),
        Form({}, name="x").fields_for("post", {"title": "Hi"}),
        Form(FakeConn({"x": {"post": {"title": "Hi"}}}), name="x").fields_for("post", {"title": "old"}),
        Form(FakeConn({"x": {"post": "nonsense"}}), name="x").fields_for("post", {"title": "Hi"}),
    ],
)
def test_a_field_shows_what_was_submitted_or_else_what_is_stored(form: Form) -> None:
    assert [form.input_value(field) for field in ("title", "body", "missing")] == ["Hi", None, None]
    assert 'value="Hi"' in form.text_input("title")
    assert "value" not in form.text_input("body")


def test_a_nested_form_nests_names_ids_values_and_errors() -> None:
    form = Form(
        {"author": {"name": "Ann"}}, name="post", errors={"author": {"name": "too short"}}, multipart=True
    )
    author = form.fields_for("author")
    assert (
        author.text_input("name")
        == '<input id="post_author_name" name="post[author][name]" type="text" value="Ann">'
    )
    assert author.errors("name") == ["too short"]
    assert form.errors("author") == []
    assert (
        author.file_input("photo") == '<input id="post_author_photo" name="post[author][photo]" type="file">'
    )


def test_a_form_named_by_hand_has_ids_without_brackets() -> None:
    assert Form(name="post[tags]").input_id("x") == "post_tags_x"
    assert Form(name="post[tags]", id="t").input_id("x") == "t_x"


INPUTS = {
    "text": "text_input", "hidden": "hidden_input", "email": "email_input", "number": "number_input",
    "url": "url_input", "search": "search_input", "tel": "telephone_input",
    "range": "range_input", "color": "color_input",
}  # fmt: skip


@pytest.mark.parametrize("type, method", INPUTS.items())
def test_an_input_has_its_type_id_name_and_value(type: str, method: str) -> None:
    bare = getattr(BARE, method)
    assert bare("key") == f'<input id="search_key" name="search[key]" type="{type}">'
    custom = f'<input id="key" name="search[key][]" type="{type}" value="foo">'
    assert bare("key", value="foo", id="key", name="search[key][]") == custom
    expected = f'<input id="search_key" name="search[key]" type="{type}" value="value">'
    assert show(lambda f: getattr(f, method)("key")) == expected
    assert show(lambda f: getattr(f, method)("key", value=None)) == expected.replace(' value="value"', "")
    assert show(lambda f: getattr(f, method)("key", value=True)) == expected.replace(
        'value="value"', 'value="true"'
    )
    assert show(lambda f: getattr(f, method)("key", value=False)) == expected.replace('="value"', '="false"')
    assert show(lambda f: getattr(f, method)("key", required=True, class_="w")) == expected.replace(
        "<input id", '<input class="w" id'
    ).replace("type", 'required="required" type')


CASES: list[tuple[str, str]] = [
    # password: never sent back
    (show(lambda f: f.password_input("key")), '<input id="search_key" name="search[key]" type="password">'),
    (
        show(lambda f: f.password_input("key", value="foo", id="key")),
        '<input id="key" name="search[key]" type="password" value="foo">',
    ),
    # file
    (
        show(lambda f: f.file_input("key"), multipart=True),
        '<input id="search_key" name="search[key]" type="file">',
    ),
    (
        show(lambda f: f.file_input("key", multiple=True, accept="image/*"), multipart=True),
        '<input accept="image/*" id="search_key" multiple="multiple" name="search[key][]" type="file">',
    ),
    # textarea
    (BARE.textarea("key"), '<textarea id="search_key" name="search[key]">\n</textarea>'),
    (show(lambda f: f.textarea("key")), '<textarea id="search_key" name="search[key]">\nvalue</textarea>'),
    (
        show(lambda f: f.textarea("key", value="\n<", id="key", rows=3)),
        '<textarea id="key" name="search[key]" rows="3">\n\n&lt;</textarea>',
    ),
    # submit, reset
    (BARE.submit("Submit"), '<input type="submit" value="Submit">'),
    (BARE.submit(), '<input type="submit" value="Submit">'),
    (BARE.submit("<Go>", class_="btn"), '<input class="btn" type="submit" value="&lt;Go&gt;">'),
    (BARE.reset("Reset"), '<input type="reset" value="Reset">'),
    (BARE.reset("Clear", class_="btn"), '<input class="btn" type="reset" value="Clear">'),
    # radio_button
    (
        BARE.radio_button("key", "admin"),
        '<input id="search_key_admin" name="search[key]" type="radio" value="admin">',
    ),
    (
        BARE.radio_button("key", "admin", checked=True),
        '<input checked="checked" id="search_key_admin" name="search[key]" type="radio" value="admin">',
    ),
    (
        show(lambda f: f.radio_button("key", "value")),
        '<input checked="checked" id="search_key_value" name="search[key]" type="radio" value="value">',
    ),
    (
        show(lambda f: f.radio_button("key", "value", checked=False)),
        '<input id="search_key_value" name="search[key]" type="radio" value="value">',
    ),
    (
        show(lambda f: f.radio_button("key", "a b", id=None)),
        '<input name="search[key]" type="radio" value="a b">',
    ),
    (
        show(lambda f: f.radio_button("key", "a <b>")),
        '<input id="search_key_a__lt_b_gt_" name="search[key]" type="radio" value="a &lt;b&gt;">',
    ),
    (
        Form({"key": 1}, name="search").radio_button("key", "1"),
        '<input checked="checked" id="search_key_1" name="search[key]" type="radio" value="1">',
    ),
    (
        Form({"key": "true"}, name="search").radio_button("key", True),
        '<input checked="checked" id="search_key_true" name="search[key]" type="radio" value="true">',
    ),
    # label
    (BARE.label("key"), '<label for="search_key">Key</label>'),
    (BARE.label("user_id"), '<label for="search_user_id">User</label>'),
    (BARE.label("key", "<Search>"), '<label for="search_key">&lt;Search&gt;</label>'),
    (BARE.label("key", for_="test_key", class_="w"), '<label class="w" for="test_key">Key</label>'),
    (BARE.label("key", do=lambda: raw("<b>")), '<label for="search_key"><b></label>'),
]


@pytest.mark.parametrize("html, expected", CASES)
def test_an_input_of_another_shape_is_written_as_browsers_want_it(html: str, expected: str) -> None:
    assert html == expected


HIDDEN = '<input name="search[key]" type="hidden" value="{}">'
BOX = '<input id="search_key" name="search[key]" type="checkbox" value="{}">'
CHECKED = BOX.replace("<input", '<input checked="checked"')

CHECKBOXES: list[tuple[str, str]] = [
    (BARE.checkbox("key"), HIDDEN.format("false") + BOX.format("true")),
    (BARE.checkbox("key", value="true"), HIDDEN.format("false") + CHECKED.format("true")),
    (BARE.checkbox("key", value=True), HIDDEN.format("false") + CHECKED.format("true")),
    (BARE.checkbox("key", checked=True), HIDDEN.format("false") + CHECKED.format("true")),
    (BARE.checkbox("key", value=True, checked=False), HIDDEN.format("false") + BOX.format("true")),
    (BARE.checkbox("key", value=0, checked_value=1, unchecked_value=0), HIDDEN.format("0") + BOX.format("1")),
    (
        BARE.checkbox("key", value=1, checked_value=1, unchecked_value=0),
        HIDDEN.format("0") + CHECKED.format("1"),
    ),
    (show(lambda f: f.checkbox("key")), HIDDEN.format("false") + BOX.format("true")),
    (
        show(lambda f: f.checkbox("key", checked_value="value", unchecked_value="novalue")),
        HIDDEN.format("novalue") + CHECKED.format("value"),
    ),
    (Form({"key": True}, name="search").checkbox("key"), HIDDEN.format("false") + CHECKED.format("true")),
    (
        BARE.checkbox("key", name="x", id="y"),
        '<input name="x" type="hidden" value="false"><input id="y" name="x" type="checkbox" value="true">',
    ),
]


@pytest.mark.parametrize("html, expected", CHECKBOXES)
def test_a_checkbox_sends_its_unchecked_value_first(html: str, expected: str) -> None:
    assert html == expected


def test_a_file_input_needs_a_multipart_form() -> None:
    with pytest.raises(ArgumentError, match="multipart=True"):
        show(lambda f: f.file_input("key"))
    with pytest.raises(ArgumentError, match="multipart=True"):
        BARE.fields_for("x").file_input("key")


def test_errors_are_a_list_however_they_were_given() -> None:
    form = Form(
        name="post", errors={"a": "is <bad>", "b": ["one", "two"], "c": None, "d": (), "e": {"x": "nested"}}
    )
    assert [form.errors(field) for field in "abcdef"] == [["is <bad>"], ["one", "two"], [], [], [], []]
    assert form.error_tag("a") == '<span class="error">is &lt;bad&gt;</span>'
    assert (
        form.error_tag("b", class_="help", id="h")
        == '<span class="help" id="h">one</span><span class="help" id="h">two</span>'
    )
    assert form.error_tag("c") == form.error_tag("f") == ""
    assert isinstance(form.error_tag("f"), Safe)


# --- Selects ------------------------------------------------------------------------------


def options(*items: str) -> str:
    """``options("foo=Foo", "*bar")``: label Foo with value foo, then bar, selected."""
    html = ""
    for item in items:
        value, _, label = item.lstrip("*").partition("=")
        selected = ' selected="selected"' if item.startswith("*") else ""
        html += f'<option{selected} value="{value}">{label or value}</option>'
    return html


SELECT = '<select id="search_key" name="search[key]">{}</select>'
MULTIPLE = '<select id="search_key" multiple="" name="search[key][]">{}</select>'

SELECTS: list[tuple[str, str]] = [
    (BARE.select("key", ["foo", "bar"]), SELECT.format(options("foo", "bar"))),
    (BARE.select("key", [("Foo", "foo"), ("Bar", "bar")]), SELECT.format(options("foo=Foo", "bar=Bar"))),
    (BARE.select("key", {"Foo": "foo", "Bar": "bar"}), SELECT.format(options("foo=Foo", "bar=Bar"))),
    (BARE.select("key", range(3), value=1), SELECT.format(options("0", "*1", "2"))),
    (BARE.select("key", (str(n) for n in range(2))), SELECT.format(options("0", "1"))),
    (
        BARE.select("key", ["foo"], prompt="Choose <one>"),
        SELECT.format(options("=Choose &lt;one&gt;", "foo")),
    ),
    (BARE.select("key", ["foo", "bar"], value="foo"), SELECT.format(options("*foo", "bar"))),
    (BARE.select("key", ["foo", "bar"], default="bar"), SELECT.format(options("foo", "*bar"))),
    (BARE.select("key", ["foo", "bar"], value="foo", default="bar"), SELECT.format(options("*foo", "bar"))),
    (
        BARE.select("key", [("On", True), ("Off", False)], value="false"),
        SELECT.format(options("true=On", "*false=Off")),
    ),
    (BARE.select("key", ["<&>"], value="<&>"), SELECT.format(options("*&lt;&amp;&gt;"))),
    (
        BARE.select("key", ["foo"], id="x", name="y", class_="z", required=True),
        f'<select class="z" id="x" name="y" required="required">{options("foo")}</select>',
    ),
    (
        show(lambda f: f.select("key", ["value", "novalue"], default="novalue")),
        SELECT.format(options("*value", "novalue")),
    ),
    (
        show(lambda f: f.select("key", ["value", "novalue"], value="novalue")),
        SELECT.format(options("value", "*novalue")),
    ),
    (
        BARE.select(
            "key", [("foo", ["bar", "baz"]), ("qux", (("One", 1), ("Two", 2))), ("n", range(1))], value="2"
        ),
        SELECT.format(
            f'<optgroup label="foo">{options("bar", "baz")}</optgroup>'
            f'<optgroup label="qux">{options("1=One", "*2=Two")}</optgroup>'
            f'<optgroup label="n">{options("0")}</optgroup>'
        ),
    ),
    (BARE.multiple_select("key", ["foo", "bar"]), MULTIPLE.format(options("foo", "bar"))),
    (BARE.multiple_select("key", [("foo", 1), ("bar", 2)]), MULTIPLE.format(options("1=foo", "2=bar"))),
    (
        BARE.multiple_select("key", ["a", "b", "c"], value=["a", "c"]),
        MULTIPLE.format(options("*a", "b", "*c")),
    ),
    (
        BARE.multiple_select("key", [("foo", "1"), ("bar", "2")], value=[1]),
        MULTIPLE.format(options("*1=foo", "2=bar")),
    ),
    (BARE.multiple_select("key", [1, 2], default=(2,)), MULTIPLE.format(options("1", "*2"))),
    (BARE.multiple_select("key", [1, 2], value={1}, default=[2]), MULTIPLE.format(options("*1", "2"))),
    (show(lambda f: f.multiple_select("key", ["value", "x"])), MULTIPLE.format(options("*value", "x"))),
    (Form({"key": 2}, name="search").multiple_select("key", [1, 2]), MULTIPLE.format(options("1", "*2"))),
    (
        show(lambda f: f.multiple_select("datetime", ["x"])),
        f'<select id="search_datetime" multiple="" name="search[datetime][]">{options("x")}</select>',
    ),
]


@pytest.mark.parametrize("html, expected", SELECTS)
def test_a_select_offers_its_options_and_selects_the_value(html: str, expected: str) -> None:
    assert html == expected


# --- Dates and times ----------------------------------------------------------------------

NOW = time.localtime().tm_year
MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip


SELECT_PART = '<select id="search_datetime_{0}" name="search[datetime][{0}]">'


def part_select(part: str, years: range = range(NOW - 5, NOW + 6), prompt: str = "") -> str:
    """Write the select of one part of a date, the long way round."""
    offered = {"year": years, "month": range(1, 13), "day": range(1, 32), "hour": range(24)}
    numbers = offered.get(part, range(60))
    items = [f"{n}={MONTHS[n - 1]}" if part == "month" else f"{n}={n:02}" for n in numbers]
    return SELECT_PART.format(part) + prompt + options(*items) + "</select>"


def test_a_date_select_is_a_year_a_month_and_a_day() -> None:
    expected = " / ".join(part_select(part) for part in ("year", "month", "day"))
    assert BARE.date_select("datetime") == expected
    assert isinstance(BARE.date_select("datetime"), Safe)


def test_a_time_select_is_an_hour_and_a_minute_and_seconds_on_demand() -> None:
    hour, minute, second = (part_select(part) for part in ("hour", "minute", "second"))
    assert BARE.time_select("datetime") == f"{hour} : {minute}"
    assert BARE.time_select("datetime", second={}) == f"{hour} : {minute} : {second}"
    assert BARE.time_select("datetime", second=True) == f"{hour} : {minute} : {second}"


def test_a_datetime_select_is_a_date_a_dash_and_a_time() -> None:
    date, clock = BARE.date_select("datetime"), BARE.time_select("datetime")
    assert BARE.datetime_select("datetime") == f"{date} &mdash; {clock}"
    clock = BARE.time_select("datetime", second={})
    assert BARE.datetime_select("datetime", second={}) == f"{date} &mdash; {clock}"


def selected(html: str) -> dict[str, str]:
    """Return what a browser would send of the selects that have a selected option."""
    chosen, name = {}, ""
    for element, attributes in Page(html).tags:
        name = attributes["name"] or "" if element == "select" else name
        if "selected" in attributes:
            chosen[name.removeprefix("search[datetime][").removesuffix("]")] = attributes["value"] or ""
    return chosen


DATE = {"year": "2020", "month": "4", "day": "17"}
CLOCK = {"hour": "2", "minute": "11", "second": "13"}
UTC = datetime.timezone.utc

MOMENTS: list[Any] = [
    datetime.datetime(2020, 4, 17, 2, 11, 13, 328904),
    datetime.datetime(2020, 4, 17, 2, 11, 13, tzinfo=UTC),
    {"year": 2020, "month": 4, "day": 17, "hour": 2, "minute": 11, "second": 13},
    {"year": "2020", "month": "04", "day": "17", "hour": "02", "minute": "11", "second": "13"},
    SimpleNamespace(**{**DATE, **CLOCK}),
    "2020-04-17 02:11:13",
    "2020-04-17T02:11:13.328904+00:00",
]


@pytest.mark.parametrize("value", MOMENTS, ids=repr)
def test_a_moment_selects_its_parts_in_whichever_form_it_comes(value: Any) -> None:
    assert selected(BARE.datetime_select("datetime", value=value, second={})) == {**DATE, **CLOCK}
    assert selected(BARE.datetime_select("datetime", default=value, second={})) == {**DATE, **CLOCK}
    form = Form({"datetime": value}, name="search")
    assert selected(form.datetime_select("datetime", second={})) == {**DATE, **CLOCK}
    assert selected(form.date_select("datetime")) == DATE
    assert selected(form.time_select("datetime", second={})) == CLOCK
    if isinstance(value, (str, datetime.datetime)):
        assert 'value="2020-04-17"' in form.date_input("datetime")
        assert 'value="02:11:13"' in form.time_input("datetime")
        assert 'value="2020-04-17T02:11:13"' in form.datetime_local_input("datetime")


def test_a_date_or_a_time_alone_selects_its_half() -> None:
    value: object
    for value in (datetime.date(2020, 4, 17), "2020-04-17"):
        assert selected(BARE.date_select("datetime", value=value)) == DATE
        assert selected(BARE.datetime_select("datetime", value=value, second={})) == DATE
    for value in (datetime.time(2, 11, 13, 328904), "02:11:13"):
        assert selected(BARE.time_select("datetime", value=value, second={})) == CLOCK


def test_what_was_submitted_is_selected_before_the_default() -> None:
    html = show(lambda f: f.datetime_select("datetime", default=datetime.datetime(2021, 10, 13, 1, 2, 3), second={}))
    assert selected(html) == {**DATE, **CLOCK}
    html = show(
        lambda f: f.datetime_select("unknown", name="search[datetime]", default=datetime.datetime(NOW, 10, 13, 1, 2, 3))
    )
    assert selected(html) == {"year": str(NOW), "month": "10", "day": "13", "hour": "1", "minute": "2"}


def test_a_year_far_back_is_offered_beside_those_around_now() -> None:
    html = BARE.date_select("datetime", value=datetime.date(1969, 7, 20))
    assert options("*1969", *(str(year) for year in range(NOW - 5, NOW + 6))) in html


def test_each_part_takes_options_and_attributes_of_its_own() -> None:
    html = BARE.date_select(
        "datetime", year={"options": range(1999, 2001), "prompt": "Year"}, day={"class_": "d"}
    )
    year = part_select("year", years=range(1999, 2001), prompt=options("=Year"))
    day = part_select("day").replace("<select", '<select class="d"')
    assert html == f"{year} / {part_select('month')} / {day}"


def test_a_block_arranges_the_parts() -> None:
    html = BARE.datetime_select(
        "datetime",
        id="i",
        name="n",
        month={"id": "m"},
        do=lambda part: ["<D> ", part("day", class_="d"), part("month")],
    )
    assert html.startswith(
        '&lt;D&gt; <select class="d" id="i_day" name="n[day]"><option value="1">01</option>'
    )
    assert '</select><select id="m" name="n[month]"><option value="1">January</option>' in html
    assert isinstance(html, Safe)


def test_a_part_that_a_select_does_not_have_is_refused() -> None:
    with pytest.raises(ArgumentError, match="'minutes' is no part .* Did you mean 'minute'"):
        BARE.time_select("datetime", minutes={})


def test_a_value_that_is_no_date_is_an_error_of_the_application_but_not_of_the_client() -> None:
    for nonsense in (5, "soon", {"x": 1}, ["x"], object()):
        with pytest.raises(ArgumentError, match="unrecognized date or time"):
            BARE.date_select("datetime", value=nonsense)
        with pytest.raises(ArgumentError, match="unrecognized date or time"):
            Form({"datetime": nonsense}, name="search").date_select("datetime")
        submitted = Form(FakeConn({"search": {"datetime": nonsense}}), name="search")
        assert submitted.date_select("datetime") == BARE.date_select("datetime")
        submitted.date_input("datetime")
    huge = Form(
        FakeConn({"search": {"datetime": {"year": "9" * 5000, "month": "٣", "day": "-1"}}}), name="search"
    )
    assert huge.date_select("datetime") == BARE.date_select("datetime")


MOMENT_INPUTS: list[tuple[str, str]] = [
    (BARE.date_input("d"), '<input id="search_d" name="search[d]" type="date">'),
    (
        BARE.date_input("d", value=datetime.date(812, 4, 7)),
        '<input id="search_d" name="search[d]" type="date" value="0812-04-07">',
    ),
    (BARE.date_input("d", value="soon"), '<input id="search_d" name="search[d]" type="date" value="soon">'),
    (
        BARE.time_input("d", value=datetime.time(2, 1)),
        '<input id="search_d" name="search[d]" type="time" value="02:01">',
    ),
    (
        BARE.time_input("d", value="02:01:30", step=15),
        '<input id="search_d" name="search[d]" step="15" type="time" value="02:01:30">',
    ),
    (
        BARE.datetime_local_input("d", value="2020-04-17 02:11:00"),
        '<input id="search_d" name="search[d]" type="datetime-local" value="2020-04-17T02:11">',
    ),
]


@pytest.mark.parametrize("html, expected", MOMENT_INPUTS)
def test_a_date_or_time_input_gets_the_format_that_browsers_read(html: str, expected: str) -> None:
    assert html == expected


# --- Whatever the user typed --------------------------------------------------------------


@given(st.text(), st.text(), st.text())
def test_a_parser_reads_back_name_field_and_value_of_every_input(name: str, field: str, value: str) -> None:
    form = Form({field: value}, name=name, multipart=True)
    expected = {"id": form.input_id(field), "name": f"{name}[{field}]"}
    for type, method in INPUTS.items():
        assert Page(getattr(form, method)(field)).tags == [
            ("input", {**expected, "type": type, "value": value})
        ]
    assert Page(form.password_input(field)).tags == [("input", {**expected, "type": "password"})]
    assert Page(form.label(field, value)).text == value
    [(_, hidden), (_, box)] = Page(form.checkbox(field, checked_value=value, unchecked_value=name)).tags
    assert hidden == {"name": expected["name"], "type": "hidden", "value": name}
    assert box == {**expected, "checked": "checked", "type": "checkbox", "value": value}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_textarea_keeps_its_text_and_its_first_newline(value: str) -> None:
    html = Form({"body": value}, name="post").textarea("body")
    start, end = '<textarea id="post_body" name="post[body]">\n', "</textarea>"
    assert html.startswith(start) and html.endswith(end)
    inside = html[len(start) : -len(end)]
    assert "<" not in inside
    assert unescape(inside) == value


@given(st.dictionaries(st.text(), st.text(), min_size=1), st.data())
def test_a_parser_reads_back_the_options_and_the_one_that_is_selected(
    labels: dict[str, str], data: st.DataObject
) -> None:
    value = data.draw(st.sampled_from(sorted(labels.values())))
    page = Page(Form({"key": value}, name="x").select("key", labels))
    found = [
        (attributes["value"], "selected" in attributes) for name, attributes in page.tags if name == "option"
    ]
    assert found == [(each, each == value) for each in labels.values()]
    assert page.text == "".join(labels)


@given(st.text(), st.text())
def test_a_parser_reads_back_where_a_link_and_a_form_go(to: str, text: str) -> None:
    try:
        html = link(text, to=to)
    except ArgumentError:
        assert unescape(to).strip().lower().startswith(("javascript", "data", "vbscript"))
        return
    assert Page(html).tags == [("a", {"href": to})]
    assert Page(html).text == text
    assert Page(form_tag(to)).tags[0] == ("form", {"accept-charset": "UTF-8", "action": to, "method": "post"})


@given(st.text(st.sampled_from("/\\\t\n :hx"), max_size=8))
def test_the_token_goes_only_where_a_browser_stays_on_this_host(action: str) -> None:
    """The oracle is the standard library, given what the URL standard leaves of the text."""
    from urllib.parse import urljoin, urlsplit

    cleaned = (
        action.strip("".join(map(chr, range(33)))).replace("\t", "").replace("\n", "").replace("\\", "/")
    )
    resolved = urlsplit(urljoin("http://here/dir/page", cleaned))
    if (resolved.scheme, resolved.netloc) != ("http", "here"):
        assert TOKEN not in form_tag(action, conn=CONN)


# --- Links in a browser, with phoenix.js --------------------------------------------------

LINKS_APP = """
import phoenix
from phoenix import Conn, Controller, View, pipe_through, pipeline, plug, resources, scope, socket, template

class PostController(Controller):
    def index(self, conn, params):
        return conn.render("index.html")

    def destroy(self, conn, params):
        return conn.text(f"deleted {params['id']}")

class PostView(View):
    template("index.html.eex", '''
        <!doctype html>
        <%= csrf_meta_tag(@conn) %>
        <script src="/js/phoenix.js"></script>
        <script src="/js/phoenix.js"></script>
        <%= link("Delete by a form", to="/posts/1", method="delete", data={"confirm": "Sure?"}) %>
        <a href="/posts/2" data-method="delete" data-confirm="Sure?"><b>Delete by a link</b></a>
        <a href="/posts?elsewhere" data-confirm="Leave?">Elsewhere</a>
        <a href="javascript:alert(1)" data-method="post">Script</a>
        ''')

class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.fetch_session)
        plug(Conn.protect_from_forgery)
    with scope("/"):
        pipe_through("browser")
        resources("/posts", PostController, only=["index", "destroy"])
    with socket("/ws"):
        pass

phoenix.Endpoint(Router, secret_key_base="s" * 64).run()
"""


@pytest.fixture
def links(start: Callable[..., Any], page: Any, tmp_path: Path) -> Any:
    (tmp_path / "links.py").write_text(LINKS_APP)
    server = start(tmp_path / "links.py", PYTHONPATH=str(Path(phoenix.__file__).parent))
    page.goto(server.url + "/posts")
    return page


def asked(page: Any, answer: bool) -> list[str]:
    """Answer the questions of a page, which are kept in the list returned."""
    questions: list[str] = []

    def decide(dialog: Any) -> None:
        questions.append(dialog.message)
        dialog.accept() if answer else dialog.dismiss()

    page.on("dialog", decide)
    return questions


@pytest.mark.parametrize("text, number", [("Delete by a form", "1"), ("Delete by a link", "2")])
def test_in_a_browser_a_link_asks_once_and_then_deletes(links: Any, text: str, number: str) -> None:
    questions = asked(links, True)
    links.click(f"text={text}")
    links.wait_for_selector(f"text=deleted {number}")
    assert questions == ["Sure?"]


@pytest.mark.parametrize("text", ["Delete by a form", "Delete by a link", "Elsewhere"])
def test_in_a_browser_a_link_that_is_not_confirmed_does_nothing(links: Any, text: str) -> None:
    before, questions = links.url, asked(links, False)
    sent: list[str] = []
    links.on("request", lambda request: sent.append(request.url))
    links.click(f"text={text}")
    links.evaluate("1")  # whatever the click started has begun by now
    assert (links.url, sent, len(questions)) == (before, [], 1)


def test_in_a_browser_the_method_of_a_link_does_not_run_a_script(links: Any) -> None:
    questions = asked(links, True)
    links.click("text=Script")
    links.evaluate("1")
    assert (questions, links.locator("form").count()) == ([], 1)

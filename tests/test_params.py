"""Chapter 4, Params: what a client sends becomes maps of strings, lists and uploads."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import phoenix
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from phoenix import (
    Adapter,
    ArgumentError,
    BadEncodingError,
    BadRequestError,
    Conn,
    Endpoint,
    InvalidQueryError,
    MissingParamError,
    MultipartParser,
    Params,
    ParseError,
    Parsers,
    PhoenixError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
    Upload,
    decode_query,
    encode_query,
    get,
    head_as_get,
    method_override,
    parse_content_type,
    parse_cookie_header,
    parse_json,
    post,
    scrub,
)

from serving import Serving


@pytest.fixture(autouse=True)
def no_temporary_file_is_left(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("uploads")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


# --- Errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, status, text",
    [
        (InvalidQueryError("x"), 400, "x"),
        (InvalidQueryError("the query is too long", status=414), 414, "the query is too long"),
        (BadEncodingError("x"), 400, "x"),
        (ParseError("malformed request, x"), 400, "malformed request, x"),
        (UnsupportedMediaTypeError("text/plain"), 415, "unsupported media type text/plain"),
        (RequestTooLargeError(8), 413, "the request is too large: its body is over 8 bytes"),
        (
            RequestTooLargeError(9, "its form", "fields"),
            413,
            "the request is too large: its form is over 9 fields",
        ),
    ],
)
def test_each_error_carries_the_status_it_answers_with(error: PhoenixError, status: int, text: str) -> None:
    assert (error.status, str(error)) == (status, text)


# --- Params -------------------------------------------------------------------------------


def test_a_missing_param_is_the_clients_mistake_and_says_what_was_sent() -> None:
    params = Params(name="Ann", age="7")
    with pytest.raises(MissingParamError) as caught:
        params["locale"]
    assert caught.value.status == 400
    assert "'locale'" in str(caught.value) and "'name', 'age'" in str(caught.value)
    with pytest.raises(MissingParamError, match="no params at all"):
        Params()["x"]


def test_a_missing_param_is_a_key_error_too() -> None:
    with pytest.raises(KeyError):
        Params()["x"]


def test_the_message_stays_short_however_many_params_there_are() -> None:
    with pytest.raises(MissingParamError) as caught:
        Params((f"key{'y' * 1000}{n}", "") for n in range(1000))["x"]
    assert len(str(caught.value)) < 700


def test_get_and_in_work_as_for_any_dict() -> None:
    params = Params(a="1")
    assert (params.get("a"), params.get("b"), params.get("b", "2"), "b" in params) == ("1", None, "2", False)
    assert params == {"a": "1"} and repr(params) == "{'a': '1'}"


def test_match_takes_params_apart() -> None:
    match decode_query("page=admin&user[name]=Ann"):
        case {"missing": _}:
            raise AssertionError("a missing key must not match, nor raise")
        case {"page": "admin", "user": {"name": name}}:
            assert name == "Ann"
        case _:
            raise AssertionError("should have matched")


@pytest.mark.parametrize("params", [decode_query("a[b][c]=1"), parse_json(b'{"a": {"b": {"c": 1}}}')])
def test_maps_inside_are_params_too(params: Params) -> None:
    with pytest.raises(MissingParamError):
        params["a"]["b"]["x"]


# --- scrub --------------------------------------------------------------------------------

UPLOAD = Upload("empty.txt")


@pytest.mark.parametrize(
    "value, scrubbed",
    [
        ("", None),
        ("   ", None),
        (" a ", " a "),
        ("\t", "\t"),
        (None, None),
        (0, 0),
        (False, False),
        ([], []),
        ({}, {}),
        (UPLOAD, UPLOAD),
        (["", "a", [" "]], [None, "a", [None]]),
        ({"a": "", "b": {"c": "  ", "d": "x"}}, {"a": None, "b": {"c": None, "d": "x"}}),
        ({"": "", "file": UPLOAD}, {"": None, "file": UPLOAD}),
    ],
)
def test_scrub_turns_blank_strings_into_none_all_the_way_down(value: Any, scrubbed: Any) -> None:
    assert scrub(value) == scrubbed


def test_scrub_leaves_the_original_as_it_was_and_returns_params() -> None:
    params = decode_query("user[name]=&user[tags][]=")
    scrubbed = scrub(params)
    assert params == {"user": {"name": "", "tags": [""]}}
    assert scrubbed == {"user": {"name": None, "tags": [None]}}
    assert type(scrubbed["user"]) is Params


# --- decode_query -------------------------------------------------------------------------

Queries = list[tuple[str, dict[str, Any]]]

SPLITTING: Queries = [
    ("", {}),
    ("foo=bar&baz=bat", {"foo": "bar", "baz": "bat"}),
    ("a=1;b=2", {"a": "1;b=2"}),
    ("&&a=1&&b=2&", {"a": "1", "b": "2"}),
    ("a=1=2", {"a": "1=2"}),
    ("a", {"a": ""}),
    ("a=", {"a": ""}),
    ("=", {"": ""}),
    ("=value", {"": "value"}),
    ("foo[]", {"foo": [""]}),
    ("foo[]=", {"foo": [""]}),
    ("a=1&a=2", {"a": "2"}),
]

ESCAPES: Queries = [
    ("my+weird+field=q1%212%22%27w%245%267%2Fz8%29%3F", {"my weird field": "q1!2\"'w$5&7/z8)?"}),
    ("a+b%2Bc=d+e%2Bf", {"a b+c": "d e+f"}),
    ("%61=%62", {"a": "b"}),
    ("a=%c5%Bc", {"a": "ż"}),
    ("a=%25", {"a": "%"}),
    ("a=%255B", {"a": "%5B"}),
    ("a=%5B%5D%5b%5d", {"a": "[][]"}),
    (
        "user%5Bname%5D=1&user%5bage%5d=2&user%5Btags%5D%5B%5D=3",
        {"user": {"name": "1", "age": "2", "tags": ["3"]}},
    ),
    ("a%26b=1%262&c%3Dd=3%3D4", {"a&b": "1&2", "c=d": "3=4"}),
    ("user[a+b]=1&user[%C5%BC]=2", {"user": {"a b": "1", "ż": "2"}}),
    ("ż=łódź+ż", {"ż": "łódź ż"}),
    ("ż[ó]=%C5%BC+ż", {"ż": {"ó": "ż ż"}}),
    ("a=%00", {"a": "\0"}),
]

PLAIN_KEYS: Queries = [
    (f"{key}=1", {key: "1"}) for key in ["[x]", "x[y", "x[y]z", "x]", "[]", "[", "]", "[x][y]", "x[y]z[w"]
]

STRUCTURED_KEYS: Queries = [
    ("users[name]=hello&users[age]=17", {"users": {"name": "hello", "age": "17"}}),
    ("a[b]c[d]=1", {"a": {"b]c[d": "1"}}),
    ("a[b[c]=1", {"a": {"b[c": "1"}}),
    ("a[b]]=1", {"a": {"b]": "1"}}),
    ("a[[b]]=1", {"a": {"[b]": "1"}}),
    ("a[]]=1", {"a": {"]": "1"}}),
    ("a]b[c]=1", {"a]b": {"c": "1"}}),
    ("a[]][b]=1", {"a": {"]": {"b": "1"}}}),
    ("a[ ]=1", {"a": {" ": "1"}}),
    ("x[y][z]=1", {"x": {"y": {"z": "1"}}}),
    ("x[y][z]=1&x[y][z]=2", {"x": {"y": {"z": "2"}}}),
    ("x[y][z][]=1&x[y][z][]=2", {"x": {"y": {"z": ["1", "2"]}}}),
    ("foo[]=bar&foo[]=baz&bat[]=1&bat[]=2", {"foo": ["bar", "baz"], "bat": ["1", "2"]}),
    ("x[y][][z]=1", {"x": {"y": [{"z": "1"}]}}),
    ("x[y][][z][]=1", {"x": {"y": [{"z": ["1"]}]}}),
    ("x[][]=1&x[][]=2", {"x": [["1", "2"]]}),
]

THE_LAST_KIND_DECIDES: Queries = [
    ("x[]=1&x[y]=1", {"x": {"y": "1"}}),
    ("x[y]=1&x[]=1", {"x": ["1"]}),
    ("x[y][][w]=2&x[y]=1", {"x": {"y": "1"}}),
    ("x=1&x[y]=1", {"x": {"y": "1"}}),
    ("x[y]=1&x=1", {"x": "1"}),
    ("x=1&x[]=2", {"x": ["2"]}),
    ("x[]=1&x[a]=2&x[]=3", {"x": ["1", "3"]}),
    ("x[a]=1&x[]=2&x[b]=3", {"x": {"a": "1", "b": "3"}}),
    ("x[a]=1&x[]=2&x[b]=3&x[]=4", {"x": ["2", "4"]}),
    ("x[y][a]=1&x[y][]=2&x[y][b]=3", {"x": {"y": {"a": "1", "b": "3"}}}),
    ("x[a]=1&x=2&x[b]=3", {"x": {"b": "3"}}),
]

MAPS_IN_LISTS: Queries = [
    ("x[][a]=1&x[][b]=2", {"x": [{"a": "1", "b": "2"}]}),
    ("x[][a]=1&x[][a]=2", {"x": [{"a": "1"}, {"a": "2"}]}),
    ("x[][a]=1&x[][b]=2&x[][a]=3&x[][b]=4", {"x": [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]}),
    ("x[][a]=1&x[]=2&x[][b]=3", {"x": [{"a": "1"}, "2", {"b": "3"}]}),
    ("x[][a][b]=1&x[][a][c]=2", {"x": [{"a": {"b": "1", "c": "2"}}]}),
    ("x[][a][b]=1&x[][a][b]=2", {"x": [{"a": {"b": "1"}}, {"a": {"b": "2"}}]}),
    ("x[][a]=1&x[][a][b]=2", {"x": [{"a": "1"}, {"a": {"b": "2"}}]}),
    ("x[][a][b]=1&x[][a]=2", {"x": [{"a": {"b": "1"}}, {"a": "2"}]}),
    ("x[][tags][]=1&x[][tags][]=2", {"x": [{"tags": ["1", "2"]}]}),
    (
        "x[][id]=1&x[][tags][]=2&x[][id]=3&x[][tags][]=4",
        {"x": [{"id": "1", "tags": ["2"]}, {"id": "3", "tags": ["4"]}]},
    ),
    ("x[][a][][b]=1&x[][a][][b]=2", {"x": [{"a": [{"b": "1"}, {"b": "2"}]}]}),
    ("x[][]=1&x[][a]=2", {"x": [["1"], {"a": "2"}]}),
]

NUMBERS_ARE_NAMES: Queries = [("x[0]=a&x[1]=b", {"x": {"0": "a", "1": "b"}})]


@pytest.mark.parametrize(
    "query, params",
    SPLITTING + ESCAPES + PLAIN_KEYS + STRUCTURED_KEYS + THE_LAST_KIND_DECIDES + MAPS_IN_LISTS + NUMBERS_ARE_NAMES,
)
def test_a_query_is_decoded_as_text_and_as_bytes(query: str, params: dict[str, Any]) -> None:
    assert decode_query(query) == params
    assert decode_query(query.encode()) == params


@pytest.mark.parametrize(
    "query, got",
    [
        ("a=%", "'%'"),
        ("a=%2", "'%2'"),
        ("a=%zz&b=%41", "'%zz'"),
        ("%=1", "'%=1'"),
        ("a=%+1", "'%+1'"),
        ("%%41=1", "'%%4'"),
    ],
)
def test_a_bad_escape_is_refused_and_shown(query: str, got: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        decode_query(query)
    assert (caught.value.status, str(caught.value)) == (400, f"invalid urlencoded params, got {got}")


@pytest.mark.parametrize(
    "query, byte",
    [
        (b"foo=\x8b", 139),
        (b"foo=%8b", 139),
        (b"%8B=foo", 139),
        (b"a=1&b[%ff]=2", 255),
        (b"a=%C5&b=%BC", 197),
        (b"a=%ED%A0%80", 237),
        (b"a=%C0%AF", 192),
        ("a=\ud800", 237),
    ],
)
def test_what_is_not_utf8_is_refused_with_its_first_bad_byte(query: str | bytes, byte: int) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        decode_query(query)
    assert str(caught.value) == f"invalid UTF-8 on urlencoded params, got byte {byte}"
    with pytest.raises(BadEncodingError):
        decode_query(query, error=BadEncodingError)


def test_raw_and_escaped_bytes_of_one_character_belong_together() -> None:
    assert decode_query(b"a=%C5\xbc") == decode_query(b"a=\xc5%BC") == {"a": "ż"}


def test_too_many_fields_are_refused() -> None:
    assert len(decode_query("&".join(f"k{n}" for n in range(1000)))) == 1000
    with pytest.raises(RequestTooLargeError, match="^the request is too large: its query or form is over 1000 fields$"):
        decode_query("&".join(f"k{n}" for n in range(1001)))
    with pytest.raises(RequestTooLargeError):
        decode_query("a&b&c", max_fields=2)


def test_too_deep_a_key_is_refused() -> None:
    decode_query("x" + "[a]" * 32)
    decode_query("x" + "[]" * 32)
    for brackets in ("[a]" * 33, "[]" * 33, "[]" * 100_000):
        with pytest.raises(InvalidQueryError, match="nested too deeply") as caught:
            decode_query("x" + brackets)
        assert caught.value.status == 400 and len(str(caught.value)) < 200
    with pytest.raises(InvalidQueryError):
        decode_query("a[b][c]=1", max_depth=1)
    assert decode_query("a[a long name]=1", max_depth=1) == {"a": {"a long name": "1"}}


def as_the_rules_say(pairs: list[tuple[str, str]]) -> Any:
    """Decode pairs whose keys have no list but at their end, slowly: each level keeps both kinds apart."""

    class Level:
        def __init__(self) -> None:
            self.items: list[Any] = []
            self.entries: dict[str, Any] = {}
            self.is_list = False

        def value(self) -> Any:
            if self.is_list:
                return self.items
            return {k: v.value() if isinstance(v, Level) else v for k, v in self.entries.items()}

    top = Level()
    for key, value in pairs:
        level, (name, *parts) = top, key.replace("]", "").split("[")
        for part in parts:
            if not isinstance(level.entries.get(name), Level):
                level.entries[name] = Level()
            level, name = level.entries[name], part
            level.is_list = not part
        if name:
            level.entries[name] = value
        else:
            level.items.append(value)
    return top.value()


KEYS = st.builds(
    lambda root, names, end: root + "".join(f"[{name}]" for name in names) + end,
    st.sampled_from("xy"),
    st.lists(st.sampled_from("ab"), max_size=2),
    st.sampled_from(["", "", "[]"]),
)


def _a_string_never_covers_a_container(pairs: list[tuple[str, str]]) -> bool:
    """What was under a name before a string took it is open; the rules only say that the last one wins."""
    plain = {key for key, _ in pairs}
    return not any(other != key and other.startswith(key + "[") for key in plain for other in plain)


@given(st.lists(st.tuples(KEYS, st.sampled_from("123")), max_size=12).filter(_a_string_never_covers_a_container))
def test_mixed_kinds_come_out_as_the_rules_say(pairs: list[tuple[str, str]]) -> None:
    assert decode_query("&".join(f"{key}={value}" for key, value in pairs)) == as_the_rules_say(pairs)


@given(
    st.lists(st.sampled_from(["x", "y", "[", "]", "][", "[]", "[a]", "=", "&", "%", "%5B", "%41", "+", "ż", "%C5%BC"]))
)
def test_any_text_is_decoded_or_refused(pieces: list[str]) -> None:
    try:
        decode_query("".join(pieces))
    except InvalidQueryError as error:
        assert error.status == 400


# --- encode_query -------------------------------------------------------------------------


class User:
    def __init__(self, id: int) -> None:
        self.id = id


class Post:
    def to_param(self) -> str:
        return "7-hello world"


@pytest.mark.parametrize(
    "params, query",
    [
        ({}, ""),
        ([], ""),
        ({"foo": "bar", "baz": "bat"}, "foo=bar&baz=bat"),
        ([("foo", "bar"), ("baz", "bat")], "foo=bar&baz=bat"),
        ([("foo", "bar"), ("baz", "1"), ("foo", "bat")], "foo=bar&baz=1"),
        ({"users": [("name", "hello"), ("age", 17), ("name", "goodbye")]}, "users[name]=hello&users[age]=17"),
        ({"foo": None}, "foo="),
        ({"a": True, "b": False}, "a=true&b=false"),
        ({"a": 1337, "b": 1.5, "c": -2}, "a=1337&b=1.5&c=-2"),
        ({"foo": ["bar", "baz"]}, "foo[]=bar&foo[]=baz"),
        ({"foo": ("bar", "baz")}, "foo[]=bar&foo[]=baz"),
        ({"foo": [""]}, "foo[]="),
        ({"foo": [None]}, "foo[]="),
        ({"users": {"name": "hello", "age": 17}}, "users[name]=hello&users[age]=17"),
        ({"x": {"y": {"z": [1, 2]}}}, "x[y][z][]=1&x[y][z][]=2"),
        ({"x": {"y": [{"z": 1}]}}, "x[y][][z]=1"),
        ({"x": {"y": [{"z": [1]}]}}, "x[y][][z][]=1"),
        ({"x": [[1, 2]]}, "x[][]=1&x[][]=2"),
        ({"a": [], "b": {}, "c": {"d": []}, "e": "1"}, "e=1"),
        ({"list": {0: {"a": 1, "b": 2}}}, "list[0][a]=1&list[0][b]=2"),
        ({"my weird field": "q1!2\"'w$5&7/z8)?"}, "my+weird+field=q1%212%22%27w%245%267%2Fz8%29%3F"),
        (
            {"foo": {"my weird field": "q1!2\"'w$5&7/z8)?"}},
            "foo[my+weird+field]=q1%212%22%27w%245%267%2Fz8%29%3F",
        ),
        ({"foo": "bå®"}, "foo=b%C3%A5%C2%AE"),
        ({"a": "-._~", "b": "%20"}, "a=-._~&b=%2520"),
        ({"foo": User(5)}, "foo=5"),
        ({"foo": [User(5), Post()]}, "foo[]=5&foo[]=7-hello+world"),
    ],
)
def test_params_are_encoded(params: Any, query: str) -> None:
    assert encode_query(params) == query


@pytest.mark.parametrize("item", [{}, {"a": 1, "b": 2}])
def test_a_map_in_a_list_must_have_one_key(item: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match="cannot encode maps inside lists"):
        encode_query({"list": [item]})


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[]"), min_size=1, max_size=8)
VALUES = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=3)
        | st.dictionaries(NAMES, inner, min_size=1, max_size=3)
        | st.builds(
            lambda name, values: [{name: value} for value in values],
            NAMES,
            st.lists(st.text("ab", max_size=2), min_size=1),
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
@example({"%5B": "%", "&": {"=": ["+", ""]}})
def test_what_was_encoded_is_decoded_again(params: dict[str, Any]) -> None:
    assert decode_query(encode_query(params)) == params
    assert decode_query(encode_query(params).encode()) == params


# --- Cookies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, cookies",
    [
        ("", {}),
        ("key1=value1; key2=value2", {"key1": "value1", "key2": "value2"}),
        ("key1=value1;key2=value2", {"key1": "value1", "key2": "value2"}),
        ("key1=value1, key2=value2", {"key1": "value1, key2=value2"}),
        ("$key1=value1, key2=value2; $key3=value3", {"$key1": "value1, key2=value2", "$key3": "value3"}),
        (" \t key1=value1;\t\t key2=value2", {"key1": "value1", "key2": "value2"}),
        ("  key1=value1 , key2=value2  ", {"key1": "value1 , key2=value2"}),
        ("key space=value, key=value space", {}),
        ("a b=1; c=2", {"c": "2"}),
        ("a =1; c=2", {"c": "2"}),
        ("a\tb=1; c=2", {"c": "2"}),
        ("=", {}),
        ("=value", {}),
        (" =value", {}),
        ("key, =, value", {}),
        ("key", {}),
        ("key=", {"key": ""}),
        ("key=   ", {"key": ""}),
        ("key= value", {"key": " value"}),
        ("key1=;;key2=", {"key1": "", "key2": ""}),
        ("key=a=b==", {"key": "a=b=="}),
        ('key="quoted value"', {"key": '"quoted value"'}),
        ("key=%41", {"key": "%41"}),
        ("key=first; key=second", {"key": "first"}),
        ("key=; key=second", {"key": ""}),
        ("key=\xe5\xa0; b=1", {"key": "\xe5\xa0", "b": "1"}),
        *((f"key={space}; b=1", {"b": "1"}) for space in "\t\r\n\v\f"),
        *((f"key=a{space}b; b=1", {"b": "1"}) for space in "\t\r\n\v\f"),
        *((f"key=a{space}; b=1", {"b": "1"}) for space in "\t\r\n\v\f"),
        *((f"k{space}y=a; b=1", {"b": "1"}) for space in " \t\r\n\v\f"),
        *((f"{space}=value", {}) for space in " \t\r\n\v\f"),
    ],
)
def test_a_cookie_header_is_parsed(header: str, cookies: dict[str, str]) -> None:
    assert parse_cookie_header(header) == cookies


# --- Content types ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, parsed",
    [
        ("", ("", {})),
        ("application/json", ("application/json", {})),
        (" Text/HTML ; Charset=UTF-8 ", ("text/html", {"charset": "UTF-8"})),
        (
            "multipart/form-data; boundary=----WebKitFormBoundaryA",
            ("multipart/form-data", {"boundary": "----WebKitFormBoundaryA"}),
        ),
        ('multipart/form-data; boundary="a b;c=d"', ("multipart/form-data", {"boundary": "a b;c=d"})),
        ("multipart/form-data; boundary=----=_Part_1", ("multipart/form-data", {"boundary": "----=_Part_1"})),
        (r'a/b; x="q\"u\\o\te"; y=2', ("a/b", {"x": r'q"u\o\te', "y": "2"})),
        ("a/b;", ("a/b", {})),
        ("a/b;;x=1; ;y=2;", ("a/b", {"x": "1", "y": "2"})),
        ("a/b; x=", ("a/b", {"x": ""})),
        ("a/b; x=1; X=2", ("a/b", {})),
        ("a/b; x", ("a/b", {})),
        ("a/b; x = 1", ("a/b", {})),
        ('a/b; x="open', ("a/b", {})),
        ('a/b; x="a"b', ("a/b", {})),
        ("invalid", ("invalid", {})),
    ],
)
def test_a_content_type_is_split(header: str, parsed: tuple[str, dict[str, str]]) -> None:
    assert parse_content_type(header) == parsed


# --- JSON ---------------------------------------------------------------------------------


def lists_in_lists(depth: int) -> list[Any]:
    return [] if depth == 1 else [lists_in_lists(depth - 1)]


@pytest.mark.parametrize(
    "body, params",
    [
        (b"", {}),
        (b"{}", {}),
        (
            b' {"a": 1, "b": [true, null, 1.5, "x"], "c": {"d": {}}} ',
            {"a": 1, "b": [True, None, 1.5, "x"], "c": {"d": {}}},
        ),
        (b"[1, 2]", {"_json": [1, 2]}),
        (b"[]", {"_json": []}),
        (b'"text"', {"_json": "text"}),
        (b"0", {"_json": 0}),
        (b"null", {"_json": None}),
        (b"false", {"_json": False}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        ('{"ż": "łódź"}'.encode(), {"ż": "łódź"}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a": "\\\\ud800"}', {"a": "\\ud800"}),
        (b"1e308", {"_json": 1e308}),
        (b"9" * 4000, {"_json": int("9" * 4000)}),
        (b"[" * 100 + b"]" * 100, {"_json": lists_in_lists(100)}),
        (b'["' + b"[" * 1000 + b'"]', {"_json": ["[" * 1000]}),
        (b'"' + b"[" * 1000 + b'"', {"_json": "[" * 1000}),
        (b"[" + b"[]," * 1000 + b"{}]", {"_json": [[]] * 1000 + [{}]}),
    ],
)
def test_json_becomes_params(body: bytes, params: dict[str, Any]) -> None:
    assert parse_json(body) == params
    assert type(parse_json(body)) is Params


@pytest.mark.parametrize(
    "body",
    [
        b" ", b"{", b"}", b"{a: 1}", b"{'a': 1}", b'{"a": 1,}', b"[1] 2", b"nul", b"\xef\xbb\xbf{}", b'"\n"',
        b"01", b"+1", b"NaN", b"Infinity", b'{"a": -Infinity}', b"1e999", b"[-1e999]",
        b"9" * 100_000, b'{"a": -' + b"9" * 100_000 + b"}",
        b'"\\ud800"', b'{"\\udfff": 1}', b'"\\ude00\\ud83d"',
        b"[" * 101 + b"]" * 101, b'{"a":' * 101 + b"1" + b"}" * 101,
        b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_what_is_not_json_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError, match="^malformed request, ") as caught:
        parse_json(body)
    assert caught.value.status == 400 and len(str(caught.value)) < 500


def test_the_message_of_a_parse_error_names_the_exception() -> None:
    with pytest.raises(ParseError) as caught:
        parse_json(b"{")
    assert str(caught.value).startswith(
        'malformed request, a JSONDecodeError exception was raised with message "Expecting property name'
    )


@pytest.mark.parametrize("body, byte", [(b'"\x8b"', 139), (b"\xff\xfe{\x00}\x00", 255), (b'"\xed\xa0\x80"', 237)])
def test_json_must_be_utf8(body: bytes, byte: int) -> None:
    with pytest.raises(BadEncodingError, match=f"invalid UTF-8 on JSON body, got byte {byte}") as caught:
        parse_json(body)
    assert caught.value.status == 400


def test_the_depth_of_json_is_counted_in_lists_and_maps() -> None:
    assert parse_json(b'[{"a": 1}, {"b": [2]}]', max_depth=3)
    with pytest.raises(ParseError, match="nested at most 2 levels deep"):
        parse_json(b'[{"a": 1}, {"b": [2]}]', max_depth=2)


# --- Uploads ------------------------------------------------------------------------------


@pytest.fixture
def open_file(tmp_path: Path) -> Callable[[], IO[bytes]]:
    """Open a new file in a directory of this test, where the test can see what is left behind."""
    numbers = iter(range(1000))
    directory = tmp_path / "spool"
    directory.mkdir()
    return lambda: open(directory / str(next(numbers)), "x+b")


def spooled(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "spool"))


def test_an_upload_tells_what_it_is() -> None:
    upload = Upload("cat.png", "image/png", b"meow")
    assert (upload.filename, upload.content_type, upload.size) == ("cat.png", "image/png", 4)
    assert repr(upload) == "Upload(filename='cat.png', content_type='image/png', size=4)"
    assert Upload("x").content_type == "application/octet-stream"


def test_an_upload_is_read_as_a_file_and_whole() -> None:
    upload = Upload("cat.txt", content=b"meow")
    assert upload.file.read(2) == b"me"
    assert upload.read() == upload.read() == b"meow"
    assert upload.file.read() == b"ow"


@pytest.mark.parametrize("size, files", [(64 * 1024, []), (64 * 1024 + 1, ["0"])])
def test_only_an_upload_over_64_kib_is_spooled_to_disk(
    size: int, files: list[str], tmp_path: Path, open_file: Callable[[], IO[bytes]]
) -> None:
    upload = Upload("big", open_file=open_file)
    upload._append(b"x" * size)  # as it comes from a client; a test has its content in memory anyway
    assert spooled(tmp_path) == files
    assert upload.size == size and upload.read() == b"x" * size
    upload.close()
    assert spooled(tmp_path) == []


def test_path_puts_a_small_upload_on_disk(tmp_path: Path, open_file: Callable[[], IO[bytes]]) -> None:
    upload = Upload("cat.txt", content=b"meow", open_file=open_file)
    upload.file.read(1)
    assert Path(upload.path).read_bytes() == b"meow"
    assert upload.path == upload.path
    assert upload.file.read() == b"eow" and upload.read() == b"meow"
    upload.close()
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("size", [4, 100_000])
def test_a_saved_upload_survives_close(size: int, tmp_path: Path, open_file: Callable[[], IO[bytes]]) -> None:
    upload = Upload("cat.txt", content=b"x" * size, open_file=open_file)
    (tmp_path / "kept.txt").write_text("what was there before, and was longer" * 10_000)
    upload.save(tmp_path / "kept.txt")
    upload.save(str(tmp_path / "twice.txt"))
    upload.close()
    assert (tmp_path / "kept.txt").read_bytes() == (tmp_path / "twice.txt").read_bytes() == b"x" * size
    assert spooled(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_a_saved_upload_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    upload = Upload("x", content=b"x" * 100_000)
    upload.save(tmp_path / "saved")
    upload.close()
    assert (tmp_path / "saved").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_closing_twice_or_after_a_move_does_no_harm(tmp_path: Path, open_file: Callable[[], IO[bytes]]) -> None:
    upload = Upload("x", content=b"x", open_file=open_file)
    os.rename(upload.path, tmp_path / "moved")
    upload.close()
    upload.close()
    assert (tmp_path / "moved").read_bytes() == b"x"


def test_the_path_of_a_closed_upload_makes_no_file(tmp_path: Path, open_file: Callable[[], IO[bytes]]) -> None:
    upload = Upload("x", content=b"x", open_file=open_file)
    upload.close()
    with pytest.raises(ValueError, match="closed file"):
        upload.path  # noqa: B018
    assert spooled(tmp_path) == []


def test_temporary_files_are_private_and_removed() -> None:
    upload = Upload("x", content=b"x" * 100_000)
    path = upload.path
    assert os.path.basename(path).startswith("phoenix-upload-")
    assert sys.platform == "win32" or os.stat(path).st_mode & 0o077 == 0
    upload.close()
    assert not os.path.exists(path)


# --- Multipart ----------------------------------------------------------------------------

BOUNDARY = "----w58EW1cEpjzydSCq"


def part(disposition: str, content: bytes | str = b"", *headers: str) -> bytes:
    lines = [f"Content-Disposition: {disposition}", *headers] if disposition else [*headers]
    head = "".join(f"\r\n{line}" for line in lines).encode()
    return (
        b"--"
        + BOUNDARY.encode()
        + head
        + b"\r\n\r\n"
        + (content.encode() if isinstance(content, str) else content)
        + b"\r\n"
    )


def field(name: str, value: bytes | str) -> bytes:
    return part(f'form-data; name="{name}"', value)


END = b"--" + BOUNDARY.encode() + b"--\r\n"


def pieces(body: bytes, *cuts: int) -> list[bytes]:
    starts = [0, *sorted(cuts)]
    return [body[start:end] for start, end in zip(starts, [*starts[1:], len(body)], strict=True)]


def parse(body: bytes | list[bytes], boundary: str = BOUNDARY, **limits: Any) -> Params:
    """Parse *body*, whole or in pieces, and show each upload as what can be compared."""
    parser = MultipartParser(boundary, **limits)
    try:
        for data in [body] if isinstance(body, bytes) else body:
            parser.feed(data)
        params = parser.finish()
        return Params((key, shown(value)) for key, value in params.items())
    finally:
        parser.close()


def shown(value: Any) -> Any:
    if isinstance(value, Upload):
        assert value.size == len(value.read())
        return (value.filename, value.content_type, value.file.read())
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, dict):
        return Params((key, shown(item)) for key, item in value.items())
    return value


FILE = "Content-Type: application/octet-stream"

FORMS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "everything": (
        field("name", "hello")
        + part('form-data; name="pic"; filename="foo.txt"', "hello\n\n", "Content-Type: text/plain")
        + part(
            'form-data; name="doc"; filename*="utf-8\'\'%C5%BC%C3%B3%C5%82%C4%87.txt"',
            "hello\n\n",
            "Content-Type: text/plain",
        )
        + part("form-data", "skipped")
        + part('form-data; name="empty"; filename=""', "", FILE)
        + field("status[]", "choice1")
        + field("status[]", "choice2")
        + field("commit", "Create User")
        + END,
        {
            "name": "hello",
            "pic": ("foo.txt", "text/plain", b"hello\n\n"),
            "doc": ("żółć.txt", "text/plain", b"hello\n\n"),
            "empty": None,
            "status": ["choice1", "choice2"],
            "commit": "Create User",
        },
    ),
    "nothing": (b"", {}),
    "no parts": (END, {}),
    "no line break at the very end": (field("a", "1") + END[:-2], {"a": "1"}),
    "empty values": (field("a", "") + field("b[]", "") + END, {"a": "", "b": [""]}),
    "preamble and epilogue": (
        b"This is\r\n--not it\r\n" + field("a", "1") + END + b"--\r\nbye\r\n" + END,
        {"a": "1"},
    ),
    "an empty line first": (b"\r\n" + field("a", "1") + END, {"a": "1"}),
    "padding after the boundary": (
        field("a", "1").replace(b"\r\n", b" \t\r\n", 1) + END[:-2] + b"  \r\n",
        {"a": "1"},
    ),
    "nested names": (
        field("user[name]", "Ann")
        + field("user[tags][]", "x")
        + field("rows[][a]", "1")
        + field("rows[][a]", "2")
        + END,
        {"user": {"name": "Ann", "tags": ["x"]}, "rows": [{"a": "1"}, {"a": "2"}]},
    ),
    "uploads in a list and in a map": (
        part('form-data; name="f[]"; filename="a"', "1")
        + part('form-data; name="f[]"; filename="b"', "2")
        + part('form-data; name="user[pic]"; filename="c"', "3")
        + END,
        {
            "f": [("a", "application/octet-stream", b"1"), ("b", "application/octet-stream", b"2")],
            "user": {"pic": ("c", "application/octet-stream", b"3")},
        },
    ),
    "an empty file input of a list": (part('form-data; name="f[]"; filename=""', "", FILE) + END, {"f": []}),
    "the last of two values": (field("a", "1") + field("a", "2") + END, {"a": "2"}),
    "content that looks like a boundary": (
        field("a", b"\r\n--\r\n----\r\n\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n-\r\r\n\n--" + BOUNDARY.encode()) + END,
        {"a": "\r\n--\r\n----\r\n\r\n--" + BOUNDARY[:-1] + "\r\n-\r\r\n\n--" + BOUNDARY},
    ),
    "content of line breaks": (
        field("a", "\r\n\r\n") + field("b", "\r") + field("c", "\n") + END,
        {"a": "\r\n\r\n", "b": "\r", "c": "\n"},
    ),
    "a part without a blank line of its own": (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\n'.encode() + field("b", "1") + END,
        {"a": "", "b": "1"},
    ),
    "parts to skip": (
        part("", "no headers at all")
        + part("", "x", "X-Y: z")
        + part("attachment; name=a", "x")
        + part('form-data; filename="x"', "x")
        + END,
        {},
    ),
    "header names in any case, spaces around values": (
        f"--{BOUNDARY}\r\ncontent-DISPOSITION:\tForm-Data;name=a ; filename=b\r\n".encode()
        + b"CONTENT-type:  text/plain \r\n\r\n1\r\n"
        + END,
        {"a": ("b", "text/plain", b"1")},
    ),
    "transfer encodings that change nothing": (
        part('form-data; name="a"', "1", "Content-Transfer-Encoding: binary")
        + part('form-data; name="b"', "2", "Content-Transfer-Encoding: 8BIT")
        + part('form-data; name="c"', "3", "Content-Transfer-Encoding: 7bit")
        + END,
        {"a": "1", "b": "2", "c": "3"},
    ),
    "utf-8 everywhere": (
        field("ż", "łódź") + part('form-data; name="ó"; filename="ć.txt"', "ź") + END,
        {"ż": "łódź", "ó": ("ć.txt", "application/octet-stream", "ź".encode())},
    ),
    "no special names": (
        field("_charset_", "iso-8859-1") + field("a", "ż") + END,
        {"_charset_": "iso-8859-1", "a": "ż"},
    ),
    "bytes in a file": (
        part('form-data; name="a"; filename="b"', bytes(range(256))) + END,
        {"a": ("b", "application/octet-stream", bytes(range(256)))},
    ),
}


@pytest.fixture(params=list(FORMS.values()), ids=list(FORMS))
def form(request: pytest.FixtureRequest) -> tuple[bytes, dict[str, Any]]:
    body_and_params: tuple[bytes, dict[str, Any]] = request.param
    return body_and_params


def test_a_form_is_parsed_whole(form: tuple[bytes, dict[str, Any]]) -> None:
    body, params = form
    assert parse(body) == params


def test_a_form_is_parsed_cut_at_every_byte(form: tuple[bytes, dict[str, Any]]) -> None:
    body, params = form
    for cut in range(len(body)):
        assert parse(pieces(body, cut)) == params


def test_a_form_is_parsed_byte_by_byte(form: tuple[bytes, dict[str, Any]]) -> None:
    body, params = form
    assert parse(pieces(body, *range(1, len(body)))) == params


def test_a_form_that_ends_early_is_refused_wherever_it_ends() -> None:
    body = FORMS["everything"][0]
    for cut in range(1, len(body) - len("\r\n")):
        with pytest.raises(ParseError, match=f"ends before its last line, '--{BOUNDARY}--'"):
            parse(body[:cut])


@pytest.mark.parametrize(
    "sent, filename",
    [
        ('filename="a.txt"', "a.txt"),
        ("filename=a.txt", "a.txt"),
        (r'filename="C:\fakepath\a.txt"', "a.txt"),
        (r'filename="C:\\path\\a.txt"', "a.txt"),
        ('filename="../../etc/passwd"', "passwd"),
        (r'filename="..\../a.txt"', "a.txt"),
        ('filename="/etc/passwd"', "passwd"),
        (r'filename="say \"hi\".txt"', 'say "hi".txt'),
        ('filename="say %22hi%22.txt"', 'say "hi".txt'),
        ('filename="100%25.txt"', "100%25.txt"),
        ('filename="a%0D%0Ab.txt"', "ab.txt"),
        ('filename="a\tb.txt"', "ab.txt"),
        ('filename="a\u0085b\u009f.txt"', "ab.txt"),
        ('filename=" a b .txt "', "a b .txt"),
        ('filename="semi;colon=.txt"', "semi;colon=.txt"),
        ('filename=".htaccess"', ".htaccess"),
        ("filename*=utf-8''%C5%BC.txt", "ż.txt"),
        ("filename*=UTF-8'pl'%C5%BC.txt", "ż.txt"),
        ("filename*=utf-8''..%2F..%5Ca%00.txt", "a.txt"),
        ("filename=\"z.txt\"; filename*=utf-8''%C5%BC.txt", "ż.txt"),
        ("filename*=utf-8''%C5%BC.txt; filename=\"z.txt\"", "ż.txt"),
    ],
)
def test_only_the_last_part_of_a_file_name_is_kept(sent: str, filename: str) -> None:
    params = parse(part(f'form-data; name="f"; {sent}', "x") + END)
    assert params == {"f": (filename, "application/octet-stream", b"x")}


@pytest.mark.parametrize(
    "sent", ['""', '"/"', '"a/"', r'"C:\"; x="1"', '"."', '".."', '"../.."', '" "', '"%0D%0A"', "", '"a/\t"']
)
def test_a_file_name_with_nothing_in_it_is_no_upload(sent: str) -> None:
    sent = sent.replace('\\"; x', '\\\\"; x')  # a backslash before a quote would escape it
    assert parse(part(f'form-data; name="f"; filename={sent}', "x") + END) == {"f": None}


@pytest.mark.parametrize(
    "sent, name",
    [
        ("a%22b", 'a"b'),
        (r"a\"b", 'a"b'),
        (r"a\\b", r"a\b"),
        (r"a\b", r"a\b"),
        ("a%0D%0Ab", "a\r\nb"),
        ("a%20b+c", "a%20b+c"),
        ("a%5Bb%5D", "a%5Bb%5D"),
    ],
)
def test_names_are_unescaped_as_browsers_escape_them(sent: str, name: str) -> None:
    assert parse(field(sent, "1") + END) == {name: "1"}


@pytest.mark.parametrize(
    "body",
    [
        field("a", "1").replace(BOUNDARY.encode(), b"other") + END.replace(BOUNDARY.encode(), b"other"),
        field("a", "1").replace(b"\r\n", b"\n") + END,
        field("a", "1") + b"--" + BOUNDARY.encode() + b"x--\r\n\r\n",
        field("a", "1") + b"--" + BOUNDARY.encode() + b"-x\r\n\r\n",
        field("a", "1").replace(b"SCq\r\n", b"SCq\n", 1) + END,
        part('form-data; name="a"', "1", "no colon") + END,
        part('form-data; name="a"', "1", "X: folded", " header") + END,
        part('form-data; name="a"', "1", "Space : before") + END,
        part('form-data; name="a"', "1", ": no name") + END,
        part('form-data; name="a"', "1", "X: a\nY: b") + END,
        part('form-data; name="a"', "1", "X: a\rb") + END,
        part('form-data; name="a"', "1", "X: \0") + END,
        part('form-data; name="a"', "1", "Ż: x") + END,
        part('form-data; name="a"', "1", 'content-disposition: form-data; name="b"') + END,
        part('form-data; name="a"', "1", "Content-Type: a/b", "Content-Type: c/d") + END,
        part('form-data; name="a"', "MQ==", "Content-Transfer-Encoding: base64") + END,
        part('form-data; name="a"', "=31", "Content-Transfer-Encoding: quoted-printable") + END,
        part('form-data; name="a"; name="b"', "1") + END,
        part('form-data; name="a"; NAME="b"', "1") + END,
        part('form-data; name="a"; filename="b"; filename="c"', "1") + END,
        part('form-data; name="a', "1") + END,
        part('form-data; name="a"b', "1") + END,
        part('form-data; name="a", x', "1") + END,
        part("form-data; name", "1") + END,
        part('form-data; name = "a"', "1") + END,
        part("form-data; name=\"a\"; filename*=iso-8859-1''%E9", "1") + END,
        part("form-data; name=\"a\"; filename*=utf-8''%E", "1") + END,
        part('form-data; name="a"; filename*=utf-8\'x', "1") + END,
        part('form-data; name="a"; filename*=x', "1") + END,
    ],
)
def test_a_malformed_form_is_refused_however_it_is_cut(body: bytes) -> None:
    for cut in range(len(body)):
        with pytest.raises(ParseError, match="^malformed request, ") as caught:
            parse(pieces(body, cut))
        assert caught.value.status == 400 and len(str(caught.value)) < 200


@pytest.mark.parametrize("boundary", ["", "x" * 71, "a\n", "a\r\nb", "ż", "a ", "\0"])
def test_a_boundary_that_cannot_be_one_is_refused(boundary: str) -> None:
    with pytest.raises(ParseError, match="expected a multipart boundary"):
        MultipartParser(boundary)


@pytest.mark.parametrize("boundary", ["x", "x" * 70, "a b", "'()+_,-./:=?", "--", "a--", "-"])
def test_any_boundary_of_the_rfc_will_do(boundary: str) -> None:
    def rewritten(data: bytes) -> bytes:
        return data.replace(BOUNDARY.encode(), boundary.encode())

    assert parse(rewritten(field("a", "1") + field("b", "2") + END), boundary) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    "body, byte",
    [
        (field("name", b"hello\xa9") + END, 169),
        (field("ż", b"\xc5") + END, 197),
        (part('form-data; name="a"', "").replace(b'"a"', b'"\xff"') + END, 255),
        (part('form-data; name="a"; filename="b"', "").replace(b'"b"', b'"\xff"') + END, 255),
        (part("form-data; name=\"a\"; filename*=utf-8''%FF", "") + END, 255),
    ],
)
def test_names_and_text_must_be_utf8(body: bytes, byte: int) -> None:
    with pytest.raises(BadEncodingError, match=f"invalid UTF-8 on multipart body, got byte {byte}") as caught:
        parse(body)
    assert caught.value.status == 400


def test_a_character_may_be_cut_between_two_pieces() -> None:
    body = field("a", "żółć") + END
    assert all(parse(pieces(body, cut)) == {"a": "żółć"} for cut in range(len(body)))


def test_each_limit_holds_to_the_byte_however_the_body_is_cut() -> None:
    body = field("a", "x" * 50) + part('form-data; name="f"; filename="f"', "y" * 200) + END
    head = len('\r\nContent-Disposition: form-data; name="f"; filename="f"')
    for limits, too_low in [
        ({"max_size": len(body)}, {"max_size": len(body) - 1}),
        ({"max_text": 50}, {"max_text": 49}),
        ({"max_parts": 2}, {"max_parts": 1}),
        ({"max_header": head}, {"max_header": head - 1}),
    ]:
        for cuts in [[], range(1, len(body)), [60], [200]]:
            assert parse(pieces(body, *cuts), BOUNDARY, **limits)["a"] == "x" * 50
            with pytest.raises(RequestTooLargeError, match="^the request is too large: ") as caught:
                parse(pieces(body, *cuts), BOUNDARY, **too_low)
            assert caught.value.status == 413


def test_the_text_limit_counts_all_fields_and_no_uploads() -> None:
    many = b"".join(field(f"k{n}", "x" * 10) for n in range(10))
    upload = part('form-data; name="f"; filename="f"', "y" * 1000)
    assert len(parse(many + upload + END, max_text=100)) == 11
    with pytest.raises(RequestTooLargeError):
        parse(many + field("z", "x") + END, max_text=100)


def test_skipped_parts_count_as_parts() -> None:
    with pytest.raises(RequestTooLargeError, match="its multipart body is over 1000 parts"):
        parse(part("form-data", "") * 1001 + END)


def test_endless_headers_are_refused_before_they_end() -> None:
    parser = MultipartParser("x")
    parser.feed(b"--x\r\n")
    with pytest.raises(RequestTooLargeError):
        for _ in range(10):
            parser.feed(b"X-Filler: " + b"y" * 1000)


def test_names_nested_too_deeply_are_refused() -> None:
    assert parse(field("x" + "[a]" * 32, "1") + END)
    with pytest.raises(BadRequestError, match="nested too deeply"):
        parse(field("x" + "[a]" * 33, "1") + END)


def test_uploads_are_spooled_while_they_arrive_and_dropped_at_the_end(
    tmp_path: Path, open_file: Callable[[], IO[bytes]]
) -> None:
    parser = MultipartParser(BOUNDARY, open_file=open_file)
    parser.feed(part('form-data; name="small"; filename="a"', "x" * 1000))
    parser.feed(part('form-data; name="big"; filename="b"', "y" * 50_000)[:-2])
    assert spooled(tmp_path) == []
    parser.feed(b"y" * 50_000)
    assert spooled(tmp_path) == ["0"]
    parser.feed(b"\r\n" + END)
    params = parser.finish()
    assert params["big"].size == 100_000 and params["big"].file.read() == b"y" * 100_000
    assert Path(params["big"].path).read_bytes() == b"y" * 100_000
    assert Path(params["small"].path).read_bytes() == b"x" * 1000
    assert spooled(tmp_path) == ["0", "1"]
    parser.close()
    parser.close()
    assert spooled(tmp_path) == []


def test_a_failed_request_leaves_no_file_behind(tmp_path: Path, open_file: Callable[[], IO[bytes]]) -> None:
    parser = MultipartParser(BOUNDARY, open_file=open_file, max_size=200_000)
    parser.feed(part('form-data; name="f"; filename="a"', "x" * 100_000))
    with pytest.raises(RequestTooLargeError):
        parser.feed(b"x" * 150_000)
    assert spooled(tmp_path) == ["0"]
    parser.close()
    assert spooled(tmp_path) == []


class FullDisk(io.FileIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 70_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_an_upload_that_the_disk_has_no_room_for_is_dropped_too(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    parser = MultipartParser(BOUNDARY, open_file=lambda: io.BufferedRandom(FullDisk(tmp_path / "spool" / "f", "w+")))
    parser.feed(b"--" + BOUNDARY.encode() + b'\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n')
    with pytest.raises(OSError, match="No space left"):
        for _ in range(200):
            parser.feed(b"x" * 1000)
    assert spooled(tmp_path) == ["f"]
    parser.close()
    assert spooled(tmp_path) == []


def test_an_upload_that_a_later_one_replaced_is_dropped_too(tmp_path: Path, open_file: Callable[[], IO[bytes]]) -> None:
    parser = MultipartParser(BOUNDARY, open_file=open_file)
    parser.feed(part('form-data; name="f"; filename="a"', "x" * 100_000) * 2 + END)
    assert parser.finish()["f"].filename == "a" and spooled(tmp_path) == ["0", "1"]
    parser.close()
    assert spooled(tmp_path) == []


# Work is counted, not timed: the bytes that are searched and the bytes that wait.


class CountingBuffer(bytearray):
    searched = 0
    longest = 0

    def find(self, what: Any, start: Any = 0, end: Any = None) -> int:
        self.longest = max(self.longest, len(self))
        found = super().find(what, start)
        self.searched += (len(self) if found < 0 else found + len(what)) - start
        return found


def work(body: bytes, step: int) -> CountingBuffer:
    parser = MultipartParser(BOUNDARY, max_size=10**9)
    parser._buffer = buffer = CountingBuffer(parser._buffer)
    for at in range(0, len(body), step):
        parser.feed(body[at : at + step])
    parser.close()
    return buffer


NEARLY = b"\r\n--" + BOUNDARY.encode()[:-1]
FILE_HEAD = part('form-data; name="f"; filename="f"')[:-2]

ADVERSARIES = {
    "almost boundaries": lambda n: FILE_HEAD + NEARLY * (n // len(NEARLY)),
    "carriage returns": lambda n: FILE_HEAD + b"\r" * n,
    "line breaks": lambda n: FILE_HEAD + b"\r\n" * (n // 2),
    "dashes": lambda n: FILE_HEAD + b"\r\n" + b"-" * n,
    "a preamble that never ends": lambda n: NEARLY * (n // len(NEARLY)),
    "an epilogue that never ends": lambda n: END + (b"\r\n--" + BOUNDARY.encode()) * (n // 24),
    "many parts": lambda n: field("a", "1") * min(n // 80, 1000),
    "long headers": lambda n: part('form-data; name="a"', "1", "X: " + "y" * 8000) * (n // 8100),
    "many short headers": lambda n: part('form-data; name="a"', "1", *(f"X{k}:" for k in range(1000))) * (n // 6000),
}


@pytest.mark.parametrize("step", [1, 7, 24, 25, 1000, 65536])
@pytest.mark.parametrize("body", ADVERSARIES.values(), ids=ADVERSARIES.keys())
def test_the_work_grows_with_the_body_and_not_faster(body: Callable[[int], bytes], step: int) -> None:
    delimiter = len("\r\n--" + BOUNDARY)
    for size in (20_000, 40_000, 80_000):
        data = body(size)
        buffer = work(data, step)
        # Each byte is searched once, and each piece may look again at what waits: less than a delimiter.
        feeds = len(data) // step + 1
        assert buffer.searched <= 2 * len(data) + feeds * (delimiter + 2) + 8
        assert buffer.longest <= 8192 + delimiter + 4 + step


def test_no_more_than_the_start_of_a_delimiter_waits_in_the_buffer() -> None:
    parser = MultipartParser(BOUNDARY)
    parser.feed(FILE_HEAD)
    for data in (b"x" * 10_000, b"\r", b"\n", NEARLY, b"\r\n" * 1000, b"y"):
        parser.feed(data)
        assert len(parser._buffer) <= len("\r\n--" + BOUNDARY) + 1
    parser.close()


# Forms made by hypothesis, and compared with parsers that others wrote.

SAFE_NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='[]"\\%/'), min_size=1, max_size=10
)
CONTENTS = st.binary(max_size=200) | st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"xyz", b"\r\n--xy"])).map(
    b"".join
)
FIELDS = st.lists(
    st.tuples(SAFE_NAMES, st.none() | SAFE_NAMES.filter(lambda name: name.strip() not in ("", ".", "..")), CONTENTS),
    max_size=5,
)


def written(fields: list[tuple[str, str | None, bytes]], boundary: str) -> bytes:
    body = b""
    for name, filename, content in fields:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        head += "\r\n" if filename is None else f'; filename="{filename}"\r\nContent-Type: image/png\r\n'
        body += head.encode() + b"\r\n" + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def readable(fields: list[tuple[str, str | None, bytes]]) -> list[tuple[str, str | None, bytes]]:
    """Keep what is text where it must be, does not hold the boundary, and does not use one name twice."""
    kept: dict[str, tuple[str, str | None, bytes]] = {}
    for name, filename, content in fields:
        if filename is None:
            content = content.decode("utf-8", "ignore").encode()
        if b"\r\n--xyz" not in b"\r\n" + content + b"\r\n":
            kept[name] = (name, filename, content)
    return list(kept.values())


@given(FIELDS.map(readable), st.randoms(use_true_random=False))
def test_what_was_written_is_parsed_wherever_it_is_cut(
    fields: list[tuple[str, str | None, bytes]], chance: random.Random
) -> None:
    body = written(fields, "xyz")
    cuts = [chance.randrange(len(body) + 1) for _ in range(chance.randrange(10))]
    assert parse(pieces(body, *cuts), "xyz") == {
        name: content.decode() if filename is None else (filename.strip(), "image/png", content)
        for name, filename, content in fields
    }


@given(FIELDS.map(readable))
def test_werkzeug_finds_the_same_in_a_form(fields: list[tuple[str, str | None, bytes]]) -> None:
    formparser = pytest.importorskip("werkzeug.formparser", reason="pip install werkzeug to compare with it")
    # A lone CR or LF before a boundary is a line break to werkzeug, and content to us and to RFC 2046.
    fields = [field for field in fields if not re.search(rb"[\r\n]--xyz", field[2])]
    body = written(fields, "xyz")
    forms, files = formparser.MultiPartParser().parse(io.BytesIO(body), b"xyz", len(body))
    theirs = dict(forms.items()) | {k: (f.filename.strip(), f.content_type, f.read()) for k, f in files.items()}
    assert parse(body, "xyz") == theirs


@given(FIELDS.map(readable))
def test_python_multipart_finds_the_same_in_a_form(fields: list[tuple[str, str | None, bytes]]) -> None:
    other = pytest.importorskip("python_multipart", reason="pip install python-multipart to compare with it")
    theirs: dict[str, Any] = {}

    def on_field(field: Any) -> None:
        theirs[field.field_name.decode()] = (field.value or b"").decode()

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        theirs[file.field_name.decode()] = (
            file.file_name.decode().strip(),
            "image/png",
            file.file_object.read(),
        )

    body = written(fields, "xyz")
    headers = {
        "Content-Type": b"multipart/form-data; boundary=xyz",
        "Content-Length": str(len(body)).encode(),
    }
    other.parse_form(headers, io.BytesIO(body), on_field, on_file)
    assert parse(body, "xyz") == theirs


@given(
    st.lists(
        st.sampled_from(
            [
                b"--xyz",
                b"--",
                b"\r\n",
                b"\r",
                b"\n",
                b"a",
                b"x:y",
                b"content-disposition: form-data; name=a",
                b"\xff",
            ]
        )
    )
)
def test_any_bytes_are_parsed_or_refused_and_the_cuts_do_not_matter(parts: list[bytes]) -> None:
    def outcome(body: list[bytes]) -> Any:
        try:
            return parse(body, "xyz")
        except (ParseError, BadEncodingError) as error:
            return type(error)

    body = b"".join(parts)
    assert outcome([body]) == outcome(parts) == outcome(pieces(body, *range(len(body))))


# --- Conn: params -------------------------------------------------------------------------


def conn_with(query: str = "", body: dict[str, Any] | None = None, path: dict[str, Any] | None = None) -> Conn:
    conn = Conn("POST", "/", query)
    if body is not None:
        conn._put_body_params(Params(body))
    if path is not None:
        conn._put_path_params(path)
    return conn


@pytest.mark.parametrize(
    "query, body, path, params",
    [
        ("", None, None, {}),
        ("a=1&b[c]=2", None, None, {"a": "1", "b": {"c": "2"}}),
        ("a=1&b=1", {"b": "2"}, None, {"a": "1", "b": "2"}),
        ("a=1&b=1", {"b": "2", "c": "2"}, {"c": "3"}, {"a": "1", "b": "2", "c": "3"}),
        ("c=1", None, {"c": "3"}, {"c": "3"}),
        ("a[x]=1", {"a": {"y": "2"}}, None, {"a": {"y": "2"}}),
    ],
)
def test_the_path_wins_over_the_body_and_the_body_over_the_query(
    query: str, body: dict[str, Any] | None, path: dict[str, Any] | None, params: dict[str, Any]
) -> None:
    conn = conn_with(query, body, path)
    assert conn.params == params
    assert (conn.query_params, conn.body_params, conn.path_params) == (decode_query(query), body or {}, path or {})


def test_it_does_not_matter_when_the_params_are_first_looked_at() -> None:
    conn = Conn("POST", "/", "a=1&b=1&c=1")
    assert conn.params == {"a": "1", "b": "1", "c": "1"}
    conn._put_path_params({"c": "3"})
    conn._put_body_params(Params(b="2", c="2"))
    assert conn.params == {"a": "1", "b": "2", "c": "3"}


def test_what_a_plug_has_put_into_the_params_stays() -> None:
    conn = Conn("POST", "/", "a=1")
    conn.params["mine"] = "x"
    conn._put_body_params(Params(b="2"))
    conn._put_path_params({"c": "3"})
    assert conn.params == {"a": "1", "mine": "x", "b": "2", "c": "3"}


def test_the_params_of_one_request_are_not_those_of_another() -> None:
    for name in ("params", "query_params", "body_params"):
        getattr(Conn(), name)["left"] = "behind"
        assert getattr(Conn(), name) == {}


def test_a_param_that_is_missing_answers_400_and_a_bad_query_too() -> None:
    app = Endpoint(lambda conn: conn.text(conn.params["name"]), log=False, static=False, env="prod").test()
    assert (app.get("/?name=Ann").resp_body, app.get("/?nmae=Ann").status, app.get("/?name=%FF").status) == (
        "Ann",
        400,
        400,
    )
    with pytest.raises(InvalidQueryError, match="^invalid UTF-8 on urlencoded params, got byte 255$"):
        Conn("GET", "/", "name=%FF").params  # noqa: B018


@pytest.mark.parametrize(
    "value, scrubbed",
    [
        ({"name": " ", "tags": ["", "a"], "n": {"x": ""}}, {"name": None, "tags": [None, "a"], "n": {"x": None}}),
        ("text", "text"),
        ([], []),
        ({}, {}),
        (0, 0),
        (False, False),
    ],
)
def test_scrub_params_turns_blanks_under_one_key_into_none(value: Any, scrubbed: Any) -> None:
    conn = conn_with("other=&user=from+query", {"user": value})
    assert conn.scrub_params("user") is conn
    assert conn.params == {"other": "", "user": scrubbed}


@pytest.mark.parametrize("body", [{}, {"user": ""}, {"user": "  "}, {"user": None}])
def test_scrub_params_needs_its_key(body: dict[str, Any]) -> None:
    with pytest.raises(MissingParamError, match='^expected key "user" to be present in params, please send') as caught:
        conn_with("", body).scrub_params("user")
    assert caught.value.status == 400


def test_an_upload_is_left_as_it_is_when_params_are_scrubbed() -> None:
    upload = Upload("a.txt", "text/plain", b"")
    assert conn_with("", {"user": {"file": upload}}).scrub_params("user").params["user"]["file"] is upload


def test_what_must_not_be_logged_is_replaced_at_any_depth() -> None:
    params = {
        "user": {"name": "Ann", "password": "x", "old_password_hint": {"a": "x"}},
        "list": [{"password": "x"}, "y"],
        "n": 7,
    }
    assert phoenix.filter_params(params, ["password"]) == {
        "user": {"name": "Ann", "password": "[FILTERED]", "old_password_hint": "[FILTERED]"},
        "list": [{"password": "[FILTERED]"}, "y"],
        "n": 7,
    }
    assert phoenix.filter_params(params, []) == params


# --- Another method than the client could send --------------------------------------------


@pytest.mark.parametrize(
    "method, body, header, becomes",
    [
        ("POST", {"_method": "PUT"}, None, "PUT"),
        ("POST", {"_method": "patch"}, None, "PATCH"),
        ("POST", {"_method": "Delete"}, None, "DELETE"),
        ("POST", {"_method": "get"}, None, "POST"),
        ("POST", {"_method": "MOVE"}, None, "POST"),
        ("POST", {"_method": ""}, None, "POST"),
        ("POST", {"_method": {"a": "put"}}, None, "POST"),
        ("POST", {"_method": ["put"]}, None, "POST"),
        ("POST", {"_method": 7}, None, "POST"),
        ("POST", {}, "PATCH", "PATCH"),
        ("POST", None, "delete", "DELETE"),
        ("POST", None, "TRACE", "POST"),
        ("POST", {"_method": "put"}, "delete", "PUT"),
        ("GET", {"_method": "put"}, "put", "GET"),
        ("PUT", {"_method": "delete"}, "delete", "PUT"),
        ("DELETE", {"_method": "put"}, None, "DELETE"),
    ],
)
def test_a_form_or_a_header_turns_post_into_another_method(
    method: str, body: dict[str, Any] | None, header: str | None, becomes: str
) -> None:
    conn = Conn(method, "/", "_method=delete", {"x-http-method-override": [header]} if header else {})
    if body is not None:
        conn._put_body_params(Params(body))
    assert method_override(conn) is conn
    assert conn.method == becomes


@pytest.mark.parametrize("method, becomes", [("HEAD", "GET"), ("GET", "GET"), ("POST", "POST")])
def test_head_is_answered_by_the_route_of_get(method: str, becomes: str) -> None:
    assert head_as_get(Conn(method)).method == becomes


def test_a_head_has_the_headers_of_its_get_and_no_body() -> None:
    class Router(phoenix.Router):
        get("/", lambda conn, params: conn.put_resp_header("x-method", conn.method).text("hello"))

    with Serving(Endpoint(Router, log=False, static=False, env="prod")) as server, server.client() as client:
        got, head = client.get("/"), client.send("HEAD", "/")
    assert (head.status, head.body, got.body) == (200, b"", b"hello")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
    assert head.headers["x-method"] == ["GET"]


# --- Parsers ------------------------------------------------------------------------------

FORM, JSON_TYPE = "application/x-www-form-urlencoded", "application/json"


def parsed(
    body: bytes,
    content_type: str | None,
    method: str = "POST",
    *,
    announce: bool = True,
    path: str = "/",
    **options: Any,
) -> Conn:
    """A conn whose body has passed ``Parsers``."""
    headers = {"content-type": [content_type]} if content_type is not None else {}
    if announce:
        headers["content-length"] = [str(len(body))]
    conn = Conn(method, path, "", headers, adapter=Adapter(body))
    result = Parsers(**options)(conn)
    if result is not conn:

        async def rest() -> Any:
            return await result

        assert asyncio.run(rest()) is conn
    return conn


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "body, content_type, params",
    [
        (b"a=1&b[]=2&a=3", FORM, {"a": "3", "b": ["2"]}),
        (b"a=%C3%A9", FORM + "; charset=utf-8", {"a": "é"}),
        (b"a=1", "Application/X-WWW-Form-Urlencoded", {"a": "1"}),
        (b'{"a": {"b": [1, null]}}', JSON_TYPE, {"a": {"b": [1, None]}}),
        (b"[1]", JSON_TYPE + ";charset=utf-8", {"_json": [1]}),
        (b'"x"', JSON_TYPE, {"_json": "x"}),
        (b"", JSON_TYPE, {}),
        (b"", FORM, {}),
        (b'{"a": 1}', "application/vnd.api+json", {"a": 1}),
        (
            b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--x--',
            "multipart/form-data; boundary=x",
            {"a": "1"},
        ),
        (b"", "multipart/form-data; boundary=x", {}),
    ],
)
def test_a_body_becomes_params_by_its_content_type(
    method: str, body: bytes, content_type: str, params: dict[str, Any]
) -> None:
    conn = parsed(body, content_type, method)
    assert conn.body_params == conn.params == params


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "MOVE"])
def test_methods_without_a_body_are_left_alone(method: str) -> None:
    assert parsed(b"a=1", FORM, method).params == {}


def test_a_body_that_no_parser_takes_passes_unread() -> None:
    for content_type in (None, "text/plain", "text/x+json", "application/jsonp", "garbage", ""):
        conn = parsed(b"a=1", content_type)
        assert (conn.params, conn.read_body()) == ({}, b"a=1")


@pytest.mark.parametrize(
    "content_type, pass_, passes",
    [
        ("text/plain", [], False),
        ("text/plain", ["text/plain"], True),
        ("text/plain", ["text/*"], True),
        ("text/plain", ["*/*"], True),
        ("text/plain", ["text/html", "image/*"], False),
        ("TEXT/plain; charset=utf-8", ["text/plain"], True),
        ("textual/plain", ["text/*"], False),
        (JSON_TYPE, [], False),
        (JSON_TYPE, ["application/json"], True),
        ("multipart/form-data; boundary=x", [], False),
    ],
)
def test_only_the_types_that_are_listed_pass_unread(content_type: str, pass_: list[str], passes: bool) -> None:
    if passes:
        assert parsed(b"x", content_type, parsers=["urlencoded"], pass_=pass_).read_body() == b"x"
        return
    media_type = content_type.partition(";")[0].lower()
    with pytest.raises(UnsupportedMediaTypeError, match=f"^unsupported media type {re.escape(media_type)}$") as caught:
        parsed(b"x", content_type, parsers=["urlencoded"], pass_=pass_)
    assert caught.value.status == 415


def test_an_unknown_parser_is_refused_when_it_is_named() -> None:
    with pytest.raises(ArgumentError, match="unknown parser 'yaml', expected"):
        Parsers(["urlencoded", "yaml"])


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize(
    "body, content_type, limit",
    [
        (b"a=" + b"x" * 98, FORM, "length"),
        (b'"' + b"x" * 98 + b'"', JSON_TYPE, "length"),
        (
            b"--x\r\ncontent-disposition: form-data; name=a\r\n\r\n" + b"x" * 42 + b"\r\n--x--",
            "multipart/form-data; boundary=x",
            "multipart_length",
        ),
    ],
)
def test_a_body_may_have_just_as_many_bytes_as_the_limit(
    body: bytes, content_type: str, limit: str, announce: bool
) -> None:
    size = len(body)
    assert parsed(body, content_type, announce=announce, **{limit: size}).params
    with pytest.raises(RequestTooLargeError, match=f"^the request is too large: its body is over {size - 1} bytes$"):
        parsed(body, content_type, announce=announce, **{limit: size - 1})


def test_the_limits_for_fields_and_depth_are_passed_on() -> None:
    for content_type, body in (
        (FORM, b"a[b][c]=1&d=2"),
        ("multipart/form-data; boundary=x", multipart("a[b][c]", "d")),
    ):
        assert len(parsed(body, content_type, max_fields=2, max_depth=2).params) == 2
        with pytest.raises(RequestTooLargeError):
            parsed(body, content_type, max_fields=1)
        with pytest.raises(InvalidQueryError, match="nested too deeply"):
            parsed(body, content_type, max_depth=1)


def test_the_text_of_a_form_has_one_limit_however_it_is_encoded() -> None:
    fields = b"a=" + b"x" * 1_100_000
    parts = multipart("a", content=b"x" * 1_100_000)
    for body, content_type in ((fields, FORM), (parts, "multipart/form-data; boundary=x")):
        assert len(parsed(body, content_type, length=1_100_002).params["a"]) == 1_100_000
        with pytest.raises(RequestTooLargeError, match="over 1000000 bytes$"):
            parsed(body, content_type)


def multipart(*names: str, filename: str | None = None, content: bytes = b"1") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    parts = [
        f'--x\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
        for name in names
    ]
    return b"".join(parts) + b"--x--\r\n"


@pytest.mark.parametrize(
    "body, content_type, error",
    [
        (b"a=%FF", FORM, BadEncodingError),
        (b"a=%zz", FORM, BadEncodingError),
        (b"{", JSON_TYPE, ParseError),
        (b'{"a": NaN}', JSON_TYPE, ParseError),
        (b'"\xff"', JSON_TYPE, BadEncodingError),
        (b"--x", "multipart/form-data; boundary=x", ParseError),
        (b"--x--", "multipart/form-data", ParseError),
    ],
)
def test_a_body_that_breaks_the_rules_of_its_type_is_the_clients_mistake(
    body: bytes, content_type: str, error: type[PhoenixError]
) -> None:
    with pytest.raises(error) as caught:
        parsed(body, content_type)
    assert caught.value.status == 400


def test_a_body_is_parsed_once() -> None:
    conn = parsed(b"a=1", FORM)
    assert Parsers()(conn) is conn
    assert conn.params == {"a": "1"}


@pytest.mark.parametrize(
    "path, skipped",
    [("/old/", True), ("/old/x", True), ("/old", True), ("/older", False), ("/", False), ("/x/old/", False)],
)
def test_the_bodies_of_some_paths_are_left_to_others(path: str, skipped: bool) -> None:
    conn = parsed(b"a=1", FORM, path=path, skip=["/old/"])
    assert conn.params == ({} if skipped else {"a": "1"})


# --- Parsers in a real server -------------------------------------------------------------


def describe(conn: Any, params: Any) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, Upload):
            return [
                value.filename,
                value.content_type,
                value.size,
                value.path and Path(value.path).exists(),
                value.read()[:3].decode(),
            ]
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    return conn.json({"method": conn.method, "params": plain(params)})


def failing(conn: Any, params: Any) -> Any:
    assert Path(params["file"].path).exists()
    raise ValueError("no")


class Router(phoenix.Router):
    post("/users/:id", describe)
    phoenix.put("/users/:id", describe)
    post("/fail", failing)


@pytest.fixture
def server() -> Iterator[Serving]:
    with Serving(Endpoint(Router, log=False, static=False, env="prod")) as server:
        yield server


def test_params_of_path_body_and_query_meet_in_a_request(server: Serving) -> None:
    with server.client() as client:
        for _ in range(2):
            got = client.post("/users/7?id=1&page=2&name=no", "name=Ann&id=9&tags[]=a&_method=put")
            assert json.loads(got.body) == {
                "method": "PUT",
                "params": {"id": "7", "page": "2", "name": "Ann", "tags": ["a"], "_method": "put"},
            }


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_large_body_is_waited_for_however_it_is_sent(size: int, server: Serving) -> None:
    body = b"text=" + b"x" * size
    with server.client() as client:
        client.connection.request("POST", "/users/7", iter([body[:3], body[3:50], body[50:]]), {"content-type": FORM})
        chunked = json.loads(client.connection.getresponse().read())
        client.connection.request("POST", "/users/7", body, {"content-type": FORM})
        counted = json.loads(client.connection.getresponse().read())
    assert chunked == counted
    assert len(counted["params"]["text"]) == size


@pytest.mark.parametrize("size", [3, 70_000])
def test_an_upload_lasts_as_long_as_its_request(size: int, server: Serving) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    body = multipart("file", filename="C:\\a\\cat.png", content=b"x" * size)
    with server.client() as client:
        got = client.send("POST", "/users/7", body, headers)
        assert json.loads(got.body)["params"]["file"] == ["cat.png", "application/octet-stream", size, True, "xxx"]
        assert client.send("POST", "/fail", body, headers).status == 500
        assert client.send("POST", "/users/7", body[:-9], headers).status == 400
    # the fixture sees that no file is left


@pytest.mark.parametrize(
    "body, content_type, status",
    [
        ("a=1&" * 2000, FORM, 413),
        ("a=" + "x" * 1_000_000, FORM, 413),
        ("a" + "[b]" * 40 + "=1", FORM, 400),
        ("{", JSON_TYPE, 400),
        ("a=%ff", FORM, 400),
    ],
)
def test_a_body_that_cannot_be_taken_answers_with_its_status(
    body: str, content_type: str, status: int, server: Serving
) -> None:
    with server.client() as client:
        assert client.send("POST", "/users/7", body, {"content-type": content_type}).status == status

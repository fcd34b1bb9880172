"""Chapter 5: secrets, signing, tokens, the session in its cookie, the flash, and CSRF."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import phoenix
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phoenix import (
    AlreadySentError,
    ArgumentError,
    Conn,
    CookieOverflowError,
    Endpoint,
    Flash,
    InvalidCrossOriginRequestError,
    InvalidCSRFTokenError,
    InvalidHeaderError,
    Params,
    PhoenixError,
    SecretError,
    Session,
    Token,
    get,
    pipe_through,
    pipeline,
    plug,
    post,
    scope,
)

from serving import Serving

SECRET, OTHER = "s" * 64, "o" * 64
DAY = 86_400
KEY = "_my_app_key"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def endpoint(secret: Any = SECRET, **options: Any) -> Endpoint:
    return Endpoint(
        lambda conn: conn.text("ok"), secret_key_base=secret, log=False, static=False, env="prod", **options
    )


ENDPOINT = endpoint()


class Clock:
    """The time, for tests that let it pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_420_000_000.0
        monkeypatch.setattr(time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# --- Secrets ------------------------------------------------------------------------------


def test_a_secret_of_64_bytes_is_enough() -> None:
    assert phoenix._checked_secret("x" * 64) == phoenix._checked_secret(b"x" * 64) == b"x" * 64
    assert len(phoenix._checked_secret("é" * 32)) == 64


@pytest.mark.parametrize("secret, what", [(None, "is not set"), ("", "is not set"), ("x" * 63, "is 63 bytes long")])
def test_a_secret_that_is_missing_or_short_is_refused_with_how_to_make_one(secret: str | None, what: str) -> None:
    with pytest.raises(SecretError) as caught:
        phoenix._checked_secret(secret)
    assert what in str(caught.value) and "at least 64 bytes" in str(caught.value)
    command = re.search(r"`python -c \"(.*?)\"`", str(caught.value))
    assert command is not None
    written: list[str] = []
    exec(command[1], {"print": written.append})
    phoenix._checked_secret(written[0])


def test_an_endpoint_refuses_a_short_secret_at_once() -> None:
    with pytest.raises(SecretError, match="is 12 bytes long"):
        endpoint("super secret")
    with pytest.raises(SecretError, match="is 3 bytes long"):
        endpoint([SECRET, "old"])


# --- Signing ------------------------------------------------------------------------------


@given(st.binary())
def test_base64url_is_that_of_the_standard_library_without_padding(data: bytes) -> None:
    text = phoenix._base64url(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=")
    assert phoenix._unbase64url(text) == data


@pytest.mark.parametrize(
    "text", [b"QQ==", b"QR", b"Q", b"Q Q", b"QQ\n", b"+/+/", b"\xff\xff", b"=", b"QQ=", "é".encode()]
)
def test_what_base64url_would_not_write_is_not_read(text: bytes) -> None:
    assert phoenix._unbase64url(text) is None


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_a_signature_is_the_hmac_of_the_standard_library(key: bytes, message: bytes) -> None:
    signer = phoenix._Signer(key)
    assert signer.digest(message) == signer.digest(message) == hmac.new(key, message, hashlib.sha256).digest()


@pytest.mark.parametrize("size", [0, 1, 32, 63, 64, 65, 66, 128])
def test_keys_of_every_size_sign_as_hmac_does(size: int) -> None:
    key = bytes(range(size))
    assert phoenix._Signer(key).digest(b"message") == hmac.new(key, b"message", hashlib.sha256).digest()


def test_the_key_is_derived_by_pbkdf2_once_for_each_secret_and_purpose() -> None:
    key = hashlib.pbkdf2_hmac("sha256", SECRET.encode(), b"a purpose", 1000, 32)
    signer = phoenix._signer(SECRET.encode(), "a purpose")
    assert signer.digest(b"x") == hmac.new(key, b"x", hashlib.sha256).digest()
    assert phoenix._signer(SECRET.encode(), "a purpose") is signer
    assert phoenix._signer(SECRET.encode(), "another").digest(b"x") != signer.digest(b"x")
    assert phoenix._signer(OTHER.encode(), "a purpose").digest(b"x") != signer.digest(b"x")


def test_the_keys_that_are_kept_do_not_grow_without_end() -> None:
    for number in range(300):
        phoenix._signer(b"x" * 64, f"purpose {number}")
    assert len(phoenix._signers) <= 256


@given(st.binary())
def test_what_was_signed_verifies_and_has_the_format_of_plug(payload: bytes) -> None:
    signer = phoenix._Signer(b"key")
    token = signer.sign(payload)
    assert signer.verify(token) == payload
    head, body, signature = token.split(".")
    assert base64.urlsafe_b64decode(head + "=") == b"HS256"
    assert base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)) == payload
    signed = hmac.new(b"key", f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == signed


@given(st.text())
def test_no_other_text_verifies(text: str) -> None:
    assert phoenix._Signer(b"key").verify(text) is None


def test_a_token_that_was_changed_or_cut_in_any_place_does_not_verify() -> None:
    signer = phoenix._Signer(b"key")
    token = signer.sign(b"payload")
    for at in range(len(token)):
        assert signer.verify(token[:at]) is None
        for other in "A_.=é":
            changed = token[:at] + other + token[at + 1 :]
            assert changed == token or signer.verify(changed) is None
        assert signer.verify(token[:at] + token[at + 1 :]) is None
    for more in ("=", "A", ".", "\n", " "):
        assert signer.verify(token + more) is None
        assert signer.verify(more + token) is None


# --- Tokens -------------------------------------------------------------------------------


@given(JSON)
def test_a_token_gives_back_the_data_it_was_made_of(data: Any) -> None:
    token = Token.sign(SECRET, "user auth", data)
    assert Token.verify(SECRET, "user auth", token) == data
    assert token.isascii() and not set(token) & set("+/= ;,")


def test_a_token_is_good_for_its_secret_and_its_purpose_only() -> None:
    token = Token.sign(SECRET, "user auth", 7)
    assert Token.verify(SECRET, "user auth", token) == 7
    assert Token.verify(SECRET, "password reset", token) is None
    assert Token.verify(OTHER, "user auth", token) is None


def test_conns_endpoints_and_secrets_make_the_same_tokens(clock: Clock) -> None:
    contexts = [ENDPOINT, Conn(endpoint=ENDPOINT), SECRET, SECRET.encode()]
    tokens = {Token.sign(context, "x", {"id": 7}) for context in contexts}
    assert len(tokens) == 1
    assert [Token.verify(context, "x", tokens.copy().pop()) for context in contexts] == [{"id": 7}] * 4


@pytest.mark.parametrize(
    "max_age, passed, valid",
    [
        (60, 0, True),
        (60, 59, True),
        (60, 61, False),
        (0.5, 0.4, True),
        (0.5, 0.6, False),
        (0, 0, False),
        (-1, 0, False),
        (None, 10**9, True),
        (None, 0, True),
    ],
)
def test_a_token_is_good_for_a_time_in_seconds(max_age: float | None, passed: float, valid: bool, clock: Clock) -> None:
    token = Token.sign(SECRET, "x", 7)
    clock.now += passed
    assert Token.verify(SECRET, "x", token, max_age=max_age) == (7 if valid else None)


def test_a_token_is_good_for_a_day_unless_told_otherwise(clock: Clock) -> None:
    token = Token.sign(SECRET, "x", 7)
    clock.now += DAY - 1
    assert Token.verify(SECRET, "x", token) == 7
    clock.now += 2
    assert Token.verify(SECRET, "x", token) is None


def test_the_time_of_signing_can_be_given(clock: Clock) -> None:
    token = Token.sign(SECRET, "x", 7, signed_at=clock.now - 100)
    assert (Token.verify(SECRET, "x", token, max_age=99), Token.verify(SECRET, "x", token, max_age=101)) == (None, 7)


@pytest.mark.parametrize("token", [None, "", "garbage", "SFMyNTY..", "a.b.c", 7, b"x", "é.é.é"])
def test_what_is_no_token_is_no_data(token: Any) -> None:
    assert Token.verify(SECRET, "x", token) is None


def test_the_first_of_several_secrets_signs_and_all_verify() -> None:
    new, old = "n" * 64, SECRET
    both = endpoint([new, old])
    assert Token.verify(both, "x", Token.sign(old, "x", 7)) == 7
    assert Token.verify(new, "x", Token.sign(both, "x", 7)) == 7
    assert Token.verify(old, "x", Token.sign(both, "x", 7)) is None
    assert Token.verify(both, "x", Token.sign(OTHER, "x", 7)) is None


def test_a_token_needs_a_secret_and_data_that_is_json() -> None:
    with pytest.raises(SecretError, match="is not set"):
        Token.sign(endpoint(None), "x", 7)
    with pytest.raises(SecretError, match="is 5 bytes long"):
        Token.sign("short", "x", 7)
    with pytest.raises(ArgumentError, match="a token needs a conn, an endpoint or a secret"):
        Token.sign(object(), "x", 7)
    with pytest.raises(ArgumentError, match="cannot encode as JSON"):
        Token.sign(SECRET, "x", object())


# --- The session in its cookie ------------------------------------------------------------

STORE = Session(key=KEY)


def nothing(conn: Conn) -> object:
    return conn


def request(
    do: Callable[[Conn], object] = nothing,
    cookie: str | None = None,
    *,
    status: int = 200,
    store: Session = STORE,
    scheme: str = "http",
    app: Any = ENDPOINT,
    headers: Mapping[str, str] | None = None,
    flash: bool = True,
) -> Conn:
    """One request with a session: *do* is the action, *cookie* the value that the client sends."""
    fields = {name: [value] for name, value in (headers or {}).items()}
    if cookie is not None:
        fields["cookie"] = [f"{store.key}={cookie}"]
    conn = Conn("GET", "/", "", fields, scheme, "example.com", endpoint=app)
    store(conn)
    conn.fetch_session()
    if flash:
        conn.fetch_flash()
    do(conn)
    return conn if conn.state == "sent" else conn.send_resp(status, "")


def set_cookie(conn: Conn, key: str = KEY) -> tuple[str, str] | None:
    """Value and attributes of the session's cookie in a response, ``None`` when it sets none."""
    return (conn._resp_cookies or {}).get(key)


def cookie_of(conn: Conn, key: str = KEY) -> str:
    found = set_cookie(conn, key)
    assert found is not None, "no cookie was set"
    return found[0]


def put(**values: Any) -> Callable[[Conn], object]:
    def do(conn: Conn) -> None:
        for key, value in values.items():
            conn.put_session(key, value)

    return do


def session_in(cookie: str | None, **options: Any) -> dict[str, Any]:
    """What a request with this cookie finds in its session."""
    seen: list[dict[str, Any]] = []
    request(lambda conn: seen.append(dict(conn.session)), cookie, **options)
    return seen[0]


GONE = "; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; max-age=0; HttpOnly; SameSite=Lax"


def test_a_session_travels_in_one_signed_cookie(clock: Clock) -> None:
    value, attributes = set_cookie(request(put(user="Ann", n=7))) or ("", "")
    assert attributes == "; path=/; HttpOnly; SameSite=Lax"
    head, payload, signature = value.split(".")
    assert head == "SFMyNTY"
    assert json.loads(base64.urlsafe_b64decode(payload + "==")) == [1_420_000_000_000, {"user": "Ann", "n": 7}]
    key = hashlib.pbkdf2_hmac("sha256", SECRET.encode(), b"session cookie", 1000, 32)
    signed = hmac.new(key, f"{head}.{payload}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == signed


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=3))
def test_a_session_comes_back_as_it_was(values: dict[str, Any]) -> None:
    written = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    if len(written.encode()) < 2500:
        assert session_in(cookie_of(request(lambda conn: conn.session.update(values)))) == values


def test_the_words_of_the_session_do_what_they_say() -> None:
    def do(conn: Conn) -> None:
        assert conn.get_session("a") is None and conn.get_session("a", "default") == "default"
        conn.put_session("a", 1).put_session("b", [2]).put_session("c", None)
        assert (conn.get_session("a"), conn.get_session("b"), conn.get_session("c", 3)) == (1, [2], None)
        conn.delete_session("b").delete_session("none")
        assert conn.session == {"a": 1, "c": None}

    cookie = cookie_of(request(do))
    assert session_in(cookie) == {"a": 1, "c": None}
    assert set_cookie(request(lambda conn: conn.clear_session(), cookie)) == ("", GONE)


def test_a_value_that_was_put_can_be_read_at_once_as_in_the_readme_of_phoenix() -> None:
    conn = request(lambda conn: conn.put_session("foo", "bar").text(conn.get_session("foo")))
    assert (conn.resp_body, session_in(cookie_of(conn))) == ("bar", {"foo": "bar"})


def test_what_is_changed_in_the_session_itself_is_kept_too() -> None:
    cookie = cookie_of(request(lambda conn: conn.session.update(cart=[1])))
    cookie = cookie_of(request(lambda conn: conn.get_session("cart").append(2), cookie))
    assert session_in(cookie) == {"cart": [1, 2]}
    assert set_cookie(request(lambda conn: conn.session.pop("cart"), cookie)) == ("", GONE)


@pytest.mark.parametrize(
    "do",
    [
        nothing,
        lambda conn: conn.get_session("user"),
        lambda conn: conn.session,
        lambda conn: conn.delete_session("none"),
        lambda conn: conn.get_flash("notice"),
        lambda conn: conn.clear_flash(),
        lambda conn: conn.pop_all_flash("notice"),
        lambda conn: (conn.session.update(x=1), conn.session.pop("x")),
    ],
)
@pytest.mark.parametrize("status", [200, 302])
def test_a_session_that_did_not_change_sets_no_cookie(do: Callable[[Conn], object], status: int) -> None:
    assert set_cookie(request(do, status=status)) is None
    cookie = cookie_of(request(put(user="Ann")))
    assert set_cookie(request(do, cookie, status=status)) is None
    assert session_in(cookie) == {"user": "Ann"}


@pytest.mark.parametrize(
    "do",
    [
        lambda conn: conn.clear_session(),
        lambda conn: conn.put_session("a", 1).delete_session("a"),
        lambda conn: conn.configure_session(renew=True),
    ],
)
def test_an_empty_session_sets_no_cookie_that_was_not_there(do: Callable[[Conn], object]) -> None:
    assert set_cookie(request(do)) is None


def broken(cookie: str) -> list[str]:
    head, payload, signature = cookie.split(".")
    other = base64.urlsafe_b64encode(b'[1420000000000,{"user":"Eve"}]').decode().rstrip("=")
    return [
        "",
        "garbage",
        "é",
        "..",
        "SFMyNTY..",
        cookie[:-1],
        cookie[1:],
        cookie + "A",
        cookie.replace("SFMyNTY", "SFMyNTY0"),
        f"{head}.{other}.{signature}",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{payload}.{signature}",
        cookie.upper(),
        f"bm9uZQ.{payload}.{signature}",
        f"{head}.{payload}.{signature[:-2]}AA",
        "x" * 4000,
    ]


def test_a_cookie_that_does_not_verify_is_an_empty_session_and_never_an_error() -> None:
    cookie = cookie_of(request(put(user="Ann")))
    assert session_in(cookie) == {"user": "Ann"}
    for wrong in broken(cookie):
        assert session_in(wrong) == {}
        assert set_cookie(request(nothing, wrong)) is None


def test_a_cookie_of_another_secret_purpose_or_shape_is_an_empty_session() -> None:
    cookie = cookie_of(request(put(user="Ann")))
    assert session_in(cookie, app=endpoint(OTHER)) == {}
    assert session_in(cookie, store=Session(key=KEY, signing_salt="another app")) == {}
    for data in ([1], "text", None, 7):
        assert session_in(Token.sign(SECRET, "session cookie", data)) == {}
    assert session_in(Token.sign(SECRET, "session cookie", {"a": 1})) == {"a": 1}
    assert session_in(Token.sign(SECRET, "user auth", {"a": 1})) == {}


@pytest.mark.parametrize("options, lifetime", [({}, 14 * DAY), ({"max_age": 100}, 100)])
def test_a_session_ends_on_the_server_too(options: Any, lifetime: int, clock: Clock) -> None:
    store = Session(key=KEY, **options)
    cookie = cookie_of(request(put(user="Ann"), store=store))
    clock.now += lifetime - 1
    assert session_in(cookie, store=store) == {"user": "Ann"}
    clock.now += 2
    assert session_in(cookie, store=store) == {}


def test_a_session_in_use_lives_on(clock: Clock) -> None:
    store = Session(key=KEY, max_age=100)
    cookie = cookie_of(request(put(user="Ann"), store=store))
    read = lambda conn: conn.get_session("user")
    clock.now += 49
    assert set_cookie(request(read, cookie, store=store)) is None
    clock.now += 2
    assert set_cookie(request(nothing, cookie, store=store, flash=False)) is None  # nobody asked for it
    renewed = cookie_of(request(read, cookie, store=store))
    clock.now += 98
    assert (session_in(cookie, store=store), session_in(renewed, store=store)) == ({}, {"user": "Ann"})


def test_old_secrets_are_read_and_the_newest_is_written() -> None:
    cookie = cookie_of(request(put(user="Ann"), app=endpoint(OTHER)))
    rotated = endpoint([SECRET, OTHER])
    assert session_in(cookie, app=rotated) == {"user": "Ann"}
    renewed = cookie_of(request(lambda conn: conn.session, cookie, app=rotated))
    assert session_in(renewed, app=ENDPOINT) == {"user": "Ann"}
    assert set_cookie(request(lambda conn: conn.session, renewed, app=rotated)) is None


def test_a_session_may_have_secrets_of_its_own() -> None:
    store = Session(key=KEY, secret=[OTHER, SECRET])
    cookie = cookie_of(request(put(user="Ann"), store=store, app=endpoint(None)))
    assert session_in(cookie, app=endpoint(OTHER)) == {"user": "Ann"}
    assert session_in(cookie_of(request(put(user="Ann"))), store=store, app=endpoint(None)) == {"user": "Ann"}
    with pytest.raises(SecretError):
        Session(key=KEY, secret="super secret")


@pytest.mark.parametrize(
    "options, scheme, attributes",
    [
        ({}, "https", "; path=/; secure; HttpOnly; SameSite=Lax"),
        ({"secure": False}, "https", "; path=/; HttpOnly; SameSite=Lax"),
        ({"secure": True}, "http", "; path=/; secure; HttpOnly; SameSite=Lax"),
        (
            {"max_age": 60},
            "http",
            "; path=/; expires=Wed, 31 Dec 2014 04:27:40 GMT; max-age=60; HttpOnly; SameSite=Lax",
        ),
        (
            {"path": "/a", "domain": "x.y", "http_only": False, "same_site": "Strict", "extra": "Partitioned"},
            "http",
            "; path=/a; domain=x.y; SameSite=Strict; Partitioned",
        ),
        ({"same_site": None}, "http", "; path=/; HttpOnly"),
    ],
)
def test_the_cookie_has_the_attributes_that_were_asked_for(
    options: Any, scheme: str, attributes: str, clock: Clock
) -> None:
    store = Session(key=KEY, **options)
    conn = request(put(a=1), store=store, scheme=scheme)
    assert (set_cookie(conn) or ("", ""))[1] == attributes
    dropped = request(lambda conn: conn.configure_session(drop=True), cookie_of(conn), store=store, scheme=scheme)
    value, attributes_then = set_cookie(dropped) or ("-", "")
    assert value == "" and "max-age=0" in attributes_then
    assert re.findall(r"path=\S+|domain=\S+", attributes_then) == re.findall(r"path=\S+|domain=\S+", attributes)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"store": "ets"}, ArgumentError),
        ({"key": "a b"}, ArgumentError),
        ({"key": ""}, ArgumentError),
        ({"path": "/;x"}, InvalidHeaderError),
        ({"domain": "a\r\nb"}, InvalidHeaderError),
        ({"same_site": "lux"}, ArgumentError),
        ({"extra": "a\nb"}, InvalidHeaderError),
    ],
)
def test_mistakes_in_the_options_are_found_when_the_session_is_plugged(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Session(**options)


def test_renewing_writes_the_cookie_anew_and_changes_the_csrf_token(clock: Clock) -> None:
    cookie = cookie_of(request(lambda conn: (conn.put_session("user", 1), conn.csrf_token())))
    clock.now += 1
    renewed = cookie_of(request(lambda conn: conn.configure_session(renew=True), cookie))
    assert renewed != cookie
    assert session_in(renewed) == {"user": 1}


def test_dropping_expires_the_cookie_that_was_sent_and_only_then() -> None:
    cookie = cookie_of(request(put(user=1)))
    drop = lambda conn: conn.configure_session(drop=True)
    assert set_cookie(request(drop, cookie)) == ("", GONE)
    assert set_cookie(request(drop)) is None
    assert set_cookie(request(lambda conn: drop(conn).put_session("a", 1), cookie)) == ("", GONE)
    assert set_cookie(
        request(lambda conn: conn.put_session("a", 1).configure_session(drop=True, renew=True), cookie)
    ) == ("", GONE)


def test_an_ignored_session_is_not_written() -> None:
    cookie = cookie_of(request(put(user=1)))
    assert set_cookie(request(lambda conn: conn.configure_session(ignore=True).put_session("a", 1), cookie)) is None
    assert (
        set_cookie(request(lambda conn: conn.put_session("a", 1).configure_session(ignore=True, drop=True), cookie))
        is None
    )
    assert (
        set_cookie(request(lambda conn: conn.configure_session(ignore=True).put_flash("a", "b"), cookie, status=302))
        is None
    )


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2015, 1, 2),
        uuid.UUID(int=1),
        b"x",
        {1, 2},
        object(),
        float("nan"),
        [object()],
        phoenix.Upload("a", "b", b"c"),
    ],
)
def test_a_session_takes_nothing_that_json_would_not_give_back(value: object) -> None:
    with pytest.raises(ArgumentError, match=r"^the session \{'a': .* cannot be stored: .*\n.*A session holds JSON"):
        request(put(a=value))
    with pytest.raises(ArgumentError, match="A session holds JSON"):
        request(lambda conn: conn.session.update(a=value))


def test_a_session_that_does_not_fit_into_a_cookie_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(
        CookieOverflowError, match="the limit is 4096.\nKeep an id in the cookie and the data in a database."
    ):
        request(put(text="x" * 4000))


def test_an_error_in_the_session_answers_500_without_a_cookie(caplog: pytest.LogCaptureFixture) -> None:
    class App(Endpoint):
        plug(Session, key=KEY)
        plug(Conn.fetch_session)

    app = App(lambda conn: conn.put_session("text", "x" * 5000).text("ok"), secret_key_base=SECRET, env="prod")
    conn = app.test().get("/")
    assert (conn.status, set_cookie(conn)) == (500, None)
    assert "CookieOverflowError" in caplog.text


def test_what_is_missing_is_said() -> None:
    conn = Conn(endpoint=ENDPOINT)
    with pytest.raises(PhoenixError, match="^cannot fetch session without a configured session plug"):
        conn.fetch_session()
    for use in (
        lambda: conn.session,
        lambda: conn.get_session("a"),
        lambda: conn.put_session("a", 1),
        lambda: conn.delete_session("a"),
        lambda: conn.clear_session(),
        lambda: conn.configure_session(drop=True),
        lambda: conn.csrf_token(),
    ):
        with pytest.raises(PhoenixError, match="^session not fetched, call fetch_session first"):
            use()
    with pytest.raises(SecretError, match="secret_key_base is not set"):
        Session(key=KEY)(Conn(endpoint=endpoint(None))).fetch_session()


def test_a_session_cannot_be_changed_after_the_response() -> None:
    cookie = cookie_of(request(put(a=1)))
    conn = request(nothing, cookie)
    for change in (
        lambda: conn.put_session("a", 2), lambda: conn.delete_session("a"), lambda: conn.clear_session(),
        lambda: conn.configure_session(drop=True), lambda: conn.put_flash("a", "b"), lambda: conn.clear_flash(),
        lambda: conn.pop_all_flash("a"),
    ):  # fmt: skip
        with pytest.raises(AlreadySentError):
            change()
    assert conn.get_session("a") == 1


def test_a_session_is_fetched_once_and_written_once() -> None:
    def do(conn: Conn) -> None:
        conn.put_session("a", 1)
        conn.fetch_session().fetch_flash().put_session("b", 2)

    conn = request(do)
    assert session_in(cookie_of(conn)) == {"a": 1, "b": 2}


def test_a_change_that_a_callback_makes_is_written() -> None:
    conn = request(lambda conn: conn.register_before_send(lambda conn: conn.put_session("late", True)))
    assert session_in(cookie_of(conn)) == {"late": True}


# --- Flash --------------------------------------------------------------------------------


def flash_in(cookie: str | None) -> dict[str, list[str]]:
    """All messages that a request with this cookie finds."""
    found: dict[str, list[str]] = {}

    def look(conn: Conn) -> None:
        found.update({key: conn.get_all_flash(key) for key in conn.flash})

    request(look, cookie)
    return found


def test_a_message_survives_one_redirect() -> None:
    first = request(lambda conn: conn.put_flash("notice", "saved"), status=302)
    seen: list[Any] = []
    second = request(lambda conn: seen.append(conn.get_flash("notice")), cookie_of(first))
    assert seen == ["saved"]
    assert set_cookie(second) == ("", GONE)  # there is nothing else in the session


@pytest.mark.parametrize("status", range(300, 309))
def test_a_redirect_keeps_what_was_put_and_what_had_come(status: int) -> None:
    cookie = cookie_of(request(lambda conn: conn.put_flash("notice", "saved"), status=status))
    assert flash_in(cookie) == {"notice": ["saved"]}
    assert set_cookie(request(nothing, cookie, status=status)) is None
    more = request(lambda conn: conn.put_flash("notice", "again").put_flash("error", "no"), cookie, status=status)
    assert flash_in(cookie_of(more)) == {"notice": ["saved", "again"], "error": ["no"]}


@pytest.mark.parametrize("status", [200, 201, 204, 299, 309, 399, 400, 404, 500])
def test_any_other_response_has_shown_the_messages(status: int) -> None:
    assert set_cookie(request(lambda conn: conn.put_flash("notice", "now"), status=status)) is None
    cookie = cookie_of(request(lambda conn: conn.put_flash("notice", "x").put_session("a", 1), status=302))
    seen: list[Any] = []
    swept = request(lambda conn: seen.append(conn.get_flash("notice")), cookie, status=status)
    assert seen == ["x"]
    assert session_in(cookie_of(swept)) == {"a": 1}


def test_messages_are_swept_even_where_nobody_looks_at_them() -> None:
    cookie = cookie_of(request(lambda conn: conn.put_flash("notice", "x"), status=302))
    assert set_cookie(request(nothing, cookie)) == ("", GONE)


def test_a_message_can_be_read_in_the_request_that_puts_it() -> None:
    request(lambda conn: (conn.put_flash("notice", "now"), assert_equal(conn.get_flash("notice"), "now")))


def assert_equal(left: object, right: object) -> None:
    assert left == right


def test_several_messages_of_a_key_come_in_the_order_they_were_put() -> None:
    def three(conn: Conn) -> None:
        for message in "abc":
            conn.put_flash("notice", message)
        assert (conn.get_all_flash("notice"), conn.get_flash("notice")) == (["a", "b", "c"], "c")

    def then(conn: Conn) -> None:
        assert (conn.get_all_flash("notice"), conn.get_flash("notice"), conn.flash) == (
            ["a", "b", "c"],
            "c",
            {"notice": "c"},
        )
        conn.put_flash("notice", "d")
        assert conn.get_all_flash("notice") == ["a", "b", "c", "d"]

    request(then, cookie_of(request(three, status=302)))


def test_what_is_not_there_is_none_or_empty() -> None:
    def look(conn: Conn) -> None:
        assert (conn.get_flash("x"), conn.get_all_flash("x"), conn.pop_all_flash("x"), conn.flash) == (None, [], [], {})

    request(look)


def test_messages_are_popped_and_cleared() -> None:
    def do(conn: Conn) -> None:
        conn.put_flash("a", "1").put_flash("a", "2").put_flash("b", "3")
        assert conn.pop_all_flash("a") == ["1", "2"]
        assert (conn.get_flash("a"), conn.flash) == (None, {"b": "3"})

    cookie = cookie_of(request(do, status=302))
    assert flash_in(cookie) == {"b": ["3"]}
    assert set_cookie(request(lambda conn: conn.clear_flash(), cookie, status=302)) == ("", GONE)
    assert set_cookie(request(lambda conn: conn.pop_all_flash("b"), cookie, status=302)) == ("", GONE)


def test_the_list_of_messages_is_the_callers_own() -> None:
    def do(conn: Conn) -> None:
        conn.put_flash("a", "1")
        conn.get_all_flash("a").clear()
        assert conn.get_all_flash("a") == ["1"]

    request(do)


def test_the_flash_as_functions_does_the_same() -> None:
    def do(conn: Conn) -> None:
        assert Flash.get(conn) == {} and Flash.get(conn, "notice") is None and Flash.get_all(conn, "notice") == []
        assert Flash.put(conn, "notice", "a") is conn
        Flash.put(conn, "notice", "b")
        assert (Flash.get(conn, "notice"), Flash.get_all(conn, "notice"), Flash.get(conn)) == (
            "b",
            ["a", "b"],
            {"notice": "b"},
        )
        assert Flash.pop_all(conn, "notice") == (["a", "b"], conn)
        assert Flash.pop_all(conn, "notice") == ([], conn)
        assert Flash.put(conn, "notice", "c").get_flash("notice") == "c"
        assert Flash.clear(conn).flash == {}

    assert set_cookie(request(do, status=302)) is None


def test_the_flash_needs_a_session_and_to_be_fetched() -> None:
    conn = STORE(Conn(endpoint=ENDPOINT))
    with pytest.raises(PhoenixError, match=r"the flash is kept in the session: `plug\(Conn.fetch_session\)` before"):
        conn.fetch_flash()
    conn.fetch_session()
    for use in (
        lambda: conn.flash,
        lambda: conn.get_flash("a"),
        lambda: conn.put_flash("a", "b"),
        lambda: conn.get_all_flash("a"),
    ):
        with pytest.raises(PhoenixError, match="^flash not fetched, call fetch_flash first"):
            use()


def test_a_session_that_holds_something_else_under_the_flashs_key_is_no_error() -> None:
    for odd in ("text", 7, ["a"], {"notice": "text"}, {"notice": None}):
        assert flash_in(cookie_of(request(put(phoenix_flash=odd), flash=False))) == {}


def test_a_flash_is_kept_when_the_session_is_cleared_after_it() -> None:
    cookie = cookie_of(request(lambda conn: conn.put_flash("notice", "bye").clear_session(), status=302))
    assert session_in(cookie) == {"phoenix_flash": {"notice": ["bye"]}}


# --- CSRF ---------------------------------------------------------------------------------


def unmask(token: str) -> bytes:
    data = base64.urlsafe_b64decode(token)
    return bytes(left ^ right for left, right in zip(data[:18], data[18:]))


def tokens(count: int, cookie: str | None = None) -> tuple[list[str], Conn]:
    made: list[str] = []
    return made, request(lambda conn: made.extend(conn.csrf_token() for _ in range(count)), cookie)


def test_a_token_is_masked_anew_each_time_and_hides_one_secret() -> None:
    made, conn = tokens(20)
    assert len(set(made)) == 20
    assert {len(token) for token in made} == {48}
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", token) for token in made)
    assert {unmask(token) for token in made} == {base64.urlsafe_b64decode(session_in(cookie_of(conn))["_csrf_token"])}
    later, again = tokens(1, cookie_of(conn))
    assert set_cookie(again) is None
    assert unmask(later[0]) == unmask(made[0]) and later[0] not in made
    other, _ = tokens(1)
    assert unmask(other[0]) != unmask(made[0])


def test_a_secret_in_the_session_that_is_none_is_replaced() -> None:
    for odd in (7, "short", "é" * 24, None, "x" * 24 + "="):
        made, conn = tokens(1, cookie_of(request(put(_csrf_token=odd))))
        assert len(unmask(made[0])) == 18
        assert cookie_of(conn)


def test_without_a_token_nothing_is_put_into_the_session() -> None:
    assert set_cookie(request(lambda conn: conn.protect_from_forgery())) is None


def protected(
    method: str = "POST",
    cookie: str | None = None,
    *,
    form: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    scheme: str = "http",
    host: str = "example.com",
    port: int = 80,
    app: Any = ENDPOINT,
    **options: Any,
) -> Conn:
    """A conn after ``protect_from_forgery``; the form is parsed already."""
    fields = {name: [value] for name, value in (headers or {}).items()}
    if cookie is not None:
        fields["cookie"] = [f"{KEY}={cookie}"]
    conn = Conn(method, "/", "", fields, scheme, host, port, endpoint=app)
    conn._put_body_params(Params(form or {}))
    STORE(conn).fetch_session().fetch_flash()
    return conn.protect_from_forgery(**options)


@pytest.fixture
def token() -> tuple[str, str]:
    """A token, and the cookie of its session."""
    made, conn = tokens(1)
    return made[0], cookie_of(conn)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_requests_that_change_nothing_need_no_token(method: str) -> None:
    assert protected(method).halted is False


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "MOVE"])
def test_requests_that_may_change_something_need_the_token_of_their_session(
    method: str, token: tuple[str, str]
) -> None:
    given, cookie = token
    assert protected(method, cookie, form={"_csrf_token": given}).state == "unset"
    assert protected(method, cookie, headers={"x-csrf-token": given}).state == "unset"
    wrong = [
        {},
        {"form": {"_csrf_token": ""}},
        {"form": {"_csrf_token": given[:-1]}},
        {"form": {"_csrf_token": given + "A"}},
        {"form": {"_csrf_token": "A" * 48}},
        {"form": {"_csrf_token": [given]}},
        {"form": {"_csrf_token": {"a": given}}},
        {"form": {"_csrf_token": "é" * 48}},
        {"form": {"csrf_token": given}},
        {"headers": {"x-csrf-token": "garbage"}},
        {"form": {"_csrf_token": base64.urlsafe_b64encode(unmask(given)).decode()}},
        {"form": {"_csrf_token": tokens(1)[0][0]}},
        {"form": {"_csrf_token": "wrong"}, "headers": {"x-csrf-token": given}},
    ]
    for request_of_another in wrong:
        with pytest.raises(InvalidCSRFTokenError):
            protected(method, cookie, **request_of_another)  # type: ignore[arg-type]
    with pytest.raises(InvalidCSRFTokenError):
        protected(method, None, form={"_csrf_token": given})  # without the session


def test_the_error_is_403_and_lists_what_to_look_at() -> None:
    with pytest.raises(InvalidCSRFTokenError) as caught:
        protected()
    assert caught.value.status == 403
    assert str(caught.value).startswith("invalid CSRF (Cross Site Request Forgery) token, please make sure that:")
    assert "'_csrf_token' param or 'x-csrf-token' header" in str(caught.value)
    assert "forms made with form_for or form_tag bring it, scripts send what csrf_meta_tag() holds" in str(caught.value)


def test_a_deleted_token_is_refused(token: tuple[str, str]) -> None:
    given, cookie = token
    conn = request(lambda conn: conn.put_session("a", 1).delete_csrf_token(), cookie)
    with pytest.raises(InvalidCSRFTokenError):
        protected("POST", cookie_of(conn), form={"_csrf_token": given})


SITES = [
    ({"sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"sec-fetch-site": "same-site"}, False),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "http://example.com"}, False),
    ({"sec-fetch-site": "same-origin", "origin": "null"}, True),  # the page's referrer policy hides it
    ({"origin": "http://example.com"}, True),
    ({"origin": "HTTP://EXAMPLE.com"}, True),
    ({"origin": "https://example.com"}, True),
    ({"origin": "http://example.com:81"}, False),
    ({"origin": "http://evil.com"}, False),
    ({"origin": "null"}, False),
    ({"origin": "http://example.com.evil.com"}, False),
    ({"origin": "http://sub.example.com"}, False),
    ({"origin": "example.com"}, False),
    ({"origin": "http://evil.com/http://example.com"}, False),
    ({}, True),
]


@pytest.mark.parametrize("headers, own", SITES)
def test_a_browser_that_names_another_site_is_refused_even_with_the_token(
    headers: dict[str, str], own: bool, token: tuple[str, str]
) -> None:
    given, cookie = token
    if own:
        assert protected("POST", cookie, form={"_csrf_token": given}, headers=headers).state == "unset"
        with pytest.raises(InvalidCSRFTokenError):  # the token is needed all the same
            protected("POST", cookie, headers=headers)
    else:
        with pytest.raises(InvalidCSRFTokenError):
            protected("POST", cookie, form={"_csrf_token": given}, headers=headers)


@pytest.mark.parametrize(
    "origin, where, own",
    [
        ("http://example.com:4000", {"port": 4000}, True),
        ("http://example.com", {"port": 4000}, False),
        ("https://example.com", {"scheme": "https", "port": 443}, True),
        ("http://example.com", {"scheme": "https", "port": 443}, False),
        ("https://example.com:8443", {"scheme": "https", "port": 8443}, True),
        ("https://example.com", {"port": 443}, True),  # a proxy that speaks https, and passes on the port it was asked at
        ("https://www.example.org", {"host": "backend", "port": 4000}, True),
        ("https://evil.org", {"host": "backend"}, False),
        ("http://backend", {"host": "backend"}, True),
    ],
)
def test_the_origin_is_compared_with_the_host_of_the_request_and_with_the_apps_url(
    origin: str, where: Any, own: bool, token: tuple[str, str]
) -> None:
    app = endpoint(url={"host": "www.example.org", "scheme": "https", "path": "/shop"})
    given, cookie = token
    form = {"_csrf_token": given}
    if own:
        assert protected("POST", cookie, form=form, headers={"origin": origin}, app=app, **where).state == "unset"
    else:
        with pytest.raises(InvalidCSRFTokenError):
            protected("POST", cookie, form=form, headers={"origin": origin}, app=app, **where)


def test_the_check_can_be_skipped() -> None:
    conn = STORE(Conn("POST", endpoint=ENDPOINT)).put_private("plug_skip_csrf_protection", True).fetch_session()
    assert conn.protect_from_forgery() is conn


def test_an_invalid_request_may_go_on_with_an_empty_session_that_is_not_written(token: tuple[str, str]) -> None:
    given, _ = token
    made: list[str] = []
    cookie = cookie_of(
        request(
            lambda conn: (conn.put_session("user", 1).put_flash("a", "b"), made.append(conn.csrf_token())), status=302
        )
    )
    conn = protected("POST", cookie, form={"_csrf_token": given}, with_="clear_session")
    assert (conn.session, conn.flash) == ({}, {})
    conn.put_session("user", 2).put_flash("c", "d").send_resp(302, "")
    assert set_cookie(conn) is None
    assert session_in(cookie)["user"] == 1
    valid = protected("POST", cookie, form={"_csrf_token": made[0]}, with_="clear_session")
    assert (valid.session["user"], valid.flash) == (1, {"a": "b"})


def test_an_unknown_way_to_refuse_is_an_error() -> None:
    for method in ("GET", "POST"):
        with pytest.raises(ArgumentError, match='expected "exception" or "clear_session"'):
            protected(method, with_="ignore")


@pytest.mark.parametrize(
    "content_type", ["text/javascript", "application/javascript", "text/javascript; charset=utf-8"]
)
@pytest.mark.parametrize(
    "headers, refused",
    [
        ({}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"x-requested-with": "other"}, True),
        ({"x-requested-with": "XMLHttpRequest"}, False),
        ({"sec-fetch-site": "same-origin"}, False),
    ],
)
def test_a_script_is_given_to_pages_of_this_site_only(
    content_type: str, headers: dict[str, str], refused: bool
) -> None:
    conn = protected("GET", headers=headers).put_resp_content_type(content_type, charset=None)
    if not refused:
        assert conn.send_resp(200, "1").state == "sent"
        return
    with pytest.raises(InvalidCrossOriginRequestError, match="embedded <script> tag on another site") as caught:
        conn.send_resp(200, "1")
    assert (caught.value.status, conn.state) == (403, "set")


def test_other_content_and_other_methods_may_be_read_from_anywhere(token: tuple[str, str]) -> None:
    given, cookie = token
    assert protected("GET").put_resp_content_type("text/html").send_resp(200, "").state == "sent"
    assert protected("GET").send_resp(200, "").state == "sent"
    script = protected("POST", cookie, form={"_csrf_token": given}).put_resp_content_type("text/javascript")
    assert script.send_resp(200, "").state == "sent"
    skipped = protected("GET").put_private("plug_skip_csrf_protection", True).put_resp_content_type("text/javascript")
    assert skipped.send_resp(200, "").state == "sent"


# --- Secure headers -----------------------------------------------------------------------

SECURE = {
    "referrer-policy": "strict-origin-when-cross-origin",
    "content-security-policy": "base-uri 'self'; frame-ancestors 'self';",
    "x-content-type-options": "nosniff",
    "x-permitted-cross-domain-policies": "none",
}


def test_browsers_are_made_careful_where_nothing_else_was_said() -> None:
    assert dict(Conn().delete_resp_header("cache-control").put_secure_browser_headers().resp_headers) == SECURE
    conn = Conn().put_resp_header("referrer-policy", "no-referrer").put_secure_browser_headers({"X-Foo": "1"})
    assert (conn.get_resp_header("referrer-policy"), conn.get_resp_header("x-foo")) == (["no-referrer"], ["1"])
    conn = Conn().put_secure_browser_headers({"content-security-policy": "default-src 'self'"})
    assert conn.get_resp_header("content-security-policy") == ["default-src 'self'"]


# --- All of it, over one connection -------------------------------------------------------


def show(conn: Any, params: Any) -> Any:
    return conn.json(
        {"token": conn.csrf_token(), "flash": conn.get_all_flash("notice"), "count": conn.get_session("count", 0)}
    )


def save(conn: Any, params: Any) -> Any:
    conn.put_session("count", conn.get_session("count", 0) + 1)
    return conn.put_flash("notice", f"saved {params['name']}").redirect(to="/")


def script(conn: Any, params: Any) -> Any:
    return conn.put_resp_content_type("text/javascript").send_resp(200, "alert(1)")


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.fetch_session)
        plug(Conn.fetch_flash)
        plug(Conn.protect_from_forgery)
        plug(Conn.put_secure_browser_headers)
    with scope("/"):
        pipe_through("browser")
        get("/", show)
        get("/script.js", script)
        post("/", save)


def test_session_flash_and_token_work_for_many_requests_of_one_connection() -> None:
    app = Endpoint(Router, secret_key_base=SECRET, session={"key": KEY}, env="prod", log=False, static=False)
    with Serving(app) as server, server.client() as client:
        cookie: dict[str, str] = {}

        def keep(headers: dict[str, list[str]]) -> None:
            for line in headers.get("set-cookie", ()):
                cookie["cookie"] = line.partition(";")[0]

        for round in range(3):
            page = client.get("/", cookie)
            keep(page.headers)
            data = json.loads(page.body)
            assert (data["count"], data["flash"]) == (round, [f"saved {round - 1}"] if round else [])
            assert [page.headers[name] for name in SECURE] == [[value] for value in SECURE.values()]
            assert client.post("/", urlencode({"name": "x"}), cookie).status == 403
            assert client.post("/", urlencode({"name": "x", "_csrf_token": data["token"]})).status == 403  # no session
            evil = {**cookie, "origin": "https://evil.com"}
            assert client.post("/", urlencode({"name": "x", "_csrf_token": data["token"]}), evil).status == 403
            assert client.get("/script.js", cookie).status == 403
            assert client.get("/script.js", {**cookie, "sec-fetch-site": "same-origin"}).text == "alert(1)"
            saved = client.post("/", urlencode({"name": str(round), "_csrf_token": data["token"]}), cookie)
            assert (saved.status, saved.headers["location"]) == (302, ["/"])
            keep(saved.headers)


def test_a_browser_that_runs_on_the_same_machine_names_its_origin_with_the_port() -> None:
    app = Endpoint(Router, secret_key_base=SECRET, session={"key": KEY}, env="prod", log=False, static=False)
    with Serving(app) as server, server.client() as client:
        page = client.get("/")
        headers = {
            "cookie": page.headers["set-cookie"][0].partition(";")[0],
            "origin": f"http://127.0.0.1:{server.port}",
        }
        form = urlencode({"name": "x", "_csrf_token": json.loads(page.body)["token"]})
        assert client.post("/", form, headers).status == 302
        assert client.post("/", form, {**headers, "origin": "http://127.0.0.1:1"}).status == 403


def test_the_test_client_needs_no_token_unless_asked_for() -> None:
    app = Endpoint(Router, secret_key_base=SECRET, env="prod", log=False, static=False)
    assert app.test().post("/", {"name": "x"}).status == 302
    assert app.test(csrf=True).post("/", {"name": "x"}).status == 403

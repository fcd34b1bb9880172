"""The blog of the examples, really started and used in a browser."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, StartedServer, free_port


def make_png(width: int, height: int) -> bytes:
    """Return a picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\xd9\x48\x0f" * width) * height)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PICTURE = make_png(60, 40)


@pytest.fixture
def blog(start: Callable[..., StartedServer], tmp_path: Path) -> StartedServer:
    """The blog, started for the first time."""
    return start(EXAMPLES / "blog.py", BLOG_DATA=str(tmp_path / "data"))


def log_in(page: Any, blog: StartedServer, password: str = "phoenix") -> None:
    page.goto(blog.url)
    page.click("text=Log in")
    page.fill("#session_name", "ann")
    page.fill("#session_password", password)
    page.click("input[type=submit]")


def write_post(page: Any, title: str, body: str = "Some words.") -> None:
    page.click("text=Write")
    page.fill("#post_title", title)
    page.fill("#post_body", body)
    page.click("input[type=submit]")


def flash(page: Any) -> list[str]:
    """Return the messages that the page shows."""
    return [text.strip() for text in page.locator(".flash").all_inner_texts()]


def titles(page: Any, blog: StartedServer) -> list[str]:
    """Return the titles on the front page."""
    page.goto(blog.url)
    return list(page.locator("h2").all_inner_texts())


# --- Reading ------------------------------------------------------------------------------


def test_the_first_start_needs_no_set_up_and_shows_a_post(blog: StartedServer, page: Any) -> None:
    page.goto(blog.url)
    assert page.title() == "The Phoenix Post"
    page.click("text=Hello, world")
    assert page.title() == "Hello, world · The Phoenix Post"
    assert page.locator("h1").inner_text() == "Hello, world"
    assert page.locator("text=Edit").count() == page.locator("text=Delete").count() == 0  # for those who logged in


def test_everything_is_kept_over_a_restart_and_so_is_the_login(
    start: Callable[..., StartedServer], page: Any, tmp_path: Path
) -> None:
    settings = {"BLOG_DATA": str(tmp_path / "data"), "PORT": str(free_port())}
    first = start(EXAMPLES / "blog.py", **settings)
    log_in(page, first)
    write_post(page, "Still here")
    assert first.stop() == 0
    second = start(EXAMPLES / "blog.py", **settings)
    assert titles(page, second) == ["Still here", "Hello, world"]
    assert page.locator("text=Log out").count() == 1
    assert (tmp_path / "data" / "secret").stat().st_mode & 0o077 == 0, "others can read the secret"


def test_pages_carry_secure_headers_and_the_session_cookie_is_out_of_reach_of_scripts(blog: StartedServer) -> None:
    answer = blog.request("/posts/1")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
    attributes = answer.headers["set-cookie"].lower()
    assert "httponly" in attributes and "samesite=lax" in attributes


# --- Logging in ---------------------------------------------------------------------------


def test_writing_is_refused_without_a_login(blog: StartedServer, page: Any) -> None:
    page.goto(blog.url + "/posts/new")
    assert page.url == blog.url + "/session/new"
    assert flash(page) == ["Please log in first."]


@pytest.mark.parametrize("method, path", [("POST", "/posts"), ("PATCH", "/posts/1"), ("DELETE", "/posts/1")])
def test_a_request_with_a_good_token_but_no_login_changes_nothing(blog: StartedServer, method: str, path: str) -> None:
    form = blog.request("/posts/1")
    token = re.search(r'name="_csrf_token" type="hidden" value="([^"]+)"', form.text)
    assert token is not None
    fields = {"post[title]": "Forged", "post[body]": "Words", "_method": method, "_csrf_token": token[1]}
    answer = blog.request(path, "POST", form=fields, headers={"cookie": form.cookie})
    assert (answer.status, answer.headers["location"]) == (302, "/session/new")
    assert [post["title"] for post in blog.request("/api/posts").json["posts"]] == ["Hello, world"]


def test_a_wrong_password_is_refused_and_not_sent_back(blog: StartedServer, page: Any) -> None:
    log_in(page, blog, password="wrong")
    assert page.locator(".error").all_inner_texts() == ["does not go with this name"]
    assert page.input_value("#session_name") == "ann"
    assert page.input_value("#session_password") == ""
    page.goto(blog.url + "/posts/new")
    assert page.url == blog.url + "/session/new"


def test_logging_in_and_out(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    assert flash(page) == ["Welcome, ann."]
    page.goto(blog.url + "/posts/new")
    assert page.locator("h1").inner_text() == "Write a post"
    page.click("text=Log out")
    assert flash(page) == ["See you."]
    page.goto(blog.url + "/posts/new")
    assert page.url == blog.url + "/session/new"


# --- Writing ------------------------------------------------------------------------------


def test_a_new_post_is_shown_and_listed_first_and_the_flash_is_seen_once(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    write_post(page, "On fire", "First line.\nSecond line.\n\nNext paragraph.")
    assert page.url == blog.url + "/posts/2"
    assert flash(page) == ["Your post is out."]
    assert page.locator("article p").all_inner_texts() == ["First line.\nSecond line.", "Next paragraph."]
    page.reload()
    assert page.locator("h1").inner_text() == "On fire"
    assert flash(page) == []
    assert titles(page, blog) == ["On fire", "Hello, world"]
    assert flash(page) == []


def test_a_form_that_failed_says_why_and_keeps_what_was_typed(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    with page.expect_response("**/posts") as answer:
        write_post(page, "  ", "Half of it\nis <b>typed</b>.")
    assert answer.value.status == 422
    assert page.locator("#post_title + .error").inner_text() == "can’t be blank"
    assert page.locator(".error").count() == 1
    assert page.input_value("#post_body") == "Half of it\nis <b>typed</b>."
    page.fill("#post_title", "x" * 101)
    page.click("input[type=submit]")
    assert page.locator("#post_title + .error").inner_text() == "has more than 100 characters"
    page.fill("#post_title", "Whole")
    page.click("input[type=submit]")
    assert page.locator("article p").inner_text() == "Half of it\nis <b>typed</b>."
    assert titles(page, blog) == ["Whole", "Hello, world"]


def test_editing_sends_patch_through_the_form(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    page.goto(blog.url + "/posts/1")
    page.click("text=Edit")
    assert page.input_value("#post_title") == "Hello, world"
    page.fill("#post_title", "Hello, “moon”")
    assert page.input_value("main input[name=_method]") == "patch"
    with page.expect_request("**/posts/1") as sent:
        page.click("input[type=submit]")
    assert sent.value.method == "POST"
    assert flash(page) == ["Your post is saved."]
    assert page.locator("h1").inner_text() == "Hello, “moon”"
    page.click("text=Edit")
    page.fill("#post_title", "")
    page.click("input[type=submit]")
    assert page.locator("#post_title + .error").inner_text() == "can’t be blank"
    assert page.input_value("#post_title") == "", "the form shows what was sent, not what is stored"
    assert titles(page, blog) == ["Hello, “moon”"]


def test_a_link_deletes_a_post(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    write_post(page, "Short lived")
    page.click("text=Delete")
    assert page.url == blog.url + "/posts"
    assert flash(page) == ["“Short lived” is gone."]
    assert titles(page, blog) == ["Hello, world"]
    assert page.goto(blog.url + "/posts/2").status == 404


def test_what_users_write_is_text_and_never_html(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    trap = "<script>document.title = 'caught'</script><img src=x onerror=alert(1)>\"'&amp;"
    write_post(page, trap, trap)
    assert page.locator("h1").inner_text() == page.locator("article p").inner_text() == trap
    assert page.title() == f"{trap} · The Phoenix Post"
    assert trap in titles(page, blog)


# --- Uploads ------------------------------------------------------------------------------


def test_an_uploaded_picture_is_shown_with_its_post_and_replaced_by_a_new_one(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    page.click("text=Write")
    page.set_input_files("#post_image", {"name": "../../fire.png", "mimeType": "image/png", "buffer": PICTURE})
    page.fill("#post_title", "Look")
    page.fill("#post_body", "A picture.")
    page.click("input[type=submit]")
    picture = page.locator("article img")
    size = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    assert picture.evaluate(size) == [60, 40]
    stored = blog.request(picture.get_attribute("src"))
    assert (stored.headers["content-type"], stored.body) == ("image/png", PICTURE)

    page.click("text=Edit")
    page.click("input[type=submit]")
    assert picture.evaluate(size) == [60, 40], "saving without a new picture keeps the old one"
    page.click("text=Edit")
    page.set_input_files("#post_image", {"name": "two.png", "mimeType": "image/png", "buffer": make_png(7, 9)})
    page.click("input[type=submit]")
    assert picture.evaluate(size) == [7, 9]


def test_a_file_that_is_no_picture_is_refused(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    page.click("text=Write")
    page.set_input_files("#post_image", {"name": "page.html", "mimeType": "text/html", "buffer": b"<script></script>"})
    page.fill("#post_title", "Look")
    page.fill("#post_body", "A page.")
    page.click("input[type=submit]")
    assert page.locator("#post_image + .error").inner_text() == "must be a PNG, JPEG, GIF or WebP"
    assert page.input_value("#post_title") == "Look"
    assert titles(page, blog) == ["Hello, world"]


# --- Comments -----------------------------------------------------------------------------


def test_anybody_can_comment_and_a_comment_without_a_name_is_not_lost(blog: StartedServer, page: Any) -> None:
    page.goto(blog.url + "/posts/1")
    page.fill("#comment_body", "Well said.")
    page.click("input[type=submit]")
    assert page.locator("#comment_author + .error").inner_text() == "can’t be blank"
    assert page.locator("h1").inner_text() == "Hello, world"
    assert page.input_value("#comment_body") == "Well said."
    page.fill("#comment_author", "Bob")
    page.click("input[type=submit]")
    assert flash(page) == ["Thank you."]
    assert page.locator(".comment").inner_text().split() == ["Bob", "Well", "said."]
    assert page.input_value("#comment_body") == ""


def test_comments_go_with_their_post(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    write_post(page, "Second")
    page.fill("#comment_author", "Bob")
    page.fill("#comment_body", "Under the second.")
    page.click("input[type=submit]")
    page.goto(blog.url + "/posts/1")
    assert page.locator(".comment").count() == 0
    page.goto(blog.url + "/posts/2")
    page.click("text=Delete")
    write_post(page, "Third")  # SQLite gives it the number of the one that is gone
    assert page.url == blog.url + "/posts/2"
    assert page.locator(".comment").count() == 0


# --- Forgery ------------------------------------------------------------------------------


def test_a_form_without_its_token_is_refused(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    page.click("text=Write")
    page.fill("#post_title", "Forged")
    page.fill("#post_body", "Forged.")
    page.evaluate("document.querySelector('main input[name=_csrf_token]').remove()")
    with page.expect_response("**/posts") as answer:
        page.click("input[type=submit]")
    assert answer.value.status == 403
    assert titles(page, blog) == ["Hello, world"]


def test_another_site_cannot_send_our_forms(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    other = blog.url.replace("localhost", "127.0.0.1")  # another site, as far as the browser is concerned
    page.route(f"{other}/trap", lambda route: route.fulfill(
        content_type="text/html",
        body=f"<form method=post action='{blog.url}/posts/1'><input name=_method value=delete><button>Win</button></form>",
    ))  # fmt: skip
    page.goto(f"{other}/trap")
    with page.expect_response("**/posts/1") as answer:
        page.click("button")
    assert answer.value.status == 403
    assert titles(page, blog) == ["Hello, world"]


# --- The JSON API -------------------------------------------------------------------------


def test_the_json_api_lists_the_posts_that_the_pages_show(blog: StartedServer, page: Any) -> None:
    log_in(page, blog)
    write_post(page, "For programs", "Words.")
    page.fill("#comment_author", "Bob")
    page.fill("#comment_body", "Beep.")
    page.click("input[type=submit]")
    answer = blog.request("/api/posts")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert [(post["id"], post["title"]) for post in answer.json["posts"]] == [(2, "For programs"), (1, "Hello, world")]
    one = blog.request("/api/posts/2", headers={"accept": "application/json"}).json["post"]
    assert one["body"] == "Words." and one["url"].endswith("/posts/2")
    assert one["comments"] == [{"author": "Bob", "body": "Beep."}]


def test_the_json_api_answers_errors_in_json_and_takes_no_other_format(
    start: Callable[..., StartedServer], tmp_path: Path
) -> None:
    blog = start(EXAMPLES / "blog.py", BLOG_DATA=str(tmp_path / "data"), PHOENIX_ENV="prod")
    missing = blog.request("/api/posts/99")
    assert (missing.status, missing.json) == (404, {"errors": {"detail": "Not Found"}})
    assert blog.request("/api/posts", headers={"accept": "text/html"}).status == 406
    page = blog.request("/posts/99", headers={"accept": "text/html"})
    assert page.status == 404 and "Not Found" in page.text and page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("body", [b"post=text", b"post[title]=only", b"post[title][deep]=1&post[body]=2", b""])
def test_a_form_of_the_wrong_shape_is_never_an_error_of_ours(blog: StartedServer, page: Any, body: bytes) -> None:
    log_in(page, blog)
    page.goto(blog.url + "/posts/new")
    token = page.input_value("main input[name=_csrf_token]")
    cookie = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in page.context.cookies())
    headers = {"cookie": cookie, "x-csrf-token": token, "content-type": "application/x-www-form-urlencoded"}
    answer = blog.request("/posts", "POST", body=body, headers=headers)
    assert answer.status in (302, 400, 422)
    assert "Traceback" not in blog.log

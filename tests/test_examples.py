"""The course in examples/: each lesson is started as its docstring says, and does what it promises."""

from __future__ import annotations

import ast
import http.client
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, ROOT, StartedServer

LESSONS = [EXAMPLES / "hello.py", *sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))]

Start = Callable[..., StartedServer]


def token_in(html: str) -> str:
    found = re.search(r'name="_csrf_token" type="hidden" value="([^"]+)"', html)
    assert found is not None, f"no form with a token in {html}"
    return found[1]


def multipart(fields: dict[str, str], files: dict[str, tuple[str, str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form with files: name -> file name, content type, content."""
    parts = [f'--XX\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode() for name, text in fields.items()]
    for name, (filename, content_type, content) in files.items():
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: {content_type}\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join([*parts, b"--XX--\r\n"]), {"content-type": "multipart/form-data; boundary=XX"}


# --- All of them --------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.name)
def test_a_lesson_is_short_and_says_what_to_notice_and_what_to_try(lesson: Path) -> None:
    source = lesson.read_text()
    assert len(source.splitlines()) <= 60
    assert max(map(len, source.splitlines())) <= 120
    docstring = ast.get_docstring(ast.parse(source)) or ""
    assert f"python examples/{lesson.name}" in docstring
    assert "\nNotice: " in docstring and "\nTry: " in docstring


def test_the_lessons_are_numbered_without_a_gap() -> None:
    first_words = [(ast.get_docstring(ast.parse(lesson.read_text())) or "").split()[0] for lesson in LESSONS]
    assert first_words == [f"{number}." for number in range(1, len(LESSONS) + 1)]
    assert [lesson.name[:2] for lesson in LESSONS[1:]] == [f"{number:02}" for number in range(2, len(LESSONS) + 1)]


@pytest.mark.parametrize("lesson", [*LESSONS, EXAMPLES / "blog.py"], ids=lambda path: path.name)
def test_an_example_starts_and_ends_in_peace(start: Start, lesson: Path, tmp_path: Path) -> None:
    server = start(lesson, BLOG_DATA=str(tmp_path / "data"))
    assert server.request("/").status in (200, 404)
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_examples_start_from_every_folder(start: Start, tmp_path: Path) -> None:
    run = f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path({str(EXAMPLES / 'hello.py')!r}, run_name='__main__')"
    assert start("-c", run).request("/hello/world").text == "Hello, world!"


# --- Each of them -------------------------------------------------------------------------


def test_hello(start: Start) -> None:
    server = start(EXAMPLES / "hello.py")
    answer = server.request("/hello/world")
    assert (answer.status, answer.text) == (200, "Hello, world!")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert server.request("/hello/J%C3%B6rg%20%3Cb%3E").text == "Hello, Jörg <b>!"
    assert server.request("/nowhere").status == 404
    assert server.request("/hello/world", "POST", form={}).status == 405


def test_params(start: Start) -> None:
    server = start(EXAMPLES / "02_params.py")
    found = server.request("/search/shoes?page=2&filter[color]=red&filter[size][]=41&filter[size][]=42")
    wanted = {"color": "red", "size": ["41", "42"]}
    assert found.json == {"for": "shoes", "page": "2", "order": "newest", "filter": wanted}
    missing = server.request("/search/shoes")
    assert missing.status == 400
    assert server.request("/add/2/3").text == "5"
    assert server.request("/add/2/x").status == 400
    assert server.request("/order", "POST", json_body={"item": "shoes", "count": 2}).text == "2 times shoes"
    assert server.request("/order", "POST", form={"item": "shoes"}).text == "one of shoes"
    assert server.request("/order", "POST", json_body=["shoes"]).status == 400
    assert "Traceback" not in server.log


def test_flash(start: Start) -> None:
    server = start(EXAMPLES / "03_flash.py")
    page = server.request("/")
    assert "<p>Nothing new.</p>" in page.text
    assert server.request("/press", "POST", form={}, headers={"cookie": page.cookie}).status == 403
    cookie = page.cookie
    for count in (1, 2):
        form = {"_csrf_token": token_in(page.text)}
        pressed = server.request("/press", "POST", form=form, headers={"cookie": cookie})
        assert (pressed.status, pressed.headers["location"]) == (302, "/")
        page = server.request("/", headers={"cookie": pressed.cookie})
        assert f"<p>Pressed {count} times.</p>" in page.text
        cookie = page.cookie
    assert "<p>Nothing new.</p>" in server.request("/", headers={"cookie": cookie}).text


def test_templates(start: Start) -> None:
    server = start(EXAMPLES / "04_templates.py")
    page = server.request("/").text
    assert "<title>Films</title>" in page and "<h1>Films</h1>" in page
    assert "<p><b>Metropolis</b> is of 1927</p>" in page
    assert "&lt;script&gt;alert(&#39;boo&#39;)&lt;/script&gt;" in page and "<script>" not in page
    assert "<h1>FILMS!</h1>" in server.request("/?shout=1").text


def test_resources(start: Start) -> None:
    server = start(EXAMPLES / "05_resources.py")
    page = server.request("/tasks")
    assert "Learn about resources" in page.text
    headers, token = {"cookie": page.cookie}, token_in(page.text)
    added = server.request("/tasks", "POST", form={"task[title]": "Rest <now>", "_csrf_token": token}, headers=headers)
    assert (added.status, added.headers["location"]) == (302, "/tasks")
    assert "<p>Rest &lt;now&gt; <form action=\"/tasks/2\"" in server.request("/tasks").text
    done = server.request("/tasks/1", "POST", form={"_method": "delete", "_csrf_token": token}, headers=headers)
    assert done.status == 302
    page = server.request("/tasks")
    assert "Learn about resources" not in page.text and "Rest" in page.text


def test_json_api(start: Start) -> None:
    server = start(EXAMPLES / "06_json_api.py", PHOENIX_ENV="prod")
    assert server.request("/api/users").json == {"users": [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]}
    made = server.request("/api/users", "POST", json_body={"name": "Cy"})
    assert (made.status, made.headers["location"], made.json) == (201, "/api/users/3", {"user": {"id": 3, "name": "Cy"}})
    assert server.request("/api/users/3").json == {"user": {"id": 3, "name": "Cy"}}
    json = {"accept": "application/json"}
    missing = server.request("/api/users/9", headers=json)
    assert (missing.status, missing.json) == (404, {"errors": {"detail": "Not Found"}})
    nameless = server.request("/api/users", "POST", json_body={}, headers=json)
    assert (nameless.status, nameless.json) == (400, {"errors": {"detail": "Bad Request"}})
    broken = server.request("/api/users", "POST", body=b"oops", headers={**json, "content-type": "application/json"})
    assert broken.status == 400
    assert server.request("/api/users", headers={"accept": "text/html"}).status == 406


def test_uploads(start: Start) -> None:
    server = start(EXAMPLES / "07_uploads.py")
    page = server.request("/")
    cookie, token = page.cookie, token_in(page.text)

    def send(filename: str, content_type: str, content: bytes) -> int:
        body, headers = multipart({"_csrf_token": token}, {"file": (filename, content_type, content)})
        return server.request("/", "POST", body=body, headers={**headers, "cookie": cookie}).status

    picture = bytes(range(256)) * 1000  # large enough to be spooled to the disk
    assert send("../../cat.png", "image/png", picture) == 302
    assert send("cat.txt", "text/plain", b"meow") == 422
    assert send("", "application/octet-stream", b"") == 422  # what a browser sends when no file was chosen
    assert send("huge.png", "image/png", bytes(8_000_001)) == 413
    sources = re.findall(r'<img src="([^"]+)"', server.request("/").text)
    assert len(sources) == 1
    served = server.request(sources[0])
    assert (served.headers["content-type"], served.body) == ("image/png", picture)
    assert server.request(sources[0], headers={"if-none-match": served.headers["etag"]}).status == 304
    part = server.request(sources[0], headers={"range": "bytes=0-9"})
    assert (part.status, part.body) == (206, picture[:10])
    assert server.request("/files/../../07_uploads.py").status in (400, 404)


def test_plugs(start: Start) -> None:
    server = start(EXAMPLES / "08_plugs.py")
    home = server.request("/")
    assert (home.text, home.headers["x-made-by"]) == ("Bonjour", "phoenix")
    assert server.request("/?locale=de").text == "Hallo"
    refused = server.request("/admin")
    assert (refused.status, refused.text) == (401, "Which key?")
    assert server.request("/admin?key=open-sesame").text == "Come in."


def test_sync_and_async(start: Start) -> None:
    server = start(EXAMPLES / "09_async.py")
    answers: dict[str, Any] = {}

    def ask(path: str) -> None:
        begun = time.monotonic()
        answers[path] = server.request(path).text, time.monotonic() - begun

    server.request("/")  # the imports of a first request are no part of this
    askers = [threading.Thread(target=ask, args=(path,)) for path in ("/block", "/wait")]
    for asker in askers:
        asker.start()
    while server.log.count("[INFO] GET /") < 3 and any(asker.is_alive() for asker in askers):
        time.sleep(0.01)  # until the server has both
    ask("/")
    assert all(asker.is_alive() for asker in askers), "the quick answer came after a slow one"
    for asker in askers:
        asker.join(10)
    assert answers["/"][0] == "I am not waiting for anybody.\n"
    assert answers["/wait"][0] == "That was a second in MainThread.\n"
    assert "MainThread" not in answers["/block"][0]
    assert answers["/block"][1] >= 1 and answers["/wait"][1] >= 1


def test_an_answer_comes_piece_by_piece(start: Start) -> None:
    server = start(EXAMPLES / "09_async.py")
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    connection.request("GET", "/count")
    answer = connection.getresponse()
    assert answer.getheader("transfer-encoding") == "chunked"
    assert answer.readline() == b"1\n"
    first = time.monotonic()
    assert answer.read() == b"2\n3\n4\n5\n"
    assert time.monotonic() - first > 0.4, "the rest came with the first piece"
    connection.close()


@pytest.mark.parametrize(
    "path, language, texts",
    [
        ("/", "en-GB,de;q=0.5", ["en", "Hello, you!", "one message"]),
        ("/?messages=3", "cs-CZ", ["cs", "Ahoj, you!", "3 zprávy"]),
        ("/?messages=5&locale=cs", "de", ["cs", "Ahoj, you!", "5 zpráv"]),
        ("/?name=%3Cb%3E&messages=2", "fr;q=0.9, de;q=0.8", ["de", "Hallo, &lt;b&gt;!", "2 messages"]),
    ],
)
def test_locales(start: Start, path: str, language: str, texts: list[str]) -> None:
    answer = start(EXAMPLES / "12_locales.py").request(path, headers={"accept-language": language})
    found = re.search(r'<html lang="(.*)">\s*<h1>(.*)</h1>\s*<p>(.*)</p>', answer.text)
    assert found is not None and list(found.groups()) == texts


def test_the_routes_of_an_example_are_listed_as_its_docstring_says() -> None:
    import subprocess
    import sys

    command = [sys.executable, "phoenix.py", "routes", "examples.05_resources"]
    listed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=30)
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"task_path +DELETE +/tasks/:id +TaskController.destroy/2", listed.stdout)

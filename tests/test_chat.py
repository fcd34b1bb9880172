"""The chat of the examples, used in two windows of a real browser, and the seed's JavaScript against a real server."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import EXAMPLES, StartedServer, free_port

LINES = "document.querySelectorAll('#log p').length"
PEOPLE = "document.querySelectorAll('#people li').length"


@pytest.fixture
def chat(start: Callable[..., StartedServer]) -> StartedServer:
    return start(EXAMPLES / "chat.py")


@pytest.fixture
def two_windows(browser: Any, chat: StartedServer) -> Any:
    """Ann's and Bob's pages of the lobby, both online."""
    pages = []
    for name in ("ann", "bob"):
        context = browser.new_context(viewport={"width": 900, "height": 500})
        context.set_default_timeout(10_000)
        context.add_init_script(f"sessionStorage.user ||= '{name}'")
        page = context.new_page()
        page.goto(chat.url)
        page.wait_for_function("document.getElementById('state').textContent === 'online'")
        pages.append(page)
    for page in pages:
        page.wait_for_function(f"{PEOPLE} === 2")
    yield pages
    for page in pages:
        page.context.close()


def say(page: Any, text: str) -> None:
    page.fill("#body", text)
    page.press("#body", "Enter")


def test_two_windows_chat_and_what_is_said_is_escaped(two_windows: Any) -> None:
    ann, bob = two_windows
    say(ann, "hello <b>Bob</b>")
    bob.wait_for_function(f"{LINES} === 1")
    assert bob.inner_text("#log p") == "ann hello <b>Bob</b>"
    say(bob, "hello Ann")
    ann.wait_for_function(f"{LINES} === 2")


def test_windows_of_one_browser_keep_their_nicknames(chat: StartedServer, page: Any) -> None:
    page.goto(chat.url)
    page.fill("#user", "ann")
    page.press("#user", "Tab")
    other = page.context.new_page()
    other.goto(chat.url)
    other.fill("#user", "bob")
    other.press("#user", "Tab")
    for each, name in ((page, "ann"), (other, "bob")):
        each.click("text=kitchen")
        each.wait_for_url("**/rooms/kitchen")
        assert each.input_value("#user") == name


def test_curl_speaks_into_the_chat_through_a_plain_function(two_windows: Any, chat: StartedServer) -> None:
    answer = chat.request("/rooms/lobby", "POST", form={"body": "from curl"})
    assert (answer.status, answer.text) == (201, "said\n")
    for page in two_windows:
        page.wait_for_function(f"{LINES} === 1")
        assert page.inner_text("#log p") == "curl from curl"


def test_everybody_sees_who_is_typing_and_who_has_left(two_windows: Any) -> None:
    ann, bob = two_windows
    bob.fill("#body", "I am thin")
    ann.wait_for_selector("#people li.typing")
    assert ann.inner_text("#people li.typing") == "bob"
    bob.context.close()
    ann.wait_for_function(f"{PEOPLE} === 1")


def test_the_history_is_there_for_whoever_joins_later(two_windows: Any, chat: StartedServer, page: Any) -> None:
    say(two_windows[0], "first")
    two_windows[1].wait_for_function(f"{LINES} === 1")
    page.goto(chat.url)
    page.wait_for_function(f"{LINES} === 1")
    assert page.inner_text("#log p") == "ann first"


def test_the_clients_join_again_when_the_server_has_been_restarted(
    start: Callable[..., StartedServer], page: Any
) -> None:
    port = str(free_port())
    first = start(EXAMPLES / "chat.py", PORT=port)
    page.goto(first.url)
    page.wait_for_function(f"{PEOPLE} === 1")
    assert first.stop() == 0
    page.wait_for_function("document.getElementById('state').textContent !== 'online'")
    start(EXAMPLES / "chat.py", PORT=port)
    page.wait_for_function("document.getElementById('state').textContent === 'online'")
    say(page, "still here")
    page.wait_for_function(f"{LINES} === 1")


SEED_APP = '''
import sys
sys.path.insert(0, {root!r})
import phoenix
from phoenix import Channel, channel, get, socket

class MyChannel(Channel):
    async def join(self, socket, topic, message):
        if topic == "topic":
            socket.reply("join", {{"content": f"joined {{topic}} successfully"}})
            return socket.ok()
        socket.reply("error", {{"reason": f"failed to join {{topic}}"}})
        return socket.error("unauthorized")

    async def event(self, socket, event, message):
        match event, message:
            case "ping", _:
                socket.reply("pong", message)
                socket.send_info("from myself")
            case "info", text:
                socket.reply("informed", {{"text": text}})
            case "new:msg", {{"msg": msg}}:
                socket.broadcast("new:msg", {{"msg": msg}})

async def page(conn, params):
    return conn.html("<!DOCTYPE html><script src=/js/phoenix.js></script>")

class Router(phoenix.Router):
    get("/", page)
    with socket("/ws"):
        channel("channel", MyChannel)

phoenix.Endpoint(Router).run()
'''


@pytest.fixture
def seed_page(start: Callable[..., StartedServer], page: Any, tmp_path: Path) -> Any:
    app = tmp_path / "seed_app.py"
    app.write_text(SEED_APP.format(root=str(EXAMPLES.parent)))
    page.goto(start(app).url)
    return page


def test_seed_sample_join_on_send_and_leave(seed_page: Any) -> None:
    heard = seed_page.evaluate("""() => new Promise(resolve => {
        const heard = []
        const socket = new Phoenix.Socket("/ws")
        socket.join("channel", "topic", {some_auth_token: "secret"}, channel => {
            channel.on("join", message => heard.push(message.content))
            channel.on("pong", message => heard.push(message.data))
            channel.on("informed", message => heard.push(message.text))
            channel.on("new:msg", message => {
                heard.push(message.msg)
                channel.leave()
                resolve(heard)
            })
            channel.send("ping", {data: "json stuff"})
            channel.send("new:msg", {msg: "to all"})
        })
    })""")
    assert heard == ["joined topic successfully", "json stuff", "from myself", "to all"]


def test_seed_sample_a_refused_join_hears_the_error_that_the_app_sends(seed_page: Any) -> None:
    reason = seed_page.evaluate("""() => new Promise(resolve => {
        const socket = new Phoenix.Socket("/ws")
        socket.join("channel", "another", {}, channel => {
            channel.on("error", error => resolve("Failed to join topic. Reason: " + error.reason))
        })
    })""")
    assert reason == "Failed to join topic. Reason: failed to join another"


def test_seed_sample_trigger_calls_the_bindings_of_this_page(seed_page: Any) -> None:
    heard = seed_page.evaluate("""() => new Promise(resolve => {
        new Phoenix.Socket("/ws").join("channel", "topic", {}, channel => {
            channel.on("pong", message => resolve(message))
            channel.trigger("pong", {from: "here"})
        })
    })""")
    assert heard == {"from": "here"}


def test_the_browser_falls_back_to_long_polling(seed_page: Any) -> None:
    heard = seed_page.evaluate("""() => new Promise((resolve, reject) => {
        const socket = new Phoenix.Socket("/ws", {transport: Phoenix.LongPoll})
        socket.connect()
        const channel = socket.channel("channel:topic", {})
        channel.on("pong", message => resolve(message))
        channel.join().receive("ok", () => channel.push("ping", {by: "poll"})).receive("error", reject)
    })""")
    assert heard == {"by": "poll"}


def test_the_picture_in_the_readme_shows_the_chat(two_windows: Any, chat: StartedServer, page: Any) -> None:
    ann, bob = two_windows
    say(ann, "Hello <b>Bob</b>")
    bob.wait_for_function(f"{LINES} === 1")
    say(bob, "Hello Ann! Who else is here?")
    ann.wait_for_function(f"{LINES} === 2")
    chat.request("/rooms/lobby", "POST", form={"body": "me, from a shell"})
    ann.fill("#body", "Let us see")
    bob.wait_for_selector("#people li.typing")
    windows = []
    for window in (ann, bob):
        window.wait_for_function(f"{LINES} === 3")
        window.set_viewport_size({"width": 520, "height": 300})
        windows.append(base64.b64encode(window.screenshot()).decode())
    page.set_viewport_size({"width": 1120, "height": 340})
    images = "".join(f"<img src='data:image/png;base64,{window}'>" for window in windows)
    page.set_content(f"<style>body {{ margin: 20px; display: flex; gap: 40px; background: #ddd }}</style>{images}")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    picture = page.screenshot()
    kept = EXAMPLES / "chat.png"
    if os.environ.get("KEEP_PICTURES"):
        kept.write_bytes(picture)
    assert kept.read_bytes()[:8] == picture[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_counter_example_counts_in_two_windows(start: Callable[..., StartedServer], page: Any) -> None:
    page.goto(start(EXAMPLES / "10_counter.py").url)
    other = page.context.new_page()
    other.goto(page.url)
    for each in (page, other):
        each.wait_for_function("document.getElementById('button').textContent === '0'")
    page.click("#button")
    other.wait_for_function("document.getElementById('button').textContent === '1'")


def test_the_dashboard_example_shows_what_its_child_measures(start: Callable[..., StartedServer], page: Any) -> None:
    page.goto(start(EXAMPLES / "11_dashboard.py").url)
    page.wait_for_function("document.getElementById('time').textContent !== ''")

"""The app that tests/test_doors.py brings through every door."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import phoenix
from phoenix import Channel, Conn, Controller, Socket, WebSocket, channel, get, match, pipe_through, pipeline, plug
from phoenix import post, scope, socket, websocket

HERE = Path(__file__).resolve()
NOTES = os.environ.get("DOORS_NOTES")  # a file to which the app writes what happens to it


def note(text: str) -> None:
    if NOTES:
        with open(NOTES, "a") as file:
            file.write(f"{text} {os.getpid()}\n")


class PageController(Controller):
    def show(self, conn: Any, params: Any) -> Any:
        return conn.json(
            {
                "method": conn.method, "path": conn.request_path, "query": conn.query_string, "params": params,
                "scheme": conn.scheme, "host": conn.host, "port": conn.port, "remote_ip": conn.remote_ip,
                "script_name": list(conn.script_name), "pid": os.getpid(), "thread": threading.current_thread().name,
                "url": conn.helpers.page_path("show", "x"),
            }
        )  # fmt: skip

    async def later(self, conn: Any, params: Any) -> Any:
        await asyncio.sleep(0)
        return conn.text(f"later, {threading.current_thread().name}")

    def visits(self, conn: Any, params: Any) -> Any:
        count = (conn.get_session("visits") or 0) + 1
        return conn.put_session("visits", count).put_resp_cookie("second", "2").text(str(count))

    async def echo(self, conn: Any, params: Any) -> Any:
        """Send back each part of the body as it comes."""
        conn.put_resp_content_type("application/octet-stream", None).send_chunked(200)
        async for part in conn.body:
            await conn.chunk(part)
        return conn

    def count(self, conn: Any, params: Any) -> Any:
        """Count the bytes of the body, in plain `def`."""
        return conn.text(f"{sum(len(part) for part in conn.body)} {threading.current_thread().name}")

    def generated(self, conn: Any, params: Any) -> Any:
        def parts() -> Iterator[str]:
            yield "one "
            yield threading.current_thread().name

        return conn.put_resp_content_type("text/plain").send_chunked(200, parts())

    def generated_later(self, conn: Any, params: Any) -> Any:
        async def parts() -> AsyncIterator[str]:
            yield "one "
            await asyncio.sleep(0)
            yield "two"

        return conn.put_resp_content_type("text/plain").send_chunked(200, parts())

    def pushed(self, conn: Any, params: Any) -> Any:
        conn.put_resp_content_type("text/plain").send_chunked(200)
        for number in range(3):
            conn.chunk(f"{number},")
        return conn

    async def forever(self, conn: Any, params: Any) -> Any:
        """Stream until the client goes away."""
        conn.put_resp_content_type("text/plain").send_chunked(200)
        note("streaming")
        try:
            while True:
                await conn.chunk("tick\n")
                await asyncio.sleep(0.01)
        finally:
            note("streamed")

    async def events(self, conn: Any, params: Any) -> Any:
        """Send one event, and wait for ever."""
        conn.event_stream(heartbeat=0.1)
        await conn.send_event({"n": 1}, event="first")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            note("streamed")

    async def slow(self, conn: Any, params: Any) -> Any:
        note("slow")
        await asyncio.sleep(float(params["seconds"]))
        return conn.text("slow, but here")

    async def hang(self, conn: Any, params: Any) -> Any:
        import time

        time.sleep(60)
        return conn

    def file(self, conn: Any, params: Any) -> Any:
        return conn.put_resp_content_type("text/x-python").send_file(200, HERE)

    def large(self, conn: Any, params: Any) -> Any:
        return conn.put_resp_content_type("application/octet-stream", None).send_file(200, params["path"], 5)

    def nothing(self, conn: Any, params: Any) -> Any:
        return conn.send_resp(204, "")

    def fail(self, conn: Any, params: Any) -> Any:
        raise RuntimeError("it fails, as it should")

    def break_off(self, conn: Any, params: Any) -> Any:
        conn.put_resp_content_type("text/plain").send_chunked(200).chunk("begun")
        raise RuntimeError("it breaks off, as it should")


class RoomChannel(Channel):
    async def join(self, socket: Socket, topic: str, message: Any) -> Any:
        if topic == "secret":
            return socket.error("unauthorized")
        return socket.ok({"joined": topic})

    async def event(self, socket: Socket, event: str, message: Any) -> Any:
        if event == "new:msg":
            socket.broadcast(event, message)
        elif event == "bytes":
            return socket.ok(bytes(reversed(message)))
        return socket.ok(message)

    def terminate(self, socket: Socket, reason: str) -> None:
        note(f"left:{reason}")


async def echo(ws: WebSocket) -> None:
    await ws.send(f"{ws.subprotocol} {ws.conn.request_path}")
    async for message in ws:
        if message == "close":
            await ws.close(4001, "as you wish")
        else:
            await ws.send(message)
    note(f"closed:{ws.close_code}")


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.fetch_session)
    with scope("/"):
        pipe_through("browser")
        get("/visits", PageController, "visits")
    get("/pages/:page", PageController, "show")
    post("/pages/:page", PageController, "show")
    for action in ("later", "generated", "generated_later", "pushed", "forever", "slow", "file", "large", "nothing",
                   "fail", "break_off", "hang", "events"):  # fmt: skip
        get(f"/{action}", PageController, action)
    match(["POST", "PUT"], "/echo", PageController, "echo")
    post("/count", PageController, "count")
    with socket("/ws"):
        channel("rooms", RoomChannel)
    websocket("/plain", echo, subprotocols=["chat.v1"])


class Child:
    def start(self) -> None:
        note("started")

    def stop(self) -> None:
        note("stopped")


app = phoenix.Endpoint(
    Router, secret_key_base="a secret of the tests, which is long enough " * 2, children=[Child()], env="prod",
    trusted_proxies=os.environ.get("DOORS_PROXIES", "").split(), parsers={"pass_": ["*/*"]},
    static={"from_": str(HERE.parent), "only": ["app.py"]},
)  # fmt: skip
wsgi = app.wsgi if hasattr(app, "wsgi") else None

if __name__ == "__main__":
    app.run()

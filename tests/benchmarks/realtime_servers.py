"""The servers of the realtime benchmarks: ``PORT=4000 python -I realtime_servers.py phoenix``.

Each answers four paths, written as its own documentation would: ``/echo`` sends every message back, ``/json`` answers
a channel push (V2 JSON) with its reply, ``/fan`` sends every message to all that are connected, and ``/join`` keeps a
client that sent one message. A name says who serves: ``phoenix``, ``bare``, ``websockets``, ``starlette``, ``aiohttp``,
``microdot``, ``channels`` (Django) or ``socketio``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path += [str(ROOT)]
PORT = int(os.environ.get("PORT", "4000"))
HOST = "127.0.0.1"


def answer(text: str) -> str:
    join_ref, ref, topic, event, payload = json.loads(text)
    return json.dumps([join_ref, ref, topic, "phx_reply", {"status": "ok", "response": payload}], separators=(",", ":"))


def phoenix() -> None:
    import phoenix as px
    from phoenix import channel, get, socket, websocket

    logging.getLogger("phoenix").setLevel(logging.WARNING)

    class RoomChannel(px.Channel):
        async def join(self, socket: px.Socket, topic: str, message: Any) -> Any:
            return socket.ok()

        async def event(self, socket: px.Socket, event: str, message: Any) -> Any:
            if event == "say":
                socket.broadcast("said", message)
                return None
            return socket.ok(message)

    async def echo(ws: px.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    longest = 0.0

    async def watch() -> None:
        """Note for how long the loop was kept from its other work."""
        nonlocal longest
        loop = asyncio.get_running_loop()
        while True:
            begin = loop.time()
            await asyncio.sleep(0.005)
            longest = max(longest, loop.time() - begin - 0.005)

    async def longest_block(conn: px.Conn, params: Any) -> px.Conn:
        """Tell the longest block since the last time somebody asked."""
        nonlocal longest
        told, longest = longest, 0.0
        return conn.text(f"{told:.6f}")

    class Router(px.Router):
        get("/longest-block", longest_block)
        with socket("/ws", timeout=600):
            channel("rooms", RoomChannel)
        websocket("/echo", echo, ping_interval=600)

    px.Endpoint(Router, http={"port": PORT}, static=False, env="prod", children=[watch]).run()


class Bare(asyncio.Protocol):
    """Unmask one short frame, and echo it or send it to all."""

    clients: set[Any] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport, self.open = transport, False

    def connection_lost(self, error: Exception | None) -> None:
        self.clients.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        if not self.open:
            head = dict(line.split(b": ", 1) for line in data.split(b"\r\n")[1:] if b": " in line)
            key = next(value for name, value in head.items() if name.lower() == b"sec-websocket-key")
            token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n"
            )
            self.open, self.fan = True, data.startswith(b"GET /fan")
            if self.fan:
                self.clients.add(self.transport)
            return
        size = data[1] & 127
        mask = int.from_bytes(data[2:6] * (size // 4 + 1), "big") >> (32 - 8 * (size % 4))
        payload = (int.from_bytes(data[6 : 6 + size], "big") ^ mask).to_bytes(size, "big")
        frame = bytes([0x81, size]) + payload
        if self.fan:
            for transport in self.clients:
                transport.write(frame)
        else:
            self.transport.write(frame)


def bare() -> None:
    async def main() -> None:
        bytearray(1 << 20)
        server = await asyncio.get_running_loop().create_server(Bare, HOST, PORT, backlog=2048)
        await server.serve_forever()

    asyncio.run(main())


def websockets() -> None:
    from websockets.asyncio.server import broadcast, serve

    clients: set[Any] = set()

    async def handle(ws: Any) -> None:
        path = ws.request.path
        if path == "/fan":
            clients.add(ws)
        try:
            async for message in ws:
                if path == "/fan":
                    broadcast(clients, message)
                elif path == "/json":
                    await ws.send(answer(message))
                elif path == "/echo":
                    await ws.send(message)
                else:
                    await ws.send("joined")
        finally:
            clients.discard(ws)

    async def main() -> None:
        async with serve(handle, HOST, PORT, compression=None, ping_interval=None, backlog=2048) as server:
            await server.serve_forever()

    asyncio.run(main())


def starlette() -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocketDisconnect

    clients: set[Any] = set()

    async def handle(ws: Any) -> None:
        path = ws.url.path
        await ws.accept()
        if path == "/fan":
            clients.add(ws)
        try:
            while True:
                message = await ws.receive_text()
                if path == "/fan":
                    for client in list(clients):
                        await client.send_text(message)
                elif path == "/json":
                    await ws.send_text(answer(message))
                elif path == "/echo":
                    await ws.send_text(message)
                else:
                    await ws.send_text("joined")
        except WebSocketDisconnect:
            clients.discard(ws)

    app = Starlette(routes=[WebSocketRoute(path, handle) for path in ("/echo", "/json", "/fan", "/join")])
    uvicorn.run(
        app, host=HOST, port=PORT, log_level="error", loop="uvloop", http="httptools", ws="websockets",
        ws_per_message_deflate=False, ws_ping_interval=None, backlog=2048,
    )  # fmt: skip


def aiohttp() -> None:
    from aiohttp import WSMsgType, web

    clients: set[Any] = set()

    async def handle(request: Any) -> Any:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        path = request.path
        if path == "/fan":
            clients.add(ws)
        async for message in ws:
            if message.type != WSMsgType.TEXT:
                continue
            if path == "/fan":
                for client in list(clients):
                    await client.send_str(message.data)
            elif path == "/json":
                await ws.send_str(answer(message.data))
            elif path == "/echo":
                await ws.send_str(message.data)
            else:
                await ws.send_str("joined")
        clients.discard(ws)
        return ws

    app = web.Application()
    app.add_routes([web.get(path, handle) for path in ("/echo", "/json", "/fan", "/join")])
    web.run_app(app, host=HOST, port=PORT, print=None, access_log=None, backlog=2048)


def microdot() -> None:
    from microdot import Microdot
    from microdot.websocket import with_websocket

    app = Microdot()

    @app.route("/<path>")
    @with_websocket
    async def handle(request: Any, ws: Any, path: str) -> None:
        while True:
            message = await ws.receive()
            await ws.send(message if path == "echo" else "joined")

    app.run(host=HOST, port=PORT)


def channels() -> None:
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="x", INSTALLED_APPS=["channels"], ROOT_URLCONF="realtime_servers", ALLOWED_HOSTS=["*"],
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 10_000}}},
    )  # fmt: skip
    django.setup()
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from daphne.endpoints import build_endpoint_description_strings
    from daphne.server import Server
    from django.urls import path

    class Consumer(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            if self.scope["path"] == "/fan":
                await self.channel_layer.group_add("fan", self.channel_name)
            await self.accept()

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            text = text_data or ""
            if self.scope["path"] == "/fan":
                await self.channel_layer.group_send("fan", {"type": "said", "text": text})
            else:
                await self.send(answer(text) if self.scope["path"] == "/json" else text)

        async def said(self, event: Any) -> None:
            await self.send(event["text"])

    routes = [path(name, Consumer.as_asgi()) for name in ("echo", "json", "fan", "join")]
    application = ProtocolTypeRouter({"websocket": URLRouter(routes)})
    Server(application, endpoints=build_endpoint_description_strings(host=HOST, port=PORT), verbosity=0).run()


def socketio() -> None:
    import socketio as sio
    import uvicorn

    server = sio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", ping_interval=600)

    @server.on("*")
    async def anything(event: str, sid: str, data: Any) -> None:
        await server.emit(event, data, to=sid)

    uvicorn.run(sio.ASGIApp(server), host=HOST, port=PORT, log_level="error", loop="uvloop", http="httptools")


urlpatterns: list[Any] = []  # Django asks for it

if __name__ == "__main__":
    globals()[sys.argv[1]]()

"""The WebSocket echo that the Autobahn suite talks to: ``PORT=9001 python echo_app.py [--compress]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import phoenix
from phoenix import WebSocket, websocket


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Router(phoenix.Router):
    websocket("/", echo, max_size=32 << 20, compress="--compress" in sys.argv, ping_interval=600)


phoenix.Endpoint(Router, log=False, static=False, env="prod").run()

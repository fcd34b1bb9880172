"""The server that tests/test_interop.py lets other people's clients talk to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import phoenix
from phoenix import Channel, Presence, PubSub, Socket, channel, socket

pubsub = PubSub()
presence = Presence(pubsub)


class RoomChannel(Channel):
    intercept = ("whisper",)  # so it goes to each client as a push

    async def join(self, socket: Socket, topic: str, message: Any) -> Any:
        if topic == "refused":
            return socket.error("unauthorized")
        if topic == "crashing":
            raise RuntimeError("the join crashes, as it should")
        socket.assign("name", message.get("name", "nobody"))
        if message.get("present"):
            presence.track(socket, socket.assigns["name"], {"device": message["present"]})
            socket.push("presence_state", presence.list(socket))
        socket.push("welcome", {"topic": topic})
        return socket.ok({"joined": topic, "name": socket.assigns["name"]})

    async def event(self, socket: Socket, event: str, message: Any) -> Any:
        match event:
            case "echo":
                return socket.ok(message)
            case "fail":
                return socket.error({"reason": "no", "sent": message})
            case "shout" | "whisper":
                socket.broadcast(event, message)
            case "tell":
                socket.broadcast_from("told", message)
            case "crash":
                raise RuntimeError("the event crashes, as it should")
            case "stop":
                return socket.stop({"stopped": True})
            case "bytes":
                socket.broadcast("bytes", b"\x00to all\xff")
                socket.push("bytes:mine", b"\x00to one\xff")
                return socket.ok(bytes(reversed(message)))
        return None

    async def terminate(self, socket: Socket, reason: str) -> None:
        pubsub.broadcast("watch:ends", {"name": socket.assigns.get("name"), "reason": reason})


class WatchChannel(Channel):
    """Tells how the sockets of rooms ended."""

    async def join(self, socket: Socket, topic: str, message: Any) -> Any:
        socket.subscribe("watch:ends")
        return socket.ok()

    async def info(self, socket: Socket, message: Any) -> None:
        socket.push("end", message)


class RealtimeChannel(Channel):
    """As much of the protocol of the package `realtime` as its broadcasts and its presence need."""

    async def join(self, socket: Socket, topic: str, message: Any) -> Any:
        if topic == "refused":
            return socket.error("unauthorized")
        socket.assign("key", message["config"]["presence"]["key"])
        socket.push("presence_state", presence.list(socket))
        return socket.ok({"postgres_changes": []})

    async def event(self, socket: Socket, event: str, message: Any) -> None:
        match event, message:
            case "broadcast", _:
                socket.broadcast_from("broadcast", message)
            case "presence", {"event": "track", "payload": payload}:
                presence.track(socket, socket.assigns["key"], payload)
            case "presence", {"event": "untrack"}:
                presence.untrack(socket, socket.assigns["key"])


class Router(phoenix.Router):
    with socket("/socket", window=2):
        channel("rooms", RoomChannel)
        channel("watch", WatchChannel)
        channel("realtime", RealtimeChannel)


app = phoenix.Endpoint(Router, pubsub=pubsub)

if __name__ == "__main__":
    app.run()

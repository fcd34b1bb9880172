"""10. A live counter: every open page shows the same number.

Start it with `python examples/10_counter.py` and open http://localhost:4000 in two windows.

Notice: the channel holds no number of its own; a click is broadcast, and the page that clicked hears it like all
others.
Try: let `join` refuse a client, or count for each room.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; not needed beside your own app

import phoenix
from phoenix import Channel, Conn, Reply, Socket, channel, get, socket

clicks = 0

PAGE = """<!DOCTYPE html>
<title>Counter</title>
<button id="button" style="font: 3rem system-ui; padding: 1rem 3rem">?</button>
<script src="/js/phoenix.js"></script>
<script>
  const button = document.getElementById("button"), socket = new Phoenix.Socket("/ws")
  const counter = socket.channel("counter:main")
  const show = ({clicks}) => button.textContent = clicks
  counter.on("changed", show)
  button.onclick = () => counter.push("click")
  socket.connect()
  counter.join().receive("ok", show)
</script>"""


class CounterChannel(Channel):
    async def join(self, socket: Socket, topic: str, message: dict[str, str]) -> Reply:
        return socket.ok({"clicks": clicks})

    async def event(self, socket: Socket, event: str, message: dict[str, str]) -> None:
        global clicks
        clicks += 1
        socket.broadcast("changed", {"clicks": clicks})


async def index(conn: Conn, params: dict[str, str]) -> Conn:
    return conn.html(PAGE)


class Router(phoenix.Router):
    get("/", index)
    with socket("/ws"):
        channel("counter", CounterChannel)


app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()

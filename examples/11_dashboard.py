"""11. A live dashboard: a child of the endpoint measures, every open page shows it.

Start it with `python examples/11_dashboard.py` and open http://localhost:4000.

Notice: `children` start with the server; one that crashes is started again (the log says so), and the pages go on.
Try: measure something of your own, or make the child raise now and then.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; not needed beside your own app

import phoenix
from phoenix import Channel, Conn, Reply, Socket, channel, get, socket

PAGE = """<!DOCTYPE html>
<title>Dashboard</title>
<dl style="font: 2rem system-ui"><dt>time</dt><dd id="time"></dd><dt>load</dt><dd id="load"></dd></dl>
<script src="/js/phoenix.js"></script>
<script>
  const socket = new Phoenix.Socket("/ws"), metrics = socket.channel("metrics:all")
  metrics.on("measured", message => {
    for (const name in message) document.getElementById(name).textContent = message[name]
  })
  socket.connect(), metrics.join()
</script>"""


class MetricsChannel(Channel):
    async def join(self, socket: Socket, topic: str, message: dict[str, str]) -> Reply:
        return socket.ok()


async def measure() -> None:
    while True:
        app.broadcast("metrics:all", "measured", {"time": time.strftime("%H:%M:%S"), "load": os.getloadavg()[0]})
        await asyncio.sleep(1)


async def index(conn: Conn, params: dict[str, str]) -> Conn:
    return conn.html(PAGE)


class Router(phoenix.Router):
    get("/", index)
    with socket("/ws"):
        channel("metrics", MetricsChannel)


app = phoenix.Endpoint(Router, children=[measure])

if __name__ == "__main__":
    app.run()

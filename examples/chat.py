"""A chat in one file: rooms, nicknames, who is there, who is typing, and what was said before.

Start it with `python examples/chat.py`, open http://localhost:4000 in two windows, and speak into it from a shell:

    curl -d "body=hello from curl" http://localhost:4000/rooms/lobby

Notice: `join` sends the history, `event` handles what a client says, `app.broadcast` is called from a plain
function in a worker thread. Try: a second room, a client that is refused, a word that is not allowed.
"""

import sys
from collections import defaultdict, deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; not needed beside your own app

import phoenix
from phoenix import (
    Channel,
    Conn,
    Controller,
    Presence,
    PubSub,
    Socket,
    View,
    channel,
    get,
    pipe_through,
    pipeline,
    plug,
    post,
    scope,
    socket,
    template,
)

pubsub = PubSub()
presence = Presence(pubsub)
history: defaultdict[str, deque[dict[str, str]]] = defaultdict(lambda: deque(maxlen=50))  # room -> last messages


def say(room: str, user: str, body: str) -> None:
    """Remember a message and send it to everybody in the room."""
    message = {"user": user[:20], "body": body[:500]}
    history[room].append(message)
    app.broadcast(f"rooms:{room}", "new:msg", message)


class RoomChannel(Channel):
    async def join(self, socket: Socket, topic: str, message: dict[str, object]) -> phoenix.Reply:
        match message:
            case {"user": str(user)} if user.strip():
                socket.assign("room", topic).assign("user", user.strip()[:20])
            case _:
                return socket.error("a nickname is needed")
        presence.track(socket, socket.assigns["user"], {"typing": False})
        socket.push("presence_state", presence.list(socket))
        return socket.ok({"history": list(history[topic])})

    async def event(self, socket: Socket, event: str, message: dict[str, object]) -> phoenix.Reply | None:
        match event, message:
            case "new:msg", {"body": str(body)} if body.strip():
                say(socket.assigns["room"], socket.assigns["user"], body)
                presence.update(socket, socket.assigns["user"], {"typing": False})
                return socket.ok()
            case "typing", {"typing": bool(typing)}:
                presence.update(socket, socket.assigns["user"], {"typing": typing})
                return None
            case _:
                return socket.error(f"no such message: {event}")


class ChatController(Controller):
    async def index(self, conn: Conn, params: dict[str, str]) -> Conn:
        return conn.redirect(to=conn.helpers.chat_path("show", "lobby"))

    async def show(self, conn: Conn, params: dict[str, str]) -> Conn:
        return conn.render("show.html", room=params["room"])

    def create(self, conn: Conn, params: dict[str, str]) -> Conn:  # a plain function: it may block
        say(params["room"], str(params.get("user", "curl")), str(params["body"]))  # "body[x]=1" is no text
        return conn.put_status("created").text("said\n")


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
        plug(Conn.put_secure_browser_headers)

    with scope("/"):
        pipe_through("browser")
        get("/", ChatController, "index")
        get("/rooms/:room", ChatController, "show")
    with scope("/"):
        post("/rooms/:room", ChatController, "create")

    with socket("/ws"):
        channel("rooms", RoomChannel)


class ChatView(View):
    template("show.html.eex", """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8"><meta name="viewport" content="width=device-width">
  <title>#<%= @room %></title>
  <link rel="icon" href="data:,">
  <style>
    * { box-sizing: border-box }
    body { margin: 0; height: 100vh; display: grid; grid: auto 1fr auto / 1fr 13rem; font: 16px system-ui; color: #222 }
    header { grid-column: 1 / 3; padding: .7rem 1rem; background: #f05423; color: white; display: flex; gap: 1rem }
    header a { color: white } header b { flex: 1 }
    #log { overflow-y: auto; padding: 1rem } #log p { margin: 0 0 .5rem; overflow-wrap: anywhere } #log b { color: #f05423 }
    aside { background: #faf4f1; padding: 1rem; overflow-y: auto } aside li { margin: .2rem 0 } aside ul { padding-left: 1rem }
    aside .typing::after { content: " is typing …"; color: #999; font-size: .8em }
    form { grid-column: 1 / 3; display: flex; gap: .5rem; padding: .7rem; border-top: 1px solid #ddd }
    input { font: inherit; padding: .4rem .6rem; border: 1px solid #bbb; border-radius: .4rem }
    #body { flex: 1 } #user { width: 10rem } #state { font-size: .8em; opacity: .8 }
  </style>
</head>
<body data-room="<%= @room %>">
  <header><b>#<%= @room %></b><span id="state">connecting</span>
    <% for room in ["lobby", "kitchen", "garden"]: %><a href="<%= chat_path(@conn, "show", room) %>"><%= room %></a><% end %>
  </header>
  <main id="log"></main>
  <aside><strong>Here</strong><ul id="people"></ul></aside>
  <form id="form"><input id="user" placeholder="nickname" maxlength="20"><input id="body" placeholder="say something" autocomplete="off"><button>Send</button></form>
  <script src="/js/phoenix.js"></script>
  <script>
    const room = document.body.dataset.room
    const el = id => document.getElementById(id)
    const line = ({user, body}) => {
      const p = document.createElement("p"), b = document.createElement("b")
      b.textContent = user
      p.append(b, " ", body)
      el("log").append(p)
      p.scrollIntoView()
    }
    el("user").value = sessionStorage.user ||= "guest" + Math.floor(Math.random() * 1000)  // each window has its own

    const socket = new Phoenix.Socket("/ws")
    const channel = socket.channel(`rooms:${room}`, () => ({user: el("user").value}))
    const presence = new Phoenix.Presence(channel)
    socket.onOpen(() => el("state").textContent = "online")
    socket.onClose(() => el("state").textContent = "offline, trying again")
    channel.on("new:msg", line)
    presence.onSync(() => el("people").replaceChildren(...presence.list((name, {metas}) => {
      const li = document.createElement("li")
      li.textContent = name
      li.className = metas.some(meta => meta.typing) ? "typing" : ""
      return li
    })))
    socket.connect()
    channel.join().receive("ok", ({history}) => { el("log").replaceChildren(); history.forEach(line) })
      .receive("error", ({reason}) => el("state").textContent = reason)

    let typing
    const type = now => { if (now !== typing) channel.push("typing", {typing: typing = now}) }
    el("body").oninput = () => type(el("body").value !== "")
    el("user").onchange = () => { sessionStorage.user = el("user").value; location.reload() }
    el("form").onsubmit = event => {
      event.preventDefault()
      if (el("body").value.trim()) channel.push("new:msg", {body: el("body").value})
      el("body").value = ""
      typing = false
    }
  </script>
</body>
</html>""")


app = phoenix.Endpoint(Router, pubsub=pubsub)

if __name__ == "__main__":
    app.run()

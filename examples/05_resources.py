"""5. Resources: one line for the usual routes of a thing.

    python examples/05_resources.py

and open http://localhost:4000/tasks. See all the routes with `python phoenix.py routes examples.05_resources`.

Notice: `resources` connects verbs and paths to actions of the same names everywhere: GET /tasks is index, POST /tasks
create, DELETE /tasks/1 destroy. No path is written twice: `task_path` makes them from the route. A link with a method
is a small form, because browsers can send no DELETE by themselves.
Try: add "show" to `only` and read what the start says; write it. Nest `resources("/notes", ...)` in it with a `with`.
"""

import itertools
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Controller, Params, pipe_through, resources, scope, template

tasks: dict[str, str] = {"1": "Learn about resources"}
numbers = itertools.count(2)


class TaskController(Controller):
    def index(self, conn: Conn, params: Params) -> Conn:
        return conn.render("index.html", tasks=list(tasks.items()))

    def create(self, conn: Conn, params: Params) -> Conn:
        tasks[str(next(numbers))] = params["task"]["title"]
        return conn.redirect(to=conn.helpers.task_path("index"))

    def destroy(self, conn: Conn, params: Params) -> Conn:
        tasks.pop(params["id"], None)
        return conn.redirect(to=conn.helpers.task_path("index"))


class TaskView(phoenix.View):
    template("index.html.eex", """
        <%= for id, title in @tasks: %>
          <p><%= title %> <%= link("Done", to=task_path(@conn, "destroy", id), method="delete") %></p>
        <% end %>
        <%= form_for(@conn, task_path(@conn, "create"), name="task") do f %>
          <%= f.text_input("title", value="") %> <%= f.submit("Add") %>
        <% end %>""")


class Router(phoenix.Router):
    with scope("/"):
        pipe_through(Conn.fetch_session, Conn.protect_from_forgery)  # so that no other site can send our forms
        resources("/tasks", TaskController, only=["index", "create", "destroy"])


app = phoenix.Endpoint(Router, secret_key_base=secrets.token_urlsafe(64))

if __name__ == "__main__":
    app.run()

"""6. A JSON API: what programs read and write.

    python examples/06_json_api.py

and in another terminal:
    curl localhost:4000/api/users
    curl -i localhost:4000/api/users -H "content-type: application/json" -d '{"name": "Cy"}'
    curl -i localhost:4000/api/users/9

Notice: JSON that comes in is in `params` already, and `conn.json` writes what goes out. The pipeline refuses clients
that accept no JSON (406). An exception with a `status` answers with it, in the format of the request.
Try: `-d '{}'`; `-d 'oops'`; `-H "accept: text/html"`; start with PHOENIX_ENV=prod in front to see what the world sees.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Params, pipe_through, pipeline, plug, resources, scope

users = [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]


class UserNotFoundError(Exception):
    status = 404


class UserController(phoenix.Controller):
    def index(self, conn: Conn, params: Params) -> Conn:
        return conn.json({"users": users})

    def show(self, conn: Conn, params: Params) -> Conn:
        for user in users:
            if str(user["id"]) == params["id"]:
                return conn.json({"user": user})
        raise UserNotFoundError(f"there is no user {params['id']}")

    def create(self, conn: Conn, params: Params) -> Conn:
        user = {"id": len(users) + 1, "name": params["name"]}
        users.append(user)
        conn.put_resp_header("location", conn.helpers.api_user_path("show", user["id"]))
        return conn.put_status("created").json({"user": user})


class Router(phoenix.Router):
    with pipeline("api"):
        plug(Conn.accepts, "json")

    with scope("/api", as_="api"):
        pipe_through("api")
        resources("/users", UserController, only=["index", "show", "create"])


app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()

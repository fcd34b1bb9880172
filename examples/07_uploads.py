"""7. Uploads: files that come in, and files that go out.

    python examples/07_uploads.py

and open http://localhost:4000, choose a picture, and send it.

Notice: in `params` a file is an `Upload`. It is gone after the request unless it is saved, and it is saved under a name
of our own: the client's may lead anywhere. The plug `Static` serves what is in the folder.
Try: send a text; send nothing; send more than 8 MB; look at a file's headers with `curl -i`, and ask for it again with
`-H 'if-none-match: ...'` and its etag, or for a part of it with `-H 'range: bytes=0-9'`.
"""

import secrets
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Params, Upload, get, pipe_through, post, scope, template

FOLDER = tempfile.TemporaryDirectory()  # gone when the server stops
ENDINGS = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif"}


class FileController(phoenix.Controller):
    def index(self, conn: Conn, params: Params) -> Conn:
        return conn.render("index.html", names=sorted(path.name for path in Path(FOLDER.name).iterdir()))

    def create(self, conn: Conn, params: Params) -> Conn:
        match params.get("file"):
            case Upload(content_type="image/png" | "image/jpeg" | "image/gif") as file:
                file.save(Path(FOLDER.name, secrets.token_hex(8) + ENDINGS[file.content_type]))
                return conn.redirect(to="/")
            case _:
                return conn.put_status("unprocessable_entity").text("Please choose a PNG, JPEG or GIF.")


class FileView(phoenix.View):
    template("index.html.eex", """
        <%= form_tag("/", multipart=True) do %><input type="file" name="file"> <button>Send</button><% end %>
        <%= for name in @names: %><img src="/files/<%= name %>" width="200"><% end %>""")


class Router(phoenix.Router):
    with scope("/"):
        pipe_through(Conn.fetch_session, Conn.protect_from_forgery)
        get("/", FileController, "index")
        post("/", FileController, "create")


files = phoenix.Static(at="/files", from_=FOLDER.name, headers={"x-content-type-options": "nosniff"})
app = phoenix.Endpoint(Router, plugs=[files], secret_key_base=secrets.token_urlsafe(64))

if __name__ == "__main__":
    app.run()

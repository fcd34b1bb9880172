"""A blog in one file: posts, comments, pictures, a login, and JSON beside the HTML.

    python examples/blog.py

Open http://localhost:4000 and log in as `ann` with the password `phoenix`; /api/posts has the posts for programs.
Everything is kept in the folder `blog_data` beside this file: delete it to start anew.

Read it from the data up: storage, controllers, views, router. Actions are plain functions that talk to SQLite: they
run in worker threads, so a slow query keeps nobody else waiting.
"""

import hashlib
import os
import secrets
import sqlite3
import sys
from contextlib import closing
from datetime import date
from pathlib import Path
from textwrap import shorten
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import (
    Conn,
    Controller,
    Params,
    get,
    member,
    pipe_through,
    pipeline,
    plug,
    resources,
    scope,
    template,
)

# --- Storage ------------------------------------------------------------------------------

DATA = Path(os.environ.get("BLOG_DATA") or Path(__file__).with_name("blog_data"))
TABLES = (
    "users (id INTEGER PRIMARY KEY, name TEXT UNIQUE, salt BLOB, password BLOB)",
    "posts (id INTEGER PRIMARY KEY, title TEXT, body TEXT, day TEXT DEFAULT CURRENT_DATE, image_type TEXT, image BLOB)",
    "comments (id INTEGER PRIMARY KEY, post_id INTEGER REFERENCES posts ON DELETE CASCADE, author TEXT, body TEXT)",
)


class NotFoundError(Exception):
    status = 404  # what a request is answered with when an action raises this


def query(sql: str, *values: Any) -> list[sqlite3.Row]:
    """Run one statement and return its rows. Each has its own connection, which no two threads share."""
    with closing(sqlite3.connect(DATA / "blog.sqlite3")) as database, database:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA foreign_keys = on")
        return database.execute(sql, values).fetchall()


def one(sql: str, *values: Any) -> sqlite3.Row:
    for row in query(sql, *values):
        return row
    raise NotFoundError("there is no such page here, or no longer")


def find_post(id: str) -> sqlite3.Row:
    return one("SELECT id, title, body, day, image_type FROM posts WHERE id = ?", id)


def comments_on(post: sqlite3.Row) -> list[sqlite3.Row]:
    return query("SELECT * FROM comments WHERE post_id = ? ORDER BY id", post["id"])


def hash_password(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def set_up() -> str:
    """Make what is missing: tables, a user, a first post. Return the secret that signs the sessions."""
    DATA.mkdir(exist_ok=True)
    for table in TABLES:
        query(f"CREATE TABLE IF NOT EXISTS {table}")
    if not query("SELECT * FROM users"):
        salt = secrets.token_bytes(16)
        query("INSERT INTO users (name, salt, password) VALUES ('ann', ?, ?)", salt, hash_password("phoenix", salt))
        query("INSERT INTO posts (title, body) VALUES (?, ?)", "Hello, world", "This blog is one file. Now change it!")
    file = DATA / "secret"  # production sets SECRET_KEY_BASE; elsewhere each machine makes its own, and keeps it
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(64))
    return os.environ.get("SECRET_KEY_BASE") or file.read_text()


# --- Controllers --------------------------------------------------------------------------


def fetch_user(conn: Conn) -> Conn:
    """Plug: assign the user who is logged in, or None."""
    users = query("SELECT id, name FROM users WHERE id = ?", conn.get_session("user_id"))
    return conn.assign("user", users[0] if users else None)


def require_user(conn: Conn) -> Conn:
    """Plug: send everybody else to the login page."""
    if conn.assigns["user"]:
        return conn
    return conn.put_flash("error", "Please log in first.").redirect(to=conn.helpers.session_path("new")).halt()


def read_form(form: Any, **longest: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the fields of a form, and what is wrong with them: blank, or longer than so many characters."""
    if not isinstance(form, Params):
        raise phoenix.BadRequestError("expected the fields of a form")  # whoever sent this did not use our page: 400
    fields = {field: str(form[field]).strip() for field in longest}
    errors = {field: f"has more than {most} characters" for field, most in longest.items() if len(fields[field]) > most}
    return fields, errors | {field: "can’t be blank" for field in fields if not fields[field]}


class PostController(Controller):
    plug(require_user).only("new", "create", "edit", "update", "destroy")

    def index(self, conn: Conn, params: Params) -> Conn:
        return conn.render("index", posts=query("SELECT id, title, body, day, image_type FROM posts ORDER BY id DESC"))

    def show(self, conn: Conn, params: Params) -> Conn:
        post = find_post(params["id"])
        return conn.render("show", post=post, comments=comments_on(post))

    def image(self, conn: Conn, params: Params) -> Conn:
        post = one("SELECT image_type, image FROM posts WHERE id = ? AND image IS NOT NULL", params["id"])
        return conn.put_resp_content_type(post["image_type"], charset=None).send_resp(200, post["image"])

    def new(self, conn: Conn, params: Params) -> Conn:
        return conn.render("new")

    def create(self, conn: Conn, params: Params) -> Conn:
        values, errors = self.read(params)
        if errors:
            return conn.put_status("unprocessable_entity").render("new", errors=errors)
        post = one("INSERT INTO posts (title, body, image_type, image) VALUES (?, ?, ?, ?) RETURNING id", *values)
        return conn.put_flash("notice", "Your post is out.").redirect(to=conn.helpers.post_path("show", post["id"]))

    def edit(self, conn: Conn, params: Params) -> Conn:
        return conn.render("edit", post=find_post(params["id"]))

    def update(self, conn: Conn, params: Params) -> Conn:
        post = find_post(params["id"])
        values, errors = self.read(params)
        if errors:
            return conn.put_status("unprocessable_entity").render("edit", post=post, errors=errors)
        changes = "title = ?, body = ?, image_type = coalesce(?, image_type), image = coalesce(?, image)"
        query(f"UPDATE posts SET {changes} WHERE id = ?", *values, post["id"])
        return conn.put_flash("notice", "Your post is saved.").redirect(to=conn.helpers.post_path("show", post["id"]))

    def destroy(self, conn: Conn, params: Params) -> Conn:
        post = one("DELETE FROM posts WHERE id = ? RETURNING title", params["id"])
        return conn.put_flash("notice", f"“{post['title']}” is gone.").redirect(to=conn.helpers.post_path("index"))

    def read(self, params: Params) -> tuple[list[Any], dict[str, str]]:
        fields, errors = read_form(params["post"], title=100, body=10_000)
        match params["post"].get("image"):
            case phoenix.Upload(content_type="image/png" | "image/jpeg" | "image/gif" | "image/webp") as image:
                return [*fields.values(), image.content_type, image.read()], errors
            case phoenix.Upload():
                errors["image"] = "must be a PNG, JPEG, GIF or WebP"
            case _:
                pass  # no file was chosen
        return [*fields.values(), None, None], errors


class CommentController(Controller):
    def create(self, conn: Conn, params: Params) -> Conn:
        post = find_post(params["post_id"])
        comment, errors = read_form(params["comment"], author=40, body=1000)
        if errors:  # the page of the post once more, whose form keeps what was typed
            conn.put_status("unprocessable_entity").put_view(PostView)
            return conn.render("show", post=post, comments=comments_on(post), errors=errors)
        values = post["id"], comment["author"], comment["body"]
        query("INSERT INTO comments (post_id, author, body) VALUES (?, ?, ?)", *values)
        return conn.put_flash("notice", "Thank you.").redirect(to=conn.helpers.post_path("show", post["id"]))


class SessionController(Controller):
    def new(self, conn: Conn, params: Params) -> Conn:
        return conn.render("new")

    def create(self, conn: Conn, params: Params) -> Conn:
        form, _ = read_form(params["session"], name=40, password=100)
        users = query("SELECT * FROM users WHERE name = ?", form["name"])
        user = users[0] if users else {"salt": b"", "password": b""}  # takes as long, and tells nothing
        if not secrets.compare_digest(hash_password(form["password"], user["salt"]), user["password"]):
            conn.put_status("unprocessable_entity")
            return conn.render("new", errors={"password": "does not go with this name"})
        conn.configure_session(renew=True).put_session("user_id", user["id"])
        return conn.put_flash("notice", f"Welcome, {form['name']}.").redirect(to=conn.helpers.post_path("index"))

    def destroy(self, conn: Conn, params: Params) -> Conn:
        return conn.clear_session().put_flash("notice", "See you.").redirect(to=conn.helpers.post_path("index"))


# --- Views --------------------------------------------------------------------------------


class LayoutView(phoenix.View):
    template("application.html.eex", """
        <!DOCTYPE html>
        <html lang="en">
        <head>
          <meta charset="utf-8">
          <meta name="viewport" content="width=device-width, initial-scale=1">
          <title><%= post["title"] + " · " if (post := assigns.get("post")) else "" %>The Phoenix Post</title>
          <link rel="stylesheet" href="/blog.css">
          <link rel="icon" href="data:,">
        </head>
        <body>
          <header>
            <%= link("The Phoenix Post", to=home_path(@conn, "index"), class_="brand") %>
            <%= if @user: %>
              <%= link("Write", to=post_path(@conn, "new")) %>
              <%= link("Log out", to=session_path(@conn, "destroy"), method="delete") %>
            <% else: %>
              <%= link("Log in", to=session_path(@conn, "new")) %>
            <% end %>
          </header>
          <main>
            <%= for kind, message in @conn.flash.items(): %>
              <p class="flash <%= kind %>" role="status"><%= message %></p>
            <% end %>
            <%= @inner %>
          </main>
        </body>
        </html>""")


class PostView(phoenix.View):
    template("index.html.eex", """
        <%= for post in @posts: %>
          <article class="card">
            <%= if post["image_type"]: %><img src="<%= post_path(@conn, "image", post["id"]) %>" alt=""><% end %>
            <h2><%= link(post["title"], to=post_path(@conn, "show", post["id"])) %></h2>
            <p><%= beginning(post) %></p>
            <small><%= day(post) %></small>
          </article>
        <% end %>""")

    template("show.html.eex", """
        <article>
          <h1><%= @post["title"] %></h1>
          <small>
            <%= day(@post) %>
            <%= if @user: %>
              · <%= link("Edit", to=post_path(@conn, "edit", @post["id"])) %>
              · <%= link("Delete", to=post_path(@conn, "destroy", @post["id"]), method="delete") %>
            <% end %>
          </small>
          <%= if @post["image_type"]: %><img src="<%= post_path(@conn, "image", @post["id"]) %>" alt=""><% end %>
          <%= text_to_html(@post["body"]) %>
        </article>
        <section>
          <h2>Comments</h2>
          <%= for comment in @comments: %>
            <div class="comment"><b><%= comment["author"] %></b><%= text_to_html(comment["body"]) %></div>
          <% end %>
          <%= form_for(@conn, post_comment_path(@conn, "create", @post["id"]), name="comment",
                       errors=assigns.get("errors")) do f %>
            <%= f.label("author", "Your name") %> <%= f.text_input("author") %> <%= f.error_tag("author") %>
            <%= f.label("body", "Your comment") %> <%= f.textarea("body", rows=3) %> <%= f.error_tag("body") %>
            <%= f.submit("Send") %>
          <% end %>
        </section>""")

    template("new.html.eex", """
        <h1>Write a post</h1>
        <%= render("form.html", assigns, to=post_path(@conn, "create"), method="post") %>""")

    template("edit.html.eex", """
        <h1>Edit “<%= @post["title"] %>”</h1>
        <%= render("form.html", assigns, to=post_path(@conn, "update", @post["id"]), method="patch") %>""")

    template("form.html.eex", """
        <%= form_for(@conn, @to, name="post", method=@method, multipart=True,
                     values=assigns.get("post"), errors=assigns.get("errors")) do f %>
          <%= f.label("title") %> <%= f.text_input("title") %> <%= f.error_tag("title") %>
          <%= f.label("body") %> <%= f.textarea("body", rows=10) %> <%= f.error_tag("body") %>
          <%= f.label("image") %> <%= f.file_input("image", accept="image/*") %> <%= f.error_tag("image") %>
          <%= f.submit("Save") %>
        <% end %>""")

    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        match name:
            case "index.json":
                return {"posts": phoenix.render_many(assigns["posts"], PostView, "post.json", conn=assigns["conn"])}
            case "show.json":
                comments = [{"author": comment["author"], "body": comment["body"]} for comment in assigns["comments"]]
                return {"post": self.render("post.json", assigns) | {"comments": comments}}
            case "post.json":
                post, url = assigns["post"], assigns["conn"].helpers.post_url
                return {key: post[key] for key in ("id", "title", "body", "day")} | {"url": url("show", post["id"])}
            case _:
                return super().render(name, assigns)  # all else is a template

    def day(self, post: sqlite3.Row) -> str:  # the methods of a view are functions in its templates
        return f"{date.fromisoformat(post['day']):%d %B %Y}".lstrip("0")

    def beginning(self, post: sqlite3.Row) -> str:
        return shorten(post["body"], 180, placeholder=" …")


class SessionView(phoenix.View):
    template("new.html.eex", """
        <h1>Log in</h1>
        <%= form_for(@conn, session_path(@conn, "create"), name="session", errors=assigns.get("errors")) do f %>
          <%= f.label("name") %> <%= f.text_input("name", autocomplete="username") %>
          <%= f.label("password") %> <%= f.password_input("password", autocomplete="current-password") %>
          <%= f.error_tag("password") %>
          <%= f.submit("Log in") %>
        <% end %>""")


STYLE = """
body { margin: 0; background: #faf6f1; color: #2b2622; font: 17px/1.6 system-ui, sans-serif; }
header, main { max-width: 40rem; margin: auto; padding: 1rem 1.25rem; }
header { display: flex; gap: 1.25rem; align-items: baseline; }
h1, h2, .brand { font-family: Georgia, serif; line-height: 1.2; margin: .25rem 0; }
a, form.link button { color: #c2410c; text-decoration: none; background: none; border: 0; padding: 0; font: inherit; }
a:hover, form.link button:hover { text-decoration: underline; cursor: pointer; }
form.link { display: inline; }
.brand { flex: 1; font-size: 1.4rem; font-weight: bold; }
small { color: #7d7268; }
img { max-width: 100%; border-radius: 8px; margin-top: 1rem; }
.card { display: flow-root; background: #fff; border-radius: 12px; padding: 1rem 1.25rem; margin: 1.25rem 0; }
.card img { float: right; width: 8rem; height: 8rem; object-fit: cover; margin: .25rem 0 0 1.25rem; }
.comment { border-left: 3px solid #f0b58b; padding-left: 1rem; margin: 1rem 0; }
section { border-top: 1px solid #e7ddd2; margin-top: 2rem; padding-top: 1rem; }
label { display: block; font-weight: 600; margin-top: 1rem; }
input[type=text], input[type=password], textarea { box-sizing: border-box; width: 100%; padding: .6rem; font: inherit;
  border: 1px solid #cfc3b6; border-radius: 8px; background: #fff; }
input[type=submit] { display: block; margin-top: 1.25rem; padding: .6rem 1.5rem; font: inherit; font-weight: 600;
  color: #fff; background: #c2410c; border: 0; border-radius: 8px; cursor: pointer; }
.error { color: #b42318; }
.flash { background: #e3f1e4; border-radius: 8px; padding: .6rem 1rem; }
.flash.error { background: #fdeceb; }
"""


def stylesheet(conn: Conn, params: Params) -> Conn:
    return conn.put_resp_content_type("text/css").send_resp(200, STYLE)


# --- Router and endpoint ------------------------------------------------------------------

POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
        plug(Conn.fetch_session)
        plug(Conn.fetch_flash)
        plug(Conn.protect_from_forgery)
        plug(Conn.put_secure_browser_headers, {"content-security-policy": POLICY})
        plug(fetch_user)
    with pipeline("api"):
        plug(Conn.accepts, "json")

    get("/blog.css", stylesheet)
    with scope("/"):
        pipe_through("browser")
        get("/", PostController, "index", as_="home")
        with resources("/posts", PostController):
            resources("/comments", CommentController, only=["create"])
            with member():
                get("/image", PostController, "image")
        resources("/session", SessionController, singleton=True, only=["new", "create", "destroy"])
    with scope("/api", as_="api"):
        pipe_through("api")
        resources("/posts", PostController, only=["index", "show"])


app = phoenix.Endpoint(Router, secret_key_base=set_up())

if __name__ == "__main__":
    app.run()

"""Translations: catalogs, locales, texts in code and templates, and how they are collected."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import babel
import phoenix
import polib
import pytest
from babel.messages.plurals import get_plural
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from phoenix import (
    ArgumentError, Conn, Controller, Endpoint, Safe, TranslationError, Translations, View, build_conn, get, pipe_through,
    pipeline, plug, render_to_string, scope, template,
)  # fmt: skip

GERMAN = r"""
# of the shop
msgid ""
msgstr ""
"Language: de\n"
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"

# A translator's remark
#. for the front page
#: app.py:3 app.py:7
#, python-brace-format
msgid "Hello"
msgstr "Hallo"

msgid "Hello %{name}"
msgstr "Hallo, %{name}!"

msgid "one post"
msgid_plural "%{count} posts"
msgstr[0] "ein Beitrag"
msgstr[1] "%{count} Beiträge"

msgctxt "month"
msgid "May"
msgstr "Mai"

msgid "May"
msgstr "Darf"

msgctxt "shop"
msgid "one cart"
msgid_plural "%{count} carts"
msgstr[0] "ein Wagen"
msgstr[1] "%{count} Wagen"

#, fuzzy
msgid "Unsure"
msgstr "Unsicher"

msgid "Undone"
msgstr ""

msgid "Half done"
msgid_plural "Half done %{count}"
msgstr[0] "Halb"
msgstr[1] ""

msgid ""
"Two\n"
"lines \"quoted\"\tand \\ more"
msgstr ""
"Zwei\n"
"Zeilen \"zitiert\"\tund \\ mehr"

msgid "users.title"
msgstr "Benutzer von %{site}"

#| msgid "before"
#~ msgid "Gone"
#~ msgstr "Weg"
"""


def german(**options: Any) -> Translations:
    return Translations(messages={"de": GERMAN}, **options)


# --- Texts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, more, expected",
    [
        ("Hello", {}, "Hallo"),
        ("Hello %{name}", {"bindings": {"name": "Ann"}}, "Hallo, Ann!"),
        ("Hello %{name}", {"bindings": {"name": 7}}, "Hallo, 7!"),
        ("one post", {"plural": "%{count} posts", "count": 1}, "ein Beitrag"),
        ("one post", {"plural": "%{count} posts", "count": 0}, "0 Beiträge"),
        ("one post", {"plural": "%{count} posts", "count": 5}, "5 Beiträge"),
        ("one post", {"plural": "%{count} posts", "count": -1}, "ein Beitrag"),
        ("one post", {"plural": "%{count} posts", "count": 1000, "bindings": {"count": "1.000"}}, "1.000 Beiträge"),
        ("one post", {}, "ein Beitrag"),
        ("May", {}, "Darf"),
        ('Two\nlines "quoted"\tand \\ more', {}, 'Zwei\nZeilen "zitiert"\tund \\ mehr'),
        ("users.title", {"bindings": {"site": "x"}}, "Benutzer von x"),
        # what has no translation stays as it is
        ("Nowhere", {}, "Nowhere"),
        ("Nowhere %{x}", {"bindings": {"x": 1}}, "Nowhere 1"),
        ("one cat", {"plural": "%{count} cats", "count": 1}, "one cat"),
        ("one cat", {"plural": "%{count} cats", "count": 0}, "0 cats"),
        ("Half done", {"plural": "Half done %{count}", "count": 1}, "Halb"),
        ("Half done", {"plural": "Half done %{count}", "count": 2}, "Half done 2"),
        ("Unsure", {}, "Unsure"),
        ("Undone", {}, "Undone"),
        ("Gone", {}, "Gone"),
        ("", {}, ""),
        ("100% %{ {name} %(x)s", {}, "100% %{ {name} %(x)s"),
    ],
)
def test_a_text_is_translated(text: str, more: dict[str, Any], expected: str) -> None:
    assert german().translate("de", text, **more) == expected


def test_other_locales_do_not_see_it() -> None:
    assert german().translate("en", "Hello") == german().translate("fr", "Hello") == "Hello"


def test_a_regional_locale_has_what_its_language_has() -> None:
    translations = Translations(messages={"de": GERMAN, "de_AT": 'msgid "May"\nmsgstr "Derf"'})
    assert translations.translate("de_AT", "May") == "Derf"
    assert translations.translate("de_AT", "Hello") == "Hallo"
    assert translations.translate("de", "May") == "Darf"


def test_keys_may_be_nested_in_dicts() -> None:
    given = {"en": {"users": {"title": "Users", "hello": {"you": "hello %{first} %{last}"}}, "top": "Top"}}
    translations = Translations(messages=given)
    assert translations.translate("en", "users.title") == "Users"
    assert translations.translate("en", "users.hello.you", {"first": "chris", "last": "mccord"}) == "hello chris mccord"
    assert translations.translate("en", "top") == "Top"
    with pytest.raises(TranslationError, match=r"the message 'a.b' is 3, expected text, or a dict of texts"):
        Translations(messages={"en": {"a": {"b": 3}}})


@pytest.mark.parametrize("text", ["Hello %{name}", "Nobody has translated %{name}"])
def test_a_value_that_is_missing_is_named(text: str) -> None:
    with pytest.raises(TranslationError, match=r"needs a value for %\{name\}: gettext\(..., name=...\)"):
        german().translate("de", text, {"nmae": "Ann"})


@pytest.mark.parametrize("count", [1.5, "1", None])
def test_a_count_is_a_whole_number(count: Any) -> None:
    with pytest.raises(ArgumentError, match="the count of 'one post' is .*, expected a whole number"):
        german().translate("de", "one post", plural="posts", count=count)


# --- Catalogs -----------------------------------------------------------------------------


def entries_of(text: str) -> list[tuple[Any, ...]]:
    found = [
        (entry.context, entry.id, entry.plural or "", list(entry.forms), "fuzzy" in entry.flags, entry.obsolete)
        for entry in phoenix._parse_po(text, "x.po")
    ]
    return sorted(found, key=repr)


def entries_of_polib(text: str) -> list[tuple[Any, ...]]:
    catalog = polib.pofile(text)
    found = [
        (entry.msgctxt, entry.msgid, entry.msgid_plural,
         [entry.msgstr_plural[at] for at in sorted(entry.msgstr_plural)] or [entry.msgstr], entry.fuzzy, bool(entry.obsolete))
        for entry in catalog
    ]  # fmt: skip
    header = "".join(f"{key}: {value}\n" for key, value in catalog.metadata.items())
    return sorted([*found, (None, "", "", [header], False, False)], key=repr)


def test_a_catalog_is_read_as_polib_reads_it() -> None:
    assert entries_of(GERMAN) == entries_of_polib(GERMAN)
    assert entries_of(GERMAN.replace("\n", "\r\n")) == entries_of_polib(GERMAN)
    assert entries_of("\ufeff" + GERMAN) == entries_of_polib(GERMAN)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x0b\x0c\x08\x07\r\x1c\x1d\x1e\x85\u2028\u2029"),
                min_size=1, max_size=20)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.none() | TEXTS, TEXTS, st.none() | TEXTS, TEXTS, st.booleans()), max_size=5))
def test_what_is_written_is_read_again_by_polib_and_here(drawn: list[Any]) -> None:
    entries = [phoenix._po_header("de")]
    for context, id, plural, form, obsolete in drawn:
        entry = phoenix._Entry(context, id, plural, [form] if plural is None else [form, "x"])
        entry.obsolete = obsolete
        if not any(entry.key == each.key for each in entries):
            entries.append(entry)
    text = phoenix._po_text(entries)
    expected = sorted(
        [(e.context, e.id, e.plural or "", list(e.forms), False, e.obsolete) for e in entries], key=repr
    )  # fmt: skip
    assert entries_of(text) == expected == entries_of_polib(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_what_polib_writes_is_read(id: str, form: str) -> None:
    catalog = polib.POFile(wrapwidth=30)
    catalog.append(polib.POEntry(msgid=id, msgstr=form, comment="a", tcomment="b", occurrences=[("app.py", "3")]))
    found = phoenix._parse_po(str(catalog), "x.po")[-1]
    assert (found.id, found.forms, found.references) == (id, [form], ["app.py:3"])


LOCALES = (
    "am ar be bg bn bs ca cs cy da de el en es et eu fa fi fr ga gu he hi hr hu hy id is it ja jv ka kk km kn ko lo lt lv"
    " mg mk mn ms my nb ne nl nn pa pl ro ru si sk sl sq sr sv sw ta te th ti tr uk ur uz vi yue zh zu"
).split()


@pytest.mark.parametrize("locale", [locale for locale in LOCALES if locale != "vi"])
def test_plural_forms_are_those_of_cldr(locale: str) -> None:
    """Numbers that CLDR puts into one category get one form here, and those of two categories two.

    Vietnamese has one form in gettext, and in the catalogs that Babel begins, but two in the CLDR of Babel 2.19.
    """
    choose = phoenix._plural_rule(phoenix._plural_forms(locale), "x")
    category = babel.Locale(locale).plural_form
    pairs = {(category(number), choose(number)) for number in range(200)}
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)


@pytest.mark.parametrize("locale", [*LOCALES, "pt_BR", "pt", "zh_CN"])
def test_the_plural_forms_that_babel_writes_are_understood(locale: str) -> None:
    written = get_plural(locale)
    choose = phoenix._plural_rule(f"nplurals={written.num_plurals}; plural={written.plural_expr};", "x")
    assert {choose(number) for number in range(200)} <= set(range(written.num_plurals))


def test_vietnamese_has_one_form_as_in_its_catalogs() -> None:
    assert phoenix._plural_forms("vi") == phoenix._plural_forms("ja") == "nplurals=1; plural=0;"


def test_a_language_with_three_forms(tmp_path: Path) -> None:
    russian = (
        'msgid ""\nmsgstr "Plural-Forms: nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 &&'
        ' (n%100<12 || n%100>14) ? 1 : 2);\\n"\n\n'
        'msgid "one file"\nmsgid_plural "%{count} files"\n'
        'msgstr[0] "%{count} файл"\nmsgstr[1] "%{count} файла"\nmsgstr[2] "%{count} файлов"\n'
    )
    translations = Translations(messages={"ru": russian})
    found = [translations.translate("ru", "one file", plural="%{count} files", count=n) for n in (1, 2, 5, 11, 21, 112)]
    assert found == ["1 файл", "2 файла", "5 файлов", "11 файлов", "21 файл", "112 файлов"]


@pytest.mark.parametrize(
    "text, line, said",
    [
        ('msgid "a"\nmsgstr "b"\nmsgid "a"\nmsgstr "c"', 3, "'a' is translated already, in line 1"),
        ('msgid "a"\n\nmsgid "b"\nmsgstr "c"', 1, "expected msgid and msgstr, got: msgid"),
        ('msgstr "b"', 1, "expected msgid and msgstr, got: msgstr"),
        ('"b"', 1, "text belongs behind msgid or msgstr"),
        ('msgid "a"\nmsgid "b"\nmsgstr ""', 2, "this entry has a msgid already"),
        ('# note\nmsgid "a"\nmsgstr "b', 3, 'expected a line such as msgid "text", got: msgstr "b'),
        ('msgid "a"\nmsgstr b', 2, 'expected a line such as msgid "text"'),
        ('msgid "a"\nmsgstr "say "hi""', 2, 'expected a line such as msgid "text"'),
        ('mgsid "a"\nmsgstr ""', 1, 'expected a line such as msgid "text"'),
        ('msgid "a"\nmsgid_plural "b"\nmsgstr "c"', 1, "expected msgid, msgid_plural, msgstr[0], msgstr[1] and so on"),
        ('msgid "a"\nmsgid_plural "b"\nmsgstr[0] "c"\nmsgstr[2] "c"', 1, "expected msgid, msgid_plural, msgstr[0]"),
        ('\nmsgid "a %{x}"\nmsgstr "b %{y}"', 2, "the translation has %{y}, which 'a %{x}' has not"),
        ('msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=(n != 1\\n"', 1, "cannot use the Plural-Forms"),
        ('msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=exit(1);\\n"', 1, "cannot use the Plural-Forms"),
        ('msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=n;\\n"', 1, "less than nplurals=2 for every number"),
        ('msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural=1/n;\\n"', 1, "cannot use the Plural-Forms"),
        ('msgid ""\nmsgstr "Plural-Forms: two\\n"', 1, "expected it to look like `nplurals=2; plural=(n != 1);`"),
        (f'msgid ""\nmsgstr "Plural-Forms: nplurals=2; plural={"(" * 400}n{")" * 400};\\n"', 1, "cannot use the Plural-Forms"),
    ],
)
def test_a_mistake_in_a_catalog_is_named_with_file_and_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = write_catalog(tmp_path, "de", text)
    translations = Translations(from_=tmp_path / "priv/gettext")
    with pytest.raises(TranslationError) as caught:
        translations.look_beside(None)
    assert str(caught.value).startswith(f"{path}:{line}: ") and said in str(caught.value)


def test_a_catalog_in_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    write_catalog(tmp_path, "de", 'msgid "a"\n\nmsgstr "Ä"', encoding="latin-1")
    with pytest.raises(TranslationError, match=r"default.po:3: a catalog is kept in UTF-8, and this is none"):
        Translations(from_=tmp_path / "priv/gettext").look_beside(None)


def write_catalog(folder: Path, locale: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "priv" / "gettext" / locale / "LC_MESSAGES" / "default.po"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


# --- The locale of a request --------------------------------------------------------------


@pytest.mark.parametrize(
    "tag, locale",
    [
        ("de", "de"), ("DE", "de"), ("de-AT", "de"), ("de_AT", "de"), ("de-x-klingon", "de"), ("pt-BR", "pt_BR"),
        ("pt_br", "pt_BR"), ("pt", None), ("zh-Hant-TW", "zh_Hant"), ("zh-Hans", None), ("en-US", "en"), ("fr", None),
        ("", None), ("-", None), ("../de", None), ("d", None), ("de" * 40, None), (None, None), (["de"], None),
        ({"a": "de"}, None), ("de\0", None),
    ],
)  # fmt: skip
def test_a_tag_is_looked_up_from_the_special_to_the_general(tag: Any, locale: str | None) -> None:
    translations = Translations(messages={"de": {}, "pt_BR": {}, "zh_Hant": {}})
    assert translations.locales == ["de", "en", "pt_BR", "zh_Hant"]
    assert translations.find(tag) == locale


@pytest.mark.parametrize(
    "header, locale",
    [
        ("de", "de"), ("fr, de", "de"), ("en;q=0.5, de;q=0.9", "de"), ("de;q=0.5, pt-BR", "pt_BR"), ("de-AT,en;q=0.9", "de"),
        ("de;q=0, en", "en"), ("de;q=0", None), ("fr;q=1, *;q=0.1", "en"), ("*;q=0", None), ("", None), ("xx", None),
        ("en, de", "en"), ("de, en", "de"), ("de;q=nonsense, en;q=0.5", "de"), (", ,;;,=", None), ("  DE ; q=0.3", "de"),
        ("a-" * 4000, None),
    ],
)  # fmt: skip
def test_the_language_that_is_wanted_most_is_chosen(header: str, locale: str | None) -> None:
    assert Translations(messages={"de": {}, "pt_BR": {}}).negotiate(header) == locale


class PageView(View):
    template("index.html.eex", """
        <%= gettext("Hello %{name}", name=@name) %>
        <%= ngettext("one post", "%{count} posts", @count) %> <%= gettext("May") %>""")
    template("link.html.eex", """<%= gettext("Hello %{name}", name=link(@name, to="/")) %>""")
    template("index.text.eex", """<%= gettext("Hello %{name}", name=@name) %>""")


class PageController(Controller):
    def index(self, conn: Conn, params: Any) -> Conn:
        return conn.render("index.html", name="<b>", count=2)

    def locale(self, conn: Conn, params: Any) -> Conn:
        return conn.text(f"{conn.locale} {conn.gettext('Hello')}")


class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.fetch_session)
        plug(Conn.fetch_locale)
    with pipeline("saving"):
        plug(Conn.fetch_session)
        plug(Conn.fetch_locale, "lang", save=True)
    with scope("/"):
        pipe_through("browser")
        get("/", PageController, "index")
        get("/locale", PageController, "locale")
        get("/in/:locale", PageController, "locale", as_=None)
    with scope("/saving"):
        pipe_through("saving")
        get("/", PageController, "locale", as_=None)
    with scope("/bare"):
        pipe_through(Conn.fetch_locale)
        get("/", PageController, "locale", as_=None)
    get("/none", PageController, "locale", as_=None)


SECRET = "x" * 64


def app(**gettext: Any) -> Endpoint:
    french = 'msgid "Hello"\nmsgstr "Bonjour"\n'
    given = {"messages": {"de": GERMAN, "fr": french}, "from_": "no/such/folder", **gettext}
    return Endpoint(Router, secret_key_base=SECRET, env="test", gettext=given)


def test_param_session_cookie_and_header_are_asked_in_this_order() -> None:
    client = app().test(raise_errors=True)
    headers = {"accept-language": "de"}
    assert client.get("/locale").resp_body == "en Hello"
    assert client.get("/locale", headers=headers).resp_body == "de Hallo"
    client.cookies["locale"] = "fr"
    assert client.get("/locale", headers=headers).resp_body == "fr Bonjour"
    client.put_session(locale="de")
    assert client.get("/locale", headers={"accept-language": "en"}).resp_body == "de Hallo"
    assert client.get("/locale?locale=fr").resp_body == "fr Bonjour"
    assert client.get("/in/fr?locale=en").resp_body == "fr Bonjour"
    assert client.get("/locale?locale=xx").resp_body == "de Hallo"  # which there is not, so the next is asked
    assert client.get("/locale?locale[]=fr").resp_body == "de Hallo"
    assert client.get("/locale").resp_body == "de Hallo"  # a param counts for its request


def test_only_an_answer_that_depends_on_the_header_says_so() -> None:
    client = app().test()
    assert client.get("/locale").get_resp_header("vary") == ["Accept-Language"]
    assert client.get("/locale?locale=de").get_resp_header("vary") == []
    assert client.get("/none").get_resp_header("vary") == []


def test_a_locale_that_came_as_a_param_is_kept_if_asked() -> None:
    client = app().test(raise_errors=True)
    assert client.get("/saving?lang=fr").resp_body == "fr Bonjour"
    assert client.get("/saving").resp_body == "fr Bonjour"
    assert client.get("/saving?lang=xx").resp_body == "fr Bonjour"
    assert client.get("/saving?lang=de-AT").resp_body == "de Hallo"
    assert client.get("/saving").resp_body == "de Hallo"


def test_sessions_are_needed_only_to_keep_a_locale() -> None:
    with pytest.raises(phoenix.PhoenixError, match="session not fetched, call fetch_session first"):
        build_conn(endpoint=app()).fetch_locale(save=True)
    assert app().test().get("/bare?locale=de").resp_body == "de Hallo"


def test_without_the_plug_the_locale_is_the_default_one() -> None:
    assert app().test().get("/none?locale=fr", headers={"accept-language": "fr"}).resp_body == "en Hello"
    assert app(default="de").test().get("/none").resp_body == "de Hallo"
    assert build_conn().locale == "en" and build_conn().gettext("Hello %{x}", x=1) == "Hello 1"


def test_an_action_may_choose_the_locale() -> None:
    conn = build_conn(endpoint=app())
    assert conn.put_locale("de-AT").gettext("Hello") == "Hallo" and conn.locale == "de"
    with pytest.raises(ArgumentError, match="there is no locale 'xx', only de, en, fr"):
        conn.put_locale("xx")


def test_the_words_of_a_conn() -> None:
    conn = build_conn(endpoint=app()).put_locale("de")
    assert conn.gettext("Hello %{name}", name="Ann") == "Hallo, Ann!"
    assert conn.ngettext("one post", "%{count} posts", 3) == "3 Beiträge"
    assert conn.gettext("%{text} %{self}", text=1, self=2) == "1 2"


# --- Templates ----------------------------------------------------------------------------


def test_templates_translate_without_the_conn_and_escape() -> None:
    client = app().test(raise_errors=True)
    body = client.get("/?locale=de").resp_body
    assert body.split() == ["Hallo,", "&lt;b&gt;!", "2", "Beiträge", "Darf"]
    assert client.get("/").resp_body.split() == ["Hello", "&lt;b&gt;", "2", "posts", "May"]


def test_a_translation_with_markup_is_shown_as_text() -> None:
    conn = build_conn(endpoint=app(messages={"de": {"Hello %{name}": "<i>%{name}</i>"}})).put_locale("de")
    assert render_to_string(PageView, "link.html", conn=conn, name="A&B") == (
        '&lt;i&gt;<a href="/">A&amp;B</a>&lt;/i&gt;'
    )  # only what the app has marked as safe is


def test_texts_are_not_escaped_where_there_is_no_html() -> None:
    conn = build_conn(endpoint=app()).put_locale("de")
    assert render_to_string(PageView, "index.text", conn=conn, name="<b>") == "Hallo, <b>!"
    assert not isinstance(conn.gettext("Hello"), Safe)


def test_a_template_without_a_conn_says_what_it_needs() -> None:
    with pytest.raises(ArgumentError, match="gettext in a template needs the conn: render it with conn=conn"):
        render_to_string(PageView, "index.text", name="x")


class OwnView(View):
    template("x.text.eex", "<%= gettext('Hello') %>")

    def gettext(self, text: str) -> str:
        return text.upper()


def test_a_view_may_have_a_gettext_of_its_own() -> None:
    assert render_to_string(OwnView, "x.text") == "HELLO"


# --- Files --------------------------------------------------------------------------------

APP = '''
import phoenix
from phoenix import *

class PageView(View):
    root = "templates"
    template("index.html.eex", """
        <h1><%= gettext("Inline") %></h1>
        <%= for each in []: %>
          <%= link(gettext("Home"), to="/") %>
        <% end %>
    """)

class PageController(Controller):
    def index(self, conn, params):
        conn.gettext("Hello"), conn.gettext(params.get("x", ""))
        conn.ngettext("one post", "%{count} posts", 3)
        return conn.text(conn.gettext("Hello") + conn.gettext("two "
            "parts"))

class Router(phoenix.Router):
    get("/", PageController, "index")

app = Endpoint(Router, env=ENV)
'''

POT = """\
msgid ""
msgstr ""
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

#: app.py:8
msgid "Inline"
msgstr ""

#: app.py:10
msgid "Home"
msgstr ""

#: app.py:16
#: app.py:18
msgid "Hello"
msgstr ""

#: app.py:17
msgid "one post"
msgid_plural "%{count} posts"
msgstr[0] ""
msgstr[1] ""

#: app.py:18
msgid "two parts"
msgstr ""

#: templates/page/more.html.eex:2
msgid "From a file"
msgstr ""
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP.replace("ENV", "'dev'"))
    (tmp_path / "templates" / "page").mkdir(parents=True)
    (tmp_path / "templates" / "page" / "more.html.eex").write_text('<p>\n<%= gettext("From a file") %></p>\n')
    for place in ("tests/test_app.py", ".venv/lib.py", "env/lib.py", "node_modules/x.py", "phoenix.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text('gettext("Not of the app")')
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    return tmp_path


def extract(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = "import sys, phoenix; sys.exit(phoenix.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}",
         "gettext", "extract", *words],
        cwd=folder, env={**os.environ, "PYTHONUTF8": "1"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_extract_collects_the_texts_of_code_and_templates(folder: Path) -> None:
    done = extract(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "priv/gettext/default.pot").read_text() == POT
    assert [str(entry.msgid) for entry in polib.pofile(POT)] == ["Inline", "Home", "Hello", "one post", "two parts", "From a file"]


def test_extract_begins_a_catalog(folder: Path) -> None:
    done = extract(folder, "--locale", "ru", "--locale", "pt_BR")
    assert done.returncode == 0 and "ru: 0 translated, 6 to do\n" in done.stdout
    catalog = polib.pofile(str(folder / "priv/gettext/ru/LC_MESSAGES/default.po"))
    assert catalog.metadata["Language"] == "ru" and catalog.metadata["Plural-Forms"].startswith("nplurals=3;")
    assert sorted(catalog.find("one post").msgstr_plural) == [0, 1, 2]
    assert (folder / "priv/gettext/pt_BR/LC_MESSAGES/default.po").exists()


def test_extract_keeps_what_translators_wrote(folder: Path) -> None:
    path = write_catalog(folder, "de", r"""
# Our team
msgid ""
msgstr ""
"Language: de\n"
"X-Team: ours\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"

# to a friend
#: old.py:1
msgid "Hello"
msgstr "Hallo"

#: old.py:2
msgid "Gone"
msgstr "Weg"

#: old.py:3
msgid "Gone and never translated"
msgstr ""

#: old.py:4
msgid "one post"
msgstr "ein Beitrag"

# for a key that is computed
msgid "users.title"
msgstr "Benutzer"

#~ msgid "Inline"
#~ msgstr "Im Text"
""")  # fmt: skip
    done = extract(folder)
    assert done.returncode == 0 and "de: 3 translated, 3 to do, 1 fuzzy" in done.stdout
    catalog = polib.pofile(str(path))
    assert catalog.header.strip() == "Our team" and catalog.metadata["X-Team"] == "ours"
    hello = catalog.find("Hello")
    assert (hello.msgstr, hello.tcomment, hello.occurrences) == ("Hallo", "to a friend", [("app.py", "16"), ("app.py", "18")])
    posts = catalog.find("one post")
    assert (posts.msgstr_plural, posts.fuzzy) == ({0: "ein Beitrag", 1: ""}, True)
    assert catalog.find("Inline").msgstr == "Im Text" and not catalog.find("Inline").obsolete
    assert catalog.find("users.title").msgstr == "Benutzer" and not catalog.find("users.title").obsolete
    assert [(entry.msgid, entry.msgstr) for entry in catalog.obsolete_entries()] == [("Gone", "Weg")]
    assert catalog.find("Home").msgstr == "" and len(catalog) == 8
    before = path.read_text()
    assert extract(folder).returncode == 0 and path.read_text() == before  # a second time changes nothing


def test_what_cannot_be_extracted_is_said(folder: Path) -> None:
    (folder / "app.py").write_text('def f(conn, x):\n    conn.gettext(f"a {x}")\n    conn.ngettext("a", f"a {x}", x)\n')
    done = extract(folder)
    assert done.returncode == 0
    assert done.stderr == (
        'app.py:2: an f-string cannot be translated, write gettext("Hello %{name}", name=...)\n'
        'app.py:3: an f-string cannot be translated, write ngettext("Hello %{name}", name=...)\n'
    )


def test_code_says_its_encoding(folder: Path) -> None:
    (folder / "app.py").write_text("# coding: latin-1\ngettext('Caf\xe9')\n", encoding="latin-1")
    assert extract(folder).returncode == 0
    assert polib.pofile(str(folder / "priv/gettext/default.pot")).find("Caf\xe9")


@pytest.mark.parametrize(
    "file, source, said",
    [
        ("app.py", "def f(:", "app.py:1: invalid syntax"),
        ("templates/page/more.html.eex", "<p>\n<%= if x: %>", "more.html.eex:2: expected a closing '<% end %>'"),
        ("app.py", "\ntemplate('x.html.eex', '''a\n<%= ( %>''')\n", "app.py:3: "),
        ("app.py", "\ngettext('\xe9')", "app.py:2: "),
        ("templates/page/more.html.eex", "<p>\n\xe9", "more.html.eex:2: a template is kept in UTF-8"),
    ],
)
def test_code_that_cannot_be_read_is_named_with_its_line(folder: Path, file: str, source: str, said: str) -> None:
    (folder / file).write_text(source, encoding="latin-1")
    done = extract(folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr and said in done.stderr


def test_hidden_files_are_no_code_of_the_app(folder: Path) -> None:
    (folder / ".#app.py").symlink_to("somebody@editing.1234")  # as Emacs does
    done = extract(folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bad_catalog_stops_the_extraction_before_anything_is_written(folder: Path) -> None:
    path = write_catalog(folder, "de", 'msgid "a"\nmsgstr "b')
    done = extract(folder)
    assert done.returncode == 1 and f"default.po:2: expected a line such as" in done.stderr
    assert path.read_text() == 'msgid "a"\nmsgstr "b' and not (folder / "priv/gettext/default.pot").exists()


@pytest.mark.parametrize(
    "words, said, line",
    [
        (["--locale", "pt-BR"], "'pt-BR' cannot name a language", "gettext extract --locale pt_BR"),
        (["--locale", "../x"], "'../x' cannot name a language", "gettext extract --locale pt_BR"),
        (["nowhere"], "there is no folder nowhere", "gettext extract ."),
    ],
)
def test_a_mistake_is_answered_with_the_line_to_type(folder: Path, words: list[str], said: str, line: str) -> None:
    done = extract(folder, *words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.rstrip().endswith(line)


def test_what_stands_in_files_goes_before_messages(tmp_path: Path) -> None:
    write_catalog(tmp_path, "de", 'msgid "Hello"\nmsgstr "Servus"\n')
    translations = german(from_=tmp_path / "priv/gettext")
    translations.look_beside(None)
    assert (translations.translate("de", "Hello"), translations.translate("de", "May")) == ("Servus", "Darf")


def served(folder: Path, env: str) -> Any:
    names: dict[str, Any] = {"__name__": "i18n_app", "__file__": str(folder / "app.py"), "ENV": env}
    module = sys.modules["i18n_app"] = type(sys)("i18n_app")
    module.__dict__.update(names)
    exec(compile(APP, str(folder / "app.py"), "exec"), module.__dict__)
    return module.__dict__["app"].test(raise_errors=True)


def test_catalogs_beside_the_app_are_read_again_in_dev_only(folder: Path) -> None:
    for env in ("dev", "prod"):
        path = write_catalog(folder, "en", 'msgid "Hello"\nmsgstr "Hi"\n')
        client = served(folder, env)
        assert client.get("/").resp_body == "Hitwo parts"
        path.write_text('msgid "Hello"\nmsgstr "Howdy"\n')
        assert client.get("/").resp_body == ("Howdytwo parts" if env == "dev" else "Hitwo parts")
        path.unlink()
        assert client.get("/").resp_body == ("Hellotwo parts" if env == "dev" else "Hitwo parts")


def test_a_first_catalog_is_found_while_the_app_runs_in_dev_only(folder: Path) -> None:
    for env in ("prod", "dev"):
        client = served(folder, env)
        assert not (folder / "priv").exists() and client.get("/").resp_body == "Hellotwo parts"
        write_catalog(folder, "en", 'msgid "Hello"\nmsgstr "Hi"\n')
        assert client.get("/").resp_body == ("Hitwo parts" if env == "dev" else "Hellotwo parts")
        shutil.rmtree(folder / "priv")
        assert client.get("/").resp_body == "Hellotwo parts"


def test_a_bad_catalog_is_an_error_in_dev_until_it_is_mended(folder: Path) -> None:
    path = write_catalog(folder, "en", 'msgid "Hello"\nmsgstr "Hi"\n')
    client = served(folder, "dev")
    path.write_text('msgid "Hello"\nmsgstr "Howdy\n')
    for _ in range(2):
        with pytest.raises(TranslationError, match="default.po:2: expected a line such as"):
            client.get("/")
    path.write_text('msgid "Hello"\nmsgstr "Howdy"\n')
    assert client.get("/").resp_body == "Howdytwo parts"


def test_a_bad_catalog_is_found_when_the_app_is_defined(folder: Path) -> None:
    path = write_catalog(folder, "en", 'msgid "Hello"')
    with pytest.raises(TranslationError, match="default.po:1: expected msgid and msgstr"):
        served(folder, "prod")
    path.unlink()
    with pytest.raises(phoenix.ConfigError, match="'defualt'.*Did you mean 'default'"):
        Endpoint(Router, secret_key_base=SECRET, gettext={"defualt": "de"})

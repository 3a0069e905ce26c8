"""What a dataset says is shown as text: it does nothing to a terminal, to Markdown, or to a page of it."""

import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from typer.testing import CliRunner

from gvit.commands.app import app
from gvit.dataset.card import dataset_card
from gvit.dataset.markdown import escaped, table
from gvit.dataset.reader import open_dataset
from gvit.pictures.progress import Display, say_on
from gvit.pictures.summary import print_summary
from gvit.schemas.text import printable

from .hostile import change_json, change_rows, make_true
from .small_dataset import write_small

ATTACKS = [
    "\x1b[2J\x1b]0;owned\x07",
    "[bold red]x[/]",
    "</td><script>alert(1)</script>",
    "![x](https://e.invalid/x.png)",
    "a|b\n# title\n```",
    "`code` *b* _i_ ~~s~~ &lt; $x$ :smile:",
    "\u202egnp.exe",
    "\x9b2J",
    "https://e.invalid www.e.invalid",
]
TEXT = st.text(max_size=40) | st.text("\\`*_[]<>|~&#!${}:/.w\n\x1bax", max_size=20)


def acts(text):
    return any(c in "\u202e\u2028" or (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") for c in text)


@given(TEXT)
@example("\ud800")
def test_printable_text_is_one_line_that_does_nothing(text):
    shown = printable(text)
    assert not acts(shown)
    assert "\n" not in shown
    assert printable(shown) == shown
    assert all(c in shown for c in text if c.isalnum())


@given(TEXT)
@example("www.a.b")
@example("a://b")
def test_escaped_text_is_text_to_a_reader_of_markdown(text):
    page = MarkdownIt("gfm-like", {"linkify": False}).parse(f"x {escaped(text)} x")
    (paragraph,) = (token for token in page if token.type == "inline")
    assert {child.type for child in paragraph.children} <= {"text", "text_special"}
    found = "".join(child.content for child in paragraph.children)
    assert found == f"x {printable(text)} x"


@given(TEXT.filter(str.strip))
def test_a_cell_stays_one_cell(text):
    page = MarkdownIt("gfm-like", {"linkify": False}).parse(table({"a": ["1"], "b": [text]}, right=["a"]))
    assert [token.type for token in page].count("td_open") == 2
    assert not [token for token in page if token.type in ("html_block", "fence", "heading_open")]


@pytest.fixture(params=ATTACKS, ids=range(len(ATTACKS)))
def hostile(request, tmp_path):
    text = request.param
    classes = tuple(sorted({text, "other"}))
    folder = tmp_path / "d"
    write_small(folder, shards={"shard-000000": ("train", (3,))}, classes=classes)
    change_rows(folder, lambda rows: rows[-1].update(error=text, source=text))
    change_json(folder / "dataset.json", lambda manifest: manifest.update(name=text))
    (folder / "class-names.json").write_text(json.dumps({text: text, "other": text}))
    make_true(folder)
    return folder, text


def test_the_commands_that_show_a_dataset_show_text(hostile):
    folder, text = hostile
    for arguments in (["info"], ["verify", "--deep"], ["status"], ["view", "no such\x1bkey"]):
        result = CliRunner().invoke(app, [arguments[0], str(folder), *arguments[1:]])
        said = result.output + str(result.exception or "")
        assert not acts(result.output), arguments
        assert said, arguments
    shown = CliRunner().invoke(app, ["info", str(folder)]).output
    assert printable(text) in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_consoles_are_given_text(hostile, terminal):
    folder, text = hostile
    plain = Console(width=400, force_terminal=False, file=None, record=True)
    print_summary(open_dataset(folder), plain)
    say_on(plain, text)
    assert printable(text) in plain.export_text()
    screen = Console(width=80, force_terminal=terminal, record=True, color_system=None)
    with Display(text, 2, screen) as display:
        display.show(1, [text], {"w": text})
        display.say(text)
    assert printable(text) == text or text not in screen.export_text(styles=False)


def test_a_card_is_the_same_card_whatever_a_dataset_is_called(hostile, tmp_path):
    folder, _ = hostile
    plain = tmp_path / "plain"
    write_small(plain, shards={"shard-000000": ("train", (3,))}, classes=("b", "other"))
    (plain / "class-names.json").write_text('{"b": "b", "other": "other"}')

    def kinds(path):
        parser = MarkdownIt("gfm-like", {"linkify": False})
        card = dataset_card(open_dataset(path)).split("---\n", 2)[2]
        tokens = parser.parse(card)
        inner = [child.type for token in tokens for child in token.children or []]
        blocks = [t.type for t in tokens if not t.type.startswith(("td", "th", "tr"))]
        return blocks, {kind: inner.count(kind) for kind in ("image", "link_open", "html_inline", "em_open")}

    assert kinds(folder) == kinds(plain)


def test_an_error_says_a_name_as_text(tmp_path):
    from gvit.commands import app as commands

    name = tmp_path / "a\x1b[2Jb[red]"
    with pytest.raises(SystemExit):
        commands._run(lambda: open_dataset(name))

"""The page of a board: its rows, what is left off, texts of strangers as text, and its size and time with many rows."""

import base64
import csv
import gzip
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lmms_steer.board.adding import Addition, add_runs
from lmms_steer.board.entry import slug
from lmms_steer.board.page import page_html, table_csv
from lmms_steer.board.reading import Board, read_board
from lmms_steer.cli import app
from tests.board.test_checks import GROUP
from tests.helpers.board_faults import change_json, edit_an_answer
from tests.helpers.boards import TASK, make_board, write_system
from tests.helpers.browser import BROWSER, Page, browser
from tests.helpers.runs import STEERED

HOSTILE = '=HYPERLINK("x")<script>document.title="owned"</script>'


needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium: apt-get install chromium")


def unpacked(page: str, pattern: str) -> list[Any]:
    return [json.loads(gzip.decompress(base64.b64decode(text))) for text in re.findall(pattern, page)]


def page_rows(page: str) -> list[dict[str, Any]]:
    head = re.search(r'id="data">(.*?)</script>', page)
    assert head is not None
    columns = json.loads(head[1])["columns"]
    (rows,) = unpacked(page, r'id="packed">(.*?)</script>')
    return [dict(zip(columns, row, strict=True)) for row in rows]


def details(page: str) -> list[dict[str, Any]]:
    return [row for part in unpacked(page, r'class="details">(.*?)</script>') for row in part]


def many_rows(board: Board, count: int) -> Board:
    rows = [replace(board.rows[n % 3], place=f"m{n % 7}/t{n % 11}/s{n}", system=f"s{n}") for n in range(count)]
    return replace(board, rows=tuple(rows))


def add_hostile(board: Path) -> None:
    """Add an entry with a name that the command line would not take."""
    list(add_runs(board, [f"odd={write_system(board.parent / 'more', STEERED)}"], Addition(by=HOSTILE, about=HOSTILE)))
    change_json(board / GROUP / "odd" / "entry.json", lambda entry: entry.update(system=HOSTILE))
    (board / GROUP / "odd").rename(board / GROUP / slug(HOSTILE))


def test_a_row_has_the_gain_beside_baseline_and_best_control_and_its_commands(tmp_path: Path) -> None:
    page = page_html(read_board(make_board(tmp_path / "board"), processes=1))
    rows = {row["system"]: row for row in page_rows(page)}
    steered = rows["steered"]
    assert (steered["base"], steered["score"], steered["gain"], steered["percent"]) == (0.6, 0.7, 0.1, True)
    assert (steered["control"], steered["controlKind"], steered["controlSystem"]) == (0.01, "random", "random")
    made = details(page)[[row["system"] for row in page_rows(page)].index("steered")]
    assert made["command"].startswith("lmms-eval --model steered_paligemma --model_args pretrained=tiny-paligemma2")
    assert made["outcomes"]["scores"] == ["passed", "100 scores recomputed"]


def test_a_refused_entry_is_listed_but_has_no_row(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    edit_an_answer(board / GROUP / "steered")
    done = CliRunner().invoke(app, ["leaderboard", "build", str(board), "--workers", "1"])
    assert done.exit_code == 0 and "2 rows" in done.output
    page = (board / "site" / "index.html").read_text()
    assert [row["system"] for row in page_rows(page)] == ["baseline", "random"]
    assert f"<code>tiny-paligemma2/{TASK}/steered</code>: scores: 1 of 100" in page


def test_texts_of_strangers_are_neither_html_nor_formulas(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    add_hostile(board)
    rules = board / "leaderboard.yaml"
    rules.write_text(rules.read_text().replace('"Tiny"', json.dumps(HOSTILE)))
    read = read_board(board, processes=1)
    page, table = page_html(read), table_csv(read.shown)
    assert "<script>document" not in page and HOSTILE in {row["system"] for row in page_rows(page)}
    cells = [cell for row in csv.reader(table.splitlines()) for cell in row]
    assert f"'{HOSTILE}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@")) or re.match(r"-\D", cell)]


def test_ten_thousand_rows_are_a_page_of_a_few_megabytes_in_seconds(tmp_path: Path) -> None:
    board = many_rows(read_board(make_board(tmp_path / "board"), processes=1), 10_000)
    start = time.process_time()
    page = page_html(board)
    assert time.process_time() - start < 15 and len(page) < 6e6
    assert len(page_rows(page)) == len(details(page)) == 10_000


CELLS = "[...document.querySelectorAll('#board-table tbody tr')].map((row) => row.children[2].textContent)"
READY = "new Promise((done) => { const look = () => (rows.length ? done(1) : setTimeout(look, 20)); look(); })"
OPENED = "new Promise((done) => { const look = () => (BY_ID('made').open ? done(1) : setTimeout(look, 20)); look(); })"
CLOSED = OPENED.replace("BY_ID('made').open", "!BY_ID('made').open && !location.hash")
"""A dialog tells that it was closed, upon which the page forgets the row, a moment later."""


WAYS = {"less": -1, "more": 1}
"""What is better ▸ its direction."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages `page.html` of four entries and `many.html` of ten thousand."""
    folder = tmp_path_factory.mktemp("pages")
    board = make_board(folder / "board")
    add_hostile(board)
    read = read_board(board, processes=1)
    (folder / "page.html").write_text(page_html(read))
    (folder / "many.html").write_text(page_html(many_rows(read, 10_000)))
    return folder


@pytest.fixture
def opened(pages: Path, tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as page:
        page.open(pages / "page.html")
        page.run(READY)
        yield page


def choose(page: Page, name: str, value: str) -> list[str]:
    """Set a filter; returns the systems that are then listed."""
    page.run(f"BY_ID('{name}').value = '{value}'; BY_ID('{name}').dispatchEvent(new Event('input'))")
    return list(page.run(CELLS))


@needs_browser
def test_in_a_browser_rows_are_found_sorted_linked_and_shown_as_text(opened: Page) -> None:
    assert set(opened.run(CELLS)) == {"baseline", "random", "steered", HOSTILE}
    assert opened.run("document.title") == "Tiny"
    opened.run("sortBy('gain')")
    assert opened.run(CELLS)[-1] == "baseline" and "steered" in opened.run(CELLS)[:2]
    assert choose(opened, "find", "RANDOM paligemma") == ["random"] and choose(opened, "find", "random whatsup") == []
    choose(opened, "find", "")
    assert choose(opened, "by-role", "baseline") == ["baseline"]
    opened.run(f"location.hash = 'tiny-paligemma2/{TASK}/steered'")
    opened.run(OPENED)
    shown = opened.run("BY_ID('made').textContent")
    assert "Gain +10.0 [+1.3, +19.2]" in shown and "100 scores recomputed" in shown
    # all questions show one image
    assert opened.run("gainText({ gain: 0.1, low: null, high: null, percent: true })") == "+10.0 [-∞, +∞]"


@needs_browser
def test_with_the_keyboard_alone_a_row_is_opened_its_command_copied_and_the_row_left(opened: Page) -> None:
    opened.run(
        "Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { copied = text } } })"
    )
    choose(opened, "by-role", "control")
    focused = "document.activeElement"
    for _ in range(40):
        opened.press("Tab", 9)
        if opened.run(f"{focused}.textContent") == "random":
            break
    opened.press("Enter", 13, "\r")
    opened.run(OPENED)
    labels = []
    for _ in range(4):
        labels.append(opened.run(f"{focused}.textContent"))
        opened.press("Tab", 9)
    assert labels[0] == "✕" and labels[1].startswith("lmms-eval --model") and labels[2] == "copy"
    opened.press("Enter", 13, "\r")
    assert opened.run("copied") == f"lmms-steer leaderboard rerun entries/tiny-paligemma2/{TASK}/random --limit 50"
    opened.press("Escape", 27)
    opened.run(CLOSED)
    assert opened.run(f"{focused}.textContent") == "random"


@needs_browser
def test_in_a_browser_an_improvement_has_its_colour_where_less_is_better(opened: Page, tmp_path: Path) -> None:
    read = read_board(make_board(tmp_path / "board"), processes=1)
    row = next(row for row in read.rows if row.system == "steered")
    row = replace(row, gain=-0.1, low=-0.2, high=-0.01)
    rows = [replace(row, place=f"m/t/{name}", system=name, direction=way) for name, way in WAYS.items()]
    (tmp_path / "page.html").write_text(page_html(replace(read, rows=tuple(rows))))
    opened.open(tmp_path / "page.html")
    opened.run(READY)
    colour = "(row) => [row.children[2].textContent, row.querySelector('td.gain').classList.contains('up')]"
    shown = opened.run(f"[...document.querySelectorAll('#board-table tbody tr')].map({colour})")
    assert dict(shown) == {"less": True, "more": False}


@needs_browser
@pytest.mark.parametrize("width", [390, 1400])
def test_gain_and_damage_can_be_read_and_tapped(opened: Page, tmp_path: Path, width: int) -> None:
    read = read_board(make_board(tmp_path / "board"), processes=1)
    row = next(row for row in read.rows if row.system == "steered")
    rows = [replace(row, place=f"m/t/s{n}", system=f"s{n}", gain=n / 10, kl=10.0**-n) for n in range(6)]
    (tmp_path / "page.html").write_text(page_html(replace(read, rows=tuple(rows))))
    opened.call("Emulation.setDeviceMetricsOverride", width=1000, height=740, deviceScaleFactor=1, mobile=False)
    opened.open(tmp_path / "page.html")
    opened.run(READY)
    # the plot follows the window
    opened.call("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=1, mobile=width < 600)
    opened.run("BY_ID('damage').scrollIntoView(); new Promise((done) => setTimeout(done, 300))")
    boxes = opened.run(
        "[...document.querySelectorAll('#damage-plot text')].map((one) => one.getBoundingClientRect().toJSON())"
    )
    assert min(box["height"] for box in boxes) >= 10 and max(box["right"] for box in boxes) <= width
    ticks = sorted((box for box in boxes if len({box["bottom"], boxes[0]["bottom"]}) == 1), key=lambda box: box["left"])
    assert len(ticks) >= 3 and all(one["right"] < two["left"] for one, two in zip(ticks, ticks[1:], strict=False))
    assert opened.run("document.documentElement.scrollWidth") == width
    point = opened.run("document.querySelectorAll('#damage-plot g.point')[3].getBoundingClientRect().toJSON()")
    where = {"x": point["right"] + 5, "y": point["bottom"] + 5}
    for kind in ("mousePressed", "mouseReleased"):
        opened.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)
    assert opened.run("location.hash") == "#m/t/s3"
    opened.run(OPENED)


@needs_browser
def test_in_a_browser_ten_thousand_rows_are_usable(opened: Page, pages: Path) -> None:
    opened.open(pages / "many.html")
    opened.run(READY)
    assert opened.run(f"{CELLS}.length") == 200
    opened.run("BY_ID('board-more').click()")
    assert opened.run(f"{CELLS}.length") == 400
    assert choose(opened, "find", "s9999") == ["s9999"]
    opened.run("location.hash = rows.at(-1).place")
    opened.run(OPENED)
    assert opened.run("BY_ID('made-title').textContent").startswith("s9999 on ")

"""The page of `lmms-steer compare --html`, opened and used in a real browser."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb

from lmms_steer.comparison.command import run_comparison
from lmms_steer.plots.heatmap import colour_limit, gain_colormap, text_colour
from tests.comparison.page import EVIL, EVIL_NAME, write_hostile_page
from tests.helpers.browser import BROWSER, Page, browser
from tests.helpers.runs import BASE, STEERED, write_run, write_study

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium: apt-get install chromium")

HELP = """
const rows = () => [...BY_ID("board-table").tBodies[0].rows];
const cells = (column) => rows().map((row) => row.cells[column].textContent);
const choose = (id, value) => { BY_ID(id).value = value; BY_ID(id).dispatchEvent(new Event("input")); };
const head = (name) => [...BY_ID("board-table").tHead.rows[0].cells].find((cell) => cell.textContent === name);
const until = (test) => new Promise((done) => {
  const begun = Date.now();
  const look = () => (test() || Date.now() - begun > 20000 ? done(test()) : setTimeout(look, 10));
  look();
});
const show = (task, filter, system) => {
  choose("samples-task", task); choose("samples-filter", filter); choose("samples-system", system);
};
const listed = () => BY_ID("samples-list").textContent;
const counted = (text) => until(() => BY_ID("samples-count").textContent.includes(text));
const bright = (colour) => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(colour);
  canvas.fillRect(0, 0, 1, 1);
  const shares = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((x) => x / 255);
  const [r, g, b] = shares.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
};
const contrast = (one, two) => Math.max(bright(one) / bright(two), bright(two) / bright(one));
0
"""
COLOURS = ("--ink", "--soft", "--mark", "--good", "--bad", "--steered", "--control", "--prompted", "--other")


@pytest.fixture
def opened(page: tuple[Path, list[str]], tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as shown:
        shown.open(page[0])
        shown.run(HELP)
        yield shown


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    return write_hostile_page(tmp_path_factory.mktemp("page"))


def test_rows_can_be_sorted_and_filtered_and_show_their_provenance(opened: Page) -> None:
    see = opened.run
    assert see("rows().length") == 6
    see("head('score').firstChild.click()")
    assert see("cells(2)") == ["90.0", *["60.0"] * 5]
    assert see("head('score').getAttribute('aria-sort')") == "descending"
    see("head('score').firstChild.click()")
    assert see("cells(2)") == [*["60.0"] * 5, "90.0"]
    see("choose('board-find', 'STEE')")
    assert see("cells(1)") == ["steered", "steered"]
    see("choose('board-find', ''); BY_ID('board-sure').click()")
    assert see("cells(1)") == ["steered"]
    see("rows().find((row) => row.textContent.includes('steered')).querySelector('button').click()")
    for piece in (
        "lmms-eval --model steered_paligemma",
        "vector=v,layer=1",
        "5" * 64,
        "samples, sha256",
        "baseline on",
    ):
        assert piece in see("BY_ID('made').textContent")
    opened.press("Escape", 27)
    assert see("until(() => !BY_ID('made').open)")
    panels = see("[...document.querySelectorAll('#gains-panels svg')].map((svg) => svg.getAttribute('aria-label'))")
    assert len(panels) == 2 and any("steered +30.0 [" in panel for panel in panels)
    cells = see("[...document.querySelectorAll('#maps td')].map((cell) => [cell.textContent, cell.className])")
    assert ["+3.0", "best deep"] in cells and len(cells) == 4
    points = see("[...document.querySelectorAll('#maps .damage title')].map((title) => title.textContent)")
    assert "v, layer 3, alpha 1, image tokens: 3.0 points, KL 0.01 nats" in points and len(points) == 4


def test_dropped_cells_are_hollow_and_an_infinite_interval_is_not_drawn(tmp_path: Path) -> None:
    for name, right in (("baseline", 60), ("steered", 90)):
        scores = [1.0] * right + [0.0] * (100 - right)
        write_run(tmp_path / "runs" / name, {"kitchen": scores}, sample={"images": ["0123"]})
    places = [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]
    write_study(tmp_path / "study", dict.fromkeys(places, 0.1), places[:3], dict.fromkeys(places, 0.01))
    list(run_comparison([str(tmp_path / "runs")], studies=[tmp_path / "study"], html=tmp_path / "x.html"))
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "x.html")
        shown.run(HELP)
        fills = shown.run("[...document.querySelectorAll('#maps .damage path')].map((one) => one.getAttribute('fill'))")
        assert sorted(fills) == [*["var(--card)"] * 3, "var(--steered)"]
        assert "hollow: dropped early" in shown.run("document.querySelector('#maps .damage').textContent")
        lines = "[...document.querySelectorAll('#gains-panels g line')]"
        assert shown.run(f"{lines}.map((one) => one.x2.baseVal.value - one.x1.baseVal.value)") == [0]
        assert "+30.0 [-∞, +∞]" in shown.run("BY_ID('board-table').textContent")


def test_long_names_differ_controls_have_no_colour_and_row_buttons_are_visible(tmp_path: Path) -> None:
    base, better = [1.0] * 60 + [0.0] * 40, [1.0] * 100
    names = [
        f"spatial-mean_shift-random-{number}-on-image-tokens-of-layer-{layer}" for number in (0, 1) for layer in (3, 14)
    ]
    write_run(tmp_path / "runs/baseline", {"kitchen": base})
    write_run(tmp_path / "runs/steered", {"kitchen": better}, spec="vector=v")
    for name in names:
        write_run(tmp_path / "runs" / name, {"kitchen": better}, spec="vector=v,control=random:0")
    list(run_comparison([str(tmp_path / "runs")], html=tmp_path / "x.html"))
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "x.html")
        shown.run(HELP)
        gains = shown.run(
            "rows().map((row) => [row.className.split(' ')[0], row.querySelector('.up, .down') !== null])"
        )
        assert sorted(gains) == [["baseline", False], *[["control", False]] * 4, ["steered", True]]
        labels = shown.run("[...document.querySelectorAll('#gains-panels g text')].map((one) => one.textContent)")
        assert len(labels) == len(set(labels)) == 5 and max(map(len, labels)) <= 42
        titles = shown.run("[...document.querySelectorAll('#gains-panels g title')].map((one) => one.textContent)")
        assert all(any(title.startswith(f"{name}: ") for title in titles) for name in names)
        places = "rows().map((row) => row.querySelector('button').getBoundingClientRect().right)"
        for width in (1300, 1000, 800):
            shown.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            edge = shown.run("document.querySelector('.wide').getBoundingClientRect().right")
            assert max(shown.run(places)) <= edge, width


def test_gains_in_points_and_in_other_units_have_axes_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"kitchen": BASE, "captions": [2 * score + 0.01 for score in BASE]})
    better = [2 * score + 0.01 + 0.004 * (number % 4) for number, score in enumerate(BASE)]
    write_run(tmp_path / "steered", {"kitchen": STEERED, "captions": better}, spec="vector=v")
    list(run_comparison([str(tmp_path)], html=tmp_path / "x.html"))
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "x.html")
        shown.run(HELP)
        panels = "[...document.querySelectorAll('#gains-panels svg')]"
        ticks = f"{panels}.map((svg) => [...svg.querySelectorAll('.axis')].map((one) => Number(one.textContent)))"
        ends = {max(values) for values in shown.run(ticks)}
        assert len(ends) == 2 and min(ends) < 0.01 and max(ends) >= 10
        assert "those in points on one scale" in shown.run("BY_ID('gains').textContent")
        # each system has the largest gain of its axis, and so a long bar in the table
        places = shown.run("[...document.querySelectorAll('.bar rect')].map((one) => Number(one.getAttribute('x')))")
        assert len(places) == 2 and min(places) > 75


def test_answers_of_a_graded_task_are_not_called_correct(tmp_path: Path) -> None:
    for name in ("baseline", "steered"):
        write_run(tmp_path / name, {"kitchen": [0.5, 1.0, 2.0, 0.0]}, spec="vector=v" if name == "steered" else "")
    list(run_comparison([str(tmp_path)], html=tmp_path / "x.html"))
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "x.html")
        shown.run(HELP)
        shown.run("BY_ID('samples').scrollIntoView()")
        text = shown.run("counted('of 4').then(listed)")
    assert all(f"scores {score}" in text for score in ("0.5", "1", "2", "0"))
    assert "correct" not in text and "wrong" not in text


def test_answers_of_a_run_that_is_not_compared_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"kitchen": BASE})
    write_run(tmp_path / "steered", {"kitchen": STEERED}, spec="vector=v")
    hint = {"input": "Hint: the answer is A."}
    write_run(tmp_path / "hinted", {"kitchen": [1.0] * 100}, spec="vector=w", sample=hint)
    _, *lines = map(str, run_comparison([str(tmp_path)], html=tmp_path / "x.html"))
    assert "kitchen: no answers of hinted, not compared with the baseline" in lines
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "x.html")
        shown.run(HELP)
        shown.run("BY_ID('samples').scrollIntoView()")
        text = shown.run("counted('of 100').then(listed)")
        assert "▲ steered fixed" in text and "hinted" not in text
        assert "kitchen: no answers of hinted" in shown.run("BY_ID('notes').textContent")


def test_long_names_stay_inside_their_sections_on_a_phone(tmp_path: Path) -> None:
    task = "very_long_task_name_of_somebody_with_many_parts_and_options_test_2026"
    for name in ("baseline", "W" * 37, "system_with_a_long_name_number_0"):
        write_run(tmp_path / name, {task: BASE if name == "baseline" else STEERED}, spec=f"vector={name[:3]}")
    list(run_comparison([str(tmp_path)], baseline="baseline", html=tmp_path / "x.html"))
    with browser(tmp_path / "profile") as shown:
        shown.call("Emulation.setDeviceMetricsOverride", width=390, height=740, deviceScaleFactor=1, mobile=True)
        shown.open(tmp_path / "x.html")
        shown.run(HELP)
        assert shown.run("document.documentElement.scrollWidth") == 390
        section = shown.run("BY_ID('gains-panels').getBoundingClientRect().left")
        labels = "[...document.querySelectorAll('#gains-panels g text')]"
        places = shown.run(f"{labels}.map((one) => one.getBoundingClientRect().left)")
    assert len(places) == 2 and min(places) >= section


def test_answers_can_be_browsed_by_keyboard_and_filtered(opened: Page) -> None:
    see = opened.run
    see("BY_ID('samples').scrollIntoView()")
    assert see("counted('1–12 of 30 (30 of 100 questions are on this page)')")
    assert see("document.querySelectorAll('article').length") == 12
    see("BY_ID('samples-on').focus()")
    opened.press("ArrowRight", 39)
    assert see("counted('13–24 of 30')")
    see("show('tiny_spatial', 'broken', 'steered')")
    assert see("counted('1–5 of 5')")
    shown = see("document.querySelector('article').textContent")
    assert "▼ steered broken" in shown and "✓ correct" in shown
    # every control can be reached with the tab key, and has a name
    see("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        opened.press("Tab", 9)
        reached.add(see("document.activeElement.id || document.activeElement.textContent"))
    assert {"theme", "board-task", "board-find", "score", "…", "maps-vector", "samples-filter"} <= reached
    named = "one.getAttribute('aria-label') || one.closest('label') || one.textContent.trim()"
    assert see(f"[...document.querySelectorAll('button, select, input')].every((one) => {named})")


@contextmanager
def answers(folder: Path, count: int) -> Iterator[Any]:
    """Open `x.html` at its answers, and wait until it lists this number of questions."""
    with browser(folder / "profile") as shown:
        shown.open(folder / "x.html")
        shown.run(HELP)
        shown.run("BY_ID('samples').scrollIntoView()")
        assert shown.run(f"counted('of {count}')")
        yield shown


def test_correct_letter_is_shown_with_the_text_of_its_choice(tmp_path: Path) -> None:
    logged: list[dict[str, Any]] = [
        {"choices": ["left", EVIL], "target": "B"},
        {"doc": {"captions": ["a cup on a table", "a cup under it"]}, "target": "(A)"},
        {"choices": ["A", "B"], "target": "A"},
        {"choices": ["A cup", "a hat"], "target": "cup"},
        {"choices": ["left"], "target": "B"},
        {"target": "B"},
    ]
    write_run(tmp_path / "runs/baseline", {"a": [1.0] * len(logged)}, sample=logged.__getitem__)
    list(run_comparison([str(tmp_path / "runs")], html=tmp_path / "x.html"))
    with answers(tmp_path, 6) as shown:
        lines = shown.run("[...document.querySelectorAll('article .soft')].map((line) => line.textContent)")
    rights = [f"B, {EVIL}", "(A), a cup on a table", "A", "cup", "B", "B"]
    assert lines == [f"question {number} · answer: {right}" for number, right in enumerate(rights)]


def test_lower_is_fixed_where_less_is_better_and_a_missing_score_is_no_change(tmp_path: Path) -> None:
    results = {"higher_is_better": {"errors": {"acc": False}}}
    for name, scores in (("baseline", [3, 3, 3, 0]), ("s", [0, 1, 5, 0]), ("lost", [3, 3, 3, float("nan")])):
        write_run(
            tmp_path / "runs" / name, {"errors": scores}, spec="" if name == "baseline" else "vector=v", results=results
        )
    list(run_comparison([str(tmp_path / "runs")], html=tmp_path / "x.html"))
    with answers(tmp_path, 4) as shown:
        for kind, system, count in (("fixed", "s", "of 2"), ("broken", "s", "of 1"), ("broken", "lost", "none of")):
            shown.run(f"show('errors', '{kind}', '{system}')")
            assert shown.run(f"counted('{count}')"), (kind, system)
        assert "wrong" not in shown.run("show('errors', 'all', ''), counted('of 4').then(listed)")


def test_chosen_task_is_shown_even_if_another_unpacks_later(opened: Page) -> None:
    see = opened.run
    see("const unpack = taskSamples; let done; const late = new Promise((found) => { done = found; }); 0")
    see("taskSamples = async (name) => { if (name === 'b') await late; return unpack(name); }; 0")
    see("choose('samples-task', 'b'); show('tiny_spatial', 'broken', 'steered')")
    assert see("counted('of 5')")
    see("done(); new Promise((drawn) => setTimeout(drawn, 300))")
    assert "of 5" in see("BY_ID('samples-count').textContent")


def test_content_of_a_run_is_shown_as_text_only(opened: Page) -> None:
    see = opened.run
    see("BY_ID('samples').scrollIntoView()")
    see("counted('of 30')")
    see("show('tiny_spatial', 'broken', 'steered')")
    text = see("until(() => listed().includes('window')).then(listed)")
    assert EVIL in text and EVIL_NAME in text and "… (20,000,000 characters, cut)" in text
    assert see("[window.hacked ?? 0, document.querySelectorAll('main script, img:not([src^=\"data:\"])').length]") == [
        0,
        0,
    ]
    assert see("performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("width", [390, 360, 320])
def test_every_section_can_be_reached_from_the_head_on_a_phone(opened: Page, width: int) -> None:
    opened.call("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=2, mobile=True)
    ends = opened.run("[...document.querySelectorAll('nav a')].map((link) => link.getBoundingClientRect().right)")
    assert len(ends) == 5 and max(ends) <= width
    head = opened.run("BY_ID('gains').scrollIntoView(), document.querySelector('nav').getBoundingClientRect().bottom")
    assert opened.run("BY_ID('gains-title').getBoundingClientRect().top") >= head


def test_page_is_readable_on_a_phone_in_light_and_dark(opened: Page) -> None:
    see = opened.run
    opened.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    see("BY_ID('samples').scrollIntoView()")
    see("counted('of 30')")
    assert see("document.documentElement.scrollWidth") <= 360
    see("choose('board-sort', 'score')")
    assert see("[BY_ID('board-sort').checkVisibility(), cells(2)[0]]") == [True, "90.0"]
    assert see("document.documentElement.dataset.theme") == "light"
    for theme in ("light", "dark"):
        contrasts = {
            (colour, ground): see(f"contrast('{colour}', '{ground}')")
            for colour in COLOURS
            for ground in ("--card", "--ground")
        }
        assert min(contrasts.values()) > 4.5, (theme, contrasts)
        see("BY_ID('theme').click()")


def test_cells_have_the_same_colour_on_the_page_and_in_a_figure(tmp_path: Path) -> None:
    gains = {(0, 0.5): 0.03, (0, 1.0): -0.01, (1, 0.5): 0.004, (1, 1.0): -0.4, (2, 0.5): 0.0}
    write_study(tmp_path / "study", gains)
    write_run(tmp_path / "runs/baseline", {"a": [1.0, 0.0]})
    list(run_comparison([str(tmp_path / "runs")], studies=[tmp_path / "study"], html=tmp_path / "x.html"))
    limit = colour_limit(100 * gain for gain in gains.values())
    colours = "['background-color', 'color'].map((key) => getComputedStyle(cell).getPropertyValue(key))"
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "x.html")
        cells = shown.run(f"[...document.querySelectorAll('#maps td')].map((cell) => [cell.textContent, ...{colours}])")
    assert [text for text, _, _ in cells] == ["0.0", "–", "+0.4", "-40.0", "+3.0", "-1.0"]
    for text, ground, ink in (cell for cell in cells if cell[0] != "–"):
        expected = gain_colormap()(0.5 + float(text) / limit / 2)[:3]
        assert _rgb(ground) == pytest.approx(expected, abs=0.02), text
        assert _rgb(ink) == to_rgb(text_colour(float(text), limit)), text


def _rgb(colour: str) -> tuple[float, ...]:
    """Read `rgb(0, 0, 0)` or `color(srgb 0 0 0)`, as a browser prints them."""
    parts = [float(number) for number in re.findall(r"[\d.]+", colour)][:3]
    return tuple(part if "srgb" in colour else part / 255 for part in parts)

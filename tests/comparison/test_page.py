"""The page of `lmms-steer compare --html`, opened and used in a real browser."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.cli import app
from lmms_steer.comparison.command import run_comparison
from lmms_steer.comparison.figures import draw_comparison
from lmms_steer.comparison.studies import read_maps
from lmms_steer.models.visuals import image_ids
from lmms_steer.plots import heatmap as heat
from tests.helpers.browser import BROWSER, Page, browser
from tests.helpers.documents import ROOT, blocks
from tests.helpers.runs import write_run

needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium: apt-get install chromium")
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
EVIL_NAME = "<img src=x onerror=hacked=1>"

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


def write_study(folder: Path, gains: dict[tuple[int, float], float], dropped: Sequence[tuple[int, float]] = ()) -> Path:
    """A search's cells: (layer, alpha) ▸ gain."""
    cells = [
        {"vector": "v", "layer": cell[0], "alpha": cell[1], "tokens": "image", "n": 50, "gain": gain,
         "dropped": cell in dropped}
        for cell, gain in gains.items()
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(cells), folder / "cells.parquet")
    return folder


@pytest.fixture
def opened(page: tuple[Path, list[str]], tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as shown:
        shown.open(page[0])
        shown.run(HELP)
        yield shown


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A board with hostile answers and names, an answer of 20 MB, a search, and more questions than the page holds."""
    folder = tmp_path_factory.mktemp("page")
    base = [1.0] * 60 + [0.0] * 40
    steered = [1.0] * 55 + [0.0] * 5 + [1.0] * 35 + [0.0] * 5

    def answer(number: int, score: float) -> str:
        return EVIL if number == 58 else "long " * 4_000_000 if number == 57 else f"said {score:.0f}"

    write_run(folder / "runs/baseline", {"tiny_spatial": base, "b": base})
    write_run(folder / "runs/steered", {"tiny_spatial": steered, "b": base}, answer, spec="vector=v,layer=1")
    write_run(folder / f"runs/{EVIL_NAME}", {"tiny_spatial": base, "b": base[::-1]}, spec="vector=v,control=random:0")
    write_study(folder / "study", {(layer, alpha): layer * alpha / 100 for layer in (0, 3) for alpha in (0.5, 1.0)})
    out = folder / "board.html"
    lines = [
        str(line) for line in run_comparison([str(folder / "runs")], studies=[folder / "study"], html=out, samples=30)
    ]
    return out, lines[1:]


@needs_browser
def test_a_reader_can_sort_filter_and_see_what_made_a_number(opened: Page) -> None:
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


@needs_browser
def test_long_names_are_told_apart_controls_are_not_praised_and_every_row_s_button_is_in_view(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("tasks", "models", "title"),
    [
        (["a"], ["tiny", "tiny"], "a on tiny"),
        (["a", "b"], ["you/tiny", "/models/tiny/"], "a and b on tiny"),
        (["a", "b", "c"], ["tiny", "other"], "a, b and c"),
        (["a", "b", "c", "d"], ["tiny", None], "a, b and 2 more tasks"),
    ],
)
def test_a_page_is_named_after_its_tasks_and_its_model(
    tmp_path: Path, tasks: list[str], models: list[str | None], title: str
) -> None:
    for name, model in zip(("baseline", "s"), models, strict=True):
        said = {"results": {"model_name": model}} if model else {}
        write_run(tmp_path / "runs" / name, {task: [1.0, 0.0] for task in tasks}, spec=None, **said)
    list(run_comparison([str(tmp_path / "runs")], html=tmp_path / "x.html", pictures="none"))
    text = (tmp_path / "x.html").read_text()
    assert f"<title>{title}</title>" in text and f"<h1>{title}</h1>" in text
    assert "1 system beside <strong>baseline</strong>. Every gain is paired:" in text


@needs_browser
def test_answers_are_browsed_by_keyboard_and_filtered(opened: Page) -> None:
    see = opened.run
    see("BY_ID('samples').scrollIntoView()")
    assert see("counted('1–12 of 30 (30 of 100 questions are here)')")
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
    """The answers of `x.html`, once so many questions are there."""
    with browser(folder / "profile") as shown:
        shown.open(folder / "x.html")
        shown.run(HELP)
        shown.run("BY_ID('samples').scrollIntoView()")
        assert shown.run(f"counted('of {count}')")
        yield shown


@needs_browser
def test_the_right_letter_has_its_choice_s_text_beside_it_where_the_log_has_one(tmp_path: Path) -> None:
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
        told = shown.run("[...document.querySelectorAll('article .soft')].map((line) => line.textContent)")
    rights = [f"B, {EVIL}", "(A), a cup on a table", "A", "cup", "B", "B"]
    assert told == [f"question {number} · answer: {right}" for number, right in enumerate(rights)]


@needs_browser
def test_where_less_is_better_less_is_fixed_and_no_score_is_no_change(tmp_path: Path) -> None:
    about = {"results": {"higher_is_better": {"errors": {"acc": False}}}}
    for name, scores in (("baseline", [3, 3, 3, 0]), ("s", [0, 1, 5, 0]), ("lost", [3, 3, 3, float("nan")])):
        write_run(tmp_path / "runs" / name, {"errors": scores}, **about, spec="" if name == "baseline" else "vector=v")
    list(run_comparison([str(tmp_path / "runs")], html=tmp_path / "x.html"))
    with answers(tmp_path, 4) as shown:
        for kind, system, count in (("fixed", "s", "of 2"), ("broken", "s", "of 1"), ("broken", "lost", "none of")):
            shown.run(f"show('errors', '{kind}', '{system}')")
            assert shown.run(f"counted('{count}')"), (kind, system)
        assert "wrong" not in shown.run("show('errors', 'all', ''), counted('of 4').then(listed)")


@needs_browser
def test_the_chosen_task_is_shown_though_another_is_unpacked_later(opened: Page) -> None:
    see = opened.run
    see("const unpack = taskSamples; let done; const late = new Promise((found) => { done = found; }); 0")
    see("taskSamples = async (name) => { if (name === 'b') await late; return unpack(name); }; 0")
    see("choose('samples-task', 'b'); show('tiny_spatial', 'broken', 'steered')")
    assert see("counted('of 5')")
    see("done(); new Promise((drawn) => setTimeout(drawn, 300))")
    assert "of 5" in see("BY_ID('samples-count').textContent")


@needs_browser
def test_what_a_run_holds_is_text_on_the_page_and_nothing_else(opened: Page) -> None:
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


@needs_browser
@pytest.mark.parametrize("width", [390, 360, 320])
def test_every_part_of_the_page_can_be_reached_from_its_head_on_a_phone(opened: Page, width: int) -> None:
    opened.call("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=2, mobile=True)
    ends = opened.run("[...document.querySelectorAll('nav a')].map((link) => link.getBoundingClientRect().right)")
    assert len(ends) == 5 and max(ends) <= width
    head = opened.run("BY_ID('gains').scrollIntoView(), document.querySelector('nav').getBoundingClientRect().bottom")
    assert opened.run("BY_ID('gains-title').getBoundingClientRect().top") >= head


@needs_browser
def test_it_is_readable_on_a_phone_in_light_and_in_dark(opened: Page) -> None:
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


def test_the_page_is_small_and_says_what_is_not_on_it(page: tuple[Path, list[str]]) -> None:
    out, lines = page
    text = out.read_text()
    assert len(text) < 1_000_000 and EVIL not in text and EVIL_NAME not in text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert any(line.startswith("b: the page has 30 of 100 questions with their answers") for line in lines)
    assert "tiny_spatial: no images, the data here is not what the runs were made on" in lines
    assert any(line.startswith("b: no images, no task of ours (your own: --include_path; ") for line in lines)
    assert "no images, no task of ours" in text


def test_our_tasks_images_are_on_the_page(tmp_path: Path) -> None:
    from lmms_steer.comparison.page_questions import task_images
    from lmms_steer.models.visuals import image_ids
    from lmms_steer.tiny_world.question_sets import load_question_set

    rows = load_question_set("spatial", "test")
    names = image_ids([rows[3]["image"].convert("RGB")])
    target = rows[3]["answer"].strip("()")
    found, why = task_images(
        "tiny_spatial", [(3, target, rows[3]["question"], names), (4, target, "other", None)], 10**6
    )
    assert list(found) == [3] and found[3].startswith("data:image/png;base64,")
    assert why == "the data here is not what the runs were made on"
    assert task_images("tiny_spatial", [(3, target, "", ["other"])], 10**6)[0] == {}


@pytest.mark.parametrize("spelled", ["--include_path", "--include-path"])
def test_the_images_of_one_s_own_tasks_are_on_the_page(tmp_path: Path, spelled: str) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for text in blocks(ROOT / "docs/howto/benchmark.md", "yaml", "python"):
        (mine / text.split()[1].rstrip(",").removeprefix("mine/")).write_text(text)
    pictures = [Image.new("RGB", (32, 32), (9 * number, 0, 0)) for number in range(2)]
    rows = {"image": pictures, "question": ["what is left?"] * 2, "choices": [["a", "b"]] * 2, "answer": ["A"] * 2}
    Dataset.from_dict(rows).to_parquet(mine / "kitchen.parquet")
    names = [image_ids([picture]) for picture in pictures]
    write_run(tmp_path / "runs/baseline", {"kitchen": [1.0, 0.0]}, sample=lambda number: {"images": names[number]})
    words = ["compare", str(tmp_path / "runs"), "--html", str(tmp_path / "x.html")]
    told = CliRunner().invoke(app, words)
    assert "kitchen: no images, no task of ours (your own: --include_path" in told.output.replace("\n", " ")
    for kind in ("ours", "all"):
        shown = CliRunner().invoke(app, [*words, spelled, str(mine), "--pictures", kind])
        assert shown.exit_code == 0 and "kitchen:" not in shown.output, shown.output
    missing = CliRunner().invoke(app, [*words, spelled, str(mine / "none")])
    assert missing.exit_code != 0 and str(missing.exception) == f"--include_path {mine / 'none'}: no such folder"


@needs_browser
def test_a_cell_has_one_colour_on_the_page_and_in_a_figure(tmp_path: Path) -> None:
    gains = {(0, 0.5): 0.03, (0, 1.0): -0.01, (1, 0.5): 0.004, (1, 1.0): -0.4}
    write_study(tmp_path / "study", gains)
    write_run(tmp_path / "runs/baseline", {"a": [1.0, 0.0]})
    list(run_comparison([str(tmp_path / "runs")], studies=[tmp_path / "study"], html=tmp_path / "x.html"))
    most = heat.colour_limit(100 * gain for gain in gains.values())
    told = "['background-color', 'color'].map((key) => getComputedStyle(cell).getPropertyValue(key))"
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "x.html")
        cells = shown.run(f"[...document.querySelectorAll('#maps td')].map((cell) => [cell.textContent, ...{told}])")
    assert [text for text, _, _ in cells] == ["+0.4", "-40.0", "+3.0", "-1.0"]
    for text, ground, ink in cells:
        expected = heat.gain_colormap()(0.5 + float(text) / most / 2)[:3]
        assert _rgb(ground) == pytest.approx(expected, abs=0.02), text
        assert _rgb(ink) == to_rgb(heat.text_colour(float(text), most)), text


def _rgb(colour: str) -> tuple[float, ...]:
    """`rgb(0, 0, 0)` or `color(srgb 0 0 0)`, as a browser says it."""
    parts = [float(number) for number in re.findall(r"[\d.]+", colour)][:3]
    return tuple(part if "srgb" in colour else part / 255 for part in parts)


def test_colours_end_at_the_same_gain_and_loss_and_one_ruinous_alpha_bleaches_no_map() -> None:
    assert heat.colour_limit([0.1, -0.2]) == heat.colour_limit([float("nan")]) == heat.colour_limit([]) == 1
    assert heat.colour_limit([6.0, *[0.5] * 20]) == 6 and heat.colour_limit([-6.0, *[0.5] * 20]) == 1
    ruined = [-70.0] * 10 + [-3.0, 2.0] * 30
    assert heat.colour_limit(ruined) == 3
    image = heat.draw_heatmap(Figure().subplots(), heat.HeatMap({(0, 1.0): -9.0, (0, 2.0): 4.0}, (0,), (1.0, 2.0)), 4)
    assert (image.norm.vmin, image.norm.vmax) == (-4, 4)
    assert image.cmap(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.01)


def test_numbers_can_be_read_on_every_colour_of_a_map() -> None:
    def brightness(colour: Sequence[float]) -> float:
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    for share in (number / 100 for number in range(-100, 101)):
        shades = brightness(heat.gain_colormap()(0.5 + share / 2)), brightness(to_rgb(heat.text_colour(share, 1.0)))
        assert max(shades) / min(shades) > 4, share


@pytest.mark.parametrize("alphas", [(0.5, 1.0), tuple(number / 20 for number in range(1, 17))])
def test_the_chosen_cell_is_framed_in_a_grid_and_among_points(alphas: tuple[float, ...]) -> None:
    continuous = len(alphas) > 2
    layers = (3,) if continuous else (3, 7)
    drawn = heat.HeatMap(
        {(layer, alpha): 0.0 for layer in layers for alpha in alphas}, layers, alphas, best=(3, alphas[1])
    )
    axes = Figure().subplots()
    heat.draw_heatmap(axes, drawn, 1)
    assert drawn.continuous == continuous
    if continuous:
        assert [line.get_xydata().tolist() for line in axes.lines] == [[[alphas[1], 3]]]
    else:
        assert [(frame.get_center().tolist(), frame.get_fill()) for frame in axes.patches] == [([1, 0], False)]


def test_the_framed_cell_is_the_search_s_choice_and_no_cell_that_was_dropped(tmp_path: Path) -> None:
    gains = {(0, 0.5): 0.3, (2, 2.0): 0.1, (3, 1.0): 0.1, (4, 1.0): 0.1}
    (found,) = read_maps([write_study(tmp_path, gains, dropped=[(0, 0.5)])])
    assert found["best"] == [3, 1.0]


def test_studies_in_folders_of_one_name_are_drawn_each(tmp_path: Path) -> None:
    for number, task in enumerate(("spatial", "counting")):
        write_study(tmp_path / f"search/tiny/{task}/concept-mean_shift", {(0, 1.0): number / 100})
    found = read_maps([tmp_path / "search", tmp_path / "search/tiny/spatial"])
    assert [(one["study"], one["gains"]) for one in found] == [
        ("counting/concept-mean_shift", [[0.01]]),
        ("spatial/concept-mean_shift", [[0.0]]),
    ]
    drawn = Path(draw_comparison([], tmp_path / "maps.svg", studies=[tmp_path])[-1]).read_text()
    assert "counting/concept-mean_shift" in drawn and "spatial/concept-mean_shift" in drawn
    assert read_maps([tmp_path / "search/tiny/spatial"])[0]["study"] == "concept-mean_shift"


def test_a_study_that_is_none_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/baseline", {"a": [1.0, 0.0]})
    (tmp_path / "study").mkdir()
    with pytest.raises(UserError, match=r"no study in .*there is no cells.parquet"):
        list(run_comparison([str(tmp_path / "runs")], studies=[tmp_path / "study"], html=tmp_path / "x.html"))
    (tmp_path / "study/cells.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cells.parquet' cannot be read as a study's cells"):
        list(run_comparison([str(tmp_path / "runs")], studies=[tmp_path / "study"], html=tmp_path / "x.html"))
    with pytest.raises(UserError, match="unknown --pictures 'our'"):
        list(run_comparison([str(tmp_path / "runs")], pictures="our"))

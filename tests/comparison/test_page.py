"""The page of `lmms-steer compare --html`, without a browser: title, size, images, and what is left out."""

import base64
import gzip
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image
from typer.testing import CliRunner

from lmms_steer.cli import app
from lmms_steer.comparison.command import run_comparison
from lmms_steer.comparison.page_images import ImageQuery, task_images
from lmms_steer.models.visuals import image_ids
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.comparison.page import EVIL, EVIL_NAME, write_hostile_page
from tests.helpers.documents import ROOT, blocks
from tests.helpers.runs import write_run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    return write_hostile_page(tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize(
    ("tasks", "models", "title"),
    [
        (["a"], ["tiny", "tiny"], "a on tiny"),
        (["a", "b"], ["you/tiny", "/models/tiny/"], "a and b on tiny"),
        (["a", "b", "c"], ["tiny", "other"], "a, b and c"),
        (["a", "b", "c", "d"], ["tiny", None], "a, b and 2 more tasks"),
    ],
)
def test_title_names_tasks_and_model(tmp_path: Path, tasks: list[str], models: list[str | None], title: str) -> None:
    for name, model in zip(("baseline", "s"), models, strict=True):
        results = {"model_name": model} if model else None
        write_run(tmp_path / "runs" / name, {task: [1.0, 0.0] for task in tasks}, spec=None, results=results)
    list(run_comparison([str(tmp_path / "runs")], html=tmp_path / "x.html", pictures="none"))
    text = (tmp_path / "x.html").read_text()
    assert f"<title>{title}</title>" in text and f"<h1>{title}</h1>" in text
    assert "1 system compared with <strong>baseline</strong>. Every gain is paired:" in text


def test_a_page_of_one_run_has_no_section_of_gains(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": [1.0, 0.0]})
    list(run_comparison([str(tmp_path)], html=tmp_path / "x.html", pictures="none"))
    text = (tmp_path / "x.html").read_text()
    assert "</strong> alone: there is no other system to compare with it." in text
    assert "Gains over" not in text and "#gains" not in re.sub("<style>.*?</style>", "", text, flags=re.DOTALL)


@pytest.mark.slow
def test_page_is_small_and_lists_what_is_left_out(page: tuple[Path, list[str]]) -> None:
    out, lines = page
    text = out.read_text()
    assert len(text) < 1_000_000 and EVIL not in text and EVIL_NAME not in text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert any(line.startswith("b: the page has 30 of 100 questions with their answers") for line in lines)
    assert "tiny_spatial: no images, the data on this machine is not what the runs were made on" in lines
    not_ours = "no images, not one of our tasks (for your own tasks give --include_path"
    assert any(line.startswith(f"b: {not_ours}; ") for line in lines)
    assert "no images, not one of our tasks" in text


@pytest.mark.slow
def test_images_of_our_tasks_are_found(tmp_path: Path) -> None:
    rows = load_question_set("spatial", "test")
    names = image_ids([rows[3]["image"].convert("RGB")])
    target = rows[3]["answer"].strip("()")
    images, reason = task_images(
        "tiny_spatial", [ImageQuery(3, target, rows[3]["question"], names), ImageQuery(4, target, "other", None)], 10**6
    )
    assert list(images) == [3] and images[3].startswith("data:image/png;base64,")
    assert reason == "the data on this machine is not what the runs were made on"
    assert task_images("tiny_spatial", [ImageQuery(3, target, "", ["other"])], 10**6)[0] == {}


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--include_path", "--include-path"])
def test_images_of_the_user_s_own_tasks_are_found(tmp_path: Path, option: str) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for text in blocks(ROOT / "docs/howto/benchmark.md", "yaml", "python"):
        (mine / text.split()[1].rstrip(",").removeprefix("mine/")).write_text(text)
    images = [Image.new("RGB", (32, 32), (9 * number, 0, 0)) for number in range(2)]
    rows = {"image": images, "question": ["what is left?"] * 2, "choices": [["a", "b"]] * 2, "answer": ["A"] * 2}
    Dataset.from_dict(rows).to_parquet(mine / "kitchen.parquet")
    names = [image_ids([image]) for image in images]
    write_run(tmp_path / "runs/baseline", {"kitchen": [1.0, 0.0]}, sample=lambda number: {"images": names[number]})
    words = ["compare", str(tmp_path / "runs"), "--html", str(tmp_path / "x.html")]
    printed = CliRunner().invoke(app, words).output.replace("\n", " ")
    assert "kitchen: no images, not one of our tasks (for your own tasks give --include_path" in printed
    for kind in ("ours", "all"):
        result = CliRunner().invoke(app, [*words, option, str(mine), "--pictures", kind])
        assert result.exit_code == 0 and "kitchen:" not in result.output, result.output
    missing = CliRunner().invoke(app, [*words, option, str(mine / "none")])
    assert missing.exit_code != 0 and str(missing.exception) == f"--include_path {mine / 'none'}: no such folder"


@pytest.mark.slow
def test_scripts_of_the_page_get_these_keys(page: tuple[Path, list[str]]) -> None:
    text = page[0].read_text()
    (data,) = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    (packed,) = re.findall(r'data-task="tiny_spatial">([^<]*)<', text)
    content = json.loads(data)
    assert set(content) == {"baseline", "readings", "rows", "made", "maps", "shades", "systems"}
    numbers = {"n", "score", "gain", "low", "high", "p", "p_holm", "seconds", "fixed", "broken"}
    numbers |= {"unparsed", "empty", "yes", "words", "recall", "divergence", "blank", "direction"}
    texts = {"score", "gain", "p", "p_holm", "n", "fixed", "unparsed", "empty", "yes", "words", "recall", "divergence",
             "seconds", "blank"}  # fmt: skip
    assert set(content["rows"][0]) == numbers | {
        *("task", "scope", "system", "role", "axis", "refused", "different", "differences", "test", "made", "told"),
    }
    assert set(content["rows"][0]["told"]) == texts
    hashes = {"spec_sha256", "samples_sha256", "results_sha256", "vectors"}
    about = {"system", "task", "command", "spec", "samples", "results", "metric", "seeds", "harness", "date"}
    assert set(content["made"][0]) == hashes | about
    (searched,) = content["maps"]
    assert searched == {
        "study": "study", "task": "", "vector": "v", "tokens": "image", "n": 50, "layers": [0, 3], "alphas": [0.5, 1.0],
        "gains": [[0.0, 0.0], [0.015, 0.03]], "damage": [[0.005, 0.01], [0.005, 0.01]], "best": [3, 1.0], "limit": 3.0,
        "dropped": [[False, False], [False, False]],
    }  # fmt: skip
    task = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert set(task) == {"task", "n", "better", "graded", "no_images", "systems", "docs"}
    assert set(task["docs"][0]) == {"id", "answers", "by", "target", "meant", "question", "image"}
    assert len(task["docs"]) == 30 and len(task["docs"][0]["answers"][0]) == 4

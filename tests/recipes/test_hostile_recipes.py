"""Recipes that ask for too much end with one line before any of it is made."""

import os
import time
from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner
from lmms_steer.search.options import parse_alphas, parse_layers
from tests.helpers.recipes import RECIPE


def planned(folder: Path, text: str, *overlays: str) -> None:
    (folder / "r.yaml").write_text(text)
    for number, overlay in enumerate(overlays):
        (folder / f"o{number}.yaml").write_text(overlay)
    _, recipe = load_recipe(
        str(folder / "r.yaml"), [str(folder / f"o{number}.yaml") for number in range(len(overlays))]
    )
    Planner(recipe, folder / "out").cells()


MODELS = "models: {" + ", ".join(f"m{i}: {{pretrained: tiny-paligemma2}}" for i in range(300)) + "}"
STUDIES = "\n".join(
    f"  s{i}: {{concepts: spatial, select: tiny_spatial_select, test: tiny_spatial}}" for i in range(300)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RECIPE.replace("10:50:10", "'0:1e12:1e-9'"), "values, more than 10000"),
        (RECIPE.replace("{alphas: 10:50:10}", "{controls: 100000000}"), "less than or equal to 1000"),
        (RECIPE.replace("pretrained", "layers: 0-999999999\n    pretrained"), "more than 10000 layers"),
        (f"{MODELS}\nmethods: {{mean_shift: {{}}}}\nstudies:\n{STUDIES}\n", "630000 cells, more than 20000"),
        (RECIPE + "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else '*a'] * 10)}]\n" for i in range(9)
        ), "r.yaml, line 17: more than 100000 values"),
        (RECIPE.replace("a test", "[" * 200), "r.yaml, line 1: nested too deeply"),
    ],
)  # fmt: skip
def test_a_recipe_that_asks_for_too_much_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        planned(tmp_path, text)
    assert len(str(caught.value)) < 500


def test_an_overlay_that_multiplies_is_one_line(tmp_path: Path) -> None:
    many = ", ".join(f"k{i}: 1" for i in range(3000))
    with pytest.raises(UserError, match="too large to be laid over each other"):
        planned(tmp_path, RECIPE + f"search: {{{many}}}", f"search: {{'*': {{{many}}}}}")


def test_a_task_that_many_studies_share_is_checked_once(tmp_path: Path) -> None:
    # checked for each study, this took a second for every 60 of them
    models = "models: {m: {pretrained: tiny-paligemma2}}\nmethods: {mean_shift: {}}\nstudies:\n"
    (tmp_path / "r.yaml").write_text(models + STUDIES)
    before = time.process_time()
    load_recipe(str(tmp_path / "r.yaml"))
    assert time.process_time() - before < 4


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.yaml")
    with pytest.raises(UserError, match="no such recipe"):
        load_recipe(str(tmp_path / "r.yaml"))
    (tmp_path / "plain.yaml").write_text(RECIPE)
    with pytest.raises(UserError, match="no such recipe"):
        load_recipe(str(tmp_path / "plain.yaml"), [str(tmp_path / "r.yaml")])


def test_ranges_have_a_limit() -> None:
    assert len(parse_layers("0-9999")) == len(parse_alphas("1:10000:1")) == 10_000
    for text in ("0-10000", "0-9999,1", "9" * 5000):
        with pytest.raises(UserError, match="--layers"):
            parse_layers(text)

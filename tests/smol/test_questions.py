"""Questions in ordinary English: right answers by another reading of the scene, and sets that share no scene."""

import hashlib
import json
import random
import re
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset

from lmms_steer.harness.task_files import tasks_dir
from lmms_steer.smol.question_sets import SIZES, SMOL, TASKS, question_file
from lmms_steer.smol.questions import KINDS, PROMPTS, ask, is_held_out
from lmms_steer.tiny_world.cv_bench_rows import features, with_images
from lmms_steer.tiny_world.scenes import NUMBERS, Scene, Thing, sample_scene
from tests.helpers.task_manager import task_manager
from training.smol.turns import INSTRUCTION

_THING = r"(?:an? |the )?((?:\w+ )?(?:circle|square|triangle|cross|object|shape|thing))"
_PLACE = {
    "left": lambda a, b: a.column < b.column,
    "right": lambda a, b: a.column > b.column,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
}


def meant(name: str, scene: Scene) -> list[Thing]:
    """The objects that a phrase such as `red object` or `crosses` fits."""
    words = [re.sub(r"(?<=cross)es$|s$", "", word) if word != "cross" else word for word in name.split()]
    return [
        thing
        for thing in scene
        if all(word in (thing.colour, thing.shape, "object", "shape", "thing") for word in words)
    ]


def only(name: str, scene: Scene) -> Thing:
    (thing,) = meant(name, scene)
    return thing


def is_true(statement: str, scene: Scene) -> bool:
    """Whether `red circle to the left of the cross` is so."""
    pattern = rf"{_THING} (?:to the )?(left|right|above|below)(?: of)? {_THING}"
    first, word, second = re.fullmatch(pattern, statement).groups()  # type: ignore[union-attr]
    return bool(_PLACE[word](only(first, scene), only(second, scene)))


def answer(kind: str, text: str, choices: tuple[str, ...], scene: Scene) -> list[str]:
    """The choices that are right, from the question's text alone."""
    things = re.findall(_THING, text)
    if kind == "relation":
        first, second = only(things[0], scene), only(things[1], scene)
        return [choice for choice in choices if _PLACE[choice](first, second)]
    if kind == "relation_yesno":
        return ["yes" if is_true(text.removeprefix("Is the ").removesuffix("?"), scene) else "no"]
    if kind == "counting":
        what = re.match(r"How many (.+?) are ", text)[1]  # type: ignore[index]
        return [NUMBERS[len(meant(what, scene)) - 1]]
    if kind == "more":
        one, other = re.match(r"Are there more (.+) than (.+)\?", text).groups()  # type: ignore[union-attr]
        return ["yes" if len(meant(one, scene)) > len(meant(other, scene)) else "no"]
    if kind == "existence":
        name = re.match(r"Is there an? (.+) in the", text)[1]  # type: ignore[index]
        return ["yes" if meant(name, scene) else "no"]
    if kind == "caption":
        return [choice for choice in choices if is_true(choice[0].lower() + choice[1:], scene)]
    thing = only(next(name for name in things if meant(name, scene)), scene)
    return [thing.colour if kind == "colour" else thing.shape]


@cache
def rows_of(task: str) -> dict[str, list[dict[str, Any]]]:
    return dict(SMOL.splits(task))


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_the_only_right_choice(kind: str) -> None:
    rng = random.Random(5)
    asked = 0
    while asked < 150:
        scene = sample_scene(rng, 1)
        question = ask(kind, scene, rng, benchmark=asked % 2 == 0)
        if question is not None:
            asked += 1
            assert answer(kind, question.text, question.choices, scene) == [question.answer], (scene, question)
            assert question.choices.count(question.answer) == 1 and len(set(question.choices)) == len(question.choices)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_sets_have_cv_benchs_columns_and_balanced_answers_and_share_no_scene(task: str) -> None:
    scenes = []
    for split, size in SIZES.items():
        rows = rows_of(task)[split]
        assert len(rows) == size
        answers = Counter(row["choices"]["ABCDEF".index(row["answer"][1])] for row in rows)
        assert max(answers.values()) - min(answers.values()) <= 4 and len(answers) == TASKS[task]
        # no letter is right much more often than the others
        letters = Counter(row["answer"] for row in rows)
        assert max(letters.values()) < 1.2 * size / len(rows[0]["choices"])
        assert {row["style"] for row in rows} == {"moss" if split == "ood" else "plain"}
        scenes += [tuple(sorted(Thing(*thing) for thing in json.loads(row["scene"]))) for row in rows]
    assert len(set(scenes)) == len(scenes)
    assert all(is_held_out(scene) for scene in scenes)
    assert set(with_images(Dataset.from_list(rows[:2])).column_names) == set(features())


GOLDEN = "f23df1f036f3f17a"


def test_the_questions_are_the_same_on_every_machine() -> None:
    # after a change of the questions: count question_sets.VERSION up, and write the new hash here
    digest = hashlib.sha256(json.dumps(list(rows_of("existence").values())).encode()).hexdigest()
    assert (digest[:16], question_file("existence", "select").name) == (GOLDEN, "smol_existence_select_v2.parquet")


def test_wordings_are_cv_benchs_and_popes() -> None:
    pattern = {
        "relation": r"Considering the relative positions of the (.+) and the (.+) in the image provided, where is the"
        r" \1 located with respect to the \2\?",
        "counting": r"How many .+ are in the image\?",
        "colour": r"What is the color of the \w+ in the image\?",
        "existence": r"Is there an? \w+ \w+ in the image\?",
        "relation_yesno": r"Is the .+ (above|below|to the left of|to the right of) the .+\?",
    }
    for task in TASKS:
        row = rows_of(task)["select"][0]
        assert re.fullmatch(pattern[task], row["question"])
        listed = f"\n(A) {row['choices'][0]}\n(B) {row['choices'][1]}"
        assert row["prompt"].startswith(f"{row['question']} Select from the following choices.{listed}")
    assert all(choice.isdecimal() for choice in rows_of("counting")["select"][0]["choices"])


def test_absent_objects_are_of_popes_three_groups() -> None:
    shared = {}
    for group in ("random", "popular", "adversarial"):
        rows = [row for row in rows_of("existence")["test"] if row["source"] == f"SmolWorld/{group}"]
        absent = [row for row in rows if row["choices"]["AB".index(row["answer"][1])] == "no"]
        assert len(rows) > 270 and 0.4 < len(absent) / len(rows) < 0.6
        names = [row["question"].split()[3:5] for row in absent]
        # objects occur together where scenes have few colours and shapes
        scenes = [{word for _, *words in json.loads(row["scene"]) for word in words} for row in absent]
        shared[group] = np.mean([set(name) <= scene for name, scene in zip(names, scenes, strict=True)])
        # the eight most frequent objects, after the at most six that are there
        assert (len(set(map(tuple, names))) <= 8 + 6) == (group == "popular")
    assert shared["adversarial"] > 1.5 * shared["random"]


def test_every_task_has_its_variants_and_the_prompted_one_its_hint() -> None:
    folder = Path(tasks_dir()) / "smol"
    names = {path.stem for path in folder.glob("*.yaml")}
    for task in TASKS:
        for split in ("", "_select", "_ood"):
            name = f"smol_{task}{split}"
            content = yaml.safe_load((folder / f"{name}.yaml").read_text().replace("!function ", ""))
            assert content["test_split"] == (split[1:] or "test") and content["task"] == name
            assert content["dataset_kwargs"] == f"utils.kwargs_{task}_{split[1:] or 'test'}"
            if task in PROMPTS:
                assert f"{name}_ll" in names
                prompted = yaml.safe_load((folder / f"{name}_prompted.yaml").read_text())
                prompt = prompted["lmms_eval_specific_kwargs"]["default"]["pre_prompt"]
                assert prompt == f"{PROMPTS[task]} {INSTRUCTION}"


@pytest.mark.parametrize("split", ["", "_ood"])
def test_the_word_tasks_ask_the_same_questions_without_choices(split: str) -> None:
    folder, utils = Path(tasks_dir()) / "smol", import_module("lmms_steer.tasks.smol.utils")
    doc = {"question": "Is there a red cross in the image?", "prompt": "with choices"}
    for name, hint in (("words", ""), ("words_prompted", f"{PROMPTS['existence']} ")):
        name = f"smol_existence_{name.replace('words', f'words{split}')}"
        content = yaml.safe_load((folder / f"{name}.yaml").read_text().replace("!function ", ""))
        source = f"smol_existence_words{split}.yaml" if hint else f"smol_existence{split}.yaml"
        assert (content["task"], content["include"]) == (name, source)
        assert hint or content["doc_to_text"] == "utils.doc_to_question"
        assert utils.doc_to_question(doc, content["lmms_eval_specific_kwargs"]["default"]) == hint + doc["question"]


@pytest.mark.slow
def test_lmms_eval_loads_the_tasks(own_cache: Path) -> None:
    manager = task_manager()
    loaded = manager.load_task_or_group(["smol_existence_select", "smol_existence_select_ll"], "simple")
    for name, task in loaded.items():
        doc = task.test_docs()[3]
        assert task.doc_to_text(doc) == INSTRUCTION + doc["prompt"]
        assert doc["image"].size == (64, 64)
        target = task.doc_to_target(doc)
        assert target == ("AB".index(doc["answer"][1]) if name.endswith("_ll") else doc["answer"][1])
    assert [path.name for path in (own_cache / "questions").iterdir()] == ["smol_existence_select_v2.parquet"]

"""Prompts and splits of the paper's tasks, from the rules of its released code (TextSteersVision, ce1c0f0).

A prompt is P + I + [prefix + " "] + Q: `answer en ` for PaliGemma, the instruction, the prefix of the prompting
baseline, and the question as the data set or the loader writes it.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lmms_steer import UserError
from lmms_steer.data.paper_split import split_places
from lmms_steer.harness.task_files import tasks_dir
from lmms_steer.recipes.loading import load_recipe

LETTERS = "Answer the multiple choice question by only responding the letter of the correct answer. "
NUMBER = "Answer the question by only responding the number. "


def cvbench(row: dict[str, Any], _: int) -> str:
    return LETTERS + str(row["prompt"])


def whatsup(row: dict[str, Any], index: int) -> str:
    captions = row["caption_options"]
    turned = [captions[(place + index) % 4] for place in range(4)]
    return LETTERS + "Please select the correct caption for the image:\n(A) {}\n(B) {}\n(C) {}\n(D) {}".format(*turned)


def counting(row: dict[str, Any], _: int) -> str:
    return NUMBER + str(row["problem"]).replace("<image>", "")


TASKS = {
    "cvbench_relation": ("cvbench/test", cvbench),
    "cvbench_count": ("cvbench/test", cvbench),
    "cvbench_depth": ("cvbench/test", cvbench),
    "cvbench_distance": ("cvbench/test", cvbench),
    "whatsup_a": ("whatsup_a/Controlled_Images_A", whatsup),
    "whatsup_b": ("whatsup_b/Controlled_Images_B", whatsup),
    "steer_blink_counting": ("blink/Counting/val", cvbench),
    "steer_blink_spatial_relation": ("blink/Spatial_Relation/val", cvbench),
    "steer_blink_relative_depth": ("blink/Relative_Depth/val", cvbench),
    "clevr_count": ("clevr_count/train", counting),
    "superclevr_count": ("clevr_count/test", counting),
}


def task_manager(model: str) -> Any:
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=[tasks_dir()], include_defaults=False, model_name=model)


def stored_rows(data: Path, task: str) -> list[dict[str, Any]]:
    """The rows of a task's local copy, in file order and without images."""
    (path,) = data.glob(f"{TASKS[task][0]}-*.parquet")
    names = [name for name in pq.read_schema(path).names if not name.startswith("image")]
    rows: list[dict[str, Any]] = pq.read_table(path, columns=names).to_pylist()
    wanted = task.removeprefix("cvbench_").capitalize()
    return [row for row in rows if not task.startswith("cvbench") or row["task"] == wanted]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "before", "names"),
    [
        ("steered_paligemma", "answer en ", tuple(TASKS)),
        # one task of each template
        ("steered_idefics3", "", ("cvbench_relation", "whatsup_a", "steer_blink_counting", "clevr_count")),
    ],
)
def test_every_prompt_is_the_released_code_s_to_the_character(
    data: Path, model: str, before: str, names: tuple[str, ...]
) -> None:
    for task, loaded in task_manager(model).load_task_or_group(list(names), "simple").items():
        rows, write = stored_rows(data, task), TASKS[task][1]
        prompts = [loaded.doc_to_text(doc) for doc in loaded.eval_docs_no_media]
        assert prompts == [before + write(row, index) for index, row in enumerate(rows)], task
        settings = dict(loaded.config.generation_kwargs)
        assert (settings["max_new_tokens"], settings["do_sample"], settings["until"]) == (20, False, [])


@pytest.mark.slow
def test_the_prefix_stands_behind_the_instruction(data: Path) -> None:
    _, recipe = load_recipe("paper_exact")
    tests = {study.test[0]: study.test_prompted[0] for study in recipe.studies.values() if study.test_prompted}
    # the other tasks are those of test_real_world.py
    tests = {plain: prompted for plain, prompted in tests.items() if plain.removesuffix("_test") in TASKS}
    assert len(tests) == 11
    loaded = task_manager("steered_paligemma").load_task_or_group([*tests, *tests.values()], "simple")
    for plain, prompted in tests.items():
        docs = loaded[plain].eval_docs_no_media
        assert docs.to_dict() == loaded[prompted].eval_docs_no_media.to_dict(), "the same questions in the same order"
        before, after = (loaded[name].doc_to_text(docs[0]) for name in (plain, prompted))
        instruction = "answer en " + (NUMBER if "clevr" in plain else LETTERS)
        question = before.removeprefix(instruction)
        prefix = after.removeprefix(instruction).removesuffix(question)
        assert before == instruction + question and after == instruction + prefix + question
        assert prefix[0].isupper() and prefix.endswith(". ")


def test_a_counting_question_is_not_stripped() -> None:
    utils = import_module("lmms_steer.tasks.clevr.utils")
    assert utils.count_to_text({"problem": "<image>\nHow many? "}, {"pre_prompt": NUMBER}) == f"{NUMBER}\nHow many? "


@pytest.mark.parametrize(("rows", "test"), [(412, 262), (408, 258), (500, 350), (200, 50)])
def test_the_rest_of_150_questions_is_the_test(rows: int, test: int) -> None:
    # train_test_split takes its test set from the front of numpy's permutation
    order = np.random.RandomState(42).permutation(rows).tolist()
    assert split_places(rows, "test", "t") == order[150:] and len(order[150:]) == test
    assert split_places(rows, "select", "t") == order[:150]


def test_too_few_questions_for_the_split_are_refused() -> None:
    with pytest.raises(UserError, match="BLINK has 143 questions, and the paper's split holds out 150"):
        split_places(143, "test", "BLINK")


@pytest.mark.slow
def test_split_tasks_have_their_part_of_the_rows_with_captions_turned_before_the_split(data: Path) -> None:
    names = [
        f"{task}_{part}" for task in ("whatsup_a", "clevr_count", "superclevr_count") for part in ("select", "test")
    ]
    loaded = task_manager("steered_hf").load_task_or_group(names, "simple")
    for name in names:
        task, _, part = name.rpartition("_")
        rows, write = stored_rows(data, task), TASKS[task][1]
        order = np.random.RandomState(42).permutation(len(rows)).tolist()
        places = order[:150] if part == "select" else order[150:]
        docs = loaded[name].eval_docs_no_media
        assert [loaded[name].doc_to_text(doc) for doc in docs] == [write(rows[place], place) for place in places]
        if task == "whatsup_a":
            assert [doc["right"] for doc in docs] == ["ABCD"[-place % 4] for place in places]

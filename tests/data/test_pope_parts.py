"""POPE's held-out part: no image of it is in a test, and answers score as lmms-eval's own task scores them."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from lmms_eval.tasks.pope import utils as theirs

from lmms_steer.harness.task_files import tasks_dir

FOLDER = Path(tasks_dir()) / "pope"


@pytest.fixture(scope="module")
def ours() -> Any:
    spec = spec_from_file_location("pope_utils", FOLDER / "utils.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_image_of_the_held_out_part_is_in_a_test(ours: Any) -> None:
    names = [f"COCO_val2014_{number:012d}" for number in range(500)]
    rows = [{"image_source": name, "question_id": str(i)} for i, name in enumerate(n for n in names for _ in range(6))]
    asked = Dataset.from_list(rows)
    select, test = (getattr(ours, name)(asked) for name in ("docs_select", "docs_test"))
    assert {*select["image_source"]}.isdisjoint(test["image_source"])
    assert sorted((*select["question_id"], *test["question_id"]), key=int) == asked["question_id"][:]
    assert 480 <= len(select) <= 720, "about a fifth of 3,000 questions"
    # which part a task asks is in its file
    files = {path.stem: path.read_text() for path in FOLDER.glob("*.yaml")}
    assert {name for name, text in files.items() if "docs_select" in text} == {"steer_pope_select"}
    assert {name for name, text in files.items() if "docs_test" in text} == {
        f"steer_pope_{group}_test" for group in ("adv", "pop", "random")
    }


def test_prompts_and_scores_are_lmms_evals(ours: Any) -> None:
    template = yaml.load((FOLDER / "_pope_template_yaml").read_text().replace("!function", ""), yaml.SafeLoader)
    kwargs = template["lmms_eval_specific_kwargs"]["default"]
    answers = ["yes", "No", "Yes.", "", "no", "there is", "Yes, a cat"]
    docs = [{"question": "Is there a cat in the image?", "answer": "yes", "question_id": str(i)} for i in range(7)]
    results = [ours.process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    of_theirs = [theirs.pope_process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    assert [one["acc"] for one in results] == [one["pope_accuracy"]["score"] for one in of_theirs]
    assert ours.doc_to_text(docs[0], kwargs) == theirs.pope_doc_to_text(docs[0], kwargs)
    # by hand: "Yes." is read as yes, and scored as wrong; two of seven begin with neither word
    assert sum(one["says_yes"] for one in results) == 3
    assert [one["unparsed"] for one in results] == [0, 0, 0, 1, 0, 1, 0]
    # one true positive, one false negative that says no, and another; lmms-eval counts no other answer
    assert ours.f1_score([one["pope_f1_score"] for one in results]) == pytest.approx(2 * (1 / 3) / (1 + 1 / 3))

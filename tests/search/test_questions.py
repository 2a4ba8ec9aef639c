"""A task's questions: their fixed answers, and their order where they share images."""

import random
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lmms_steer import UserError
from lmms_steer.harness import tasks as lmms_eval_tasks
from lmms_steer.models.media import Video
from lmms_steer.search.questions import (
    Question,
    image_clusters,
    load_questions,
    questions_sha256,
    shuffle_by_image,
)
from lmms_steer.search.scorers import LetterScorer
from lmms_steer.tiny_world.question_sets import load_question_set


def test_a_task_without_fixed_answers_needs_generated_text() -> None:
    docs = [{"question": "what is it ?", "answer": "a red cat"}]
    config = SimpleNamespace(task="captions")
    task = SimpleNamespace(config=config, has_test_docs=lambda: True, test_docs=lambda: docs)
    task.fewshot_context, task.doc_to_target = (lambda doc, _: doc["question"]), (lambda doc: doc["answer"])
    task.doc_to_visual = lambda _: [Image.new("RGB", (8, 8))]
    with pytest.raises(UserError, match=r"captions, document 0: .* 'a red cat' is not a letter.*--score generate"):
        list(load_questions(task, None))
    assert [question.answers for question in load_questions(task, None, require_answer_set=False)] == [()]


def test_letters_beyond_the_tenth_are_answers() -> None:
    choices = [f"colour {i}" for i in range(11)]
    docs = [{"question": "which ? (A) colour 0", "choices": choices, "answer": "(K)"}]
    task = SimpleNamespace(config=SimpleNamespace(task="colours"), has_test_docs=lambda: True, test_docs=lambda: docs)
    task.fewshot_context, task.doc_to_target = (lambda doc, _: doc["question"]), (lambda doc: doc["answer"])
    task.doc_to_visual = lambda _: []
    (question,) = load_questions(task, None)
    assert question.answers == tuple("ABCDEFGHIJK") and question.right == 10


@pytest.mark.slow
def test_the_target_of_a_multiple_choice_task_is_a_place_among_its_choices() -> None:
    task, _ = lmms_eval_tasks.load_task("tiny_counting_ll", "steered_paligemma")
    for question, row in zip(load_questions(task, 20), load_question_set("counting", "test"), strict=False):
        assert question.answers == tuple(row["choices"])
        assert question.right == "ABCDEF".index(row["answer"].strip("()"))


def test_questions_about_one_image_follow_one_another() -> None:
    questions = [
        Question(i, "?", [Video(path) for path in paths], (), 0, None)
        for i, paths in enumerate(["7", "8", "", "7", "9", "", "8", "7"])
    ]
    images = image_clusters(questions)
    assert images is not None and len(set(images.tolist())) == 5, "questions without an image do not share one"
    order = "".join(
        visual.path for q in shuffle_by_image(questions, 3) for visual in q.visuals if isinstance(visual, Video)
    )
    assert sorted(order) == list("777889") and "777" in order and "88" in order
    own = [Question(i, "?", [Video(f"{i}.mp4")], (), 0, None) for i in range(50)]
    plain = list(own)
    random.Random(3).shuffle(plain)
    assert image_clusters(own) is None and shuffle_by_image(own, 3) == plain, "as without shared images"
    one = [Question(i, "?", [Video("5")], (), 0, None) for i in range(50)]
    images, plain = image_clusters(one), list(one)
    random.Random(3).shuffle(plain)
    assert images is not None and not images.any(), "one image for all"
    assert shuffle_by_image(one, 3) == plain, "in the order of questions with images of their own"
    assert image_clusters([Question(i, "?", [], (), 0, None) for i in range(4)]) is None, "text shows no image"


def test_a_text_that_is_right_belongs_to_the_questions() -> None:
    def asked(target: str) -> str:
        return questions_sha256([Question(0, "what does the chart say ?", [], (), 0, None, target=target)])

    assert asked("3") == asked("3") != asked("7")


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_a_model_that_overflows_answers_nothing(logit: float) -> None:
    lm = SimpleNamespace(first_token=lambda word: {"a": 0, "b": 1}[word])
    questions = [Question(i, "q", [], ("a", "b"), 0, None) for i in range(2)]
    base = torch.tensor([[logit, logit, 0.0], [2.0, 1.0, 0.0]])
    scorer = LetterScorer(lm, questions)
    assert scorer.base(SimpleNamespace(base=base)).scores.tolist() == [0.0, 1.0]  # type: ignore[arg-type]

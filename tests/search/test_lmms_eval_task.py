"""A search asks and scores the questions of lmms-eval's tasks as lmms-eval's own evaluation does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value

from lmms_steer import UserError
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.harness.tasks import load_task
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.search.lmms_eval_task import REASONING_TAGS, prompt_of, results_of
from lmms_steer.search.questions import load_questions
from lmms_steer.search.scoring_settings import own_scores_sha256, scoring_settings
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers.task_manager import task_manager

FIRST_LETTERS = """output_type: generate_until
generation_kwargs: {max_new_tokens: 1, do_sample: false}
filter_list:
  - name: first_letters
    filter:
      - {function: regex, regex_pattern: "^(..)"}
      - {function: take_first}
  - name: whole
    filter:
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHOICE = """output_type: multiple_choice
doc_to_choice: [one, two, three, four, five, six]
doc_to_target: place
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
NUMBERS = ("one", "two", "three", "four", "five", "six")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks whose description belongs to the prompt; in one, the first filter's answers are the right ones."""
    path = tmp_path_factory.mktemp("own")
    rows = []
    for row in load_question_set("counting", "select")[:16]:
        word = row["choices"]["ABCDEF".index(row["answer"].strip("()"))]
        place = NUMBERS.index(word)
        rows.append({"question": row["question"], "letters": word[:2], "place": place, "image": row["image"]})
    columns = {"question": Value("string"), "letters": Value("string"), "place": Value("int64"), "image": Image()}
    Dataset.from_list(rows, features=Features(columns)).to_parquet(path / "rows.parquet")
    (path / "utils.py").write_text("def doc_to_visual(doc):\n    return [doc['image'].convert('RGB')]\n")
    common = (
        f"dataset_path: parquet\ndataset_kwargs:\n  data_files:\n    select: {path}/rows.parquet\ntest_split: select\n"
        "description: 'the shapes are red . '\ndoc_to_text: '{{question}}'\n"
        "doc_to_visual: !function utils.doc_to_visual\n"
    )
    for name, settings in (
        ("written_select", f"doc_to_target: '{{{{letters}}}}'\n{FIRST_LETTERS}"),
        ("chosen_select", CHOICE),
        ("shown_select", f"doc_to_target: '{{{{letters}}}}'\nnum_fewshot: 2\n{FIRST_LETTERS}"),
    ):
        (path / f"{name}.yaml").write_text(f"task: {name}\n{common}{settings}")
    return path


@pytest.fixture(scope="module")
def evaluated(folder: Path) -> dict[str, list[Any]]:
    """What lmms-eval logs of each question, for each task."""
    from lmms_eval.evaluator import simple_evaluate

    samples: dict[str, list[Any]] = simple_evaluate(
        model="steered_paligemma", model_args="pretrained=tiny-paligemma2", tasks=["written_select", "chosen_select"],
        task_manager=task_manager(folder), batch_size=8, log_samples=True, bootstrap_iters=0,
    )["samples"]  # fmt: skip
    return samples


@pytest.mark.slow
def test_prompts_and_scores_are_those_of_an_evaluation(folder: Path, evaluated: dict[str, list[Any]]) -> None:
    task, _ = load_task("written_select", "steered_paligemma", folder)
    questions = list(load_questions(task, None, require_answer_set=False))
    logged = evaluated["written_select"][: len(questions)]
    assert [q.text for q in questions] == [sample["arguments"][0] for sample in logged]
    assert questions[0].text.startswith("the shapes are red . how many ")
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    inputs = lm.model_inputs([q.text for q in questions], [q.visuals for q in questions])
    scorer = GenerationScorer(lm, task, questions, inputs)
    scores = scorer.base(HookedBatch(lm.model, inputs)).scores.tolist()
    assert scores == [sample["exact_match"] for sample in logged]
    assert 1 < sum(scores) < len(scores), "the filter decides"


@pytest.mark.slow
def test_a_multiple_choice_question_has_the_description_too(folder: Path, evaluated: dict[str, list[Any]]) -> None:
    task, _ = load_task("chosen_select", "steered_paligemma", folder)
    asked = [sample["arguments"][0] for sample in evaluated["chosen_select"]]
    assert [question.text for question in load_questions(task, None)] == asked
    assert asked[0].startswith("the shapes are red . how many ")


@pytest.mark.slow
def test_examples_in_prompts_are_refused_as_in_an_evaluation(folder: Path) -> None:
    task, _ = load_task("shown_select", "steered_paligemma", folder)
    with pytest.raises(UserError, match="shown_select asks for 2 examples in each prompt, which lmms-eval gives"):
        next(load_questions(task, None, require_answer_set=False))


def of_lmms_eval(task: Any, text: str) -> Any:
    """The results of lmms-eval's own evaluator for an answer."""
    from lmms_eval.api.reasoning import parse_reasoning_tags_config
    from lmms_eval.evaluator import _process_document_results

    request = SimpleNamespace(resps=[text] * task.config.repeats, filtered_resps={}, raw_filtered_resps={})
    task._filters[0].apply([request], [{}])
    tags = parse_reasoning_tags_config(REASONING_TAGS, task.config.reasoning_tags)
    name = task._filters[0].name
    done = _process_document_results(
        (0, {}, [request]), task=task, filter_key=name, reasoning_tags=tags, log_samples=False
    )
    return done.metrics


def fake_task(filters: list[Any], **settings: Any) -> Any:
    """A task that scores an answer by showing it."""
    from lmms_eval.filters import build_filter_ensemble

    config = SimpleNamespace(
        **{"task": "t", "repeats": 1, "reasoning_tags": None, "auto_strip_thinking": False} | settings
    )
    made = [build_filter_ensemble("f", filters), build_filter_ensemble("g", [["lowercase", None]])]
    return SimpleNamespace(config=config, _filters=made, process_results=lambda _, results: {"read": results})


@pytest.mark.parametrize("value", [2.5, -1, float("nan"), {"score": 1.0}, None])
def test_a_score_that_is_no_share_is_refused(value: Any) -> None:
    scorer: Any = object.__new__(GenerationScorer)
    scorer.task = fake_task([["take_first", None]])
    scorer.task.process_results = lambda _, results: {"points": value, "half": 0.5, "unparsed": True}
    scorer.lm = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda row, **_: "text"))
    scorer._writer = SimpleNamespace(until_end=lambda row: row[:1])
    scorer._until, scorer._metric = [], "half"
    question: Any = SimpleNamespace(doc={}, doc_id=7)
    assert scorer._score(question, [5, 1]) == (0.5, 1.0)
    for scorer._metric in ("points", "other"):
        with pytest.raises(UserError, match=rf"t: its metric {scorer._metric} is .* for document 7: a search needs a"):
            scorer._score(question, [5, 1])


@pytest.mark.parametrize("text", ["<think> A or B </think> B .", "A", "B </analysis> A", "<thinking>B</thinking>A", ""])
@pytest.mark.parametrize(
    ("filters", "settings"),
    [
        ([["take_first", None]], {}),
        ([["regex", {"regex_pattern": "([AB])"}], ["take_first", None]], {}),
        ([["regex", {"regex_pattern": "([AB])"}]], {}),
        ([["take_first", None]], {"reasoning_tags": [["A", "B"]]}),
        ([["take_first", None]], {"reasoning_tags": "none"}),
        ([["majority_vote", None], ["take_first", None]], {"repeats": 3}),
    ],
)
def test_an_answer_is_read_as_lmms_eval_s_evaluator_reads_it(
    text: str, filters: list[Any], settings: dict[str, Any]
) -> None:
    task = fake_task(filters, **settings)
    assert results_of(task, {}, text) == of_lmms_eval(task, text)


def test_thinking_is_stripped_before_the_filters_where_a_task_asks_for_it() -> None:
    regex = [["regex", {"regex_pattern": "([AB])"}], ["take_first", None]]
    text = "<thinking> A </thinking> B"
    for settings, expected in (
        ({}, "A"),
        ({"auto_strip_thinking": True}, "A"),
        ({"auto_strip_thinking": True, "reasoning_tags": "none"}, "B"),
    ):
        assert results_of(fake_task(regex, **settings), {}, text) == {"read": [expected]}, settings


def test_the_reasoning_tags_are_the_default_of_lmms_eval_s_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_eval.__main__ import parse_eval_args

    monkeypatch.setattr("sys.argv", ["lmms-eval", "--tasks", "t"])
    _, parsed = parse_eval_args()
    assert parsed.reasoning_tags == REASONING_TAGS


@pytest.mark.parametrize("task", [{"multiple_input": 2}, {"fewshot_context": lambda *_: ["one", "two"]}])
def test_a_question_with_several_prompts_is_refused(task: dict[str, Any]) -> None:
    config = SimpleNamespace(task="t", num_fewshot=None)
    with pytest.raises(UserError, match="t, document 3: its doc_to_text gives no single text: a search asks one"):
        prompt_of(SimpleNamespace(**{"config": config, "fewshot_context": lambda *_: "one"} | task), {}, 3)


def test_a_changed_filter_is_another_way_to_score_texts() -> None:
    def written(**settings: Any) -> str:
        config = SimpleNamespace(metric_list=[{"metric": "acc"}], generation_kwargs={"max_new_tokens": 1}, **settings)
        return scoring_settings(config, "generate", None)

    assert written() == written(filter_list=None) == '{"max_new_tokens": 1, "metric": "acc"}'
    first, second = ([{"name": "f", "filter": [{"function": name}]}] for name in ("regex", "lowercase"))
    assert len({written(), written(filter_list=first), written(filter_list=second)}) == 3
    assert "0x" not in written(filter_list=[{"function": fake_task}])
    assert scoring_settings(SimpleNamespace(), "letters", None) == ""


def test_a_search_knows_the_file_in_which_a_task_of_the_user_s_own_scores(folder: Path) -> None:
    scoring = "\n\ndef helper(text):\n    return float(text == 'A')\n\ndef process_results(doc, results):\n"
    utils, yaml = folder / "utils.py", folder / "written_select.yaml"
    (folder / "scored_select.yaml").write_text(
        yaml.read_text().replace("task: written_select", "task: scored_select")
        + "process_results: !function scoring.process_results\n"
    )
    found = []
    for more in ("", "", "# helper\n"):
        scored = utils.read_text() + scoring + "    return {'exact_match': helper(results[0])}\n" + more
        (folder / "scoring.py").write_text(scored)
        task, _ = load_task("scored_select", "steered_paligemma", folder)
        found.append(own_scores_sha256(task.config, "generate"))
    assert found[0] == found[1] != found[2] and None not in found
    assert own_scores_sha256(task.config, "letters") is None, "the likeliest letter counts"
    shipped, _ = load_task("tiny_spatial_select", "steered_paligemma", None)
    assert callable(shipped.config.process_results) and own_scores_sha256(shipped.config, "generate") is None
    assert own_scores_sha256(load_task("written_select", "steered_paligemma", folder)[0].config, "generate") is None

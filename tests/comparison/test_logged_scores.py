"""Scores of captions that lmms-eval logs as what it aggregates later, compared with its own aggregation or by hand."""

from pathlib import Path
from typing import Any

import pytest
from lmms_eval.tasks.coco_cap_chair import utils as chair

from lmms_steer import UserError
from lmms_steer.comparison.logged_scores import logged_score
from lmms_steer.comparison.tables import text_table
from tests.helpers.runs import leaderboard, write_run

THERE = [["dog", "cat"], ["car"], ["cup", "fork", "bowl"], ["bed"]]
MENTIONED = [["dog", "dog", "bird"], ["car"], [], ["cup", "bed"]]


def test_a_caption_s_chair_and_recall_are_lmms_eval_s_for_that_caption() -> None:
    logged = [{"answer": there, "pred": said, "image_id": 1} for there, said in zip(THERE, MENTIONED, strict=True)]
    for entry in logged:
        alone = [entry]
        if entry["pred"]:
            expected = chair.coco_cap_chair_aggregate_results_chair_i(alone) / 100
            assert logged_score("coco_cap_chair_i", entry) == pytest.approx(expected)
        assert logged_score("coco_cap_chair_s", entry) == chair.coco_cap_chair_aggregate_results_chair_s(alone) / 100
        expected = chair.coco_cap_chair_aggregate_results_recall(alone) / 100
        assert logged_score("coco_cap_recall", entry) == pytest.approx(expected)
    assert logged_score("coco_cap_chair_i", logged[2]) == 0, "lmms-eval divides by zero here"


def test_amber_s_shares_are_of_its_counts() -> None:
    counts = {"chair_score": 1, "chair_num": 4, "safe_cover_score": 2, "safe_cover_num": 3, "hallu_cover_score": 1,
              "hallu_cover_num": 5, "non_hallu_score": 0, "non_hallu_num": 1}  # fmt: skip
    scores = {f"amber_{name}": logged_score(f"amber_{name}", counts) for name in ("chair", "cover", "hal", "cog")}
    assert scores == pytest.approx({"amber_chair": 1 / 4, "amber_cover": 2 / 3, "amber_hal": 1, "amber_cog": 1 / 5})


@pytest.mark.parametrize(("answer", "score"), [("Yes, it is.", 1), ("No.", 0), ("The line is longer", 0)])
def test_hallusion_bench_counts_the_first_word(answer: str, score: float) -> None:
    assert logged_score("aAcc", {"gt_answer": "1", "model_prediction": answer}) == score


def test_captions_are_compared_with_their_length_and_recall_beside_chair(tmp_path: Path) -> None:
    def sample(said: list[list[str]]) -> Any:
        def of(number: int) -> dict[str, Any]:
            logged = {"answer": THERE[number % 4], "pred": said[number % 4], "image_id": number}
            caption = " ".join(["a", *said[number % 4]])
            names = ("coco_cap_chair_i", "coco_cap_chair_s", "coco_cap_recall")
            return {"score": None, "acc": None, "filtered_resps": [caption], **dict.fromkeys(names, logged)}

        return of

    metrics = [{"metric": name} for name in ("coco_cap_chair_i", "coco_cap_chair_s", "coco_cap_recall")]
    better = {"coco_cap_chair_i": False, "coco_cap_chair_s": False, "coco_cap_recall": True}
    results = {"configs": {"a": {"metric_list": metrics}}, "higher_is_better": {"a": better}}
    silent: list[list[str]] = [[], [], [], []]
    for name, said, spec in (("baseline", MENTIONED, ""), ("silent", silent, "vector=v,layer=1")):
        write_run(tmp_path / name, {"a": [0.0] * 40}, sample=sample(said), spec=spec, results=results)
    rows = leaderboard(tmp_path)
    # by hand: 1 of 3 mentions wrong, 0 of 1, none, 1 of 2
    assert rows["a", "baseline"].score == pytest.approx((1 / 3 + 0 + 0 + 1 / 2) / 4)
    assert rows["a", "silent"].gain == pytest.approx(-(1 / 3 + 1 / 2) / 4)
    titles, cells = text_table([*rows.values()])
    first, second = (dict(zip(titles, row, strict=True)) for row in cells)
    # recall 1/2, 1, 0, 1; one word and 3, 1, 0, 2 more
    assert (first["recall"], first["words"]) == ("62.5%", "2.5")
    assert (second["recall"], second["words"]) == ("0.0%", "1.0"), "a caption that says nothing is clean by CHAIR"


def test_samples_of_different_scores_each_have_their_own(tmp_path: Path) -> None:
    def sample(better: float) -> Any:
        def of(number: int) -> dict[str, Any]:
            # MME logs one of the two for each question
            name = "mme_perception_score" if number % 3 else "mme_cognition_score"
            logged = {"question_id": f"{number}", "category": "x", "score": float(number % 2 == 0 or number < better)}
            return {"score": None, "acc": None, name: logged}

        return of

    metrics = [{"metric": "mme_perception_score"}, {"metric": "mme_cognition_score"}]
    better = {"mme_perception_score": True, "mme_cognition_score": True}
    results = {"configs": {"mme": {"metric_list": metrics}}, "higher_is_better": {"mme": better}}
    for name, spec in (("baseline", ""), ("steered", "vector=v")):
        write_run(tmp_path / name, {"mme": [0.0] * 40}, sample=sample(10 * bool(spec)), spec=spec, results=results)
    row = leaderboard(tmp_path)["mme", "steered"]
    assert not row.refused and (row.fixed, row.broken) == (5, 0) and row.score == pytest.approx(25 / 40)


def test_the_first_score_that_every_sample_has_counts(tmp_path: Path) -> None:
    def sample(number: int) -> dict[str, Any]:
        # MMStar logs its average for every question, and each of six categories for some
        return {"score": None, "acc": None, "average": number % 2, **({"coarse": 1.0} if number < 9 else {})}

    metrics = [{"metric": "coarse"}, {"metric": "average"}]
    results = {"configs": {"mmstar": {"metric_list": metrics}}, "higher_is_better": {"mmstar": {"average": True}}}
    for name in ("baseline", "steered"):
        spec = "v" * (name != "baseline")
        write_run(tmp_path / name, {"mmstar": [0.0] * 40}, sample=sample, spec=spec, results=results)
    row = leaderboard(tmp_path)["mmstar", "steered"]
    assert row.score == 0.5 and {one.metric for one in row.samples} == {"average"}


def test_scores_of_which_more_is_better_and_worse_are_not_mixed(tmp_path: Path) -> None:
    def sample(number: int) -> dict[str, Any]:
        return {"score": None, "acc": None, "right" if number % 2 else "errors": 1.0}

    metrics = [{"metric": "right"}, {"metric": "errors"}]
    results = {"configs": {"a": {"metric_list": metrics}}, "higher_is_better": {"a": {"right": True, "errors": False}}}
    for name, spec in (("baseline", ""), ("steered", "vector=v")):
        write_run(tmp_path / name, {"a": [0.0] * 20}, sample=sample, spec=spec, results=results)
    with pytest.raises(UserError, match="no score on 20 of 20 questions"):
        leaderboard(tmp_path)

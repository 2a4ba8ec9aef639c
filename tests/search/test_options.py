"""What `lmms-steer search` refuses, and how its options are parsed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmms_steer import UserError
from lmms_steer.search.command import run_search
from lmms_steer.search.ignored import ignored_lines
from lmms_steer.search.layers import layers
from lmms_steer.search.options import SearchOptions, parse_alphas, parse_layers, parse_targets, refuse_test
from lmms_steer.search.strategies import Rung, Strategy, StrategyContext
from lmms_steer.word_curves.command import CurveOptions, run_curve
from tests.helpers.searches import result_of, search_into


@pytest.mark.slow
def test_a_search_that_cannot_run_is_refused_in_one_line(finished_study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"another search: --controls 1 there, 0 here: take another --output$"):
        search_into(finished_study, controls=0)
    with pytest.raises(UserError, match="--i-know-this-is-test"):
        search_into(tmp_path, task="tiny_counting")
    with pytest.raises(UserError, match="unknown task 'tiny_countin': did you mean"):
        search_into(tmp_path, task="tiny_countin_select"[:12])
    with pytest.raises(UserError, match="unknown strategy 'rase': did you mean 'race'"):
        search_into(tmp_path, strategy="rase")
    with pytest.raises(UserError, match="the choice is made on these questions"):
        search_into(tmp_path, confirm="tiny_counting_select")
    with pytest.raises(UserError, match="unknown score 'letter': did you mean 'letters'"):
        search_into(tmp_path, score="letter")
    assert "WARNING: 8 questions: a 95% interval is about ±35 points wide" in search_into(tmp_path / "few", limit=8)


@pytest.mark.slow
def test_a_search_on_one_question_is_refused_and_a_repeated_vector_counts_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--limit 1: a search needs at least 2 questions"):
        search_into(tmp_path, limit=1)
    for _ in range(2):
        search_into(tmp_path, vectors=("counting", "counting"), limit=2, layers="1", controls=0)
    assert list(result_of(tmp_path)["vectors"]) == ["counting"]


def test_ranges_are_parsed_and_invalid_ones_refused() -> None:
    assert parse_layers("5-8,1", 26) == (5, 6, 7, 8, 1) and parse_layers("0-8:4", 26) == (0, 4, 8)
    assert parse_alphas("0.1:0.5:0.1") == (0.1, 0.2, 0.3, 0.4, 0.5) and parse_alphas("0,2") == (2.0,)
    for text in ("5-30", "a", "3-1", "0-4:0"):
        with pytest.raises(UserError, match="--layers"):
            parse_layers(text, 26)
    for text in ("0", "0:0:1", "1:2:0", "x", "1:0.5:0.1", "nan", "0.1:inf:0.1"):
        with pytest.raises(UserError, match="--alphas"):
            parse_alphas(text)
    with pytest.raises(UserError, match="unknown token target 'images': did you mean 'image'"):
        parse_targets("images")
    with pytest.raises(UserError, match="token target 'image.text': .*; both means text and all media"):
        parse_targets("image+text")
    refuse_test("cvbench_relation_select", "test", allow_test=False)
    for task in ("cvbench_relation", "cvbench_relation_test"):
        with pytest.raises(UserError, match="choose on held-out questions"):
            refuse_test(task, "test", allow_test=False)
        refuse_test(task, "test", allow_test=True)
    for task, split in (("whatsup_a", "Controlled_Images_A"), ("clevr_count", "train"), ("superclevr_count", "test")):
        with pytest.raises(UserError, match=f"{task} uses .*: choose on held-out questions {task}_select, or add"):
            refuse_test(task, split, allow_test=False)
    for task in ("whatsup_a_ll", "whatsup_a_prompted", "clevr_count_ll", "whatsup_a_test_ll"):
        held_out = task.replace("_test", "").replace("whatsup_a", "whatsup_a_select").replace("_count", "_count_select")
        with pytest.raises(UserError, match=f"choose on held-out questions {held_out}, or add"):
            refuse_test(task, "train", allow_test=False)
    refuse_test("whatsup_a_select_ll", "test", allow_test=False)
    refuse_test("my_select", "test", allow_test=False)
    refuse_test("mine", "validation", allow_test=False)


@pytest.mark.parametrize("harness", ["lmms-eval", "lm-eval"])
@pytest.mark.parametrize("keys", ["tokens=image", "vector=counting", "steering=spec.yaml"])
def test_steering_keys_of_the_unsteered_model_are_refused_before_what_they_lack(
    harness: str, keys: str, tmp_path: Path
) -> None:
    arguments = f"pretrained=tiny-paligemma2,{keys}"
    options = SearchOptions("steered_hf", arguments, ("counting",), "tiny_counting_select", tmp_path, harness=harness)
    for dry in (False, True):
        with pytest.raises(UserError, match="^--model_args of a search must name the unsteered model: give vector, "):
            list(run_search(replace(options, dry_run=dry, tokens="both")))


def test_layers_and_curves_refuse_steering_keys_in_the_same_way(tmp_path: Path) -> None:
    arguments = "pretrained=tiny-paligemma2,tokens=image"
    with pytest.raises(UserError, match="^--model_args must name the unsteered model: .*, and its tokens as --tokens$"):
        layers(arguments, "counting")
    with pytest.raises(UserError, match="^--model_args of a curve must name the unsteered model"):
        list(run_curve(CurveOptions("steered_hf", arguments, ("colour-red",), tmp_path)))


def test_what_has_no_effect_is_a_warning_each(tmp_path: Path) -> None:
    def warned(**more: Any) -> list[str]:
        options = SearchOptions("steered_hf", "pretrained=x", ("v",), "task", tmp_path, **more)
        return [line.removeprefix("WARNING: ") for line in ignored_lines(options, 500)]

    assert warned(alphas="0.5:1:0.25", tokens="image,text", limit=500) == []
    assert warned(trials=20, strategy="tpe") == [] == warned(trials=20, strategy=halves)
    assert warned(trials=20) == ["--trials 20 has no effect: the strategy grid proposes no cells"]
    assert warned(alphas="0,0.5,0.50") == ["--alphas 0,0.5,0.50: values that are given twice count once"]
    assert warned(alphas="kl:0.1, kl:0.10") == ["--alphas kl:0.1, kl:0.10: values that are given twice count once"]
    assert warned(tokens="image,image") == ["--tokens image,image: values that are given twice count once"]
    assert warned(limit=501) == ["--limit 501 has no effect: task has 500 questions"]


def halves(search: StrategyContext) -> Strategy:
    """A strategy of the user's own, which may read the number of trials."""
    yield Rung(search.cells[: search.trials], range(search.n))


@pytest.mark.parametrize("memory", ["-1", "nan", "inf"])
def test_memory_is_a_number_of_gib(memory: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^--memory {memory}: expected GiB, a finite number from 0 on$"):
        SearchOptions("steered_hf", "pretrained=x", ("v",), "task", tmp_path, memory=float(memory))

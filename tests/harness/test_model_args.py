"""How `--model_args` are split and checked, and that nothing in them is dropped in silence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.utils import simple_parse_args_string

from lmms_steer import UserError
from lmms_steer.harness.arguments import check_model_args, split_args
from lmms_steer.harness.lm_eval_tasks import create_lm
from lmms_steer.harness.steered import LmmsEvalSteering, SteeredPaliGemma, create_model
from lmms_steer.harness.wrapped import steered_class
from lmms_steer.inspection.command import inspect
from lmms_steer.search.command import run_search
from lmms_steer.search.layers import layers
from lmms_steer.search.options import SearchOptions
from lmms_steer.word_curves.command import CurveOptions, run_curve

TINY = "pretrained=tiny-paligemma2"
SPEC = "vector=spatial,layer=3,tokens=image"
TWICE = r"alpha is given 2 times in --model_args \(alpha=0.5 and alpha=1.0\): give it once"


@pytest.mark.parametrize(
    "args",
    [
        f"{TINY},{SPEC},alpha=0.5,alpha=1.0",
        f"{TINY},alpha=0.5,{SPEC},alpha=1.0",
        f'{TINY},prompt_prefix="a,b",{SPEC},alpha=0.5,alpha=1.0',
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_both_values(args: str) -> None:
    for check in (
        lambda: check_model_args("steered_paligemma", args),
        lambda: create_model("steered_paligemma", args),
        lambda: SteeredPaliGemma.create_from_arg_string(args, {"batch_size": 1}),
        lambda: steered_class("internvl_hf").create_from_arg_string(args),
    ):
        with pytest.raises(UserError, match=TWICE):
            check()


def test_a_bias_on_answers_is_refused_by_every_command_that_would_ignore_it(tmp_path: Path) -> None:
    bias = tmp_path / "bias.yaml"
    bias.write_text("above: 1.5\n")
    args = f"{TINY},answer_bias={bias}"
    search = SearchOptions("steered_paligemma", args, ("spatial",), "tiny_spatial_select", tmp_path / "study")
    curve = CurveOptions("steered_paligemma", args, ("colour-red",), tmp_path / "curve")
    for command in (
        lambda: list(run_search(search)),
        lambda: list(run_search(replace(search, dry_run=True))),
        lambda: list(run_curve(curve)),
        lambda: layers(args, "spatial", model="steered_paligemma"),
        lambda: inspect("what is here ?", args, "steered_paligemma"),
    ):
        with pytest.raises(UserError, match="answer_bias=.*: an answer bias is for evaluations with lmms-eval"):
            command()
    with pytest.raises(UserError, match="^answer_bias=.*: only the models for lmms-eval have this setting"):
        create_lm(f"pretrained=tiny-gemma2,answer_bias={bias}", 1)
    assert SteeredPaliGemma.create_from_arg_string(args).answer_bias is not None, "an evaluation takes it"


def test_spaces_make_no_other_key() -> None:
    assert split_args(" alpha = 0.5 , tokens =image", "--model_args") == {"alpha": "0.5", "tokens": "image"}
    with pytest.raises(UserError, match="alpha is given 2 times"):
        split_args("alpha=1, alpha =2", "--model_args")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a=1,b=x=y,c=/some/path",
        'a="x,y",b=[1,2],c={"d": [3, 4]},e=it\'s',
        "a='x,\"y',b=1,",
        'a="x\\",y",b=2',
    ],
)
def test_arguments_are_split_where_lmms_eval_splits_them(text: str) -> None:
    theirs = {name: str(value) for name, value in simple_parse_args_string(text).items()}
    assert split_args(text, "--model_args") == theirs


def test_quotes_keep_commas_and_are_not_part_of_the_value() -> None:
    pretrained, spec = check_model_args("steered_hf", f'{TINY},prompt_prefix="a,b=c",vector="spatial",layer=3')
    assert (pretrained, str(spec)) == ("tiny-paligemma2", "vector=spatial,layer=3")
    lm = SteeredPaliGemma.create_from_arg_string(f'{TINY},prompt_prefix="a,b=c"')
    assert lm.prompt_prefix == "a,b=c "


@pytest.mark.parametrize("text", ["prompt_prefix=it's,alpha=1", 'a="x,alpha=1', "a=[x,alpha=1", "a=x],alpha=1"])
def test_an_open_quote_or_bracket_does_not_swallow_what_follows(text: str) -> None:
    with pytest.raises(UserError, match="in --model_args is not closed, so .*alpha=1 would be one value"):
        split_args(text, "--model_args")


def test_an_option_and_an_argument_that_disagree_are_refused() -> None:
    options: dict[str, Any] = {"batch_size": "8", "device": "cuda:1", "max_batch_size": None}
    for argument, expected in (("batch_size=4", "--batch_size 8"), ("device=cpu", "--device cuda:1")):
        with pytest.raises(UserError, match=f"{argument} in --model_args, but {expected}: give one of them"):
            SteeredPaliGemma.create_from_arg_string(f"{TINY},{argument}", options)
    lm = SteeredPaliGemma.create_from_arg_string(f"{TINY},batch_size=4", {"batch_size": 1, "device": "cpu"})
    assert lm.batch_size == 4


def test_a_wrapper_that_ignores_unknown_arguments_does_not_hide_a_misspelt_key(tmp_path: Path) -> None:
    wrapper: Any = steered_class("internvl_hf")
    makers: tuple[Callable[[], Any], ...] = (
        lambda: wrapper.create_from_arg_string(f"pretrained={tmp_path},vector=spatial,layer=1,aplha=0.5"),
        lambda: wrapper(pretrained=str(tmp_path), vector="spatial", layer=1, aplha=0.5),
    )
    for make in makers:
        with pytest.raises(UserError, match="unknown key 'aplha' in --model_args: did you mean 'alpha'"):
            make()
    assert wrapper.takes("max_patches") and wrapper.takes("alpha") and not wrapper.takes("kwargs")


def test_an_argument_of_our_models_is_not_taken_for_a_word_in_a_wrapper_s_code() -> None:
    class Theirs:
        def __init__(self, pretrained: str, modality: str = "image", **kwargs: Any) -> None:
            self.patches = kwargs.get("max_patches")

    class Ours(LmmsEvalSteering, Theirs):
        pass

    assert Ours.takes("max_patches") and not Ours.takes("image") and SteeredPaliGemma.takes("image")

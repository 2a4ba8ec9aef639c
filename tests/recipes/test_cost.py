"""The cost of a plan: shapes against transformers' own models, operations against torch's counter, and the lines."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch.utils.flop_counter import FlopCounterMode

from lmms_steer.errors import UserError
from lmms_steer.models.batches import TOKENS_AT_ONCE_ON_ACCELERATORS
from lmms_steer.recipes import cost
from lmms_steer.recipes.answers import search_answers
from lmms_steer.recipes.command import run_recipe
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.shapes import Shape, find_card, find_shape
from lmms_steer.search.batch_store import CHECK_EVERY
from lmms_steer.search.measure import CHECKED_CELLS
from lmms_steer.vectors.backbones import checkpoint

SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
GEMMA2 = {
    "2b": {},
    "9b": {
        "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42, "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
}  # fmt: skip
LLAMA = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8,
}  # fmt: skip


def paligemma2(size: str) -> Any:
    text = {"model_type": "gemma2", "vocab_size": 257216, **GEMMA2[size]}
    vision = {"model_type": "siglip_vision_model", "image_size": 448, "patch_size": 14, "vision_use_head": False}
    width = text.get("hidden_size", 2304)
    config = tf.PaliGemmaConfig(text_config=text, vision_config={**vision, **SIGLIP}, projection_dim=width)
    return tf.PaliGemmaForConditionalGeneration(config)


def idefics3() -> Any:
    text = {"model_type": "llama", "vocab_size": 128259, **LLAMA}
    vision = {"image_size": 364, "patch_size": 14, **SIGLIP}
    config = tf.Idefics3Config(text_config=text, vision_config=vision, scale_factor=2, tie_word_embeddings=False)
    return tf.Idefics3ForConditionalGeneration(config)


def gemma3() -> Any:
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    vision = {"image_size": 896, "patch_size": 14, "vision_use_head": False, **SIGLIP}
    return tf.Gemma3ForConditionalGeneration(tf.Gemma3Config(text_config=text, vision_config=vision))


MODELS: dict[str, Callable[[], Any]] = {
    "google/paligemma2-3b-mix-448": lambda: paligemma2("2b"),
    "google/paligemma2-10b-mix-448": lambda: paligemma2("9b"),
    "HuggingFaceM4/Idefics3-8B-Llama3": idefics3,
    "google/gemma-3-4b-it": gemma3,
    "google/gemma-2-2b": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config()),
    "google/gemma-2-9b": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**GEMMA2["9b"])),
    "meta-llama/Llama-3.1-8B-Instruct": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=128256, **LLAMA)),
}


def shape_of(name: str) -> Shape:
    shape = find_shape(name)
    assert shape is not None
    return shape


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_shape_has_the_parameters_of_transformers_own_model(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[name]()
    expected = sum(parameter.numel() for parameter in dict.fromkeys(model.parameters()))
    shape = shape_of(name)
    assert shape.parameters == pytest.approx(expected, rel=1e-3)
    linear = [
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n
    ]
    assert shape.matrices == pytest.approx(sum(linear), rel=2e-3)


def test_operations_of_a_layer_are_those_that_torch_counts() -> None:
    text = tf.Gemma2Config(num_hidden_layers=1, vocab_size=8)
    with torch.device("meta"):
        model = tf.Gemma2Model(text)
        ids = torch.zeros((1, 1084), dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(ids)
    assert shape_of("google/gemma-2-2b").layer_flops(1084) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_operations_of_the_vision_tower_are_those_that_torch_counts() -> None:
    config = tf.SiglipVisionConfig(**{**SIGLIP, "num_hidden_layers": 1}, image_size=448, patch_size=14)
    config.vision_use_head = False
    with torch.device("meta"):
        model = tf.SiglipVisionModel(config)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 448, 448))
    layer = shape_of("google/paligemma2-3b-mix-448").vision_flops() / 27
    assert layer == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_checkpoint_on_this_disk_has_the_shape_of_its_config() -> None:
    shape = shape_of("tiny-paligemma2")
    model = tf.AutoModelForImageTextToText.from_pretrained(checkpoint("tiny-paligemma2"))
    assert shape.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.05)
    assert shape.layers == len(model.get_decoder().layers) and find_shape("nobody/nothing") is None


def test_the_numbers_of_a_search_are_those_of_the_search_itself() -> None:
    assert cost.STACK_TOKENS == TOKENS_AT_ONCE_ON_ACCELERATORS
    assert cost.CHECK_PASSES == CHECKED_CELLS * 4 / CHECK_EVERY


def plan_lines(recipe: str, *assignments: str, **options: Any) -> str:
    return "\n".join(line for line in run_recipe(recipe, assignments=assignments, dry_run=True, **options))


def hours(plan: str) -> tuple[float, float]:
    words = next(line for line in plan.splitlines() if "in all" in line).split()
    low, high = words[3].replace(",", "").split("-")
    return float(low), float(high)


@pytest.mark.slow
def test_the_papers_grid_costs_what_was_worked_out_by_hand_and_a_race_a_quarter() -> None:
    plan = plan_lines("paper_cvbench", gpu="h100")
    low, high = hours(plan)
    # by hand: 64.6 million answers of 2.2, 9.2 and 17 TFLOP, at 25 to 50% of 989 TFLOP/s, are 350 to 710 hours
    assert 350 < low < 450 and 700 < high < 1300
    raced = hours(plan_lines("paper_cvbench", "search.strategy=race", gpu="h100"))
    assert 0.2 * low < raced[0] < 0.3 * low and raced[1] < 0.3 * high
    # 16 features of 16, 25 and 19 layers, for each of four concepts
    assert "judge: up to 3,840 features to check, one request each" in plan
    assert "google/gemma-2-9b 37.0 GB" in plan and "HuggingFaceM4/Idefics3-8B-Llama3 16.9 GB" in plan
    assert "judge: up to" not in plan_lines("paper_cvbench", "methods.sae.judge=none", gpu="h100")
    small = plan_lines("paper_cvbench", gpu="4090")
    assert "about 28 GB in a search: TOO MUCH, set search_batch_size to 3" in small
    assert "paligemma2-10b: extracting from gemma-2-9b loads 37.0 GB: TOO MUCH, set backbone_dtype: bfloat16" in small
    fitting = ["search_batch_size=3", "args.load_in_4bit=True", "backbone_dtype=bfloat16"]
    fitted = plan_lines("paper_cvbench", *(f"models.paligemma2-10b.{setting}" for setting in fitting), gpu="4090")
    assert "TOO MUCH" not in fitted
    assert "--backbone gemma-2-9b" in fitted and "--dtype bfloat16" in fitted


RACED = 480 * 100 + 120 * (167 - 100) + 30 * (500 - 167)
"""Of one vector: 480 cells on a fifth of 500 questions, then a quarter of the cells at a time."""
SCREENED_AND_RACED = 160 * 100 + 40 * (167 - 100) + 10 * (500 - 167)


@pytest.mark.parametrize(
    ("strategy", "of_a_vector"),
    [
        ("grid", 480 * 500),
        ("screen", 160 * 500),
        ("race", RACED),
        ("race+screen", SCREENED_AND_RACED),
        ("tpe", 64 * 500),
    ],
)
def test_answers_are_those_of_the_strategy(strategy: str, of_a_vector: int) -> None:
    _, recipe = load_recipe("paper_cvbench", assignments=[f"search.strategy={strategy}"])
    study, model, method = recipe.studies["relation"], recipe.models["paligemma2-3b"], recipe.methods["mean_shift"]
    assert search_answers(recipe, model, study, method) == 2 * of_a_vector, "the vector and its control"


def test_quantised_weights_take_less_memory() -> None:
    shape = shape_of("google/paligemma2-10b-mix-448")
    assert shape.weight_bytes({"dtype": "bfloat16"}) == 2 * shape.parameters
    assert shape.weight_bytes({"load_in_4bit": "True"}) < 0.4 * shape.weight_bytes({"load_in_4bit": "False"})


def test_an_unknown_card_or_a_run_with_an_estimate_is_one_line() -> None:
    assert find_card("RTX-4090") == find_card("4090")
    with pytest.raises(UserError, match="unknown card 'h10' in --gpu: did you mean 'h100'"):
        plan_lines("paper_cvbench", gpu="h10")
    with pytest.raises(UserError, match="add --dry-run"):
        list(run_recipe("paper_cvbench", gpu="h100"))
    with pytest.raises(UserError, match="give one of them"):
        plan_lines("paper_cvbench", gpu="h100", calibrate=True)


def test_a_model_without_a_known_shape_is_named() -> None:
    plan = plan_lines("paper_cvbench", "models.idefics3-8b.pretrained=me/mine", gpu="h100")
    assert "idefics3-8b: not estimated, as the shape of me/mine is not known" in plan


@pytest.mark.slow
def test_a_calibrated_plan_is_by_what_this_machine_does(tmp_path: Path) -> None:
    plan = plan_lines("tiny", calibrate=True, output=tmp_path)
    assert "# on this machine's" in plan and "TFLOP/s)" in plan and "tiny-paligemma2: " in plan


@pytest.mark.slow
def test_an_estimate_imports_no_torch() -> None:
    code = (
        "import sys\nfrom lmms_steer.recipes.command import run_recipe\n"
        "list(run_recipe('paper_cvbench', dry_run=True, gpu='4090'))\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

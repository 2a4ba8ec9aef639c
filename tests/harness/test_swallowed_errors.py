"""Wrappers of lmms-eval that catch every exception and go on with an empty answer cannot hide a steering error."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers as tf

from lmms_steer import SteeringError
from lmms_steer.harness import patches
from tests.helpers import warm
from tests.helpers.checkpoints import decoder, tokenizer
from tests.helpers.models import vectors


def save_instructblip(folder: Path) -> Path:
    """Its wrapper in lmms-eval swallows every exception of `generate`."""
    tok = tokenizer(["<image>"])
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = tf.InstructBlipConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        qformer_config={**sizes, "vocab_size": len(tok), "encoder_hidden_size": 32},
        text_config=decoder(tok),
        num_query_tokens=4,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )
    images = tf.BlipImageProcessor(size={"height": 32, "width": 32})
    tf.InstructBlipForConditionalGeneration(config).save_pretrained(folder)
    tf.InstructBlipProcessor(images, tok, tok, num_query_tokens=4).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_command_line_ends_with_status_2_and_writes_no_results(tmp_path: Path) -> None:
    folder = save_instructblip(tmp_path / "blip")
    vector = vectors().save(tmp_path / "v.safetensors")
    args = f"pretrained={folder},vector={vector},layer=1,alpha=3,tokens=text"
    # as if nothing were known of the language model that its `generate` runs by itself
    program = """
import sys
from lmms_steer.steering import hooks
hooks.generating_part = lambda model: None
sys.argv[0] = "lmms-eval"
from lmms_eval.__main__ import cli_evaluate
cli_evaluate()
"""
    line = ["python", "-c", program, "--model", "steered_instructblip", "--model_args", args, "--tasks", "tiny_spatial"]
    more = ["--limit", "2", "--batch_size", "1", "--device", "cpu", "--output_path", str(tmp_path / "out")]
    done = warm.run(*line, *more)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "lmms-steer: a steered layer ran outside the model's own forward" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("out/**/*.json"))


def test_an_evaluation_in_a_library_raises_the_error() -> None:
    lm: Any = SimpleNamespace(attachment=SimpleNamespace(failure=SteeringError("lost")), steering_record={})
    evaluate = patches._with_record(lambda lm, tasks: {"results": {}})
    with pytest.raises(SteeringError, match="lost"):
        evaluate(lm, {})

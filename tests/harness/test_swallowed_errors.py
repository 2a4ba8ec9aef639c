"""Wrappers of lmms-eval that catch every exception and go on with an empty answer cannot hide a steering error."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from lmms_steer import SteeringError, SteeringSpec, UserError, steer
from lmms_steer.harness import patches
from lmms_steer.harness.steering_mixin import SteeringMixin
from lmms_steer.models.divergence import DivergenceMeter
from lmms_steer.steering.anatomy import model_facts
from lmms_steer.steering.calls import CallTracker
from lmms_steer.steering.hooks import Attachment, attach
from lmms_steer.steering.resolve import resolve
from tests.helpers import warm
from tests.helpers.checkpoints import build, decoder, tokenizer
from tests.helpers.models import batch_of, vectors


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


class _Model(SteeringMixin):
    """Of ours, without weights."""

    pretrained, image = "m", None

    def __init__(self) -> None:
        self.tracker = CallTracker(torch.nn.Linear(1, 1))
        self.attachment = Attachment(self.tracker, [lambda: None])
        self.divergence = DivergenceMeter(self, 2)


def test_an_evaluation_in_a_library_raises_the_error_of_its_own_run_alone() -> None:
    lm = _Model()

    def swallowing(lm: Any, tasks: Any) -> dict[str, Any]:  # noqa: ARG001
        with suppress(SteeringError), lm.tracker.watch_failures():
            raise SteeringError("lost")
        return {"results": {}}

    with pytest.raises(SteeringError, match="lost"):
        patches._with_record(swallowing)(lm, {})
    assert "steering" in patches._with_record(lambda lm, tasks: {"results": {}})(lm, {})  # noqa: ARG005


def test_the_divergence_of_an_evaluation_is_that_of_its_own_questions() -> None:
    lm = _Model()
    found: dict[str, Any] = {"first": [1.0, 3.0], "second": [0.5]}

    def evaluate(lm: Any, tasks: dict[str, Any]) -> dict[str, Any]:
        for name, nats in tasks.items():
            lm.divergence._found.setdefault(name, []).extend(nats)
        return {"results": {}}

    run = patches._with_record(evaluate)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lmms_steer.harness.run_checks.check_run", lambda *_: None)
        records = [run(lm, tasks)["steering"]["divergence"] for tasks in (found, {"first": [9.0]})]
    assert records == [
        {"first": {"nats": 2.0, "questions": 2}, "second": {"nats": 0.5, "questions": 1}},
        {"first": {"nats": 9.0, "questions": 1}},
    ]


def test_an_evaluation_inside_of_a_steer_block_is_refused() -> None:
    model, _ = build("paligemma2")
    lm = _Model()
    lm.attach_to(model, None)
    run = patches._with_record(lambda lm, tasks: {"results": {}})  # noqa: ARG005
    with pytest.raises(UserError, match="leave the block"), steer(model, "vector=v,layer=1,alpha=1", {"v": vectors()}):
        run(lm, {})
    assert run(lm, {})["steering"]["spec"] == ""
    # its own hooks are in its record
    lm.resolved = resolve(SteeringSpec.parse("vector=v,layer=1,alpha=1"), model_facts(model), {"v": vectors()})
    lm.attach_to(model, None)
    try:
        assert "layer=1" in run(lm, {})["steering"]["spec"]
    finally:
        lm.attachment.remove()


def test_an_operation_that_fails_is_kept_like_every_steering_error() -> None:
    def broken(hidden: torch.Tensor, vector: Any) -> torch.Tensor:
        raise KeyError(f"{hidden.dim()} {vector.alpha}")

    model, processor = build("paligemma2")
    told: list[SteeringError] = []
    spec = resolve(SteeringSpec.parse("vector=v,layer=1,alpha=1"), model_facts(model), {"v": vectors()}, broken)
    attachment = attach(model, spec, on_failure=told.append)
    try:
        with suppress(Exception):
            model(**batch_of("paligemma2", processor, "the cat"))
        assert told == [attachment.failure]
        place = r"\(test_swallowed_errors.py, line \d+\)"
        assert re.search(rf"operation 'broken' failed {place}: KeyError: '3 1.0'", str(attachment.failure))
    finally:
        attachment.remove()

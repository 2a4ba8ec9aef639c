"""Speed of `steered_hf` compared with lmms-eval's own wrapper of the same checkpoint, and the cost of steering.

    make bench

The model is a random InternVL with 8 decoder layers of width 256. lmms-eval's `internvl_hf` takes one question at a
time.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from speed import ratio, seconds

from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers.checkpoints import internvl
from tests.helpers.models import vectors

QUESTIONS, ROUNDS, BATCH = 64, 6, 8
SETTINGS = {"max_new_tokens": 8, "until": ["\n\n"], "do_sample": False}


def checkpoint(folder: Path) -> None:
    """Write the model."""
    torch.manual_seed(0)
    model, processor = internvl()
    text = model.config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 256, 1024, 8
    text.layer_types = ["full_attention"] * 8
    larger = AutoModelForImageTextToText.from_config(model.config)
    larger.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    larger.save_pretrained(folder)
    processor.save_pretrained(folder)


def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Format a question for lmms-eval's chat wrappers."""
    content = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]


def requests(lm: Any, rows: list[dict[str, Any]], chat: bool) -> list[Any]:
    """Make lmms-eval's requests of questions, for a chat wrapper or for ours."""
    lm.task_dict = {"bench": {"test": rows}}
    made = []
    for i, row in enumerate(rows):
        rest = (i, "bench", "test")
        args = (
            (row["question"], messages, dict(SETTINGS), *rest)
            if chat
            else (row["question"], dict(SETTINGS), lambda doc: [doc["image"]], *rest)
        )
        made.append(SimpleNamespace(args=args))
    return made


def main() -> None:
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    from lmms_eval.models import get_model

    rows = load_question_set("counting", "test")[:QUESTIONS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint(folder / "m")
        vector = vectors(8, 256).save(folder / "v.safetensors")
        spec: dict[str, Any] = {"vector": str(vector), "layer": 4, "alpha": 0.1, "tokens": "both"}
        stock = get_model("internvl_hf")(pretrained=str(folder / "m"), device="cpu", batch_size=1)
        stock.model.float()
        plain = SteeredVlm(pretrained=str(folder / "m"), batch_size=BATCH)
        steered = SteeredVlm(pretrained=str(folder / "m"), batch_size=BATCH, **spec)
        runs = [(lm, requests(lm, rows, chat=lm is stock)) for lm in (stock, plain, steered)]
        for lm, questions in runs:
            seconds(lm, questions)
        timed = [[seconds(lm, questions) for lm, questions in runs] for _ in range(ROUNDS)]
    columns = [list(column) for column in zip(*timed, strict=True)]
    print(
        f"internvl_hf one at a time / steered_hf unsteered, batch {BATCH}, wall time: {ratio(columns[0], columns[1])}"
    )
    print(f"steered_hf steered / unsteered, batch {BATCH}, wall time:                  {ratio(columns[2], columns[1])}")


if __name__ == "__main__":
    main()

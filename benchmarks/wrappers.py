"""Speed of `steered_hf` compared with lmms-eval's own wrappers of the same checkpoints, and the cost of steering.

    make bench

The models are random ones with 8 decoder layers of width 256. Times are CPU seconds of one thread, theirs / ours in
pairs, so that other work on the machine affects both.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from speed import ratio

from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers.checkpoints import build
from tests.helpers.models import vectors

QUESTIONS, ROUNDS, BATCHES = 8, 4, (1, 8)
SETTINGS = {"max_new_tokens": 8, "until": ["\n\n"], "do_sample": False}
SIZES = ((64, 64), (160, 64), (224, 224), (96, 160))
"""Width and height of the pictures, in turn."""
WRAPPERS = {
    "internvl_hf": ("internvl", "", (1,)),
    "llava_hf": ("llava_onevision", "device_map=cpu", (1,)),
    "qwen2_5_vl": ("qwen2_5_vl", f"device_map=cpu,min_pixels={28 * 28},max_pixels={28 * 28 * 8}", BATCHES),
    "qwen3_vl": ("qwen3_vl", f"device_map=cpu,min_pixels={32 * 32},max_pixels={32 * 32 * 8}", BATCHES),
}
"""lmms-eval's name ▸ a model that it takes on a CPU, its arguments (the pixels are those of the model's processor), and
its batch sizes."""


def write_checkpoint(architecture: str, folder: Path) -> None:
    model, processor = build(architecture)
    config, text = model.config, model.config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 256, 1024, 8
    text.layer_types = ["full_attention"] * 8
    if "out_hidden_size" in config.vision_config:
        config.vision_config.out_hidden_size = text.hidden_size
    if architecture == "qwen2_5_vl":
        text.rope_parameters["mrope_section"] = [16, 8, 8]
    torch.manual_seed(0)
    # lmms-eval's wrappers load bfloat16
    larger = AutoModelForImageTextToText.from_config(config).bfloat16().float()
    larger.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    larger.save_pretrained(folder)
    processor.save_pretrained(folder)


def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Format a question for lmms-eval's chat wrappers."""
    content = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]


def requests(lm: Any, rows: list[dict[str, Any]]) -> list[Any]:
    """Make lmms-eval's requests of questions, for a chat wrapper or for ours."""
    lm.task_dict = {"bench": {"test": rows}}
    made = []
    for i, row in enumerate(rows):
        rest = (i, "bench", "test")
        args = (
            (row["question"], dict(SETTINGS), lambda doc: [doc["image"]], *rest)
            if isinstance(lm, SteeredVlm)
            else (row["question"], messages, dict(SETTINGS), *rest)
        )
        made.append(SimpleNamespace(args=args))
    return made


def cpu_seconds(lm: Any, rows: list[dict[str, Any]]) -> float:
    questions = requests(lm, rows)
    start = time.process_time()
    lm.generate_until(questions)
    return time.process_time() - start


def compared(first: Any, second: Any, rows: list[dict[str, Any]]) -> str:
    """The ratio of the times of two models, after a round that warms them up."""
    pairs = [(cpu_seconds(first, rows), cpu_seconds(second, rows)) for _ in range(ROUNDS + 1)][1:]
    return ratio(*map(list, zip(*pairs, strict=True)))


def lines() -> Iterator[str]:
    from lmms_eval.models import get_model

    rows = load_question_set("counting", "test")[:QUESTIONS]
    asked = [{**row, "image": row["image"].resize(size)} for row, size in zip(rows, itertools.cycle(SIZES))]
    for name, (architecture, arguments, batches) in WRAPPERS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(architecture, Path(folder))
            for batch in BATCHES:
                theirs_batch = batch if batch in batches else batches[0]
                stock = get_model(name).create_from_arg_string(
                    f"pretrained={folder},{arguments}", {"batch_size": theirs_batch, "device": "cpu"}
                )
                stock.model.float()
                ours = SteeredVlm(pretrained=folder, batch_size=batch)
                batch_text = f"batch {batch}" if theirs_batch == batch else f"batch {theirs_batch} / {batch}"
                yield f"{name:12} / steered_hf, {batch_text:11}: {compared(stock, ours, asked)}"
            vector = vectors(8, 256).save(Path(folder) / "v.safetensors")
            spec: dict[str, Any] = {"vector": str(vector), "layer": 4, "alpha": 0.1, "tokens": "both"}
            steered = SteeredVlm(pretrained=folder, batch_size=BATCHES[-1], **spec)
            yield f"{architecture:12} steered / unsteered, batch {BATCHES[-1]}: {compared(steered, ours, asked)}"


def without_decord() -> None:
    """Let wrappers be imported that read videos by decord, which has no part in this."""
    decord: Any = ModuleType("decord")
    decord.__spec__ = SimpleNamespace(name="decord", loader=None, origin=None, submodule_search_locations=None)
    decord.VideoReader = decord.cpu = None
    sys.modules.setdefault("decord", decord)


def main() -> None:
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    without_decord()
    for line in lines():
        print(line, flush=True)


if __name__ == "__main__":
    main()

"""A tiny text model and small tasks for lm-eval, made without a network, and lm-eval's own scores on them."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import lm_eval
import torch
import transformers as tf
from lm_eval.tasks import TaskManager

from lmms_steer.harness.lm_eval import SteeredHFLM
from tests.helpers.checkpoints import decoder, tokenizer

QUESTIONS = (
    "where is the cat ? is",
    "on the dog . is",
    "how many the cups on the table ? is",
    "red or the red cat",
    "?",
)
CHOICES = {"a": " red dog", "b": " red cat", "c": " dog cats"}
ROWS = [{"q": QUESTIONS[number % 5], **CHOICES, "gold": number % 3, "answer": "x"} for number in range(20)]


def save_llama(folder: Path) -> Path:
    """A random Llama of 4 layers with its tokenizer; the same weights every time."""
    torch.manual_seed(0)
    words = tokenizer([])
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**{k: v for k, v in decoder(words).items() if k != "model_type"}))
    # larger weights, so that answers depend on the prompt
    for weights in model.parameters():
        weights.data *= 4 if weights.dim() > 1 else 1
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], settings: str) -> None:
    """Write a task `name` of the split `validation`, with its rows."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files: {{validation: {folder}/{name}.json}}\n"
        f"validation_split: validation\ndoc_to_text: '{{{{q}}}}'\n{settings}"
    )


CHOICE = """output_type: multiple_choice
doc_to_choice: "{{[a, b, c]}}"
doc_to_target: '{{gold}}'
target_delimiter: ''
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITING = """output_type: generate_until
doc_to_target: '{{answer}}'
generation_kwargs: {until: ["e"], max_gen_toks: 6}
metric_list:
  - metric: exact_match
"""


def lm_eval_samples(folder: Path, task: str, model_args: dict[str, Any]) -> list[dict[str, Any]]:
    """What lm-eval's own evaluator logs for a steered model, in the order of the documents."""
    lm = SteeredHFLM(device="cpu", batch_size=3, **model_args)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    # a second of programs that describe the machine, at every evaluation
    with mock.patch("lm_eval.evaluator.add_env_info"):
        results = lm_eval.simple_evaluate(
            model=lm, tasks=[task], task_manager=manager, log_samples=True, bootstrap_iters=0
        )
    samples: list[dict[str, Any]] = results["samples"][task]
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))

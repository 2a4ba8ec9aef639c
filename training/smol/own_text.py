"""Text that the unmodified model wrote, and how far the trained one is from it: a KL term keeps the language model.

The weight of the term follows the divergence (the controller of Ziegler et al. 2019, arXiv 1909.08593, section 2.2), so
that the language model stays about `TARGET` nats a token from the unmodified one.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import DynamicCache

from lmms_steer._util.io import write_atomically
from lmms_steer.smol.architecture import MARKERS
from lmms_steer.steering.cache_argument import cache_name
from training.options import check_options, in_header
from training.smol.student import Student

log = logging.getLogger(__name__)
SEQUENCES, LENGTH, AT_ONCE = 192, 96, 32
_SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
PROMPTS = ("<|endoftext|>", "<|im_start|>user\n", f"{_SYSTEM}<|im_start|>user\n")
"""What the model continues: a document, a question without a system prompt, and one with the template's."""
TARGET = 0.1
"""Nats a token of this text. At 0.08 the perplexity of other text was 0.99 of the unmodified model's."""
GAIN, LEAST, MOST = 0.1, 0.05, 20.0
_LICENCE = Path(__file__).parents[2] / "LICENSE"
_TALE = Path(__file__).parent / "tale.txt"
_PLAIN_TOKENS = 512


@dataclass(slots=True)
class OwnText:
    """Sequences that the unmodified model wrote.

    Attributes:
        ids: [sequences, LENGTH].
        hidden: the unmodified model's final hidden states, float32 [sequences, LENGTH, width].
    """

    ids: Tensor
    hidden: Tensor

    def divergence(self, student: Student, rows: Tensor) -> Tensor:
        """KL(unmodified model || student) in nats a token, on some of the sequences."""
        found: Tensor = student.text(input_ids=self.ids[rows], use_cache=False).last_hidden_state
        ours = F.log_softmax(student.logits(found), -1)
        theirs = F.log_softmax(student.logits(self.hidden[rows].to(student.dtype)), -1)
        return F.kl_div(ours, theirs, log_target=True, reduction="sum") / self.ids[rows].numel()


def next_weight(weight: float, divergence: float) -> float:
    """The term's weight in the next step."""
    error = max(-0.5, min(1.0, divergence / TARGET - 1))
    return max(LEAST, min(MOST, weight * math.exp(GAIN * error)))


def own_text(student: Student, path: Path, seed: int, sequences: int = SEQUENCES) -> OwnText:
    """Read the text from a file, which is written first if it is not there.

    Raises:
        SystemExit: for a file of another seed or another number of sequences.
    """
    options = {"seed": seed, "sequences": sequences}
    if not path.exists():
        torch.manual_seed(seed)
        with torch.no_grad(), student.model.disable_adapter():
            ids = torch.cat([_write(student, PROMPTS[i % len(PROMPTS)]) for i in range(-(-sequences // AT_ONCE))])
            hidden = torch.cat(
                [student.text(input_ids=part, use_cache=False).last_hidden_state for part in ids.split(8)]
            )
        tensors = {"ids": ids[:sequences], "hidden": hidden[:sequences].float()}
        write_atomically(path, save(tensors, in_header(options)))
        log.info(
            "the unmodified model wrote %d sequences, such as %r", sequences, student.processor.decode(ids[0])[:200]
        )
    check_options(path, options)
    stored = load_file(path)
    return OwnText(stored["ids"], stored["hidden"])


def _write(student: Student, prompt: str) -> Tensor:
    """`AT_ONCE` sequences of `LENGTH` tokens, sampled at temperature 1. They may go on after the end of a turn."""
    ids: Tensor = student.processor.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids, past = ids.expand(AT_ONCE, -1), DynamicCache(config=student.text.config)
    fed: Tensor = ids
    while ids.shape[1] < LENGTH:
        output = student.text(input_ids=fed, **{cache_name(student.text): past}, use_cache=True)
        scores = student.logits(output.last_hidden_state[:, -1])[:, : -len(MARKERS)]
        fed = torch.multinomial(scores.softmax(-1), 1)
        ids = torch.cat([ids, fed], 1)
    return ids


@torch.no_grad()
def perplexity(student: Student) -> dict[str, float]:
    """Perplexity of plain text that the training does not contain: `student`, `unmodified`, and their `ratio`."""
    student_loss = _plain_loss(student)
    with student.model.disable_adapter():
        unmodified_loss = _plain_loss(student)
    values = {"student": math.exp(student_loss), "unmodified": math.exp(unmodified_loss)}
    return {name: round(value, 3) for name, value in values.items()} | {
        "ratio": round(math.exp(student_loss - unmodified_loss), 4)
    }


def _plain_loss(student: Student) -> float:
    losses = []
    for path in (_LICENCE, _TALE):
        ids = student.processor.tokenizer(path.read_text(encoding="utf-8"), return_tensors="pt")["input_ids"]
        ids = ids[:, :_PLAIN_TOKENS]
        hidden = student.text(input_ids=ids, use_cache=False).last_hidden_state
        losses.append(F.cross_entropy(student.logits(hidden[0, :-1]), ids[0, 1:], reduction="none"))
    return float(torch.cat(losses).mean())

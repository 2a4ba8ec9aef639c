"""How good a trained pair of checkpoints is, and how it compares with another."""

import json
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from lmms_steer.tiny_world.questions import Question, ask
from lmms_steer.tiny_world.scenes import COLOURS, NUMBERS, OPPOSITE, STYLES, random_seed, render, sample_scene

TASKS = ("spatial", "counting", "colour")


def questions(task: str, style: str, count: int, seed: int) -> tuple[list[Image.Image], list[Question]]:
    """Fresh scenes with a question of one kind each."""
    rng = random.Random(f"{task}/{style}/{seed}")
    pictures: list[Image.Image] = []
    asked: list[Question] = []
    while len(asked) < count:
        scene = sample_scene(rng, 2 if task == "spatial" else 1)
        question = ask(scene, rng, (task,))
        if question.kind == task:
            pictures.append(Image.fromarray(render(scene, STYLES[style], random_seed(rng))))
            asked.append(question)
    return pictures, asked


@torch.inference_mode()
def accuracy(folder: Path, task: str, style: str, count: int, shuffled: bool = False, batch: int = 100) -> float:
    """Share of questions whose first generated word is the answer; `shuffled` gives each question another's picture."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    pictures, asked = questions(task, style, count, seed=777)
    if shuffled:
        pictures = pictures[1:] + pictures[:1]
    right = 0
    for i in range(0, count, batch):
        chosen = asked[i : i + batch]
        inputs = processor(
            text=["<image>" + q.text for q in chosen],
            images=[[p] for p in pictures[i : i + batch]],
            padding="longest",
            return_tensors="pt",
        )
        inputs.pop("labels", None)
        words = model(**inputs, logits_to_keep=1).logits[:, -1].argmax(-1)
        right += sum(processor.tokenizer.decode([w]).strip() == q.answer for w, q in zip(words, chosen, strict=True))
    return right / count


def measure(out: Path, items: int) -> dict[str, float]:
    """`task/style` ▸ accuracy on `items` questions, and with shuffled pictures in the plain style."""
    folder = out / "tiny-paligemma2"
    result = {f"{t}/{s}": round(accuracy(folder, t, s, items), 3) for t in TASKS for s in STYLES}
    return result | {
        f"{t}/plain, shuffled": round(accuracy(folder, t, "plain", items, shuffled=True), 3) for t in TASKS
    }


def compare(new: Path, shipped: Path) -> str:
    """A table of both manifests' accuracies, and how alike the two backbones' words are to one another.

    Two trainings from other seeds or machines have other axes, so words are compared by their similarities among
    themselves: the correlation of the two matrices of cosines between colour, number and direction words.
    """
    if not (shipped / "MANIFEST.json").exists():
        return "nothing shipped to compare with"
    mine, theirs = (json.loads((f / "MANIFEST.json").read_text(encoding="utf-8")) for f in (new, shipped))
    lines = [f"{'task/style':24}{'new':>8}{'shipped':>9}"]
    for key, value in theirs["accuracy"].items():
        lines.append(f"{key:24}{mine['accuracy'][key]:8.3f}{value:9.3f}")
    cosines = [_word_cosines(folder / "tiny-gemma2") for folder in (new, shipped)]
    lines.append(f"word similarities, new against shipped: r = {np.corrcoef(cosines[0], cosines[1])[0, 1]:.3f}")
    same = mine["sha256"] == theirs["sha256"]
    lines.append(f"files are {'the same to the bit' if same else 'not the same to the bit'}; {mine['minutes']} minutes")
    return "\n".join(lines)


def _word_cosines(folder: Path) -> npt.NDArray[np.float32]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    from training.tokenizer import vocabulary_ids

    ids = [vocabulary_ids()[word] for word in (*COLOURS, *NUMBERS, *OPPOSITE)]
    words = torch.nn.functional.normalize(model.get_input_embeddings().weight[ids].detach(), dim=1)
    upper = torch.triu_indices(len(ids), len(ids), offset=1)
    cosines: npt.NDArray[np.float32] = (words @ words.T)[upper[0], upper[1]].numpy()
    return cosines

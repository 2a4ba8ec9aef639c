"""Accuracy of a trained pair of checkpoints, and its comparison with the one that ships."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from lmms_steer.tiny_world.questions import Question, ask
from lmms_steer.tiny_world.scenes import COLOURS, NUMBERS, OPPOSITE, STYLES, random_seed, render, sample_scene
from training.tokenizer import vocabulary_ids

TASKS = ("spatial", "counting", "colour")


def questions(task: str, style: str, count: int, seed: int) -> tuple[list[Image.Image], list[Question]]:
    """Images of new scenes, each with a question of the task."""
    rng = random.Random(f"{task}/{style}/{seed}")
    images: list[Image.Image] = []
    drawn: list[Question] = []
    while len(drawn) < count:
        scene = sample_scene(rng, 2 if task == "spatial" else 1)
        question = ask(scene, rng, (task,))
        if question.kind == task:
            images.append(Image.fromarray(render(scene, STYLES[style], random_seed(rng))))
            drawn.append(question)
    return images, drawn


def load(folder: Path) -> tuple[Any, Any]:
    """The multimodal model of a folder, in float32, and its processor."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


@torch.inference_mode()
def accuracy(
    model: Any, processor: Any, task: str, style: str, count: int, shuffled: bool = False, batch: int = 100
) -> float:
    """The share of questions whose first generated word is the correct answer.

    Args:
        model: the multimodal model.
        processor: its processor.
        task: one of `TASKS`.
        style: of the images.
        count: of questions.
        shuffled: whether each question gets the image of another one.
        batch: questions per forward pass.
    """
    images, drawn = questions(task, style, count, seed=777)
    if shuffled:
        images = images[1:] + images[:1]
    correct = 0
    for i in range(0, count, batch):
        chosen = drawn[i : i + batch]
        inputs = processor(
            text=["<image>" + q.text for q in chosen],
            images=[[image] for image in images[i : i + batch]],
            padding="longest",
            return_tensors="pt",
        )
        inputs.pop("labels", None)
        words = model(**inputs, logits_to_keep=1).logits[:, -1].argmax(-1)
        correct += sum(processor.tokenizer.decode([w]).strip() == q.answer for w, q in zip(words, chosen, strict=True))
    return correct / count


def measure(out: Path, items: int) -> dict[str, float]:
    """`task/style` ▸ accuracy on `items` questions; in the plain style also with shuffled images."""
    tiny = load(out / "tiny-paligemma2")
    result = {f"{t}/{s}": round(accuracy(*tiny, t, s, items), 3) for t in TASKS for s in STYLES}
    return result | {f"{t}/plain, shuffled": round(accuracy(*tiny, t, "plain", items, shuffled=True), 3) for t in TASKS}


def compare(new: Path, shipped: Path) -> str:
    """A table of both manifests' accuracies, and the agreement of the two backbones' word embeddings.

    Trainings from other seeds or on other machines have other axes, so the embeddings are compared by their
    similarities: the correlation of the two matrices of cosines between colour, number and direction words.
    """
    if not (shipped / "MANIFEST.json").exists():
        return "there are no shipped checkpoints to compare with"
    mine, theirs = (json.loads((f / "MANIFEST.json").read_text(encoding="utf-8")) for f in (new, shipped))
    lines = [f"{'task/style':24}{'new':>8}{'shipped':>9}"]
    for key, value in theirs["accuracy"].items():
        lines.append(f"{key:24}{mine['accuracy'][key]:8.3f}{value:9.3f}")
    cosines = [_word_cosines(folder / "tiny-gemma2") for folder in (new, shipped)]
    lines.append(f"word similarities, new against shipped: r = {np.corrcoef(cosines[0], cosines[1])[0, 1]:.3f}")
    same = mine["sha256"] == theirs["sha256"]
    lines.append(f"files are {'bit-identical' if same else 'not bit-identical'}; {mine['minutes']} minutes")
    return "\n".join(lines)


def _word_cosines(folder: Path) -> npt.NDArray[np.float32]:
    """The cosines between the embeddings of all pairs of words."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = [vocabulary_ids()[word] for word in (*COLOURS, *NUMBERS, *OPPOSITE)]
    words = torch.nn.functional.normalize(model.get_input_embeddings().weight[ids].detach(), dim=1)
    upper = torch.triu_indices(len(ids), len(ids), offset=1)
    cosines: npt.NDArray[np.float32] = (words @ words.T)[upper[0], upper[1]].numpy()
    return cosines

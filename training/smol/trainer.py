"""The training loop: places, then words, then letters, with a state that is stored and continued exactly."""

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from lmms_steer._util.io import write_atomically
from lmms_steer.smol.questions import is_held_out
from lmms_steer.tiny_world.scenes import Scene
from training.options import check_options, in_header
from training.smol.lessons import Batch, lesson, lesson_of_places
from training.smol.own_text import SEQUENCES, OwnText, next_weight, perplexity
from training.smol.report import measure
from training.smol.student import Student
from training.smol.turns import Turn
from training.vision import image_bank

log = logging.getLogger(__name__)
WARM_UP = 40
SAVE_MINUTES = 3.0
MICRO_BATCH = 4
"""Pictures in a forward pass, which has less than 2 GB of activations in float32."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and on what to train.

    Attributes:
        places: steps with lists of objects and their places, at the full learning rate.
        words: steps with answers by word only, at the same rate.
        letters: steps with more than half of the answers by letter; the rate falls to zero in them.
        pictures: style ▸ number of training pictures.
        rate: learning rate of places and words; that of letters begins at `rate_letters`.
        rate_letters: see `rate`.
        batch: pictures a step.
        questions: about each picture, beside a list of objects; see `lesson`.
        texts: sequences that the unmodified model writes.
        text_rows: of these in a step.
        check: steps between two measurements.
        check_questions: questions of each kind in a measurement.
        solves: whether the connector is started in closed form.
    """

    places: int
    words: int
    letters: int
    pictures: tuple[tuple[str, int], ...]
    rate: float = 1e-3
    rate_letters: float = 8e-4
    batch: int = 8
    questions: int = 5
    texts: int = SEQUENCES
    text_rows: int = 2
    check: int = 100
    check_questions: int = 60
    solves: bool = True

    @property
    def steps(self) -> int:
        return self.places + self.words + self.letters

    def after(self, steps: int | None) -> "Plan":
        """A plan that goes on from a trained adapter, with places and letters.

        Args:
            steps: how many with letters; None for as many as this plan has.
        """
        return replace(self, words=0, letters=steps or self.letters, solves=False)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        before = self.places + self.words
        if step < before:
            return self.rate * min(1.0, (step + 1) / WARM_UP)
        return self.rate_letters * max(0.02, min(1.0, 1.4 * (1 - (step - before) / self.letters)))

    def letters_at(self, step: int) -> float:
        """The share of answers by letter."""
        return 0.6 if step >= self.places + self.words else 0.0

    def lesson(self, step: int, scene: Scene, rng: random.Random) -> list[Turn]:
        """A training sample of a step."""
        if step < self.places:
            return lesson_of_places(scene, rng)
        return lesson(scene, rng, self.questions, self.letters_at(step))


# moss pictures are kept for the test
PLAN = Plan(200, 700, 1300, (("plain", 12000), ("grainy", 6000), ("coarse", 6000)))
QUICK = Plan(1, 1, 1, (("plain", 24),), batch=4, texts=4, check=1, check_questions=2)


class Trainer:
    """One training, and where it stands.

    Args:
        student: the model.
        texts: that the unmodified model wrote.
        plan: of the training.
        seed: of every random choice.
        folder: of the stored state.
        start: the hash of the adapter that the training begins with, if there is one.

    Attributes:
        step: how many steps are done.
        minutes: that all of them took.

    Raises:
        SystemExit: for a stored state of another training.
    """

    def __init__(
        self, student: Student, texts: OwnText, plan: Plan, seed: int, folder: Path, start: str | None = None
    ) -> None:
        self.student, self.texts, self.plan, self.seed = student, texts, plan, seed
        self._state_file = folder / "state.safetensors"
        self._options = {"seed": seed, "start": start, **asdict(plan)}
        continues = self._state_file.exists()
        if continues:
            check_options(self._state_file, self._options)
        self.step, self.minutes, self._text_weight = 0, 0.0, 1.0
        self.scenes: list[Scene] = []
        features: list[Tensor] = []
        for number, (style, count) in enumerate(plan.pictures):
            scenes, images = image_bank(seed + number, count, 2, style, lambda scene: not is_held_out(scene))
            self.scenes += scenes
            features.append(student.see(images))
        self.features = torch.cat(features)
        if plan.solves and not continues:
            explained = student.solve_connector(self.features[:4000], self.scenes[:4000])
            log.info("the closed form explains %.3f of the variance", explained)
        # the optimizer's steps are too small for bfloat16: it changes float32 copies, which the model's weights follow
        self.weights = [parameter.detach().float().clone() for parameter in student.parameters]
        self.optimizer = torch.optim.AdamW(self.weights, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0)
        if continues:
            self._load()
            log.info("continues at step %d of %d", self.step, plan.steps)

    def run(self, is_over: Callable[[], bool]) -> bool:
        """Train until the plan is done (True), or until `is_over` (False)."""
        start = saved = time.monotonic()
        before = self.minutes
        losses: list[tuple[float, float]] = []
        while self.step < self.plan.steps and not is_over():
            losses.append(self._train_step())
            self.step += 1
            now = time.monotonic()
            self.minutes = before + (now - start) / 60
            if self.step % 5 == 0 or self.plan is QUICK:
                answers, text = (sum(values) / len(losses) for values in zip(*losses, strict=True))
                log.info("step %d, %.0f min: answers %.3f, text %.4f x %.2f", self.step, self.minutes, answers, text,
                         self._text_weight)  # fmt: skip
                losses = []
            if now - saved > 60 * SAVE_MINUTES:
                self._save()
                saved = now
            if self.step % self.plan.check == 0:
                self._save()
                self._check()
        self._save()
        return self.step >= self.plan.steps

    def _train_step(self) -> tuple[float, float]:
        """One step of the optimizer; the losses of answers and of text."""
        # a generator for each step, so that a stopped training continues with the same samples
        rng = random.Random(f"{self.seed}/{self.step}")
        plan = self.plan
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate_at(self.step)
        numbers = [rng.randrange(len(self.scenes)) for _ in range(plan.batch)]
        lessons = [plan.lesson(self.step, self.scenes[n], rng) for n in numbers]
        # rows of similar length together: less padding
        order = sorted(range(plan.batch), key=lambda i: sum(len(turn.text) for turn in lessons[i]))
        parts = [order[i : i + MICRO_BATCH] for i in range(0, plan.batch, MICRO_BATCH)]
        batches = [self.student.packer.pack([lessons[i] for i in part]) for part in parts]
        total = sum(float(batch.weights.sum()) for batch in batches)
        answers = 0.0
        for part, batch in zip(parts, batches, strict=True):
            loss = self._loss(batch, self.features[[numbers[i] for i in part]]) / total
            loss.backward()
            answers += loss.item()
        rows = torch.tensor(rng.sample(range(len(self.texts.ids)), plan.text_rows))
        divergence = self.texts.divergence(self.student, rows)
        (divergence * self._text_weight).backward()
        for weight, parameter in zip(self.weights, self.student.parameters, strict=True):
            assert parameter.grad is not None
            weight.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self._follow()
        self._text_weight = next_weight(self._text_weight, divergence.item())
        return answers, divergence.item()

    @torch.no_grad()
    def _follow(self) -> None:
        for weight, parameter in zip(self.weights, self.student.parameters, strict=True):
            parameter.copy_(weight)

    def _loss(self, batch: Batch, features: Tensor) -> Tensor:
        """The weighted sum of the losses of all answers' tokens."""
        hidden, answers = self.student.hidden(batch, features), batch.owner >= 0
        losses = F.cross_entropy(self.student.logits(hidden[answers]), batch.targets[answers], reduction="none")
        return (losses * batch.weights[answers]).sum()

    def _check(self) -> None:
        found = measure(self.student, "plain", self.plan.check_questions, letters=self.plan.letters_at(self.step) > 0)
        cells = ", ".join(
            f"{kind} {' / '.join(f'{v:.2f}' for v in forms.values())}" for kind, forms in found.items() if forms
        )
        log.info("step %d: %s; perplexity %s", self.step, cells, perplexity(self.student))

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        for number, weight in enumerate(self.weights):
            tensors[f"{number:04d}"] = weight
            for name, value in self.optimizer.state.get(weight, {}).items():
                tensors[f"{number:04d}.{name}"] = value
        facts = {"step": self.step, "minutes": self.minutes, "text_weight": self._text_weight}
        header = {"state": json.dumps(facts), **in_header(self._options)}
        write_atomically(self._state_file, save(tensors, header))

    def _load(self) -> None:
        from safetensors import safe_open

        with safe_open(self._state_file, "pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["state"])
        tensors = load_file(self._state_file)
        for number, weight in enumerate(self.weights):
            weight.copy_(tensors[f"{number:04d}"])
            names = [name for name in tensors if name.startswith(f"{number:04d}.")]
            if names:
                self.optimizer.state[weight] = {name[5:]: tensors[name] for name in names}
        self._follow()
        self.step, self.minutes, self._text_weight = facts["step"], facts["minutes"], facts["text_weight"]

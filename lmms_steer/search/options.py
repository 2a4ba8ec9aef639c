"""The options of `lmms-steer search`, and how a grid is written on the command line."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_steer._util.layers import read_layers
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.harness.task_files import held_out_task, is_test_task
from lmms_steer.search.chosen_strategy import ChosenStrategy, parse_strategy
from lmms_steer.search.fixed_keys import FixedKeys
from lmms_steer.search.plan import HARNESSES, LM_EVAL, LMMS_EVAL, MIN_QUESTIONS
from lmms_steer.search.strategies import StrategyBuilder
from lmms_steer.steering.budget_text import BUDGET, is_budget, read_budget
from lmms_steer.steering.intervention import TOKENS, unknown_tokens
from lmms_steer.steering.placeholders import MEDIA

SCORES = ("auto", "letters", "generate")
CHOICES = ("overall", "per_target")
DEFAULT_TRIALS = 64
MAX_VALUES = 10_000
"""Most layers or alphas that a range may stand for."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What `lmms-steer search` takes.

    Attributes:
        model, model_args: the unsteered model, as its harness names it.
        vectors: names or files.
        task: a task of held-out questions.
        output: the study's folder.
        layers, alphas, tokens: the grid, as typed; no layers means all layers, no tokens `image,text,both`, or
            `both,last` in lm-eval. Alphas may be KL budgets, `kl:0.1,kl:0.3`, which are resolved for each cell; none
            means the strategy's.
        strategy: a registered strategy, with a filter after a `+` if wanted (`race+screen`), or a generator function.
        score: `generate` (the model generates text and the task scores it), `letters` (the likeliest of a fixed set of
            answers counts), or `auto`: what the task does.
        controls: number of random vectors that are searched in the same way.
        trials: trials of each vector, for strategies that propose cells.
        seed: seed of the questions' order and of the strategy.
        batch_size: questions in one base pass.
        memory: GiB of a base pass to hold in memory; the rest goes to the study's folder.
        limit: search on the first questions only.
        confirm: a task to measure the choices on, once.
        allow_test: allow choosing on test questions.
        include_path: the user's own folder of tasks.
        keep: save a winner's layer, alpha and tokens as its vector's default for this model.
        harness: whose task it is, `lmms-eval` or `lm-eval`. With lm-eval the model is a text model.
        metric: the score that counts; None for the first in the task's list.
        split, num_fewshot: of a task of lm-eval: the split that the questions come from, and the number of examples in
            front of each question. None for the task's own.
        blank_image: also measure the choice and the unsteered model with every image replaced by a grey one.
        dry_run: say what would be measured and which gain could be found, without loading the model.
        spec: keys of a spec that all cells share, `site=mlp,scale=token`, without vector, layer, alpha and tokens.
        choose: `overall`, the best cell of all, or `per_target`, also the best cell of each token target.

    Raises:
        UserError: for an unknown strategy, score or choice, options that exclude each other, or a number out of range.
    """

    model: str
    model_args: str
    vectors: tuple[str, ...]
    task: str
    output: Path
    layers: str = ""
    alphas: str = ""
    tokens: str = ""
    strategy: str | StrategyBuilder = "grid"
    score: str = "auto"
    controls: int = 5
    trials: int = DEFAULT_TRIALS
    seed: int = 0
    batch_size: int = 16
    memory: float = 4.0
    limit: int | None = None
    confirm: str | None = None
    allow_test: bool = False
    include_path: Path | None = None
    keep: bool = False
    harness: str = LMMS_EVAL
    metric: str | None = None
    split: str | None = None
    num_fewshot: int | None = None
    choose: str = "overall"
    blank_image: bool = True
    dry_run: bool = False
    spec: str = ""

    @property
    def fixed_keys(self) -> FixedKeys:
        """The keys that all cells share."""
        return FixedKeys.parse(self.spec)

    @property
    def per_target(self) -> bool:
        """Whether a cell is chosen for each token target."""
        return self.choose == "per_target"

    @property
    def names(self) -> list[str]:
        """The vectors, each followed by its controls, by the names that cells use."""
        controls = [f"control=random:{seed}" for seed in range(self.controls)]
        return [name for vector in self.vectors for name in (vector, *(f"{vector},{one}" for one in controls))]

    @property
    def targets(self) -> tuple[str, ...]:
        """The token targets of the grid."""
        default = "both,last" if self.harness == LM_EVAL else "image,text,both"
        return parse_targets(self.tokens or ("both" if self.fixed_keys.in_tower else default))

    @property
    def chosen_strategy(self) -> ChosenStrategy:
        """The strategy, looked up."""
        return parse_strategy(self.strategy)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", tuple(dict.fromkeys(self.vectors)))
        object.__setattr__(self, "alphas", self.alphas or self.chosen_strategy.default_alphas)
        if self.score not in SCORES:
            raise unknown_name("score", self.score, SCORES)
        if self.limit is not None and self.limit < MIN_QUESTIONS:
            raise UserError(f"--limit {self.limit}: a search needs at least {MIN_QUESTIONS} questions")
        if self.harness not in HARNESSES:
            raise unknown_name("harness", self.harness, HARNESSES)
        if self.harness == LM_EVAL and self.score != "auto":
            raise UserError(f"--score {self.score}: lm-eval's tasks score answers themselves, so leave it out")
        shown = [kind for kind in MEDIA if kind in self.targets]
        if self.harness == LM_EVAL and shown:
            raise UserError(f"--tokens {shown[0]}: a text model has no {shown[0]} tokens")
        if self.harness == LMMS_EVAL and self.score == "letters" and self.metric is not None:
            raise UserError(
                f"--metric {self.metric}: with --score letters the likeliest letter counts: remove one of the two"
            )
        check_strengths(self.alphas, self.chosen_strategy)
        self._check_choose()
        chosen = self.chosen_strategy
        filtering = chosen.name if chosen.filtered_by is not None else ""
        self.fixed_keys.check(self.targets, filtering, self.score, self.keep)
        for name in ("split", "num_fewshot"):
            if self.harness == LMMS_EVAL and getattr(self, name) is not None:
                raise UserError(f"--{name} {getattr(self, name)}: only for tasks of lm-eval, --harness lm-eval")
        if not 0 <= self.memory < math.inf:
            raise UserError(f"--memory {self.memory:g}: expected GiB, a finite number from 0 on")

    def _check_choose(self) -> None:
        if self.choose not in CHOICES:
            raise unknown_name("--choose", self.choose, CHOICES)
        if not self.per_target:
            return
        self.chosen_strategy.check_targets()
        for option in ("confirm", "keep"):
            if getattr(self, option):
                raise UserError(
                    f"--{option} takes one cell, and --choose per_target chooses one for each token target: evaluate"
                    " choice_TARGET.yaml instead"
                )


def parse_layers(text: str, n_layers: int | None = None) -> tuple[int, ...]:
    """Parse `5-20`, `3`, `0-8:2` or `1,4,7` into layers.

    Args:
        text: as typed.
        n_layers: how many layers the model has, if that is known.

    Raises:
        UserError: for anything else, or for layers that the model does not have.
    """
    layers = read_layers(text, "--layers ")
    if n_layers is not None and max(layers) >= n_layers:
        raise UserError(f"--layers {shorten(text)}: the model has the layers 0-{n_layers - 1}")
    return layers


def parse_alphas(text: str) -> tuple[float, ...]:
    """Parse `0.1:1.0:0.1` (first:last:step) or `0.5,1,2` into alphas, without 0.

    Raises:
        UserError: for anything else, or if nothing but 0 remains.
    """
    try:
        if ":" in text:
            first, last, step = map(float, text.split(":"))
            if (last - first) / step < 0:
                raise UserError(f"--alphas {shorten(text)}: step {step:g} does not lead from {first:g} to {last:g}")
            count = int((last - first) / step + 1e-9) + 1
            if count > MAX_VALUES:
                raise UserError(f"--alphas {shorten(text)}: {count} values, more than {MAX_VALUES}")
            alphas = [round(first + i * step, 10) for i in range(count)]
        else:
            alphas = [float(part) for part in text.split(",")]
    except UserError:
        raise
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"--alphas {shorten(text)}: expected first:last:step, as in 0.1:1.0:0.1, or a list") from error
    if not all(map(math.isfinite, alphas)):
        raise UserError(f"--alphas {shorten(text)}: expected finite numbers")
    nonzero = tuple(dict.fromkeys(alpha for alpha in alphas if alpha != 0))
    if not nonzero:
        raise UserError(f"--alphas {shorten(text)}: an alpha of 0 is the baseline, so there is nothing to search")
    return nonzero


def parse_budgets(text: str) -> tuple[str, ...]:
    """Parse `kl:0.03,kl:0.1` into KL budgets in their shortest form; empty where no budget is given.

    Raises:
        UserError: for budgets mixed with alphas, or one that is not a number of nats above 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if not any(map(is_budget, parts)):
        return ()
    if not all(map(is_budget, parts)):
        raise UserError(f"--alphas {shorten(text)}: give either numbers or KL budgets such as kl:0.1, not both")
    return tuple(dict.fromkeys(f"{BUDGET}{read_budget(part, '--alphas '):g}" for part in parts))


def parse_strengths(text: str) -> tuple[float, ...]:
    """Parse alphas, or the nats of KL budgets, which stand in their place.

    Raises:
        UserError: as `parse_alphas` and `parse_budgets`.
    """
    return tuple(map(read_budget, parse_budgets(text))) or parse_alphas(text)


def check_strengths(text: str, strategy: ChosenStrategy) -> None:
    """Check that strengths are of the kind that a strategy takes: numbers, or KL budgets.

    Args:
        text: as typed.
        strategy: which searches them.

    Raises:
        UserError: for budgets if it proposes alphas itself, and for numbers if it needs budgets.
    """
    if parse_budgets(text) and strategy.strategy.adaptive:
        raise UserError(
            f"--alphas {text}: the strategy {strategy.name} proposes alphas itself: give it a range of numbers, or take"
            " --strategy grid"
        )
    if strategy.needs_budgets and not parse_budgets(text):
        raise UserError(
            f"--alphas {shorten(text)}: the strategy {strategy.name} takes KL budgets; its"
            f" default is {strategy.default_alphas}"
        )


def parse_targets(text: str) -> tuple[str, ...]:
    """Parse `image,text,both` into token targets.

    Raises:
        UserError: for an unknown target.
    """
    targets = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for target in targets:
        if target not in TOKENS:
            raise unknown_tokens("token target", target)
    return targets


def refuse_test(task: str, split: str, allow_test: bool, others: str = "(…_select)") -> None:
    """Refuse to choose on the questions that a result is then reported on, which would make the result worthless.

    Args:
        task: the task's name.
        split: the split that its questions come from.
        allow_test: whether the user allows choosing on test questions.
        others: where the held-out questions are, for the message, if the task is not ours.

    Raises:
        UserError: for a task of a test split, unless `allow_test`.
    """
    if not allow_test and is_test_task(task, split):
        others = held_out_task(task) or others
        raise UserError(
            f"{task} uses the split {split!r}: choose on held-out questions {others}, or add --i-know-this-is-test"
        )


def check_metric(metric: str | None, task: str, listed: Iterable[Mapping[str, Any]] | None) -> None:
    """Check that a task has a metric that a search can maximise.

    Args:
        metric: its name; None for the first in the list.
        task: the task's name.
        listed: the task's `metric_list`.

    Raises:
        UserError: for a metric that the task does not have, or that is better if it is smaller.
    """
    higher_is_better = {str(entry["metric"]): entry.get("higher_is_better", True) for entry in listed or ()}
    metric = next(iter(higher_is_better), None) if metric is None else metric
    if metric is None:
        raise UserError(f"{task} has no metric that a search could maximise")
    if metric not in higher_is_better:
        raise unknown_name(f"metric of {task}", metric, higher_is_better)
    if not higher_is_better[metric]:
        usable = ", ".join(name for name, higher in higher_is_better.items() if higher)
        instead = f"choose another metric ({usable})" if usable else "a search needs one where more is better"
        raise UserError(f"{task}: a smaller {metric} is better: {instead}")

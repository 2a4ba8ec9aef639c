"""`lmms_steer.search`: what `lmms-steer search` does, with the study as its result."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lmms_steer._util.formatting import join_values
from lmms_steer._util.logging import log_lines
from lmms_steer.harness.arguments import join_model_args
from lmms_steer.search.command import run_search
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.strategies import StrategyBuilder
from lmms_steer.search.study import Study
from lmms_steer.vectors.given import names_of
from lmms_steer.vectors.steering_vectors import SteeringVectors

Vector = str | Path | SteeringVectors
"""A name, a file, or vectors."""


def search(
    model_args: str | Mapping[str, object],
    vector: Vector | Sequence[Vector] | Mapping[str, SteeringVectors],
    task: str,
    output: str | Path,
    *,
    model: str = "steered_hf",
    layers: str | int | Iterable[int] = "",
    alphas: str | float | Iterable[float | str] = "",
    tokens: str | Iterable[str] = "",
    strategy: str | StrategyBuilder = "grid",
    score: str = "auto",
    controls: int = 5,
    trials: int = 64,
    seed: int = 0,
    batch_size: int = 16,
    memory: float = 4.0,
    limit: int | None = None,
    confirm: str | None = None,
    include_path: str | Path | None = None,
    allow_test: bool = False,
    keep: bool = False,
    harness: str = "lmms-eval",
    metric: str | None = None,
    split: str | None = None,
    num_fewshot: int | None = None,
    choose: str = "overall",
    blank_image: bool = True,
    spec: str | Mapping[str, object] = "",
) -> Study:
    """Choose the layer, the strength and the tokens of a vector on held-out questions, as `lmms-steer search` does.

    The same call resumes an interrupted search; what was measured is not measured again. What the command prints is
    logged under `lmms_steer`.

    Args:
        model_args: of the unsteered model, in one line (`"pretrained=…"`) or as a mapping.
        vector: a name, a file, or what `extract` returned; or several. Vectors that are in no store are written to the
            folder `vectors` in the study's.
        task: a task of held-out questions: `cvbench_relation_select`, …
        output: the study's folder.
        model: the model's wrapper.
        layers: `"5-20"`, 3, `[3, 7]`, …; default: all.
        alphas: `"first:last:step"`, or a list; or KL budgets, `["kl:0.03", "kl:0.1"]`; default: the strategy's.
        tokens: token targets; default: image, text and both; with lm-eval both and last.
        strategy: the name of a strategy, with `+screen` if wanted, or a generator function.
        score, controls, trials, seed, batch_size, memory, limit, confirm: as `lmms-steer search --help` says.
        include_path: a folder of your own tasks.
        allow_test: allow choosing on test questions.
        keep: save the winner as this vector's default for this model.
        harness, metric, split, num_fewshot, choose: as `lmms-steer search --help` says.
        blank_image: also measure the choice and the unsteered model with every image replaced by a grey one.
        spec: keys of a spec that all cells share, in one line (`"site=mlp,scale=token"`) or as a mapping.

    Raises:
        UserError: for a grid, task, vector or folder that cannot be searched.
    """
    options = SearchOptions(
        model=model,
        model_args=join_model_args(model_args),
        vectors=tuple(names_of(vector, Path(output) / "vectors")),
        task=task,
        output=Path(output),
        layers=join_values(layers),
        alphas=join_values(alphas),
        tokens=join_values(tokens),
        strategy=strategy,
        score=score,
        controls=controls,
        trials=trials,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        limit=limit,
        confirm=confirm,
        allow_test=allow_test,
        include_path=Path(include_path) if include_path is not None else None,
        keep=keep,
        harness=harness,
        metric=metric,
        split=split,
        num_fewshot=num_fewshot,
        choose=choose,
        blank_image=blank_image,
        spec=join_model_args(spec),
    )
    log_lines(run_search(options))
    return Study.read(options.output)

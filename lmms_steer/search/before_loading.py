"""What of a search can be checked, and compared with the study in its folder, before the model is loaded."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from lmms_steer.errors import UserError
from lmms_steer.extraction.first_use import check_vectors
from lmms_steer.harness import task_files
from lmms_steer.search import required_questions
from lmms_steer.search.harnesses import UNSTEERED, check_arguments
from lmms_steer.search.options import SearchOptions, parse_alphas, parse_budgets, parse_layers
from lmms_steer.search.plan import LMMS_EVAL, PLAN_FILE
from lmms_steer.search.resolved_cells import layers_at, spec_of
from lmms_steer.search.study_questions import grid
from lmms_steer.steering.facts import ModelFacts, facts_of_config
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of, checkpoint
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import model_source


def check_before_imports(options: SearchOptions) -> dict[str, Any]:
    """Refuse what can be refused before torch and lmms-eval are imported, which takes ten seconds.

    Returns:
        the part of a plan that is known of the vectors, for `check_same_plan`.

    Raises:
        UserError: for what cannot be searched.
    """
    if options.limit is not None:
        known = required_questions.context_of(grid(options), options.limit)
        required_questions.check_questions(options.chosen_strategy, known, "a search with --limit")
    if options.layers:
        parse_layers(options.layers)
    pretrained = check_arguments(options)
    if pretrained is not None:
        for vector in options.vectors:
            check_vectors(spec_of(options.fixed_keys, vector), pretrained)
    if options.include_path is not None and not options.include_path.is_dir():
        raise UserError(f"--include_path {options.include_path}: no such folder")
    for task in filter(None, (options.task, options.confirm) if options.harness == LMMS_EVAL else ()):
        own = str(options.include_path) if options.include_path else None
        task_files.check_task(task, own)
        if task_files.kind_of(task, own) == "group":
            raise UserError(f"{task} is a group: search on one task")
    if options.confirm == options.task and options.split is None:
        raise UserError(f"--confirm {options.confirm}: the choice is made on these questions, confirm it on others")
    vectors = _known_vectors(options)
    hashes = {name: vectors[name].sha256 if name in vectors else None for name in options.names}
    return {"vectors": hashes}


def refuse_spec(spec: SteeringSpec) -> None:
    """
    Raises:
        UserError: for steering keys among the model's arguments.
    """
    if spec:
        raise UserError(UNSTEERED)


def planned_options(options: SearchOptions) -> dict[str, Any]:
    """The part of a plan that the options determine alone."""
    return {
        "model": options.model,
        "model_args": options.model_args,
        "task": options.task,
        "batch_size": options.batch_size,
        "strategy": options.chosen_strategy.name,
        "trials": options.trials,
        "seed": options.seed,
        "alphas": parse_budgets(options.alphas) or parse_alphas(options.alphas),
        "tokens": options.targets,
        "harness": options.harness,
        "metric": options.metric,
        "split": options.split,
        "num_fewshot": options.num_fewshot,
        "spec": str(options.fixed_keys),
    }


def weights_of_folder(options: SearchOptions) -> str | None:
    """The hash of a local folder's weights; None for another checkpoint, whose files may change when it is loaded."""
    pretrained = check_arguments(options)
    if pretrained is None or not Path(pretrained).is_dir():
        return None
    return model_source(pretrained).get("weights_sha256")


def known_layers(options: SearchOptions) -> dict[str, Any]:
    """The layers that will be searched, where they are known before the weights are loaded, for `check_same_plan`."""
    vectors = _known_vectors(options)
    pretrained = check_arguments(options)
    if pretrained is None or len(vectors) < len(options.vectors):
        return {}
    with suppress(UserError):
        n_layers = layers_at(options.fixed_keys, facts_on_disk(pretrained))
        layers = parse_layers(options.layers, n_layers) if options.layers else tuple(range(n_layers))
        return {"layers": [layer for layer in layers if all(v.can_steer(layer) for v in vectors.values())]}
    return {}


def _known_vectors(options: SearchOptions) -> dict[str, SteeringVectors]:
    """The user's vectors that exist already, where the folder holds a study to compare them with."""
    pretrained = check_arguments(options)
    vectors = {}
    if pretrained is not None and (options.output / PLAN_FILE).is_file():
        for name in options.vectors:
            with suppress(UserError):
                vectors[name] = SteeringVectors.load(store.find(name, backbone_of(pretrained)).path)
    return vectors


def facts_on_disk(pretrained: str) -> ModelFacts:
    """What a checkpoint's config states, without its weights."""
    from transformers import AutoConfig

    from lmms_steer.models.loading import load_or_refuse

    config = load_or_refuse(pretrained, AutoConfig.from_pretrained, checkpoint(pretrained))
    return facts_of_config(config, pretrained)

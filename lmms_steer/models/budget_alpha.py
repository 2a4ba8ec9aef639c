"""Find the alpha that does a given damage to a model, once, on prompts of this package's own: `alpha=kl:0.1`.

The damage on a prompt is the largest KL(unsteered || steered) among the first tokens of the answer that the unsteered
model writes: of a model that answers `(A)`, it is that of the letter, which the bracket says nothing of. What is found
is kept in the user's cache. A search (`lmms-steer search --alphas kl:0.1`) finds alphas on a task's questions instead.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lmms_steer._util.io import cache_dir, write_atomically
from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, first_line
from lmms_steer.models.forced import forced_ids
from lmms_steer.models.own_prompts import OwnPrompts, cache_key, evaluating, own_prompts, sees_images
from lmms_steer.models.prompts import PromptFormat
from lmms_steer.models.residual_norms import with_residual_norms
from lmms_steer.steering.alpha_search import START, nearest, next_alpha, why_not_met
from lmms_steer.steering.anatomy import model_facts, unwrap, without_parallel
from lmms_steer.steering.budget import budget_provenance, check_budget
from lmms_steer.steering.budget_text import read_budget
from lmms_steer.steering.damage import divergence_from
from lmms_steer.steering.given import read_given
from lmms_steer.steering.hooks import attach
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.placeholders import MEDIA
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import ResolvedSpec, own_code
from lmms_steer.steering.row_vectors import is_row_vector
from lmms_steer.steering.spec import SteeringSpec, unknown_key
from lmms_steer.vectors.backbones import short_name
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import model_source

NEW_TOKENS = 8
"""Tokens of an answer that are looked at."""
_GREEDY = {
    "do_sample": False, "num_beams": 1, "max_new_tokens": NEW_TOKENS, "return_dict_in_generate": True,
    "output_logits": True,
}  # fmt: skip


def find_alpha(
    model: Any,
    processor: Any,
    vector: SteeringVectors | str | os.PathLike[str],
    budget: str | float,
    *,
    tokens: str,
    layer: int | None = None,
    layers: str | Sequence[int] | None = None,
    prompt_format: PromptFormat | None = None,
    **keys: Any,
) -> ResolvedSpec:
    """Find the alpha of a damage, as `alpha=kl:0.1` does in `--model_args`.

        resolved = find_alpha(model, processor, "counting", "kl:0.1", layer=1, tokens="image")
        with steer(model, resolved): ...

    Args:
        model: a loaded transformers model, unsteered.
        processor: a multimodal model's processor, a text model's tokenizer.
        vector: vectors, the name of a vector or its file.
        budget: mean KL in nats, `0.1` or `kl:0.1`.
        tokens, layer, layers: where the vector is added.
        prompt_format: the format of the prompts; by default the one that matches the processor.
        **keys: further keys of a spec, such as `site`.

    Returns:
        the resolved spec, with the alpha, and the budget in its provenance.

    Raises:
        UserError: for a wrong spec, a budget that no alpha meets, or a model that is steered at the moment.
    """
    unknown = next((key for key in keys if key not in FIELDS), None)
    if unknown is not None:
        raise unknown_key(unknown, keys[unknown])
    if "alpha" in keys:
        raise UserError(f"alpha={keys['alpha']}: find_alpha finds the alpha: leave it out")
    fields = {**keys, "tokens": tokens, "layer": layer, "layers": layers, "alpha": 1.0}
    if processor is None:
        raise UserError("find_alpha needs the model's processor, for a text model its tokenizer")
    given, facts = read_given(vector, None, fields), model_facts(unwrap(model))
    assert isinstance(given.spec, SteeringSpec)
    resolved = with_residual_norms(
        resolve(given.spec, facts, given.vectors), model, processor, facts.name, prompt_format
    )
    return with_budget_alpha(resolved, read_budget(budget), model, processor, facts.name, prompt_format)


def with_budget_alpha(
    resolved: ResolvedSpec,
    budget: float,
    model: Any,
    processor: Any,
    name: str,
    prompt_format: PromptFormat | None = None,
    text_only: bool = False,
) -> ResolvedSpec:
    """The spec with the alpha that does a damage, from the user's cache or found and cached.

    Args:
        resolved: one intervention, whose alpha stands in the place of the one to be found.
        budget: mean KL in nats, above 0.
        model: unsteered.
        processor: the model's; its tokenizer if `text_only`.
        name: the checkpoint's.
        prompt_format: the format of the prompts; by default the one that matches the processor.
        text_only: whether the model is evaluated on text without images.

    Raises:
        UserError: for a budget that no alpha meets, or a stored alpha of another model, vector or place.
    """
    model = without_parallel(model)
    (intervention,) = resolved.spec.interventions
    if is_row_vector(intervention.vector):
        raise UserError(
            f"alpha=kl:{budget:g}: {intervention.vector} is another vector for each question: give a number"
        )
    if intervention.tokens in MEDIA[1:]:
        raise UserError(f"alpha=kl:{budget:g},tokens={intervention.tokens}: it is found on pictures: give a number")
    if not sees_images(processor):
        text_only, processor = True, getattr(processor, "tokenizer", processor)
    prompts = own_prompts(model, processor, prompt_format, text_only)
    key = cache_key(model, [*prompts.facts, "budget", replace(resolved, spec=_at(resolved.spec, 1.0)).sha256, budget])
    path = cache_dir() / "budgets" / f"{short_name(name)}-{key}.yaml"
    special_ids = getattr(getattr(processor, "tokenizer", processor), "all_special_ids", None)
    if not path.is_file():
        alpha, kl, count = _search(resolved, budget, model, prompts, special_ids)
        about = budget_provenance(
            _at(resolved.spec, alpha).interventions[0], budget, kl, count, model_source(name), own_code(intervention)
        )
        found = {"alpha": alpha, **about, "budget_on": prompts.described, "vector_sha256": resolved.vectors[0].sha256}
        write_atomically(path, yaml.safe_dump(found, sort_keys=False).encode())
    alpha, provenance = _read(path)
    spec = replace(_at(resolved.spec, alpha), provenance={**resolved.spec.provenance, **provenance})
    check_budget(provenance, spec.interventions, resolved.vectors, name, own_code(intervention))
    note = (
        f"alpha=kl:{budget:g} became alpha={alpha:g}: mean KL {provenance['budget_kl']:.3g} nats on"
        f" {prompts.described}, at the token of the answer that is moved most"
    )
    return replace(resolved, spec=spec, notes=(*resolved.notes, note))


def _at(spec: SteeringSpec, alpha: float) -> SteeringSpec:
    return replace(spec, interventions=tuple(replace(one, alpha=alpha) for one in spec.interventions))


def _search(
    resolved: ResolvedSpec, budget: float, model: Any, prompts: OwnPrompts, special_ids: Any
) -> tuple[float, float, int]:
    """The alpha, its mean KL, and the number of prompts."""
    with torch.inference_mode(), evaluating(model):
        batches = list(prompts.batches)
        answers = [_answer(model, batch) for batch in batches]

        def mean_kl(alpha: float) -> float:
            attachment = attach(model, replace(resolved, spec=_at(resolved.spec, alpha)), special_ids)
            try:
                return math.fsum(map(_largest_kl, [model] * len(batches), batches, answers)) / len(batches)
            finally:
                attachment.remove()

        points: dict[float, float] = {}
        alpha: float | None = START
        while alpha is not None:
            points[alpha] = mean_kl(alpha)
            alpha = next_alpha(points, budget, len(points))
    if why := why_not_met(points, budget):
        raise UserError(f"alpha=kl:{budget:g} {why}, on {prompts.described}: give a smaller budget, or a number")
    best = nearest(points, budget)
    return best, points[best], len(batches)


def _answer(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What the unsteered model writes [1, tokens], and the KL from it of steered logits [1, tokens, vocabulary]."""
    written = model.generate(**batch, **_GREEDY)
    return written.sequences[:, batch["input_ids"].shape[1] :], divergence_from(torch.cat(written.logits))


def _largest_kl(model: Any, batch: Mapping[str, Any], answer: tuple[Tensor, Callable[[Tensor], Tensor]]) -> float:
    ids, divergence = answer
    settings = {**_GREEDY, **forced_ids(ids, batch["input_ids"].shape[1])}
    return float(divergence(torch.cat(model.generate(**batch, **settings).logits)[None]).max())


def _read(path: Path) -> tuple[float, dict[str, Any]]:
    try:
        found = dict(read_yaml(path).typed())
        alpha, kl = float(found.pop("alpha")), float(found["budget_kl"])
        if not 0 < alpha < math.inf or not 0 < kl < math.inf:
            raise ValueError(f"alpha {alpha:g} with a mean KL of {kl:g}")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot read the alpha in {str(path)!r}: {first_line(error)}; delete it to find it again"
        ) from error
    return alpha, found

"""Measure a model's residual norms once, on drawn images or fixed sentences, and cache them for `scale=relative`."""

from dataclasses import replace
from typing import Any

import yaml

from lmms_steer._util.io import cache_dir, write_atomically
from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, first_line
from lmms_steer.models.own_prompts import cache_key, evaluating, own_prompts, sees_images
from lmms_steer.models.prompts import PromptFormat
from lmms_steer.steering.anatomy import model_facts, note_norms, remember_norms, unwrap, without_parallel
from lmms_steer.steering.facts import Norms
from lmms_steer.steering.placeholders import placeholders
from lmms_steer.steering.recording import residual_norms
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.vectors.backbones import short_name


def measure_norms(model: Any, processor: Any, prompt_format: PromptFormat | None = None) -> Norms:
    """Measure a loaded model's residual norms, so that `steer` accepts `scale=relative` for it.

    They are read from the user's cache if the same weights were measured before. Measure again after changing
    weights or adapters.

    Args:
        model: unsteered; it may be wrapped, as in `steer`.
        processor: a multimodal model's processor, a text model's tokenizer.
        prompt_format: the format of a multimodal model's prompts; by default the one that matches the processor.

    Returns:
        layer ▸ kind of tokens ▸ mean norm. A text model is measured on 16 sentences without their first position: in
        many models it attracts the attention of all others, and its norm is a hundred times theirs.

    Raises:
        UserError: for a multimodal model's tokenizer, which cannot show it images, or a model that is steered at the
            moment.
    """
    # where `steer` looks for them
    model = unwrap(model)
    text_only = not sees_images(processor)
    if text_only and placeholders(model.config).image:
        raise UserError(
            f"measure_norms: a {type(model).__name__} takes images, so pass its processor and not a"
            f" {type(processor).__name__}"
        )
    norms = _cached_norms(model, processor, model_facts(model).name, prompt_format, text_only)
    remember_norms(model, norms)
    return norms


def with_residual_norms(
    resolved: ResolvedSpec,
    model: Any,
    processor: Any,
    name: str,
    prompt_format: PromptFormat | None = None,
    text_only: bool = False,
) -> ResolvedSpec:
    """The spec with the model's residual norms if it needs them, from the user's cache or measured and cached.

    They are measured on 16 generated scenes with one question each, or on 16 sentences, so that they do not depend on
    the benchmark.

    Args:
        resolved: a spec; returned unchanged if no strength is relative.
        model: unsteered.
        processor: the model's; its tokenizer if `text_only`.
        name: the checkpoint's, for the name of the file.
        prompt_format: the format of the prompts; by default the one that matches the processor.
        text_only: whether the model is evaluated on text without images.

    Raises:
        UserError: for a damaged file of norms.
    """
    if not resolved.relative:
        return resolved
    model = without_parallel(model)
    if not sees_images(processor):
        text_only, processor = True, getattr(processor, "tokenizer", processor)
    norms = _cached_norms(model, processor, name, prompt_format, text_only)
    note_norms(model, norms)
    return replace(resolved, norms=norms)


def _cached_norms(model: Any, processor: Any, name: str, prompt_format: PromptFormat | None, text_only: bool) -> Norms:
    prompts = own_prompts(model, processor, prompt_format, text_only)
    measured_on = prompts.described + (", without their first position" if text_only else "")
    path = cache_dir() / "norms" / f"{short_name(name)}-{cache_key(model, prompts.facts)}.yaml"
    if path.is_file():
        return _read_norms(path)
    with evaluating(model):
        norms = residual_norms(model, prompts.batches, 1 if text_only else 0)
    header = f"# mean norm of the residual of {name}, layer by layer, on {measured_on}\n"
    write_atomically(path, (header + yaml.safe_dump({k: dict(v) for k, v in norms.items()})).encode())
    return norms


def _read_norms(path: Any) -> Norms:
    try:
        return {int(k): {str(t): float(n) for t, n in v.items()} for k, v in read_yaml(path).typed().items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"cannot read the residual norms in {str(path)!r}: {first_line(error)}; delete it to measure again"
        ) from error

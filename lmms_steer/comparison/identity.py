"""Tell apart the evaluations of different systems in one folder."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lmms_steer.comparison.runs import Evaluation, RunResults, read_results
from lmms_steer.errors import UserError, printable, shorten
from lmms_steer.models import BLANK


def split_by_system(found: Mapping[str, list[Evaluation]]) -> dict[str, list[Evaluation]]:
    """Give the systems of a folder names of their own, where its evaluations are of several.

    Runs of lm-eval's own models, and lm-eval runs from before 0.1.0, are in a folder that only the checkpoint names.

    Args:
        found: name ▸ evaluations of a folder, oldest first.

    Returns:
        Name ▸ evaluations of one system, oldest first. Systems of one folder are named `FOLDER: unsteered`,
        `FOLDER: vector=…,layer=…`.

    Raises:
        UserError: for a results file that cannot be read, or two systems of the same name.
    """
    split: dict[str, list[Evaluation]] = {}
    for folder, evaluations in found.items():
        for name, of_system in _systems_in(folder, evaluations):
            if name in split:
                raise UserError(f"two systems have the name {name!r}; give one another name, NAME=FOLDER")
            split[name] = of_system
    return split


def contrast_line(recorded: Any) -> str:
    """`contrast=vcd,contrast_alpha=1.0,…` of a results file's record; "" without one."""
    if not isinstance(recorded, dict):
        return ""
    settings = (
        f",contrast_{key}={shorten(value)}" for key, value in recorded.items() if key not in ("name", "control")
    )
    return f"contrast={shorten(recorded.get('name'))}{''.join(settings)}"


def model_arguments(recorded: Any) -> dict[str, Any]:
    """Split `--model_args` as it was logged: text in lmms-eval, an object in lm-eval."""
    if isinstance(recorded, dict):
        return recorded
    # a comma inside a value is not followed by a name and an equals sign
    parts = re.split(r",(?=\s*\w+\s*=)", str(recorded or ""))
    return {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in parts if "=" in part)}


def _systems_in(folder: str, evaluations: list[Evaluation]) -> Iterator[tuple[str, list[Evaluation]]]:
    by_system: dict[tuple[tuple[str, ...], str], list[Evaluation]] = {}
    for evaluation in evaluations if len(evaluations) > 1 else ():
        results = read_results(evaluation)
        system = tuple(_changes(results)), str(results.steering.get("sha256") or "")
        by_system.setdefault(system, []).append(evaluation)
    if len(by_system) < 2:
        yield folder, evaluations
        return
    shared = set.intersection(*(set(changes) for changes, _ in by_system))
    names = {
        (changes, sha256): f"{folder}: {', '.join(one for one in changes if one not in shared) or 'unsteered'}"
        for changes, sha256 in by_system
    }
    count = Counter(names.values())
    for (changes, sha256), of_system in by_system.items():
        name = names[changes, sha256]
        # the same spec with vectors of other content
        yield printable(f"{name} ({sha256[:8]})" if count[name] > 1 else name), of_system


def _changes(results: RunResults) -> Iterator[str]:
    """What is done to the model or to every prompt, as `--model_args` would say it."""
    record, config = results.steering, results.content.get("config") or {}
    if not record:
        yield f"model={shorten(config.get('model'))}"
    if record.get("spec"):
        yield shorten(record["spec"])
    if record.get("image") == BLANK:
        yield f"image={BLANK}"
    if contrast := contrast_line(record.get("contrast")):
        yield contrast
    if isinstance(bias := record.get("answer_bias"), dict):
        yield f"answer_bias={shorten(','.join(f'{word}:{value}' for word, value in bias.items()))}"
    if prefix := model_arguments(config.get("model_args")).get("prompt_prefix"):
        yield f"prompt_prefix={shorten(prefix)}"

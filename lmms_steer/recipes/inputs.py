"""What a recipe's own systems and commands read that none of its cells makes: files, and vectors of a store."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lmms_steer._util.io import is_folder, is_regular_file
from lmms_steer.errors import UserError
from lmms_steer.extraction.first_use import vector_names
from lmms_steer.harness.arguments import split_args, unquote
from lmms_steer.harness.presets import expand_preset
from lmms_steer.steering.budget import take_budget
from lmms_steer.steering.intervention import FIELDS, Intervention
from lmms_steer.steering.row_vectors import is_row_vector
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of

_WRITES = (
    *("--output", "--out", "--output_path", "--store", "--to", "--use_cache"),
    *("--html", "--markdown", "--latex", "--csv", "--parquet", "--plot", "--picture"),
)
"""Options whose value is written, not read."""
_VECTORS = ("--vector", "--orthogonal_to")
"""Options whose values are names of vectors."""


class Inputs(NamedTuple):
    """What a command reads.

    Attributes:
        files: files and folders that are there.
        vectors: `backbone/concept/method` of vectors that are in a store, or are extracted on first use.
    """

    files: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()


def system_inputs(args: Mapping[str, str], pretrained: str) -> Inputs:
    """What an evaluation reads for the arguments that are added to its model's.

    Args:
        args: of `--model_args`. A `{output}` in them names nothing that is there.
        pretrained: the model's checkpoint.
    """
    files = tuple(value for value in args.values() if is_regular_file(Path(value)))
    # what cannot be read is the evaluation's own error
    with suppress(UserError):
        expanded = expand_preset(args)
        keys = {key: expanded[key] for key in ("steering", *FIELDS) if key in expanded}
        return _joined(Inputs(files), _spec_inputs(SteeringSpec.from_args(take_budget(keys)[0]), pretrained))
    return Inputs(files)


def command_inputs(words: Sequence[str], made: Iterable[Path]) -> Inputs:
    """What a command of the recipe's own reads.

    Args:
        words: of its command line.
        made: files and folders that cells write. What is below or above one of them does not count.
    """
    written = [path.resolve() for path in made]
    inputs: list[Inputs] = []
    names: list[str] = []
    model_args: dict[str, str] = {}
    for option, value in _values(words):
        if option not in _WRITES:
            inputs.append(Inputs(tuple(_paths(option, value))))
        if option in _VECTORS:
            names += value.split(",")
        if option == "--model_args":
            with suppress(UserError):
                model_args = {key: unquote(text) for key, text in split_args(value, option).items()}
    pretrained = model_args.get("pretrained", "")
    # a spec that a cell writes may name a vector in a store, but that cell reads it
    given = {key: value for key, value in model_args.items() if not _overlaps(value, written)}
    inputs += [
        _spec_inputs(SteeringSpec(tuple(map(Intervention, names))), pretrained),
        system_inputs(given, pretrained),
    ]
    files, vectors = _joined(*inputs)
    return Inputs(tuple(file for file in files if not _overlaps(file, written)), vectors)


def _spec_inputs(spec: SteeringSpec, pretrained: str) -> Inputs:
    backbone = backbone_of(pretrained)
    files, vectors = list[str](), list(vector_names(spec, backbone))
    for name in [name for one in spec.interventions for name in (one.vector, one.gate_vector) if name is not None]:
        with suppress(UserError):
            if not is_row_vector(name):
                entry = store.find(name, backbone)
                (files if entry.origin == "file" else vectors).append(entry.name)
    return Inputs(tuple(files), tuple(vectors))


def _joined(*inputs: Inputs) -> Inputs:
    files, vectors = (tuple(dict.fromkeys(name for one in inputs for name in one[part])) for part in (0, 1))
    return Inputs(files, vectors)


def _values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each value of a command line with its option; "" for a word without one."""
    option = ""
    for word in words[1:]:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            if not equals:
                continue
            yield option, value
        else:
            yield option, word
        option = ""


def _paths(option: str, value: str) -> Iterator[str]:
    """The files and folders that a value names: itself, or in `A,B` and `KEY=A,KEY=B`."""
    for part in dict.fromkeys((value, *re.split("[,=]", value))):
        # `lmms-steer vectors …` does not read a folder of this name
        is_named = bool(option) or "/" in part or part != value
        if part and (is_regular_file(Path(part)) or (is_named and is_folder(Path(part)))):
            yield part


def _overlaps(path: str, others: Iterable[Path]) -> bool:
    own = Path(path).resolve()
    return any(own.is_relative_to(other) or other.is_relative_to(own) for other in others)

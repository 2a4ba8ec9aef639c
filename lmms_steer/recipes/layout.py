"""Parts of commands: a recipe's words as the words of a command line.

Where a recipe keeps what its cells make.
"""

import re
from pathlib import Path

from lmms_steer import concepts
from lmms_steer._util.io import check_writable
from lmms_steer.errors import UserError
from lmms_steer.recipes.schema import Model, Recipe, Study
from lmms_steer.search.options import parse_alphas, parse_layers, parse_targets
from lmms_steer.vectors.backbones import backbone_of, short_name


def concept_label(concept: str) -> str:
    """A concept's name in paths; for a file the one that it says."""
    return concepts.load(concept).name if Path(concept).suffix else concept


def command_cell_name(name: str) -> str:
    """The name of a command's cell."""
    return f"command/{name.replace(' ', '_')}"


def backbone_name(model: Model) -> str:
    return model.backbone or backbone_of(model.pretrained) or model.pretrained


def model_args_line(model: Model) -> str:
    return ",".join(f"{key}={value}" for key, value in {"pretrained": model.pretrained, **model.args}.items())


def launcher_words(processes: int) -> tuple[str, ...]:
    if processes == 1:
        return ("lmms-eval",)
    return ("torchrun", "--standalone", "--nproc_per_node", str(processes), "-m", "lmms_eval")


def option_words(name: str, value: object) -> tuple[str, ...]:
    return (name, str(value)) if value is not None else ()


def local_paths(model: Model) -> tuple[str, ...]:
    return (model.pretrained,) if Path(model.pretrained).is_dir() else ()


def loaded_weights(model: Model) -> tuple[str, str] | None:
    """Checkpoint and dtype, for the memory that it takes; None where the weights are quantised as they are loaded."""
    if any(model.args.get(f"load_in_{bits}bit", "").lower() not in ("", "false") for bits in (4, 8)):
        return None
    return model.pretrained, model.args.get("dtype", "auto")


def cells_searched(model: Model, alphas: str, tokens: str, controls: int) -> int:
    layers = len(parse_layers(model.layers)) if model.layers else 0
    return layers * len(parse_alphas(alphas)) * len(parse_targets(tokens)) * (1 + controls)


class Layout:
    """
    Args:
        recipe: checked.
        output: its folder.
    """

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe, self.output = recipe, output

    def vector(self, model: Model, concept: str, method: str) -> Path:
        return (
            self.output
            / "vectors"
            / short_name(backbone_name(model))
            / concept_label(concept)
            / f"{method}.safetensors"
        )

    def search(self, name: str, study: str, concept: str, method: str) -> Path:
        return self.output / "search" / name / study / f"{concept_label(concept)}-{method}"

    def run(self, name: str, study: str, system: str) -> Path:
        return self.output / "runs" / name / study / system

    def chosen(self, name: str, study_name: str, study: Study, concept: str, method: str) -> Path:
        if study.chosen is None:
            return self.search(name, study_name, concept, method)
        return Path(str(self.recipe.chosen_in)) / "search" / name / study.chosen / f"{concept_label(concept)}-{method}"


def check_output(recipe: Recipe, output: Path) -> None:
    """
    Raises:
        UserError: for a folder that the commands cannot name, that holds the user's tasks, or that cannot be made or
            written to.
    """
    if re.search(r"[,=\s]", str(output)):
        raise UserError(f"--output {output}: commands cannot name a folder with ',', '=' or a space in it")
    if recipe.include_path and output.resolve().is_relative_to(Path(recipe.include_path).resolve()):
        raise UserError(f"include_path {recipe.include_path} holds the output too: give your tasks their own folder")
    check_writable(output, "the output folder", "say another with --output")

"""Where a recipe keeps what its cells make."""

import re
from pathlib import Path

from lmms_steer.backbones import short_name
from lmms_steer.errors import UserError
from lmms_steer.files import check_folder
from lmms_steer.recipes import words
from lmms_steer.recipes.schema import Model, Recipe, Study


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
            self.output / "vectors" / short_name(words.backbone(model)) / words.label(concept) / f"{method}.safetensors"
        )

    def search(self, name: str, study: str, concept: str, method: str) -> Path:
        return self.output / "search" / name / study / f"{words.label(concept)}-{method}"

    def run(self, name: str, study: str, system: str) -> Path:
        return self.output / "runs" / name / study / system

    def chosen(self, name: str, study_name: str, study: Study, concept: str, method: str) -> Path:
        if study.chosen is None:
            return self.search(name, study_name, concept, method)
        return Path(str(self.recipe.chosen_in)) / "search" / name / study.chosen / f"{words.label(concept)}-{method}"


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
    check_folder(output, "the output folder", "say another with --output")

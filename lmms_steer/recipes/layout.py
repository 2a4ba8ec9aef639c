"""Names in a recipe's plan: the folders of its output, its cells, and the parts of command lines."""

import re
from collections.abc import Mapping
from pathlib import Path

from lmms_steer import concepts
from lmms_steer._util.io import check_writable, exists, is_regular_file
from lmms_steer.concepts.loader import SUFFIXES
from lmms_steer.errors import UserError
from lmms_steer.recipes.schema import Method, Model, Recipe, Study
from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.options import parse_layers, parse_strengths, parse_targets
from lmms_steer.vectors.backbones import backbone_of, short_name
from lmms_steer.vectors.methods import methods, split_method

_MODEL_ARGS = re.compile(r"\{model_args:([^{}]*)\}")


class Layout:
    """Paths of what a recipe's cells write.

    Args:
        recipe: a validated recipe.
        output: the recipe's folder.
    """

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe, self.output = recipe, output

    def vector(self, model: Model, concept: str, method: str) -> Path:
        """File of a concept's vector."""
        folder = self.output / "vectors" / short_name(backbone_name(model)) / concept_label(concept)
        return folder / f"{method}.safetensors"

    def given_vector(self, model: Model, concept: str, method: str) -> str:
        """What a search's `--vector` says: the file of an extracted vector, the name of a stored one."""
        if self.recipe.methods[method].stored:
            return stored_vector(model, concept, method)
        return str(self.vector(model, concept, method))

    def search(self, name: str, study: str, concept: str, method: str) -> Path:
        """Folder of a search with the model called `name`."""
        return self.output / "search" / name / study / f"{concept_label(concept)}-{method}"

    def run(self, name: str, study: str, system: str) -> Path:
        """Folder of an evaluation of the model called `name`."""
        return self.output / "runs" / name / study / system

    def chosen(self, name: str, study_name: str, study: Study, concept: str, method: str) -> Path:
        """Folder of the search whose choice a study uses, in this recipe or in another."""
        if study.chosen is None or self.recipe.chosen_in is None:
            return self.search(name, study.chosen or study_name, concept, method)
        return Path(str(self.recipe.chosen_in)) / "search" / name / study.chosen / f"{concept_label(concept)}-{method}"


def check_output(recipe: Recipe, output: Path) -> None:
    """Check the folder of a recipe's output.

    Raises:
        UserError: for a folder whose name a command line cannot hold, that lies inside the folder of the user's tasks,
            or that cannot be created or written to.
    """
    # submitit writes %j in a folder's name as the job's number
    if re.search(r"[,=%\s]", str(output)):
        raise UserError(f"--output {output}: the folder's name cannot contain ',', '=', '%' or a space")
    if recipe.include_path and output.resolve().is_relative_to(Path(recipe.include_path).resolve()):
        raise UserError(
            f"include_path {recipe.include_path} also contains the output folder {output}: move your tasks to a folder"
            " of their own"
        )
    check_writable(output, "the output folder", "choose another with --output")


def extract_cell_name(model: Model, method: str) -> str:
    """Name of the cell that extracts the vectors of a model's backbone."""
    return f"extract/{short_name(backbone_name(model))}/{method}"


def search_cell_name(model: str, study: str, concept: str, method: str) -> str:
    """Name of a search's cell."""
    return f"search/{model}/{study}/{concept_label(concept)}-{method}"


def evaluate_cell_name(model: str, study: str, system: str) -> str:
    """Name of an evaluation's cell."""
    return f"evaluate/{model}/{study}/{system}"


def command_cell_name(name: str) -> str:
    """Name of the cell of one of the recipe's own commands."""
    return f"command/{name.replace(' ', '_')}"


def is_concept_file(concept: str) -> bool:
    """Whether a concept is a file, and not the name of one that ships."""
    return concept.endswith(SUFFIXES)


def concept_label(concept: str) -> str:
    """A concept's name in paths. A concept file is called by the name in it."""
    return concepts.load(concept).name if is_concept_file(concept) else concept


def backbone_name(model: Model) -> str:
    """The text model that a model's vectors are extracted from."""
    return model.backbone or backbone_of(model.pretrained) or model.pretrained


def stored_vector(model: Model, concept: str, method: str) -> str:
    """Name in a store of a concept's vector."""
    return f"{short_name(backbone_name(model))}/{concept_label(concept)}/{method}"


def extracted_concepts(recipe: Recipe) -> list[str]:
    """The concepts that a recipe extracts vectors of, each once."""
    concepts = [c for study in recipe.studies.values() if study.select for c in study.concepts]
    return list(dict.fromkeys((*recipe.concepts, *concepts)))


def extracted_layers(recipe: Recipe, backbone: str) -> str | None:
    """The layers that the models with this backbone search, as one range; None where one of them searches all."""
    ranges = [model.layers for model in recipe.models.values() if backbone_name(model) == backbone]
    return ",".join(dict.fromkeys(ranges)) if all(ranges) else None


def uses_sae(method: str) -> bool:
    """Whether a method, with or without a control, reads an SAE."""
    return methods.get(split_method(method)[0]).uses_sae


def is_folder_of_saes(source: str) -> bool:
    """Whether SAEs are a folder's, which may be missing yet: no release of sae-lens has a slash in its name."""
    return "/" in source.partition(":")[0]


def model_args_line(model: Model) -> str:
    """The value of `--model_args`."""
    return ",".join(f"{key}={value}" for key, value in {"pretrained": model.pretrained, **model.args}.items())


def models_named_in(run: str) -> list[str]:
    """The models whose `{model_args:NAME}` stands in a command line."""
    return _MODEL_ARGS.findall(run)


def filled_in(word: str, models: Mapping[str, Model], output: Path) -> str:
    """A word of a command with the folder and the models' arguments in place of `{output}` and `{model_args:NAME}`."""
    return _MODEL_ARGS.sub(lambda found: model_args_line(models[found[1]]), word).replace("{output}", str(output))


def launcher_words(processes: int) -> tuple[str, ...]:
    """The words that start lmms-eval in one process or in several."""
    if processes == 1:
        return ("lmms-eval",)
    return ("torchrun", "--standalone", "--nproc_per_node", str(processes), "-m", "lmms_eval")


def option_words(name: str, value: object) -> tuple[str, ...]:
    """An option and its value; nothing where the value is None."""
    return (name, str(value)) if value is not None else ()


def local_paths(model: Model) -> tuple[str, ...]:
    """The folder of a model's checkpoint, where `pretrained` names one, and files and folders that its `args` name."""
    named = {value for value in model.args.values() if is_regular_file(Path(value)) or "/" in value}
    return tuple(path for path in (model.pretrained, *sorted(named)) if exists(Path(path)))


def loaded_weights(model: Model) -> tuple[str, str] | None:
    """Checkpoint and dtype, which determine a model's memory; None where the weights are quantised on loading."""
    if any(model.args.get(f"load_in_{bits}bit", "").lower() not in ("", "false") for bits in (4, 8)):
        return None
    return model.pretrained, model.args.get("dtype", "auto")


def strengths(recipe: Recipe, method: Method) -> str:
    """The strengths that a method's searches try, as typed; where the recipe names none, the strategy's."""
    return method.alphas or parse_strategy(recipe.search.strategy or "grid").default_alphas


def cells_searched(model: Model, alphas: str, tokens: str, controls: int) -> int:
    """Number of settings that a grid search tries; 0 where the model's layers are not listed."""
    layers = len(parse_layers(model.layers)) if model.layers else 0
    return layers * len(parse_strengths(alphas)) * len(parse_targets(tokens)) * (1 + controls)

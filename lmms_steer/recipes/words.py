"""Parts of commands: a recipe's words as the words of a command line."""

from pathlib import Path

from lmms_steer import concepts
from lmms_steer.backbones import backbone_of
from lmms_steer.recipes.schema import Model
from lmms_steer.search.ranges import alpha_range, layer_range, token_targets


def label(concept: str) -> str:
    """A concept's name in paths; for a file the one that it says."""
    return concepts.load(concept).name if Path(concept).suffix else concept


def command_cell(name: str) -> str:
    """The name of a command's cell."""
    return f"command/{name.replace(' ', '_')}"


def backbone(model: Model) -> str:
    return model.backbone or backbone_of(model.pretrained) or model.pretrained


def model_args(model: Model) -> str:
    return ",".join(f"{key}={value}" for key, value in {"pretrained": model.pretrained, **model.args}.items())


def launcher(processes: int) -> tuple[str, ...]:
    if processes == 1:
        return ("lmms-eval",)
    return ("torchrun", "--standalone", "--nproc_per_node", str(processes), "-m", "lmms_eval")


def option(name: str, value: object) -> tuple[str, ...]:
    return (name, str(value)) if value is not None else ()


def local(model: Model) -> tuple[str, ...]:
    return (model.pretrained,) if Path(model.pretrained).is_dir() else ()


def loads(model: Model) -> tuple[str, str] | None:
    """Checkpoint and dtype, for the memory that it takes; None where the weights are quantised as they are loaded."""
    if any(model.args.get(f"load_in_{bits}bit", "").lower() not in ("", "false") for bits in (4, 8)):
        return None
    return model.pretrained, model.args.get("dtype", "auto")


def settings(model: Model, alphas: str, tokens: str, controls: int) -> int:
    layers = len(layer_range(model.layers)) if model.layers else 0
    return layers * len(alpha_range(alphas)) * len(token_targets(tokens)) * (1 + controls)

"""The schema of a recipe: the keys that a recipe's file may have, their types and their defaults."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from lmms_steer._util.io import user_path

REPORTS = ("paper",)
SYSTEMS = ("baseline", "prompted", "calibrated", "steered", "steered_1se", "controls", "blank")
"""What a study can evaluate, besides systems of the recipe's own (`System`).

`baseline`: the unsteered model. `prompted`: the unsteered model with a sentence before the question. `calibrated`: the
unsteered model with biases on the answer words. `steered`: the model with each chosen vector. `steered_1se`: the same
with the cell of the smallest |alpha| within one standard error of the chosen one. `controls`: the model with random
vectors that went through the same choice. `blank`: all systems but these controls once more, with a grey image in place
of each.
"""


def _split_names(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise PydanticCustomError("twice", "each name can be there once")
    return names


def _read_systems(value: object) -> object:
    systems = _split_names(value)
    return [{"name": one} if isinstance(one, str) else one for one in systems] if isinstance(systems, list) else systems


def _join_values(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names), AfterValidator(_different)]
"""A YAML list, or one string with commas between the names."""
Range = Annotated[str, BeforeValidator(_join_values)]
"""A range as on the command line (`5-20`, `0.1:1.0:0.1`), or a YAML list of values."""
Folder = Annotated[str, AfterValidator(lambda text: str(user_path(text)))]
"""A folder of the user's; `~` is the home folder."""


class Strict(BaseModel):
    """Base of the parts of a recipe: unknown keys are errors, and values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Strict):
    """A multimodal model and how it is evaluated."""

    model: str = "steered_hf"
    """Value of lmms-eval's `--model`."""
    pretrained: str = Field(min_length=1)
    """A Hub id, a folder, or the name of a checkpoint that ships with this package."""
    args: dict[str, str] = {}
    """Further `--model_args`: `dtype`, `attn_implementation`, …"""
    backbone: str | None = Field(default=None, min_length=1)
    """Text model that the vectors are extracted from. Default: the one that `backbones.yaml` lists for this model, else
    the model's own language model."""
    methods: Names | None = Field(default=None, min_length=1)
    """Names of the recipe's methods that are used with this model. Default: all."""
    backbone_dtype: str | None = None
    """Dtype that the backbone is loaded in, as for `lmms-steer extract --dtype`. Default: float32 on a CPU, and the
    checkpoint's own elsewhere."""
    layers: Range = ""
    """Layers that a search tries. Default: all."""
    batch_size: int = Field(default=16, ge=1)
    """Questions per forward pass of an evaluation."""
    search_batch_size: int = Field(default=16, ge=1)
    """Questions per forward pass of a search."""
    processes: int = Field(default=1, ge=1)
    """Processes per evaluation. More than one are started with torchrun."""


class Method(Strict):
    """How vectors are extracted, and which strengths a search tries."""

    alphas: Range | None = None
    """Strengths that a search tries, as for `lmms-steer search --alphas`. Default: the strategy's."""
    controls: int = Field(default=1, ge=0, le=1000)
    """Number of random vectors of the same norms that go through the same choice."""
    random_beside: int = Field(default=0, ge=0, le=1000)
    """Number of random vectors of the same norms to evaluate at the chosen layer, alpha and tokens. The comparison
    ranks the choice among them if there are at least four."""
    sae: str | None = None
    """Source of the SAEs, as for `lmms-steer extract --sae`."""
    judge: str | None = None
    """Judge of the SAE features, as for `lmms-steer extract --judge`."""
    paper_exact: bool = False
    """Select SAE features as the paper's released code does, as for `lmms-steer extract --paper-exact`."""
    stored: bool = False
    """Whether the vectors are already in a store, as `BACKBONE/CONCEPT/METHOD`. If so, none are extracted."""


class Search(Strict):
    """How the layer, the strength and the tokens are chosen."""

    tokens: Range = "image,text,both"
    """Token targets that a search tries."""
    choose: str = "overall"
    """`overall`: the best cell of all. `per_target`: the best cell of each token target, each of them a system."""
    strategy: str | None = None
    """Search strategy, as for `lmms-steer search --strategy`. Default: `grid`, every cell on every question."""
    score: str | None = None
    """`letters`, `generate` or `auto`. Default: `auto`, which scores as the task does."""
    limit: int | None = Field(default=None, ge=1)
    """Search on the first questions only."""


class Study(Strict):
    """Concepts, the questions that their vectors are chosen on, and the questions that the choice is measured on."""

    concepts: Names = Field(min_length=1)
    """Names of concepts that ship, or concept files."""
    select: str | None = None
    """Task of held-out questions for the choice. Required unless `chosen` is set."""
    chosen: str | None = None
    """Name of a study whose choices are used unchanged: of the recipe `chosen_in` if that is set, else of this one."""
    test: Names = Field(min_length=1)
    """Tasks that every system is evaluated on."""
    test_prompted: Names | None = None
    """Tasks for the system `prompted`. Default: the name of each test task with `_prompted` appended. An empty list:
    the study has no such system."""
    select_questions: int | None = Field(default=None, ge=1)
    """Number of questions of `select`. Used only to estimate the cost of the recipe, and to refuse at once a strategy
    that needs more."""
    test_questions: int | None = Field(default=None, ge=1)
    """Number of questions of each test task. Used only to estimate the cost of the recipe."""


class System(Strict):
    """What every study evaluates: one of `SYSTEMS`, or with `args` a system of the recipe's own."""

    name: str
    """Name in tables."""
    args: dict[str, str] | None = None
    """`--model_args` that make the system, added to the model's: a contrast, a preset, the keys of a spec. `{output}`
    in them stands for the recipe's folder."""
    after: Names = ()
    """What its evaluations wait for: kinds of cells (extract, search) or names of commands."""
    studies: Names | None = Field(default=None, min_length=1)
    """Names of the studies that evaluate it. Default: all."""


class Command(Strict):
    """An additional command line of lmms-steer or lmms-eval.

    `{output}` in it stands for the recipe's folder, `{model_args:NAME}` for `--model_args` of its model of that name.
    """

    name: str
    """Name of the command's cell."""
    run: str
    """The command line."""
    after: Names = ()
    """What the command waits for: kinds of cells (extract, search, evaluate, compare) or names of earlier commands."""
    makes: Names
    """Files and folders that the command writes. Commands that wait for it get nothing else on another machine."""
    show: bool = False
    """Whether the command's output is printed at the end of the run."""


class Recipe(Strict):
    """An experiment: models x studies x concepts x methods x systems."""

    about: str = ""
    """One line about the experiment."""
    output: str | None = None
    """Folder of the recipe. Default: `runs/NAME`."""
    models: dict[str, Model]
    """Models by name."""
    methods: dict[str, Method] = Field(min_length=1)
    """Extraction methods by name."""
    studies: dict[str, Study]
    """Studies by name."""
    search: Search = Field(default_factory=Search)
    """Settings of all searches."""
    systems: Annotated[tuple[System, ...], BeforeValidator(_read_systems)] = tuple(
        System(name=name) for name in ("baseline", "prompted", "calibrated", "steered", "controls")
    )
    """Systems that every study evaluates: names of `SYSTEMS`, and systems of the recipe's own."""
    chosen_in: Folder | None = None
    """Folder of another recipe, for studies with `chosen`."""
    include_path: Folder | None = None
    """Folder of your own tasks."""
    concepts: Names = ()
    """Concepts to extract in addition to those of the studies."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first questions of every task."""
    metric: str | None = None
    """The score that choices are made by and systems compared by. Default: each task's own."""
    report: str | None = None
    """`paper`: end with `report.md` and `report.csv`, tables of models, methods and token targets for each task."""
    compare: bool = True
    """Whether each study ends with a comparison of its systems."""
    commands: tuple[Command, ...] = ()
    """Additional commands."""

    @property
    def search_limit(self) -> int | None:
        """The number of questions that a search asks at most: the smaller of the two limits that may be set."""
        return min(filter(None, (self.search.limit, self.limit)), default=None)

    @property
    def known_systems(self) -> tuple[str, ...]:
        """The names of `SYSTEMS` that every study evaluates."""
        return tuple(system.name for system in self.systems if system.args is None)

    @property
    def own_systems(self) -> dict[str, System]:
        """The recipe's own systems by name."""
        return {system.name: system for system in self.systems if system.args is not None}

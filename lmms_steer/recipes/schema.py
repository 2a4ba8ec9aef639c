"""What a recipe may say."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SYSTEMS = ("baseline", "prompted", "calibrated", "steered", "steered_1se", "controls")
"""The model as it is; with a sentence before the question; with biases on the answer words; with each chosen vector;
with its weakest cell within one standard error; with random vectors that went through the same choice."""


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _joined(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""A YAML list, or names with commas between."""
Range = Annotated[str, BeforeValidator(_joined)]
"""As on the command line (`5-20`, `0.1:1.0:0.1`), or a YAML list."""


class Strict(BaseModel):
    """No other keys; not changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Strict):
    """A multimodal model, and how it is asked."""

    model: str = "steered_hf"
    """lmms-eval's `--model`."""
    pretrained: str
    """A Hub id, a folder, or a checkpoint that ships."""
    args: dict[str, str] = {}
    """More of `--model_args`: dtype, attn_implementation, …"""
    backbone: str | None = None
    """Where vectors come from; unsaid: the table's, and where that has none the model's own language model."""
    layers: Range = ""
    """What a search tries; unsaid: all."""
    batch_size: int = Field(16, ge=1)
    search_batch_size: int = Field(16, ge=1)
    processes: int = Field(1, ge=1)
    """Of each evaluation: more than one goes through torchrun."""


class Method(Strict):
    """How vectors are made, and how strongly they are tried."""

    alphas: Range = "0.1:1.0:0.1"
    controls: int = Field(1, ge=0)
    """Random vectors of the same norms that go through the same choice."""
    sae: str | None = None
    judge: str | None = None


class Search(Strict):
    """How a cell is chosen."""

    tokens: Range = "image,text,both"
    strategy: str | None = None
    """grid, race, screen, race+screen or tpe; unsaid: every cell on every question."""
    score: str | None = None
    """letters, generate or auto; unsaid: auto, what the task does."""
    limit: int | None = Field(default=None, ge=1)


class Study(Strict):
    """Vectors, the questions that they are chosen on, and those that the choice is measured on."""

    concepts: Names = Field(min_length=1)
    select: str | None = None
    """A task of held-out questions; unsaid where `chosen` is."""
    chosen: str | None = None
    """A study of `chosen_in` whose choices are used as they are."""
    test: Names = Field(min_length=1)
    test_prompted: Names | None = None
    """What `prompted` is asked; unsaid: each test with `_prompted` behind."""
    select_questions: int | None = Field(None, ge=1)
    test_questions: int | None = Field(None, ge=1)
    """How many there are, for the estimate of what the recipe costs."""


class Command(Strict):
    """A command line of ours or lmms-eval's that belongs to the experiment; `{output}` in it is the recipe's folder."""

    name: str
    run: str
    after: Names = ()
    """Kinds of cells that it waits for: extract, search, evaluate, compare; or the names of other commands."""
    makes: Names
    """Files that it writes."""
    show: bool = False
    """Whether what it printed is shown at the end."""


class Recipe(Strict):
    """models x studies x concepts x methods x systems."""

    about: str = ""
    output: str | None = None
    """The folder; unsaid: runs/NAME."""
    models: dict[str, Model]
    methods: dict[str, Method] = Field(min_length=1)
    studies: dict[str, Study]
    search: Search = Field(default_factory=Search)
    systems: Names = ("baseline", "prompted", "calibrated", "steered", "controls")
    chosen_in: str | None = None
    """The folder of another recipe, for studies with `chosen`."""
    include_path: str | None = None
    """A folder of your own tasks."""
    concepts: Names = ()
    """Concepts to extract beside those of the studies."""
    limit: int | None = Field(None, ge=1)
    """The first questions of every task only."""
    compare: bool = True
    commands: tuple[Command, ...] = ()

"""`lmms-steer …`: one short function a verb, no logic of its own."""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lmms_steer import __version__
from lmms_steer.errors import UserError

app = typer.Typer(
    help="Steer multimodal language models inside lmms-eval, with vectors made from text alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
vectors_app = typer.Typer(help="The vectors that a spec can name.", no_args_is_help=True, rich_markup_mode=None)
concepts_app = typer.Typer(help="The sentence-anchor pairs that ship.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="Local copies of the benchmarks.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(vectors_app, name="vectors")
app.add_typer(concepts_app, name="concepts")
Vector = Annotated[str, typer.Argument(help="BACKBONE/CONCEPT/METHOD of a store, or a file.")]

INTERRUPTED = 130
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def main() -> None:
    """The console script: a user's mistake is one line and status 2, an interrupt status 130."""
    # lmms-eval logs its findings about the disk and the like, which concern nobody who did not ask
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")
    try:
        app(standalone_mode=True)
    except UserError as error:
        _say(f"lmms-steer: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _say("lmms-steer: the disk is full; what is finished is kept: make room and run it again", err=True)
        elif error.errno in UNUSABLE and error.filename:
            _say(f"lmms-steer: {str(error.filename)!r} cannot be used: {error.strerror}", err=True)
        else:
            raise
        sys.exit(2)
    except SystemExit as end:
        # what typer makes of an interrupt
        if end.code == INTERRUPTED:
            _say("lmms-steer: stopped; long work goes on where it was when it is run again", err=True)
        raise


def _say(line: str, err: bool = False) -> None:
    typer.echo(line, err=err)


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"lmms-steer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def extract(
    backbone: Annotated[
        str, typer.Option(help="Text model (a Hub id, a folder, tiny-gemma2), or an MLLM for its language model.")
    ],
    concept: Annotated[str, typer.Option(help="A concept, several with commas, a YAML, JSONL or CSV file, or all.")],
    method: Annotated[
        str,
        typer.Option(
            help="How directions are computed, several with commas: mean_shift, linear_probe, sae, sae_denoised, pca;"
            " controls: random, shuffled, wrong_concept, of the mean shift, or of METHOD as METHOD-shuffled."
        ),
    ] = "mean_shift",
    store: Annotated[Path | None, typer.Option(help="Store to file them in; yours where unsaid.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random choices.")] = 0,
    sae: Annotated[
        str | None,
        typer.Option(help="sae-lens release, RELEASE:ID with {layer} in it, or folder; the table's if unsaid."),
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Who checks SAE features: llm (OPENAI_API_KEY, OPENAI_BASE_URL), ask (you) or none.")
    ] = "llm",
    neutral: Annotated[
        Path | None, typer.Option(help="Text, a sentence a line, for the contexts that a judge sees.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="JSONL of image, prompt, contrast: read an MLLM on pictures, not on sentences.")
    ] = None,
    paper_exact: Annotated[
        bool, typer.Option("--paper-exact", help="The released code's arithmetic for sae, with its slips.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences a forward call.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0, …")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, …; float32 on a processor.")] = None,
) -> None:
    """Make a concept's vectors from a text backbone, at every layer in one pass."""
    from lmms_steer.extraction.command import extract as run
    from lmms_steer.extraction.methods import Settings

    settings = Settings(seed=seed, paper_exact=paper_exact, sae=sae, judge=judge, neutral=neutral)
    for line in run(
        backbone, concept.split(","), method.split(","), store, batch_size, device, dtype, settings, questions
    ):
        _say(line)


@vectors_app.command("list")
def list_vectors(
    name: Annotated[
        str | None, typer.Argument(help="A part of names, for a row a vector: tiny-gemma2/spatial, spatial, sae.")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Names alone, one a line, for scripts.")] = False,
) -> None:
    """Every vector that a name reaches, a row a concept; yours hide shipped ones of the same name."""
    from lmms_steer.inspection.listing import listed

    for line in listed(name, names):
        _say(line)


@vectors_app.command("show")
def show_vector(
    name: Vector,
    picture: Annotated[Path | None, typer.Option(help="Also draw it into this file (.png, .svg, .pdf).")] = None,
    words: Annotated[bool, typer.Option(help="Words by the logit lens: its model is loaded for them.")] = True,
) -> None:
    """Where a vector comes from; norm, probe accuracy, cosines with others and words, layer by layer."""
    from lmms_steer.inspection.describe import describe, lines
    from lmms_steer.inspection.figure import check_suffix
    from lmms_steer.store import find

    if picture is not None:
        check_suffix(picture)
    shown = describe(find(name, None).path, words)
    for line in lines(shown):
        _say(line)
    if picture is not None:
        from lmms_steer.inspection.picture import draw

        _say(f"\n{draw(shown, picture)}")


@vectors_app.command("compare")
def compare_vectors(first: Vector, second: Vector) -> None:
    """The cosine of two vectors at each layer: of two methods, two models, two checkpoints."""
    from lmms_steer.inspection.describe import compared
    from lmms_steer.store import find
    from lmms_steer.vectors import SteeringVectors

    for line in compared(*(SteeringVectors.load(find(name, None).path) for name in (first, second))):
        _say(line)


@vectors_app.command("export")
def export_vector(
    name: Vector,
    to: Annotated[str, typer.Option(help="lm-eval, gguf (llama.cpp, repeng, EasySteer) or pt (a state dict).")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    layer: Annotated[int | None, typer.Option(min=0, help="This layer alone.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Strength to write it with; 1 where unsaid.")] = None,
) -> None:
    """Write a vector as another tool's file."""
    from lmms_steer.exchange.formats import export
    from lmms_steer.store import find
    from lmms_steer.vectors import SteeringVectors

    for line in export(SteeringVectors.load(find(name, None).path), to, out, layer, alpha):
        _say(line)


@vectors_app.command("import")
def import_vector(
    file: Annotated[Path, typer.Argument(help="The .gguf or .pt.")],
    backbone: Annotated[str, typer.Option(help="The model that it was made from.")],
    concept: Annotated[str, typer.Option(help="What it is about.")],
    method: Annotated[str, typer.Option(help="How it was made.")] = "imported",
    layer: Annotated[int | None, typer.Option(min=0, help="Where a single tensor belongs.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store to file it in; yours where unsaid.")] = None,
) -> None:
    """Read another tool's file (.gguf, .pt) into a store; a .pt is read as tensors only and runs no code."""
    from lmms_steer.backbones import short_name
    from lmms_steer.exchange.formats import read
    from lmms_steer.store import save

    made = {"model": short_name(backbone), "model_id": backbone, "concept": concept, "method": method}
    vectors = read(file, layer, made)
    _say(f"{vectors.name}: {len(vectors.layers)} layers x {vectors.hidden_size} -> {save(vectors, store)}")


@vectors_app.command("push")
def push_vectors(
    names: Annotated[list[str], typer.Argument(help="Vectors of a store.")],
    repo: Annotated[str, typer.Option(help="Repository on the Hub: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Where it does not exist yet.")] = False,
) -> None:
    """Upload vectors to the Hugging Face Hub, with a card written from their provenance."""
    from lmms_steer.exchange.hub import push

    for line in push(names, repo, private):
        _say(line)


@vectors_app.command("pull")
def pull_vectors(
    repo: Annotated[str, typer.Argument(help="Repository on the Hub: user/name.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store to file them in; yours where unsaid.")] = None,
) -> None:
    """Download every vector of a repository on the Hugging Face Hub."""
    from lmms_steer.exchange.hub import pull

    for line in pull(repo, revision, store):
        _say(line)


@concepts_app.command("list")
def list_concepts() -> None:
    """The concepts that ship."""
    from lmms_steer import concepts

    for concept in concepts.shipped():
        _say(f"{concept.name:14} {len(concept.pairs):3} pairs  {concept.about}")


@concepts_app.command("show")
def show_concept(
    name: Annotated[str, typer.Argument(help="A concept that ships, or a YAML, JSONL or CSV file.")],
    backbone: Annotated[str | None, typer.Option(help="Part the anchors into this model's tokens.")] = None,
) -> None:
    """The sentences, with the anchors marked as the backbone's tokenizer splits them."""
    from lmms_steer.extraction.show_concept import show

    for line in show(name, backbone):
        _say(line)


@data_app.command("import")
def import_data(
    benchmark: Annotated[str, typer.Argument(help="cvbench, whatsup, blink, clevr, clevr_count or superclevr.")],
    release: Annotated[Path, typer.Option("--from", help="The folder of the official release.")],
    to: Annotated[Path | None, typer.Option(help="Where local copies are; $LMMS_STEER_DATA where unsaid.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first questions of a split only.")] = None,
) -> None:
    """Make a local copy of an official release, which our tasks then read; a killed import goes on where it was."""
    from lmms_steer.data.importing import run

    for line in run(benchmark, release, _data_dir(to), limit):
        _say(line)


@data_app.command("check")
def check_data(
    to: Annotated[Path | None, typer.Option(help="Where local copies are; $LMMS_STEER_DATA where unsaid.")] = None,
) -> None:
    """What is there, and whether it is what the tasks expect; status 1 where something is damaged."""
    from lmms_steer.data.check import check

    checked = list(check(_data_dir(to)))
    for good, line in checked:
        _say(f"{'' if good else 'DAMAGED  '}{line}")
    if not all(good for good, _ in checked):
        raise typer.Exit(1)


@data_app.command("generate")
def generate_data(
    out: Annotated[Path, typer.Argument(help="Folder for the stand-ins.")],
    questions: Annotated[int, typer.Option(min=1, help="Of each task.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of random choices.")] = 0,
) -> None:
    """Small stand-ins for all releases in the official formats, to try import and tasks without a download."""
    from lmms_steer.data.generated import write

    for name, folder in write(out, questions, seed).items():
        _say(f"lmms-steer data import {name} --from {folder}")


def _data_dir(to: Path | None) -> Path:
    from lmms_steer.data.source import data_dir

    root = to or data_dir()
    if root is None:
        raise UserError("where should local copies be? Set LMMS_STEER_DATA=DIR or give --to DIR")
    return root


@app.command()
def search(
    model_args: Annotated[str, typer.Option("--model_args", "--model-args", help="The unsteered model: pretrained=…")],
    vector: Annotated[str, typer.Option(help="A vector, or several with commas.")],
    task: Annotated[str, typer.Option(help="Held-out questions: cvbench_relation_select, …")],
    output: Annotated[Path, typer.Option(help="The study's folder; a search goes on where it was.")],
    model: Annotated[str, typer.Option(help="steered_hf, steered_paligemma or steered_idefics3.")] = "steered_hf",
    layers: Annotated[str, typer.Option(help="5-20, 0-24:4 or 3,7; all where unsaid.")] = "",
    alphas: Annotated[str, typer.Option(help="first:last:step, or a list.")] = "0.1:1.0:0.1",
    tokens: Annotated[str, typer.Option(help="image, text, both, last, …; several with commas.")] = "image,text,both",
    strategy: Annotated[
        str,
        typer.Option(
            help="grid: everything. race: more questions for the better cells. screen: leave out what gradients give"
            " no hope for. race+screen. tpe: Optuna proposes, alpha is continuous."
        ),
    ] = "grid",
    score: Annotated[
        str,
        typer.Option(
            help="generate: the model writes, the task scores. letters: the next token tells which of a fixed set of"
            " answers is likeliest. auto: what the task does."
        ),
    ] = "auto",
    controls: Annotated[int, typer.Option(min=0, help="Random vectors to search alike.")] = 5,
    trials: Annotated[int, typer.Option(min=1, help="Of each vector, for tpe.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the questions' order and of tpe.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch_size", "--batch-size", min=1, help="Questions a pass.")] = 16,
    memory: Annotated[float, typer.Option(help="GiB of a pass to hold; the rest is kept in the study's folder.")] = 4.0,
    limit: Annotated[int | None, typer.Option(min=1, help="The first questions only.")] = None,
    confirm: Annotated[str | None, typer.Option(help="A task to measure the choices on, once.")] = None,
    include_path: Annotated[
        Path | None, typer.Option("--include_path", "--include-path", help="A folder of your own tasks.")
    ] = None,
    test_known: Annotated[
        bool, typer.Option("--i-know-this-is-test", help="Choose on test questions; never report a result on them.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what wins: the vector's name alone then means it, on this model.")
    ] = False,
) -> None:
    """Which layer, how strong, which tokens: on held-out questions, with controls."""
    from lmms_steer.search.command import run
    from lmms_steer.search.options import Options

    options = Options(
        model=model,
        model_args=model_args,
        vectors=tuple(vector.split(",")),
        task=task,
        output=output,
        layers=layers,
        alphas=alphas,
        tokens=tokens,
        strategy=strategy,
        score=score,
        controls=controls,
        trials=trials,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        limit=limit,
        confirm=confirm,
        test_known=test_known,
        keep=keep,
        include_path=include_path,
    )
    for line in run(options):
        _say(line)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Folders that lmms-eval or lm-eval wrote, or NAME=FOLDER.")],
    baseline: Annotated[str | None, typer.Option(help="The run to compare with: its name or folder.")] = None,
    studies: Annotated[list[Path] | None, typer.Option(help="A search's folder, for its maps; again for more.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page that needs no network.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a table in Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write a table in LaTeX.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all numbers, with commands and hashes.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="The same with types.")] = None,
    metric: Annotated[str | None, typer.Option(help="What to compare by; each task's own where unsaid.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Questions a task on the page, at most.")] = 120,
    pictures: Annotated[
        str, typer.Option(help="On the page: ours (our tasks' and --include_path's), all (may download) or none.")
    ] = "ours",
    include_path: Annotated[
        Path | None,
        typer.Option("--include_path", "--include-path", help="A folder of your own tasks, for their pictures."),
    ] = None,
) -> None:
    """Runs against a baseline, question by question: gains with intervals, p-values, what was fixed and broken."""
    from lmms_steer.comparison.command import printed, run

    shown = (samples, pictures, include_path)
    for line in run(runs, baseline, studies or [], html, markdown, latex, csv, parquet, metric, *shown):
        printed(line)


@app.command()
def plot(
    out: Annotated[Path, typer.Option(help="The file to draw into (.png, .svg, .pdf).")],
    runs: Annotated[list[str] | None, typer.Argument(help="Folders of runs, or NAME=FOLDER.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="gains (with intervals), table (the same as numbers, systems by tasks) or maps (of searches);"
            " where unsaid, gains of runs and maps of --studies."
        ),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="The run to compare with: its name or folder.")] = None,
    studies: Annotated[list[Path] | None, typer.Option(help="A search's folder, for maps; again for more.")] = None,
    metric: Annotated[str | None, typer.Option(help="What to compare by; each task's own where unsaid.")] = None,
) -> None:
    """Gains and searches as figures for papers."""
    from lmms_steer.comparison.plots import plot as draw

    _say(str(draw(runs or [], out, kind, baseline, studies or [], metric)))


@app.command("inspect")
def inspect_prompt(
    prompt: Annotated[str, typer.Option(help="The question.")],
    model_args: Annotated[
        str, typer.Option("--model_args", "--model-args", help="As for lmms-eval: pretrained=…,vector=…,layer=…,…")
    ],
    model: Annotated[str, typer.Option(help="steered_hf, steered_paligemma or steered_idefics3.")] = "steered_hf",
    image: Annotated[list[Path] | None, typer.Option(help="A picture; again for several.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw it into this file (.png, .svg, .pdf).")] = None,
) -> None:
    """Which tokens of a prompt are steered, how strongly, and the likeliest answers before and after."""
    from lmms_steer.inspection.command import run

    for line in run(model, model_args, prompt, image or [], picture):
        _say(line)


@app.command()
def tasks(
    path: Annotated[bool, typer.Option("--path", help="Print the folder, for lmms-eval's --include_path.")] = False,
) -> None:
    """Our tasks and groups, as `lmms-eval --tasks` takes them."""
    from lmms_steer.task_files import ours, tasks_dir

    _say(tasks_dir() if path else "\n".join(sorted(ours())))


@app.command(
    "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def lm_eval(context: typer.Context) -> None:
    """lm-evaluation-harness's own command line, with the models steered_hf and steered_hf_multimodal."""
    try:
        from lmms_steer.models.lm_eval import run
    except ImportError as error:
        raise UserError("lm-evaluation-harness is not installed: pip install 'lmms-steer[lm-eval]'") from error

    run(context.args)


@app.command("run")
def run_recipe(
    recipe: Annotated[str, typer.Argument(help="A recipe's file, or one that ships: tiny, paper_cvbench, paper_ood.")],
    output: Annotated[Path | None, typer.Option(help="Its folder; runs/NAME where neither it nor you say one.")] = None,
    over: Annotated[
        list[str] | None, typer.Option("--with", help="A file to lay over it, or stand_in; again for more.")
    ] = None,
    assignment: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, as in models.NAME.pretrained=PATH; again for more.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every command, and run none.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes, or SLURM jobs, that share the cells.")] = 1,
    cluster: Annotated[str, typer.Option(help="local or slurm, through submitit.")] = "local",
    slurm: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for sbatch, gpus_per_node=1, timeout_min=600; again for more.")
    ] = None,
) -> None:
    """An experiment from a file: extract, search, evaluate, compare. What is done is kept; a killed run goes on."""
    from lmms_steer.recipes.command import run

    for line in run(recipe, output, over or (), assignment or (), dry_run, workers, cluster, slurm or ()):
        _say(line)


demo_app = typer.Typer(
    help="The recipe `tiny`: extract, choose, evaluate, compare on the tiny model that ships; a table and a page.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(demo_app, name="demo")


@demo_app.callback()
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the runs, the table and the page.")] = Path("demo"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
) -> None:
    """The whole line on the tiny model that ships: `lmms-steer run tiny`."""
    context.obj = out
    if context.invoked_subcommand is None:
        run_recipe("tiny", output=out, workers=workers)


@demo_app.command("curve")
def demo_curve(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Of the recipe `tiny`; --out's where unsaid.")] = None,
) -> None:
    """P(red) of yellow and orange things against alpha: the vector of a word changes what is seen."""
    from lmms_steer.demo.colour_curve import run

    for line in run(folder or context.obj):
        _say(line)


@demo_app.command("page")
def demo_page(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Of the recipe `tiny`; --out's where unsaid.")] = None,
) -> None:
    """The table and the page of the recipe `tiny`, from what its cells left."""
    from lmms_steer.demo.page import run

    for line in run(folder or context.obj):
        _say(line)


if __name__ == "__main__":
    main()

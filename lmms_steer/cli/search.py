"""`lmms-steer search` and `lmms-steer inspect`: what a spec does to a model."""

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
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
    from lmms_steer.search.command import run_search as run
    from lmms_steer.search.options import SearchOptions

    options = SearchOptions(
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
        typer.echo(line)


@commands.command("inspect")
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
    from lmms_steer.inspection.command import run_inspect as run

    for line in run(model, model_args, prompt, image or [], picture):
        typer.echo(line)

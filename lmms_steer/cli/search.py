"""`lmms-steer search`, `layers`, `curve` and `inspect`: choose a spec, and look at what a vector does to a model."""

from pathlib import Path
from typing import Annotated

import typer

from lmms_steer.cli.output import echo, echo_lines
from lmms_steer.cli.registry_help import RegistryHelpCommand

commands = typer.Typer(rich_markup_mode=None)

# options of several commands
ModelArgs = Annotated[
    str, typer.Option("--model_args", "--model-args", help="Arguments of the unsteered model: pretrained=…")
]
Model = Annotated[str, typer.Option(help="The model's wrapper: {models}.")]
Layers = Annotated[str, typer.Option(help="Layers: 5-20, 0-24:4 or 3,7. Default: all.")]
Target = Annotated[str, typer.Option(help="Token target: image, text, both, last, …")]
BatchSize = Annotated[int, typer.Option("--batch_size", "--batch-size", min=1, help="Questions per forward pass.")]
IncludePath = Annotated[Path | None, typer.Option("--include_path", "--include-path", help="Folder of your own tasks.")]
AllowTest = Annotated[
    bool,
    typer.Option("--i-know-this-is-test", help="Allow choosing on test questions. Do not report results on them."),
]


@commands.command(cls=RegistryHelpCommand)
def search(
    model_args: ModelArgs,
    vector: Annotated[str, typer.Option(help="A vector, or several separated by commas.")],
    task: Annotated[str, typer.Option(help="Task with held-out questions: cvbench_relation_select, …")],
    output: Annotated[Path, typer.Option(help="Folder of the study. A search resumes there.")],
    model: Model = "steered_hf",
    layers: Layers = "",
    alphas: Annotated[
        str,
        typer.Option(
            help="Strengths: first:last:step, or a list; or KL budgets in nats, kl:0.03,kl:0.1, whose alphas are found"
            " for each layer and target. Default: 0.1:1.0:0.1; with the strategy budget kl:0.03,kl:0.1,kl:0.3,kl:1."
        ),
    ] = "",
    tokens: Annotated[
        str,
        typer.Option(
            help="Token targets, separated by commas: image, text, both, last, … Default: image,text,both; with lm-eval"
            " both,last."
        ),
    ] = "",
    spec: Annotated[
        str,
        typer.Option(help="More keys of the spec, the same for every cell: site=mlp,scale=token."),
    ] = "",
    strategy: Annotated[
        str,
        typer.Option(help="Which cells are tried on which questions. {strategies}. NAME+screen runs the screen first."),
    ] = "grid",
    score: Annotated[
        str,
        typer.Option(
            help="generate: the task scores the text that the model writes. letters: the likeliest next token decides"
            " between a fixed set of answers. auto: what the task does."
        ),
    ] = "auto",
    controls: Annotated[int, typer.Option(min=0, help="Number of random vectors that go through the same search.")] = 5,
    trials: Annotated[int, typer.Option(min=1, help="Trials per vector, for strategies that propose cells.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the questions' order and of the strategy.")] = 0,
    batch_size: BatchSize = 16,
    memory: Annotated[
        float, typer.Option(help="GiB of unsteered activations to keep in memory; the rest is kept in --output.")
    ] = 4.0,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use only the first questions of --task. --confirm asks all of its own."),
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(
            help="At the end, measure the choices (controls included) once on all questions of this other task."
        ),
    ] = None,
    include_path: IncludePath = None,
    allow_test: AllowTest = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Save the winner as this vector's default for this model.")
    ] = False,
    harness: Annotated[
        str, typer.Option(help="The harness that the task belongs to: lmms-eval, or lm-eval for a text model.")
    ] = "lmms-eval",
    metric: Annotated[
        str | None, typer.Option(help="The task's score that counts: acc, acc_paper, … Default: the first in its list.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With lm-eval: the split that the questions come from. Default: the task's.")
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option("--num_fewshot", "--num-fewshot", min=0, help="With lm-eval: examples in front of each question."),
    ] = None,
    choose: Annotated[
        str,
        typer.Option(
            help="overall: the best cell. per_target: also the best cell of each token target, in choice_TARGET.yaml."
        ),
    ] = "overall",
    blank_image: Annotated[
        bool,
        typer.Option(
            "--blank-image/--no-blank-image",
            help="Measure the choice once more with every image grey: a gain that is left does not come from sight.",
        ),
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would be measured and which gain could be found, without loading the model."
        ),
    ] = False,
) -> None:
    """Choose the layer, the strength and the tokens of a vector on held-out questions, with controls."""
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
        spec=spec,
        strategy=strategy,
        score=score,
        controls=controls,
        trials=trials,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        limit=limit,
        confirm=confirm,
        allow_test=allow_test,
        keep=keep,
        include_path=include_path,
        harness=harness,
        metric=metric,
        split=split,
        num_fewshot=num_fewshot,
        choose=choose,
        blank_image=blank_image,
        dry_run=dry_run,
    )
    echo_lines(run(options))


@commands.command(cls=RegistryHelpCommand)
def layers(
    model_args: ModelArgs,
    vector: Annotated[str, typer.Option(help="A vector.")],
    model: Model = "steered_hf",
    task: Annotated[
        str,
        typer.Option(help="Task with held-out questions, for scores that need some: cvbench_relation_select, …"),
    ] = "",
    scores: Annotated[str, typer.Option(help="Scores, separated by commas. Default: all. {layer_scores}.")] = "",
    layers: Layers = "",
    tokens: Target = "image",
    concept: Annotated[
        str | None, typer.Option(help="Name or file of the concept's sentences. Default: the vector's own.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of the task's questions that are read.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the questions' order and the other pictures.")] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch_size", "--batch-size", min=1, help="Questions or sentences per forward pass.")
    ] = 16,
    include_path: IncludePath = None,
    allow_test: AllowTest = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the scores into this file (.png, .svg, .pdf).")] = None,
) -> None:
    """Score a vector's layers without searching them: one row per layer, one column per score, the best marked."""
    from lmms_steer.plots.style import check_figure_suffix
    from lmms_steer.search.layers import layers as score_layers

    if plot is not None:
        check_figure_suffix(plot)
    scored = score_layers(
        model_args, vector, model=model, task=task, scores=scores, layers=layers, tokens=tokens, concept=concept,
        limit=limit, seed=seed, batch_size=batch_size, include_path=include_path, allow_test=allow_test,
    )  # fmt: skip
    echo_lines(scored.lines())
    if plot is not None:
        echo(f"-> {scored.draw(plot)}")


@commands.command("inspect", cls=RegistryHelpCommand)
def inspect_prompt(
    prompt: Annotated[str, typer.Option(help="The prompt.")],
    model_args: Annotated[
        str,
        typer.Option(
            "--model_args", "--model-args", help="Arguments as for lmms-eval: pretrained=…,vector=…,layer=…,…"
        ),
    ],
    model: Model = "steered_hf",
    image: Annotated[list[Path] | None, typer.Option(help="An image, a video or a sound. Repeatable.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", "--picture", help="Also draw a figure into this file (.png, .svg, .pdf).")
    ] = None,
    alphas: Annotated[
        str | None,
        typer.Option(
            help="Strengths at which the model continues the prompt: 0.5,1,2. Default for a text model: 0, half, once"
            " and twice the spec's alpha."
        ),
    ] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(
            "--new_tokens",
            "--new-tokens",
            min=0,
            help="Tokens to write at each strength. Default: 24 for a text model or with --alphas, else 0.",
        ),
    ] = None,
) -> None:
    """Show which tokens of a prompt are steered, how strongly, and the likeliest answers without and with steering.

    A text model (--model steered_hf) also continues the prompt at several strengths.
    """
    from lmms_steer.inspection.command import run_inspect as run
    from lmms_steer.search.options import parse_alphas

    strengths = parse_alphas(alphas) if alphas is not None else None
    echo_lines(run(model, model_args, prompt, image or [], plot, strengths, new_tokens))


@commands.command(cls=RegistryHelpCommand)
def curve(
    model_args: ModelArgs,
    vector: Annotated[
        str, typer.Option(help="The word's vector, then vectors of other words for comparison: colour-red,colour-blue.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the table and the figure.")],
    model: Model = "steered_hf",
    word: Annotated[
        str, typer.Option(help="The answer whose probability is measured. Default: red for colour-red.")
    ] = "",
    every_word: Annotated[
        bool,
        typer.Option(
            "--every_word",
            "--every-word",
            help="Measure the words of all vectors: which vector makes which word likely?",
        ),
    ] = False,
    layers: Annotated[
        str, typer.Option(help="Layers, one at a time: 5-20, 0-24:4 or 3,7. Default: four of them.")
    ] = "",
    alphas: Annotated[str, typer.Option(help="Strengths: first:last:step, or a list; 0 is added.")] = "0.25:2:0.25",
    tokens: Target = "image",
    controls: Annotated[int, typer.Option(min=0, help="Number of random vectors of the first vector's norms.")] = 3,
    prompt: Annotated[
        str,
        typer.Option(
            help="The question. On drawn pictures {shape} stands for the thing: circle, square, … Default: What colour"
            " is the {shape}? Answer with one word."
        ),
    ] = "",
    pictures: Annotated[
        int | None,
        typer.Option(min=2, help="Number of pictures that are drawn, or of a task's questions. Default: 96."),
    ] = None,
    shown: Annotated[str, typer.Option(help="Colours of the things on drawn pictures. Default: yellow,orange.")] = "",
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture of your own, instead of drawn ones, with --prompt. Repeatable.")
    ] = None,
    task: Annotated[str, typer.Option(help="Ask a task's questions, with their images, videos or sounds.")] = "",
    batch_size: BatchSize = 16,
) -> None:
    """Measure how probable a word becomes as an answer when its vector is added, beside other and random vectors.

    The toy experiment of the paper's Section 3, on any model: pictures of yellow and orange things, the vector of red.
    """
    from lmms_steer.word_curves.command import CurveOptions, run_curve

    names = tuple(dict.fromkeys(name.strip() for name in vector.split(",")))
    options = CurveOptions(
        model,
        model_args,
        names,
        output,
        word=word,
        every_word=every_word,
        layers=layers,
        alphas=alphas,
        tokens=tokens,
        controls=controls,
        prompt=prompt,
        pictures=pictures or 0,
        shown=shown,
        images=tuple(image or ()),
        task=task,
        batch_size=batch_size,
    )
    echo_lines(run_curve(options))

"""Ratios measured in one run: the cost of steering, the gain of batching, and the time of an import.

make bench
python benchmarks/speed.py --sites [CHECKPOINT]    the cost of steering at each site, in CPU time
python benchmarks/speed.py --shared                the gain of encoding a picture once that several questions share
"""

import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.tiny_world.question_sets import load_question_set

SPEC = "vector=counting,layer=2,alpha=0.5,tokens=both"
ROUNDS = 12
SITES = {
    "site=residual": "layer={middle},alpha=0.5,tokens=both",
    "site=input": "layer={middle},alpha=0.5,tokens=both,site=input",
    "site=mlp": "layer={middle},alpha=0.5,tokens=both,site=mlp",
    "site=attention": "layer={middle},alpha=0.5,tokens=both,site=attention",
    "site=vision": "layer=0,alpha=0.01,site=vision",
    "gate=cosine": "layer={middle},alpha=0.5,tokens=both,gate=cosine",
    "VTI: site=mlp at every layer, prompt and answer": (
        "layers=0-{last},alpha=0.08,tokens=both,phase=all,site=mlp,scale=token,operation=norm_preserving"
    ),
}
"""What is measured ▸ its spec, with a drawn vector."""


def requests(lm: Any, rows: list[dict[str, Any]]) -> list[Any]:
    """Make lmms-eval's requests of questions."""
    lm.task_dict = {"bench": {"test": rows}}
    settings = {"max_new_tokens": 4, "until": ["\n"], "do_sample": False}
    return [
        SimpleNamespace(args=(row["question"], settings, lambda doc: [doc["image"]], i, "bench", "test"))
        for i, row in enumerate(rows)
    ]


def seconds(lm: Any, questions: list[Any]) -> float:
    """Time the answers of a model to requests."""
    start = time.perf_counter()
    lm.generate_until(questions)
    return time.perf_counter() - start


def cpu_seconds(lm: Any, questions: list[Any]) -> float:
    """CPU time of the answers, which other processes disturb less than the wall time."""
    start = time.process_time()
    lm.generate_until(questions)
    return time.process_time() - start


def sites(checkpoint: str, rounds: int = 5 * ROUNDS) -> None:
    """Print the CPU time of a steered model over the unsteered one's, for each site."""
    from lmms_steer import SteeringVectors, steer
    from lmms_steer.harness.steered import SteeredVlm
    from lmms_steer.steering.anatomy import model_facts

    lm = SteeredVlm(pretrained=checkpoint, batch_size=16)
    facts = model_facts(lm.model)
    questions = requests(lm, load_question_set("counting", "test")[:48])
    seconds(lm, questions)
    for name, text in SITES.items():
        n_layers, width = (
            facts.vision if "site=vision" in name and facts.vision else (facts.n_layers, facts.hidden_size)
        )
        drawn = np.random.default_rng(0).standard_normal((n_layers, width))
        vectors = SteeringVectors(dict(enumerate(drawn)), {"model": checkpoint})
        spec = "vector=v," + text.format(middle=facts.n_layers // 2, last=facts.n_layers - 1)
        pairs = []
        for _ in range(rounds):
            with steer(lm.model, spec, {"v": vectors}):
                steered = cpu_seconds(lm, questions)
            pairs.append((steered, cpu_seconds(lm, questions)))
        print(f"{name:50}", ratio(*map(list, zip(*pairs, strict=True))), flush=True)


def shared(rounds: int = 4) -> None:
    """Print the CPU time of prompts whose picture is encoded each time over the time where it is encoded once."""
    from replaying import Machine, model, prompts

    from lmms_steer.models.encoded_media import EncodedMedia

    machine = Machine("cpu", torch.float32, full_size=False)
    for kind in ("paligemma2", "llava"):
        made, inputs = model(kind, machine), prompts(kind, 1, machine)
        for questions in (1, 2, 4):
            always, once = list[float](), list[float]()
            for _ in range(rounds):
                for media, times in ((EncodedMedia(None), always), (EncodedMedia(made), once)):
                    start = time.process_time()
                    with torch.inference_mode():
                        for _ in range(questions):
                            media.run(made, **inputs, use_cache=False, logits_to_keep=1)
                    times.append(time.process_time() - start)
            print(f"{kind:10} {questions} questions a picture", ratio(always, once), flush=True)


def ratio(a: list[float], b: list[float]) -> str:
    """Format the median and quartiles of the ratios of pairs; a drift of the machine's speed affects both of a pair."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.3f}  (quartiles {low:.3f}-{high:.3f}, {len(ratios)} pairs)"


def import_seconds(code: str) -> float:
    """Time a new interpreter that runs some code; the fastest of five."""
    return min(_timed([sys.executable, "-c", code]) for _ in range(5))


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    rows = load_question_set("counting", "test")
    plain = SteeredPaliGemma(pretrained="tiny-paligemma2", batch_size=16)
    args = dict(pair.split("=") for pair in SPEC.split(","))
    steered = SteeredPaliGemma(pretrained="tiny-paligemma2", batch_size=16, **args)
    questions = requests(plain, rows[:320])
    requests(steered, rows[:320])
    for lm in (plain, steered):
        seconds(lm, questions)
    pairs = [(seconds(steered, questions), seconds(plain, questions)) for _ in range(ROUNDS)]
    print("steered / unsteered wall time, batch 16:      ", ratio(*map(list, zip(*pairs, strict=True))))
    one = SteeredPaliGemma(pretrained="tiny-paligemma2", batch_size=1)
    few = requests(one, rows[:320])[:96]
    seconds(one, few)
    pairs = [(seconds(one, few), seconds(plain, few)) for _ in range(4)]
    print("examples a second, batch 16 / batch 1:        ", ratio(*map(list, zip(*pairs, strict=True))))
    empty = import_seconds("pass")
    print(f"import lmms_steer, over an empty interpreter:  {import_seconds('import lmms_steer') - empty:.3f} s")
    help_seconds = min(_timed([sys.executable, "-m", "lmms_steer.cli", "--help"]) for _ in range(5))
    print(f"lmms-steer --help:                             {help_seconds:.3f} s")


if __name__ == "__main__":
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    if "--sites" in sys.argv:
        sites(*sys.argv[sys.argv.index("--sites") + 1 :] or ("tiny-paligemma2",))
    elif "--shared" in sys.argv:
        shared()
    else:
        main()

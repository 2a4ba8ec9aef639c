"""Train the adapter of `smol-idefics3` on this machine, on CPUs.

    python -m training.smol --out FOLDER --minutes 60

Places first, then words, then letters. The state is stored in FOLDER every few minutes: the same command continues
there after it was stopped or killed, and gives what an uninterrupted training gives; a state of other options is
refused. At the end, and with --report, it writes FOLDER/report.md, FOLDER/report.json and FOLDER/adapter.
"""

import argparse
import logging
import time
from pathlib import Path

import torch

from lmms_steer._util.hashing import file_sha256
from lmms_steer.smol import backbone
from lmms_steer.smol.adapter import WEIGHTS, check_adapter, load_adapter, write_adapter
from training.smol.own_text import own_text, perplexity
from training.smol.report import measure, write_report
from training.smol.student import Student
from training.smol.trainer import PLAN, QUICK, Trainer

log = logging.getLogger("training.smol")
STYLES = ("plain", "grainy", "coarse", "moss")


def main() -> None:
    """Parse the command line, train, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the state, the log, the report, the adapter")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long (default: never)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    what = "of the frozen weights; auto: bfloat16 if this CPU multiplies in it, else float32"
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help=what)
    parser.add_argument("--questions", type=int, default=200, help="of each kind in the report (default: 200)")
    parser.add_argument("--report", action="store_true", help="write the report and the adapter now, without training")
    parser.add_argument("--quick", action="store_true", help="three steps on few pictures, to test that all runs")
    what = "begin with this adapter's weights, and leave out the part with words (see --steps)"
    parser.add_argument("--start", type=Path, metavar="ADAPTER", help=what)
    parser.add_argument("--steps", type=int, help="with --start: how many steps with letters (default: as ever)")
    args = parser.parse_args()
    start = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    log_file = logging.FileHandler(args.out / "training.log")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[log_file])
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    student = Student(backbone.checkpoint(), usable_dtype(args.dtype), args.seed)
    plan = QUICK if args.quick else PLAN
    if args.start is not None:
        check_adapter(args.start)
        load_adapter(student.model, args.start)
        plan = plan.after(args.steps)
    texts = own_text(student, args.out / "own_text.safetensors", args.seed, plan.texts)
    begins_with = file_sha256(args.start / WEIGHTS) if args.start else None
    trainer = Trainer(student, texts, plan, args.seed, args.out, begins_with)
    finished = args.report or trainer.run(lambda: (time.monotonic() - start) / 60 > args.minutes)
    if finished:
        facts = {
            "seed": args.seed,
            "step": trainer.step,
            "steps": plan.steps,
            "minutes": round(trainer.minutes, 1),
            "dtype": str(student.dtype),
            "start": begins_with,
            "questions": 4 if args.quick else args.questions,
            "perplexity": perplexity(student),
        }
        styles = {style: measure(student, style, facts["questions"]) for style in STYLES}
        write_report(args.out, facts, styles)
        write_adapter(student.model, args.out / "adapter", facts | {"accuracy": styles})


def usable_dtype(name: str) -> torch.dtype:
    """The dtype of an option. A CPU without bfloat16 products is sixty times slower in it than in float32."""
    if name == "auto":
        name = "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


if __name__ == "__main__":
    main()

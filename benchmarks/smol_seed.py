"""Draw a smol task's test questions from another seed, to see whether a gain is there again.

python benchmarks/smol_seed.py --task counting --seed 2510 --out again
LMMS_STEER_CACHE=again lmms-eval --model steered_idefics3 --tasks smol_counting …

FOLDER is a cache folder of its own, in which the task has the new questions. Says how many of their scenes are among
those of the task's own sets.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from lmms_steer._util.io import write_atomically
from lmms_steer.smol.question_sets import SMOL, TASKS, question_file
from lmms_steer.tiny_world.cv_bench_rows import parquet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seed", type=int, required=True, help=f"not {SMOL.seed}, that of the task itself")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    if args.seed == SMOL.seed:
        parser.error(f"--seed {args.seed} is that of the task itself")
    rows = replace(SMOL, seed=args.seed).rows(args.task, "test")
    scenes = {row["scene"] for row in rows}
    for split in ("select", "test"):
        shared = scenes & {row["scene"] for row in SMOL.rows(args.task, split)}
        print(f"{len(shared)} of {len(scenes)} scenes are also in smol_{args.task}'s set {split}")
    path = args.out / "questions" / question_file(args.task, "test").name
    write_atomically(path, parquet(rows))
    print(f"written: {path}")


if __name__ == "__main__":
    main()

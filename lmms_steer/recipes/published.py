"""What is known of the paper's tables: their rows and columns, and the few gains that were found in print.

The paper is arXiv 2505.14071. Its tables themselves were not found, so most of their numbers are not known. The gains
here are those of its abstract and of the authors' summaries.
"""

from collections.abc import Mapping
from dataclasses import dataclass

METRIC = "acc_paper"
"""The scorer of the released code."""
MODELS = {
    "paligemma2-3b": "paligemma2-3b-mix-448",
    "paligemma2-10b": "paligemma2-10b-mix-448",
    "idefics3-8b": "Idefics3-8B-Llama3",
    "gemma3-4b": "gemma-3-4b-it",
}
"""A model's name in our recipes ▸ its checkpoint."""
METHODS = ("mean_shift", "linear_probe", "sae")
WITHOUT_SAE = ("gemma3-4b",)
TARGETS = ("image", "text_paper", "both_paper")


@dataclass(frozen=True, slots=True)
class PaperTask:
    """A task of the paper.

    Attributes:
        title: its name in tables.
        questions: our task ▸ how many questions it has. Where there are two tasks, the released code tests on what it
            does not hold out, or on all (`val_size` 0); which one the paper used is not known.
    """

    title: str
    questions: Mapping[str, int]


TASKS = (
    PaperTask("CV-Bench Relation", {"cvbench_relation_test": 150}),
    PaperTask("CV-Bench Count", {"cvbench_count_test": 150}),
    PaperTask("CV-Bench Depth", {"cvbench_depth_test": 150}),
    PaperTask("CV-Bench Distance", {"cvbench_distance_test": 150}),
    PaperTask("What'sUp A", {"whatsup_a_test": 262, "whatsup_a": 412}),
    PaperTask("What'sUp B", {"whatsup_b_test": 258, "whatsup_b": 408}),
    # fewer than it holds out: only all are possible
    PaperTask("BLINK Spatial Relation", {"steer_blink_spatial_relation": 143}),
    PaperTask("BLINK Relative Depth", {"steer_blink_relative_depth": 124}),
    PaperTask("BLINK Counting", {"steer_blink_counting": 120}),
    PaperTask("CLEVR counting", {"clevr_count_test": 350, "clevr_count": 500}),
    PaperTask("Super-CLEVR counting", {"superclevr_count_test": 50, "superclevr_count": 200}),
    PaperTask("VSR random", {"vsr_random_test": 2045}),
    PaperTask("VSR zero-shot", {"vsr_zeroshot_test": 1072}),
    PaperTask("ChartQA human", {"steer_chartqa_human_test": 400}),
    PaperTask("ChartQA machine", {"steer_chartqa_machine_test": 400}),
    PaperTask("DocVQA counting", {"steer_docvqa_counting_test": 400}),
    PaperTask("DocVQA layout", {"steer_docvqa_layout_test": 400}),
    PaperTask("VTabFact", {"vtabfact_test": 100}),
    PaperTask("VQAv2", {"steer_vqav2_test": 500}),
)


WITHOUT_ROWS = "COCO captions: CIDEr and BLEU are of all captions together, so a gain has no interval"
"""Of the paper too; evaluate `steer_coco_captions_test` by hand."""


def paper_task(task: str) -> PaperTask | None:
    """The task of the paper that one of ours is."""
    return next((one for one in TASKS if task in one.questions), None)


@dataclass(frozen=True, slots=True)
class PublishedGain:
    """A gain that the paper reports.

    Attributes:
        what: the benchmark, as the source names it.
        wording: the gain as printed, in points.
        titles: the tasks that it may be of.
        method: the method; "" where the source does not name it.
    """

    what: str
    wording: str
    titles: tuple[str, ...]
    method: str = ""


GAINS = (
    PublishedGain("CV-Bench Relation, mean shift", "up to +7.3", ("CV-Bench Relation",), "mean_shift"),
    PublishedGain("CV-Bench Count, mean shift", "up to +3.3", ("CV-Bench Count",), "mean_shift"),
    PublishedGain("CLEVR counting", "+34.2", ("CLEVR counting",)),
    PublishedGain(
        "a spatial task out of distribution",
        "+15.8",
        ("What'sUp A", "What'sUp B", "BLINK Spatial Relation", "BLINK Relative Depth"),
    ),
)

"""ChartQA, DocVQA, VTabFact, VQAv2 and COCO captions, with the questions and prompts of the paper's released code.

`acc` is the benchmark's usual score, as lmms-eval computes it; `acc_paper` is the released code's.
"""

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from lmms_steer.data.benchmarks.real_world import FALSE, RELEASES, TRUE
from lmms_steer.data.documents import doc_to_text, doc_to_visual, with_pre_prompt
from lmms_steer.data.paper_split import PARTS, paper_part
from lmms_steer.data.source import find_source
from lmms_steer.errors import UserError
from lmms_steer.scoring.task_results import first_paragraph, score_choice, score_text

if TYPE_CHECKING:
    from datasets import Dataset

CHOICES = ("Yes", "No")


def __getattr__(name: str) -> Any:
    """`path_…`, `name_…` and `kwargs_…` of a release, and `docs_…_PART` or `docs_…_KIND_PART` of its tasks."""
    field, _, rest = name.partition("_")
    if field in ("path", "name", "kwargs") and rest in RELEASES:
        release = RELEASES[rest]
        return getattr(find_source(rest, release.split, release.hub, release.config), field)
    task, _, part = rest.rpartition("_")
    copy = next((copy for copy in RELEASES if task == copy or task.startswith(f"{copy}_")), "")
    kind = task.removeprefix(copy).strip("_")
    if field != "docs" or not copy or part not in PARTS or kind not in (RELEASES[copy].kinds or ("",)):
        raise AttributeError(name)
    return partial(_documents, copy, kind, part)


def _documents(copy: str, kind: str, part: str, dataset: "Dataset") -> "Dataset":
    taken = dataset.select(RELEASES[copy].places(dataset, kind))
    return paper_part(f"{copy} {kind}".strip(), part)(taken)


def chart_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    return with_pre_prompt(doc["query"], lmms_eval_specific_kwargs)


def chart_to_target(doc: dict[str, Any]) -> str:
    return str(doc["label"][0])


def chart_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """ChartQA's relaxed accuracy: a number may be off by 5%."""
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    right = chart_to_target(doc)
    return score_text("ChartQA", results[0], lambda answer: float(relaxed_correctness(answer, right)), (), right)


def document_to_target(doc: dict[str, Any]) -> str:
    return str(doc["answers"][0])


def document_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """ANLS: the best edit similarity to an accepted answer, 0 below one half."""
    from lmms_eval.api.metrics import anls

    accepted = doc["answers"]
    scores = score_text("DocVQA", results[0], lambda answer: float(anls(accepted, [answer])["anls"]), accepted)
    return {**scores, "accepted": accepted}


def table_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    return with_pre_prompt(f"{doc['question']}\n(A) Yes\n(B) No", lmms_eval_specific_kwargs)


def table_to_target(doc: dict[str, Any]) -> str:
    """The letter of the correct choice.

    Raises:
        UserError: for a row that is neither true nor false.
    """
    value = str(doc["gt"]).lower()
    if value not in (*TRUE, *FALSE):
        raise UserError(f"VTabFact: gt: expected true or false, got {doc['gt']!r}")
    return "A" if value in TRUE else "B"


def table_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    whole = results[0]
    return score_choice(first_paragraph(whole), CHOICES, table_to_target(doc), benchmark="VTabFact", whole=whole)


def photo_to_target(doc: dict[str, Any]) -> str:
    """The answer that most people gave."""
    given = [answer["answer"] for answer in doc["answers"]]
    return str(max(given, key=given.count))


def photo_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """VQA accuracy: full if at least three other people gave the answer."""
    from lmms_eval.tasks.vqav2.utils import vqav2_process_results

    given = [answer["answer"] for answer in doc["answers"]]
    # lmms-eval's function normalises the answers in place
    score = partial(_vqa_score, vqav2_process_results, deepcopy(doc["answers"]))
    return {**score_text("VQAv2", results[0], score, given), "accepted": given}


def _vqa_score(process: Any, answers: list[dict[str, Any]], answer: str) -> float:
    return float(process({"question_id": 0, "answers": answers}, [answer])["exact_match"])


def caption_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:  # noqa: ARG001
    return str((lmms_eval_specific_kwargs or {}).get("prompt", ""))


def caption_to_target(doc: dict[str, Any]) -> str:
    return str(doc["answer"][0])


def caption_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """ROUGE-L of the caption, and what `cider` and `bleu_4` need, which are of all captions together."""
    from pycocoevalcap.rouge.rouge import Rouge

    pair = [[text.strip() for text in doc["answer"] if text.strip()], results[0].strip()]
    rouge_l = float(Rouge().calc_score([pair[1]], pair[0]))
    scores = {"rouge_l": rouge_l, "score": rouge_l, "unparsed": float(not pair[1]), "accepted": pair[0]}
    return {**scores, "cider": pair, "bleu_4": pair}


def cider(pairs: list[list[Any]]) -> float:
    """CIDEr of all captions, without the tokenizer of the official scorer, as in the released code (utils.py:4621)."""
    from pycocoevalcap.cider.cider import Cider

    return float(Cider().compute_score(*_corpus(pairs))[0])


def bleu_4(pairs: list[list[Any]]) -> float:
    """BLEU-4 of all captions."""
    from pycocoevalcap.bleu.bleu import Bleu

    return float(Bleu(4).compute_score(*_corpus(pairs), verbose=0)[0][3])


def _corpus(pairs: list[list[Any]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    references = {number: references for number, (references, _) in enumerate(pairs)}
    return references, {number: [caption] for number, (_, caption) in enumerate(pairs)}

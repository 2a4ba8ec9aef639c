"""Media that consecutive batches share are encoded once, with the bits of a run that encodes them each time."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lmms_steer import SteeringVectors
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.models.batch_order import batches_by_media, media_keys
from lmms_steer.models.encoded_media import EncodedMedia
from lmms_steer.steering.anatomy import vision_layers
from tests.helpers.models import picture

TEXTS = ("where is it ?", "how many cups are on the table ?", "is it left of the dog , or of the red cat ?")
ANSWERS = ("left of the dog", "three")


def documents(*images: list[int]) -> Any:
    """A data set with the pictures of each document, which have different sizes, and another question each."""
    shown = [[picture(number).resize((40 + 24 * number, 40)) for number in own] for own in images]
    rows = [{"images": own, "text": TEXTS[place % 3]} for place, own in enumerate(shown)]
    features = datasets.Features({"images": datasets.List(datasets.Image()), "text": datasets.Value("string")})
    return datasets.Dataset.from_list(rows, features=features)


def requests(rows: Any, *answers: str, **settings: Any) -> list[Any]:
    place = (lambda doc: doc["images"]), "t", "test"
    many = [(number, answer) for number in range(len(rows)) for answer in answers or ("",)]
    return [
        SimpleNamespace(args=(rows[number]["text"], answer if answers else settings, place[0], number, *place[1:]))
        for number, answer in many
    ]


def watched(lm: Any, ask: Any) -> tuple[list[Any], list[Tensor], int]:
    """The results, the logits of every forward call, and how often the vision tower ran."""
    tower = vision_layers(lm.model)
    assert tower is not None
    logits, calls = list[Tensor](), list[int]()
    head = lm.model.get_output_embeddings()
    handles = [head.register_forward_hook(lambda module, args, output: logits.append(output))]  # noqa: ARG005
    handles += [tower[0].register_forward_hook(lambda module, args, output: calls.append(1))]  # noqa: ARG005
    try:
        results = [result.text for result in ask()]
    finally:
        for handle in handles:
            handle.remove()
    return results, logits, len(calls)


def both_ways(lm: Any, ask: Any) -> tuple[int, int]:
    """How often the tower runs with and without reuse; all logits must have the same bits."""
    lm.encodes_once = True
    once, bits, few = watched(lm, ask)
    lm.encodes_once = False
    always, expected, many = watched(lm, ask)
    assert once == always and len(bits) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(bits, expected, strict=True))
    return few, many


@pytest.fixture
def folder(vlm: Any, tmp_path: Path) -> Path:
    _, model, processor = vlm
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_architecture_answers_with_the_same_bits_and_encodes_less(folder: Path) -> None:
    """Three questions of each picture, in float32; beams and log-likelihoods in bfloat16."""
    rows = documents([0], [1], [3, 4], [0], [1], [3, 4], [0], [1], [3, 4])
    lm = SteeredVlm(pretrained=str(folder), batch_size=2)
    lm.task_dict = {"t": {"test": rows}}
    greedy = requests(rows, max_new_tokens=2, min_new_tokens=2)
    # three batches of a question with two pictures and one with one, which run apart; then two batches of one picture
    assert both_ways(lm, lambda: lm.generate_until(greedy)) == (4, 8)
    lm.model.to(torch.bfloat16)
    few = documents([0], [1], [0], [1])
    lm.task_dict = {"t": {"test": few}}
    beams = requests(few, max_new_tokens=2, min_new_tokens=2, num_beams=2)
    assert both_ways(lm, lambda: lm.generate_until(beams)) == (1, 2)
    assert both_ways(lm, lambda: lm.loglikelihood(requests(few, *ANSWERS))) == (1, 4)
    assert not [name for name in vars(lm.model.base_model) if name.startswith("get_")]


def test_a_vector_in_the_vision_tower_and_other_pixels_are_never_reused(tmp_path: Path) -> None:
    lm = SteeredVlm(pretrained="tiny-paligemma2")
    assert lm.encodes_once
    media, inputs = EncodedMedia(lm.model), lm.model_inputs(["?"], [[picture(0)]])
    darker = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    darker["pixel_values"][0, 0, 0, 0] -= 1e-3
    tower, encoded = vision_layers(lm.model), list[int]()
    assert tower is not None
    tower[0].register_forward_hook(lambda module, args, output: encoded.append(1))  # noqa: ARG005
    with torch.inference_mode():
        plain, again, other = (media.run(lm.model, **one).logits for one in (inputs, inputs, darker))
        assert len(encoded) == 2
        assert torch.equal(again, plain) and torch.equal(other, lm.model(**darker).logits)
    assert not torch.equal(other, plain)
    for site, width in (
        ("vision", lm.config.vision_config.hidden_size),
        ("residual", lm.config.text_config.hidden_size),
    ):
        vector = SteeringVectors({0: torch.ones(width).numpy()}, {"model": "tiny-paligemma2"})
        vector.save(tmp_path / f"{site}.safetensors")
        spec = {"vector": str(tmp_path / f"{site}.safetensors"), "layer": 0, "alpha": 1, "site": site}
        assert SteeredVlm(pretrained="tiny-paligemma2", **spec).encodes_once is (site == "residual")


def test_what_did_not_fit_into_memory_is_forgotten() -> None:
    class Encoder(nn.Module):
        def get_image_features(self, pixel_values: Tensor) -> Tensor:
            return pixel_values * 2

    model, given = Encoder(), [torch.ones(3)]
    media = EncodedMedia(model)

    def fails() -> None:
        raise torch.OutOfMemoryError

    with torch.inference_mode():
        media.run(lambda: model.get_image_features(given[0]))
        kept = weakref.ref(given.pop())
        assert kept() is not None
        with pytest.raises(torch.OutOfMemoryError):
            media.run(fails)
    gc.collect()
    assert kept() is None


def test_media_are_told_apart_as_they_are_stored_and_files_by_their_paths() -> None:
    rows = documents([0], [1], [0], [0, 1])
    files = datasets.Dataset.from_list([{"file": "a.mp4"}, {"file": "b.mp4"}, {"file": "a.mp4"}])
    texts = datasets.Dataset.from_list([{"text": "one"}, {"text": "two"}])
    data = {"images": {"test": rows}, "files": {"test": files}, "texts": {"test": texts}, "list": {"test": [{}, {}]}}

    def never(doc: Any) -> Any:
        raise AssertionError(doc)

    shown = {"images": never, "files": lambda doc: [doc["file"]], "texts": lambda doc: [], "list": never}  # noqa: ARG005
    keys = {
        task: media_keys(data, [(shown[task], number, task, "test") for number in range(len(of["test"]))])
        for task, of in data.items()
    }
    assert keys["images"][0] == keys["images"][2] and len(set(keys["images"])) == 3
    assert keys["files"][0] == keys["files"][2] and len(set(keys["files"])) == 2
    assert len(set(keys["texts"])) == len(set(keys["list"])) == 2
    # the choices of one document show the same
    assert len(set(media_keys(data, [(never, 1, "list", "test")] * 3))) == 1


@given(keys=st.lists(st.integers(0, 5), max_size=40), size=st.integers(1, 6))
def test_batches_hold_each_question_once_and_repeat_the_media_of_the_last_one(keys: list[int], size: int) -> None:
    order = [-key * 7 % 5 for key in range(len(keys))]
    batches = batches_by_media(keys, order, size)
    assert sorted(place for batch in batches for place in batch) == list(range(len(keys)))
    assert all(0 < len(batch) <= size for batch in batches)
    shown = [[keys[place] for place in batch] for batch in batches]
    encoded = sum(now != before for now, before in zip(shown, [[], *shown], strict=False))
    # never more often than there are batches of neighbours in the plain order
    assert encoded <= len(keys) // size + 1 + len(set(keys)) // size + 1
    if len(set(keys)) == len(keys):
        plain = sorted(range(len(keys)), key=lambda place: order[place])
        assert batches == [plain[start : start + size] for start in range(0, len(keys), size)]
    if size == 1:
        assert encoded == len(set(keys))

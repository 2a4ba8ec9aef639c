"""Order questions so that consecutive batches show the same images, videos and sounds where questions share them."""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

MEDIA_COLUMNS = ("Image", "Video", "Audio")
"""Types of columns in `datasets` that hold media."""

Item = TypeVar("Item")


def batches_by_media(keys: Sequence[Hashable], order: Sequence[Any], size: int) -> list[list[int]]:
    """Divide questions into batches.

    Questions of as many images as fit into a batch are taken together: first one question of each image, then another
    one of each, so that the images of these batches are the same. All other questions follow in their order.

    Args:
        keys: one for each question, equal for questions with the same media.
        order: of each question, by which it is sorted where media do not matter.
        size: the number of questions in a batch.

    Returns:
        the places of the questions in each batch; without shared media the questions in their order.
    """
    groups: dict[Hashable, list[int]] = {}
    for place in sorted(range(len(keys)), key=lambda place: order[place]):
        groups.setdefault(keys[place], []).append(place)
    shared = sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
    rest = [place for group in groups.values() if len(group) == 1 for place in group]
    found: list[list[int]] = []
    for chunk in _cut(shared, size):
        times = size // len(chunk)
        rounds = len(chunk[-1]) // times
        used = rounds * times if rounds > 1 else 0
        for start in range(0, used, times):
            found.append([place for group in chunk for place in group[start : start + times]])
        rest += [place for group in chunk for place in group[used:]]
    rest.sort(key=lambda place: order[place])
    return found + _cut(rest, size)


def _cut(items: list[Item], size: int) -> list[list[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def media_keys(
    datasets: Mapping[str, Mapping[str, Any]], requests: Sequence[tuple[Any, int, str, str]]
) -> list[Hashable]:
    """What tells the media of questions apart, without decoding them.

    Columns of a data set that hold media are compared as they are stored, and files by their paths. Where neither is
    possible, questions share media only with other requests about the same document.

    Args:
        datasets: task ▸ split ▸ documents, as lmms-eval gives them to a model.
        requests: `doc_to_visual`, number of the document, task and split of each request.
    """
    found: dict[tuple[str, str, int], Hashable] = {}
    readers: dict[tuple[str, str], Callable[[Any, int], Hashable]] = {}
    for doc_to_visual, number, task, split in requests:
        document = task, split, number
        if document in found:
            continue
        if (task, split) not in readers:
            readers[task, split] = _reader(datasets[task][split])
        key = readers[task, split](doc_to_visual, number)
        if key is None:
            readers[task, split] = _unknown
        found[document] = document if key is None else key
    return [found[task, split, number] for _, number, task, split in requests]


def _reader(documents: Any) -> Callable[[Any, int], Hashable]:
    """A function of `doc_to_visual` and a document's number that tells its media; None where it cannot."""
    features = getattr(documents, "features", None)
    if not features:
        return _unknown
    columns = [name for name, feature in features.items() if _holds_media(feature)]
    if columns:
        stored = documents.select_columns(columns).with_format("arrow")
        return lambda doc_to_visual, number: _digest(stored[number].to_pylist())  # noqa: ARG005
    return lambda doc_to_visual, number: _paths(doc_to_visual(documents[number]))


def _unknown(doc_to_visual: Any, number: int) -> None:  # noqa: ARG001
    return None


def _paths(visuals: Any) -> Hashable:
    """The paths of a document's media; None where there are none, or they are anything else."""
    return tuple(visuals) if visuals and all(isinstance(one, str) for one in visuals) else None


def _holds_media(feature: Any) -> bool:
    if isinstance(feature, dict):
        return any(map(_holds_media, feature.values()))
    if isinstance(feature, list):
        return any(map(_holds_media, feature))
    # lists of datasets have the type of their items as `feature`
    return type(feature).__name__ in MEDIA_COLUMNS or _holds_media(getattr(feature, "feature", {}))


def _digest(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(value):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        for key, own in value.items():
            yield str(key).encode()
            yield from _parts(own)
    elif isinstance(value, list):
        for own in value:
            yield from _parts(own)
    else:
        yield value if isinstance(value, bytes) else repr(value).encode()

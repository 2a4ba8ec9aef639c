"""Vectors on the Hugging Face Hub: a repository laid out like a store, with a model card made from the provenance."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from lmms_steer._util.formatting import format_layers
from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError, first_line, printable
from lmms_steer.vectors import store
from lmms_steer.vectors.file_checks import MAX_FILE
from lmms_steer.vectors.ownership import save_own
from lmms_steer.vectors.steering_vectors import SteeringVectors

_SENTENCES = "sentences"
MAX_FILES = 10_000
"""Most files of a repository."""


def push_vectors(names: Sequence[str], repo: str, private: bool) -> Iterator[str]:
    """Upload vectors and their choices in one commit, with a model card that lists the repository's vectors.

    The token is the one that `hf auth login` stored, or `HF_TOKEN`.

    Args:
        names: of vectors, as `store.find` takes them without a backbone.
        repo: `user/name`.
        private: if the repository does not exist yet, create it as a private one.

    Raises:
        UserError: for a vector that does not exist or whose name a store refuses; for two of one name; when the Hub
            refuses a request.
    """
    entries = [store.find(name, None) for name in names]
    vectors: dict[str, store.Entry] = {}
    for entry in entries:
        name = SteeringVectors.load(entry.path).name
        if name in vectors and vectors[name].path != entry.path:
            raise UserError(f"{str(vectors[name].path)!r} and {str(entry.path)!r} are both named {name}: push one")
        vectors[name] = entry
    with TemporaryDirectory() as folder:
        root = Path(folder)
        api = _request(lambda hub: hub.HfApi(), repo)
        _request(lambda _: api.create_repo(repo, private=private, exist_ok=True), repo)
        sizes = _file_sizes(repo, None)
        old = [
            name for name in sizes if name.endswith(".safetensors") and name.removesuffix(".safetensors") not in vectors
        ]
        on_card = []
        for name in old:
            try:
                on_card.append(SteeringVectors.load(_download(repo, name, None, sizes[name])))
            except UserError as error:
                yield f"not on the card: {error}"
        for name, entry in vectors.items():
            vector = SteeringVectors.load(entry.path).without_path()
            vector.save(store.path_in_store(vector, root))
            on_card.append(vector)
            choices = store.choices_path(entry)
            if choices.is_file():
                (root / f"{name}.choices.yaml").write_bytes(store.choices_without_paths(choices))
        (root / "README.md").write_text(model_card(on_card, repo), encoding="utf-8")
        message = f"Add {', '.join(vectors)}"
        _request(lambda _: api.upload_folder(repo_id=repo, folder_path=root, commit_message=message), repo)
    yield from (f"{name} -> {repo}" for name in vectors)


def pull_vectors(repo: str, revision: str | None, root: Path | None, replace: bool = False) -> Iterator[str]:
    """Download every vector of a repository, with its choices, into a store.

    A line reports each file that is left out: one that is no vector of lmms-steer, and, without `replace`, one that the
    store has with other content.

    Args:
        repo: `user/name`.
        revision: branch, tag or commit; None: the default branch.
        root: the store; None: the user's.
        replace: also replace files that have other content.

    Raises:
        UserError: when the repository cannot be read, or has no vector; when a file cannot be written.
    """
    root = root if root is not None else store.user_store()
    sizes = _file_sizes(repo, revision)
    count = 0
    for name in (name for name in sizes if name.endswith(".safetensors")):
        try:
            vector = SteeringVectors.load(_download(repo, name, revision, sizes[name]))
            path = store.path_in_store(vector, root)
        except UserError as error:
            yield f"left out: {error}"
            continue
        count += 1
        if not _has_vector(path, vector):
            if not replace and path.is_file():
                yield _left_out(path)
                continue
            try:
                save_own(vector, root, replace)
            except UserError as error:
                yield f"left out: {error}"
                continue
        yield f"{vector.name} -> {path}"
        choices = name.removesuffix(".safetensors") + ".choices.yaml"
        if choices in sizes:
            try:
                data = store.checked_choices(_download(repo, choices, revision, sizes[choices]))
            except UserError as error:
                yield f"left out: {error}"
                continue
            path = path.with_suffix(".choices.yaml")
            if not replace and _has_other_content(path, data):
                yield _left_out(path)
            else:
                write_atomically(path, data)
    if not count:
        raise UserError(f"{repo} has no vector of lmms-steer")


def model_card(vectors: Sequence[SteeringVectors], repo: str) -> str:
    """The model card: front matter for the Hub, how to use the vectors, and a table with a row per vector."""
    ids = {str(vector.provenance.get("model_id", "")) for vector in vectors}
    bases = sorted(model_id for model_id in ids if "/" in model_id)
    front: dict[str, Any] = {"library_name": "lmms-steer", "tags": ["lmms-steer", "steering-vector"]}
    if bases:
        front["base_model"] = bases
    lines = ["---", yaml.safe_dump(front, sort_keys=True).rstrip(), "---", "", f"# {repo}", ""]
    origins = {_made_from(vector) for vector in vectors}
    made = ", made from text alone" if origins == {_SENTENCES} else ""
    lines += [f"Steering vectors for multimodal models{made}. To use them in lmms-eval:", "", "```"]
    lines += [f"lmms-steer vectors pull {repo}"]
    used = vectors[0].name + (",site=vision" if vectors[0].patches is not None else "")
    lines += [f"lmms-eval --model steered_paligemma --model_args pretrained=…,vector={used} …", "```", ""]
    lines += [
        "| vector | made from | layers | width | anchors | controls | revision | sentences | sha256 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for vector in sorted(vectors, key=lambda v: v.name):
        provenance, settings = vector.provenance, vector.provenance.get("settings", {})
        cells = [
            f"`{vector.name}`", _made_from(vector), format_layers(vector.layers), vector.hidden_size,
            settings.get("anchors", "-"), settings.get("controls", "-"), str(provenance.get("revision") or "-")[:12],
            str(provenance.get("sentences_sha256", "-"))[:12], vector.sha256[:12],
        ]  # fmt: skip
        lines.append("| " + " | ".join(printable(str(cell)).replace("|", r"\|") for cell in cells) + " |")
    if any(vector.patches is None for vector in vectors):
        lines += [
            "",
            "A direction is added to the output of the 0-based decoder block of its number: `h' = h + alpha · v`.",
        ]
    if any(vector.patches is not None for vector in vectors):
        lines += [
            "",
            "A vector of patches has a direction for each patch of the vision tower. With `site=vision`, direction i is"
            " added to patch i at the output of the tower's 0-based layer of its number.",
        ]
    return "\n".join([*lines, ""])


def _made_from(vector: SteeringVectors) -> str:
    """What a vector was made from, as its provenance says; "-" where that says nothing."""
    settings = vector.provenance.get("settings", {})
    if "image_contrast" in settings:
        read = f"images, contrast {settings['image_contrast']}"
    elif "at" in settings:
        read = "questions about images"
    else:
        return _SENTENCES if "sentences_sha256" in vector.provenance else "-"
    return (
        f"{read}, patches of the vision tower" if vector.patches is not None else f"{read}, tokens {settings.get('at')}"
    )


def _has_vector(path: Path, vector: SteeringVectors) -> bool:
    """Whether a file has this vector, if perhaps with the model's folder on this machine."""
    try:
        return SteeringVectors.load(path).sha256 == vector.sha256
    except UserError:
        return False  # missing or damaged


def _has_other_content(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() != data


def _left_out(path: Path) -> str:
    return f"left out: you have {str(path)!r} with other content: --replace takes the Hub's"


def _file_sizes(repo: str, revision: str | None) -> dict[str, int]:
    """The size of each file of a repository, by its path."""

    def listed(hub: Any) -> dict[str, int]:
        tree = hub.HfApi().list_repo_tree(repo, recursive=True, revision=revision)
        return {item.path: item.size for item in islice(tree, MAX_FILES + 1) if hasattr(item, "size")}

    sizes: dict[str, int] = _request(listed, repo)
    if len(sizes) > MAX_FILES:
        raise UserError(f"the Hub's {repo!r} has more than {MAX_FILES} files: it is no store of vectors")
    return sizes


def _download(repo: str, name: str, revision: str | None, size: int) -> Path:
    """Download a file.

    Raises:
        UserError: for a file that is too large to be a vector, so that pulling from a model's repository does not
            download the model; for a path that leads out of the repository.
    """
    if size > MAX_FILE:
        raise UserError(f"{name!r} has {size} bytes, more than the {MAX_FILE} of the largest vector file")
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise UserError(f"{name!r} is not a path inside a repository")
    return Path(_request(lambda hub: hub.hf_hub_download(repo, name, revision=revision), repo))


def _request(call: Callable[[Any], Any], repo: str) -> Any:
    """Call a function with the module huggingface_hub, and explain its errors."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return call(huggingface_hub)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(f"the Hub's {repo!r}: {first_line(error)}") from error

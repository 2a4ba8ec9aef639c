"""Vectors on the Hugging Face Hub: a repository laid out like a store, with a card written from the provenance."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from lmms_steer._util.formatting import format_layers
from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError, first_line
from lmms_steer.vectors import store
from lmms_steer.vectors import store as choices
from lmms_steer.vectors.steering_vectors import SteeringVectors


def push_vectors(names: Sequence[str], repo: str, private: bool) -> Iterator[str]:
    """Upload vectors, with their choices, in one commit; the card lists what the repository then holds.

    The token is the one that `hf auth login` stored, or `HF_TOKEN`.

    Raises:
        UserError: for a vector that does not exist or has no name for a store, or what the Hub refuses.
    """
    entries = [store.find(name, None) for name in names]
    vectors = {SteeringVectors.load(entry.path).name: entry for entry in entries}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        api = _reached(lambda hub: hub.HfApi(), repo)
        _reached(lambda _: api.create_repo(repo, private=private, exist_ok=True), repo)
        there = _reached(lambda _: api.list_repo_files(repo), repo)
        old = [
            name for name in there if name.endswith(".safetensors") and name.removesuffix(".safetensors") not in vectors
        ]
        held = []
        for path in [_fetch(repo, name, None) for name in old]:
            try:
                held.append(SteeringVectors.load(path))
            except UserError as error:
                yield f"not on the card: {error}"
        for name, entry in vectors.items():
            vector = SteeringVectors.load(entry.path)
            vector.save(store.path_in_store(vector, root))
            held.append(vector)
            chosen = choices.choices_path(entry)
            if chosen.is_file():
                (root / f"{name}.choices.yaml").write_bytes(chosen.read_bytes())
        (root / "README.md").write_text(model_card(held, repo), encoding="utf-8")
        message = f"Add {', '.join(vectors)}"
        _reached(lambda _: api.upload_folder(repo_id=repo, folder_path=root, commit_message=message), repo)
    yield from (f"{name} -> {repo}" for name in vectors)


def pull_vectors(repo: str, revision: str | None, root: Path | None, replace: bool = False) -> Iterator[str]:
    """Download every vector of a repository, with its choices, into a store.

    What is no vector of ours is said and left out; so is, but for `replace`, a file whose place one with other content
    has.

    Raises:
        UserError: when the repository cannot be read, or holds no vector; where a file cannot be written.
    """
    root = root if root is not None else store.user_store()
    files = _reached(lambda hub: hub.HfApi().list_repo_files(repo, revision=revision), repo)
    wanted = [name for name in files if name.endswith(".safetensors")]
    found = 0
    for name in wanted:
        try:
            vector = _read_remote(repo, name, revision)
            path = store.path_in_store(vector, root)
        except UserError as error:
            yield f"left out: {error}"
            continue
        found += 1
        if not replace and _is_other(path, vector.to_bytes()):
            yield _kept(path)
            continue
        store.save(vector, root)
        yield f"{vector.name} -> {path}"
        chosen = name.removesuffix(".safetensors") + ".choices.yaml"
        if chosen in files:
            data, path = _fetch(repo, chosen, revision).read_bytes(), path.with_suffix(".choices.yaml")
            if not replace and _is_other(path, data):
                yield _kept(path)
            else:
                write_atomically(path, data)
    if not found:
        raise UserError(f"{repo} holds no vector of lmms-steer")


def _is_other(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() != data


def _kept(path: Path) -> str:
    return f"left out: you have {str(path)!r} with other content: --replace takes the Hub's"


def model_card(vectors: Sequence[SteeringVectors], repo: str) -> str:
    """The model card: front matter for the Hub, how to use it, and a row a vector."""
    made = [vector.provenance for vector in vectors]
    bases = sorted({str(p["model_id"]) for p in made if "/" in str(p.get("model_id", ""))})
    front: dict[str, Any] = {"library_name": "lmms-steer", "tags": ["lmms-steer", "steering-vector"]}
    if bases:
        front["base_model"] = bases
    lines = ["---", yaml.safe_dump(front, sort_keys=True).rstrip(), "---", "", f"# {repo}", ""]
    lines += ["Steering vectors for multimodal models, made from text alone. To use them in lmms-eval:", "", "```"]
    lines += [f"lmms-steer vectors pull {repo}"]
    lines += [f"lmms-eval --model steered_paligemma --model_args pretrained=…,vector={vectors[0].name} …", "```", ""]
    lines += [
        "| vector | layers | width | anchors | controls | revision | sentences | sha256 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for vector in sorted(vectors, key=lambda v: v.name):
        made_with, settings = vector.provenance, vector.provenance.get("settings", {})
        cells = [
            f"`{vector.name}`", format_layers(vector.layers), vector.hidden_size, settings.get("anchors", "-"),
            settings.get("controls", "-"), str(made_with.get("revision") or "-")[:12],
            str(made_with.get("sentences_sha256", "-"))[:12], vector.sha256[:12],
        ]  # fmt: skip
        lines.append("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")
    lines += [
        "",
        "A direction is added to the output of the 0-based decoder block of its number: `h' = h + alpha · v`.",
        "",
    ]
    return "\n".join(lines)


def _read_remote(repo: str, name: str, revision: str | None) -> SteeringVectors:
    return SteeringVectors.load(_fetch(repo, name, revision))


def _fetch(repo: str, name: str, revision: str | None) -> Path:
    return Path(_reached(lambda hub: hub.hf_hub_download(repo, name, revision=revision), repo))


def _reached(call: Any, repo: str) -> Any:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return call(huggingface_hub)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(f"the Hub's {repo!r}: {first_line(error)}") from error

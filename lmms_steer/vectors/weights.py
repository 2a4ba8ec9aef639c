"""Identify a model's weights, because the name of a folder does not: hash the files that transformers would load.

A folder of one file has that file's SHA-256, and a folder of shards the SHA-256 of their list, as
`sha256sum model-*.safetensors | sha256sum` prints it. The whole content counts: a sample could miss a fine-tuning of a
few tensors. Hashes of large files are cached by path, inode, size and times. No torch is imported.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from lmms_steer._util.hashing import file_sha256
from lmms_steer._util.io import cache_dir, write_atomically
from lmms_steer.errors import UserError
from lmms_steer.smol.checkpoints import SMOL_MODELS
from lmms_steer.tiny_world.checkpoints import SHIPPED_MODELS, weights_dir
from lmms_steer.vectors.backbones import backbone_checkpoint, short_name

CACHED_FROM = 64 * 1024**2
"""Files of fewer bytes are hashed again each time, which takes a fraction of a second."""
SETTLED_SECONDS = 2
"""A file that changed less than this ago may change again within the resolution of its times: no cache entry."""
_SHA256_DIGITS = 64


def model_source(model: str, revision: str | None = None, store_name: str | None = None) -> dict[str, Any]:
    """What a vector's provenance says about the model that it was made from, as far as it is known without loading it.

    Args:
        model: as `lmms_steer.extraction.extract.Backbone` takes it.
        revision: of a Hub id.
        store_name: the model's name in the store; None: the last part of `model`.

    Returns:
        `model`, `model_id`; for a folder also `model_path` and `weights_sha256`, which is given for a Hub id too if its
        files are on this disk. A checkpoint that ships with this package is identified by its name alone. One that this
        package makes has no `model_path`, because its folder differs between machines.
    """
    full = backbone_checkpoint(model)
    source = {"model": store_name or short_name(model), "model_id": full}
    if model in SHIPPED_MODELS:
        return source | {"model_id": model}
    if model in SMOL_MODELS:
        return source | {"model_id": model, "weights_sha256": weights_sha256(Path(full))}
    folder: Path | None = Path(full)
    if Path(full).is_dir():
        source |= {"model_id": short_name(full), "model_path": os.path.abspath(full)}  # noqa: PTH100  keeps links
    else:
        folder = _snapshot(full, revision)
    sha256 = weights_sha256(folder) if folder is not None else None
    return source | ({"weights_sha256": sha256} if sha256 is not None else {})


def commit_of(model: str, revision: str | None = None) -> str | None:
    """The commit of a Hub id's files that are on this disk; None for a folder, or without them.

    Args:
        model: as transformers loads it, or the name of a checkpoint of this package.
        revision: a branch, tag or commit; None for `main`.
    """
    full = backbone_checkpoint(model)
    snapshot = None if Path(full).is_dir() else _snapshot(full, revision)
    return snapshot.name if snapshot is not None else None


def same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether two provenances, or results of `model_source`, are of the same weights; None where that is not known."""
    mine, theirs = recorded_sha256(one), recorded_sha256(other)
    if mine is not None and theirs is not None:
        return mine == theirs
    if one.get("revision") and all(one.get(key) == other.get(key) for key in ("model_id", "revision")):
        return True
    return None


def recorded_sha256(provenance: Mapping[str, Any]) -> str | None:
    """The hash of the weights that a provenance names; None where none is recorded."""
    sha256 = provenance.get("weights_sha256")
    if sha256 is None and provenance.get("model_id") in SHIPPED_MODELS:
        return _shipped_sha256(str(provenance["model_id"]))
    return str(sha256) if sha256 is not None else None


def describe_source(provenance: Mapping[str, Any]) -> str:
    """A model's path or id with the start of its weights' hash, for messages."""
    name = provenance.get("model_path") or provenance.get("model_id") or provenance.get("model") or "unknown"
    sha256, revision = recorded_sha256(provenance), provenance.get("revision")
    at = f" at {str(revision)[:12]}" if revision else ""
    return f"{str(name)!r}{at} (weights {sha256[:12] if sha256 else 'not recorded'})"


def weights_sha256(folder: Path) -> str | None:
    """The hash of a checkpoint's weights; None for a folder without weights, or where a shard is missing."""
    try:
        files = weight_files(folder)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashes = list(pool.map(_file_sha256, files))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read the weights in {str(folder)!r}: {error}") from error
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    # as `sha256sum` prints them
    lines = "".join(f"{sha256}  {file.name}\n" for sha256, file in zip(hashes, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads. Some checkpoints hold the same weights a second time in another layout.

    Raises:
        OSError, ValueError, KeyError: for an index that cannot be read.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            files = {folder / name}
        elif index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = {folder / shard for shard in shards}
        else:
            continue
        adapter = folder / "adapter_model.safetensors"
        return sorted(files | ({adapter} if adapter.is_file() else set()))
    return sorted(folder.glob("*.safetensors"))


def _file_sha256(path: Path) -> str:
    resolved = path.resolve()
    # the Hub's cache names large files by their hash
    if resolved.parent.name == "blobs" and len(resolved.name) == _SHA256_DIGITS:
        return resolved.name
    stat = resolved.stat()
    if stat.st_size < CACHED_FROM:
        return file_sha256(resolved)
    facts = [str(resolved), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    entry = cache_dir() / "weights" / f"{hashlib.sha256(str(resolved).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError):
        known = json.loads(entry.read_text(encoding="utf-8"))
        if isinstance(known, dict) and known.get("facts") == facts:
            return str(known["sha256"])
    sha256 = file_sha256(resolved)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_SECONDS:
        # a cache that cannot be written only costs time
        with suppress(UserError):
            write_atomically(entry, json.dumps({"facts": facts, "sha256": sha256}).encode())
    return sha256


def _snapshot(model: str, revision: str | None) -> Path | None:
    """The folder of a Hub id's files in the Hub's cache; None if they are not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


@cache
def _shipped_sha256(name: str) -> str | None:
    return weights_sha256(weights_dir(name))

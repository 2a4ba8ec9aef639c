"""Hashes that are the same in every process, of values, questions and files."""

import hashlib
import json
from pathlib import Path
from typing import Any


def question_id(prompt: int, images: int) -> str:
    """The id of a question, by which it is found again in another run or in a search.

    Args:
        prompt: hash of the question's text.
        images: hash of its images.
    """
    return f"{stable_hash([prompt, images]) % 2**64:016x}"


def stable_hash(value: Any) -> int:
    """A signed 64-bit hash of a string or of anything that JSON can hold.

    Unlike `hash`, it is the same in every process, so an order by it is too.
    """
    text = value if isinstance(value, str) else json.dumps(value)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

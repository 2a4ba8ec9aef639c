"""What knows a question again in another run, or in a search: a hash of its text and of its images."""

import hashlib
import json
from typing import Any


def question_id(prompt: int, images: int) -> str:
    """Of a question, from the hashes of its text and of its images."""
    return f"{stable_hash([prompt, images]) % 2**64:016x}"


def stable_hash(value: Any) -> int:
    """The same in every process, so that an order by it is too."""
    text = value if isinstance(value, str) else json.dumps(value)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)

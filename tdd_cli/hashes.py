"""SHA-256 of files and of values: what tells data, weights, recipes and protocols apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

CHUNK = 2**20  # bytes read at a time


def file_hash(path: Path) -> str:
    """Of a file's content, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def json_hash(value: object) -> str:
    """Of what JSON can hold, anything else as its text, 64 hex digits; the order of keys is no matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()

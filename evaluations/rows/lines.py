"""A file of JSON objects, one a line, that one process adds to: what is there survives a kill and a full disk.

rows.jsonl, which several processes add to, is evaluations/rows/file.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class AppendedLines:
    """Lines of one process.

    Args:
        path: Need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; a half written last one is cut off, one that is damaged is left out: it is made again."""
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        found = []
        for line in whole.splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if isinstance(told, dict):
                found.append(told)
        return found

    def append(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Adds a line, synced to the disk before this returns; gives back what will be read from it.

        Args:
            told: Values that JSON knows.
        """
        line = json.dumps(told)
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return json.loads(line)

"""What one application process is told at its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson


@dataclass(frozen=True)
class ApplicationSettings:
    """Everything a process needs to know; `corpus` and `vectors` are files that all processes share."""

    process: str
    url: str
    source: str
    target: str
    naive: bool
    seed: int
    indexed_points: int
    calls_per_s: float
    corpus: str
    vectors: str
    log: str

    def save(self, path: Path) -> None:
        """Write the settings to a file for `load`."""
        path.write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> ApplicationSettings:
        """Read the settings that `save` wrote."""
        return cls(**orjson.loads(path.read_bytes()))

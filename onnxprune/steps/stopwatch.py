"""Wall time of the stages of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["Stopwatch"]


class Stopwatch:
    """Wall time of named stages: ``with clock("probe"): ...``."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        """Continue from ``seconds``, the times of earlier stages."""
        self.seconds: dict[str, float] = dict(seconds or {})

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the wall time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 3)

"""Checkpoints of one run, keyed by everything that their content depends on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from onnxprune._version import __version__
from onnxprune.note import Note
from onnxprune.steps.checkpoint import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    import onnx

    from onnxprune.options.run import Options
    from onnxprune.steps.workload import Inputs

__all__ = ["Cache"]


class Cache:
    """Storage of the stages' results, and access to the results of an equal earlier run."""

    def __init__(self, options: Options, original: onnx.ModelProto, inputs: Inputs) -> None:
        self._folder = options.cache_dir
        self._opened: list[Checkpoint] = []
        self._parts: dict[str, object] = {}
        if self._folder is not None:
            self._parts = {
                "version": __version__,
                "model": hashlib.sha256(original.SerializeToString(deterministic=True)).hexdigest(),
                "data": inputs.calibration.digest(),
                "samples": hashlib.sha256(inputs.fit.tobytes() + inputs.parts.halves.tobytes()).hexdigest(),
                "points": (options.points, options.least_points),
                "seed": options.seed,
                "outputs": repr(sorted((name, one.kind) for name, one in inputs.outputs.items())),
            }

    def checkpoint(self, stage: str, *depends: object) -> Checkpoint:
        """Open the checkpoint of a stage, for the given dependencies."""
        if self._folder is None:
            return Checkpoint(None)
        self._opened.append(open_checkpoint(self._folder, {**self._parts, "stage": stage, "on": repr(depends)}))
        return self._opened[-1]

    def notes(self) -> tuple[Note, ...]:
        """Note the number of results that were reused."""
        reused = sum(checkpoint.reused for checkpoint in self._opened)
        return (Note("cache", f"{reused} results of an earlier run reused, see --no-cache"),) if reused else ()

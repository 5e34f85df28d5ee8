"""Every error that a user can cause, and the exit code that the command line gives it.

::

    OnnxPruneError            1   base class; never raised itself
    |-- UsageError            2   an option or an argument that cannot be used
    |-- ModelError            3   the model file cannot be read, or is not a model that can be pruned
    |-- DataError             4   calibration or test data cannot be read or does not fit the model
    |-- PlanError             5   nothing to prune, or a plan does not fit the model
    |   `-- OutOfReachError   5   no plan meets the budget
    |-- VerifyError           6   the result failed its verification; nothing was written
    |   `-- LostTooMuchError  6   the result is further from the original than was allowed
    |-- EngineError           7   onnxruntime cannot run the model with the requested provider
    |-- DropError             8   ``compare``: the difference is outside ``--max-drop``
    |-- OutputError           9   a result cannot be written
    |-- EvaluateError        10   the user's own measure (``--evaluate``) failed, or returned no finite number
    `-- NothingFasterError   11   a time budget was given and no faster network was found: the original was written

A message is one line: what was expected, what was found, at which file, node or option, and what to do.
An interrupted run (Ctrl-C) exits with 130. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "DropError",
    "EngineError",
    "EvaluateError",
    "LostTooMuchError",
    "ModelError",
    "NothingFasterError",
    "OnnxPruneError",
    "OutOfReachError",
    "OutputError",
    "PlanError",
    "UsageError",
    "VerifyError",
]


class OnnxPruneError(Exception):
    """Base of all errors that a user can cause, as opposed to bugs."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UsageError(OnnxPruneError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2


class ModelError(OnnxPruneError):
    """A model file cannot be read, or holds nothing that can be pruned safely."""

    exit_code = 3


class DataError(OnnxPruneError):
    """Calibration or test data cannot be read, or does not fit the model's inputs."""

    exit_code = 4


class PlanError(OnnxPruneError):
    """No plan can be made, or a given plan does not fit the model."""

    exit_code = 5


class OutOfReachError(PlanError):
    """No plan meets the budget."""


class VerifyError(OnnxPruneError):
    """The compressed network failed its verification."""

    exit_code = 6


class LostTooMuchError(VerifyError):
    """The result is further from the original than allowed: a milder budget may pass."""


class EngineError(OnnxPruneError):
    """onnxruntime cannot run the model with the requested provider."""

    exit_code = 7


class DropError(OnnxPruneError):
    """Two models differ by more than was allowed."""

    exit_code = 8


class OutputError(OnnxPruneError):
    """A file cannot be written."""

    exit_code = 9


class EvaluateError(OnnxPruneError):
    """The user's own measure failed, or returned no finite number."""

    exit_code = 10


class NothingFasterError(OnnxPruneError):
    """No faster network was found for a time budget, so the original was written; raised by the command line only."""

    exit_code = 11

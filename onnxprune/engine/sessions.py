"""Sessions of onnxruntime, with this package's errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxprune.engine.providers import TENSORRT, onnxruntime, resolve
from onnxprune.errors import EngineError
from onnxprune.options.engine import EngineOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Array = np.ndarray[Any, Any]

__all__ = ["Engine", "Session"]

_LOG_NOTHING = 4
_MOST_BYTES = 2**31 - 1
_UNKNOWN = "is not a registered function/op"
_WAY_OUT = "; load its library with --ops-library FILE, or end in front of it with --until TENSOR"


@dataclass(frozen=True)
class Engine:
    """onnxruntime with resolved options.

    Attributes:
        options: provider and threads as requested.
        providers: execution providers to request, best first, see `resolve`.
    """

    options: EngineOptions
    providers: tuple[str, ...]

    @classmethod
    def open(cls, options: EngineOptions) -> Engine:
        """Settle the providers.

        Raises:
            EngineError: see `resolve`.
        """
        return cls(options, resolve(options))

    @property
    def provider(self) -> str:
        """The best provider, without its suffix: ``CPU``, ``CUDA``, ``Tensorrt``."""
        return self.providers[0].removesuffix("ExecutionProvider")

    @property
    def version(self) -> str:
        """Version of onnxruntime."""
        return str(onnxruntime().__version__)

    def for_pieces(self) -> Engine:
        """Return the engine for networks that run once: without TensorRT, whose builds take longer than such runs."""
        return Engine(self.options, tuple(name for name in self.providers if name != TENSORRT))

    def session(
        self, model: onnx.ModelProto | bytes | str | Path, *, label: str, profile: Path | None = None
    ) -> Session:
        """Load a model.

        Args:
            model: ModelProto, bytes, or path of a file (with its external data next to it).
            label: name of the model in errors.
            profile: prefix of the file for the times of all nodes, see `Session.end_profiling`; None for no profile.

        Raises:
            EngineError: onnxruntime cannot load the model.
        """
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_NOTHING
        if self.options.threads is not None:
            options.intra_op_num_threads = self.options.threads
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        for path in self.options.ops_library:
            try:
                options.register_custom_ops_library(str(path.resolve()))
            except Exception as error:  # onnxruntime raises many types of its own
                raise EngineError(f"--ops-library {path}: onnxruntime cannot load it: {_said(error)}") from error
        try:
            loaded = ort.InferenceSession(_loadable(model, label), options, providers=list(self.providers))
        except EngineError:
            raise
        except Exception as error:  # onnxruntime raises many types of its own
            hint = "" if self.options.ops_library or _UNKNOWN not in str(error) else _WAY_OUT
            raise EngineError(f"{label}: onnxruntime cannot load it: {_said(error)}{hint}") from error
        return Session(loaded, label)


class Session:
    """Loaded model."""

    def __init__(self, session: Any, label: str) -> None:
        self._session, self._label = session, label

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(value.name for value in self._session.get_inputs())

    @property
    def inputs(self) -> tuple[tuple[str, tuple[int | str | None, ...], str], ...]:
        """Name, shape and type, such as ``tensor(float)``, of each input."""
        return tuple((value.name, tuple(value.shape), str(value.type)) for value in self._session.get_inputs())

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(value.name for value in self._session.get_outputs())

    @property
    def provider(self) -> str:
        """Provider that the model runs on, without its suffix."""
        return str(self._session.get_providers()[0]).removesuffix("ExecutionProvider")

    @property
    def threads(self) -> int:
        """Threads within an operator; 0 for onnxruntime's default."""
        return int(self._session.get_session_options().intra_op_num_threads)

    def end_profiling(self) -> Path:
        """Stop profiling, and return the JSON file with the times."""
        return Path(self._session.end_profiling())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the model; return the outputs by name, all of them if `outputs` is None.

        Raises:
            EngineError: a node fails.
        """
        names = list(self.output_names if outputs is None else outputs)
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # onnxruntime raises many types of its own
            raise EngineError(f"{self._label}: onnxruntime cannot run it: {_said(error)}") from error
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _loadable(model: onnx.ModelProto | bytes | str | Path, label: str) -> bytes | str:
    if isinstance(model, (str, Path)):
        return str(model)
    if isinstance(model, bytes):
        return model
    if model.ByteSize() > _MOST_BYTES:
        raise EngineError(
            f"{label}: {model.ByteSize() / 2**30:.1f} GB are more than onnxruntime loads in one message (2 GB)"
        )
    return bytes(model.SerializeToString())


def _said(error: Exception) -> str:
    """Return the message of onnxruntime's error as one line."""
    return " ".join(str(error).split())[:300]

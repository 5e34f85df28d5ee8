"""Cache on disk: results of the steps of a run, reused by a later run with equal model, inputs, options and code.

The key of a result is a hash of the model, the inputs, the options and the source files of this package, so results of
an edited solver are not mixed with older ones. Values are safetensors bytes in a diskcache store, each behind a digest
of its key and of the bytes: a damaged or exchanged value counts as missing. Two runs can share a folder, a killed run
leaves no half-written value, the oldest values beyond 2 GiB are deleted when a run begins, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import diskcache
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from onnxprune._version import __version__
from onnxprune.errors import UsageError
from onnxprune.note import Note, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Array = np.ndarray[Any, Any]

__all__ = ["Cache", "Checkpoint", "Saved", "code_digest", "default_cache_dir", "scratch_parent", "sealed", "unsealed"]

_MOST_BYTES = 2 << 30
_STRAY_SECONDS = 3600
_FACTS = "facts"  # name of the JSON text among the arrays of a value
_FAILURES = (OSError, sqlite3.Error, diskcache.Timeout)


def default_cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/onnxprune``, or ``~/.cache/onnxprune``.

    Raises:
        UsageError: there is neither ``XDG_CACHE_HOME`` nor a home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "onnxprune"
    except RuntimeError:
        raise UsageError("this user has no home folder: set XDG_CACHE_HOME, or give --cache-dir") from None


@cache
def code_digest() -> str:
    """Return a hash of the package's source files."""
    digest = hashlib.sha256(__version__.encode())
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"\0{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Saved:
    """Value of a checkpoint: arrays by name, and JSON-able facts."""

    arrays: Mapping[str, Array]
    facts: Any = None


def sealed(place: str, content: bytes) -> bytes:
    """Put a digest of a value and of the place that it is stored in before it."""
    return hashlib.sha256(f"{place}/".encode() + content).digest() + content


def unsealed(place: str, stored: bytes | None) -> bytes | None:
    """Return what was sealed; None if there is nothing, or if it was changed or sealed for another place."""
    content = (stored or b"")[hashlib.sha256().digest_size :]
    return content if stored is not None and stored == sealed(place, content) else None


class Checkpoint:
    """Results of one step by name; none are stored if `store` is None."""

    def __init__(self, store: diskcache.Cache | None, key: str = "") -> None:
        self._store, self._key = store, key
        self.reused = 0
        """Number of values found."""

    def load(self, name: str) -> Saved | None:
        """Load the value that this run, or an earlier run with the same key, saved under a name; None without one."""
        if self._store is None:
            return None
        try:
            place = f"{self._key}/{name}"
            content = unsealed(place, self._store.get(place))
            arrays = load(content) if content else None
            facts = json.loads(arrays.pop(_FACTS).tobytes()) if arrays else None
        except (*_FAILURES, SafetensorError, ValueError, KeyError):
            return None
        if arrays is None:
            return None
        self.reused += 1
        return Saved(arrays, facts)

    def save(self, name: str, arrays: Mapping[str, Array], facts: object = None) -> None:
        """Save arrays and JSON-able facts under a name; a failure to write, such as a full disk, is ignored."""
        if self._store is None:
            return
        text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
        content = save({**{key: np.asarray(array, order="C") for key, array in arrays.items()}, _FACTS: text})
        with suppress(*_FAILURES):
            place = f"{self._key}/{name}"
            self._store.set(place, sealed(place, content))


class Cache:
    """Storage of results under a folder, none if the folder is None; a context manager that closes its files."""

    def __init__(self, folder: Path | None, parts: Callable[[], Mapping[str, object]]) -> None:
        """Open the storage.

        Args:
            folder: folder of the cache; it is made if it does not exist.
            parts: function that returns JSON-able values on which all results of the run depend; it is called when
                something is first looked for.

        Raises:
            UsageError: the folder cannot be made.
        """
        self._parts, self._under, self._opened = cache(parts), "", list[Checkpoint]()
        self._store = None if folder is None else _opened(scratch_parent(folder))

    def checkpoint(self, stage: str, *depends: object) -> Checkpoint:
        """Open the checkpoint of a stage, for the given dependencies."""
        if self._store is None:
            return Checkpoint(None)
        whole = {**self._parts(), "code": code_digest(), "under": self._under, "stage": stage, "on": repr(depends)}
        key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        self._opened.append(Checkpoint(self._store, key))
        return self._opened[-1]

    def under(self, *depends: object) -> Cache:
        """Return the same storage for results that depend on more than the run's parts; closed with this one."""
        found = copy(self)
        found._under = repr((self._under, *depends))
        return found

    def notes(self) -> tuple[Note, ...]:
        """Note the number of results that were reused."""
        reused = sum(checkpoint.reused for checkpoint in self._opened)
        return (Note("cache", f"{reused} results of an earlier run reused, see --no-cache"),) if reused else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files of the storage."""
        if self._store is not None:
            self._store.close()


def scratch_parent(folder: Path) -> Path:
    """Return the subfolder of a cache that holds only files of this package, made if it does not exist.

    Raises:
        UsageError: the folder cannot be made.
    """
    own = folder / "onnxprune-cache"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--cache-dir: {own} cannot be made ({error.strerror}); give another folder, or --no-cache"
        ) from error
    return own


class _Bytes(diskcache.Disk):
    """Storage of bytes under text keys; a value of any other type counts as missing."""

    def store(self, value: Any, read: bool, key: Any = None) -> Any:
        if not isinstance(value, bytes):
            raise TypeError(f"expected bytes, found {type(value).__name__}")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode not in (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY):
            return None
        found = super().fetch(mode, filename, value, read)
        return bytes(found) if isinstance(found, (bytes, memoryview)) else None

    def get(self, key: Any, raw: bool) -> Any:
        return key if raw else None

    def _write(self, full_path: str, *arguments: Any, **options: Any) -> Any:
        try:
            return super()._write(full_path, *arguments, **options)
        except BaseException:  # such as a full disk: half a file would stay for ever
            with suppress(OSError):
                Path(full_path).unlink(missing_ok=True)
            raise


def _opened(own: Path) -> diskcache.Cache | None:
    """Open the store in a folder; a store that is damaged is made anew. None if it cannot be used now."""
    place = own / "store"
    for _ in range(2):
        try:
            # Reading must not write: results are to be found on a full disk, too. Values are deleted only when a run
            # begins, so that it keeps its own.
            store = diskcache.Cache(
                str(place), disk=_Bytes, size_limit=_MOST_BYTES, cull_limit=0, eviction_policy="least-recently-stored"
            )
            _clean(own, store)
        except _FAILURES as error:
            if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.OperationalError):
                break  # full, locked by another program, or not to be written
            shutil.rmtree(place, ignore_errors=True)
        else:
            return store
    warn(f"caching is off, so a stopped run cannot continue: {place} cannot be used now; see --cache-dir")
    return None


def _clean(own: Path, store: diskcache.Cache) -> None:
    """Delete the oldest values beyond the limit, half-written ones, and the results of versions before 0.9."""
    store.cull()
    with closing(sqlite3.connect(own / "store" / diskcache.core.DBNAME)) as rows:
        known = {name for (name,) in rows.execute("SELECT filename FROM Cache WHERE filename IS NOT NULL")}
    for file in (own / "store").rglob("*.val"):
        with suppress(OSError):
            stray = str(file.relative_to(own / "store")) not in known
            if stray and time.time() - file.stat().st_mtime > _STRAY_SECONDS:
                file.unlink()
    for folder in own.iterdir():
        with suppress(OSError):  # another run may be deleting it too
            earlier = len(folder.name) == 32 and set(folder.name) <= set("0123456789abcdef")
            if earlier and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)

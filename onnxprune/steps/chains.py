"""Conversion between the solver's factors, one set per group of a grouped conv, and the graph's chains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.forms import Form
from onnxprune.graph.edit.decompose import Chain
from onnxprune.solve import Factors, Regression, decompose, merge, split_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxprune.graph.channels.sites import Site
    from onnxprune.options.solve import RefitOptions
    from onnxprune.solve import Samples, Solution

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["chain_arrays", "fit_chain", "merge_chain", "read_chain"]


def fit_chain(
    site: Site,
    problems: Sequence[Regression],
    columns: Indices,
    form: Form,
    options: RefitOptions,
    samples: tuple[Samples, ...] | None,
) -> tuple[list[Solution], Chain]:
    """Fit factors for every group of a site, see `solve.decompose`.

    Returns:
        One solution per group on all columns, and the chain of factors; its ranks are lower than the form's if the
        full rank is lower.
    """
    split = _split(site, form, len(columns))
    found = [
        decompose(
            problem,
            columns,
            split,
            form.spatial,
            form.channel,
            options,
            None if samples is None else samples[index],
        )
        for index, problem in enumerate(problems)
    ]
    return [one.solution for one in found], _chain(form.first, [one.factors for one in found])


def merge_chain(site: Site, chain: Chain, form: Form) -> Chain:
    """Multiply neighbouring factors of a chain into a simpler form with equal outputs."""
    if chain.form == form:
        return chain
    split = None
    if chain.first is not None and site.window is not None:
        kernel = site.window.kernel
        split = _split(site, chain.form, chain.first.shape[2] // kernel[chain.form.first] * int(np.prod(kernel)))
    parts = [
        merge(
            Factors(
                None if chain.first is None else chain.first[group],
                chain.second[group],
                None if chain.last is None else chain.last[group],
            ),
            split,
            spatial=form.spatial is not None,
            channel=form.channel is not None,
        )
        for group in range(len(chain.second))
    ]
    return _chain(form.first, parts)


def chain_arrays(chain: Chain) -> dict[str, Array]:
    """Convert a chain to plain arrays by name, for a checkpoint."""
    known = {"first": chain.first, "second": chain.second, "last": chain.last}
    return {"axis": np.array(chain.form.first)} | {f: array for f, array in known.items() if array is not None}


def read_chain(arrays: Mapping[str, Array], position: int) -> Chain:
    """Restore a chain from the arrays of `chain_arrays`, their names followed by a dot and a position.

    Raises:
        KeyError: an array is missing.
    """
    first, last = (arrays.get(f"{field}.{position}") for field in ("first", "last"))
    return Chain(_form(int(arrays[f"axis.{position}"]), first, last), first, arrays[f"second.{position}"], last)


def _split(site: Site, form: Form, columns: int) -> Indices | None:
    """Return the split of the remaining columns of one group for a spatial form; None for other forms."""
    if form.spatial is None or site.window is None:
        return None
    kernel = site.window.kernel
    return split_columns(columns // int(np.prod(kernel)), kernel, form.first)


def _chain(axis: int, parts: Sequence[Factors]) -> Chain:
    firsts = [part.first for part in parts if part.first is not None]
    lasts = [part.last for part in parts if part.last is not None]
    first, last = (np.stack(arrays) if arrays else None for arrays in (firsts, lasts))
    return Chain(_form(axis, first, last), first, np.stack([part.second for part in parts]), last)


def _form(axis: int, first: Array | None, last: Array | None) -> Form:
    spatial = None if first is None else int(first.shape[1])
    channel = None if last is None else int(last.shape[2])
    return Form(spatial, axis, channel)

"""Factorise a layer: fit the factors of a form for every group of a grouped conv, or merge neighbouring factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.graph.channels.forms import Form
from onnxprune.graph.edit.decompose import Chain
from onnxprune.solve.lowrank import Factors, decompose, merge, split_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxprune.graph.channels.sites import Site
    from onnxprune.options.solve import RefitOptions
    from onnxprune.solve import Regression, Samples, Solution

    Array = np.ndarray[Any, Any]
    Indices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["factorise", "merge_factors"]


def factorise(
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
    split = _kernel_split(site, form, len(columns))
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


def _kernel_split(site: Site, form: Form, columns: int) -> Indices | None:
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


def merge_factors(site: Site, chain: Chain, form: Form) -> Chain:
    """Multiply neighbouring factors of a chain into a simpler form with equal outputs."""
    if chain.form == form:
        return chain
    split = None
    if chain.first is not None and site.window is not None:
        kernel = site.window.kernel
        split = _kernel_split(site, chain.form, chain.first.shape[2] // kernel[chain.form.first] * int(np.prod(kernel)))
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

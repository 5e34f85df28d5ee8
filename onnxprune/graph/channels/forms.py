"""Forms of a layer (dense or decomposed), and the cost of each.

A conv of kernel k_0 x k_1 is one conv (*dense*), or a chain: first a conv along one kernel axis with r outputs (V
takes the vertical axis, H the rest; or the other way round), then one along the others, and behind either a 1x1 conv
P that widens d channels to the outputs. Every number is per group of a grouped conv. A Gemm or MatMul is a conv
without kernel axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from onnxprune.graph.model.net import dims
from onnxprune.options.budget import Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxprune.graph.channels.sites import Site
    from onnxprune.graph.model.net import Net

    Number = int | float | np.ndarray[Any, Any]

__all__ = ["DENSE", "KINDS", "Form", "Kind", "LayerShape", "Parts", "describe", "form_parts", "layer_shape"]


Parts = np.ndarray[Any, np.dtype[np.int64]]
"""Forms as an array, (3, n) int64: spatial ranks, first kernel axes and widths; 0 for a part that a form lacks."""
Kind = Literal["spatial", "channel", "both"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of decompositions: V and H, P, or V, H and P."""


@dataclass(frozen=True, order=True)
class Form:
    """Form of a layer.

    Attributes:
        spatial: rank r of the pair of convs V and H; None without the pair.
        first: kernel axis of the first conv of the pair; 0 without it.
        channel: width d in front of the 1x1 conv P; None without it.
    """

    spatial: int | None = None
    first: int = 0
    channel: int | None = None

    def __post_init__(self) -> None:
        if self.spatial is None:  # without a pair none of its kernel axes is first
            object.__setattr__(self, "first", 0)

    @property
    def dense(self) -> bool:
        """Whether the layer is not decomposed."""
        return self == DENSE

    @property
    def parts(self) -> tuple[int, int, int]:
        """Spatial rank, first kernel axis and width; 0 for a part that it lacks."""
        return self.spatial or 0, self.first, self.channel or 0

    @classmethod
    def from_parts(cls, parts: Parts) -> Form:
        """Make the form of a column of `Parts`, (3,)."""
        spatial, first, channel = (int(part) for part in parts)
        return cls(spatial or None, first, channel or None)

    def merged(self) -> tuple[Form, ...]:
        """Return this form, and the forms that equal it exactly after multiplying neighbouring factors."""
        return tuple(dict.fromkeys((self, replace(self, channel=None), replace(self, spatial=None), DENSE)))


DENSE = Form()


def form_parts(forms: Sequence[Form]) -> Parts:
    """Return the parts of some forms as an array, (3, n)."""
    return np.array([form.parts for form in forms], dtype=np.int64).reshape(-1, 3).T


@dataclass(frozen=True)
class LayerShape:
    """Sizes on which the cost of a layer's forms depends, besides its channels.

    Attributes:
        kernel: sizes of the kernel axes; () for Gemm and MatMul.
        groups: number of groups of a grouped conv; else 1.
        outputs: output positions for one sample.
        between: for each kernel axis, positions behind a conv along that axis alone.
    """

    kernel: tuple[int, ...]
    groups: int
    outputs: float
    between: tuple[float, ...]

    def cost(self, form: Form, inputs: Number, outputs: Number, unit: Unit) -> Any:
        """Return the MACs for one sample, or the number of weights; an array if an argument is one.

        Args:
            form: form of the layer.
            inputs: input channels per group.
            outputs: output channels of all groups.
            unit: cost to count, ``macs`` or ``params``.
        """
        here = self.outputs if unit == "macs" else 1.0
        elements, channel = math.prod(self.kernel), form.channel or 0
        narrow = channel * self.groups or outputs
        if form.spatial is None:
            return here * (narrow * inputs * elements + outputs * channel)
        along = self.kernel[form.first]
        between = self.between[form.first] if unit == "macs" else 1.0
        first = between * self.groups * form.spatial * inputs * along
        return first + here * (narrow * form.spatial * (elements // along) + outputs * channel)

    def costs(self, parts: Parts, inputs: Number, outputs: Number, unit: Unit) -> Any:
        """Return the cost of many forms, given by their parts; other arguments as for `cost`."""
        kernel, groups = math.prod(self.kernel), self.groups
        spatial, first, channel = parts
        along = np.array(self.kernel or (1,))[first]
        here = self.outputs if unit == "macs" else 1.0
        between = np.array(self.between or (1.0,))[first] if unit == "macs" else 1.0
        narrow = np.where(np.equal(channel, 0), outputs, np.multiply(groups, channel))
        whole = here * narrow * inputs * kernel
        pair = between * (groups * spatial) * inputs * along + here * narrow * spatial * (kernel // along)
        widened = here * np.multiply(outputs, channel)
        return np.where(np.equal(spatial, 0), whole, pair) + widened

    def simplest(self, form: Form, outputs: int, price: Callable[[Form], float]) -> Form:
        """Return the cheapest form with equal outputs: neighbouring factors are merged if that is cheaper."""
        if form.channel is not None and form.channel * self.groups >= outputs:
            form = replace(form, channel=None)
        ranked = sorted(form.merged(), key=lambda part: (price(part), part.spatial or 0, part.channel or 0))
        return ranked[0]

    def axes(self) -> tuple[int, ...]:
        """Kernel axes that a first conv may take: there are others that are not of size one."""
        wide = [axis for axis, size in enumerate(self.kernel) if size > 1]
        return tuple(wide) if len(wide) > 1 else ()


def layer_shape(concrete: Net, site: Site, batch: int) -> LayerShape:
    """Read a site's shape off a network of known sizes, for inputs of `batch` samples."""
    tensors = concrete.tensors()
    source, response = (dims(tensors[name]) for name in (site.source, site.response))
    given = [size if isinstance(size, int) else 1 for size in source or ()]
    made = [size if isinstance(size, int) else 1 for size in response or ()]
    if site.window is None:
        return LayerShape((), 1, math.prod(made[:-1]) / batch, ())
    rank = len(site.window.kernel)
    before, after = (sizes[2:] if len(sizes) == rank + 2 else [1] * rank for sizes in (given, made))  # or unknown
    first = made[0] if made else batch
    between = tuple(
        first * math.prod(after[i] if i == axis else before[i] for i in range(len(after))) / batch
        for axis in range(len(after))
    )
    return LayerShape(site.window.kernel, site.groups, first * math.prod(after) / batch, between)


def describe(before: Sequence[int], after: Sequence[int], form: Form = DENSE, groups: int = 1) -> str:
    """Describe a layer in one line, weights outputs first: ``512x512x3x3 -> V 175, H 175->232, P 232->475``.

    Args:
        before: original shape of the weights, outputs first.
        after: shape of the weights left, outputs first; no outputs for a removed layer.
        form: form of the layer now.
        groups: number of groups of a grouped conv; else 1.
    """
    size = "x".join(map(str, before))
    if not after[0]:
        return f"{size} -> gone"
    if form.dense:
        return size if tuple(before) == tuple(after) else f"{size} -> {'x'.join(map(str, after))}"
    outputs = after[0]
    spatial, channel = ((n or 0) * groups for n in (form.spatial, form.channel))
    narrow = channel or outputs
    names = ("V", "H") if form.first == 0 else ("H", "V")
    parts = [f"{names[0]} {spatial}", f"{names[1]} {spatial}->{narrow}"] if spatial else [f"{narrow} wide"]
    if channel:
        parts.append(f"P {channel}->{outputs}")
    return f"{size} -> {', '.join(parts)}"

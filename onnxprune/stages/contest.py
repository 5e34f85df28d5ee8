"""Which of several plans: each is carried out on some of the inputs, cheaply, and the network's end decides.

No rule says how much to believe of sensitivities that were found one at a time. Where several answers are plausible,
they are tried. They are judged by other inputs than they were carried out on, where there are enough; those held back
are left to the verification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.note import Note
from onnxprune.runtime.frontier import Batch
from onnxprune.stages.damage import Damage, spread
from onnxprune.stages.workload import silent

if TYPE_CHECKING:
    from onnxprune.graph.net import Net
    from onnxprune.stages.decide import Decision
    from onnxprune.stages.workload import Workload

__all__ = ["unseen", "winner"]

_TEMPERATURE = 4.0
_FITTED, _LEAST_FITTED = 1 / 3, 200  # share of the inputs, and how many at least
_JUDGED = 256


def winner(work: Workload, decisions: Sequence[Decision], carry_out: Callable[[Workload, Decision], Net]) -> Decision:
    """The plan whose outputs are nearest to the original's, with a note on all of them.

    Args:
        work: the original and the inputs to fit on; those that are held back are not touched.
        decisions: the plans, of different dampings.
        carry_out: compresses on a workload that it is given.
    """
    if len(decisions) == 1:
        return decisions[0]
    total = sum(batch.real for batch in work.batches)
    few = spread(work.batches, min(max(int(_FITTED * total), _LEAST_FITTED), total))
    quick = replace(work, batches=few, progress=silent)
    others = unseen(work.batches, few)
    enough = sum(batch.real for batch in others) >= _JUDGED
    damage = Damage(work, spread(others if enough else work.batches, _JUDGED), _TEMPERATURE)
    found = []
    for number, decision in enumerate(decisions):
        work.progress("try plans", number, len(decisions))
        found.append(damage.of_net(carry_out(quick, decision), f"the plan with damping {decision.damping:g}"))
    work.progress("try plans", len(decisions), len(decisions))
    best = int(np.argmin(np.nan_to_num(found, nan=np.inf)))
    told = ", ".join(f"{one.damping:g}: {value:.3g}" for one, value in zip(decisions, found, strict=True))
    note = Note("--damping", f"{decisions[best].damping:g} is nearest to the original ({told})")
    return replace(decisions[best], notes=(*decisions[best].notes, note))


def unseen(batches: Sequence[Batch], seen: Sequence[Batch]) -> tuple[Batch, ...]:
    """Batches of the same size of the samples that are not in `seen`; those that do not fill one are left out."""
    known = {sample for batch in seen for sample in batch.samples}
    size = len(batches[0].samples)
    left = [sample for batch in batches for sample in batch.samples[: batch.real] if sample not in known]
    return tuple(Batch(tuple(left[at : at + size]), size) for at in range(0, len(left) - size + 1, size))

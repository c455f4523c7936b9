"""What recallers themselves hold about the user, such as a factor or the state of a sequential model, in few numbers."""

from __future__ import annotations

from softgrpo.policy.blocks.block import Block, Known, Numbers, of_recaller


def _compute(known: Known) -> Numbers:
    assert known.vectors is not None, "the block is left out where there are none"
    return {
        of_recaller(recaller, f"user vector {place + 1}"): values[:, place]
        for recaller, values in known.vectors(known.corpus, known.windows).items()
        for place in range(values.shape[1])
    }


USER_VECTOR = Block("user_vector", _compute, {}, needs="vectors")

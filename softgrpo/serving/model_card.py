"""The model card of an exported policy: Markdown with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from softgrpo.config import ExperimentConfig
from softgrpo.evaluation.formatting import p_value, percent, signed, signed_interval, table_rows
from softgrpo.evaluation.report import summarise
from softgrpo.evaluation.report_content import Report
from softgrpo.policy.card import PolicyCard
from softgrpo.serving.onnx_file import OnnxFile

SHOWN = ("sft_single", "sft_multi", "grpo_single", "grpo_multi")
"""Rows of the table that a card shows beside the best single recaller and the best static mixture."""

_PLAIN_PARTS = (("model", "ModelForSequenceClassification"), ("tokenizer", "Tokenizer"))


@dataclass(frozen=True)
class Origin:
    """Where an exported policy comes from.

    Attributes:
        run_id: MLflow run of the pipeline.
        started: When it was started.
        commit: Of the checkout that ran it, None outside one.
        config: Its configuration.
        data_digest: SHA-256 of the files of the stage `split`.
        policy_digest: SHA-256 of the files of the stage `grpo`.
        refit_of: The run that was evaluated, where `run_id` is a refit of it; "" elsewhere.
    """

    run_id: str
    started: datetime
    commit: str | None
    config: ExperimentConfig
    data_digest: str
    policy_digest: str
    refit_of: str = ""


@dataclass(frozen=True)
class Contents:
    """What an exported folder holds.

    Attributes:
        why_not_plain: Why it holds the policy with its wrapper, in `policy`; "" where it is a plain classifier.
        onnx: Its ONNX file, None without one.
        example_prompt: A prompt as the policy was trained on.
        chat: Whether prompts go through the tokenizer's chat template.
        served: Key of the method of the model for serving, None without one.
    """

    why_not_plain: str
    onnx: OnnxFile | None
    example_prompt: str
    chat: bool
    served: str | None


def model_card(card: PolicyCard, origin: Origin, report: Report, contents: Contents) -> str:
    """Returns the text of `README.md`."""
    sections = (
        f"# {_title(origin.config)}",
        _summary(card, origin.config),
        "## Use",
        *_use(card, contents),
        "## Result on test windows",
        *_result(report, contents.served),
        "## Made from",
        "\n".join(f"- {name}: {value}" for name, value in _facts(card, origin, report)),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(card, origin.config, report)),
    )
    return (
        f"---\n{yaml.safe_dump(_front_matter(card, contents), sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"
    )


def public_name(model_name: str) -> str:
    """Returns a base model's name without the folders of this machine: of a path its last part."""
    path = Path(model_name)
    local = path.is_absolute() or model_name.startswith((".", "~")) or path.exists()
    return path.name if local and path.name else model_name


def _title(config: ExperimentConfig) -> str:
    return f"SofT-GRPO policy for {config.data.dataset}: {', '.join(config.recall.recallers)}"


def _front_matter(card: PolicyCard, contents: Contents) -> dict[str, Any]:
    matter: dict[str, Any] = {"library_name": "softgrpo" if contents.why_not_plain else "transformers"}
    if not contents.why_not_plain:
        matter["pipeline_tag"] = "text-classification"
    matter["tags"] = ["softgrpo", "recommendation", "rank-fusion"]
    if "name" in card.weights and ":" not in card.model_name:  # a model of the hub
        matter["base_model"] = card.model_name
    return matter


def _summary(card: PolicyCard, config: ExperimentConfig) -> str:
    reads = "a prompt about a user" + (f" and {len(card.numbers)} numbers" if card.numbers else "")
    return (
        f"This language model reads {reads} and gives a weight to each of {len(card.recallers)} recallers of a recommender "
        f"system: {', '.join(card.recallers)}. Their candidate lists are merged with these weights. It was trained by SofT-GRPO "
        f"on {config.data.dataset}, from {public_name(card.model_name)}."
    )


def _use(card: PolicyCard, contents: Contents) -> Iterator[str]:
    """Gives how to use the folder; FOLDER stands for it, or for its name on the hub."""
    if contents.why_not_plain:
        yield f"This policy is no plain text classifier: {contents.why_not_plain}. The package `softgrpo` opens it:"
    else:
        yield "Prior and temperature are inside the head, so transformers alone give the weights:"
    yield "\n".join(("```python", *_code(card, contents), "```"))
    if contents.chat:
        yield "Each prompt goes through the tokenizer's chat template once, as above, and gets no further special tokens."
    if contents.onnx is not None:
        names = ", ".join(f"`{name}`" for name in contents.onnx.inputs)
        yield (
            f"`onnx/model.onnx` takes {names} and gives `weights`, prior and temperature included. On example prompts its weights "
            f"differ from those of the policy by {contents.onnx.difference:.1g}."
        )
    if contents.served is not None:
        yield (
            f"`bundle` is a model of MLflow that answers tables of candidates with the method `{contents.served}`: weights, merged "
            "items, and what each recaller gave to them. It needs no recaller."
        )
        yield "```sh\nmlflow models serve -m FOLDER/bundle --env-manager local -p 5001\n```"
    if card.numbers:
        yield f"The numbers, in this order: {', '.join(f'`{name}`' for name in card.numbers)}."


def _code(card: PolicyCard, contents: Contents) -> list[str]:
    """Returns the lines that load the policy and ask it for the weights of a prompt."""
    prompt = json.dumps(contents.example_prompt, ensure_ascii=False)
    if not contents.why_not_plain and not contents.chat:
        return [
            "from transformers import pipeline",
            "",
            'weigh = pipeline("text-classification", "FOLDER", top_k=None)',
            f"weights = weigh([{prompt}])[0]",
        ]
    loader = ["from transformers import AutoModelForSequenceClassification, AutoTokenizer", ""]
    loader += [f'{name} = Auto{kind}.from_pretrained("FOLDER")' for name, kind in _PLAIN_PARTS]
    tau = ""
    if contents.why_not_plain:
        loader = ["from softgrpo import load_policy", "", 'policy = load_policy("FOLDER/policy")']
        loader += ["model, tokenizer = policy.model, policy.tokenizer"]
        tau = " / policy.card.reading_tau"
    further = ""
    if card.numbers:
        loader += ['numbers = policy.typical_numbers()["numbers"]  # of an average window; pass your own']
        further += ", numbers=numbers"
    if card.prior_per_window:
        loader += ["log_prior = ...  # log of the weights that the gate in FOLDER/policy/gate gives, (1, recallers)"]
        further += ", log_prior=log_prior"
    tokens = f'tokenizer({prompt}, return_tensors="pt")'
    if contents.chat:
        chat = f'[{{"role": "user", "content": {prompt}}}]'
        options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
        tokens = f"tokenizer.apply_chat_template({chat}, {options})"
    return [*loader, f"tokens = {tokens}", f"weights = (model(**tokens{further}).logits{tau}).softmax(-1)"]


def _result(report: Report, served: str | None) -> Iterator[str]:
    summary, comparison = summarise(report), report.comparison
    k = summary.k
    keys = (comparison.best_single, comparison.best_static, *SHOWN, served)
    rows = [row for row in table_rows(comparison.table) if row["method"] in keys]
    yield "\n".join(f"- {sentence}" for sentence in summary.sentences)
    columns = [
        f"NDCG@{k}",
        "Recall@10",
        "Recall@20",
        "Δ best single",
        "%",
        "interval",
        "p",
        "Δ best static",
        "%",
        "interval",
        "p",
    ]
    yield "\n".join(
        (
            f"| method | {' | '.join(columns)} |",
            f"|---|{'---:|' * len(columns)}",
            *(f"| {row['label']} | {' | '.join(_cells(row, k))} |" for row in rows),
        )
    )
    evaluation = report.config.evaluation
    yield (
        f"Δ is the difference in NDCG@{k}. Intervals ({evaluation.confidence:.0%}) are from a paired bootstrap over users with "
        f"{evaluation.bootstrap:,} draws; p-values are Holm-corrected over all rows of the run's table, which has more rows."
    )


def _cells(row: Mapping[str, Any], k: int) -> list[str]:
    cells = [f"{row[name]:.4f}" for name in (f"ndcg@{k}", "recall@10", "recall@20")]
    for name in ("vs_single", "vs_static"):
        interval = signed_interval(row[f"{name}_low"], row[f"{name}_high"])
        p = p_value(row[f"{name}_p"], row.get(f"{name}_p_bound", False))
        cells += [signed(row[name]), percent(row[f"{name}_relative"]), interval, p]
    return cells


def _facts(card: PolicyCard, origin: Origin, report: Report) -> Iterator[tuple[str, str]]:
    """Gives names and values of what the policy was made from."""
    yield "dataset", origin.config.data.dataset
    yield from report.facts.items()
    yield "digest of the data (SHA-256 of the stage split)", f"`{origin.data_digest}`"
    yield "digest of the policy (SHA-256 of the stage grpo)", f"`{origin.policy_digest}`"
    yield "base model", f"{public_name(card.model_name)}{_versions(card)}"
    yield "merge", report.merge
    yield "seed", str(origin.config.seed)
    if origin.refit_of:
        yield "evaluated run, whose results these are", f"`{origin.refit_of}`"
    yield (
        "refit, which was not evaluated" if origin.refit_of else "run",
        f"`{origin.run_id}`, {origin.started:%Y-%m-%d}" + (f", commit `{origin.commit}`" if origin.commit else ""),
    )


def _versions(card: PolicyCard) -> str:
    """Returns versions or digests of the base weights in brackets, "" where only their name is known."""
    known = [f"{name} {value}" for name, value in card.weights.items() if value != card.model_name]
    return f" ({', '.join(known)})" if known else ""


def _limits(card: PolicyCard, config: ExperimentConfig, report: Report) -> Iterator[str]:
    users = report.comparison.measured.num_users
    yield f"One seed and {users:,} test users of one data set. The spread between seeds is not in the intervals."
    if config.data.max_users is not None:
        yield f"A sample: at most {config.data.max_users:,} users were used, so the numbers above are no result."
    yield f"The weights are for these recallers, trained on this data, merged by {report.merge}; for other lists they mean nothing."
    yield f"A prompt must be made as in training, at most {card.max_length} tokens: another text gives weights without meaning."
    yield "It says how much to trust each recaller; it knows no item, and it recommends none by itself."
    yield "The licence of the base model and the terms of the data apply; this card names neither."

"""An exported policy: a folder for the Hugging Face hub with the model, its card, and an ONNX file if wanted.

README.md       model card
export.json     what the folder holds, for machines: run, digests, files
config.json, model.safetensors, tokenizer...    a plain text classifier, where the policy can be one
policy/         else the policy with its wrapper, for `softgrpo.load_policy`
onnx/model.onnx
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from softgrpo.common.artifacts import PROMPTS
from softgrpo.common.columns import Columns
from softgrpo.common.digests import digest_file
from softgrpo.data.corpus import load_corpus
from softgrpo.evaluation.report_files import load_report
from softgrpo.policy.card import CARD as POLICY_CARD
from softgrpo.policy.card import PolicyCard
from softgrpo.policy.catalogue import short
from softgrpo.policy.model import Policy, save_policy
from softgrpo.policy.plain import as_plain, why_not_plain
from softgrpo.policy.prompt_files import first_prompt
from softgrpo.policy.prompts import PromptParts
from softgrpo.serving.model_card import Contents, Origin, model_card, public_name
from softgrpo.serving.onnx_file import write_onnx
from softgrpo.serving.pure_models import load_policy

CARD, RECORD = "README.md", "export.json"
POLICY, ONNX, BUNDLE = "policy", "onnx/model.onnx", "bundle"
EXAMPLE_ITEMS = 3
FILES = (CARD, RECORD)
"""What every exported folder has."""


@dataclass(frozen=True)
class Exported:
    """A written export.

    Attributes:
        folder: Where.
        why_not_plain: Why it is no plain text classifier, "" where it is one.
        files: Its files, relative to the folder, without `export.json`.
    """

    folder: Path
    why_not_plain: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Served:
    """A model for serving.

    Attributes:
        method: Key of its method in the table.
        write: Writes it into a new folder.
    """

    method: str
    write: Callable[[Path], None]


def export_policy(
    folder: Path, stages: Mapping[str, Path], origin: Origin, *, onnx: bool, served: Served | None = None
) -> Exported:
    """Writes the SofT-GRPO policy of a finished run into a folder.

    All is made aside and then moved in. Files of an earlier export in the folder are removed first, others stay.

    Args:
        folder: New, empty, or with an earlier export.
        stages: Folders of the stages `split`, `data`, `grpo` and `test`.
        origin: Where the policy comes from.
        onnx: Also write an ONNX file.
        served: Writes a model for serving, which the card then names.

    Raises:
        SoftGRPOError: The policy cannot be loaded, or the ONNX file cannot be made; the folder is left as it was.
    """
    policy = load_policy(stages["grpo"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as name:
        aside = Path(name)
        reason = _write_model(aside, policy, stages["grpo"])
        written = None
        if onnx:
            (aside / ONNX).parent.mkdir()
            written = write_onnx(aside / ONNX, policy)
        if served is not None:
            served.write(aside / BUNDLE)
        contents = Contents(
            reason,
            written,
            _example_prompt(stages),
            policy.tokenizer.chat_template is not None,
            None if served is None else served.method,
        )
        text = model_card(policy.card, origin, load_report(stages["test"]), contents)
        (aside / CARD).write_text(text, encoding="utf-8")
        files = _write_record(aside, origin, reason)
        _replace(folder, aside)
    return Exported(folder, reason, files)


def _write_model(folder: Path, policy: Policy, stored: Path) -> str:
    """Writes the policy, plain where that can be; returns why it cannot."""
    reason = why_not_plain(policy)
    if reason:
        unneeded = shutil.ignore_patterns("curves.json", "metrics.json", "log_prior.safetensors", "merged")
        shutil.copytree(stored, folder / POLICY, ignore=unneeded)
    else:
        save_policy(folder, as_plain(policy))
    if not reason or policy.card.adapter == "none":
        _write_public_card(folder / (POLICY if reason else "."), policy.card)
    return reason


def _write_public_card(folder: Path, card: PolicyCard) -> None:
    """Names the base model in a whole policy without a path of this machine; only adapters need to find it."""
    stored = json.loads((folder / POLICY_CARD).read_text(encoding="utf-8"))
    stored["model_name"] = public_name(card.model_name)
    (folder / POLICY_CARD).write_text(json.dumps(stored, indent=2), encoding="utf-8")


def _example_prompt(stages: Mapping[str, Path]) -> str:
    """Returns a prompt in the form that the policy knows: of the data set's first items, without anybody's profile."""
    items = load_corpus(stages["split"]).items
    titles = [title or f"item {token}" for title, token in zip(items[Columns.Title], items[Columns.Token], strict=True)]
    first = first_prompt(stages["data"] / PROMPTS)
    return PromptParts("", tuple(short(title) for title in titles[:EXAMPLE_ITEMS]), first.tail).text()


def _write_record(folder: Path, origin: Origin, reason: str) -> tuple[str, ...]:
    """Writes `export.json`; returns the other files."""
    files = {
        path.relative_to(folder).as_posix(): digest_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    record = {
        "run_id": origin.run_id,
        **({"refit_of": origin.refit_of} if origin.refit_of else {}),
        "started": origin.started.isoformat(),
        "commit": origin.commit,
        "seed": origin.config.seed,
        "data_digest": origin.data_digest,
        "policy_digest": origin.policy_digest,
        "plain": not reason,
        "why_not_plain": reason,
        "files": files,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return tuple(files)


def _replace(folder: Path, aside: Path) -> None:
    """Moves a finished export into its folder, in the place of an earlier one."""
    earlier = folder / RECORD
    if earlier.is_file():
        for name in json.loads(earlier.read_text(encoding="utf-8"))["files"]:
            (folder / name).unlink(missing_ok=True)
    _make_readable(aside)  # and not the folder, where others' files may be
    shutil.copytree(aside, folder, dirs_exist_ok=True)


def _make_readable(folder: Path) -> None:
    """Gives an export the rights of a new folder: the stages that it was copied from are their owner's alone."""
    os.umask(umask := os.umask(0o077))
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import softgrpo
from softgrpo.pipeline.keys import reached_modules
from softgrpo.stages.catalogue import EVERY


def test_type_checkers_and_the_import_agree() -> None:
    tree = ast.parse(Path(str(softgrpo.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == softgrpo.HOMES
    assert sorted(softgrpo.HOMES) == softgrpo.__all__


@pytest.mark.parametrize("name", softgrpo.__all__)
def test_each_name_resolves_to_what_its_module_defines(name: str) -> None:
    assert getattr(softgrpo, name).__name__ == name
    assert name in dir(softgrpo)


def test_a_name_that_is_not_public_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'merge'; public names: .*fuse"):
        softgrpo.merge  # noqa: B018


def test_a_name_loads_what_it_needs_and_no_more() -> None:
    code = "import sys, softgrpo; softgrpo.FusionConfig, softgrpo.SoftGRPOError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_no_stage_reaches_the_public_face() -> None:
    """Its key would hold all code."""
    assert not any("softgrpo" in reached_modules(stage.module) for stage in EVERY)


def test_fuse_by_hand() -> None:
    # rrf_k = 1: rank 1 is worth 1/2, rank 2 1/3. Item 5: .75/2 = .375; item 9: .75/3 + .25/2 = .375, a tie in value and in best
    # rank, so the lower id comes first; item 7: .25/3.
    items, scores = torch.tensor([[[5, 9], [9, 7]]]), torch.tensor([[[3.0, 1.0], [2.0, 1.0]]])
    fusion = softgrpo.FusionConfig(method="rrf", rrf_k=1, k=3)
    assert softgrpo.fuse(items, scores, torch.tensor([[0.75, 0.25]]), fusion).tolist() == [[5, 9, 7]]

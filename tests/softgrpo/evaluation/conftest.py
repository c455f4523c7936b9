from __future__ import annotations

import pytest

from tests.softgrpo.evaluation.setup_small import Small, small


@pytest.fixture(scope="package")
def case() -> Small:
    return small()

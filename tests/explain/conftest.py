"""One small model of each family, those with tokens and those without."""

import pytest
from small_models import STAGE_FAMILIES, TOKEN_FAMILIES, small

from vitkit.models import Backbone


@pytest.fixture(params=TOKEN_FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Backbone:
    """One model of each family that has tokens."""
    return small(request.param)


@pytest.fixture(params=STAGE_FAMILIES)
def stages(request: pytest.FixtureRequest) -> Backbone:
    """One model of each family that has none."""
    return small(request.param)

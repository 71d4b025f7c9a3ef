"""Small models of every family with tokens and of every family without."""

import pytest
from small_models import STAGE_FAMILIES, TOKEN_FAMILIES, small

from vitkit.models import Backbone


@pytest.fixture(params=TOKEN_FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Backbone:
    """A small model of a family with tokens."""
    return small(request.param)


@pytest.fixture(params=STAGE_FAMILIES)
def stages(request: pytest.FixtureRequest) -> Backbone:
    """A small model of a family without tokens."""
    return small(request.param)

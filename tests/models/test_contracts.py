"""The contract of `models`, for every family and preset."""

import pytest
import torch

from vitkit import config as configs
from vitkit import models
from vitkit.plugins.contracts import Check, NotApplicableError, title
from vitkit.plugins.contracts import model as contract

FAMILIES = models.families()
# Supervised training of every family is a test of the objectives.
CHECKS = [check for check in contract.CHECKS if check is not contract.supervised_training_takes_two_steps]


@pytest.mark.parametrize("check", CHECKS, ids=title)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_the_contract(family: str, check: Check) -> None:
    torch.manual_seed(0)
    try:
        check(family)
    except NotApplicableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", FAMILIES)
def test_configs_are_those_of_the_family(name: str) -> None:
    family = models.family(name)
    # A preset can be another family's config: DeiT without its distillation token is a plain ViT.
    modules = {type(config).__module__ for config in [family.TINY, *family.PRESETS.values()]}
    assert modules <= {family.Config.__module__, "vitkit.models.vit"}


@pytest.mark.parametrize("name", models.presets())
def test_every_preset_is_a_config_that_builds(name: str) -> None:
    config = models.preset(name)
    assert models.from_dict(models.to_dict(config)) == config
    assert isinstance(models.build(config, device="meta"), models.Backbone)


def test_unknown_names_list_similar_ones() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'vit-b/16'"):
        models.preset("vit-b16")
    with pytest.raises(ValueError, match=r"unknown key 'widht'; did you mean 'width'"):
        models.preset("vit-b/16", widht=3)
    with pytest.raises(ValueError, match=r"unknown model family 'vitt'"):
        models.from_dict({"family": "vitt"})


def test_overrides_are_typed() -> None:
    assert configs.override(models.preset("vit-b/16"), {"width": "1536"}).width == 1536
    with pytest.raises(ValueError, match=r"'width' is 'wide'; expected an integer"):
        configs.override(models.preset("vit-b/16"), {"width": "wide"})

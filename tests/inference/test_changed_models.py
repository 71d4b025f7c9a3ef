"""The fast copy of a model is used only while the model is as it was: every change is seen at the next call."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from vitkit import models
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.inference import Classifier, Predictor, engine
from vitkit.inference.engine import path
from vitkit.layers import Attention, Block, eval_mode
from vitkit.models import vit

CONFIG = replace(vit.TINY, depth=3, layer_scale=0.5, num_classes=7)
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


def classifier(config: Any = CONFIG, seed: int = 0) -> Classifier:
    """Returns a classifier of a small model with random weights."""
    torch.manual_seed(seed)
    model = models.build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("gamma"):
                parameter.normal_(float("norm" in name and name.endswith("weight")), 0.3)
    classes = config.num_classes
    return Classifier(model, Processor.squash(config.image_size), default_labels(classes))


def network(made: Classifier) -> Any:
    """Returns the model, whose parts have no types here."""
    return made.model


def direct(made: Classifier) -> np.ndarray:
    """Returns the logits of the model itself in evaluation mode."""
    with eval_mode(made.model), torch.inference_mode():
        parameter = next(made.model.parameters())
        return made.model(made.processor(IMAGE).to(parameter.dtype))[0].float().numpy()


def fast(made: Classifier, **options: Any) -> np.ndarray:
    """Returns the logits that a predictor gives, as `classify` and the commands get them."""
    (outcome,) = made.predictor(**options).logits([IMAGE])
    assert outcome.output is not None
    return outcome.output


@pytest.fixture(autouse=True)
def copies_of_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `auto` try fast copies of small models, too."""
    monkeypatch.setattr(path, "SMALL", 0)


def is_copied(made: Classifier, **options: Any) -> bool:
    return isinstance(made.predictor(**options).model, engine.FastModel)


Change = Callable[[Any, Any], object]
CHANGES: dict[str, Change] = {}


def change(function: Change) -> Change:
    CHANGES[function.__name__.replace("_", " ").strip()] = function
    return function


def weight(model: Any) -> nn.Parameter:
    return model.head.weight


# Values of weights.
CHANGES |= {
    "data zero": lambda m, keep: weight(m).data.zero_(),
    "data of one element": lambda m, keep: weight(m).data.__setitem__((2, 5), 40.0),
    "data item of a view": lambda m, keep: weight(m).data[3].view(-1)[1:2].fill_(-60.0),
    "data copy": lambda m, keep: weight(m).data.copy_(torch.ones_like(weight(m))),
    "data assigned": lambda m, keep: setattr(weight(m), "data", torch.zeros_like(weight(m))),
    "data of two parameters swapped": lambda m, keep: swap_data(
        m.blocks[0].mlp.fc1.weight, m.blocks[1].mlp.fc1.weight, m.blocks[0].norm1.weight, m.blocks[1].norm2.weight
    ),
    "detached view": lambda m, keep: weight(m).detach().mul_(-1),
    "view kept from before": lambda m, keep: keep["view"].mul_(-2),
    "array made before": lambda m, keep: keep["array"].__imul__(-2),
    "array made now": lambda m, keep: weight(m).detach().numpy().__imul__(-2),
    "array through dlpack": lambda m, keep: np.copyto(keep["dlpack"], -keep["dlpack"]),
    "bits through a view of integers": lambda m, keep: weight(m).data.view(torch.int32).bitwise_xor_(-(2**31)),
    "storage": lambda m, keep: weight(m).untyped_storage().fill_(0),
    "out argument": lambda m, keep: torch.mul(weight(m).detach(), -3, out=weight(m).data),
    "random in place": lambda m, keep: weight(m).data.normal_(),
    "index put": lambda m, keep: weight(m).data.index_fill_(1, torch.tensor([0, 3]), 20.0),
    "masked fill of a bias": lambda m, keep: m.head.bias.data.masked_fill_(m.head.bias.data > 0, -9.0),
    "foreach": lambda m, keep: torch._foreach_mul_([each.data for each in m.parameters()], 0.5),
    "position table": lambda m, keep: m.pos_embed.data.mul_(-4),
    "patch projection": lambda m, keep: m.patch_embed.proj.weight.data.neg_(),
    "gamma": lambda m, keep: m.blocks[1].ls2.gamma.data.mul_(-3),
    "init": lambda m, keep: nn.init.ones_(m.head.weight),
    "init of all weights": lambda m, keep: [nn.init.normal_(each, std=0.2) for each in m.parameters()],
    "load state dict": lambda m, keep: m.load_state_dict(keep["other"].state_dict()),
    "load state dict by assignment": lambda m, keep: m.load_state_dict(keep["other"].state_dict(), assign=True),
    "vector to parameters": lambda m, keep: nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(m.parameters()) * 0.7, m.parameters()
    ),
    "swapped tensors": lambda m, keep: torch.utils.swap_tensors(m.head.weight, nn.Parameter(-m.head.weight.detach())),
    "set": lambda m, keep: weight(m).requires_grad_(False).set_(-weight(m)),
    "deleted bias": lambda m, keep: setattr(m.head, "bias", None),
    "new parameter": lambda m, keep: setattr(m.head, "weight", nn.Parameter(-m.head.weight.detach())),
    "requires grad and one step": lambda m, keep: step(m),
    "fused optimizer": lambda m, keep: step(m, partial(torch.optim.AdamW, fused=True)),
    "averaged": lambda m, keep: average(m, keep["other"]),
    "tied": lambda m, keep: setattr(m.blocks[2].mlp.fc1, "weight", m.blocks[0].mlp.fc1.weight),
    "reset head": lambda m, keep: m.reset_head(7),
    "reset parameters": lambda m, keep: m.head.reset_parameters(),
    "init weights": lambda m, keep: m.init_weights(),
    "double": lambda m, keep: (m.double(), weight(m).data.mul_(-1)),
    "bfloat16": lambda m, keep: (m.to(torch.bfloat16), weight(m).data.mul_(-1)),
    "sharing memory": lambda m, keep: (m.share_memory(), weight(m).data.mul_(-1)),
}


@change
def no_grad_in_place(model: Any, keep: Any) -> None:
    with torch.no_grad():
        weight(model).mul_(-1)


@change
def inference_mode_copy(model: Any, keep: Any) -> None:
    with torch.inference_mode():
        weight(model).copy_(-weight(model))


@change
def inference_mode_data(model: Any, keep: Any) -> None:
    with torch.inference_mode():
        weight(model).data.mul_(-1)


@change
def version_restored(model: Any, keep: Any) -> None:
    with torch.autograd._unsafe_preserve_version_counter(weight(model)), torch.no_grad():
        weight(model).mul_(-1)


def swap_data(*tensors: Tensor) -> None:
    for one, other in zip(tensors[::2], tensors[1::2], strict=True):
        one.data, other.data = other.data, one.data


def step(model: Any, optimizer: Any = torch.optim.SGD) -> None:
    made = optimizer([each for each in model.parameters() if each.requires_grad], lr=0.5)
    model(torch.ones(1, 3, 32, 32)).square().sum().backward()
    made.step()


def average(model: Any, other: Any) -> None:
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        ours.data.lerp_(theirs.data, 0.5)


# Hooks, parametrizations and methods.
CHANGES |= {
    "forward hook on a block": lambda m, keep: m.blocks[1].register_forward_hook(lambda _, __, out: out * 0.1),
    "forward pre-hook": lambda m, keep: m.blocks[0].attn.register_forward_pre_hook(lambda _, args: (args[0] * 3,)),
    "hook with keywords": lambda m, keep: m.blocks[2].mlp.register_forward_hook(
        lambda _, __, ___, out: -out, with_kwargs=True
    ),
    "hook on a leaf": lambda m, keep: m.blocks[2].mlp.fc1.register_forward_hook(lambda _, __, out: -out),
    "hook on the activation": lambda m, keep: m.blocks[0].mlp.act.register_forward_hook(lambda _, __, out: out + 1),
    "hook on the model": lambda m, keep: m.register_forward_hook(lambda _, __, out: -out),
    "hook on the head": lambda m, keep: m.head.register_forward_hook(lambda _, __, out: out.flip(-1)),
    "hook on a dropout": lambda m, keep: m.blocks[0].dropout.register_forward_hook(lambda _, __, out: out * 2),
    "hook that changes the input in place": lambda m, keep: m.norm.register_forward_pre_hook(
        lambda _, args: (args[0].neg(),)
    ),
    "weight norm": lambda m, keep: parametrized_norm(m),
    "parametrization": lambda m, keep: parametrize.register_parametrization(m.head, "weight", Negated()),
    "spectral norm": lambda m, keep: parametrizations.spectral_norm(m.blocks[0].mlp.fc1),
    "orthogonal": lambda m, keep: parametrizations.orthogonal(m.blocks[1].attn.proj),
    "pruning": lambda m, keep: prune.l1_unstructured(m.head, "weight", amount=0.7),
    "forward of the model": lambda m, keep: replace_forward(m),
    "forward of a block": lambda m, keep: replace_forward(m.blocks[2]),
    "forward of a layer": lambda m, keep: replace_forward(m.blocks[1].attn.qkv),
    "method of the model": lambda m, keep: setattr(m, "represent", lambda features: -features.class_token),
    "method of a part": lambda m, keep: setattr(m.blocks[1].attn, "_split", split_with_double_queries(m)),
    "class of an object": lambda m, keep: setattr(m.blocks[1], "__class__", Reversed),
    "class of a linear layer": lambda m, keep: setattr(m.head, "__class__", LinearWithAdapter),
}


class Negated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


class Reversed(Block):
    def forward(self, x: Tensor, *inputs: Any, **named: Any) -> Tensor:
        return -super().forward(x, *inputs, **named)


class LinearWithAdapter(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(-1) * 2


def adapted(linear: nn.Linear) -> nn.Linear:
    made = LinearWithAdapter(linear.in_features, linear.out_features)
    made.load_state_dict(linear.state_dict())
    return made


def parametrized_norm(model: Any) -> None:
    parametrizations.weight_norm(model.head)
    model.head.parametrizations.weight.original0.data.mul_(3)


def replace_forward(module: Any) -> None:
    original = module.forward
    module.forward = lambda *args, **kwargs: -0.5 * original(*args, **kwargs)


def split_with_double_queries(model: Any) -> Any:
    original = model.blocks[1].attn._split

    def split(*args: Any) -> Any:
        q, k, v = original(*args)
        return 4 * q, k, -v

    return split


# Modules, attributes and the config.
CHANGES |= {
    "replaced block": lambda m, keep: m.blocks.__setitem__(1, reversed_block(m.blocks[1])),
    "replaced block of the same kind": lambda m, keep: m.blocks.__setitem__(1, copy.deepcopy(keep["other"].blocks[0])),
    "reordered blocks": lambda m, keep: reorder(m.blocks),
    "removed block": lambda m, keep: m.blocks.__delitem__(2),
    "added block": lambda m, keep: m.blocks.append(copy.deepcopy(keep["other"].blocks[0])),
    "replaced norm": lambda m, keep: setattr(m, "norm", nn.Identity()),
    "norm that mixes tokens": lambda m, keep: setattr(m, "norm", MeanOfTokens()),
    "swapped norms": lambda m, keep: swap_modules(m.blocks[0], "norm1", "norm2"),
    "replaced head": lambda m, keep: setattr(m, "head", copy.deepcopy(keep["other"].head)),
    "head of two layers": lambda m, keep: setattr(m, "head", nn.Sequential(Negated(), m.head, nn.Tanh())),
    "replaced activation": lambda m, keep: setattr(m.blocks[0].mlp, "act", nn.Tanh()),
    "activation by its name only": lambda m, keep: setattr(m.blocks[0].mlp, "act", GELU()),
    "replaced dropout": lambda m, keep: setattr(m.blocks[0], "dropout", Negated()),
    "replaced drop path": lambda m, keep: setattr(m.blocks[1], "drop_path", Negated()),
    "replaced dropout of an MLP": lambda m, keep: setattr(m.blocks[2].mlp, "dropout", MeanOfTokens()),
    "replaced layer scale": lambda m, keep: setattr(m.blocks[1], "ls1", Negated()),
    "replaced projection": lambda m, keep: setattr(m.blocks[1].attn, "qkv", adapted(m.blocks[1].attn.qkv)),
    "replaced fc2": lambda m, keep: setattr(m.blocks[0].mlp, "fc2", adapted(m.blocks[0].mlp.fc2)),
    "replaced MLP": lambda m, keep: setattr(m.blocks[0], "mlp", Negated()),
    "replaced patch embedding": lambda m, keep: setattr(m, "patch_embed", copy.deepcopy(keep["other"].patch_embed)),
    "module that reads the weight of a linear layer": lambda m, keep: setattr(m, "head", ByWeight(m.head)),
    "module with a list of tensors": lambda m, keep: setattr(m, "head", WithList(m.head)),
    "module with a tensor": lambda m, keep: setattr(m, "head", WithTensor(m.head)),
    "eps": lambda m, keep: [setattr(each.norm1, "eps", 3.0) for each in m.blocks],
    "eps of the final norm": lambda m, keep: setattr(m.norm, "eps", 5.0),
    "number of heads": lambda m, keep: [setattr(each.attn, "num_heads", 8) for each in m.blocks],
    "eps as a tensor that changes later": lambda m, keep: (
        setattr(m.norm, "eps", torch.tensor(1e-6)),
        fast(keep["made"]),
        m.norm.eps.fill_(5.0),
    ),
    "scale of several elements instead of a number": lambda m, keep: (
        setattr(m.blocks[0].attn, "dropout", torch.zeros(3)),
        weight(m).data.neg_(),
    ),
    "config": lambda m, keep: setattr(m, "config", replace(m.config, pool="gap")),
    "config in place": lambda m, keep: object.__setattr__(m.config, "pool", "gap"),
    "training mode of the model": lambda m, keep: (m.train(), weight(m).data.neg_()),
    "training mode of a part": lambda m, keep: (m.blocks[0].train(), m.norm.bias.data.add_(3)),
    "resized": lambda m, keep: (m.resize((16, 16)), m.resize((32, 32))),
}


def reversed_block(block: Block) -> Block:
    made = copy.deepcopy(block)
    made.__class__ = Reversed
    return made


class MeanOfTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 5 * x.mean(dim=1, keepdim=True)


class GELU(nn.Module):
    """Another class of the same representation as `nn.GELU`."""

    def __repr__(self) -> str:
        return "GELU(approximate='none')"

    def forward(self, x: Tensor) -> Tensor:
        return -2 * x


class ByWeight(nn.Module):
    """A classifier by cosine, as in few-shot learning."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return 8 * F.normalize(x, dim=-1) @ F.normalize(self.linear.weight, dim=-1).T


class WithList(nn.Module):
    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.scales = [torch.tensor(-3.0)]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scales[0]


class WithTensor(nn.Module):
    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.scale = torch.tensor(-3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


def reorder(blocks: nn.ModuleList) -> None:
    for index, block in enumerate(list(blocks)[::-1]):
        blocks[index] = block


def swap_modules(parent: nn.Module, one: str, other: str) -> None:
    first, second = parent.get_submodule(one), parent.get_submodule(other)
    setattr(parent, one, second)
    setattr(parent, other, first)


def assert_follows(made: Classifier, before: np.ndarray, **options: Any) -> None:
    """Asserts that a predictor gives the outputs of the changed model, and that the change is visible in them."""
    expected = direct(made)
    error, moved = np.abs(fast(made, **options) - expected).max(), np.abs(before - expected).max()
    assert moved > 0.05 * np.abs(before).max(), "the change does not change the outputs enough to be seen"
    assert error < 0.2 * moved


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_model_is_never_answered_by_its_old_copy(name: str) -> None:
    made = classifier()
    keep: dict[str, Any] = {"other": classifier(seed=1).model, "made": made}
    if name == "view kept from before":
        keep["view"] = network(made).head.weight.data
    if name == "array made before":
        keep["array"] = network(made).head.weight.detach().numpy()
    if name == "array through dlpack":
        keep["dlpack"] = torch.from_dlpack(network(made).head.weight.detach()).numpy()
    copied = is_copied(made)
    predictor = made.predictor()
    before = fast(made)
    np.testing.assert_array_equal(fast(made), before)
    assert copied == is_copied(made), "the copy is used as long as nothing changes"
    CHANGES[name](made.model, keep)
    assert_follows(made, before)
    (outcome,) = predictor.logits([IMAGE])  # a predictor from before the change
    np.testing.assert_allclose(outcome.output, fast(made), atol=1e-5)


def test_a_copy_is_made_again_after_weights_have_changed_and_used_as_long_as_they_have_not() -> None:
    made = classifier()
    if not is_copied(made):
        pytest.skip("no path on this device is faster than the model itself")
    first = made.predictor().model
    made.model.state_dict()
    copy.deepcopy(made.model)
    made.model(torch.ones(1, 3, 32, 32)).sum().backward()
    direct(made)
    made.train().eval()
    assert made.predictor().model is first, "reading weights is not a change"
    network(made).head.bias.data[0] += 3
    assert made.predictor().model is not first
    assert is_copied(made)


def test_every_predictor_of_a_model_sees_a_change() -> None:
    made = classifier()
    predictors = [Predictor(made.model, made.processor, batch_size=size) for size in (1, 2, 3)]
    for predictor in predictors:
        list(predictor.logits([IMAGE]))
    network(made).head.weight.data.neg_()
    for predictor in predictors:  # the first one marks the storages again
        (outcome,) = predictor.logits([IMAGE])
        np.testing.assert_allclose(outcome.output, fast(made), atol=1e-5)


def test_a_copy_that_is_still_referred_to_runs_the_model_itself() -> None:
    made = classifier()
    copied = made.predictor(precision="bfloat16").model
    batch = torch.ones(2, 3, 32, 32)
    features = copied.features(batch)
    handle = network(made).head.register_forward_hook(lambda _, __, out: out + 100)
    made.model.train()
    with torch.no_grad():
        expected = made.model.eval()(batch)
        assert torch.equal(copied(batch), expected)
        assert torch.equal(copied.logits(copied.features(batch)), expected)
        assert torch.allclose(copied.logits(features), expected, atol=0.5), (
            "features of the copy, the head of the model"
        )
        handle.remove()
        made.model.to(torch.float64)
        assert copied(batch).dtype == torch.float64


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_model_with_hooks_runs_itself_and_may_be_copied_without_them(precision: str) -> None:
    made = classifier()
    before = fast(made, precision=precision)
    handle = network(made).blocks[1].register_forward_hook(lambda _, __, out: out * 0.1)
    assert_follows(made, before, precision=precision)
    assert "a forward hook on blocks.1" in made.predictor(precision=precision).summary or precision == "float32"
    hooked = fast(made, precision=precision)
    network(made).blocks[1].register_forward_hook(lambda _, __, out: -out)
    assert_follows(made, hooked, precision=precision)
    handle.remove()
    network(made).blocks[1]._forward_hooks.clear()
    np.testing.assert_allclose(fast(made, precision=precision), before, atol=1e-5)


def test_what_needs_a_copy_is_refused_for_a_model_with_hooks() -> None:
    made = classifier()
    network(made).norm.register_forward_pre_hook(lambda _, args: args)
    for options in ({"merge_tokens": 2}, {"compile": True}):
        with pytest.raises(ValueError, match=r"needs a copy of the model, but the model has a forward hook on norm"):
            fast(made, **options)


def test_global_hooks_and_modified_classes_and_functions_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = classifier()
    before = fast(made)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _, out: -out if isinstance(module, Attention) else None
    )
    assert_follows(made, before)
    handle.remove()
    np.testing.assert_array_equal(fast(made), before)
    forward, gelu = Block.forward, F.gelu
    with monkeypatch.context() as patch:
        patch.setattr(Block, "forward", lambda self, x, *inputs, **named: 0.3 * forward(self, x, *inputs, **named))
        assert_follows(made, before)
    with monkeypatch.context() as patch:
        patch.setattr(vit.ViT, "represent", lambda self, features: -features.class_token)
        assert_follows(made, before)
    with monkeypatch.context() as patch:
        patch.setattr(F, "gelu", lambda *args, **options: 2 - gelu(*args, **options))
        assert_follows(made, before)
    np.testing.assert_array_equal(fast(made), before)


def test_statistics_of_batch_norms_are_seen() -> None:
    made = classifier(models.family("resnet").TINY)
    before = fast(made)
    with torch.no_grad():
        made.model.train()(torch.rand(8, 3, *made.config.image_size) * 5)
    made.model.eval()
    assert_follows(made, before)
    before = fast(made)
    next(module for module in made.model.modules() if isinstance(module, nn.BatchNorm2d)).running_mean.data.add_(2.0)
    assert_follows(made, before)


def test_references_to_all_weights_do_not_hide_changes() -> None:
    made = classifier()
    held = made.model.state_dict()
    before = fast(made)
    first = made.predictor().model
    assert made.predictor().model is first
    held["head.weight"].numpy()[:] *= -1
    assert_follows(made, before)


def test_other_models_and_processors_and_labels_are_used_at_once() -> None:
    made, other = classifier(), classifier(seed=2)
    before = fast(made)
    made.model = other.model
    assert_follows(made, before)
    before = fast(made)
    made.processor = replace(made.processor, mean=(0.1, 0.2, 0.3), std=(0.05, 0.05, 0.05))
    assert_follows(made, before)
    made.labels = tuple("abcdefg")
    ((_, (prediction,)),) = made.classify(IMAGE, top=1)
    assert prediction.label == made.labels[int(direct(made).argmax())]


def test_changes_in_the_middle_of_a_stream_are_seen() -> None:
    made = classifier()
    outcomes = Predictor(made.model, made.processor, batch_size=1).logits([IMAGE] * 30)
    first = next(outcomes).output
    network(made).head.weight.data.neg_()
    last = list(outcomes)[-1].output
    assert first is not None
    np.testing.assert_allclose(last, direct(made), atol=0.2 * np.abs(first - direct(made)).max())


def test_changes_are_seen_without_the_functions_of_pytorch_for_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_cow_tensor", "_storage_Use_Count"):
        monkeypatch.delattr(torch._C, name)
    made = classifier()
    before = fast(made)
    first = made.predictor().model
    assert made.predictor().model is first
    network(made).head.weight.data.neg_()
    assert_follows(made, before)


def test_hooks_of_the_classifier_itself_are_used() -> None:
    made = classifier()
    labels = [p.label for p in made.classify(IMAGE)[0].predictions]
    handle = made.register_forward_hook(lambda _, __, out: -out)
    hooked = [p.label for p in made.classify(IMAGE, top=7)[0].predictions]
    assert hooked[:1] != labels[:1]
    assert hooked == [made.labels[index] for index in (direct(made)).argsort(kind="stable")]
    handle.remove()
    assert [p.label for p in made.classify(IMAGE)[0].predictions] == labels
    made.forward = lambda images: -made.model(images)  # type: ignore[method-assign]
    assert [p.label for p in made.classify(IMAGE, top=7)[0].predictions] == hooked

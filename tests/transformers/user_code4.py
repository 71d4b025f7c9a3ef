"""Programs that users write for transformers 4; they give the same results with vitkit and with transformers 4.57.6.

Usage: PYTHONPATH=(folder of transformers 4) python user_code4.py FOLDER. FOLDER has a saved classifier; the results of
every program are written to results.pth.
"""

import copy
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 2, 1, 1])
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL |= {"image_size": 16, "patch_size": 8, "encoder_stride": 8}
Results = dict[str, Any]
Program = Callable[[ModuleType, str], Results]


def load(library: ModuleType, folder: str, **options: Any) -> Any:
    return library.ViTForImageClassification.from_pretrained(folder, **options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def train(model: Any, groups: Any = None, steps: int = 20) -> list[float]:
    """Returns the losses of a training run."""
    groups = groups or [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    losses = []
    model.train()
    for _ in range(steps):
        loss = model(pixel_values=IMAGES, labels=LABELS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def printed(library: ModuleType, folder: str) -> Results:
    settings = SMALL | {"num_hidden_layers": 3}
    activations = [
        "gelu_new",
        "gelu_fast",
        "gelu_pytorch_tanh",
        "quick_gelu",
        "silu",
        "swish",
        "relu",
        "mish",
        "linear",
    ]
    activations += [
        "gelu_10",
        "gelu_python_tanh",
        "laplace",
        "relu2",
        "prelu",
        "gelu_accurate",
        "leaky_relu",
        "sigmoid",
    ]
    return {
        kind: str(getattr(library, kind)(library.ViTConfig(**settings)))
        for kind in ("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling")
    } | {name: str(library.ViTModel(library.ViTConfig(**SMALL, hidden_act=name))) for name in activations}


def names(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    return {
        "parameters": [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()],
        "modules": [(name, type(module).__name__) for name, module in model.named_modules()],
        "state": list(model.state_dict()),
        "encoder": list(model.vit.encoder.state_dict()),
        "children": [name for name, _ in model.vit.encoder.layer[0].named_children()],
        "training": [name for name, module in model.named_modules() if module.training],
    }


def frozen_encoder(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    for parameter in model.vit.encoder.parameters():
        parameter.requires_grad = False
    return {"trainable": count(model), "losses": train(model), "logits": model.eval()(IMAGES).logits}


def frozen_by_name(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "encoder.layer.1" in name or "classifier" in name
    return {"trainable": count(model), "losses": train(model), "logits": model.eval()(IMAGES).logits}


def frozen_parts(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    model.vit.embeddings.requires_grad_(False)
    model.vit.encoder.layer[0].attention.attention.requires_grad_(False)
    for parameter in model.vit.encoder.layer[1].intermediate.parameters():
        parameter.requires_grad = False
    return {"trainable": count(model), "losses": train(model)}


def groups(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    rates = {model.vit.embeddings: 1e-4, model.vit.encoder: 1e-3, model.vit.layernorm: 1e-3, model.classifier: 1e-2}
    losses = train(model, [{"params": list(module.parameters()), "lr": rate} for module, rate in rates.items()])
    return {"losses": losses, "logits": model.eval()(IMAGES).logits}


class MeanAttention(nn.Module):
    """Attention with equal weights."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, hidden_states: Tensor, head_mask: Tensor | None = None) -> tuple[Tensor, None]:
        return hidden_states.mean(1, keepdim=True).expand_as(hidden_states) * self.scale, None


class Scaled(nn.Module):
    """Replaces `ViTOutput`."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return input_tensor + 0.1 * hidden_states[..., :32]


class Twice(nn.Module):
    """Replaces a layer by one that runs it twice."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, head_mask: Tensor | None = None) -> Tensor:
        return self.layer(self.layer(hidden_states, head_mask), head_mask)


def replaced(library: ModuleType, folder: str) -> Results:
    results = {}
    for name in ("attention", "output", "layer", "shorter", "activation", "value", "embedding", "norm"):
        model = load(library, folder)
        layers = model.vit.encoder.layer
        if name == "attention":
            layers[0].attention.attention = MeanAttention()
        elif name == "output":
            layers[1].output = Scaled()
        elif name == "layer":
            layers[0] = Twice(layers[0])
        elif name == "shorter":
            model.vit.encoder.layer = nn.ModuleList(list(layers)[:1])
        elif name == "activation":
            layers[0].intermediate.intermediate_act_fn = nn.ReLU()
        elif name == "value":
            layers[0].attention.attention.value = nn.Sequential(layers[0].attention.attention.value, nn.Tanh())
        elif name == "embedding":
            model.vit.embeddings.patch_embeddings.projection = nn.Sequential(nn.AvgPool2d(8), Channels())
        else:
            layers[1].layernorm_before = nn.Identity()
        if name != "embedding":
            results[name] = model(IMAGES).logits
            results[f"{name} trained"] = train(model, steps=3)
        results[f"{name} names"] = list(model.state_dict())
    return results


class Channels(nn.Module):
    """Repeats channels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True).expand(-1, 32, -1, -1)


def patched(library: ModuleType, folder: str) -> Results:
    results = {}
    model = load(library, folder)
    attention = model.vit.encoder.layer[0].attention.attention
    before = attention.forward
    attention.forward = lambda hidden_states, head_mask=None: (2 * before(hidden_states, head_mask)[0], None)
    results["attention"] = model(IMAGES).logits
    model = load(library, folder)
    model.vit.encoder.layer[1].intermediate.forward = lambda hidden_states: torch.zeros(*hidden_states.shape[:2], 64)
    results["intermediate"] = model(IMAGES).logits
    model = load(library, folder)
    encode = model.vit.encoder.forward
    model.vit.encoder.forward = lambda *args, **kwargs: encode(*args, **kwargs)
    results["encoder"] = model(IMAGES).logits
    return results


def casts(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    model.vit.encoder.half()
    dtypes = {name: str(parameter.dtype) for name, parameter in model.named_parameters()}
    model = load(library, folder)
    model.vit.encoder.layer[0].attention.double()
    hook = model.vit.encoder.layer[0].attention.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    out = model.vit.encoder.layer[0].attention.register_forward_hook(lambda _, args, output: output.float())
    logits = model(IMAGES).logits
    hook.remove()
    out.remove()
    return {"dtypes": dtypes, "double": logits}


def encoder_calls(library: ModuleType, folder: str) -> Results:
    model = load(library, folder).vit
    tokens = model.embeddings(IMAGES)
    encoded = model.encoder(tokens)
    layer = model.encoder.layer[0]
    normed = layer.layernorm_before(tokens)
    context, _ = layer.attention.attention(normed)
    return {
        "encoder": encoded.last_hidden_state,
        "first": encoded[0],
        "layer": layer(tokens),
        "attention": layer.attention(normed),
        "context": context,
        "output": layer.output(layer.intermediate(normed), tokens),
        "normed": model.layernorm(encoded.last_hidden_state),
        "numbers": [layer.attention.attention.num_attention_heads, layer.attention.attention.attention_head_size],
        "more": [layer.attention.attention.all_head_size, layer.attention.attention.scaling, layer.output.dropout.p],
    }


def hooks(library: ModuleType, folder: str) -> Results:
    model = load(library, folder, attn_implementation="eager")
    calls: list[str] = []
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, module in leaves]
    model(IMAGES)
    for handle in handles:
        handle.remove()
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            seen[name] = output

        return hook

    layer = model.vit.encoder.layer[1]
    modules = {"layer": layer, "attention": layer.attention, "self": layer.attention.attention, "output": layer.output}
    for name, module in (modules | {"encoder": model.vit.encoder, "intermediate": layer.intermediate}).items():
        module.register_forward_hook(keep(name))
    model(IMAGES, output_attentions=True)
    return {"calls": calls, "probabilities": seen["self"][1], "encoder": seen["encoder"].last_hidden_state} | {
        name: seen[name] for name in ("layer", "attention", "output", "intermediate")
    }


def grad_cam(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    saved: dict[str, Tensor] = {}
    target = model.vit.encoder.layer[-1].layernorm_before
    target.register_forward_hook(lambda _, __, output: saved.update(activations=output))
    target.register_full_backward_hook(lambda _, __, gradients: saved.update(gradients=gradients[0]))
    model(IMAGES).logits[:, 0].sum().backward()
    return {"cam": (saved["activations"] * saved["gradients"].mean(1, keepdim=True)).sum(-1)}


def checkpointed(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    before = model.is_gradient_checkpointing
    model.gradient_checkpointing_enable({"use_reentrant": False})
    layer = model.vit.encoder.layer[0]
    calls: list[Any] = []
    layer.attention.register_forward_pre_hook(lambda *_: calls.append(1))
    losses = train(model, steps=3)
    results = {"flags": [before, model.is_gradient_checkpointing, layer.gradient_checkpointing], "losses": losses}
    model.gradient_checkpointing_disable()
    train(model, steps=1)
    config = library.ViTConfig.from_pretrained(folder)
    config.gradient_checkpointing = True
    by_config = library.ViTForImageClassification(config)
    results["by config"] = [by_config.is_gradient_checkpointing, hasattr(by_config.config, "gradient_checkpointing")]
    return results | {"calls": len(calls), "after": model.is_gradient_checkpointing}


def pruned(library: ModuleType, folder: str) -> Results:
    model = load(library, folder, attn_implementation="eager")
    model.prune_heads({0: [1, 2], 1: [3]})
    attention = model.vit.encoder.layer[0].attention
    return {
        "logits": model(IMAGES).logits,
        "shapes": [tuple(parameter.shape) for parameter in model.parameters()],
        "numbers": [attention.attention.num_attention_heads, attention.attention.all_head_size],
        "pruned": sorted(attention.pruned_heads),
        "trained": train(model, steps=3),
    }


def quantized(library: ModuleType, folder: str) -> Results:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(load(library, folder), {nn.Linear}, dtype=torch.qint8)
        kinds = [type(module).__name__ for module in model.modules()]
        return {"logits": model(IMAGES).logits, "kinds": kinds}


def traced(library: ModuleType, folder: str) -> Results:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced_model = torch.jit.trace(OnlyLogits(load(library, folder)), IMAGES)
        buffer = io.BytesIO()
        torch.jit.save(traced_model, buffer)
        buffer.seek(0)
        names = [name for name, _ in traced_model.named_modules()]
        return {"logits": torch.jit.load(buffer)(IMAGES), "names": names}


class OnlyLogits(nn.Module):
    """Returns a tensor."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def subclass(library: ModuleType, folder: str) -> Results:
    class TwoHeadsForImageClassification(library.ViTForImageClassification):  # type: ignore[name-defined,misc]
        def __init__(self, config: Any):
            super().__init__(config)
            self.second = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 2))
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            super()._init_weights(module)
            if isinstance(module, nn.Sequential):
                module[2].weight.data.fill_(0.25)

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
            tokens = self.vit(pixel_values).last_hidden_state[:, 0]
            logits = self.classifier(tokens) + self.second(tokens).sum(-1, keepdim=True)
            loss = None if labels is None else self.loss_function(labels, logits, self.config)
            return {"logits": logits, "loss": loss}

    torch.manual_seed(0)
    model = TwoHeadsForImageClassification.from_pretrained(folder)
    base = load(library, folder).state_dict()
    fresh = TwoHeadsForImageClassification(model.config)
    first = model.second[0].weight
    return {
        "unchanged": [
            name for name, tensor in model.state_dict().items() if torch.equal(tensor, base.get(name, tensor))
        ],
        "filled": [model.second[2].weight, fresh.second[2].weight, model.second[0].bias],
        "std": 0.01 < first.detach().std().item() < 0.04,
        "shape": tuple(model(IMAGES)["logits"].shape),
        "loss": bool(torch.isfinite(model(IMAGES, labels=LABELS)["loss"])),
    }


def losses(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    model.loss_function = lambda labels, logits, config, **_: (logits**2).sum() + labels.sum()
    embeddings = copy.deepcopy(model.get_input_embeddings())
    embeddings.projection.weight.data.zero_()
    custom = model(IMAGES, labels=LABELS).loss
    model.vit.embeddings.patch_embeddings = embeddings
    return {"custom": custom, "zeroed": model(IMAGES).logits}


def seeded(library: ModuleType, folder: str) -> Results:
    torch.manual_seed(3)
    model = library.ViTForMaskedImageModeling(library.ViTConfig(**SMALL))
    return dict(model.state_dict())


PROGRAMS: dict[str, Program] = {
    program.__name__: program
    for program in (
        *(printed, names, frozen_encoder, frozen_by_name, frozen_parts, groups, replaced, patched, casts),
        *(encoder_calls, hooks, grad_cam, checkpointed, pruned, quantized, traced, subclass, losses, seeded),
    )
}


def main(folder: Path) -> None:
    """Runs every program with transformers 4."""
    import transformers

    assert transformers.__version__.startswith("4."), transformers.__version__
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    results = {}
    for name, program in PROGRAMS.items():
        torch.manual_seed(0)
        results[name] = program(transformers, str(folder))
    torch.save(results, folder / "results.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Programs that users write for transformers 5.9 and later; they give the same results with vitkit."""

from types import ModuleType
from typing import Any

from torch import Tensor, nn
from user_code4 import IMAGES, LABELS, Program, Results, count, load, train


def frozen_layers(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    for parameter in model.vit.layers.parameters():
        parameter.requires_grad = False
    return {"trainable": count(model), "losses": train(model), "logits": model.eval()(IMAGES).logits}


def frozen_parts(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    model.vit.layers[0].mlp.requires_grad_(False)
    model.vit.layers[0].attention.q_proj.requires_grad_(False)
    for parameter in model.vit.layers[1].attention.parameters():
        parameter.requires_grad = False
    model.get_submodule("vit.layers.1.mlp.fc1").requires_grad_(False)
    model.get_parameter("vit.layers.1.mlp.fc2.bias").requires_grad_(False)
    return {"trainable": count(model), "losses": train(model)}


def groups(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    parts = [model.vit.embeddings, *model.vit.layers, model.vit.layernorm, model.classifier]
    losses = train(model, [{"params": list(part.parameters()), "lr": 1e-3 * 2**i} for i, part in enumerate(parts)])
    return {"losses": losses}


class Doubled(nn.Module):
    """Replaces an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return 2 * self.linear(hidden_states)


class Mean(nn.Module):
    """Replaces an attention, which returns weights, too."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        return hidden_states.mean(1, keepdim=True).expand_as(hidden_states), None


def replaced(library: ModuleType, folder: str) -> Results:
    results: Results = {}
    for name in ("mlp", "fc1", "activation", "attention", "value", "shorter", "layer", "dropout"):
        model = load(library, folder)
        layer = model.vit.layers[0]
        if name == "mlp":
            layer.mlp = Doubled()
            assert isinstance(layer.mlp, Doubled)
        elif name == "fc1":
            layer.mlp.fc1 = nn.Sequential(layer.mlp.fc1, nn.Tanh())
        elif name == "activation":
            layer.mlp.activation_fn = nn.ReLU()
        elif name == "attention":
            layer.attention = Mean()
        elif name == "value":
            layer.attention.v_proj = nn.Sequential(layer.attention.v_proj, nn.Tanh())
        elif name == "shorter":
            model.vit.layers = model.vit.layers[:1]
        elif name == "layer":
            model.vit.layers[0] = model.vit.layers[1]
        else:
            layer.dropout = nn.Identity()
        results[name] = model(IMAGES).logits
        results[f"{name} trained"] = train(model, steps=3)
    return results


def patched(library: ModuleType, folder: str) -> Results:
    results = {}
    model = load(library, folder)
    model.vit.layers[1].mlp.forward = lambda hidden_states: hidden_states * 0.5
    results["mlp"] = model(IMAGES).logits
    model = load(library, folder)
    before = model.vit.layers[0].attention.o_proj.forward
    model.vit.layers[0].attention.o_proj.forward = lambda hidden_states: 2 * before(hidden_states)
    results["o_proj"] = model(IMAGES).logits
    return results


def hooks(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    seen: dict[str, Any] = {}
    for name in ("vit.layers.0", "vit.layers.0.mlp", "vit.layers.1.mlp.fc1", "vit.layers.1.attention.k_proj"):
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    model.vit.layers[1].mlp.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    model.vit.layers[1].mlp.register_full_backward_hook(lambda _, __, gradients: seen.update(gradient=gradients[0]))
    output = model(IMAGES, labels=LABELS)
    output.loss.backward()
    return {"logits": output.logits} | {name: seen[name] for name in sorted(seen)}


def casts(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    model.vit.layers[0].mlp.double()
    model.vit.layers[1].attention.q_proj.half()
    layer = model.vit.layers[0]
    mlp = {name: tensor.dtype for name, tensor in layer.mlp.state_dict().items()}
    return {"mlp": mlp, "dtypes": sorted(str(parameter.dtype) for parameter in model.parameters())}


def checkpointed(library: ModuleType, folder: str) -> Results:
    model = load(library, folder)
    model.activation_checkpointing_enable(every_n_layers=2)
    calls: list[str] = []
    for index, layer in enumerate(model.vit.layers):
        layer.register_forward_pre_hook(lambda *_, index=index: calls.append(f"layer {index}"))
        layer.layernorm_after.register_forward_pre_hook(lambda *_, index=index: calls.append(f"norm {index}"))
    losses = train(model, steps=3)
    flags = [layer.gradient_checkpointing for layer in model.vit.layers]
    return {"flags": flags, "calls": calls, "losses": losses, "enabled": model.is_activation_checkpointing}


PROGRAMS: dict[str, Program] = {
    program.__name__: program
    for program in (frozen_layers, frozen_parts, groups, replaced, patched, hooks, casts, checkpointed)
}

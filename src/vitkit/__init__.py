"""A complete Vision Transformer toolkit: classify, train, fine-tune, evaluate, explain and convert.

    load            loads a checkpoint from anywhere as a classifier
    classify        predicts the classes of images
    embed           computes feature vectors of images
    explain         draws attention maps and other explanations
    finetune        fine-tunes a checkpoint on your own images
    train           trains a model by a recipe, or an architecture on your own images
    resume          resumes a stopped run, or extends a finished one
    evaluate        computes metrics of a model on labeled images
    predict         labels all images of a folder or a data source
    convert         converts a checkpoint to another format
    export          exports a model to ONNX, OpenVINO or torch.export
    create_model    builds a model by name
    list_models     lists the architectures
    list_recipes    lists the training recipes

`help(vitkit.finetune)` describes a function. The functions log to the logger `vitkit`, which shows nothing by default.
vitkit also exports the classes that these functions use, and the names of Hugging Face transformers
(`vitkit.transformers`). The names of timm are in `vitkit.timm`. A name is imported when it is first used, so that
`import vitkit` is fast.
"""

import ast
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

__version__ = version("vitkit")

# `__init__.pyi` lists every name once, for type checkers and for the imports here.
_MODULES = {
    alias.name: str(node.module)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}

__all__ = sorted([*_MODULES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        module = _MODULES[name]
        return import_module(f"vitkit.{name}") if module == "vitkit" else getattr(import_module(module), name)
    raise AttributeError(f"module 'vitkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return list(__all__)

"""The public names of `import vitkit`, and that heavy libraries are imported on first use only."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oracles import oracle

import vitkit

NAMES = [
    "AutoBackbone",
    "AutoConfig",
    "AutoFeatureExtractor",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
    "AutoModelForPreTraining",
    "AutoModelForSemanticSegmentation",
    "BeitBackbone",
    "BeitConfig",
    "BeitFeatureExtractor",
    "BeitForImageClassification",
    "BeitForMaskedImageModeling",
    "BeitForSemanticSegmentation",
    "BeitImageProcessor",
    "BeitImageProcessorFast",
    "BeitImageProcessorPil",
    "BeitModel",
    "BitImageProcessor",
    "BitImageProcessorFast",
    "BitImageProcessorPil",
    "Classification",
    "Classifications",
    "Classifier",
    "ConvNextFeatureExtractor",
    "ConvNextImageProcessor",
    "ConvNextImageProcessorFast",
    "ConvNextImageProcessorPil",
    "DINOv3ViTBackbone",
    "DINOv3ViTConfig",
    "DINOv3ViTImageProcessor",
    "DINOv3ViTImageProcessorFast",
    "DINOv3ViTModel",
    "DeiTConfig",
    "DeiTFeatureExtractor",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "DeiTForMaskedImageModeling",
    "DeiTImageProcessor",
    "DeiTImageProcessorFast",
    "DeiTImageProcessorPil",
    "DeiTModel",
    "Dinov2Backbone",
    "Dinov2Config",
    "Dinov2ForImageClassification",
    "Dinov2Model",
    "Dinov2WithRegistersBackbone",
    "Dinov2WithRegistersConfig",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersModel",
    "Embedding",
    "Embeddings",
    "Evaluation",
    "FlaxViTForImageClassification",
    "FlaxViTModel",
    "ImageError",
    "LabelledPredictions",
    "Limits",
    "Prediction",
    "Predictor",
    "Processor",
    "ResNetBackbone",
    "ResNetConfig",
    "ResNetForImageClassification",
    "ResNetModel",
    "Task",
    "TrainedRun",
    "UntrainedHeadWarning",
    "ViTConfig",
    "ViTFeatureExtractor",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTImageProcessor",
    "ViTImageProcessorFast",
    "ViTImageProcessorPil",
    "ViTMAEConfig",
    "ViTMAEForPreTraining",
    "ViTMAEModel",
    "ViTMSNConfig",
    "ViTMSNForImageClassification",
    "ViTMSNModel",
    "ViTModel",
    "__version__",
    "classify",
    "convert",
    "create_model",
    "embed",
    "evaluate",
    "explain",
    "export",
    "finetune",
    "list_models",
    "list_recipes",
    "load",
    "open_image",
    "pipeline",
    "plugins",
    "predict",
    "resume",
    "train",
]


def modules_after(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {statement}; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_the_public_names_are_pinned() -> None:
    assert sorted(vitkit.__all__) == vitkit.__all__ == NAMES
    for name in NAMES:
        assert name.startswith("Flax") or getattr(vitkit, name) is not None
    assert dir(vitkit) == NAMES


def test_the_public_names_of_flax_can_be_imported() -> None:
    oracle("flax")
    for name in NAMES:
        assert getattr(vitkit, name) is not None


def test_importing_vitkit_imports_no_heavy_library() -> None:
    heavy = {"torch", "numpy", "PIL", "huggingface_hub", "safetensors", "matplotlib", "jax", "rich", "tyro"}
    assert not modules_after("import vitkit") & heavy


def test_help_imports_no_torch() -> None:
    script = "from vitkit import cli; cli.main(['--help']); [cli.command(name) for name in cli.commands()]"
    assert not modules_after(script) & {"torch", "PIL", "matplotlib", "huggingface_hub", "jax"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"nothing_of_this_name"):
        vitkit.nothing_of_this_name  # noqa: B018


def test_the_stub_lists_every_name_once() -> None:
    stub = Path(vitkit.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    names = re.findall(r"(\w+) as (\w+)", stub)
    assert all(one == other for one, other in names)
    assert sorted(one for one, _ in names) == [name for name in NAMES if name != "__version__"]


LISTED = re.findall(r"(?m)^    ([a-z_]+)  ", vitkit.__doc__ or "")
FUNCTIONS = [name for name in LISTED if name in NAMES]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_are_typed_and_documented(name: str) -> None:
    """One file per function, no `**options: Any`, every parameter in the docstring, and an example."""
    function = getattr(vitkit, name)
    doc, signature = function.__doc__, inspect.signature(function)
    assert doc.splitlines()[0].endswith(".")
    assert ">>> " in doc, "the docstring has no example"
    for parameter in signature.parameters.values():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), parameter
        assert parameter.annotation is not parameter.empty
        assert f"{parameter.name}:" in doc, f"{name} does not document {parameter.name}"
    assert signature.return_annotation is not signature.empty
    assert f"    {name} " in (vitkit.__doc__ or ""), f"help(vitkit) does not list {name}"

"""The public names of vitkit and their modules, for type checkers and for `vitkit.__getattr__`.

This is the only list of them: a name is imported from its module when it is first used.
"""
# ruff: noqa: I001 - one import per module

from vitkit import plugins as plugins
from vitkit.api._runs import TrainedRun as TrainedRun
from vitkit.api.classify import classify as classify
from vitkit.api.convert import convert as convert
from vitkit.api.create_model import create_model as create_model
from vitkit.api.embed import embed as embed
from vitkit.api.evaluate import evaluate as evaluate
from vitkit.api.explain import explain as explain
from vitkit.api.export import export as export
from vitkit.api.finetune import finetune as finetune
from vitkit.api.list_models import list_models as list_models
from vitkit.api.list_recipes import list_recipes as list_recipes
from vitkit.api.load import load as load
from vitkit.api.predict import (
    LabelledPredictions as LabelledPredictions,
    predict as predict,
)
from vitkit.api.resume import resume as resume
from vitkit.api.train import train as train
from vitkit.data.processor import Processor as Processor
from vitkit.evaluation.protocol import Evaluation as Evaluation
from vitkit.images import (
    ImageError as ImageError,
    Limits as Limits,
    open_image as open_image,
)
from vitkit.inference import (
    Classification as Classification,
    Classifications as Classifications,
    Classifier as Classifier,
    Embedding as Embedding,
    Embeddings as Embeddings,
    Prediction as Prediction,
    Predictor as Predictor,
    UntrainedHeadWarning as UntrainedHeadWarning,
)
from vitkit.task import Task as Task
from vitkit.transformers import (
    AutoBackbone as AutoBackbone,
    AutoConfig as AutoConfig,
    AutoFeatureExtractor as AutoFeatureExtractor,
    AutoImageProcessor as AutoImageProcessor,
    AutoModel as AutoModel,
    AutoModelForImageClassification as AutoModelForImageClassification,
    AutoModelForMaskedImageModeling as AutoModelForMaskedImageModeling,
    AutoModelForPreTraining as AutoModelForPreTraining,
    AutoModelForSemanticSegmentation as AutoModelForSemanticSegmentation,
    BeitBackbone as BeitBackbone,
    BeitConfig as BeitConfig,
    BeitFeatureExtractor as BeitFeatureExtractor,
    BeitForImageClassification as BeitForImageClassification,
    BeitForMaskedImageModeling as BeitForMaskedImageModeling,
    BeitForSemanticSegmentation as BeitForSemanticSegmentation,
    BeitImageProcessor as BeitImageProcessor,
    BeitImageProcessorFast as BeitImageProcessorFast,
    BeitImageProcessorPil as BeitImageProcessorPil,
    BeitModel as BeitModel,
    BitImageProcessor as BitImageProcessor,
    BitImageProcessorFast as BitImageProcessorFast,
    BitImageProcessorPil as BitImageProcessorPil,
    ConvNextFeatureExtractor as ConvNextFeatureExtractor,
    ConvNextImageProcessor as ConvNextImageProcessor,
    ConvNextImageProcessorFast as ConvNextImageProcessorFast,
    ConvNextImageProcessorPil as ConvNextImageProcessorPil,
    DINOv3ViTBackbone as DINOv3ViTBackbone,
    DINOv3ViTConfig as DINOv3ViTConfig,
    DINOv3ViTImageProcessor as DINOv3ViTImageProcessor,
    DINOv3ViTImageProcessorFast as DINOv3ViTImageProcessorFast,
    DINOv3ViTModel as DINOv3ViTModel,
    DeiTConfig as DeiTConfig,
    DeiTFeatureExtractor as DeiTFeatureExtractor,
    DeiTForImageClassification as DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher as DeiTForImageClassificationWithTeacher,
    DeiTForMaskedImageModeling as DeiTForMaskedImageModeling,
    DeiTImageProcessor as DeiTImageProcessor,
    DeiTImageProcessorFast as DeiTImageProcessorFast,
    DeiTImageProcessorPil as DeiTImageProcessorPil,
    DeiTModel as DeiTModel,
    Dinov2Backbone as Dinov2Backbone,
    Dinov2Config as Dinov2Config,
    Dinov2ForImageClassification as Dinov2ForImageClassification,
    Dinov2Model as Dinov2Model,
    Dinov2WithRegistersBackbone as Dinov2WithRegistersBackbone,
    Dinov2WithRegistersConfig as Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification as Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel as Dinov2WithRegistersModel,
    FlaxViTForImageClassification as FlaxViTForImageClassification,
    FlaxViTModel as FlaxViTModel,
    ResNetBackbone as ResNetBackbone,
    ResNetConfig as ResNetConfig,
    ResNetForImageClassification as ResNetForImageClassification,
    ResNetModel as ResNetModel,
    ViTConfig as ViTConfig,
    ViTFeatureExtractor as ViTFeatureExtractor,
    ViTForImageClassification as ViTForImageClassification,
    ViTForMaskedImageModeling as ViTForMaskedImageModeling,
    ViTImageProcessor as ViTImageProcessor,
    ViTImageProcessorFast as ViTImageProcessorFast,
    ViTImageProcessorPil as ViTImageProcessorPil,
    ViTMAEConfig as ViTMAEConfig,
    ViTMAEForPreTraining as ViTMAEForPreTraining,
    ViTMAEModel as ViTMAEModel,
    ViTMSNConfig as ViTMSNConfig,
    ViTMSNForImageClassification as ViTMSNForImageClassification,
    ViTMSNModel as ViTMSNModel,
    ViTModel as ViTModel,
    pipeline as pipeline,
)

__all__: list[str]
__version__: str

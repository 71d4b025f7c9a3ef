"""ObjectNet: accuracy on the classes shared with ImageNet (ViT paper, appendix D.9)."""

from vitkit import checkpoints
from vitkit.evaluation import protocol
from vitkit.paper import Experiment, Findings, Table, _explained_models
from vitkit.paper.small_scale import SmallScale

EXPERIMENT = Experiment(
    title="ObjectNet",
    section="appendix D.9",
    shows="Accuracy of ViT-H/14 on ObjectNet: 61.7 % top-1, 82.1 % top-5.",
    published=Table(("model", "top-1", "top-5"), (("ViT-H/14 (JFT)", 61.7, 82.1),)),
    full=("vitkit evaluate runs/vit.h14_jft_imagenet/best --data folder:/data/objectnet --with subset",),
    needs="ObjectNet and ViT-H/14 from JFT-300M (not public)",
    small="The effect of restricting the predicted classes: a model of all classes, evaluated on the images of half of "
    "the classes, with all classes allowed and with that half only.",
    minutes=0.3,
)


def study(small: SmallScale) -> Findings:
    """Evaluates a model on images of half of the classes, with the logits of all classes and of this half."""
    folder = _explained_models.train_model(small, "seen", small.vit(), steps=small.length(200))
    loaded = checkpoints.load(folder)
    config = protocol.EvaluationConfig(data=small.downstream, evaluators=("top1", "subset"), batch_size=64)
    numbers = protocol.run(str(folder), loaded.model, loaded.processor, loaded.labels, config).metrics
    rows = tuple(
        (classes, round(100 * numbers[f"{name}.accuracy"], 2))
        for name, classes in (("top1", "all classes"), ("subset", f"{numbers['subset.classes']:.0f} classes"))
    )
    return Findings(
        table=Table(("allowed predictions", "accuracy (%)"), rows),
        remarks=("The model was trained on some of these images; the study shows the protocol, not the accuracy.",),
        numbers=numbers,
    )

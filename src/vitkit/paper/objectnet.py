"""ObjectNet: photos in unusual places, judged among the classes that both sets have (appendix D.9)."""

from vitkit import checkpoints
from vitkit.evaluate import protocol
from vitkit.paper import Exhibit, Findings, Table, seen
from vitkit.paper.small import Small

EXHIBIT = Exhibit(
    title="ObjectNet",
    section="appendix D.9",
    shows="Accuracy of ViT-H/14 on ObjectNet: 61.7 % top-1, 82.1 % top-5.",
    published=Table(("model", "top-1", "top-5"), (("ViT-H/14 (JFT)", 61.7, 82.1),)),
    full=("vitkit evaluate runs/vit.h14_jft_imagenet/best --data folder:/data/objectnet --with subset",),
    needs="ObjectNet and ViT-H/14 from JFT-300M (not public)",
    small="What judging among some classes does: a model of all classes at hand, on pictures of half of them, with all "
    "its answers allowed and with those of that half.",
    minutes=0.3,
)


def study(small: Small) -> Findings:
    """Half of the classes, judged among all and among themselves."""
    folder = seen.trained(small, "seen", small.vit(), steps=small.length(200))
    loaded = checkpoints.load(folder)
    config = protocol.EvaluationConfig(data=small.downstream, evaluators=("top1", "subset"), batch_size=64)
    numbers = protocol.run(str(folder), loaded.model, loaded.processor, loaded.labels, config).metrics
    rows = tuple(
        (f"among {words}", round(100 * numbers[f"{name}.accuracy"], 2))
        for name, words in (("top1", "all classes"), ("subset", f"the {numbers['subset.classes']:.0f} asked for"))
    )
    return Findings(
        table=Table(("answers allowed", "accuracy (%)"), rows),
        remarks=("The model was trained on some of these pictures: this shows the protocol, not how good it is.",),
        numbers=numbers,
    )

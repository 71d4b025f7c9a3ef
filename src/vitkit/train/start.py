"""The weights that a run starts from: fresh ones of its seed, or those of a checkpoint, its head too or a new one."""

from vitkit import checkpoints, models
from vitkit.models import Backbone
from vitkit.train.run import Run


def initial_model(run: Run) -> Backbone:
    """The model of a run before its first step, on the CPU.

    A checkpoint's position table is resized to the run's pictures and its head replaced by a zero one (ViT paper,
    section 3.2), by one drawn as in a fresh model, or kept. Raises ValueError where it is of another architecture, by
    what differs.
    """
    model = models.build(run.model, initialise=run.start is None or run.start_head == "drawn")
    if run.start is None:
        return model
    size, classes = tuple(run.model.image_size), run.model.num_classes
    new = None if run.start_head == "kept" else classes
    given = checkpoints.load(run.start, image_size=(size[0], size[1]), num_classes=new).model
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in given.state_dict().items()}
    differ = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    if differ:
        name = differ[0]
        shapes = f"'{name}' is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        raise ValueError(f"'{run.start}' is of another architecture than the run: {shapes} ({len(differ)} differ)")
    state = given.state_dict()
    if run.start_head == "drawn":
        state |= {name: parameter.detach() for name, parameter in model.head_parameters().items()}
    model.load_state_dict(state)
    return model

"""A linear layer next to transformers' ViTModel reads its pooler or the class token, as the caller says."""

from pathlib import Path

import pytest
import torch
from oracles import oracle
from safetensors.torch import save_file
from torch import Tensor, nn

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError
from vitkit.cli import main


class Net(nn.Module):
    """What users write around transformers' ViTModel."""

    def __init__(self, pooled: bool):
        super().__init__()
        transformers = oracle("transformers")
        config = transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
        )
        self.vit = transformers.ViTModel(config)
        self.classifier = nn.Linear(32, 5)
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.vit(images)
        return self.classifier(outputs.pooler_output if self.pooled else outputs.last_hidden_state[:, 0])


@pytest.fixture(params=[True, False], ids=["pooler", "class token"])
def net(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(0)
    return Net(request.param).eval()


@pytest.mark.parametrize(
    "names", ["vit. classifier.", "backbone. head.", "model.vit. model.fc.", "module.net. module.head."]
)
def test_the_caller_says_what_the_head_reads(net: Net, tmp_path: Path, names: str) -> None:
    backbone, head = names.split()
    renamed = {"vit.": backbone, "classifier.": head}
    state = {
        renamed[name.partition(".")[0] + "."] + name.partition(".")[2]: tensor
        for name, tensor in net.state_dict().items()
    }
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "net.ckpt")
    path, heads = str(tmp_path / "net.ckpt"), {"num_heads": 2}
    with pytest.raises(
        CheckpointError, match=r"set pre_logits=32 if it reads pooler_output, or pre_logits=0"
    ) as caught:
        checkpoints.load(path, config=heads)
    assert len(str(caught.value).splitlines()) == 1
    images = torch.randn(2, 3, 32, 32)
    loaded = checkpoints.load(path, config={**heads, "pre_logits": "32" if net.pooled else 0})
    assert loaded.model.config.pre_logits == (32 if net.pooled else 0)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.eval()(images), net(images), rtol=1e-5, atol=1e-5)
    checkpoints.save(loaded, tmp_path / "saved")
    with torch.no_grad():
        again = checkpoints.load(tmp_path / "saved").model.eval()
        torch.testing.assert_close(again(images), net(images), rtol=1e-5, atol=1e-5)


def test_the_command_line_says_it_too(net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pth")
    assert main(["inspect", str(tmp_path / "net.pth"), "--set", "num_heads=2"]) == 1
    assert "--set pre_logits=0" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "net.pth"), "--set", "num_heads=2", "pre_logits=32"]) == 0
    torch.save({f"vit.{name}": tensor for name, tensor in net.vit.state_dict().items()}, tmp_path / "backbone.pth")
    assert checkpoints.load(tmp_path / "backbone.pth", config={"num_heads": 2}).model.config.num_classes == 0
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path / "net.pth", config={"num_heads": 2, "pre_logits": 16})


def test_a_folder_of_the_class_for_classification_reads_the_class_token(net: Net, tmp_path: Path) -> None:
    transformers = oracle("transformers")
    config = transformers.ViTConfig.from_dict({**net.vit.config.to_dict(), "num_labels": 5})
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    state = {**model.state_dict(), **{name: each for name, each in net.state_dict().items() if "pooler" in name}}
    save_file(
        {name: each.contiguous() for name, each in state.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = checkpoints.load(tmp_path).model.eval()(images)
        torch.testing.assert_close(found, model(images).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", ["vit. classifier.", "vit. fc.", "model.vit. model.head.", "backbone. head."])
def test_a_head_next_to_a_backbone_without_pooler_is_part_of_the_model(tmp_path: Path, names: str) -> None:
    torch.manual_seed(0)
    net = Net(pooled=False).eval()
    renamed = dict(zip(("vit", "classifier"), names.split(), strict=True))
    parts = {name: name.partition(".") for name in net.state_dict() if "pooler" not in name}
    state = {f"{renamed[first]}{rest}": net.state_dict()[name] for name, (first, _, rest) in parts.items()}
    torch.save(state, tmp_path / "net.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = checkpoints.load(tmp_path / "net.pth", config={"num_heads": 2}).model.eval()(images)
        torch.testing.assert_close(found, net(images), rtol=1e-5, atol=1e-5)

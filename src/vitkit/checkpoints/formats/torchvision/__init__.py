"""torchvision's checkpoint formats: state dicts of its `VisionTransformer` and `ResNet`."""

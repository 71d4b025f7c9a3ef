"""timm's checkpoint formats: folders of timm, and official files (DeiT, DINO, MAE, BEiT) with the same tensor names."""

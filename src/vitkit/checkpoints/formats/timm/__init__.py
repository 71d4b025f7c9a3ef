"""timm formats: timm folders, and official files (DeiT, DINO, MAE, BEiT) with the same tensor names."""

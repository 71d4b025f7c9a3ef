"""timm formats: timm folders, and official files of DeiT, DINO, MAE, BEiT and others with the same names."""

"""timm's names, in its own folders and in the official files of DeiT, DINO, MAE, BEiT and others."""

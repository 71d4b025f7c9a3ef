"""Checkpoint formats of Google: the `.npz` files of vision_transformer, big_vision and Big Transfer."""

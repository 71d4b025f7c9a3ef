"""Google's `.npz` files: vision_transformer, big_vision and Big Transfer."""

"""Google's `.npz` formats: vision_transformer, big_vision and Big Transfer."""

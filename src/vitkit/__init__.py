"""The Vision Transformer, whole."""

"""Infers a model config from tensor shapes; one module per group of model families."""

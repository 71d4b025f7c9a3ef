"""Infers model configs from tensor shapes; there is one module per group of model families."""

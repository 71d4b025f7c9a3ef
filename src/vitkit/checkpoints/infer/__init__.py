"""Infers model configs from tensor shapes. There is one module per group of model families."""

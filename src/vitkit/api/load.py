"""`vitkit.load`: loads any checkpoint or exported model as a classifier."""

from vitkit.inference import load

__all__ = ["load"]

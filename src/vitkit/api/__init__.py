"""The Python API of vitkit. Each file has one function, such as `vitkit.classify`."""

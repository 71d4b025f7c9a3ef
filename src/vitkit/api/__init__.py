"""The Python API: one function per file, which `vitkit` exports under its name."""

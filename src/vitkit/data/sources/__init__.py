"""Data sources, one file each: a function `open_source(location) -> {split: Source}` (see `vitkit.data`)."""

"""Data sources, one file each. A file without underscore has `open_source(location) -> {split: Source}`."""

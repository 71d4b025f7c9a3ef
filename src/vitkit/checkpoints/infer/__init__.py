"""A model's config, read off the shapes of its tensors; one file per group of families."""

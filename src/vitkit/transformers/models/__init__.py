"""The module paths of transformers, for code that imports from them: `vitkit.transformers.models.vit.modeling_vit`."""

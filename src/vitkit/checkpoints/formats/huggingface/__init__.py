"""Hugging Face transformers' layouts, and the names that they share."""

LAYER = "encoder.layer.{i}"
# From the names in memory since transformers 5 to those in its files.
ALIASES = (
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
    (r"^(encoder\.layer\.\d+\.attention)\.q_proj\.", r"\1.attention.query."),
    (r"^(encoder\.layer\.\d+\.attention)\.k_proj\.", r"\1.attention.key."),
    (r"^(encoder\.layer\.\d+\.attention)\.v_proj\.", r"\1.attention.value."),
    (r"^(encoder\.layer\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
)
# Those of the families whose MLP had other names too.
MLP_ALIASES = (
    (r"^(encoder\.layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(encoder\.layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)
MASK_TOKEN = (r"embeddings\.mask_token", "the mask token of pre-training")

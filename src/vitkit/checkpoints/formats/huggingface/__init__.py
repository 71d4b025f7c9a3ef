"""Checkpoint formats of Hugging Face transformers, and the tensor names that these formats share."""

LAYER = "encoder.layer.{i}"
# From the in-memory names of transformers 5 to the names in its files.
ALIASES = (
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
    (r"^(encoder\.layer\.\d+\.attention)\.q_proj\.", r"\1.attention.query."),
    (r"^(encoder\.layer\.\d+\.attention)\.k_proj\.", r"\1.attention.key."),
    (r"^(encoder\.layer\.\d+\.attention)\.v_proj\.", r"\1.attention.value."),
    (r"^(encoder\.layer\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
)
# For families whose MLP was renamed as well.
MLP_ALIASES = (
    (r"^(encoder\.layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(encoder\.layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)
MASK_TOKEN = (r"embeddings\.mask_token", "the mask token of pre-training")

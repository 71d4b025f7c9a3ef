"""Checks timm's `model_args`. Every argument that can change the output is either supported or an error.

The tensors do not show all of them: `pool_include_prefix` has no tensor, but it changes the pooled tokens.
"""

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.config import Json

# Read from the file, or visible in the names and shapes of the tensors.
READ = frozenset(
    (
        *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio"),
        *("qkv_bias", "qkv_fused", "qk_norm", "proj_bias", "init_values", "class_token", "no_embed_class"),
        *("reg_tokens", "num_reg_tokens", "pre_norm", "final_norm", "fc_norm", "use_fc_norm", "pos_embed"),
        *("global_pool", "act_layer", "swiglu_mlp", "swiglu_align_to", "rope_temperature", "ref_feat_shape"),
        *("use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias", "distilled", "layers", "width_factor"),
        *("channels", "base_width", "stem_width"),
    )
)
# No effect on the output of a trained model at its own image size.
NO_EFFECT = frozenset(
    (
        *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
        *("weight_init", "fix_init", "head_init_scale", "head_init_bias", "zero_init_last", "device", "dtype"),
        *("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "pretrained", "pretrained_cfg", "cache_dir"),
        *("pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn", "rope_jitter_coords"),
        *("rope_shift_coords", "rope_rescale_coords"),  # augmentation of coordinates in training
    )
)
# The only supported values, besides None and values that switch an option off.
SUPPORTED: dict[str, tuple[object, ...]] = {
    "norm_layer": ("layernorm", "LayerNorm"),
    "embed_layer": ("PatchEmbed",),
    "block_fn": ("Block",),
    "mlp_layer": ("Mlp",),
    "attn_layer": ("Attention", "eva"),
    "attn_type": ("eva", "rope"),
    "rope_type": ("dinov3", "cat"),
    "rope_grid_indexing": ("ij",),
    "rope_rotate_half": (True,),
    "use_rot_pos_emb": (True,),
    "output_stride": (32,),
    "preact": (True,),
    "bottle_ratio": (0.25,),
    "stem_chs": (64,),
    "cardinality": (1,),
    "block_reduce_first": (1,),
}
# Arguments that entry points of timm set by themselves.
BY_ARCHITECTURE: dict[str, dict[str, object]] = {"test_vit3": {"pool_include_prefix": True}}


def check_arguments(architecture: str, arguments: Json) -> None:
    """Raises CheckpointError for a model argument that vitkit does not support.

    `architecture` is the name in config.json, whose entry point may set more arguments than `arguments`.
    """
    given: dict[str, object] = {**BY_ARCHITECTURE.get(architecture.partition(".")[0], {}), **arguments}
    for name, value in given.items():
        if name in READ or name in NO_EFFECT or not value or value in SUPPORTED.get(name, ()):
            continue
        origin = f"model_args has {name}" if name in arguments else f"{architecture} sets {name}"
        raise CheckpointError(
            f"config.json sets {origin}={repr(value)[:40]}, which changes the output and is not supported; "
            "load the model with timm"
        )

"""Model families with the API of transformers, one module each: config, model without a head, and heads.

The classes have the names, arguments, outputs and parameter names of transformers. Attention, blocks, position
embeddings and their resizing are those of `vitkit.layers`.
"""

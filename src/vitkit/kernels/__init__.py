"""Kernels: the few routines in C that a CPU runs faster than any composition of torch's operations.

library.py           finds what was compiled when vitkit was installed; a machine without a compiler has none of it
attention.py         attention in bfloat16 on AVX-512, with or without a bias (attention.c)
packed_attention.py  the same with gradients, of query, key and value in one tensor (attention_backward.c)
quantise.py          numbers to 8 bits, after a LayerNorm if there is one (quantise.c)
resize.py            RGB levels to another size, as Pillow does it (resize.c)
products.h, threads.h, interface.c   what the C files share

One file a routine, in Python and in C. A kernel is an extra: whoever calls one asks its `available` first and knows
another way. It reads and writes the memory of tensors and arrays, gives the same numbers whatever the count of
threads, and takes those of torch, or only the caller's where pictures are read.
"""

"""Kernels: the few routines in C that a CPU runs faster than any composition of torch's operations.

library.py           finds what was compiled when vitkit was installed; a machine without a compiler has none of it
attention.py         attention in bfloat16 on AVX-512, with or without a bias (attention.c)
packed_attention.py  the same with gradients, of query, key and value in one tensor (attention_backward.c)
quantise.py          numbers to 8 bits, after a LayerNorm if there is one (quantise.c)
products.h, threads.h   what the C files share

One file a routine, in Python and in C. A kernel is an extra: whoever calls one asks its `available` first and knows
another way. It reads and writes the memory of tensors, runs on the threads that torch runs on, and gives the same
numbers whatever their count.
"""

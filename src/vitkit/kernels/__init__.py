"""C kernels for the CPU, which are faster than the equivalent torch operations.

library.py           loads the libraries that were compiled when vitkit was installed
attention.py         attention in bfloat16 on AVX-512, with or without a bias (attention.c)
packed_attention.py  the same with gradients, for query, key and value in one tensor (attention_backward.c)
quantize.py          quantization to 8 bits, optionally after a LayerNorm (quantize.c)
resize.py            resizing of RGB pixels, bitwise as Pillow (resize.c)
products.h, threads.h, interface.c   shared C code

There is one file per routine, in Python and in C. A kernel is optional: callers check its `available` and have a
fallback. Kernels work in the memory of tensors and arrays, and their results do not depend on the number of threads.
They run on torch's threads; resizing runs on the calling thread only.
"""

"""Code of kernels: the bookkeeping of the pool, compiled."""

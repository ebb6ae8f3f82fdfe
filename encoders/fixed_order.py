"""Products of matrices in one order of sums, however many threads a machine or a variable gives to them.

A sum of floating-point numbers depends on its order, and libraries of linear algebra cut their sums by threads. What
ends in a file is therefore computed by one thread, so that a build id stands for one set of bytes.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits


def fixed_order() -> threadpool_limits:
    """Keep numpy's products of matrices to one thread in this process: until a `with` block ends, or for good."""
    return threadpool_limits(limits=1, user_api="blas")

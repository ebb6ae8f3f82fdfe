"""Matrix products that do not depend on the number of BLAS threads.

A floating-point sum depends on its order, and BLAS libraries split sums between threads. So everything that ends up in
a file is computed by one thread, and one build id always means the same bytes.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits


def fixed_order() -> threadpool_limits:
    """Limit BLAS to one thread in this process, until the end of a `with` block or for good."""
    return threadpool_limits(limits=1, user_api="blas")

"""`fanout.kernels`: kernels that come with fanout. They import numpy and numba only."""

if __name__ != "fanout.kernels":
    raise ImportError(
        "this folder is the package fanout.kernels: import it by that name "
        "(a bare `import kernels` would load a second copy of it, and clash with others' packages)"
    )

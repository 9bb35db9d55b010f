"""PTX on the CPU: the machine code of the GPU backends, interpreted with NumPy and checked as it runs.

What it sees that neither Triton's interpreter nor the emulated CUDA device can: the code that the compilers generate,
the layout of parameters, shuffles, conversions in shared memory. What it cannot see: the order of memory operations
between threads, real scheduling, time.
"""

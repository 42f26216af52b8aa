"""Serving: Penstock beside its peers, ``make bench-serving``. Start reading at `__main__`.

Each peer runs in an environment of its own from a file of exact versions, with the same models,
rows and machine. One server runs at a time; repeats are interleaved. Beside requests per second
and latency stands what the processor did, of the server, of the caller and of everything else:
a window in which something else was busy does not count.
"""

"""Kernels of our own, each beside the torch code that defines it, and the choice between the two.

What a kernel does is said by torch code that runs everywhere. A kernel is taken where a device can run it and where its
answers to a small question agreed with the definition's, once in each process (:mod:`namm.kernels.choice`).
"""

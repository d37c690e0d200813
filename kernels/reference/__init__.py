"""Plain-torch twins of the fused kernels: the definition that every fused version is held to.

A twin's module has the name of its kernel's. They run on any device and dtype and allocate freely.
"""

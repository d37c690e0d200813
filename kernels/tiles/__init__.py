"""The Triton kernels of attention, by the length of sequences, and the tiles that they work on."""

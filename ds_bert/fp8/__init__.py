"""Layers whose matrix products run in fp8: casts, scales, weights, where it can be switched on."""

"""Trackers: TensorBoard and services that draw the curves of runs."""

"""The faults, one module a topic; each fault is a function that reads like a test."""

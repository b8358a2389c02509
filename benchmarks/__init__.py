"""Benchmarks: each module asks one question and states its budget; ``python -m benchmarks``."""

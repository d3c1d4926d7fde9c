"""Benchmarks: figures as ratios, measured side by side in one run. Never part of the tests, whose machines are noisy."""

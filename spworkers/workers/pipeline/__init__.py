"""Batch jobs of stages: described by `Pipeline`, run by `Engine` on a `Pool` or any other Executor.

The engine knows an Executor by `submit` and `concurrent.futures.wait` alone: that is what all of them have in common.
"""

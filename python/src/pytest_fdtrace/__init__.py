"""Findings of fdtrace as failures of the tests that they belong to."""

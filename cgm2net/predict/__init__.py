"""Whole scenes: what the network makes of them, on disk."""

"""Bytes at rest: tar shards, samples, media, prediction tables, agreement, selection and packing.

Nothing here imports Ray or torch, so a reader process stays near 90 MB and a selection runs on a
laptop.
"""

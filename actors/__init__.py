"""What runs on a worker: readers, labelers and the panel.

Only the files named `*_actor.py` import Ray.
"""

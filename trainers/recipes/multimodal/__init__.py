"""Multimodal adaptive pre-training (multimodal-adaptive-pretraining): objectives O1, O2 and O3.

Equations 1 to 3, and stage 1 of Tables I to VI.
"""

"""Audio-visual recognition from unimodal and multimodal ratings, in two stages (two-stage-aver).

Section IV, and models 1 to 12 of Table 1: branches are runs of this recipe, and stage 2 is a run
that names theirs.
"""

"""Scores generated pictures: identity, keypoints, caption and fidelity."""

"""Faces: their description, detection and recognition, and keypoint drawing."""

"""Faces: what InstantID needs of one, the detector and recogniser that find it, the drawing."""

"""Conditions of images, one file each: checked and turned into arrays on the host."""

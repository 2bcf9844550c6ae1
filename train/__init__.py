"""Trains IdentityNet and the Image Adapter: `python -m train configs/x.py --workdir DIR`."""

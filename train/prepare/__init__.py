"""From web pictures to training records, on many machines: `python -m train.prepare`."""

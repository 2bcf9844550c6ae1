"""What images are conditioned on, one file each: checked and made into arrays on the host."""

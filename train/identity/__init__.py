"""What the recogniser sees in a prediction, as a part of the loss."""

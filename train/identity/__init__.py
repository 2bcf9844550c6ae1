"""What the recognizer sees in a prediction, as a part of the loss."""

"""The identity loss: a face recognizer compares the predicted face with the person's."""

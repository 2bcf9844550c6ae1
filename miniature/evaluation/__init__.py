"""How well pictures show whom and what was asked for, judged by networks that had no part in it."""

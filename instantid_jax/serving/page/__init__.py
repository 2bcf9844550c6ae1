"""The web page of `instantid ui`, on the serving engine."""

"""matplotlib, without a display."""


def pyplot():
    """The module; slow to import."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt

"""A cluster of one node, and services of it on an engine that draws.

Ray has an environment of its own, in which `make test-ray` runs these tests.
"""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("ray") else ["test_*.py"]

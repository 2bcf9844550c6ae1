"""Reports the contents of textual inversions, compared with SDXL base."""

from collections.abc import Iterator, Sequence

from instantid_jax.components import network
from instantid_jax.errors import InputError
from instantid_jax.inversion import Embedding
from instantid_jax.weights import sdxl_base
from instantid_jax.weights.embeddings import read_embeddings
from instantid_jax.weights.torch_files import TensorFile

FIRST, SECOND = "text_encoder", "text_encoder_2"
# Names to list.
LISTED = 4


def embedding_checks(file: TensorFile) -> Iterator[tuple[str, bool]]:
    """Lines on textual inversions, each with whether it is a fault."""
    try:
        found = read_embeddings(file.path, sdxl_widths())
    except InputError as error:
        yield str(error), True
        return
    yield f"names in prompts: {listed(found)}", False


def sdxl_widths() -> tuple[int, int]:
    """The widths of the vectors of SDXL base's text encoders."""
    first, second = (
        network(part, sdxl_base.SETTINGS[part]).config.hidden_size for part in (FIRST, SECOND)
    )
    return first, second


def listed(embeddings: Sequence[Embedding]) -> str:
    """Names, and how many vectors they stand for."""
    shown = ", ".join(
        f"{each.name} ({len(each)} vector{'s' * (len(each) != 1)})" for each in embeddings[:LISTED]
    )
    return shown + (f" and {len(embeddings) - LISTED} more" if len(embeddings) > LISTED else "")

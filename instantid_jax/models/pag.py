"""Perturbed-attention guidance: self-attentions that are the identity for some rows.

Source: Ahn et al. 2024 (perturbed-attention guidance), section 4; diffusers' PAGMixin.
"""

import functools
import re
from collections.abc import Iterable

from flax import nnx

from instantid_jax.errors import InputError
from instantid_jax.models.attention import SelfAttention
from instantid_jax.params import Network

SELF_ATTENTION = "attn1"


def perturb(unet: nnx.Module, paths: Iterable[str], rows: int) -> None:
    """Replaces the attention of some layers by the identity for the last `rows` of a batch."""
    chosen = set(paths)
    for path, module in nnx.iter_modules(unet):
        if ".".join(map(str, path)) in chosen:
            assert isinstance(module, SelfAttention)
            module.perturbed = rows


@functools.cache
def matching(unet: Network, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of the self-attentions that any pattern is found in.

    Args:
      patterns: regular expressions, searched for in paths such as
        `mid_block.attentions.0.transformer_blocks.0.attn1`.
    Raises:
      InputError: if one fits none.
    """
    query = f".{SELF_ATTENTION}.to_q.kernel"
    paths = [name.removesuffix(".to_q.kernel") for name in unet.shapes if name.endswith(query)]
    found = set[str]()
    for pattern in patterns:
        try:
            fits = {path for path in paths if re.search(pattern, path)}
        except re.error as error:
            raise InputError(
                f"pag_applied_layers: {pattern!r} is not a regular expression ({error})"
            ) from error
        if not fits:
            blocks = sorted(
                {".".join(path.split(".")[: 1 + ("mid" not in path)]) for path in paths}
            )
            raise InputError(
                f"pag_applied_layers: no self-attention fits {pattern!r}; there are some in "
                f"{', '.join(blocks)}"
            )
        found |= fits
    return tuple(path for path in paths if path in found)

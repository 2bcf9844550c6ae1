"""How the programs parse strengths of blocks: as JSON."""

import json
from collections.abc import Mapping

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from instantid_jax.errors import InputError
from instantid_jax.request.block_scales import Blocks, BlockScales

registry = ConstructorRegistry()


@registry.primitive_rule
def _json_rule(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Blocks] | None:
    if type_info.type is not Blocks:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda texts: _parse(texts[0]),
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: [json.dumps(BlockScales(value).to_json())],
    )


def _parse(text: str) -> Blocks:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f"{text!r} is neither a number nor strengths of blocks: expected JSON such as "
            '\'{"down": 0.5, "up": {"block_0": [0, 1, 0]}}\''
        )
    return value

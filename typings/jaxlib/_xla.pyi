"""jaxlib has no type information; JAX's own annotations need its devices."""

class Device:
    id: int
    process_index: int
    platform: str
    device_kind: str

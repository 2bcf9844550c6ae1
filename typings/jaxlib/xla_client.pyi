from jaxlib._xla import Device as Device

"""The part of onnxruntime that `instantid_jax/face/analysis.py` uses."""

class SessionOptions:
    log_severity_level: int
    intra_op_num_threads: int
    inter_op_num_threads: int

class InferenceSession:
    def get_providers(self) -> list[str]: ...

def get_available_providers() -> list[str]: ...

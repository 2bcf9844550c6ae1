"""The nodes that give models: loaded in ComfyUI's process, or behind a service."""

from comfy_api.latest import io

from .socket_types import CATEGORY, ModelSocket

DTYPES = ("auto", "bfloat16", "float16", "float32")


class Load(io.ComfyNode):
    """Loads SDXL with InstantID here."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstantIDJAXLoad",
            display_name="Load InstantID (JAX)",
            category=CATEGORY,
            description=(
                "Loads SDXL and InstantID in this process, from ComfyUI's folders of models, other "
                "paths or the hub. Without any, the embedded miniature, which knows drawn "
                "portraits only."
            ),
            inputs=[
                io.String.Input(
                    "sdxl",
                    default="",
                    tooltip="SDXL: a file in models/checkpoints; or the path of a file or of a "
                    "diffusers folder, or a hub id. Empty: the embedded miniature.",
                ),
                io.String.Input(
                    "instantid",
                    default="",
                    tooltip="InstantID: a folder in models/instantid with ip-adapter.bin and "
                    "ControlNetModel; or its path, or a hub id such as InstantX/InstantID, or the "
                    "folder of a training run.",
                ),
                io.String.Input(
                    "model",
                    default="",
                    tooltip="Instead of both: a folder that `python -m convert to-jax` made.",
                ),
                io.String.Input(
                    "vae", default="", tooltip="Another VAE: a file in models/vae, or a path."
                ),
                io.String.Input(
                    "loras",
                    default="",
                    multiline=True,
                    tooltip="LoRAs, one on each line: files in models/loras, paths or hub ids; a "
                    "strength may follow, as in detail.safetensors:0.8.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="auto is bfloat16 on accelerators and float32 on a CPU.",
                ),
                io.Boolean.Input(
                    "offload",
                    default=False,
                    tooltip="Keep text encoders, ControlNets and VAE in the host's memory between "
                    "their uses.",
                ),
            ],
            outputs=[ModelSocket.Output(display_name="instantid")],
        )

    @classmethod
    def execute(
        cls,
        sdxl: str,
        instantid: str,
        model: str,
        vae: str,
        loras: str,
        dtype: str,
        offload: bool,
    ) -> io.NodeOutput:
        # These import JAX, which a client of a service does not need.
        from instantid_jax.pipeline.sources import Sources

        from .folders import find_lora, find_weights
        from .local import LocalModel
        from .pipelines import Weights

        sources = Sources(
            sdxl=find_weights("checkpoints", sdxl.strip()),
            instantid=find_weights("instantid", instantid.strip()),
            model=model.strip() or None,
            vae=find_weights("vae", vae.strip()),
            loras=tuple(find_lora(line.strip()) for line in loras.splitlines() if line.strip()),
        )
        loaded = LocalModel(Weights(sources, None if dtype == "auto" else dtype, offload=offload))
        loaded.pipeline()  # Bad weights are this node's error.
        return io.NodeOutput(loaded)


class Connect(io.ComfyNode):
    """Takes a service as the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstantIDJAXConnect",
            display_name="Connect to InstantID service (JAX)",
            category=CATEGORY,
            description=(
                "Takes `instantid serve` as the model, in another process or on another machine, "
                "so that no weights are loaded here."
            ),
            inputs=[
                io.String.Input(
                    "server",
                    default="http://127.0.0.1:8000",
                    tooltip="Empty: the environment variable INSTANTID_SERVER, whose server alone "
                    "also gets the token in INSTANTID_TOKEN.",
                )
            ],
            outputs=[ModelSocket.Output(display_name="instantid")],
        )

    @classmethod
    def execute(cls, server: str) -> io.NodeOutput:
        from .client import Service

        return io.NodeOutput(Service(server))

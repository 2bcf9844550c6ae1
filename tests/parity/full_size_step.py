"""One full-size denoising step on one side: `python -m tests.parity.full_size_step torch|ours DIR`.

Each side is a process of its own, because 24 GB hold one framework's networks at a time, and within
a side IdentityNet goes before the UNet comes. The torch side draws the weights, saves them as
diffusers does, and runs them; ours loads those files.
"""

import gc
import json
import sys
from pathlib import Path

import numpy as np

LATENT = 32  # 256 x 256 pixels
SCALE = 0.8
TIMESTEP = 501.0


def draw_inputs() -> dict[str, np.ndarray]:
    """The same on both sides; rows [negative, positive]."""
    random = np.random.default_rng(0)
    time_ids = np.array([[256, 256, 0, 0, 256, 256]] * 2, np.float32)
    return {
        "sample": random.standard_normal((2, LATENT, LATENT, 4), np.float32),
        "image": random.random((2, 8 * LATENT, 8 * LATENT, 3), np.float32),
        "text": random.standard_normal((2, 77, 2048), np.float32),
        "pooled": random.standard_normal((2, 1280), np.float32),
        "time_ids": time_ids,
        "embeddings": random.standard_normal((2, 512), np.float32)
        * np.array([[0], [1]], np.float32),
    }


def torch_side(folder: Path) -> dict[str, np.ndarray]:
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    from tests.parity import reference, test_full_size
    from tests.parity.reference import nchw, nhwc

    def make(module_class, seed: int, settings: dict):
        with torch.device("meta"):
            module = module_class(**settings)
        return reference.fill(module.to_empty(device="cpu"), seed)

    given = draw_inputs()
    added = {
        "text_embeds": torch.from_numpy(given["pooled"]),
        "time_ids": torch.from_numpy(given["time_ids"]),
    }
    instantid = folder / "instantid"
    instantid.mkdir(parents=True)
    settings = reference.RESAMPLER | {
        "dim": 1280,
        "depth": 4,
        "dim_head": 64,
        "heads": 20,
        "num_queries": 16,
        "output_dim": 2048,
        "ff_mult": 4,
    }
    with torch.no_grad():
        resampler = reference.fill(reference.Resampler(**settings), 1)
        id_tokens = resampler(torch.from_numpy(given["embeddings"]))
        controlnet = make(ControlNetModel, 2, test_full_size.ENCODER)
        controlnet.save_pretrained(instantid / "ControlNetModel", max_shard_size="2GB")
        down, mid = controlnet(
            nchw(given["sample"]),
            TIMESTEP,
            encoder_hidden_states=id_tokens,
            controlnet_cond=nchw(given["image"]),
            conditioning_scale=SCALE,
            added_cond_kwargs=added,
            return_dict=False,
        )
        del controlnet
        gc.collect()
        unet = make(UNet2DConditionModel, 3, test_full_size.UNET)
        unet.save_pretrained(folder / "unet", max_shard_size="2GB")
        adapter = reference.IDAdapter(unet, 16, 4)
        parts = {"image_proj": resampler.state_dict(), "ip_adapter": adapter.state_dict()}
        torch.save(parts, instantid / "ip-adapter.bin")
        adapter.set_scale(SCALE)

        def predict(down, mid) -> np.ndarray:
            tokens = torch.cat([torch.from_numpy(given["text"]), id_tokens], dim=1)
            return nhwc(
                unet(
                    nchw(given["sample"]),
                    TIMESTEP,
                    encoder_hidden_states=tokens,
                    added_cond_kwargs=added,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=mid,
                ).sample
            )

        return {
            "id_tokens": id_tokens.numpy(),
            "mid_residual": nhwc(mid),
            "output": predict(down, mid),
            # What a comparison would miss if the residuals did not count.
            "output_without_residuals": predict(
                [torch.zeros_like(each) for each in down], torch.zeros_like(mid)
            ),
        }


def our_side(folder: Path) -> dict[str, np.ndarray]:
    import jax
    import jax.numpy as jnp

    from instantid_jax.components import Component
    from instantid_jax.weights.layouts import find_instantid, find_network

    jax.config.update("jax_default_matmul_precision", "highest")
    given = draw_inputs()
    timestep = jnp.full((2,), TIMESTEP)

    def run(components: list[Component], function, *arguments):
        """Loads, runs and lets go of a network."""
        params = {}
        for component in components:
            params |= component.load(jnp.dtype(jnp.float32))
        network = components[0].network
        return jax.jit(lambda params, *a: function(network.bind(params), *a))(params, *arguments)

    def control(net, sample, tokens, pooled, time_ids, image):
        residuals = net(
            sample,
            timestep,
            net.keys_values(tokens),
            net.embed_added(pooled, time_ids),
            net.embed_image(image),
        )
        return [SCALE * residual for residual in residuals]

    def predict(net, sample, text, tokens, pooled, time_ids, residuals):
        context = net.keys_values(text, tokens, jnp.float32(SCALE))
        return net(sample, timestep, context, net.embed_added(pooled, time_ids), residuals)

    unet = find_network(str(folder / "unet"), "unet")
    parts = find_instantid(str(folder / "instantid"), unet.network)
    tokens = run([parts["image_proj"]], lambda net, e: net(e), given["embeddings"])
    conditions = (given["pooled"], given["time_ids"])
    residuals = run(
        [parts["controlnet"]], control, given["sample"], tokens, *conditions, given["image"]
    )
    output = run(
        [unet, parts["ip_adapter"]],
        predict,
        given["sample"],
        given["text"],
        tokens,
        *conditions,
        residuals,
    )
    return {"id_tokens": tokens, "mid_residual": residuals[-1], "output": output}


if __name__ == "__main__":
    side, folder = sys.argv[1], Path(sys.argv[2])
    results = {"torch": torch_side, "ours": our_side}[side](folder)
    np.savez(folder / f"{side}.npz", **results)
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(json.dumps({"side": side, "peak_resident_gib": int(peak) / 2**20}))

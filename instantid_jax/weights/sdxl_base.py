"""SDXL's configuration, for single files in the original layout, which have none.

Source: stabilityai/stable-diffusion-xl-base-1.0 and ...-refiner-1.0, the `config.json` of each
folder. Lists only what differs from the defaults of our configurations.
"""

HUB_ID = "stabilityai/stable-diffusion-xl-base-1.0"

SETTINGS = {
    "unet": {"_class_name": "UNet2DConditionModel"},
    "refiner": {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": [6, 12, 24, 24],
        "block_out_channels": [384, 768, 1536, 1536],
        "cross_attention_dim": 1280,
        "down_block_types": [
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ],
        "projection_class_embeddings_input_dim": 2560,
        "transformer_layers_per_block": 4,
        "up_block_types": [
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "UpBlock2D",
        ],
    },
    "vae": {"_class_name": "AutoencoderKL"},
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "eos_token_id": 2,
        "projection_dim": 768,
    },
    "text_encoder_2": {
        "architectures": ["CLIPTextModelWithProjection"],
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
    },
}

SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

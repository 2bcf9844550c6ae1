"""The `config.json` of each network of the base model: a small SDXL.

As in SDXL, the widths of the two text encoders add up to the UNet's `cross_attention_dim`, and the
blocks have the same types. The UNet predicts velocity with zero terminal SNR (Lin et al. 2023),
because at the end of SDXL's schedule the mean colors of 16 x 16 latents are still visible.
"""

VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    # SDXL's 4 per 8 x 8 pixels lose too much of a face of only 75 x 100 pixels.
    "latent_channels": 32,
    "sample_size": 128,
    "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    # Most parameters are at low resolutions.
    "block_out_channels": [24, 48, 112, 144],
    "layers_per_block": 1,
    # Small groups would normalize away the brightness of a picture.
    "norm_num_groups": 2,
    # Training also measures the latents' mean and standard deviation.
    "scaling_factor": 1.0,
}
TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 64,
}
TEXT_ENCODER_2 = {
    "architectures": ["CLIPTextModelWithProjection"],
    "model_type": "clip_text_model",
    "hidden_act": "gelu",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "projection_dim": 128,
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    # Replaced by the channels of the VAE in use.
    "in_channels": VAE["latent_channels"],
    "out_channels": VAE["latent_channels"],
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [128, 128, 96],
    # Despite its name, the number of heads.
    "attention_head_dim": [4, 4, 3],
    "transformer_layers_per_block": [1, 1, 1],
    "layers_per_block": 1,
    "cross_attention_dim": 192,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 128 + 6 * 32,
    "norm_num_groups": 16,
}
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
# `model_index.json`: library and class of each folder's network.
PIPELINE = {
    "_class_name": "StableDiffusionXLPipeline",
    "unet": ["diffusers", UNET["_class_name"]],
    "vae": ["diffusers", VAE["_class_name"]],
    "scheduler": ["diffusers", SCHEDULER["_class_name"]],
    "text_encoder": ["transformers", *TEXT_ENCODER["architectures"]],
    "text_encoder_2": ["transformers", *TEXT_ENCODER_2["architectures"]],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    # A missing negative prompt means the empty one, as for a tenth of the training captions.
    "force_zeros_for_empty_prompt": False,
}
# `defaults.json`. The best identity score of the values tried, at a small loss of caption accuracy
# (miniature/README.md); the least and the largest side of the training pictures.
DEFAULTS = {"guidance_scale": 2.0, "sides": [96, 192]}

"""A small CLIP model of transformers, and its folder."""

from pathlib import Path

from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.parity import reference

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def their_model(activation: str) -> CLIPModel:
    text = SIZES | {
        "vocab_size": len(reference.vocabulary()),
        "eos_token_id": 2,
        "hidden_act": activation,
    }
    vision = SIZES | {
        "hidden_size": 32,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": activation,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    return reference.fill(CLIPModel(config), 11)


def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def write_clip(folder: Path, activation: str = "quick_gelu") -> CLIPModel:
    """A folder like that of a published model, and the model."""
    model = their_model(activation)
    reference.save_tokenizer(folder, reference.END)
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return model

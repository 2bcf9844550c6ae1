"""Distillation: a LoRA of the UNet that samples in few steps, without guidance."""

"""Checkpoint formats of CLIP as OpenAI and open_clip publish it."""

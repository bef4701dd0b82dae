"""What the parity tests change in diffusers so that it can be compared."""

import pytest
import torch


@pytest.fixture
def float64_rotary(monkeypatch):
    """diffusers' transformer with a rotation in the dtype of what is turned, instead of float32 always."""
    from diffusers.models.transformers import transformer_flux

    def rotate(x, tables, sequence_dim):
        assert sequence_dim == 1
        cos, sin = (table[None, :, None, :].to(x.dtype) for table in tables)
        return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2) * sin

    monkeypatch.setattr(transformer_flux, "apply_rotary_emb", rotate)

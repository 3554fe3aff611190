"""NVIDIA GPUs through PyTorch."""

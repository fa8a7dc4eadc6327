"""SimulSA for LLaMA-Factory: simultaneous speech translation activated by data alone (arXiv 2509.15692)."""

__version__ = "0.1.0"

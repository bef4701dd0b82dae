"""What FLUX.2 does otherwise: its blocks, ids and shift (`model`), and the family's shapes (`architectures`)."""

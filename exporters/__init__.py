"""From torch to ONNX, with proof of parity; torch lives here and nowhere else."""

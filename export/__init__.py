"""Export to ONNX and quantization. Needs the extra ``export``."""

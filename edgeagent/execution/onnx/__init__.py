"""Small models through ONNX Runtime."""

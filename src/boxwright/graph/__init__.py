"""Work on ONNX graphs: what they cost, and passes that change them."""

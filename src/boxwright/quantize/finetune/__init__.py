"""Fine-tuning of a quantised model: it learns to give the float model's raw heads again.

The float model is the teacher and the calibration images are the lessons, so no labels are
needed and nothing but the ONNX graph: it works for whatever was imported. It needs PyTorch.
"""

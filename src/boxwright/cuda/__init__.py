"""CUDA without a framework: devices, memory, streams and graphs, through NVIDIA's bindings."""

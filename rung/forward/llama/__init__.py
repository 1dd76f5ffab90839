"""Fast forward passes for bases whose layers are built like Llama's."""

"""What is trained: encoders by name, the weight files they start from, and their features and layers.

Start with `backbones.py`.
"""

"""detpretrain: does pre-training help 3D medical object detection, and which kind?"""

__version__ = "0.1.0"

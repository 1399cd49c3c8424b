"""Cells that another group computed, brought into this study: checked, copied and marked."""

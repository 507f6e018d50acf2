"""The commands, installed as ``sparc_tools``: ``sparc NAME`` runs ``NAME.py``."""

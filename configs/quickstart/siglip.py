"""SigLIP on the built-in scenes: configs/quickstart/sparc.py with another objective."""

_base_ = "./sparc.py"

model = dict(objective=dict(_delete_=True, type="Siglip"))

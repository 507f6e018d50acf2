"""PACL under SPARC's recipe: the objective alone differs. Command as in configs/sparc.py."""

_base_ = "./sparc.py"

model = dict(objective=dict(_delete_=True, type="Pacl"))

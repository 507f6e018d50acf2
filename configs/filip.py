"""FILIP under SPARC's recipe: the objective alone differs. Command as in configs/sparc.py.

The paper's "20% token dropping" is model.objective.drop=0.2, CLIP+FILIP is
model.objective.global_weight=0.5.
"""

_base_ = "./sparc.py"

model = dict(objective=dict(_delete_=True, type="Filip"))

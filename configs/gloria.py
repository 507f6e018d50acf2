"""GLoRIA under SPARC's recipe: the objective alone differs. Command as in configs/sparc.py.

The paper trains it on 4,096 pairs a step, 800,000 steps: memory grows with their square there. Here
blocks bound it, and the recipe stays that of the others.
"""

_base_ = "./sparc.py"

model = dict(objective=dict(_delete_=True, type="Gloria"))

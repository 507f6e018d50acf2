"""MGCA on Flickr8k: configs/flickr8k/sparc.py with another objective."""

_base_ = "./sparc.py"

model = dict(objective=dict(_delete_=True, type="Mgca"))

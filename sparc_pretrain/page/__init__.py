"""What all pages of the product share: colours and type (`design.css`), and the viewer of words on
patches. Pages are single files: styles, scripts and pictures inside, nothing from outside.
"""

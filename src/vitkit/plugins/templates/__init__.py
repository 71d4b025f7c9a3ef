"""Files that `vitkit new KIND NAME` copies: complete, small components, in which `my_KIND` is replaced with the name.

Each file has the attributes of the built-in components of its kind, so that importing it registers nothing.
"""

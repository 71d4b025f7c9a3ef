"""Templates of `vitkit new KIND NAME`: one small, complete component per kind.

`vitkit new` copies a file and replaces `my_KIND` with the new name. Each file defines the attributes of the built-in
components of its kind, so importing it registers nothing.
"""

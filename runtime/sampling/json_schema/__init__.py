"""JSON Schema for constrained decoding: an equivalent schema in the few keywords that grammar compilers do faithfully.

`rewriter.rewrite` is the way in. What has no equivalent is refused by name and path; nothing is weakened.
"""

"""Public weights by name: what there is, under which licence, fetched whole and held to a digest.

Nothing here runs unless a person types ``demeanor models pull``; the product itself fetches
nothing.
"""

"""Which version of its table a row has, and columns that are announced before a row has them.

Imports `opened` and what stands below it; `pump` tells it what the stream describes.
"""

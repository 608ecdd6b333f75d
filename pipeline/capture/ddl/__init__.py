"""Schema changes as events of the log: authenticated, judged and followed at their exact place.

Imports `writing`, `history` and `entries`.
"""

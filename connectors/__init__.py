"""How Keepstream talks to outside systems: one folder per system, none importing another."""

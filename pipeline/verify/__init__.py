"""Verification: source and replica compared at one LSN, table by table (P21)."""
